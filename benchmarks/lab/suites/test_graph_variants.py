"""Changes of the converted graph that might be worth their place, against the graph as it is made."""

# Whole way from pixels to mask, one thread, all variants of a bundle in turn, round by round. The processor's time
# counts, so that other work on the machine falls out:
#     taskset -c 0 .venv/bin/python -m pytest benchmarks/lab/suites/test_graph_variants.py --benchmark-only

# onnx's generated message types are not known to pyright.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as make
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.lab.suites.conftest import OpenPredictor
from benchmarks.lab.suites.figures import Benchmark, GraphVariants, Variant, note
from benchmarks.measuring.pictures import photograph
from engine import Bundle, OnnxModel, OnnxOptions, Precision, Predictor, SourceImage, open_bundle
from engine.bundle.bundle import file_digest
from engine.images import Capture
from engine.runtimes.onnx import OnnxRuntime
from engine.segmentation.network import PreparedImage
from engine.transforms import Normalize, TransformRecord

WIDTH, HEIGHT = 1154, 866
ROUNDS = 9
FLOAT, BYTE = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8

Segment = Callable[[], NDArray[np.generic]]
Change = Callable[[onnx.ModelProto, Normalize], None]


def small_mask(model: onnx.ModelProto, _: Normalize) -> None:
    """The mask leaves the graph as uint8 instead of the integer type of its ArgMax."""
    output = model.graph.output[0]
    rename(model, output.name, "wide_mask")
    model.graph.node.append(make.make_node("Cast", ["wide_mask"], [output.name], to=BYTE))
    output.type.tensor_type.elem_type = BYTE


def argmax_inside(model: onnx.ModelProto, _: Normalize) -> None:
    """The strongest class is taken in the graph, at the network's size, and leaves it as uint8."""
    output = model.graph.output[0]
    rename(model, output.name, "scores")
    model.graph.node.append(make.make_node("ArgMax", ["scores"], ["wide_mask"], axis=1, keepdims=0))
    model.graph.node.append(make.make_node("Cast", ["wide_mask"], [output.name], to=BYTE))
    axes = [axis.dim_param or axis.dim_value or None for axis in output.type.tensor_type.shape.dim]
    model.graph.output[0].CopyFrom(make.make_tensor_value_info(output.name, BYTE, [axes[0], *axes[2:]]))


def normalisation_inside(model: onnx.ModelProto, normalize: Normalize) -> None:
    """The network takes pixels, uint8, and begins with the normalisation, step by step as the transform does it."""
    image = model.graph.input[0]
    rename(model, image.name, "normalised")
    steps = (("Div", [255.0], "scaled"), ("Sub", normalize.mean, "centred"), ("Div", normalize.std, "normalised"))
    last, nodes = "pixels", [make.make_node("Cast", [image.name], ["pixels"], to=FLOAT)]
    for kind, values, made in steps:
        constant = np.asarray(values, np.float32).reshape(1, -1, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(constant, f"for_{made}"))
        nodes.append(make.make_node(kind, [last, f"for_{made}"], [made]))
        last = made
    prepend(model, nodes)
    image.type.tensor_type.elem_type = BYTE


def normalisation_in_weights(model: onnx.ModelProto, normalize: Normalize) -> None:
    """The network takes pixels, uint8; the normalisation is in the weights of its first convolution.

    Where that convolution pads, it pads with what normalises to zero.
    """
    image = model.graph.input[0]
    takers = [node for node in model.graph.node if image.name in node.input]
    (first,) = [node for node in takers if node.op_type != "Shape"]
    assert first.op_type == "Conv", f"the network begins with {first.op_type}"
    stored = {each.name: each for each in model.graph.initializer}
    weights = numpy_helper.to_array(stored[first.input[1]]).astype(np.float64)
    mean, std = (np.broadcast_to(np.asarray(each, np.float64), 3) for each in (normalize.mean, normalize.std))
    bias = numpy_helper.to_array(stored[first.input[2]]) if len(first.input) > 2 else np.zeros(len(weights))
    folded = weights / (255 * std)[None, :, None, None]
    shifted = bias - (weights * (mean / std)[None, :, None, None]).sum(axis=(1, 2, 3))
    (padding,) = [each for each in first.attribute if each.name == "pads"]
    pads = list(padding.ints)
    first.attribute.remove(padding)
    border = np.asarray([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
    grey = 255 * mean[0]
    assert np.all(mean == mean[0]), "one value pads all bands"
    for name, array in (
        ("folded_weights", folded.astype(np.float32)),
        ("folded_bias", shifted.astype(np.float32)),
        ("border", border),
        ("grey", np.asarray(grey, np.float32)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    del first.input[:]
    first.input.extend(["padded", "folded_weights", "folded_bias"])
    pad = make.make_node("Pad", ["pixels", "border", "grey"], ["padded"])
    prepend(model, [make.make_node("Cast", [image.name], ["pixels"], to=FLOAT), pad])
    image.type.tensor_type.elem_type = BYTE


def rename(model: onnx.ModelProto, name: str, new_name: str) -> None:
    """Give a tensor another name wherever nodes make or take it."""
    for node in model.graph.node:
        for side in (node.input, node.output):
            for index, each in enumerate(side):
                if each == name:
                    side[index] = new_name


def prepend(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    others = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *others])


VARIANTS: dict[str, dict[str, Change]] = {
    # How its first convolution pads depends on the size, so that nothing else can be padded with once for all.
    "demo": {"argmax inside, to uint8": argmax_inside, "normalisation inside": normalisation_inside},
    # It resizes first, so that its pixels are no integers any more.
    "segformer": {"argmax inside, to uint8": argmax_inside},
    "pp-liteseg": {
        "mask to uint8": small_mask,
        "normalisation inside": normalisation_inside,
        "normalisation in the weights": normalisation_in_weights,
    },
}


def opened(bundle: Bundle, model: Path) -> Predictor:
    """The bundle with another network, in one thread."""
    named = OnnxModel(model, Precision.FP32, file_digest(model))
    return Predictor(bundle, OnnxRuntime(named, OnnxOptions(threads=1)))


def way_to_the_mask(predictor: Predictor, image: SourceImage) -> Segment:
    """From pixels to mask, as the product does it."""

    def segment() -> NDArray[np.generic]:
        prepared = predictor.prepare(image)
        return predictor.finish(prepared, predictor.run([prepared])[0]).mask

    return segment


def way_from_bytes(predictor: Predictor, image: SourceImage) -> Segment:
    """The same for a network that takes the pixels as they are."""
    records = (TransformRecord("resize", image.height, image.width),)

    def segment() -> NDArray[np.generic]:
        tensor = np.ascontiguousarray(image.pixels.transpose(2, 0, 1))
        prepared = PreparedImage(tensor, records, 0.0)  # pyright: ignore[reportArgumentType]  (bytes, on purpose)
        return predictor.finish(prepared, predictor.run([prepared])[0]).mask

    return segment


def output_bytes(predictor: Predictor, image: SourceImage) -> int:
    """What leaves the network for one image."""
    spec = predictor.runtime.inputs[0]
    tensor = predictor.prepare(image).tensor[None].astype(spec.dtype)
    (output,) = predictor.runtime.run({spec.name: tensor}).values()
    return output.nbytes


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bundle_path", VARIANTS, indirect=True)
def test_graph_variants(
    bundle_path: Path,
    open_named: OpenPredictor,
    tmp_path: Path,
    benchmark: Benchmark,
    request: pytest.FixtureRequest,
) -> None:
    name = str(request.node.callspec.params["bundle_path"])
    image = SourceImage(photograph(WIDTH, HEIGHT), WIDTH, HEIGHT, Capture())
    with open_bundle(bundle_path) as bundle, open_named(bundle, "onnx") as converted:
        made = converted.bundle.onnx_model(Precision.FP32)
        assert made is not None
        normalize = next(each for each in bundle.transforms if isinstance(each, Normalize))
        unchanged = opened(bundle, made.path)
        ways = {"as it is made": way_to_the_mask(unchanged, image)}
        sizes = {"as it is made": output_bytes(unchanged, image)}
        for index, (variant, change) in enumerate(VARIANTS[name].items()):
            model = onnx.load(made.path)
            change(model, normalize)
            onnx.checker.check_model(model)
            path = tmp_path / f"{index}.onnx"
            onnx.save(model, path)
            predictor = opened(bundle, path)
            takes_bytes = predictor.runtime.inputs[0].dtype == np.uint8
            ways[variant] = (way_from_bytes if takes_bytes else way_to_the_mask)(predictor, image)
            sizes[variant] = output_bytes(predictor, image)
        taken_ms: dict[str, list[float]] = {variant: [] for variant in ways}

        def turn() -> None:
            for variant, way in ways.items():
                started = time.process_time()
                way()
                taken_ms[variant].append(1000 * (time.process_time() - started))

        benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)
        expected = ways["as it is made"]()
        mismatched = {variant: float(np.mean(way() != expected)) * 1e6 for variant, way in ways.items()}
    plain_ms = np.asarray(taken_ms.pop("as it is made")[1:])
    figures: list[Variant] = []
    for variant, times in taken_ms.items():
        # Of turns that followed one another, so that what slows the machine slows both.
        low, middle, high = np.percentile(np.asarray(times[1:]) / plain_ms, (25, 50, 75))
        figures.append(
            Variant(
                variant=variant,
                median_ms=statistics.median(times[1:]),
                ratio=float(middle),
                ratio_low=float(low),
                ratio_high=float(high),
                output_bytes=sizes[variant],
                mismatched_ppm=mismatched[variant],
            )
        )
    plain = float(np.median(plain_ms))
    note(
        benchmark,
        GraphVariants(bundle=name, plain_ms=plain, plain_output_bytes=sizes["as it is made"], rows=figures),
    )

"""FP16: what goes in and out, what the weights become, and the masks."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.parity import compare
from converters.precision.half_precision import to_half
from demo.scenes import render_scene
from engine import Bundle, OnnxModel, OnnxOptions, Precision, Predictor, SourceImage, open_bundle, open_runtime
from engine.errors import ConversionError
from engine.images import Capture, read_image
from tests.conftest import Convert

DEMO = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"


def opened(bundle: Bundle, path: Path) -> Predictor:
    model = OnnxModel(path, Precision.FP32, "")
    return Predictor(bundle, open_runtime(replace(bundle, onnx=(model,)), OnnxOptions(threads=2)))


def noise(scale: float = 1) -> dict[str, np.ndarray]:
    """A picture as a network gets it."""
    return {"x": np.full((1, 3, 256, 256), scale, np.float32)}


def border_types(path: Path) -> list[int]:
    graph = onnx.load(path).graph
    return [each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)]


def weight_types(path: Path) -> set[int]:
    """Of the constants that have more than a handful of values."""
    return {each.data_type for each in onnx.load(path).graph.initializer if numpy_helper.to_array(each).size > 64}


@pytest.mark.long
def test_the_demo_network(tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    with open_bundle(DEMO) as bundle:
        model = bundle.onnx_model(Precision.FP32)
        assert model is not None
        to_half(model.path, half, [noise()], where="demo")
        assert list(tmp_path.iterdir()) == [half]
        onnx.checker.check_model(onnx.load(half), full_check=True)
        assert border_types(half) == [TensorProto.FLOAT, TensorProto.FLOAT]
        assert weight_types(half) == {TensorProto.FLOAT16}
        assert half.stat().st_size < 0.55 * model.path.stat().st_size
        scene = SourceImage(render_scene(900_004, 331, 267).image, 331, 267, Capture())
        with opened(bundle, model.path) as whole, opened(bundle, half) as halved:
            report = compare(whole, halved, [("scene", scene)])
    assert len(report.gated_classes) == 3
    assert report.min_class_iou > 0.99
    assert report.max_cover_error < 0.005
    assert report.max_abs_logit_error, "nothing was rounded"


@pytest.mark.long
def test_adaptive_pooling(shared_data: Path, converter: Convert, tmp_path: Path) -> None:
    """Its matrices are made at run time, of whole numbers; PP-LiteSeg gives class indices."""
    half = tmp_path / "half.onnx"
    picture = read_image(shared_data / "images" / "quadrat_1.jpg", max_img_size=100_000)
    with open_bundle(shared_data / "bundles" / "legacy_pp_liteseg_stdc1.tgz") as bundle:
        model = converter(bundle)
        to_half(model.path, half, [noise()], where="legacy")
        assert border_types(half) == border_types(model.path)
        assert weight_types(half) == {TensorProto.FLOAT16}
        with opened(bundle, model.path) as whole, opened(bundle, half) as halved:
            report = compare(whole, halved, [("quadrat", picture)])
    assert len(report.gated_classes) == 2
    assert report.min_class_iou > 0.99


def save_network(path: Path, nodes: list[onnx.NodeProto], weights: Mapping[str, float]) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("x", "y"))
    constants = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "network", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_squares_do_not_overflow(tmp_path: Path) -> None:
    """The norm of 1000, 1000, 1000, … is found, though a million is beyond FP16."""
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[2, 3]),
        helper.make_node("Sqrt", ["mean"], ["norm"]),
        helper.make_node("Sub", ["x", "norm"], ["y"]),
    ]
    half = tmp_path / "half.onnx"
    to_half(save_network(tmp_path / "norm.onnx", nodes, {"two": 2}), half, [noise()], where="norm")
    session = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 3, 8, 8), 1000, np.float32)})
    assert np.abs(np.asarray(found)).max() <= 1


@pytest.mark.long
def test_a_constant_that_does_not_fit_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "masked"], ["y"], name="mask")]
    model = save_network(tmp_path / "large.onnx", nodes, {"masked": -1e9})
    with pytest.raises(ConversionError, match=r"large\.onnx: constant masked holds 1e\+09, FP16 ends at 65504"):
        to_half(model, tmp_path / "half.onnx", [noise()], where="large")
    assert not (tmp_path / "half.onnx").exists()


@pytest.mark.long
def test_a_product_beyond_fp16_stays_in_fp32(tmp_path: Path) -> None:
    """1000 · 1000 · 0.001 is 1000, though what lies between is beyond FP16; a CPU would not show the overflow."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], name="small"),
        helper.make_node("Mul", ["positive", "thousand"], ["million"], name="grows"),
        helper.make_node("Mul", ["million", "thousandth"], ["back"], name="shrinks"),
        helper.make_node("Add", ["back", "thousandth"], ["y"], name="after"),
    ]
    model = save_network(tmp_path / "large.onnx", nodes, {"thousand": 1000, "thousandth": 0.001})
    half = tmp_path / "half.onnx"
    halved = to_half(model, half, [noise(2), noise(1000)], where="large")
    assert halved.kept_nodes == ("grows", "shrinks")
    assert halved.largest_activation == pytest.approx(1e6)
    graph = onnx.shape_inference.infer_shapes(onnx.load(half)).graph
    types = {each.name: each.type.tensor_type.elem_type for each in graph.value_info}
    by_name = {node.name: node for node in graph.node}
    assert types[by_name["grows"].output[0]] == TensorProto.FLOAT
    # Nothing of a million goes through FP16 on its way.
    assert by_name["grows"].output[0] == by_name["shrinks"].input[0]
    assert types[by_name["after"].output[0]] == TensorProto.FLOAT16
    # On other pictures nothing has to stay.
    small = to_half(model, half, [noise(0.5)], where="small")
    assert (small.largest_activation, small.kept_nodes) == (pytest.approx(500), ())


@pytest.mark.long
def test_large_inputs_and_outputs_are_not_halved_on_their_way(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "thousand"], ["y"], name="grows")]
    half = tmp_path / "half.onnx"
    to_half(save_network(tmp_path / "n.onnx", nodes, {"thousand": 1000}), half, [noise(1e5)], where="n")
    (found,) = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"]).run(None, noise(1e5))
    assert np.asarray(found) == pytest.approx(1e8)


@pytest.mark.long
def test_pictures_of_whole_numbers_are_squared_in_floating_point(tmp_path: Path) -> None:
    """Their square root of the sum of the squares of each band, of 60 and 80, is 100."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Pow", ["f", "two"], ["squares"]),
        helper.make_node("ReduceSum", ["squares"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])
    constants = [numpy_helper.from_array(np.array(2, np.float32), "two")]
    model = helper.make_model(
        helper.make_graph(nodes, "network", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path, half = tmp_path / "bytes.onnx", tmp_path / "half.onnx"
    onnx.save(model, path)
    picture = np.zeros((1, 3, 8, 8), np.uint8)
    picture[0, :2, 3, 4] = 60, 80
    to_half(path, half, [{"x": picture}], where="bytes")
    (found,) = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"]).run(None, {"x": picture})
    assert np.asarray(found).item() == pytest.approx(100, rel=1e-3)

"""INT8: real networks by their masks, and small ones whose sensitive place is known because it was put there."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.parity import ParityLimits, ParityReport, compare
from converters.precision.quantization import MAX_TRIALS, QuantizationError, quantize
from demo.scenes import render_scene
from engine import Bundle, OnnxModel, OnnxOptions, Precision, Predictor, SourceImage, open_bundle, open_runtime
from engine.bundle.bundle import DeclaredOutput
from engine.errors import CalibrationError, ConversionError
from engine.images import Capture
from engine.runtimes import Tensor
from engine.runtimes.programs.quantized_form import symmetric_problem
from engine.transforms import Normalize

LIMITS = ParityLimits(max_mismatched_ppm=None, min_class_iou=0.97, max_cover_error=0.005)
DEMO = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"

Feeds = Callable[[], Iterator[Mapping[str, Tensor]]]
Judge = Callable[[Path], ParityReport]


def opened(bundle: Bundle, path: Path, precision: Precision = Precision.FP32) -> Predictor:
    options = OnnxOptions(precision=precision, threads=2)
    return Predictor(bundle, open_runtime(replace(bundle, onnx=(OnnxModel(path, precision, ""),)), options))


def image(pixels: np.ndarray) -> SourceImage:
    return SourceImage(pixels, pixels.shape[1], pixels.shape[0], Capture())


# ---- the demo network: trained weights --------------------------------------------------------------------------


@dataclass(frozen=True)
class Demo:
    bundle: Bundle
    model: Path
    predictor: Predictor
    pictures: list[SourceImage]

    def feeds(self) -> Iterator[Mapping[str, Tensor]]:
        for each in self.pictures:
            yield {self.predictor.network.input_name: self.predictor.prepare(each).tensor[None]}


@pytest.fixture(scope="module")
def demo() -> Generator[Demo]:
    with open_bundle(DEMO) as bundle:
        model = bundle.onnx_model(Precision.FP32)
        assert model is not None
        with opened(bundle, model.path) as predictor:
            pictures = [image(render_scene(seed, 384, 288).image) for seed in range(700_000, 700_008)]
            yield Demo(bundle, model.path, predictor, pictures)


@dataclass(frozen=True)
class Int8Demo:
    path: Path
    reports: list[ParityReport]
    steps: list[tuple[str, int, int]]
    excluded: tuple[str, ...]


@pytest.fixture(scope="module")
def int8_demo(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Int8Demo:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    held_out = [(f"scene {seed}", image(render_scene(seed, 512, 384).image)) for seed in (900_004, 900_005)]
    reports: list[ParityReport] = []
    steps: list[tuple[str, int, int]] = []

    def advance(step: str, done: int, total: int) -> None:
        steps.append((step, done, total))

    def judge(candidate: Path) -> ParityReport:
        with opened(demo.bundle, candidate, Precision.INT8) as predictor:
            reports.append(compare(demo.predictor, predictor, held_out))
        return reports[-1]

    quantized = quantize(demo.model, path, demo.feeds, judge, LIMITS, where="demo", advance=advance)
    assert quantized.report is reports[-1]
    assert [trial.report for trial in quantized.trials] == reports
    assert quantized.trials[-1].size_bytes == path.stat().st_size
    assert quantized.speedup > 0
    return Int8Demo(path, reports, steps, quantized.excluded_nodes)


@pytest.mark.long
def test_demo_keeps_its_masks_at_a_third_of_the_size(demo: Demo, int8_demo: Int8Demo) -> None:
    assert int8_demo.reports[-1].min_class_iou >= 0.97
    assert len(int8_demo.reports[-1].gated_classes) == 3
    assert int8_demo.excluded == ()
    assert int8_demo.path.stat().st_size < 0.4 * demo.model.stat().st_size


@pytest.mark.long
def test_demo_is_as_accurate_as_in_fp32(demo: Demo, int8_demo: Int8Demo) -> None:
    def miou(predictor: Predictor) -> float:
        both, either = np.zeros(3), np.zeros(3)
        for seed in (910_001, 910_003):
            scene = render_scene(seed, 384, 384)
            mask = predictor.predict(image(scene.image)).mask
            for index in range(3):
                both[index] += ((mask == index) & (scene.labels == index)).sum()
                either[index] += ((mask == index) | (scene.labels == index)).sum()
        return float((both / either).mean())

    with opened(demo.bundle, int8_demo.path, Precision.INT8) as predictor:
        assert miou(predictor) >= miou(demo.predictor) - 0.005


@pytest.mark.long
def test_demo_for_gpus_is_around_zero_and_keeps_its_masks(demo: Demo, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    held_out = [("scene", image(render_scene(900_004, 512, 384).image))]

    def judge(candidate: Path) -> ParityReport:
        with opened(demo.bundle, candidate, Precision.INT8) as predictor:
            return compare(demo.predictor, predictor, held_out)

    quantized = quantize(demo.model, path, demo.feeds, judge, LIMITS, where="demo", symmetric=True)
    assert quantized.report.min_class_iou >= 0.97
    assert symmetric_problem(path) is None
    graph = onnx.load(path).graph
    maker = {tensor: node for node in graph.node for tensor in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantizing = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantizing
    for node in quantizing:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    in_integers = [node for node in convolutions if node.input[1] in maker]
    assert len(in_integers) > len(convolutions) / 2
    for node in in_integers:
        assert constants[maker[node.input[1]].input[0]].dtype == np.int8
        # A bias in floating point is a constant, and comes from no node.
        assert all(constants[bias].dtype == np.float32 for bias in node.input[2:])


@pytest.mark.long
def test_demo_runs_in_integers_up_to_the_scores(int8_demo: Int8Demo, tmp_path: Path) -> None:
    """What ONNX Runtime really runs: its own dump of the optimised graph."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    settings.log_severity_level = 4
    onnxruntime.InferenceSession(str(int8_demo.path), settings, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Conv" not in operators
    assert "Add" not in operators
    assert operators.count("QLinearConv") == 73
    graph = onnx.load(int8_demo.path).graph
    maker = {tensor: node for node in graph.node for tensor in node.output}
    assert maker[graph.output[0].name].op_type == "Resize"
    shapes = [node for node in graph.node if node.op_type == "Shape"]
    assert shapes
    assert not [node for node in shapes if maker[node.input[0]].op_type == "DequantizeLinear"]


@pytest.mark.long
def test_demo_is_standard_onnx(int8_demo: Int8Demo) -> None:
    model = onnx.load(int8_demo.path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    maker = {tensor: node for node in model.graph.node for tensor in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 73
    for node in convolutions:
        weights, scales, zeros = (constants[name] for name in maker[node.input[1]].input)
        assert weights.dtype == np.int8
        assert scales.shape == zeros.shape == weights.shape[:1]
        assert not zeros.any()
        zero_of_input = constants[maker[node.input[0]].input[2]]
        assert zero_of_input.dtype == np.uint8


@pytest.mark.long
def test_nothing_else_is_left_behind(int8_demo: Int8Demo) -> None:
    assert list(int8_demo.path.parent.iterdir()) == [int8_demo.path]


@pytest.mark.long
def test_progress(int8_demo: Int8Demo) -> None:
    assert int8_demo.steps == [*(("calibrating", each, 8) for each in range(8)), ("trying INT8", 0, MAX_TRIALS)]


# ---- small networks ---------------------------------------------------------------------------------------------


def save_network(path: Path, nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray], *, channels: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def convolution(name: str, tensor: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [tensor, f"{name}.weight"], [result], name=name, pads=[1, 1, 1, 1])


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Plain convolutions; in their middle a tensor of 1 and 100 000, whose small channels 256 steps cannot hold."""
    random = np.random.default_rng(3)
    weights = {f"plain{index}.weight": random.normal(0, 0.12, (8, 8, 3, 3)) for index in range(12)}
    weights["plain0.weight"] = random.normal(0, 0.3, (8, 3, 3, 3))
    weights["plain11.weight"] = random.normal(0, 0.12, (2, 8, 3, 3))
    scales = np.ones((1, 8, 1, 1))
    scales[0, 0] = 1e5
    weights |= {"wide.scale": scales, "narrow.scale": 1 / scales}
    nodes: list[onnx.NodeProto] = []
    tensor = "x"
    for index in range(12):
        result = "y" if index == 11 else f"t{index}"
        nodes.append(convolution(f"plain{index}", tensor, result))
        tensor = result
        if index < 11:
            nodes.append(helper.make_node("Tanh", [tensor], [f"a{index}"], name=f"tanh{index}"))
            tensor = f"a{index}"
        if index == 5:
            nodes.append(helper.make_node("Mul", [tensor, "wide.scale"], ["wide"], name="wide"))
            nodes.append(helper.make_node("Mul", ["wide", "narrow.scale"], ["narrow"], name="narrow"))
            tensor = "narrow"
    return save_network(tmp_path / "network.onnx", nodes, weights, channels=2)


def noise(count: int = 8, side: int = 48) -> Iterator[dict[str, Tensor]]:
    random = np.random.default_rng(5)
    for _ in range(count):
        yield {"x": random.uniform(-1, 1, (1, 3, side, side)).astype(np.float32)}


def bundle_of(path: Path) -> Bundle:
    return Bundle(
        name="small",
        source=path,
        folder=path.parent,
        digest="",
        classes=(),
        transforms=(Normalize(mean=(0.5,), std=(0.5,)),),
        paddle=None,
        onnx=(),
        declared=DeclaredOutput(None, None, None),
        multilabel=False,
        notes=(),
    )


@contextmanager
def judged_by(network: Path) -> Generator[Judge]:
    pixels = np.random.default_rng(9).integers(0, 255, (48, 48, 3), np.uint8)
    with opened(bundle_of(network), network) as reference:

        def judge(candidate: Path) -> ParityReport:
            with opened(bundle_of(network), candidate, Precision.INT8) as predictor:
                return compare(reference, predictor, [("noise", image(pixels))])

        yield judge


@pytest.mark.long
def test_the_sensitive_place_is_found_and_the_rest_is_quantized(network: Path, tmp_path: Path) -> None:
    limits = ParityLimits(max_mismatched_ppm=None, min_class_iou=0.9)
    with judged_by(network) as judge:
        quantized = quantize(network, tmp_path / "int8.onnx", noise, judge, limits, where="small")
    first, *_, last = quantized.trials
    assert first.excluded_nodes == ()
    assert first.report.min_class_iou < 0.8
    assert last.report.min_class_iou >= 0.9
    assert {"wide", "narrow"} <= set(quantized.excluded_nodes)
    assert len(quantized.excluded_nodes) <= 6
    kept = {name for node in onnx.load(tmp_path / "int8.onnx").graph.node for name in node.input}
    assert sum(name.endswith(".weight_quantized") for name in kept) >= 8


@pytest.mark.long
def test_ranges_are_those_of_all_pictures(tmp_path: Path) -> None:
    """One convolution: the scale of its input by hand."""
    weights = {"only.weight": np.ones((2, 3, 3, 3))}
    model = save_network(tmp_path / "one.onnx", [convolution("only", "x", "y")], weights, channels=2)

    def feeds() -> Iterator[Mapping[str, Tensor]]:
        for number in range(8):
            tensor = np.zeros((1, 3, 32, 32 + 16 * number), np.float32)
            tensor[0, 0, 0, 0], tensor[0, 1, 3, 3] = -number, 2 * number
            yield {"x": tensor}

    with judged_by(model) as judge:
        anything = ParityLimits(max_mismatched_ppm=None)
        quantize(model, tmp_path / "int8.onnx", feeds, judge, anything, where="one")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    (entry,) = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x"]
    scale, zero = (
        numpy_helper.to_array(each) for name in entry.input[1:] for each in graph.initializer if each.name == name
    )
    assert scale == pytest.approx((14 - -7) / 255)
    assert zero == round(7 / (21 / 255))


# ---- refusals ---------------------------------------------------------------------------------------------------


def never(_path: Path) -> ParityReport:
    raise AssertionError("nothing was to be judged")


@pytest.mark.long
def test_refused_with_the_table_of_what_was_tried(network: Path, tmp_path: Path) -> None:
    with judged_by(network) as judge:
        hopeless = replace(judge(network), min_class_iou=0.5, max_cover_error=0.25)
    destination = tmp_path / "out" / "int8.onnx"
    destination.parent.mkdir()
    with pytest.raises(QuantizationError, match="small: INT8 is not worthwhile for this network") as caught:
        quantize(network, destination, noise, lambda _: hopeless, LIMITS, where="small")
    trials = caught.value.trials
    assert 2 < len(trials) <= MAX_TRIALS
    counts = [len(trial.excluded_nodes) for trial in trials]
    assert counts == sorted(set(counts))
    rows = str(caught.value).splitlines()[-len(trials) :]
    assert [row.split()[:3] for row in rows] == [[str(count), "0.5000", "0.2500"] for count in counts]
    assert not list(destination.parent.iterdir())


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_pictures(network: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(CalibrationError, match=f"small: .*at least 8 pictures.*{count} were given"):
        quantize(network, tmp_path / "int8.onnx", lambda: noise(count), never, LIMITS, where="small")


def test_a_picture_with_a_value_that_is_not_a_number(network: Path, tmp_path: Path) -> None:
    """ONNX Runtime's reductions to the smallest and largest value pass over all but the first."""

    def feeds() -> Iterator[Mapping[str, Tensor]]:
        for number, each in enumerate(noise()):
            if number == 2:
                each["x"][0, 1, 20, 30] = np.nan
            yield each

    with pytest.raises(CalibrationError, match="not finite on picture 3"):
        quantize(network, tmp_path / "int8.onnx", feeds, never, LIMITS, where="small")


def test_a_network_without_convolutions(tmp_path: Path) -> None:
    model = save_network(tmp_path / "none.onnx", [helper.make_node("Tanh", ["x"], ["y"])], {}, channels=3)
    with pytest.raises(ConversionError, match="no convolution"):
        quantize(model, tmp_path / "int8.onnx", noise, never, LIMITS, where="none")


@pytest.mark.long
def test_a_branch_reads_what_comes_before_it(tmp_path: Path) -> None:
    """The standard wants nodes in the order in which they run, and branches read tensors from outside."""
    doubled, kept = (
        helper.make_graph(
            [helper.make_node(kind, ["a", "one"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)],
        )
        for kind in ("Add", "Mul")
    )
    nodes = [
        convolution("first", "x", "c"),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Cast", ["rank"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["b"], then_branch=doubled, else_branch=kept),
        convolution("last", "b", "y"),
    ]
    random = np.random.default_rng(3)
    weights = {"first.weight": random.normal(0, 0.3, (8, 3, 3, 3)), "last.weight": random.normal(0, 0.3, (2, 8, 3, 3))}
    network = save_network(tmp_path / "network.onnx", nodes, {**weights, "one": np.array(1)}, channels=2)
    with judged_by(network) as judge:
        quantize(network, tmp_path / "int8.onnx", noise, judge, ParityLimits(None, 0.9, 0.1), where="small")
    onnx.checker.check_model(onnx.load(tmp_path / "int8.onnx"), full_check=True)

"""What a GPU's sessions do differently, on the CPU provider: classes inside of the model, bound inputs and outputs.

ONNX Runtime's own code is the same for both devices; what only a card can show is in `make gpu-check`.
"""
# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import (
    InferenceError,
    OnnxModel,
    OnnxOptions,
    OptionError,
    Precision,
    Predictor,
    Provider,
    RuntimeUnavailableError,
    open_bundle,
)
from engine.bundle.bundle import Bundle, DeclaredOutput, SegmentationClass, file_digest
from engine.images import Capture, SourceImage
from engine.options import CudaExecution, GpuOptions
from engine.runtimes import Tensor
from engine.runtimes.onnx import OnnxRuntime, session
from engine.runtimes.onnx.binding import BoundSession
from engine.runtimes.onnx.classes import CLASSES, scores_of
from engine.runtimes.onnx.settings import SessionPlan
from engine.segmentation.steps import MeasuringSteps
from engine.system.machine.pinned_memory import PinnedMemory

ROOT = Path(__file__).parents[3]
RANDOM = np.random.default_rng(7)


def network(folder: Path, classes: int | None, *, element: int = TensorProto.FLOAT, scale: float = 1.0) -> OnnxModel:
    """A convolution of random weights; with a scale of whole numbers many scores are equal."""
    kernel = np.rint(RANDOM.normal(size=(classes or 1, 3, 3, 3)) * scale).astype(np.float32)
    if scale == 1.0:
        kernel = RANDOM.normal(size=kernel.shape).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["scores"], pads=[1, 1, 1, 1])]
    if element != TensorProto.FLOAT:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["wide"], pads=[1, 1, 1, 1]),
            helper.make_node("Cast", ["wide"], ["scores"], to=element),
        ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("scores", element, ["n", classes, "h", "w"])],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return OnnxModel(path, Precision.FP32, file_digest(path))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., OnnxRuntime]:
    """Opens a model on the CPU as it is opened on a GPU."""
    usual = session.session_plan

    def plan(options: OnnxOptions, cache_folder: Path | None, *, vnni: bool) -> SessionPlan:
        return replace(usual(options, cache_folder, vnni=vnni), io_binding=True, classes=True)

    def opened(model: OnnxModel, **options: Any) -> OnnxRuntime:
        monkeypatch.setattr(session, "session_plan", plan)
        runtime = OnnxRuntime(model, OnnxOptions(**options))
        monkeypatch.setattr(session, "session_plan", usual)
        return runtime

    return opened


def pictures(*sizes: tuple[int, int], batch: int = 1) -> list[Tensor]:
    return [RANDOM.integers(0, 3, (batch, 3, *size)).astype(np.float32) for size in sizes]


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (19, 1.0), (2, 2.0), (5, 2.0), (256, 1.0)])
def test_classes_are_numpy_s_argmax_to_the_bit(
    tmp_path: Path, as_on_a_gpu: Callable[..., OnnxRuntime], classes: int, scale: float
) -> None:
    model = network(tmp_path, classes, scale=scale)
    plain, found = OnnxRuntime(model, OnnxOptions()), as_on_a_gpu(model)
    assert plain.run_for_classes({"x": pictures((4, 4))[0]}) is None
    for x in [*pictures((40, 31), (17, 64)), *pictures((16, 16), batch=3)]:
        scores = plain.run({"x": x})["scores"]
        masks = found.run_for_classes({"x": x})
        assert masks is not None
        assert masks.dtype == np.uint8
        assert np.array_equal(masks, scores.argmax(axis=1))
        assert np.array_equal(found.run({"x": x})["scores"], scores)
        if scale == 2.0:
            # Whole numbers: the largest score comes twice in many pixels, and the first one counts.
            ordered = np.sort(scores, axis=1)
            assert (ordered[:, -1] == ordered[:, -2]).mean() > 0.01
    assert [each.name for each in found.outputs] == ["scores"]


def test_the_demo_bundle_s_masks_are_the_same(tmp_path: Path, as_on_a_gpu: Callable[..., OnnxRuntime]) -> None:
    with open_bundle(ROOT / "demo" / "demo_seagrass.tgz") as bundle:
        model = bundle.onnx_model(Precision.FP32)
        assert model is not None
        predictors = Predictor(bundle, OnnxRuntime(model, OnnxOptions())), Predictor(bundle, as_on_a_gpu(model))
        pixels = RANDOM.integers(0, 256, (96, 128, 3), np.uint8)
        for size in ((128, 96), (200, 150)):
            image = SourceImage(pixels, *size, Capture())
            expected, found = (each.predict(image) for each in predictors)
            assert np.array_equal(found.mask, expected.mask)
            assert found.covers == expected.covers
        (raw,) = predictors[1].run([predictors[1].prepare(image)])
        assert raw.output.dtype == np.float32  # who wants scores gets them


def bundle_of(model: OnnxModel, *, multilabel: bool = False) -> Bundle:
    return Bundle(
        source=model.path,
        folder=model.path.parent,
        digest="0" * 64,
        name="network",
        transforms=(),
        classes=(SegmentationClass("urn:sand", "sand", None),),
        declared=DeclaredOutput(None, None, None),
        multilabel=multilabel,
        notes=(),
        paddle=None,
        onnx=(model,),
    )


@pytest.mark.parametrize(
    ("multilabel", "confidence", "width", "wanted"),
    [
        (False, False, 24, CLASSES),
        (True, False, 24, "scores"),
        (False, True, 24, "scores"),
        (False, False, 48, "scores"),
    ],
    ids=["mask", "overlapping classes", "confidence", "enlarged"],
)
def test_scores_are_copied_only_where_they_are_needed(
    tmp_path: Path, as_on_a_gpu: Callable[..., OnnxRuntime], multilabel: bool, confidence: bool, width: int, wanted: str
) -> None:
    model = network(tmp_path, 5)
    steps = MeasuringSteps(keep_confidence=confidence)
    plain, found = (
        Predictor(bundle_of(model, multilabel=multilabel), runtime, steps=steps)
        for runtime in (OnnxRuntime(model, OnnxOptions()), as_on_a_gpu(model))
    )
    image = SourceImage(RANDOM.integers(0, 256, (24, 24, 3), np.uint8), width, 24, Capture())
    expected = plain.predict(image)
    copied = outputs_copied_by(found, lambda: np.array_equal(found.predict(image).mask, expected.mask))
    assert copied == [wanted]
    # Also of the classes that the bundle does not name.
    assert len(found.predict(image).covers) == len(expected.covers) == 5


def outputs_copied_by(predictor: Predictor, segmented: Callable[[], bool]) -> list[str]:
    """The first output that is asked for in each run."""
    runtime = cast("Any", predictor.runtime)
    with runtime._sessions.lend() as bound:
        usual = bound.run
        copied: list[str] = []

        def watched(names: Any, feeds: Any) -> Any:
            copied.append(names[0])
            return usual(names, feeds)

        bound.run = watched
    assert segmented()
    return copied


def test_scores_that_are_no_numbers_are_an_error(tmp_path: Path, as_on_a_gpu: Callable[..., OnnxRuntime]) -> None:
    runtime = as_on_a_gpu(network(tmp_path, 4))
    for bad in (np.nan, np.inf, -np.inf):
        (x,) = pictures((8, 8))
        x[0, 0, 3, 3] = bad
        with pytest.raises(InferenceError, match="NaN or infinite"):
            runtime.run_for_classes({"x": x})


@pytest.mark.parametrize(
    ("classes", "element"),
    [(1, TensorProto.FLOAT), (257, TensorProto.FLOAT), (None, TensorProto.FLOAT), (4, TensorProto.INT32)],
)
def test_other_outputs_stay_as_they_are(
    tmp_path: Path, as_on_a_gpu: Callable[..., OnnxRuntime], classes: int | None, element: int
) -> None:
    model = network(tmp_path, classes, element=element)
    assert scores_of(model.path) is None
    assert as_on_a_gpu(model).run_for_classes({"x": pictures((8, 8))[0]}) is None


# ---- IO binding -------------------------------------------------------------------------------------------------


def test_bound_runs_give_the_same_and_their_results_stay(
    tmp_path: Path, as_on_a_gpu: Callable[..., OnnxRuntime]
) -> None:
    model = network(tmp_path, 6)
    plain, bound = OnnxRuntime(model, OnnxOptions()), as_on_a_gpu(model, threads=2, streams=2)
    given = pictures((32, 32), (32, 32), (20, 48), (32, 32), (20, 48)) * 4

    def run(x: Tensor) -> tuple[Tensor, Tensor | None]:
        return bound.run({"x": x})["scores"], bound.run_for_classes({"x": x})

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(run, given))
    for x, (scores, masks) in zip(given, found, strict=True):
        expected = plain.run({"x": x})["scores"]
        assert np.array_equal(scores, expected)
        assert masks is not None
        assert np.array_equal(masks, expected.argmax(axis=1))


class Library:
    """ONNX Runtime as far as bound runs use it; a graph would be recorded at what the addresses are."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int, str | None]] = []

    class RunOptions:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}

        def add_run_config_entry(self, key: str, value: str) -> None:
            self.entries[key] = value

    class OrtValue:
        def __init__(self, shape: Any) -> None:
            self.content = np.zeros(shape, np.float32)

        @classmethod
        def ortvalue_from_shape_and_type(cls, shape: Any, _dtype: Any, device: str, number: int) -> Any:
            assert (device, number) == ("cuda", 1)
            return cls(shape)

        def update_inplace(self, tensor: Tensor) -> None:
            self.content[:] = tensor

        def data_ptr(self) -> int:
            return self.content.ctypes.data

        def shape(self) -> list[int]:
            return list(self.content.shape)

        def data_type(self) -> str:
            return "tensor(float)"

    class Binding:
        def __init__(self) -> None:
            self.taken: Any = None
            self.made: Any = None

        def bind_ortvalue_input(self, _name: str, value: Any) -> None:
            self.taken = value

        def bind_output(self, _name: str, device: str, number: int) -> None:
            assert (device, number) == ("cuda", 1)
            self.made = None

        def bind_ortvalue_output(self, _name: str, value: Any) -> None:
            self.made = value

        def get_outputs(self) -> list[Any]:
            return [self.made]

    def io_binding(self) -> Any:
        return Library.Binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if binding.made is None:
            binding.made = Library.OrtValue(binding.taken.shape())
        binding.made.content[:] = binding.taken.content * 2
        graph = None if options is None else options.entries["gpu_graph_id"]
        self.runs.append((id(binding.taken), id(binding.made), graph))


def fetch(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


def test_a_cuda_graph_is_recorded_of_the_size_that_repeats_and_keeps_its_addresses() -> None:
    library = Library()
    bound = BoundSession(library, library, ("cuda", 1), graph=True, fetch=fetch)
    tile, edge, corner = (np.full((1, 3, side, 8), side, np.float32) for side in (8, 5, 3))
    for x in (corner, tile, tile, edge, tile, edge, edge, tile):
        (found,) = bound.run(["y"], {"x": x})
        assert np.array_equal(found, 2 * x)
    graphs = [graph for _, _, graph in library.runs]
    assert graphs == ["-1", "-1", None, "-1", None, "-1", "-1", None]
    recorded = {places[:2] for places in library.runs if places[2] is None}
    assert len(recorded) == 1


def test_without_cuda_graphs_nothing_is_said_of_them() -> None:
    library = Library()
    bound = BoundSession(library, library, ("cuda", 1), graph=False, fetch=fetch)
    for x in pictures((4, 4), (4, 4), (5, 5)):
        assert np.array_equal(bound.run(["y"], {"x": x})[0], 2 * x)
    assert {graph for _, _, graph in library.runs} == {None}


def test_what_a_gpu_does_is_not_asked_of_a_cpu() -> None:
    with pytest.raises(OptionError, match="runs on the CPU"):
        OnnxOptions(Provider.CPU, cuda=CudaExecution(prefer_nhwc=True))
    with pytest.raises(OptionError, match="only IO binding keeps"):
        CudaExecution(io_binding=False, cuda_graph=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cuda": CudaExecution(cuda_graph=True)}, "records no CUDA graphs"),
        ({"gpu": GpuOptions(memory_bytes=1 << 30)}, "keeps to no limit on memory: leave gpu-memory-limit out"),
    ],
)
def test_what_a_plugin_would_not_do_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_on_a_gpu: Callable[..., OnnxRuntime],
    asked: dict[str, object],
    message: str,
) -> None:
    """The plugin's factory reads no limit, and its arena exists before a session could state one."""
    monkeypatch.setattr(session, "is_plugin", lambda _library, _provider: True)
    model = network(tmp_path, 4)
    (x,) = pictures((8, 8))
    assert as_on_a_gpu(model).run_for_classes({"x": x}) is not None
    options = OnnxOptions()
    for name, value in asked.items():
        # No CPU takes them, so that they are put in from behind.
        object.__setattr__(options, name, value)
    with pytest.raises(RuntimeUnavailableError, match=message):
        OnnxRuntime(model, options)


# ---- pinned memory ----------------------------------------------------------------------------------------------


class Cuda:
    """CUDA's runtime library on the memory of the process."""

    def __init__(self, *, code: int = 0, copy_code: int = 0) -> None:
        self.code, self.copy_code = code, copy_code
        self.given: dict[int, Any] = {}
        self.freed = 0
        self.device = -1

    def cudaSetDevice(self, number: int) -> int:
        self.device = number
        return 0

    def cudaHostAlloc(self, place: Any, size: Any, flags: int) -> int:
        assert flags == 1
        if self.code:
            return self.code
        memory = ctypes.create_string_buffer(size.value)
        place._obj.value = ctypes.addressof(memory)
        self.given[ctypes.addressof(memory)] = memory
        return 0

    def cudaFreeHost(self, place: Any) -> int:
        del self.given[place.value]
        self.freed += 1
        return 0

    def cudaMemcpy(self, to: Any, source: Any, size: Any, direction: int) -> int:
        assert direction == 2
        ctypes.memmove(to, source, size)
        return self.copy_code


def test_pinned_arrays_are_used_again_once_nobody_holds_them() -> None:
    cuda = Cuda()
    pinned = PinnedMemory(1, lambda _name: cuda)
    source = RANDOM.normal(size=(2, 5, 7)).astype(np.float32)

    def fetched() -> Any:
        return pinned.fetch(source.ctypes.data, source.shape, source.dtype)

    first, second = fetched(), fetched()
    assert np.array_equal(first, source)
    assert np.array_equal(second, source)
    assert (len(cuda.given), cuda.device) == (2, 1)
    row = first[1, 2]  # a view holds the memory, too
    del first
    third = fetched()
    assert len(cuda.given) == 3
    del row, third
    fourth = fetched()
    assert len(cuda.given) == 3
    pinned.close()
    assert cuda.freed == 1
    assert np.array_equal(second, fourth)
    del second, fourth
    assert not cuda.given


def test_no_more_is_pinned_than_allowed_and_other_sizes_make_room() -> None:
    cuda = Cuda()
    pinned = PinnedMemory(0, lambda _name: cuda, most_bytes=100)
    source = np.arange(200, dtype=np.uint8)

    def fetched(size: int) -> Any:
        return pinned.fetch(source.ctypes.data, (size,), source.dtype)

    small = fetched(60)
    large = fetched(80)  # in ordinary memory
    assert [len(each) for each in cuda.given.values()] == [60]
    assert np.array_equal(large, source[:80])
    del small
    assert np.array_equal(fetched(90), source[:90])
    assert cuda.freed == 1


def test_where_nothing_can_be_pinned_results_come_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    pinned = PinnedMemory(0, lambda _name: Cuda(code=2))
    source = np.arange(8, dtype=np.uint8)
    for _ in range(2):
        assert np.array_equal(pinned.fetch(source.ctypes.data, (8,), source.dtype), source)
    assert [each.message for each in caplog.records] == [
        "8 bytes cannot be pinned (CUDA error 2): results are copied more slowly"
    ]


def test_a_copy_that_fails_is_an_error() -> None:
    pinned = PinnedMemory(0, lambda _name: Cuda(copy_code=700))
    source = np.arange(8, dtype=np.uint8)
    with pytest.raises(InferenceError, match="CUDA answers with error 700"):
        pinned.fetch(source.ctypes.data, (8,), source.dtype)

"""What is tried, in which order, what is said of each step down, and what an explicit request raises."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.bundle import Bundle, DeclaredOutput, OnnxModel, PaddleModel
from engine.errors import (
    ConversionError,
    EngineError,
    InferenceError,
    ModelLoadError,
    OptionError,
    RuntimeUnavailableError,
)
from engine.options import Device, OnnxOptions, PaddleOptions, Precision, Provider, RuntimeName, RuntimeOptions
from engine.runtimes import Runtime, Tensor
from engine.runtimes.fake import FakeRuntime
from engine.runtimes.selection import OneDnn, RuntimeRequest, candidates
from engine.segmentation.opening import import_ahead, open_first, open_predictor, open_runtime, require_available
from engine.segmentation.prediction import MaskSize

FP32 = OnnxModel(Path("fp32.onnx"), Precision.FP32, "1" * 64)
INT8 = OnnxModel(Path("int8.onnx"), Precision.INT8, "2" * 64)
MADE = OnnxModel(Path("made.onnx"), Precision.FP32, "3" * 64)
PADDLE = PaddleModel(Path("model.json"), Path("model.pdiparams"), "4" * 64)
LABELS = ["cpu", "paddle-onednn", "paddle-cpu"]


def bundle_of(*onnx: OnnxModel, paddle: PaddleModel | None = PADDLE) -> Bundle:
    """A bundle that holds these models, on paper."""
    return Bundle(
        name="reef",
        source=Path("reef.tgz"),
        folder=Path(),
        digest="5" * 64,
        classes=(),
        transforms=(),
        paddle=paddle,
        onnx=onnx,
        declared=DeclaredOutput(None, None, None),
        multilabel=False,
        notes=(),
    )


def identity(tensor: Tensor) -> Tensor:
    """The least network."""
    return tensor


class Runtimes:
    """Opens fakes in place of vendor libraries, and fails as told."""

    def __init__(self) -> None:
        self.absent: set[str] = set()
        self.failing: dict[str, EngineError] = {}
        self.opened: list[tuple[str, Bundle, Path | None]] = []
        self.input_shape: tuple[int | None, ...] = (None, 3, None, None)
        self.runtimes: list[FakeRuntime] = []

    def require_available(self, options: RuntimeOptions) -> None:
        if options.label in self.absent:
            raise RuntimeUnavailableError(f"no {options.label} here: install it")

    def open_runtime(self, bundle: Bundle, options: RuntimeOptions, *, load_marks: Path | None = None) -> Runtime:
        self.opened.append((options.label, bundle, load_marks))
        if options.label in self.failing:
            raise self.failing[options.label]
        self.runtimes.append(FakeRuntime(identity, input_shape=self.input_shape))
        return self.runtimes[-1]

    @property
    def labels(self) -> list[str]:
        """What was opened, in order."""
        return [label for label, _, _ in self.opened]


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Runtimes:
    """Runtimes that all work until told otherwise."""
    peers = Runtimes()
    monkeypatch.setattr("engine.segmentation.opening.require_available", peers.require_available)
    monkeypatch.setattr("engine.segmentation.opening.open_runtime", peers.open_runtime)
    return peers


def unwanted(_: Bundle) -> OnnxModel:
    """A conversion that must not happen."""
    raise AssertionError("nothing is to be converted")


def test_the_first_that_works_is_taken(runtimes: Runtimes, tmp_path: Path) -> None:
    bundle = bundle_of(FP32)
    opened = open_first(bundle, RuntimeRequest(), convert=unwanted, load_marks=tmp_path)
    assert (opened.bundle, opened.fallbacks) == (bundle, ())
    assert runtimes.opened == [("cpu", bundle, tmp_path)]


def test_each_step_down_is_recorded_and_logged(runtimes: Runtimes, caplog: pytest.LogCaptureFixture) -> None:
    runtimes.absent = {"cpu"}
    runtimes.failing = {"paddle-onednn": ModelLoadError("its first run fails")}
    with caplog.at_level(logging.WARNING, logger="engine.segmentation.opening"):
        predictor = open_predictor(bundle_of(FP32))
    assert runtimes.labels == ["paddle-onednn", "paddle-cpu"]
    assert predictor.fallbacks == (
        "cpu fp32: no cpu here: install it",
        "paddle-onednn fp32: its first run fails",
    )
    assert predictor.provenance.fallbacks == predictor.fallbacks
    assert [record.getMessage() for record in caplog.records] == [
        "cpu does not run reef; stepping down: no cpu here: install it",
        "paddle-onednn does not run reef; stepping down: its first run fails",
    ]


@pytest.mark.parametrize(
    "request_of",
    [
        {"runtime": RuntimeName.ONNX},
        {"provider": Provider.OPENVINO},
        {"runtime": RuntimeName.PADDLE, "onednn": OneDnn.OFF},
        {"onednn": OneDnn.ON},
        {"precision": Precision.INT8},
    ],
)
@pytest.mark.parametrize("error", [ModelLoadError("bad"), RuntimeUnavailableError("bad"), OptionError("bad")])
def test_the_only_choice_raises_its_own_error(
    request_of: dict[str, Any], error: EngineError, runtimes: Runtimes, caplog: pytest.LogCaptureFixture
) -> None:
    runtimes.failing = dict.fromkeys([*LABELS, "openvino"], error)
    with pytest.raises(type(error), match=r"^bad$"):
        open_first(bundle_of(FP32, INT8), RuntimeRequest(**request_of))
    assert len(runtimes.opened) == 1
    assert caplog.records == []


@pytest.mark.parametrize("last", [ModelLoadError("c"), RuntimeUnavailableError("c"), OptionError("c")])
def test_when_all_fail_the_last_one_decides_the_kind(last: EngineError, runtimes: Runtimes) -> None:
    runtimes.failing = dict(zip(LABELS, [RuntimeUnavailableError("a"), ConversionError("b"), last], strict=True))
    message = r"^reef\.tgz: nothing here runs it\. cpu fp32: a \| paddle-onednn fp32: b \| paddle-cpu fp32: c$"
    with pytest.raises(type(last), match=message) as caught:
        open_first(bundle_of(FP32), RuntimeRequest())
    assert caught.value.__cause__ is last


def test_other_errors_are_no_reason_to_step_down(runtimes: Runtimes) -> None:
    runtimes.failing = {"cpu": InferenceError("odd")}
    with pytest.raises(InferenceError, match="odd"):
        open_first(bundle_of(FP32), RuntimeRequest())
    assert runtimes.labels == ["cpu"]


# ---- conversion -------------------------------------------------------------------------------------------------


def test_a_missing_model_is_converted_once(runtimes: Runtimes) -> None:
    converted: list[Bundle] = []

    def convert(bundle: Bundle) -> OnnxModel:
        converted.append(bundle)
        return MADE

    bundle = bundle_of(INT8)
    opened = open_first(bundle, RuntimeRequest(), convert=convert)
    assert converted == [bundle]
    assert opened.bundle.onnx == (INT8, MADE)
    assert runtimes.opened == [("cpu", opened.bundle, None)]


def test_a_failed_conversion_is_a_step_down(runtimes: Runtimes) -> None:
    def convert(_: Bundle) -> OnnxModel:
        raise ConversionError("pool2d")

    opened = open_first(bundle_of(), RuntimeRequest(), convert=convert)
    assert opened.fallbacks == ("cpu fp32: pool2d",)
    assert runtimes.labels == ["paddle-onednn"]
    with pytest.raises(ConversionError, match=r"^pool2d$"):
        open_first(bundle_of(), RuntimeRequest(runtime=RuntimeName.ONNX), convert=convert)


def test_nothing_is_converted_for_an_absent_library_or_for_paddle(runtimes: Runtimes) -> None:
    runtimes.absent = {"cpu"}
    for request in (RuntimeRequest(), RuntimeRequest(runtime=RuntimeName.PADDLE)):
        assert open_first(bundle_of(), request, convert=unwanted).bundle == bundle_of()
    assert runtimes.labels == ["paddle-onednn", "paddle-onednn"]


@pytest.mark.parametrize(("paddle", "convert"), [(PADDLE, None), (None, unwanted)])
@pytest.mark.usefixtures("runtimes")
def test_what_cannot_be_converted(paddle: PaddleModel | None, convert: Callable[[Bundle], OnnxModel] | None) -> None:
    with pytest.raises(ModelLoadError, match=r"reef\.tgz: holds no onnx/fp32/model\.onnx: run `pseg convert` first"):
        open_first(bundle_of(paddle=paddle), RuntimeRequest(runtime=RuntimeName.ONNX), convert=convert)


@pytest.mark.parametrize(
    ("request_of", "precision"),
    [
        ({"precision": Precision.INT8}, "int8"),
        ({"precision": Precision.INT8, "runtime": RuntimeName.ONNX}, "int8"),
        ({"precision": Precision.FP16, "provider": Provider.CUDA}, "fp16"),
    ],
)
@pytest.mark.usefixtures("runtimes")
def test_other_precisions_are_not_made_on_the_fly(request_of: dict[str, Any], precision: str) -> None:
    remedy = f"make one with `pseg convert` and precision {precision}, or use precision fp32"
    message = rf"reef\.tgz: holds no onnx/{precision}/model\.onnx, .*{remedy}"
    with pytest.raises(OptionError, match=message):
        open_first(bundle_of(FP32), RuntimeRequest(**request_of), convert=unwanted)


# ---- the predictor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_threshold_is_a_probability(threshold: float, runtimes: Runtimes) -> None:
    with pytest.raises(OptionError, match=r"threshold is .*between 0 and 1"):
        open_predictor(bundle_of(FP32), threshold=threshold)
    assert runtimes.opened == []


@pytest.mark.usefixtures("runtimes")
@pytest.mark.parametrize("threshold", [1e-6, 0.5, 0.999])
def test_the_predictor_has_what_was_asked_for(threshold: float) -> None:
    with open_predictor(bundle_of(FP32), threshold=threshold, mask_size=MaskSize.INFERENCE) as predictor:
        assert (predictor.threshold, predictor.mask_size) == (threshold, MaskSize.INFERENCE)
        assert predictor.fallbacks == ()


def test_a_network_without_an_image_is_closed_again(runtimes: Runtimes) -> None:
    runtimes.input_shape = (None, 3)
    with pytest.raises(InferenceError, match="one input of rank 4"):
        open_predictor(bundle_of(FP32))
    with pytest.raises(InferenceError, match="closed"):
        runtimes.runtimes[0].run({})


# ---- each option to its own runtime -----------------------------------------------------------------------------


class Recorded:
    """Stands in for an engine function or class and keeps its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __call__(self, *arguments: object) -> "Recorded":
        self.calls.append(arguments)
        return self


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Recorded]:
    """The engine's own functions that touch vendor libraries, replaced."""
    names = ["onnx.OnnxRuntime", "onnx.require_provider", "paddle.PaddleRuntime", "paddle.require_device"]
    stands = {name: Recorded() for name in [*names, "trial.prove_loadable", "trial.prove_onnx_loadable"]}
    for name, stand in stands.items():
        monkeypatch.setattr(f"engine.runtimes.{name}", stand)
    return stands


def calls(recorded: Mapping[str, Recorded]) -> dict[str, list[tuple[object, ...]]]:
    """What was called at all."""
    return {name: each.calls for name, each in recorded.items() if each.calls}


def test_availability_is_asked_of_the_runtime_s_own_file(recorded: Mapping[str, Recorded]) -> None:
    require_available(OnnxOptions(provider=Provider.CUDA))
    assert calls(recorded) == {"onnx.require_provider": [(Provider.CUDA, 0)]}
    options = PaddleOptions(device=Device.GPU)
    require_available(options)
    assert recorded["paddle.require_device"].calls == [(options,)]


def test_onnx_gets_the_model_of_its_precision_and_is_tried_in_a_child_first(
    recorded: Mapping[str, Recorded], tmp_path: Path
) -> None:
    options = OnnxOptions(precision=Precision.INT8)
    open_runtime(bundle_of(FP32, INT8), options, load_marks=tmp_path)
    assert calls(recorded) == {
        "trial.prove_onnx_loadable": [(INT8, options, tmp_path)],
        "onnx.OnnxRuntime": [(INT8, options)],
    }
    with pytest.raises(ModelLoadError, match=r"reef\.tgz: holds no onnx/fp32/model\.onnx: run `pseg convert` first"):
        open_runtime(bundle_of(INT8), OnnxOptions())


@pytest.mark.parametrize("trial", ["prove_loadable", "prove_onnx_loadable"])
def test_a_model_that_does_not_load_is_named_with_its_bundle(
    recorded: Mapping[str, Recorded], monkeypatch: pytest.MonkeyPatch, trial: str
) -> None:
    def fail(*_arguments: object) -> None:
        raise ModelLoadError("model.json: killed its process")

    monkeypatch.setattr(f"engine.runtimes.trial.{trial}", fail)
    options = PaddleOptions() if trial == "prove_loadable" else OnnxOptions()
    with pytest.raises(ModelLoadError, match=r"^reef\.tgz: model\.json: killed its process$"):
        open_runtime(bundle_of(FP32), options)
    assert calls(recorded) == {}


def test_paddle_is_tried_in_a_child_first(recorded: Mapping[str, Recorded], tmp_path: Path) -> None:
    options = PaddleOptions(onednn=True)
    open_runtime(bundle_of(), options, load_marks=tmp_path)
    assert calls(recorded) == {
        "trial.prove_loadable": [(PADDLE, options, tmp_path)],
        "paddle.PaddleRuntime": [(PADDLE, options)],
    }
    with pytest.raises(ModelLoadError, match=r"reef\.tgz: holds no Paddle program .*use runtime onnx"):
        open_runtime(bundle_of(FP32, paddle=None), options)


def test_a_contradictory_request_is_not_told_by_what_imports_ahead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lost.append)
    wrong = RuntimeRequest(streams=3, threads=2)
    with pytest.raises(OptionError):
        candidates(wrong)
    import_ahead(wrong).join()
    assert not lost
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("runtime", "loaded"), [(None, True), ("paddle", False)])
def test_the_library_that_is_tried_first_is_imported_ahead_of_the_bundle(runtime: str | None, loaded: bool) -> None:
    script = (
        "import sys\nfrom engine import RuntimeRequest\nfrom engine.segmentation.opening import import_ahead\n"
        f"import_ahead(RuntimeRequest(runtime={runtime!r})).join()\nprint('onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == str(loaded)

"""How each way does its work, in a process of its own: this engine, and the vendors' libraries as they document it."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
# The vendors' libraries ship no complete types.

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from benchmarks.lab.headline.convolutions import write_stack
from benchmarks.lab.headline.scenarios import DEPLOY_THREADS, Software, Way, Work
from benchmarks.measuring.configurations import ProviderName
from benchmarks.measuring.streams import encoded
from engine.bundle.bundle import OnnxModel, open_bundle
from engine.images import SourceImage, read_image
from engine.options import OnnxOptions
from engine.runtimes import Tensor, probe_feeds
from engine.runtimes.loading import load_onnx
from engine.runtimes.profile import read_profile
from engine.runtimes.selection import RuntimeRequest
from engine.segmentation.network import PreparedImage
from engine.segmentation.opening import open_predictor, open_runtime
from engine.segmentation.pipeline import Failed, Pipeline
from engine.segmentation.prediction import Prediction
from engine.segmentation.predictor import Predictor

Repeat = Callable[[], int]
"""Does the work once, and returns how many images that were."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a way works on.

    `bundle` is of this engine's ways, `models` of the peers: ONNX file, Paddle program, its weights. `tensors` are
    `.npy` files, float32[1, 3, H, W]; a repetition runs each once, or does each of `pictures`. `auto` takes the
    profile, or it is an error. `scratch` is for masks, convolutions, and marks of the models that loaded before.
    """

    way: Way
    work: Work
    bundle: Path
    models: tuple[Path | None, Path | None, Path | None]
    tensors: tuple[Path, ...]
    pictures: tuple[Path, ...]
    max_img_size: int
    profile: Path | None
    scratch: Path

    @property
    def load_marks(self) -> Path:
        return self.scratch / "load-marks"


@dataclass(frozen=True, slots=True)
class Load:
    """Load, and do the work once to warm up; answered by `Loaded`."""

    task: Task


@dataclass(frozen=True, slots=True)
class RepeatOnce:
    """Do the work once; answered by `Repetition`."""


def loaded(task: Task, stack: ExitStack) -> Repeat:
    """Load what a way runs; `stack` keeps open what must stay open."""
    match task.way.software:
        case Software.ONNX_RUNTIME:
            return _onnx_runtime(task)
        case Software.OPENVINO:
            return _openvino(task)
        case Software.PADDLE | Software.DEPLOY_SCRIPT:
            return _paddle(task)
        case Software.CONVOLUTIONS:
            return _convolutions(task)
        case Software.PSEG:
            predictor = _predictor(task, stack)
            return _folder(task, predictor) if task.work is Work.FOLDER else _network(task, predictor)
        case _:
            assert_never(task.way.software)


def _tensors(task: Task) -> list[Tensor]:
    return [np.load(each) for each in task.tensors]


def _threads(task: Task) -> int:
    return task.way.configuration.threads if task.way.configuration else DEPLOY_THREADS


def _onnx_runtime(task: Task) -> Repeat:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = _threads(task)
    session = onnxruntime.InferenceSession(str(task.models[0]), settings, providers=["CPUExecutionProvider"])
    name, tensors = session.get_inputs()[0].name, _tensors(task)

    def repeat() -> int:
        for each in tensors:
            session.run(None, {name: each})
        return len(tensors)

    return repeat


def _openvino(task: Task) -> Repeat:
    from engine.runtimes.openvino import load_library

    core, tensors = load_library().Core(), _tensors(task)
    model = core.read_model(str(task.models[0]))
    if len({each.shape for each in tensors}) == 1:
        # Its documentation advises a fixed size wherever there is one.
        model.reshape(list(tensors[0].shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(_threads(task)),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def repeat() -> int:
        for each in tensors:
            request.infer({0: each})
        return len(tensors)

    return repeat


def _paddle(task: Task) -> Repeat:
    from paddle import inference

    _, program, params = task.models
    if program is None:
        raise ValueError("the bundle holds no Paddle program")
    settings: Any = inference.Config(str(program), str(params))
    settings.disable_gpu()
    settings.set_cpu_math_library_num_threads(_threads(task))
    # The deploy script leaves oneDNN as Paddle has it by default.
    if task.way.configuration is not None:
        if task.way.configuration.provider is ProviderName.PADDLE_ONEDNN:
            settings.enable_mkldnn()
            settings.set_mkldnn_cache_capacity(10)
        else:
            settings.disable_mkldnn()
    if program.suffix == ".json":
        settings.enable_new_executor()
        settings.enable_new_ir(True)
    settings.enable_memory_optim()
    predictor: Any = inference.create_predictor(settings)
    tensors = _tensors(task)

    def repeat() -> int:
        for each in tensors:
            handle = predictor.get_input_handle(predictor.get_input_names()[0])
            handle.reshape(each.shape)
            handle.copy_from_cpu(each)
            predictor.run()
            predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        return len(tensors)

    return repeat


def _convolutions(task: Task) -> Repeat:
    options = task.way.configuration and task.way.configuration.options()
    if not isinstance(options, OnnxOptions):
        raise ValueError("convolutions need a provider of ONNX Runtime")
    model = write_stack(task.scratch / f"convolutions.{options.precision}.onnx", options.precision)
    runtime = load_onnx(OnnxModel(model, options.precision, ""), options, None)
    feeds = probe_feeds(runtime.inputs)

    def repeat() -> int:
        runtime.run(feeds)
        return 1

    return repeat


def _predictor(task: Task, stack: ExitStack) -> Predictor:
    bundle = stack.enter_context(open_bundle(task.bundle))
    if task.way.configuration is not None:
        options = task.way.configuration.options()
        return Predictor(bundle, open_runtime(bundle, options, load_marks=task.load_marks))
    if task.profile is None:
        raise ValueError("auto is measured with a profile, and there is none")
    profile = read_profile(task.profile)
    mismatch = profile.mismatch(bundle)
    if mismatch is not None:
        raise ValueError(f"auto would not take the profile: {mismatch}")
    return open_predictor(bundle, RuntimeRequest(tuned=profile), load_marks=task.load_marks)


def _network(task: Task, predictor: Predictor) -> Repeat:
    prepared = [PreparedImage(each[0], (), 0.0) for each in _tensors(task)]

    def repeat() -> int:
        for each in prepared:
            predictor.run([each])
        return len(prepared)

    return repeat


def _folder(task: Task, predictor: Predictor) -> Repeat:
    masks = task.scratch / "masks"
    masks.mkdir(parents=True, exist_ok=True)

    def decode(path: Path) -> SourceImage:
        return read_image(path, max_img_size=task.max_img_size)

    def encode(path: Path, _image: SourceImage, prediction: Prediction) -> int:
        return (masks / f"{path.stem}.png").write_bytes(encoded(prediction))

    pipeline = Pipeline(predictor, decode, encode, workers=_threads(task), read_ahead=_threads(task))

    def repeat() -> int:
        for result in pipeline.run(task.pictures):
            if isinstance(result, Failed):
                raise result.error
        return len(task.pictures)

    return repeat

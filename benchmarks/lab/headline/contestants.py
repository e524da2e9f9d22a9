"""Who takes part: this engine, and peers that use the vendors' libraries as their documentation shows.

Each runs in a process of its own (`benchmarks.lab.headline.child`). A lap is the work of a contestant done once.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
# The vendors' libraries ship no complete types.

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from benchmarks.measuring.streams import encoded
from engine.bundle.bundle import OnnxModel, open_bundle
from engine.images import SourceImage, read_image
from engine.options import OnnxOptions, RuntimeOptions
from engine.runtimes import Tensor, probe_feeds
from engine.runtimes.profile import read_profile
from engine.runtimes.selection import RuntimeRequest
from engine.segmentation.opening import open_predictor, open_runtime
from engine.segmentation.pipeline import Failed, Pipeline
from engine.segmentation.predictor import Prediction, Predictor, PreparedImage

LapWork = Callable[[], int]
"""Does the work once, and tells how many images that were."""


@dataclass(frozen=True, slots=True)
class BareOnnxRuntime:
    """A script of a few lines over ONNX Runtime, on tensors that are ready.

    Attributes:
        model: ONNX file.
        feeds: `.npy` files, float32[1, 3, H, W]; a lap runs each once.
        threads: Of the session.
    """

    model: Path
    feeds: tuple[Path, ...]
    threads: int


@dataclass(frozen=True, slots=True)
class BarePaddle:
    """A script of a few lines over Paddle Inference, on tensors that are ready.

    Attributes:
        program: `.json` or `.pdmodel`.
        params: Weights.
        feeds: `.npy` files, float32[1, 3, H, W]; a lap runs each once.
        threads: Of the CPU math library.
        onednn: On, off, or None: as Paddle has it by default, which is what PaddleSeg's deploy script leaves.
    """

    program: Path
    params: Path
    feeds: tuple[Path, ...]
    threads: int
    onednn: bool | None


@dataclass(frozen=True, slots=True)
class PsegNetwork:
    """This engine's predictor, on tensors that are ready.

    Attributes:
        bundle: A bundle.
        feeds: `.npy` files, float32[1, 3, H, W]; a lap runs each once.
        options: What the runtime is opened with; None: `auto` with a profile.
        profile: That `auto` obeys; an error where it does not fit.
    """

    bundle: Path
    feeds: tuple[Path, ...]
    options: RuntimeOptions | None
    profile: Path | None = None


@dataclass(frozen=True, slots=True)
class PsegFolder:
    """This engine's pipeline over a folder: decode, run, restore, encode and write a palette PNG for each.

    Attributes:
        bundle: A bundle.
        options: What the runtime is opened with.
        images: Pictures; a lap does each once.
        max_img_size: Larger pictures are shrunken to so many pixels.
        out: Folder for the results.
    """

    bundle: Path
    options: RuntimeOptions
    images: tuple[Path, ...]
    max_img_size: int
    out: Path


@dataclass(frozen=True, slots=True)
class Convolutions:
    """Nothing but convolutions through this engine's runtime: what the machine gives at best.

    Attributes:
        model: ONNX file.
        options: What the runtime is opened with.
    """

    model: Path
    options: OnnxOptions


Contestant = BareOnnxRuntime | BarePaddle | PsegNetwork | PsegFolder | Convolutions


@dataclass(frozen=True, slots=True)
class Enter:
    """Load, and do the work once to warm up; answered by `Entered`.

    Attributes:
        contestant: Who.
        ledger: Folder that remembers which models loaded before.
    """

    contestant: Contestant
    ledger: Path


@dataclass(frozen=True, slots=True)
class Entered:
    """A contestant is ready.

    Attributes:
        load_s: Importing libraries and loading the model.
        first_lap_s: The lap that warmed it up.
    """

    load_s: float
    first_lap_s: float


@dataclass(frozen=True, slots=True)
class RunLap:
    """Do the work once; answered by `Lap`."""


@dataclass(frozen=True, slots=True)
class Lap:
    """One lap.

    Attributes:
        seconds: From beginning to end.
        cpu_s: Of all cores that the process took meanwhile; None where only the wall's clock was looked at.
        images: Done in it.
        peak_rss_bytes: The most memory that the process has held since its start; None where that is not known.
    """

    seconds: float
    cpu_s: float | None
    images: int
    peak_rss_bytes: int | None


def opened(contestant: Contestant, ledger: Path, stack: ExitStack) -> LapWork:
    """Load what a contestant runs.

    Args:
        contestant: Who.
        ledger: Folder that remembers which models loaded before.
        stack: Keeps open what must stay open.

    Returns:
        Its work.

    Raises:
        EngineError: It does not load.
    """
    match contestant:
        case BareOnnxRuntime():
            return _bare_onnxruntime(contestant)
        case BarePaddle():
            return _bare_paddle(contestant)
        case PsegNetwork():
            return _network_work(_predictor(contestant, ledger, stack), _loaded(contestant.feeds))
        case PsegFolder():
            return _folder_work(contestant, ledger, stack)
        case Convolutions():
            return _convolution_work(contestant)
        case _:
            assert_never(contestant)


def _loaded(feeds: Sequence[Path]) -> list[Tensor]:
    return [np.load(each) for each in feeds]


def _bare_onnxruntime(contestant: BareOnnxRuntime) -> LapWork:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = contestant.threads
    session = onnxruntime.InferenceSession(str(contestant.model), settings, providers=["CPUExecutionProvider"])
    name, feeds = session.get_inputs()[0].name, _loaded(contestant.feeds)

    def lap() -> int:
        for feed in feeds:
            session.run(None, {name: feed})
        return len(feeds)

    return lap


def _bare_paddle(contestant: BarePaddle) -> LapWork:
    from paddle import inference

    settings: Any = inference.Config(str(contestant.program), str(contestant.params))
    settings.disable_gpu()
    settings.set_cpu_math_library_num_threads(contestant.threads)
    if contestant.onednn:
        settings.enable_mkldnn()
        settings.set_mkldnn_cache_capacity(10)
    elif contestant.onednn is not None:
        settings.disable_mkldnn()
    if contestant.program.suffix == ".json":
        settings.enable_new_executor()
        settings.enable_new_ir(True)
    settings.enable_memory_optim()
    predictor: Any = inference.create_predictor(settings)
    feeds = _loaded(contestant.feeds)

    def lap() -> int:
        for feed in feeds:
            handle = predictor.get_input_handle(predictor.get_input_names()[0])
            handle.reshape(feed.shape)
            handle.copy_from_cpu(feed)
            predictor.run()
            predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        return len(feeds)

    return lap


def _predictor(contestant: PsegNetwork, ledger: Path, stack: ExitStack) -> Predictor:
    bundle = stack.enter_context(open_bundle(contestant.bundle))
    if contestant.options is not None:
        return Predictor(bundle, open_runtime(bundle, contestant.options, ledger=ledger))
    if contestant.profile is None:
        raise ValueError("name options, or a profile that auto is to obey")
    profile = read_profile(contestant.profile)
    mismatch = profile.mismatch(bundle)
    if mismatch is not None:
        raise ValueError(f"auto would not obey the profile: {mismatch}")
    return open_predictor(bundle, RuntimeRequest(tuned=profile), ledger=ledger)


def _network_work(predictor: Predictor, feeds: list[Tensor]) -> LapWork:
    prepared = [PreparedImage(feed[0], (), 0.0) for feed in feeds]

    def lap() -> int:
        for each in prepared:
            predictor.run([each])
        return len(prepared)

    return lap


def _folder_work(contestant: PsegFolder, ledger: Path, stack: ExitStack) -> LapWork:
    bundle = stack.enter_context(open_bundle(contestant.bundle))
    predictor = Predictor(bundle, open_runtime(bundle, contestant.options, ledger=ledger))
    threads = contestant.options.threads

    def decode(path: Path) -> SourceImage:
        return read_image(path, max_img_size=contestant.max_img_size)

    def encode(path: Path, _image: SourceImage, prediction: Prediction) -> int:
        return (contestant.out / f"{path.stem}.png").write_bytes(encoded(prediction))

    pipeline = Pipeline(predictor, decode, encode, workers=threads, read_ahead=threads)

    def lap() -> int:
        for result in pipeline.run(contestant.images):
            if isinstance(result, Failed):
                raise result.error
        return len(contestant.images)

    return lap


def _convolution_work(contestant: Convolutions) -> LapWork:
    from engine.runtimes.onnx import OnnxRuntime

    runtime = OnnxRuntime(OnnxModel(contestant.model, contestant.options.precision, ""), contestant.options)
    feeds = probe_feeds(runtime.inputs)

    def lap() -> int:
        runtime.run(feeds)
        return 1

    return lap

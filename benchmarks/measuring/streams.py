"""What the child of a measurement does: load a configuration, run the pictures over its streams, take the time."""

# The pictures are dealt to whichever stream is free, so that several streams of few threads do the same work as one of
# many.

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.accuracy.evaluation import evaluate, read_labelled, unlabelled_classes
from benchmarks.accuracy.labels import LabelledFiles
from benchmarks.measuring.configurations import Configuration
from benchmarks.measuring.pictures import Pictures
from benchmarks.measuring.recording import RecordedRuntime, RecordingRuntime
from benchmarks.measuring.samples import Loaded, PipelinePass, Sample, Turn
from converters.parity import ParityReport, compare
from engine.bundle.bundle import Bundle
from engine.cover.options import CoverOptions
from engine.errors import ImageError
from engine.gpu.shapes import collect_inner_ranges, collect_profile
from engine.images import SourceImage
from engine.options import OnnxOptions, PaddleOptions, RuntimeOptions, TensorRtFiles
from engine.runtimes import Runtime
from engine.segmentation.network import PreparedImage
from engine.segmentation.opening import open_runtime
from engine.segmentation.palette import composite, palette_for, pseudo_color_png
from engine.segmentation.pipeline import Failed, Pipeline
from engine.segmentation.prediction import Prediction
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import cleanup_of, steps_for
from engine.system.machine.cores import usable_cores
from engine.system.machine.memory import process_memory_bytes

_MOST_UNEVEN = 0.05
"""Of the pictures of a turn: those that come once more than others, where sizes differ."""
_SETTLED_SHARE = 0.1
_SETTLING_STEP_S = 0.02
_SETTLING_LIMIT_S = 1.0

_Answer = TypeVar("_Answer")
_Waiting = TypeVar("_Waiting")


@dataclass(frozen=True, slots=True)
class Load:
    """Open a configuration; answered by `Loaded`. The files of the bundle stay until the child ends.

    `load_marks`, here and below, is the folder that remembers which models loaded before. Without a folder for
    TensorRT's engines, they are built anew.
    """

    bundle: Bundle
    configuration: Configuration
    pictures: Pictures
    load_marks: Path
    tensorrt_files: TensorRtFiles


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """Measure all pictures once; answered by `Turn`, whose start counts from `origin_s` on the monotonic clock."""

    origin_s: float


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare masks with a recorded reference, which holds all the pictures; answered by `ParityReport`."""

    recording: Path
    pictures: Pictures


@dataclass(frozen=True, slots=True)
class Record:
    """Run pictures, all of one size, through the reference and keep its answers; answered by the reference's label.

    The reference is the bundle's Paddle program; where it holds none, its FP32 ONNX model.
    """

    bundle: Bundle
    pictures: Pictures
    recording: Path
    load_marks: Path


@dataclass(frozen=True, slots=True)
class CollectShapes:
    """Find the shapes that TensorRT must be told of, for batches up to a size; answered by `TensorRtFiles`.

    `pictures` are a sample; the folder gets Paddle's own file of inner shapes.
    """

    bundle: Bundle
    pictures: Pictures
    batch_size: int
    folder: Path
    load_marks: Path


@dataclass(frozen=True, slots=True)
class Grade:
    """Hold masks against labels; answered by `Grading`. `pictures` says how the labelled ones are read."""

    bundle: Bundle
    options: RuntimeOptions
    labelled: tuple[LabelledFiles, ...]
    pictures: Pictures
    load_marks: Path


@dataclass(frozen=True, slots=True)
class Grading:
    """Masks against labels, in short, per class, 0-1; the cover's error is the mean.

    The IoU is None for a class that is neither labelled nor found; `unlabelled` names the classes that no pixel is
    labelled as.
    """

    class_iou: tuple[float | None, ...]
    cover_error: tuple[float, ...]
    unlabelled: tuple[str, ...] = ()


Command = Load | TakeTurn | Compare | Record | CollectShapes | Grade


def reference_options(bundle: Bundle) -> RuntimeOptions:
    """Choose what masks are compared with.

    It is Paddle in FP32 without oneDNN; where the bundle holds no Paddle program, ONNX Runtime in FP32 on the CPU.
    """
    threads = usable_cores()
    return OnnxOptions(threads=threads) if bundle.paddle is None else PaddleOptions(threads=threads)


def _predictor(bundle: Bundle, runtime: Runtime) -> Predictor:
    """A predictor that cleans masks up as the bundle states it, as every command does that uses the bundle."""
    steps = steps_for(
        CoverOptions(), bundle.classes, multilabel=bundle.multilabel, keep_confidence=False, usual=cleanup_of(bundle)
    )
    return Predictor(bundle, runtime, steps=steps)


def record(command: Record) -> str:
    options = reference_options(command.bundle)
    runtime = RecordingRuntime(open_runtime(command.bundle, options, load_marks=command.load_marks), command.recording)
    with Predictor(command.bundle, runtime) as predictor:
        for prepared in _prepared_each(predictor, command.pictures):
            predictor.run([prepared])
    return f"{options.label} {options.precision}"


def grade(command: Grade) -> Grading:
    runtime = open_runtime(command.bundle, command.options, load_marks=command.load_marks)
    with _predictor(command.bundle, runtime) as predictor:
        evaluation = evaluate([predictor], read_labelled(command.labelled, command.pictures.read))
    (score,) = evaluation.scores
    return Grading(score.class_iou, tuple(each.mean for each in score.cover_error), unlabelled_classes(evaluation))


def collect_shapes(command: CollectShapes) -> TensorRtFiles:
    """Find the shapes of the input, and Paddle's file of inner ones where the program is a `.pdmodel`."""
    bundle = command.bundle
    with Predictor(bundle, open_runtime(bundle, reference_options(bundle), load_marks=command.load_marks)) as predictor:
        images = (image for _, image in _read_each(command.pictures))
        profile = collect_profile(predictor, images, batch_size=command.batch_size)
    if bundle.paddle is None or bundle.paddle.kind != "pdmodel":
        return TensorRtFiles(profile)
    inner = command.folder / "inner_shapes.pbtxt"
    collect_inner_ranges(bundle, profile, inner, load_marks=command.load_marks)
    return TensorRtFiles(profile, inner)


def _try_once(bundle: Bundle, options: RuntimeOptions, load_marks: Path) -> None:
    """A model's first trial is made once for all, and is no part of the time that loading takes."""
    from engine.runtimes.trial import prove_loadable, prove_onnx_loadable

    if isinstance(options, PaddleOptions):
        if bundle.paddle is not None:
            prove_loadable(bundle.paddle, options, load_marks)
        return
    model = bundle.onnx_model(options.precision)
    if model is not None:
        prove_onnx_loadable(model, options, load_marks)


class Streams:
    """One open configuration."""

    def __init__(self, command: Load) -> None:
        self._bundle = command.bundle
        self._pictures = command.pictures
        self._batch_size = command.configuration.batch_size
        self._count = command.configuration.streams
        options = command.configuration.options(command.tensorrt_files)
        _try_once(command.bundle, options, command.load_marks)
        started = time.perf_counter()
        self._predictor = _predictor(
            command.bundle, open_runtime(command.bundle, options, load_marks=command.load_marks)
        )
        load_ms = _elapsed_ms(started)
        first_run_ms, self._sizes = self._warm_up()
        self.loaded = Loaded(load_ms, first_run_ms, self._predictor.provenance)
        settle()

    def _warm_up(self) -> tuple[float, int]:
        """Run every shape once on every stream, so that no turn pays for the first time.

        Returns the time of the first run, and how many shapes there are.
        """
        warm: set[tuple[int, ...]] = set()
        first_run_ms = math.nan
        for prepared in _prepared_each(self._predictor, self._pictures):
            if prepared.tensor.shape in warm:
                continue
            # The others are mirrored, so that the first batch tells whether the network mixes the images of a run.
            mirrored = replace(prepared, tensor=np.ascontiguousarray(prepared.tensor[..., ::-1]))
            batch = [prepared, *[mirrored] * (self._batch_size - 1)]
            if math.isnan(first_run_ms):
                started = time.perf_counter()
                self._predictor.run(batch, for_classes=True)
                first_run_ms = _elapsed_ms(started)
            self._on_every_stream(partial(self._predictor.run, batch, for_classes=True))
            warm.add(prepared.tensor.shape)
        return first_run_ms, len(warm)

    def take_turn(self, command: TakeTurn) -> Turn:
        """Measure every picture by itself, then all of them through the pipeline; EngineError where one fails."""
        started = time.monotonic() - command.origin_s
        samples = self._singly()
        pipeline = self._through_the_pipeline()
        peak = process_memory_bytes("VmHWM")
        settle()
        return Turn(started, samples, pipeline, peak)

    def compare(self, command: Compare) -> ParityReport:
        with _predictor(self._bundle, RecordedRuntime(command.recording)) as reference:
            pictures = ((str(path), image) for path, image in _read_each(command.pictures))
            return compare(reference, self._predictor, pictures, batch_size=self._batch_size)

    def _singly(self) -> tuple[Sample, ...]:
        paths = self._dealt()
        batches = deque(paths[start : start + self._batch_size] for start in range(0, len(paths), self._batch_size))

        def stream() -> list[Sample]:
            return [sample for batch in _drained(batches) for sample in self._timed(batch)]

        return tuple(itertools.chain.from_iterable(self._on_every_stream(stream)))

    def _timed(self, batch: Sequence[Path]) -> list[Sample]:
        predictor = self._predictor
        started = time.perf_counter()
        decode_ms = [0.0] * len(batch)
        prepared: list[PreparedImage] = []
        for index, path in enumerate(batch):
            at = time.perf_counter()
            image = self._pictures.read(path)
            decode_ms[index] = _elapsed_ms(at)
            prepared.append(predictor.prepare(image))
        stages: list[dict[str, float]] = []
        for each, raw, decoding in zip(prepared, predictor.run(prepared, for_classes=True), decode_ms, strict=True):
            prediction = predictor.finish(each, raw)
            at = time.perf_counter()
            encoded(prediction)
            stages.append({"decode": decoding, **prediction.timings_ms, "encode": _elapsed_ms(at)})
        latency_ms = _elapsed_ms(started)
        return [Sample(str(path), each, latency_ms) for path, each in zip(batch, stages, strict=True)]

    def _through_the_pipeline(self) -> PipelinePass:
        paths = self._dealt()
        pipeline = Pipeline(
            self._predictor,
            self._pictures.read,
            lambda _path, _image, prediction: encoded(prediction),
            batch_size=self._batch_size,
            workers=usable_cores(),
            read_ahead=usable_cores(),
        )
        started, cpu_started = time.perf_counter(), time.process_time()
        for result in pipeline.run(paths):
            if isinstance(result, Failed):
                raise result.error
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        return PipelinePass(len(paths), wall_s, cpu_s)

    def _on_every_stream(self, work: Callable[[], _Answer]) -> list[_Answer]:
        """Do the same as often as there are streams, at the same time."""
        with ThreadPoolExecutor(self._count, thread_name_prefix="stream") as threads:
            return [each.result() for each in [threads.submit(work) for _ in range(self._count)]]

    def _dealt(self) -> list[Path]:
        """The pictures, some of them again until every batch of every stream is full.

        If they differ in size, all of them come again until few come once more than others: figures are compared with
        those of configurations that have other batches and streams, and must be of the same work.
        """
        share, every = self._batch_size * self._count, len(self._pictures.paths)
        at_most = math.inf if self._sizes == 1 else _MOST_UNEVEN
        rounds = next(each for each in range(1, share + 1) if -each * every % share <= at_most * each * every)
        count = math.ceil(rounds * every / share) * share
        return list(itertools.islice(itertools.cycle(self._pictures.paths), count))


def encoded(prediction: Prediction) -> bytes:
    """Encode a mask as `pseg predict` does by default: a palette PNG."""
    planes = prediction.mask.ndim == 3
    indices = composite(prediction.mask.astype(np.bool_)) if planes else prediction.mask
    # A multilabel picture has one entry more, for pixels of no class; which colours they are takes no time.
    palette = palette_for([], len(prediction.covers) + planes)
    return pseudo_color_png(indices.astype(np.uint16 if indices.dtype == np.uint16 else np.uint8, copy=False), palette)


def _read_each(pictures: Pictures) -> Iterator[tuple[Path, SourceImage]]:
    return ((path, pictures.read(path)) for path in pictures.paths)


def _prepared_each(predictor: Predictor, pictures: Pictures) -> Iterator[PreparedImage]:
    for path, image in _read_each(pictures):
        try:
            yield predictor.prepare(image)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error


def _drained(waiting: deque[_Waiting]) -> Iterator[_Waiting]:
    while True:
        try:
            yield waiting.popleft()
        except IndexError:
            return


def settle() -> None:
    """Wait until the library's threads sleep: they spin a while after a run, and would slow down whose turn is next."""
    deadline = time.perf_counter() + _SETTLING_LIMIT_S
    while time.perf_counter() < deadline:
        started, cpu_started = time.perf_counter(), time.process_time()
        time.sleep(_SETTLING_STEP_S)
        if time.process_time() - cpu_started < _SETTLED_SHARE * (time.perf_counter() - started):
            return


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000

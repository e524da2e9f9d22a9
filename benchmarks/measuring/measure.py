"""One configuration, measured in its own process: what it asks of the machine and what it gives."""

import signal
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from benchmarks.measuring.child import Child
from benchmarks.measuring.configurations import Configuration, Size
from benchmarks.measuring.pictures import Pictures, spread
from benchmarks.measuring.samples import Loaded, Measurement, Reference, Turn
from benchmarks.measuring.streams import CollectShapes, Command, Compare, Grade, Load, Record, TakeTurn
from converters.parity import ParityReport
from engine.bundle.bundle import Bundle
from engine.errors import EngineError
from engine.options import TensorRtFiles
from engine.system.process import ChildProcess, Died, Limits, Raised, Returned, TimedOut

TIMEOUT_S = 1800.0
COMPARED_IMAGES = 16
_Answer = TypeVar("_Answer")


class MeasuringError(EngineError):
    """What runs in a child process failed, hung or died."""


@dataclass(frozen=True, slots=True)
class Work:
    """What all configurations of a run have in common; the bundle stays open meanwhile.

    `pictures` are of every size that a configuration names, `recordings` the reference's answers (`with_reference`):
    masks of other sizes are not compared. `shapes` are told TensorRT, per size and batch size; without `engine_cache`
    its engines are built anew. A child may take `timeout_s` for one command; `origin_s` is the start of the clock that
    turns are told from.
    """

    bundle: Bundle
    pictures: Mapping[Size | None, Pictures]
    load_marks: Path
    recordings: Mapping[Size | None, Path] = field(default_factory=dict[Size | None, Path])
    compared_images: int = COMPARED_IMAGES
    shapes: Mapping[tuple[Size | None, int], TensorRtFiles] = field(
        default_factory=dict[tuple[Size | None, int], TensorRtFiles]
    )
    engine_cache: Path | None = None
    timeout_s: float = TIMEOUT_S
    origin_s: float = field(default_factory=time.monotonic)


def ask(child: ChildProcess, command: object, answer: type[_Answer]) -> _Answer:
    """Let a child do something, and wait; MeasuringError where it failed, hung or died."""
    outcome = child.ask(command)
    match outcome:
        case Returned():
            return TypeAdapter(answer).validate_python(outcome.value)
        case Raised():
            raise MeasuringError(f"{type(outcome.error).__name__}: {outcome.error}")
        case TimedOut():
            raise MeasuringError(f"did not answer within {outcome.timeout_s:g} s: allow more time, or leave it out")
        case Died():
            remedy = "; the system ends so what takes too much memory" if outcome.status == -signal.SIGKILL else ""
            raise MeasuringError(f"the process {outcome.cause}{remedy}")


def _started(timeout_s: float) -> ChildProcess:
    # It works where this process does, since pictures and bundles may have relative names.
    return ChildProcess(Child, Limits(timeout_s), Path.cwd())


class MeasuredProcess:
    """A configuration in its own process, and what is known of it so far; after an `error` it is of no use any more."""

    def __init__(self, configuration: Configuration, work: Work) -> None:
        self.configuration = configuration
        self.error: str | None = None
        self._work = work
        self._loaded: Loaded | None = None
        self._turns: list[Turn] = []
        self._agreement: ParityReport | None = None
        self._child = _started(work.timeout_s)
        self.pid = self._child.pid

    def load(self) -> None:
        work, configuration = self._work, self.configuration
        shapes = work.shapes.get((configuration.size, configuration.batch_size), TensorRtFiles())
        self._loaded = self._ask(
            Load(
                bundle=work.bundle,
                configuration=configuration,
                pictures=work.pictures[configuration.size],
                load_marks=work.load_marks,
                tensorrt_files=replace(shapes, engine_cache=work.engine_cache),
            ),
            Loaded,
        )

    def _ask(self, command: Command, answer: type[_Answer]) -> _Answer | None:
        if self.error is not None:
            return None
        try:
            return ask(self._child, command, answer)
        except MeasuringError as error:
            self.error = str(error)
            self._child.close()
            return None

    def take_turn(self) -> None:
        """Measure every picture once; without effect after an error."""
        turn = self._ask(TakeTurn(self._work.origin_s), Turn)
        if turn is not None:
            self._turns.append(turn)

    def compare(self) -> None:
        """Compare masks with the recorded reference, once nothing is measured any more; without effect without one."""
        recording = self._work.recordings.get(self.configuration.size)
        if recording is not None:
            pictures = spread(self._work.pictures[self.configuration.size], self._work.compared_images)
            self._agreement = self._ask(Compare(recording, pictures), ParityReport)

    def measurement(self, lot: int = 0) -> Measurement:
        return Measurement(
            configuration=self.configuration,
            lot=lot,
            loaded=self._loaded,
            turns=tuple(self._turns),
            agreement=self._agreement,
            error=self.error,
        )

    def close(self) -> None:
        """End the process; what was measured stays."""
        self._child.close()


@contextmanager
def opened(configuration: Configuration, work: Work) -> Generator[MeasuredProcess]:
    process = MeasuredProcess(configuration, work)
    try:
        process.load()
        yield process
    finally:
        process.close()


def ask_once(command: Record | CollectShapes | Grade, answer: type[_Answer], *, timeout_s: float) -> _Answer:
    """Let a process of its own do one thing; errors as of `ask`."""
    with _started(timeout_s) as child:
        return ask(child, command, answer)


def with_reference(work: Work, folder: Path) -> tuple[Work, Reference]:
    """Run the reference over the pictures that are compared, in a process of its own per size.

    Returns the work with its recordings; and what ran, or why there is nothing to compare with.
    """
    notes: list[str] = []
    if work.bundle.paddle is None:
        notes.append("the bundle holds no Paddle program: its FP32 ONNX model is the reference")
    recordings: dict[Size | None, Path] = {}
    label: str | None = None
    images = 0
    for size, pictures in work.pictures.items():
        recording = folder / (str(size) if size else "as_they_are")
        sample = spread(pictures, work.compared_images)
        try:
            label = ask_once(Record(work.bundle, sample, recording, work.load_marks), str, timeout_s=work.timeout_s)
        except MeasuringError as error:
            where = f" at {size}" if size else ""
            notes.append(f"masks are not compared{where}, since the reference does not run: {error}")
            continue
        recordings[size] = recording
        images = len(sample.paths)
    return replace(work, recordings=recordings), Reference(label, images, "; ".join(notes) or None)


def with_shapes(work: Work, configurations: Iterable[Configuration], folder: Path) -> Work:
    """Collect the shapes that TensorRT must be told of, where a configuration uses it.

    Raises MeasuringError where a picture cannot be prepared, or the model does not run.
    """
    keys = dict.fromkeys((each.size, each.batch_size) for each in configurations if each.provider.is_tensorrt)
    shapes: dict[tuple[Size | None, int], TensorRtFiles] = {}
    for number, (size, batch_size) in enumerate(keys):
        command = CollectShapes(work.bundle, work.pictures[size], batch_size, folder / str(number), work.load_marks)
        shapes[size, batch_size] = ask_once(command, TensorRtFiles, timeout_s=work.timeout_s)
    return replace(work, shapes=shapes)

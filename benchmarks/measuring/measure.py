"""One configuration, measured in its own process: what it asks of the machine and what it gives.

A configuration that does not load, fails, hangs or dies is a measurement with its error. Who measures several (a
benchmark, or a search that stops early) opens them with `opened`, lets them take turns as long as it likes
(`benchmarks.measuring.interleaving`), and asks each for its `measurement`.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measuring.configurations import Configuration, Size
from benchmarks.measuring.pictures import Pictures, spread
from benchmarks.measuring.samples import Loaded, Measurement, Reference, Turn
from benchmarks.measuring.streams import CollectShapes, Command, Compare, Failure, Grade, Load, Record, TakeTurn
from converters.parity import ParityReport
from engine.bundle.bundle import Bundle
from engine.errors import EngineError
from engine.options import TensorRtFiles

TIMEOUT_S = 1800.0
COMPARED_IMAGES = 16
_LONGEST_REMARK = 300


class MeasuringError(EngineError):
    """What runs in a child process failed, hung or died."""


@dataclass(frozen=True, slots=True)
class Work:
    """What all configurations of a run have in common.

    Attributes:
        bundle: An open bundle with the models that are to run; it stays open meanwhile.
        pictures: Those of every size that a configuration names.
        ledger: Folder that remembers which models loaded before.
        recordings: The reference's answers per size, see `with_reference`; masks of other sizes are not compared.
        compared_images: Pictures of each size that are compared at most.
        shapes: What TensorRT is told, per size and batch size.
        engine_cache: Folder for TensorRT's engines; None: they are built anew.
        timeout_s: Seconds that a child may take for one command.
        origin_s: Start of the clock that turns are told from.
    """

    bundle: Bundle
    pictures: Mapping[Size | None, Pictures]
    ledger: Path
    recordings: Mapping[Size | None, Path] = field(default_factory=dict[Size | None, Path])
    compared_images: int = COMPARED_IMAGES
    shapes: Mapping[tuple[Size | None, int], TensorRtFiles] = field(
        default_factory=dict[tuple[Size | None, int], TensorRtFiles]
    )
    engine_cache: Path | None = None
    timeout_s: float = TIMEOUT_S
    origin_s: float = field(default_factory=time.monotonic)


class ChildProcess:
    """A process that obeys commands: those of `benchmarks.measuring.streams`, unless it runs another module.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, module: str = "benchmarks.measuring.child") -> None:
        """Start the process.

        Args:
            timeout_s: Seconds that it may take for one command.
            module: What it runs; it is given the number of a socket, see `benchmarks.measuring.child.serve`.
        """
        self._timeout_s = timeout_s
        self._said = tempfile.TemporaryFile()
        here, there = socket.socketpair()
        with here, there:
            # -P: a file of the working directory must not take the place of a library.
            command = [sys.executable, "-P", "-W", "ignore", "-m", module, str(there.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
            self._connection = Connection(here.detach())
        self.pid = self._process.pid

    def ask(self, command: object) -> Any:  # noqa: ANN401 - the answer that belongs to the command
        """Let it do something, and wait.

        Args:
            command: What to do.

        Returns:
            The answer that belongs to the command.

        Raises:
            MeasuringError: It failed, hung or died; it is of no use any more.
        """
        try:
            self._connection.send(command)
            if not self._connection.poll(self._timeout_s):
                raise MeasuringError(f"did not answer within {self._timeout_s:g} s: allow more time, or leave it out")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise MeasuringError(self._cause_of_death()) from error
        if isinstance(answer, Failure):
            raise MeasuringError(answer.message)
        return answer

    def close(self) -> None:
        """End it; calling this twice is harmless."""
        self._connection.close()
        if self._process.poll() is None:
            # Its own children go with it.
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._said.close()

    def _cause_of_death(self) -> str:
        status = self._process.wait()
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        remedy = "; the system ends so what takes too much memory" if status == -signal.SIGKILL else ""
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        remark = f": {lines[-1][:_LONGEST_REMARK]}" if lines else ""
        return f"the process ended with {ended}{remedy}{remark}"


class MeasuredProcess:
    """A configuration in its own process, and what is known of it so far.

    Attributes:
        configuration: What is measured.
        pid: The process.
        error: Why it is of no use any more; None while it is.
    """

    def __init__(self, configuration: Configuration, work: Work) -> None:
        """Start the process; nothing is loaded yet.

        Args:
            configuration: What is measured.
            work: What it is measured on.
        """
        self.configuration = configuration
        self.error: str | None = None
        self._work = work
        self._loaded: Loaded | None = None
        self._turns: list[Turn] = []
        self._agreement: ParityReport | None = None
        self._child = ChildProcess(work.timeout_s)
        self.pid = self._child.pid

    def load(self) -> None:
        """Load the configuration and warm it up."""
        work, configuration = self._work, self.configuration
        shapes = work.shapes.get((configuration.size, configuration.batch_size), TensorRtFiles())
        self._loaded = self._ask(
            Load(
                bundle=work.bundle,
                configuration=configuration,
                pictures=work.pictures[configuration.size],
                ledger=work.ledger,
                tensorrt_files=replace(shapes, engine_cache=work.engine_cache),
            )
        )

    def _ask(self, command: Command) -> Any:  # noqa: ANN401 - the answer that belongs to the command
        if self.error is not None:
            return None
        try:
            return self._child.ask(command)
        except MeasuringError as error:
            self.error = str(error)
            self._child.close()
            return None

    def take_turn(self) -> None:
        """Measure every picture once; without effect after an error."""
        turn: Turn | None = self._ask(TakeTurn(self._work.origin_s))
        if turn is not None:
            self._turns.append(turn)

    def compare(self) -> None:
        """Compare masks with the recorded reference, once nothing is measured any more; without effect without one."""
        recording = self._work.recordings.get(self.configuration.size)
        if recording is not None:
            pictures = spread(self._work.pictures[self.configuration.size], self._work.compared_images)
            self._agreement = self._ask(Compare(recording, pictures))

    def measurement(self, lot: int = 0) -> Measurement:
        """Tell what is known so far.

        Args:
            lot: Number of the lot that it took turns in.

        Returns:
            Raw samples, and the error if there was one.
        """
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
    """Open a configuration for measuring.

    Args:
        configuration: What is measured.
        work: What it is measured on.

    Yields:
        The process; look at its `error`.
    """
    process = MeasuredProcess(configuration, work)
    try:
        process.load()
        yield process
    finally:
        process.close()


def ask_once(command: Record | CollectShapes | Grade, *, timeout_s: float) -> Any:  # noqa: ANN401
    """Let a process of its own do one thing.

    Args:
        command: What to do.
        timeout_s: Seconds that it may take.

    Returns:
        The answer that belongs to the command.

    Raises:
        MeasuringError: It failed, hung or died.
    """
    child = ChildProcess(timeout_s)
    try:
        return child.ask(command)
    finally:
        child.close()


def with_reference(work: Work, folder: Path) -> tuple[Work, Reference]:
    """Run the reference over the pictures that are compared, in a process of its own per size.

    Args:
        work: The bundle and its pictures.
        folder: Where the answers are kept.

    Returns:
        The work with its recordings; and what ran, or why there is nothing to compare with.
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
            label = ask_once(Record(work.bundle, sample, recording, work.ledger), timeout_s=work.timeout_s)
        except MeasuringError as error:
            where = f" at {size}" if size else ""
            notes.append(f"masks are not compared{where}, since the reference does not run: {error}")
            continue
        recordings[size] = recording
        images = len(sample.paths)
    return replace(work, recordings=recordings), Reference(label, images, "; ".join(notes) or None)


def with_shapes(work: Work, configurations: Iterable[Configuration], folder: Path) -> Work:
    """Collect the shapes that TensorRT must be told of, where a configuration uses it.

    Args:
        work: The bundle and its pictures.
        configurations: Those that will be measured.
        folder: Gets Paddle's own files of inner shapes.

    Returns:
        The work with the shapes of every size and batch size.

    Raises:
        MeasuringError: A picture cannot be prepared, or the model does not run.
    """
    keys = dict.fromkeys((each.size, each.batch_size) for each in configurations if each.provider.is_tensorrt)
    shapes: dict[tuple[Size | None, int], TensorRtFiles] = {}
    for number, (size, batch_size) in enumerate(keys):
        command = CollectShapes(work.bundle, work.pictures[size], batch_size, folder / str(number), work.ledger)
        shapes[size, batch_size] = ask_once(command, timeout_s=work.timeout_s)
    return replace(work, shapes=shapes)

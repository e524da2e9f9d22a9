"""Child processes of this project: the one place that starts them."""

# What a child does with a stranger's file may end it, take all memory that it is allowed, or never end; none of it
# reaches this process. A child ends with this process, however that ends: the kernel kills it, and what it has started,
# as soon as this process no longer holds its end of a pipe. What a child writes into its scratch folder, or to the
# folder for temporary files, goes with it; after `kill -9` of this process, when the next scratch folder is made.
# Requests are pickles, since they go from this process to its own child, and hold paths that need not be UTF-8. Answers
# are JSON, since a hostile file may have changed the child before it answers. What runs in the child is
# `engine.system.child`.

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from engine import errors
from engine.errors import EngineError, OptionError
from engine.system.child import DIED, MESSAGE, OPTION, RAISED, RETURNED, UNLIMITED
from engine.system.confinement import FILE_BYTES
from engine.system.files import scratch_folder

_CHILD = "engine.system.child"
_ANSWER_BYTES = 64 << 20
_SAID_BYTES = 1 << 16
_PIECE_BYTES = 1 << 16
_LONGEST_REASON = 300
_SHORTEST_WAIT_S = 0.001
_EXIT_WAIT_S = 30.0
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "allocate memory", "failed to map segment")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may take."""

    timeout_s: float  # for one answer; the first one's include the start of the process
    memory_bytes: int | None = None  # None: as much as there is, and files of any size
    file_bytes: int = FILE_BYTES  # the most that a file of it may have, if its memory is limited


@dataclass(frozen=True, slots=True)
class Returned:
    """The function returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The function raised an error of the engine, of this class or of one below it that the engine does not have."""

    error: EngineError


@dataclass(frozen=True, slots=True)
class Died:
    """The child ended without an answer, or with an exception of a library."""

    status: int  # its exit status; negative: the number of the signal that ended it
    lines: tuple[str, ...]  # the last that it and the libraries wrote to either standard stream, without empty ones
    exception: str | None = None  # its class and message, or what is wrong with the answer

    @property
    def ended(self) -> str:
        """How it ended: the signal or the exit status."""
        return f"signal {signal.Signals(-self.status).name}" if self.status < 0 else f"status {self.status}"

    @property
    def cause(self) -> str:
        """How it ended and what it said, to follow "the process"."""
        return f"ended ({self.ended}; {(self.exception or self._telling_line)[:_LONGEST_REASON]})"

    @property
    def _telling_line(self) -> str:
        telling = [line for line in self.lines if "Error" in line or line.startswith("(")]
        return next(iter(telling or self.lines[-1:]), "it said nothing")

    @property
    def out_of_memory(self) -> bool:
        """Whether it wanted more memory than it may have, or than there is."""
        return self.status == -signal.SIGKILL or any(map(is_out_of_memory, (self.exception or "", *self.lines)))


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The child did not answer in time, and was ended."""

    timeout_s: float


Outcome = Returned | Raised | Died | TimedOut


def value_of(outcome: Outcome, failed: Callable[[str], Exception]) -> Any:  # noqa: ANN401 - what JSON holds
    """Take the value out of an outcome, or raise: the function's own error, or what `failed` makes of words.

    The words say how the child died or ran out of time; they follow "the process".
    """
    match outcome:
        case Returned():
            return outcome.value
        case Raised():
            raise outcome.error
        case TimedOut():
            raise failed(f"did not end within {outcome.timeout_s:g} s")
        case Died():
            raise failed(outcome.cause)


def is_out_of_memory(message: str) -> bool:
    """Tell whether a library's error says that there was no memory.

    >>> is_out_of_memory("RUNTIME_EXCEPTION : std::bad_alloc"), is_out_of_memory("INVALID_GRAPH : no such operator")
    (True, False)
    """
    return any(mark in message for mark in _OUT_OF_MEMORY)


class ChildProcess:
    """A child that answers one request after another, until one fails or `close` is called. Threads: one at a time.

    The process `pid` leads a session and a process group of its own.
    """

    def __init__(self, target: Callable[..., object], limits: Limits, folder: Path | None = None) -> None:
        self._timeout_s = limits.timeout_s
        self._over: Outcome | None = None
        with ExitStack() as kept:
            scratch = kept.enter_context(scratch_folder("child"))
            work, temporary = scratch / "work", scratch / "temporary"
            work.mkdir()
            temporary.mkdir()
            self._said: BinaryIO = kept.enter_context((scratch / "said").open("w+b"))
            lifeline, held = os.pipe()
            kept.callback(os.close, held)
            self._connection, theirs = socket.socketpair()
            kept.enter_context(self._connection)
            memory_bytes = UNLIMITED if limits.memory_bytes is None else limits.memory_bytes
            name = f"{target.__module__}:{target.__qualname__}"
            arguments = (lifeline, theirs.fileno(), name, memory_bytes, limits.file_bytes)
            with theirs:
                try:
                    self._process = subprocess.Popen(  # noqa: S603 - our own module with our own arguments
                        # -P: a file of the working directory must not take the place of a library.
                        [sys.executable, "-P", "-W", "ignore", "-m", _CHILD, *map(str, arguments)],
                        stdin=subprocess.DEVNULL,
                        # The libraries write to both standard streams as they like, and as much.
                        stdout=self._said,
                        stderr=self._said,
                        pass_fds=(lifeline, theirs.fileno()),
                        start_new_session=True,
                        cwd=folder or work,
                        env={**os.environ, "TMPDIR": str(temporary)},
                    )
                finally:
                    os.close(lifeline)
            kept.callback(self._end)
            self._kept = kept.pop_all()
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: object) -> Outcome:
        """Let the child answer a request, which is pickled.

        Paths are absolute, unless it works where this process does.

        Whatever is not `Returned` ends the child, and is the outcome of all later requests.
        """
        if self._over is None:
            outcome = self._exchange(pickle.dumps(request))
            if isinstance(outcome, Returned):
                return outcome
            self._over = outcome
            self.close()
        return self._over

    def close(self) -> None:
        """End the child and what it has started, and remove its files; calling this twice is harmless."""
        self._kept.close()

    def _exchange(self, request: bytes) -> Outcome:
        deadline = time.monotonic() + self._timeout_s
        try:
            self._connection.settimeout(self._timeout_s)
            self._connection.sendall(request)
            line = self._receive(deadline)
            return self._read(json.loads(line)) if line else self._died()
        except TimeoutError:
            return TimedOut(self._timeout_s)
        except ConnectionError:
            return self._died()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            # Whether it has ended by itself does not matter.
            return Died(0, self._last_lines(), f"its answer cannot be read: {error}")

    def _receive(self, deadline: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            self._connection.settimeout(max(deadline - time.monotonic(), _SHORTEST_WAIT_S))
            piece = self._connection.recv(_PIECE_BYTES)
            if not piece:
                return b""
            line += piece
            if len(line) > _ANSWER_BYTES:
                raise ValueError(f"it has more than {_ANSWER_BYTES} bytes")
        return bytes(line)

    def _read(self, answer: dict[str, Any]) -> Outcome:
        if RETURNED in answer:
            return Returned(answer[RETURNED])
        if DIED in answer:
            return self._died(str(answer[DIED]))
        kind = getattr(errors, str(answer[RAISED]), None)
        if not (isinstance(kind, type) and issubclass(kind, EngineError)):
            raise ValueError(f"{answer[RAISED]!r} is not an error of the engine")
        message, named = str(answer[MESSAGE]), answer.get(OPTION)
        if issubclass(kind, OptionError):
            return Raised(kind(message, option=None if named is None else str(named)))
        return Raised(kind(message))

    def _died(self, exception: str | None = None) -> Outcome:
        deadline = time.monotonic() + min(self._timeout_s, _EXIT_WAIT_S)
        # Left unreaped, so that its process group still is its own when it is killed.
        while (ended := os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
            if time.monotonic() > deadline:
                return TimedOut(self._timeout_s)
            time.sleep(_SHORTEST_WAIT_S)
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return Died(status, self._last_lines(), exception)

    def _last_lines(self) -> tuple[str, ...]:
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _SAID_BYTES))
        text = _COLOR.sub("", self._said.read().decode(errors="replace"))
        return tuple(line.strip() for line in text.splitlines() if line.strip())

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_isolated(
    target: Callable[[Any], object], request: object, limits: Limits, folder: Path | None = None
) -> Outcome:
    """Let a child process of its own answer one request, in `folder` or in an empty folder, which goes with it.

    `target` is a function of a module that answers with JSON values, which dataclasses and paths become. The request
    can be pickled; paths in it are absolute, unless `folder` is where this process works. OSError: no process or folder
    can be made.
    """
    with ChildProcess(target, limits, folder) as child:
        return child.ask(request)

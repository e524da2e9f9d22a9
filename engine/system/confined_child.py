"""Hand a stranger's file to a child process, and take nothing from it but JSON.

What the child does with the file may end it, take all memory it is allowed, or never end; none of it reaches this
process. `ask_child` starts a module of this project, which ends in `answer_parent`.

The request is a pickle, since it goes from this process to its own child, and holds paths that need not be UTF-8. The
answer is JSON, since a hostile file may have changed the child before it answers.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import errors
from engine.errors import EngineError, ModelLoadError
from engine.system.files import scratch_folder

_REQUEST, _ANSWER, _SAID = "request", "answer.json", "said"
_ANSWER_BYTES = 64 << 20
_SAID_BYTES = 1 << 16
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "allocate memory", "failed to map segment")


class ChildError(Exception):
    """The child gave no answer.

    Attributes:
        out_of_memory: whether it wanted more memory than it may have.
    """

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


class ChildTimeoutError(ChildError):
    """The child did not answer in time."""


def ask_child(module: str, request: object, *, timeout_s: float) -> Any:  # noqa: ANN401 - what JSON holds
    """Let a child process answer a request.

    The child works in an empty folder of its own, which is gone afterwards.

    Args:
        module: what the child runs; its `__main__` part calls `answer_parent`.
        request: what can be pickled; paths in it are absolute.
        timeout_s: seconds that the child may take.

    Returns:
        The answer: JSON values.

    Raises:
        ChildTimeoutError: the child took longer, and was ended.
        ChildError: it died, or answered nothing that can be read; the message continues "the process".
        EngineError: what the child raised, of the same class.
    """
    with scratch_folder("child") as folder:
        work = folder / "work"
        work.mkdir()
        (folder / _REQUEST).write_bytes(pickle.dumps(request))
        # -P: a file of the working directory must not take the place of a library.
        command = [sys.executable, "-P", "-W", "ignore", "-m", module, str(folder)]
        # The child reports through a file: the libraries write to both standard streams as they like, and as much.
        with (folder / _SAID).open("wb") as said:
            try:
                done = subprocess.run(  # noqa: S603 - our own module with our own arguments
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    timeout=timeout_s,
                    check=False,
                    cwd=work,
                )
            except subprocess.TimeoutExpired as error:
                raise ChildTimeoutError(f"did not end within {timeout_s:g} s") from error
        if not (folder / _ANSWER).is_file():
            lines = _last_lines(folder / _SAID)
            ended = (
                f"signal {signal.Signals(-done.returncode).name}"
                if done.returncode < 0
                else f"status {done.returncode}"
            )
            raise ChildError(
                f"ended ({ended}; {_telling(lines)})",
                out_of_memory=done.returncode == -signal.SIGKILL or any(map(is_out_of_memory, lines)),
            )
        return _read_answer(folder / _ANSWER)


def is_out_of_memory(message: str) -> bool:
    """Tell whether a library's error says that there was no memory.

    Args:
        message: of the error.

    Returns:
        Whether it does.

    >>> is_out_of_memory("RUNTIME_EXCEPTION : std::bad_alloc"), is_out_of_memory("INVALID_GRAPH : no such operator")
    (True, False)
    """
    return any(mark in message for mark in _OUT_OF_MEMORY)


def answer_parent(answer: Callable[[Any], object]) -> None:
    """Answer the request of the process that started this one, and end.

    Args:
        answer: makes JSON values of the request; an `EngineError` of it is raised by the parent, anything else counts
            as the death of this process.
    """
    folder = Path(sys.argv[1])
    request = pickle.loads((folder / _REQUEST).read_bytes())  # noqa: S301 - of our own parent
    try:
        told = {"answer": answer(request)}
    except EngineError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    partial = folder / "answer.part"
    partial.write_text(json.dumps(told), encoding="ascii")
    partial.replace(folder / _ANSWER)
    # A library's own tear-down at exit may crash; what matters has been said.
    os._exit(0)


def _read_answer(path: Path) -> Any:  # noqa: ANN401 - what JSON holds
    if path.stat().st_size > _ANSWER_BYTES:
        raise ChildError(f"answered with more than {_ANSWER_BYTES} bytes")
    try:
        told = json.loads(path.read_text(encoding="ascii"))
        if "error" not in told:
            return told["answer"]
        name, message = str(told["error"]), str(told["message"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ChildError(f"gave an answer that cannot be read ({error})") from error
    kind = getattr(errors, name, None)
    raise (kind if isinstance(kind, type) and issubclass(kind, EngineError) else ModelLoadError)(message)


def _last_lines(said: Path) -> list[str]:
    with said.open("rb") as file:
        file.seek(max(0, said.stat().st_size - _SAID_BYTES))
        return [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _telling(lines: list[str]) -> str:
    telling = [line for line in lines if "Error" in line or line.startswith("(")]
    return next(iter(telling or lines[-1:]), "it said nothing")[:200]

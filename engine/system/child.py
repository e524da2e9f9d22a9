"""What runs in a child process: `python -m engine.system.child LIFELINE CONNECTION TARGET MEMORY_BYTES FILE_BYTES`."""

import fcntl
import json
import os
import pickle
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import PurePath
from typing import Any, NoReturn, cast

from engine import errors
from engine.errors import EngineError, OptionError, message_of
from engine.system.confinement import confine_process

RETURNED, RAISED, MESSAGE, OPTION, DIED = "returned", "raised", "message", "option", "died"
"""The keys of an answer."""
UNLIMITED = "-"


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process and those that it starts when the other end of a pipe is closed."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    closed = select.poll()
    closed.register(lifeline)
    if closed.poll(0):  # before the kernel was asked
        os._exit(1)


def _handler(target: str) -> Callable[[Any], object]:
    """The function of that name; of a class, an instance, which lives as long as the child."""
    module, _, name = target.partition(":")
    found = getattr(import_module(module), name)
    return found() if isinstance(found, type) else found


def _answer_to(request: object, handler: Callable[[Any], object]) -> dict[str, object]:
    try:
        return {RETURNED: handler(request)}
    except EngineError as error:
        # An error of another module counts as the one of the engine that it is a kind of.
        kind = next(each for each in type(error).__mro__ if getattr(errors, each.__name__, None) is each)
        if isinstance(error, OptionError):
            return {RAISED: kind.__name__, MESSAGE: error.problem, OPTION: error.option}
        return {RAISED: kind.__name__, MESSAGE: str(error)}
    except Exception as error:
        # Whatever a library raises is for the parent to report.
        traceback.print_exc()
        return {DIED: message_of(error)}


def _plain(value: object) -> object:
    """What JSON holds of a dataclass, a path or a mapping."""
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"an answer holds a {type(value).__name__}, which JSON does not")


def _serve(connection: socket.socket, target: str) -> NoReturn:
    handler = _handler(target)
    requests = connection.makefile("rb")
    answer: dict[str, object] = {RETURNED: None}
    while RETURNED in answer:
        try:
            request = pickle.load(requests)  # noqa: S301 - of our own parent
        except EOFError:
            break
        answer = _answer_to(request, handler)
        connection.sendall(json.dumps(answer, default=_plain).encode("ascii") + b"\n")
    sys.stdout.flush()
    # A library's own tear-down at exit may crash; what matters has been said.
    os._exit(0 if RETURNED in answer else 1)


def _main(lifeline: int, connection: int, target: str, memory_bytes: str, file_bytes: int) -> NoReturn:
    for descriptor in (lifeline, connection):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline)
    confine_process(None if memory_bytes == UNLIMITED else int(memory_bytes), file_bytes)
    _serve(socket.socket(fileno=connection), target)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))

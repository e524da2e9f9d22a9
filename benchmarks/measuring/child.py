"""A configuration in a process of its own: `python -m benchmarks.measuring.child FD` obeys what comes through a socket.

Commands and answers are those of `benchmarks.measuring.streams`. It ends when the socket is closed, or after a
`Failure`.
"""

import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, assert_never

from benchmarks.measuring.samples import Loaded, Turn
from benchmarks.measuring.streams import (
    CollectShapes,
    Command,
    Compare,
    Failure,
    Grade,
    Load,
    Record,
    Streams,
    TakeTurn,
    collect_shapes,
    grade,
    record,
)
from converters.parity import ParityReport


class Child:
    """Obeys commands, in order."""

    def __init__(self) -> None:
        """Load nothing yet."""
        self._opened: Streams | None = None

    def obey(self, command: Command) -> Loaded | Turn | ParityReport | object:
        """Do what is asked.

        Args:
            command: One of those of `benchmarks.measuring.streams`.

        Returns:
            The answer that belongs to the command.

        Raises:
            EngineError: It cannot be done.
        """
        match command:
            case Load():
                self._opened = Streams(command)
                return self._opened.loaded
            case TakeTurn():
                return self._streams.take_turn(command)
            case Compare():
                return self._streams.compare(command)
            case Record():
                return record(command)
            case CollectShapes():
                return collect_shapes(command)
            case Grade():
                return grade(command)
            case _:
                assert_never(command)

    @property
    def _streams(self) -> Streams:
        if self._opened is None:
            raise RuntimeError("nothing is loaded: the first command must be Load")
        return self._opened


def serve(connection: Connection, obey: Callable[[Any], object]) -> None:
    """Answer until the other side hangs up or something fails.

    Args:
        connection: To the process that measures.
        obey: Does what a command asks, and returns the answer.
    """
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        try:
            answer = obey(command)
        except Exception as error:
            # Whatever a library raises is this configuration's result.
            connection.send(Failure(f"{type(error).__name__}: {error}"))
            return
        connection.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), Child().obey)
    # Paddle's own tear-down at exit may crash; what matters has been said.
    os._exit(0)

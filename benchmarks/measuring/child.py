"""What a configuration's process does: it answers the commands of `benchmarks.measuring.streams`, in order."""

from typing import assert_never

from benchmarks.measuring.samples import Loaded, Turn
from benchmarks.measuring.streams import (
    CollectShapes,
    Command,
    Compare,
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
    """Answers commands; one instance lives as long as the process."""

    def __init__(self) -> None:
        self._opened: Streams | None = None

    def __call__(self, command: Command) -> Loaded | Turn | ParityReport | object:
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

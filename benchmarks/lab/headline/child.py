"""A contestant in a process of its own: `python -m benchmarks.lab.headline.child FD` obeys a socket."""

import os
import sys
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection

from benchmarks.lab.headline.contestants import Enter, Entered, Lap, LapWork, PsegFolder, RunLap, opened
from benchmarks.measuring.child import serve
from benchmarks.measuring.streams import settle
from engine.system.memory import process_memory_bytes, return_freed_memory


class _Contest:
    """Loads one contestant, and lets it take its laps."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._work: LapWork | None = None

    def obey(self, command: Enter | RunLap) -> Entered | Lap:
        if isinstance(command, Enter):
            started = time.perf_counter()
            if isinstance(command.contestant, PsegFolder):
                # As every front door of this software does.
                return_freed_memory()
            self._work = opened(command.contestant, command.ledger, self._stack)
            load_s = time.perf_counter() - started
            return Entered(load_s, self._lap().seconds)
        return self._lap()

    def _lap(self) -> Lap:
        if self._work is None:
            raise RuntimeError("nobody has entered: the first command must be Enter")
        started, cpu_started = time.perf_counter(), time.process_time()
        images = self._work()
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        settle()
        return Lap(seconds, cpu_s, images, process_memory_bytes("VmHWM"))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), _Contest().obey)
    # Paddle's own tear-down at exit may crash; what matters has been said.
    os._exit(0)

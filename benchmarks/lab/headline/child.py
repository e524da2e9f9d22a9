"""What the process of a way does."""

import time
from contextlib import ExitStack

from benchmarks.lab.headline.measured import Loaded, Repetition
from benchmarks.lab.headline.scenarios import Software, Work
from benchmarks.lab.headline.ways import Load, Repeat, RepeatOnce, loaded
from benchmarks.measuring.streams import settle
from engine.system.machine.memory import process_memory_bytes, return_freed_memory


class LoadedWay:
    """Loads one way, and does its work as often as it is asked to."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._repeat: Repeat | None = None

    def __call__(self, command: Load | RepeatOnce) -> Loaded | Repetition:
        if isinstance(command, Load):
            started = time.perf_counter()
            if command.task.work is Work.FOLDER and command.task.way.software is Software.PSEG:
                # As every entry point of this software does.
                return_freed_memory()
            self._repeat = loaded(command.task, self._stack)
            load_s = time.perf_counter() - started
            return Loaded(load_s, self._repetition().seconds)
        return self._repetition()

    def _repetition(self) -> Repetition:
        if self._repeat is None:
            raise RuntimeError("nothing is loaded: the first command must be Load")
        started, cpu_started = time.perf_counter(), time.process_time()
        images = self._repeat()
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        settle()
        return Repetition(seconds, cpu_s, images, process_memory_bytes("VmHWM"))

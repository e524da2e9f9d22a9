"""Configurations take turns (A B C A B C …), so that a machine that slows down or speeds up favours none of them."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from benchmarks.measuring.configurations import Configuration
from benchmarks.measuring.measure import MeasuredProcess, Work, opened
from benchmarks.measuring.samples import Measurement
from converters.progress import ignore_progress
from engine.system.machine.memory import available_memory_bytes, process_memory_bytes

_MEMORY_RESERVE = 1.5
"""Of the largest process so far: so much memory must be free before another one is started."""

Advance = Callable[[str, Configuration], None]
"""Told of progress: what is done, and with which configuration."""


def take_turns(processes: Sequence[MeasuredProcess], rounds: int, advance: Advance = ignore_progress) -> None:
    """Let everyone have a turn, then everyone another one."""
    for _ in range(rounds):
        for each in processes:
            advance("measuring", each.configuration)
            each.take_turn()


def measure_all(
    configurations: Iterable[Configuration], work: Work, *, repeats: int, advance: Advance = ignore_progress
) -> tuple[Measurement, ...]:
    """Measure configurations, interleaved: one measurement each, in order, those that failed with their error."""
    waiting = deque(configurations)
    measurements: list[Measurement] = []
    lot = 0
    while waiting:
        with ExitStack() as stack:
            processes: list[MeasuredProcess] = []
            while waiting and (not processes or _another_fits(processes)):
                advance("loading", waiting[0])
                processes.append(stack.enter_context(opened(waiting.popleft(), work)))
            take_turns(processes, repeats, advance)
            for each in processes:
                advance("comparing", each.configuration)
                each.compare()
            measurements += [each.measurement(lot) for each in processes]
        lot += 1
    return tuple(measurements)


def _another_fits(processes: Iterable[MeasuredProcess]) -> bool:
    largest = max(process_memory_bytes("VmHWM", each.pid) for each in processes)
    return available_memory_bytes() > _MEMORY_RESERVE * largest

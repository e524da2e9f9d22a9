"""Contestants take laps in turn (A B C A B C …), all of them loaded, each in a process of its own."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.headline.contestants import Contestant, Enter, Entered, Lap, RunLap
from benchmarks.measuring.measure import ChildProcess, MeasuringError

_MODULE = "benchmarks.lab.headline.child"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Record:
    """What a contestant did.

    Attributes:
        entered: Its start; None where it did not start.
        laps: Raw.
        error: Why it did not come to its end; None where it did.
    """

    entered: Entered | None
    laps: tuple[Lap, ...]
    error: str | None

    @property
    def median_s(self) -> float:
        """Median seconds of a lap; infinite for who did not come to the end."""
        return statistics.median(lap.seconds for lap in self.laps) if self.laps and not self.error else float("inf")

    @property
    def images_per_s(self) -> float:
        """Median rate; 0 for who did not come to the end."""
        return 0.0 if self.error or not self.laps else statistics.median(lap.images / lap.seconds for lap in self.laps)

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that its process held; 0 where that is not known."""
        return max((lap.peak_rss_bytes or 0 for lap in self.laps), default=0)


def race(
    contestants: Mapping[str, Contestant],
    laps: int,
    ledger: Path,
    *,
    timeout_s: float = 1800.0,
    tell: Tell = lambda _: None,
) -> dict[str, Record]:
    """Let all take their laps in turn.

    Args:
        contestants: Name to who takes part.
        laps: For each, after one that warms it up.
        ledger: Folder that remembers which models loaded before.
        timeout_s: Seconds that one may take to enter, or for a lap.
        tell: Told of progress.

    Returns:
        Name to what it did, those that failed with their error.
    """
    processes: dict[str, ChildProcess] = {}
    entered: dict[str, Entered] = {}
    done: dict[str, list[Lap]] = {name: [] for name in contestants}
    errors: dict[str, str] = {}

    def ask(name: str, command: Enter | RunLap) -> Entered | Lap | None:
        if name in errors:
            return None
        try:
            return processes[name].ask(command)
        except MeasuringError as error:
            errors[name] = str(error)
            tell(f"{name}: {error}")
            return None

    try:
        for name, contestant in contestants.items():
            processes[name] = ChildProcess(timeout_s, _MODULE)
            answer = ask(name, Enter(contestant, ledger))
            if isinstance(answer, Entered):
                entered[name] = answer
                tell(f"{name}: loaded in {answer.load_s:.1f} s, first lap {answer.first_lap_s:.2f} s")
        for number in range(laps):
            for name in contestants:
                answer = ask(name, RunLap())
                if isinstance(answer, Lap):
                    done[name].append(answer)
            tell(f"lap {number + 1} of {laps}")
    finally:
        for each in processes.values():
            each.close()
    return {name: Record(entered.get(name), tuple(done[name]), errors.get(name)) for name in contestants}

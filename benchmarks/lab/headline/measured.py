"""What was measured, raw, and how it is found again: by fields."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.lab.headline.scenarios import Software, Way
from benchmarks.measuring.configurations import ProviderName
from benchmarks.measuring.environment import Environment
from benchmarks.results.markdown import Table
from engine.options import Precision


@dataclass(frozen=True, slots=True)
class Loaded:
    """A way is ready; `load_s` is for importing libraries and loading the model, `first_s` for the warm-up."""

    load_s: float
    first_s: float


@dataclass(frozen=True, slots=True)
class Repetition:
    """The work, done once; `cpu_s` is of all cores, None where only the wall's clock was looked at.

    `peak_rss_bytes` is the most memory that the process has held since its start; None where that is not known.
    """

    seconds: float
    cpu_s: float | None
    images: int
    peak_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one way in one scenario, whose pictures are named in words.

    `loaded` is None where it did not start, or where starts are what is measured; `error` where it came to its end.
    """

    network: str
    pictures: str
    way: Way
    loaded: Loaded | None
    repetitions: tuple[Repetition, ...]
    error: str | None = None

    @property
    def median_s(self) -> float:
        """Median seconds of a repetition; infinite for what did not come to its end."""
        return float("inf") if self.error else statistics.median(each.seconds for each in self.repetitions)

    @property
    def images_per_s(self) -> float:
        """Median rate; 0 for what did not come to its end."""
        return 0.0 if self.error else statistics.median(each.images / each.seconds for each in self.repetitions)

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that its process held; 0 where that is not known."""
        return max((each.peak_rss_bytes or 0 for each in self.repetitions), default=0)

    @property
    def precision(self) -> Precision | None:
        return self.way.configuration and self.way.configuration.precision

    @property
    def provider(self) -> ProviderName | None:
        return self.way.configuration and self.way.configuration.provider

    def is_of(self, *software: Software, precision: Precision | None = None) -> bool:
        """Whether it came to its end and is of one of these, at this precision if one is given."""
        fits = precision is None or precision is self.precision
        return self.error is None and self.way.software in software and fits


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the page, and the machine before it began.

    `searches` are the tables of searches by network; `notes` what was left out, and why.
    """

    environment: Environment
    seconds: float
    results: tuple[Result, ...]
    searches: dict[str, Table]
    notes: tuple[str, ...]

    def by_scenario(self) -> dict[tuple[str, str], list[Result]]:
        """Network and pictures to the results."""
        found: dict[tuple[str, str], list[Result]] = {}
        for each in self.results:
            found.setdefault((each.network, each.pictures), []).append(each)
        return found


def fastest(results: Iterable[Result]) -> Result:
    """The one with the shortest median.

    Raises ValueError where there is none: no figure is derived of what did not come to its end.
    """
    ended = [*results]
    if not ended:
        raise ValueError("a way that a figure needs did not come to its end: see the table of results")
    return min(ended, key=lambda each: each.median_s)


_PART = TypeAdapter(Part)
_FOLDER = Path(__file__).resolve().parent / "results"


def read_part(name: str) -> Part | None:
    """What was measured before; None if nothing was."""
    path = _FOLDER / f"{name}.json"
    return _PART.validate_json(path.read_bytes()) if path.is_file() else None


def write_part(name: str, part: Part) -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    (_FOLDER / f"{name}.json").write_bytes(_PART.dump_json(part, indent=1) + b"\n")

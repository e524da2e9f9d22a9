"""`make survey-check`: how often the intervals of `pseg summarize` hold the true cover, in simulated surveys.

`python -m demo.survey_check [--surveys 1000] [--seed 1]`. Every simulated survey has its own transects, and every
transect its own quadrats. It ends with status 1 if a coverage is not 95 ± 2 %.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.markdown import Table, markdown
from service.surveys.intervals import Estimate, estimate_difference, estimate_mean

WANTED = 0.95
TOLERANCE = 0.02
_QUADRATS = 11
"""Of a transect, as Seagrass-Watch lays them."""

Covers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Meadow:
    """How cover varies.

    Attributes:
        mean: of the transects, 0–1, which is the true cover.
        spread: concentration of the beta distribution of transect means; less is wider.
        patchiness: concentration of the beta distribution of quadrats within a transect.
    """

    name: str
    mean: float
    spread: float
    patchiness: float

    def transects(self, count: int, generator: np.random.Generator) -> Covers:
        """Mean cover of the quadrats of each transect, `float64[count]`."""
        means = generator.beta(self.mean * self.spread, (1 - self.mean) * self.spread, count)
        means = np.clip(means, 1e-6, 1 - 1e-6)[:, None]
        quadrats = generator.beta(means * self.patchiness, (1 - means) * self.patchiness, (count, _QUADRATS))
        return quadrats.mean(axis=1)


MEADOWS = (Meadow("even", 0.45, 20, 4), Meadow("patchy", 0.30, 6, 1.5), Meadow("sparse", 0.08, 12, 2))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often intervals held the true value.

    Attributes:
        what: of a mean, or of a difference.
        units: how many transects a survey has; of a difference on each date.
        meadow: how cover varies.
        judged: whether it has to be 95 ± 2 %.
        share: 0–1.
    """

    what: str
    units: int
    meadow: str
    judged: bool
    share: float

    @property
    def holds(self) -> bool:
        return abs(self.share - WANTED) <= TOLERANCE


def measure(surveys: int, seed: int) -> Iterator[Coverage]:
    """Simulate surveys of every kind."""
    for meadow in MEADOWS:
        for units in (3, 6, 11, 30, 50, 100):
            generator = np.random.default_rng([seed, units])

            def mean(
                meadow: Meadow = meadow, units: int = units, generator: np.random.Generator = generator
            ) -> Estimate:
                return estimate_mean(meadow.transects(units, generator), (0, 1), int(generator.integers(1 << 31)))

            # A t interval on few transects of a skewed distribution is known to cover less: it is shown, not hidden.
            judged = meadow.name == "even" or units >= 50
            yield Coverage("mean", units, meadow.name, judged, _share(mean, meadow.mean, surveys))
        for units in (3, 6, 50):
            generator = np.random.default_rng([seed, units, 1])

            def difference(
                meadow: Meadow = meadow, units: int = units, generator: np.random.Generator = generator
            ) -> Estimate:
                later, earlier = (meadow.transects(units, generator) for _ in range(2))
                return estimate_difference(later, earlier, (-1, 1), int(generator.integers(1 << 31)))

            yield Coverage("difference", units, meadow.name, units >= 50, _share(difference, 0.0, surveys))


def _share(survey: Callable[[], Estimate], truth: float, surveys: int) -> float:
    held = 0
    for _ in range(surveys):
        found = survey()
        if found.low is None or found.high is None:
            raise AssertionError("a survey has several units")
        held += found.low <= truth <= found.high
    return held / surveys


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, and print a table; ends with status 1 if a coverage is not what it has to be."""
    parser = argparse.ArgumentParser(prog="python -m demo.survey_check", description=__doc__)
    parser.add_argument("--surveys", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"{options.surveys} surveys of each kind, seed {options.seed}")
    rows: list[tuple[str, ...]] = []
    missed = False
    for each in measure(options.surveys, options.seed):
        verdict = ("holds" if each.holds else "FAILS") if each.judged else "shown"
        missed |= verdict == "FAILS"
        rows.append((each.what, str(each.units), each.meadow, f"{100 * each.share:.1f} %", verdict))
    print(markdown(Table(("interval of", "transects", "meadow", "holds the truth", "95 ± 2 %"), tuple(rows))))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

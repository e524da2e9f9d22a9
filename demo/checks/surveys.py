"""`make survey-check`: how often the intervals of `pseg summarize` hold the true cover, in simulated surveys.

`python -m demo.checks.surveys [--surveys 1000] [--seed 1]`. Every simulated survey has its own transects, and every
transect its own quadrats. For corrected covers, a network confuses classes, on one site more than on the other, and
pictures of a sample are labelled. It ends with status 1 if a coverage is not 95 ± 2 %, or a corrected cover is biased.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.markdown import Table, markdown
from engine.images import Capture
from service.results.ledger import Entry
from service.surveys.correction import LABELLED_AT_LEAST, UnitPictures, correction_from
from service.surveys.intervals import Estimate, LabelledPart, UnitValues, estimate_difference, estimate_mean
from service.surveys.pictures import SurveyClass, SurveyPicture, SurveyPictures
from service.surveys.places import Place, PlacedPicture, PlacedPictures
from service.surveys.plot import covers_svg
from service.surveys.sampling import draw_sample
from service.surveys.summary import GroupCover, Summary

WANTED = 0.95
TOLERANCE = 0.02
_QUADRATS = 11
"""Of a transect, as Seagrass-Watch lays them."""

_BIAS_ERRORS = 4
_CONFUSION = np.array([[0.80, 0.15, 0.05], [0.20, 0.70, 0.10], [0.10, 0.05, 0.85]])
"""Shares of what is seagrass, algae and sand (rows) that the network finds as each."""
_SEAGRASS_AS_SAND = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
_CORRECTIONS = ((3, 40, 0.0), (6, 40, 0.0), (50, 20, 0.0), (50, 200, 0.0), (50, 20, 0.1), (50, 200, 0.1))
"""Transects of a site, labelled pictures of both sites, and the share of pictures that are badly wrong."""
_CERTAINTY = 20
"""Concentration of the Dirichlet distribution by which the confusion varies from picture to picture."""
_CLASSES = tuple(SurveyClass(f"urn:{name}", name, (0, 0, 0)) for name in ("seagrass", "algae", "sand"))

_PLOTTED = (("seagrass", (60, 160, 80)), ("algae", (170, 110, 50)))

Covers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Meadow:
    """How cover varies; ``mean`` of the transects, 0–1, is the true cover.

    ``spread`` and ``patchiness`` are concentrations of the beta distributions of transects, and of quadrats within one;
    less is wider.
    """

    name: str
    mean: float
    spread: float
    patchiness: float

    def transects(self, count: int, generator: np.random.Generator) -> Covers:
        return self.quadrats(count, generator).mean(axis=1)

    def quadrats(self, count: int, generator: np.random.Generator) -> Covers:
        """Cover of the quadrats of each transect, `float64[count, 11]`."""
        means = generator.beta(self.mean * self.spread, (1 - self.mean) * self.spread, count)
        means = np.clip(means, 1e-6, 1 - 1e-6)[:, None]
        return generator.beta(means * self.patchiness, (1 - means) * self.patchiness, (count, _QUADRATS))


MEADOWS = (Meadow("even", 0.45, 20, 4), Meadow("patchy", 0.30, 6, 1.5), Meadow("sparse", 0.08, 12, 2))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often intervals of a mean or a difference held the true value: a share, 0–1.

    ``units`` is how many transects a survey has, of a difference on each date. ``judged``: it has to be 95 ± 2 %, and
    the mean without bias. ``bias`` is the mean of the estimates, minus the truth; its error is from the number of
    surveys.
    """

    what: str
    units: int
    meadow: str
    judged: bool
    share: float
    bias: float
    bias_error: float

    @property
    def holds(self) -> bool:
        return abs(self.share - WANTED) <= TOLERANCE and abs(self.bias) <= _BIAS_ERRORS * self.bias_error


def measure(surveys: int, seed: int) -> Iterator[Coverage]:
    for meadow in MEADOWS:
        for units in (3, 6, 11, 30, 50, 100):
            generator = np.random.default_rng([seed, units])

            def mean(
                meadow: Meadow = meadow, units: int = units, generator: np.random.Generator = generator
            ) -> Estimate:
                covers = UnitValues(meadow.transects(units, generator))
                return estimate_mean(covers, (0, 1), int(generator.integers(1 << 31)))

            # A t interval on few transects of a skewed distribution is known to cover less: it is shown, not hidden.
            judged = meadow.name == "even" or units >= 50
            yield _coverage(mean, meadow.mean, surveys, ("mean", units, meadow.name, judged))
        for units in (3, 6, 50):
            generator = np.random.default_rng([seed, units, 1])

            def difference(
                meadow: Meadow = meadow, units: int = units, generator: np.random.Generator = generator
            ) -> Estimate:
                later, earlier = (UnitValues(meadow.transects(units, generator)) for _ in range(2))
                return estimate_difference(later, earlier, (-1, 1), int(generator.integers(1 << 31)))

            yield _coverage(difference, 0.0, surveys, ("difference", units, meadow.name, units >= 50))
        for units, labelled, failing in _CORRECTIONS:
            for corrected in (False, True):
                generator = np.random.default_rng([seed, units, 2])

                def site(
                    meadow: Meadow = meadow,
                    units: int = units,
                    labelled: int = labelled,
                    failing: float = failing,
                    corrected: bool = corrected,
                    generator: np.random.Generator = generator,
                ) -> Estimate:
                    covers = _confused_site(meadow, units, labelled, generator, failing=failing, corrected=corrected)
                    return estimate_mean(covers, (0, 1), int(generator.integers(1 << 31)))

                # Ten labels a site are known to cover less, above all where few pictures have most of the error.
                enough = labelled > 2 * LABELLED_AT_LEAST and not failing
                judged = corrected and enough and (meadow.name == "even" or units >= 50)
                what = f"{'corrected' if corrected else 'uncorrected'} mean, {labelled} labelled"
                what += f", {failing:.0%} badly wrong" if failing else ""
                yield _coverage(site, meadow.mean, surveys, (what, units, meadow.name, judged))


def _confused_site(
    meadow: Meadow, transects: int, labelled: int, generator: np.random.Generator, *, failing: float, corrected: bool
) -> UnitValues:
    """Find seagrass on the first of two sites, on which the network confuses twice as much as on the second.

    ``labelled`` pictures are a sample, the same number from each site, as `pseg sample --by group` draws them. In the
    share ``failing`` of the pictures the network takes all seagrass for sand; with it, it confuses nothing else.
    """
    seagrass = meadow.quadrats(2 * transects, generator).ravel()
    algae = generator.beta(1, 3, seagrass.shape) * (1 - seagrass)
    truth = np.stack([seagrass, algae, 1 - seagrass - algae], axis=1)
    mild = (_CONFUSION + np.eye(3)) / 2
    rates = [_CONFUSION if index < len(truth) // 2 else mild for index in range(len(truth))]
    draws = generator.standard_gamma(_CERTAINTY * np.array(rates))
    found_as = draws / draws.sum(axis=2, keepdims=True)
    if failing:
        found_as = np.where((generator.random(len(truth)) < failing)[:, None, None], _SEAGRASS_AS_SAND, np.eye(3))
    # [picture, true class, found class]
    joint = truth[:, :, None] * found_as
    covers = joint.sum(axis=1)
    names = [str(index) for index in range(len(truth))]
    units = [
        UnitPictures(
            names[first : first + _QUADRATS], covers[first : first + _QUADRATS], np.full(_QUADRATS, 1 / _QUADRATS)
        )
        for first in range(0, transects * _QUADRATS, _QUADRATS)
    ]
    if not corrected:
        return UnitValues(np.stack([each.mean for each in units])[:, 0])
    pictures = [
        SurveyPicture(name, cover, Capture(), None, _entry(name), Path(), True)
        for name, cover in zip(names, covers, strict=True)
    ]
    found = SurveyPictures(_CLASSES, pictures, {}, 0, (), {}, ())
    places = [Place("first" if int(each.path) < len(truth) // 2 else "second") for each in pictures]
    placed = PlacedPictures(list(map(PlacedPicture, pictures, places)), frozenset({"site"}), ("site",))
    sample = draw_sample(found, placed, "group", labelled, int(generator.integers(1 << 31)))
    drawn = {each.picture.picture.path: each.inclusion_probability for each in sample}
    weights = np.array([1 / each for each in drawn.values()])
    confusion = np.einsum("i,ijk->jk", weights / weights.sum(), joint[[int(name) for name in drawn]])
    correction = correction_from(
        confusion, {name: truth[int(name)] for name in drawn}, {name: covers[int(name)] for name in drawn}, drawn
    )
    of_units = correction.corrected(units, "the site")
    return UnitValues(of_units.covers[:, 0], [LabelledPart(of_units.by_labels[:, 0], of_units.labelled)])


def _entry(name: str) -> Entry:
    return Entry({}, 0, name, name, None, None, (), (), Capture(), "")


def _coverage(survey: Callable[[], Estimate], truth: float, surveys: int, kind: tuple[str, int, str, bool]) -> Coverage:
    held = 0
    means: list[float] = []
    for _ in range(surveys):
        found = survey()
        if found.low is None or found.high is None:
            raise AssertionError("a survey has several units")
        held += found.low <= truth <= found.high
        means.append(found.mean)
    error = float(np.std(means)) / math.sqrt(surveys)
    return Coverage(*kind, held / surveys, float(np.mean(means)) - truth, error)


def draw_survey(path: Path, seed: int) -> None:
    """Plot a simulated survey as `pseg summarize --plot` does: an even and a patchy site, six transects, 3 dates."""
    generator = np.random.default_rng(seed)
    groups: list[GroupCover] = []
    for site, meadow in zip(("Bay", "Point"), MEADOWS[:2], strict=True):
        for year in range(2024, 2027):
            seagrass = meadow.transects(6, generator)
            algae = generator.beta(2, 8, 6) * (1 - seagrass)
            covers = [estimate_mean(UnitValues(each), (0, 1), seed) for each in (seagrass, algae)]
            groups.append(GroupCover({"site": site}, str(year), 6, 6 * _QUADRATS, None, covers))
    classes = [SurveyClass(f"urn:{name}", name, color) for name, color in _PLOTTED]
    path.write_bytes(covers_svg(Summary("transect", classes, groups, (), ())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, and print a table; ends with status 1 if a coverage is not what it has to be."""
    parser = argparse.ArgumentParser(prog="python -m demo.checks.surveys", description=__doc__)
    parser.add_argument("--surveys", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="only draw a simulated survey into this SVG")
    options = parser.parse_args(arguments)
    if options.plot is not None:
        draw_survey(options.plot, options.seed)
        return
    print(f"{options.surveys} surveys of each kind, seed {options.seed}")
    rows: list[tuple[str, ...]] = []
    missed = False
    for each in measure(options.surveys, options.seed):
        verdict = ("holds" if each.holds else "FAILS") if each.judged else "shown"
        missed |= verdict == "FAILS"
        bias = f"{100 * each.bias:+.2f} ± {100 * each.bias_error:.2f}"
        rows.append((each.what, str(each.units), each.meadow, f"{100 * each.share:.1f} %", bias, verdict))
    titles = ("interval of", "transects", "meadow", "holds the truth", "bias in points", "95 ± 2 %, no bias")
    print(markdown(Table(titles, tuple(rows))))
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Which pictures people should label: a probability sample, so that what labels say holds for the whole survey."""

import csv
import io
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import OptionError
from engine.system.settings_files import SettingsError, read_text
from engine.system.text import counted, csv_delimiter, csv_table, original
from service.surveys.correction import LABELLED_AT_LEAST, LARGER_GROUPS, labels_suffice
from service.surveys.pictures import SurveyClass, SurveyPictures
from service.surveys.places import PlacedPicture, PlacedPictures
from service.surveys.summary import pictures_by_unit, unit_of

_MOST_BYTES: Final = 1 << 28

_NAMED_AT_MOST: Final = 5

_SURPLUS: Final = "\0"

_ROUNDING: Final = 1e-6

By = Literal["random", "class", "site", "group", "confidence"]


@dataclass(frozen=True, slots=True)
class SampledPicture:
    """A picture to label, with the probability, above 0, at most 1, with which the design draws it.

    `stratum` is the part of the survey that it was drawn from; empty where there are no parts.
    """

    picture: PlacedPicture
    stratum: str
    inclusion_probability: float


def draw_sample(found: SurveyPictures, placed: PlacedPictures, by: By, count: int, seed: int) -> list[SampledPicture]:
    """Draw pictures without replacement, in the order of the survey.

    `by` `random`: all pictures alike. `class`, `site` or `group`: the same number of each dominant class, site, or
    group and date; all of those that have fewer. With the same seed, samples of these kinds contain the smaller ones.
    `confidence`: half of the sample evenly, the other half in proportion to 1 - mean confidence. Raises OptionError
    where there are fewer pictures, or more strata, or nothing tells what the sample is drawn by.
    """
    pictures = placed.pictures
    if count > len(pictures):
        left_out = "; ".join(not_drawable(found, placed))
        raise OptionError(
            f"{count} pictures are asked for, and {len(pictures)} can be drawn{left_out and f' ({left_out})'}",
            option="count",
        )
    if by == "confidence":
        return _drawn_by_confidence(pictures, count, np.random.default_rng(seed))
    if by == "group" and not placed.grouping and not any(each.place.date for each in pictures):
        raise OptionError("no site and no date is known: give survey or pattern with one of them", option="by")
    strata: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(pictures)), key=lambda index: pictures[index].picture.path):
        strata[_stratum(pictures[index], found.classes, by, placed.grouping)].append(index)
    drawn: dict[int, SampledPicture] = {}
    for (name, members), size in zip(sorted(strata.items()), _allocation(strata, count), strict=True):
        # The beginning of a random order of the stratum is a simple random sample of it, and that of a larger count
        # contains it. Each stratum has an order of its own, which further strata, such as a later date, do not change.
        order = np.random.default_rng([seed, *name.encode(errors="surrogatepass")]).permutation(members)
        for index in map(int, order[:size]):
            drawn[index] = SampledPicture(pictures[index], name, size / len(members))
    return [drawn[index] for index in sorted(drawn)]


def not_drawable(found: SurveyPictures, placed: PlacedPictures) -> list[str]:
    """Say how many images cannot be drawn, and why."""
    told: list[str] = []
    if found.failures:
        first = found.told(dict([next(iter(found.failures.items()))]))[0]
        told.append(f"{counted(len(found.failures), 'image', 'images')} failed, the first for this reason: {first}")
    if found.missing:
        told.append(f"{counted(found.missing, 'image is', 'images are')} missing, because their run ended early")
    if placed.unplaced:
        told.append(f"{counted(len(placed.unplaced), 'image has', 'images have')} no place")
    return told


def too_few_labels(
    found: SurveyPictures, placed: PlacedPictures, by: By, seed: int, sample: Sequence[SampledPicture]
) -> list[str]:
    """Say which groups get fewer labels of a sample than a correction needs, and of how large a sample they get enough.

    `by` and `seed` are those by which it was drawn.
    """
    units = {
        next(iter(by_unit.values()))[0].place.group(placed.grouping): [
            [each.picture.path for each in members] for members in by_unit.values()
        ]
        for by_unit in pictures_by_unit(placed).values()
    }

    def lacking(labelled: set[str]) -> dict[str, list[int]]:
        counts = {group: [len(labelled.intersection(paths)) for paths in of_group] for group, of_group in units.items()}
        return {group: of_units for group, of_units in counts.items() if not labels_suffice(of_units)}

    def lacking_of(sample: Sequence[SampledPicture]) -> dict[str, list[int]]:
        return lacking({each.picture.picture.path for each in sample})

    needs = (
        f"a correction needs {LABELLED_AT_LEAST} labelled pictures of each group, from two {unit_of(placed)}s or more"
    )
    small = lacking({each.picture.path for each in placed.pictures})
    more = {group: of_units for group, of_units in lacking_of(sample).items() if group not in small}
    told: list[str] = []
    if more:
        counts = range(len(sample) + 1, len(placed.pictures) + 1)
        enough = bisect_left(
            counts,
            True,
            key=lambda count: lacking_of(draw_sample(found, placed, by, count, seed)).keys() <= small.keys(),
        )
        evenly = "" if by == "group" else "; or draw with --by group, which takes the same number from each group"
        named = [f"{group} gets {sum(of_units)} from {sum(map(bool, of_units))}" for group, of_units in more.items()]
        told.append(f"{needs}, and {_enumerated(named)}: --count {counts[enough]} is enough{evenly}")
    if small:
        named = [f"{group} has only {sum(of_units)}" for group, of_units in small.items()]
        told.append(f"{needs}, and {_enumerated(named)}: {LARGER_GROUPS}")
    return told


def _enumerated(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED_AT_MOST
    return ", ".join([*texts[:_NAMED_AT_MOST], *([f"and {more} groups more"] if more > 0 else [])])


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A picture of a sample that was drawn earlier; fields as of `SampledPicture`.

    `drawn_by` and `seed` are those of the draw, `count` how many pictures it drew; None where the table does not state
    them.
    """

    image: Path
    stratum: str
    inclusion_probability: float
    drawn_by: str | None = None
    seed: int | None = None
    count: int | None = None


def read_sample(path: Path) -> list[SampleRow]:
    """Read a sample that `sample_csv` wrote; further columns do not matter.

    Raises OptionError where it cannot be read, or is no such table.
    """
    try:
        text = read_text(path, _MOST_BYTES)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=csv_delimiter(text), restkey=_SURPLUS))
        if any(_SURPLUS in row for row in rows):
            raise ValueError("a row has more cells than the header: put text with a comma in quotes")
        sample = [
            SampleRow(
                Path(original(row["image"])),
                row["stratum"],
                float(row["inclusion_probability"].replace(",", ".")),
                row.get("drawn_by") or None,
                *(int(row[name]) if row.get(name) else None for name in ("seed", "count")),
            )
            for row in rows
        ]
    except SettingsError as error:
        raise OptionError(f"{path}: {error}: give a table of `pseg sample`", option="sample") from error
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"{path}: is not a table of `pseg sample` ({error}): give one with image, stratum, inclusion_probability",
            option="sample",
        ) from error
    wrong = [row for row in sample if not 0 < row.inclusion_probability <= 1]
    if wrong or not sample or len({row.image for row in sample}) < len(sample):
        raise OptionError(
            (
                f"{path}: is not a sample: it names no picture, one twice, or a probability that is not above 0 and at "
                "most 1"
            ),
            option="sample",
        )
    return sample


def require_whole_sample(path: Path, sample: Sequence[SampleRow]) -> None:
    """Refuse (OptionError) a sample of which rows were removed: the others do not stand for their pictures.

    Probabilities that a spreadsheet has rounded are refused, too. Both show where the pictures of a stratum stand for
    no whole number of pictures; tables of earlier versions state no count besides.
    """
    counts = {row.count for row in sample if row.count is not None}
    if counts - {len(sample)}:
        raise OptionError(
            f"{path}: has {len(sample)} pictures, and {' or '.join(map(str, sorted(counts)))} were drawn: evaluate the "
            "whole table, or draw a smaller sample with `pseg sample`",
            option="sample",
        )
    strata: dict[str, list[float]] = defaultdict(list)
    for row in sample:
        strata[row.stratum].append(row.inclusion_probability)
    for stratum, probabilities in strata.items():
        stand_for = len(probabilities) / probabilities[0]
        alike = len(set(probabilities)) == 1
        if alike and abs(stand_for - round(stand_for)) > _ROUNDING * stand_for:
            raise OptionError(
                f"{path}: the {len(probabilities)} pictures{stratum and f' of {stratum}'} stand for {stand_for:.2f}, "
                "which is no whole number, so that rows were removed or probabilities rounded: give the table as "
                "`pseg sample` wrote it",
                option="sample",
            )


def _stratum(each: PlacedPicture, classes: Sequence[SurveyClass], by: By, grouping: Sequence[str]) -> str:
    if by == "class":
        return classes[int(each.picture.covers.argmax())].name
    if by == "site" and not each.place.site:
        raise OptionError("no site is known: give survey or pattern with a site", option="by")
    if by == "group":
        return each.place.group(grouping)
    return each.place.site if by == "site" else ""


def _allocation(strata: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """As many of each stratum, in the order of their names; what a small one does not have, the others share."""
    if count < len(strata):
        raise OptionError(
            f"{count} pictures cannot stand for {len(strata)} strata ({', '.join(sorted(strata))}): ask for more",
            option="count",
        )
    members = [len(strata[name]) for name in sorted(strata)]

    def at_most(level: int) -> list[int]:
        return [min(number, level) for number in members]

    level = bisect_right(range(1, count + 1), count, key=lambda level: sum(at_most(level)))
    sizes = at_most(level)
    larger = [index for index, number in enumerate(members) if number > level]
    for index in larger[: count - sum(sizes)]:
        sizes[index] += 1
    return sizes


def _drawn_by_confidence(
    pictures: Sequence[PlacedPicture], count: int, generator: np.random.Generator
) -> list[SampledPicture]:
    known = [each.picture.confidence for each in pictures if each.picture.confidence is not None]
    if len(known) < len(pictures):
        raise OptionError(
            f"the ledgers know the confidence of {len(known)} of {len(pictures)} pictures: predict with it, or draw by "
            "class, site or random",
            option="by",
        )
    doubts = 1 - np.array(known, np.float64)
    even = np.full(len(pictures), 1 / len(pictures))
    sizes = even if not doubts.sum() else (even + doubts / doubts.sum()) / 2
    probabilities = _inclusion_probabilities(sizes, count)
    # Systematic sampling over a shuffled list draws each picture with exactly its probability, and exactly so many.
    order = generator.permutation(len(pictures))
    ends = np.cumsum(probabilities[order])
    marks = generator.random() + np.arange(count)
    chosen = sorted({int(order[index]) for index in np.minimum(np.searchsorted(ends, marks, "right"), len(order) - 1)})
    return [SampledPicture(pictures[index], "", float(probabilities[index])) for index in chosen]


def _inclusion_probabilities(sizes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """In proportion to the sizes, and 1 for those that would have more."""
    certain = np.zeros(len(sizes), np.bool_)
    while True:
        rest = count - int(certain.sum())
        probabilities = np.where(certain, 1.0, rest * sizes / max(float(sizes[~certain].sum()), 1e-300))
        more = ~certain & (probabilities >= 1)
        if not more.any():
            return probabilities
        certain |= more


def sample_csv(sample: Sequence[SampledPicture], by: By, seed: int) -> bytes:
    """Write a sample as UTF-8 CSV: image, mask, place, stratum, inclusion_probability, and how it was drawn.

    `count` is how many pictures were drawn, so that a table with fewer is known.
    """
    columns = ["image", "mask", "site", "transect", "quadrat", "date", "stratum", "inclusion_probability"]
    columns += ["drawn_by", "seed", "count"]
    rows: list[list[object]] = []
    for each in sample:
        picture, place = each.picture.picture, each.picture.place
        mask = None if picture.entry.picture is None else str(picture.folder / picture.entry.picture)
        names = [picture.path, mask, place.site, place.transect, place.quadrat, place.date, each.stratum]
        rows.append([*names, each.inclusion_probability, by, seed, len(sample)])
    return csv_table(columns, rows)

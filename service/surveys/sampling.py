"""Which pictures people should label: a probability sample, so that what labels say holds for the whole survey."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import OptionError
from engine.system.settings_files import SettingsError, read_text
from engine.system.text import csv_table, original
from service.surveys.pictures import SurveyClass
from service.surveys.places import PlacedPicture

_MOST_BYTES: Final = 1 << 28

By = Literal["random", "class", "site", "confidence"]


@dataclass(frozen=True, slots=True)
class SampledPicture:
    """A picture to label, with the probability, above 0, at most 1, with which the design draws it.

    `stratum` is the part of the survey that it was drawn from; empty where there are no parts.
    """

    picture: PlacedPicture
    stratum: str
    inclusion_probability: float


def draw_sample(
    pictures: Sequence[PlacedPicture], classes: Sequence[SurveyClass], by: By, count: int, seed: int
) -> list[SampledPicture]:
    """Draw pictures without replacement, in the order of the survey.

    `by` `random`: all pictures alike. `class` or `site`: as many of each dominant class or site, as far as there are so
    many. `confidence`: half of the sample evenly, the other half in proportion to 1 - mean confidence. Raises
    OptionError where there are fewer pictures, or more strata, or nothing tells what the sample is drawn by.
    """
    if count > len(pictures):
        raise OptionError(f"{count} pictures are asked for, and the survey has {len(pictures)}", option="count")
    generator = np.random.default_rng(seed)
    if by == "confidence":
        return _drawn_by_confidence(pictures, count, generator)
    strata: dict[str, list[int]] = defaultdict(list)
    for index, each in enumerate(pictures):
        strata[_stratum(each, classes, by)].append(index)
    drawn: dict[int, SampledPicture] = {}
    for (name, members), size in zip(sorted(strata.items()), _allocation(strata, count), strict=True):
        for index in map(int, generator.choice(members, size, replace=False)):
            drawn[index] = SampledPicture(pictures[index], name, size / len(members))
    return [drawn[index] for index in sorted(drawn)]


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A picture of a sample that was drawn earlier; fields as of `SampledPicture`.

    `drawn_by` and `seed` are those of the draw; None where the table does not state them.
    """

    image: Path
    stratum: str
    inclusion_probability: float
    drawn_by: str | None = None
    seed: int | None = None


def read_sample(path: Path) -> list[SampleRow]:
    """Read a sample that `sample_csv` wrote; further columns do not matter.

    Raises OptionError where it cannot be read, or is no such table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, _MOST_BYTES), newline="")))
        sample = [
            SampleRow(
                Path(original(row["image"])),
                row["stratum"],
                float(row["inclusion_probability"]),
                row.get("drawn_by") or None,
                int(row["seed"]) if row.get("seed") else None,
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


def _stratum(picture: PlacedPicture, classes: Sequence[SurveyClass], by: By) -> str:
    if by == "class":
        return classes[int(picture.picture.covers.argmax())].name
    if by == "site" and not picture.place.site:
        raise OptionError("no site is known: give survey or pattern with a site", option="by")
    return picture.place.site if by == "site" else ""


def _allocation(strata: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """As many of each stratum, in the order of their names; what a small one does not have, the others share."""
    if count < len(strata):
        raise OptionError(
            f"{count} pictures cannot stand for {len(strata)} strata ({', '.join(sorted(strata))}): ask for more",
            option="count",
        )
    sizes = dict.fromkeys(sorted(strata), 0)
    for _ in range(count):
        name = min((each for each in sizes if sizes[each] < len(strata[each])), key=sizes.__getitem__)
        sizes[name] += 1
    return list(sizes.values())


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
    """Write a sample as UTF-8 CSV: image, mask, place, stratum, inclusion_probability, and how it was drawn."""
    columns = ["image", "mask", "site", "transect", "quadrat", "date", "stratum", "inclusion_probability"]
    columns += ["drawn_by", "seed"]
    rows: list[list[object]] = []
    for each in sample:
        picture, place = each.picture.picture, each.picture.place
        mask = None if picture.entry.picture is None else str(picture.folder / picture.entry.picture)
        names = [picture.path, mask, place.site, place.transect, place.quadrat, place.date, each.stratum]
        rows.append([*names, each.inclusion_probability, by, seed])
    return csv_table(columns, rows)

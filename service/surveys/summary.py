"""The cover of every class by group and date, and its differences between dates."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.quantities import rounded_area
from engine.system.text import counted, csv_table
from service.surveys.correction import Correction, UnitPictures
from service.surveys.intervals import (
    LEVEL,
    Estimate,
    LabelledPart,
    UnitValues,
    estimate_difference,
    estimate_mean,
)
from service.surveys.pictures import SurveyClass, SurveyPictures, columns_of
from service.surveys.places import PlacedPicture, PlacedPictures

_COVERS = (0.0, 1.0)
_DIFFERENCES = (-1.0, 1.0)
_ESTIMATE_COLUMNS = ("mean", "standard_error", "low", "high", "method")
_CHANGE_COLUMNS = ("earlier", "later", "units_earlier", "units_later", "paired")
_FURTHER_COLUMNS = ("mean_as_found", "mean_area_cm2")
_QUADRAT_COLUMNS = ("site", "transect", "quadrat", "date", "depth", "pictures", "image")
_SAME_AREA = 1e-3

Unit = Literal["transect", "quadrat", "picture"]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class GroupCover:
    """The cover in one group (field to value) on one date, by ISO 8601, empty where it is not known.

    `depth` is the mean of the pictures, in metres. `covers` has one a class. `as_found` are the means before they were
    corrected, and `labelled` is how many pictures were labelled for that, both None if they were not; `areas_cm2` are
    mean areas on the ground in a region of interest, None where nothing tells them.
    """

    group: Mapping[str, str]
    date: str
    units: int
    pictures: int
    depth: float | None
    covers: Sequence[Estimate]
    as_found: Sequence[float] | None = None
    areas_cm2: Sequence[float] | None = None
    labelled: int | None = None


@dataclass(frozen=True, slots=True)
class CoverChange:
    """The difference of the covers of one group between two dates, later minus earlier, one a class.

    `units` counts those of the earlier date, and of the later one. `paired`: the same units were seen on both dates, so
    that their own differences are averaged.
    """

    group: Mapping[str, str]
    earlier: str
    later: str
    units: tuple[int, int]
    paired: bool
    changes: Sequence[Estimate]


@dataclass(frozen=True, slots=True)
class Summary:
    """A survey in figures; groups are sorted by group and date.

    There are changes of every group with several dates: from each date to the next, and from the first to the last.
    `notes` are for people.
    """

    unit: Unit
    classes: Sequence[SurveyClass]
    groups: Sequence[GroupCover]
    changes: Sequence[CoverChange]
    notes: Sequence[str]
    corrected: bool = False


@dataclass(frozen=True, slots=True)
class _GroupUnits:
    """The units of a group on a date, their covers of each class, and what a `GroupCover` tells of them."""

    names: Sequence[tuple[str, ...]]
    covers: Sequence[UnitValues]
    as_found: NDArray[np.float64] | None
    areas_cm2: NDArray[np.float64] | None
    members: Sequence[PlacedPicture]
    labelled: int | None = None


def summarize_survey(
    found: SurveyPictures,
    placed: PlacedPictures,
    seed: int,
    correction: Correction | None = None,
) -> Summary:
    """Estimate the cover of every class in every group on each of its dates.

    A unit is a transect. Where groups are made of transects, or there are none, it is a quadrat, and where there are no
    quadrats either, a picture. Pictures of one quadrat are averaged first, then the quadrats of a transect: every
    quadrat of a transect counts once, and every unit of a group. Raises OptionError where too few pictures of a group
    are labelled for a correction.
    """
    grouping, unit = placed.grouping, unit_of(placed)
    units: dict[tuple[str, ...], dict[str, _GroupUnits]] = defaultdict(dict)
    for (key, date), members in pictures_by_unit(placed).items():
        units[key][date] = _units_of(members, grouping, correction)
    groups: list[GroupCover] = []
    changes: list[CoverChange] = []
    for key, of_dates in units.items():
        group = dict(zip(grouping, key, strict=True))
        groups += [_group_cover(group, date, each, seed) for date, each in of_dates.items()]
        changes += [
            _change(group, (earlier, of_dates[earlier]), (later, of_dates[later]), unit, seed)
            for earlier, later in _compared([date for date in of_dates if date])
        ]
    told = [] if correction is None else [_told_correction(correction)]
    notes = [_told_unit(unit, placed.fields), *told, *found.notes, *_told_gaps(groups)]
    return Summary(unit, found.classes, groups, changes, notes, correction is not None)


def pictures_by_unit(
    placed: PlacedPictures,
) -> dict[tuple[tuple[str, ...], str], dict[tuple[str, ...], list[PlacedPicture]]]:
    """Sort pictures by group and date, and within these by unit: what `summarize_survey` makes means and errors of."""
    unit = unit_of(placed)

    def name_of(each: PlacedPicture) -> tuple[str, ...]:
        place = each.place
        names = {
            "transect": (place.site, place.transect),
            "quadrat": (place.site, place.transect, place.quadrat),
            "picture": (each.picture.path,),
        }
        return names[unit]

    groups = _grouped(placed.pictures, lambda each: (each.place.key(placed.grouping), each.place.date))

    def order(group: tuple[tuple[str, ...], str]) -> tuple[Any, ...]:
        key, date = group
        values = zip(placed.grouping, key, strict=True)
        return *(float(value or "-inf") if name == "depth" else value for name, value in values), date

    return {group: _grouped(groups[group], name_of) for group in sorted(groups, key=order)}


def unit_of(placed: PlacedPictures) -> Unit:
    """Tell what varies in a group: means, errors and intervals are made from the means of these."""
    if "transect" in placed.fields and "transect" not in placed.grouping:
        return "transect"
    return "quadrat" if "quadrat" in placed.fields else "picture"


def _told_unit(unit: Unit, fields: Iterable[str]) -> str:
    if unit == "transect":
        return "the unit is the transect: means, errors and intervals are those of transect means"
    why = "groups are transects" if "transect" in fields else "no transect is known"
    return (
        f"the unit is the {unit}, because {why}: intervals say how the {unit}s of a group vary, and are too narrow "
        "for the site if its pictures lie on a few transects"
    )


def _told_correction(correction: Correction) -> str:
    return (
        f"means, differences and intervals are corrected for what the network confuses, by {len(correction.residuals)} "
        "labelled pictures of a probability sample, and contain the error of the correction; covers of single quadrats "
        "and pictures are as the network found them"
    )


def _told_gaps(groups: Sequence[GroupCover]) -> list[str]:
    single = sum(each.units < 2 for each in groups)
    undated = sum(each.pictures for each in groups if not each.date)
    without_depth = sum(each.pictures for each in groups if each.group.get("depth") == "")
    told = {
        f"{counted(single, 'group has', 'groups have')} a single unit, which has no interval": single,
        f"{counted(undated, 'picture has no date, and is', 'pictures have no date, and are')} compared with no other "
        "date": undated,
        f"{counted(without_depth, 'picture has', 'pictures have')} no depth, and groups without a depth hold pictures "
        "of any depth": without_depth,
    }
    return [note for note, count in told.items() if count]


def _grouped(
    pictures: Iterable[PlacedPicture], key_of: Callable[[PlacedPicture], _Key]
) -> dict[_Key, list[PlacedPicture]]:
    groups: dict[_Key, list[PlacedPicture]] = defaultdict(list)
    for each in pictures:
        groups[key_of(each)].append(each)
    return dict(groups)


def _units_of(
    units: Mapping[tuple[str, ...], Sequence[PlacedPicture]], grouping: Sequence[str], correction: Correction | None
) -> _GroupUnits:
    members = [each for of_unit in units.values() for each in of_unit]
    pictures = [_pictures_of(of_unit) for of_unit in units.values()]
    found, areas = np.stack([each.mean for each in pictures]), _mean_areas(members, pictures)
    if correction is None:
        return _GroupUnits(list(units), [UnitValues(of_class) for of_class in found.T], None, areas, members)
    corrected = correction.corrected(pictures, members[0].place.group(grouping))
    areas = None if areas is None else _corrected_areas(members, corrected.covers, areas)
    labelled = sum(each.picture.path in correction.probabilities for each in members)
    covers = [
        UnitValues(of_class, [LabelledPart(by_labels, corrected.labelled)])
        for of_class, by_labels in zip(corrected.covers.T, corrected.by_labels.T, strict=True)
    ]
    return _GroupUnits(list(units), covers, found.mean(axis=0), areas, members, labelled)


def _pictures_of(members: Sequence[PlacedPicture]) -> UnitPictures:
    """Quadrats count alike, and pictures within a quadrat; where quadrats are not known, all pictures do."""
    names = [each.place.quadrat or each.picture.path for each in members]
    counts = Counter(names)
    shares = np.array([1 / (len(counts) * counts[name]) for name in names])
    covers = np.stack([each.picture.covers for each in members])
    return UnitPictures([each.picture.path for each in members], covers, shares)


def _mean_areas(members: Sequence[PlacedPicture], units: Sequence[UnitPictures]) -> NDArray[np.float64] | None:
    """Mean area of each class, `float64[classes]`; None where a picture does not tell it."""
    known = {each.picture.path: each.picture.areas_cm2 for each in members if each.picture.areas_cm2 is not None}
    if len(known) < len(members):
        return None
    return np.mean([each.shares @ np.stack([known[name] for name in each.names]) for each in units], axis=0)


def _corrected_areas(
    members: Sequence[PlacedPicture], covers: NDArray[np.float64], found_cm2: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Areas by corrected covers; None where regions differ in size, since then a mean cover tells no mean area."""
    totals = [each.picture.areas_cm2.sum() for each in members if each.picture.areas_cm2 is not None]
    same = max(totals) - min(totals) <= _SAME_AREA * max(totals)
    return covers.mean(axis=0) * found_cm2.sum() if same else None


def _group_cover(group: Mapping[str, str], date: str, units: _GroupUnits, seed: int) -> GroupCover:
    depths = [each.place.depth for each in units.members if each.place.depth is not None]
    return GroupCover(
        group,
        date,
        len(units.names),
        len(units.members),
        sum(depths) / len(depths) if depths else None,
        [estimate_mean(of_class, _COVERS, seed) for of_class in units.covers],
        None if units.as_found is None else units.as_found.tolist(),
        None if units.areas_cm2 is None else units.areas_cm2.tolist(),
        units.labelled,
    )


def _compared(dates: Sequence[str]) -> list[tuple[str, str]]:
    pairs = list(itertools.pairwise(dates))
    return [*pairs, (dates[0], dates[-1])] if len(pairs) > 1 else pairs


def _change(
    group: Mapping[str, str], earlier: tuple[str, _GroupUnits], later: tuple[str, _GroupUnits], unit: Unit, seed: int
) -> CoverChange:
    before, after = earlier[1], later[1]
    rows = {name: index for index, name in enumerate(before.names)}
    paired = unit != "picture" and rows.keys() == set(after.names)
    of_classes = zip(after.covers, before.covers, strict=True)
    if paired:
        order = [rows[name] for name in after.names]
        changes = [estimate_mean(_own_changes(new, old, order), _DIFFERENCES, seed) for new, old in of_classes]
    else:
        changes = [estimate_difference(new, old, _DIFFERENCES, seed) for new, old in of_classes]
    units = len(before.names), len(after.names)
    return CoverChange(group, earlier[0], later[0], units, paired, changes)


def _own_changes(later: UnitValues, earlier: UnitValues, order: Sequence[int]) -> UnitValues:
    """The difference of each unit; `order` are the places of the later ones among the earlier ones."""
    before = [LabelledPart(part.values[order], part.units) for part in earlier.labelled]
    return UnitValues(later.values - earlier.values[order], [*later.labelled, *before])


def summary_record(summary: Summary) -> dict[str, Any]:
    """Write a summary as JSON values; each group and change has one entry a class in `cover`, shares are 0–1.

    Where covers are corrected, groups have `labelled_pictures` and their entries `mean_as_found` besides; where the
    area of regions on the ground is known, `mean_area_cm2`.
    """
    return {
        "unit": summary.unit,
        "corrected": summary.corrected,
        "level": LEVEL,
        "groups": [
            {
                **each.group,
                "date": each.date or None,
                "units": each.units,
                "pictures": each.pictures,
                **({} if each.labelled is None else {"labelled_pictures": each.labelled}),
                **({} if each.depth is None or "depth" in each.group else {"mean_depth": round(each.depth, 3)}),
                "cover": _class_records(summary.classes, each.covers, each.as_found, each.areas_cm2),
            }
            for each in summary.groups
        ],
        "changes": [
            {
                **each.group,
                "earlier": each.earlier,
                "later": each.later,
                "units_earlier": each.units[0],
                "units_later": each.units[1],
                "paired": each.paired,
                "cover": _class_records(summary.classes, each.changes),
            }
            for each in summary.changes
        ],
        "notes": list(summary.notes),
    }


def _class_records(
    classes: Sequence[SurveyClass],
    estimates: Sequence[Estimate],
    as_found: Sequence[float] | None = None,
    areas_cm2: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    return [
        {
            "id": of_class.id,
            "name": of_class.name,
            **_rounded(estimate),
            **({} if as_found is None else {"mean_as_found": round(as_found[index], 6)}),
            **({} if areas_cm2 is None else {"mean_area_cm2": rounded_area(areas_cm2[index], 2)}),
        }
        for index, (of_class, estimate) in enumerate(zip(classes, estimates, strict=True))
    ]


def _rounded(estimate: Estimate) -> dict[str, Any]:
    values = asdict(estimate)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


def groups_csv(summary: Summary) -> bytes:
    """Write the covers as UTF-8 CSV: a row for each group, date and class.

    Shares are 0–1; a cell without a value is empty.
    """
    return _csv(summary_record(summary), "groups")


def changes_csv(summary: Summary) -> bytes:
    """Write the differences between dates as UTF-8 CSV: a row for each group, pair of dates and class.

    There is the header alone where no group has several dates.
    """
    fields = dict.fromkeys(name for each in summary.groups for name in each.group)
    return _csv(summary_record(summary), "changes", (*fields, *_CHANGE_COLUMNS))


def quadrats_csv(classes: Sequence[SurveyClass], pictures: Sequence[PlacedPicture]) -> bytes:
    """Write a row for each quadrat and date, or for each picture where no quadrat is known, with its covers.

    UTF-8 CSV: place, number of pictures, image if it is one, and a column for each class: `cover_…` (0–1, as the
    network found it), and `area_cm2_…` where every picture tells it.
    """
    quadrats = _grouped(pictures, _quadrat_key)
    measured = all(each.picture.areas_cm2 is not None for each in pictures)
    columns = [*_QUADRAT_COLUMNS, *columns_of(classes, "cover"), *(columns_of(classes, "area_cm2") if measured else ())]
    rows: list[list[Any]] = []
    for members in quadrats.values():
        place = members[0].place
        depths = [each.place.depth for each in members if each.place.depth is not None]
        areas = [each.picture.areas_cm2 for each in members if each.picture.areas_cm2 is not None]
        values = [np.mean([each.picture.covers for each in members], axis=0).round(6).tolist()]
        if measured:
            values.append([rounded_area(float(each), 2) for each in np.mean(areas, axis=0)])
        rows.append(
            [
                *(place.site, place.transect, place.quadrat, place.date),
                round(sum(depths) / len(depths), 3) if depths else None,
                len(members),
                members[0].picture.path if len(members) == 1 else None,
                *itertools.chain(*values),
            ]
        )
    return csv_table(columns, rows)


def _quadrat_key(each: PlacedPicture) -> tuple[str, ...]:
    place = each.place
    return place.site, place.transect, place.date, place.quadrat, "" if place.quadrat else each.picture.path


def _csv(summary: Mapping[str, Any], what: str, first: Sequence[str] = ()) -> bytes:
    records: Sequence[Mapping[str, Any]] = summary[what]
    covers = [{**record, **each} for record in records for each in record["cover"]]
    own = [name for name in dict.fromkeys((*first, *(name for each in records for name in each))) if name != "cover"]
    further = [name for name in _FURTHER_COLUMNS if any(name in each for each in covers)]
    columns = [*own, "unit", "class", "class_id", *_ESTIMATE_COLUMNS, *further, "corrected"]
    of_all = {"unit": summary["unit"], "corrected": summary["corrected"]}
    rows = [{**each, **of_all, "class": each["name"], "class_id": each["id"]} for each in covers]
    return csv_table(columns, ([_cell(row.get(name)) for name in columns] for row in rows))


def _cell(value: object) -> object:
    return ("yes" if value else "no") if isinstance(value, bool) else value

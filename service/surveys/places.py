"""Site, transect, quadrat, date and depth of pictures: from a table, or from their paths."""

import csv
import datetime
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final

from engine.declaration import Options, option
from engine.errors import OptionError
from engine.system.files import open_to_read
from engine.system.text import composed, csv_delimiter, legible
from service.surveys.pictures import SurveyPicture

FIELDS: Final = ("site", "transect", "quadrat", "date", "depth")
GROUPING: Final = ("site", "transect", "depth")
"""What groups may be made of, besides the date, which always separates them."""

_IMAGE = "image"
_MOST_BYTES = 1 << 30
_DATE = re.compile(r"(\d{4})(?:-?(\d\d)(?:-?(\d\d))?)?", re.ASCII)
_PART = re.compile(r"\{(\w*)\}|\*")
_ANY = "*"
_SHOWN = 60
_NAMED_AT_MOST = 5

_NO_FIT = "the pattern does not fit"

_Way = tuple[tuple[str, str], ...]
"""Fields with what is read for them."""


def _grouping(text: str) -> tuple[str, ...]:
    names = [] if text == "all" else text.split(",")
    found = tuple(name for name in GROUPING if name in names)
    if len(found) < len(names):
        raise ValueError(f"give any of {', '.join(GROUPING)} separated by commas, or all")
    return found


@dataclass(frozen=True, slots=True)
class SurveyOptions(Options):
    """How pictures are told apart and grouped."""

    title: ClassVar[str] = "Survey"

    survey: Path | None = option(
        None,
        "CSV table with one row for each picture: the column image (a path, a file name, or a stem), and any of site, "
        "transect, quadrat, date, depth.",
        metavar="CSV",
    )
    pattern: str | None = option(
        None,
        "The paths of the pictures below their common folder, with names in braces: '{site}/{transect}/{quadrat}.jpg'. "
        "* stands for any text within a name.",
    )
    per: tuple[str, ...] | None = option(
        None,
        "How pictures are grouped: by any of site, transect and depth, separated by commas, or all. Pictures of "
        "different "
        "dates "
        "are always in different groups. By default the site, if it is known.",
        parse=_grouping,
    )
    skip_unplaced: bool = option(
        False,
        "Leave out the pictures for which the table or the pattern gives no place, and list them. By default such "
        "pictures are an error.",
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.survey is not None and self.pattern is not None:
            raise OptionError("a table and a pattern may contradict each other: give one of survey and pattern")
        if self.skip_unplaced and self.survey is None and self.pattern is None:
            raise OptionError("places are given by survey or pattern: leave it out", option="skip_unplaced")


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a picture belongs; empty where it is not known.

    `date` is a year, a month or a day by ISO 8601; `depth` is in metres.
    """

    site: str = ""
    transect: str = ""
    quadrat: str = ""
    date: str = ""
    depth: float | None = None

    def key(self, grouping: Sequence[str]) -> tuple[str, ...]:
        """The values of the fields by which groups are made, as text."""
        values = asdict(self)
        return tuple("" if values[name] is None else str(values[name]) for name in grouping)

    def group(self, grouping: Sequence[str]) -> str:
        """Name the group, which its date belongs to, for people."""
        return " ".join(filter(None, (*self.key(grouping), self.date))) or "the survey"


@dataclass(frozen=True, slots=True)
class PlacedPicture:
    """A picture and its place."""

    picture: SurveyPicture
    place: Place


@dataclass(frozen=True, slots=True)
class PlacedPictures:
    """The pictures of a survey, each at its place; `fields` are what is known of all of them.

    `grouping` are the fields of which groups are made; the pictures of a group have one date besides.
    `unplaced` is why a path has no place; `without_picture` are rows of the table of which no ledger has a picture.
    """

    pictures: Sequence[PlacedPicture]
    fields: frozenset[str]
    grouping: tuple[str, ...] = ()
    unplaced: Mapping[str, str] = field(default_factory=dict[str, str])
    without_picture: Sequence[str] = ()


def place_pictures(
    pictures: Sequence[SurveyPicture], options: SurveyOptions, others: Sequence[str] = ()
) -> PlacedPictures:
    """Find the place of every picture. The day of a picture without a date is that of its EXIF data.

    Without a table or a pattern, only days are known; a table may also name `others`, paths of images that have no
    mask. OptionError says where and why the two cannot be used, or give no place to a picture that is not to be left
    out, or that groups cannot be made of a field, because it is not known.
    """
    paths = [picture.path for picture in pictures]
    without_picture: list[str] = []
    unplaced: dict[str, str] = {}
    if options.pattern is not None:
        fields, places, unplaced = _places_by_pattern(options.pattern, paths)
    elif options.survey is not None:
        fields, rows = _read_table(options.survey)
        places, without_picture = _matched(rows, paths, others, options.survey)
        unplaced = dict.fromkeys((path for path in paths if path not in places), "no row of the table names it")
    else:
        fields, places = frozenset[str](), {path: Place() for path in paths}
    if unplaced and not (options.skip_unplaced and places):
        told = [f"{legible(each.entry.name)}: {unplaced[each.path]}" for each in pictures if each.path in unplaced]
        raise _unplaced(told, len(paths), options)
    placed = [
        PlacedPicture(picture, _with_day(places[picture.path], picture))
        for picture in pictures
        if picture.path in places
    ]
    return PlacedPictures(placed, fields | {"date"}, _known_grouping(options.per, fields), unplaced, without_picture)


def _known_grouping(per: tuple[str, ...] | None, fields: frozenset[str]) -> tuple[str, ...]:
    if per is None:
        return ("site",) if "site" in fields else ()
    unknown = [name for name in per if name not in fields]
    if unknown:
        raise OptionError(f"no {unknown[0]} is known: name it in the table or in the pattern", option="per")
    return per


def _unplaced(unplaced: Sequence[str], count: int, options: SurveyOptions) -> OptionError:
    named = "; ".join(unplaced[:_NAMED_AT_MOST])
    more = len(unplaced) - _NAMED_AT_MOST
    remedy = "complete the table" if options.pattern is None else "correct the pattern, or move the pictures"
    skip = ", or leave them out with --skip-unplaced" if len(unplaced) < count else ""
    return OptionError(
        f"{len(unplaced)} of {count} pictures have no place: {named}{f'; and {more} more' if more > 0 else ''}: "
        f"{remedy}{skip}",
        option="survey" if options.pattern is None else "pattern",
    )


def _with_day(place: Place, picture: SurveyPicture) -> Place:
    taken_at = picture.capture.taken_at
    if place.date or taken_at is None:
        return place
    return Place(place.site, place.transect, place.quadrat, taken_at.date().isoformat(), place.depth)


def _places_by_pattern(pattern: str, paths: Sequence[str]) -> tuple[frozenset[str], dict[str, Place], dict[str, str]]:
    """The fields of a pattern, the places that it gives, and why others have none."""
    parts = _parsed_pattern(pattern)
    fields = frozenset(gap for part in parts for gap in part[1::2] if gap != _ANY)
    places: dict[str, Place] = {}
    folders: dict[str, str] = {}
    unplaced: dict[str, str] = {}
    for path in paths:
        names = composed(path).split("/")
        above = names[: -len(parts)]
        folders[path] = f"{'/'.join(above)}/" if above else ""
        try:
            places[path] = _only_place(parts, names[len(above) :])
        except ValueError as error:
            unplaced[path] = str(error)
    if not places:
        return fields, {}, unplaced
    # A pattern is that of whole paths below one folder: otherwise a pattern that is too short makes one transect of
    # those that have one name on several sites.
    counts = Counter(folders[path] for path in places)
    common = max(counts, key=counts.__getitem__)
    beside = [each for each in counts if not (each.startswith(common) or common.startswith(each))]
    if beside:
        raise OptionError(
            f"{legible(pattern, _SHOWN)}: the pictures that it describes lie below different folders, such as "
            f"{legible(common)} and {legible(beside[0])}: put a name in braces, or *, in front of it for each folder "
            f"that differs, such as {legible(_lengthened(pattern, common, beside[0]), _SHOWN)}",
            option="pattern",
        )
    for path in [path for path in places if folders[path] != common]:
        del places[path]
        unplaced[path] = f"it does not lie as deep below {legible(common)} as the other pictures"
    return fields, places, unplaced


def _lengthened(pattern: str, one: str, other: str) -> str:
    return "*/" * (len(PurePosixPath(one).parts) - len(PurePosixPath(os.path.commonpath([one, other])).parts)) + pattern


def _parsed_pattern(pattern: str) -> list[list[str]]:
    """Folders and file of a pattern, each as fixed texts, which may be empty, with a field or `*` between any two."""
    names: list[str] = []
    parts: list[list[str]] = []
    for text in composed(pattern).split("/"):
        part: list[str] = []
        last = 0
        for found in _PART.finditer(text):
            part += [text[last : found.start()], found[1] or _ANY]
            last = found.end()
            if found[1] is None:
                continue
            if found[1] not in FIELDS or found[1] in names:
                raise OptionError(
                    f"{legible(pattern, _SHOWN)}: {{{legible(found[1], _SHOWN)}}} is not a name that may stand there "
                    f"once: give any of {', '.join(FIELDS)}",
                    option="pattern",
                )
            names.append(found[1])
        parts.append([*part, text[last:]])
    if not names:
        raise OptionError(
            f"{legible(pattern, _SHOWN)}: it has no name in braces: write {{site}}/{{transect}}/{{quadrat}}.jpg",
            option="pattern",
        )
    return parts


def _only_place(parts: Sequence[Sequence[str]], names: Sequence[str]) -> Place:
    """The place that a pattern gives to folders and file; ValueError where there is none, or several."""
    if len(names) < len(parts):
        raise ValueError(_NO_FIT)
    values: dict[str, str] = {}
    several: list[_Way] = []
    for part, name in zip(parts, names, strict=True):
        ways = _ways_to_fit(part, name, _is_value) or _ways_to_fit(part, name, lambda _field, _text: True)[:1]
        if not ways:
            raise ValueError(_NO_FIT)
        several = ways if len(ways) > 1 else several
        values |= ways[0]
    if several:
        first, second = (" and ".join(f"{field} {legible(text, _SHOWN)}" for field, text in way) for way in several)
        raise ValueError(
            f"the pattern fits in several ways, such as {first}, or {second}: state fixed text between the names, such "
            "as {site}_T{transect}, or give a table"
        )
    return _place(values)


def _is_value(field: str, text: str) -> bool:
    if field not in {"date", "depth"}:
        return True
    try:
        _place({field: text})
    except ValueError:
        return False
    return True


def _ways_to_fit(part: Sequence[str], name: str, accepts: Callable[[str, str], bool]) -> list[_Way]:
    """Two different ways in which accepted values of fields can be read from the name of a folder or file.

    One, or none, where there are not two; `part` is as of `_parsed_pattern`.
    """
    text = _without_case(name)
    reached: dict[int, list[_Way]] = {0: [()]}
    for gap, fixed in zip(["", *part[1::2]], map(_without_case, part[::2]), strict=True):
        behind: dict[int, list[_Way]] = defaultdict(list)
        is_field = gap not in {"", _ANY}
        for start, ways in reached.items():
            at = text.find(fixed, start + is_field)
            while at >= 0 and (gap or at == start):
                if not is_field or accepts(gap, name[start:at]):
                    read = ((gap, name[start:at]),) if is_field else ()
                    end = at + len(fixed)
                    behind[end] = list(dict.fromkeys([*behind[end], *((*way, *read) for way in ways)]))[:2]
                at = text.find(fixed, at + 1)
        reached = behind
    return reached.get(len(text), [])


def _without_case(text: str) -> str:
    """Lower case, of as many characters."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text


def _read_table(path: Path) -> tuple[frozenset[str], dict[str, Place]]:
    try:
        with open_to_read(path) as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read ({error}): give a CSV table in UTF-8", option="survey") from error
    if len(content) > _MOST_BYTES:
        raise OptionError(f"{path}: is longer than {_MOST_BYTES} bytes: give a table of pictures", option="survey")
    delimiter = csv_delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return _table_of(path, reader, decimal_comma=delimiter == ";")
    except csv.Error as error:
        raise OptionError(f"{path}: line {reader.line_num}: {error}: give a CSV table", option="survey") from error


def _table_of(
    path: Path, reader: Iterator[list[str]], *, decimal_comma: bool
) -> tuple[frozenset[str], dict[str, Place]]:
    columns = [name.strip().lower() for name in next(reader, list[str]())]
    known = [name for name in FIELDS if name in columns]
    repeated = [name for name in (_IMAGE, *FIELDS) if columns.count(name) > 1]
    if _IMAGE not in columns or not known or repeated:
        raise OptionError(
            f"{path}: the columns are {legible(', '.join(columns), 200)}: name one image, and any of "
            f"{', '.join(FIELDS)}, each once",
            option="survey",
        )
    rows: dict[str, Place] = {}
    for number, cells in enumerate(reader, 2):
        if not any(map(str.strip, cells)):
            continue
        if len(cells) > len(columns):
            raise OptionError(
                f"{path}: row {number} has {len(cells)} cells, the header {len(columns)}: put text with a comma in "
                "quotes, or separate cells by semicolons",
                option="survey",
            )
        values = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
        if decimal_comma:
            values["depth"] = values.get("depth", "").replace(",", ".")
        image = composed(values.get(_IMAGE, "")).replace("\\", "/")
        where = f"{path}: row {number}"
        if not image or image in rows:
            problem = f"names {legible(image)} again" if image else "names no image"
            raise OptionError(f"{where} {problem}: give each picture one row", option="survey")
        try:
            rows[image] = _place({name: values.get(name, "") for name in known})
        except ValueError as error:
            raise OptionError(f"{where}: {error}: correct it, or leave the column out", option="survey") from error
    return frozenset(known), rows


def _place(values: Mapping[str, str]) -> Place:
    """Raises ValueError, which says what is wrong with a value."""
    names = {name: composed(values.get(name, "")).strip() for name in ("site", "transect", "quadrat")}
    empty = [name for name in names if name in values and not names[name]]
    if empty:
        raise ValueError(f"it has no {empty[0]}")
    return Place(
        names["site"],
        names["transect"],
        names["quadrat"],
        _date(values.get("date", "")),
        _depth(values.get("depth", "")),
    )


def _date(text: str) -> str:
    if not text:
        return ""
    found = _DATE.fullmatch(text)
    parts = [] if found is None else [part for part in found.groups() if part is not None]
    try:
        # A month or a year is checked as its first day.
        datetime.date.fromisoformat("-".join([*parts, "01", "01"][:3]))
    except ValueError as error:
        raise ValueError(f"{legible(text, _SHOWN)} is not a date (2026-03-14, 20260314, 2026-03 or 2026)") from error
    return "-".join(parts)


def _depth(text: str) -> float | None:
    if not text:
        return None
    try:
        # Python reads 3_5 as 35.
        depth = float("nan" if "_" in text else text)
    except ValueError:
        depth = float("nan")
    if not abs(depth) < float("inf"):
        raise ValueError(f"{legible(text, _SHOWN)} is not a depth (a number of metres, such as 3.5)")
    # -0 is the same depth as 0.
    return depth + 0.0


def _matched(
    rows: Mapping[str, Place], paths: Sequence[str], others: Sequence[str], table: Path
) -> tuple[dict[str, Place], list[str]]:
    """Find the pictures that rows name by the end of their path, with or without its suffix."""
    lengths = {len(PurePosixPath(image).parts) for image in rows}
    ends: dict[str, list[str]] = defaultdict(list)
    for path in (*paths, *others):
        parts = PurePosixPath(composed(path)).parts
        for length in lengths:
            if length <= len(parts):
                end = PurePosixPath(*parts[-length:])
                for name in {str(end), str(end.with_suffix(""))}:
                    ends[name].append(path)
    places: dict[str, Place] = {}
    named: dict[str, str] = {}
    without_picture: list[str] = []
    for image, place in rows.items():
        found = ends.get(str(PurePosixPath(image)), [])
        if len(found) > 1:
            raise OptionError(
                f"{table}: {legible(image)} may be {legible(found[0])} or {legible(found[1])}: give more of its path",
                option="survey",
            )
        if not found:
            without_picture.append(image)
            continue
        other = named.setdefault(found[0], image)
        if other != image:
            raise OptionError(
                f"{table}: {legible(other)} and {legible(image)} both name {legible(found[0])}: give it one row",
                option="survey",
            )
        places[found[0]] = place
    return places, without_picture

"""Files of annotation tools, read: labelme, COCO and Squidle+ as JSON, CoralNet as CSV."""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final, NotRequired, TypeVar, cast

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from benchmarks.accuracy.annotations import (
    CocoPolygons,
    CocoRuns,
    FractionalPoint,
    LabelledPoint,
    LabelmeShape,
    PictureAnnotation,
    Shape,
)
from engine.errors import ImageError
from engine.system.settings_files import SettingsError, first_problem, read_json, read_text
from engine.system.text import legible

_MAPPING: Final = "class_mapping.json"
_SUFFIXES: Final = frozenset({".json", ".csv"})
_MOST_BYTES: Final = 1 << 30
_CORALNET_COLUMNS: Final = ("name", "row", "column")
_CORALNET_LABELS: Final = ("label", "label code")
_SHOWN: Final = 80
_MOST_DIGITS: Final = 9
_Content = TypeVar("_Content")


class _LabelmeShape(TypedDict):
    label: str
    points: list[tuple[FiniteFloat, FiniteFloat]]
    shape_type: NotRequired[str | None]
    mask: NotRequired[str | None]


class _LabelmeFile(TypedDict):
    imagePath: str
    imageHeight: NotRequired[int | None]
    imageWidth: NotRequired[int | None]
    shapes: list[_LabelmeShape]


class _RunLengths(TypedDict):
    size: tuple[int, int]
    counts: list[int] | str


class _CocoImage(TypedDict):
    id: int | str
    file_name: str
    height: int
    width: int


class _CocoRegion(TypedDict):
    image_id: int | str
    category_id: int | str
    segmentation: list[list[FiniteFloat]] | _RunLengths


class _CocoCategory(TypedDict):
    id: int | str
    name: str


class _CocoFile(TypedDict):
    images: list[_CocoImage]
    annotations: list[_CocoRegion]
    categories: list[_CocoCategory]


# The names of columns that Squidle+ exports and its client documents.
_SquidlePoint = TypedDict(
    "_SquidlePoint",
    {
        "point.media.key": str,
        "point.x": FiniteFloat,
        "point.y": FiniteFloat,
        "point.polygon": NotRequired[list[Any] | None],
        "label.name": NotRequired[str | None],
    },
)


class _MappedClass(TypedDict):
    label: str
    name: str


_LABELME: Final = TypeAdapter(_LabelmeFile)
_COCO: Final = TypeAdapter(_CocoFile)
_SQUIDLE: Final = TypeAdapter(list[_SquidlePoint])
_CLASSES: Final = TypeAdapter(dict[str, _MappedClass])


def list_annotations(arguments: Iterable[str]) -> list[Path]:
    """List the annotations that files, folders (with those within) and globs name; ImageError where one names none."""
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = [each for each in path.rglob("*") if each.suffix.lower() in _SUFFIXES]
        elif os.path.lexists(path):
            files = [path]
        else:
            # pathlib takes no absolute patterns
            files = [Path(each) for each in glob(argument, recursive=True)]  # noqa: PTH207
        files = [each for each in files if each.is_file()]
        if not files:
            raise ImageError(f"{argument}: no annotations found ({' '.join(sorted(_SUFFIXES))}): check the name")
        found |= dict.fromkeys(sorted(files))
    return list(found)


def read_annotations(paths: Sequence[Path]) -> list[PictureAnnotation]:
    """Read what pictures are annotated with; the content of a file tells of which tool it is.

    A class_mapping.json among the files says which class the labels stand for of the files in its folder and below it.
    Raises ImageError where a file cannot be read, or is of none of the formats.
    """
    mappings = {path.parent.absolute(): _mapped_classes(path) for path in paths if path.name == _MAPPING}
    found: list[PictureAnnotation] = []
    for path in paths:
        if path.name != _MAPPING:
            mapped = next((mappings[each] for each in path.absolute().parents if each in mappings), dict[str, str]())
            found += _points_of(path, mapped) if path.suffix.lower() == ".csv" else _shapes_of(path, mapped)
    return found


def _mapped_classes(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for each in _checked(_CLASSES, _json_of(path), path).values():
        if names.setdefault(each["label"], each["name"]) != each["name"]:
            raise ImageError(
                f"{path}: {legible(each['label'], _SHOWN)} stands for {legible(names[each['label']], _SHOWN)} and for "
                f"{legible(each['name'], _SHOWN)}: leave the file out, and say which with --label-names"
            )
    return names


def _json_of(path: Path) -> object:
    try:
        return read_json(path, _MOST_BYTES)
    except SettingsError as error:
        raise ImageError(f"{path}: {error}") from error


def _checked(form: TypeAdapter[_Content], content: object, path: Path) -> _Content:
    try:
        return form.validate_python(content)
    except ValidationError as error:
        raise ImageError(f"{path}: {first_problem(error)}: save it anew") from error


def _shapes_of(path: Path, mapped: Mapping[str, str]) -> list[PictureAnnotation]:
    content = _json_of(path)
    if isinstance(content, list):
        return _squidle(_checked(_SQUIDLE, cast("object", content), path), path, mapped)
    fields = cast("dict[str, Any]", content) if isinstance(cast("Any", content), dict) else dict[str, Any]()
    if "shapes" in fields:
        return [_labelme(_checked(_LABELME, content, path), path, mapped)]
    if {"images", "annotations"} <= fields.keys():
        return _coco(_checked(_COCO, content, path), path, mapped)
    raise ImageError(
        f"{path}: is neither a file of labelme, which has shapes, nor one of COCO, which has images and annotations, "
        "nor a list of Squidle+'s: name the annotations alone"
    )


def _labelme(content: _LabelmeFile, path: Path, mapped: Mapping[str, str]) -> PictureAnnotation:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    shapes = [
        LabelmeShape(each["label"], each.get("shape_type") or "polygon", each["points"], each.get("mask"))
        for each in content["shapes"]
    ]
    # labelme names the picture from the folder of the file.
    picture = os.path.normpath(path.parent.absolute() / _name_of(content["imagePath"]))
    size = None if height is None or width is None else (width, height)
    of_points = bool(shapes) and all(each.kind == "point" for each in shapes)
    return PictureAnnotation(PurePath(picture), path, size, shapes, mapped, of_points)


def _coco(content: _CocoFile, path: Path, mapped: Mapping[str, str]) -> list[PictureAnnotation]:
    labels = {each["id"]: each["name"] for each in content["categories"]}
    shapes: dict[int | str, list[Shape]] = {each["id"]: [] for each in content["images"]}
    if len(labels) < len(content["categories"]) or len(shapes) < len(content["images"]):
        raise ImageError(f"{path}: two images or two categories have one id, so that regions are of both: save it anew")
    for number, region in enumerate(content["annotations"]):
        label, of_image = labels.get(region["category_id"]), shapes.get(region["image_id"])
        if label is None or of_image is None:
            raise ImageError(f"{path}: annotations/{number} names a category or image that is not there: save it anew")
        outline = region["segmentation"]
        of_image.append(
            CocoPolygons(label, outline)
            if isinstance(outline, list)
            else CocoRuns(label, outline["size"], outline["counts"])
        )
    return [
        PictureAnnotation(
            _name_of(each["file_name"]), path, (each["width"], each["height"]), shapes[each["id"]], mapped
        )
        for each in content["images"]
    ]


def _squidle(content: list[_SquidlePoint], path: Path, mapped: Mapping[str, str]) -> list[PictureAnnotation]:
    points: dict[str, list[Shape]] = defaultdict(list)
    for number, each in enumerate(content):
        if each.get("point.polygon"):
            raise ImageError(f"{path}: {number}: is a polygon, and only points of Squidle+ are read: leave it out")
        label = each.get("label.name")
        # A point without a label is none yet.
        points[each["point.media.key"]] += [FractionalPoint(label, each["point.x"], each["point.y"])] if label else []
    return [
        PictureAnnotation(_name_of(name), path, None, shapes, mapped, of_points=True) for name, shapes in points.items()
    ]


def _points_of(path: Path, mapped: Mapping[str, str]) -> list[PictureAnnotation]:
    try:
        rows = csv.reader(io.StringIO(read_text(path, _MOST_BYTES), newline=""))
        columns = [name.strip().lower() for name in next(rows, list[str]())]
        label = next((name for name in _CORALNET_LABELS if name in columns), "")
        if not label or not set(_CORALNET_COLUMNS) <= set(columns):
            raise ImageError(
                f"{path}: the columns are {legible(', '.join(columns), 200)}: export annotations from CoralNet, with "
                "Name, Row, Column and Label"
            )
        at = [columns.index(name) for name in (*_CORALNET_COLUMNS, label)]
        points: dict[str, list[Shape]] = defaultdict(list)
        for cells in rows:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) <= max(at):
                raise ImageError(f"{path}: line {rows.line_num}: it ends before all columns: export it anew")
            if len(cells) > len(columns):
                raise ImageError(
                    f"{path}: line {rows.line_num} has {len(cells)} cells, the header {len(columns)}: put text with a "
                    "comma in quotes"
                )
            name, row, column, code = (cells[each].strip() for each in at)
            if not all(each.isdecimal() and len(each) <= _MOST_DIGITS for each in (row, column)):
                raise ImageError(f"{path}: line {rows.line_num}: row and column are not numbers: export it anew")
            # A point without a label is none yet.
            points[name] += [LabelledPoint(code, int(row), int(column))] if code else []
    except (SettingsError, csv.Error) as error:
        raise ImageError(f"{path}: {error}: give a CSV table") from error
    return [
        PictureAnnotation(_name_of(name), path, None, each, mapped, of_points=True) for name, each in points.items()
    ]


def _name_of(text: str) -> PurePosixPath:
    """A path as Windows or other systems write it."""
    return PurePosixPath(text.replace("\\", "/"))

"""Masks in the formats of annotation tools: points of CoralNet and Squidle+, polygons, regions, label maps."""

import io
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.annotations import LabelledPoint
from benchmarks.accuracy.labels import Labels
from engine.cover.regions import enclosed_pixels, ground_view, is_quadrilateral
from engine.errors import ImageError
from engine.gdal import traced_mask
from engine.quantities import Extent
from engine.rasters.outlines import Simplification
from engine.system.text import csv_table
from service.results.saved import read_saved_mask
from service.surveys.pictures import SurveyClass, SurveyPicture

AnnotationFormat = Literal["coralnet", "labelme", "coco", "squidle", "taglab"]

_LABELME_VERSION: Final = "5.5.0"
"""The version of labelme whose files these are like."""

_NO_LABEL: Final = (0, 0, 0)
"""TagLab's colour for pixels without a label."""

_COVER_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Region:
    """The connected pixels of one class; pixels are connected by their sides.

    `outline` is `int32[n, 2]`, x and y of the pixels at its outer edge, at least three points; `pixels` is `bool[h, w]`
    within its bounding box, whose corner is `left` and `top`.
    """

    class_index: int
    outline: NDArray[np.int32]
    pixels: NDArray[np.bool_]
    left: int
    top: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the points of a picture, or of its region of interest, lie.

    They are on a grid of rows and columns, unless `random_points` says how many pixels are drawn at random, by `seed`.
    """

    rows: int
    columns: int
    random_points: int | None
    seed: int


def read_mask(picture: SurveyPicture) -> Labels:
    """Read the mask that `pseg predict` wrote: class indices `[H, W]`, of the picture's own size.

    Raises ImageError if there is none, it cannot be read, or it is not one class a pixel at that size.
    """
    record = picture.entry.record
    if not picture.at_full_size:
        raise ImageError("the mask is not of the picture's size: predict without --mask-size inference")
    covered = sum(each["cover"] for each in record["cover"])
    # There is no cover where nothing counts: a raster without data, or a picture of a class that is left out.
    if covered > 0 and abs(covered - 1) > _COVER_TOLERANCE:
        raise ImageError("its classes overlap, and these formats have one class a pixel")
    return read_saved_mask(picture.entry, picture.folder)


def class_mapping(classes: Sequence[SurveyClass], labels: Mapping[str, str]) -> dict[str, Any]:
    """Say which label stands for which class: value in masks, as text, to label, name, URN and colour.

    `labels` maps the name of a class to its label, where that is not the name itself.
    """
    return {
        str(index): {
            "label": labels.get(each.name, each.name),
            "name": each.name,
            "id": each.id,
            "color": list(each.color),
        }
        for index, each in enumerate(classes)
    }


def regions_of(mask: Labels) -> Iterator[Region]:
    """Find the regions of a mask, class indices `[H, W]`.

    Every pixel belongs to one region, and to the outlines of those around it.
    """
    for class_index in np.unique(mask).tolist():
        plane = (mask == class_index).astype(np.uint8)
        found = cast("Any", cv2.connectedComponentsWithStats(plane, connectivity=4))
        numbers, boxes = cast("NDArray[np.int32]", found[1]), cast("NDArray[np.int32]", found[2])
        for number, (left, top, width, height, _) in enumerate(boxes.tolist()[1:], 1):
            pixels = numbers[top : top + height, left : left + width] == number
            shape = pixels.astype(np.uint8)
            contours = cast("Any", cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE))[0]
            points = cast("NDArray[np.int32]", contours[0][:, 0] + np.array([left, top], np.int32))
            missing = max(0, 3 - len(points))
            outline = np.concatenate([points, np.repeat(points[-1:], missing, axis=0)])
            yield Region(int(class_index), outline, pixels, left, top)


def _outlines_of(mask: Labels, simplify: Extent | None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Class and outer outline of each region, float[n, 2] or int[n, 2], in labelme's coordinates."""
    if simplify is None or simplify.pixels is None:
        yield from ((each.class_index, each.outline) for each in regions_of(mask))
        return
    traced = [*traced_mask(mask)]
    # labelme counts from the middle of the first pixel.
    last = np.array(mask.shape[::-1]) - 1
    for (index, _), rings in zip(traced, Simplification(simplify.pixels).simplified(traced), strict=True):
        yield index, np.clip(rings[0][:-1] - 0.5, 0, last)


def labelme_record(
    picture: SurveyPicture, mask: Labels, labels: Sequence[str], folder: Path, simplify: Extent | None = None
) -> dict[str, Any]:
    """Write a mask, class indices `[H, W]`, as labelme does.

    labelme's polygons have no holes. Drawn in their order, each over those before, as labelme draws them, they give the
    mask again, pixel for pixel if outlines are not simplified (by a tolerance in pixels): what lies in a hole comes
    after what lies around it.
    """
    regions = sorted(
        ((index, outline) for index, outline in _outlines_of(mask, simplify) if index < len(labels)),
        key=lambda each: -cv2.contourArea(each[1].astype(np.float32)),
    )
    shapes: list[dict[str, Any]] = [
        {
            "label": labels[index],
            "points": outline.astype(float).tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for index, outline in regions
    ]
    simplified = {} if simplify is None else {"pseg": {"simplify": str(simplify)}}
    return {
        **simplified,
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": os.path.relpath(picture.path, folder),
        "imageData": None,
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }


class CocoDataset:
    """The pictures of a survey and their regions in COCO's format, with run lengths, which keep every pixel."""

    def __init__(self, labels: Sequence[str], folder: Path) -> None:
        self._folder = folder
        self._labels = labels
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, picture: SurveyPicture, mask: Labels) -> None:
        number, (height, width) = len(self._images) + 1, mask.shape
        name = os.path.relpath(picture.path, self._folder)
        self._images.append({"id": number, "file_name": name, "height": height, "width": width})
        for each in regions_of(mask):
            if each.class_index < len(self._labels):
                box_height, box_width = each.pixels.shape
                self._annotations.append(
                    {
                        "id": len(self._annotations) + 1,
                        "image_id": number,
                        "category_id": each.class_index + 1,
                        "segmentation": {"size": [height, width], "counts": _run_lengths(each, height, width)},
                        "area": int(np.count_nonzero(each.pixels)),
                        "bbox": [each.left, each.top, box_width, box_height],
                        "iscrowd": 0,
                    }
                )

    def record(self) -> dict[str, Any]:
        """Write it as JSON values; the numbers of categories are class indices plus 1."""
        categories = [{"id": index + 1, "name": label, "supercategory": ""} for index, label in enumerate(self._labels)]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}


def _run_lengths(region: Region, height: int, width: int) -> list[int]:
    """Lengths of runs down the columns, from left to right; the first run is outside."""
    box_height, box_width = region.pixels.shape
    columns = np.zeros((box_width, height), np.bool_)
    columns[:, region.top : region.top + box_height] = region.pixels.T
    inside = np.concatenate([[False], columns.ravel(), [False]])
    changes = np.flatnonzero(inside[1:] != inside[:-1]) + region.left * height
    return np.diff([0, *changes.tolist(), height * width]).tolist()


def taglab_colors(classes: Sequence[SurveyClass]) -> list[tuple[int, int, int]]:
    """Choose colours by which TagLab can tell classes apart: those of the classes, in index order.

    A grey takes the place of one that is another class's, or black, which TagLab takes for no label.
    """
    chosen: list[tuple[int, int, int]] = []
    for each in classes:
        greys = ((value, value, value) for value in range(255, 0, -1))
        free = (color for color in (each.color, *greys) if color != _NO_LABEL and color not in chosen)
        chosen.append(next(free))
    return chosen


def taglab_dictionary(colors: Sequence[tuple[int, int, int]], labels: Sequence[str]) -> dict[str, Any]:
    """Write the dictionary of labels that TagLab loads, by whose colours it reads label maps."""
    named = zip(colors, labels, strict=True)
    return {
        "Name": "pseg",
        "Description": "",
        "Labels": [
            {
                "id": label,
                "name": label,
                "description": None,
                "fill": list(color),
                "border": [200, 200, 200],
                "visible": True,
            }
            for color, label in named
        ],
    }


def taglab_map(mask: Labels, colors: Sequence[tuple[int, int, int]]) -> bytes:
    """Paint a mask, class indices `[H, W]`, in the colours of its classes; pixels without a class are black."""
    palette = np.zeros((int(mask.max()) + len(colors) + 1, 3), np.uint8)
    palette[: len(colors)] = colors
    file = io.BytesIO()
    Image.fromarray(palette[mask]).save(file, "PNG")
    return file.getvalue()


def labelled_points(
    picture: SurveyPicture, mask: Labels, labels: Sequence[str], placement: Placement
) -> list[LabelledPoint]:
    """Read the labels of points off a mask, class indices `[H, W]`; none where a pixel has no class.

    The points lie inside the region of interest where there is one; raises ImageError if it was not found.
    """
    region = picture.entry.record.get("roi")
    if region is not None and region["error"] is not None:
        raise ImageError(f"no region of interest, in which points could lie: {region['error']}")
    corners = None if region is None else np.array(region["polygon"], np.float64)
    if placement.random_points is None:
        places = _grid(mask.shape, placement, corners)
    else:
        places = _random_places(Path(picture.path).name, mask.shape, placement, corners)
    known = [(int(row), int(column), int(mask[row, column])) for row, column in places]
    return [LabelledPoint(labels[value], row, column) for row, column, value in known if value < len(labels)]


def _grid(shape: tuple[int, ...], placement: Placement, corners: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Rows and columns `int64[n, 2]` of a grid over a picture or a region, even on the ground where four corners tell.

    Of another region, the grid is that of its bounding box, as far as it lies inside.
    """
    height, width = shape
    across, down = 2 * np.arange(placement.columns) + 1, 2 * np.arange(placement.rows) + 1
    steps = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
    counts = 2 * np.array([placement.columns, placement.rows])
    if corners is None:
        return (steps * [width, height] // counts)[:, ::-1]
    if is_quadrilateral(corners):
        view = np.linalg.inv(ground_view(corners))
        points = cv2.perspectiveTransform((steps / counts)[np.newaxis], view)[0]
    else:
        low, high = corners.min(axis=0), corners.max(axis=0)
        points = low + steps * (high - low) / counts
    columns, rows = np.floor(points).astype(np.int64).T
    seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows[seen], columns[seen]
    inside = enclosed_pixels(corners, (height, width))[rows, columns]
    return np.stack([rows[inside], columns[inside]], axis=1)


def _random_places(
    name: str, shape: tuple[int, ...], placement: Placement, corners: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Rows and columns `int64[n, 2]` of pixels of a picture or a region, each drawn once."""
    height, width = shape
    pixels = None if corners is None else np.flatnonzero(enclosed_pixels(corners, (height, width)))
    available = height * width if pixels is None else len(pixels)
    # Of each picture's own name: the same points whatever other pictures there are.
    generator = np.random.default_rng([placement.seed, zlib.crc32(os.fsencode(name))])
    count = min(placement.random_points or 0, available)
    drawn = np.sort(generator.choice(available, count, replace=False, shuffle=False))
    return np.stack(np.divmod(drawn if pixels is None else pixels[drawn], width), axis=1)


def squidle_records(name: str, mask: Labels, points: Iterable[LabelledPoint]) -> list[dict[str, Any]]:
    """Write points under the names that Squidle+ gives the columns of annotations.

    Places are fractions of the mask's width and height, those of the centres of pixels.
    """
    height, width = mask.shape
    return [
        {
            "point.media.key": name,
            "point.x": (each.column + 0.5) / width,
            "point.y": (each.row + 0.5) / height,
            "label.name": each.label,
            "needs_review": True,
        }
        for each in points
    ]


def coralnet_csv(points: Iterable[tuple[str, LabelledPoint]]) -> bytes:
    """Write points as the table that CoralNet takes, UTF-8 CSV.

    Rows and columns are counted from 0 at the top left.
    """
    rows = ((name, each.row, each.column, each.label) for name, each in points)
    return csv_table(["Name", "Row", "Column", "Label"], rows)

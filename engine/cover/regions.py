"""Regions of interest: how they are written, where they lie in a picture, and what of the ground they hold."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

import cv2
import numpy as np
import numpy.typing as npt

from engine.cover.errors import RegionError
from engine.cover.frame import Flags, Points, Real, find_frame
from engine.quantities import LENGTHS_M

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_QUADRAT: Final = re.compile(rf"({_NUMBER})(mm|cm|m)x({_NUMBER})(mm|cm|m)", re.IGNORECASE)
_POINTS: Final = re.compile(rf"{_NUMBER},{_NUMBER}( {_NUMBER},{_NUMBER})*")
_RECTANGLE: Final = re.compile(rf"{_NUMBER}(,{_NUMBER}){{3}}")
_POLYGON: Final = "polygon:"
_MOST_POINTS: Final = 1000
_ROUNDING_PX = 1e-6
_MOST_BYTES: Final = 1 << 20
_PIXELS_AT_ONCE: Final = 1 << 18
_WRITTEN_AS: Final = "give frame, frame:CLASS, polygon:FILE, polygon:X,Y X,Y X,Y … or X,Y,W,H"


class RegionMethod(StrEnum):
    """How a region is known."""

    FRAME = "frame"
    """The inner edge of a frame on the ground is found in the mask."""
    POLYGON = "polygon"
    RECTANGLE = "rectangle"


@dataclass(frozen=True, slots=True)
class RegionRequest:
    """Where the region of interest lies."""

    method: RegionMethod
    frame_class: str = ""  # by name, URN or index; empty where it is no frame
    # x and y of the polygon's corners in pixels of the photograph, from its upper left corner
    points: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        """As `parse_region` reads it; a polygon is written with its points, not with its file."""
        if self.method is RegionMethod.FRAME:
            return f"frame:{self.frame_class}"
        return _POLYGON + " ".join(f"{x:.10g},{y:.10g}" for x, y in self.points)


@dataclass(frozen=True, slots=True)
class QuadratSize:
    """The sides of a quadrat on the ground."""

    text: str  # as the user wrote it
    area_m2: float

    def __str__(self) -> str:
        return self.text


def parse_region(text: str) -> RegionRequest:
    """Read where a region lies; ValueError if the text is none of `_WRITTEN_AS`, or its file holds no polygon.

    >>> parse_region("10,20,30,40").points
    ((10.0, 20.0), (40.0, 20.0), (40.0, 60.0), (10.0, 60.0))
    >>> parse_region("frame:quadrat").frame_class
    'quadrat'
    """
    if text == "frame" or text.startswith("frame:"):
        return RegionRequest(RegionMethod.FRAME, text.partition(":")[2] or "frame")
    if text.startswith(_POLYGON):
        named = text.removeprefix(_POLYGON)
        points = _points_of(named) if _POINTS.fullmatch(named) else _points_in(Path(named))
        _require_polygon(points)
        return RegionRequest(RegionMethod.POLYGON, points=points)
    if not _RECTANGLE.fullmatch(text):
        raise ValueError(_WRITTEN_AS)
    x, y, width, height = map(float, text.split(","))
    if not width or not height:
        raise ValueError("the rectangle has no area: give X,Y,W,H in pixels")
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    _require_polygon(corners)
    return RegionRequest(RegionMethod.RECTANGLE, points=corners)


def names_file(text: str) -> bool:
    """Tell whether a region is read from a file.

    >>> names_file("polygon:area.json"), names_file("polygon:1,1 9,1 9,9")
    (True, False)
    """
    return text.startswith(_POLYGON) and not _POINTS.fullmatch(text.removeprefix(_POLYGON))


def parse_quadrat(text: str) -> QuadratSize:
    """Read the size of a quadrat: two lengths with their units (mm, cm or m) and an x between; else ValueError.

    >>> parse_quadrat("50cmx0.5m").area_m2
    0.25
    """
    found = _QUADRAT.fullmatch(text.strip())
    if found is None:
        raise ValueError("give two lengths with their units, such as 0.5mx0.5m or 50cmx50cm")
    area_m2 = float(found[1]) * LENGTHS_M[found[2].lower()] * float(found[3]) * LENGTHS_M[found[4].lower()]
    if not 0 < area_m2 < math.inf:
        raise ValueError("the quadrat has no area that is a number: give two lengths above 0, such as 50cmx50cm")
    return QuadratSize(text.strip(), area_m2)


def _points_of(text: str) -> tuple[tuple[float, float], ...]:
    pairs = [each.split(",") for each in text.split(" ")]
    return tuple((float(x), float(y)) for x, y in pairs)


def _points_in(path: Path) -> tuple[tuple[float, float], ...]:
    try:
        with path.open("rb") as file:
            content: Any = json.loads(file.read(_MOST_BYTES))
        points = [(float(x), float(y)) for x, y in cast("list[Any]", content)]
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("the file holds no list of corners: write [[x, y], [x, y], [x, y], …] in pixels") from error
    return tuple(points)


def _require_polygon(points: Sequence[tuple[float, float]]) -> None:
    if not 3 <= len(points) <= _MOST_POINTS:
        raise ValueError(f"a polygon has 3 to {_MOST_POINTS} corners, and this one has {len(points)}")
    if not all(math.isfinite(each) and 0 <= each < 1 << 31 for point in points for each in point):
        raise ValueError("every corner is given by two numbers, x and y in pixels from the upper left corner")
    if _signed_area(np.array(points)) == 0:
        raise ValueError("the polygon has no area")


def _signed_area(corners: Points) -> float:
    following = np.roll(corners, -1, axis=0)
    return float((corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum() / 2)


@dataclass(frozen=True, slots=True, eq=False)
class FoundRegion:
    """A region in a picture."""

    corners: Points  # float64[N, 2], x and y in pixels of the mask from its upper left corner
    quality: dict[str, object]  # how well it is known; empty where it was given


def find_region(
    request: RegionRequest, frame: Flags | None, scale: tuple[float, float], shape: Sequence[int]
) -> FoundRegion:
    """Find a region in the mask of a picture; RegionError if it is not found, or lies outside of the picture.

    `frame` is bool[H, W], pixels of the frame; None where it is no frame. `scale`: pixels of the mask for one of the
    photograph, along its width and height.
    """
    if frame is not None:
        edge = find_frame(frame)
        return FoundRegion(
            edge.corners,
            {
                "shown": [round(each, 4) for each in edge.shown],
                "residual_px": round(edge.residual_px, 3),
                "hidden_corners": edge.hidden_corners,
            },
        )
    corners = np.array(request.points) * scale
    height, width = shape
    # The corners of the picture itself may lie a little outside of the mask by rounding.
    if (corners > [width + _ROUNDING_PX, height + _ROUNDING_PX]).any():
        raise RegionError(f"the region reaches beyond the picture, whose mask has {width}×{height} pixels (w×h)")
    return FoundRegion(np.minimum(corners, [width, height]), {})


@dataclass(frozen=True, slots=True, eq=False)
class GroundPixels:
    """Pixels of a region and their shares of its area on the ground."""

    rows: slice  # where the region lies in the mask
    columns: slice
    inside: Flags  # bool[h, w] of that part
    shares: Real  # float64[N] of the pixels inside, row by row; they sum to 1

    def class_shares(self, mask: npt.NDArray[Any], classes: int) -> Real:
        """Add up the shares of at least `classes` classes of a mask, indices [H, W] or bool[K, H, W]."""
        part = mask[..., self.rows, self.columns]
        if mask.dtype == np.bool_:
            total = np.zeros(len(mask))
        else:
            total = np.zeros(max(classes, int(np.max(part, where=self.inside, initial=0)) + 1))
        first = 0
        for rows in _strips(self.inside.shape):
            seen = part[..., rows, :][..., self.inside[rows]]
            shares = self.shares[first : first + seen.shape[-1]]
            first += len(shares)
            total += (
                (seen * shares).sum(axis=-1)
                if seen.dtype == np.bool_
                else np.bincount(seen, shares, minlength=len(total))
            )
        return total


def ground_pixels(corners: Points, shape: Sequence[int]) -> GroundPixels:
    """Weigh the pixels inside of corners, float64[N, 2], by their area on the ground; RegionError if there are none.

    The ground is flat, and four corners are those of a rectangle there, whose perspective tells the weights; of a
    region with another number of corners every pixel counts alike.
    """
    height, width = shape
    left, top = (max(0, math.floor(each)) for each in corners.min(axis=0))
    right, bottom = (
        min(math.ceil(each), most) for each, most in zip(corners.max(axis=0), (width, height), strict=True)
    )
    if right <= left or bottom <= top:
        raise RegionError("the region holds no pixel")
    rows, columns = slice(top, bottom), slice(left, right)
    inside = enclosed_pixels(corners - [left, top], (bottom - top, right - left))
    if not inside.any():
        raise RegionError("the region holds no pixel")
    if not is_quadrilateral(corners):
        count = int(inside.sum())
        return GroundPixels(rows, columns, inside, np.full(count, 1 / count))
    view = ground_view(corners)
    # How much a projective map enlarges areas at a point: its determinant over the cube of the third coordinate.
    weights = np.empty(int(inside.sum()))
    x_part, y_part, constant = map(float, view[2])
    across = x_part * np.arange(left + 0.5, right) + constant
    first = 0
    for strip in _strips(inside.shape):
        down = y_part * np.arange(float(top + strip.start) + 0.5, float(top + strip.stop))
        depth = (down[:, np.newaxis] + across)[inside[strip]]
        weights[first : first + len(depth)] = np.abs(1 / depth**3)
        first += len(depth)
    weights /= weights.sum()
    return GroundPixels(rows, columns, inside, weights)


def _strips(shape: Sequence[int]) -> Iterator[slice]:
    """Rows of a picture, so many at a time that numbers for each of their pixels take little memory."""
    height, width = shape
    step = max(1, _PIXELS_AT_ONCE // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def is_quadrilateral(corners: Points) -> bool:
    """Whether corners are four of a convex region, and so those of a rectangle seen from somewhere."""
    if len(corners) != 4:
        return False
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return bool((turns > 0).all() or (turns < 0).all())


def ground_view(corners: Points) -> Real:
    """The projective map, float64[3, 3], from the picture to a square of side 1 on the ground."""
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    return np.asarray(cv2.getPerspectiveTransform(corners.astype(np.float32), square), np.float64)


def enclosed_pixels(corners: Points, shape: tuple[int, int]) -> Flags:
    """Find the pixels, bool[H, W], whose centres a polygon encloses, by the rule of even and odd crossings.

    Corners are float64[n, 2], x and y from the corner of the first pixel.
    """
    height, width = shape
    crossed = np.zeros((height, width + 1), np.bool_)
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y == next_y:
            continue
        first, last = (min(max(math.ceil(each - 0.5), 0), height) for each in sorted((float(y), float(next_y))))
        rows = np.arange(first, last)
        at = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
        crossed[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossed, axis=1)[:, :width]

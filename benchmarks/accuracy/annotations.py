"""Labels as people draw them in annotation tools: labelme's shapes, COCO's regions, points; drawn as label masks."""

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, UnidentifiedImageError

from benchmarks.accuracy.labels import IGNORED_LABEL, LabelNames, Labels
from engine.cover.regions import enclosed_pixels
from engine.errors import ImageError
from engine.system.text import legible

_SHOWN: Final = 80
_MOST_BITS: Final = 60


@dataclass(slots=True)
class Canvas:
    """The labels of a picture while they are drawn, each over those before.

    `pixels`, of Pillow's mode `I`, are class indices, or 255 where nothing is drawn; `mapped` are class names of
    labels, as a class_mapping.json beside the annotations says; `where` is for messages.
    """

    pixels: Image.Image
    names: LabelNames
    mapped: Mapping[str, str]
    where: str

    def value_of(self, label: str) -> int:
        """The class index that a label stands for, or 255."""
        return self.names.index_of(label, self.mapped, self.where)

    def require_reached(self, corners: npt.ArrayLike) -> None:
        """Refuse (ValueError) a shape that lies outside, or reaches further out than the picture is wide or high.

        It lies between the corners `[n, 2]`, x and y.
        """
        size, points = np.array(self.pixels.size), np.asarray(corners, np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        if (high < 0).any() or (low > size).any() or (low < -size).any() or (high > 2 * size).any():
            raise ValueError(
                f"a shape from {low[0]:g},{low[1]:g} to {high[0]:g},{high[1]:g} is none of {size[0]}x{size[1]} pixels: "
                "annotate the picture itself"
            )

    def paste(self, value: int, pixels: npt.NDArray[np.bool_], left: int, top: int) -> None:
        """Draw pixels whose bounding box begins at a place."""
        self.pixels.paste(value, (left, top), Image.fromarray(pixels.astype(np.uint8) * 255))


class Shape(Protocol):
    """A label and the pixels that it is for."""

    def draw(self, canvas: Canvas) -> None:
        """Draw it over what is drawn already.

        ValueError says why it has no pixels of the picture; ImageError, that its label stands for no class.
        """
        ...


@dataclass(frozen=True, slots=True)
class PictureAnnotation:
    """What one picture, by its name in the annotations, is annotated with.

    `size` is width and height, None where the annotations do not say; shapes are in the order in which they are drawn;
    `mapped` is as of `Canvas`; with `of_points`, only single pixels are labelled, and nothing is known of those around.
    """

    picture: PurePath
    source: Path
    size: tuple[int, int] | None
    shapes: Sequence[Shape]
    mapped: Mapping[str, str]
    of_points: bool = False

    def draw(self, size: tuple[int, int], names: LabelNames) -> Labels:
        """Draw the labels on a picture that, upright, has a size (width, height): `int32[H, W]`, class indices.

        Where nothing is drawn they are 255, or the class of pixels without a label. Raises ImageError where the picture
        is of another size, a label stands for no class, or a shape has no pixels.
        """
        if self.size not in {None, size}:
            raise ImageError(
                f"{self.source}: {legible(str(self.picture))} is {size[0]}x{size[1]} pixels, and was "
                f"{'x'.join(map(str, self.size or ()))} when it was annotated: annotate the picture itself"
            )
        unlabelled, where = names.unlabelled, str(self.source)
        blank = IGNORED_LABEL if unlabelled is None else names.index_of(unlabelled, {}, where)
        canvas = Canvas(Image.new("I", size, blank), names, self.mapped, where)
        for shape in self.shapes:
            try:
                shape.draw(canvas)
            except ValueError as error:
                raise ImageError(f"{self.source}: {legible(str(self.picture))}: {error}") from error
        return np.asarray(canvas.pixels, np.int32)


@dataclass(frozen=True, slots=True)
class LabelmeShape:
    """A shape of labelme, drawn by Pillow as labelme draws it, so that the same pixels belong to it.

    `kind` is labelme's `shape_type`; points are x and y; `mask` is PNG in base 64, None unless the kind is `mask`.
    """

    label: str
    kind: str
    points: Sequence[tuple[float, float]]
    mask: str | None

    def draw(self, canvas: Canvas) -> None:
        value, count = canvas.value_of(self.label), len(self.points)
        pen = ImageDraw.Draw(canvas.pixels)
        if count and self.kind not in {"circle", "point"}:
            canvas.require_reached(self.points)
        if self.kind in {"polygon", "oriented_rectangle"} and count > 2:
            pen.polygon(self.points, fill=value, outline=value)
        elif self.kind == "rectangle" and count == 2:
            (left, right), (top, bottom) = (sorted(each) for each in zip(*self.points, strict=True))
            pen.rectangle((left, top, right, bottom), fill=value, outline=value)
        elif self.kind == "circle" and count == 2:
            (x, y), edge = self.points
            radius = math.dist((x, y), edge)
            corners = (x - radius, y - radius), (x + radius, y + radius)
            canvas.require_reached(corners)
            pen.ellipse(corners, fill=value, outline=value)
        elif self.kind == "point" and count == 1:
            ((x, y),) = self.points
            LabelledPoint(self.label, math.floor(y), math.floor(x)).draw(canvas)
        elif self.kind == "mask" and count == 2 and self.mask is not None:
            (left, top), (right, bottom) = (map(int, point) for point in self.points)
            canvas.paste(value, _embedded_mask(self.mask, (bottom - top + 1, right - left + 1)), left, top)
        else:
            raise ValueError(
                f"a shape of type {legible(self.kind, _SHOWN)} with {count} points encloses no pixels: label with "
                "polygons, rectangles, circles, masks or points"
            )


def _embedded_mask(text: str, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            # Before it is decoded: a small file may declare any size.
            if image.size[::-1] == shape:
                return np.asarray(image.convert("L")) > 0
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the mask of a shape is not a PNG ({error})") from error
    raise ValueError("the mask of a shape is not of the size that its points say: save it anew")


@dataclass(frozen=True, slots=True)
class LabelledPoint:
    """A labelled pixel; rows and columns are counted from 0."""

    label: str
    row: int
    column: int

    def draw(self, canvas: Canvas) -> None:
        width, height = canvas.pixels.size
        if not (0 <= self.row < height and 0 <= self.column < width):
            raise ValueError(f"the point in row {self.row}, column {self.column} lies outside {width}x{height} pixels")
        canvas.pixels.putpixel((self.column, self.row), canvas.value_of(self.label))


@dataclass(frozen=True, slots=True)
class FractionalPoint:
    """A labelled place, in fractions of the width and the height of the picture."""

    label: str
    x: float
    y: float

    def draw(self, canvas: Canvas) -> None:
        width, height = canvas.pixels.size
        LabelledPoint(self.label, math.floor(self.y * height), math.floor(self.x * width)).draw(canvas)


@dataclass(frozen=True, slots=True)
class CocoPolygons:
    """A region whose parts are polygons: x and y of their corners in turn, from the corner of the first pixel.

    The pixels whose centres a part encloses belong to it.
    """

    label: str
    parts: Sequence[Sequence[float]]

    def draw(self, canvas: Canvas) -> None:
        value, (width, height) = canvas.value_of(self.label), canvas.pixels.size
        if not self.parts:
            raise ValueError("a region has no outline, as where only boxes were drawn: label with polygons")
        for part in self.parts:
            if len(part) % 2 or len(part) < 6:
                raise ValueError(f"a polygon has {len(part)} coordinates: give x and y of at least three corners")
            corners = np.array(part, np.float64).reshape(-1, 2)
            canvas.require_reached(corners)
            left, top = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int).tolist()
            right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int).tolist()
            if right > left and bottom > top:
                pixels = enclosed_pixels(corners - [left, top], (bottom - top, right - left))
                canvas.paste(value, pixels, left, top)


@dataclass(frozen=True, slots=True)
class CocoRuns:
    """A region as the lengths of runs down the columns, from left to right; the first run is outside.

    `size` is height and width of the picture; the lengths are numbers or COCO's text.
    """

    label: str
    size: tuple[int, int]
    counts: Sequence[int] | str

    def draw(self, canvas: Canvas) -> None:
        height, width = self.size
        counts = _numbers_of(self.counts) if isinstance(self.counts, str) else self.counts
        if (width, height) != canvas.pixels.size or min(counts, default=0) < 0 or sum(counts) != height * width:
            raise ValueError("the run lengths of a region are not those of the whole picture")
        inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
        canvas.paste(canvas.value_of(self.label), inside, 0, 0)


def _numbers_of(text: str) -> list[int]:
    """Read COCO's text: five bits a letter, the lowest first; the fourth number and later ones are differences.

    Raises ValueError where a letter stands for nothing.
    """
    numbers: list[int] = []
    number = shift = 0
    for letter in text.encode("ascii", "replace"):
        digit = letter - ord("0")
        if not 0 <= digit < 64 or shift > _MOST_BITS:
            raise ValueError("the run lengths of a region are not a text of COCO")
        number |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            number -= 1 << shift
        numbers.append(number + (numbers[-2] if len(numbers) > 2 else 0))
        number = shift = 0
    return numbers

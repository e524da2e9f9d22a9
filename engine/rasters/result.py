"""What is known of a raster that was segmented: its mask lies in a file, and is never whole in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from engine.images import Capture
from engine.segmentation.confidence import Confidence
from engine.segmentation.pipeline import Failed, Segmented
from engine.segmentation.steps import ClassCover, Mask

Source = TypeVar("Source")
Encoded = TypeVar("Encoded")
_Place = TypeVar("_Place")


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a raster lies on the earth."""

    crs_wkt: str | None  # None where the file names no coordinate reference system
    # x of the corner, x per column, x per row, y of the corner, y per column, y per row
    transform: tuple[float, float, float, float, float, float]
    area_or_point: str = "Area"  # what a pixel's coordinates mean, as GeoTIFF says it

    def place(self, column: float, row: float) -> tuple[float, float]:
        """X and y of a place in the raster, counted from the corner of the first pixel."""
        x, per_column, x_per_row, y, y_per_column, per_row = self.transform
        return x + column * per_column + row * x_per_row, y + column * y_per_column + row * per_row

    def bounds(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Enclose a raster: smallest x, smallest y, largest x, largest y, in the units of its coordinates.

        >>> Georeference(None, (500.0, 0.5, 0.0, 900.0, 0.0, -0.5)).bounds(4, 2)
        (500.0, 899.0, 502.0, 900.0)
        """
        xs, ys = zip(*(self.place(column, row) for column in (0, width) for row in (0, height)), strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """A raster and its mask, small enough to be shown."""

    pixels: NDArray[np.uint8]  # [h, w, 3], RGB; pixels without data are black
    mask: Mask  # of about that size; class indices, or bool[K, h, w]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedRaster(Generic[Source, Encoded]):
    """One raster that was segmented."""

    source: Source  # as it was handed in
    encoded: Encoded  # where its files are
    width: int  # of raster and mask, in pixels
    height: int  # of raster and mask, in pixels
    valid_pixels: int  # those that hold data, and of which the covers are shares
    georeference: Georeference
    crs: str | None  # its code, such as `EPSG:32755`, else its well-known text; None where the file names none
    capture: Capture  # the position of its middle
    notes: tuple[str, ...]  # what people should know of the reading; phrases, mostly none
    covers: tuple[ClassCover, ...]  # one a class, in index order, with areas where they are known
    tiling: Mapping[str, object]  # how it was cut, for the provenance
    network_size: tuple[int, int]  # width and height of a tile, in pixels
    timings_ms: Mapping[str, float]  # decode, preprocess, run, postprocess and encode
    overview: Overview | None = None  # None where nobody wants to see it
    confidence: Confidence | None = None  # None where nobody asked

    def stored(self, place: _Place, timings_ms: Mapping[str, float]) -> "SegmentedRaster[Source, _Place]":
        """The same, once its files are where they belong."""
        return cast("SegmentedRaster[Source, _Place]", replace(self, encoded=cast(Any, place), timings_ms=timings_ms))

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Smallest x, smallest y, largest x, largest y; None without a coordinate reference system."""
        return None if self.crs is None else self.georeference.bounds(self.width, self.height)


Result = Segmented[Source, Encoded] | SegmentedRaster[Source, Encoded] | Failed[Source]
"""What became of an image."""

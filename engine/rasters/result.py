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
    """Where a raster lies on the earth.

    Attributes:
        crs_wkt: the coordinate reference system; None where the file names none.
        transform: x of the corner, x per column, x per row, y of the corner, y per column, y per row.
        area_or_point: what a pixel's coordinates mean, as GeoTIFF says it.
    """

    crs_wkt: str | None
    transform: tuple[float, float, float, float, float, float]
    area_or_point: str = "Area"

    def bounds(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Enclose a raster of `width` columns and `height` rows.

        >>> Georeference(None, (500.0, 0.5, 0.0, 900.0, 0.0, -0.5)).bounds(4, 2)
        (500.0, 899.0, 502.0, 900.0)

        Returns:
            Smallest x, smallest y, largest x, largest y, in the units of the coordinate reference system.
        """
        x, per_column, x_per_row, y, y_per_column, per_row = self.transform
        corners = [(column, row) for column in (0, width) for row in (0, height)]
        xs = [x + column * per_column + row * x_per_row for column, row in corners]
        ys = [y + column * y_per_column + row * per_row for column, row in corners]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """A raster and its mask, small enough to be shown.

    Attributes:
        pixels: uint8[h, w, 3], RGB; pixels without data are black.
        mask: of about that size; class indices, or bool[K, h, w].
    """

    pixels: NDArray[np.uint8]
    mask: Mask


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedRaster(Generic[Source, Encoded]):
    """One raster that was segmented.

    Attributes:
        source: as it was handed in.
        encoded: where its files are.
        width: of raster and mask, in pixels.
        height: of raster and mask, in pixels.
        valid_pixels: those that hold data, and of which the covers are shares.
        georeference: where it lies.
        crs: code of its coordinate reference system, such as `EPSG:32755`; without one its well-known text; None where
            the file names none.
        capture: the position of its middle.
        notes: what people should know of the reading; phrases, mostly none.
        covers: one a class, in index order, with areas where they are known.
        tiling: how it was cut, for the provenance.
        network_size: width and height of a tile, in pixels.
        timings_ms: decode, preprocess, run, postprocess and encode, in milliseconds.
        overview: None where nobody wants to see it.
        confidence: how sure the network is of the classes; None where nobody asked.
    """

    source: Source
    encoded: Encoded
    width: int
    height: int
    valid_pixels: int
    georeference: Georeference
    crs: str | None
    capture: Capture
    notes: tuple[str, ...]
    covers: tuple[ClassCover, ...]
    tiling: Mapping[str, object]
    network_size: tuple[int, int]
    timings_ms: Mapping[str, float]
    overview: Overview | None = None
    confidence: Confidence | None = None

    def stored(self, place: _Place, timings_ms: Mapping[str, float]) -> "SegmentedRaster[Source, _Place]":
        """The same, once its files are where they belong."""
        return cast("SegmentedRaster[Source, _Place]", replace(self, encoded=cast(Any, place), timings_ms=timings_ms))

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Smallest x, smallest y, largest x, largest y; None without a coordinate reference system."""
        return None if self.crs is None else self.georeference.bounds(self.width, self.height)


Result = Segmented[Source, Encoded] | SegmentedRaster[Source, Encoded] | Failed[Source]
"""What became of an image."""

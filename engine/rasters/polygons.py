"""Outlines of classes as a GeoPackage or GeoJSON."""

import math
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import OptionError
from engine.rasters.geotiff import ClassLabel
from engine.rasters.outlines import Rings, Simplification
from engine.rasters.vector_file import VectorLayer, layer_name, write_features
from engine.system.text import legible

_POLYGON: Final = 3
_DIGITS: Final = 7
"""Of degrees behind the point, at least: a hundredth of a metre."""


def require_layers_kept(path: Path, layer: str) -> None:
    """Refuse to take the place of what others put into a GeoPackage, which may hold the layer of `write_polygons`.

    OptionError: the file is there and holds other layers, or is no GeoPackage.
    """
    if path.suffix.lower() != ".gpkg" or not path.is_file() or not path.stat().st_size:
        return
    try:
        # A GeoPackage is an SQLite database; it is only looked at.
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            layers = [str(name) for (name,) in database.execute("SELECT table_name FROM gpkg_contents")]
        finally:
            database.close()
    except sqlite3.Error as error:
        raise OptionError(f"{path} exists and is not a GeoPackage ({error}): name another file") from error
    others = [name for name in layers if name != layer_name(layer)]
    if others:
        raise OptionError(
            f"{path} holds other layers ({', '.join(others)}), which would be lost: name another file for the polygons"
        )


def write_polygons(
    polygons: Iterable[tuple[int, Rings]],
    path: Path,
    labels: Sequence[ClassLabel],
    *,
    crs_wkt: str | None,
    layer: str,
    square_unit_m2: float | None,
    pixel_degrees: float | None,
    simplification: Simplification | None = None,
) -> int:
    """Write polygons with class, name, URN and area. Names are written as `engine.system.text.legible` shows them.

    GeoJSON gets longitudes and latitudes on WGS 84, as RFC 7946 asks, where the coordinate reference system leads
    there; a GeoPackage keeps it. Rings begin with the outer one, labels are in index order. `square_unit_m2`: square
    metres of a square unit of the coordinates; None: areas are not stated. `pixel_degrees`: side of a pixel in degrees,
    to a hundredth of which GeoJSON's coordinates are told; None: nothing leads to WGS 84, and they stay what they are.
    Areas are stated without the simplification.

    ImageError: the file cannot be written. RuntimeUnavailableError: pyogrio is not installed.
    """
    shapes: list[bytes] = []
    indices: list[int] = []
    areas: list[float] = []
    traced: list[tuple[int, Rings]] = []
    for index, rings in polygons:
        if simplification is None:
            shapes.append(_well_known_binary(rings))
        else:
            traced.append((index, rings))
        indices.append(index)
        areas.append(ring_area(rings[0]) - sum(map(ring_area, rings[1:])))
    if simplification is not None:
        shapes = list(map(_well_known_binary, simplification.simplified(traced)))
    fields: dict[str, NDArray[Any]] = {
        "class": np.array(indices, np.int32),
        "name": np.array([legible(_label(labels, index).name) for index in indices], object),
        "id": np.array([legible(_label(labels, index).id) for index in indices], object),
    }
    if square_unit_m2 is not None:
        fields["area_m2"] = np.array(areas, np.float64) * square_unit_m2
    options: dict[str, Any] = {}
    if path.suffix.lower() == ".geojson" and pixel_degrees is not None:
        digits = max(_DIGITS, 2 - math.floor(math.log10(pixel_degrees)))
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": str(digits)}
    elif path.suffix.lower() == ".geojson":
        crs_wkt = None
    write_features(path, shapes, fields, VectorLayer(layer, "Polygon", crs_wkt, options))
    return len(shapes)


def ring_area(ring: NDArray[np.float64]) -> float:
    """Area inside of a ring, float64[n, 2], the first point again at the end.

    >>> ring_area(np.array([[0, 0], [3, 0], [3, 2], [0, 2], [0, 0]], dtype=np.float64))
    6.0
    """
    # From the first point on, so that coordinates of millions do not swallow the digits of small areas.
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _label(labels: Sequence[ClassLabel], index: int) -> ClassLabel:
    return labels[index] if index < len(labels) else ClassLabel("", str(index), (0, 0, 0))


def _well_known_binary(rings: Rings) -> bytes:
    parts = [struct.pack("<BII", 1, _POLYGON, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.ascontiguousarray(ring, "<f8").tobytes()]
    return b"".join(parts)

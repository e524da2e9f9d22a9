"""Pictures as points on a map, with their place and the cover of every class."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.rasters.vector_file import VectorLayer, write_features
from engine.system.text import legible
from service.surveys.pictures import SurveyClass, columns_of
from service.surveys.places import PlacedPicture

_POINT: Final = 1
_WGS_84: Final = "EPSG:4326"
_LAYER: Final = "pictures"


def write_points(path: Path, classes: Sequence[SurveyClass], pictures: Sequence[PlacedPicture]) -> int:
    """Write a point for every picture whose position is known, on WGS 84; ImageError where that fails.

    The suffix of the path tells the format, GeoPackage or GeoJSON.
    """
    positions: list[bytes] = []
    positioned: list[PlacedPicture] = []
    for each in pictures:
        capture = each.picture.capture
        if capture.latitude_deg is not None and capture.longitude_deg is not None:
            positions.append(struct.pack("<BIdd", 1, _POINT, capture.longitude_deg, capture.latitude_deg))
            positioned.append(each)
    fields: dict[str, NDArray[Any]] = {
        "image": _texts([each.picture.path for each in positioned]),
        "site": _texts([each.place.site for each in positioned]),
        "transect": _texts([each.place.transect for each in positioned]),
        "quadrat": _texts([each.place.quadrat for each in positioned]),
        "date": _texts([each.place.date for each in positioned]),
        "depth": np.array(
            [np.nan if each.place.depth is None else each.place.depth for each in positioned], np.float64
        ),
    }
    for index, name in enumerate(columns_of(classes, "cover")):
        fields[name] = np.array([each.picture.covers[index] for each in positioned], np.float64)
    write_features(path, positions, fields, VectorLayer(_LAYER, "Point", _WGS_84))
    return len(positions)


def _texts(values: Sequence[str]) -> NDArray[Any]:
    return np.array([legible(value) for value in values], object)

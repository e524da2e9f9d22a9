"""Shapes with fields as a GeoPackage or GeoJSON; the only file that imports pyogrio."""
# pyogrio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError, OptionError, RuntimeUnavailableError
from engine.gdal import isolate_environment, new_file_at
from engine.rasters.options import POLYGON_DRIVERS
from engine.system.text import legible

_RESERVED_LAYERS: Final = ("gpkg", "sqlite_", "rtree_")
"""Beginnings of tables that are a GeoPackage's own."""


@dataclass(frozen=True, slots=True)
class VectorLayer:
    """The layer of a vector file."""

    name: str  # any text
    geometry: Literal["Point", "Polygon"]
    crs: str | None  # coordinate reference system as WKT, or `EPSG:4326`
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of GDAL's driver


def require_vector_format(path: Path, what: str) -> None:
    """Require a suffix of a known format (else OptionError), and pyogrio (else RuntimeUnavailableError)."""
    if path.suffix.lower() not in POLYGON_DRIVERS:
        raise OptionError(
            f"{path}: {what} are written as {' or '.join(POLYGON_DRIVERS)}: give the file one of these suffixes"
        )
    if find_spec("pyogrio") is None:
        raise RuntimeUnavailableError(
            f"writing {what} needs pyogrio: install the extra `geo` (pip install -e '.[geo]')"
        )


def write_features(path: Path, shapes: Sequence[bytes], fields: Mapping[str, NDArray[Any]], layer: VectorLayer) -> None:
    """Write shapes with fields; ImageError if the file cannot be written, and the errors of `require_vector_format`."""
    require_vector_format(path, f"{layer.geometry.lower()}s")
    isolate_environment()
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError
    from pyogrio.raw import write

    geometry = np.empty(len(shapes), object)
    geometry[:] = shapes
    # The service says in its own words that there is none. (For good: filters are not safe to restore among threads.)
    warnings.filterwarnings("ignore", message="'crs' was not provided")
    try:
        with new_file_at(path) as written:
            write(
                written,
                geometry,
                list(fields.values()),
                list(fields),
                layer=layer_name(layer.name),
                driver=POLYGON_DRIVERS[path.suffix.lower()],
                geometry_type=layer.geometry,
                crs=layer.crs,
                **layer.options,
            )
    except (DataSourceError, DataLayerError, FeatureError, GeometryError, OSError) as error:
        raise ImageError(
            f"{path}: the {layer.geometry.lower()}s cannot be written ({error}): is there room on the disk?"
        ) from error


def layer_name(name: str) -> str:
    """Make any text the name of a layer."""
    shown = legible(name)
    return f"layer {shown}" if shown.lower().startswith(_RESERVED_LAYERS) else shown

"""What a user may ask of tiles and polygons; light, for who only asks."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TileWishes:
    """What a user fixes about tiles; None leaves it to the engine.

    Attributes:
        side: of a tile, in pixels.
        overlap: in pixels.
        batch: tiles a run.
        memory_bytes: limit for the whole process; None: 80 % of what the machine and its control group have left.
    """

    side: int | None = None
    overlap: int | None = None
    batch: int | None = None
    memory_bytes: int | None = None


POLYGON_DRIVERS: Final = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""Suffix to the format's name."""


def is_polygon_format(text: str) -> bool:
    """Tell the name of a format from that of a file.

    >>> is_polygon_format("gpkg"), is_polygon_format("reef.gpkg")
    (True, False)

    Args:
        text: the name of a format, or a path.

    Returns:
        Whether it names a format.
    """
    return f".{text}" in POLYGON_DRIVERS

"""What may be asked of tiles and rasters; light, for who only asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from engine.declaration import Options, option
from engine.errors import OptionError
from engine.images.size import bands_option
from engine.quantities import Extent, memory_bytes, parse_length

POLYGON_DRIVERS: Final = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""Suffix to the format's name."""

POLYGON_FORMATS: Final = ("gpkg", "geojson")
"""What users call the formats of polygons."""

STYLE_SUFFIX: Final = ".qml"
"""With the name of the polygons, by which QGIS finds their style."""


def is_polygon_format(text: str) -> bool:
    """Tell the name of a format from a path.

    >>> is_polygon_format("gpkg"), is_polygon_format("reef.gpkg")
    (True, False)
    """
    return text in POLYGON_FORMATS


@dataclass(frozen=True, slots=True)
class TileOptions(Options):
    """What a user fixes about tiles and rasters; None leaves it to the engine.

    Rasters are TIFFs that are georeferenced, or too large to decode. OptionError: the polygons have no format, or there
    are none to be simplified.
    """

    title: ClassVar[str] = "Tiles and rasters"

    tile: bool = option(
        False,
        "Cut every image into overlapping tiles at full size; TIFFs that are georeferenced, or have more than "
        "max-pixels, always are. It implies max-img-size -1.",
    )
    as_photograph: bool = option(
        False,
        "Treat georeferenced TIFFs as photographs: shrunk for the network, with missing pixels counted, and without "
        "areas and map.",
    )
    side: int | None = option(
        None,
        "Side of a tile in pixels. By default as large as the memory allows, at most 1024.",
        name="tile_size",
        minimum=1,
    )
    overlap: int | None = option(
        None, "Pixels that neighbouring tiles share. By default a quarter of a tile.", minimum=0
    )
    memory_bytes: int | None = option(
        None,
        "Memory for the whole process, such as 1.5GiB, which decides the size of tiles. By default 80 % of what is "
        "free.",
        name="max_memory",
        parse=memory_bytes,
    )
    bands: tuple[int, ...] | None = bands_option()
    vectors: str | None = option(
        None,
        "Write the classes of TIFFs as polygons: gpkg or geojson writes <stem>.gpkg or <stem>.geojson for each TIFF; "
        "for a single raster it may be a file name.",
        metavar="FORMAT|FILE",
    )
    simplify: Extent | None = option(
        None,
        "Simplify the polygons: leave out corners that stand out by less than about this, 2px or, on the ground, 5cm "
        "or 0.05m. Neighbours keep their common outline; masks, cover and areas do not change. It needs vectors.",
        metavar="LENGTH",
        parse=parse_length,
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.as_photograph and (self.tile or self.names_rasters):
            raise OptionError(
                "photographs have no tiles, bands and polygons: leave out tile, bands and vectors",
                option="as_photograph",
            )
        if self.simplify is not None and self.vectors is None:
            raise OptionError("it is for polygons: give vectors, too", option="simplify")
        if self.polygon_file is not None and self.polygon_file.suffix.lower() not in POLYGON_DRIVERS:
            raise OptionError(
                f"{self.vectors}: give gpkg, geojson, or a file that ends in .gpkg or .geojson", option="vectors"
            )

    @property
    def names_rasters(self) -> bool:
        """Whether something is asked that only TIFFs have."""
        return self.bands is not None or self.vectors is not None

    @property
    def polygon_file(self) -> Path | None:
        """The file that the user names for polygons; None where each raster has one of its own, or none."""
        return None if self.vectors is None or is_polygon_format(self.vectors) else Path(self.vectors)

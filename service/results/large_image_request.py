"""What a user asks of large images; what cuts them is loaded only where there is one."""

from dataclasses import dataclass, field
from pathlib import Path

from engine.rasters.options import TileWishes, is_polygon_format


@dataclass(frozen=True, slots=True)
class LargeImageRequest:
    """What a user asks of large images.

    Attributes:
        tile: whether every image is cut into tiles; otherwise only TIFFs that are too large to decode.
        wishes: what is fixed about tiles.
        bands: of TIFFs, from 1; None: the colours.
        vectors: `gpkg`, `geojson` or a file; None: no polygons.
        resume: whether to go on with what an interrupted run left.
    """

    tile: bool = False
    wishes: TileWishes = field(default_factory=TileWishes)
    bands: tuple[int, ...] | None = None
    vectors: str | None = None
    resume: bool = False

    @property
    def names_rasters(self) -> bool:
        """Whether something is asked that only TIFFs have."""
        return self.bands is not None or self.vectors is not None

    @property
    def polygon_file(self) -> Path | None:
        """The file that the user names for polygons; None where each raster has one of its own, or none."""
        return None if self.vectors is None or is_polygon_format(self.vectors) else Path(self.vectors)

    def options_with_effect(self) -> dict[str, object]:
        """Select what has an effect on masks, for a ledger.

        Returns:
            Option to JSON value; empty where images are not cut and no bands are named.
        """
        if not (self.tile or self.names_rasters):
            return {}
        wishes = {"tile_side": self.wishes.side, "overlap": self.wishes.overlap}
        bands = None if self.bands is None else list(self.bands)
        return {"tile": self.tile, **wishes, "bands": bands, "vectors": self.vectors}

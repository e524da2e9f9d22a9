"""A synthetic orthomosaic of any size: sand, patches of seagrass, white frames, an edge without data; seeded."""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError

BLOCK_PX = 512
_CELL_PX = 96
_FRAME_EVERY_PX = 1400
_FRAME_SIDE_PX = 700
_FRAME_PX = 24
_PIXEL_M = 0.005
_SAND, _GRASS, _FRAME = (np.array(color, np.float32) for color in ((196, 178, 140), (52, 92, 48), (236, 236, 232)))


class Scene:
    """What the orthomosaic shows."""

    def __init__(self, side: int, seed: int) -> None:
        self.side = side
        self._seed = seed
        cells = side // _CELL_PX + 4
        rng = np.random.default_rng(seed)
        self._patches = rng.normal(size=(cells, cells)).astype(np.float32)
        self._light = rng.normal(size=(cells // 4 + 4, cells // 4 + 4)).astype(np.float32)

    def block(self, x: int, y: int) -> NDArray[np.uint8]:
        """Render a block, uint8[3, BLOCK_PX, BLOCK_PX]; 0 where there are no data."""
        rng = np.random.default_rng((self._seed, x, y))
        columns, rows = np.meshgrid(
            np.arange(x, x + BLOCK_PX, dtype=np.float32), np.arange(y, y + BLOCK_PX, dtype=np.float32)
        )
        fine = rng.normal(size=(BLOCK_PX, BLOCK_PX)).astype(np.float32)
        blades = cv2.GaussianBlur(rng.normal(size=(BLOCK_PX, BLOCK_PX)).astype(np.float32), (0, 0), 2.5) * 4
        density = _sampled(self._patches, columns / _CELL_PX, rows / _CELL_PX) + 0.35 * blades
        grass = (1 / (1 + np.exp(-6 * (density - 0.25))))[..., np.newaxis]
        pixels = _SAND * (1 - grass) + _GRASS * grass
        inside = [(axis % _FRAME_EVERY_PX) for axis in (columns, rows)]
        within = (inside[0] < _FRAME_SIDE_PX) & (inside[1] < _FRAME_SIDE_PX)
        hollow = np.minimum.reduce([*inside, *(_FRAME_SIDE_PX - each for each in inside)]) >= _FRAME_PX
        pixels[within & ~hollow] = _FRAME
        light = _sampled(self._light, columns / (4 * _CELL_PX), rows / (4 * _CELL_PX))
        pixels += (fine * 7 + light * 12)[..., np.newaxis]
        covered = columns + rows > self.side * 0.25
        rendered = np.where(covered[..., np.newaxis], pixels.clip(1, 255), 0).astype(np.uint8)
        return np.ascontiguousarray(rendered.transpose(2, 0, 1))


def _sampled(
    grid: NDArray[np.float32], x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    return cast(
        "NDArray[np.float32]", cv2.remap(grid, x.astype(np.float32) + 1, y.astype(np.float32) + 1, cv2.INTER_CUBIC)
    )


def write_orthomosaic(
    path: Path, side: int, seed: int, *, advance: Callable[[float], None] = lambda _share: None
) -> None:
    """Write the orthomosaic as a tiled GeoTIFF with a coordinate reference system and a nodata value."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    scene = Scene(side, seed)
    partial = path.with_suffix(".part.tif")
    blocks = [(x, y) for y in range(0, side, BLOCK_PX) for x in range(0, side, BLOCK_PX)]
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "nodata": 0, "tiled": True,
        "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate", "zlevel": 1, "interleave": "pixel",
        "bigtiff": "if_safer", "crs": "EPSG:32755", "transform": (_PIXEL_M, 0, 500_000, 0, -_PIXEL_M, 5_500_000),
    }  # fmt: skip
    try:
        with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(partial, "w", **profile) as dataset:
            for done, (x, y) in enumerate(blocks, start=1):
                width, height = min(BLOCK_PX, side - x), min(BLOCK_PX, side - y)
                window = Window(x, y, width, height)  # pyright: ignore[reportCallIssue]
                dataset.write(scene.block(x, y)[:, :height, :width], window=window)
                advance(done / len(blocks))
    except (OSError, RasterioError) as error:
        raise ImageError(f"{path}: cannot be written ({error}): is there room on the disk?") from error
    partial.replace(path)

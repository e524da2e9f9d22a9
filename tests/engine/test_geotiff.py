"""What a GeoTIFF marks as missing is what rasterio says; its pixels are those that other pictures give."""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from engine.geotiff import open_geotiff
from engine.images import read_image
from engine.tiling import Window

NORTH_UP = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)


@pytest.mark.parametrize(
    ("count", "bands", "dtype", "nodata"),
    [
        (3, None, np.uint8, 0),
        (3, None, np.uint8, 255),
        (3, (3, 1, 2), np.uint8, 7),
        (3, (2,), np.uint8, 0),
        (3, None, np.uint16, 300),
        (1, None, np.uint8, 0),
        (1, (1, 1, 1), np.uint8, 0),
        (4, (1, 2, 3), np.uint8, 0),
    ],
)
def test_missing_pixels(
    tmp_path: Path, count: int, bands: tuple[int, ...] | None, dtype: type[np.integer[Any]], nodata: int
) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, np.iinfo(dtype).max, (count, 100, 130)).astype(dtype)
    values[:, 20:60, 30:90] = nodata
    # A pixel that has the value in some of its bands holds data.
    values[0, 70:90, 10:60] = nodata
    path = tmp_path / "reef.tif"
    with rasterio.open(
        path, "w", "GTiff", 130, 100, count, dtype=dtype, nodata=nodata, crs="EPSG:32755", transform=NORTH_UP
    ) as dataset:
        dataset.write(values)
    with rasterio.open(path) as dataset, open_geotiff(path, bands) as raster:
        expected = dataset.dataset_mask(window=((8, 98), (16, 116))) > 0
        valid = raster.read(Window(16, 8, 100, 90)).valid
    assert 0 < expected.mean() < 1
    assert valid is not None
    np.testing.assert_array_equal(valid, expected)


def test_grey_whose_zero_is_white(tmp_path: Path) -> None:
    grey = np.arange(120 * 100, dtype=np.uint32).reshape(100, 120).astype(np.uint8)
    path = tmp_path / "scan.tif"
    with rasterio.open(
        path, "w", "GTiff", 120, 100, 1, dtype=np.uint8, transform=NORTH_UP, photometric="MINISWHITE"
    ) as dataset:
        dataset.write(grey, 1)
    with open_geotiff(path) as raster:
        pixels = raster.read(Window(0, 0, 120, 100)).pixels
    np.testing.assert_array_equal(pixels, read_image(path).pixels)

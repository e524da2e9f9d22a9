"""Values of more than 8 bit: the default rule and `scale-range`, against arithmetic and GDAL's own scaling."""
# rasterio and tifffile ship no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ImageError, OptionError
from engine.images import ImageLimits, ScaleRange, read_image
from engine.rasters.geotiff import open_geotiff
from engine.window import Window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
TWELVE_BIT = ScaleRange(0, 4095)
RNG = np.random.default_rng(17)
VALUES: NDArray[np.uint16] = RNG.integers(0, 4096, (64, 72, 3), np.uint16)
VALUES[0, 0], VALUES[0, 1] = 0, 4095


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Straight proportion, the half rounded up, what lies outside cut off."""
    exact = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.floor(np.clip(exact, 0, 255) + 0.5).astype(np.uint8)


def written(path: Path, values: NDArray[Any]) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack", metadata=None)
    else:
        bgr = values[..., ::-1] if values.ndim == 3 else values
        assert cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    return path


def gdal_scaled(path: Path, low: float, high: float) -> NDArray[np.uint8]:
    """What `gdal_translate -ot Byte -scale LOW HIGH` writes: a virtual raster whose sources are scaled."""
    with rasterio.open(path) as source:
        width, height, bands = source.width, source.height, source.count
    ratio = 255 / (high - low)
    parts = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ComplexSource><SourceFilename>{path}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand><ScaleOffset>{-low * ratio!r}</ScaleOffset><ScaleRatio>{ratio!r}</ScaleRatio>"
        "</ComplexSource></VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    with rasterio.open(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{parts}</VRTDataset>') as dataset:
        return np.moveaxis(dataset.read(), 0, -1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_range_that_is_stated_is_spread_over_all_levels(tmp_path: Path, suffix: str, bands: int) -> None:
    values = VALUES if bands == 3 else VALUES[..., 0]
    image = read_image(written(tmp_path / f"x{suffix}", values), scale_range=TWELVE_BIT)
    expected = scaled(values, 0, 4095)
    np.testing.assert_array_equal(image.pixels, expected if bands == 3 else np.repeat(expected[..., None], 3, axis=-1))
    assert image.notes == ()


@pytest.mark.parametrize("low", [0.0, 100.0, 1234.5])
def test_a_range_as_gdal_scales_it(tmp_path: Path, low: float) -> None:
    path = written(tmp_path / "x.tif", VALUES)
    mine = read_image(path, scale_range=ScaleRange(low, 4095)).pixels
    # GDAL computes in 32 bit here: where a value lies on the border of two levels, it may be one lower.
    difference = np.abs(mine.astype(int) - gdal_scaled(path, low, 4095))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_signed_floating_and_wide_values_of_a_tiff(tmp_path: Path, dtype: Any) -> None:
    low, high = (0.0, 3000.0) if np.dtype(dtype).kind == "u" else (-1000.0, 1000.0)
    values = np.linspace(low - (500 if low else 0), high + 500, 20 * 30).reshape(20, 30).astype(dtype)
    path = written(tmp_path / "x.tif", values)
    with pytest.raises(ImageError, match="no stated range: state it with scale-range"):
        read_image(path)
    pixels = read_image(path, scale_range=ScaleRange(low, high)).pixels
    np.testing.assert_array_equal(pixels[..., 0], scaled(values, low, high))


def test_numbers_that_are_none_are_missing_in_a_raster_and_the_lowest_in_a_photograph(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12 * 10, dtype=np.float32).reshape(12, 10)
    values[3, 4], values[5, 6] = np.nan, -9999
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", "GTiff", 10, 12, 1, dtype="float32", nodata=-9999) as dataset:
        dataset.write(values, 1)
    with open_geotiff(path, scale_range=ScaleRange(0, 1)) as raster:
        tile = raster.read(Window(0, 0, 10, 12))
    assert tile.valid is not None
    assert np.argwhere(~tile.valid).tolist() == [[3, 4], [5, 6]]
    assert read_image(path, scale_range=ScaleRange(0, 1)).pixels[3, 4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
def test_a_picture_that_uses_a_sixteenth_of_its_range_says_so(tmp_path: Path, suffix: str) -> None:
    image = read_image(written(tmp_path / f"x{suffix}", VALUES))
    np.testing.assert_array_equal(image.pixels, VALUES >> 8)
    (note,) = image.notes
    assert "no value above 4095 of 65535" in note
    assert "scale-range 0,4095" in note


@pytest.mark.parametrize(("highest", "is_said"), [(16383, True), (16384, False), (65535, False)])
def test_it_is_said_below_a_quarter_of_the_range(tmp_path: Path, highest: int, is_said: bool) -> None:
    values = np.zeros((8, 8), np.uint16)
    values[2, 2] = highest
    assert bool(read_image(written(tmp_path / "x.png", values)).notes) is is_said
    with open_geotiff(written(tmp_path / "x.tif", values)) as raster:
        raster.read(Window(0, 0, 8, 8))
        assert bool(raster.range_notes()) is is_said


def test_pixels_without_data_do_not_count_for_the_range_of_a_raster(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", "GTiff", 10, 12, 1, dtype="uint16", nodata=65535) as dataset:
        values = RNG.integers(0, 4096, (12, 10), np.uint16)
        values[:4] = 65535
        dataset.write(values, 1)
    with open_geotiff(path) as raster:
        raster.read(Window(0, 0, 10, 12))
        assert "no value above" in raster.range_notes()[0]


@pytest.mark.parametrize(
    ("stated", "said"), [(ScaleRange(0, 40000), "less than a quarter"), (ScaleRange(-9, 0), "no value below 0")]
)
def test_a_range_that_is_not_the_picture_s_is_said(tmp_path: Path, stated: ScaleRange, said: str) -> None:
    path = written(tmp_path / "x.png", VALUES + 1)
    assert said in read_image(path, scale_range=stated).notes[0]


def test_pictures_that_have_no_use_for_a_range_are_refused(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    for name in ("x.png", "x.jpg", "x.webp", "x.bmp", "x.tif", "x.jp2"):
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        with pytest.raises(ImageError, match="scale-range is for PNG, TIFF and JPEG 2000 files of more than 8 bit"):
            read_image(path, scale_range=TWELVE_BIT)


@pytest.mark.parametrize("wrong", [(5, 5), (5, 4), (float("nan"), 1), (0, float("inf"))])
def test_a_range_without_values_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match=r"^scale-range: "):
        ImageLimits(scale_range=ScaleRange(*wrong))


def test_a_cut_png_is_refused_with_a_range_too(tmp_path: Path) -> None:
    path = written(tmp_path / "x.png", RNG.integers(0, 4096, (300, 300, 3), np.uint16))
    path.write_bytes(path.read_bytes()[:-200_000])
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(path, scale_range=TWELVE_BIT)

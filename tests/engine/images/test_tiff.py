"""The rows of docs/pictures.md, each against arithmetic or another library; both ways to read a TIFF give the same."""
# rasterio and tifffile ship no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.images import read_image
from engine.images.tiff import pages_of, tiff_size
from engine.rasters.geotiff import open_geotiff
from engine.window import Window
from tests.engine.images.tiffs import (
    ASCII,
    BITS,
    BYTE,
    BYTE_COUNTS,
    COLOR_MAP,
    COMPRESSION,
    EXTRA_SAMPLES,
    INK_SET,
    LONG,
    NEW_SUBFILE_TYPE,
    OFFSETS,
    ORIENTATION,
    PHOTOMETRIC,
    RATIONAL,
    SAMPLE_FORMAT,
    SAMPLES,
    SHORT,
    SSHORT,
    UNDEFINED,
    Page,
    Value,
    tiff_file,
)

Pixels = NDArray[np.uint8]
UNPLACED = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
pytestmark = UNPLACED
RNG = np.random.default_rng(7)
HEIGHT, WIDTH = 19, 23


def packed(values: NDArray[Any], bits: int) -> bytes:
    """Rows of numbers, the highest bit first, each row to a whole byte."""
    rows: list[bytes] = []
    for row in values.reshape(len(values), -1):
        text = "".join(f"{int(value):0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def page(values: NDArray[Any], bits: int, photometric: int, more: dict[int, Value] | None = None) -> Page:
    bands = values.shape[2] if values.ndim == 3 else 1
    tags: dict[int, Value] = {
        BITS: (SHORT, [bits] * bands),
        PHOTOMETRIC: (SHORT, [photometric]),
        SAMPLES: (SHORT, [bands]),
    }
    return Page(values.shape[1], values.shape[0], packed(values, bits), {**tags, **(more or {})})


def written(folder: Path, *pages: Page, **options: Any) -> Path:
    path = folder / "x.tif"
    path.write_bytes(tiff_file(*pages, **options))
    return path


def as_raster(
    path: Path, bands: tuple[int, ...] | None = None, number: int | None = None
) -> tuple[Pixels, NDArray[np.bool_] | None]:
    with open_geotiff(path, bands, page=number) as raster:
        tile = raster.read(Window(0, 0, raster.width, raster.height))
    return tile.pixels, tile.valid


def read(path: Path, number: int | None = None) -> Pixels:
    """Read as a photograph, which is also what a raster gives."""
    pixels = read_image(path, page=number).pixels
    np.testing.assert_array_equal(pixels, as_raster(path, number=number)[0])
    return pixels


def notes_on(path: Path) -> tuple[str, ...]:
    with open_geotiff(path) as raster:
        return raster.notes


def refused(path: Path, problem: str) -> None:
    for attempt in (read_image, as_raster):
        with pytest.raises(ImageError, match=rf"x\.tif: .*{problem}"):
            attempt(path)


def grey(values: NDArray[Any]) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., np.newaxis], 3, axis=-1)


def noise(bits: int, bands: int = 1) -> NDArray[np.uint16]:
    shape = (HEIGHT, WIDTH) if bands == 1 else (HEIGHT, WIDTH, bands)
    return RNG.integers(0, (1 << bits) - 1, shape, np.uint16, endpoint=True)


def eight_bit(values: NDArray[Any], bits: int) -> NDArray[Any]:
    wide = values.astype(np.uint32)
    return wide >> (bits - 8) if bits >= 8 else wide * 255 // ((1 << bits) - 1)


# ---- depths, colours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("zero_is_white", [False, True])
def test_grey_of_every_depth(tmp_path: Path, bits: int, zero_is_white: bool) -> None:
    values = noise(bits)
    expected = grey(eight_bit(values, bits))
    # Libraries take 16 bit in the order of the file, and every other depth as a stream of bits.
    order = ">" if bits == 16 else "<"
    path = written(tmp_path, page(values, bits, 0 if zero_is_white else 1), order=order)
    np.testing.assert_array_equal(read(path), 255 - expected if zero_is_white else expected)


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
def test_colours_of_every_depth(tmp_path: Path, bits: int) -> None:
    values = noise(bits, 3)
    path = written(tmp_path, page(values, bits, 2), order=">")
    np.testing.assert_array_equal(read(path), eight_bit(values, bits))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_layouts(tmp_path: Path, order: Any, big: bool, planar: Any, photometric: Any, compression: str | None) -> None:
    values = noise(16, 3)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    path = tmp_path / "x.tif"
    tifffile.imwrite(
        path, stored, byteorder=order, bigtiff=big, planarconfig=planar, photometric=photometric,
        compression=compression, rowsperstrip=7, metadata=None,
    )  # fmt: skip
    assert tiff_size(path) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(read(path), values >> 8)


@pytest.mark.parametrize("codec", ["lzw", "zlib", "packbits", "lzma", "zstd", "webp", "lerc"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_codecs(tmp_path: Path, codec: str, tile: tuple[int, int] | None) -> None:
    values = noise(8, 3).astype(np.uint8)
    path = tmp_path / "x.tif"
    level: dict[str, Any] = {"compressionargs": {"level": 101}} if codec == "webp" else {}
    tifffile.imwrite(path, values, photometric="rgb", compression=codec, tile=tile, metadata=None, **level)
    np.testing.assert_array_equal(read(path), values)


@pytest.mark.parametrize(("codec", "name"), [("jpegxl", "JPEG XL"), ("jpeg2000", "JPEG 2000")])
def test_codecs_that_are_not_here_are_named(tmp_path: Path, codec: str, name: str) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(8, 3).astype(np.uint8), photometric="rgb", compression=codec, metadata=None)
    refused(path, rf"its compression \(\d+, {name}\) is not read: save it with DEFLATE or LZW")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("full_range", [True, False])
def test_palettes_of_every_depth(tmp_path: Path, bits: int, full_range: bool) -> None:
    colors = RNG.integers(0, 255, (1 << bits, 3), np.uint8, endpoint=True)
    colors[-1] = 255
    stored = colors.T.astype(np.uint16) * (257 if full_range else 1)
    values = noise(bits)
    entries: dict[int, Value] = {COLOR_MAP: (SHORT, stored.ravel().tolist())}
    path = written(tmp_path, page(values, bits, 3, entries), order=">")
    np.testing.assert_array_equal(read(path), colors[values])


def lab_to_srgb(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* under D50 to sRGB, by the formulas of CIE 15 and IEC 61966-2-1 and the Bradford adaption."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.96422, 1, 0.82521]
    to_linear = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.array(to_linear).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("photometric", "zero"), [(8, 0), (9, 128)])
@pytest.mark.parametrize("bits", [8, 16])
def test_lab(tmp_path: Path, photometric: int, zero: int, bits: int) -> None:
    lab = np.stack(
        [RNG.integers(40, 220, (HEIGHT, WIDTH)), *RNG.integers(-25, 25, (2, HEIGHT, WIDTH))], axis=-1
    ).astype(np.float64)
    offsets = np.array([0, zero, zero])
    stored = (lab + offsets).astype(np.int64) % 256 * (1 if bits == 8 else 256)
    path = written(tmp_path, page(stored, bits, photometric), order=">")
    # In 16 bit the lightness of ICC ends at 0xFF00, and that of CIE at 0xFFFF.
    largest = 255 if bits == 8 or zero else 65535 / 256
    expected = lab_to_srgb(np.stack([lab[..., 0] * 100 / largest, lab[..., 1], lab[..., 2]], axis=-1))
    assert abs(read(path) - expected).max() <= 0.51


@pytest.mark.parametrize("bits", [8, 16])
def test_inks(tmp_path: Path, bits: int) -> None:
    values = noise(bits, 4)
    path = written(tmp_path, page(values, bits, 5), order=">")
    inks = (values >> (bits - 8)).astype(np.float64)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert abs(read(path) - expected).max() <= 1


def ycbcr_page(more: dict[int, Value] | None = None) -> Page:
    """Uncompressed, 2 x 2 pixels share their chroma: four luminances, then both of it."""
    width, height = 32, 24
    units = RNG.integers(20, 235, (height // 2, width // 2, 6), np.uint8)
    tags: dict[int, Value] = {
        BITS: (SHORT, [8] * 3),
        PHOTOMETRIC: (SHORT, [6]),
        SAMPLES: (SHORT, [3]),
        530: (SHORT, [2, 2]),
    }
    return Page(width, height, units.tobytes(), {**tags, **(more or {})})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {532: (RATIONAL, [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1])},
        {529: (RATIONAL, [2126, 10000, 7152, 10000, 722, 10000])},
    ],
    ids=["plain", "reference black and white", "coefficients"],
)
@pytest.mark.parametrize("pages", [1, 2])
def test_subsampled_luminance_and_chroma(tmp_path: Path, more: dict[int, Value], pages: int) -> None:
    path = written(tmp_path, *[ycbcr_page(more)] * pages)
    np.testing.assert_array_equal(read(path), cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))


def test_chroma_that_gdal_reads_wrongly_is_refused(tmp_path: Path) -> None:
    four: dict[int, Value] = {530: (SHORT, [4, 4])}
    whole = written(tmp_path, replace(ycbcr_page(four), body=bytes(24 // 4 * 32 // 4 * 18)))
    np.testing.assert_array_equal(read(whole), cv2.imread(str(whole), cv2.IMREAD_COLOR_RGB))
    with pytest.raises(ImageError, match="subsampled 4×4, of 30 columns"):
        read(written(tmp_path, replace(ycbcr_page(four), width=30)))


def test_a_thumbnail_that_cannot_be_read_does_not_fail_the_picture(tmp_path: Path) -> None:
    values = noise(8, 3)
    path = written(tmp_path, replace(page(values, 8, 2), nested=(page(values[::2, ::2], 8, 2, {254: (LONG, [1])}),)))
    content = path.read_bytes()
    # ImageLength of the nested one, which is written first, becomes a tag that nobody knows.
    length, unknown = (struct.pack("<H", number) for number in (257, 65000))
    place = content.index(length + struct.pack("<H", LONG))
    path.write_bytes(content[:place] + unknown + content[place + 2 :])
    np.testing.assert_array_equal(read(path), values)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_inside(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0:64, 0:96]
    values = np.stack([rows * 4, columns * 2, rows + columns], axis=-1).astype(np.uint8)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values, photometric="rgb", compression="jpeg", subsampling=subsampling, metadata=None)
    difference = abs(read(path).astype(int) - tifffile.imread(path))
    assert difference.max() <= 4
    assert difference.mean() < 1


# ---- bands, alpha, what is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_that_were_multiplied_by_alpha_are_divided(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    colors, alpha = noise(bits, 3).astype(np.uint32), noise(bits).astype(np.uint32)
    alpha[:5], alpha[5:8] = 0, top
    stored = np.dstack([colors * alpha[..., np.newaxis] // top, alpha])
    path = written(tmp_path, page(stored, bits, 2, {EXTRA_SAMPLES: (SHORT, [1])}), order=">")
    expected = np.minimum(stored[..., :3] * top // np.maximum(alpha, 1)[..., np.newaxis], top) >> (bits - 8)
    expected[alpha == 0] = 0
    np.testing.assert_array_equal(read(path), expected)
    np.testing.assert_array_equal(as_raster(path)[1], alpha > 0)


@pytest.mark.parametrize("bands", [1, 3])
def test_straight_alpha_is_dropped_and_says_what_is_missing(tmp_path: Path, bands: int) -> None:
    colors, alpha = noise(8, bands), noise(8)
    alpha[:5] = 0
    path = written(tmp_path, page(np.dstack([colors, alpha]), 8, 2 if bands == 3 else 1, {EXTRA_SAMPLES: (SHORT, [2])}))
    np.testing.assert_array_equal(read(path), colors if bands == 3 else grey(colors))
    np.testing.assert_array_equal(as_raster(path)[1], alpha > 0)


@pytest.mark.parametrize("declares_nothing", [True, False])
def test_an_undeclared_fourth_band(tmp_path: Path, declares_nothing: bool) -> None:
    values = noise(8, 4)
    path = written(tmp_path, page(values, 8, 2, {} if declares_nothing else {EXTRA_SAMPLES: (SHORT, [0])}))
    if declares_nothing:
        np.testing.assert_array_equal(read(path), values[..., :3])
    else:
        refused(path, r"4 bands \(1 red, 2 green, 3 blue, 4 undefined\).*bands, for example 1,2,3")


@pytest.mark.parametrize("bands", [None, (1, 2, 3), (3, 1, 2), (2,)])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("nodata", [None, 255, 200, -9999, float("nan")])
def test_either_alpha_or_nodata_says_what_is_missing(
    tmp_path: Path, bands: tuple[int, ...] | None, extra: int, nodata: float | None
) -> None:
    colors, alpha = noise(8, 3 + extra), noise(8)
    alpha[:5] = 0
    colors[3:9, 4:9] = 255
    colors[10:12, 4:9, 0] = 255
    path = written(
        tmp_path,
        page(
            np.dstack([colors, alpha]),
            8,
            2,
            {
                EXTRA_SAMPLES: (SHORT, [*[0] * extra, 2]),
                **({} if nodata is None else {42113: (ASCII, f"{nodata}\0".encode())}),
            },
        ),
    )
    if bands is None and extra:
        refused(path, r"bands .*choose those that the network takes with bands")
        return
    pixels, valid = as_raster(path, bands)
    expected = alpha > 0
    if nodata == 255:
        expected &= ~(colors == 255).all(axis=-1)
    np.testing.assert_array_equal(valid, expected)
    chosen = (1, 2, 3) if bands is None else bands
    np.testing.assert_array_equal(pixels, colors[..., [(chosen * 3)[index] - 1 for index in range(3)]])


@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("bands", [None, (3,)])
def test_a_mask_of_its_own_says_what_is_missing(tmp_path: Path, nodata: int | None, bands: Any) -> None:
    values = noise(8, 3).astype(np.uint8).transpose(2, 0, 1)
    values[:, :4, :6] = 7
    mask = np.ones((HEIGHT, WIDTH), np.uint8) * 255
    mask[9:14, 3:9] = 0
    path = tmp_path / "x.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", "GTiff", WIDTH, HEIGHT, 3, dtype=np.uint8, photometric="RGB", nodata=nodata
        ) as dataset,
    ):
        dataset.write(values)
        dataset.write_mask(mask)
    expected = mask > 0
    if nodata is not None:
        expected &= ~(values == 7).all(axis=0)
    np.testing.assert_array_equal(as_raster(path, bands)[1], expected)
    assert len(pages_of(path)) == 1


def page_and_masks() -> tuple[Page, Page, NDArray[np.bool_], Page, NDArray[np.bool_]]:
    """A page, and two masks with what they mark as present."""
    masks: list[tuple[Page, NDArray[np.bool_]]] = []
    for first in (3, 11):
        present = np.ones((HEIGHT, WIDTH), np.bool_)
        present[first : first + 4, 2:9] = False
        masks.append((page(present, 1, 4, {NEW_SUBFILE_TYPE: (LONG, [4])}), present))
    return page(noise(8), 8, 1), *masks[0], *masks[1]


def test_a_mask_belongs_to_the_page_in_front_of_it(tmp_path: Path) -> None:
    picture, one, of_one, two, of_two = page_and_masks()
    path = written(tmp_path, picture, one, picture, two, picture)
    for number, expected in ((1, of_one), (2, of_two)):
        np.testing.assert_array_equal(as_raster(path, number=number)[1], expected)
    assert as_raster(path, number=3)[1] is None
    # GDAL gives the first page whatever mask comes first.
    path = written(tmp_path, picture, picture, two)
    assert as_raster(path, number=1)[1] is None
    np.testing.assert_array_equal(as_raster(path, number=2)[1], of_two)


def test_the_mask_of_a_file_that_is_damaged_behind_it_counts(tmp_path: Path) -> None:
    picture, one, of_one, *_ = page_and_masks()
    path = written(tmp_path, picture, one, next_offset=1 << 20)
    np.testing.assert_array_equal(as_raster(path)[1], of_one)
    assert "is damaged behind its 2. directory" in notes_on(path)[0]


def test_a_mask_belongs_to_a_page_of_its_size(tmp_path: Path) -> None:
    picture, one, of_one, *_ = page_and_masks()
    smaller = replace(picture, height=HEIGHT - 1)
    path = written(tmp_path, smaller, picture, smaller, one)
    assert [as_raster(path, number=number)[1] is None for number in (1, 2, 3)] == [True, False, True]
    np.testing.assert_array_equal(as_raster(path, number=2)[1], of_one)
    mask_of_smaller = page(np.zeros((HEIGHT - 1, WIDTH)), 1, 4, {NEW_SUBFILE_TYPE: (LONG, [4])})
    path = written(tmp_path, picture, smaller, mask_of_smaller, one)
    np.testing.assert_array_equal(as_raster(path, number=1)[1], of_one)
    np.testing.assert_array_equal(as_raster(path, number=2)[1], np.zeros((HEIGHT - 1, WIDTH)))


def test_a_nodata_value_that_is_no_number_marks_nothing(tmp_path: Path) -> None:
    values = noise(8, 3)
    values[:4] = 0
    path = written(tmp_path, page(values, 8, 2, {42113: (ASCII, b"none\0")}))
    assert as_raster(path)[1] is None
    assert "nodata value that is not a number ('none')" in notes_on(path)[0]


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_tiles_that_were_left_out_are_zero(tmp_path: Path, compression: str | None) -> None:
    options: dict[str, Any] = {} if compression is None else {"compress": compression}
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", "GTiff", 96, 64, 3, dtype=np.uint8, photometric="RGB", tiled=True, blockxsize=32, blockysize=32,
        SPARSE_OK=True, **options,
    ) as dataset:  # fmt: skip
        part = noise(8, 3).astype(np.uint8)[:16, :16].transpose(2, 0, 1)
        dataset.write(part, window=((32, 48), (32, 48)))
    expected = np.zeros((64, 96, 3), np.uint8)
    expected[32:48, 32:48] = part.transpose(1, 2, 0)
    np.testing.assert_array_equal(read(path), expected)


def test_colours_in_another_order(tmp_path: Path) -> None:
    values = noise(8, 3).astype(np.uint8).transpose(2, 0, 1)
    path = tmp_path / "x.tif"
    from rasterio.enums import ColorInterp

    with rasterio.open(path, "w", "GTiff", WIDTH, HEIGHT, 3, dtype=np.uint8) as dataset:
        dataset.write(values)
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    np.testing.assert_array_equal(read(path), values[::-1].transpose(1, 2, 0))


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "bits", "bands", "problem"),
    [
        ({SAMPLE_FORMAT: (SHORT, [2])}, 16, 1, r"16 bit \(signed integers\) have no stated range: state it"),
        ({SAMPLE_FORMAT: (SHORT, [3])}, 16, 1, r"16 bit \(floating point\) have no stated range: state it"),
        ({SAMPLE_FORMAT: (SHORT, [3])}, 32, 1, r"32 bit \(floating point\) have no stated range: state it"),
        ({}, 24, 1, "24 bit have no stated range: state it"),
        ({}, 64, 1, "64 bit have no stated range: state it"),
        ({SAMPLE_FORMAT: (SHORT, [5])}, 32, 1, r"complex integers\) have no stated range: export their magnitude"),
        ({SAMPLE_FORMAT: (SHORT, [6])}, 64, 1, r"complex numbers\) have no stated range: export their magnitude"),
        ({SAMPLE_FORMAT: (SHORT, [9])}, 8, 1, r"\(SampleFormat 9\) have no stated range"),
        ({BITS: (SHORT, [8, 8, 16])}, 8, 3, r"differ in depth \(8, 16 bit\): export it as RGB"),
        ({PHOTOMETRIC: (SHORT, [3])}, 8, 1, r"holds no colours \(ColorMap\): export it as RGB"),
        ({PHOTOMETRIC: (SHORT, [4])}, 1, 1, "is a mask, not a picture"),
        ({PHOTOMETRIC: (SHORT, [5]), INK_SET: (SHORT, [2])}, 8, 4, "inks are not cyan, magenta, yellow and black"),
        ({PHOTOMETRIC: (SHORT, [5])}, 8, 3, "3 bands for four inks"),
        ({PHOTOMETRIC: (SHORT, [10])}, 8, 3, "ITU"),
        ({PHOTOMETRIC: (SHORT, [32844])}, 16, 1, "logarithmic luminance"),
        ({PHOTOMETRIC: (SHORT, [32803])}, 16, 1, "raw data of a camera.*raw developer"),
        ({PHOTOMETRIC: (SHORT, [34892])}, 16, 3, "raw data of a camera.*raw developer"),
        ({PHOTOMETRIC: (SHORT, [6])}, 16, 3, "YCbCr .* 16 bit is not read: export it as RGB"),
        ({PHOTOMETRIC: (SHORT, [6]), 532: (RATIONAL, [1, 0] * 6)}, 8, 3, r"black and white \(ReferenceBlackWhite\)"),
        ({PHOTOMETRIC: (SHORT, [0]), EXTRA_SAMPLES: (SHORT, [1])}, 8, 2, "multiplied by alpha are not read"),
        ({COMPRESSION: (SHORT, [34888])}, 8, 1, r"its compression \(34888\) is not read"),
        ({322: (LONG, [1 << 16]), 323: (LONG, [1 << 16])}, 8, 3, "its tiles take 12288 MiB each"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(tmp_path: Path, tags: dict[int, Value], bits: int, bands: int, problem: str) -> None:
    values = np.zeros((HEIGHT, WIDTH, bands) if bands > 1 else (HEIGHT, WIDTH), np.uint8)
    refused(written(tmp_path, page(values, bits, 2 if bands == 3 else 1, tags)), problem)


@pytest.mark.parametrize(
    "tags",
    [
        {OFFSETS: (LONG, [0])},
        {OFFSETS: (LONG, [4])},
        {OFFSETS: (LONG, [0x7FFFFFF0])},
        {OFFSETS: (LONG, [])},
        {BYTE_COUNTS: (LONG, [0x7FFFFFF0]), COMPRESSION: (SHORT, [5])},
        {278: (LONG, [2])},
        {256: (LONG, [0])},
        {BITS: (RATIONAL, [8, 1] * 3)},
        {SAMPLE_FORMAT: (SHORT, [])},
        {OFFSETS: (RATIONAL, [8, 1])},
    ],
    ids=[
        "start",
        "header",
        "behind the end",
        "none",
        "endless",
        "too few strips",
        "no width",
        "depths of fractions",
        "no kind",
        "offsets of fractions",
    ],
)
def test_offsets_that_lie_are_damage(tmp_path: Path, tags: dict[int, Value]) -> None:
    refused(written(tmp_path, page(noise(8, 3), 8, 2, tags)), "damaged or truncated, .* cannot be decoded")


def test_a_strip_in_the_directory_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path, page(noise(8, 3), 8, 2))
    with tifffile.TiffFile(path) as opened:
        offset = opened.pages.first.offset
    data = bytearray(path.read_bytes())
    whole = written(tmp_path, page(noise(8, 3), 8, 2, {OFFSETS: (LONG, [offset + 6]), BYTE_COUNTS: (LONG, [9])}))
    assert len(whole.read_bytes()) == len(data)
    refused(whole, "lies in the file's header")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_is_cut_off_is_damage(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(8, 3).astype(np.uint8), photometric="rgb", compression="zlib", metadata=None)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "damaged or truncated")


# ---- which picture ------------------------------------------------------------------------------------------------


def colored(value: int, width: int = WIDTH, more: dict[int, Value] | None = None, **options: Any) -> Page:
    base = page(np.full((HEIGHT, width, 3), value, np.uint8), 8, 2, more)
    return Page(base.width, base.height, base.body, base.tags, **options)


SMALL: dict[int, Value] = {NEW_SUBFILE_TYPE: (LONG, [1])}
MASK: dict[int, Value] = {NEW_SUBFILE_TYPE: (LONG, [4])}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_pages_of_a_file(tmp_path: Path, big: bool, order: str) -> None:
    path = written(
        tmp_path,
        colored(10), colored(11, 5, SMALL), colored(20, 30), colored(21, 5, {255: (SHORT, [2])}),
        colored(30, more=MASK), big=big, order=order,
    )  # fmt: skip
    assert [(each.number, each.width) for each in pages_of(path)] == [(1, WIDTH), (2, 30)]
    assert read(path).max() == 10
    assert "2 pages, of which the first is read" in notes_on(path)[0]
    assert read_image(path).notes == notes_on(path)
    second = read(path, 2)
    assert (second.shape[1], second.max()) == (30, 20)
    assert read_image(path, page=2).notes == ()
    with pytest.raises(ImageError, match=r"x\.tif: has no page 3: it has 2"):
        read_image(path, page=3)


def test_a_preview_is_never_the_picture(tmp_path: Path) -> None:
    for pages in (
        [colored(9, 5, SMALL), colored(50)],
        [colored(9, 5, SMALL, nested=[colored(8, 4, SMALL), colored(50), colored(7, 6)])],
        [colored(9, 5, {**SMALL, 50706: (BYTE, bytes([1, 4, 0, 0]))}, nested=[colored(50)])],
    ):
        path = written(tmp_path, *pages)
        assert read(path).max() == 50
        assert tiff_size(path) == (WIDTH, HEIGHT)
    refused(written(tmp_path, colored(9, 5, SMALL)), r"nothing but what it calls smaller copies .*NewSubfileType 1")
    raw: dict[int, Value] = {PHOTOMETRIC: (SHORT, [32803])}
    refused(written(tmp_path, colored(9, 5, SMALL, nested=[colored(50, more=raw)])), "raw data of a camera")


def test_overviews_serve_the_page_that_they_belong_to(tmp_path: Path) -> None:
    path = written(tmp_path, colored(10, 40), colored(200, 20, SMALL))
    with open_geotiff(path) as raster:
        assert raster.overview(20).max() == 200


@pytest.mark.parametrize(
    ("next_offset", "note"), [(1 << 20, "damaged behind its 1. directory"), (8, "damaged behind its 1. directory")]
)
def test_a_chain_that_leads_nowhere_ends(tmp_path: Path, next_offset: int, note: str) -> None:
    path = written(tmp_path, colored(10), next_offset=next_offset)
    assert read(path).max() == 10
    assert note in read_image(path).notes[0]


def test_a_chain_that_runs_in_a_circle_ends(tmp_path: Path) -> None:
    data = written(tmp_path, colored(10)).read_bytes()
    (first,) = struct.unpack_from("<I", data, 4)
    path = written(tmp_path, colored(10), next_offset=first)
    assert read(path).max() == 10
    assert "damaged behind its 1. directory" in read_image(path).notes[0]


def test_every_page_keeps_the_limit_of_pixels(tmp_path: Path) -> None:
    path = written(tmp_path, colored(10), colored(20, 600))
    assert read_image(path, max_pixels=HEIGHT * 500).width == WIDTH
    with pytest.raises(ImageError, match="declares 600 x 19 = 11400 pixels, more than the limit of 9500"):
        read_image(path, max_pixels=HEIGHT * 500, page=2)


# ---- orientation, capture -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG, SSHORT])
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_of_any_type_turns_a_photograph(tmp_path: Path, kind: int, order: str) -> None:
    values = noise(8, 3)
    path = written(tmp_path, page(values, 8, 2, {ORIENTATION: (kind, [6])}), order=order)
    np.testing.assert_array_equal(read_image(path).pixels, np.rot90(values, -1))
    np.testing.assert_array_equal(as_raster(path)[0], values)


def test_a_raster_lies_as_its_georeference_says(tmp_path: Path) -> None:
    values = noise(8, 3)
    placed: dict[int, Value] = {33550: (12, [1.0, 1.0, 0.0]), 33922: (12, [0.0, 0, 0, 5e5, 6e6, 0])}
    path = written(tmp_path, page(values, 8, 2, {ORIENTATION: (SHORT, [6]), **placed}))
    np.testing.assert_array_equal(read(path), values)
    assert "orientation (6) that is not applied" in notes_on(path)[0]


def test_metadata_of_odd_types_fail_no_picture(tmp_path: Path) -> None:
    values = noise(8, 3)
    odd: dict[int, Value] = {
        34665: (LONG, [0xFFFFFFF0]), 34853: (ASCII, b"nowhere\0"), 306: (RATIONAL, [1, 0]),
        270: (UNDEFINED, b"\xff\xfe"), 700: (BYTE, b"<x:xmpmeta"), 34675: (UNDEFINED, b"no profile"),
        347: (UNDEFINED, b"no tables"),
    }  # fmt: skip
    np.testing.assert_array_equal(read(written(tmp_path, page(values, 8, 2, odd))), values)


# ---- large ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw", "rowsperstrip": 2500},
        {"compression": "zlib", "tile": (256, 256)},
        {"rowsperstrip": 5},
    ],
    ids=["one strip", "one compressed strip", "tiles", "strips"],
)
def test_a_picture_of_many_strips(tmp_path: Path, options: dict[str, Any]) -> None:
    values = RNG.integers(0, 255, (2500, 1300, 3), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", metadata=None, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").pixels, values)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.tif"
    os.mkfifo(pipe)
    assert tiff_size(pipe) is None
    for read_it in (pages_of, read_image):
        with pytest.raises(ImageError, match=r"pipe\.tif"):
            read_it(pipe)

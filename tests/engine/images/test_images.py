"""Oracles: OpenCV, Pillow's `Image.open`, arithmetic by hand. Every picture is written by the test that reads it."""

import itertools
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ImageError, OptionError
from engine.images import IMAGE_SUFFIXES, Capture, SourceImage, list_images, read_image, shrunken_size
from engine.rasters.geotiff import open_geotiff

EXIF_IFD, GPS_IFD = 0x8769, 0x8825
ORIENTATION, TAKEN_AT, TAKEN_AT_OFFSET = 0x0112, 0x9003, 0x9011
SYDNEY = {1: "S", 2: (33.0, 51.0, 36.0), 3: "E", 4: (151.0, 12.0, 36.0)}
Tag = tuple[int, int, int, int]


def noise(
    height: int = 20, width: int = 30, bands: int = 3, dtype: type[np.uint8] | type[np.uint16] = np.uint8
) -> NDArray[Any]:
    shape = (height, width, bands) if bands > 1 else (height, width)
    return np.random.default_rng(5).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth and without symmetry, so that a JPEG stays close and every turn shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    bands = (rows / height, columns / width, rows * columns / (height * width))
    return (np.stack(bands, axis=-1) * 255).astype(np.uint8)


def opencv(path: Path) -> NDArray[Any]:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels


def pillow(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def save(path: Path, pixels: NDArray[Any], format: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    image.save(path, format, **options)
    return path


def exif_of(tags: dict[int, Any], exif: dict[int, Any] | None = None, gps: dict[int, Any] | None = None) -> Image.Exif:
    """An EXIF block that has been through its bytes, so that Pillow can write it to any format."""
    written = Image.Exif()
    for tag, value in tags.items():
        written[tag] = value
    written.get_ifd(EXIF_IFD).update(exif or {})
    written.get_ifd(GPS_IFD).update(gps or {})
    loaded = Image.Exif()
    loaded.load(written.tobytes())
    return loaded


def tiff(
    width: int,
    height: int,
    body: bytes,
    *,
    bits: int,
    photometric: int,
    bands: int = 1,
    more: tuple[Tag, ...] = (),
    big: bool = False,
) -> bytes:
    """A little-endian TIFF of one strip, as Pillow itself would not write it."""
    depths = struct.pack(f"<{bands}H", *[bits] * bands)
    inline = len(depths) <= (8 if big else 4)
    tags: list[Tag] = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, bands, int.from_bytes(depths, "little") if inline else 0),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 0),
        (277, 3, 1, bands),
        (278, 4, 1, height),
        (279, 4, 1, len(body)),
        *more,
    ]
    entry = "<HHQQ" if big else "<HHII"
    head = (
        struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags))
        if big
        else struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    )
    end = len(head) + struct.calcsize(entry) * len(tags) + (8 if big else 4)
    tags[5] = (273, 4, 1, end + len(depths))
    if not inline:
        tags[2] = (258, 3, bands, end)
    directory = b"".join(struct.pack(entry, *tag) for tag in tags)
    return head + directory + bytes(8 if big else 4) + depths + body


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIIIHHIIIIII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


# list_images


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Files by name only: listing does not look inside."""
    for name in (
        "b.JPG",
        "a.png",
        "notes.txt",
        ".hidden.png",
        "sub/c.tiff",
        "sub/deep/d.webp",
        ".cache/e.bmp",
        "z[1].tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def names(paths: list[Path], album: Path) -> list[str]:
    return [path.relative_to(album).as_posix() for path in paths]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", ["a.png", "b.JPG", "z[1].tif"]),
        (".cache", [".cache/e.bmp"]),
        ("notes.txt", ["notes.txt"]),
        (".hidden.png", [".hidden.png"]),
        ("*", ["a.png", "b.JPG", "z[1].tif"]),
        ("?.*", ["a.png", "b.JPG"]),
        ("[ab].*", ["a.png", "b.JPG"]),
        ("z[1].tif", ["z[1].tif"]),
        ("*.txt", None),
        (".*.png", [".hidden.png"]),
        (".*/*", [".cache/e.bmp"]),
        ("**/*.tiff", ["sub/c.tiff"]),
        ("**", ["a.png", "b.JPG", "sub/c.tiff", "sub/deep/d.webp", "z[1].tif"]),
        ("sub/*/d.webp", ["sub/deep/d.webp"]),
        ("sub/deep/../*", ["sub/deep/../c.tiff"]),
        ("missing.jpg", ["missing.jpg"]),
        ("missing/*.jpg", None),
        ("folder.jpg", None),
        ("x**", None),
        ("n" * 300, ["n" * 300]),
    ],
)
def test_list_images_of_one_argument(album: Path, argument: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ImageError, match=re.escape(argument)):
            list_images([album / argument])
    else:
        assert names(list_images([str(album / argument)]), album) == expected


def test_list_images_keeps_the_order_and_lists_a_file_once(album: Path) -> None:
    (album / "link.png").symlink_to(album / "a.png")
    found = list_images([album / "sub", album / "b.JPG", album, str(album / "*.png"), album / "sub/../b.JPG"])
    assert names(found, album) == ["sub/c.tiff", "b.JPG", "a.png", "z[1].tif"]


def test_list_images_takes_relative_arguments(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album / "sub")
    assert list_images(["*.tiff", "../*.png", "deep"]) == [Path("c.tiff"), Path("../a.png"), Path("deep/d.webp")]


def test_list_images_refuses_an_empty_argument() -> None:
    with pytest.raises(ImageError, match="empty argument"):
        list_images([""])


def test_list_images_of_nothing() -> None:
    assert list_images([]) == []


def test_a_folder_is_listed_by_every_suffix(tmp_path: Path) -> None:
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / f"x{suffix.upper()}").touch()
    assert {path.suffix.lower() for path in list_images([tmp_path])} == IMAGE_SUFFIXES


# shrunken_size

sides = st.integers(1, 100_000)
limits = st.integers(1, 10**9)


@given(sides, sides, limits)
@example(1000, 1, 10)
@example(1, 1000, 10)
@example(100_000, 100_000, 1)
def test_shrunken_size_keeps_the_limit_and_at_least_one_pixel(width: int, height: int, limit: int) -> None:
    new_width, new_height = shrunken_size(width, height, limit)
    assert 1 <= new_width <= width
    assert 1 <= new_height <= height
    assert new_width * new_height <= limit
    assert shrunken_size(height, width, limit) == (new_height, new_width)


@given(sides, sides, limits)
def test_shrunken_size_scales_both_sides_by_the_root(width: int, height: int, limit: int) -> None:
    scale = min(1.0, math.sqrt(limit / (width * height)))
    for side, new_side in zip((width, height), shrunken_size(width, height, limit), strict=True):
        if min(width, height) * scale >= 1:
            assert side * scale - 1 - 1e-6 <= new_side <= side * scale + 1e-6


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((1000, 1000), 1_000_000, (1000, 1000)),
        ((1001, 1000), 1_000_000, (1000, 999)),
        ((2000, 2000), 1_000_000, (1000, 1000)),
        ((1000, 1), 10, (10, 1)),
        ((7, 7), 9, (3, 3)),
        ((7, 7), 8, (2, 2)),
        ((7, 7), 1, (1, 1)),
        ((7, 5), -1, (7, 5)),
    ],
)
def test_shrunken_size_by_hand(size: tuple[int, int], limit: int, expected: tuple[int, int]) -> None:
    assert shrunken_size(*size, limit) == expected


@pytest.mark.parametrize("limit", [0, -2, -1_000_000])
def test_a_limit_that_means_nothing_is_refused_before_the_file_is_opened(limit: int) -> None:
    with pytest.raises(OptionError, match=rf"max-img-size: {limit} is not a number"):
        shrunken_size(4, 4, limit)
    with pytest.raises(OptionError, match=rf"max-img-size: {limit} is not a number"):
        read_image(Path("missing.jpg"), max_img_size=limit)


# read_image: formats and modes


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_are_told_by_content(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    pixels = noise()
    image = read_image(save(tmp_path / "looks_like.jpg", pixels, format=form, **options))
    assert np.array_equal(image.pixels, pixels)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert (image.width, image.height, image.capture) == (30, 20, Capture(None, None, None))


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0}),
        ("MPO", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_lossy_formats_are_what_pillow_decodes(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    path = save(tmp_path / "x", gradient(40, 50), format=form, **options)
    assert np.array_equal(read_image(path).pixels, pillow(path))


def test_a_picture_larger_than_one_strip(tmp_path: Path) -> None:
    pixels = noise(1100, 1000)
    assert np.array_equal(read_image(save(tmp_path / "x.bmp", pixels)).pixels, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_modes_as_opencv_reads_them(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    image = Image.fromarray(noise(bands=4)) if mode == "RGBA" else Image.fromarray(noise()).convert(mode)
    if mode == "LA":
        image.putalpha(Image.fromarray(noise(bands=1)))
    image.save(path)
    if suffix == "tif" and mode in {"LA", "RGBA"}:
        # OpenCV multiplies a TIFF's alpha in; this project drops it, as OpenCV does for PNG.
        expected = np.stack([np.asarray(band) for band in image.split()[:-1] * (3 if mode == "LA" else 1)], axis=-1)
    else:
        expected = opencv(path)
    assert np.array_equal(read_image(path).pixels, expected)


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff"])
def test_a_palette_with_transparency_keeps_its_colors(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(noise()).quantize(16)
    image.save(tmp_path / "x.png", transparency=transparency)
    assert np.array_equal(read_image(tmp_path / "x.png").pixels, np.asarray(image.convert("RGB")))


def test_transparent_colors_of_grey_and_rgb_stay(tmp_path: Path) -> None:
    for pixels, transparency in ((noise(bands=1), 7), (noise(), (1, 2, 3))):
        path = save(tmp_path / "x.png", pixels, transparency=transparency)
        assert np.array_equal(read_image(path).pixels, opencv(path))


@pytest.mark.parametrize(("name", "mode"), [("x.jpg", "CMYK"), ("x.tif", "CMYK")])
def test_other_color_models_are_converted_by_pillow(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / name
    Image.fromarray(gradient(20, 30)).convert(mode).save(path)
    assert np.array_equal(read_image(path).pixels, pillow(path))


def test_lab_by_hand(tmp_path: Path) -> None:
    Image.new("LAB", (2, 2), (128, 128, 128)).save(tmp_path / "x.tif")
    assert abs(read_image(tmp_path / "x.tif").pixels.astype(int) - 119).max() <= 1  # L* = 50 is sRGB grey 119


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize(("suffix", "options"), [("png", []), ("tif", [1]), ("tif", [5])])
def test_sixteen_bit_keeps_the_high_byte(tmp_path: Path, bands: int, suffix: str, options: list[int]) -> None:
    path = tmp_path / f"x.{suffix}"
    pixels = noise(bands=bands, dtype=np.uint16)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, *options] if options else [])
    read = read_image(path).pixels
    high = np.dstack([pixels] * 3) if bands == 1 else pixels[..., 2::-1]
    assert np.array_equal(read, high >> 8)
    # OpenCV lets libtiff round 16-bit colour (v / 257); everything else it shifts as well.
    tolerance = 1 if suffix == "tif" and bands > 1 else 0
    assert abs(read.astype(int) - opencv(path)).max() <= tolerance


def test_sixteen_bit_big_endian_tiff(tmp_path: Path) -> None:
    values = np.array([[0x0102, 0xFE03]], ">u2")
    little = tiff(2, 1, b"", bits=16, photometric=1)
    entries = [struct.unpack_from("<HHII", little, 10 + 12 * n) for n in range(9)]
    packed = b"".join(
        struct.pack(">HHI", tag, kind, n) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, n, value in entries
    )
    head = b"MM\0*" + struct.pack(">IH", 8, 9) + packed + bytes(4) + bytes(2)
    (tmp_path / "x.tif").write_bytes(head + values.tobytes())
    assert read_image(tmp_path / "x.tif").pixels[0, :, 0].tolist() == [0x01, 0xFE]


def test_twelve_bit_tiff_keeps_the_highest_eight(tmp_path: Path) -> None:
    values = [0x000, 0x3E8, 0xABC, 0xFFF]
    body = int("".join(f"{value:03x}" for value in values), 16).to_bytes(6, "big")
    (tmp_path / "x.tif").write_bytes(tiff(4, 1, body, bits=12, photometric=1))
    assert read_image(tmp_path / "x.tif").pixels[0, :, 1].tolist() == [0x00, 0x3E, 0xAB, 0xFF]


def test_sixteen_bit_where_zero_is_white(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(4, 1, np.array([0, 1000, 30000, 65535], "<u2").tobytes(), bits=16, photometric=0))
    assert read_image(path).pixels[0, :, 0].tolist() == [255, 255 - 3, 255 - 117, 0]
    assert abs(read_image(path).pixels.astype(int) - opencv(path)).max() <= 1


def test_premultiplied_grey_is_divided_by_its_alpha(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(2, 1, bytes([50, 100, 50, 255]), bits=8, photometric=1, bands=2, more=((338, 3, 1, 1),)))
    assert read_image(path).pixels[0, :, 0].tolist() == [127, 50]  # 50 * 255 / 100, rounded down


@pytest.mark.parametrize(("dtype", "kind"), [(np.int32, "signed integers"), (np.float32, "floating point")])
def test_depths_without_a_range_are_refused(
    tmp_path: Path, dtype: type[np.int32] | type[np.float32], kind: str
) -> None:
    path = save(tmp_path / "x.tif", np.zeros((4, 4), dtype))
    with pytest.raises(ImageError, match=rf"x\.tif: values of 32 bit \({kind}\) .*state it with scale-range"):
        read_image(path)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("bands", "photometric"), [(4, 1), (5, 1), (5, 2), (7, 1)])
def test_a_wrong_number_of_bands_is_refused(tmp_path: Path, bands: int, photometric: int, big: bool) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(4, 4, bytes(16 * bands), bits=8, photometric=photometric, bands=bands, big=big))
    with pytest.raises(ImageError, match=rf"x\.tif: {bands} bands .*: choose th.* with bands"):
        read_image(path)


def test_bands_of_a_wrong_depth_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(4, 4, bytes(192), bits=32, photometric=2, bands=3, more=((339, 3, 1, 3),)))
    with pytest.raises(ImageError, match=r"values of 32 bit \(floating point\) .*: state it with scale-range"):
        read_image(path)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_several_is_read(tmp_path: Path, form: str) -> None:
    pixels = noise()
    path = tmp_path / "x"
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(pixels).save(path, form, save_all=True, append_images=[Image.fromarray(255 - pixels)], **options)
    assert np.array_equal(read_image(path).pixels, pixels)


# read_image: orientation, shrinking


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_orientations_as_opencv_applies_them(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", gradient(40, 60), exif=exif_of({ORIENTATION: orientation}))
    image = read_image(path)
    expected = opencv(path)
    assert image.pixels.shape == expected.shape
    assert abs(image.pixels.astype(int) - expected).max() <= (3 if suffix == "jpg" else 0)
    assert (image.height, image.width) == image.pixels.shape[:2]
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_orientations_of_tiff_are_those_of_png(tmp_path: Path, orientation: int, options: dict[str, str]) -> None:
    exif = exif_of({ORIENTATION: orientation})
    pixels = gradient(40, 60)
    image = read_image(save(tmp_path / "x.tif", pixels, tiffinfo={ORIENTATION: orientation}, **options))
    assert np.array_equal(image.pixels, opencv(save(tmp_path / "x.png", pixels, exif=exif)))
    assert (image.height, image.width) == image.pixels.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_orientations_that_do_not_exist_are_ignored(tmp_path: Path, orientation: int) -> None:
    pixels = noise()
    path = save(tmp_path / "x.png", pixels, exif=exif_of({ORIENTATION: orientation}))
    assert np.array_equal(read_image(path).pixels, pixels)


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise())
    data = path.read_bytes()
    exif = png_chunk(b"eXIf", exif_of({ORIENTATION: 6}).tobytes()[6:])
    path.write_bytes(data[:-12] + exif + data[-12:])
    assert read_image(path).pixels.shape == (30, 20, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("limit", [100, 5_000, 11_999, 12_000, 50_000])
def test_the_size_rule_holds_for_the_upright_picture(tmp_path: Path, suffix: str, orientation: int, limit: int) -> None:
    path = save(tmp_path / f"x.{suffix}", gradient(80, 150), exif=exif_of({ORIENTATION: orientation}))
    image = read_image(path, max_img_size=limit)
    assert (image.width, image.height) == ((150, 80) if orientation < 5 else (80, 150))
    assert image.pixels.shape[1::-1] == shrunken_size(image.width, image.height, limit)
    assert image.pixels.flags.c_contiguous


def test_shrinking_averages_areas(tmp_path: Path) -> None:
    pixels = noise(40, 60)
    image = read_image(save(tmp_path / "x.png", pixels), max_img_size=40 * 60 // 4)
    means = pixels.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert abs(image.pixels - means).max() <= 0.5


def test_a_shrunken_jpeg_is_close_to_the_shrunken_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", gradient(480, 640), quality=95)
    for limit in (640 * 480 // 2, 640 * 480 // 5, 640 * 480 // 16, 640 * 480 // 100, 12):
        image = read_image(path, max_img_size=limit)
        size = shrunken_size(640, 480, limit)
        expected = cv2.resize(pillow(path), size, interpolation=cv2.INTER_AREA)
        assert image.pixels.shape[1::-1] == size
        assert abs(image.pixels.astype(int) - expected).max() <= 3


def test_a_picture_is_never_enlarged(tmp_path: Path) -> None:
    pixels = noise()
    assert np.array_equal(read_image(save(tmp_path / "x.png", pixels), max_img_size=10**9).pixels, pixels)


# read_image: capture


def test_time_and_place_are_read(tmp_path: Path) -> None:
    exif = exif_of({}, {TAKEN_AT: "2024:06:30 14:05:09", TAKEN_AT_OFFSET: "+10:00"}, SYDNEY)
    taken_at = datetime(2024, 6, 30, 14, 5, 9, tzinfo=timezone(timedelta(hours=10)))
    for suffix in ("jpg", "png", "webp", "tif"):
        capture = read_image(save(tmp_path / f"x.{suffix}", noise(), exif=exif)).capture
        assert capture.taken_at == taken_at
        assert capture.latitude_deg == pytest.approx(-33.86)
        assert capture.longitude_deg == pytest.approx(151.21)


def test_time_and_place_of_a_tiff_with_pages(tmp_path: Path) -> None:
    page = Image.fromarray(noise())
    exif = exif_of({ORIENTATION: 6}, {TAKEN_AT: "2024:06:30 14:05:09"}, SYDNEY)
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page], exif=exif)
    image = read_image(tmp_path / "x.tif")
    assert image.pixels.shape == (30, 20, 3)
    assert image.capture.taken_at == datetime(2024, 6, 30, 14, 5, 9)
    assert image.capture.latitude_deg == pytest.approx(-33.86)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({TAKEN_AT: "2024:06:30 14:05:09"}, datetime(2024, 6, 30, 14, 5, 9)),
        ({TAKEN_AT: "2024:06:30 14:05:09", TAKEN_AT_OFFSET: "   :  "}, datetime(2024, 6, 30, 14, 5, 9)),
        ({TAKEN_AT: "0000:00:00 00:00:00"}, None),
        ({TAKEN_AT: "    :  :     :  :  "}, None),
        ({TAKEN_AT: "yesterday"}, None),
        # The hour after midnight of the day that has begun, as Android's cameras wrote it.
        ({TAKEN_AT: "2015:08:22 24:08:19"}, datetime(2015, 8, 22, 0, 8, 19)),
        ({TAKEN_AT: "2015:08:22 25:08:19"}, None),
        ({TAKEN_AT: "2024-06-30 14:05:09"}, datetime(2024, 6, 30, 14, 5, 9)),
        ({TAKEN_AT: "2024-06-30T14:05:09"}, datetime(2024, 6, 30, 14, 5, 9)),
        ({TAKEN_AT: "2024:06:30 14:05:09.123"}, datetime(2024, 6, 30, 14, 5, 9)),
        ({TAKEN_AT: "2024:06:30 14:05:09\0\x1b[31m"}, datetime(2024, 6, 30, 14, 5, 9)),
        ({TAKEN_AT: "2024:02:30 14:05:09"}, None),
        ({TAKEN_AT: "2024:06:30 14:05:09 \x1b[31m" + "9" * 30_000}, None),
        ({TAKEN_AT_OFFSET: "+10:00"}, None),
    ],
)
def test_times_as_cameras_write_them(tmp_path: Path, tags: dict[int, str], expected: datetime | None) -> None:
    image = read_image(save(tmp_path / "x.jpg", noise(), exif=exif_of({}, tags, SYDNEY)))
    assert image.capture.taken_at == expected
    assert image.capture.taken_at is None or image.capture.taken_at.tzinfo is None
    assert image.capture.latitude_deg == pytest.approx(-33.86)


@pytest.mark.parametrize(
    ("taken_at", "offset", "hours"),
    [
        ("2024:06:30 14:05:09+02:00", None, 2),
        ("2024-06-30T14:05:09Z", None, 0),
        ("2024:06:30 14:05:09+0200", "-03:00", -3),
        ("2024:06:30 14:05:09+02:00", "nonsense", 2),
    ],
)
def test_offsets_of_times(tmp_path: Path, taken_at: str, offset: str | None, hours: int) -> None:
    tags = {TAKEN_AT: taken_at, **({} if offset is None else {TAKEN_AT_OFFSET: offset})}
    image = read_image(save(tmp_path / "x.jpg", noise(), exif=exif_of({}, tags)))
    assert image.capture.taken_at == datetime(2024, 6, 30, 14, 5, 9, tzinfo=timezone(timedelta(hours=hours)))


@pytest.mark.parametrize(
    ("changed", "latitude_deg", "longitude_deg"),
    [
        ({1: "N", 3: "W"}, 33.86, -151.21),
        ({2: (91.0, 0.0, 0.0)}, None, 151.21),
        ({2: (89.0, 59.0, 61.0)}, None, 151.21),
        ({4: (180.0, 0.0, 0.0)}, -33.86, 180.0),
        ({4: (33.0, 51.0)}, -33.86, None),
        ({1: "", 3: "N"}, None, None),
        ({1: "s"}, None, 151.21),
    ],
)
def test_places_as_cameras_write_them(
    tmp_path: Path, changed: dict[int, Any], latitude_deg: float | None, longitude_deg: float | None
) -> None:
    capture = read_image(save(tmp_path / "x.jpg", noise(), exif=exif_of({}, {}, SYDNEY | changed))).capture
    assert capture.latitude_deg == pytest.approx(latitude_deg)
    assert capture.longitude_deg == pytest.approx(longitude_deg)


def test_a_place_of_zero_by_zero_is_none(tmp_path: Path) -> None:
    exif = exif_of({}, {}, SYDNEY).tobytes()
    degrees = struct.pack("<II", 33, 1) if exif[6:8] == b"II" else struct.pack(">II", 33, 1)
    assert exif.count(degrees) == 1
    capture = read_image(save(tmp_path / "x.jpg", noise(), exif=exif.replace(degrees, bytes(8)))).capture
    assert (capture.latitude_deg, capture.longitude_deg) == (None, pytest.approx(151.21))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\x08\0\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4sI", ORIENTATION, 2, 4, b"six\0", 0),
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff" * 9,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", GPS_IFD, 4, 1, 0xFFFFFFF0, 0),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", EXIF_IFD, 2, 4, 0x41414141, 0),
        exif_of({ORIENTATION: 1}, {TAKEN_AT: "2024:06:30 14:05:09"}, SYDNEY).tobytes()[:90],
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_never_fails_a_good_picture(tmp_path: Path, exif: bytes, form: str) -> None:
    whole = read_image(save(tmp_path / "whole", noise(), format=form))
    image = read_image(save(tmp_path / "damaged", noise(), format=form, exif=exif))
    assert np.array_equal(image.pixels, whole.pixels)
    assert image.capture == Capture()


def test_random_damage_to_exif_never_fails_a_good_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", noise(8, 8), exif=exif_of({}, {TAKEN_AT: "2024:06:30 14:05:09"}, SYDNEY))
    data = path.read_bytes()
    start = data.index(b"Exif\0\0") + 6
    end = start - 8 + int.from_bytes(data[start - 8 : start - 6], "big")
    rng = np.random.default_rng(11)
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(start, end, 5):
            damaged[place] = rng.choice([0, 0xFF, int(rng.integers(256))])
        path.write_bytes(damaged)
        assert read_image(path).pixels.shape == (8, 8, 3)


def test_pillows_warnings_do_not_come_through(tmp_path: Path) -> None:
    # pytest turns warnings into errors; Pillow warns of an animation of no frames.
    path = save(tmp_path / "x.png", noise())
    data = path.read_bytes()
    path.write_bytes(data[:33] + png_chunk(b"acTL", bytes(8)) + data[33:])
    assert np.array_equal(read_image(path).pixels, noise())


# read_image: limits and damage


@pytest.mark.parametrize(
    "header",
    [
        png_header(60_000, 60_000) + png_chunk(b"IDAT", b""),
        bmp_header(60_000, 60_000),
        tiff(60_000, 60_000, b"", bits=8, photometric=1),
        webp(b"VP8X", bytes(4) + (59_999).to_bytes(3, "little") * 2),
    ],
    ids=["PNG", "BMP", "TIFF", "WebP"],
)
def test_a_picture_that_declares_too_much_is_refused_before_decoding(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "x").write_bytes(header)
    with pytest.raises(ImageError, match=r"x: declares 60000 x 60000 = 3600000000 pixels.* 200000000: .*max-pixels"):
        read_image(tmp_path / "x")


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("PNG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_max_pixels_is_the_most_that_is_read(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    path = save(tmp_path / "x", noise(20, 30), format=form, **options)
    assert read_image(path, max_pixels=600).pixels.shape == (20, 30, 3)
    with pytest.raises(ImageError, match="declares 30 x 20 = 600 pixels, more than the limit of 599"):
        read_image(path, max_pixels=599)


def test_pillows_own_limit_neither_interferes_nor_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Image.MAX_IMAGE_PIXELS
    path = save(tmp_path / "x.png", np.zeros((1100, 1300), np.uint8))
    assert read_image(path).width == 1300
    assert default == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600_000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert read_image(path).width == 1300


def test_pillows_own_limit_where_it_cannot_be_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.webp", noise())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"x\.webp: too large for Pillow .*save it as PNG"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"Dear Sir or Madam,", "is not a JPEG, PNG, TIFF, WebP, BMP, HEIC, AVIF or JPEG 2000 file: convert it"),
        (b"GIF89a" + bytes(20), "is a GIF picture, which is not read: save it as PNG"),
        (b"BMW owners' manual, 1987 edition, with an index", "cannot be decoded"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBPVP8L", "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBPVP8X", "cannot be decoded"),
        (b"II*\0", "cannot be decoded"),
        (b"II*\0\xff\xff\xff\xff", "cannot be decoded"),
        (tiff(4, 4, b"", bits=8, photometric=77), r"not known \(PhotometricInterpretation 77\): export it as RGB"),
        (png_header(10, 10) + png_chunk(b"IDAT", b"no zlib") + png_chunk(b"IEND", b""), "cannot be decoded"),
    ],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"photo\.jpg: .*{problem}"):
        read_image(path)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 0.95])
def test_truncated_files_are_refused(tmp_path: Path, form: str, options: dict[str, Any], share: float) -> None:
    path = save(tmp_path / "x", noise(64, 64), format=form, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for limit in (-1, 100):
        with pytest.raises(ImageError, match=r"x: .*(cannot be decoded|is not a)"):
            read_image(path, max_img_size=limit)


def test_the_decoders_error_is_the_cause(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", noise(64, 64))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match="truncated") as caught:
        read_image(path)
    assert isinstance(caught.value.__cause__, OSError)


def opened_raster(path: Path) -> None:
    with open_geotiff(path):
        pass


@pytest.mark.parametrize("read", [read_image, opened_raster])
def test_paths_that_are_no_files(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, problem in (
        (tmp_path / "missing.jpg", "no such file: check the name"),
        (tmp_path / "pipes", re.escape(f"no such file: did you mean {tmp_path / 'pipe'}?")),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is not a regular file"),
        (tmp_path / ("n" * 300), "cannot be opened"),
    ):
        with pytest.raises(ImageError, match=rf"{re.escape(str(path))}: {problem}"):
            read(path)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.png", noise())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("engine.images.read.open_to_read", refuse)  # root, who runs CI, may read everything
    with pytest.raises(ImageError, match=r"cannot be opened \(Permission denied\): check .*permissions"):
        read_image(path)


# threads, handles


def test_many_threads_decode_at_once(tmp_path: Path) -> None:
    pixels = noise(200, 300)
    good: list[Path] = []
    for n, (form, orientation) in enumerate(itertools.product(("JPEG", "PNG", "TIFF", "WEBP"), (1, 6))):
        exif = exif_of({ORIENTATION: orientation}, {TAKEN_AT: "2024:06:30 14:05:09"}, SYDNEY)
        good.append(save(tmp_path / f"{n}", pixels, format=form, exif=exif))
    damaged = save(tmp_path / "damaged", pixels, format="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    single = [read_image(path, max_img_size=10_000) for path in [*good, damaged]]

    with ThreadPoolExecutor(16) as pool:
        read: Callable[[Path], SourceImage] = lambda path: read_image(path, max_img_size=10_000)  # noqa: E731
        for expected, image in zip(single * 12, pool.map(read, [*good, damaged] * 12), strict=True):
            assert np.array_equal(image.pixels, expected.pixels)
            assert image.capture == expected.capture


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_no_file_stays_open(tmp_path: Path, form: str) -> None:
    path = save(tmp_path / "x", noise(), format=form)
    broken = tmp_path / "broken"
    broken.write_bytes(path.read_bytes()[:-300])
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir()))
    kept = read_image(path)
    with pytest.raises(ImageError) as error:
        read_image(broken)
    assert len(list(handles.iterdir())) == before
    assert kept.width == 30
    assert error.value

"""JPEG, PNG, HEIC, AVIF, JPEG 2000, BMP: what is damaged beside the pixels, what is damaged in them, and odd kinds.

Oracles: OpenCV, imagecodecs, the pixels that were written.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ImageError
from engine.images import read_image
from engine.images.codecs import heif as heif_module
from tests.engine.images import heic
from tests.engine.images.test_images import ORIENTATION, exif_of, gradient, noise, png_chunk, save

RED, GREEN, BLUE = (210, 20, 30), (20, 210, 30), (20, 30, 210)


def encoded(pixels: NDArray[Any], form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def written(folder: Path, content: bytes | bytearray) -> Path:
    path = folder / "x"
    path.write_bytes(content)
    return path


def opencv(path: Path) -> NDArray[Any]:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def bad_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


# PNG

PACKED = zlib.compress(bytes(3_000_000), 1)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"k\0\0" + PACKED),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(2_000_000)),
        png_chunk(b"iCCP", b"k\0\0" + PACKED),
        png_chunk(b"iCCP", b"k\0\0no zlib"),
        png_chunk(b"zTXt", b""),
        bad_checksum(png_chunk(b"gAMA", struct.pack(">I", 45455))),
        bad_checksum(png_chunk(b"tEXt", b"k\0text")),
        png_chunk(b"pHYs", b"\0\0"),
        png_chunk(b"tRNS", b"\0"),
        png_chunk(b"PLTE", b"\1\2"),
        png_chunk(b"cHRM", bytes(3)),
        png_chunk(b"acTL", bytes(3)),
        png_chunk(b"eXIf", b"nonsense"),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_what_lies_beside_the_pixels_of_a_png_fails_nothing(tmp_path: Path, chunk: bytes, behind: bool) -> None:
    data = encoded(noise(), "PNG")
    place = len(data) - 12 if behind else 33
    path = written(tmp_path, data[:place] + chunk + data[place:] + b"behind the end")
    assert np.array_equal(read_image(path).pixels, noise())


@pytest.mark.parametrize("content", ["flipped bit", "header", "palette", "no end of pixels"])
def test_damage_in_the_pixels_of_a_png_is_refused(tmp_path: Path, content: str) -> None:
    data = bytearray(encoded(noise(64, 64), "PNG"))
    if content == "palette":
        file = io.BytesIO()
        Image.fromarray(noise(64, 64)).quantize(16).save(file, "PNG")
        data = bytearray(file.getvalue())
    place = {"flipped bit": data.index(b"IDAT") + 900, "header": 29, "palette": data.find(b"PLTE") + 5}.get(content)
    if place is None:
        del data[-400:]
    else:
        data[place] ^= 1
    with pytest.raises(ImageError, match=r"x: damaged or truncated, it cannot be decoded"):
        read_image(written(tmp_path, bytes(data)))


def test_a_png_without_its_end_is_whole(tmp_path: Path) -> None:
    assert np.array_equal(read_image(written(tmp_path, encoded(noise(), "PNG")[:-12])).pixels, noise())


@pytest.mark.parametrize(
    ("kind", "says"), [(b"CgBI", r"CgBI.*export it again"), (b"QAZz", "QAZz is needed to decode it")]
)
def test_chunks_that_must_be_understood(tmp_path: Path, kind: bytes, says: str) -> None:
    data = encoded(noise(), "PNG")
    with pytest.raises(ImageError, match=says):
        read_image(written(tmp_path, data[:33] + png_chunk(kind, bytes(4)) + data[33:]))


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(
    ("color_type", "depth", "bands"),
    [
        *((0, depth, 1) for depth in (1, 2, 4, 8, 16)),
        *((3, depth, 1) for depth in (1, 2, 4, 8)),
        *((color_type, depth, bands) for color_type, bands in ((2, 3), (4, 2), (6, 4)) for depth in (8, 16)),
    ],
)
def test_every_kind_of_png_as_opencv_reads_it(
    tmp_path: Path, color_type: int, depth: int, bands: int, interlaced: int
) -> None:
    width, height = 13, 9
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    random = np.random.default_rng(depth)
    rows = b""
    for left, top, across, down in passes if interlaced else [(0, 0, 1, 1)]:
        columns = -(-(width - left) // across)
        row_bytes = -(-columns * bands * depth // 8)
        rows += b"".join(b"\0" + random.bytes(row_bytes) for _ in range(-(-(height - top) // down)))
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    palette = png_chunk(b"PLTE", random.bytes(3 << depth)) if color_type == 3 else b""
    body = palette + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    path = written(tmp_path, b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body)
    assert np.array_equal(read_image(path).pixels, opencv(path))


def test_orientation_of_a_png_in_text(tmp_path: Path) -> None:
    data = encoded(noise(), "PNG")
    exif = exif_of({ORIENTATION: 6}).tobytes()
    raw = b"\nexif\n" + f"{len(exif):8}\n".encode() + exif.hex().encode() + b"\n"
    packet = b'<x:xmpmeta tiff:Orientation="6"/>'
    for chunk in (
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)),
    ):
        path = written(tmp_path, data[:33] + chunk + data[33:])
        assert np.array_equal(read_image(path).pixels, np.rot90(noise(), -1))


# JPEG


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe\0<"),
        segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1\xffbroken"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\2ab"),
        segment(0xE3, b"", 0),
        segment(0xFE, b"", 1),
        b"junk between the segments",
        b"\xff\xff\xff",
    ],
)
def test_what_lies_beside_the_pixels_of_a_jpeg_fails_nothing(tmp_path: Path, extra: bytes) -> None:
    data = encoded(gradient(40, 50), "JPEG")
    whole = read_image(written(tmp_path, data)).pixels
    path = written(tmp_path, data[:20] + extra + data[20:] + b"behind the end")
    assert np.array_equal(read_image(path).pixels, whole)
    assert np.array_equal(opencv(path), whole)


KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"subsampling": 0},
    {"progressive": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 5},
)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("limit", [-1, 20_000, 2_000])
def test_scans_that_end_too_early_are_not_filled_with_grey(tmp_path: Path, options: dict[str, Any], limit: int) -> None:
    pixels = cv2.resize(noise(40, 60), (601, 403)).astype(np.uint8)
    data = encoded(pixels, "JPEG", **options)
    read_image(written(tmp_path, data), max_img_size=limit)
    half = len(data) // 2
    cuts = {"cut": data[:half] + b"\xff\xd9", "zeros": data[:half] + bytes(half - 2) + b"\xff\xd9"}
    if "progressive" not in options:
        cuts |= {"hole": data[:half] + data[half + 100 :], "end": data[:-52] + b"\xff\xd9"}
    for content in cuts.values():
        with pytest.raises(ImageError, match="x: damaged or truncated"):
            read_image(written(tmp_path, content), max_img_size=limit)


def test_whole_jpegs_of_much_grey_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for number in range(60):
        height, width = random.integers(1, 90, 2)
        pixels = np.where(random.random((height, width, 1)) < 0.5, 128, 128 + random.integers(-2, 3, (1, 1, 3)))
        options = dict(KINDS[number % len(KINDS)])
        bands = pixels.astype(np.uint8)
        data = encoded(bands[..., 0] if number % 3 else bands, "JPEG", quality=int(random.integers(5, 100)), **options)
        path = written(tmp_path, data)
        for limit in (-1, int(random.integers(1, 2000))):
            assert (read_image(path, max_img_size=limit).width, read_image(path).height) == (width, height)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (imagecodecs.jpeg8_encode(noise(dtype=np.uint16) >> 4, bitspersample=12), "is a JPEG of 12 bit, which is not"),
        (imagecodecs.jpegls_encode(noise()), "is JPEG-LS, which is not read"),
        (
            encoded(gradient(8, 8), "JPEG").replace(b"\xff\xc0", b"\xff\xc5"),
            "is a hierarchical JPEG, which is not read",
        ),
    ],
)
def test_kinds_of_jpeg_that_are_not_read_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=f"x: {says}"):
        read_image(written(tmp_path, content))


def test_a_lossless_jpeg_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, imagecodecs.jpeg8_encode(noise(), lossless=True))
    assert np.array_equal(read_image(path).pixels, noise())


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kind", [1, 4, 6, 7, 8, 9])  # BYTE, LONG, SBYTE, UNDEFINED, SSHORT, SLONG
def test_an_orientation_of_any_number_type_counts(tmp_path: Path, kind: int, orientation: int) -> None:
    block = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", ORIENTATION, kind, 1, orientation, 0)
    path = save(tmp_path / "x.png", noise(), exif=block)
    expected = noise()[::-1, ::-1] if orientation == 3 else np.rot90(noise(), -1)
    assert np.array_equal(read_image(path).pixels, expected)


# HEIC


def fields(pixels: NDArray[Any]) -> list[int]:
    """Which band is strongest in the middle of four quarters."""
    height, width, _ = pixels.shape
    return [int(pixels[y, x].argmax()) for y in (height // 8, -height // 8) for x in (width // 8, -width // 8)]


@pytest.mark.parametrize("content", [heic.PLAIN, heic.TEN_BIT])
def test_heic(tmp_path: Path, content: bytes) -> None:
    image = read_image(written(tmp_path, content))
    # Memory that is not its own would be used for these by now.
    others = [read_image(tmp_path / "x") for _ in range(3)]
    assert (image.width, image.height, image.notes) == (48, 32, ())
    for place, color in (((8, 8), RED), ((8, 40), GREEN), ((24, 8), BLUE)):
        assert abs(image.pixels[place].astype(int) - color).max() <= 3
    assert fields(image.pixels) == [0, 1, 2, 0]
    assert all(np.array_equal(other.pixels, image.pixels) for other in others)


def test_a_heic_is_turned_once(tmp_path: Path) -> None:
    image = read_image(written(tmp_path, heic.TURNED))
    # Clockwise by a quarter: what was at the left below is at the left above.
    assert image.pixels.shape == (48, 32, 3)
    assert fields(image.pixels) == [2, 0, 0, 1]
    assert str(image.capture.taken_at) == "2024-06-30 14:05:09"


def test_the_main_picture_of_a_heic_is_read(tmp_path: Path) -> None:
    image = read_image(written(tmp_path, heic.MAIN_SECOND))
    assert fields(image.pixels) == [0, 1, 2, 0]
    assert image.notes == ("holds 2 pictures, of which the main one is read",)


def test_heic_without_its_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(ImageError, match=r"x: is a HEIC picture\. .*paddleseg-dual-runtime\[heif\]"):
        read_image(written(tmp_path, heic.PLAIN))
    monkeypatch.undo()
    assert heif_module.heif_available()


# AVIF, JPEG 2000, WebP, BMP


def declaring(content: bytes | bytearray, box: bytes, offset: int) -> bytes:
    place = content.index(box) + offset
    return bytes(content[:place]) + struct.pack(">II", 20_000, 20_000) + content[place + 8 :]


@pytest.mark.parametrize(
    "content",
    [
        declaring(heic.PLAIN, b"ispe", 8),
        declaring(imagecodecs.jpeg2k_encode(noise(), codecformat="jp2"), b"\xff\x4f\xff\x51", 8),
        declaring(imagecodecs.jpeg2k_encode(noise(), codecformat="j2k"), b"\xff\x4f\xff\x51", 8),
    ],
    ids=["HEIC", "JP2", "J2K"],
)
def test_new_formats_declare_their_size_before_they_are_decoded(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ImageError, match=r"x: declares 20000 x 20000 = 400000000 pixels"):
        read_image(written(tmp_path, content))


def test_avif(tmp_path: Path) -> None:
    for orientation, expected in ((1, noise()), (3, noise()[::-1, ::-1]), (6, np.rot90(noise(), -1))):
        content = encoded(noise(), "AVIF", quality=100, subsampling="4:4:4", exif=exif_of({ORIENTATION: orientation}))
        image = read_image(written(tmp_path, content))
        assert abs(image.pixels.astype(int) - expected).max() <= 3
        with pytest.raises(ImageError, match="declares 30 x 20 = 600 pixels"):
            read_image(written(tmp_path, content), max_pixels=599)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_of_several_pictures_it_is_said_which_is_read(tmp_path: Path, form: str) -> None:
    file = io.BytesIO()
    others = [Image.fromarray(255 - noise()), Image.fromarray(noise()[::-1])]
    Image.fromarray(noise()).save(file, form, save_all=True, append_images=others)
    assert read_image(written(tmp_path, file.getvalue())).notes == ("holds 3 pictures, of which the first one is read",)


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("depth", [8, 9, 12, 16])
def test_jpeg_2000_keeps_the_highest_eight_bits(tmp_path: Path, depth: int, bands: int, form: str) -> None:
    pixels = noise(bands=bands, dtype=np.uint16) >> (16 - depth)
    pixels[:5] = (1 << depth) - 1  # what is brightest stays bright
    stored = pixels.astype(np.uint8) if depth == 8 else pixels
    path = written(tmp_path, imagecodecs.jpeg2k_encode(stored, codecformat=form, bitspersample=depth))
    high = pixels >> (depth - 8)
    assert np.array_equal(read_image(path).pixels, np.dstack([high] * 3) if bands == 1 else high[..., :3])


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("depth", range(1, 8))
def test_jpeg_2000_of_few_bits_is_spread_over_all_levels(tmp_path: Path, depth: int, bands: int, form: str) -> None:
    largest = (1 << depth) - 1
    pixels = noise(bands=bands) >> (8 - depth)
    pixels[:5] = largest
    path = written(tmp_path, imagecodecs.jpeg2k_encode(pixels, codecformat=form, bitspersample=depth))
    levels = pixels.astype(int) * 255 // largest
    assert np.array_equal(read_image(path).pixels, np.dstack([levels] * 3) if bands == 1 else levels[..., :3])


ENUMERATED = b"\1\0\0"
"""How the box of a colour specification begins that gives the number of a colour space."""


def jp2_boxes(content: bytes) -> dict[bytes, bytes]:
    boxes: dict[bytes, bytes] = {}
    while content:
        length = int.from_bytes(content[:4], "big") or len(content)
        boxes[content[4:8]], content = content[8:length], content[length:]
    return boxes


def jp2(pixels: NDArray[Any], told: Mapping[bytes, bytes], depth: int | None = None) -> bytes:
    """A JP2 file with more boxes in its header, or with others than it has."""

    def joined(boxes: Mapping[bytes, bytes]) -> bytes:
        return b"".join(struct.pack(">I4s", len(body) + 8, kind) + body for kind, body in boxes.items())

    boxes = jp2_boxes(bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", bitspersample=depth, mct=False)))
    return joined(boxes | {b"jp2h": joined(jp2_boxes(boxes[b"jp2h"]) | dict(told))})


def with_depths(content: bytes, *depths: int) -> bytes:
    """The same file, which says of each of its bands that it has so many bits."""
    changed = bytearray(content)
    first = content.index(b"\xff\x4f\xff\x51") + 42
    changed[first : first + 3 * len(depths) : 3] = bytes(depth - 1 for depth in depths)
    return bytes(changed)


def bands_of(*meanings: tuple[int, int]) -> bytes:
    """The box that says what each band is: 0 a colour, 1 alpha; and of which colour, from 1."""
    each = (struct.pack(">3H", band, kind, color) for band, (kind, color) in enumerate(meanings))
    return struct.pack(">H", len(meanings)) + b"".join(each)


def palette_of(colors: NDArray[np.uint8], bits: int = 8) -> dict[bytes, bytes]:
    return {
        b"colr": ENUMERATED + struct.pack(">I", 16),
        b"pclr": struct.pack(">HB3B", len(colors), 3, *[bits - 1] * 3) + colors.tobytes(),
        b"cmap": b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)),
    }


def test_what_the_header_of_a_jpeg_2000_says_of_its_colours(tmp_path: Path) -> None:
    pixels, colors = noise(), noise(16, 16).reshape(256, 3)
    palette = jp2(pixels[..., 0], palette_of(colors))
    assert np.array_equal(read_image(written(tmp_path, palette)).pixels, imagecodecs.jpeg2k_decode(palette))
    in_order = jp2(noise(bands=4), {b"cdef": bands_of((0, 1), (0, 2), (0, 3), (1, 0))})
    assert np.array_equal(read_image(written(tmp_path, in_order)).pixels, noise(bands=4)[..., :3])
    # Of more than 8 bit the decoder puts the bands in their order.
    deep = jp2(pixels.astype(np.uint16) << 8, {b"cdef": bands_of((0, 3), (0, 2), (0, 1))})
    assert np.array_equal(read_image(written(tmp_path, deep)).pixels, pixels[..., ::-1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            jp2(noise(), {b"cdef": bands_of((0, 3), (0, 2), (0, 1))}),
            "bands in another order than red, green, blue, alpha",
        ),
        (jp2(noise(bands=4), {b"cdef": bands_of((1, 0), (0, 1), (0, 2), (0, 3))}), "bands in another order"),
        (
            jp2(noise(bands=1) >> 4, palette_of(noise(4, 4).reshape(16, 3)), 4),
            "palettes of other than red, green and blue in 8 bit",
        ),
        (jp2(noise(bands=1), palette_of(noise(16, 16).reshape(256, 3), 7)), "palettes of other than"),
        (jp2(noise(), {b"colr": ENUMERATED + struct.pack(">I", 14)}), r"colours of the kind 14 \(EnumCS\) in 8 bit"),
        (
            jp2(noise(dtype=np.uint16), {b"colr": ENUMERATED + struct.pack(">I", 18)}),
            r"colours of the kind 18 \(EnumCS\) in 16 bit",
        ),
        (with_depths(jp2(noise() >> 3, {}, 5), 5, 6, 5), "colours of 5, 6, 5 bit"),
    ],
)
def test_colours_of_a_jpeg_2000_that_would_be_read_wrongly(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=rf"x: {message}.* are not read: export it as PNG or TIFF"):
        read_image(written(tmp_path, content))


def test_jpeg_2000_that_is_not_read(tmp_path: Path) -> None:
    signed = imagecodecs.jpeg2k_encode(noise().astype(np.int8), codecformat="jp2")
    with pytest.raises(ImageError, match="signed and have no stated range: scale it to 8 or 16 bit"):
        read_image(written(tmp_path, signed))
    five = imagecodecs.jpeg2k_encode(np.dstack([noise(), noise()[..., :2]]), codecformat="jp2")
    with pytest.raises(ImageError, match=r"5 bands of .* are not read"):
        read_image(written(tmp_path, five))


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000", "HEIC"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8, 0.99])
def test_new_formats_that_are_cut_are_refused(tmp_path: Path, form: str, share: float) -> None:
    data = heic.PLAIN if form == "HEIC" else encoded(noise(64, 64), form)
    with pytest.raises(ImageError, match=r"x: .*(cannot be decoded|is not a)"):
        read_image(written(tmp_path, data[: int(share * len(data))]))


def test_an_avif_lies_as_its_container_says(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for orientation, shape in ((1, (20, 30, 3)), (8, (30, 20, 3))):
        content = encoded(noise(), "AVIF", exif=exif_of({ORIENTATION: orientation}), xmp=xmp)
        assert read_image(written(tmp_path, content)).pixels.shape == shape
    upright = encoded(noise(), "AVIF", quality=100, subsampling="4:4:4", xmp=xmp)
    assert abs(read_image(written(tmp_path, upright)).pixels.astype(int) - noise()).max() <= 3


@pytest.mark.parametrize("masks", [(0xF00, 0xF0, 0xF), (0xFF, 0xFF00, 0xFF0000)])
def test_kinds_of_bmp_that_are_not_read_are_not_called_damaged(tmp_path: Path, masks: tuple[int, int, int]) -> None:
    bits = 16 if masks[0] == 0xF00 else 32
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, bits, 3, 64, 0, 0, 0, 0) + struct.pack("<III", *masks)
    content = b"BM" + struct.pack("<IHHI", 130, 0, 0, 66) + header + bytes(64)
    with pytest.raises(ImageError, match=r"x: is of a kind that is not read \(Unsupported BMP .*\): save it as PNG"):
        read_image(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer of Git LFS.*`git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--0.jpg\n", "pointer of git-annex.*`git annex get`"),
        (b"\n<!DOCTYPE html>\n<html><title>404", r"web page \(HTML\).*download the picture again"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"\x1f\x8b\x08\0" + bytes(20), "archive, perhaps a model bundle"),
        (imagecodecs.jpegxl_encode(noise()), "JPEG XL picture"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw file of a camera.*export it as JPEG or TIFF"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "film"),
    ],
)
def test_files_that_people_take_for_pictures(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=f"x: is a.? ?{says}"):
        read_image(written(tmp_path, content))


def test_a_link_that_leads_nowhere_says_where_to(tmp_path: Path) -> None:
    (tmp_path / "q.jpg").symlink_to("../.git/annex/objects/x")
    with pytest.raises(ImageError, match=r"q\.jpg: is a link to \.\./\.git/annex/objects/x, which does not exist"):
        read_image(tmp_path / "q.jpg")

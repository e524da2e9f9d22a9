"""Broken and odd images, made by code, each with what must become of it.

The network finds the strongest band, so the right mask is known by hand: 0 where red is strongest, 1 green, 2 blue.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.engine.images import heic
from tests.engine.images.test_images import ORIENTATION, bmp_header, exif_of, png_chunk, png_header, tiff, webp

Pixels = NDArray[np.uint8]
FORMATS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP"}
TRUNCATED_SHARES = (0.0, 0.01, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999)
RED, GREEN, BLUE = (210, 20, 30), (20, 210, 30), (20, 30, 210)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One file.

    Attributes:
        kind: what is wrong or odd about it.
        name: of the file.
        content: its bytes.
        mask: uint8[H, W], the right mask; None where none can be right.
        reason: a pattern of the failed result's message; None where it must not fail. Where both are given, either
            may happen.
    """

    kind: str
    name: str
    content: bytes
    mask: NDArray[np.uint8] | None = None
    reason: str | None = None


ANY = np.zeros((0, 0), np.uint8)
"""In place of a mask: whichever comes is as right as another."""


def scene(height: int = 32, width: int = 48) -> Pixels:
    """Four fields, no two turns of which look alike; their borders lie on the blocks of a JPEG."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = RED
    pixels[:16, 32:] = GREEN
    pixels[16:, :16] = BLUE
    return pixels


def mask_of(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """The strongest band; of equal ones the first."""
    return pixels.argmax(axis=-1).astype(np.uint8)


def encoded(pixels: NDArray[Any] | Image.Image, file_format: str, **options: Any) -> bytes:
    """A file's bytes, without loss where the format can, else so fine that no field's colour changes."""
    options = {
        **{"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {}),
        **options,
    }
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, file_format, **options)
    return file.getvalue()


def all_cases() -> list[Case]:
    """Every case, each with a name of its own."""
    makers = (
        truncated,
        with_wrong_extensions,
        bombs,
        of_extreme_sizes,
        of_other_colors,
        of_other_depths,
        of_several_pictures,
        with_profiles,
        turned,
        with_corrupt_metadata,
        damaged_inside,
        that_are_no_images,
        beside_the_pixels,
        of_new_formats,
    )
    return [case for maker in makers for case in maker()]


def truncated() -> Iterator[Case]:
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix, file_format in FORMATS.items():
        content = encoded(noise, file_format)
        whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        for share in TRUNCATED_SHARES:
            # The very last bytes of a file may mean nothing; then the mask is the whole picture's.
            spared = mask_of(whole) if share > 0.99 else None
            cut = content[: int(share * len(content))]
            yield Case("truncated", f"cut_{share}.{suffix}", cut, spared, "damaged or truncated|is empty|is not a")


def with_wrong_extensions() -> Iterator[Case]:
    suffixes = list(FORMATS)
    for suffix, file_format in FORMATS.items():
        for other in (each for each in suffixes if each != suffix):
            yield Case("wrong extension", f"a_{suffix}.{other}", encoded(scene(), file_format), mask_of(scene()))


def jpeg_header(width: int, height: int) -> bytes:
    """A baseline JPEG's frame and the start of its scan, without tables or data."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    scan = bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])

    def marker(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body

    return b"\xff\xd8" + marker(0xC0, frame) + marker(0xDA, scan) + bytes(64) + b"\xff\xd9"


def bombs() -> Iterator[Case]:
    side = 60_000
    declared = "declares 60000 x 60000 = 3600000000 pixels"
    contents = {
        "bomb.jpg": jpeg_header(side, side),
        "bomb.png": png_header(side, side) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b""),
        "bomb.tif": tiff(side, side, bytes(100), bits=8, photometric=2, bands=3),
        "bomb_big.tif": tiff(side, side, bytes(100), bits=8, photometric=2, bands=3, big=True),
        "bomb.webp": webp(b"VP8X", bytes(4) + (side - 1).to_bytes(3, "little") * 2),
        "bomb.bmp": bmp_header(side, side),
    }
    for name, content in contents.items():
        # `pseg predict` cuts large TIFFs into tiles, and finds that they hold no pixels; orders do not.
        says = f"{declared}|damaged or truncated, its pixels" if name.endswith(".tif") else declared
        yield Case("bomb", name, content, None, says)
    # Within the limit and far larger than the file: what is missing is found before much is allocated for it.
    yield Case("bomb", "bomb_within.png", png_header(14_000, 14_000) + png_chunk(b"IEND", b""), None, "truncated")
    # Text and profiles of a PNG are compressed, too: 100 MB in half of one.
    packed = zlib.compress(bytes(100_000_000), 1)
    for chunk, body in {"zTXt": b"k\0\0" + packed, "iCCP": b"k\0\0" + packed}.items():
        content = encoded(scene(), "PNG")
        bomb = content[:33] + png_chunk(chunk.encode(), body) + content[33:]
        yield Case("bomb", f"bomb_{chunk}.png", bomb, mask_of(scene()), "damaged or truncated")
    strip = zlib.compress(bytes(50_000_000), 1)
    inflating = tiff(8, 8, strip, bits=8, photometric=2, bands=3)
    inflating = inflating.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 8))
    yield Case("bomb", "bomb_strip.tif", inflating, np.zeros((8, 8), np.uint8), "damaged or truncated")


def of_extreme_sizes() -> Iterator[Case]:
    for suffix, file_format in FORMATS.items():
        for height, width in ((1, 1), (1, 3), (10_000, 1), (1, 10_000)):
            pixels = np.full((height, width, 3), GREEN, np.uint8)
            yield Case("extreme size", f"{width}x{height}.{suffix}", encoded(pixels, file_format), mask_of(pixels))
    nothing = {
        "0x0.png": png_header(0, 0) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b""),
        "0x9.png": png_header(0, 9) + png_chunk(b"IDAT", zlib.compress(bytes(9))) + png_chunk(b"IEND", b""),
        "0x0.jpg": jpeg_header(0, 0),
        "9x0.jpg": jpeg_header(9, 0),
        "0x0.tif": tiff(0, 0, b"", bits=8, photometric=1),
        "9x0.tif": tiff(9, 0, b"", bits=8, photometric=1),
        "0x0.bmp": bmp_header(0, 0),
        "0x0.webp": webp(b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a\0\0\0\0"),
    }
    for name, content in nothing.items():
        yield Case("no pixels", name, content, None, "cannot be decoded|no pixels")
    upside_down = encoded(scene(), "BMP")
    upside_down = upside_down[:22] + struct.pack("<i", -32) + upside_down[26:]
    yield Case("extreme size", "top_down.bmp", upside_down, mask_of(scene())[::-1])


def of_other_colors() -> Iterator[Case]:
    red, green, blue = (scene()[..., band] for band in range(3))
    cmyk = Image.fromarray(np.dstack([255 - red, 255 - green, 255 - blue, np.zeros_like(red)]), "CMYK")
    for suffix in ("jpg", "tif"):
        yield Case("colors", f"cmyk.{suffix}", encoded(cmyk, FORMATS[suffix]), mask_of(scene()))
    # L*, a*, b* of strong red, green and blue; a* and b* are signed bytes.
    lab = {0: (54, 81, 70), 1: (88, -79, 81), 2: (30, 68, -112)}
    stored = np.array([(l_star * 255 // 100, a % 256, b % 256) for l_star, a, b in lab.values()], np.uint8)
    body = tiff(48, 32, stored[mask_of(scene())].tobytes(), bits=8, photometric=8, bands=3)
    yield Case("colors", "lab.tif", body, mask_of(scene()))
    ycbcr = Image.fromarray(scene()).convert("YCbCr")
    yield Case("colors", "ycbcr.tif", encoded(ycbcr, "TIFF"), mask_of(scene()))
    alpha = np.dstack([scene(), np.full(red.shape, 7, np.uint8)])
    for suffix in ("png", "tif", "webp"):
        yield Case("colors", f"rgba.{suffix}", encoded(alpha, FORMATS[suffix], exact=True), mask_of(scene()))
    palette = Image.fromarray(scene()).quantize(4)
    for suffix in ("png", "tif", "bmp"):
        yield Case("colors", f"palette_{suffix}.{suffix}", encoded(palette, FORMATS[suffix]), mask_of(scene()))
    for mode in ("1", "L", "LA"):
        grey = Image.fromarray(scene()).convert(mode)
        yield Case("colors", f"grey_{mode}.png", encoded(grey, "PNG"), np.zeros((32, 48), np.uint8))


def _opencv(suffix: str, pixels: NDArray[Any]) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def of_other_depths() -> Iterator[Case]:
    deep = scene()[..., ::-1].astype(np.uint16) * 257
    yield Case("depth", "16_bit.png", _opencv(".png", deep), mask_of(scene()))
    yield Case("depth", "16_bit.tif", _opencv(".tiff", deep), mask_of(scene()))
    yield Case("depth", "16_bit_grey.png", _opencv(".png", deep[..., 0]), np.zeros((32, 48), np.uint8))
    ramp = np.arange(64, dtype=np.float32).reshape(8, 8)
    no_range = "scale it to 8 or 16 bit"
    yield Case("depth", "32_bit.tif", encoded(ramp.astype(np.int32), "TIFF"), None, no_range)
    yield Case("depth", "float.tif", encoded(ramp, "TIFF"), None, no_range)
    yield Case("depth", "nan.tif", encoded(np.full((8, 8), np.nan, np.float32), "TIFF"), None, no_range)
    colors = np.repeat(ramp[..., np.newaxis], 3, axis=-1)
    colors[0, 0] = np.nan
    for name, values, sample in (("float_rgb", colors, 3), ("float64_rgb", colors.astype(np.float64), 3)):
        body = tiff(
            8, 8, values.tobytes(), bits=values.itemsize * 8, photometric=2, bands=3, more=((339, 3, 1, sample),)
        )
        yield Case("depth", f"{name}.tif", body, None, no_range)
    for name, values in (("uint32", np.zeros((8, 8), np.uint32)), ("uint64", np.zeros((8, 8), np.uint64))):
        body = tiff(8, 8, values.tobytes(), bits=values.itemsize * 8, photometric=1)
        yield Case("depth", f"{name}.tif", body, None, f"{no_range}|cannot be decoded")
    yield Case("depth", "five_bands.tif", tiff(8, 8, bytes(320), bits=8, photometric=1, bands=5), None, "bands")


def of_several_pictures() -> Iterator[Case]:
    others = [Image.new("RGB", (48, 32), BLUE), Image.new("RGB", (48, 32), GREEN)]
    for suffix in ("png", "webp", "tif"):
        content = encoded(scene(), FORMATS[suffix], save_all=True, append_images=others)
        yield Case("several pictures", f"several.{suffix}", content, mask_of(scene()))
    sizes = [Image.new("RGB", (9, 7), BLUE), Image.new("L", (500, 300))]
    content = encoded(scene(), "TIFF", save_all=True, append_images=sizes)
    yield Case("several pictures", "of_several_sizes.tif", content, mask_of(scene()))
    # The second directory's address is the first one's: whoever walks the pages walks forever.
    content = tiff(48, 32, scene().tobytes(), bits=8, photometric=2, bands=3)
    end_of_tags = 8 + 2 + 9 * 12
    looped = content[:end_of_tags] + struct.pack("<I", 8) + content[end_of_tags + 4 :]
    yield Case("several pictures", "pages_in_a_circle.tif", looped, mask_of(scene()))


def with_profiles() -> Iterator[Case]:
    profile = ImageCms.ImageCmsProfile(cast("Any", ImageCms).createProfile("sRGB")).tobytes()
    for suffix in ("jpg", "png", "tif", "webp"):
        content = encoded(scene(), FORMATS[suffix], icc_profile=profile)
        yield Case("colour profile", f"icc.{suffix}", content, mask_of(scene()))
        content = encoded(scene(), FORMATS[suffix], icc_profile=profile[:50] + b"\xff" * 200)
        yield Case("colour profile", f"icc_broken.{suffix}", content, mask_of(scene()))


_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0),
    6: lambda stored: stored.transpose(1, 0)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0)[::-1],
}
"""EXIF 2.3, table 4: where the stored picture's first row and column belong."""


def turned() -> Iterator[Case]:
    for orientation, upright in _UPRIGHT.items():
        for suffix in ("jpg", "png", "webp", "tif"):
            options = (
                {"tiffinfo": {ORIENTATION: orientation}}
                if suffix == "tif"
                else {"exif": exif_of({ORIENTATION: orientation})}
            )
            content = encoded(scene(), FORMATS[suffix], **options)
            yield Case("orientation", f"turned_{orientation}.{suffix}", content, upright(mask_of(scene())))


def with_corrupt_metadata() -> Iterator[Case]:
    blocks = {
        "nonsense": b"Exif\0\0nonsense",
        "far": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "many": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff" * 9,
        "circle": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 0x8769, 4, 1, 8, 8),
    }
    for name, block in blocks.items():
        for suffix in ("jpg", "png", "webp"):
            content = encoded(scene(), FORMATS[suffix], exif=block)
            yield Case("metadata", f"exif_{name}.{suffix}", content, mask_of(scene()))
    more = ((0x8769, 4, 1, 0xFFFFFFF0), (0x8825, 4, 0xFFFFFFFF, 7))
    content = tiff(48, 32, scene().tobytes(), bits=8, photometric=2, bands=3, more=more)
    yield Case("metadata", "exif_far.tif", content, mask_of(scene()))
    content = encoded(scene(), "JPEG")
    comments = b"".join(b"\xff\xfe" + struct.pack(">H", 65_535) + bytes(65_533) for _ in range(40))
    yield Case("metadata", "comments.jpg", content[:2] + comments + content[2:], mask_of(scene()))


def damaged_inside() -> Iterator[Case]:
    content = encoded(np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8), "PNG")
    place = content.index(b"IDAT") + 500
    yield Case(
        "damaged", "checksum.png", content[:place] + b"\0\0\0\0" + content[place + 4 :], None, "cannot be decoded"
    )
    yield Case(
        "damaged",
        "no_zlib.png",
        png_header(10, 10) + png_chunk(b"IDAT", b"no zlib") + png_chunk(b"IEND", b""),
        None,
        "cannot be decoded",
    )
    content = tiff(48, 32, scene().tobytes(), bits=8, photometric=2, bands=3)
    strip = content.index(struct.pack("<HHI", 273, 4, 1)) + 8
    yield Case(
        "damaged",
        "strip_outside.tif",
        content[:strip] + struct.pack("<I", 0x7FFFFFF0) + content[strip + 4 :],
        None,
        "cannot be decoded",
    )
    yield Case("damaged", "directory_of_65535.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(600), None, "cannot be decoded")
    yield Case(
        "damaged", "unknown_compression.tif", _recompressed(content, 65_000), None, r"compression \(65000\) is not read"
    )
    yield Case("damaged", "no_jpeg_inside.tif", _recompressed(content, 7), None, "cannot be decoded")
    yield Case("odd", "progressive.jpg", encoded(scene(), "JPEG", progressive=True), mask_of(scene()))
    yield Case("odd", "behind.jpg", encoded(scene(), "JPEG") + b"more" * 1000, mask_of(scene()))


def _recompressed(content: bytes, compression: int) -> bytes:
    return content.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, compression))


def that_are_no_images() -> Iterator[Case]:
    contents = {
        "text.jpg": b"Dear Sir or Madam,",
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "annex.jpg": b"/annex/objects/SHA256E-s1--0.jpg\n",
        "film.heic": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        "page.png": b"<!doctype html><title>404</title>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "document.tif": b"%PDF-1.7\n",
        "animation.bmp": encoded(Image.new("P", (4, 4)), "GIF"),
        "archive.webp": b"PK\x03\x04" + bytes(40),
        "zeros.jpg": bytes(5000),
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
    }
    for name, content in contents.items():
        yield Case("no image", name, content, None, "is not a JPEG, PNG, TIFF, WebP, BMP|which is not read: ")


def beside_the_pixels() -> Iterator[Case]:
    content = encoded(scene(), "PNG")
    packed = zlib.compress(bytes(3_000_000), 1)
    for name, chunk in {
        "text_of_3_mb": png_chunk(b"zTXt", b"k\0\0" + packed),
        "xmp_of_3_mb": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        "profile_of_3_mb": png_chunk(b"iCCP", b"k\0\0" + packed),
        "short_phys": png_chunk(b"pHYs", b"\0\0"),
        "checksum_of_text": png_chunk(b"tEXt", b"k\0v")[:-1] + b"\0",
        "many_chunks": png_chunk(b"tEXt", b"") * 50_000,
    }.items():
        yield Case("beside the pixels", f"{name}.png", content[:33] + chunk + content[33:], mask_of(scene()))
    content = encoded(scene(), "JPEG")
    for name, body in {
        "short_app": b"\xff\xe3\0\0",
        "short_jfif": b"\xff\xe0\0\x07JFIF\0",
        "mpf_broken": b"\xff\xe2\0\x0eMPF\0II*\0\xff\xff\xff\x7f",
        "fill_bytes": b"\xff" * 5000,
    }.items():
        yield Case("beside the pixels", f"{name}.jpg", content[:20] + body + content[20:], mask_of(scene()))
    cut = content[: content.index(b"\xff\xda") + 60] + b"\xff\xd9"
    yield Case("truncated", "cut_with_an_end.jpg", cut, None, "pixels are missing")


def of_new_formats() -> Iterator[Case]:
    contents = {
        "avif": encoded(scene(), "AVIF", quality=95, subsampling="4:4:4"),
        "jp2": encoded(scene(), "JPEG2000"),
        "heic": heic.PLAIN,
    }
    damage = np.random.default_rng(6)
    for suffix, content in contents.items():
        yield Case("new formats", f"whole.{suffix}", content, mask_of(scene()))
        for share in TRUNCATED_SHARES[:-1]:
            cut = content[: int(share * len(content))]
            yield Case("truncated", f"cut_{share}.{suffix}", cut, None, "damaged or truncated|is empty|is not a")
    yield Case("orientation", "turned.heic", heic.TURNED, _UPRIGHT[6](mask_of(scene())))
    yield Case("several pictures", "main_second.heic", heic.MAIN_SECOND, mask_of(scene()))
    yield Case("depth", "ten_bit.heic", heic.TEN_BIT, mask_of(scene()))
    for suffix, box, offset in (("heic", b"ispe", 8), ("jp2", b"\xff\x4f\xff\x51", 8)):
        content = contents[suffix]
        place = content.index(box) + offset
        bomb = content[:place] + struct.pack(">II", 20_000, 20_000) + content[place + 8 :]
        yield Case("bomb", f"bomb.{suffix}", bomb, None, "declares 20000 x 20000 = 400000000 pixels")
    # Bits of what describes the pixels: sizes, boxes, tables. What is not noticed must still be a picture.
    for suffix, content in contents.items():
        for number in range(12):
            broken = bytearray(content)
            for place in damage.integers(8, min(300, len(broken)), 3):
                broken[place] = int(damage.integers(256))
            yield Case("bits flipped", f"flipped_{number}.{suffix}", bytes(broken), ANY, ".")

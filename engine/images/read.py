"""Pictures on disk -> RGB arrays, at the size the network is to see."""

# The format is detected from the file's first bytes, never from its name: JPEG, PNG, TIFF, WebP, BMP, HEIC, AVIF and
# JPEG 2000 are read. The rules:
# - EXIF orientation is applied, all eight (an XMP orientation counts where EXIF has none); everything downstream works
#   on the upright picture.
# - The result is always three bands of 8 bit. Grey becomes three equal bands, a palette becomes its colours, 1 bit
#   becomes 0 and 255, alpha is dropped (as OpenCV's `IMREAD_COLOR` does), CMYK is converted by Pillow.
# - Of 16 bit the high byte is kept (`v >> 8`), as `IMREAD_COLOR` does, unless the user states another range.
# - 32 bit integers and floats have no stated range and are refused; of TIFFs the user may state one.
# - TIFFs have rules of their own, `engine.images.tiff`: rasters are read by them, too.
# - Of an animated or multi-page file the first picture is read, of HEIC the main one; a note says so.
# - A truncated file is an error: the missing part is never filled with grey.
# - What is damaged beside the pixels (EXIF, profiles, texts) never fails a good picture: decoders of PNG and JPEG do
#   not even see it, and what cannot be read of EXIF is `None`.
# Pillow keeps two settings for the whole process; since several threads decode at once, neither is switched for a read:
# - `Image.MAX_IMAGE_PIXELS` is what `Image.open` consults. This module opens the decoders' classes itself, compares the
#   declared size with `max_pixels` before a pixel is decoded, and leaves the constant alone. (Pillow still consults it
#   for WebP, and refuses what is larger than twice its value.)
# - The warning filters: `warnings.catch_warnings` restores the wrong list when threads overlap. So the first read adds
#   one filter that drops the warnings of `PIL` modules, and it stays. What matters of them is an `ImageError` here.

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from engine.errors import ImageError, reason_of
from engine.images.codecs.jpeg import decode_jpeg, jpeg_content
from engine.images.codecs.png import png_content
from engine.images.exif import TURNS, Capture, capture_of, exif_from, orientation_of
from engine.images.formats import DECODERS, DEFAULT_MAX_PIXELS, FORMATS, HEIF, PREFIX_BYTES, TIFF, foreign_kind
from engine.images.size import ImageLimits, check_max_img_size, check_max_pixels, shrunken_size
from engine.images.statistics import PictureStatistics, picture_statistics
from engine.images.values import ScaleRange, decoded_by_opencv, range_notes, require_scalable
from engine.system.files import advice_on_missing, open_to_read
from engine.transforms import resize_bands

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"})
_STRIP_PIXELS = 1 << 20
_PILLOW_REMARKS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """One upright picture.

    Attributes:
        pixels: `uint8[H, W, 3]`, RGB, 0–255, contiguous, at reading size (shrunk if necessary); for a TIFF, as many
            bands as were chosen.
        width: The upright source's width in pixels, before any shrinking.
        height: The upright source's height in pixels, before any shrinking.
        capture: What EXIF says about time and place.
        notes: What people should know about how it was read, such as that the file holds more pictures; short phrases,
            usually none.
        statistics: How sharp, light and coloured it is; None if it was not measured.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    capture: Capture = Capture()
    notes: tuple[str, ...] = ()
    statistics: PictureStatistics | None = None


def read_image(
    path: Path | str,
    *,
    max_img_size: int = -1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    scale_range: ScaleRange | None = None,
    page: int | None = None,
    bands: Sequence[int] | None = None,
) -> SourceImage:
    """Decode one picture, upright, as RGB or in the bands that are chosen.

    Thread-safe. While decoding, it holds Pillow's copy of the picture (4 bytes per pixel) in addition to the one that
    it returns; for a TIFF only a part. A JPEG that is to be shrunken is decoded at 1/2, 1/4 or 1/8, never below the
    wanted size; the rest of the way each pixel is the average of its area.

    Args:
        path: The file; its suffix does not matter.
        max_img_size: Shrink to at most this many pixels (`shrunken_size`); -1 never shrinks.
        max_pixels: Refuse, before decoding, pictures that declare more pixels.
        scale_range: The values that become 0 and 255, for PNGs, TIFFs and JPEG 2000 files of more than 8 bit and TIFFs
            with signed or floating-point values. None: the highest eight bits are kept.
        page: Which page of a TIFF, counted from 1; None: the first, and a note says if there are others.
        bands: Numbers of bands of a TIFF, from 1, in the order in which the network takes them; one becomes three equal
            ones. None: the colours.

    Returns:
        The picture with its source size and capture data; it is measured if it has three bands.

    Raises:
        OptionError: `max_img_size` is 0 or less than -1.
        ImageError: The file is missing, unreadable, damaged, too large, or holds bands or depths that are not read.
    """
    check_max_img_size(max_img_size)
    path = Path(path)
    limits = ImageLimits(max_img_size, max_pixels, scale_range)
    _ignore_pillow_remarks()
    with open_image_file(path) as file:
        try:
            stored = _decode(path, file, limits, _Choice(page, bands))
        except ImageError:
            raise
        except Image.DecompressionBombError as cause:
            raise ImageError(f"{path}: too large for Pillow in this format ({cause}): save it as PNG") from cause
        except Exception as cause:  # Pillow's decoders state no closed set of exceptions
            if str(cause).startswith(("Unsupported ", "cannot handle ")):
                raise ImageError(f"{path}: is of a kind that is not read ({cause}): save it as PNG") from cause
            raise ImageError(
                f"{path}: damaged or truncated, it cannot be decoded ({reason_of(cause)}): copy or export it again"
            ) from cause
    return _finish(stored, max_img_size)


def image_of_array(pixels: NDArray[Any], *, bands: int = 3, max_img_size: int = -1) -> SourceImage:
    """Take an array for a picture that was read; it is shrunken as `read_image` shrinks one.

    Args:
        pixels: `uint8[H, W, bands]`, 0–255, upright; of three bands RGB (OpenCV reads BGR: `pixels[..., ::-1]`).
        bands: how many there have to be.
        max_img_size: Shrink to at most this many pixels; -1 never shrinks.

    Returns:
        The picture.

    Raises:
        OptionError: `max_img_size` is 0 or less than -1.
        ImageError: The array has another type or shape.
    """
    check_max_img_size(max_img_size)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != bands or 0 in pixels.shape:
        colours = " of the colours red, green and blue" if bands == 3 else ""
        shape = ", ".join(map(str, pixels.shape))
        raise ImageError(f"image: is an array {pixels.dtype}[{shape}]; give uint8[H, W, {bands}]{colours}, 0 to 255")
    height, width, _ = pixels.shape
    shrunken = _resized(np.ascontiguousarray(pixels), shrunken_size(width, height, max_img_size))
    return SourceImage(shrunken, width, height, statistics=_measured(shrunken))


def _measured(pixels: NDArray[np.uint8]) -> PictureStatistics | None:
    """The statistics of photographs are of colours."""
    return picture_statistics(pixels) if pixels.shape[-1] == 3 else None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which picture of a TIFF is read, and which of its bands; None: the first one, the colours."""

    page: int | None
    bands: Sequence[int] | None


@dataclass(frozen=True, slots=True, eq=False)
class _StoredImage:
    """A decoded picture as the file stores it: perhaps too large, perhaps lying on its side."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    orientation: int
    capture: Capture
    notes: tuple[str, ...]


def _ignore_pillow_remarks() -> None:
    if _PILLOW_REMARKS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image_file(path: Path) -> BinaryIO:
    """Open a file of an image, through links. ImageError: there is none, it is no file, or it cannot be opened."""
    try:
        if path.is_file():
            return open_to_read(path)
        problem = why_no_image_file(path)
    except OSError as cause:
        raise ImageError(f"{path}: cannot be opened ({reason_of(cause)}): check the name and permissions") from cause
    raise ImageError(f"{path}: {problem}")


def why_no_image_file(path: Path) -> str:
    """Say what a path is that names no file, and what to do about it."""
    if path.is_dir():
        return "is a folder: name the images in it"
    if path.exists():
        return "is not a regular file: copy its content to one"
    if path.is_symlink():
        target = path.readlink()
        return f"is a link to {target}, which does not exist: fetch the picture (`git annex get`), or repair the link"
    return f"no such file: {advice_on_missing(path)}"


def _decode(path: Path, file: BinaryIO, limits: ImageLimits, choice: _Choice) -> _StoredImage:
    prefix = file.read(PREFIX_BYTES)
    max_pixels = limits.max_pixels
    if TIFF.match(prefix):
        return _decode_tiff(path, file, limits, choice)
    if choice.page not in {None, 1}:
        raise ImageError(f"{path}: has no page {choice.page}: only TIFFs have pages")
    if choice.bands is not None:
        raise ImageError(f"{path}: has no bands to choose from, which only TIFFs have: leave bands out, or the image")
    if HEIF.match(prefix):
        _require_no_range(path, limits)
        return _decode_heif(path, file, max_pixels)
    decoder = next((decoder for signature, decoder in DECODERS if signature.match(prefix)), None)
    if decoder is None:
        raise ImageError(f"{path}: {_why_not_read(prefix)}")
    file.seek(0)
    if decoder is PngImageFile:
        return _decode_png(path, file, limits)
    if decoder is Jpeg2KImageFile:
        return _decode_jpeg2000(path, file, limits)
    _require_no_range(path, limits)
    if decoder is JpegImageFile:
        return _decode_jpeg(path, file, limits.max_img_size, max_pixels)
    if decoder is WebPImageFile:
        # Pillow's WebP decoder allocates the canvas as soon as it is opened.
        check_max_pixels(path, _webp_size(prefix), max_pixels)
    if decoder is AvifImageFile:
        from engine.images.codecs.heif import largest_declared

        check_max_pixels(path, largest_declared(file.read()), max_pixels)
        file.seek(0)
    return _decode_by_pillow(path, decoder(file), max_pixels)


def _decode_by_pillow(path: Path, file: ImageFile, max_pixels: int) -> _StoredImage:
    image = _loaded(path, file, max_pixels)
    # Of an AVIF the container alone says how it lies; Pillow hands that on as EXIF.
    xmp = None if isinstance(file, AvifImageFile) else image.info.get("xmp")
    return _stored(image, exif_from(image.info.get("exif")), xmp, getattr(image, "n_frames", 1))


def _require_no_range(path: Path, limits: ImageLimits) -> None:
    require_scalable(path, limits.scale_range, is_deep=False)


def _decode_png(path: Path, file: BinaryIO, limits: ImageLimits) -> _StoredImage:
    content = png_content(path, file)
    require_scalable(path, limits.scale_range, is_deep=content.bits > 8)
    # Also where another decoder gives the values: it does not say that pixels are missing.
    image = _loaded(path, PngImageFile(content.pixels), limits.max_pixels)
    stored = _stored(image, exif_from(content.exif), content.xmp, content.pictures)
    if limits.scale_range is not None:
        # By OpenCV: of colours Pillow keeps the high byte only.
        stored = replace(stored, pixels=decoded_by_opencv(content.pixels, 16, limits.scale_range))
    return stored if content.bits <= 8 else _with_range_notes(stored, content.bits, limits)


def _with_range_notes(stored: _StoredImage, bits: int, limits: ImageLimits) -> _StoredImage:
    levels = int(stored.pixels.min()), int(stored.pixels.max())
    return replace(stored, notes=(*stored.notes, *range_notes(levels, bits, limits.scale_range)))


def _decode_jpeg2000(path: Path, file: BinaryIO, limits: ImageLimits) -> _StoredImage:
    from engine.images.codecs.jpeg2000 import decode_deep, read_codestream, spread

    codestream = read_codestream(path, file)
    check_max_pixels(path, codestream.size, limits.max_pixels)
    require_scalable(path, limits.scale_range, is_deep=codestream.is_deep)
    if not codestream.is_deep:
        file.seek(0)
        stored = _decode_by_pillow(path, Jpeg2KImageFile(file), limits.max_pixels)
        return replace(stored, pixels=spread(stored.pixels, codestream))
    pixels = decode_deep(file, codestream, limits.scale_range)
    stored = _StoredImage(pixels, codestream.size, 1, Capture(), ())
    return _with_range_notes(stored, codestream.depths_bit[0], limits)


def _decode_jpeg(path: Path, file: BinaryIO, max_img_size: int, max_pixels: int) -> _StoredImage:
    content = jpeg_content(path, file)
    image = JpegImageFile(content.pixels())
    size = image.size
    check_max_pixels(path, size, max_pixels)
    decode_jpeg(content, image, shrunken_size(*size, max_img_size))
    return replace(_stored(image, exif_from(content.exif), content.xmp, 1), size=size)


def _decode_heif(path: Path, file: BinaryIO, max_pixels: int) -> _StoredImage:
    from engine.images.codecs.heif import read_heif

    picture = read_heif(path, file, lambda size: check_max_pixels(path, size, max_pixels))
    pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[..., np.newaxis]
    rgb = np.ascontiguousarray(pixels[..., :3]) if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    height, width, _ = rgb.shape
    return _StoredImage(rgb, (width, height), 1, capture_of(exif_from(picture.exif)), _notes(picture.pictures, "main"))


def _decode_tiff(path: Path, file: BinaryIO, limits: ImageLimits, choice: _Choice) -> _StoredImage:
    from engine.images.tiff import open_picture, read_tiff

    with open_picture(
        path, file, page=choice.page, bands=choice.bands, max_pixels=limits.max_pixels, scale_range=limits.scale_range
    ) as opened:
        picture = read_tiff(file, opened)
    height, width, _ = picture.pixels.shape
    return _StoredImage(picture.pixels, (width, height), picture.orientation, capture_of(picture.exif), picture.notes)


def _why_not_read(prefix: bytes) -> str:
    if not prefix:
        return "is empty (0 bytes): copy it again"
    known = foreign_kind(prefix)
    if known is None:
        return f"is not a {FORMATS} file: convert it to one of them"
    return f"is {known.name}, which is not read: {known.advice}"


def _loaded(path: Path, image: ImageFile, max_pixels: int) -> ImageFile:
    check_max_pixels(path, image.size, max_pixels)
    _check_mode(path, image.mode)
    image.load()
    return image


def _stored(image: ImageFile, exif: Image.Exif, xmp: bytes | None, pictures: int) -> _StoredImage:
    return _StoredImage(_rgb(image), image.size, orientation_of(exif, xmp), capture_of(exif), _notes(pictures, "first"))


def _notes(pictures: int, which: str) -> tuple[str, ...]:
    return (f"holds {pictures} pictures, of which the {which} one is read",) if pictures > 1 else ()


def _webp_size(prefix: bytes) -> tuple[int, int]:
    """Declared width and height of a WebP file's first 30 bytes; 0 x 0 where they are too few or say something else."""
    kind, body = prefix[12:16], prefix[20:30]
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _check_mode(path: Path, mode: str) -> None:
    if mode not in _EIGHT_BIT_MODES and not mode.startswith("I;16"):
        raise ImageError(
            f"{path}: mode {mode} (32 bit integer, signed or float) has no stated range: scale it to 8 or 16 bit"
        )


def _rgb(image: ImageFile) -> NDArray[np.uint8]:
    """Take the bands out of Pillow strip by strip, so that no second whole picture exists while modes are converted."""
    image.info.pop("transparency", None)  # alpha is dropped, and Pillow would work on it
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    eight_bit = _eight_bit_reader(image)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = eight_bit(strip)
    return pixels


def _eight_bit_reader(image: ImageFile) -> Callable[[Image.Image], NDArray[np.uint8]]:
    if not image.mode.startswith("I;16"):
        # Pillow knows no direct way from premultiplied grey (La) to RGB.
        return lambda strip: np.asarray((strip.convert("LA") if strip.mode == "La" else strip).convert("RGB"))
    return lambda strip: (np.asarray(strip) >> 8).astype(np.uint8)[..., np.newaxis]


def _finish(stored: _StoredImage, max_img_size: int) -> SourceImage:
    # The smaller picture is the cheaper one to turn, and the size rule does not mind.
    pixels = _upright(_resized(stored.pixels, shrunken_size(*stored.size, max_img_size)), stored.orientation)
    width, height = stored.size if stored.orientation < 5 else stored.size[::-1]
    return SourceImage(pixels, width, height, stored.capture, stored.notes, _measured(pixels))


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1::-1] == size:
        return pixels
    return resize_bands(pixels, size, cv2.INTER_AREA)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    # OpenCV's turns are contiguous, and several times faster than copying numpy's views.
    rotation, flip = TURNS[orientation]
    if rotation is not None:
        pixels = cast("NDArray[np.uint8]", cv2.rotate(pixels, rotation))
    if flip is not None:
        pixels = cast("NDArray[np.uint8]", cv2.flip(pixels, flip))
    return pixels

"""Pictures as other people's libraries read them, put through the rules of `benchmarks.lab.corpus.rules`."""
# None of these libraries ships type information that is complete.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import logging
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus.facts import Facts, facts_of, main_page
from benchmarks.lab.corpus.rules import Stored, to_rgb, upright

_CONVERTED = {6, 8, 9, 10, 32844, 32845}
"""Photometric interpretations that GDAL turns into RGB itself."""
_JPEG_IN_TIFF = {6, 7}


class UnreadError(Exception):
    """A library does not read the file, or gives values that the rules do not know."""


def tifffile_reads(path: Path, facts: Facts) -> NDArray[np.uint8]:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    stored = _known(facts)
    with tifffile.TiffFile(path) as tiff:
        page = main_page(tiff)
        values = np.asarray(page.asarray(maxworkers=1))
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            values = np.moveaxis(values, 0, -1)
        compression = int(page.compression)
    if stored.model == "YCbCr" and compression in _JPEG_IN_TIFF:
        stored = Stored("RGB")  # imagecodecs has converted it
    return to_rgb(_unsigned(values), stored)


def gdal_reads(path: Path, facts: Facts) -> NDArray[np.uint8]:
    import rasterio
    from rasterio.enums import ColorInterp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as dataset:
            values = np.moveaxis(dataset.read(), 0, -1)
            is_palette = dataset.colorinterp[0] == ColorInterp.palette
            colors = dataset.colormap(1) if is_palette else {}
    if facts.tiff is None:
        if is_palette:
            table = np.array([colors.get(index, (0, 0, 0))[:3] for index in range(256)], np.uint8)
            return table[values[..., 0]]
        return _plain(values)
    if facts.tiff.photometric in _CONVERTED:
        if values.dtype != np.uint8 or values.shape[2] not in {3, 4} or max(facts.tiff.bits) > 8:
            raise UnreadError("values that GDAL does not convert")
        return np.ascontiguousarray(values[..., :3])
    return to_rgb(_unsigned(values), _known(facts))


def opencv_reads(path: Path, facts: Facts) -> NDArray[np.uint8]:
    """Read a picture with OpenCV: a TIFF as it is stored, others upright."""
    flags = cv2.IMREAD_UNCHANGED if facts.format == "TIFF" else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    values = cv2.imread(str(path), flags)
    if values is None:
        raise UnreadError("OpenCV does not read it")
    pixels = np.asarray(values)
    if pixels.ndim == 3:
        pixels = np.dstack([pixels[..., 2::-1], pixels[..., 3:]])
    return _turned_inside(_plain(pixels), facts)


def libvips_reads(path: Path, facts: Facts) -> NDArray[np.uint8]:
    """Read a picture with libvips, which refuses what is truncated: a TIFF as it is stored, others upright."""
    import pyvips

    pyvips.cache_set_max(0)  # it would remember a file that was written again
    image = pyvips.Image.new_from_file(str(path), fail_on="truncated")
    if facts.format != "TIFF":
        image = image.autorot()
    kind = str(image.interpretation)
    if kind in {"lab", "labs", "labq"}:
        image = image.colourspace("srgb")
        kind = "srgb"
    values = np.asarray(image.numpy())
    if values.ndim == 2:
        values = values[..., np.newaxis]
    if kind == "cmyk":
        return to_rgb(_unsigned(values), Stored("CMYK", 8 * values.dtype.itemsize))
    return _plain(values)  # libvips has divided premultiplied colours itself


def imagecodecs_reads(path: Path, facts: Facts) -> NDArray[np.uint8]:
    """Decode a picture that is no TIFF with imagecodecs, and turn it as libvips reads its orientation."""
    import imagecodecs

    decoders: dict[str, Callable[[bytes], Any]] = {
        "JPEG": lambda data: imagecodecs.jpeg_decode(data, outcolorspace=None),
        "PNG": imagecodecs.png_decode,
        "WebP": imagecodecs.webp_decode,
        "BMP": imagecodecs.bmp_decode,
        "AVIF": lambda data: imagecodecs.avif_decode(data, index=0),
        "HEIC": imagecodecs.heif_decode,
        "JPEG 2000": imagecodecs.jpeg2k_decode,
    }
    if facts.format not in decoders:
        raise UnreadError(f"{facts.format} is not decoded")
    values = np.asarray(decoders[facts.format](path.read_bytes()))
    if facts.format == "JPEG" and values.ndim == 3 and values.shape[2] == 4:
        raise UnreadError("CMYK of a JPEG, whose ink may be turned round")
    if facts.format == "JPEG 2000" and max(facts.depths, default=8) > 8:
        pixels = to_rgb(_unsigned(values), Stored("grey" if values.ndim == 2 else "RGB", facts.depths[0]))
    else:
        pixels = _plain(values)
    return upright(_turned_inside(pixels, facts), facts.orientation)


def _turned_inside(pixels: NDArray[np.uint8], facts: Facts) -> NDArray[np.uint8]:
    """Turn a HEIC or AVIF as its container says, which OpenCV and imagecodecs leave to others."""
    pixels = np.rot90(pixels, facts.quarter_turns)
    if facts.mirror is not None:
        pixels = np.flip(pixels, facts.mirror)
    return np.ascontiguousarray(pixels)


def bit_masks_read(path: Path, facts: Facts) -> NDArray[np.uint8]:
    """Take a BMP's samples from where its bit masks say, as the format is defined; OpenCV and GDAL ignore them."""
    content = path.read_bytes()
    offset, width, height, bits = (
        struct.unpack_from(kind, content, place)[0] for kind, place in (("<I", 10), ("<i", 18), ("<i", 22), ("<H", 28))
    )
    row = (width * bits // 8 + 3) // 4 * 4
    if facts.masks is None or len(content) < offset + row * abs(height):
        raise UnreadError("no masks, or pixels are missing")
    rows = np.frombuffer(content, np.uint8, row * abs(height), offset).reshape(abs(height), row)
    words = rows[:, : width * bits // 8].copy().view(f"<u{bits // 8}").astype(np.int64)
    planes: list[NDArray[Any]] = []
    for mask in facts.masks:
        lowest = mask & -mask
        full = mask // lowest if mask else 1
        planes.append((words & mask) // (lowest or 1) * 255 // full)
    pixels = np.stack(planes, axis=-1).astype(np.uint8)
    return np.ascontiguousarray(pixels if height < 0 else pixels[::-1])


def _known(facts: Facts) -> Stored:
    tiff = facts.tiff
    if tiff is None or tiff.stored is None or not tiff.kinds <= {1, 4}:
        raise UnreadError("the rules do not know what the values mean")
    return tiff.stored


def _unsigned(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "ub":
        raise UnreadError(f"values of type {values.dtype}")
    return values[..., np.newaxis] if values.ndim == 2 else values


def _plain(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Take what a library has made grey or RGB itself."""
    values = _unsigned(values)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype.itemsize > 2:
        raise UnreadError(f"values of type {values.dtype}")
    return to_rgb(values, Stored("grey" if values.shape[2] < 3 else "RGB", 8 * values.dtype.itemsize))


FAMILIES_OF_TIFF: dict[str, str] = {
    "tifffile": "tifffile",
    "OpenCV": "libtiff",
    "libvips": "libtiff",
    "GDAL": "libtiff",
}
"""Reader to family."""
_READERS: dict[str, Callable[[Path, Facts], NDArray[np.uint8]]] = {
    "tifffile": tifffile_reads,
    "GDAL": gdal_reads,
    "OpenCV": opencv_reads,
    "libvips": libvips_reads,
    "imagecodecs": imagecodecs_reads,
    "bit masks": bit_masks_read,
}


def readers_of(facts: Facts) -> tuple[str, ...]:
    """Name the libraries that are asked for a file, leaving out those that pass over the bit masks of a BMP."""
    if facts.format == "TIFF":
        return tuple(FAMILIES_OF_TIFF)
    if facts.format == "BMP":
        return ("bit masks", "imagecodecs") if facts.masks else ("OpenCV", "imagecodecs", "GDAL")
    return "OpenCV", "libvips", "imagecodecs"


def read_by(reader: str, path: Path) -> NDArray[np.uint8]:
    """Read a picture with another library: of a TIFF as stored, else upright as far as EXIF tells."""
    return _READERS[reader](path, facts_of(path))

"""Which TIFFs are refused before a pixel is read, and in which words: what GDAL would decode wrongly, or not at all."""

import math
from pathlib import Path
from typing import BinaryIO, Final

from engine.errors import ImageError
from engine.gdal import NAMES_OVERVIEWS, GdalError
from engine.images.tiff_directories import Directories, Directory, DirectoryError, Photometric, Tag, block_table
from engine.images.values import ScaleRange, require_scalable

_STATE_RANGE: Final = "state it with scale-range, such as 0,4095"
FLOATING: Final = 3
AS_RGB: Final = "export it as RGB"
LAB: Final = frozenset({Photometric.CIE_LAB, Photometric.ICC_LAB})
_READ: Final = LAB | {
    Photometric.WHITE_IS_ZERO,
    Photometric.BLACK_IS_ZERO,
    Photometric.RGB,
    Photometric.PALETTE,
    Photometric.CMYK,
    Photometric.YCBCR,
}
_KINDS: Final = {
    Photometric.MASK: "a mask, not a picture",
    Photometric.ITU_LAB: "in ITU L*a*b* colours",
    Photometric.LOG_L: "in logarithmic luminance",
    Photometric.LOG_LUV: "in logarithmic colours",
}
_MOST_BITS: Final = 64
PREMULTIPLIED: Final = 1
_CMYK_INKS: Final = 1
_OLD_JPEG: Final = 6
_HEADER_BYTES: Final = 8
_GDAL_ROUNDS_TILES_TO_BYTES: Final = 1024
_LARGEST_TILE_BYTES: Final = 1 << 28
_CODECS: Final = {
    34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip


def damaged(path: Path, reason: str, what: str = "it") -> ImageError:
    return ImageError(f"{path}: damaged or truncated, {what} cannot be decoded ({reason}): copy or export it again")


def check_metadata(path: Path, directories: Directories) -> None:
    """Refuse files that send GDAL to another one; of the picture itself GDAL is asked, too, before a pixel is read."""
    import html  # loads a table of all entities

    for each in directories.everything:
        text = html.unescape(each.texts.get(Tag.GDAL_METADATA, b"").decode("latin-1"))
        if "OVERVIEW_FILE" in text.upper():
            raise ImageError(f"{path}: {NAMES_OVERVIEWS}")


def check_samples(path: Path, directory: Directory, scale_range: ScaleRange | None) -> None:
    meaning = directory.photometric
    if meaning in _KINDS:
        raise ImageError(f"{path}: is {_KINDS[Photometric(meaning)]}: {AS_RGB}")
    if meaning not in _READ:
        raise ImageError(
            f"{path}: its colours are of a kind that is not known (PhotometricInterpretation {meaning}): {AS_RGB}"
        )
    if meaning == Photometric.CMYK and directory.number(Tag.INK_SET, _CMYK_INKS) != _CMYK_INKS:
        raise ImageError(f"{path}: its inks are not cyan, magenta, yellow and black: {AS_RGB}")
    if meaning == Photometric.CMYK and directory.samples - len(directory.extra_samples) != 4:
        raise ImageError(f"{path}: has {directory.samples} bands for four inks: {AS_RGB}")
    formats = {each for each in directory.numbers.get(Tag.SAMPLE_FORMAT, (1,)) if isinstance(each, int)}
    depths = {each for each in directory.numbers.get(Tag.BITS_PER_SAMPLE, (1,)) if isinstance(each, int)}
    signed_lab = meaning == Photometric.CIE_LAB and formats <= {1, 2}
    names = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex numbers"}
    # Unsigned and undefined; with a range also signed and floating point.
    odd = sorted(formats - ({1, 4} if scale_range is None else {1, 2, FLOATING, 4}))
    if odd and not signed_lab:
        kind = ", ".join(names.get(each, f"SampleFormat {each}") for each in odd)
        width = ", ".join(map(str, sorted(depths)))
        what = "export their magnitude" if set(odd) & {5, 6} else _STATE_RANGE
        raise ImageError(f"{path}: values of {width} bit ({kind}) have no stated range: {what}")
    if not depths or not formats:
        raise damaged(path, "its depth cannot be read")
    if max(depths) > (16 if scale_range is None else _MOST_BITS) or min(depths) < 1:
        raise ImageError(
            f"{path}: values of {', '.join(map(str, sorted(depths)))} bit have no stated range: {_STATE_RANGE}"
        )
    if scale_range is not None:
        _check_scalable(path, directory, formats, scale_range)
    if len(depths) > 1:
        raise ImageError(f"{path}: its bands differ in depth ({', '.join(map(str, sorted(depths)))} bit): {AS_RGB}")
    if meaning in {*LAB, Photometric.CMYK, Photometric.YCBCR} and directory.bits not in {8, 16}:
        raise ImageError(f"{path}: its colours have {directory.bits} bit: {AS_RGB}")
    if meaning == Photometric.YCBCR:
        _check_ycbcr(path, directory)


def _check_scalable(path: Path, directory: Directory, formats: set[int], scale_range: ScaleRange) -> None:
    if directory.photometric not in {Photometric.WHITE_IS_ZERO, Photometric.BLACK_IS_ZERO, Photometric.RGB}:
        raise ImageError(f"{path}: its values are neither grey nor RGB: leave scale-range out for this picture")
    if PREMULTIPLIED in directory.extra_samples:
        raise ImageError(f"{path}: its colours are multiplied by alpha, which does not go with scale-range: {AS_RGB}")
    require_scalable(path, scale_range, is_deep=directory.bits > 8 or not formats <= {1, 4})


def _check_ycbcr(path: Path, directory: Directory) -> None:
    if directory.bits != 8 or directory.samples != 3:
        raise ImageError(f"{path}: YCbCr with {directory.samples} bands of {directory.bits} bit is not read: {AS_RGB}")
    across, down = (int(each) for each in (*directory.numbers.get(Tag.YCBCR_SUBSAMPLING, (2, 2)), 2, 2)[:2])
    if (across, down) == (4, 4) and directory.width % 4:
        raise ImageError(
            f"{path}: YCbCr that is subsampled 4×4, of {directory.width} columns (not a multiple of 4), is "
            f"decoded wrongly by GDAL: {AS_RGB}"
        )
    tile_px = directory.number(Tag.TILE_WIDTH, 0) * directory.number(Tag.TILE_LENGTH, 0)
    tile_bytes = tile_px + 2 * tile_px // max(1, across * down)
    if directory.number(Tag.COMPRESSION, 1) == 1 and tile_bytes % _GDAL_ROUNDS_TILES_TO_BYTES:
        raise ImageError(
            f"{path}: YCbCr in tiles of {tile_bytes} bytes that are not compressed is not read by GDAL: save it with "
            f"DEFLATE, or {AS_RGB}"
        )
    limits = directory.numbers.get(Tag.REFERENCE_BLACK_WHITE, ())
    pairs = list(zip(limits[::2], limits[1::2], strict=False))
    if directory.has(Tag.REFERENCE_BLACK_WHITE) and (
        len(limits) != 6 or not all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in pairs)
    ):
        raise ImageError(f"{path}: its values for black and white (ReferenceBlackWhite) are none: {AS_RGB}")


def check_blocks(path: Path, file: BinaryIO, directory: Directory) -> None:
    """Refuse strips and tiles that lie where the file holds something else, and those that nobody has memory for."""
    tile_px = directory.number(Tag.TILE_WIDTH, 0) * directory.number(Tag.TILE_LENGTH, 0)
    planes = 1 if directory.number(Tag.PLANAR_CONFIGURATION, 1) == 2 else directory.samples
    tile_bytes = tile_px * planes * math.ceil(directory.bits / 8)
    if tile_bytes > _LARGEST_TILE_BYTES:
        raise ImageError(f"{path}: its tiles take {tile_bytes >> 20} MiB each: export it with smaller ones (256 x 256)")
    try:
        count, offsets, sizes = block_table(file, directory)
    except DirectoryError as cause:
        raise ImageError(f"{path}: {cause}: export it with larger ones") from cause
    if directory.number(Tag.COMPRESSION, 1) == _OLD_JPEG:
        return
    if len(offsets) < count:
        raise damaged(path, f"it says where {len(offsets)} of its {count} strips or tiles lie")
    known = sizes[:count]
    begin, size = offsets[: len(known)], known
    inside = (size > 0) & ((begin < _HEADER_BYTES) | ((begin < directory.end) & (begin + size > directory.offset)))
    if inside.any():
        raise damaged(path, f"strip or tile {int(inside.argmax())} lies in the file's header")


def unreadable(path: Path, directory: Directory, cause: GdalError) -> ImageError:
    codec = directory.number(Tag.COMPRESSION, 1)
    if "codec" in str(cause):
        name = f"{codec}, {_CODECS[codec]}" if codec in _CODECS else str(codec)
        return ImageError(f"{path}: its compression ({name}) is not read: save it with DEFLATE or LZW")
    return ImageError(f"{path}: cannot be read as a TIFF ({cause}): copy or export it again")

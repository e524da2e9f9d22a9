"""A TIFF, photograph or raster, is read in this one way: directories say what its numbers mean, GDAL decodes them."""

# - The result is always three bands of 8 bit, RGB. Grey becomes three equal bands, a palette its colours. Of 9 to 16
#   bit the highest eight bits are kept (`v >> 8` of 16), fewer than 8 bit are spread over 0–255. Other values have no
#   stated range and are refused, unless the user states it (`engine.images.values`).
# - Without a choice of bands the red, green and blue ones are taken, or a single one; whatever else a file has besides
#   an alpha band makes the choice the user's.
# - What alpha, a mask or a nodata value marks as missing is missing, whichever of them says so. Colours that were
#   multiplied by their alpha are divided by it again; where it is 0 they are black.
# - The picture is the first page, or another that is asked for; a smaller copy of a picture is never taken for it.

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from engine.errors import ImageError, reason_of
from engine.gdal import Dataset, GdalError, names_files, open_tiff
from engine.images.formats import TIFF
from engine.images.size import check_max_pixels
from engine.images.tiff_checks import (
    AS_RGB,
    FLOATING,
    LAB,
    PREMULTIPLIED,
    check_blocks,
    check_metadata,
    check_samples,
    damaged,
    unreadable,
)
from engine.images.tiff_directories import (
    Directories,
    Directory,
    DirectoryError,
    Photometric,
    Tag,
    read_directories,
    read_linked,
)
from engine.images.values import ScaleRange, eight_bit, range_notes
from engine.system.files import open_to_read
from engine.window import Window

NAMES_FILES_NOTE: Final = (
    "names files in its coordinate reference system, which are not opened: it is read as if it had none "
    "(gdal_edit.py -a_srs EPSG:… gives it one)"
)

_STRIP_PIXELS: Final = 1 << 20
_COLORS: Final = ("red", "green", "blue")
_WHITE_D50: Final = np.array([0.96422, 1.0, 0.82521])
_LINEAR_FROM_XYZ: Final = (
    np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    * _WHITE_D50
).astype(np.float32)
"""Linear sRGB from X, Y and Z under D50, each as a part of white's: Bradford adaption to D65 included."""
_ALPHA: Final = frozenset({1, 2})
_MOST_LISTED: Final = 12
_RAW: Final = (
    "is the raw data of a camera, which has no colours yet: convert it to TIFF or JPEG with a raw developer "
    "(darktable, RawTherapee)"
)


@dataclass(frozen=True, slots=True)
class TiffPage:
    """One picture of a TIFF."""

    number: int  # from 1
    width: int  # as stored, before any orientation
    height: int


def pages_of(path: Path) -> tuple[TiffPage, ...]:
    """List the pictures of a TIFF, at least one: its pages, without smaller copies of them and masks.

    ImageError: it cannot be opened, is no TIFF, or has no picture that can be read.
    """
    with _opened(path) as file:
        pages = _pictures_of(path, _directories_of(path, file))
    return tuple(TiffPage(number, page.width, page.height) for number, page in enumerate(pages, start=1))


def tiff_size(path: Path, page: int = 1) -> tuple[int, int] | None:
    """Look up width and height, in pixels as stored, that a TIFF states for a page (from 1), without decoding it.

    None where the file is no TIFF, does not say it, or cannot be read. Of a page that is not there, those of the first.
    """
    found = _directory_of(path, page)
    return None if found is None else (found.width, found.height)


def is_georeferenced(path: Path, page: int = 1) -> bool:
    """Look up whether a TIFF says where on the earth a page (from 1) lies, without decoding it.

    It does by the size of a pixel, a transformation, or points on the ground.
    """
    found = _directory_of(path, page)
    return found is not None and found.is_georeferenced


def _directory_of(path: Path, page: int) -> Directory | None:
    """None where the file is no TIFF or cannot be read: who reads it says what is wrong."""
    try:
        with open_to_read(path) as file:
            if TIFF.match(file.read(4)) is None:
                return None
            pictures = _pictures_of(path, _directories_of(path, file))
    except (OSError, ImageError):
        return None
    return pictures[page - 1 if page <= len(pictures) else 0]


class Tiff:
    """An open picture of a TIFF. Threads: one at a time, any.

    `bands` are those that are read, from 1: one, three, the four of CMYK, or those that were chosen. `notes` are
    phrases for whoever uses the picture.
    """

    def __init__(
        self,
        path: Path,
        dataset: Dataset,
        directory: Directory,
        bands: Sequence[int] | None,
        scale_range: ScaleRange | None,
        mask: Dataset | None = None,
    ) -> None:
        """Describe a picture; `mask` is its mask where that is opened apart from it."""
        self._path = path
        self.dataset = dataset
        self._mask = mask
        self.directory = directory
        self.notes: list[str] = []
        self.bands = _chosen_bands(path, dataset, directory, bands)
        self._alpha = _alpha_bands(dataset, directory)
        self._premultiplied = _premultiplied_alpha(path, directory, self._alpha)
        self._nodata, note = _nodata(directory, dataset)
        if note:
            self.notes.append(note)
        self._scale_range = scale_range
        self._conversion = _conversion(path, dataset, directory, self.bands, scale_range)
        self._tells_range = directory.photometric in {Photometric.BLACK_IS_ZERO, Photometric.RGB}
        self._levels: tuple[int, int] | None = None
        is_floating = directory.number(Tag.SAMPLE_FORMAT, 1) == FLOATING
        has_mask = mask is not None or dataset.has_mask
        self.marks_missing = bool(self._alpha) or self._nodata is not None or has_mask or is_floating

    @property
    def width(self) -> int:
        return self.dataset.width

    @property
    def height(self) -> int:
        return self.dataset.height

    def read(
        self, window: Window, size: tuple[int, int] | None = None, *, with_missing: bool = True
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Read a window; ImageError where the file is damaged.

        `size` is height and width to which it is reduced, by taking single pixels. Returns uint8[h, w, 3], RGB, or as
        many bands as were chosen, and bool[h, w], which of them hold data; None: all, or `with_missing` is false.
        """
        try:
            return self._read(window, size, with_missing=with_missing)
        except GdalError as error:
            raise damaged(self._path, str(error), f"its pixels at column {window.x}, row {window.y}") from error

    def _read(
        self, window: Window, size: tuple[int, int] | None, *, with_missing: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        alpha = self._alpha if with_missing else self._premultiplied
        wanted = (*self.bands, *(band for band in alpha if band not in self.bands))
        values = self.dataset.read(wanted, window, size)
        planes = dict(zip(wanted, values, strict=True))
        valid: NDArray[np.bool_] | None = None
        if with_missing and self.marks_missing:
            valid = np.logical_and.reduce([planes[band] > 0 for band in self._alpha]) if self._alpha else None
            for present in (self._present(planes, window, size), self._masked(window, size)):
                if present is not None:
                    valid = present if valid is None else valid & present
            if valid is None:
                valid = np.ones(values.shape[1:], np.bool_)
        chosen = values[: len(self.bands)]
        if self._premultiplied:
            chosen = _divided(chosen, planes[self._premultiplied[0]], self.directory.bits)
        pixels = self._conversion(chosen)
        if self._tells_range and self.directory.bits > 8:
            self._note_levels(pixels if valid is None else pixels[valid])
        return pixels, valid

    def _note_levels(self, pixels: NDArray[np.uint8]) -> None:
        if pixels.size:
            lowest, highest = self._levels or (255, 0)
            self._levels = min(lowest, int(pixels.min())), max(highest, int(pixels.max()))

    def range_notes(self) -> tuple[str, ...]:
        """Say, in at most one phrase, that what was read so far uses almost nothing of the range of its values.

        Pixels without data do not count.
        """
        return () if self._levels is None else range_notes(self._levels, self.directory.bits, self._scale_range)

    def _present(
        self, planes: dict[int, NDArray[Any]], window: Window, size: tuple[int, int] | None
    ) -> NDArray[np.bool_] | None:
        """A pixel is missing if every band but alpha has the nodata value, or is not a number."""
        is_floating = np.issubdtype(self.dataset.dtypes[0], np.floating)
        if self._nodata is None and not is_floating:
            return None
        visible = [band for band in range(1, len(self.dataset.dtypes) + 1) if band not in self._alpha]
        missing: NDArray[np.bool_] | None = None
        # Those that were read anyway come first: mostly they say that nothing is missing.
        for band in sorted(visible, key=lambda band: band not in planes):
            plane = planes[band] if band in planes else self.dataset.read([band], window, size)[0]
            alike: NDArray[np.bool_] = np.isnan(plane) if is_floating else np.zeros(plane.shape, np.bool_)
            if self._nodata is not None:
                alike |= plane == self._nodata
            missing = alike if missing is None else missing & alike
            if not missing.any():
                return None
        return None if missing is None else ~missing

    def _masked(self, window: Window, size: tuple[int, int] | None) -> NDArray[np.bool_] | None:
        if self._mask is not None:
            return self._mask.read([1], window, size)[0] > 0
        return self.dataset.read_mask(window, size) if self.dataset.has_mask else None


@dataclass(frozen=True, slots=True, eq=False)
class StoredTiff:
    """A decoded picture as the file stores it, perhaps lying on its side."""

    pixels: NDArray[np.uint8]  # uint8[h, w, 3], RGB, or as many bands as were chosen
    orientation: int  # still to be undone, 1–8; 1 where the picture has a place on the earth, which says how it lies
    exif: Image.Exif  # time and place of the picture
    notes: tuple[str, ...]  # for people


def read_tiff(file: BinaryIO, picture: Tiff) -> StoredTiff:
    """Decode a picture of an open file, opened by `open_picture`; ImageError if it is damaged."""
    width, height, rows = picture.width, picture.height, _rows_at_a_time(picture.dataset)
    windows = [Window(0, top, width, min(rows, height - top)) for top in range(0, height, rows)]
    strips = ((window.y, picture.read(window, with_missing=False)[0]) for window in windows)
    _, first = next(strips)
    pixels = np.empty((height, width, first.shape[-1]), np.uint8)
    for top, strip in itertools.chain([(0, first)], strips):
        pixels[top : top + rows] = strip
    directory, notes = picture.directory, (*picture.notes, *picture.range_notes())
    orientation = 1 if directory.is_georeferenced else directory.orientation
    return StoredTiff(pixels, orientation, _exif_of(file, directory), notes)


@contextmanager
def open_picture(
    path: Path,
    file: BinaryIO,
    *,
    page: int | None = None,
    bands: Sequence[int] | None = None,
    max_pixels: int | None = None,
    rows_at_a_time: int = 1024,
    scale_range: ScaleRange | None = None,
) -> Generator[Tiff]:
    """Open one picture of a TIFF; no pixels are read yet, and the file stays open as long as it is used.

    Pages and bands count from 1. Without `page` the first is read, and a note says so; one band becomes three equal
    ones, and without `bands` the colours are read. `scale_range` are the values that become 0 and 255, else all that
    the bits can hold. ImageError: the file is damaged, declares more than `max_pixels`, has no such page, or holds
    bands or depths that are not read.
    """
    directories = _directories_of(path, file)
    check_metadata(path, directories)
    pictures = _pictures_of(path, directories)
    if page is not None and not 1 <= page <= len(pictures):
        raise ImageError(f"{path}: has no page {page}: it has {len(pictures)}")
    directory = pictures[(page or 1) - 1]
    if max_pixels is not None:
        check_max_pixels(path, (directory.width, directory.height), max_pixels)
    check_samples(path, directory, scale_range)
    check_blocks(path, file, directory)
    is_unplaced = names_files(directory.texts.get(Tag.GEO_TEXTS, b"").decode("latin-1"))
    # By its place where it is not the first, or where GDAL would not find its way along the others. GDAL takes the
    # first mask for that of the first picture.
    by_place = directory is not directories.chain[0] or directories.is_cut_off
    mask = directories.mask_of(directory)
    mask_is_found = not by_place and mask is not None and mask is directories.masks[0]
    try:
        with (
            open_tiff(
                file,
                directory_offset=directory.offset if by_place else None,
                as_stored=directory.photometric != Photometric.YCBCR,
                use_georeference=not is_unplaced,
                use_mask=mask_is_found,
                rows_at_a_time=rows_at_a_time,
            ) as dataset,
            _mask_by_place(path, file, None if mask_is_found else mask) as opened_mask,
        ):
            picture = Tiff(path, dataset, directory, bands, scale_range, opened_mask)
            picture.notes += _notes_on(directories, page, is_unplaced=is_unplaced)
            yield picture
    except GdalError as error:
        raise unreadable(path, directory, error) from error


@contextmanager
def _mask_by_place(path: Path, file: BinaryIO, mask: Directory | None) -> Generator[Dataset | None]:
    """Open a page's mask as a picture of its own; None where there is none."""
    if mask is None:
        yield None
        return
    check_blocks(path, file, mask)
    with open_tiff(file, directory_offset=mask.offset, as_stored=True, use_georeference=False) as opened:
        yield opened


# ---- which picture ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    try:
        with open_to_read(path) as file:
            if TIFF.match(file.read(4)) is None:
                raise ImageError(f"{path}: is not a TIFF")
            yield file
    except OSError as cause:
        raise ImageError(f"{path}: cannot be opened ({reason_of(cause)}): check the name and permissions") from cause


def _directories_of(path: Path, file: BinaryIO) -> Directories:
    try:
        return read_directories(file)
    except DirectoryError as cause:
        raise damaged(path, str(cause)) from cause


def _pictures_of(path: Path, directories: Directories) -> tuple[Directory, ...]:
    if directories.is_canon_raw or any(each.is_raw for each in directories.everything):
        raise ImageError(f"{path}: {_RAW}")
    pictures = directories.pages
    if not pictures:
        whole = [each for each in directories.nested if not each.is_reduced and not each.is_mask]
        pictures = tuple(sorted(whole, key=lambda each: -each.width * each.height)[:1])
    if not pictures:
        raise ImageError(
            f"{path}: holds nothing but what it calls smaller copies or masks of a picture (NewSubfileType "
            f"{directories.chain[0].number(Tag.NEW_SUBFILE_TYPE, 0)}): export the picture itself"
        )
    if pictures[0].width < 1 or pictures[0].height < 1:
        raise damaged(path, "it states no width or height")
    return pictures


def _notes_on(directories: Directories, page: int | None, *, is_unplaced: bool) -> list[str]:
    notes: list[str] = []
    count = len(directories.pages)
    if count > 1 and page is None:
        notes.append(f"has {count} pages, of which the first is read (page N or page all reads others)")
    if directories.is_cut_off:
        notes.append(f"is damaged behind its {len(directories.chain)}. directory: what may follow is not read")
    if is_unplaced:
        notes.append(NAMES_FILES_NOTE)
    return notes


# ---- which bands --------------------------------------------------------------------------------------------------


def _alpha_bands(dataset: Dataset, directory: Directory) -> tuple[int, ...]:
    found = {band for band, meaning in enumerate(dataset.meanings, start=1) if meaning == "alpha"}
    extra = directory.extra_samples
    if len(dataset.meanings) == directory.samples:
        first = directory.samples - len(extra) + 1
        found |= {first + index for index, meaning in enumerate(extra) if meaning in _ALPHA and first + index > 1}
    return tuple(sorted(found))


def _premultiplied_alpha(path: Path, directory: Directory, alpha: tuple[int, ...]) -> tuple[int, ...]:
    """The band by which the colours were multiplied, if there is one."""
    extra = directory.extra_samples
    if PREMULTIPLIED not in extra:
        return ()
    band = directory.samples - len(extra) + 1 + extra.index(PREMULTIPLIED)
    if band not in alpha:
        return ()
    if directory.photometric not in {Photometric.BLACK_IS_ZERO, Photometric.RGB}:
        raise ImageError(f"{path}: colours of its kind that are multiplied by alpha are not read: {AS_RGB}")
    return (band,)


def _chosen_bands(path: Path, dataset: Dataset, directory: Directory, bands: Sequence[int] | None) -> tuple[int, ...]:
    meanings = dataset.meanings
    count = len(meanings)
    listed = ", ".join(f"{index} {meaning}" for index, meaning in enumerate(meanings, start=1))
    if bands is not None:
        if not all(1 <= band <= count for band in bands):
            raise ImageError(f"{path}: bands {','.join(map(str, bands))}: the file has {count} ({listed})")
        return tuple(bands)
    alpha = _alpha_bands(dataset, directory)
    visible = [band for band in range(1, count + 1) if band not in alpha]
    if directory.photometric == Photometric.CMYK and len(visible) == 4:
        return tuple(visible)
    if len(visible) == 1:
        return (visible[0],)
    if len(visible) == 2 and meanings[0] == "gray" and visible[0] == 1:
        # The second band of a grey picture is an alpha that does not say so.
        return (1,)
    if len(visible) == 4 and directory.photometric == Photometric.RGB and not directory.has(Tag.EXTRA_SAMPLES):
        # Nor does the fourth of a coloured one.
        return (1, 2, 3)
    if len(visible) == 3:
        if all(color in meanings for color in _COLORS):
            return tuple(meanings.index(color) + 1 for color in _COLORS)
        return tuple(visible)
    shown = listed if count <= _MOST_LISTED else f"{', '.join(listed.split(', ')[:_MOST_LISTED])}, …"
    raise ImageError(
        f"{path}: {count} bands ({shown}), which are more than colours: choose those that the network takes with "
        "bands, for example 1,2,3"
    )


def _nodata(directory: Directory, dataset: Dataset) -> tuple[float | None, str | None]:
    """The value that marks missing pixels, and a note where what the file says is none."""
    text = directory.texts.get(Tag.GDAL_NODATA, b"").decode("latin-1").strip(" \0\n")
    if not text:
        return None, None
    try:
        value = float(text)
    except ValueError:
        return (
            None,
            f"states a nodata value that is not a number ({text[:20]!r}): no pixel is taken for missing because of it",
        )
    dtype = np.dtype(dataset.dtypes[0])
    if dtype.kind == "f":
        # As the pixels hold it: 0.1 of 32 bit is another number than 0.1 of 64. Pixels that are NaN are missing anyway.
        return (None, None) if math.isnan(value) else (float(dtype.type(value)), None)
    limits = np.iinfo(dtype)
    # Others, such as -9999 of bytes, mark no pixel.
    return (int(value), None) if limits.min <= value <= limits.max and value == int(value) else (None, None)


# ---- values to colours --------------------------------------------------------------------------------------------


def _conversion(
    path: Path,
    dataset: Dataset,
    directory: Directory,
    bands: tuple[int, ...],
    scale_range: ScaleRange | None,
) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Choose how values [bands, h, w] become uint8[h, w, 3], or as many bands as were chosen."""
    bits, meaning = directory.bits, directory.photometric
    if meaning == Photometric.PALETTE and bands == (1,):
        return _from_palette(path, dataset)
    if meaning == Photometric.CMYK and len(bands) == 4:
        return lambda values: _from_inks(values, bits)
    if meaning in LAB and bands == (1, 2, 3):
        return lambda values: _from_lab(values, bits, is_signed=meaning == Photometric.CIE_LAB)
    inverse = np.uint8(0xFF if meaning == Photometric.WHITE_IS_ZERO else 0)

    def read(values: NDArray[Any]) -> NDArray[np.uint8]:
        planes = [eight_bit(plane, bits, scale_range) for plane in values]
        if inverse:
            planes = [plane ^ inverse for plane in planes]
        return cast("NDArray[np.uint8]", cv2.merge(planes * 3 if len(planes) == 1 else planes))

    return read


def _from_palette(path: Path, dataset: Dataset) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    colors = dataset.colormap()
    if not colors:
        raise ImageError(f"{path}: its pixels are numbers of colours, and it holds no colours (ColorMap): {AS_RGB}")
    table = np.zeros((max(colors) + 1, 3), np.uint8)
    for index, color in colors.items():
        table[index] = color[:3]
    return lambda values: table[np.minimum(values[0], len(table) - 1)]


def _from_inks(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    inks = [Image.fromarray(eight_bit(plane, bits)) for plane in values]
    return np.array(Image.merge("CMYK", inks).convert("RGB"))


def _from_lab(values: NDArray[Any], bits: int, *, is_signed: bool) -> NDArray[np.uint8]:
    """CIE L*a*b* under D50 to sRGB, by formula: libraries take it for D65, or round to 8 bit on the way."""
    step = np.float32(1 << (bits - 8))
    largest = np.float32((1 << bits) - 1 if is_signed or bits == 8 else 0xFF00)
    stored = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    lightness = stored[0] * (np.float32(100) / largest)
    if is_signed:
        a, b = (plane.view(np.dtype(f"i{plane.dtype.itemsize}")) / step for plane in stored[1:])
    else:
        a, b = (plane / step - np.float32(128) for plane in stored[1:])
    y = (lightness + 16) / np.float32(116)
    powers = np.stack([y + a / np.float32(500), y, y - b / np.float32(200)])
    knee = np.float32(6 / 29)
    xyz = np.where(powers > knee, powers**3, 3 * knee**2 * (powers - np.float32(4 / 29)))
    linear = np.clip(np.tensordot(_LINEAR_FROM_XYZ, xyz, axes=1), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    return np.ascontiguousarray((encoded * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _divided(values: NDArray[Any], alpha: NDArray[Any], bits: int) -> NDArray[Any]:
    """Undo the multiplication of colours by their alpha, rounded down; black where alpha is 0."""
    largest = (1 << bits) - 1
    divisor = np.maximum(alpha, 1).astype(np.uint32)
    colors = np.minimum(values.astype(np.uint32) * largest // divisor, largest)
    return np.where(alpha > 0, colors, 0).astype(values.dtype)


# ---- photographs --------------------------------------------------------------------------------------------------


def _rows_at_a_time(dataset: Dataset) -> int:
    """As many rows as make about `_STRIP_PIXELS`, of whole strips or tiles where they are not too large."""
    rows = max(1, _STRIP_PIXELS // dataset.width)
    block = dataset.block_shape[0]
    if block > rows:
        return block if block * dataset.width <= 16 * _STRIP_PIXELS else rows
    return rows - rows % block


def _exif_of(file: BinaryIO, directory: Directory) -> Image.Exif:
    exif = Image.Exif()
    for tag, ifd in ((Tag.EXIF_IFD, ExifTags.IFD.Exif), (Tag.GPS_IFD, ExifTags.IFD.GPSInfo)):
        if not directory.has(tag):
            continue
        try:
            found = read_linked(file, directory, tag)
        except DirectoryError:  # what is wrong with EXIF never fails a good picture
            continue
        exif.get_ifd(ifd).update(
            {
                number: value.decode("latin-1") if isinstance(value, bytes) else value[0] if len(value) == 1 else value
                for number, value in found.items()
            }
        )
    return exif

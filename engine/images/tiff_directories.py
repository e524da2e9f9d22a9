"""What the directories of a TIFF say, read without decoding a pixel; whatever they say, little is read."""

# A TIFF is a chain of directories, each of which describes one picture: a page, a smaller copy of one, or a mask. Only
# the tags that decide how pixels are read are looked at, and of each no more than `_MOST_VALUES` numbers or
# `_LONGEST_TEXT_BYTES` of text, since counts and offsets are whatever the file's writer chose. A value that does not
# lie in the file is taken for missing. Tables of strips and tiles are read by `block_table`, as long as the picture's
# own size says and no longer.

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from itertools import takewhile
from typing import BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

_MOST_DIRECTORIES: Final = 4096
_MOST_ENTRIES: Final = 4096
_MOST_VALUES: Final = 4096
_LONGEST_TEXT_BYTES: Final = 1 << 24
_MOST_BYTES: Final = 1 << 28
"""Of one file: many directories may share one long text."""
_MOST_BLOCKS: Final = 1 << 24

_SIZES_BYTES: Final = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
_NUMBERS: Final = {
    1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q",
    18: "Q",
}  # fmt: skip
_TEXT: Final = frozenset({2, 7})
"""Kinds of values: letters, and bytes of no stated meaning."""

Number = int | float


class Tag(IntEnum):
    """Tags that decide how pixels are read, and which those are."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    PLANAR_CONFIGURATION = 284
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    YCBCR_SUBSAMPLING = 530
    REFERENCE_BLACK_WHITE = 532
    PIXEL_SCALE = 33550
    TIE_POINTS = 33922
    TRANSFORMATION = 34264
    EXIF_IFD = 34665
    GEO_TEXTS = 34737
    GPS_IFD = 34853
    GDAL_METADATA = 42112
    GDAL_NODATA = 42113


_WANTED: Final = frozenset(int(tag) for tag in Tag)
_ALWAYS_TEXT: Final = frozenset({Tag.GEO_TEXTS, Tag.GDAL_METADATA, Tag.GDAL_NODATA})


class Photometric(IntEnum):
    """What the numbers of a pixel mean."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    MASK = 4
    CMYK = 5
    YCBCR = 6
    CIE_LAB = 8
    ICC_LAB = 9
    ITU_LAB = 10
    COLOR_FILTER_ARRAY = 32803
    LOG_L = 32844
    LOG_LUV = 32845
    LINEAR_RAW = 34892


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    count: int
    offset: int

    @property
    def size_bytes(self) -> int:
        return self.count * _SIZES_BYTES[self.kind]


@dataclass(frozen=True)
class Directory:
    """One picture of a TIFF, as its tags describe it."""

    offset: int  # where the directory lies in the file, in bytes
    end: int  # where it ends
    numbers: Mapping[int, tuple[Number, ...]]
    texts: Mapping[int, bytes]  # without the zero bytes at the end
    _entries: Mapping[int, _Entry] = field(repr=False)

    def number(self, tag: Tag, default: int) -> int:
        """Look up a whole number, or the default where the tag is missing or holds none."""
        values = self.numbers.get(tag, ())
        return values[0] if values and isinstance(values[0], int) else default

    def has(self, tag: Tag) -> bool:
        """Tell whether a tag is there at all, whatever it holds."""
        return tag in self._entries

    @property
    def width(self) -> int:
        return self.number(Tag.IMAGE_WIDTH, 0)

    @property
    def height(self) -> int:
        return self.number(Tag.IMAGE_LENGTH, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    @property
    def bits(self) -> int:
        return self.number(Tag.BITS_PER_SAMPLE, 1)

    @property
    def samples(self) -> int:
        """Of one pixel."""
        return self.number(Tag.SAMPLES_PER_PIXEL, 1)

    @property
    def photometric(self) -> int:
        """What the samples mean; where nothing is said, black is zero."""
        return self.number(Tag.PHOTOMETRIC, Photometric.BLACK_IS_ZERO)

    @property
    def extra_samples(self) -> tuple[int, ...]:
        """Meaning of the samples behind the colours: 0 unknown, 1 alpha that the colours are multiplied by, 2 alpha."""
        return tuple(each for each in self.numbers.get(Tag.EXTRA_SAMPLES, ()) if isinstance(each, int))

    @property
    def orientation(self) -> int:
        """As EXIF counts them, 1–8; 1 where nothing else is said."""
        stated = self.number(Tag.ORIENTATION, 1)
        return stated if 1 <= stated <= 8 else 1

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another picture: an overview or a preview."""
        return bool(self.number(Tag.NEW_SUBFILE_TYPE, 0) & 1) or self.number(Tag.SUBFILE_TYPE, 0) == 2

    @property
    def is_mask(self) -> bool:
        """Whether it tells which pixels of another picture count."""
        return bool(self.number(Tag.NEW_SUBFILE_TYPE, 0) & 4)

    @property
    def is_georeferenced(self) -> bool:
        """Whether it says where its pixels lie on the earth."""
        return any(self.numbers.get(tag) for tag in (Tag.PIXEL_SCALE, Tag.TIE_POINTS, Tag.TRANSFORMATION))

    @property
    def is_raw(self) -> bool:
        """Whether its pixels are what a sensor measured, before they were made into colours."""
        return self.photometric in {Photometric.COLOR_FILTER_ARRAY, Photometric.LINEAR_RAW}


@dataclass(frozen=True)
class Directories:
    """All directories of a TIFF."""

    chain: tuple[Directory, ...]  # those that follow each other
    nested: tuple[Directory, ...]  # those that one of them names as parts of itself
    is_cut_off: bool  # whether the chain ends in a place where there is no directory, or runs in a circle
    # whether the header says that it is a raw file of a Canon, which does not show in its directories
    is_canon_raw: bool

    @cached_property
    def pages(self) -> tuple[Directory, ...]:
        """Those of the chain that are pictures of their own: neither smaller copies nor masks."""
        return tuple(each for each in self.chain if not each.is_reduced and not each.is_mask)

    @cached_property
    def masks(self) -> tuple[Directory, ...]:
        """Those of the chain that tell which pixels of a page count."""
        return tuple(each for each in self.chain if each.is_mask and not each.is_reduced)

    def mask_of(self, page: Directory) -> Directory | None:
        """Find the mask of one of the pages, which follows it, before the next page of its size; None: it has none."""
        if page not in self.chain:
            return None
        alike = [each for each in self.chain if each.size == page.size and not each.is_reduced]
        own = takewhile(lambda each: each.is_mask, alike[alike.index(page) + 1 :])
        return next(own, None)

    @property
    def everything(self) -> tuple[Directory, ...]:
        return (*self.chain, *self.nested)


class DirectoryError(ValueError):
    """The file has no first directory that can be read, or more directories than any picture has."""


def read_directories(file: BinaryIO) -> Directories:
    """Read the directories of a file that begins as TIFFs do; DirectoryError if there is none, or too many."""
    reader = _Reader(file)
    chain: list[Directory] = []
    seen: set[int] = set()
    offset, is_cut_off = reader.first, False
    while offset:
        found = None if offset in seen else reader.directory(offset)
        if found is None:
            is_cut_off = True
            break
        seen.add(offset)
        chain.append(found[0])
        offset = found[1]
        _check_count(chain)
    if not chain:
        raise DirectoryError("its first directory cannot be read")
    nested: list[Directory] = []
    waiting = _offsets_of(chain)
    while waiting:
        offset = waiting.pop(0)
        found = None if offset in seen else reader.directory(offset)
        if found is None:
            continue
        seen.add(offset)
        nested.append(found[0])
        # What a nested one is followed by belongs to the same picture.
        waiting.extend((found[1], *_offsets_of([found[0]])))
        _check_count([*chain, *nested])
    return Directories(tuple(chain), tuple(nested), is_cut_off, reader.is_canon_raw)


def read_linked(file: BinaryIO, directory: Directory, tag: Tag) -> dict[int, tuple[Number, ...] | bytes]:
    """Read the directory of EXIF or GPS data that a picture names; empty where there is none.

    Fractions are divided; NaN where by zero.
    """
    found = _Reader(file, every_tag=True).directory(directory.number(tag, 0))
    return {} if found is None else {**found[0].numbers, **found[0].texts}


def block_table(file: BinaryIO, directory: Directory) -> tuple[int, NDArray[np.uint64], NDArray[np.uint64]]:
    """Read how many strips or tiles a picture of this size has, and their offsets and sizes in bytes, uint64[n] each.

    There is one for each, or fewer where a table is shorter, missing or does not lie in the file. DirectoryError: there
    are more blocks than are read.
    """
    tiled = directory.has(Tag.TILE_OFFSETS)
    columns, rows = 1, directory.number(Tag.ROWS_PER_STRIP, directory.height) or directory.height
    if tiled:
        columns = math.ceil(directory.width / max(1, directory.number(Tag.TILE_WIDTH, directory.width)))
        rows = directory.number(Tag.TILE_LENGTH, directory.height)
    planes = directory.samples if directory.number(Tag.PLANAR_CONFIGURATION, 1) == 2 else 1
    count = columns * math.ceil(directory.height / max(1, rows)) * planes
    if count > _MOST_BLOCKS:
        raise DirectoryError(f"it is cut into {count} strips or tiles, more than {_MOST_BLOCKS}")
    names = (Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS) if tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS)
    reader = _Reader(file)
    offsets, sizes = (reader.table(directory, name, count) for name in names)
    return count, offsets, sizes


def _check_count(directories: list[Directory]) -> None:
    if len(directories) > _MOST_DIRECTORIES:
        raise DirectoryError(f"it has more than {_MOST_DIRECTORIES} directories")


def _offsets_of(directories: list[Directory]) -> list[int]:
    return [offset for each in directories for offset in each.numbers.get(Tag.SUB_IFDS, ()) if isinstance(offset, int)]


class _Reader:
    def __init__(self, file: BinaryIO, *, every_tag: bool = False) -> None:
        self._file = file
        self._every_tag = every_tag
        self._left_bytes = _MOST_BYTES
        self._size = file.seek(0, 2)
        header = self._bytes(0, 16)
        self._order = "<" if header[:2] == b"II" else ">"
        self.is_canon_raw = header[8:10] == b"CR"
        self._is_big = header[2:4] in {b"+\0", b"\0+"}
        try:
            layout = "8xQ" if self._is_big else "4xI"
            self.first: int = struct.unpack_from(self._order + layout, header)[0]
        except struct.error as cause:
            raise DirectoryError("it ends within its header") from cause

    def directory(self, offset: int) -> tuple[Directory, int] | None:
        """Read a directory and where the next one lies; None where there is none."""
        counted, entry, link = ("Q", "HHQ", "Q") if self._is_big else ("H", "HHI", "I")
        inline = struct.calcsize(link)
        width = struct.calcsize("<" + entry) + inline
        start = offset + struct.calcsize(counted)
        head = self._bytes(offset, start - offset)
        if offset < 8 or len(head) < start - offset:
            return None
        (count,) = struct.unpack(self._order + counted, head)
        body = self._bytes(start, count * width + inline) if count <= _MOST_ENTRIES else b""
        if not count or len(body) < count * width:
            return None
        entries: dict[int, _Entry] = {}
        for index in range(count):
            tag, kind, values = struct.unpack_from(self._order + entry, body, index * width)
            place = (index + 1) * width - inline
            if kind in _SIZES_BYTES and tag not in entries:
                found = _Entry(kind, values, start + place)
                if found.size_bytes > inline:
                    (elsewhere,) = struct.unpack_from(self._order + link, body, place)
                    found = _Entry(kind, values, elsewhere)
                entries[tag] = found
        following = body[count * width :]
        # The link to the next one may be cut off in a picture that is whole.
        next_offset = struct.unpack(self._order + link, following)[0] if len(following) == inline else 0
        numbers, texts = self._values(entries)
        return Directory(offset, start + len(body), numbers, texts, entries), int(next_offset)

    def table(self, directory: Directory, tag: Tag, count: int) -> NDArray[np.uint64]:
        entry = directory._entries.get(tag)  # pyright: ignore[reportPrivateUsage]
        if entry is None or len(_NUMBERS.get(entry.kind, "")) != 1:
            return np.zeros(0, np.uint64)
        kind = np.dtype(_NUMBERS[entry.kind]).newbyteorder("<" if self._order == "<" else ">")
        wanted = min(entry.count, count) * kind.itemsize
        found = self._bytes(entry.offset, wanted)
        return np.frombuffer(found[: len(found) // kind.itemsize * kind.itemsize], kind).astype(np.uint64)

    def _values(self, entries: Mapping[int, _Entry]) -> tuple[dict[int, tuple[Number, ...]], dict[int, bytes]]:
        numbers: dict[int, tuple[Number, ...]] = {}
        texts: dict[int, bytes] = {}
        for tag, entry in entries.items():
            if not self._every_tag and tag not in _WANTED:
                continue
            if entry.kind in _TEXT or tag in _ALWAYS_TEXT:
                texts[tag] = self._text(tag, entry)
            else:
                numbers[tag] = self._numbers(entry)
        return numbers, texts

    def _text(self, tag: int, entry: _Entry) -> bytes:
        if entry.offset + entry.size_bytes > self._size:
            return b""
        if entry.size_bytes > _LONGEST_TEXT_BYTES:
            if tag in _ALWAYS_TEXT:
                raise DirectoryError(f"tag {tag} holds {entry.size_bytes >> 20} MiB of text")
            return b""
        found = self._bytes(entry.offset, entry.size_bytes)
        if _SIZES_BYTES[entry.kind] > 1 and len(_NUMBERS[entry.kind]) == 1:
            # Libraries take a text whose letters are stored as wider numbers for what it would be.
            found = np.frombuffer(found, f"{self._order}{_NUMBERS[entry.kind][0]}").astype(np.uint8).tobytes()
        return found.rstrip(b"\0")

    def _numbers(self, entry: _Entry) -> tuple[Number, ...]:
        letters = _NUMBERS[entry.kind]
        count = min(entry.count, _MOST_VALUES)
        found = self._bytes(entry.offset, count * _SIZES_BYTES[entry.kind])
        if len(found) < count * _SIZES_BYTES[entry.kind]:
            return ()
        values = cast("tuple[Number, ...]", struct.unpack(f"{self._order}{letters * count}", found))
        return tuple(_fractions(values)) if len(letters) == 2 else values

    def _bytes(self, offset: int, count: int) -> bytes:
        if offset >= self._size:
            return b""
        self._file.seek(offset)
        found = self._file.read(min(count, self._size - offset))
        self._left_bytes -= len(found)
        if self._left_bytes < 0:
            raise DirectoryError(f"its directories take more than {_MOST_BYTES >> 20} MiB")
        return found


def _fractions(values: tuple[Number, ...]) -> Iterator[float]:
    for numerator, denominator in zip(values[::2], values[1::2], strict=True):
        yield numerator / denominator if denominator else math.nan

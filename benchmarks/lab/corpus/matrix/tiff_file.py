"""TIFFs that no library writes: tags of any type, any packing of samples, missing segments, subdirectories."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ByteOrder = Literal["<", ">"]

BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG = 1, 2, 3, 4, 5, 6, 7, 8, 9
_IFD, _LONG8 = 13, 16
_CODES = {
    BYTE: "B", ASCII: "s", SHORT: "H", LONG: "I", RATIONAL: "II", SBYTE: "b", UNDEFINED: "B", SSHORT: "h", SLONG: "i",
    _IFD: "I", _LONG8: "Q",
}  # fmt: skip
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES, _SUB_DIRECTORIES = 273, 279, 324, 325, 330
_TILE_WIDTH = 322


@dataclass(frozen=True, slots=True)
class Directory:
    """One picture of a TIFF; children are subdirectories.

    `tags` map a number to type and values; numerator and denominator of a rational are two values. Offsets and byte
    counts of the segments (strips or tiles, in order) are added; an empty one is sparse: both are 0.
    """

    tags: dict[int, tuple[int, tuple[int, ...]]]
    segments: Sequence[bytes]
    children: Sequence["Directory"] = field(default_factory=tuple)


def write_tiff(path: Path, directories: Sequence[Directory], *, order: ByteOrder = "<", big: bool = False) -> None:
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, 0) if big else struct.pack(f"{order}HI", 42, 0)
    content = bytearray(mark + head)
    pointer = len(content) - (8 if big else 4)
    for directory in directories:
        offset, next_pointer = _append(content, directory, order, big=big)
        struct.pack_into(f"{order}{'Q' if big else 'I'}", content, pointer, offset)
        pointer = next_pointer
    path.write_bytes(content)


def _append(content: bytearray, directory: Directory, order: ByteOrder, *, big: bool) -> tuple[int, int]:
    """Append segments, values and entries; returns where the directory lies and where the next one's offset belongs."""
    children = tuple(_append(content, child, order, big=big)[0] for child in directory.children)
    offsets: list[int] = []
    for segment in directory.segments:
        content += bytes(len(content) % 2)
        offsets.append(len(content) if segment else 0)
        content += segment
    tiled = _TILE_WIDTH in directory.tags
    number = _LONG8 if big else LONG
    tags = {
        **directory.tags,
        _TILE_OFFSETS if tiled else _STRIP_OFFSETS: (number, tuple(offsets)),
        _TILE_BYTES if tiled else _STRIP_BYTES: (number, tuple(len(each) for each in directory.segments)),
    }
    if children:
        tags[_SUB_DIRECTORIES] = (number if big else _IFD, children)
    room = 8 if big else 4
    entries: list[bytes] = []
    for tag, (kind, values) in sorted(tags.items()):
        code = _CODES[kind]
        packed = struct.pack(f"{order}{len(values) // len(code) * code}", *values)
        count = len(values) // len(code)
        if len(packed) > room:
            content += bytes(len(content) % 2)
            place = len(content)
            content += packed
            packed = struct.pack(f"{order}{'Q' if big else 'I'}", place)
        entries.append(struct.pack(f"{order}HH{'Q' if big else 'I'}", tag, kind, count) + packed.ljust(room, b"\0"))
    content += bytes(len(content) % 2)
    offset = len(content)
    content += struct.pack(f"{order}{'Q' if big else 'H'}", len(entries)) + b"".join(entries)
    pointer = len(content)
    content += bytes(room)
    return offset, pointer


def pack_samples(samples: NDArray[np.integer], bits: int, order: ByteOrder = "<") -> bytes:
    """Pack rows of samples, each row filled up to whole bytes."""
    if bits in {8, 16, 32}:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    stream = (samples[..., np.newaxis].astype(np.uint32) >> shifts & 1).astype(np.uint8)
    return np.packbits(stream.reshape(len(samples), -1), axis=1).tobytes()

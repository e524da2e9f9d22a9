"""TIFFs written tag by tag, as no library would write them."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SSHORT, DOUBLE, LONG8 = 1, 2, 3, 4, 5, 7, 8, 12, 16
LETTERS = {
    BYTE: "B",
    ASCII: "B",
    SHORT: "H",
    LONG: "I",
    RATIONAL: "I",
    UNDEFINED: "B",
    SSHORT: "h",
    DOUBLE: "d",
    LONG8: "Q",
}
NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, BYTE_COUNTS, PLANAR = 273, 274, 277, 278, 279, 284
COLOR_MAP, SUB_IFDS, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 320, 330, 332, 338, 339
Value = tuple[int, Sequence[Any] | bytes]


@dataclass(frozen=True)
class Page:
    """One directory.

    Attributes:
        width: columns.
        height: rows.
        body: what its only strip holds; None: nothing, and it has no strip.
        tags: more of them, tag to kind and values; they take the place of those that are made here.
        nested: what its SubIFDs are.
    """

    width: int
    height: int
    body: bytes | None
    tags: Mapping[int, Value] = field(default_factory=dict[int, Value])
    nested: Sequence["Page"] = ()


def tiff_file(*pages: Page, order: str = "<", big: bool = False, next_offset: int = 0) -> bytes:
    """Write a file.

    Args:
        pages: in their order.
        order: `<` or `>`.
        big: whether as BigTIFF.
        next_offset: what the last directory says about the next one.

    Returns:
        The file's bytes.
    """
    data = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42))
    data += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, 0) if big else (0,)))
    place = 8 if big else 4
    for page in pages:
        place = _append(data, page, place, order, big=big)
    _patch(data, place, next_offset, order, big=big)
    return bytes(data)


def _patch(data: bytearray, place: int, offset: int, order: str, *, big: bool) -> None:
    struct.pack_into(order + ("Q" if big else "I"), data, place, offset)


def _append(data: bytearray, page: Page, place: int, order: str, *, big: bool) -> int:
    """Write a page, name it at `place`, and return where it says what follows."""
    nested: list[int] = []
    for each in page.nested:
        holder = len(data)
        data += bytes(8)
        _append(data, each, holder, order, big=big)
        nested.append(struct.unpack_from(order + ("Q" if big else "I"), data, holder)[0])
    tags: dict[int, Value] = {WIDTH: (LONG, [page.width]), HEIGHT: (LONG, [page.height]), COMPRESSION: (SHORT, [1])}
    if page.body is not None:
        tags |= {
            OFFSETS: (LONG, [len(data)]),
            BYTE_COUNTS: (LONG, [len(page.body)]),
            ROWS_PER_STRIP: (LONG, [page.height]),
        }
        data += page.body
    if nested:
        tags[SUB_IFDS] = (LONG, nested)
    tags |= page.tags
    inline, link = (8, "Q") if big else (4, "I")
    entries: list[bytes] = []
    for tag, (kind, values) in sorted(tags.items()):
        content = (
            bytes(values) if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{LETTERS[kind]}", *values)
        )
        count = len(values) // 2 if kind == RATIONAL else len(values)
        if len(content) > inline:
            data += bytes(len(data) % 2)
            content, offset = struct.pack(order + link, len(data)), content
            data += offset
        entries.append(struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count) + content.ljust(inline, b"\0"))
    data += bytes(len(data) % 2)
    _patch(data, place, len(data), order, big=big)
    data += struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries)
    end = len(data)
    data += bytes(inline)
    return end

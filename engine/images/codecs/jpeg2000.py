"""What a JPEG 2000 file says of its components, and colours of other depths than 8 bit."""

# Pillow rounds deeper ones up, so that what is brightest becomes black. OpenCV decodes them; the highest eight bits are
# kept. Of fewer bits Pillow leaves the lowest ones of a byte empty. Neither heeds everything that the boxes around the
# codestream say of its colours: what would be read wrongly is refused.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.images.values import ScaleRange, decoded_by_opencv, eight_bit

_START = b"\xff\x4f\xff\x51"
_SIZE_BYTES = 38
_MOST_BOXES = 1000
_MOST_BOX_BYTES = 1 << 16
_ENUMERATED = b"\1"
_RGB_OR_GREY = frozenset({16, 17})
_CMYK, _YCC = 12, 18
_OF_EIGHT_BIT = b"\7"
_BANDS = frozenset({1, 2, 3, 4})
_DEEP_BANDS = frozenset({1, 3, 4})
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Codestream:
    """What the marker SIZ says, and the header of the file."""

    size: tuple[int, int]  # width and height in pixels
    depths_bit: tuple[int, ...]  # of the components, one each
    signed: bool  # whether a component has values below zero
    has_palette: bool  # whether the values are numbers of colours

    @property
    def is_deep(self) -> bool:
        """Whether a component has more than 8 bit."""
        return max(self.depths_bit, default=0) > 8


def read_codestream(path: Path, file: BinaryIO) -> Codestream:
    """Read what a JPEG 2000 file says of its codestream, which is what the decoder goes by.

    ImageError: the components are of a kind that is not read. ValueError: it holds no codestream.
    """
    boxes = _find_codestream(file)
    header = file.read(_SIZE_BYTES)
    right, bottom, left, top = (int.from_bytes(header[at : at + 4], "big") for at in (4, 8, 12, 16))
    components = file.read(3 * int.from_bytes(header[36:38], "big"))[::3]
    found = Codestream(
        (right - left, bottom - top),
        tuple((each & 0x7F) + 1 for each in components),
        any(each & 0x80 for each in components),
        b"pclr" in boxes,
    )
    if found.signed:
        raise ImageError(f"{path}: its values are signed and have no stated range: scale it to 8 or 16 bit")
    known = _DEEP_BANDS if found.is_deep else _BANDS
    if len(components) not in known or (found.is_deep and set(found.depths_bit) != {min(found.depths_bit[0], 16)}):
        depths = ", ".join(map(str, found.depths_bit[:_MOST_NAMED]))
        raise ImageError(f"{path}: {len(components)} bands of {depths} bit are not read: export it as PNG or TIFF")
    problem = _problem_of_colors(found, boxes)
    if problem is not None:
        raise ImageError(f"{path}: {problem} are not read: export it as PNG or TIFF")
    return found


def spread(pixels: NDArray[np.uint8], codestream: Codestream) -> NDArray[np.uint8]:
    """Spread what Pillow decodes of fewer than 8 bit, which fills the highest bits of a byte, over 0–255."""
    bits = codestream.depths_bit[0]
    return pixels if bits == 8 or codestream.has_palette else eight_bit(pixels >> (8 - bits), bits)


def decode_deep(file: BinaryIO, codestream: Codestream, scale_range: ScaleRange | None) -> NDArray[np.uint8]:
    """Decode a JPEG 2000 file of more than 8 bit to `uint8[H, W, 3]`, RGB; alpha is dropped. ValueError: it is damaged.

    `scale_range` are the values that become 0 and 255; without it the highest eight bits are taken.
    """
    pixels = decoded_by_opencv(file, codestream.depths_bit[0], scale_range)
    if pixels.shape[1::-1] != codestream.size:
        raise ValueError("OpenCV cannot decode it")
    return pixels


def _problem_of_colors(found: Codestream, boxes: Mapping[bytes, bytes]) -> str | None:
    """What the header says of its colours that the decoder does not heed, in words; None: nothing."""
    depths = found.depths_bit
    bits = depths[0]
    colors = depths[: 1 if len(depths) < 3 else 3]
    space = boxes.get(b"colr", b"")
    stated = int.from_bytes(space[3:7], "big") if space[:1] == _ENUMERATED else None
    if stated is not None and stated not in _RGB_OR_GREY and (bits != 8 or stated not in {_CMYK, _YCC}):
        return f"colours of the kind {stated} (EnumCS) in {bits} bit"
    if found.is_deep:
        return None
    if found.has_palette:
        plain = depths == (8,) and _is_plain_palette(boxes)
        return None if plain else "palettes of other than red, green and blue in 8 bit"
    if len({*colors}) > 1:
        return f"colours of {', '.join(map(str, colors))} bit"
    return None if _are_in_order(boxes.get(b"cdef", b"")) else "bands in another order than red, green, blue, alpha"


def _is_plain_palette(boxes: Mapping[bytes, bytes]) -> bool:
    columns = boxes[b"pclr"][2:3]
    return (
        columns in {b"\3", b"\4"}
        and boxes[b"pclr"][3 : 3 + columns[0]] == _OF_EIGHT_BIT * columns[0]
        and boxes.get(b"cmap") == b"".join(bytes([0, 0, 1, column]) for column in range(columns[0]))
    )


def _are_in_order(definition: bytes) -> bool:
    """Whether the first channels are the colours, as they are where nothing is said."""
    channels = [
        tuple(int.from_bytes(definition[at + part : at + part + 2], "big") for part in (0, 2, 4))
        for at in range(2, len(definition) - 5, 6)
    ]
    return all(association in {0, channel + 1} for channel, kind, association in channels if kind == 0) and all(
        channel >= sum(other == 0 for _, other, _ in channels) for channel, kind, _ in channels if kind
    )


def _find_codestream(file: BinaryIO) -> Mapping[bytes, bytes]:
    """Go to the marker SIZ, at the start or in the box `jp2c`, and return what the boxes of the header hold."""
    file.seek(0)
    if file.read(4) == _START:
        return {}
    header: dict[bytes, bytes] = {}
    for kind, start, end in _boxes(file, 0, file.seek(0, 2)):
        if kind == b"jp2h":
            for inner, first, last in _boxes(file, start, end):
                file.seek(first)
                # Of several colour specifications the first one counts.
                header.setdefault(inner, file.read(min(last - first, _MOST_BOX_BYTES)))
        elif kind == b"jp2c":
            file.seek(start)
            if file.read(4) == _START:
                return header
            break
    raise ValueError("it holds no codestream")


def _boxes(file: BinaryIO, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and where its content begins and ends."""
    for _ in range(_MOST_BOXES):
        file.seek(place)
        head = file.read(8)
        length, header_bytes = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, header_bytes = int.from_bytes(file.read(8), "big"), 16
        elif length == 0:
            length = end - place
        if length < header_bytes or place + header_bytes > end:
            return
        yield head[4:], place + header_bytes, min(end, place + length)
        place += length

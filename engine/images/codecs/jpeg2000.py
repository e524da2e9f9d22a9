"""What a JPEG 2000 codestream says of its components, and colours of more than 8 bit."""

# Pillow rounds those up, so that what is brightest becomes black. OpenCV decodes them; the highest eight bits are kept.

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.images.values import ScaleRange, decoded_by_opencv

_START = b"\xff\x4f\xff\x51"
_SIZE_BYTES = 38
_MOST_BOXES = 1000
_BANDS = frozenset({1, 2, 3, 4})
_DEEP_BANDS = frozenset({1, 3, 4})
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Codestream:
    """What the SIZ marker says."""

    size: tuple[int, int]  # width and height in pixels
    depths_bit: tuple[int, ...]  # of the components, one each
    signed: bool  # whether a component has values below zero

    @property
    def is_deep(self) -> bool:
        """Whether a component has more than 8 bit."""
        return max(self.depths_bit, default=0) > 8


def read_codestream(path: Path, file: BinaryIO) -> Codestream:
    """Read what a JPEG 2000 file says of its codestream, which is what the decoder goes by.

    ImageError: the components are of a kind that is not read. ValueError: it holds no codestream.
    """
    _find_codestream(file)
    header = file.read(_SIZE_BYTES)
    right, bottom, left, top = (int.from_bytes(header[at : at + 4], "big") for at in (4, 8, 12, 16))
    components = file.read(3 * int.from_bytes(header[36:38], "big"))[::3]
    found = Codestream(
        (right - left, bottom - top),
        tuple((each & 0x7F) + 1 for each in components),
        any(each & 0x80 for each in components),
    )
    if found.signed:
        raise ImageError(f"{path}: its values are signed and have no stated range: scale it to 8 or 16 bit")
    known = _DEEP_BANDS if found.is_deep else _BANDS
    if len(components) not in known or (found.is_deep and set(found.depths_bit) != {min(found.depths_bit[0], 16)}):
        depths = ", ".join(map(str, found.depths_bit[:_MOST_NAMED]))
        raise ImageError(f"{path}: {len(components)} bands of {depths} bit are not read: export it as PNG or TIFF")
    return found


def decode_deep(file: BinaryIO, codestream: Codestream, scale_range: ScaleRange | None) -> NDArray[np.uint8]:
    """Decode a JPEG 2000 file of more than 8 bit to `uint8[H, W, 3]`, RGB; alpha is dropped. ValueError: it is damaged.

    `scale_range` are the values that become 0 and 255; without it the highest eight bits are taken.
    """
    pixels = decoded_by_opencv(file, codestream.depths_bit[0], scale_range)
    if pixels.shape[1::-1] != codestream.size:
        raise ValueError("OpenCV cannot decode it")
    return pixels


def _find_codestream(file: BinaryIO) -> None:
    """Go to the marker SIZ: at the start, or in the box `jp2c`."""
    place = file.seek(0)
    if file.read(4) == _START:
        return
    for _ in range(_MOST_BOXES):
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[:4], "big")
        header_bytes = 8
        if length == 1:
            length, header_bytes = int.from_bytes(file.read(8), "big"), 16
        if head[4:] == b"jp2c":
            if file.read(4) == _START:
                return
            break
        if length < header_bytes:
            break
        place += length
    raise ValueError("it holds no codestream")

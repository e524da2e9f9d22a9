"""The segments of a JPEG that its pixels need, and whether its scans are whole."""

# What lies beside the pixels (profiles, previews, comments, EXIF) is left out before the decoder sees it: a damaged one
# fails no picture. Where a scan ends too early, libjpeg fills the rest with grey and only warns, which Pillow does not
# pass on. So a picture that ends in that grey, or one of whose restart intervals does, is decoded once more with other
# bytes behind each scan and interval: behind whole ones they are skipped, behind one that ended early they become
# pixels.

import io
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from engine.errors import ImageError
from engine.images.codecs.spliced import Piece, SplicedFile

_SOI, _EOI, _SOS, _DRI, _APP0, _APP1, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE
_NO_SEGMENTS = frozenset({_SOI, _EOI})
_RESTARTS = frozenset(range(0xD0, 0xD8))
_WITHOUT_LENGTH = _RESTARTS | {0x01}
_JPEG_LS = 0xF7
_FRAMES = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {_JPEG_LS}
_HIERARCHICAL = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF})
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), 0xC2
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_GREY = (127, 128)
_CORNER_PX = 4
_SCALES = (1, 2, 4, 8)
_OTHER_BYTES = b"\x5a\xc3\x3c\x96" * 128


@dataclass(frozen=True, slots=True)
class _Blocks:
    """How the pixels of a JPEG are cut."""

    size: tuple[int, int]
    block: tuple[int, int]
    interval: int

    @property
    def across(self) -> int:
        return -(-self.size[0] // self.block[0])

    @property
    def count(self) -> int:
        return self.across * -(-self.size[1] // self.block[1])

    @property
    def intervals(self) -> int:
        return -(-self.count // self.interval) if self.interval else 1

    def interval_ends(self, decoded: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Yield the last corner of each interval's last block, of a picture that may be decoded smaller."""
        scale = next(scale for scale in _SCALES if -(-self.size[0] // scale) <= decoded.shape[1])
        width, height = (max(1, side // scale) for side in self.block)
        for index in range(self.intervals):
            row, column = divmod(min((index + 1) * (self.interval or self.count), self.count) - 1, self.across)
            block = decoded[row * height : (row + 1) * height, column * width : (column + 1) * width]
            # Where colours have fewer pixels, those at the edges are mixed with the neighbouring blocks.
            inner = block[1:-1, 1:-1]
            yield (inner if inner.size else block)[-_CORNER_PX:, -_CORNER_PX:]


@dataclass(frozen=True, slots=True)
class JpegContent:
    """What is read of a JPEG."""

    file: BinaryIO
    header: bytes  # what the decoder needs in front of the first scan
    scans: int  # where the first scan's header begins
    exif: bytes | None
    xmp: bytes | None  # the XMP packet
    frame: int  # the marker of the frame, which tells how the pixels are coded
    blocks: _Blocks

    def pixels(self, in_between: bytes = b"") -> BinaryIO:
        """Make a JPEG of what the pixels need, with bytes behind the data of each scan and of each restart interval."""
        pieces: list[Piece] = [self.header]
        place = self.scans
        if in_between:
            with self._mapped() as content:
                for end in _data_ends(content, self.scans):
                    pieces += [(place, end - place), in_between]
                    place = end
        pieces.append((place, self.file.seek(0, io.SEEK_END) - place))
        return io.BufferedReader(SplicedFile(self.file, pieces))

    def lacks_data(self) -> bool:
        """Tell whether restart intervals are missing, or scans of a progressive JPEG."""
        if self.blocks.interval:
            with self._mapped() as content:
                return len(_data_ends(content, self.scans)) < self.blocks.intervals
        if self.frame == _PROGRESSIVE:
            with self._mapped() as content:
                return _lacks_scans(content, self.scans)
        return False

    def _mapped(self) -> mmap.mmap:
        return mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)


def jpeg_content(path: Path, file: BinaryIO) -> JpegContent:
    """Select the segments of a JPEG that are read; the file on disk stays open and is read by the result.

    ImageError: the JPEG is of a kind that is not read. ValueError: there are no pixels.
    """
    header, exif, xmp = bytearray(b"\xff\xd8"), b"", b""
    frame_marker, frame, interval = 0, b"", 0
    file.seek(2)
    while (marker := _next_marker(file)) not in _NO_SEGMENTS:
        if marker in _WITHOUT_LENGTH:
            continue
        start = file.tell() - 2
        size = file.read(2)
        body = file.read(max(0, int.from_bytes(size, "big") - 2))
        if marker in _FRAMES:
            _require_readable(path, marker, body)
            frame_marker, frame = marker, body
        if marker == _SOS:
            only_scan = frame_marker in _SEQUENTIAL and body[:1] == frame[5:6]
            blocks = _blocks(frame, interval if only_scan else 0)
            return JpegContent(file, bytes(header), start, exif or None, xmp or None, frame_marker, blocks)
        if marker == _APP1 and body.startswith(_EXIF):
            exif += body[len(_EXIF) :] if exif else body
        elif marker == _APP1 and body.startswith(_XMP):
            xmp = xmp or body[len(_XMP) :]
        elif marker == _DRI:
            interval = int.from_bytes(body[:2], "big")
        if _is_needed(marker, body):
            header += bytes([0xFF, marker]) + size + body
    raise ValueError("it holds no pixels")


def decode_jpeg(content: JpegContent, image: JpegImageFile, wanted: tuple[int, int]) -> None:
    """Decode a JPEG into the image that was opened from its pixels, at 1/2, 1/4 or 1/8 of its size if that is enough.

    ValueError: pixels are missing, because scans are missing or end too early.
    """
    image.draft(None, wanted)
    image.load()
    if content.lacks_data():
        raise ValueError("pixels are missing")
    if content.frame not in _SEQUENTIAL and content.frame != _PROGRESSIVE:
        return
    pixels = np.asarray(image)
    if any(np.isin(corner, _GREY).all() for corner in content.blocks.interval_ends(pixels)):
        again = JpegImageFile(content.pixels(_OTHER_BYTES))
        again.draft(None, wanted)
        again.load()
        if not np.array_equal(np.asarray(again), pixels):
            raise ValueError("pixels are missing")


def _next_marker(file: BinaryIO) -> int:
    """Skip what is no marker, as libjpeg does; where there is none any more the file ends."""
    while byte := file.read(1):
        while byte == b"\xff":
            byte = file.read(1)
            if byte not in {b"", b"\0", b"\xff"}:
                return byte[0]
    return _EOI


def _require_readable(path: Path, marker: int, frame: bytes) -> None:
    if marker == _JPEG_LS:
        kind = "JPEG-LS"
    elif marker in _HIERARCHICAL:
        kind = "a hierarchical JPEG"
    elif frame[:1] and frame[0] != 8:
        kind = f"a JPEG of {frame[0]} bit"
    else:
        return
    raise ImageError(f"{path}: is {kind}, which is not read: convert it to PNG")


def _is_needed(marker: int, body: bytes) -> bool:
    """Tell what the decoder needs: of applications' segments only the two that state the colour model."""
    if marker == _APP0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == _APP14:
        return body.startswith(b"Adobe") and len(body) >= 12
    return marker != _COM and not _APP0 <= marker <= _APP0 + 15


def _blocks(frame: bytes, interval: int) -> _Blocks:
    """Read how the pixels are cut; where the frame is damaged the decoder says so."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    samplings = frame[7::3] if frame[5:6] > b"\1" else b"\x11"
    across, down = max((each >> 4 for each in samplings), default=1), max((each & 15 for each in samplings), default=1)
    return _Blocks((width, height), (8 * max(1, across), 8 * max(1, down)), interval)


def _markers(content: mmap.mmap, scans: int) -> Iterator[tuple[int, int, int]]:
    """Yield where each marker begins, what it is and where its body begins, from the first scan's header on."""
    place = scans
    while (found := _MARKER.search(content, place)) is not None:
        marker, place = content[found.end() - 1], found.end()
        yield found.start(), marker, place
        if marker == _EOI:
            return
        if marker not in _RESTARTS:
            place += int.from_bytes(content[place : place + 2], "big")


def _data_ends(content: mmap.mmap, scans: int) -> list[int]:
    """Find where the data of each scan and restart interval end."""
    ends: list[int] = []
    in_scan = False
    for start, marker, _ in _markers(content, scans):
        if in_scan:
            ends.append(start)
        in_scan = marker == _SOS or marker in _RESTARTS
    return ends


def _lacks_scans(content: mmap.mmap, scans: int) -> bool:
    """Tell whether a scan began what no later one refines to the last bit."""
    lowest_bits: dict[tuple[int, int], int] = {}
    for _, marker, start in _markers(content, scans):
        if marker == _SOS:
            count = content[start + 2]
            ids = content[start + 3 : start + 3 + 2 * count : 2]
            first, last, bits = content[start + 3 + 2 * count : start + 6 + 2 * count]
            lowest_bits.update({(each, index): bits & 15 for each in ids for index in range(first, min(last, 63) + 1)})
    return any(lowest_bits.values())

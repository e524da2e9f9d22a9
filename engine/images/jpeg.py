"""The segments of a JPEG that its pixels need, and whether its scans are whole.

What lies beside the pixels (profiles, previews, comments, EXIF) is left out before the decoder sees it: a damaged one
fails no picture. Where a scan ends too early, libjpeg fills the rest of the picture with grey and only warns, which
Pillow does not pass on. So a picture whose last pixel is that grey is decoded once more, with other bytes behind each
scan: those of a whole scan are skipped, those of one that ended too early become pixels.
"""

import io
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from engine.errors import ImageError
from engine.images.spliced import Piece, SplicedFile

_SOI, _EOI, _SOS, _DRI, _APP0, _APP1, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_NO_SEGMENTS = frozenset({_SOI, _EOI})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HIERARCHICAL = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF})
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_JPEG_LS = 0xF7
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FILLED_GREY = frozenset({127, 128})
_OTHER_BYTES = b"\x5a\xc3\x3c\x96" * 128


@dataclass(frozen=True, slots=True)
class JpegContent:
    """What is read of a JPEG.

    Attributes:
        file: the file itself.
        header: what the decoder needs in front of the first scan.
        scans: where the first scan's header begins.
        exif: the EXIF block; None where there is none.
        xmp: the XMP packet; None likewise.
        restarts: how many restart markers the only scan must have; 0 where that is not known.
    """

    file: BinaryIO
    header: bytes
    scans: int
    exif: bytes | None
    xmp: bytes | None
    restarts: int

    def pixels(self, behind_scans: bytes = b"") -> BinaryIO:
        """Make a JPEG of what the pixels need.

        Args:
            behind_scans: bytes that are put behind the data of each scan.

        Returns:
            A file of its own place, which reads the other one.
        """
        pieces: list[Piece] = [self.header]
        place = self.scans
        if behind_scans:
            with self._mapped() as mapped:
                for end in _scan_ends(mapped, self.scans):
                    pieces += [(place, end - place), behind_scans]
                    place = end
        pieces.append((place, self.file.seek(0, io.SEEK_END) - place))
        return io.BufferedReader(SplicedFile(self.file, pieces))

    def restart_markers_missing(self) -> bool:
        """Tell whether the scan has fewer restart markers than its blocks need.

        Returns:
            Also false where the number is not known.
        """
        if not self.restarts:
            return False
        with self._mapped() as mapped:
            [end, *_] = [*_scan_ends(mapped, self.scans), len(mapped)]
            return sum(1 for _ in _RESTART.finditer(mapped, self.scans, end)) < self.restarts

    def _mapped(self) -> mmap.mmap:
        return mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)


def jpeg_content(path: Path, file: BinaryIO) -> JpegContent:
    """Select the segments of a JPEG that are read.

    Args:
        path: names the file in errors.
        file: a file on disk, at any place; it stays open and is read by the result.

    Returns:
        The segments in front of the scans, and what else is read.

    Raises:
        ImageError: the JPEG is of a kind that is not read.
        ValueError: there are no pixels.
    """
    header, exif, xmp = bytearray(b"\xff\xd8"), b"", b""
    frame, interval = b"", 0
    file.seek(2)
    while (marker := _next_marker(file)) not in _NO_SEGMENTS:
        if marker in _WITHOUT_LENGTH:
            continue
        start = file.tell() - 2
        size = file.read(2)
        body = file.read(max(0, int.from_bytes(size, "big") - 2))
        if marker in _FRAMES or marker == _JPEG_LS:
            _require_readable(path, marker, body)
            frame = body if marker in _SEQUENTIAL else b""
        if marker == _SOS:
            restarts = _restarts(frame, interval) if body[:1] == frame[5:6] else 0
            return JpegContent(file, bytes(header), start, exif or None, xmp or None, restarts)
        if marker == _APP1 and body.startswith(_EXIF):
            exif += body[len(_EXIF) :] if exif else body
        elif marker == _APP1 and body.startswith(_XMP):
            xmp = xmp or body[len(_XMP) :]
        elif marker == _DRI:
            interval = int.from_bytes(body[:2], "big")
        if _is_needed(marker, body):
            header += bytes([0xFF, marker]) + size + body
    raise ValueError("it holds no pixels")


def require_whole_scans(content: JpegContent, decoded: ImageFile) -> None:
    """Refuse a JPEG whose pixels are partly filled with grey, because a scan ended too early.

    Args:
        content: of the file.
        decoded: the decoded picture, at any scale.

    Raises:
        ValueError: pixels are missing.
    """
    corner = decoded.getpixel((decoded.width - 1, decoded.height - 1))
    bands = corner if isinstance(corner, tuple) else (corner,)
    grey = _FILLED_GREY.issuperset(bands) and not np.array_equal(
        np.asarray(_decoded_again(content, decoded)), np.asarray(decoded)
    )
    if grey or content.restart_markers_missing():
        raise ValueError("pixels are missing")


def _decoded_again(content: JpegContent, decoded: ImageFile) -> ImageFile:
    again = JpegImageFile(content.pixels(_OTHER_BYTES))
    again.draft(None, decoded.size)
    again.load()
    return again


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


def _restarts(frame: bytes, interval: int) -> int:
    """Count the restart markers between the blocks of a scan of all bands."""
    if not interval or len(frame) < 9:
        return 0
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    samplings = frame[7::3] if frame[5] > 1 else b"\x11"
    across = -(-width // (8 * max(each >> 4 for each in samplings) or 8))
    down = -(-height // (8 * max(each & 15 for each in samplings) or 8))
    return max(0, (across * down - 1) // interval)


def _scan_ends(content: mmap.mmap, scans: int) -> list[int]:
    """Find where the entropy-coded data of each scan end, from the first scan's header on."""
    ends: list[int] = []
    place, in_scan = scans, False
    while (found := _MARKER.search(content, place)) is not None:
        if in_scan:
            ends.append(found.start())
        marker, place = content[found.end() - 1], found.end()
        if marker == _EOI:
            break
        in_scan = marker == _SOS
        place += int.from_bytes(content[place : place + 2], "big")
    return ends

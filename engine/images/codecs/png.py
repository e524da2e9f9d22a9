"""The chunks of a PNG that its pixels need."""

# What lies beside them (texts, profiles, times, animation) is left out before a decoder sees it: Pillow unpacks texts
# and profiles, limits their size for the whole process, and fails a picture for a damaged checksum of one. The
# checksums of the chunks that the pixels need are compared here, since Pillow does not compare those of the pixels.

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.errors import ImageError
from engine.images.codecs.spliced import Piece, SplicedFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_METADATA_BYTES = 1 << 20
_MOST_CHUNKS = 1 << 20
_READ_BYTES = 1 << 20
_PALETTE = b"\x03"
_BESIDE = frozenset({b"acTL", b"eXIf", b"iTXt", b"tEXt", b"zTXt"})
_XMP = b"XML:com.adobe.xmp"
_EXIF_TEXT = b"Raw profile type exif"
_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class PngContent:
    """What is read of a PNG."""

    pixels: BinaryIO  # a PNG of the chunks that the pixels need
    bits: int  # of a value
    exif: bytes | None  # None where there is none, or none that is whole; so is `xmp`
    xmp: bytes | None
    pictures: int  # how many an animation says it holds; 1 for others


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    start: int
    length: int
    sound: bool
    """Whether its checksum is right."""


def png_content(path: Path, file: BinaryIO) -> PngContent:
    """Select the chunks of a PNG that are read; the file stays open and is read by the result.

    ImageError: it has a chunk that must be understood and is not. ValueError: a chunk that the pixels need is damaged
    or missing.
    """
    pieces: list[Piece] = [SIGNATURE]
    beside: list[tuple[bytes, bytes]] = []
    header = b""
    pixels = False
    for chunk in _chunks(file):
        kind = chunk.kind
        if kind in {b"IHDR", b"IDAT"} or (kind == b"PLTE" and header[9:10] == _PALETTE):
            if not chunk.sound:
                raise ValueError(f"the checksum of a chunk {kind.decode()} is wrong")
            pieces.append((chunk.start - 8, chunk.length + 12))
            pixels |= kind == b"IDAT"
            if kind == b"IHDR":
                header = _body(file, chunk)
        elif kind == b"CgBI":
            raise ImageError(f"{path}: is a PNG in the form of Apple's applications (CgBI): export it again as PNG")
        elif kind[:1].isupper() and kind != b"PLTE":
            raise ImageError(
                f"{path}: its chunk {kind.decode()} is needed to decode it and is not known: export it again"
            )
        elif kind in _BESIDE and chunk.sound and chunk.length <= _MOST_METADATA_BYTES:
            beside.append((kind, _body(file, chunk)))
    if not pixels:
        raise ValueError("it holds no pixels")
    return PngContent(
        pixels=io.BufferedReader(SplicedFile(file, [*pieces, _END])),
        bits=header[8] if len(header) > 8 else 8,
        exif=_first(map(_exif_of, beside)),
        xmp=_first(_text_of(each, _XMP) for each in beside),
        pictures=max((int.from_bytes(body[:4], "big") for kind, body in beside if kind == b"acTL"), default=1),
    )


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """Chunks up to the end, or to what is no chunk: then the decoder finds out whether pixels are missing."""
    place = file.seek(len(SIGNATURE))
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND" or re.fullmatch(rb"[A-Za-z]{4}", kind) is None:
            return
        checksum, left = zlib.crc32(kind), length
        while left and (part := file.read(min(left, _READ_BYTES))):
            checksum = zlib.crc32(part, checksum)
            left -= len(part)
        stored = file.read(4)
        if len(stored) < 4:
            return
        yield _Chunk(kind, place + 8, length, int.from_bytes(stored, "big") == checksum)
        place += length + 12
    raise ValueError(f"more than {_MOST_CHUNKS} chunks")


def _body(file: BinaryIO, chunk: _Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(chunk.length)


def _first(found: Iterable[bytes | None]) -> bytes | None:
    return next((each for each in found if each), None)


def _exif_of(chunk: tuple[bytes, bytes]) -> bytes | None:
    kind, body = chunk
    if kind == b"eXIf":
        return body
    text = _text_of(chunk, _EXIF_TEXT)
    # ImageMagick's: a line feed, a name, a length, and then hexadecimal digits.
    lines = [] if text is None else text.strip(b"\n").split(b"\n")[2:]
    try:
        return bytes.fromhex(b"".join(lines).decode("ascii")) or None
    except ValueError:
        return None


def _text_of(chunk: tuple[bytes, bytes], wanted: bytes) -> bytes | None:
    kind, body = chunk
    keyword, _, rest = body.partition(b"\0")
    if keyword != wanted or not rest:
        return None
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _unpacked(rest[1:])
    if kind == b"iTXt":
        text = rest[2:].split(b"\0", 2)[-1]
        return _unpacked(text) if rest[0] else text
    return None


def _unpacked(body: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(body, _MOST_METADATA_BYTES)
    except zlib.error:
        return None

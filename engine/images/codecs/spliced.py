"""A file that is made of pieces of another one: decoders see what they need of it, and nothing is copied."""

import io
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Piece = bytes | tuple[int, int]
"""Bytes of its own, or where a piece of the file begins and how many bytes it has."""


class SplicedFile(io.RawIOBase):
    """Reads pieces one after the other as if they were one file; wrap it in `io.BufferedReader`."""

    def __init__(self, file: BinaryIO, pieces: Iterable[Piece]) -> None:
        super().__init__()
        self._file = file
        self._pieces = _joined(pieces)
        self._ends = list(accumulate(map(_length_of, self._pieces)))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._ends[-1] if self._ends else 0
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: end}[whence]
        if place < 0:
            raise ValueError(f"place {place} lies in front of the file")
        self._place = place
        return place

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read from the piece at the present place, up to its end."""
        view = memoryview(buffer).cast("B")
        index = bisect_right(self._ends, self._place)
        if index == len(self._ends):
            return 0
        piece = self._pieces[index]
        left = self._ends[index] - self._place
        inside = _length_of(piece) - left
        count = min(left, len(view))
        if isinstance(piece, bytes):
            content = piece[inside : inside + count]
        else:
            self._file.seek(piece[0] + inside)
            content = self._file.read(count)
        view[: len(content)] = content
        self._place += len(content)
        return len(content)


def _length_of(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1]


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces of the file that follow each other become one: a PNG may hold a hundred thousand chunks."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else b""
        if isinstance(piece, tuple) and isinstance(last, tuple) and sum(last) == piece[0]:
            joined[-1] = (last[0], last[1] + piece[1])
        elif _length_of(piece):
            joined.append(piece)
    return joined

"""A mask that may be larger than memory: plain values on disk, written in pieces, read row by row."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.errors import InferenceError
from engine.segmentation.postprocess import index_counts
from engine.segmentation.steps import Mask
from engine.system.files import open_regular
from engine.window import Window

_ROWS_PIXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class MaskLayout:
    """How a mask lies in its file: band after band, row after row."""

    width: int
    height: int
    bands: int  # 1 for class indices; of a multilabel bundle one a class (values 0 and 1)
    dtype: np.dtype[Any]  # uint8 or uint16
    multilabel: bool  # whether each band is a class
    missing: int | None  # value of pixels that hold no data; None where all do

    @property
    def size_bytes(self) -> int:
        return self.width * self.height * self.bands * self.dtype.itemsize

    @property
    def largest_index(self) -> int:
        """The largest class index that the file can hold."""
        highest = int(np.iinfo(self.dtype).max)
        return highest - (self.missing == highest)


def layout_for(width: int, height: int, classes: int, *, multilabel: bool, marks_missing: bool) -> MaskLayout:
    """Choose the narrowest values that hold the classes, and the largest one besides for pixels without data.

    >>> layout_for(10, 10, 255, multilabel=False, marks_missing=True).missing
    255
    >>> layout_for(10, 10, 256, multilabel=False, marks_missing=True).missing
    65535
    """
    values = 2 if multilabel else classes
    dtype = np.dtype(np.uint8 if values + marks_missing <= np.iinfo(np.uint8).max + 1 else np.uint16)
    missing = int(np.iinfo(dtype).max) if marks_missing else None
    return MaskLayout(width, height, classes if multilabel else 1, dtype, multilabel, missing)


def confidence_layout(width: int, height: int) -> MaskLayout:
    """Choose the values of a confidence: 0 stands for pixels without data."""
    return MaskLayout(width, height, 1, np.dtype(np.uint8), multilabel=False, missing=0)


@dataclass(frozen=True, slots=True, eq=False)
class RowCounts:
    """Pixels of a row."""

    row: int  # from 0
    counts: NDArray[np.int64]  # int64[classes or more], pixels of each class
    valid: int  # pixels that hold data; 0 where another entry of the same row states them


class MaskFile:
    """The file. Threads: one at a time."""

    def __init__(self, path: Path, layout: MaskLayout, *, descriptor: int | None = None) -> None:
        self.path = path
        self.layout = layout
        self._descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, 0o600) if descriptor is None else descriptor
        os.ftruncate(self._descriptor, layout.size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, window: Window, mask: Mask, valid: NDArray[np.bool_] | None) -> None:
        """Write a piece, [h, w] or [bands, h, w]; `valid` is bool[h, w], or None: all.

        InferenceError: a class index is too large for the file.
        """
        highest = int(mask.max())
        if highest > self.layout.largest_index:
            raise InferenceError(
                f"the network returned the class index {highest}, more than a mask for the classes of this bundle "
                "holds: name all its classes in meta.json"
            )
        values = mask.astype(self.layout.dtype).reshape(self.layout.bands, window.height, window.width)
        if valid is not None and self.layout.missing is not None:
            values[:, ~valid] = self.layout.missing
        for band, plane in enumerate(values):
            for row, line in enumerate(plane):
                self._put(line.data, self._offset(band, window.y + row, window.x))

    def _put(self, content: memoryview, offset: int) -> None:
        written = os.pwrite(self._descriptor, content, offset)
        while written < content.nbytes:  # a disk that fills up takes a part first, and refuses the next
            written += os.pwrite(self._descriptor, content.cast("B")[written:], offset + written)

    def _offset(self, band: int, row: int, column: int) -> int:
        layout = self.layout
        return ((band * layout.height + row) * layout.width + column) * layout.dtype.itemsize

    def rows(self, band: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read a band, from 0, in pieces of whole rows: the number of the first row, and values [rows, width]."""
        layout = self.layout
        count = max(1, _ROWS_PIXELS // layout.width)
        for first in range(0, layout.height, count):
            yield first, self._read(band, first, min(first + count, layout.height))

    def _read(self, band: int, first: int, last: int) -> NDArray[Any]:
        layout = self.layout
        size = (last - first) * layout.width * layout.dtype.itemsize
        content = os.pread(self._descriptor, size, self._offset(band, first, 0))
        return np.frombuffer(content, layout.dtype).reshape(last - first, layout.width)

    @property
    def height(self) -> int:
        return self.layout.height

    @property
    def width(self) -> int:
        return self.layout.width

    @property
    def missing(self) -> int | None:
        """Value of pixels without data; None: there are none."""
        return self.layout.missing

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Read the rows of the first band from one to before another; the values may be changed."""
        return self._read(0, first, last).copy()

    def write_rows(self, first: int, rows: NDArray[Any]) -> None:
        """Replace rows of the first band."""
        self._put(np.ascontiguousarray(rows, self.layout.dtype).reshape(-1).data, self._offset(0, first, 0))

    def row_counts(self, classes: int) -> Iterator["RowCounts"]:
        """Count the pixels of at least so many classes."""
        layout = self.layout
        bins = max(classes, layout.bands) if layout.multilabel else int(np.iinfo(layout.dtype).max) + 1
        for band in range(layout.bands):
            for first, rows in self.rows(band):
                for row, line in enumerate(rows):
                    values = index_counts(line, int(np.iinfo(layout.dtype).max) + 1)
                    if layout.missing is not None:
                        values[layout.missing] = 0
                    counts = values
                    if layout.multilabel:
                        counts = np.zeros(bins, np.int64)
                        counts[band] = values[1]
                    yield RowCounts(first + row, counts, int(values.sum()) if band == 0 else 0)

    def overview(self, longest_side: int) -> NDArray[Any]:
        """Pick every n-th pixel of every n-th row for a smaller picture, [bands, h, w]."""
        layout = self.layout
        step = max(1, -(-max(layout.width, layout.height) // longest_side))
        row_bytes = layout.width * layout.dtype.itemsize
        planes = [
            [
                np.frombuffer(os.pread(self._descriptor, row_bytes, self._offset(band, row, 0)), layout.dtype)[::step]
                for row in range(0, layout.height, step)
            ]
            for band in range(layout.bands)
        ]
        return np.array(planes)

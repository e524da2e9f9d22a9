"""Where the tiles of a raster lie, and how what they say is joined: arithmetic on axes and arrays."""

# A tile sees least at its edge: the network pads there, as if the image ended. So tiles overlap. In an overlap scores
# are blended: the outer quarter next to a tile's edge does not count, and between those quarters the weight rises as
# half a Hann window. Weights of all tiles sum to 1 at every pixel, also where the last tile overlaps more than it must.
# Where a network returns class indices, which cannot be blended, each pixel is taken from the tile whose centre is
# nearest.
# Tiles start at multiples of an alignment, because the grids of a network's strided layers start at its tile's corner:
# at another phase of them a network gives other scores, in the middle of a tile, too. (Those at the end are a little
# smaller for it; `engine.rasters.tiles` fills them up.)

import math
from dataclasses import dataclass, field
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import OptionError
from engine.window import Window

Scores = NDArray[np.float32]
ALIGNMENT = 32
"""Product of the strides of the deepest layers, in pixels; those of nearly all networks divide it."""

_QUIET_SHARE = 4
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a raster is cut; OptionError if the overlap is as large as the tile, or something is out of range."""

    width: int  # of a tile, in pixels of the raster
    height: int  # of a tile, in pixels of the raster
    overlap: int  # pixels that neighbouring tiles share at least
    batch: int = 1  # tiles that share one run
    # tiles start at multiples of it, so that those at the end may be up to `alignment - 1` pixels smaller; 1: all have
    # the same size, and the last ones are shifted back inside
    alignment: int = 1

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.batch, self.alignment) < 1 or self.overlap < 0:
            raise OptionError(
                f"tiles of {self.width}×{self.height} pixels (w×h) with an overlap of {self.overlap}, {self.batch} a "
                "run: sizes must be at least 1 and the overlap at least 0"
            )
        if self.overlap >= min(self.width, self.height):
            raise OptionError(
                f"an overlap of {self.overlap} pixels does not fit into tiles of {self.width}×{self.height} (w×h), "
                "which would never advance: choose a smaller overlap or a larger tile-size"
            )

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def grid(self, width: int, height: int) -> "Grid":
        return Grid(
            columns=spans(width, self.width, self.overlap, self.alignment),
            rows=spans(height, self.height, self.overlap, self.alignment),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A tile along one axis, in pixels; each `stop` is behind the last pixel."""

    start: int
    stop: int
    final_stop: int  # behind the last pixel that no later tile sees
    own_start: int  # first pixel that is nearer to its centre than to any other's
    own_stop: int
    weights: Scores  # float32[stop - start]; all tiles' sum to 1 at every pixel; equal ones are one array


def spans(length: int, tile: int, overlap: int, alignment: int = 1) -> tuple[Span, ...]:
    """Cut one axis of so many pixels into tiles, in order; the first starts at 0, the last stops at `length`.

    `overlap` is less than `tile`; `alignment` (see `Tiling`) is ignored where a tile is too small to advance by it.

    >>> [(each.start, each.stop) for each in spans(1000, 400, 100)]
    [(0, 400), (300, 700), (600, 1000)]
    >>> [(each.start, each.stop) for each in spans(1000, 400, 100, alignment=32)]
    [(0, 400), (288, 688), (576, 976), (608, 1000)]
    >>> [(each.start, each.stop) for each in spans(300, 400, 100)]
    [(0, 300)]
    """
    alignment = alignment if tile - overlap >= alignment else 1
    stride = (tile - overlap) // alignment * alignment
    last = math.ceil(max(0, length - tile) / alignment) * alignment
    starts = [*range(0, last, stride), last]
    stops = [min(start + tile, length) for start in starts]
    middles = [(stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)]
    raw = [
        _weights(
            start,
            stop,
            leading=0 if index == 0 else stops[index - 1] - start,
            trailing=0 if stop == length else stop - starts[index + 1],
        )
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]
    total = np.zeros(length)
    for start, stop, weights in zip(starts, stops, raw, strict=True):
        total[start:stop] += weights
    known: dict[bytes, Scores] = {}

    def shared(weights: Scores) -> Scores:
        return known.setdefault(weights.tobytes(), weights)

    return tuple(
        Span(start, stop, final_stop, own_start, own_stop, shared((weights / total[start:stop]).astype(np.float32)))
        for start, stop, final_stop, own_start, own_stop, weights in zip(
            starts, stops, [*starts[1:], length], [0, *middles], [*middles, length], raw, strict=True
        )
    )


def _weights(start: int, stop: int, *, leading: int, trailing: int) -> NDArray[np.float64]:
    weights = np.ones(stop - start)
    if leading:
        weights[:leading] *= _rise(leading)
    if trailing:
        weights[-trailing:] *= _rise(trailing)[::-1]
    return weights


def _rise(length: int) -> NDArray[np.float64]:
    """From 0 to 1 over an overlap; with its mirror image it sums to 1."""
    quiet = length // _QUIET_SHARE
    share = (np.arange(length) + 0.5 - quiet) / (length - 2 * quiet)
    return 0.5 - 0.5 * np.cos(np.pi * share.clip(0, 1))


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiles of a raster, numbered row by row."""

    columns: tuple[Span, ...]  # along the width
    rows: tuple[Span, ...]  # along the height

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def place(self, index: int) -> tuple[Span, Span]:
        """Find a tile."""
        row, column = divmod(index, len(self.columns))
        return self.rows[row], self.columns[column]

    def window(self, index: int) -> Window:
        row, column = self.place(index)
        return Window(column.start, row.start, column.stop - column.start, row.stop - row.start)

    def final_window(self, index: int) -> Window:
        """What is decided when a tile and all before it are blended; those of all tiles cover the raster once."""
        row, column = self.place(index)
        return Window(column.start, row.start, column.final_stop - column.start, row.final_stop - row.start)

    def own_window(self, index: int) -> Window:
        """What is nearer to a tile's centre than to any other's; those of all tiles cover the raster once."""
        row, column = self.place(index)
        return Window(column.own_start, row.own_start, column.own_stop - column.own_start, row.own_stop - row.own_start)


@dataclass(slots=True)
class Blender:
    """Adds the weighted scores of tiles up, tile after tile, row by row. Threads: one at a time.

    In memory are one tile and what it shares with the next one of its row. What a row of tiles shares with the row
    below goes to a file and comes back a tile at a time, so that memory does not grow with the raster's width.
    """

    grid: Grid
    planes: int  # of scores
    strips: tuple[BinaryIO, BinaryIO]  # two files, read and written in turn
    # float32[planes, rows of the tile, shared columns], what the next tile of the row continues
    carry: Scores | None = None
    _surfaces: dict[tuple[int, int], Scores] = field(default_factory=dict[tuple[int, int], Scores])
    _sums: Scores = field(default_factory=lambda: np.empty((0, 0, 0), np.float32))

    def add(self, index: int, scores: tuple[Scores, ...] | None) -> Scores:
        """Add the scores of the next tile, from the one that `carry` stops at: float32[h, w] a plane; None: none count.

        Returns the blended scores of the tile's `final_window`, float32[planes, h, w], until the next tile is added.
        """
        row_index, column_index = divmod(index, len(self.grid.columns))
        row, column = self.grid.place(index)
        height, width = row.stop - row.start, column.stop - column.start
        if self._sums.shape != (self.planes, height, width):
            self._sums = np.empty((self.planes, height, width), np.float32)
        blended = self._sums
        if scores is None:
            blended[:] = 0
        else:
            surface = self._surface(row, column)
            for plane, sums in zip(scores, blended, strict=True):
                np.multiply(plane, surface, out=sums)
        known = 0
        if self.carry is not None and column_index:
            known = self.carry.shape[2]
            blended[:, :, :known] += self.carry
        if row_index:
            above = self.grid.rows[row_index - 1]
            shared = above.stop - row.start
            blended[:, :shared, known:] += self._read(row_index, column.start + known, column.stop, shared)
        final_height, final_width = row.final_stop - row.start, column.final_stop - column.start
        if final_height < height:
            self._write(row_index, column.start, blended[:, final_height:, :final_width])
        self.carry = blended[:, :, final_width:].copy() if final_width < width else None
        return blended[:, :final_height, :final_width]

    def _surface(self, row: Span, column: Span) -> Scores:
        """Weights of a tile: all but the outermost tiles have the same ones."""
        key = (id(row.weights), id(column.weights))
        if key not in self._surfaces:
            # Rows of tiles come one after the other: what an earlier one needed is not needed again.
            self._surfaces = {old: surface for old, surface in self._surfaces.items() if old[0] == key[0]}
            self._surfaces[key] = np.outer(row.weights, column.weights)
        return self._surfaces[key]

    def _read(self, row_index: int, start: int, stop: int, rows: int) -> Scores:
        strip = self.strips[(row_index - 1) % 2]
        strip.seek(start * self.planes * rows * _FLOAT_BYTES)
        content = strip.read((stop - start) * self.planes * rows * _FLOAT_BYTES)
        return np.frombuffer(content, np.float32).reshape(stop - start, self.planes, rows).transpose(1, 2, 0)

    def _write(self, row_index: int, start: int, sums: Scores) -> None:
        strip = self.strips[row_index % 2]
        strip.seek(start * self.planes * sums.shape[1] * _FLOAT_BYTES)
        # Columns lie one behind the other, so that those of a tile are one piece of the file. (NumPy's way to lay them
        # there takes as long as all the rest of the blending.)
        columns = np.empty((sums.shape[2], self.planes, sums.shape[1]), np.float32)
        for index, plane in enumerate(sums):
            columns[:, index] = cv2.transpose(plane)
        strip.write(columns.data)
        strip.flush()

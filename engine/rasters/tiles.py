"""A raster of any size through a predictor, tile by tile; memory does not grow with the raster."""

# A tile without a valid pixel is skipped: nothing that its neighbours say of pixels that it shares is ever read, since
# those pixels are not valid either. A tile of one single colour is run once a colour: its scores are the same wherever
# it lies. So neither changes a result.

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import islice
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, OptionError
from engine.images import Capture, SourceImage
from engine.rasters.tiling import Blender, Grid, Scores, Tiling
from engine.segmentation.confidence import require_scores
from engine.segmentation.network import PreparedImage, RawOutput
from engine.segmentation.postprocess import OutputKind, class_count, read_planes, score_planes
from engine.segmentation.prediction import Prediction
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import Mask, measured
from engine.transforms import TransformRecord
from engine.window import Window

_KNOWN_COLORS = 2
"""How many are remembered: one at the size of most tiles, one at the size of those at the end of a row."""

STAGES = ("decode", "preprocess", "run", "postprocess", "encode")

_Outputs = Future[dict[object, RawOutput]]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Pixels of a window."""

    pixels: NDArray[np.uint8]  # [h, w, C], 0–255; of three bands RGB
    valid: NDArray[np.bool_] | None = None  # [h, w], which of them hold data; None: all


class Raster(Protocol):
    """Pixels that are read window by window.

    `read` is called by one thread at a time, but not by the one that opened the raster.
    """

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def read(self, window: Window) -> Tile:
        """Read a window; ImageError where the file is damaged."""
        ...


@dataclass(frozen=True, slots=True)
class ImageRaster:
    """An image that is in memory already."""

    image: SourceImage

    @property
    def width(self) -> int:
        return self.image.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.image.pixels.shape[0]

    def read(self, window: Window) -> Tile:
        rows, columns = window.inside(Window(0, 0, self.width, self.height))
        return Tile(np.ascontiguousarray(self.image.pixels[rows, columns]))


class MaskSink(Protocol):
    """Takes the mask of a raster piece by piece."""

    def write(self, window: Window, mask: Mask, valid: NDArray[np.bool_] | None) -> None:
        """Take a piece, class indices [h, w], or bool[K, h, w] of a multilabel bundle.

        All windows cover the raster once, in the order of the tiles. `valid` is bool[h, w]; None: all.
        """
        ...


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """What a network returns, as far as it is the same for every tile."""

    kind: OutputKind
    planes: int  # of scores that are blended; 0 for masks
    classes: int  # that masks are reported with; a mask may hold more


def output_facts(predictor: Predictor, raw: RawOutput) -> OutputFacts:
    """Read from an output what all others will be like."""
    planes = 0 if raw.kind is OutputKind.MASK else len(score_planes(raw.output, raw.kind))
    return OutputFacts(raw.kind, planes, class_count(raw.output, raw.kind, len(predictor.bundle.classes)))


@dataclass(frozen=True, slots=True, eq=False)
class _ReadTile:
    index: int
    valid: NDArray[np.bool_] | None
    prepared: PreparedImage | None
    """None: nothing in the tile is valid."""
    color: tuple[object, ...] | None
    """The only colour in the tile, with its size; None: there are several."""

    @property
    def key(self) -> object:
        return self.color or self.index


@dataclass(slots=True)
class TiledRun:
    """One raster through one predictor."""

    predictor: Predictor
    raster: Raster
    tiling: Tiling
    facts: OutputFacts
    sink: MaskSink
    # what a row of tiles shares with the next one
    strips: tuple[BinaryIO, BinaryIO] = field(default_factory=lambda: (BytesIO(), BytesIO()))
    # called after each tile with the number of tiles done and what the next one continues (`Blender.carry`); a later
    # run may start from there with the same strips
    reached: Callable[[int, Scores | None], None] = lambda _done, _carry: None
    skipping: bool = True  # whether tiles without valid pixels are skipped and tiles of one colour run once
    confidence_sink: MaskSink | None = None  # where the confidence is asked for
    skipped: int = 0
    repeated: int = 0  # tiles of one colour whose scores were known
    # of all threads together, by stage
    timings_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _blender: Blender = field(init=False)
    _known: dict[tuple[object, ...], _Outputs] = field(default_factory=dict[tuple[object, ...], _Outputs])
    _next: int = 0
    _timing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        grid = self.tiling.grid(self.raster.width, self.raster.height)
        self._blender = Blender(grid, self.facts.planes, self.strips)

    @property
    def grid(self) -> Grid:
        return self._blender.grid

    def run(self, first: int = 0, carry: Scores | None = None) -> None:
        """Segment the raster from tile `first` on; `carry` is what `reached` was given with that number.

        ImageError: a tile cannot be read, or the network does not take it. InferenceError: the run failed.
        """
        self._blender.carry = carry
        self._next = first
        batch, streams = self.tiling.batch, self.predictor.runtime.identity.streams
        indices = iter(range(first, len(self.grid)))
        with (
            ThreadPoolExecutor(1, thread_name_prefix="read-tile") as reader,
            ThreadPoolExecutor(streams, thread_name_prefix="run-tile") as runners,
            ThreadPoolExecutor(1, thread_name_prefix="blend-tile") as blender,
        ):
            reading: deque[Future[_ReadTile]] = deque()
            finishing: deque[Future[None]] = deque()
            try:
                while True:
                    ahead = batch + 1 - len(reading)
                    reading.extend(reader.submit(self._read, index) for index in islice(indices, ahead))
                    if not reading:
                        break
                    group = [reading.popleft().result() for _ in range(min(batch, len(reading)))]
                    finishing.extend(self._submit(group, runners, blender))
                    while len(finishing) > batch * streams:
                        finishing.popleft().result()
                while finishing:
                    finishing.popleft().result()
            finally:
                for pool in (reader, runners, blender):
                    pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, index: int) -> _ReadTile:
        window = self.grid.window(index)
        with self._timed("decode"):
            tile = self.raster.read(window)
        if self.skipping and tile.valid is not None and not tile.valid.any():
            return _ReadTile(index, tile.valid, None, None)
        with _located(window), self._timed("preprocess"):
            image = SourceImage(tile.pixels, window.width, window.height, Capture())
            prepared = _padded(self.predictor.prepare(image), self.tiling.alignment)
            return _ReadTile(index, tile.valid, prepared, _only_color(tile.pixels) if self.skipping else None)

    def _submit(
        self, group: Sequence[_ReadTile], runners: ThreadPoolExecutor, blender: ThreadPoolExecutor
    ) -> list[Future[None]]:
        several = [tile for tile in group if tile.prepared is not None and tile.color is None]
        together = runners.submit(self._run, several)
        finishing: list[Future[None]] = []
        for tile in group:
            outputs: _Outputs | None = together
            if tile.prepared is None:
                self.skipped += 1
                outputs = None
            elif tile.color is not None:
                outputs = self._outputs_of(tile, tile.color, runners)
            finishing.append(blender.submit(self._finish, tile, outputs))
        return finishing

    def _outputs_of(self, tile: _ReadTile, color: tuple[object, ...], runners: ThreadPoolExecutor) -> _Outputs:
        if color in self._known:
            self.repeated += 1
            return self._known[color]
        # A run of its own: what is remembered must not hold the outputs of a whole batch.
        outputs = runners.submit(self._run, [tile])
        recent = list(self._known.items())[1 - _KNOWN_COLORS :]
        self._known = dict([*recent, (color, outputs)])
        return outputs

    def _run(self, tiles: Sequence[_ReadTile]) -> dict[object, RawOutput]:
        if not tiles:
            return {}
        prepared = [tile.prepared for tile in tiles if tile.prepared is not None]
        with _located(self.grid.window(tiles[0].index)), self._timed("run"):
            return dict(zip((tile.key for tile in tiles), self.predictor.run(prepared), strict=True))

    def _finish(self, tile: _ReadTile, outputs: _Outputs | None) -> None:
        if tile.index != self._next:
            # One before it failed: progress past that one would be a hole that no later run fills.
            return
        raw = None if outputs is None else outputs.result()[tile.key]
        seen = self.grid.window(tile.index)
        plane: Mask | None = None
        with _located(seen), self._timed("postprocess"):
            if self.facts.kind is OutputKind.MASK:
                window = self.grid.own_window(tile.index)
                mask = self._centre(tile, raw)[window.inside(seen)]
            else:
                window = self.grid.final_window(tile.index)
                planes = None if raw is None or tile.prepared is None else self.predictor.planes(tile.prepared, raw)
                blended = self._blender.add(tile.index, planes)
                mask = read_planes(blended, self.facts.kind, threshold=self.predictor.threshold)
                if self.confidence_sink is not None:
                    plane = self.predictor.confidence_plane(blended, self.facts.kind)
        with self._timed("encode"):
            valid = None if tile.valid is None else tile.valid[window.inside(seen)]
            self.sink.write(window, mask, valid)
            if self.confidence_sink is not None and plane is not None:
                self.confidence_sink.write(window, plane, valid)
            self.reached(tile.index + 1, self._blender.carry)
        self._next = tile.index + 1

    def _centre(self, tile: _ReadTile, raw: RawOutput | None) -> Mask:
        if raw is None or tile.prepared is None:
            seen = self.grid.window(tile.index)
            return np.zeros((seen.height, seen.width), np.uint8)
        return self.predictor.classes(tile.prepared, raw)

    @contextmanager
    def _timed(self, stage: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        with self._timing:
            self.timings_ms[stage] += (time.perf_counter() - started) * 1000


@contextmanager
def _located(window: Window) -> Generator[None]:
    try:
        yield
    except EngineError as error:
        where = f"in the tile of {window.width}×{window.height} pixels at column {window.x}, row {window.y}"
        raise type(error)(f"{where}: {error}") from error


def _padded(prepared: PreparedImage, alignment: int) -> PreparedImage:
    """Fill a tile at the raster's end up to the size of the others."""
    height, width = prepared.tensor.shape[1:]
    bottom, right = -height % alignment, -width % alignment
    if not bottom and not right:
        return prepared
    tensor = np.pad(prepared.tensor, ((0, 0), (0, bottom), (0, right)))
    return replace(prepared, tensor=tensor, records=(*prepared.records, TransformRecord("padding", height, width)))


def _only_color(pixels: NDArray[np.uint8]) -> tuple[object, ...] | None:
    first = pixels[0, 0]
    if (pixels[0] == first).all() and (pixels == first).all():
        return (*first.tolist(), *pixels.shape)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _MemorySink:
    mask: Mask

    def write(self, window: Window, mask: Mask, valid: NDArray[np.bool_] | None) -> None:
        if valid is not None:
            raise OptionError("a mask in memory marks no pixels as missing: write it to a file")
        rows, columns = window.inside(Window(0, 0, self.mask.shape[-1], self.mask.shape[-2]))
        self.mask[..., rows, columns] = mask


def predict_in_tiles(predictor: Predictor, image: SourceImage, tiling: Tiling, facts: OutputFacts) -> Prediction:
    """Segment one image that is in memory, tile by tile; the mask has the size that the image was read at.

    ImageError: the network or a transform does not take a tile. InferenceError: the run failed.
    """
    height, width = image.pixels.shape[:2]
    if facts.kind is OutputKind.MULTILABEL:
        mask: Mask = np.zeros((facts.planes, height, width), np.bool_)
    else:
        # A mask from inside of the network may hold more classes than the bundle names.
        wide = facts.kind is OutputKind.MASK or facts.classes > np.iinfo(np.uint8).max + 1
        mask = np.zeros((height, width), np.uint16) if wide else np.zeros((height, width), np.uint8)
    plane = None
    if predictor.steps.wants_confidence:
        require_scores(facts.kind)
        plane = np.zeros((height, width), np.uint8)
    run = TiledRun(
        predictor,
        ImageRaster(image),
        tiling,
        facts,
        _MemorySink(mask),
        confidence_sink=None if plane is None else _MemorySink(plane),
    )
    run.run()
    if mask.dtype == np.uint16 and int(mask.max()) <= np.iinfo(np.uint8).max:
        mask = mask.astype(np.uint8)
    size = (image.width, image.height)
    found = measured(mask, plane, predictor.bundle.classes, facts.classes, size, predictor.steps)
    timings_ms = {stage: run.timings_ms[stage] for stage in ("preprocess", "run", "postprocess")}
    return Prediction(
        found.mask,
        found.covers,
        timings_ms,
        network_size=(tiling.width, tiling.height),
        tiling=tiling_record(tiling, facts, width, height),
        confidence=found.confidence,
        region=found.region,
        flags=predictor.flags_of(image),
    )


def tiling_record(tiling: Tiling, facts: OutputFacts, width: int, height: int) -> dict[str, object]:
    """Say how an image of this size is cut, for the provenance of its mask."""
    return {
        "tile": [tiling.width, tiling.height],
        "overlap": tiling.overlap,
        "batch": tiling.batch,
        "joined": "centres" if facts.kind is OutputKind.MASK else "blended",
        "tiles": len(tiling.grid(width, height)),
    }

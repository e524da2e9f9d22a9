"""How large tiles may be: chosen from a limit on memory and from what the network is seen to need."""

import logging
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from engine.errors import ImageError, OptionError
from engine.images import Capture, SourceImage
from engine.rasters.options import TileOptions
from engine.rasters.tiles import OutputFacts, output_facts
from engine.rasters.tiling import ALIGNMENT, Tiling
from engine.runtimes import TensorSpec
from engine.segmentation.network import RawOutput
from engine.segmentation.predictor import Predictor
from engine.system.machine.memory import available_memory_bytes, peak_memory, process_memory_bytes
from engine.transforms import apply_transforms

_log = logging.getLogger(__name__)

TILE_SIDES: Final = (1024, 768, 512, 384, 256)
"""Sides that are chosen from, in pixels."""

_OVERLAP_SHARE: Final = 4
_PROBE_SIDES: Final = (256, 512)
_PIXELS_A_RUN: Final = 1024 * 1024
_MOST_TILES_A_RUN: Final = 8
_RESERVE_BYTES: Final = 160 << 20
"""What reading and writing files takes, whatever the tile: GDAL and its cache."""
_DEFAULT_SHARE: Final = 0.8
_MIB: Final = 1 << 20

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a run is seen to take."""

    pixels: int  # of the tile
    grown_bytes: int  # by how much the process grew at most


def needed_bytes(seen: tuple[Need, ...], pixels: int) -> int:
    """Lay a line, or a parabola where memory grows faster, through one or two needs of ascending pixels.

    >>> needed_bytes((Need(100, 1000),), 300)
    3000
    >>> needed_bytes((Need(100, 1000), Need(200, 2000)), 400)
    4000
    >>> needed_bytes((Need(100, 1000), Need(200, 3000)), 400)
    10000
    """
    last = seen[-1]
    a_pixel = last.grown_bytes / last.pixels
    bend = 0.0
    if len(seen) > 1:
        first = seen[0]
        bend = max(0.0, (a_pixel - first.grown_bytes / first.pixels) / (last.pixels - first.pixels))
    return round(pixels * (a_pixel + bend * (pixels - last.pixels)))


def natural_size(predictor: Predictor) -> tuple[Size | None, bool]:
    """Find out at which size tiles reach the network as they are.

    Returns the only size that bundle and network leave unchanged (a bundle that resizes to a fixed size, say), or None
    where there are many, or none. And whether tiles of any size are left unchanged.
    """
    stated = _input_spec(predictor).shape[2:]
    if None not in stated:
        height, width = (side or 1 for side in stated)
        return (width, height), False
    largest = (TILE_SIDES[0], TILE_SIDES[0])
    try:
        once = _transformed(predictor, largest)
    except ImageError:
        # A bundle that pads takes only what is smaller than its padding.
        once = _transformed(predictor, (ALIGNMENT, ALIGNMENT))
    if once == largest:
        return None, True
    return (once if _transformed(predictor, once) == once else None), False


def choose_tiling(
    predictor: Predictor, options: TileOptions, batch_size: int | None = None
) -> tuple[Tiling, OutputFacts]:
    """Choose tile, overlap and batch, if none is given; the network runs two or three times.

    OptionError: the memory does not even hold one tile, or the options contradict each other. ImageError: the network
    or a transform does not take tiles of this size. InferenceError: the network does not run.
    """
    fixed, free = natural_size(predictor)
    if options.side is not None:
        sizes: list[Size] = [(options.side, options.side)]
    else:
        sizes = [fixed] if fixed else [(side, side) for side in TILE_SIDES]
    # What cannot be is refused before anything runs.
    tilings = [_tiling(size, options.overlap, batch_size or 1, aligned=free) for size in sizes]
    before = process_memory_bytes("VmRSS")
    limit = options.memory_bytes
    if limit is None:
        limit = before + round(_DEFAULT_SHARE * available_memory_bytes())
    room = limit - before - _RESERVE_BYTES
    probe = _Probe(predictor, room)
    probe.look(sizes)
    for tiling in tilings:
        batch = probe.batch_for(tiling, batch_size)
        if batch is not None:
            _log.info("tiles of %s×%s pixels, %s a run", tiling.width, tiling.height, batch)
            return replace(tiling, batch=batch_size or batch), probe.facts
    smallest = tilings[-1]
    on_device = probe.missing_on_device(smallest.pixels, batch_size or 1)
    if on_device is not None:
        raise OptionError(on_device)
    wanted = before + _RESERVE_BYTES + probe.total_bytes(smallest.pixels, batch_size or 1)
    raise OptionError(
        f"{limit // _MIB} MiB of memory do not hold one tile of {smallest.width}×{smallest.height} pixels: about "
        f"{wanted // _MIB} MiB are needed, {before // _MIB} of them for the loaded model: raise max-memory, or "
        "choose a smaller tile-size"
    )


def _input_spec(predictor: Predictor) -> TensorSpec:
    return predictor.runtime.inputs[0]


def _transformed(predictor: Predictor, size: Size) -> Size:
    width, height = size
    stated = _input_spec(predictor).shape[1]
    pixels = np.zeros((height, width, predictor.bands), np.uint8)
    tensor, _ = apply_transforms(predictor.bundle.transforms, pixels, bands=stated or predictor.bands)
    return tensor.shape[2], tensor.shape[1]


def _tiling(size: Size, overlap: int | None, batch: int, *, aligned: bool) -> Tiling:
    width, height = size
    shorter = min(size)
    if overlap is None:
        overlap = shorter // _OVERLAP_SHARE
        if shorter > 2 * ALIGNMENT:
            overlap = max(ALIGNMENT, overlap // ALIGNMENT * ALIGNMENT)
    return Tiling(width, height, overlap, batch, ALIGNMENT if aligned else 1)


class _Probe:
    """Runs the network on grey tiles and watches the memory."""

    facts: OutputFacts

    def __init__(self, predictor: Predictor, room: int) -> None:
        self._predictor = predictor
        self._memory = predictor.runtime.memory
        self._room = room
        self._device_room = 0 if self._memory is None else self._memory.free_bytes()
        self._seen: tuple[Need, ...] = ()
        self._output_bytes = 0.0
        self._left_bytes = 0

    def look(self, sizes: list[Size]) -> None:
        width, height = sizes[0]
        probes: list[Size] = []
        if None in _input_spec(self._predictor).shape[2:]:
            probes = [(side, side) for side in _PROBE_SIDES if side < min(width, height)]
        for probe_width, probe_height in probes or [(width, height)]:
            pixels = probe_width * probe_height
            if self._seen and not self.fits(pixels, 1):
                break
            before = self._used_bytes()
            with peak_memory() as peak:
                raw = self._run((probe_width, probe_height))
                grown = (peak() if self._memory is None else self._used_bytes()) - before
            # What an earlier run left behind is used again, so it belongs to what this size takes.
            self._seen = (*self._seen, Need(pixels, grown + self._left_bytes))
            self._left_bytes += max(0, self._used_bytes() - before)
            self._output_bytes = raw.output.nbytes / pixels
            self.facts = output_facts(self._predictor, raw)

    def _used_bytes(self) -> int:
        return process_memory_bytes("VmRSS") if self._memory is None else self._memory.used_bytes()

    def _run(self, size: Size) -> RawOutput:
        width, height = size
        grey = SourceImage(np.full((height, width, self._predictor.bands), 127, np.uint8), width, height, Capture())
        return self._predictor.run([self._predictor.prepare(grey)])[0]

    def network_bytes(self, pixels: int, batch: int) -> int:
        """What runs take."""
        streams = self._predictor.runtime.identity.streams
        left_behind = self._left_bytes if pixels * batch > self._seen[-1].pixels else 0
        return streams * needed_bytes(self._seen, pixels * batch) + left_behind

    def total_bytes(self, pixels: int, batch: int) -> int:
        """What tiles of a size take of this process's memory, all that is held of them at once included."""
        streams = self._predictor.runtime.identity.streams
        held = (streams + 1) * batch
        bands = self._predictor.bands
        read = (bands + 1 + bands * 4) * (held + 1)
        planes = self.facts.planes * 4 * 3 + 4
        outputs = self._output_bytes * (held + 3)
        network = self.network_bytes(pixels, batch) if self._memory is None else 0
        return network + round(pixels * (read + planes + outputs))

    def fits(self, pixels: int, batch: int) -> bool:
        """Whether there is room for tiles of a size, here and, where the network runs on a GPU, there."""
        on_device = self._memory is None or self.network_bytes(pixels, batch) <= self._device_room
        return on_device and self.total_bytes(pixels, batch) <= self._room

    def missing_on_device(self, pixels: int, batch: int) -> str | None:
        """Why the GPU does not hold tiles of a size; None where it does, or where there is none."""
        needed = self.network_bytes(pixels, batch)
        if self._memory is None or needed <= self._device_room:
            return None
        return (
            f"{self._device_room // _MIB} MiB of GPU memory do not hold runs of {batch} × {pixels} pixels, which take "
            f"about {needed // _MIB} MiB: raise gpu-memory-limit, or choose a smaller tile-size"
        )

    def batch_for(self, tiling: Tiling, wished: int | None) -> int | None:
        """The largest batch up to what is useful that fits; None: not even one tile does."""
        pixels = tiling.pixels
        stated = _input_spec(self._predictor).shape[0]
        useful = stated or wished or max(1, min(_MOST_TILES_A_RUN, _PIXELS_A_RUN // pixels))
        least = useful if stated or wished else 1
        fitting = (batch for batch in range(useful, least - 1, -1) if self.fits(pixels, batch))
        return next(fitting, None)

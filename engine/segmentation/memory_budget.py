"""How many images fit in one run of the network before the kernel would end the process."""

# What a run needs beyond the loaded model grows with the pixels that it gets. How fast, two runs on small empty
# pictures tell: by how far the peak of the process's memory rises from the one to the other. (It is taken to grow in
# proportion; networks whose attention spans the whole picture need more.)

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from engine.errors import InferenceError
from engine.runtimes import DeviceMemory
from engine.system.machine.memory import process_memory_bytes

_log = logging.getLogger(__name__)
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_KEPT_FREE = 0.1
"""Share of the limit that is left to decoding, encoding and everything else."""
_PILOT_SIDES = (128, 256)
_MARGIN = 1.25
"""Larger runs took up to a fifth more per pixel than small ones tell (ONNX Runtime, the demo's network)."""
_DECODED_BYTES = 24
"""Per pixel: the picture, its tensor, its mask and what is made of it."""
NO_DOUBT_BYTES = 8192
"""Per pixel of a run: more than PaddleSeg's networks take. Where so much is free for a run, nothing is measured."""


def _peak_of(run_square: Callable[[int], int], side: int) -> tuple[int, int]:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError as error:
        # Then the peak is that of the whole life; it hides a rise, and nothing is refused.
        _log.debug("the peak of memory cannot be reset here: %s", error)
    output_bytes = run_square(side)
    return process_memory_bytes("VmHWM"), output_bytes


def _rise(small_bytes: int, large_bytes: int) -> float:
    return max(0, large_bytes - small_bytes) / (_PILOT_SIDES[1] ** 2 - _PILOT_SIDES[0] ** 2)


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What the runs of a network may use."""

    limit_bytes: int  # before the kernel ends the process
    base_bytes: int  # what the process holds without any run
    bytes_per_pixel: float  # what a run takes per pixel of its input
    held_bytes_per_pixel: float = 0  # what an image takes while it waits before a run or after it
    where: str = "memory"  # what is limited, for messages

    @classmethod
    def measured(cls, run_square: Callable[[int], int], limit_bytes: int) -> Self | None:
        """Measure what runs take; nothing else should be going on in the process meanwhile.

        `run_square` runs the network on an empty picture of so many pixels a side, and tells the bytes of its output.
        None if the network does not take small pictures.
        """
        base_bytes = process_memory_bytes("VmRSS")
        try:
            (small, _), (large, output_bytes) = (_peak_of(run_square, side) for side in _PILOT_SIDES)
        except InferenceError as error:
            _log.debug("what runs take is not known: %s", error)
            return None
        held = _DECODED_BYTES + output_bytes / _PILOT_SIDES[1] ** 2
        return cls(limit_bytes, base_bytes, _MARGIN * _rise(small, large), _MARGIN * held)

    @classmethod
    def measured_on(cls, memory: DeviceMemory, run_square: Callable[[int], int]) -> Self | None:
        """Measure what runs take of a GPU's memory, as `measured` does.

        What waits before a run and after it lies elsewhere.

        What a run takes stays with the runtime, so that what is used afterwards is the peak.
        """
        used, free = memory.used_bytes(), memory.free_bytes()
        try:
            small, large = ((run_square(side), memory.used_bytes())[1] for side in _PILOT_SIDES)
        except InferenceError as error:
            _log.debug("what runs take is not known: %s", error)
            return None
        return cls(used + free, used, _MARGIN * _rise(small, large), where="GPU memory")

    @property
    def usable_bytes(self) -> int:
        """What all images of a run may take together."""
        return max(0, int(self.limit_bytes * (1 - _KEPT_FREE)) - self.base_bytes)

    def batch_that_fits(self, pixels: int, wanted: int, read_ahead: int) -> int:
        """Find the batch size that keeps a pipeline within the limit: it holds two batches and what it read ahead.

        From 1 to `wanted`; 1 also where not even that fits, which the run itself refuses.

        >>> MemoryBudget(1000 << 20, 100 << 20, 512, 64).batch_that_fits(1 << 20, 8, 2)
        1
        """
        free = self.usable_bytes - pixels * self.held_bytes_per_pixel * read_ahead
        each = pixels * (self.bytes_per_pixel + 2 * self.held_bytes_per_pixel)
        return wanted if each * wanted <= free else max(1, int(free // each))

    def images_that_fit(self, pixels: int, wanted: int) -> int:
        """Find how many of the waiting images, at least 1, may share a run; InferenceError if not even one fits.

        >>> MemoryBudget(1000 << 20, 100 << 20, 1024).images_that_fit(256 * 1024, 8)
        3
        """
        needed = pixels * self.bytes_per_pixel
        if needed > self.usable_bytes:
            raise InferenceError(
                f"{pixels} pixels need about {needed / 2**20:.0f} MiB for a run of the network, and "
                f"{self.usable_bytes / 2**20:.0f} MiB are left of the {self.where} limit of "
                f"{self.limit_bytes / 2**20:.0f} MiB: shrink the image with max-img-size, or raise the limit"
            )
        return wanted if wanted * needed <= self.usable_bytes else int(self.usable_bytes // needed)

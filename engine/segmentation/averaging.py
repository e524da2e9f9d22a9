"""PaddleSeg's own ways to see an image several times: sliding window, scales, flips."""

# Source: paddleseg 2.8.0, ``core/infer.py``: ``slide_inference``, ``flip_combination``, ``aug_inference``.

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.declaration import Options, numbers, option
from engine.errors import OptionError
from engine.segmentation.network import PreparedImage, RawOutput, RunOnce
from engine.segmentation.postprocess import OutputKind
from engine.segmentation.predictor import Predictor
from engine.transforms import TransformRecord, require_possible_size, restore_plane

Tensor = NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)
Flip = tuple[bool, bool]
"""Whether left and right, and whether top and bottom, change places."""


@dataclass(frozen=True, slots=True)
class Averaging(Options):
    """How an image is seen; options that contradict each other, or would leave gaps, are an OptionError."""

    title: ClassVar[str] = "Seeing each image several times"

    crop_size: tuple[int, int] | None = option(
        None,
        "Width and height of PaddleSeg's sliding window, in pixels. It needs stride.",
        minimum=1,
        metavar="W H",
        parse=numbers(int, "769,769", count=2),
    )
    stride: tuple[int, int] | None = option(
        None,
        "How far the window moves to the right and down, in pixels. It needs crop-size.",
        minimum=1,
        metavar="W H",
        parse=numbers(int, "513,513", count=2),
    )
    scales: tuple[float, ...] = option(
        (1.0,),
        "Average over several sizes of the image, as PaddleSeg does: factors such as 0.75,1.0,1.25.",
        parse=numbers(float, "0.75,1.0,1.25"),
    )
    flip_horizontal: bool = option(False, "Average with the image whose left and right are exchanged.")
    flip_vertical: bool = option(False, "Average with the image whose top and bottom are exchanged.")

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if (self.crop_size is None) != (self.stride is None):
            raise OptionError(
                "a sliding window needs its size and its stride, each as width and height", option="crop_size"
            )
        if self.crop_size and self.stride:
            if self.stride[0] > self.crop_size[0] or self.stride[1] > self.crop_size[1]:
                raise OptionError(
                    f"a stride of {self.stride[0]}×{self.stride[1]} (w×h) is larger than the window of "
                    f"{self.crop_size[0]}×{self.crop_size[1]} and leaves gaps: choose a smaller stride"
                )
        if not self.scales or not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise OptionError(
                f"{list(self.scales)} are not all factors above 0: give some such as 0.75,1.0,1.25", option="scales"
            )

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The ways in which each scale is seen, the plain one first."""
        flips: list[Flip] = [(False, False)]
        if self.flip_horizontal:
            flips.append((True, False))
        if self.flip_vertical:
            flips.append((False, True))
            if self.flip_horizontal:
                flips.append((True, True))
        return tuple(flips)

    @property
    def changes_nothing(self) -> bool:
        """Whether the image is seen once, as it is."""
        return self.crop_size is None and self.scales == (1.0,) and len(self.flips) == 1

    def record(self) -> dict[str, object]:
        record: dict[str, object] = {}
        if self.crop_size and self.stride:
            record |= {"crop_size": list(self.crop_size), "stride": list(self.stride)}
        if self.scales != (1.0,):
            record["scales"] = list(self.scales)
        return record | {name: True for name in ("flip_horizontal", "flip_vertical") if getattr(self, name)}


def sliding_windows(length: int, crop: int, stride: int) -> Iterator[tuple[int, int]]:
    """Where a window stops on its way along an axis of pixels; the stride is at most `crop`.

    Yields the first pixel, and the one behind the last; the last window is shifted back inside.

    >>> list(sliding_windows(10, 4, 3)), list(sliding_windows(9, 4, 4)), list(sliding_windows(3, 4, 2))
    ([(0, 4), (3, 7), (6, 10)], [(0, 4), (4, 8), (5, 9)], [(0, 3)])
    """
    count = 1 if length <= crop else math.ceil((length - crop) / stride) + 1
    for index in range(count):
        stop = min(index * stride + crop, length)
        yield max(stop - crop, 0), stop


@dataclass(frozen=True, slots=True)
class AveragedForward:
    """Sees each image several times, one after the other; the forward pass of an averaging predictor."""

    averaging: Averaging

    def record(self) -> dict[str, object]:
        return self.averaging.record()

    def run(self, run_once: RunOnce, prepared: Sequence[PreparedImage]) -> list[RawOutput]:
        """Average the scores of each image at the size of its tensor, or find the class with most votes.

        ImageError: a scale leaves nothing of an image, or makes it too large.
        """
        return [self._averaged(run_once, each) for each in prepared]

    def _averaged(self, run_once: RunOnce, prepared: PreparedImage) -> RawOutput:
        height, width = prepared.tensor.shape[1:]
        total = _Total(height, width)
        for scale in self.averaging.scales:
            scaled_height, scaled_width = int(height * scale + 0.5), int(width * scale + 0.5)
            require_possible_size(f"scale {scale:g}", (width, height), (scaled_width, scaled_height))
            scaled = _resized(prepared.tensor, scaled_height, scaled_width)
            for flip in self.averaging.flips:
                seen = self._slid(run_once, np.ascontiguousarray(_flipped(scaled, flip)))
                total.add(replace(seen, output=_flipped(seen.output, flip)))
        return total.mean()

    def _slid(self, run_once: RunOnce, tensor: Tensor) -> RawOutput:
        if self.averaging.crop_size is None or self.averaging.stride is None:
            return _seen(run_once, tensor)
        height, width = tensor.shape[1:]
        crop_width, crop_height = self.averaging.crop_size
        stride_width, stride_height = self.averaging.stride
        total = _Total(height, width)
        for top, bottom in sliding_windows(height, crop_height, stride_height):
            for left, right in sliding_windows(width, crop_width, stride_width):
                window = np.ascontiguousarray(tensor[:, top:bottom, left:right])
                total.add(_seen(run_once, window), top, left, bottom, right)
        return total.mean()


def _seen(run_once: RunOnce, tensor: Tensor) -> RawOutput:
    height, width = tensor.shape[1:]
    (raw,) = run_once([PreparedImage(tensor, (TransformRecord("resize", height, width),), 0.0)])
    return raw


def averaged(predictor: Predictor, averaging: Averaging) -> Predictor:
    """Let a predictor see each image several times; the result shares its runtime and its limit on memory."""
    if averaging.changes_nothing:
        return predictor
    averaging_predictor = copy(predictor)
    averaging_predictor.forward = AveragedForward(averaging)
    return averaging_predictor


class _Total:
    """Scores, or votes, of one image added up."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._sums = np.zeros((0, height, width))
        self._count = np.zeros((height, width), np.int32)
        self._kind = OutputKind.SCORES
        self._run_ms = 0.0

    def add(
        self, raw: RawOutput, top: int = 0, left: int = 0, bottom: int | None = None, right: int | None = None
    ) -> None:
        """Add what was seen of a part, at the part's size."""
        bottom, right = bottom or self._size[0], right or self._size[1]
        self._kind = raw.kind
        self._run_ms += raw.run_ms
        planes = _votes(raw.output, bottom - top, right - left) if raw.kind is OutputKind.MASK else raw.output
        planes = _resized(planes.astype(np.float32, copy=False), bottom - top, right - left)
        if len(planes) > len(self._sums):
            more = np.zeros((len(planes) - len(self._sums), *self._size))
            self._sums = np.concatenate([self._sums, more])
        self._sums[: len(planes), top:bottom, left:right] += planes
        self._count[top:bottom, left:right] += 1

    def mean(self) -> RawOutput:
        if self._kind is OutputKind.MASK:
            return RawOutput(self._sums.argmax(axis=0)[np.newaxis], self._kind, self._run_ms)
        return RawOutput((self._sums / self._count).astype(np.float32), self._kind, self._run_ms)


def _votes(output: NDArray[np.generic], height: int, width: int) -> Tensor:
    mask = output.reshape(output.shape[-2:]).astype(np.int64)
    mask = restore_plane(mask, [TransformRecord("resize", height, width)], interpolation="nearest")
    return (mask == np.arange(int(mask.max()) + 1)[:, np.newaxis, np.newaxis]).astype(np.float32)


def _resized(planes: Tensor, height: int, width: int) -> Tensor:
    record = [TransformRecord("resize", height, width)]
    return np.stack([restore_plane(plane, record, interpolation="linear") for plane in planes])


def _flipped(planes: NDArray[Value], flip: Flip) -> NDArray[Value]:
    return planes[..., :: -1 if flip[1] else 1, :: -1 if flip[0] else 1]

"""From the network's output to a mask at the size of the image: pure functions on arrays."""

# Source: paddleseg 2.8.0, ``core/infer.py``: ``reverse_transform``, then ``argmax``.

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, TypeAlias, assert_never, cast

import numpy as np
import numpy.typing as npt

from engine.errors import InferenceError, OptionError
from engine.transforms import TransformRecord, restore_plane

Output: TypeAlias = npt.NDArray[Any]
Planes: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Multilabel: TypeAlias = npt.NDArray[np.bool_]

_EXPECTED: Final = (
    "expected a mask [N, H, W], scores [N, classes, H, W] or a probability map [N, 1, H, W]; "
    "export the model again as a PaddleSeg segmentation"
)
_PROBABILITY_TOLERANCE: Final = 1e-3
_COUNTED_AT_ONCE: Final = 2**20
_LARGEST_LOGIT: Final = 16.0
"""Beyond it float32 does not tell a sigmoid from 1."""


class OutputKind(StrEnum):
    """What the values of the network's output are."""

    MASK = "mask"
    """Class indices: the argmax is inside of the network."""

    SCORES = "scores"
    """Logits or probabilities, one plane a class; the classes exclude each other."""

    PROBABILITY = "probability"
    """One plane of probabilities, 0–1."""

    MULTILABEL = "multilabel"
    """Logits, one plane a class; the classes do not exclude each other."""


def output_kind(output: Output, *, multilabel: bool) -> OutputKind:
    """Tell what the network returned, [N, H, W] or [N, C, H, W]; InferenceError if it is no segmentation.

    >>> output_kind(np.zeros((1, 8, 8), dtype=np.int64), multilabel=False)
    <OutputKind.MASK: 'mask'>
    >>> output_kind(np.zeros((1, 19, 8, 8), dtype=np.float32), multilabel=False)
    <OutputKind.SCORES: 'scores'>
    """
    if output.ndim not in {3, 4} or 0 in output.shape:
        raise InferenceError(f"{_named(output)} is not a segmentation; {_EXPECTED}")
    if output.dtype.kind in "biu":
        return _kind_of_integers(output)
    if output.dtype.kind != "f":
        raise InferenceError(f"{_named(output)} is of no type that a segmentation has; {_EXPECTED}")
    if output.ndim == 3:
        return _kind_of_float_mask(output)
    if multilabel:
        return OutputKind.MULTILABEL
    return OutputKind.PROBABILITY if output.shape[1] == 1 else OutputKind.SCORES


def require_channels_first(output: Output, size: Sequence[int], classes: int) -> None:
    """Refuse [N, H, W, C]: read as [N, C, H, W] the scores would be stripes of a wrong mask.

    `classes` are those that the bundle names; 0: unknown.
    """
    if output.ndim != 4:
        return
    _, first, second, last = output.shape
    height, width = size
    shaped_as_image = first * width == second * height and first > 1
    if shaped_as_image and (last == classes != first or ((first, second) == (height, width) != (second, last))):
        raise InferenceError(
            f"{_named(output)} has its classes in the last axis, [N, H, W, C]: export the network so that it returns "
            "[N, C, H, W]"
        )


def segment(
    output: Output, kind: OutputKind, records: Sequence[TransformRecord], *, threshold: float = 0.5
) -> Mask | Multilabel:
    """Read the classes of one image at the size that it had before the transforms.

    The output has no batch axis: [H, W] or [1, H, W] for a mask, else [C, H, W]. Pixels belong to a class above a
    probability of `threshold`, in probability maps and multilabel planes; the sigmoid is not computed: x is compared to
    the threshold's logit. Returns uint8[H, W] of class indices, or uint16 where an index may be above 255; bool[K, H,
    W] for multilabel. InferenceError: the values are not finite, or not what the kind says; or the output is smaller
    than the image inside of its padding.

    >>> scores = np.array([[[0.1, 2.0]], [[0.9, -1.0]], [[0.9, 0.0]]], dtype=np.float32)
    >>> segment(scores, OutputKind.SCORES, []).tolist()
    [[1, 0]]
    """
    if not 0 < threshold < 1:
        raise OptionError(f"threshold is {threshold}; it must be a probability between 0 and 1, such as 0.5")
    if kind is OutputKind.MASK:
        return _segment_mask(output, records)
    return read_planes(score_planes(output, kind), kind, records, threshold=threshold)


def score_planes(output: Output, kind: OutputKind) -> Planes:
    """Take from an output [C, H, W] the planes that may be interpolated, averaged and blended before classes are read.

    Returns float32[P, H, W]. Of two classes it is the one plane by which the second exceeds the first: all that follows
    is linear, so it is enough. InferenceError: the values are not finite, or not what the kind says.

    >>> score_planes(np.array([[[1.0]], [[4.0]]], dtype=np.float32), OutputKind.SCORES).tolist()
    [[[3.0]]]
    """
    planes = _finite_planes(output)
    if kind is OutputKind.PROBABILITY:
        _require_probabilities(planes)
    if kind is OutputKind.SCORES and len(planes) <= 2:
        # A single class is not exceeded: its plane is one of zeros.
        return planes[-1:] - planes[:1]
    return planes


def logits(probabilities: Output) -> Planes:
    """Turn probabilities of overlapping classes, 0–1, back into what they were before the sigmoid, float32.

    All that follows is then the same whether the network ends in a sigmoid or not. 0 and 1 themselves become ±16.
    InferenceError: the values are not finite, or not within 0–1.

    >>> logits(np.array([[[0.5, 1.0]]], dtype=np.float32)).round(2).tolist()
    [[[0.0, 16.0]]]
    """
    planes = _finite_planes(probabilities)
    _require_probabilities(planes)
    limit = 1 / (1 + math.exp(-_LARGEST_LOGIT))
    inside = np.clip(planes.astype(np.float64), 1 - limit, limit)
    return np.log(inside / (1 - inside)).astype(np.float32)


def read_planes(
    planes: Planes, kind: OutputKind, records: Sequence[TransformRecord] = (), *, threshold: float = 0.5
) -> Mask | Multilabel:
    """Read the classes from planes as `score_planes` returns them.

    >>> read_planes(np.array([[[3.0, -1.0]]], dtype=np.float32), OutputKind.SCORES).tolist()
    [[1, 0]]
    """
    match kind:
        case OutputKind.SCORES if len(planes) == 1:
            return (restored_scores(planes[0], records) > 0).view(np.uint8)  # a tie goes to class 0
        case OutputKind.SCORES:
            return _running_argmax(planes, records)
        case OutputKind.PROBABILITY:
            return (restored_scores(planes[0], records) > threshold).view(np.uint8)
        case OutputKind.MULTILABEL:
            logit = math.log(threshold / (1 - threshold))
            return np.stack([restored_scores(plane, records) > logit for plane in planes])
        case OutputKind.MASK:
            raise ValueError("a mask has no planes of scores")
    assert_never(kind)


def class_count(output: Output, kind: OutputKind, known: int) -> int:
    """Count the classes that a mask of this output is to be reported with.

    The larger one of what the bundle knows and what the network tells apart; a mask does not tell.

    >>> class_count(np.zeros((1, 19, 8, 8), dtype=np.float32), OutputKind.SCORES, 4)
    19
    """
    match kind:
        case OutputKind.MASK:
            return known
        case OutputKind.PROBABILITY:
            return max(known, 2)
        case OutputKind.SCORES | OutputKind.MULTILABEL:
            return max(known, output.shape[-3])
    assert_never(kind)


def cover(mask: Mask | Multilabel, count: int) -> tuple[float, ...]:
    """Share of the pixels of each class, 0–1: of class indices [H, W], or of bool[K, H, W].

    Shares of class indices sum to 1, and there are more than ``count`` of them if the mask holds a higher index; those
    of multilabel planes are independent.

    >>> cover(np.array([[0, 2, 2, 2]], dtype=np.uint8), 2)
    (0.25, 0.0, 0.75)
    """
    if mask.dtype == np.bool_:
        shares = [float(plane.mean()) for plane in mask]
        return (*shares, *[0.0] * (count - len(shares)))
    counts = index_counts(cast("Mask", mask.reshape(-1)), max(count, int(mask.max()) + 1))
    return tuple((counts / mask.size).tolist())


# ---- kinds ------------------------------------------------------------------------------------------------------


def _named(output: Output) -> str:
    return f"the network's output {output.dtype}{list(output.shape)}"


def _kind_of_integers(output: Output) -> OutputKind:
    if output.ndim == 4 and output.shape[1] != 1:
        raise InferenceError(f"{_named(output)} has whole numbers in several channels; {_EXPECTED}")
    return OutputKind.MASK


def _kind_of_float_mask(output: Output) -> OutputKind:
    if not np.array_equal(output, np.rint(output)):
        raise InferenceError(f"{_named(output)} has the rank of a mask, but not whole class indices; {_EXPECTED}")
    return OutputKind.MASK


# ---- masks ------------------------------------------------------------------------------------------------------


def _segment_mask(output: Output, records: Sequence[TransformRecord]) -> Mask:
    mask = output.reshape(output.shape[-2:])
    _require_finite(mask[np.newaxis])
    lowest, highest = int(mask.min()), int(mask.max())
    if lowest < 0:
        raise InferenceError(
            f"the network returned the class index {lowest}; indices start at 0: the exported model is damaged, or "
            "marks ignored pixels, which a mask cannot hold"
        )
    # The narrow copy comes first: nearest only picks pixels, and picks them faster from fewer bytes.
    narrow = mask.astype(_index_type(highest))
    return cast("Mask", restore_plane(narrow, records, interpolation="nearest"))


def _index_type(highest: int) -> type[np.uint8] | type[np.uint16]:
    if highest > np.iinfo(np.uint16).max:
        raise InferenceError(f"the network returned the class index {highest}; a mask holds at most 65536 classes")
    return np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16


# ---- planes -----------------------------------------------------------------------------------------------------


def _finite_planes(output: Output) -> Planes:
    with np.errstate(over="ignore"):  # what overflows float32 becomes infinite, and is reported as such
        planes = output.astype(np.float32, copy=False)
    _require_finite(planes)
    return planes


def _require_finite(planes: Output) -> None:
    damaged = [index for index, plane in enumerate(planes) if not np.isfinite(plane).all()]
    if not damaged:
        return
    nans, infinities = int(np.isnan(planes).sum()), int(np.isinf(planes).sum())
    listed = ", ".join(map(str, damaged[:8])) + (", …" if len(damaged) > 8 else "")
    raise InferenceError(
        f"the network returned {nans} NaN and {infinities} infinite values, in class planes {listed}; choose precision "
        "fp32 if it ran in less, else try the exported model on an image of its training set"
    )


def restored_scores(plane: Planes, records: Sequence[TransformRecord]) -> Planes:
    return restore_plane(plane, records, interpolation="linear")


def _running_argmax(scores: Planes, records: Sequence[TransformRecord]) -> Mask:
    """Argmax over the restored planes, of which three are held at any time; the first maximum wins."""
    index_type = _index_type(len(scores) - 1)
    best = restored_scores(scores[0], records)
    highest = np.empty_like(best)  # not best itself, which may be a view of the network's output
    mask = cast("Mask", np.zeros(best.shape, dtype=index_type))
    for index in range(1, len(scores)):
        plane = restored_scores(scores[index], records)
        # Indices grow, so a later winner is also the larger number: no masked write is needed.
        np.maximum(mask, (plane > best) * index_type(index), out=mask)
        best = np.maximum(best, plane, out=highest)
    return mask


def _require_probabilities(planes: Planes) -> None:
    lowest, highest = float(planes.min()), float(planes.max())
    if lowest < -_PROBABILITY_TOLERANCE or highest > 1 + _PROBABILITY_TOLERANCE:
        raise InferenceError(
            f"the network's plane of probabilities has values from {lowest:.4g} to {highest:.4g}, which looks like "
            "logits; a probability map lies within 0–1: export the model with a sigmoid, or mark the bundle as "
            "multilabel"
        )


def index_counts(indices: Mask, bins: int) -> npt.NDArray[np.int64]:
    """Count the pixels of each class: int64[bins] of uint8[N] or uint16[N]."""
    # bincount turns what it is given into int64, eight times the bytes of a mask: it is given a piece at a time.
    counts = np.zeros(bins, dtype=np.int64)
    for start in range(0, indices.size, _COUNTED_AT_ONCE):
        counts += np.bincount(indices[start : start + _COUNTED_AT_ONCE], minlength=bins)
    return counts

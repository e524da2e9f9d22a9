"""How far two masks of the same image agree, pixel by pixel and class by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion_matrix(first: NDArray[Any], second: NDArray[Any], class_count: int) -> Counts:
    """Count how often each class of one mask meets each class of the other, of masks of any shape, in pixels.

    Returns ``int64[K, K]``: rows are the classes of `first`, columns those of `second`, all below `class_count`.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = first.reshape(-1).astype(np.int64) * class_count + second.reshape(-1)
    return np.bincount(pairs, minlength=class_count * class_count).reshape(class_count, class_count)


def class_ious(shared: Counts, first: Counts, second: Counts) -> tuple[float | None, ...]:
    """Intersection over union of every class, 0-1; None for a class that neither mask holds.

    Pixels of each class, ``int64[K]``, are those that both masks give to it, that one and that the other gives.

    >>> class_ious(np.array([3, 4, 0]), np.array([4, 4, 0]), np.array([3, 5, 0]))
    (0.75, 0.8, None)
    """
    union = first + second - shared
    return tuple(float(both / either) if either else None for both, either in zip(shared, union, strict=True))


def mean_iou(ious: Sequence[float | None]) -> float:
    """The mean over the classes that have an IoU, 0-1; NaN if no class has one.

    >>> mean_iou((0.5, None, 1.0))
    0.75
    """
    known = [iou for iou in ious if iou is not None]
    return sum(known) / len(known) if known else float("nan")

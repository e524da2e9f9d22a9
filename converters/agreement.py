"""How far two masks of the same image agree, pixel by pixel and class by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def class_counts(first: NDArray[Any], second: NDArray[Any], class_count: int) -> tuple[Counts, Counts, Counts]:
    """Count the pixels of each class in two masks of one shape, of any: that both, that the first, the second give it.

    Each is ``int64[K]``; all classes are below `class_count`. A table of pairs would be K × K, and a mask may hold the
    index 65535.

    >>> [counts.tolist() for counts in class_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)]
    [[1, 1], [2, 1], [1, 2]]
    """
    shared, of_first, of_second = (
        np.bincount(each.reshape(-1), minlength=class_count) for each in (first[first == second], first, second)
    )
    return shared, of_first, of_second


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

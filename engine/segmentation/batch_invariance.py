"""Whether an image's result depends on the images that share its run."""

# A network may mix them in silence: an average over all axes, a reshape that takes the batch for something else, a
# normalisation that was exported as it is trained. Rounding is no mixing: libraries compute a batch in another order
# than one image.

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.runtimes import Tensor

_MOVED = 0.01
"""Of the range of the scores, by how much one moves that is not rounding."""
_MOST_MOVED_SHARE = 0.001
_DIFFERENT = 0.01
"""Of the range of an image's values, how far another image is from it on average that can tell something."""


def can_tell(tensors: Sequence[NDArray[np.float32]]) -> bool:
    """Say whether images differ enough from the first to change its result where a network mixes them.

    Args:
        tensors: `float32[C, H, W]` each, of one shape.
    """
    first, *others = tensors
    different = _DIFFERENT * float(np.ptp(first))
    return any(float(np.abs(each - first).mean()) > different for each in others)


def same_result(alone: Tensor, shared: Tensor) -> bool:
    """Compare an image's results, `[...]`, by itself and in a run with others.

    Returns:
        Whether at most a thousandth of the classes differ, or of the scores by more than a hundredth of their range.
    """
    if alone.shape != shared.shape:
        return False
    if alone.dtype.kind != "f":
        return float((alone != shared).mean()) <= _MOST_MOVED_SHARE
    # Values that are no numbers are refused where the result is read.
    moved = np.abs(alone.astype(np.float32) - shared.astype(np.float32)) > _MOVED * float(np.ptp(alone))
    return float(moved.mean()) <= _MOST_MOVED_SHARE

"""A matrix of TIFFs of one scene: kinds of samples and colours by layouts, codecs, byte orders and everything else."""

# All files hold the same rendered scene, so that the right result is known without any reader. The same files come out
# every time (but for LERC, whose encoder leaves unused bits as they were in memory).

from functools import cache

from benchmarks.lab.corpus.matrix.groups import GROUPS
from benchmarks.lab.corpus.matrix.writers import Variant

__all__ = ["Variant", "sample", "variants"]


@cache
def variants() -> tuple[Variant, ...]:
    """Every file of the matrix, in a fixed order."""
    return tuple(variant for group in GROUPS for variant in group())


def sample(count: int) -> list[Variant]:
    """Choose variants that touch every value of every axis, and fill up with evenly spaced others.

    At least `count`, more if the axes need more; in the order of the matrix.
    """
    every = [frozenset(each.axes.items()) for each in variants()]
    missing = set[tuple[str, str]]().union(*every)
    chosen: set[int] = set()
    while missing:
        best = max(range(len(every)), key=lambda index: (len(missing & every[index]), -index))
        chosen.add(best)
        missing -= every[best]
    for index in range(0, len(every), len(every) // max(1, count)):
        if len(chosen) < count:
            chosen.add(index)
    return [variants()[index] for index in sorted(chosen)]

"""Means with 95 % intervals: Student's t for few units, the bootstrap for many."""

# Below 30 units a bootstrap covers too little, because a few units do not show the spread of the rest; t intervals
# hold there. From 30 on the bootstrap (bias-corrected and accelerated, Efron 1987) follows the skew that covers near 0
# and 1 have. Its quantiles are widened as Hesterberg (2015, "What Teachers Should Know about the Bootstrap") proposes,
# so that it is not narrower than t by sqrt((n - 1) / n) and by the difference of normal and t quantiles.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_FROM: Final = 30
"""Units from which on intervals are bootstrapped."""

LEVEL: Final = 0.95
_RESAMPLES = 9999
_DRAWN_AT_ONCE = 1 << 21
_NODES = 64
_HALVINGS = 60
_NORMAL = NormalDist()

Values = NDArray[np.float64]
Method = Literal["t", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, or a difference of means, with its 95 % interval, which a single unit does not have."""

    mean: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    method: Method | None = None


@dataclass(frozen=True, slots=True)
class LabelledPart:
    """What labels add to the values of units: `float64[n]`, together 0, and 0 for units without labels.

    `units` is how many have labels, at least two where there are two units.
    """

    values: Values
    units: int


@dataclass(frozen=True, slots=True)
class UnitValues:
    """One value a unit, `float64[n]`, at least one, and which parts of it labels have added."""

    values: Values
    labelled: Sequence[LabelledPart] = ()


def estimate_mean(units: UnitValues, bounds: tuple[float, float], seed: int) -> Estimate:
    """Estimate the mean of units.

    `bounds` are the smallest and the largest value that the mean can have; the interval ends there.
    """
    return _estimate([units], bounds, seed)


def estimate_difference(later: UnitValues, earlier: UnitValues, bounds: tuple[float, float], seed: int) -> Estimate:
    """Estimate the difference of the means of two groups of different units, as Welch does: variances may differ.

    Bounds are as of `estimate_mean`; the mean of `earlier` is subtracted.
    """
    return _estimate([later, earlier], bounds, seed)


def _estimate(samples: Sequence[UnitValues], bounds: tuple[float, float], seed: int) -> Estimate:
    """The mean of the first sample, minus that of the second if there is one."""
    values = [sample.values for sample in samples]
    mean = _difference([float(units.mean()) for units in values])
    if min(map(len, values)) < 2:
        return Estimate(mean)
    variances = [_variance_of_mean(sample) for sample in samples]
    error = math.sqrt(sum(variance for variance, _ in variances))
    smallest = min(*map(len, values), *(part.units for sample in samples for part in sample.labelled), math.inf)
    method: Method = "t" if smallest < BOOTSTRAP_FROM else "bootstrap"
    if error == 0:
        return Estimate(mean, 0.0, mean, mean, method)
    # Welch and Satterthwaite; a single sample has its own.
    degrees = error**4 / sum(variance**2 / degrees for variance, degrees in variances)
    quantile = t_quantile(degrees)
    low, high = (
        (mean - quantile * error, mean + quantile * error)
        if method == "t"
        else _bootstrap_interval(values, mean, quantile * error, seed)
    )
    return Estimate(mean, error, *within(bounds, low, high), method)


def _variance_of_mean(sample: UnitValues) -> tuple[float, int]:
    """The variance, and its degrees of freedom."""
    count = len(sample.values)
    variance = float(sample.values.var(ddof=1)) / count
    for part in sample.labelled:
        # The sum of squares by count² (units - 1) / units, in place of count (count - 1).
        squares = float(part.values @ part.values)
        variance += squares * (count - part.units) / (count**2 * (count - 1) * (part.units - 1))
    return variance, min([count, *(part.units for part in sample.labelled)]) - 1


def within(bounds: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Cut an interval off at bounds; of one that lies outside of them, the nearest bound is left."""
    smallest, largest = bounds
    return min(max(low, smallest), largest), min(max(high, smallest), largest)


def _difference(values: Sequence[float]) -> float:
    return values[0] - sum(values[1:])


@cache
def t_quantile(degrees: float) -> float:
    """Find how many standard errors wide a two-sided 95 % interval is on each side, at 1 degree of freedom or more.

    >>> round(t_quantile(2), 4), round(t_quantile(10), 4)
    (4.3027, 2.2281)
    """
    # With t = sqrt(degrees) * tan(angle) the density is a power of the cosine, which Gauss and Legendre's rule
    # integrates to the last digits.
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    factor = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        angle = (low + high) / 2
        inside = factor * angle * float(weights @ np.cos(angle / 2 * (nodes + 1)) ** (degrees - 1))
        low, high = (angle, high) if inside < LEVEL else (low, angle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _bootstrap_interval(samples: Sequence[Values], mean: float, half_width: float, seed: int) -> tuple[float, float]:
    """Find the interval that a bias-corrected and accelerated bootstrap gives.

    `half_width`, of the t interval, says how far out the quantiles are.
    """
    generator = np.random.default_rng(seed)
    replicates = _resampled_means(samples[0], generator)
    for units in samples[1:]:
        replicates -= _resampled_means(units, generator)
    below = np.count_nonzero(replicates < mean) + np.count_nonzero(replicates == mean) / 2
    bias = _NORMAL.inv_cdf(min(max(below, 0.5), _RESAMPLES - 0.5) / _RESAMPLES)
    # The error of a resampled mean has n in its denominator, where the standard error has n - 1.
    spread = math.sqrt(sum(float(units.var()) / len(units) for units in samples))
    deviations = [(units - units.mean()) / len(units) for units in samples]
    cubes = _difference([float((each**3).sum()) for each in deviations])
    acceleration = cubes / spread**3 / 6
    ends: list[float] = []
    for z in (-half_width / spread, half_width / spread):
        shifted = bias + z
        ends.append(_NORMAL.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(replicates, ends)
    return float(low), float(high)


def _resampled_means(units: Values, generator: np.random.Generator) -> Values:
    count = len(units)
    at_once = max(1, _DRAWN_AT_ONCE // count)
    means = [
        units[generator.integers(count, size=(min(at_once, _RESAMPLES - start), count), dtype=np.int32)].mean(axis=1)
        for start in range(0, _RESAMPLES, at_once)
    ]
    return np.concatenate(means)

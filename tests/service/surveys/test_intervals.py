"""Means with intervals, against scipy and tables."""
# scipy ships no complete type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from service.surveys.correction import Correction, UnitPictures
from service.surveys.intervals import LabelledPart, UnitValues, estimate_difference, estimate_mean, t_quantile

FREE = (-math.inf, math.inf)


def skewed(count: int, seed: int) -> NDArray[np.float64]:
    """Covers of a rare class: many zeros, a few large values."""
    generator = np.random.default_rng(seed)
    values = np.where(generator.random(count) < 0.4, 0.0, generator.beta(1, 6, count))
    return np.asarray(values, np.float64)


@pytest.mark.parametrize("degrees", [1, 1.5, 2, 3.7, 5, 10, 29, 100, 1234.5, 1e6])
def test_quantiles_of_t(degrees: float) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-8)


def test_few_units_have_the_interval_of_t() -> None:
    units = np.array([0.1, 0.2, 0.6])
    found = estimate_mean(UnitValues(units), FREE, 0)
    wanted: Any = stats.ttest_1samp(units, 0).confidence_interval(0.95)
    assert (found.method, found.mean) == ("t", pytest.approx(0.3))
    # by hand: deviations -0.2, -0.1, 0.3; variance 0.14 / 2; divided by 3
    assert found.standard_error == pytest.approx(math.sqrt(0.07 / 3))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_an_interval_beyond_a_bound_ends_at_it() -> None:
    """A corrected cover may lie a little below none."""
    found = estimate_mean(UnitValues(np.array([-0.010, -0.011, -0.0105])), (0, 1), 0)
    assert (found.low, found.high) == (0, 0)


def test_the_difference_of_few_units_is_that_of_welch() -> None:
    later, earlier = np.array([0.5, 0.7, 0.9, 0.6]), np.array([0.1, 0.2, 0.6])
    found = estimate_difference(UnitValues(later), UnitValues(earlier), FREE, 0)
    wanted: Any = stats.ttest_ind(later, earlier, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.375)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def bootstrapped(samples: list[NDArray[np.float64]], level: float) -> tuple[float, float]:
    def statistic(first: Any, second: Any = None, axis: int = -1) -> Any:
        return first.mean(axis=axis) - (0 if second is None else second.mean(axis=axis))

    found: Any = stats.bootstrap(samples, statistic, confidence_level=level, n_resamples=20000, rng=1, method="BCa")
    return found.confidence_interval.low, found.confidence_interval.high


@pytest.mark.parametrize("count", [30, 50, 400])
def test_many_units_have_the_interval_of_a_bootstrap(count: int) -> None:
    units = skewed(count, count)
    found = estimate_mean(UnitValues(units), FREE, 7)
    # widened: the t quantile, and n - 1 in place of n
    z = stats.t.ppf(0.975, count - 1) * math.sqrt(count / (count - 1))
    low, high = bootstrapped([units], float(2 * stats.norm.cdf(z) - 1))
    assert found.method == "bootstrap"
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_the_difference_of_many_units_is_bootstrapped() -> None:
    later, earlier = skewed(60, 1), skewed(90, 2)
    found = estimate_difference(UnitValues(later), UnitValues(earlier), FREE, 7)
    low, high = bootstrapped([later, earlier], 0.95)
    assert found.method == "bootstrap"
    # scipy's is not widened, which is 2 % of the width at these sizes
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_a_seed_gives_the_same_interval_again() -> None:
    units = skewed(40, 3)
    assert estimate_mean(UnitValues(units), FREE, 5) == estimate_mean(UnitValues(units), FREE, 5)
    assert estimate_mean(UnitValues(units), FREE, 5) != estimate_mean(UnitValues(units), FREE, 6)


def test_ends_of_what_there_can_be() -> None:
    assert estimate_mean(UnitValues(np.array([0.0, 0.0, 0.3])), (0, 1), 0).low == 0
    assert estimate_mean(UnitValues(np.array([0.4])), (0, 1), 0).low is None
    same = estimate_mean(UnitValues(np.full(40, 0.25)), (0, 1), 0)
    assert (same.standard_error, same.low, same.high) == (0, 0.25, 0.25)


def test_the_error_of_a_correction_is_known_from_labelled_units() -> None:
    found, by_labels = np.array([0.2, 0.3, 0.4, 0.5]), np.array([0.2, -0.2, 0.0, 0.0])
    units = UnitValues(found + by_labels, [LabelledPart(by_labels, 2)])
    estimate = estimate_mean(units, FREE, 0)
    # by hand: 0.4, 0.1, 0.4, 0.5 vary by 0.09 / 3, which is by 4 0.0075; the labels, whose squares are 0.08, have
    # 0.08 / 12 of it, and by their own number 0.08 / 16 * 2 / 1
    assert estimate.standard_error == pytest.approx(math.sqrt(0.0075 - 0.08 / 12 + 0.08 / 8))
    half = stats.t.ppf(0.975, 1) * math.sqrt(0.0075 - 0.08 / 12 + 0.08 / 8)
    assert (estimate.low, estimate.high) == pytest.approx((0.35 - half, 0.35 + half))
    labelled = UnitValues(found + by_labels, [LabelledPart(by_labels, 4)])
    assert estimate_mean(labelled, FREE, 0) == estimate_mean(UnitValues(found + by_labels), FREE, 0)
    many = np.tile(found, 10)
    assert estimate_mean(UnitValues(many, [LabelledPart(np.tile(by_labels, 10), 20)]), FREE, 0).method == "t"
    assert estimate_mean(UnitValues(many), FREE, 0).method == "bootstrap"


def test_corrected_intervals_of_ten_labels_hold_the_truth() -> None:
    """Simulated surveys of 200 pictures: normal covers about 50 %, found with a larger error than they vary by."""
    surveys, labels, count = 200, 10, 200
    names = [str(index) for index in range(count)]
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(surveys):
        truth = generator.normal(0.5, 0.1, count)
        found = truth + generator.normal(0.05, 0.2, count)
        drawn = generator.choice(count, labels, replace=False)
        residuals = {names[index]: truth[[index]] - found[[index]] for index in drawn}
        correction = Correction(np.eye(1), residuals, dict.fromkeys(residuals, labels / count))
        units = [UnitPictures([name], np.array([[each]]), np.ones(1)) for name, each in zip(names, found, strict=True)]
        corrected = correction.corrected(units, "the site")
        part = LabelledPart(corrected.by_labels[:, 0], corrected.labelled)
        estimate = estimate_mean(UnitValues(corrected.covers[:, 0], [part]), FREE, 0)
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= 0.5 <= estimate.high
    # 95 %, and three times the error that a share of 200 has
    assert held / surveys == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / surveys))

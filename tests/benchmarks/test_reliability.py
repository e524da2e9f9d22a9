"""Temperatures: found again where they are known, chosen and judged on different pictures."""

# SciPy ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from benchmarks.accuracy.reliability import ScoredPixels, calibration_error, fit_temperature
from engine import OptionError


def pictures(true_temperature: float, count: int = 20, classes: int = 3) -> list[ScoredPixels]:
    """Labels are drawn by the probabilities that the network would state at another temperature."""
    random = np.random.default_rng(11)
    found: list[ScoredPixels] = []
    for _ in range(count):
        logits = random.normal(0, 3, (2000, classes)).astype(np.float32)
        sums = softmax(logits / true_temperature, axis=1).cumsum(axis=1)
        labels = (random.random((2000, 1)) > sums).sum(axis=1).clip(0, classes - 1)
        found.append(ScoredPixels(logits, labels.astype(np.int64)))
    return found


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(true_temperature: float) -> None:
    made = pictures(true_temperature)
    found = fit_temperature(made)
    assert found.temperature == pytest.approx(true_temperature, rel=0.05)
    assert (found.fitted_pictures, found.tested_pictures) == (10, 10)
    if true_temperature != 1:
        assert found.error_after < 0.02 < found.error_before
    # SciPy's minimum of the same likelihood, over the pictures that it is chosen on.
    logits = np.concatenate([each.logits for each in made[::2]]).astype(float)
    labels = np.concatenate([each.labels for each in made[::2]])

    def loss(temperature: float) -> float:
        return -float(np.take_along_axis(log_softmax(logits / temperature, axis=1), labels[:, np.newaxis], 1).mean())

    best: Any = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6})
    assert found.temperature == pytest.approx(best.x, rel=1e-3)


def test_the_error_by_hand() -> None:
    # Two pixels at 0.9 of which one is right, and two at 0.7 that are right: (|1.8 - 1| + |1.4 - 2|) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    pixels = ScoredPixels(np.log(probabilities).astype(np.float32), np.array([0, 1, 1, 1]))
    assert calibration_error(pixels, 1.0) == pytest.approx(0.35, abs=1e-6)


def test_too_few_pictures_and_perfect_ones_are_refused() -> None:
    with pytest.raises(OptionError, match="9 labelled pictures are too few"):
        fit_temperature(pictures(1.0, count=9))
    made = [ScoredPixels(each.logits, each.logits.argmax(axis=1)) for each in pictures(1.0)]
    with pytest.raises(OptionError, match=r"no temperature from 0\.05 to 20 fits"):
        fit_temperature(made)

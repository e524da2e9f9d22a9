"""How honest a network's confidence is: its expected calibration error, and the temperature that makes it smaller.

Source: C. Guo and others, On Calibration of Modern Neural Networks, ICML 2017: temperature scaling, and the expected
calibration error in 15 bins of equal width.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.evaluation import LabelledImage
from benchmarks.accuracy.labels import IGNORED_LABEL
from engine.errors import OptionError
from engine.segmentation.confidence import ScoreScale, logits_of
from engine.segmentation.predictor import Predictor
from engine.segmentation.temperature import COLDEST, HOTTEST, Temperature

LEAST_PICTURES = 10
_BINS = 15
_PIXELS_OF_A_PICTURE = 4000
_HALVINGS = 40

Reals = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPixels:
    """Logits, float32[N, K], and labels, int64[N], of pixels of a picture whose class is known."""

    logits: Reals
    labels: npt.NDArray[np.int64]


def scored_pixels(predictor: Predictor, labelled: Iterable[LabelledImage]) -> Iterator[ScoredPixels]:
    """Draw labelled pixels of pictures at random, always the same ones.

    Raises OptionError where the network states no confidence, ImageError where an image does not fit it, InferenceError
    where a run failed.
    """
    scale = predictor.score_scale()
    for number, sample in enumerate(labelled):
        scores = predictor.scores(sample.image)
        known = np.flatnonzero(sample.labels != IGNORED_LABEL)
        count = min(len(known), _PIXELS_OF_A_PICTURE)
        chosen = np.random.default_rng(number).choice(known, count, replace=False)
        drawn = scores.reshape(len(scores), -1)[:, chosen]
        if len(drawn) == 1:
            # One plane of probabilities: the logit of class 1, and 0 for class 0.
            logit = logits_of(drawn[0], ScoreScale.SIGMOIDS)
            logits = np.stack([np.zeros_like(logit), logit])
        else:
            logits = logits_of(drawn, scale)
        yield ScoredPixels(logits.T, sample.labels.reshape(-1)[chosen].astype(np.int64))


def fit_temperature(pictures: Sequence[ScoredPixels]) -> Temperature:
    """Choose a temperature on every second picture, and measure on the others what it gains.

    Raises OptionError below `LEAST_PICTURES` with a labelled pixel, or where no temperature within the limits is the
    best.
    """
    judged = [each for each in pictures if len(each.labels)]
    if len(judged) < LEAST_PICTURES:
        raise OptionError(
            f"{len(judged)} labelled pictures are too few: a temperature is chosen on half of at least "
            f"{LEAST_PICTURES} pictures and tested on the others",
            option="fit_temperature",
        )
    fitted, tested = _joined(judged[::2]), _joined(judged[1::2])
    temperature = _most_likely(fitted)
    return Temperature(
        temperature,
        len(judged[::2]),
        len(judged[1::2]),
        calibration_error(tested, 1.0),
        calibration_error(tested, temperature),
    )


def calibration_error(pixels: ScoredPixels, temperature: float) -> float:
    """Expected calibration error, 0–1: how far the confidence is from the share of right pixels, on average."""
    probabilities = _softmax(pixels.logits / np.float32(temperature))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == pixels.labels
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    sums = (np.bincount(bins, each, minlength=_BINS) for each in (confidence, right))
    stated, hit = sums
    return round(float(np.abs(stated - hit).sum() / len(right)), 6)


def _joined(pictures: Sequence[ScoredPixels]) -> ScoredPixels:
    logits, labels = (np.concatenate([getattr(each, name) for each in pictures]) for name in ("logits", "labels"))
    return ScoredPixels(logits, labels)


def _most_likely(pixels: ScoredPixels) -> float:
    """The temperature under which the labels are most probable: the slope of their likelihood is 0 there."""
    labelled = np.take_along_axis(pixels.logits, pixels.labels[:, np.newaxis], axis=1)[:, 0]

    def is_too_sure(inverse: float) -> bool:
        expected = (_softmax(pixels.logits * np.float32(inverse)) * pixels.logits).sum(axis=1)
        return bool((expected - labelled).mean(dtype=np.float64) > 0)

    low, high = 1 / HOTTEST, 1 / COLDEST
    if is_too_sure(low) or not is_too_sure(high):
        raise OptionError(
            f"no temperature from {COLDEST:g} to {HOTTEST:g} fits: the labelled pixels are all right, or hardly more "
            "often than by chance",
            option="fit_temperature",
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_too_sure(middle) else (middle, high)
    return round(2 / (low + high), 4)


def _softmax(logits: Reals) -> Reals:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

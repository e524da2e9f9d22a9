"""What labels of a probability sample say of a whole survey: accuracy, confusion and cover, with their intervals."""

# Every estimate is a ratio of sums over the survey, in which a labelled picture stands for 1 / p pictures, p being its
# inclusion probability (Hájek). The variance is that of the linearized ratio within strata, with Hájek's approximation
# for unequal probabilities; where all pictures of a stratum are drawn alike it is the usual one, with the correction
# for a finite population (Särndal, Swensson and Wretman 1992, sections 5.5 to 5.7).

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.evaluation import Score, class_ious, class_scores
from engine import SegmentationClass
from engine.errors import OptionError
from service.surveys.intervals import Estimate, t_quantile, within
from service.surveys.sampling import SampleRow

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SurveyAccuracy:
    """What a sample says of all pictures of a survey, each of which counts once.

    `accuracy` is the share of the survey's pixels, or of the ground inside its regions, whose class is right;
    `confusion`, `float64[K, K]`, shares of the same: rows are labels, columns what was found. `bias` of every class is
    what was found minus what is true. `sample` has the rows in the order of the pictures.
    """

    accuracy: Estimate
    confusion: Values
    labelled_cover: Sequence[Estimate]
    bias: Sequence[Estimate]
    sample: Sequence[SampleRow]
    score: Score


def estimate_accuracy(score: Score, sample: Sequence[SampleRow]) -> SurveyAccuracy:
    """Estimate what a network does on a whole survey, from the rows of the sample in the order of the score.

    Raises OptionError where no pixel of a picture is judged, so that the sample is not complete.
    """
    if len(score.per_image) < len(sample):
        raise OptionError(
            f"only {len(score.per_image)} of {len(sample)} pictures of the sample have a pixel that is judged: label "
            "all of them, since the others do not stand for them",
            option="sample",
        )
    shares = np.stack([each.shares for each in score.per_image])
    weights = np.array([1 / row.inclusion_probability for row in sample])
    labelled, found = shares.sum(axis=2), shares.sum(axis=1)

    def estimates(values: Values, bounds: tuple[float, float]) -> list[Estimate]:
        return [_estimate(each, sample, weights, bounds) for each in values.T]

    (accuracy,) = estimates(np.trace(shares, axis1=1, axis2=2)[:, None], (0, 1))
    return SurveyAccuracy(
        accuracy,
        np.einsum("i,ijk->jk", weights / weights.sum(), shares),
        estimates(labelled, (0, 1)),
        estimates(found - labelled, (-1, 1)),
        sample,
        score,
    )


def _estimate(values: Values, sample: Sequence[SampleRow], weights: Values, bounds: tuple[float, float]) -> Estimate:
    mean = float(weights @ values / weights.sum())
    deviations = weights * (values - mean)
    # A picture that is drawn for certain adds nothing to the error.
    uncertain = 1 - 1 / weights
    strata: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(sample):
        if row.inclusion_probability < 1:
            strata[row.stratum].append(index)
    if any(len(members) < 2 for members in strata.values()):
        return Estimate(mean)
    variance, degrees = 0.0, 0
    for members in strata.values():
        of_stratum, left = deviations[members], uncertain[members]
        centred = of_stratum - left @ of_stratum / left.sum()
        variance += len(members) / (len(members) - 1) * float(left @ centred**2)
        degrees += len(members) - 1
    error = math.sqrt(variance) / float(weights.sum())
    half = t_quantile(degrees) * error if degrees else 0.0
    return Estimate(mean, error, *within(bounds, mean - half, mean + half), "t")


def accuracy_record(found: SurveyAccuracy, classes: Sequence[SegmentationClass]) -> dict[str, Any]:
    """Write what a sample says as JSON values, from which `pseg summarize` corrects covers.

    Shares are 0-1; `pictures` has what is known of each labelled picture; `drawn_by` and `seed` are null where the
    sample does not state one draw.
    """
    scores = class_scores(found.confusion)  # pyright: ignore[reportArgumentType]
    ious = class_ious(found.confusion)  # pyright: ignore[reportArgumentType]
    named = zip(classes, found.labelled_cover, found.bias, ious, scores, strict=True)
    pictures = zip(found.sample, found.score.per_image, strict=True)
    designs = {(row.drawn_by, row.seed) for row in found.sample}
    drawn_by, seed = designs.pop() if len(designs) == 1 else (None, None)
    return {
        "drawn_by": drawn_by,
        "seed": seed,
        "accuracy": asdict(found.accuracy),
        "confusion": found.confusion.tolist(),
        "classes": [
            {
                "id": each.id,
                "name": each.name,
                "labelled_cover": asdict(cover),
                "bias": asdict(bias),
                "iou": iou,
                **asdict(score),
            }
            for each, cover, bias, iou, score in named
        ],
        "pictures": [
            {
                "image": str(row.image),
                "stratum": row.stratum,
                "inclusion_probability": row.inclusion_probability,
                "pixels": score.pixels,
                "whole": score.whole,
                "labelled_cover": score.labelled_cover,
                "found_cover": score.found_cover,
            }
            for row, score in pictures
        ],
    }

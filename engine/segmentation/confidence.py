"""How probable the class of each pixel is, by the scores that it was read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

import numpy as np
import numpy.typing as npt

from engine.errors import InferenceError, OptionError
from engine.segmentation.postprocess import OutputKind, Planes, index_counts, restored_scores
from engine.transforms import TransformRecord

ConfidencePlane = npt.NDArray[np.uint8]
"""Probabilities in steps of 1/255, from 1 on; 0 stands for pixels without data."""

USUAL_LIMIT: Final = 0.6
"""Below it a pixel counts as unsure where nothing else is asked for."""

NO_SCORES: Final = (
    "the network returns classes without their scores (it ends in an argmax): make a bundle that returns scores with "
    "`pseg convert` and its option scores, or export the training again with `pseg export` and logits as output"
)
_LEVELS: Final = 255
_SMALLEST: Final = np.float32(1e-7)


class ScoreScale(StrEnum):
    """What scores of classes that exclude each other are."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    """They went through a softmax, and sum to 1."""
    SIGMOIDS = "sigmoids"
    """Each went through a sigmoid of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """How sure a network is of the classes of an image."""

    plane: ConfidencePlane  # uint8[H, W] of the mask's size, or of its overview where the mask is only that; 0: no data
    mean: float  # of the pixels with data, 0–1
    unsure: float  # share of the pixels with data whose class is less probable than `limit`, 0–1
    limit: float  # below it a pixel counts as unsure, 0–1


def class_confidence(
    planes: Planes,
    kind: OutputKind,
    records: Sequence[TransformRecord] = (),
    *,
    scale: ScoreScale,
    threshold: float = 0.5,
    temperature: float = 1.0,
) -> ConfidencePlane:
    """Find the probability of each pixel's class, uint8[H, W]: the softmax of its scores, at the size of the mask.

    Planes are float32[P, H, W], as `score_planes` returns them, of scores or of a probability map, whose pixels above
    `threshold` belong to class 1. OptionError: there are two classes that went through sigmoids: of them only the
    difference is at hand.

    >>> scores = np.array([[[0.0]], [[np.log(3)]]], dtype=np.float32)
    >>> from engine.segmentation.postprocess import score_planes
    >>> planes = score_planes(scores, OutputKind.SCORES)
    >>> class_confidence(planes, OutputKind.SCORES, scale=ScoreScale.LOGITS).tolist()
    [[191]]
    """
    match kind:
        case OutputKind.PROBABILITY:
            found = np.clip(restored_scores(planes[0], records), 0, 1)
            return _levels(_tempered(np.where(found > threshold, found, 1 - found), temperature))
        case OutputKind.SCORES if len(planes) == 1:
            require_more_than_two(scale)
            apart = np.abs(restored_scores(planes[0], records))
            if scale is ScoreScale.PROBABILITIES:
                return _levels(_tempered((1 + np.minimum(apart, 1)) / 2, temperature))
            return _levels(_real(1 / (1 + np.exp(-apart / np.float32(temperature)))))
        case OutputKind.SCORES:
            return _levels(_running_softmax(planes, records, scale, np.float32(temperature)))
        case OutputKind.MASK | OutputKind.MULTILABEL:
            raise InferenceError(f"the network's output is of the kind {kind}, which states no confidence in one class")
    assert_never(kind)


def require_scores(kind: OutputKind) -> OutputKind:
    """Refuse classes without scores and classes that overlap, of which no confidence can be read: OptionError."""
    if kind is OutputKind.MASK:
        raise OptionError(NO_SCORES)
    if kind is OutputKind.MULTILABEL:
        raise OptionError("the classes of this bundle overlap, so that no pixel has one class to be confident of")
    return kind


def require_more_than_two(scale: ScoreScale) -> None:
    """Refuse two classes whose scores went through sigmoids, with an OptionError."""
    if scale is ScoreScale.SIGMOIDS:
        raise OptionError(
            "the network returns two classes that each went through a sigmoid, and from their difference no confidence "
            "is known: export the training again with logits, or as one plane of probabilities"
        )


def level_of(limit: float) -> int:
    """The first level that is not below a probability.

    >>> level_of(0.6), level_of(0.601)
    (153, 154)
    """
    return int(np.ceil(round(limit * _LEVELS, 6)))


def level_counts(plane: ConfidencePlane) -> npt.NDArray[np.int64]:
    """Count the pixels of each level, int64[256]."""
    return index_counts(plane.reshape(-1), _LEVELS + 1)


def confidence_of(plane: ConfidencePlane, counts: npt.NDArray[np.int64], limit: float | None) -> Confidence:
    """Sum up the confidence of an image from its plane, or an overview, and its int64[256] pixels of each level."""
    limit = USUAL_LIMIT if limit is None else limit
    pixels = int(counts[1:].sum())
    mean = float((counts * np.arange(_LEVELS + 1)).sum() / (pixels * _LEVELS)) if pixels else 0.0
    unsure = float(counts[1 : level_of(limit)].sum() / pixels) if pixels else 0.0
    return Confidence(plane, mean, unsure, limit)


def _real(values: npt.NDArray[np.floating]) -> Planes:
    return values.astype(np.float32, copy=False)


def _levels(probabilities: Planes) -> ConfidencePlane:
    return np.clip(np.rint(probabilities * _LEVELS), 1, _LEVELS).astype(np.uint8)


def _tempered(probability: npt.NDArray[np.floating], temperature: float) -> Planes:
    """The probability of one of two classes, whose logit is divided."""
    if temperature == 1:
        return _real(probability)
    return _real(1 / (1 + np.exp(-logits_of(_real(probability), ScoreScale.SIGMOIDS) / np.float32(temperature))))


def _running_softmax(
    planes: Planes, records: Sequence[TransformRecord], scale: ScoreScale, temperature: np.float32
) -> Planes:
    """The largest of the softmax over the restored planes, of which three are held at any time."""
    highest = logits_of(restored_scores(planes[0], records), scale) / temperature
    total = np.ones_like(highest)
    for each in planes[1:]:
        plane = logits_of(restored_scores(each, records), scale) / temperature
        above = np.maximum(highest, plane)
        total = total * np.exp(highest - above) + np.exp(plane - above)
        highest = above
    return _real(1 / total)


def logits_of(scores: Planes, scale: ScoreScale) -> Planes:
    """Turn scores into what a softmax takes, up to a number that all classes of a pixel share."""
    match scale:
        case ScoreScale.LOGITS:
            return scores
        case ScoreScale.PROBABILITIES:
            return np.log(np.maximum(scores, _SMALLEST))
        case ScoreScale.SIGMOIDS:
            inside = np.clip(scores, _SMALLEST, 1 - _SMALLEST)
            return np.log(inside / (1 - inside))
    assert_never(scale)

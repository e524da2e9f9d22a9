"""Accuracy against labels: confusion matrices, IoU, pixel accuracy and the error of the cover."""

# Source: paddleseg 2.8.0, utils/metrics.py. Areas are summed over all pixels of all images before IoU is taken, and
# label 255 is left out. One rule differs: PaddleSeg counts a class that is neither labelled nor found as IoU 0 (its
# development branch as IoU 1); here it has no IoU, and the mean is over the others.

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.labels import (
    IGNORED_LABEL,
    LabelledFiles,
    LabelNames,
    Labels,
    read_labels,
    require_known_classes,
)
from converters import agreement
from converters.agreement import Counts
from engine.bundle.bundle import SegmentationClass, class_of_index
from engine.cover.regions import GroundPixels, ground_pixels
from engine.errors import ImageError, InferenceError, OptionError
from engine.images import SourceImage
from engine.segmentation.postprocess import class_count
from engine.segmentation.prediction import Prediction
from engine.segmentation.predictor import Predictor
from engine.system.text import legible

_MOST_CLASSES = 1 << 10


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """A picture and its labels, which are of the upright source's size; the names are for messages."""

    name: str
    image: SourceImage
    labels_name: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class CoverError:
    """How far the cover of a class is from the labels', 0-1: shares of an image's judged pixels.

    Mean and largest absolute difference over the images, and the image with the largest.
    """

    mean: float
    max: float
    worst_image: str


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How well a class is found, over the pixels of all images together, 0-1.

    None: precision of a class that was never found, recall of one that is never labelled, F1 of one that is neither.
    """

    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image's mask against its labels; measures of judged pixels as in `Score`.

    Covers are shares of the judged pixels, 0-1; inside a region of interest, of their area on the ground. `whole`:
    every pixel of the image, or of its region, is judged. `confusion` is ``int64[K, K]``, pixels: rows are labels,
    columns what was found; `shares`, ``float64[K, K]``, the same as shares of which covers are the sums.
    """

    image: str
    pixels: int
    miou: float
    accuracy: float
    class_iou: tuple[float | None, ...]
    labelled_cover: tuple[float, ...]
    found_cover: tuple[float, ...]
    whole: bool
    confusion: Counts = field(compare=False, repr=False)
    shares: npt.NDArray[np.float64] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Score:
    """Masks against labels; images and pixels are those that were judged, shares are 0-1.

    `class_iou` has one value per class, None for a class that is neither labelled nor found, and `miou` is the mean of
    the others. `confusion` is ``int64[K, K]``, pixels of all images: rows are labels, columns what was found.
    """

    images: int
    pixels: int
    miou: float
    accuracy: float
    class_iou: tuple[float | None, ...]
    class_scores: tuple[ClassScore, ...]
    cover_error: tuple[CoverError, ...]
    confusion: Counts
    per_image: tuple[ImageScore, ...]


def confusion_matrix(found: npt.NDArray[np.integer], labels: Labels, class_count: int) -> Counts:
    """Count which class was found (columns) where which was labelled (rows): ``int64[K, K]``.

    Pixels labelled 255 are left out.

    >>> confusion_matrix(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    judged = labels != IGNORED_LABEL
    pairs = labels[judged].astype(np.int64) * class_count + found[judged]
    return np.bincount(pairs, minlength=class_count * class_count).reshape(class_count, class_count)


def class_ious(confusion: Counts) -> tuple[float | None, ...]:
    """Intersection over union of every class, 0-1; None for a class that is neither labelled nor found.

    >>> class_ious(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    (0.75, 0.8, None)
    """
    return agreement.class_ious(confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1))


def class_scores(confusion: Counts) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every class.

    >>> class_scores(np.array([[3, 1], [0, 4]]))[0]
    ClassScore(precision=1.0, recall=0.75, f1=0.8571428571428571)
    """
    triples = zip(confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1), strict=True)
    return tuple(
        ClassScore(
            precision=float(both / found) if found else None,
            recall=float(both / labelled) if labelled else None,
            f1=float(2 * both / (found + labelled)) if found + labelled else None,
        )
        for both, found, labelled in triples
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One or several predictors on the same labelled images; classes are those of the first, in index order.

    `unjudged` are the images without a pixel that is judged, which no score holds.
    """

    classes: tuple[SegmentationClass, ...]
    scores: tuple[Score, ...]
    unjudged: tuple[str, ...] = ()


@dataclass(slots=True)
class _Tally:
    """What one predictor found, image by image."""

    confusion: Counts
    per_image: list[ImageScore] = field(default_factory=list[ImageScore])

    def add(self, image: str, found: Labels, labels: Labels, region: GroundPixels | None) -> None:
        count = len(self.confusion)
        confusion = confusion_matrix(found, labels, count)
        pixels = int(confusion.sum())
        self.confusion += confusion
        shares = confusion / pixels if region is None else _ground_shares(found, labels, region, count)
        ious = class_ious(confusion)
        self.per_image.append(
            ImageScore(
                image=image,
                pixels=pixels,
                miou=agreement.mean_iou(ious),
                accuracy=float(confusion.trace() / pixels),
                class_iou=ious,
                labelled_cover=tuple(shares.sum(axis=1).tolist()),
                found_cover=tuple(shares.sum(axis=0).tolist()),
                whole=pixels == (labels.size if region is None else len(region.shares)),
                confusion=confusion,
                shares=shares,
            )
        )

    def score(self) -> Score:
        pixels = int(self.confusion.sum())
        ious = class_ious(self.confusion)
        found, labelled = (
            np.array([getattr(each, name) for each in self.per_image]) for name in ("found_cover", "labelled_cover")
        )
        return Score(
            images=len(self.per_image),
            pixels=pixels,
            miou=agreement.mean_iou(ious),
            accuracy=float(self.confusion.trace() / pixels),
            class_iou=ious,
            class_scores=class_scores(self.confusion),
            cover_error=tuple(
                CoverError(float(each.mean()), float(each.max()), self.per_image[int(each.argmax())].image)
                for each in np.abs(found - labelled).T
            ),
            confusion=self.confusion,
            per_image=tuple(self.per_image),
        )


def unlabelled_classes(evaluation: Evaluation) -> tuple[str, ...]:
    """Name the classes that no pixel is labelled as, by index and name."""
    labelled = evaluation.scores[0].confusion.sum(axis=1)
    return tuple(f"{index} ({each.name})" for index, each in enumerate(evaluation.classes) if not labelled[index])


def read_labelled(
    pairs: Iterable[LabelledFiles],
    read: Callable[[Path], SourceImage],
    values: Mapping[int, int] | None = None,
    names: LabelNames | None = None,
) -> Iterator[LabelledImage]:
    """Read labelled images, one at a time; `values` is the class index for each value of masks.

    Raises ImageError where a file cannot be read, the two of a pair differ in size, or a label stands for no class.
    """
    for pair in pairs:
        image = read(pair.image)
        size = image.width, image.height
        labels = (
            read_labels(pair.mask, size=size, values=values)
            if pair.annotation is None
            else pair.annotation.draw(size, names or LabelNames())
        )
        yield LabelledImage(str(pair.image), image, str(pair.mask), labels)


def evaluate(predictors: Sequence[Predictor], labelled: Iterable[LabelledImage]) -> Evaluation:
    """Hold the masks of predictors against labels, side by side.

    If the first predictor measures a region of interest, only the pixels inside of it are judged. Raises OptionError
    where a bundle is multilabel, its number of classes is unknown or too large, or the predictors differ in it or in
    the classes; ImageError where an image does not fit the network or has no region of interest, labels hold an index
    that no class has, or no pixel is judged; InferenceError where a run failed, or a network finds a class that its
    bundle does not have.
    """
    _require_exclusive_classes(predictors)
    _require_same_classes(predictors)
    tallies: list[_Tally] = []
    unjudged: list[str] = []
    for sample in labelled:
        segmented = [_segment(predictor, sample.image) for predictor in predictors]
        count = _common_count(predictors, [count for _, count in segmented])
        require_known_classes(sample.labels, count, where=sample.labels_name)
        tallies = tallies or [_Tally(np.zeros((count, count), np.int64)) for _ in predictors]
        region = _region_of(segmented[0][0], sample.name)
        labels = sample.labels if region is None else _inside(sample.labels, region)
        if (labels == IGNORED_LABEL).all():
            unjudged.append(sample.name)
            continue
        for tally, (prediction, _) in zip(tallies, segmented, strict=True):
            tally.add(sample.name, cast("Labels", prediction.mask), labels, region)
    if not tallies or not tallies[0].per_image:
        raise ImageError(f"no pixel can be judged: there is no image, or every label is {IGNORED_LABEL}")
    names = predictors[0].bundle.classes
    return Evaluation(
        classes=tuple(class_of_index(names, index) for index in range(len(tallies[0].confusion))),
        scores=tuple(tally.score() for tally in tallies),
        unjudged=tuple(unjudged),
    )


def _region_of(prediction: Prediction, image: str) -> GroundPixels | None:
    region = prediction.region
    if region is None:
        return None
    if region.error is not None:
        raise ImageError(f"{image}: has no region of interest ({region.error}): leave the image out")
    return ground_pixels(np.array(region.polygon), prediction.mask.shape)


def _inside(labels: Labels, region: GroundPixels) -> Labels:
    """Labels of the pixels inside of a region; the others are not judged."""
    inside = np.full(labels.shape, IGNORED_LABEL, labels.dtype)
    inside[region.rows, region.columns][region.inside] = labels[region.rows, region.columns][region.inside]
    return inside


def _ground_shares(found: Labels, labels: Labels, region: GroundPixels, class_count: int) -> npt.NDArray[np.float64]:
    """The confusion inside of a region, `float64[K, K]`, as shares of the judged area on the ground."""
    labelled, seen = (each[region.rows, region.columns][region.inside] for each in (labels, found))
    judged = labelled != IGNORED_LABEL
    pairs = labelled[judged].astype(np.int64) * class_count + seen[judged]
    areas = np.bincount(pairs, region.shares[judged], class_count * class_count)
    return areas.reshape(class_count, class_count) / areas.sum()


def _require_exclusive_classes(predictors: Iterable[Predictor]) -> None:
    for predictor in predictors:
        if predictor.bundle.multilabel:
            raise OptionError(
                f"{predictor.bundle.source}: is multilabel; its classes overlap, and masks of one class per pixel "
                "cannot judge them"
            )


def _require_same_classes(predictors: Sequence[Predictor]) -> None:
    """Labels are indices, which stand for the same classes in all bundles that name them."""
    named = [[each.name for each in predictor.bundle.classes] for predictor in predictors]
    first, *others = [each for each in named if each] or [[]]
    for names in others:
        if len(names) == len(first) and names != first:
            differ = "the same classes in another order" if sorted(names) == sorted(first) else "different classes"
            both = "; ".join(", ".join(map(legible, each)) for each in (first, names))
            raise OptionError(
                f"the bundles have {differ} ({both}), so that one label means two classes: evaluate them one by one, "
                "or give equal classes equal names in meta.json"
            )


def _segment(predictor: Predictor, image: SourceImage) -> tuple[Prediction, int]:
    """What is predicted, and the number of classes that the network and its bundle tell apart."""
    source, known = predictor.bundle.source, len(predictor.bundle.classes)
    prepared = predictor.prepare(image)
    (raw,) = predictor.run([prepared])
    count = class_count(raw.output, raw.kind, known)
    if count > _MOST_CLASSES:
        raise OptionError(
            f"{source}: has {count} classes, and labels judge a bundle of at most {_MOST_CLASSES}, because it is "
            "counted how often each class is taken for each other one"
        )
    if not count:
        raise OptionError(
            f"{source}: names no classes, and its network returns masks, so that their number is unknown; "
            "add `classes` to meta.json"
        )
    prediction = predictor.finish(prepared, raw)
    if len(prediction.covers) > count:
        raise InferenceError(
            f"{source}: the network finds class {len(prediction.covers) - 1}, but the bundle names {count} classes; "
            "complete `classes` in meta.json"
        )
    return prediction, count


def _common_count(predictors: Sequence[Predictor], counts: Sequence[int]) -> int:
    if len(set(counts)) > 1:
        told = ", ".join(f"{each.bundle.source}: {count}" for each, count in zip(predictors, counts, strict=True))
        raise OptionError(f"bundles of different numbers of classes cannot be compared ({told})")
    return counts[0]

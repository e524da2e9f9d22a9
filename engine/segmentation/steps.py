"""From the classes of an image to what is told of it: unsure pixels become a class, and the cover is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.bundle import SegmentationClass, class_of_index
from engine.cover.options import CoverOptions
from engine.segmentation.confidence import (
    Confidence,
    ConfidencePlane,
    ScoreScale,
    level_counts,
    level_of,
    summed_up,
)
from engine.segmentation.postprocess import cover

Mask = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]
UNSURE = SegmentationClass("urn:ibenthos:segmentation:class:unsure", "unsure", (255, 0, 255))


@dataclass(frozen=True, slots=True)
class ClassCover:
    """The share of one class.

    Attributes:
        segmentation_class: the class.
        cover: share of the image's pixels, 0–1; of those that hold data, where a raster marks some that do not.
        area_m2: on the ground, in square metres; None where nothing tells it.
    """

    segmentation_class: SegmentationClass
    cover: float
    area_m2: float | None = None


@dataclass(frozen=True, slots=True)
class MeasuringSteps:
    """What is done with the classes of every image.

    Attributes:
        options: what a user asks for.
        keep_confidence: whether the confidence is told, even if nothing depends on it.
        scale: of the network's scores.
        temperature: what logits are divided by.
    """

    options: CoverOptions = CoverOptions()
    keep_confidence: bool = False
    scale: ScoreScale = ScoreScale.LOGITS
    temperature: float = 1.0

    @property
    def wants_confidence(self) -> bool:
        return self.keep_confidence or self.options.confidence.unsure is not None

    def record(self) -> Mapping[str, object] | None:
        """For the provenance: what changed the classes, name to value; None: nothing did."""
        record = self.options.record()
        if self.options.confidence.unsure is not None:
            record["temperature"] = self.temperature
        return record or None

    def classes(self, known: Sequence[SegmentationClass], count: int) -> list[SegmentationClass]:
        """Name the classes that masks are reported with.

        Args:
            known: classes of the bundle.
            count: that masks are reported with.

        Returns:
            In index order; the last one is that of unsure pixels, where there is one.
        """
        named = [class_of_index(known, index) for index in range(count)]
        return named if self.options.confidence.unsure is None else [*named, UNSURE]

    def confidence(self, plane: ConfidencePlane, counts: NDArray[np.int64] | None = None) -> Confidence:
        """Sum the confidence of an image up.

        Args:
            plane: of the image, or an overview of it.
            counts: int64[256], pixels of each level of the whole image; None: those of the plane.
        """
        counts = level_counts(plane) if counts is None else counts
        return summed_up(plane, counts, self.options.confidence.unsure, self.temperature)

    def mark_unsure(self, mask: Mask, plane: ConfidencePlane, count: int) -> Mask:
        """Give unsure pixels to their class.

        Args:
            mask: class indices [H, W].
            plane: of the same size.
            count: of classes; the index of unsure pixels.

        Returns:
            The mask itself, where none are asked for; else another one.
        """
        if self.options.confidence.unsure is None:
            return mask
        unsure = plane < level_of(self.options.confidence.unsure)
        if mask.dtype == np.uint8 and count <= np.iinfo(np.uint8).max:
            return np.where(unsure, np.uint8(count), mask).astype(np.uint8, copy=False)
        return np.where(unsure, np.uint16(count), mask).astype(np.uint16, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredMask:
    """A mask and what is told of it.

    Attributes:
        mask: class indices [H, W], or bool[K, H, W].
        covers: one entry a class, in index order.
        confidence: None where it is not asked for.
    """

    mask: Mask
    covers: tuple[ClassCover, ...]
    confidence: Confidence | None = None


def measured(
    mask: Mask, plane: ConfidencePlane | None, classes: Sequence[SegmentationClass], count: int, steps: MeasuringSteps
) -> MeasuredMask:
    """Do the steps with the mask of an image.

    Args:
        mask: from the network.
        plane: its confidence, of the same size; None where it is not asked for.
        classes: of the bundle.
        count: of classes that the mask is reported with at least.
        steps: what is done.
    """
    if plane is not None:
        count = max(count, int(mask.max()) + 1)
        mask = steps.mark_unsure(mask, plane, count)
    named = steps.classes(classes, count)
    covers = tuple(
        ClassCover(named[index] if index < len(named) else class_of_index(classes, index), share)
        for index, share in enumerate(cover(mask, len(named)))
    )
    return MeasuredMask(mask, covers, None if plane is None else steps.confidence(plane))

"""From the classes of an image to what is told of it: unsure pixels become a class, and the cover is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engine.bundle.bundle import Bundle, SegmentationClass, class_of_index
from engine.cover.cleanup import (
    MOST_PATCHES,
    ArrayRows,
    MaskRows,
    fill_holes,
    keep_classes,
    remove_small_patches,
    smooth,
)
from engine.cover.errors import RegionError
from engine.cover.options import GROUND_UNKNOWN, CleanupOptions, CoverOptions
from engine.cover.regions import FoundRegion, GroundPixels, RegionMethod, find_region, ground_pixels
from engine.errors import BundleError, ImageError, OptionError
from engine.segmentation.confidence import (
    Confidence,
    ConfidencePlane,
    ScoreScale,
    confidence_of,
    level_counts,
    level_of,
)
from engine.segmentation.postprocess import cover

Mask = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]
UNSURE = SegmentationClass("urn:ibenthos:segmentation:class:unsure", "unsure", (255, 0, 255))


@dataclass(frozen=True, slots=True)
class ClassCover:
    """The share of one class.

    Attributes:
        segmentation_class: the class.
        cover: share of the image's pixels, 0–1; pixels without data in a raster, and those of classes that are left
            out, do not count.
        area_m2: on the ground, in square metres; None if it is unknown.
        excluded: for a class that is left out (whose cover is 0), its share of all pixels, 0–1; None for others.
    """

    segmentation_class: SegmentationClass
    cover: float
    area_m2: float | None = None
    excluded: float | None = None


@dataclass(frozen=True, slots=True)
class RegionCover:
    """The cover inside a region of interest; without polygon and covers where it is not found."""

    method: RegionMethod
    # x and y of its corners in pixels of the mask, from its upper left corner
    polygon: tuple[tuple[float, float], ...] = ()
    covers: tuple[ClassCover, ...] = ()  # one entry a class, shares of the region's area on the ground
    area_m2: float | None = None  # of the region on the ground; None where nobody told
    quality: Mapping[str, object] = field(default_factory=dict[str, object])  # how well it is known
    error: str | None = None  # why it is not found


@dataclass(frozen=True, slots=True)
class MeasuringSteps:
    """What is done with the classes of every image."""

    options: CoverOptions = CoverOptions()
    keep_confidence: bool = False  # even if nothing depends on it
    scale: ScoreScale = ScoreScale.LOGITS  # of the network's scores
    temperature: float = 1.0  # what logits are divided by before confidence is told
    frame_class: int | None = None  # index of the class of the frame whose inner edge is the region
    excluded: frozenset[int] = frozenset()  # indices of classes that are left out
    kept: frozenset[int] | None = None  # indices of the only classes that stay; None: all
    from_bundle: tuple[str, ...] = ()  # names of the options of clean-up that the bundle states and the user does not

    @property
    def wants_confidence(self) -> bool:
        return self.keep_confidence or self.options.confidence.unsure is not None

    def record(self) -> Mapping[str, object] | None:
        """For the provenance: what changed the classes or their confidence, name to value; None: nothing did."""
        told = self.options.record()
        if self.temperature != 1:
            told["temperature"] = self.temperature
        if self.from_bundle:
            told["from_bundle"] = [*self.from_bundle]
        return told or None

    def classes(self, known: Sequence[SegmentationClass], count: int) -> list[SegmentationClass]:
        """Name the classes that masks are reported with, in index order; the last one may be that of unsure pixels."""
        named = [class_of_index(known, index) for index in range(count)]
        return named if self.options.confidence.unsure is None else [*named, UNSURE]

    def confidence(self, plane: ConfidencePlane, counts: NDArray[np.int64] | None = None) -> Confidence:
        """Sum up the confidence of an image from its plane.

        The plane may be an overview; `counts` are then the pixels of each level of the whole image, int64[256].
        """
        counts = level_counts(plane) if counts is None else counts
        return confidence_of(plane, counts, self.options.confidence.unsure)

    def mark_unsure(self, mask: Mask, plane: ConfidencePlane, count: int) -> Mask:
        """Give unsure pixels of a mask [H, W] to the class `count`, in a copy; the mask if none are asked for."""
        if self.options.confidence.unsure is None:
            return mask
        unsure = plane < level_of(self.options.confidence.unsure)
        if mask.dtype == np.uint8 and count <= np.iinfo(np.uint8).max:
            return np.where(unsure, np.uint8(count), mask).astype(np.uint8, copy=False)
        return np.where(unsure, np.uint16(count), mask).astype(np.uint16, copy=False)

    def covers(self, named: Sequence[SegmentationClass], shares: Sequence[float]) -> tuple[ClassCover, ...]:
        """Tell covers from shares of all pixels: what is left out is no part of what they are shares of."""
        counted = 1 - sum(shares[index] for index in self.excluded)
        return tuple(
            ClassCover(each, 0.0, excluded=share)
            if index in self.excluded
            else ClassCover(each, min(1.0, share / counted) if counted > 0 else 0.0)
            for index, share in enumerate(shares)
            for each in (class_of_index(named, index),)
        )

    def clean(self, mask: Mask, pixel_m2: float | None) -> Mask:
        """Clean up a copy of a photograph's mask; the mask itself where nothing is asked for.

        Where a pixel's area on the ground is unknown, no area on the ground is removed.
        """
        if not self.options.cleanup.stated():
            return mask
        if mask.ndim == 3:
            raise OptionError("the classes of this bundle overlap: masks of overlapping classes are not cleaned up")
        cleaned = mask.copy()
        self.clean_rows(ArrayRows(cleaned), None if pixel_m2 is None else np.array([pixel_m2]))
        return cleaned

    def clean_rows(self, mask: MaskRows, rows_m2: NDArray[np.float64] | None, most_patches: int = MOST_PATCHES) -> None:
        """Clean a mask up in place; ImageError if it falls into more than `most_patches` patches.

        `rows_m2` is the area on the ground of a pixel of each row, float64[H], or float64[1] if all are alike; None:
        unknown, so that no area on the ground is removed.
        """
        asked = self.options.cleanup
        if self.kept is not None:
            keep_classes(mask, self.kept)
        if asked.median is not None:
            smooth(mask, asked.median)
        if asked.fill_holes:
            fill_holes(mask, most_patches)
        if asked.min_area is None:
            return
        least, of_rows = asked.min_area.pixels, None
        if asked.min_area.ground is not None and rows_m2 is not None:
            alike = len(rows_m2) == 1
            least = asked.min_area.ground / (float(rows_m2[0]) if alike else 1)
            of_rows = None if alike else rows_m2
        if least is not None:
            remove_small_patches(mask, least, of_rows, most_patches)

    def ground_unknown(self, problem: str) -> ImageError:
        """Say that nothing tells how many pixels of an image the smallest patch on the ground has."""
        asked = f"min-area {self.options.cleanup.min_area}"
        if "min_area" not in self.from_bundle:
            return ImageError(f"{asked}: {problem}")
        return ImageError(f"{asked}, which the bundle states: {problem}, or leave it out with ignore-bundle-cleanup")

    def region(self, mask: Mask, source_size: tuple[int, int]) -> tuple[FoundRegion, GroundPixels] | RegionCover | None:
        """Find the region of interest; None where none is asked for. A region that is not found says why."""
        wanted, least = self.options.region.roi, self.options.cleanup.min_area
        if wanted is None:
            return None
        shape = mask.shape[-2:]
        scale = (shape[1] / source_size[0], shape[0] / source_size[1])
        try:
            frame = None if self.frame_class is None else class_plane(mask, self.frame_class)
            found = find_region(wanted, frame, scale, shape)
            return found, ground_pixels(found.corners, shape)
        except RegionError as error:
            kept = least is not None and least.pixels is None
            more = f"; patches below {least} were kept, since nothing tells how large they are" if kept else ""
            return RegionCover(wanted.method, error=f"{error}{more}")

    def region_cover(
        self, found: FoundRegion, pixels: GroundPixels, mask: Mask, named: Sequence[SegmentationClass]
    ) -> RegionCover:
        wanted, size = self.options.region.roi, self.options.region.quadrat_size
        shares = pixels.class_shares(mask, len(named)).tolist()
        covers = self.covers(named, shares)
        area_m2 = None if size is None else size.area_m2
        if area_m2 is not None:
            covers = tuple(replace(each, area_m2=share * area_m2) for each, share in zip(covers, shares, strict=True))
        corners: list[tuple[float, float]] = [(float(x), float(y)) for x, y in found.corners]
        method = RegionMethod.FRAME if wanted is None else wanted.method
        return RegionCover(method, tuple(corners), covers, area_m2, found.quality)


def cleanup_of(bundle: Bundle) -> CleanupOptions:
    """Read the clean-up that a bundle states for users who do not say otherwise.

    BundleError: a value is outside of its limits, a class is not known, or the classes overlap.
    """
    try:
        stated = CleanupOptions(**cast("dict[str, Any]", dict(bundle.cleanup)))
        steps_for(CoverOptions(cleanup=stated), bundle.classes, multilabel=bundle.multilabel, keep_confidence=False)
    except OptionError as error:
        raise BundleError(f"{bundle.source}: meta.json: cleanup.{error.option}: {error.problem}") from error
    return stated


def steps_for(
    options: CoverOptions,
    classes: Sequence[SegmentationClass],
    *,
    multilabel: bool,
    keep_confidence: bool,
    usual: CleanupOptions | None = None,
) -> MeasuringSteps:
    """Find out what is to be done with masks of a bundle, which overlap if it is multilabel.

    Of `usual`, the clean-up that the bundle states, is done what the user does not say otherwise. OptionError: there is
    no such class, the bundle states no clean-up that is to be left out, or the classes overlap where they must not.
    """
    cleanup, from_bundle = options.cleanup, ()
    if cleanup.ignore_bundle_cleanup:
        if usual is None or not usual.stated():
            raise OptionError("the bundle states no clean-up: leave it out", option="ignore_bundle_cleanup")
        cleanup = replace(cleanup, ignore_bundle_cleanup=False)
    elif usual is not None:
        from_bundle = tuple(name for name in usual.stated() if name not in cleanup.stated())
        cleanup = replace(cleanup, **{name: usual.values()[name] for name in from_bundle})
    options = replace(options, cleanup=cleanup)
    region = options.region
    frame = None
    if region.roi is not None and region.roi.method is RegionMethod.FRAME:
        frame = index_of_class(classes, region.roi.frame_class, option="roi")
    excluded = frozenset(index_of_class(classes, each, option="exclude_class") for each in region.exclude_class)
    if excluded and multilabel:
        raise OptionError("the classes of this bundle overlap: leave none of them out", option="exclude_class")
    kept = frozenset(index_of_class(classes, each, option="keep_classes") for each in cleanup.keep_classes) or None
    if multilabel and cleanup.stated():
        problem = "the classes of this bundle overlap, and their masks are not cleaned up"
        raise OptionError(problem, option=next(iter(cleanup.stated())))
    return MeasuringSteps(
        options, keep_confidence, frame_class=frame, excluded=excluded, kept=kept, from_bundle=from_bundle
    )


def index_of_class(classes: Sequence[SegmentationClass], named: str, *, option: str) -> int:
    """Find a class by its name, URN or index; OptionError if there is none, or there are several."""
    found = [index for index, each in enumerate(classes) if named in {each.name, each.id}]
    if not found and named.isascii() and named.isdecimal() and int(named) < max(1, len(classes)):
        return int(named)
    if len(found) != 1:
        known = ", ".join(f"{index} {each.name}" for index, each in enumerate(classes)) or "none by name"
        problem = "names several classes" if found else "is not a class of this bundle"
        raise OptionError(f"{named} {problem}, which has: {known}", option=option)
    return found[0]


def class_plane(mask: Mask, index: int) -> NDArray[np.bool_]:
    """Pixels of a class of a mask: class indices [H, W], or bool[K, H, W].

    RegionError: the classes overlap, and the network returns no plane of this one.
    """
    if mask.ndim == 3 and index >= len(mask):
        raise RegionError(f"the network returns {len(mask)} classes, and none with the index {index}, the frame's")
    return mask[index].astype(np.bool_) if mask.ndim == 3 else mask == index


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredMask:
    """A mask and what is told of it; None stands for what is not asked for."""

    mask: Mask  # class indices [H, W], or bool[K, H, W]
    covers: tuple[ClassCover, ...]  # one entry a class, in index order
    confidence: Confidence | None = None
    region: RegionCover | None = None


def measured(
    found: Mask,
    plane: ConfidencePlane | None,
    classes: Sequence[SegmentationClass],
    count: int,
    source_size: tuple[int, int],
    steps: MeasuringSteps,
) -> MeasuredMask:
    """Do the steps with a mask that is reported with at least `count` classes, and its confidence of the same size.

    ImageError: nothing tells how many of its pixels an area on the ground is.
    """
    if steps.options.lacks_ground:
        raise steps.ground_unknown(GROUND_UNKNOWN)
    region = steps.region(found, source_size)
    size, pixel_m2 = steps.options.region.quadrat_size, None
    if isinstance(region, tuple) and size is not None:
        pixel_m2 = size.area_m2 / int(region[1].inside.sum())
    mask = steps.clean(found, pixel_m2)
    mask = mask if plane is None else steps.mark_unsure(mask, plane, count)
    named = steps.classes(classes, count)
    covers = steps.covers(named, cover(mask, len(named)))
    if isinstance(region, tuple):
        region = steps.region_cover(*region, mask, named)
    return MeasuredMask(mask, covers, None if plane is None else steps.confidence(plane), region)

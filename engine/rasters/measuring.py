"""What is done with the mask of a raster behind the network, row by row: memory does not grow with the raster."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.cover.cleanup import MOST_PATCHES, PATCH_BYTES
from engine.rasters.mask_file import MaskFile
from engine.segmentation.confidence import Confidence, level_counts
from engine.segmentation.steps import MeasuringSteps
from engine.window import Window


def clean_up(
    mask: MaskFile,
    steps: MeasuringSteps,
    rows_m2: NDArray[np.float64] | None,
    made: Callable[[], MaskFile],
    memory_bytes: int | None,
) -> MaskFile:
    """Clean a mask up in another file: what an interrupted run goes on with stays as the network sees it.

    It is the mask itself, where nothing is asked for. `rows_m2` is as for `MeasuringSteps.clean_rows`, `memory_bytes`
    the limit for the whole process, without which it is the usual one of a container. ImageError: the mask falls into
    too many patches.
    """
    if not steps.options.cleanup.stated():
        return mask
    cleaned = made()
    for first, rows in mask.rows(0):
        cleaned.write_rows(first, rows)
    # The other half is for the rest of the process, whose tiles keep to the same limit.
    most = MOST_PATCHES if memory_bytes is None else min(MOST_PATCHES, memory_bytes // 2 // PATCH_BYTES)
    steps.clean_rows(cleaned, rows_m2, most)
    return cleaned


def mark_unsure(
    mask: MaskFile, confidence: MaskFile, steps: MeasuringSteps, count: int, made: Callable[[], MaskFile]
) -> MaskFile:
    """Give the unsure pixels of a mask to the class `count` in another file; the mask itself if none are asked for."""
    if steps.options.confidence.unsure is None:
        return mask
    marked = made()
    for (first, classes), (_, plane) in zip(mask.rows(0), confidence.rows(0), strict=True):
        valid = None if mask.layout.missing is None else classes != mask.layout.missing
        # What stands for missing pixels in one file may be a class in the other.
        known = classes if valid is None else np.where(valid, classes, 0).astype(classes.dtype)
        rows, width = classes.shape
        marked.write(Window(0, first, width, rows), steps.mark_unsure(known, plane, count), valid)
    return marked


def file_confidence(confidence: MaskFile, steps: MeasuringSteps, overview_side: int) -> Confidence:
    """Sum up the confidence of a raster, whose plane is an overview with a side of so many pixels at most."""
    counts: NDArray[np.int64] = np.zeros(256, np.int64)
    for _, plane in confidence.rows(0):
        counts += level_counts(plane)
    return steps.confidence(confidence.overview(overview_side)[0], counts)

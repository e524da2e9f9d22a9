"""Clean-up of masks: what is too small to be believed goes to what surrounds it."""

import re
from dataclasses import dataclass
from typing import Any, Final, cast

import cv2
import numpy as np
import numpy.typing as npt

_UNITS_M2: Final = {"cm2": 1e-4, "m2": 1.0}
_AREA: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(px|cm2|m2)", re.IGNORECASE)

Classes = npt.NDArray[Any]
"""uint8[H, W] or uint16[H, W], class indices."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Area:
    """An area in pixels or on the ground.

    Attributes:
        text: as the user wrote it.
        pixels: None where it is one on the ground.
        square_metres: None where it is one in pixels.
    """

    text: str
    pixels: float | None = None
    square_metres: float | None = None

    def __str__(self) -> str:
        """As `parse_area` reads it."""
        return self.text


def parse_area(text: str) -> Area:
    """Read an area.

    >>> parse_area("50px").pixels, parse_area("0.5m2").square_metres
    (50.0, 0.5)

    Args:
        text: a number with px, cm2 or m2 behind it.

    Returns:
        The area.

    Raises:
        ValueError: it is something else.
    """
    found = _AREA.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError("give an area with its unit, such as 50px, 2cm2 or 0.5m2")
    number, unit = float(found[1]), found[2].lower()
    if unit == "px":
        return Area(text.strip(), pixels=number)
    return Area(text.strip(), square_metres=number * _UNITS_M2[unit])


def _patches(flags: Flags, connectivity: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number of the patch that each pixel belongs to, 0 for none; left, top, width, height and pixels of each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flags.view(np.uint8), connectivity=connectivity)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def only_classes(mask: Classes, kept: frozenset[int]) -> Classes:
    """Give the pixels of all classes but some to class 0.

    Args:
        kept: indices of classes.
    """
    values = np.arange(np.iinfo(mask.dtype).max + 1)
    return np.where(np.isin(values, [*kept]), values, 0).astype(mask.dtype)[mask]


def smoothed(mask: Classes, side: int) -> Classes:
    """Give each pixel the class that most pixels around it have: of two classes, the median.

    Args:
        side: of the square around a pixel, in pixels; odd.
    """
    best = np.zeros(mask.shape, np.float32)
    result = mask.copy()
    for index in np.unique(mask):
        plane = (mask == index).astype(np.float32)
        near: Any = cast("Any", cv2).boxFilter(plane, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        # Where classes are equally many, a pixel keeps its own.
        count = np.asarray(near, np.float32) + plane / 2
        result[count > best] = index
        best = np.maximum(best, count)
    return result


def without_holes(mask: Classes) -> Classes:
    """Fill the holes of each class: pixels of class 0, the background, that a larger patch encloses.

    So the bottom inside of a frame is no hole of the frame, and what grows on the background is none either.
    """
    filled = mask.copy()
    height, width = mask.shape
    for index in np.unique(mask):
        if index == 0:
            continue
        own = filled == index
        patches, patch_stats = _patches(own, 4)
        others, stats = _patches(~own, 8)
        left, top, wide, high, _ = stats.T
        inner = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
        inner[0] = False
        for label in np.flatnonzero(inner):
            x, y, w, h, pixels = stats[label].tolist()
            box = slice(y, y + h), slice(x, x + w)
            hole = others[box] == label
            # Above the first pixel of a hole lies the patch around it.
            around = patches[y - 1, x + int(hole[0].argmax())]
            if pixels < patch_stats[around, cv2.CC_STAT_AREA] and not filled[box][hole].any():
                filled[box][hole] = index
    return filled


def without_small_patches(mask: Classes, least: float) -> Classes:
    """Give connected pixels of a class that are too few to the nearest class that is not.

    Args:
        least: of a patch that stays, in pixels; pixels that touch by a corner belong together.
    """
    small = np.zeros(mask.shape, np.bool_)
    for index in np.unique(mask):
        labels, stats = _patches(mask == index, 8)
        few: Flags = stats[:, cv2.CC_STAT_AREA] < least
        few[0] = False
        small |= few[labels]
    if not small.any() or small.all():
        return mask
    _, numbers = cv2.distanceTransformWithLabels(
        small.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.asarray(numbers, np.int32)
    class_of = np.zeros(int(nearest.max()) + 1, mask.dtype)
    class_of[nearest[~small]] = mask[~small]
    cleaned: Classes = class_of[nearest]
    return cleaned

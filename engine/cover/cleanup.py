"""Clean-up of masks: what is too small to be believed goes to what surrounds it.

A mask is read and written in strips of whole rows, so that memory does not grow with it; what is computed of a strip
depends on nothing but the mask, so that the result is the same however it is cut. Pixels that touch by a corner belong
together. Pixels without data stay what they are, and count as the outside of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from engine.errors import ImageError

Classes = npt.NDArray[Any]
"""uint8[H, W] or uint16[H, W], class indices."""
Labels = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Reals = npt.NDArray[np.float64]

_STRIP_PIXELS: Final = 1 << 22
MOST_PATCHES: Final = 1 << 24
"""Of a mask, so that what is kept of each fits into a container of 4 GiB beside the network."""
PATCH_BYTES: Final = 128
"""Memory that a patch takes at most."""
_STEPS_OF_A_PIXEL: Final = 1 << 20
"""Areas on the ground are summed in whole parts of the largest pixel's, so that no order of summing changes them."""
_FAR: Final = 1 << 30
"""Rows to a pixel that does not exist."""


class MaskRows(Protocol):
    """A mask that is cleaned up in place."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def missing(self) -> int | None:
        """Value of pixels without data; None: there are none."""
        ...

    def read_rows(self, first: int, last: int) -> Classes:
        """Read the rows from one to before another."""
        ...

    def write_rows(self, first: int, rows: Classes) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRows:
    """A mask in memory."""

    mask: Classes
    missing: int | None = None

    @property
    def height(self) -> int:
        return self.mask.shape[0]

    @property
    def width(self) -> int:
        return self.mask.shape[1]

    def read_rows(self, first: int, last: int) -> Classes:
        return self.mask[first:last].copy()

    def write_rows(self, first: int, rows: Classes) -> None:
        self.mask[first : first + len(rows)] = rows


def keep_classes(mask: MaskRows, kept: frozenset[int]) -> None:
    """Give the pixels of all classes but some to class 0."""
    for first, last in _strips(mask):
        rows = mask.read_rows(first, last)
        values = np.arange(np.iinfo(rows.dtype).max + 1)
        stays = [*kept] if mask.missing is None else [*kept, mask.missing]
        mask.write_rows(first, np.where(np.isin(values, stays), values, 0).astype(rows.dtype)[rows])


def smooth(mask: MaskRows, side: int) -> None:
    """Give each pixel the class that most pixels have in a square around it, of an odd side; of two, the median."""
    reach = side // 2
    above = mask.read_rows(0, 0)
    for first, last in _strips(mask):
        rows = mask.read_rows(first, last)
        block = np.concatenate([above, rows, mask.read_rows(last, min(last + reach, mask.height))])
        mask.write_rows(first, _majority(block, side, mask.missing)[len(above) : len(above) + len(rows)])
        above = block[: len(above) + len(rows)][-reach:]


def _majority(mask: Classes, side: int, missing: int | None) -> Classes:
    best = np.zeros(mask.shape, np.float32)
    result = mask.copy()
    for index in _values(mask, missing):
        plane = (mask == index).astype(np.float32)
        near: Any = cast("Any", cv2).boxFilter(plane, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        # Where classes are equally many, a pixel keeps its own.
        count = np.asarray(near, np.float32) + plane / 2
        result[count > best] = index
        best = np.maximum(best, count)
    if missing is not None:
        result[mask == missing] = missing
    return result


def fill_holes(mask: MaskRows, most_patches: int = MOST_PATCHES) -> None:
    """Fill the holes of each class: pixels of class 0, the background, that a larger patch encloses.

    So the bottom inside of a frame is no hole of the frame, and what grows on the background is none either.
    ImageError: the mask falls into more than `most_patches` patches.
    """
    patches = _patches(mask, most_patches, with_neighbours=True)
    # Each of both as the hole of the other; what is no hole is left out.
    holes, others = np.concatenate([patches.neighbours, patches.neighbours[::-1]], axis=1)
    around = patches.class_of[others]
    lowest = np.full(len(patches.area), np.iinfo(np.int32).max)
    highest, largest = np.zeros(len(patches.area), np.int64), np.zeros(len(patches.area))
    np.minimum.at(lowest, holes, around)
    np.maximum.at(highest, holes, around)
    np.maximum.at(largest, holes, patches.area[others])
    # The outside of the image counts as a patch of class 0.
    filled = (patches.class_of == 0) & (lowest > 0) & (lowest == highest) & (patches.area < largest)
    filled[_OUTSIDE] = False
    if not filled.any():
        return
    for strip in patches.strips:
        labels, rows = patches.of_strip(mask, strip)
        hole = filled[labels]
        rows[hole] = lowest[labels[hole]]
        mask.write_rows(strip[0], rows)


def remove_small_patches(
    mask: MaskRows, least: float, rows_m2: Reals | None = None, most_patches: int = MOST_PATCHES
) -> None:
    """Give connected pixels of a class that are too few to the nearest class that is not.

    `least` is the area of a patch that stays, in pixels, or in square metres where `rows_m2`, float64[H] of a pixel of
    each row, is known. ImageError: the mask falls into more than `most_patches` patches.
    """
    weights = None
    if rows_m2 is not None:
        steps_per_m2 = _STEPS_OF_A_PIXEL / float(rows_m2.max())
        weights, least = np.rint(rows_m2 * steps_per_m2), least * steps_per_m2
    patches = _patches(mask, most_patches, weights)
    small = patches.area < least
    small[_OUTSIDE] = False
    large = ~small
    large[_OUTSIDE] = False
    if not small[patches.roots].any() or not large[patches.roots].any():
        return
    nearest = _Nearest(np.full(mask.width, -_FAR, np.int32), np.zeros(mask.width, mask.read_rows(0, 0).dtype))
    from_above: list[_Nearest] = []
    for strip in patches.strips:
        from_above.append(nearest)
        labels, rows = patches.of_strip(mask, strip)
        nearest = nearest.after(large[labels], rows, strip[0])
    below = _Nearest(np.full(mask.width, _FAR, np.int32), nearest.classes)
    for strip, above in zip(reversed(patches.strips), reversed(from_above), strict=True):
        labels, rows = patches.of_strip(mask, strip)
        stays = large[labels]
        cleaned = _given_to_nearest(rows, small[labels], stays, strip[0], above, below)
        below = below.before(stays, rows, strip[0])
        mask.write_rows(strip[0], cleaned)


@dataclass(frozen=True, slots=True, eq=False)
class _Nearest:
    """The nearest pixel of a large patch above or below, in each column."""

    rows: npt.NDArray[np.int32]  # where it lies
    classes: Classes  # its class

    def after(self, stays: Flags, rows: Classes, first: int) -> "_Nearest":
        """Go on below a strip."""
        return self._past(stays, rows, first, len(rows) - 1 - stays[::-1].argmax(axis=0))

    def before(self, stays: Flags, rows: Classes, first: int) -> "_Nearest":
        """Go on above a strip."""
        return self._past(stays, rows, first, stays.argmax(axis=0))

    def _past(self, stays: Flags, rows: Classes, first: int, found: npt.NDArray[np.intp]) -> "_Nearest":
        known = stays.any(axis=0)
        classes = np.take_along_axis(rows, found[np.newaxis], axis=0)[0]
        return _Nearest(
            np.where(known, (first + found).astype(np.int32), self.rows), np.where(known, classes, self.classes)
        )


def _given_to_nearest(
    rows: Classes, small: Flags, stays: Flags, first: int, above: _Nearest, below: _Nearest
) -> Classes:
    """Give small patches to the nearest pixel that stays; of equally near ones to that above, below, left or right."""
    ys, xs = np.nonzero(small)
    if not len(ys):
        return rows
    own = np.arange(len(rows), dtype=np.int32)[:, np.newaxis]
    upper = np.maximum.accumulate(np.where(stays, own, above.rows - first), axis=0)
    lower = np.minimum.accumulate(np.where(stays, own, below.rows - first)[::-1], axis=0)[::-1]
    straight = np.minimum(own - upper, lower - own)
    squared = straight[ys, xs].astype(np.int64) ** 2
    columns = xs.copy()
    searching = np.arange(len(ys))
    for aside in range(1, rows.shape[1]):
        searching = searching[aside**2 < squared[searching]]
        if not len(searching):
            break
        for beside in (xs[searching] - aside, xs[searching] + aside):
            inside = (beside >= 0) & (beside < rows.shape[1])
            pixels, column = searching[inside], beside[inside]
            distance = straight[ys[pixels], column].astype(np.int64) ** 2 + aside**2
            nearer = distance < squared[pixels]
            squared[pixels[nearer]], columns[pixels[nearer]] = distance[nearer], column[nearer]
    up, down = upper[ys, columns], lower[ys, columns]
    found = np.where(ys - up <= down - ys, up, down)
    cleaned = rows.copy()
    cleaned[ys, xs] = np.where(
        found < 0,
        above.classes[columns],
        np.where(found >= len(rows), below.classes[columns], rows[found.clip(0, len(rows) - 1), columns]),
    )
    return cleaned


# ---- patches ----------------------------------------------------------------------------------------------------

_OUTSIDE: Final = 0
"""Label of pixels without data, and of what lies around the image."""


def _strips(mask: MaskRows) -> list[tuple[int, int]]:
    rows = max(1, _STRIP_PIXELS // mask.width)
    return [(first, min(first + rows, mask.height)) for first in range(0, mask.height, rows)]


def _values(rows: Classes, missing: int | None) -> list[int]:
    return [value for value in np.flatnonzero(np.bincount(rows.reshape(-1))).tolist() if value != missing]


@dataclass(frozen=True, slots=True, eq=False)
class _Patches:
    """Connected pixels of each class."""

    strips: Sequence[tuple[int, int]]  # first row, and the one behind the last
    offsets: Sequence[int]  # what the labels of each strip's own pieces begin behind
    root_of: Labels  # label of a piece to that of its patch
    class_of: npt.NDArray[np.uint16]  # of each label
    area: Reals  # of each patch, by its label
    neighbours: Labels  # int32[2, n], labels of patches that touch, one of them of class 0

    @property
    def roots(self) -> Labels:
        """Label of each patch."""
        labels = np.arange(len(self.root_of), dtype=np.int32)
        return labels[(self.root_of == labels) & (labels != _OUTSIDE)]

    def of_strip(self, mask: MaskRows, strip: tuple[int, int]) -> tuple[Labels, Classes]:
        """Label the patches of a strip again, whose pieces are as they were found; with the class of each pixel."""
        rows = mask.read_rows(*strip)
        pieces, _ = _pieces(rows, mask.missing, self.offsets[self.strips.index(strip)])
        return self.root_of[pieces], rows


def _pieces(rows: Classes, missing: int | None, offset: int) -> tuple[Labels, list[npt.NDArray[np.uint16]]]:
    """Number of the piece that each pixel of a strip belongs to, behind an offset, and the class of each."""
    labels = np.zeros(rows.shape, np.int32)
    offset_of = np.zeros(np.iinfo(rows.dtype).max + 1, np.int32)
    class_of: list[npt.NDArray[np.uint16]] = []
    for index in _values(rows, missing):
        plane = (rows == index).view(np.uint8)
        count, found = cast("tuple[int, Labels]", cast("Any", cv2).connectedComponents(plane, connectivity=8))
        labels += found
        offset_of[index] = offset
        class_of.append(np.full(count - 1, index, np.uint16))
        offset += count - 1
    labels += offset_of[rows]
    return labels, class_of


def _patches(mask: MaskRows, most: int, weights: Reals | None = None, *, with_neighbours: bool = False) -> _Patches:
    """Find connected pixels, strip by strip; what touches at the seams is joined at the end."""
    strips, offsets = _strips(mask), list[int]()
    class_of, areas, pairs = [np.zeros(1, np.uint16)], [np.zeros(1)], [np.zeros((2, 0), np.int32)]
    total = 0
    labels_above = np.zeros((1, mask.width + 2), np.int32)
    rows_above = np.ones((1, mask.width + 2), mask.read_rows(0, 0).dtype)
    for first, last in strips:
        rows = mask.read_rows(first, last)
        labels, classes = _pieces(rows, mask.missing, total)
        offsets.append(total)
        of_pixels = None if weights is None else np.repeat(weights[first:last], mask.width)
        areas.append(np.bincount((labels.reshape(-1) - total).clip(0), of_pixels)[1:].astype(np.float64))
        class_of += classes
        total += len(areas[-1])
        if total > most:
            raise ImageError(
                f"its mask falls into more than {most} patches, for which there is no memory: smooth it with median, "
                "allow more with max-memory where that is given, or leave fill-holes and min-area out"
            )
        labels, rows = np.pad(labels, ((0, 0), (1, 1))), np.pad(rows, ((0, 0), (1, 1)), constant_values=1)
        below = len(rows) if with_neighbours else 1
        pairs.append(_touching(np.vstack([labels_above, labels[:below]]), np.vstack([rows_above, rows[:below]])))
        labels_above, rows_above = labels[-1:], rows[-1:]
    if with_neighbours:
        pairs.append(
            _touching(np.vstack([labels_above, 0 * labels_above]), np.vstack([rows_above, 0 * rows_above + 1]))
        )
    known, touching = np.concatenate(class_of), np.concatenate(pairs, axis=1)
    alike = (known[touching[0]] == known[touching[1]]) & (touching != _OUTSIDE).all(axis=0)
    root_of = _joined(len(known), touching[:, alike])
    area: Reals = np.bincount(root_of, np.concatenate(areas), len(known)).astype(np.float64)
    return _Patches(strips, offsets, root_of, known, area, root_of[touching[:, ~alike]])


def _touching(labels: Labels, rows: Classes) -> Labels:
    """Pairs of pieces, int32[2, n], that touch and are of one class, or one of them of class 0."""
    found: list[npt.NDArray[np.int64]] = []
    height, width = labels.shape
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        one = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        other = slice(down, height), slice(max(0, right), width + min(0, right))
        apart = (labels[one] != labels[other]) & ((rows[one] == rows[other]) | (rows[one] == 0) | (rows[other] == 0))
        ends = labels[one][apart].astype(np.int64), labels[other][apart].astype(np.int64)
        found.append(np.unique(np.minimum(*ends) << 32 | np.maximum(*ends)))
    together = np.unique(np.concatenate(found))
    return np.stack([together >> 32, together & 0xFFFFFFFF]).astype(np.int32)


def _joined(count: int, pairs: Labels) -> Labels:
    """The smallest label of those that pairs lead to, for each label."""
    root_of = np.arange(count, dtype=np.int32)
    while True:
        roots = root_of[pairs]
        roots = roots[:, roots[0] != roots[1]]
        if not roots.size:
            return root_of
        np.minimum.at(root_of, roots.max(axis=0), roots.min(axis=0))
        while (root_of[root_of] != root_of).any():
            root_of = root_of[root_of]

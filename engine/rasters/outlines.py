"""Outlines with fewer corners; the only file that imports shapely."""
# shapely ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.errors import RuntimeUnavailableError

Rings = Sequence[NDArray[np.float64]]
"""Of a polygon, float64[n, 2] each: the outer one first; the first point again at the end."""
Places = NDArray[np.int64]


def require_simplification() -> None:
    """Require shapely, which simplifies outlines, or raise RuntimeUnavailableError."""
    if find_spec("shapely") is None:
        raise RuntimeUnavailableError("simplify needs shapely: install the extra `geo` (pip install -e '.[geo]')")


@dataclass(frozen=True, slots=True)
class Simplification:
    """How outlines are simplified."""

    tolerance_px: float  # corners of triangles with less than its square are left out
    # of a georeference, from pixels to the coordinates of the outlines
    transform: tuple[float, float, float, float, float, float] = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    apart: bool = False  # whether polygons of different classes may overlap, so that they share no outlines

    def simplified(self, polygons: Sequence[tuple[int, Rings]]) -> list[Rings]:
        """Simplify the outlines of the polygons of an image together, so that neighbours keep the outline they share.

        They follow the edges of pixels, leave no gap and do not overlap; none vanishes, and points where three of them
        meet stay. What borders on no other polygon stays along the edges of pixels, unless polygons of different
        classes may overlap.
        """
        require_simplification()
        found: dict[int, Rings] = {}
        for group in {index for index, _ in polygons} if self.apart else {None}:
            chosen = [number for number, (index, _) in enumerate(polygons) if group in {None, index}]
            found |= zip(chosen, self._together([polygons[number][1] for number in chosen]), strict=True)
        return [found[number] for number in range(len(polygons))]

    def _together(self, polygons: Sequence[Rings]) -> list[Rings]:
        import shapely

        if not polygons:
            return []
        x, per_column, x_per_row, y, y_per_column, per_row = self.transform
        linear, origin = np.array([[per_column, x_per_row], [y_per_column, per_row]]), np.array([x, y])
        points = np.concatenate([ring for rings in polygons for ring in rings])
        corners = np.rint(np.linalg.solve(linear, (points - origin).T)).astype(np.int64).T
        ends = np.cumsum([0, *(len(ring) for rings in polygons for ring in rings)])
        matched, ring_ends = _with_corners_of_neighbours(corners, ends)
        rings_of = np.cumsum([0, *map(len, polygons)])
        kind = shapely.GeometryType.POLYGON
        shapes = shapely.from_ragged_array(kind, matched.astype(np.float64), (ring_ends, rings_of))
        # What borders on no other polygon stays as it is, so that all together cover what they covered.
        simple = shapely.coverage_simplify(shapes, self.tolerance_px, simplify_boundary=self.apart)
        _, placed, (ends_of_rings, ends_of_polygons) = shapely.to_ragged_array(simple)
        placed = placed @ linear.T + origin
        rings = np.split(placed, ends_of_rings[1:-1])
        return [rings[first:last] for first, last in pairwise(ends_of_polygons)]


def _with_corners_of_neighbours(corners: Places, ends: Places) -> tuple[Places, Places]:
    """Add the corners of others that lie on a straight side: only then are shared outlines the same points.

    Corners, int64[n, 2], are those of all rings, one after the other, with `ends` where rings begin and end.
    """
    width = int(corners.max()) + 1
    known = [np.unique(corners[:, 1 - axis] * width + corners[:, axis]) for axis in (0, 1)]
    start, stop = corners[:-1], corners[1:]
    counts = np.ones(len(corners), np.int64)
    sides: list[tuple[Places, Places, Places]] = []
    within = np.ones(len(start), np.bool_)
    within[ends[1:-1] - 1] = False
    for axis in (0, 1):
        along = np.flatnonzero(within & (start[:, 1 - axis] == stop[:, 1 - axis]) & (start[:, axis] != stop[:, axis]))
        line = start[along, 1 - axis] * width
        low, high = (line + function(start[along, axis], stop[along, axis]) for function in (np.minimum, np.maximum))
        first, last = np.searchsorted(known[axis], low, "right"), np.searchsorted(known[axis], high, "left")
        counts[along] += last - first
        sides.append((along, first, last))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    matched = np.empty((offsets[-1], 2), np.int64)
    matched[offsets[:-1]] = corners
    for axis, (along, first, last) in enumerate(sides):
        many = last - first
        side = np.repeat(np.arange(len(along)), many)
        step = np.arange(len(side)) - np.repeat(np.cumsum(many) - many, many)
        forward = (stop[along, axis] > start[along, axis])[side]
        place = known[axis][np.where(forward, first[side] + step, last[side] - 1 - step)]
        target = offsets[along[side]] + 1 + step
        matched[target, axis], matched[target, 1 - axis] = place % width, place // width
    return matched, offsets[ends]

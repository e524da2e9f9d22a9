"""The inner edge of a frame on the ground, found in a mask: four straight lines and their corners.

Every point on the border of the frame's pixels votes for the straight lines through it that face the way the border
faces there, so that an inner edge is never taken for an outer one. Of the lines with most votes, those fours are looked
at that enclose a region which all of them face. What vegetation or tape covers is bridged, but enough of each side has
to show, also near its corners: a line is never continued to where nothing of it is seen. All corners must lie in the
picture, and there must be one such region only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from engine.cover.errors import RegionError

Points = npt.NDArray[np.float64]
"""[..., 2], x to the right and y down, in pixels from the picture's upper left corner: pixel centres lie at +0.5."""
Real = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

_WORKING_SIDE_PX: Final = 640
_LONGEST_SIDE_PX: Final = 32_766
"""Of a picture in which OpenCV looks values up."""
_BLUR_PX: Final = 1.0
_SPREAD_DEGREES: Final = 8
"""By how much the direction of a border is mistaken at a point."""
_FACES_DEGREES: Final = 25
"""By how much it may be, of the points that a line is fitted to."""
_NEAR_PX: Final = 2.0
_LINES: Final = 48
_FEWEST_VOTES: Final = 0.08
"""Of a line, as a share of the picture's shorter side."""

_LEAST_SEEN: Final = 0.005
"""Of the picture: where fewer pixels are of its class, no frame is in it."""
_LEAST_WIDTH: Final = 0.05
"""Of a region, as a share of the picture's shorter side."""
_LEAST_AREA: Final = 0.03
"""Of a region, as a share of the picture."""
_ANGLES_DEGREES: Final = (40, 140)
_LEAST_OPPOSITE: Final = 0.4
"""Of two opposite sides, the shorter as a share of the longer: a camera that is tilted more is refused."""
_LEAST_SHOWN: Final = 0.25
"""Share of every side that has to show."""
_LEAST_SHOWN_AT_ENDS: Final = 0.08
"""Share of the quarter of a side next to either corner that has to show."""
_LEAST_MEAN_SHOWN: Final = 0.4
_LEAST_SHOWN_WITH_HIDDEN_CORNER: Final = 0.4
_LEAST_MEAN_SHOWN_WITH_HIDDEN_CORNER: Final = 0.6
"""Where the sides next to one corner are hidden, more of them has to show elsewhere."""
_MOST_RESIDUAL: Final = 0.006
"""Root mean square distance of an edge from its line, as a share of the mean side."""
_REACH: Final = 0.02
"""How far from a line its edge is looked for, as a share of the mean side."""
_TOLERANCE: Final = 0.006
"""How far from its line a point may lie that belongs to it, as a share of the mean side."""
_MARGIN: Final = 0.006
"""Share of the picture's shorter side next to its border, where a corner is not told from one that is cut off."""
_SAME: Final = 0.9
"""Intersection over union of two regions that are one; the one that shows best counts."""
_WITHIN: Final = 0.8
"""Share of a part of a divided frame that lies within the frame."""
_FILLED: Final = 0.93
"""Share of a divided frame that its parts fill; what lies between two frames takes more."""
_MOST_SHARED: Final = 0.2
"""What it may hold of another frame's region that has a hidden corner."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameEdge:
    """The inner edge of a frame."""

    corners: Points  # float64[4, 2], clockwise in the picture, from the one next to its upper left corner
    shown: tuple[float, ...]  # share of each side that shows; the first one begins at the first corner
    residual_px: float  # root mean square distance of the points of the edge from their lines
    hidden_corners: int  # at how many corners nothing of a side shows; 0 or 1


def find_frame(frame: Flags) -> FrameEdge:
    """Find the inner edge of the only frame of a picture, from its pixels, bool[H, W].

    RegionError: there is no frame or more than one, a corner is cut off, or too little shows.
    """
    if not frame.any():
        raise _absent(0)
    height, width = frame.shape
    if max(height, width) > _LONGEST_SIDE_PX:
        raise RegionError(
            f"the mask is {width}×{height} pixels (w×h), and a frame is found in masks of at most {_LONGEST_SIDE_PX} a "
            "side: ask for masks of the size inference, with a smaller max-img-size"
        )
    scale = min(1.0, _WORKING_SIDE_PX / max(height, width))
    full = frame.astype(np.float32)
    small = full
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(full, size, interpolation=cv2.INTER_AREA), np.float32)
    zoom = np.array([width / small.shape[1], height / small.shape[0]])
    candidates = _enclosed_by(_straight_lines(small), small)
    edges: list[FrameEdge] = []
    problems: list[RegionError] = []
    for corners in candidates:
        try:
            edges.append(_refined(full, corners * zoom))
        except RegionError as error:
            problems.append(error)
    if not edges:
        raise problems[0]
    return _only(edges)


# ---- straight lines ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Straight lines n·p = r and what shows of them."""

    normals: Points  # float64[L, 2], unit vectors, away from the frame
    offsets: Real  # float64[L]
    shown: Real  # float64[L, S], length that shows up to each pixel along a line
    first: float  # position along the lines where that begins

    def shown_between(self, lines: Indices, start: Points, stop: Points) -> Real:
        """Share of segments of lines that shows."""
        along = _turned(self.normals[lines])
        places = np.sort([(start * along).sum(-1), (stop * along).sum(-1)], axis=0) - self.first
        low, high = np.clip(np.rint(places), 0, self.shown.shape[1] - 1).astype(np.intp)
        return (self.shown[lines, high] - self.shown[lines, low]) / np.maximum(_length(stop - start), 1)


def _turned(vectors: Points) -> Points:
    return np.stack([-vectors[..., 1], vectors[..., 0]], axis=-1)


def _length(vectors: Points) -> Real:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _border(frame: npt.NDArray[np.float32]) -> tuple[Points, Points]:
    """Points between pixels of the frame and others, and the directions in which the frame ends there."""
    soft = cv2.GaussianBlur(frame, (0, 0), _BLUR_PX, borderType=cv2.BORDER_REPLICATE)
    slopes = np.stack(
        [
            np.asarray(cv2.Sobel(soft, cv2.CV_32F, *order, ksize=3, borderType=cv2.BORDER_REPLICATE))
            for order in ((1, 0), (0, 1))
        ],
        axis=-1,
    ).astype(np.float64)
    inside = frame > 0.5
    rows, columns = np.nonzero(inside[:, 1:] != inside[:, :-1])
    upright = np.stack([columns + 1.0, rows + 0.5], axis=-1), slopes[rows, columns] + slopes[rows, columns + 1]
    rows, columns = np.nonzero(inside[1:] != inside[:-1])
    level = np.stack([columns + 0.5, rows + 1.0], axis=-1), slopes[rows, columns] + slopes[rows + 1, columns]
    points, towards = np.concatenate([upright[0], level[0]]), np.concatenate([upright[1], level[1]])
    steep = _length(towards) > 1e-3
    kept: Points = points[steep].astype(np.float64)
    return kept, -towards[steep] / _length(towards[steep])[:, np.newaxis]


def _straight_lines(frame: npt.NDArray[np.float32]) -> _Lines:
    height, width = frame.shape
    points, normals = _border(frame)
    reach = math.hypot(width, height)
    degrees = np.degrees(np.arctan2(normals[:, 1], normals[:, 0])) % 360
    votes = _votes(points, degrees, reach)
    shorter = min(height, width)
    wrapped = np.vstack([votes[-4:], votes, votes[:4]])
    highest = np.asarray(cv2.dilate(wrapped, np.ones((9, 9))))[4:-4]
    peaks = np.argwhere((votes >= highest) & (votes > _FEWEST_VOTES * shorter))
    strongest = peaks[np.argsort(-votes[peaks[:, 0], peaks[:, 1]])[:_LINES]]
    found = [_fitted(points, degrees, float(angle), float(place - reach - 1)) for angle, place in strongest]
    steps = 2 * math.ceil(reach) + 1
    first = -float(math.ceil(reach))
    shown = np.zeros((len(found), steps))
    for line, (normal, offset) in enumerate(found):
        along = points[_near(points, degrees, normal, offset)] @ _turned(normal)
        covered = np.zeros(steps, np.uint8)
        covered[np.clip(np.floor(along - first), 0, steps - 1).astype(np.intp)] = 1
        # Of a slanted line some pixels hold no point.
        shown[line] = np.cumsum(cv2.morphologyEx(covered, cv2.MORPH_CLOSE, np.ones((3, 1), np.uint8)).reshape(-1))
    normal_of = np.array([normal for normal, _ in found]).reshape(-1, 2)
    return _Lines(normal_of, np.array([offset for _, offset in found]), shown, first)


def _votes(points: Points, degrees: Real, reach: float) -> npt.NDArray[np.float32]:
    """Points on each line: a row for each degree of its direction, a column for each pixel of its offset."""
    columns = 2 * math.ceil(reach) + 4
    votes = np.zeros(360 * columns)
    whole = np.rint(degrees).astype(np.intp)
    for turn in range(-_SPREAD_DEGREES, _SPREAD_DEGREES + 1):
        angle = (whole + turn) % 360
        offset = points[:, 0] * np.cos(np.radians(angle)) + points[:, 1] * np.sin(np.radians(angle)) + reach + 1
        low = np.floor(offset).astype(np.intp)
        for column, share in ((low, 1 - (offset - low)), (low + 1, offset - low)):
            votes += np.bincount(angle * columns + column, share, minlength=len(votes))
    table = votes.reshape(360, columns).astype(np.float32)
    wrapped = np.vstack([table[-4:], table, table[:4]])
    blurred = np.asarray(cv2.GaussianBlur(wrapped, (0, 0), _BLUR_PX), np.float32)[4:-4]
    # Weights in the place of shares: all points of a straight line count.
    return blurred * np.float32(2 * math.pi * _BLUR_PX**2)


def _near(points: Points, degrees: Real, normal: Points, offset: float) -> Flags:
    facing = math.degrees(math.atan2(normal[1], normal[0]))
    apart = np.abs((degrees - facing + 180) % 360 - 180)
    return (np.abs(points @ normal - offset) < _NEAR_PX) & (apart < _FACES_DEGREES)


def _fitted(points: Points, degrees: Real, angle: float, offset: float) -> tuple[Points, float]:
    normal = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    for _ in range(3):
        near = points[_near(points, degrees, normal, offset)]
        if len(near) < 2:
            break
        across, along = near @ normal - offset, near @ _turned(normal)
        middle = along.mean()
        spread = ((along - middle) ** 2).sum()
        slope = float((across * (along - middle)).sum() / spread) if spread else 0.0
        normal = normal - slope * _turned(normal)
        normal = normal / _length(normal)
        offset = float(np.median(near @ normal))
    return normal, offset


# ---- regions ----------------------------------------------------------------------------------------------------


def _enclosed_by(lines: _Lines, frame: npt.NDArray[np.float32]) -> Points:
    """Corners [Q, 4, 2] of regions that four lines enclose, at least one, those with the longest edges first."""
    height, width = frame.shape
    shorter = min(height, width)
    sides = _facing_fours(lines)
    if not len(sides):
        raise _unseen(frame)
    before = np.roll(sides, 1, axis=1)
    start = _crossing(lines.normals[before], lines.offsets[before], lines.normals[sides], lines.offsets[sides])
    stop = np.roll(start, -1, axis=1)
    length = _length(stop - start)
    # Every corner lies in front of the two sides that it does not belong to: the region is convex.
    clearance = np.stack(
        [(np.roll(start, -step, axis=1) * lines.normals[sides]).sum(-1) - lines.offsets[sides] for step in (2, 3)]
    ).min(axis=(0, 2))
    parts = [(0.0, 1.0), (0.0, 0.25), (0.75, 1.0)]
    shown, first_end, last_end = (
        lines.shown_between(sides, start + low * (stop - start), start + high * (stop - start)) for low, high in parts
    )
    opposite = np.minimum(length[:, :2], length[:, 2:]) / np.maximum(length[:, :2], length[:, 2:])
    hidden = _hidden_corners(first_end, last_end)
    inside: Flags = np.all((start > 0) & (start < [width, height]), axis=2)
    shaped = (
        (clearance > _LEAST_WIDTH * shorter)
        & (_area(start) > _LEAST_AREA * height * width)
        & (opposite.min(axis=1) > _LEAST_OPPOSITE)
    )
    taken = shaped & _shows_enough(shown, hidden) & inside.all(axis=1)
    if not taken.any():
        likely = np.flatnonzero(shaped & (shown.min(axis=1) > 0))
        if not len(likely):
            raise _unseen(frame)
        most = likely[np.argmax((shown * length).sum(axis=1)[likely])]
        if not inside[most].all():
            raise _cut_off(int(np.count_nonzero(~inside[most])))
        raise _covered(shown[most], int(hidden[most]))
    longest = np.argsort(-(shown * length).sum(axis=1)[taken])
    kept: list[Points] = []
    for corners in start[taken][longest]:
        if all(np.abs(corners - other).max() > 2 * _REACH * shorter for other in kept):
            kept.append(corners)
    return np.array(kept).reshape(-1, 4, 2)


def _unseen(frame: npt.NDArray[np.float32]) -> RegionError:
    pixels = frame > 0.5
    if pixels.mean() < _LEAST_SEEN:
        return _absent(float(pixels.mean()))
    edges = {"upper": pixels[0], "lower": pixels[-1], "left": pixels[:, 0], "right": pixels[:, -1]}
    reached = [name for name, row in edges.items() if row.any()]
    seen = f"{pixels.mean():.1%} of the pixels are of the frame's class, but no four straight sides enclose a region"
    if not reached:
        return RegionError(f"{seen}, and none lies at the border of the picture: a side is covered, or was not found")
    if len(reached) > 2:
        return RegionError(seen)
    borders = " and ".join(reached)
    return RegionError(f"{seen}, and some lie at the {borders} border of the picture: the frame is probably cut off")


def _absent(share: float) -> RegionError:
    seen = f"only {share:.2%} of the pixels are of its class" if share else "no pixel is of the frame's class"
    return RegionError(
        f"no frame shows ({seen}): name the corners of the region (roi polygon:…), measure without a region, or take "
        "the picture out"
    )


def _cut_off(corners: int) -> RegionError:
    which = "a corner lies" if corners == 1 else f"{corners} corners lie"
    return RegionError(f"the frame is cut off: {which} at the border of the picture or outside")


def _covered(shown: Real, hidden: int) -> RegionError:
    return RegionError(
        f"too little of the frame shows: of one side {shown.min():.0%}, of all sides {shown.mean():.0%}, and "
        f"{hidden} of 4 corners are hidden"
    )


def _hidden_corners(first_ends: Real, last_ends: Real) -> Indices:
    """How many corners are not seen from both of their sides."""
    seen = np.minimum(first_ends, np.roll(last_ends, 1, axis=-1)) > _LEAST_SHOWN_AT_ENDS
    return (~seen).sum(axis=-1)


def _shows_enough(shown: Real, hidden: Indices) -> Flags:
    least, mean = shown.min(axis=-1), shown.mean(axis=-1)
    whole = (hidden == 0) & (least > _LEAST_SHOWN) & (mean > _LEAST_MEAN_SHOWN)
    most = (least > _LEAST_SHOWN_WITH_HIDDEN_CORNER) & (mean > _LEAST_MEAN_SHOWN_WITH_HIDDEN_CORNER)
    return whole | ((hidden == 1) & most)


def _facing_fours(lines: _Lines) -> Indices:
    """Fours [Q, 4] of lines in the order of their directions; the first faces the third, the second the last."""
    degrees = np.degrees(np.arctan2(lines.normals[:, 1], lines.normals[:, 0])) % 360
    turn = (degrees[np.newaxis] - degrees[:, np.newaxis]) % 360
    low, high = _ANGLES_DEGREES
    opposite = np.argwhere(np.abs(turn - 180) < high - low - 1e-9)
    pairs = opposite[opposite[:, 0] < opposite[:, 1]]
    first, second = np.triu_indices(len(pairs), 1)
    sides = np.stack([pairs[first, 0], pairs[second, 0], pairs[first, 1], pairs[second, 1]], axis=1)
    backwards = turn[sides[:, 0], sides[:, 1]] > 180
    sides[backwards] = sides[backwards][:, [0, 3, 2, 1]]
    corners = turn[sides, np.roll(sides, -1, axis=1)]
    return sides[((corners > low) & (corners < high)).all(axis=1)]


def _crossing(normal: Points, offset: Real, other_normal: Points, other_offset: Real) -> Points:
    determinant = normal[..., 0] * other_normal[..., 1] - normal[..., 1] * other_normal[..., 0]
    x = offset * other_normal[..., 1] - other_offset * normal[..., 1]
    y = normal[..., 0] * other_offset - other_normal[..., 0] * offset
    return np.stack([x, y], axis=-1) / determinant[..., np.newaxis]


def _area(corners: Points) -> Real:
    following = np.roll(corners, -1, axis=-2)
    return np.abs((corners[..., 0] * following[..., 1] - following[..., 0] * corners[..., 1]).sum(-1)) / 2


# ---- refinement -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """A line that was fitted to an edge: n·p = r, n pointing inside."""

    normal: Points
    offset: float
    shown: float
    first_end: float
    last_end: float
    squares: float
    points: int


def _refined(frame: npt.NDArray[np.float32], corners: Points) -> FrameEdge:
    """Fit the sides of a region to the mask at its full size."""
    height, width = frame.shape
    sides: list[_Side] = []
    mean = float(_length(np.roll(corners, -1, axis=0) - corners).mean())
    for _ in range(2):
        middle = corners.mean(axis=0)
        sides = [_fitted_side(frame, corners[at], corners[(at + 1) % 4], middle, mean) for at in range(4)]
        normals, offsets = np.array([each.normal for each in sides]), np.array([each.offset for each in sides])
        corners = _crossing(np.roll(normals, 1, axis=0), np.roll(offsets, 1), normals, offsets)
    margin = _MARGIN * min(height, width)
    within = ((corners > margin) & (corners < [width - margin, height - margin])).all(axis=1)
    if not within.all():
        raise _cut_off(int((~within).sum()))
    shown = np.array([each.shown for each in sides])
    hidden = _hidden_corners(np.array([each.first_end for each in sides]), np.array([each.last_end for each in sides]))
    if not _shows_enough(shown, hidden):
        raise _covered(shown, int(hidden))
    residual = math.sqrt(sum(each.squares for each in sides) / sum(each.points for each in sides))
    if residual > _MOST_RESIDUAL * mean:
        raise RegionError(f"the sides of the frame are not straight: {residual:.1f} pixels off on average")
    return FrameEdge(corners, tuple(shown.tolist()), residual, int(hidden))


def _fitted_side(frame: npt.NDArray[np.float32], start: Points, stop: Points, middle: Points, mean: float) -> _Side:
    length = float(_length(stop - start))
    along = (stop - start) / length
    inside = _turned(along)
    if (middle - start) @ inside < 0:
        inside = -inside
    reach, tolerance = max(3.0, _REACH * mean), max(1.0, _TOLERANCE * mean)
    places = (np.arange(max(64, round(length))) + 0.5) / max(64, round(length)) * length
    depths = np.arange(reach, -reach, -0.5)
    spots = start + places[:, np.newaxis, np.newaxis] * along + depths[:, np.newaxis] * inside
    spots = (spots - 0.5).astype(np.float32)
    values = np.asarray(
        cv2.remap(frame, spots[..., 0], spots[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    # From inside outwards: the first step from other pixels to those of the frame.
    steps = (values[:, :-1] <= 0.5) & (values[:, 1:] > 0.5)
    found = steps.any(axis=1)
    if found.sum() < 2:
        raise RegionError("of one side of the frame nothing shows")
    at = steps.argmax(axis=1)[found]
    before, after = values[found, at], values[found, at + 1]
    depth = depths[at] - 0.5 * (0.5 - before) / (after - before)
    place = places[found]
    level, slope = _robust_line(place, depth, length, tolerance)
    near = np.abs(depth - level - slope * place) <= tolerance
    covered = np.zeros(len(places), np.bool_)
    covered[np.flatnonzero(found)[near]] = True
    quarter = len(places) // 4
    normal = inside - slope * along
    normal = normal / _length(normal)
    offset = float((start + level * inside) @ normal)
    left = (depth - level - slope * place)[near]
    return _Side(
        normal,
        offset,
        float(covered.mean()),
        float(covered[:quarter].mean()),
        float(covered[-quarter:].mean()),
        float((left**2).sum()),
        int(near.sum()),
    )


def _robust_line(place: Real, depth: Real, length: float, tolerance: float) -> tuple[float, float]:
    """The line depth = level + slope · place that most points lie near; fitted to those."""
    # Lines through a point at either end of the side: their number is that of the steps squared, whatever the points.
    ends = np.arange(depth.min(), depth.max() + tolerance / 2, tolerance / 2)
    starts, stops = (each.reshape(-1) for each in np.meshgrid(ends, ends))
    away = np.abs(starts[:, np.newaxis] + (stops - starts)[:, np.newaxis] * (place / length) - depth)
    # Points farther away count less, those beyond the tolerance not at all.
    best = int(np.maximum(0, 1 - (away / tolerance) ** 2).sum(axis=1).argmax())
    level, slope = float(starts[best]), float((stops[best] - starts[best]) / length)
    for _ in range(3):
        near = np.abs(depth - level - slope * place) <= tolerance
        if near.sum() < 2:
            break
        middle = place[near].mean()
        spread = ((place[near] - middle) ** 2).sum()
        slope = float(((place[near] - middle) * depth[near]).sum() / spread) if spread else 0.0
        level = float(depth[near].mean() - slope * middle)
    return level, slope


# ---- the only one -----------------------------------------------------------------------------------------------


def _only(edges: Sequence[FrameEdge]) -> FrameEdge:
    """Refuse several regions, unless they are the parts of a divided frame, which fill it together."""
    # A region with a hidden corner may be made of sides of two: it stands back behind one whose corners all show.
    fewest = min(edge.hidden_corners for edge in edges)
    distinct: list[FrameEdge] = []
    for edge in sorted(edges, key=lambda each: -sum(each.shown)):
        others = [each.corners for each in distinct]
        if edge.hidden_corners == fewest:
            if not any(_overlap(edge.corners, other) > _SAME for other in others):
                distinct.append(edge)
        elif all(_shared(edge.corners, each.corners) <= _MOST_SHARED for each in edges if each is not edge):
            distinct.append(edge)
    largest = max(distinct, key=lambda each: float(_area(each.corners)))
    parts = [each for each in distinct if each is not largest]
    filled = 0.0
    counted: list[Points] = []
    for part in parts:  # those that show best come first
        if _shared(part.corners, largest.corners) < _WITHIN:
            raise RegionError("several frames are seen, and nothing tells which of them is meant")
        if all(_shared(part.corners, other) <= _MOST_SHARED for other in counted):
            counted.append(part.corners)
            filled += float(_area(part.corners))
    if parts and filled < _FILLED * float(_area(largest.corners)):
        raise RegionError("a framed region lies within another, and nothing tells which of them is meant")
    return _in_order(largest)


def _overlap(corners: Points, others: Points) -> float:
    """Intersection over union of two regions."""
    shared, _ = cv2.intersectConvexConvex(corners.astype(np.float32), others.astype(np.float32))
    return float(shared) / (float(_area(corners)) + float(_area(others)) - float(shared))


def _shared(corners: Points, others: Points) -> float:
    """Share of the smaller of two regions that lies in the other."""
    shared, _ = cv2.intersectConvexConvex(corners.astype(np.float32), others.astype(np.float32))
    return float(shared) / min(float(_area(corners)), float(_area(others)))


def _in_order(edge: FrameEdge) -> FrameEdge:
    corners, shown = edge.corners, edge.shown
    # Lines were taken in the order of their directions, which is clockwise in a picture, whose rows go down.
    first = int(corners.sum(axis=1).argmin())
    return replace(edge, corners=np.roll(corners, -first, axis=0), shown=(*shown[first:], *shown[:first]))

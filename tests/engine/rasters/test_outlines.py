"""Simplified outlines: what neighbours share, what stays, by counting which polygons a point lies in."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from engine.gdal import traced_mask
from engine.rasters.outlines import Rings, Simplification
from engine.rasters.polygons import ring_area

IDENTITY = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def blocks(seed: int) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    height, width, side = (int(each) for each in random.integers((2, 2, 1), (40, 40, 6)))
    mask = random.integers(0, 4, (height, width)).astype(np.uint8)
    return mask.repeat(side, 0).repeat(side, 1)[:height, :width]


def disk() -> npt.NDArray[np.uint8]:
    rows, columns = np.ogrid[:60, :60]
    return ((rows - 30) ** 2 + (columns - 30) ** 2 < 400).astype(np.uint8)


def crossings(rings: Rings, points: npt.NDArray[np.float64]) -> npt.NDArray[np.int_]:
    """How often a ray to the right of each point crosses the outline: oddly often from the inside."""
    count = np.zeros(len(points), int)
    for ring in rings:
        for (x0, y0), (x1, y1) in pairwise(ring):
            between = (y0 > points[:, 1]) != (y1 > points[:, 1])
            with np.errstate(divide="ignore", invalid="ignore"):
                count += between & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return count


def area(rings: Rings) -> float:
    return ring_area(rings[0]) - sum(map(ring_area, rings[1:]))


@pytest.mark.parametrize("tolerance", [1e-9, 1.0, 2.5, 50.0])
def test_every_point_lies_in_one_polygon(tolerance: float) -> None:
    for seed in range(8):
        mask = blocks(seed)
        traced = [*traced_mask(mask)]
        found = Simplification(tolerance).simplified(traced)
        points = np.random.default_rng(seed).random((200, 2)) * mask.shape[::-1]
        inside = np.array([crossings(rings, points) % 2 for rings in found])
        assert (inside.sum(axis=0) == 1).all()
        areas = [area(rings) for rings in found]
        assert min(areas) > 0
        assert sum(areas) == pytest.approx(mask.size)
        if tolerance < 0.1:
            assert areas == pytest.approx([area(rings) for _, rings in traced])


def test_stairs_become_a_line_and_the_border_of_the_image_stays() -> None:
    traced = [*traced_mask(disk())]
    corners = sum(len(ring) for _, rings in traced for ring in rings)
    found = Simplification(2.0).simplified(traced)
    (round_one,) = [rings for (index, _), rings in zip(traced, found, strict=True) if index == 1]
    (outside,) = [rings for (index, _), rings in zip(traced, found, strict=True) if index == 0]
    assert len(round_one[0]) < corners / 4
    assert {tuple(each) for each in round_one[0].tolist()} == {tuple(each) for each in outside[1].tolist()}
    assert np.abs(np.hypot(*(round_one[0] - 30.5).T) - 20).max() < 1.5
    assert {tuple(each) for each in outside[0].tolist()} == {(0, 0), (60, 0), (60, 60), (0, 60)}


def test_outlines_on_a_rotated_map_are_those_of_the_pixels() -> None:
    x, per_column, x_per_row, y, y_per_column, per_row = placed = (500_000.0, 0.3, 0.4, 5_500_000.0, 0.4, -0.3)
    traced = [*traced_mask(blocks(3))]
    linear = np.array([[per_column, x_per_row], [y_per_column, per_row]])
    on_map = [(index, [ring @ linear.T + (x, y) for ring in rings]) for index, rings in traced]
    expected = Simplification(2.0, IDENTITY).simplified(traced)
    for rings, others in zip(Simplification(2.0, placed).simplified(on_map), expected, strict=True):
        for ring, other in zip(rings, others, strict=True):
            np.testing.assert_allclose(ring, other @ linear.T + (x, y), rtol=0, atol=1e-6)


def test_classes_that_overlap_are_simplified_apart() -> None:
    shifted = np.roll(disk(), 5, axis=1)
    traced = [
        (index, rings) for index, mask in enumerate((disk(), shifted)) for _, rings in traced_mask(mask) if _ == 1
    ]
    both = Simplification(2.0, apart=True).simplified(traced)
    alone = [Simplification(2.0, apart=True).simplified([each])[0] for each in traced]
    for rings, others in zip(both, alone, strict=True):
        np.testing.assert_array_equal(rings[0], others[0])
        assert len(rings[0]) < 40
    assert Simplification(2.0).simplified([]) == []

"""Tiles cover what they must, and blending is the plain weighted mean, computed here on the whole raster at once."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import OptionError
from engine.rasters.tiling import Blender, Tiling, spans


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    tile = draw(st.integers(1, 90))
    return draw(st.integers(1, 400)), tile, draw(st.integers(0, tile - 1)), draw(st.sampled_from([1, 4, 32]))


@given(axes())
def test_tiles_of_an_axis_cover_it_and_their_weights_sum_to_one(axis: tuple[int, int, int, int]) -> None:
    length, tile, overlap, alignment = axis
    cut = spans(length, tile, overlap, alignment)
    assert (cut[0].start, cut[-1].stop) == (0, length)
    total, own, final = np.zeros(length), np.zeros(length, int), np.zeros(length, int)
    for each in cut:
        assert each.stop - each.start <= tile
        total[each.start : each.stop] += each.weights
        own[each.own_start : each.own_stop] += 1
        final[each.start : each.final_stop] += 1
        assert each.start <= each.own_start
        assert each.own_stop <= each.stop
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert (own == 1).all()
    assert (final == 1).all()
    for before, after in itertools.pairwise(cut):
        assert before.stop - after.start >= overlap


@pytest.mark.parametrize("length", [1000, 1024, 2000, 4097, 10_007])
def test_aligned_tiles_start_in_phase_and_keep_nearly_their_size(length: int) -> None:
    cut = spans(length, 512, 64, 32)
    assert all(each.start % 32 == 0 for each in cut)
    assert all(each.stop - each.start == 512 for each in cut[:-1])
    assert 512 - 31 <= cut[-1].stop - cut[-1].start <= 512


def test_the_edge_of_a_tile_does_not_count_and_its_middle_counts_alone() -> None:
    first, second = spans(180, 100, 20)
    assert first.weights[:80].tolist() == [1] * 80
    assert first.weights[-5:].tolist() == [0] * 5
    assert second.weights[:5].tolist() == [0] * 5
    assert second.weights[20:].tolist() == [1] * 80
    # half a Hann window over the ten pixels between: at its middle both count half
    assert first.weights[89] + first.weights[90] == pytest.approx(1)
    assert (np.diff(second.weights) >= 0).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 30), st.data())
def test_blending_by_tiles_is_the_weighted_mean(height: int, width: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    grid = Tiling(tile, tile, overlap).grid(width, height)
    rng = np.random.default_rng(height * 61 + width)
    expected = np.zeros((2, height, width))
    blender = Blender(grid, 2, (io.BytesIO(), io.BytesIO()))
    blended = np.full((2, height, width), np.nan, np.float32)
    for index in range(len(grid)):
        window = grid.window(index)
        scores = rng.normal(size=(2, window.height, window.width)).astype(np.float32)
        row, column = grid.place(index)
        expected[:, window.y : window.y + window.height, window.x : window.x + window.width] += (
            scores * row.weights[:, np.newaxis] * column.weights
        )
        final = grid.final_window(index)
        blended[:, final.y : final.y + final.height, final.x : final.x + final.width] = blender.add(
            index, (scores[0], scores[1])
        )
    np.testing.assert_allclose(blended, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64, 64, 64), r"overlap of 64 pixels does not fit into tiles of 64×64.*overlap"),
        ((64, 32, 40), "would never advance"),
        ((0, 64, 8), "at least 1"),
        ((64, 64, -1), "at least 0"),
    ],
)
def test_impossible_tilings_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Tiling(*arguments)

"""Adaptive pooling at sizes that the grid does not divide."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.converters.rewrites.conftest import ConvertedRun, random_inputs

GRIDS = [(2, 2), (6, 6), (3, 5), (1, 4)]
SIZES = [(1, 64, 64), (2, 61, 47), (1, 33, 128), (1, 7, 5), (1, 3, 2)]


@pytest.mark.parametrize("opset", [pytest.param(17, marks=pytest.mark.long), 18])
def test_equals_paddle_at_every_size(paddle: Any, assert_as_paddle: Any, opset: int) -> None:
    functional = paddle.nn.functional

    def pools(x: Any) -> Any:
        averages = [functional.adaptive_avg_pool2d(x, grid) for grid in GRIDS]
        maxima = [functional.adaptive_max_pool2d(x, grid) for grid in GRIDS]
        return paddle.concat([paddle.flatten(each, 2) for each in averages + maxima], axis=2)

    assert_as_paddle(pools, random_inputs(*SIZES), opset=opset)


@pytest.mark.long
def test_grid_that_is_known_only_when_the_network_runs(paddle: Any, assert_as_paddle: Any) -> None:
    def shrunk(x: Any) -> Any:
        height, width = paddle.shape(x)[2:]
        return paddle.nn.functional.adaptive_avg_pool2d(x, [height // 3 + 1, width // 2])

    assert_as_paddle(shrunk, random_inputs(*SIZES))


@pytest.fixture(scope="module")
def three_by_two(paddle: Any, convert_network: Any, network_of: Any) -> Callable[[str], ConvertedRun]:
    pools = {"average": paddle.nn.AdaptiveAvgPool2D((3, 2)), "maximum": paddle.nn.AdaptiveMaxPool2D((3, 2))}
    return lambda kind: convert_network(network_of(pools[kind]))


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("average", [[1, 3], [6, 8], [11, 13]]),
        pytest.param("maximum", [[2, 4], [12, 14], [12, 14]], marks=pytest.mark.long),
    ],
)
def test_bins_by_hand(three_by_two: Callable[[str], ConvertedRun], kind: str, wanted: list[list[float]]) -> None:
    # Two bins over five columns overlap in the middle one: 0..2 and 2..4. Three bins over two rows: row 0, both, row 1.
    tensor = np.array([[[[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]] * 3], np.float32)
    np.testing.assert_allclose(three_by_two(kind)(tensor)[0, 0], wanted, rtol=1e-6)

"""Operators that the converter leaves out or gets wrong, one small network each."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false, reportMissingTypeStubs=false

from typing import Any

import numpy as np
import pytest

from tests.converters.rewrites.conftest import random_inputs

SIZES = [(2, 16, 24), (1, 9, 13), (1, 31, 8)]


@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), [(3, 2, 1, 1), (2, 2, 0, 3), (5, 3, 1, 1)])
def test_transposed_convolution_to_the_size_before(
    paddle: Any, assert_as_paddle: Any, kernel: int, stride: int, padding: int, groups: int
) -> None:
    down = paddle.nn.Conv2D(3, 3, kernel, stride, padding)
    up = paddle.nn.Conv2DTranspose(3, 3, kernel, stride, padding, groups=groups)

    def there_and_back(x: Any) -> Any:
        height, width = paddle.shape(x)[2:]
        return up(down(x), output_size=[height, width])

    assert_as_paddle(there_and_back, random_inputs(*SIZES), down, up)


def test_layer_normalization_over_channels_of_one_pixel(paddle: Any, assert_as_paddle: Any) -> None:
    normalization = paddle.nn.LayerNorm([3, 1, 1])
    normalization.weight.set_value(paddle.to_tensor([1.0, 2.0, 3.0]))
    normalization.bias.set_value(paddle.to_tensor([0.5, 0.0, -0.5]))
    inputs = random_inputs((1, 16, 24), (3, 9, 13))
    assert_as_paddle(lambda x: normalization(paddle.nn.functional.adaptive_avg_pool2d(x, 1)), inputs, normalization)


@pytest.mark.parametrize("offset", [0, 2, -3])
def test_diagonal_of_infinities(paddle: Any, assert_as_paddle: Any, offset: int) -> None:
    def diagonal(x: Any) -> Any:
        infinities = paddle.tile(paddle.full([1], float("inf")), [paddle.shape(x)[3]])
        return x[0, 0, 0, 0] - paddle.diag(infinities, offset)

    assert_as_paddle(diagonal, random_inputs(*SIZES))


@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_ignores_the_dilation(paddle: Any, assert_as_paddle: Any, stride: int) -> None:
    convolution = paddle.nn.Conv2D(3, 3, 3, stride=stride, padding="same", dilation=2, groups=3)
    assert_as_paddle(convolution, random_inputs(*SIZES))


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_with_weights_of_each_picture(paddle: Any, assert_as_paddle: Any, kernel: int) -> None:
    make_weights = paddle.nn.Linear(3, 4 * 3 * kernel * kernel)

    class OwnWeights(paddle.nn.Layer):
        def forward(self, x: Any) -> Any:
            batch, _, height, width = paddle.shape(x)
            weights = make_weights(paddle.mean(x, axis=[2, 3])).reshape([batch, 4, 3, kernel, kernel])
            results = []
            for i in range(batch):
                results.append(paddle.nn.functional.conv2d(x[i : i + 1], weights[i], padding=kernel // 2))  # noqa: PERF401
            return paddle.concat(results, axis=0).reshape([batch, 4, height, width])

    assert_as_paddle(OwnWeights(), random_inputs(*SIZES), make_weights)


def test_random_numbers_keep_their_interval_and_are_drawn_anew(
    paddle: Any, convert_network: Any, network_of: Any
) -> None:
    def draw(x: Any) -> Any:
        return x * 0 + paddle.uniform([paddle.shape(x)[0], 3, paddle.shape(x)[2], paddle.shape(x)[3]], min=2, max=5)

    run = convert_network(network_of(draw))
    (tensor,) = random_inputs((1, 60, 70))
    first, second = run(tensor), run(tensor)
    assert first.shape == tensor.shape
    assert 2 <= first.min() < 2.1 < 4.9 < first.max() <= 5
    assert (first != second).mean() > 0.9

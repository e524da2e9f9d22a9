"""Operators that the converter leaves out or gets wrong, one small network each."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false, reportMissingTypeStubs=false

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.converters.rewrites import own_weights
from tests.converters.rewrites.conftest import assert_same_values, converted_run, random_inputs

SIZES = own_weights.SIZES


@pytest.mark.long
def test_transposed_convolution_to_the_size_before(paddle: Any, assert_as_paddle: Any) -> None:
    pairs = [
        (
            paddle.nn.Conv2D(3, 3, kernel, stride, padding),
            paddle.nn.Conv2DTranspose(3, 3, kernel, stride, padding, groups=groups),
        )
        for kernel, stride, padding, groups in [(3, 2, 1, 1), (2, 2, 0, 3), (5, 3, 1, 1)]
    ]

    def there_and_back(x: Any) -> Any:
        height, width = paddle.shape(x)[2:]
        return paddle.concat([up(down(x), output_size=[height, width]) for down, up in pairs], axis=1)

    assert_as_paddle(there_and_back, random_inputs(*SIZES), *(layer for pair in pairs for layer in pair))


@pytest.mark.long
def test_layer_normalization_over_channels_of_one_pixel(paddle: Any, assert_as_paddle: Any) -> None:
    normalization = paddle.nn.LayerNorm([3, 1, 1])
    normalization.weight.set_value(paddle.to_tensor([1.0, 2.0, 3.0]))
    normalization.bias.set_value(paddle.to_tensor([0.5, 0.0, -0.5]))
    inputs = random_inputs((1, 16, 24), (3, 9, 13))
    network = paddle.nn.Sequential(paddle.nn.AdaptiveAvgPool2D(1), normalization)
    assert_as_paddle(network, inputs, normalization)


def test_diagonal_of_infinities(paddle: Any, assert_as_paddle: Any) -> None:
    def diagonals(x: Any) -> Any:
        infinities = paddle.tile(paddle.full([1], float("inf")), [paddle.shape(x)[3]])
        matrices = [paddle.diag(infinities, offset) for offset in (0, 2, -3)]
        return x[0, 0, 0, 0] - paddle.concat([paddle.flatten(each) for each in matrices])

    assert_as_paddle(diagonals, random_inputs(*SIZES))


def test_same_padding_ignores_the_dilation(paddle: Any, assert_as_paddle: Any) -> None:
    convolutions = paddle.nn.Sequential(
        *(paddle.nn.Conv2D(3, 3, 3, stride=stride, padding="same", dilation=2, groups=3) for stride in (1, 2))
    )
    assert_as_paddle(convolutions, random_inputs(*SIZES), convolutions)


@pytest.mark.long
def test_convolution_with_weights_of_each_picture(tmp_path: Path) -> None:
    """Exported in a process of its own: after other exports Paddle now and then fails at it, or crashes."""
    subprocess.run([sys.executable, "-m", own_weights.__name__, str(tmp_path)], check=True, timeout=120)
    run = converted_run(tmp_path / "bundle")
    with np.load(tmp_path / "wanted.npz") as wanted:
        assert len(wanted.files) == len(SIZES)
        for name, tensor in zip(wanted.files, random_inputs(*SIZES), strict=True):
            assert_same_values(run(tensor), wanted[name])


def test_resizing_only_where_the_size_differs(paddle: Any, assert_as_paddle: Any) -> None:
    class ToEvenSize(paddle.nn.Layer):
        def forward(self, x: Any) -> Any:
            height, width = paddle.shape(x)[2:]
            wanted_height, wanted_width = height // 2 * 2, width // 2 * 2
            if height != wanted_height or width != wanted_width:
                resized = paddle.nn.functional.interpolate(
                    x, (wanted_height, wanted_width), mode="bilinear", align_corners=False
                )
            else:
                resized = x
            return resized * 2

    assert_as_paddle(ToEvenSize(), random_inputs((2, 16, 24), (1, 9, 13), (1, 30, 7)), absent={"If"})


@pytest.mark.long
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

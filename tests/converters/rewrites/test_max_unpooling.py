"""Positions of maxima, ties included, and values put back there."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.paddle_to_onnx import OPSET, TIMEOUT_S, export_in_child
from engine import OnnxModel, OnnxOptions, PaddleOptions, Precision, open_bundle, open_runtime
from tests.converters.rewrites.conftest import random_inputs

SIZES = [(2, 16, 24), (1, 9, 13), (1, 31, 6)]


WINDOWS = [(2, 2, 0, False), (3, 2, 1, False), (2, 2, 0, True), (3, 1, 0, False)]
"""Kernel, stride, padding, and whether a window that reaches over the edge counts."""


def test_positions_are_those_of_paddle(paddle: Any, assert_as_paddle: Any) -> None:
    def maxima(x: Any) -> Any:
        found: list[Any] = []
        for kernel, stride, padding, ceil in WINDOWS:
            values, positions = paddle.nn.functional.max_pool2d(
                x, kernel, stride, padding, ceil_mode=ceil, return_mask=True
            )
            found += [paddle.flatten(values, 2), paddle.flatten(paddle.cast(positions, "float32"), 2)]
        return paddle.concat(found, axis=2)

    assert_as_paddle(maxima, random_inputs(*SIZES, levels=3))


def test_unpooling_to_the_size_before(paddle: Any, assert_as_paddle: Any) -> None:
    def there_and_back(x: Any) -> Any:
        values, positions = paddle.nn.functional.max_pool2d(x, 2, 2, return_mask=True)
        height, width = paddle.shape(x)[2:]
        return paddle.nn.functional.max_unpool2d(values * 2 + 1, positions, 2, output_size=[height, width])

    assert_as_paddle(there_and_back, random_inputs(*SIZES, levels=3))


@pytest.mark.long
def test_pdmodel_with_unpooling_and_sized_transposed_convolutions(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with open_bundle(shared_data / "bundles" / "legacy_enet.tgz") as bundle:
        assert bundle.paddle is not None
        export_in_child(bundle.paddle, path, OPSET, TIMEOUT_S, where="enet")
        original = open_runtime(bundle, PaddleOptions(threads=2))
        model = OnnxModel(path=path, precision=Precision.FP32, digest="")
        converted = open_runtime(bundle.with_onnx(model), OnnxOptions(threads=2))
        for height, width in [(64, 96), (75, 101)]:
            tensor = np.random.default_rng(5).standard_normal((1, 3, height, width), dtype=np.float32)
            feeds = {"x": tensor}
            (wanted,) = original.run(feeds).values()
            (found,) = converted.run(feeds).values()
            assert len(np.unique(wanted)) > 1
            assert (wanted != found).mean() < 1e-3

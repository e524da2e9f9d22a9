"""Adaptive average pooling through the real converter, against Paddle's own at sizes that the grid does not divide."""

# paddle and onnx ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.dynamic_pool import GridPool, mark_grid_pools, replace_marks
from converters.export import export_bundle
from converters.conversion import convert
from converters.repository import Repository
from engine import OnnxOptions, open_bundle
from engine.errors import ConversionError
from engine.runtimes.onnx import OnnxRuntime

SIZES = [(256, 256), (61, 47), (33, 128), (7, 5)]


@pytest.fixture(scope="module")
def paddle() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle

    return paddle


@pytest.fixture(scope="module")
def pooled(paddle: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int]], OnnxRuntime]:
    """Export, convert and open a network that is one pooling."""

    def open_pool(grid: tuple[int, int]) -> OnnxRuntime:
        folder = tmp_path_factory.mktemp("pool")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A bundle has weights: a convolution that changes nothing.
            unchanged = paddle.nn.initializer.Assign(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1))
            convolution = paddle.nn.Conv2D(3, 3, 1, weight_attr=paddle.ParamAttr(initializer=unchanged))
            network = paddle.nn.Sequential(convolution, paddle.nn.AdaptiveAvgPool2D(grid), paddle.nn.ReLU())
            bundle = export_bundle(network, folder / "pool.tgz", name="pool", classes=[], transforms=None)
        with open_bundle(bundle) as opened:
            return OnnxRuntime(convert(opened, Repository(folder / "cache")).model, OnnxOptions())

    return open_pool


@pytest.mark.parametrize("grid", [(2, 2), (6, 6), (3, 5), (1, 4)])
def test_equals_paddle_at_every_size(
    paddle: Any, pooled: Callable[[tuple[int, int]], OnnxRuntime], grid: tuple[int, int]
) -> None:
    runtime = pooled(grid)
    random = np.random.default_rng(7)
    for height, width in SIZES:
        tensor = random.random((2, 3, height, width), dtype=np.float32)
        expected = paddle.nn.functional.adaptive_avg_pool2d(paddle.to_tensor(tensor), grid).numpy()
        (actual,) = runtime.run({runtime.inputs[0].name: tensor}).values()
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_bins_by_hand(pooled: Callable[[tuple[int, int]], OnnxRuntime]) -> None:
    # Two bins over five columns overlap in the middle one: 0..2 and 2..4. Three bins over two rows: row 0, both, row 1.
    tensor = np.array([[[[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]] * 3], np.float32)
    runtime = pooled((3, 2))
    (actual,) = runtime.run({runtime.inputs[0].name: tensor}).values()
    np.testing.assert_allclose(actual[0, 0], [[1, 3], [6, 8], [11, 13]], rtol=1e-6)


def test_a_program_that_uses_softshrink_itself_is_refused(tmp_path: Path) -> None:
    pool = {
        "#": "1.pool2d",
        "A": [{"N": "adaptive", "AT": {"D": True}}, {"N": "pooling_type", "AT": {"D": "avg"}}],
        "I": [{"%": 1}, {"%": 2}],
        "O": [{"%": 3}],
    }
    grid = {"#": "1.full_int_array", "A": [{"N": "value", "AT": {"D": [{"D": 2}, {"D": 2}]}}], "O": [{"%": 2}]}
    own = {"#": "1.softshrink", "A": [{"N": "threshold", "AT": {"D": 0.5}}], "I": [{"%": 3}], "O": [{"%": 4}]}
    program = tmp_path / "model.json"
    program.write_text(json.dumps({"program": {"regions": [{"blocks": [{"ops": [grid, pool, own]}]}]}}))
    with pytest.raises(ConversionError, match="softshrink"):
        mark_grid_pools(program, tmp_path / "marked.json")


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "model.json"
    program.write_text('{"program": 1}')
    with pytest.raises(ConversionError, match=r"model\.json is no PIR program"):
        mark_grid_pools(program, tmp_path / "marked.json")


def test_a_lost_mark_is_noticed() -> None:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([], "empty", [tensor], [tensor]))
    with pytest.raises(ConversionError, match="lost an adaptive pooling"):
        replace_marks(model, (GridPool(2, 2),))

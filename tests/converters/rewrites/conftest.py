"""Networks of a few layers, converted and compared with Paddle's own results."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# Paddle ships no type information.

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.exporting.export import export_bundle
from converters.paddle_to_onnx import OPSET, TIMEOUT_S, export_in_child
from engine import OnnxModel, OnnxOptions, Precision, open_bundle
from engine.bundle.bundle import file_digest
from engine.runtimes import Tensor
from engine.runtimes.onnx import OnnxRuntime
from tests.conftest import vendor_warnings_ignored

Compute = Callable[[Any], Any]
"""A function on Paddle tensors: float32 NCHW in."""
ConvertedRun = Callable[[Tensor], Tensor]
Convert = Callable[..., ConvertedRun]


@pytest.fixture(scope="session")
def paddle() -> Any:
    with vendor_warnings_ignored():
        import paddle

    return paddle


@pytest.fixture(scope="session")
def convert_network(paddle: Any, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Export a network, convert it, and open it; what comes back runs it."""

    def convert(network: Any, *, opset: int = OPSET, absent: Collection[str] = ()) -> ConvertedRun:
        folder = tmp_path_factory.mktemp("converted")
        with vendor_warnings_ignored():
            bundle = export_bundle(network, folder / "bundle", name="small", classes=[], transforms=None)
        return converted_run(bundle, opset=opset, absent=absent)

    return convert


def converted_run(bundle: Path, *, opset: int = OPSET, absent: Collection[str] = ()) -> ConvertedRun:
    """Convert an exported network into a file beside it, and open that; what comes back runs it."""
    with open_bundle(bundle) as opened:
        program = opened.paddle
    assert program is not None
    path = bundle.with_name("model.onnx")
    export_in_child(program, path, opset, TIMEOUT_S, where="small")
    assert_standard_operators(path, absent)
    model = OnnxModel(path=path, precision=Precision.FP32, digest=file_digest(path))
    runtime = OnnxRuntime(model, OnnxOptions(threads=1))
    return lambda tensor: next(iter(runtime.run({runtime.inputs[0].name: tensor}).values()))


def assert_standard_operators(path: Path, absent: Collection[str]) -> None:
    import onnx

    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & set(absent)
    assert len(model.graph.input) == 1
    assert len(model.graph.output) == 1


@pytest.fixture(scope="session")
def network_of(paddle: Any) -> Callable[..., Any]:
    """A network that is one function; before it a convolution that changes nothing, since a bundle has weights.

    Layers that the function uses are named beside it: otherwise their weights would not be exported.
    """

    def make(compute: Compute, *layers: Any) -> Any:
        class Network(paddle.nn.Layer):
            def __init__(self) -> None:
                super().__init__()
                unchanged = paddle.nn.initializer.Assign(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1))
                self.layers = paddle.nn.LayerList(layers)
                self.unchanged = paddle.nn.Conv2D(3, 3, 1, weight_attr=paddle.ParamAttr(initializer=unchanged))

            def forward(self, x: Any) -> Any:
                return compute(self.unchanged(x))

        return Network()

    return make


@pytest.fixture(scope="session")
def assert_as_paddle(paddle: Any, convert_network: Convert, network_of: Callable[..., Any]) -> Callable[..., None]:
    """Compare one conversion with Paddle on several inputs."""

    def compare(compute: Compute, inputs: list[Tensor], *layers: Any, **options: Any) -> None:
        assert inputs
        network = network_of(compute, *layers)
        network.eval()
        run = convert_network(network, **options)
        for tensor in inputs:
            with paddle.no_grad():
                wanted = network(paddle.to_tensor(tensor)).numpy()
            assert_same_values(run(tensor), wanted)

    return compare


def assert_same_values(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    largest = np.abs(wanted[np.isfinite(wanted)]).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * largest)


def random_inputs(*sizes: tuple[int, int, int], levels: int | None = None) -> list[Tensor]:
    """float32[N, 3, H, W], 0 to 1; with levels, whole numbers below them, so that many are equal."""
    random = np.random.default_rng(7)
    shapes = [(batch, 3, height, width) for batch, height, width in sizes]
    if levels is None:
        return [random.random(shape, dtype=np.float32) for shape in shapes]
    return [random.integers(0, levels, shape).astype(np.float32) for shape in shapes]

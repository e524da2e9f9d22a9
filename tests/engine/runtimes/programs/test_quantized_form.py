"""Which INT8 models a GPU takes; the models are made by onnx and by ONNX Runtime's own quantizer."""
# onnx ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import ModelLoadError, OnnxModel, OnnxOptions, Precision, Provider, open_bundle
from engine.runtimes.onnx import OnnxRuntime
from engine.runtimes.programs.quantized_form import symmetric_problem

NUCLEI = Path(__file__).parents[4] / "demo" / "nuclei.tgz"


def model(
    path: Path,
    zero: np.ndarray | None = None,
    *,
    of_weights: np.ndarray | None = None,
    bias: bool = False,
    raw: bool = True,
) -> Path:
    """x -> QuantizeLinear -> DequantizeLinear -> Add of a constant that was dequantized -> y."""
    zeros = [] if zero is None else ["zero"]
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        numpy_helper.from_array(np.full(4, 3, np.int32 if bias else np.int8), "weights"),
    ]
    if zero is not None:
        kind = TensorProto.INT8 if zero.dtype == np.int8 else TensorProto.UINT8
        constants.append(
            numpy_helper.from_array(zero, "zero")
            if raw
            else helper.make_tensor("zero", kind, zero.shape, zero.flatten().tolist())
        )
    if of_weights is not None:
        constants.append(numpy_helper.from_array(of_weights, "weights zero"))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", *zeros], ["q"], name="quantize x"),
        helper.make_node("DequantizeLinear", ["q", "scale", *zeros], ["d"], name="dequantize x"),
        helper.make_node(
            "DequantizeLinear",
            ["weights", "scale", *([] if of_weights is None else ["weights zero"])],
            ["w"],
            name="dequantize weights",
        ),
        helper.make_node("Add", ["d", "w"], ["y"], name="add"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("of_weights", [None, np.zeros((), np.int8)])
def test_values_around_zero_are_what_a_gpu_takes(raw: bool, of_weights: np.ndarray | None, tmp_path: Path) -> None:
    path = model(tmp_path / "model.onnx", np.zeros((), np.int8), of_weights=of_weights, raw=raw)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert symmetric_problem(path) is None


@pytest.mark.parametrize(
    ("zero", "more", "problem"),
    [
        (None, {}, "quantize x makes unsigned values"),
        (np.zeros((), np.uint8), {}, "the zero point of quantize x is not a constant of int8"),
        (np.array(128, np.uint8), {}, "the zero point of quantize x is not a constant of int8"),
        (np.array(3, np.int8), {}, "the zero point of quantize x is not 0"),
        (np.array(3, np.int8), {"raw": False}, "the zero point of quantize x is not 0"),
        (np.array(-1, np.int8), {"raw": False}, "the zero point of quantize x is not 0"),
        (np.zeros((), np.int8), {"of_weights": np.array(1, np.int8)}, "the zero point of dequantize weights is not 0"),
        (np.zeros((), np.int8), {"bias": True}, "dequantize weights quantizes a bias"),
    ],
)
def test_what_a_gpu_does_not_take(zero: np.ndarray | None, more: dict[str, bool], problem: str, tmp_path: Path) -> None:
    assert symmetric_problem(model(tmp_path / "model.onnx", zero, **more)) == problem  # pyright: ignore[reportArgumentType]


def test_a_network_in_floating_point(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert symmetric_problem(tmp_path / "model.onnx") == "it quantizes nothing"


@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
def test_a_model_for_cpus_is_refused_on_gpus_by_name(provider: Provider) -> None:
    with open_bundle(NUCLEI) as bundle:
        int8 = bundle.onnx_model(Precision.INT8)
        assert int8 is not None
        with pytest.raises(ModelLoadError, match=r"INT8 model for CPUs.*`pseg convert`, precision int8 and `for gpu`"):
            OnnxRuntime(OnnxModel(int8.path, Precision.INT8, int8.digest), OnnxOptions(provider, Precision.INT8))

"""A stack of large convolutions as an ONNX model: how fast a machine multiplies at best."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
# onnx and its quantizer ship no complete types.

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.options import Precision

LAYERS, CHANNELS, SIDE = 6, 256, 128
GFLOP = LAYERS * 2 * CHANNELS * CHANNELS * 9 * SIDE * SIDE / 1e9
"""Of one run; a multiplication and an addition are two."""


def write_stack(path: Path, precision: Precision) -> Path:
    """Write six convolutions of 3×3 over 256 channels and 128×128 pixels.

    Args:
        path: ONNX file; kept if it is there.
        precision: FP32, or INT8 as `pseg convert` makes it: static, per channel, with its scales inside.

    Returns:
        The path.
    """
    if path.is_file():
        return path
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []
    for layer in range(LAYERS):
        name = f"weight{layer}"
        scale = np.sqrt(2 / (9 * CHANNELS))
        values = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * scale).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, name))
        source = "x" if layer == 0 else f"active{layer - 1}"
        nodes += [
            onnx.helper.make_node("Conv", [source, name], [f"sum{layer}"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            onnx.helper.make_node("Relu", [f"sum{layer}"], [f"active{layer}"]),
        ]
    shape = [1, CHANNELS, SIDE, SIDE]
    graph = onnx.helper.make_graph(
        nodes,
        "convolutions",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(f"active{LAYERS - 1}", onnx.TensorProto.FLOAT, shape)],
        weights,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if precision is Precision.FP32:
        onnx.save(model, str(path))
    else:
        _quantize(model, path, rng.standard_normal(shape).astype(np.float32))
    return path


def _quantize(model: Any, path: Path, sample: "np.ndarray[Any, np.dtype[np.float32]]") -> None:  # noqa: ANN401
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class OneSample(CalibrationDataReader):
        """A single tensor."""

        def __init__(self) -> None:
            self._left = [{"x": sample}]

        def get_next(self) -> Any:  # noqa: ANN401
            """Hand it out once, then None."""
            return self._left.pop() if self._left else None

    with tempfile.TemporaryDirectory(prefix="convolutions-") as scratch:
        source = Path(scratch) / "fp32.onnx"
        onnx.save(model, str(source))
        quantize_static(
            str(source),
            str(path),
            OneSample(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

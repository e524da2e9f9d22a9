"""The smallest and largest value of every tensor of a network, on pictures.

They are reduced inside the graph, one picture at a time, so that memory does not grow with the number of pictures.
"""

# onnx and onnxruntime ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.graph_optimization import fold
from engine.bundle.bundle import OnnxModel, file_digest
from engine.errors import CalibrationError
from engine.options import OnnxOptions, Precision
from engine.runtimes import Tensor
from engine.runtimes.trial import prove_onnx_loadable
from engine.system.machine.cores import usable_cores

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Feeds = Mapping[str, Tensor]
Ranges = Mapping[str, tuple[float, float]]


PREPARED, EXTREMES = "prepared.onnx", "extremes.onnx"
"""Files in the folder of a rewrite: the model as it is rewritten, and the same with extremes as its outputs."""
_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceMean")


def prepared_for_rewrite(model: Path, folder: Path) -> "onnx.ModelProto":
    """Fold a model, name its nodes, and write it as `PREPARED`."""
    import onnx

    path = folder / PREPARED
    fold(model, folder, PREPARED)
    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(proto, path)
    return proto


def floating_tensors(proto: "onnx.ModelProto") -> list[str]:
    """List the tensors that depend on the picture and are FP32."""
    from onnx import TensorProto

    constants = {each.name for each in proto.graph.initializer}
    typed = [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]
    names = {
        each.name: None
        for each in typed
        if each.type.tensor_type.elem_type == TensorProto.FLOAT and each.name not in constants
    }
    return list(names)


def write_extremes(proto: "onnx.ModelProto", tensors: Sequence[str], path: Path) -> None:
    """Write the model with smallest and largest value and mean of each of `floating_tensors` as its outputs.

    The extremes pass over what is not a number; the mean does not.
    """
    import onnx
    from onnx import TensorProto, helper

    del proto.graph.output[:]
    for index, tensor in enumerate(tensors):
        for operator in _REDUCTIONS:
            name = f"pseg_{operator}_{index}"
            proto.graph.node.append(helper.make_node(operator, [tensor], [name], name=name, keepdims=0))
            proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    onnx.save(proto, path)


def measured_ranges(path: Path, tensors: Sequence[str], feeds: Iterable[Feeds], where: str) -> Ranges:
    """Measure the smallest and largest value of each tensor over all pictures, by the file of `write_extremes`.

    CalibrationError: a value is not finite.
    """
    lowest = np.full(len(tensors), np.inf, np.float32)
    highest = np.full(len(tensors), -np.inf, np.float32)
    session = _session(path)
    for number, each in enumerate(feeds, 1):
        found = np.array(session.run(None, dict(each)), np.float32).reshape(-1, len(_REDUCTIONS))
        extremes, means = found[:, :2], found[:, 2]
        # The sum of finite values may be infinite.
        finite = np.isfinite(extremes).all(axis=1) & ~np.isnan(means)
        if not finite.all():
            tensor = tensors[int(np.argmin(finite))]
            raise CalibrationError(
                f"{where}: tensor {tensor} is not finite on picture {number} of those that its range is measured on: "
                "leave that out"
            )
        lowest, highest = np.minimum(lowest, extremes[:, 0]), np.maximum(highest, extremes[:, 1])
    return {name: (float(low), float(high)) for name, low, high in zip(tensors, lowest, highest, strict=True)}


def _session(path: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    prove_onnx_loadable(OnnxModel(path, Precision.FP32, file_digest(path)), OnnxOptions(), load_marks=None)

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = usable_cores()
    settings.enable_mem_pattern = False
    settings.log_severity_level = 3
    # A tensor is reduced right after it was made. In the default order that may come last, and all stay in memory.
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"], enable_fallback=0)

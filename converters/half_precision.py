"""FP16 from an FP32 model, for GPUs: weights and activations are halved, inputs and outputs stay FP32.

The rewrite is that of onnxruntime. Squares and sums over many values stay in FP32, because FP16 ends at 65504, and
so do normalizations, which are made of them.
"""

# onnx and onnxruntime ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.graph_optimization import fold
from converters.rewriting import rewritten
from engine.errors import ConversionError

if TYPE_CHECKING:
    import onnx

_KEPT = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "Pow", "ReduceL2",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Sqrt",
)  # fmt: skip
_LARGEST = float(np.finfo(np.float16).max)


def to_half(model: Path, destination: Path) -> None:
    """Write the FP16 form of a model.

    Args:
        model: the FP32 ONNX file; operator set 11 or later.
        destination: the file to write; it takes and gives FP32.

    Raises:
        ConversionError: a weight does not fit into FP16, or the rewrite fails, or takes too much memory or time.
    """
    rewritten(_halve, model, destination.parent, destination.name)


def _halve(model: Path, folder: Path, name: str) -> None:
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    # The rewrite loses track of constants that are nodes: they must be initializers.
    fold(model, folder, name)
    source = onnx.load(folder / name)
    _require_range(source, model)
    try:
        half = ONNXModel(
            convert_float_to_float16(source, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_KEPT])
        )
        _skip_detours(half.model)
        half.topological_sort()
        onnx.checker.check_model(half.model, full_check=True)
    # The rewrite raises whatever its own steps raise.
    except Exception as error:
        raise ConversionError(f"{model.name}: onnxruntime cannot make FP16 of it ({error}): use FP32") from error
    onnx.save(half.model, folder / name)


def _require_range(source: "onnx.ModelProto", model: Path) -> None:
    """The rewrite would clip what does not fit, in silence."""
    from onnx import TensorProto, numpy_helper

    for tensor in source.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = np.abs(numpy_helper.to_array(tensor))
        largest = float(values.max(initial=0, where=np.isfinite(values)))
        if largest > _LARGEST:
            raise ConversionError(
                f"{model.name}: constant {tensor.name} holds {largest:g}, FP16 ends at {_LARGEST:g}: use FP32"
            )


def _skip_detours(half: "onnx.ModelProto") -> None:
    """Between two nodes in FP32 the rewrite goes through FP16, where the squares that it is to keep overflow."""
    from onnx import TensorProto, helper

    def casts(target: int) -> dict[str, str]:
        return {
            node.output[0]: node.input[0]
            for node in half.graph.node
            if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == target
        }

    kept = {node.output[0] for node in half.graph.node if node.op_type in _KEPT}
    halved = {name: source for name, source in casts(TensorProto.FLOAT16).items() if source in kept}
    detours = {name: halved[source] for name, source in casts(TensorProto.FLOAT).items() if source in halved}
    for node in half.graph.node:
        for index, name in enumerate(node.input):
            if node.op_type in _KEPT and name in detours:
                node.input[index] = detours[name]
    read = {name for node in half.graph.node for name in node.input} | {each.name for each in half.graph.output}
    for node in [each for each in half.graph.node if each.op_type == "Cast" and each.output[0] not in read]:
        half.graph.node.remove(node)

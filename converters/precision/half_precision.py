"""FP16 from an FP32 model, for GPUs: weights and activations are halved, inputs and outputs stay FP32.

The rewrite is that of onnxruntime. Squares and sums over many values stay in FP32, because FP16 ends at 65504, and
so do normalizations, which are made of them. What else takes or gives large values on pictures stays there, too: a
comparison on a CPU would not show that it overflows, since its kernels keep what lies between nodes in FP32.
"""

# onnx and onnxruntime ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.precision.activations import (
    EXTREMES,
    PREPARED,
    Feeds,
    floating_tensors,
    measured_ranges,
    prepared_for_rewrite,
    write_extremes,
)
from converters.rewrites.cutting import sort_nodes, taken_by
from converters.rewriting import rewritten
from engine.errors import ConversionError

if TYPE_CHECKING:
    import onnx

_KEPT = (
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "Pow", "ReduceL2",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Sqrt",
)  # fmt: skip
_LARGEST = float(np.finfo(np.float16).max)
LARGEST_IN_HALF = 30_000.0
"""Larger values stay in FP32: other pictures may give twice as much."""


@dataclass(frozen=True, slots=True)
class Halved:
    """What is known of an FP16 model."""

    largest_activation: float  # absolute value, in the FP32 model, on the pictures
    kept_nodes: tuple[str, ...]  # left in FP32, since they take or give values above `LARGEST_IN_HALF`


def to_half(model: Path, destination: Path, feeds: Iterable[Feeds], *, where: str) -> Halved:
    """Write the FP16 form of an FP32 ONNX file (operator set 11 or later), which takes and gives FP32.

    The pictures, as the network gets them, tell how large its values become. ConversionError: a weight does not fit
    into FP16, or the rewrite fails, or takes too much memory or time. CalibrationError: a value is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="halving-", dir=destination.parent) as name:
        folder = Path(name)
        found = rewritten(_prepare, model, folder)
        ranges = measured_ranges(folder / EXTREMES, found["tensors"], feeds, where)
        largest = {tensor: max(abs(low), abs(high)) for tensor, (low, high) in ranges.items()}
        large = {tensor for tensor, value in largest.items() if value > LARGEST_IN_HALF}
        kept = tuple(each for each, tensors in found["nodes"] if not large.isdisjoint(tensors))
        rewritten(_halve, folder / PREPARED, folder, destination.name, model.name, kept)
        (folder / destination.name).replace(destination)
    return Halved(max(largest.values(), default=0.0), kept)


def _prepare(model: Path, folder: Path) -> dict[str, object]:
    # The rewrite loses track of constants that are nodes: folding makes them initializers.
    proto = prepared_for_rewrite(model, folder)
    nodes = [(node.name, [*node.input, *node.output]) for node in proto.graph.node]
    tensors = floating_tensors(proto)
    write_extremes(proto, tensors, folder / EXTREMES)
    return {"tensors": tensors, "nodes": nodes}


def _halve(model: Path, folder: Path, name: str, known_as: str, kept: Sequence[str]) -> None:
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    source = onnx.load(model)
    _require_range(source, known_as)
    try:
        half = ONNXModel(
            convert_float_to_float16(
                source, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_KEPT], node_block_list=[*kept]
            )
        )
        _skip_detours(half.model, frozenset(kept))
        sort_nodes(half.model.graph)
        onnx.checker.check_model(half.model, full_check=True)
    # The rewrite raises whatever its own steps raise.
    except Exception as error:
        raise ConversionError(f"{known_as}: onnxruntime cannot make FP16 of it ({error}): use FP32") from error
    onnx.save(half.model, folder / name)


def _require_range(source: "onnx.ModelProto", known_as: str) -> None:
    """The rewrite would clip what does not fit, in silence."""
    from onnx import TensorProto, numpy_helper

    for tensor in source.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = np.abs(numpy_helper.to_array(tensor))
        largest = float(values.max(initial=0, where=np.isfinite(values)))
        if largest > _LARGEST:
            raise ConversionError(
                f"{known_as}: constant {tensor.name} holds {largest:g}, FP16 ends at {_LARGEST:g}: use FP32"
            )


def _skip_detours(half: "onnx.ModelProto", kept_nodes: frozenset[str]) -> None:
    """Between nodes in FP32, and to inputs and outputs, the rewrite goes through FP16, where large values overflow."""
    from onnx import TensorProto, helper

    def casts(target: int) -> dict[str, str]:
        return {
            node.output[0]: node.input[0]
            for node in half.graph.node
            if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == target
        }

    def stays(node: "onnx.NodeProto") -> bool:
        return node.op_type in _KEPT or node.name in kept_nodes

    # Whole numbers, which an input may hold, too, become floating point by a cast of the network's own.
    floating = frozenset(floating_tensors(half))
    kept = {node.output[0] for node in half.graph.node if stays(node)} | {each.name for each in half.graph.input}
    kept &= floating
    halved = {name: source for name, source in casts(TensorProto.FLOAT16).items() if source in kept}
    detours = {name: halved[source] for name, source in casts(TensorProto.FLOAT).items() if source in halved}
    outputs = {each.name for each in half.graph.output}
    for node in half.graph.node:
        for index, name in enumerate(node.input):
            to_output = node.op_type == "Cast" and node.output[0] in outputs and name in halved
            if to_output:
                node.input[index] = halved[name]
            elif stays(node) and name in detours:
                node.input[index] = detours[name]
    read = {name for node in half.graph.node for name in taken_by(node)} | outputs
    for node in [each for each in half.graph.node if each.op_type == "Cast" and each.output[0] not in read]:
        half.graph.node.remove(node)

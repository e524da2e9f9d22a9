"""Which kind of INT8 an ONNX file holds, read without ONNX Runtime.

A CPU runs activations of any zero point. TensorRT takes signed values around zero only, and biases in floating point;
on CUDA other kinds run as kernels of their own between layers in floating point, slower than without INT8.

Source: onnx 1.17, ``onnx/onnx.proto3`` (numbers of fields), and NVIDIA's support matrix of QuantizeLinear.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from engine.errors import ModelLoadError
from engine.runtimes.programs.protobuf import fields_numbered, fields_with_length, whole_numbers

_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_TENSOR = 7, 1, 5
_NODE_INPUT, _NODE_NAME, _NODE_TYPE = 1, 3, 4
_TENSOR_TYPE, _TENSOR_INT32, _TENSOR_NAME, _TENSOR_RAW = 2, 5, 8, 9
_INT8, _INT32 = 3, 6
_QUANTIZE, _DEQUANTIZE = b"QuantizeLinear", b"DequantizeLinear"
_Part = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Node:
    kind: bytes
    name: str
    inputs: tuple[bytes, ...]


def symmetric_problem(path: Path) -> str | None:
    """Say, by the name of a node, what keeps a GPU from running an INT8 model as it was certified; None: nothing.

    The file is whole, as `require_whole_model` proves; ModelLoadError if it is no protocol buffer.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return _problem(content)
    except ValueError as error:
        where = "/".join(path.parts[-3:])
        raise ModelLoadError(f"{where} is damaged ({error}): fetch or convert the bundle again") from error


def require_symmetric(path: Path) -> None:
    """Refuse an INT8 model that was made for CPUs, with a ModelLoadError that says how to make one for GPUs."""
    problem = symmetric_problem(path)
    if problem is not None:
        where = "/".join(path.parts[-3:])
        raise ModelLoadError(
            f"{where} is an INT8 model for CPUs, which GPUs do not run as it was certified ({problem}): make one with "
            "`pseg convert`, precision int8 and `for gpu`, or use precision fp16 or fp32"
        )


def _problem(content: mmap) -> str | None:
    (graph,) = list(fields_numbered(content, _MODEL_GRAPH, (0, len(content))))[:1] or [(0, 0)]
    tensors = {name: part for part in fields_numbered(content, _GRAPH_TENSOR, graph) for name in _names(content, part)}
    nodes = [_node(content, part) for part in fields_numbered(content, _GRAPH_NODE, graph)]
    steps = [each for each in nodes if each.kind in {_QUANTIZE, _DEQUANTIZE}]
    if not steps:
        return "it quantizes nothing"
    for node in steps:
        source, zero = tensors.get(node.inputs[0]), node.inputs[2] if len(node.inputs) > 2 else b""
        if node.kind == _DEQUANTIZE and source is not None and _type(content, source) == _INT32:
            return f"{node.name} quantizes a bias"
        if not zero and node.kind == _QUANTIZE:
            return f"{node.name} makes unsigned values"
        if zero:
            offset = tensors.get(zero)
            if offset is None or _type(content, offset) != _INT8:
                return f"the zero point of {node.name} is not a constant of int8"
            if not _is_zero(content, offset):
                return f"the zero point of {node.name} is not 0"
    return None


def _node(content: mmap, part: _Part) -> _Node:
    fields = [(number, content[first:last]) for number, first, last in fields_with_length(content, *part)]
    named = {number: value for number, value in fields if number in {_NODE_NAME, _NODE_TYPE}}
    name = named.get(_NODE_NAME, b"").decode(errors="replace") or "a node without a name"
    inputs = tuple(value for number, value in fields if number == _NODE_INPUT)
    return _Node(named.get(_NODE_TYPE, b""), name, inputs)


def _names(content: mmap, part: _Part) -> Iterator[bytes]:
    return (content[first:last] for first, last in fields_numbered(content, _TENSOR_NAME, part))


def _type(content: mmap, part: _Part) -> int:
    return next((value for number, value in whole_numbers(content, *part) if number == _TENSOR_TYPE), 0)


def _is_zero(content: mmap, part: _Part) -> bool:
    """Its values lie in one field of raw bytes, or as numbers, packed or one by one."""
    packed = any(
        any(content[first:last])
        for number, first, last in fields_with_length(content, *part)
        if number in {_TENSOR_RAW, _TENSOR_INT32}
    )
    return not packed and not any(value for number, value in whole_numbers(content, *part) if number == _TENSOR_INT32)

"""Which kind of INT8 an ONNX file holds, read without ONNX Runtime.

A CPU runs activations of any zero point. TensorRT takes signed values around zero only, and biases in floating point;
on CUDA other kinds run as kernels of their own between layers in floating point, slower than without INT8.

Source: NVIDIA's support matrix of QuantizeLinear.
"""

from pathlib import Path

from engine.errors import ModelLoadError
from engine.runtimes.programs.onnx_files import Element, Weight, graph_of, operators, weights
from engine.runtimes.programs.protobuf import Message, Part, in_file

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def symmetric_problem(path: Path) -> str | None:
    """Say, by the name of a node, what keeps a GPU from running an INT8 model as it was certified; None: nothing.

    The file is whole, as `require_whole_model` proves; ModelLoadError if it is no protocol buffer.
    """
    try:
        return in_file(path, _problem)
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


def _problem(model: Message) -> str | None:
    graph = graph_of(model)
    stored = weights(model, graph)
    steps = [each for each in operators(model, graph) if each.kind in {_QUANTIZE, _DEQUANTIZE}]
    if not steps:
        return "it quantizes nothing"
    for node in steps:
        name = node.name or "a node without a name"
        if not node.inputs:
            raise ValueError(f"{name} takes nothing")
        source, zero = stored.get(node.inputs[0]), node.inputs[2] if len(node.inputs) > 2 else ""
        if node.kind == _DEQUANTIZE and source is not None and _element(model, source) == Element.INT32:
            return f"{name} quantizes a bias"
        if not zero and node.kind == _QUANTIZE:
            return f"{name} makes unsigned values"
        if zero:
            offset = stored.get(zero)
            if offset is None or _element(model, offset) != Element.INT8:
                return f"the zero point of {name} is not a constant of int8"
            if not _is_zero(model, offset):
                return f"the zero point of {name} is not 0"
    return None


def _element(model: Message, weight: Part) -> int:
    return next(model.numbers(Weight.ELEMENT, weight), 0)


def _is_zero(model: Message, weight: Part) -> bool:
    raw = any(any(model.content[first:last]) for first, last in model.fields(Weight.RAW, weight))
    return not raw and not any(model.numbers(Weight.NUMBERS, weight))

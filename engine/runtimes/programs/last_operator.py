"""What a network does to its scores last, read from the model's file without the library that runs it.

Whether scores are logits or probabilities cannot be told from the values of one image, which may lie within 0–1 either
way; the program says it.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from engine.bundle.bundle import OnnxModel, PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes.programs import Operator
from engine.runtimes.programs.onnx_files import Graph, graph_of, graph_values
from engine.runtimes.programs.onnx_files import operators as onnx_operators
from engine.runtimes.programs.paddle_programs import operators
from engine.runtimes.programs.protobuf import Message, in_file


class LastOperator(StrEnum):
    """The operator that decides what the values of the output are."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    ARGMAX = "argmax"
    OTHER = "none of these"
    """The values are scores without a stated range, logits as a rule."""


_KNOWN: Mapping[str, LastOperator] = {
    "sigmoid": LastOperator.SIGMOID,
    "softmax": LastOperator.SOFTMAX,
    "argmax": LastOperator.ARGMAX,
    "arg_max": LastOperator.ARGMAX,
}
_KEEPS_THE_VALUES = frozenset(
    {
        *("assign", "cast", "fetch", "identity", "share_data", "share_data_", "shadow_output"),
        "scale",  # by 1, as Paddle 2 puts it in front of every output; other values leave 0–1, which is checked
        *("reshape", "reshape2", "squeeze", "squeeze2", "transpose", "transpose2", "unsqueeze", "unsqueeze2"),
        *("bilinear_interp", "bilinear_interp_v2", "nearest_interp", "nearest_interp_v2", "resize"),
        *("quantizelinear", "dequantizelinear", "quantize_linear", "dequantize_linear"),
    }
)
"""Operators, in lower case, behind which the values are still what they were before: copies, shapes, sizes, types."""


def last_operator(model: PaddleModel | OnnxModel) -> LastOperator:
    """Find what a network does to its scores last, from its first output backwards through copies and changes of shape.

    Weights are not read. ModelLoadError: the file is no program, or larger than any network's: 16 MiB without weights,
    a million fields (operators, their values and attributes).
    """
    path = model.path if isinstance(model, OnnxModel) else model.program
    try:
        if isinstance(model, OnnxModel):
            return in_file(path, _of_onnx)
        steps = operators(model)
        fetched = [name for each in steps if each.kind == "fetch" for name in each.inputs]
        if not fetched:
            raise ValueError("it returns nothing")
        return _traced(steps, fetched[0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelLoadError(f"{path.name} cannot be read ({error}): export or convert the bundle again") from error


def _of_onnx(model: Message) -> LastOperator:
    graph = graph_of(model)
    steps = list(onnx_operators(model, graph))
    return _traced(steps, next(graph_values(model, graph, Graph.OUTPUT)).name)


def _traced(steps: Sequence[Operator], value: str) -> LastOperator:
    makers = {made: each for each in steps if each.kind != "fetch" for made in each.outputs}
    for _ in range(len(makers)):
        maker = makers.get(value)
        kind = "" if maker is None else maker.kind.lower()
        if kind in _KNOWN:
            return _KNOWN[kind]
        if maker is None or kind not in _KEEPS_THE_VALUES or not maker.inputs:
            return LastOperator.OTHER
        value = maker.inputs[0]
    return LastOperator.OTHER

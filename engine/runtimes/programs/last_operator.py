"""What a network does to its scores last, read from the model's file without the library that runs it.

Whether scores are logits or probabilities cannot be told from the values of one image, which may lie within 0–1 either
way; the program says it.
"""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from engine.bundle.bundle import OnnxModel, PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes.programs.protobuf import Message, in_file, require_program_size


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
        *("assign", "cast", "fetch", "identity", "share_data_", "shadow_output"),
        "scale",  # by 1, as Paddle 2 puts it in front of every output; other values leave 0–1, which is checked
        *("reshape", "reshape2", "squeeze", "squeeze2", "transpose", "transpose2", "unsqueeze", "unsqueeze2"),
        *("bilinear_interp", "bilinear_interp_v2", "nearest_interp", "nearest_interp_v2", "resize"),
        *("quantizelinear", "dequantizelinear", "quantize_linear", "dequantize_linear"),
    }
)
"""Operators, in lower case, behind which the values are still what they were before: copies, shapes, sizes, types."""

_Operator = tuple[str, Sequence[str]]
"""Name in lower case, and the values that it takes."""

_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_OUTPUT = 7, 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _VALUE_NAME = 1, 2, 4, 1
"""Numbers of fields in ``onnx.proto3``."""
_BLOCKS, _OPERATORS, _INPUTS, _OUTPUTS, _TYPE, _ARGUMENTS = 1, 4, 1, 2, 3, 2
"""Numbers of fields in Paddle's ``framework.proto``."""


def last_operator(model: PaddleModel | OnnxModel) -> LastOperator:
    """Find what a network does to its scores last, from its first output backwards through copies and changes of shape.

    Weights are not read. ModelLoadError: the file is no program, or larger than any network's: 16 MiB without weights,
    a million fields (operators, their values and attributes).
    """
    path = model.path if isinstance(model, OnnxModel) else model.program
    try:
        if isinstance(model, PaddleModel):
            require_program_size(path)
        if isinstance(model, PaddleModel) and model.kind != "pdmodel":
            return _of_pir(path)
        return in_file(path, _of_onnx if isinstance(model, OnnxModel) else _of_pdmodel)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ModelLoadError(f"{path.name} cannot be read ({error}): export or convert the bundle again") from error


def _traced(makers: Mapping[str, _Operator], value: str) -> LastOperator:
    for _ in range(len(makers)):
        name, taken = makers.get(value, ("", ()))
        if name in _KNOWN:
            return _KNOWN[name]
        if name not in _KEEPS_THE_VALUES or not taken:
            return LastOperator.OTHER
        value = taken[0]
    return LastOperator.OTHER


def _of_pir(program: Path) -> LastOperator:
    operations: list[dict[str, Any]] = json.loads(program.read_text(encoding="utf-8"))["program"]["regions"][0][
        "blocks"
    ][0]["ops"]
    makers: dict[str, _Operator] = {}
    fetched: list[str] = []
    for operation in operations:
        name = str(operation["#"]).rpartition(".")[2].lower()
        taken = [str(each["%"]) for each in operation.get("I", [])]
        if name == "fetch":
            fetched += taken
        # A weight makes one value, which stands by itself; everything else makes a list of them.
        made: list[dict[str, Any]] = [operation["O"]] if name == "p" else operation["O"]
        makers.update((str(each["%"]), (name, taken)) for each in made)
    return _traced(makers, fetched[0])


def _of_pdmodel(program: Message) -> LastOperator:
    makers: dict[str, _Operator] = {}
    fetched: list[str] = []
    block = next(program.fields(_BLOCKS))
    for operator in program.fields(_OPERATORS, block):
        name = next(program.texts(_TYPE, operator)).lower()
        taken, made = (
            [
                argument
                for variable in program.fields(side, operator)
                for argument in program.texts(_ARGUMENTS, variable)
            ]
            for side in (_INPUTS, _OUTPUTS)
        )
        if name == "fetch":
            fetched += taken
        else:
            makers.update((each, (name, taken)) for each in made)
    return _traced(makers, fetched[0])


def _of_onnx(model: Message) -> LastOperator:
    graph = next(model.fields(_MODEL_GRAPH))
    makers: dict[str, _Operator] = {}
    for node in model.fields(_GRAPH_NODE, graph):
        name = next(model.texts(_NODE_TYPE, node)).lower()
        taken = list(model.texts(_NODE_INPUT, node))
        makers.update((each, (name, taken)) for each in model.texts(_NODE_OUTPUT, node))
    output = next(model.fields(_GRAPH_OUTPUT, graph))
    return _traced(makers, next(model.texts(_VALUE_NAME, output)))

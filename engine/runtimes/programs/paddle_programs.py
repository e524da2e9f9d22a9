"""Programs of Paddle, read without Paddle: what one takes and returns, and its operators.

Paddle 3 writes them as JSON (PIR), Paddle 2 as protocol buffers (`.pdmodel`).

Source: paddle 3.2, ``paddle/fluid/framework/framework.proto`` (numbers of fields and types).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from engine.bundle.bundle import PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes import TensorSpec
from engine.runtimes.programs import Operator
from engine.runtimes.programs.protobuf import Message, Part, in_file, not_negative, require_program_size
from engine.system.settings_files import object_of_unique_keys

TensorSpecs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""What a program takes, and what it returns."""

Axes = tuple[int | None, ...]
_Found = TypeVar("_Found")

_PIR_DTYPES: Mapping[str, type[np.generic]] = {
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "ui8": np.uint8, "i8": np.int8, "i16": np.int16,
    "i32": np.int32, "i64": np.int64, "bool": np.bool_,
}  # fmt: skip
_PDMODEL_DTYPES: Mapping[int, type[np.generic]] = {
    0: np.bool_, 1: np.int16, 2: np.int32, 3: np.int64, 4: np.float16, 5: np.float32, 6: np.float64, 20: np.uint8,
    21: np.int8,
}  # fmt: skip

_BLOCK = 1
_VARIABLE, _OPERATOR = 3, 4
_INPUT, _OUTPUT, _KIND, _ARGUMENT = 1, 2, 3, 2
_NAME, _TYPE, _DENSE_TENSOR, _TENSOR, _ELEMENT, _AXIS = 1, 2, 3, 1, 1, 2
"""Numbers of the fields of a program, a block, an operator, and a variable."""


def tensor_specs(model: PaddleModel) -> TensorSpecs:
    """Read inputs and outputs of a program; ModelLoadError if it is none, or larger than any network's."""
    if model.kind == "pir":
        return pir_tensor_specs(_text_of(model))
    return _of_pdmodel(model, _pdmodel_tensor_specs)


def input_axes(model: PaddleModel) -> list[Axes]:
    """Read the lengths of the axes of each input, None where one is left open; ModelLoadError as of `tensor_specs`."""
    if model.kind == "pir":
        return [each.shape for each in pir_tensor_specs(_text_of(model))[0]]
    return _of_pdmodel(model, _pdmodel_input_axes)


def _text_of(model: PaddleModel) -> str:
    try:
        require_program_size(model.program)
        return model.program.read_text(encoding="utf-8")
    except ValueError as error:
        raise ModelLoadError(f"the program is not PIR JSON of Paddle 3 ({error}): export the model again") from error


def _of_pdmodel(model: PaddleModel, read: Callable[[Message], _Found]) -> _Found:
    try:
        require_program_size(model.program)
        return in_file(model.program, read)
    except ValueError as error:
        raise ModelLoadError(f"the program is not a .pdmodel of Paddle 2 ({error}): fetch the bundle again") from error


def pir_tensor_specs(program: str) -> TensorSpecs:
    """Read inputs and outputs from the text of `model.json`; ModelLoadError if it is no PIR program."""
    try:
        operations = _pir_operations(program)
        inputs = [op for op in operations if op["#"].rpartition(".")[2] in {"data", "feed"}]
        outputs = [op for op in operations if op["#"].rpartition(".")[2] == "fetch"]
        return tuple(map(_pir_spec, inputs)), tuple(map(_pir_spec, outputs))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelLoadError(f"the program is not PIR JSON of Paddle 3 ({error}): export the model again") from error


def operators(model: PaddleModel) -> list[Operator]:
    """Read the operators of the main block, in its order.

    ValueError, KeyError, IndexError, TypeError, AttributeError or RecursionError: the file is no program, or larger
    than any network's.
    """
    require_program_size(model.program)
    if model.kind == "pir":
        return [_pir_operator(each) for each in _pir_operations(model.program.read_text(encoding="utf-8"))]
    return in_file(model.program, lambda program: list(_pdmodel_operators(program, next(program.fields(_BLOCK)))))


def operator_names(model: PaddleModel) -> Iterator[str]:
    """Read the names of the operators, wherever they stand; ModelLoadError if the file is no program."""
    if model.kind == "pir":
        yield from _pir_operator_names(model.program)
        return
    if not model.program.stat().st_size:
        raise ModelLoadError(f"{model.program.name} is empty: fetch or export the bundle again")
    try:
        yield from in_file(model.program, lambda program: list(_pdmodel_operator_names(program)))
    except ValueError as error:
        raise ModelLoadError(f"{model.program.name} is damaged ({error}): fetch or export the bundle again") from error


def _pir_operations(program: str) -> list[dict[str, Any]]:
    return json.loads(program)["program"]["regions"][0]["blocks"][0]["ops"]


def _pir_spec(operation: dict[str, Any]) -> TensorSpec:
    attributes = {each["N"]: each["AT"].get("D") for each in operation["A"]}
    dtype, axes, *_ = operation["O"][0]["TT"]["D"]
    return TensorSpec(
        name=attributes["name"],
        dtype=np.dtype(_PIR_DTYPES[dtype["#"].rpartition("t_")[2]]),
        shape=tuple(None if axis < 0 else axis for axis in axes),
    )


def _pir_operator(operation: dict[str, Any]) -> Operator:
    kind = str(operation["#"]).rpartition(".")[2]
    # A weight makes one value, which stands by itself; everything else makes a list of them.
    made: list[dict[str, Any]] = [operation["O"]] if kind == "p" else operation["O"]
    taken: list[dict[str, Any]] = operation.get("I", [])
    return Operator(kind, tuple(str(each["%"]) for each in taken), tuple(str(each["%"]) for each in made))


def _pdmodel_tensor_specs(program: Message) -> TensorSpecs:
    fed, fetched = _pdmodel_tensors(program)
    return tuple(_pdmodel_spec(program, *each) for each in fed), tuple(
        _pdmodel_spec(program, *each) for each in fetched
    )


def _pdmodel_input_axes(program: Message) -> list[Axes]:
    fed, _ = _pdmodel_tensors(program)
    return [_pdmodel_axes(program, tensor) for _, tensor in fed]


def _pdmodel_tensors(program: Message) -> tuple[list[tuple[str, Part]], list[tuple[str, Part]]]:
    """Names and descriptions of what is fed and fetched."""
    block = next(program.fields(_BLOCK))
    variables = {name: each for each in program.fields(_VARIABLE, block) for name in program.texts(_NAME, each)}

    def tensor_of(names: Sequence[str]) -> tuple[str, Part]:
        variable = next((variables[name] for name in names[:1] if name in variables), None)
        if variable is None:
            raise ValueError("an input or output is no variable")
        return names[0], next(program.nested(variable, _TYPE, _DENSE_TENSOR, _TENSOR))

    found = list(_pdmodel_operators(program, block))
    fed = [tensor_of(each.outputs) for each in found if each.kind == "feed"]
    return fed, [tensor_of(each.inputs) for each in found if each.kind == "fetch"]


def _pdmodel_spec(program: Message, name: str, tensor: Part) -> TensorSpec:
    element = next(program.numbers(_ELEMENT, tensor))
    if element not in _PDMODEL_DTYPES:
        raise ValueError(f"{name} is of type {element}, which no network takes or returns")
    return TensorSpec(name, np.dtype(_PDMODEL_DTYPES[element]), _pdmodel_axes(program, tensor))


def _pdmodel_axes(program: Message, tensor: Part) -> Axes:
    return tuple(map(not_negative, program.numbers(_AXIS, tensor)))


def _pdmodel_operators(program: Message, block: Part) -> Iterator[Operator]:
    for operator in program.fields(_OPERATOR, block):
        kind = next(program.texts(_KIND, operator), "")
        if not kind:
            raise ValueError("an operator has no type")
        taken, made = (
            tuple(
                argument
                for variable in program.fields(side, operator)
                for argument in program.texts(_ARGUMENT, variable)
            )
            for side in (_INPUT, _OUTPUT)
        )
        yield Operator(kind, taken, made)


def _pdmodel_operator_names(program: Message) -> Iterator[str]:
    for block in program.fields(_BLOCK):
        for operator in program.fields(_OPERATOR, block):
            yield from program.texts(_KIND, operator)


def _pir_operator_names(program: Path) -> Iterator[str]:
    """Names of the operators of a PIR program, wherever they stand."""
    try:
        pending: list[object] = [
            json.loads(program.read_text(encoding="utf-8"), object_pairs_hook=object_of_unique_keys)
        ]
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{program.name} is not PIR JSON of Paddle 3 ({error}): export the model again") from error
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            entries = cast("dict[str, object]", value)
            operators = entries.get("ops")
            if isinstance(operators, list):
                for each in cast("list[object]", operators):
                    yield str(cast("dict[str, object]", each).get("#", "")) if isinstance(each, dict) else "?.?"
            pending += entries.values()
        elif isinstance(value, list):
            pending += cast("list[object]", value)

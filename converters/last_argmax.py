"""The argmax at the end of a network is cut off, so that the network returns the scores that it was taken of."""

# Nothing else of a program or graph is changed, and its format stays, so that the scores are those that the network
# computed before: their argmax is the old mask. All of this runs in a child process (`converters.rewriting`).

# paddle and onnx ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.rewrites.cutting import taken_by
from converters.rewrites.program import FREE, Program
from engine.errors import ConversionError

_KEEPS_INDICES = frozenset(
    {
        *("assign", "cast", "identity", "share_data", "share_data_", "shadow_output"),
        *("squeeze", "squeeze2", "unsqueeze", "unsqueeze2"),
    }
)
"""Operators, in lower case, behind which class indices are still what they were."""
_ARGMAX = frozenset({"argmax", "arg_max"})
_CLASS_AXES = frozenset({1, -3})
"""Of scores [N, classes, H, W]."""
_REMEDY = "export the network again without an argmax at its end (`pseg export` does so by default)"


@dataclass(frozen=True, slots=True)
class _Step:
    """An operator on the way from the output back to the argmax."""

    kind: str  # name of the operator, in lower case
    takes: str  # the first value that it takes; empty if it takes none
    axis: int | None = None  # of an argmax; None where it is unknown or all axes are one
    by_one: bool = False  # of a scale: it multiplies by one and adds nothing


def cut_program(program: Path, folder: Path, name: str) -> None:
    """Cut the last argmax off a Paddle program, `.json` (PIR) or `.pdmodel`; its weights stay what they are.

    ConversionError: there is no last argmax over classes, or the program cannot be read.
    """
    cut = _cut_pir if program.suffix == ".json" else _cut_pdmodel
    cut(program, folder / name)


def cut_graph(model: Path, folder: Path, name: str) -> None:
    """Cut the last argmax off an ONNX graph.

    ConversionError: there is no last argmax over classes.
    """
    import onnx

    proto = onnx.shape_inference.infer_shapes(onnx.load(model))
    graph = proto.graph
    makers = {made: node for node in graph.node for made in node.output if made}

    def step_of(value: str) -> _Step | None:
        node = makers.get(value)
        if node is None:
            return None
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        axis = None if attributes.get("select_last_index") else attributes.get("axis", 0)
        return _Step(node.op_type.lower(), next(iter(node.input), ""), axis)

    scores, indices = _before_argmax(graph.output[0].name, step_of)
    typed = {each.name: each for each in (*graph.value_info, *graph.input)}
    if scores not in typed:
        raise ConversionError(f"the shape of what its last argmax takes cannot be told: {_REMEDY}")
    described = typed[scores].type.tensor_type
    axes = [axis.dim_value or FREE for axis in described.shape.dim]
    _require_scores(axes, is_floating=described.elem_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
    graph.output[0].CopyFrom(typed[scores])
    _drop_unused(graph.node, indices, makers, taken_by, {each.name for each in graph.output})
    onnx.checker.check_model(proto)
    onnx.save(proto, folder / name)


def _before_argmax(output: str, step_of: Callable[[str], _Step | None]) -> tuple[str, tuple[str, ...]]:
    """Go back from the output, over operators that keep class indices, to the argmax.

    Returns the value that the argmax takes, and the values behind it, from the output on.
    """
    indices = [output]
    step = step_of(output)
    while step is not None and (step.kind in _KEEPS_INDICES or step.by_one) and step.takes not in indices:
        indices.append(step.takes)
        step = step_of(step.takes)
    if step is None or step.kind not in _ARGMAX:
        ending = "an input" if step is None else f"the operator {step.kind!r}"
        raise ConversionError(
            f"no last argmax is found: the output comes from {ending}; if these are scores already, convert the bundle "
            f"without asking for scores, otherwise {_REMEDY}"
        )
    if step.axis not in _CLASS_AXES:
        along = "an unknown axis" if step.axis is None else f"axis {step.axis}"
        raise ConversionError(
            f"the last argmax runs along {along}, and scores [N, classes, H, W] have their classes in axis 1: {_REMEDY}"
        )
    return step.takes, tuple(indices)


def _require_scores(axes: Iterable[int], *, is_floating: bool) -> None:
    shape = tuple(axes)
    if len(shape) != 4 or shape[1] == 1 or not is_floating:
        described = "×".join("any" if each == FREE else str(each) for each in shape)
        raise ConversionError(
            f"the last argmax takes {described} values, and scores are [N, classes, H, W] in floating point, with at "
            f"least two classes: {_REMEDY}"
        )


def _cut_pir(path: Path, destination: Path) -> None:
    program = Program.read(path)
    fetch = next(each for each in program.operations if each.kind == "fetch")

    def step_of(value: str) -> _Step | None:
        maker = program.maker(int(value))
        if maker is None or not maker.inputs:
            return None
        if maker.kind in _ARGMAX:
            axis = None if maker.get("flatten") else program.scalar(maker.inputs[1])
            return _Step(maker.kind, str(maker.inputs[0]), None if axis is None else int(axis))
        by_one = maker.kind == "scale" and not maker.get("bias") and program.scalar(maker.inputs[1]) == 1
        return _Step(maker.kind, str(maker.inputs[0]), by_one=by_one)

    found, _ = _before_argmax(str(fetch.inputs[0]), step_of)
    scores = program.value(int(found))
    _require_scores(scores.shape, is_floating=scores.dtype.startswith("float"))
    fetch.entry["I"] = [{"%": scores.number}]
    fetch.entry["O"][0]["TT"] = scores.type
    program.drop_unused()
    program.write(destination)


def _cut_pdmodel(path: Path, destination: Path) -> None:
    from paddle.base.proto import framework_pb2

    program: Any = framework_pb2.ProgramDesc()
    program.ParseFromString(path.read_bytes())
    block = program.blocks[0]
    makers = {made: each for each in block.ops for made in _arguments(each.outputs)}
    fetch = next(each for each in block.ops if each.type == "fetch")

    def step_of(value: str) -> _Step | None:
        maker = makers.get(value)
        taken = () if maker is None else _arguments(maker.inputs)
        if maker is None or not taken:
            return None
        attributes = {each.name: each for each in maker.attrs}
        if maker.type in _ARGMAX:
            axis = None if attributes["flatten"].b else attributes["axis"].l
            return _Step(maker.type, taken[0], axis)
        by_one = maker.type == "scale" and len(taken) == 1 and attributes["scale"].f == 1 and not attributes["bias"].f
        return _Step(maker.type, taken[0], by_one=by_one)

    scores, indices = _before_argmax(_arguments(fetch.inputs)[0], step_of)
    described = next(each for each in block.vars if each.name == scores).type.dense_tensor.tensor
    floating = {framework_pb2.VarType.FP16, framework_pb2.VarType.FP32, framework_pb2.VarType.FP64}
    _require_scores(described.dims, is_floating=described.data_type in floating)
    fetch.inputs[0].arguments[0] = scores
    _drop_unused(block.ops, indices, makers, lambda each: _arguments(each.inputs))
    destination.write_bytes(program.SerializeToString(deterministic=True))


def _arguments(sides: Any) -> list[str]:  # noqa: ANN401 - a protobuf list
    return [argument for side in sides for argument in side.arguments]


def _drop_unused(
    operators: Any,  # noqa: ANN401 - a protobuf list
    values: Sequence[str],
    makers: Mapping[str, Any],
    inputs_of: Callable[[Any], Collection[str]],
    outputs: Collection[str] = (),
) -> None:
    """Drop what makes these values, up to the first that another operator or an output takes."""
    for value in values:
        if value in outputs or any(value in inputs_of(each) for each in operators):
            return
        operators.remove(makers[value])

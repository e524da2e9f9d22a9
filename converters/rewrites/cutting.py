"""Operators are cut out of a program before its conversion; standard ONNX operators are joined in afterwards."""

# What an operator takes becomes an output of the program, and what it makes an input, so that the converter never sees
# it. In the ONNX graph those outputs and inputs have the names that were given here, and a subgraph is put between
# them.

# onnx ships no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from converters.rewrites.program import Operation, Program, Value
from converters.rewrites.subgraph import Subgraph
from engine.errors import ConversionError

if TYPE_CHECKING:
    import onnx

_PREFIX = "rewritten"


class Rewrite(Protocol):
    """What stands for an operator."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the values that the subgraph takes."""
        ...

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        """Add the nodes; names of tensors are in the order of `inputs` and of the operator's outputs."""
        ...


Find = Callable[[Operation, Program], Rewrite | None]


@dataclass(frozen=True, slots=True)
class Cut:
    """An operator that is cut out, with the names of the tensors that it takes and makes."""

    rewrite: Rewrite  # what stands for it
    inputs: tuple[str, ...]
    outputs: tuple[str | None, ...]  # None where nobody takes one
    what: str  # kind and place of the operator, for messages


def cut(program: Program, finders: Sequence[Find]) -> tuple[Cut, ...]:
    """Cut out every operator of the top level that a rewrite stands for, by the first finder that has one.

    The cuts are in the order in which the network runs.
    """
    kept: list[Operation] = []
    taken: list[Operation] = []
    cuts: list[Cut] = []
    names = _names_of_ends(program)
    made: dict[int, Value] = {}
    for operation in program.operations:
        rewrite = next(filter(None, (find(operation, program) for find in finders)), None)
        used = {value.number: value for value in operation.outputs if program.is_used(value)}
        if rewrite is None or not used:
            if operation.kind == "fetch" and operation.inputs[0] in made:
                kept.append(_passing_on(operation, program))
            kept.append(operation)
            continue
        prefix = f"{_PREFIX}{len(cuts)}"
        made |= used
        names |= {number: f"{prefix}.out{number}" for number in used}
        kept.extend(_data(names[number], value) for number, value in used.items())
        for number in rewrite.inputs:
            if number not in names:
                names[number] = f"{prefix}.in{number}"
                taken.append(_fetch(names[number], program, number))
        inputs = tuple(names[number] for number in rewrite.inputs)
        outputs = tuple(names[value.number] if value.number in used else None for value in operation.outputs)
        cuts.append(Cut(rewrite, inputs, outputs, f"{operation.kind} {operation.place}".strip()))
    program.operations = [*kept, *taken]
    program.drop_unused()
    return tuple(cuts)


def _names_of_ends(program: Program) -> dict[int, str]:
    """What the program's inputs, outputs and parameters are called in the ONNX graph; they are not fetched again."""
    names: dict[int, str] = {}
    for operation in program.operations:
        if operation.kind in {"data", "feed"}:
            names[operation.outputs[0].number] = operation.get("name")
        elif operation.kind == "p":
            names[operation.outputs[0].number] = operation.entry["A"][-1]
        elif operation.kind == "fetch":
            names.setdefault(operation.inputs[0], operation.get("name"))
    return names


def _attribute(name: str, kind: str, data: object) -> dict[str, Any]:
    return {"N": name, "AT": {"#": kind, "D": data}}


def _result(value: Value) -> dict[str, Any]:
    return {"%": value.number, "TT": value.type}


_OF_OPERATOR = [{"N": "stop_gradient", "AT": {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": True}]}}]


def _data(name: str, value: Value) -> Operation:
    attributes = [
        _attribute("name", "0.a_str", name),
        _attribute("shape", "1.a_intarray", list(value.shape)),
        _attribute("dtype", "1.a_dtype", value.dtype),
        _attribute("place", "1.a_place", [0, 0, ""]),
    ]
    return Operation({"#": "1.data", "A": attributes, "I": [], "O": [_result(value)], "OA": _OF_OPERATOR})


def _fetch(name: str, program: Program, number: int) -> Operation:
    attributes = [_attribute("name", "0.a_str", name), _attribute("col", "0.a_i32", program.new_output())]
    result = Value(program.new_number(), program.value(number).type)
    persistable = {"N": "persistable", "AT": {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": True}]}}
    entry = {"#": "1.fetch", "A": attributes, "I": [{"%": number}], "O": [_result(result)]}
    return Operation({**entry, "OA": [persistable, *_OF_OPERATOR]})


def _passing_on(fetch: Operation, program: Program) -> Operation:
    """An operator between an input and an output: the converter makes no node of a value that is both."""
    value = program.value(fetch.inputs[0])
    result = Value(program.new_number(), value.type)
    fetch.entry["I"] = [{"%": result.number}]
    return Operation({"#": "1.assign", "A": [], "I": [{"%": value.number}], "O": [_result(result)], "OA": _OF_OPERATOR})


def join(model: "onnx.ModelProto", cuts: Sequence[Cut]) -> None:
    """Put the rewrites, in place, where operators were cut out; ConversionError if the converter lost a tensor."""
    graph = model.graph
    opset = next(each.version for each in model.opset_import if not each.domain)
    added = {name for each in cuts for name in each.outputs if name}
    known = added.union(*(node.output for node in graph.node), *([each.name] for each in graph.initializer))
    known.update(each.name for each in graph.input)
    for each in cuts:
        lost = {*each.inputs} - known
        if lost:
            raise ConversionError(f"the converter lost {each.what} on the way ({min(lost)}): report this network")
        nodes = Subgraph(next(filter(None, each.outputs)), opset)
        each.rewrite.build(nodes, list(each.inputs), list(each.outputs))
        graph.node.extend(nodes.nodes)
    _drop(graph.input, added)
    _drop(graph.output, {name for each in cuts for name in each.inputs if name.startswith(_PREFIX)})
    sort_nodes(graph)


def _drop(entries: Any, names: set[str]) -> None:  # noqa: ANN401 - a protobuf list
    kept = [each for each in entries if each.name not in names]
    del entries[:]
    entries.extend(kept)


def sort_nodes(graph: "onnx.GraphProto") -> None:
    """Order nodes so that each comes after what it takes, in its branches, too; otherwise as they are."""
    maker = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
    nodes = list(graph.node)
    needed = [sorted({maker[name] for name in taken_by(node) if name in maker}) for node in nodes]
    done: dict[int, None] = {}
    for start in range(len(nodes)):
        waiting = [start]
        while waiting:
            missing = [each for each in needed[waiting[-1]] if each not in done]
            if missing:
                waiting.extend(reversed(missing))
            else:
                done[waiting.pop()] = None
    del graph.node[:]
    graph.node.extend(nodes[position] for position in done)


def taken_by(node: "onnx.NodeProto") -> set[str]:
    """List the tensors that a node takes, in its branches, too."""
    inside = [each for attribute in node.attribute if attribute.HasField("g") for each in attribute.g.node]
    return {*node.input}.union(*(taken_by(each) for each in inside)) - {name for each in inside for name in each.output}

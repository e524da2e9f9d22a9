"""ONNX files, read without ONNX Runtime: whether a model is whole in its one file, its operators, values and weights.

Source: onnx 1.17, ``onnx/onnx.proto3`` (numbers of fields), and the wire format of protocol buffers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from mmap import ACCESS_READ, mmap
from pathlib import Path

from engine.errors import ModelLoadError
from engine.runtimes.programs import Operator
from engine.runtimes.programs.protobuf import Message, Part, fields_with_length, in_file, not_negative

STANDARD_DOMAINS = ("", "ai.onnx")


class Model(IntEnum):
    """Numbers of the fields of a model."""

    GRAPH = 7
    OPERATOR_SET = 8


class Graph(IntEnum):
    """Numbers of the fields of a graph."""

    NODE = 1
    WEIGHT = 5
    INPUT = 11
    OUTPUT = 12


class Node(IntEnum):
    """Numbers of the fields of a node."""

    INPUT = 1
    OUTPUT = 2
    NAME = 3
    KIND = 4
    ATTRIBUTE = 5


class Attribute(IntEnum):
    """Numbers of the fields of an attribute."""

    NAME = 1
    NUMBER = 3
    TYPE = 20


WHOLE_NUMBER = 2
"""The type of an attribute."""


class Value(IntEnum):
    """Numbers of the fields of what a graph takes or returns."""

    NAME = 1
    TYPE = 2


TENSOR = 1
"""Number of the field of a type that describes a tensor."""


class TensorType(IntEnum):
    """Numbers of the fields of the description of a tensor."""

    ELEMENT = 1
    SHAPE = 2


class Weight(IntEnum):
    """Numbers of the fields of a weight, whose values lie in raw bytes or as numbers."""

    ELEMENT = 2
    NUMBERS = 5
    NAME = 8
    RAW = 9


class Element(IntEnum):
    """Types of the elements of a tensor."""

    FLOAT32 = 1
    UINT8 = 2
    INT8 = 3
    INT32 = 6


_DOMAIN, _VERSION = 1, 2
"""Numbers of the fields of an operator set."""
_AXIS, _LENGTH = 1, 1
"""Numbers of the fields of a shape, and of an axis."""
_MOST_DEPTH = 100
"""As protocol buffers themselves allow it."""

_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}
"""Where tensors may hide: kind of message to number of field to kind of message."""


def require_whole_model(path: Path) -> None:
    """Find out whether all of a model lies in its file.

    Tensors in other files are neither in the bundle's digest nor unpacked with it, and may point anywhere.
    ModelLoadError: the file is no protocol buffer or nested too deeply, or a tensor lies in another file.
    """
    where = "/".join(path.parts[-3:])
    if path.stat().st_size == 0:
        raise ModelLoadError(f"{where} is empty: fetch or convert the bundle again")
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            pending = [("model", 0, len(content), 0)]
            while pending:
                kind, start, end, depth = pending.pop()
                if depth > _MOST_DEPTH:
                    raise ValueError(f"messages lie more than {_MOST_DEPTH} deep in each other")
                for number, first, last in fields_with_length(content, start, end):
                    inner = _MESSAGES[kind].get(number)
                    if inner == "external data":
                        raise ModelLoadError(
                            f"{where} keeps tensors in other files: save it in one file and pack the bundle again"
                        )
                    if inner is not None:
                        pending.append((inner, first, last, depth + 1))
        except ValueError as error:
            raise ModelLoadError(f"{where} is damaged ({error}): fetch or convert the bundle again") from error


@dataclass(frozen=True, slots=True)
class GraphValue:
    """What a graph takes or returns; what the file leaves open is None: the element's type, all axes, or one."""

    name: str
    element: int | None
    axes: tuple[int | None, ...] | None


def graph_of(model: Message) -> Part:
    """Find the graph; ValueError if there is none, or parts of one, which readers of protocol buffers merge."""
    graphs = list(model.fields(Model.GRAPH))
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} graphs")
    return graphs[0]


def operators(model: Message, graph: Part) -> Iterator[Operator]:
    """Read the nodes of a graph, in its order; ValueError if one has no type."""
    for node in model.fields(Graph.NODE, graph):
        kind = next(model.texts(Node.KIND, node), "")
        if not kind:
            raise ValueError("a node has no type")
        yield Operator(
            kind=kind,
            inputs=tuple(model.texts(Node.INPUT, node)),
            outputs=tuple(model.texts(Node.OUTPUT, node)),
            name=next(model.texts(Node.NAME, node), ""),
        )


def weights(model: Message, graph: Part) -> dict[str, Part]:
    """Find the weights of a graph, by name."""
    return {name: each for each in model.fields(Graph.WEIGHT, graph) for name in model.texts(Weight.NAME, each)}


def graph_values(model: Message, graph: Part, side: Graph) -> Iterator[GraphValue]:
    """Read what a graph takes (`Graph.INPUT`) or returns (`Graph.OUTPUT`), in its order; ValueError without a name."""
    for value in model.fields(side, graph):
        name = next(model.texts(Value.NAME, value), "")
        if not name:
            raise ValueError("a value has no name")
        tensor = next(model.nested(value, Value.TYPE, TENSOR), (0, 0))
        shape = next(model.fields(TensorType.SHAPE, tensor), None)
        yield GraphValue(
            name=name,
            element=next(model.numbers(TensorType.ELEMENT, tensor), None),
            axes=None if shape is None else tuple(_axis_length(model, axis) for axis in model.fields(_AXIS, shape)),
        )


def _axis_length(model: Message, axis: Part) -> int | None:
    return not_negative(next(model.numbers(_LENGTH, axis), 0)) or None


def opset_of(path: Path) -> int:
    """Read the version of the standard operator set; ModelLoadError if the file names none."""

    def read(model: Message) -> int:
        sets = model.fields(Model.OPERATOR_SET)
        standard = next(each for each in sets if set(model.texts(_DOMAIN, each)) <= set(STANDARD_DOMAINS))
        return next(model.numbers(_VERSION, standard))

    try:
        return in_file(path, read)
    except ValueError as error:
        raise ModelLoadError(
            f"{path.name}: its operator set cannot be read ({error}): convert the bundle again"
        ) from error

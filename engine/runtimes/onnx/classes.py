"""A model that also tells the classes: an argmax is put behind its scores when it is loaded.

The scores of 19 classes at 2048×1024 pixels are 160 MB, which a GPU takes longer to hand over than to compare; their
classes are 2 MB. The model keeps its own output, so that one session serves who needs scores, too. Nothing is stored:
protocol buffers that follow each other are merged by their readers, so the nodes are appended to the file's bytes.

Source: onnx 1.17, ``onnx/onnx.proto3`` (of equal scores ArgMax takes the first), and the wire format of protocol
buffers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InferenceError
from engine.runtimes import Tensor
from engine.runtimes.programs.onnx_files import (
    TENSOR,
    WHOLE_NUMBER,
    Attribute,
    Element,
    Graph,
    Model,
    Node,
    TensorType,
    Value,
    graph_of,
    graph_values,
)
from engine.runtimes.programs.protobuf import Message, in_file

CLASSES, MEAN = "pseg_classes", "pseg_mean_score"
"""Names of the two outputs: uint8[N, H, W], and float32[], which is finite if all scores are."""

_INDICES = "pseg_class_indices"
_MOST_CLASSES = 256


@dataclass(frozen=True, slots=True)
class Scores:
    """The only output of a model, if it is scores of so many classes."""

    name: str
    classes: int


def scores_of(path: Path) -> Scores | None:
    """Find the output that the file declares, if it is the only one: float32[N, 2 to 256 classes, H, W]."""
    try:
        return in_file(path, _declared_scores)
    except ValueError:  # whoever loads the file says what is wrong with it
        return None


def _declared_scores(model: Message) -> Scores | None:
    outputs = list(graph_values(model, graph_of(model), Graph.OUTPUT))
    if len(outputs) != 1 or outputs[0].element != Element.FLOAT32:
        return None
    axes = outputs[0].axes or ()
    classes = (axes[1] or 0) if len(axes) == 4 else 0
    return Scores(outputs[0].name, classes) if 2 <= classes <= _MOST_CLASSES else None


def with_classes(path: Path, scores: Scores) -> bytes:
    """Append the argmax to a model, which then has the outputs of the file, `CLASSES` and `MEAN`."""
    nodes = (
        _node("ArgMax", scores.name, _INDICES, axis=1, keepdims=0),
        _node("Cast", _INDICES, CLASSES, to=Element.UINT8),
        # An argmax hides what is not a number; a mean does not.
        _node("ReduceMean", scores.name, MEAN, keepdims=0),
    )
    outputs = (_value(CLASSES, Element.UINT8), _value(MEAN, Element.FLOAT32))
    graph = b"".join([*(_field(Graph.NODE, each) for each in nodes), *(_field(Graph.OUTPUT, each) for each in outputs)])
    return path.read_bytes() + _field(Model.GRAPH, graph)


def require_finite_mean(mean: Tensor) -> None:
    """Refuse classes of scores that are not finite, by the output `MEAN`, with an InferenceError."""
    if not np.isfinite(mean):
        raise InferenceError(
            "the network returned NaN or infinite values; choose precision fp32 if it ran in less, else try the "
            "exported model on an image of its training set"
        )


def _node(kind: str, taken: str, made: str, **attributes: int) -> bytes:
    fields = [_field(Node.INPUT, taken.encode()), _field(Node.OUTPUT, made.encode())]
    fields.append(_field(Node.KIND, kind.encode()))
    fields += [_field(Node.ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join(fields)


def _attribute(name: str, value: int) -> bytes:
    return (
        _field(Attribute.NAME, name.encode()) + _number(Attribute.NUMBER, value) + _number(Attribute.TYPE, WHOLE_NUMBER)
    )


def _value(name: str, element: int) -> bytes:
    kind = _field(TENSOR, _number(TensorType.ELEMENT, element))
    return _field(Value.NAME, name.encode()) + _field(Value.TYPE, kind)


def _field(number: int, content: bytes) -> bytes:
    return bytes([*_varint(number << 3 | 2), *_varint(len(content))]) + content


def _number(number: int, value: int) -> bytes:
    return bytes([*_varint(number << 3), *_varint(value)])


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value

"""A model that also tells the classes: an argmax is put behind its scores when it is loaded.

The scores of 19 classes at 2048×1024 pixels are 160 MB, which a GPU takes longer to hand over than to compare; their
classes are 2 MB. The model keeps its own output, so that one session serves who needs scores, too. Nothing is stored:
protocol buffers that follow each other are merged by their readers, so the nodes are appended to the file's bytes.

Source: onnx 1.17, ``onnx/onnx.proto3`` (numbers of fields; of equal scores ArgMax takes the first), and the wire format
of protocol buffers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InferenceError
from engine.runtimes import Tensor
from engine.runtimes.programs.protobuf import Message, in_file, whole_numbers

CLASSES, MEAN = "pseg_classes", "pseg_mean_score"
"""Names of the two outputs: uint8[N, H, W], and float32[], which is finite if all scores are."""

_INDICES = "pseg_class_indices"
_MOST_CLASSES = 256
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_OUTPUT, _VALUE_NAME, _VALUE_TYPE = 7, 1, 12, 1, 2
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_NUMBER, _ATTRIBUTE_TYPE, _WHOLE_NUMBER = 1, 3, 20, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_AXIS, _AXIS_LENGTH, _FLOAT, _UINT8 = 1, 1, 2, 1, 1, 1, 2


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
    outputs = list(model.fields(_GRAPH_OUTPUT, next(model.fields(_MODEL_GRAPH))))
    if len(outputs) != 1:
        return None
    name = next(model.texts(_VALUE_NAME, outputs[0]))
    tensor = next(model.fields(_TYPE_TENSOR, next(model.fields(_VALUE_TYPE, outputs[0]))))
    element = dict(whole_numbers(model.content, *tensor)).get(_TENSOR_ELEMENT)
    axes = list(model.fields(_SHAPE_AXIS, next(model.fields(_TENSOR_SHAPE, tensor))))
    if element != _FLOAT or len(axes) != 4:
        return None
    classes = dict(whole_numbers(model.content, *axes[1])).get(_AXIS_LENGTH, 0)
    return Scores(name, classes) if 2 <= classes <= _MOST_CLASSES else None


def with_classes(path: Path, scores: Scores) -> bytes:
    """Append the argmax to a model, which then has the outputs of the file, `CLASSES` and `MEAN`."""
    nodes = (
        _node("ArgMax", scores.name, _INDICES, axis=1, keepdims=0),
        _node("Cast", _INDICES, CLASSES, to=_UINT8),
        # An argmax hides what is not a number; a mean does not.
        _node("ReduceMean", scores.name, MEAN, keepdims=0),
    )
    outputs = (_value(CLASSES, _UINT8), _value(MEAN, _FLOAT))
    graph = b"".join(
        [*(_field(_GRAPH_NODE, each) for each in nodes), *(_field(_GRAPH_OUTPUT, each) for each in outputs)]
    )
    return path.read_bytes() + _field(_MODEL_GRAPH, graph)


def require_finite_mean(mean: Tensor) -> None:
    """Refuse classes of scores that are not finite, by the output `MEAN`, with an InferenceError."""
    if not np.isfinite(mean):
        raise InferenceError(
            "the network returned NaN or infinite values; choose precision fp32 if it ran in less, else try the "
            "exported model on an image of its training set"
        )


def _node(kind: str, taken: str, made: str, **attributes: int) -> bytes:
    fields = [_field(_NODE_INPUT, taken.encode()), _field(_NODE_OUTPUT, made.encode())]
    fields.append(_field(_NODE_TYPE, kind.encode()))
    fields += [_field(_NODE_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join(fields)


def _attribute(name: str, value: int) -> bytes:
    return (
        _field(_ATTRIBUTE_NAME, name.encode())
        + _number(_ATTRIBUTE_NUMBER, value)
        + _number(_ATTRIBUTE_TYPE, _WHOLE_NUMBER)
    )


def _value(name: str, element: int) -> bytes:
    kind = _field(_TYPE_TENSOR, _number(_TENSOR_ELEMENT, element))
    return _field(_VALUE_NAME, name.encode()) + _field(_VALUE_TYPE, kind)


def _field(number: int, content: bytes) -> bytes:
    return bytes([*_varint(number << 3 | 2), *_varint(len(content))]) + content


def _number(number: int, value: int) -> bytes:
    return bytes([*_varint(number << 3), *_varint(value)])


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value

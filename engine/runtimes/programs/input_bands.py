"""Bands and size of the image that a network takes, read from the model's file without the library that runs it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.bundle.bundle import Bundle, OnnxModel, PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes.programs.paddle_files import pir_tensor_specs
from engine.runtimes.programs.protobuf import Message, in_file, require_program_size, whole_number, whole_numbers

_RANK, _BANDS_AXIS = 4, 1
_FREE_FROM = 1 << 63
"""A negative number, as a varint holds it."""

_INITIALIZER, _INITIALIZER_NAME, _VALUE_NAME = 5, 8, 1
_MODEL_GRAPH, _GRAPH_INPUT, _VALUE_TYPE, _TENSOR_TYPE, _SHAPE, _AXIS, _AXIS_VALUE = 7, 11, 2, 1, 2, 1, 1
"""Numbers of fields in ``onnx.proto3``."""
_BLOCKS, _VARIABLES, _OPERATORS, _OUTPUTS, _TYPE, _ARGUMENTS = 1, 3, 4, 2, 3, 2
_VARIABLE_NAME, _VARIABLE_TYPE, _DENSE_TENSOR, _TENSOR, _AXES = 1, 2, 3, 1, 2
"""Numbers of fields in Paddle's ``framework.proto``."""

_Axes = tuple[int | None, ...]


def input_bands(model: PaddleModel | OnnxModel) -> int | None:
    """Find out how many bands the images have that a network takes; None where the program leaves it open.

    ModelLoadError: the file is no program with an image as input, or larger than any network's.
    """
    return _image_axes(model)[_BANDS_AXIS]


def input_size(model: PaddleModel | OnnxModel) -> tuple[int, int] | None:
    """Find the only height and width that a network takes; None where it takes others, too.

    Errors are those of `input_bands`.
    """
    height, width = _image_axes(model)[_BANDS_AXIS + 1 :]
    return None if height is None or width is None else (height, width)


def _image_axes(model: PaddleModel | OnnxModel) -> _Axes:
    """NCHW of the image; the weights are not read."""
    path = model.path if isinstance(model, OnnxModel) else model.program
    try:
        shapes = list(_shapes_of(model, path))
        image = next((shape for shape in shapes if len(shape) == _RANK), None)
        if image is None:
            raise ValueError("it takes no image (NCHW)")
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read ({error}): export or convert the bundle again") from error
    return image


def taken_bands(bundle: Bundle) -> int | None:
    """Find the bands that the network of a bundle takes, by its Paddle program, else the first of its ONNX models.

    None where the program leaves it open or cannot be read, which loading it will tell.
    """
    model = next(filter(None, (bundle.paddle, *bundle.onnx)), None)
    try:
        return None if model is None else input_bands(model)
    except ModelLoadError:
        return None


def _shapes_of(model: PaddleModel | OnnxModel, path: Path) -> list[_Axes]:
    if isinstance(model, OnnxModel):
        return in_file(path, lambda content: list(_of_onnx(content)))
    require_program_size(path)
    if model.kind != "pdmodel":
        inputs, _ = pir_tensor_specs(path.read_text(encoding="utf-8"))
        return [spec.shape for spec in inputs]
    return in_file(path, lambda content: list(_of_pdmodel(content)))


def _of_onnx(model: Message) -> Iterator[_Axes]:
    for graph in model.fields(_MODEL_GRAPH):
        # Files of the first versions of ONNX list weights among the inputs.
        weights = {name for each in model.fields(_INITIALIZER, graph) for name in model.texts(_INITIALIZER_NAME, each)}
        for value in model.fields(_GRAPH_INPUT, graph):
            if not weights.isdisjoint(model.texts(_VALUE_NAME, value)):
                continue
            for shape in _nested(model, value, (_VALUE_TYPE, _TENSOR_TYPE, _SHAPE)):
                yield tuple(_onnx_axis(model, axis) for axis in model.fields(_AXIS, shape))


def _nested(content: Message, message: tuple[int, int], numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Messages within messages: of the fields of the last number in those of the one before, and so on."""
    if not numbers:
        yield message
        return
    for inner in content.fields(numbers[0], message):
        yield from _nested(content, inner, numbers[1:])


def _onnx_axis(model: Message, axis: tuple[int, int]) -> int | None:
    values = (value for number, value in whole_numbers(model.content, *axis) if number == _AXIS_VALUE)
    found = next(values, None)
    return None if found is None or not 0 < found < _FREE_FROM else found


def _of_pdmodel(program: Message) -> Iterator[_Axes]:
    block = next(program.fields(_BLOCKS), None)
    if block is None:
        return
    fed = {
        name
        for operator in program.fields(_OPERATORS, block)
        if "feed" in program.texts(_TYPE, operator)
        for variable in program.fields(_OUTPUTS, operator)
        for name in program.texts(_ARGUMENTS, variable)
    }
    for variable in program.fields(_VARIABLES, block):
        if fed.isdisjoint(program.texts(_VARIABLE_NAME, variable)):
            continue
        for tensor in _nested(program, variable, (_VARIABLE_TYPE, _DENSE_TENSOR, _TENSOR)):
            yield _paddle_axes(program, tensor)


def _paddle_axes(program: Message, tensor: tuple[int, int]) -> _Axes:
    axes = [value for number, value in whole_numbers(program.content, *tensor) if number == _AXES]
    for first, last in program.fields(_AXES, tensor):
        # Packed, one after the other.
        while first < last:
            axis, first = whole_number(program.content, first, last)
            axes.append(axis)
    return tuple(axis if 0 < axis < _FREE_FROM else None for axis in axes)

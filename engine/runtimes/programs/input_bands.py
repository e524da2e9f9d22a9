"""Bands and size of the image that a network takes, read from the model's file without the library that runs it."""

from engine.bundle.bundle import Bundle, OnnxModel, PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes.programs.onnx_files import Graph, graph_of, graph_values, weights
from engine.runtimes.programs.paddle_programs import Axes, input_axes
from engine.runtimes.programs.protobuf import Message, in_file
from engine.transforms import bands_of_images

_RANK, _BANDS_AXIS = 4, 1
_USUAL_BANDS = 3


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


def _image_axes(model: PaddleModel | OnnxModel) -> Axes:
    """NCHW of the image; the weights are not read."""
    path = model.path if isinstance(model, OnnxModel) else model.program
    try:
        image = next((shape for shape in _shapes_of(model) if len(shape) == _RANK), None)
        if image is None:
            raise ValueError("it takes no image (NCHW)")
    except ModelLoadError as error:
        raise ModelLoadError(f"{path.name}: {error}") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read ({error}): export or convert the bundle again") from error
    return image


def image_bands(bundle: Bundle) -> int:
    """Find how many bands images need for a bundle, by its Paddle program, else the first of its ONNX models.

    Three where the program leaves it open or cannot be read, which loading it will tell.
    """
    model = next(filter(None, (bundle.paddle, *bundle.onnx)), None)
    try:
        return bands_of_images((model and input_bands(model)) or _USUAL_BANDS)
    except ModelLoadError:
        return _USUAL_BANDS


def _shapes_of(model: PaddleModel | OnnxModel) -> list[Axes]:
    if isinstance(model, OnnxModel):
        return in_file(model.path, _of_onnx)
    return input_axes(model)


def _of_onnx(model: Message) -> list[Axes]:
    graph = graph_of(model)
    # Files of the first versions of ONNX list weights among the inputs.
    stored = weights(model, graph)
    values = graph_values(model, graph, Graph.INPUT)
    return [each.axes for each in values if each.axes is not None and each.name not in stored]

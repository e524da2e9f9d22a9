"""The dynamic shape profile of a bundle: collected from real images once, kept, used by TensorRT afterwards."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from engine.bundle.bundle import Bundle
from engine.errors import OptionError
from engine.images import SourceImage
from engine.options import DynamicShapeProfile, PaddleOptions, Shape, TensorRtFiles, TensorRtPreparation
from engine.segmentation.opening import open_runtime
from engine.segmentation.predictor import Predictor
from engine.system.files import write_atomically


def collect_profile(predictor: Predictor, images: Iterable[SourceImage], *, batch_size: int) -> DynamicShapeProfile:
    """Collect the input shapes that images really have after the transforms, from batches of one to `batch_size`.

    The predictor, on any runtime, does not run the network. OptionError: there are no images. ImageError: the network
    or a transform does not take an image.
    """
    shapes: list[Shape] = []
    for image in images:
        bands, height, width = predictor.prepare(image).tensor.shape
        shapes += [(1, bands, height, width), (batch_size, bands, height, width)]
    if not shapes:
        raise OptionError("a shape profile needs at least one image that can be read")
    return DynamicShapeProfile.from_shapes(predictor.network.input_name, shapes)


def collect_inner_ranges(bundle: Bundle, profile: DynamicShapeProfile, path: Path, *, load_marks: Path | None) -> None:
    """Let Paddle write down the shapes of all inner tensors, as its TensorRT wants them for a `.pdmodel`.

    It needs no GPU: shapes are the same on the CPU. ModelLoadError: Paddle refuses the model. InferenceError: it does
    not run at one of the shapes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = PaddleOptions(
        tensorrt_files=TensorRtFiles(shape_range_file=path), preparation=TensorRtPreparation.SHAPE_RANGES
    )
    runtime = open_runtime(bundle, options, load_marks=load_marks)
    try:
        for name, shapes in profile.inputs:
            # The optimum is what Paddle sees most often.
            for shape in (shapes.minimum, shapes.optimum, shapes.optimum, shapes.maximum):
                runtime.run({name: np.zeros(shape, np.float32)})
    finally:
        runtime.close()


def write_shape_profile(profile: DynamicShapeProfile, path: Path) -> None:
    """Keep a profile, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, TypeAdapter(DynamicShapeProfile).dump_json(profile))


def read_shape_profile(path: Path) -> DynamicShapeProfile | None:
    """Read a kept profile, if there is one; OptionError if the file holds something else."""
    if not path.is_file():
        return None
    try:
        return TypeAdapter(DynamicShapeProfile).validate_json(path.read_bytes())
    except (ValidationError, OptionError) as error:
        raise OptionError(f"{path} is not a shape profile ({error}): collect it again with auto-tune-shapes") from error

"""The dynamic shape profile of a bundle: collected from real images once, kept, used by TensorRT afterwards."""

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from engine.errors import OptionError
from engine.images import SourceImage
from engine.options import DynamicShapeProfile, Shape
from engine.predictor import Predictor

_PROFILE = TypeAdapter(DynamicShapeProfile)


def collect_profile(predictor: Predictor, images: Iterable[SourceImage], *, batch_size: int) -> DynamicShapeProfile:
    """Collect the input shapes that images really have after the transforms.

    Args:
        predictor: of the same bundle, on any runtime; the network is not run.
        images: a sample of what will come.
        batch_size: the largest batch that will be run.

    Returns:
        From batches of one to `batch_size`.

    Raises:
        OptionError: there are no images.
        ImageError: the network or a transform does not take an image.
    """
    shapes: list[Shape] = []
    for image in images:
        bands, height, width = predictor.prepare(image).tensor.shape
        shapes += [(1, bands, height, width), (batch_size, bands, height, width)]
    if not shapes:
        raise OptionError("a shape profile needs at least one image that can be read")
    return DynamicShapeProfile.from_shapes(predictor.input_name, shapes)


def write_profile(profile: DynamicShapeProfile, path: Path) -> None:
    """Keep a profile, in one step.

    Args:
        profile: what was collected.
        path: a JSON file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_bytes(_PROFILE.dump_json(profile))
    partial.replace(path)


def read_profile(path: Path) -> DynamicShapeProfile | None:
    """Read a kept profile.

    Args:
        path: a JSON file.

    Returns:
        The profile, or None if none was kept.

    Raises:
        OptionError: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        return _PROFILE.validate_json(path.read_bytes())
    except (ValidationError, OptionError) as error:
        raise OptionError(f"{path} is no shape profile ({error}): collect it again with --auto-tune-shapes") from error

"""The calibration table of Paddle's TensorRT in INT8: made from real images once, kept beside the program."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from engine.bundle.bundle import Bundle
from engine.errors import CalibrationError, ModelLoadError, OptionError
from engine.images import SourceImage
from engine.options import PaddleOptions, TensorRtPreparation
from engine.segmentation.opening import open_runtime
from engine.segmentation.predictor import Predictor

MIN_CALIBRATION_IMAGES = 8
"""Fewer do not show what ranges a network's tensors have. The converter asks for as many."""


def collect_calibration_table(
    bundle: Bundle, options: PaddleOptions, images: Iterable[SourceImage], *, load_marks: Path | None
) -> None:
    """Run images in floating point and let Paddle write the table that INT8 under TensorRT rests on.

    Paddle writes it when the predictor ends; a table that is there already is made anew. A run that is broken off
    writes none. `options` are INT8 under TensorRT, with the shapes that will come and a folder for what is kept; of the
    images `MIN_CALIBRATION_IMAGES` are held at a time.

    OptionError: the program is PIR, for which Paddle takes no table. CalibrationError: there are too few images.
    RuntimeUnavailableError: Paddle has no GPU support here, or there is no GPU. ModelLoadError: the bundle holds no
    Paddle program, or Paddle refuses it. InferenceError: the network does not run on one of the images.
    """
    if bundle.paddle is None:
        raise ModelLoadError(f"{bundle.source}: holds no Paddle program to calibrate: use runtime onnx")
    if bundle.paddle.kind == "pir":
        raise OptionError(
            f"{bundle.source}: Paddle's TensorRT takes a calibration table for a .pdmodel only: use runtime onnx "
            "with a bundle whose INT8 model was made for GPUs, or fp16"
        )
    images = iter(images)
    first = list(islice(images, MIN_CALIBRATION_IMAGES))
    if len(first) < MIN_CALIBRATION_IMAGES:
        raise CalibrationError(
            f"{bundle.source}: TensorRT's int8 is calibrated on at least {MIN_CALIBRATION_IMAGES} images like those "
            f"that it will see, {len(first)} could be read: name more"
        )
    runtime = open_runtime(bundle, replace(options, preparation=TensorRtPreparation.CALIBRATION), load_marks=load_marks)
    with Predictor(bundle, runtime) as predictor:
        for image in chain(first, images):
            predictor.predict(image)

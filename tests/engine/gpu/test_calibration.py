"""What is refused before Paddle's TensorRT is calibrated; the calibration itself needs a GPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import Bundle, CalibrationError, Device, ModelLoadError, OptionError, PaddleModel, PaddleOptions, Precision
from engine.bundle.bundle import DeclaredOutput
from engine.gpu.calibration import collect_calibration_table
from engine.images import Capture, SourceImage

OPTIONS = PaddleOptions(device=Device.GPU, tensorrt=True, precision=Precision.INT8)


def bundle(program: str | None) -> Bundle:
    """A bundle whose files must not be touched."""
    return Bundle(
        name="b",
        source=Path("b.tgz"),
        folder=Path(),
        digest="",
        classes=(),
        transforms=(),
        paddle=None if program is None else PaddleModel(Path(program), Path("model.pdiparams"), "digest"),
        onnx=(),
        declared=DeclaredOutput(None, None, None),
        multilabel=False,
        notes=(),
    )


def images(count: int) -> Iterator[SourceImage]:
    for _ in range(count):
        yield SourceImage(np.zeros((4, 4, 3), np.uint8), 4, 4, Capture())


@pytest.mark.parametrize(
    ("program", "count", "error", "message"),
    [
        (None, 8, ModelLoadError, r"b\.tgz: holds no Paddle program to calibrate: use runtime onnx"),
        ("model.json", 8, OptionError, r"b\.tgz: .*for a \.pdmodel only: use runtime onnx"),
        ("model.pdmodel", 7, CalibrationError, r"b\.tgz: .*at least 8 images .*7 could be read: name more"),
    ],
)
def test_what_cannot_be_calibrated(program: str | None, count: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        collect_calibration_table(bundle(program), OPTIONS, images(count), load_marks=None)

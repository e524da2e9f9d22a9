"""An exported network through both runtimes: converted, then compared on pictures of several sizes."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.zoo.recipes import Size
from benchmarks.zoo.results import Measurement
from converters.graph_optimization import fold_constants
from converters.paddle_to_onnx import OPSET, export_in_child
from converters.parity import compare, generated_images, sizes_taken
from engine.bundle.bundle import Bundle, OnnxModel, file_digest, open_bundle
from engine.errors import ConversionError, InferenceError, ModelLoadError
from engine.options import OnnxOptions, PaddleOptions, Precision
from engine.segmentation.opening import open_runtime
from engine.segmentation.predictor import Predictor
from engine.system.cores import usable_cores

_TIMEOUT_S = 240


def measure(folder: Path, sizes: Iterable[Size]) -> Measurement:
    """Convert an exported network and compare it with Paddle without oneDNN.

    Args:
        folder: of the bundle; the ONNX file is written into it.
        sizes: width and height of the pictures.

    Returns:
        What came out.
    """
    with open_bundle(folder) as bundle:
        try:
            reference = Predictor(bundle, open_runtime(bundle, PaddleOptions(threads=usable_cores())))
        except (ModelLoadError, InferenceError) as error:
            return Measurement(run_error=str(error))
        with reference:
            found = sizes_taken(reference, sizes)
            if not found.taken:
                return Measurement(run_error=found.refused)
            try:
                model = _converted(bundle)
                candidate = Predictor(
                    bundle, open_runtime(bundle.with_onnx(model), OnnxOptions(threads=usable_cores()))
                )
                with candidate:
                    pictures = [(f"{each.width}x{each.height}", each) for each in generated_images(found.taken)]
                    report = compare(reference, candidate, pictures)
            except (ConversionError, ModelLoadError, InferenceError) as error:
                return Measurement(conversion_error=str(error), sizes=found.taken, refused_size=found.refused)
    if report.max_abs_logit_error is None or not report.logit_range:
        return Measurement(run_error="Paddle returns no logits, or the same everywhere", sizes=found.taken)
    return Measurement(
        sizes=found.taken,
        refused_size=found.refused,
        mismatched_ppm=report.mismatched_ppm,
        logit_error=report.max_abs_logit_error / report.logit_range,
        classes=len(report.gated_classes),
    )


def _converted(bundle: Bundle) -> OnnxModel:
    if bundle.paddle is None:
        raise ConversionError(f"{bundle.source}: holds no Paddle program to convert")
    plain, path = bundle.folder / "plain.onnx", bundle.folder / "model.onnx"
    export_in_child(bundle.paddle, plain, OPSET, _TIMEOUT_S, where=bundle.name)
    fold_constants(plain, path)
    return OnnxModel(path=path, precision=Precision.FP32, digest=file_digest(path))

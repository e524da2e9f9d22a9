"""A PaddleSeg model bundle in, masks out.

>>> from engine import open_bundle, open_predictor
>>> with open_bundle("model.tgz") as bundle, open_predictor(bundle) as predictor:  # doctest: +SKIP
...     prediction = predictor.predict("quadrat.jpg")

This package does not convert: such a bundle runs on Paddle, unless it holds an ONNX model. `service.session.open_model`
opens a bundle as the command `pseg predict` does, with conversions, cache and tuned profile.

Importing this package loads neither paddle nor onnxruntime: each is loaded when a runtime is opened.
"""

from engine.bundle.bundle import Bundle, OnnxModel, PaddleModel, SegmentationClass, open_bundle
from engine.errors import (
    BundleError,
    CalibrationError,
    ConversionError,
    EngineError,
    ImageError,
    InferenceError,
    ModelLoadError,
    OptionError,
    RuntimeUnavailableError,
    UnsupportedTransformError,
)
from engine.images import SourceImage, list_images, read_image
from engine.options import (
    Device,
    DynamicShapeProfile,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    RuntimeName,
    ShapeRange,
)
from engine.runtimes import Runtime, TensorSpec
from engine.runtimes.selection import OneDnn, RuntimeRequest
from engine.segmentation.opening import open_predictor, open_runtime
from engine.segmentation.pipeline import Failed, Pipeline, Segmented
from engine.segmentation.prediction import MaskSize, Prediction, Provenance
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import ClassCover

__all__ = [
    "Bundle",
    "BundleError",
    "CalibrationError",
    "ClassCover",
    "ConversionError",
    "Device",
    "DynamicShapeProfile",
    "EngineError",
    "Failed",
    "ImageError",
    "InferenceError",
    "MaskSize",
    "ModelLoadError",
    "OneDnn",
    "OnnxModel",
    "OnnxOptions",
    "OptionError",
    "PaddleModel",
    "PaddleOptions",
    "Pipeline",
    "Precision",
    "Prediction",
    "Predictor",
    "Provenance",
    "Provider",
    "Runtime",
    "RuntimeName",
    "RuntimeRequest",
    "RuntimeUnavailableError",
    "SegmentationClass",
    "Segmented",
    "ShapeRange",
    "SourceImage",
    "TensorSpec",
    "UnsupportedTransformError",
    "list_images",
    "open_bundle",
    "open_predictor",
    "open_runtime",
    "read_image",
]

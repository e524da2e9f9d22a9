"""Which library loads an ONNX model: OpenVINO, or for every other provider ONNX Runtime."""

from pathlib import Path

from engine.bundle.bundle import OnnxModel
from engine.options import OnnxOptions, Provider
from engine.runtimes import Runtime

_COMPILED_MODELS_FOLDER = "openvino"


def require_provider(options: OnnxOptions) -> None:
    """Require the library, the provider and its device; RuntimeUnavailableError says what to install or choose."""
    if options.provider is Provider.OPENVINO:
        from engine.runtimes.openvino import require_openvino

        require_openvino(options)
    else:
        from engine.runtimes.onnx import require_provider

        require_provider(options.provider, options.device_id)


def load_onnx(model: OnnxModel, options: OnnxOptions, load_marks: Path | None) -> Runtime:
    """Load an ONNX model, and prove with a first run that it works.

    `load_marks` is the folder of earlier successes, which also keeps what OpenVINO compiled. RuntimeUnavailableError:
    the library, the provider or its device is absent. ModelLoadError: the library refuses the model, or its first run
    fails.
    """
    if options.provider is Provider.OPENVINO:
        from engine.runtimes.openvino import OpenVinoRuntime

        return OpenVinoRuntime(model, options, None if load_marks is None else load_marks / _COMPILED_MODELS_FOLDER)
    from engine.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(model, options)

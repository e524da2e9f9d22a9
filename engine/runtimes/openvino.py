"""OpenVINO: the only engine file that imports openvino.

To users it is a provider of the ONNX side: it reads the same ONNX file. One compiled model takes every input size, so
that its weights exist once whatever the number of sizes and streams; OpenVINO prepares its kernels again for a size
that it has not seen. A compiled model is kept beside the load marks, and the next start reads it in place of compiling.
"""

# openvino's types are those of its bindings, generated and incomplete.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false, reportUnknownParameterType=false

import hashlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from typing_extensions import override

from engine.bundle.bundle import OnnxModel
from engine.errors import EngineError, ModelLoadError, RuntimeUnavailableError
from engine.options import OnnxOptions, Precision, RuntimeName
from engine.runtimes import Runtime, RuntimeIdentity, Tensor, TensorSpec, check_feeds, failed_run, require_first_run
from engine.runtimes.engine_cache import FolderKey, engine_folder
from engine.runtimes.sessions import Sessions
from engine.runtimes.utf8_paths import utf8_paths
from engine.system.files import atomic_file
from engine.system.libraries import installed_version
from engine.system.machine.hardware import has_vnni, this_processor
from engine.system.machine.onednn import keep_fp32, setting_against_vnni

_TELEMETRY = "openvino_telemetry"
_DEVICE = "CPU"
_BLOB = "compiled.blob"
_DIGEST_BYTES = 32
CACHED_KERNELS = 500
"""How many kernels each stream keeps prepared, of all layers and input sizes together. With OpenVINO's own 5000, memory
doubles over a hundred sizes."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompiledKey(FolderKey):
    """What a compiled model depends on."""

    model_digest: str  # SHA-256 of the ONNX file
    version: str  # of OpenVINO
    processor: tuple[str, ...]  # model and flags, which decide what kernels are chosen
    settings: Mapping[str, str]  # what it is compiled with


def compile_settings(options: OnnxOptions) -> dict[str, str]:
    """Decide what a model is compiled with.

    The precision is always named: by default OpenVINO computes in BF16 on processors that have it. Threads are not
    pinned to cores, because two processes would be pinned to the same ones.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(options.threads),
        "NUM_STREAMS": str(options.streams),
        "PERFORMANCE_HINT": "LATENCY" if options.streams == 1 else "THROUGHPUT",
        "ENABLE_CPU_PINNING": "NO",
        "ENABLE_HYPER_THREADING": "YES",
        "CPU_RUNTIME_CACHE_CAPACITY": str(CACHED_KERNELS),
    }


def require_openvino(options: OnnxOptions) -> None:
    """Find out whether OpenVINO starts here, and computes right.

    RuntimeUnavailableError: it is not installed, does not know this processor, or would compute INT8 wrongly on it.
    """
    if options.precision is Precision.INT8:
        _require_exact_sums()
    devices = list(_core().available_devices)
    if _DEVICE not in devices:
        raise RuntimeUnavailableError(
            f"provider openvino: OpenVINO offers no CPU of this machine (it has {', '.join(devices) or 'nothing'}): "
            "use provider cpu"
        )


def _require_exact_sums() -> None:
    setting = setting_against_vnni()
    if has_vnni() and setting is None:
        return
    reason = "which this processor lacks" if setting is None else f"which {setting} in the environment excludes"
    advice = "" if setting is None else "remove that setting, "
    raise RuntimeUnavailableError(
        f"provider openvino: without VNNI, {reason}, OpenVINO's sums of 8-bit products overflow: "
        f"{advice}use provider cpu, or precision fp32"
    )


@cache
def _core() -> Any:
    return load_library().Core()


def load_library() -> Any:
    """Import OpenVINO without what its makers would be told about it; RuntimeUnavailableError if it is not installed.

    `openvino` imports its model converter, which writes an identifier into the home folder and asks the network for its
    makers' host. It does neither where `openvino_telemetry` cannot be imported.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault(_TELEMETRY, cast("Any", None))
        keep_fp32()
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"provider openvino: OpenVINO cannot be imported ({error}): install the extra `openvino`, or use provider "
            "cpu"
        ) from error
    return openvino


class OpenVinoRuntime(Runtime):
    """One ONNX model, compiled by OpenVINO for the CPU.

    It may be used from several threads; as many runs are under way as it has streams, which share the weights.
    """

    def __init__(self, model: OnnxModel, options: OnnxOptions, kept: Path | None = None) -> None:
        """Load the model and prove with a first run that it works; `kept` is the folder of compiled models.

        RuntimeUnavailableError: OpenVINO is absent. ModelLoadError: OpenVINO refuses the model or computes otherwise
        than asked for, or the first run fails.
        """
        require_openvino(options)
        self._options = options
        self._settings = compile_settings(options)
        # No part of the key: the log changes nothing of what is compiled.
        self._log_level = {"LOG_LEVEL": "LOG_TRACE"} if options.verbose else {}
        version = str(installed_version("openvino"))
        key = CompiledKey(model.digest, version, this_processor(), self._settings)
        folder = None if kept is None else _folder(kept, key)
        try:
            compiled = self._compiled(model, folder)
            threads = self._threads_as_asked_for(compiled)
            self.inputs = tuple(map(_spec, compiled.inputs))
            self.outputs = tuple(map(_spec, compiled.outputs))
            requests = [compiled.create_infer_request() for _ in range(options.streams)]
        except EngineError:
            raise
        except Exception as error:
            raise ModelLoadError(
                f"{model.path}: OpenVINO refuses the model ({_telling_line(error)}): use provider cpu"
            ) from error
        self._requests: Sessions[Any] = Sessions(requests)
        self.identity = RuntimeIdentity(
            runtime=RuntimeName.ONNX,
            provider=options.label,
            precision=options.precision,
            threads=threads,
            model_digest=model.digest,
            versions={"openvino": version},
            streams=options.streams,
        )
        require_first_run(self, str(model.path))

    def _compiled(self, model: OnnxModel, folder: Path | None) -> Any:
        blob = None if folder is None else _read_blob(folder / _BLOB)
        if blob is not None:
            try:
                return _core().import_model(load_library().Tensor(blob), _DEVICE, self._settings | self._log_level)
            except RuntimeError as error:
                _log.warning("%s: OpenVINO does not read it (%s): compiling again", folder, _telling_line(error))
        with utf8_paths(model.path) as (path,):
            compiled = _core().compile_model(_core().read_model(str(path)), _DEVICE, self._settings | self._log_level)
        if folder is not None:
            _write_blob(folder / _BLOB, compiled)
        return compiled

    def _threads_as_asked_for(self, compiled: Any) -> int:
        """Threads that OpenVINO takes, which may be fewer; another precision or number of streams is refused."""
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        streams, threads = (int(compiled.get_property(name)) for name in ("NUM_STREAMS", "INFERENCE_NUM_THREADS"))
        if (precision, streams) != (self._settings["INFERENCE_PRECISION_HINT"], self._options.streams):
            raise ModelLoadError(
                f"OpenVINO would compute in {precision} and {streams} streams, not in "
                f"{self._settings['INFERENCE_PRECISION_HINT']} and {self._options.streams}: use provider cpu"
            )
        if threads != self._options.threads:
            _log.warning("OpenVINO runs %d threads here, not %d", threads, self._options.threads)
        return threads

    @override
    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_feeds(self.inputs, feeds)
        with self._requests.lend() as request:
            try:
                results = request.infer(dict(feeds), share_inputs=True)
                tensors = [np.asarray(results[index]) for index in range(len(self.outputs))]
            except Exception as error:
                raise failed_run("OpenVINO", feeds, _telling_line(error)) from error
        return dict(zip((spec.name for spec in self.outputs), tensors, strict=True))

    @override
    def close(self) -> None:
        self._requests.close()


def _folder(kept: Path, key: CompiledKey) -> Path | None:
    try:
        return engine_folder(kept, key)
    except OSError as error:
        filled = kept / key.digest
        if (filled / _BLOB).is_file():
            return filled
        _log.warning("%s cannot be written to (%s): every start compiles the model again", kept, error)
        return None


def _read_blob(path: Path) -> Tensor | None:
    """A compiled model as it was written; OpenVINO itself would take one with other weights."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, blob = content[:_DIGEST_BYTES], memoryview(content)[_DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() != digest:
        _log.warning("%s is damaged: compiling again", path)
        return None
    return np.frombuffer(blob, dtype=np.uint8)


def _write_blob(path: Path, compiled: Any) -> None:
    blob = compiled.export_model().getbuffer()
    try:
        with atomic_file(path) as file:
            file.write(hashlib.sha256(blob).digest())
            file.write(blob)
    except OSError as error:
        _log.warning("%s cannot be written (%s): the next start compiles again", path, error)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if axis.is_dynamic else int(axis.get_length()) for axis in port.partial_shape)
    return TensorSpec(name=str(port.any_name), dtype=np.dtype(port.element_type.to_dtype()), shape=shape)


def _telling_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from")), type(error).__name__)

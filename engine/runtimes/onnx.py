"""ONNX Runtime: the only engine file that imports onnxruntime.

The settings of every provider are built by pure functions (`session_plan`, `cuda_settings`, `tensorrt_settings`,
`openvino_settings`), so that they are checked on machines without the hardware.

Threads: an `OnnxRuntime` may be used from several threads; as many runs are under way as it has streams. ONNX Runtime's
`run` is reentrant, so that streams of one thread each share one session and its weights; streams of several threads
have a session each, with threads of its own. OpenVINO's provider reshapes its model between runs of different sizes,
hence its streams never share a session.
"""

# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from engine.bundle.bundle import OnnxModel
from engine.errors import InferenceError, ModelLoadError, RuntimeUnavailableError
from engine.options import (
    WORKSPACE_BYTES,
    DynamicShapeProfile,
    OnnxOptions,
    Precision,
    Provider,
    RuntimeName,
    Shape,
)
from engine.runtimes import RuntimeIdentity, Tensor, TensorSpec, check_feeds, probe_feeds
from engine.runtimes.sessions import Sessions
from engine.runtimes.utf8_paths import utf8_paths
from engine.system.hardware import gpu_name, has_vnni

if TYPE_CHECKING:
    import onnxruntime

ProviderSettings = dict[str, str]

PROVIDER_NAMES: Mapping[Provider, str] = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.OPENVINO: "OpenVINOExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
}
_REMEDIES: Mapping[Provider, str] = {
    Provider.CPU: "install the extra `onnx`",
    Provider.OPENVINO: "install the extra `openvino`; its plugin serves Intel processors only",
    Provider.CUDA: "install onnxruntime-gpu in place of onnxruntime, on a host with an NVIDIA driver",
    Provider.TENSORRT: "install onnxruntime-gpu and tensorrt-cu12, on a host with an NVIDIA driver",
}
_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Everything that a session is created with.

    Attributes:
        threads: intra-op threads of each session.
        sessions: how many are made; the streams share them.
        config: session configuration entries.
        providers: execution providers in order of preference, with their settings.
        is_plugin: the first provider is registered from a plugin library.
        log_severity: 0 verbose … 4 fatal.
    """

    threads: int
    sessions: int
    config: Mapping[str, str]
    providers: tuple[tuple[str, ProviderSettings], ...]
    is_plugin: bool
    log_severity: int


def cuda_settings(options: OnnxOptions) -> ProviderSettings:
    """Settings of the CUDA provider.

    TF32 stays off: it rounds the inputs of a multiplication to 10 bits and moves pixels on class borders.

    Args:
        options: device index.

    Returns:
        Provider settings.
    """
    return {
        "device_id": str(options.device_id),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }


def shape_text(name: str, shape: Shape) -> str:
    """Write a shape as TensorRT's provider reads it.

    Args:
        name: the input.
        shape: its shape.

    Returns:
        The setting's text.

    >>> shape_text("x", (1, 3, 512, 640))
    'x:1x3x512x640'
    """
    return f"{name}:{'x'.join(map(str, shape))}"


def tensorrt_settings(options: OnnxOptions, cache_folder: Path | None) -> ProviderSettings:
    """Settings of the TensorRT provider.

    INT8 models carry their scales (QDQ), so no calibration table is named.

    Args:
        options: precision, min-subgraph-size, workspace, profile.
        cache_folder: where engines and timings are kept; None keeps none.

    Returns:
        Provider settings.
    """
    settings = {
        "device_id": str(options.device_id),
        "trt_min_subgraph_size": str(options.min_subgraph_size),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_fp16_enable": str(options.precision is Precision.FP16),
        "trt_int8_enable": str(options.precision is Precision.INT8),
    }
    shapes = options.tensorrt_files.shapes
    if shapes is not None:
        ranges = shapes.inputs
        settings["trt_profile_min_shapes"] = ",".join(shape_text(name, each.minimum) for name, each in ranges)
        settings["trt_profile_opt_shapes"] = ",".join(shape_text(name, each.optimum) for name, each in ranges)
        settings["trt_profile_max_shapes"] = ",".join(shape_text(name, each.maximum) for name, each in ranges)
    if cache_folder is not None:
        settings |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache_folder),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache_folder),
        }
    return settings


def openvino_settings(options: OnnxOptions) -> ProviderSettings:
    """Settings of the OpenVINO provider.

    Without the precision hint it computes in BF16 on processors that have it, which is less exact.

    Args:
        options: threads.

    Returns:
        Provider settings.
    """
    cpu = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(options.threads_per_stream)}
    return {"load_config": json.dumps({"CPU": cpu})}


def engine_cache_folder(
    root: Path, *, model_digest: str, versions: Mapping[str, str], gpu: str, profile: DynamicShapeProfile | None
) -> Path:
    """Name the folder of TensorRT engines that fit exactly this model, software, GPU and profile.

    Args:
        root: the cache.
        model_digest: SHA-256 of the ONNX file.
        versions: of onnxruntime and TensorRT.
        gpu: the GPU's name.
        profile: shapes that the engine was built for.

    Returns:
        A folder below the root; another one as soon as anything differs.
    """
    key = json.dumps([model_digest, dict(versions), gpu, None if profile is None else asdict(profile)], sort_keys=True)
    return root / "tensorrt" / hashlib.sha256(key.encode()).hexdigest()[:32]


def session_plan(options: OnnxOptions, cache_folder: Path | None = None, *, vnni: bool = True) -> SessionPlan:
    """Decide everything that a session is created with.

    Args:
        options: what was asked for.
        cache_folder: TensorRT's own folder, from `engine_cache_folder`.
        vnni: whether the processor sums products of 8-bit numbers exactly.

    Returns:
        The plan.
    """
    cpu: tuple[str, ProviderSettings] = (PROVIDER_NAMES[Provider.CPU], {})
    cuda = (PROVIDER_NAMES[Provider.CUDA], cuda_settings(options))
    providers: tuple[tuple[str, ProviderSettings], ...]
    match options.provider:
        case Provider.CPU:
            providers = (cpu,)
        case Provider.OPENVINO:
            providers = ((PROVIDER_NAMES[Provider.OPENVINO], openvino_settings(options)),)
        case Provider.CUDA:
            providers = (cuda, cpu)
        case Provider.TENSORRT:
            tensorrt = (PROVIDER_NAMES[Provider.TENSORRT], tensorrt_settings(options, cache_folder))
            providers = (tensorrt, cuda, cpu)
    config: dict[str, str] = {}
    if options.provider.device == "gpu":
        config["session.intra_op.allow_spinning"] = "0"
    elif options.precision is Precision.INT8 and not vnni:
        # Sums of uint8 by int8 products overflow there. The exact kernels are slower, also where they are not needed.
        config["session.x64quantprecision"] = "1"
    share_one = options.threads_per_stream == 1 and options.provider is not Provider.OPENVINO
    return SessionPlan(
        threads=options.threads_per_stream,
        sessions=1 if share_one else options.streams,
        config=config,
        providers=providers,
        is_plugin=options.provider is Provider.OPENVINO,
        log_severity=0 if options.verbose else 3,
    )


def _version_of(distribution: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
    return None


def library_conflict() -> str | None:
    """Find the two distributions that overwrite each other's files.

    Returns:
        What is wrong and what to do, or None.
    """
    if _version_of("onnxruntime") and _version_of("onnxruntime-gpu"):
        return (
            "onnxruntime and onnxruntime-gpu are both installed and CUDA is lost: "
            "uninstall both, then install the one that you need"
        )
    return None


def _load_library() -> Any:
    conflict = library_conflict()
    if conflict is not None:
        raise RuntimeUnavailableError(conflict)
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot be imported ({error}): install the extra `onnx`, or use runtime paddle"
        ) from error
    return onnxruntime


def _plugin_devices(ort: Any) -> list[Any]:
    """Register OpenVINO's plugin once per process and list the devices that it offers."""
    name = PROVIDER_NAMES[Provider.OPENVINO]
    try:
        import onnxruntime_ep_openvino
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"provider openvino: its plugin cannot be imported ({error}): {_REMEDIES[Provider.OPENVINO]}"
        ) from error
    with _plugin_lock:
        if name not in _registered_plugins:
            ort.register_execution_provider_library(name, onnxruntime_ep_openvino.get_library_path())
            _registered_plugins.add(name)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    on_cpu = [device for device in devices if device.device.type == ort.OrtHardwareDeviceType.CPU]
    if not on_cpu:
        vendors = sorted({str(device.device.vendor) for device in ort.get_ep_devices()})
        raise RuntimeUnavailableError(
            f"provider openvino: its plugin offers no device for this processor (vendor {', '.join(vendors)}): "
            "it serves Intel processors only; use provider cpu"
        )
    return on_cpu[:1]


_plugin_lock = Lock()
_registered_plugins: set[str] = set()


def require_provider(provider: Provider) -> None:
    """Find out whether ONNX Runtime is installed and knows the provider.

    Args:
        provider: the execution provider.

    Raises:
        RuntimeUnavailableError: the library or the provider is absent.
    """
    ort = _load_library()
    if provider is Provider.OPENVINO:
        _plugin_devices(ort)
    elif PROVIDER_NAMES[provider] not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"provider {provider} is not part of the installed onnxruntime {ort.__version__} "
            f"(it has {', '.join(ort.get_available_providers())}): {_REMEDIES[provider]}"
        )


def _create_session(
    ort: Any, model: OnnxModel, plan: SessionPlan, provider: Provider
) -> "onnxruntime.InferenceSession":
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = plan.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = plan.log_severity
    # Patterns are kept per input shape: with ever new sizes they only grow.
    settings.enable_mem_pattern = False
    for key, value in plan.config.items():
        settings.add_session_config_entry(key, value)
    with utf8_paths(model.path) as (path,):
        if plan.is_plugin:
            settings.add_provider_for_devices(_plugin_devices(ort), dict(plan.providers[0][1]))
            return ort.InferenceSession(str(path), settings)
        if provider.device == "gpu":
            ort.preload_dlls()
        return ort.InferenceSession(str(path), settings, providers=list(plan.providers))


class OnnxRuntime:
    """One ONNX model in one ONNX Runtime session."""

    def __init__(self, model: OnnxModel, options: OnnxOptions) -> None:
        """Load the model and prove with a first run that it works.

        Args:
            model: the ONNX file.
            options: provider, precision, threads.

        Raises:
            RuntimeUnavailableError: onnxruntime or the provider is absent.
            ModelLoadError: the library refuses the model, or its first run fails.
        """
        require_provider(options.provider)
        ort = _load_library()
        self._versions = {"onnxruntime": str(ort.__version__)}
        cache = self._engine_cache(model, options)
        plan = session_plan(options, cache, vnni=has_vnni())
        try:
            sessions = [_create_session(ort, model, plan, options.provider) for _ in range(plan.sessions)]
        except Exception as error:
            raise ModelLoadError(
                f"{model.path}: ONNX Runtime refuses the model ({_first_line(error)}): convert the bundle again"
            ) from error
        session = sessions[0]
        if PROVIDER_NAMES[options.provider] not in session.get_providers():
            raise RuntimeUnavailableError(
                f"provider {options.provider} was asked for, but the session started with "
                f"{', '.join(session.get_providers())}: {_REMEDIES[options.provider]}"
            )
        self._sessions: Sessions[onnxruntime.InferenceSession] = Sessions(sessions * (options.streams // plan.sessions))
        self._inputs = tuple(_spec(each) for each in session.get_inputs())
        self._outputs = tuple(_spec(each) for each in session.get_outputs())
        self._identity = RuntimeIdentity(
            runtime=RuntimeName.ONNX,
            provider=options.label,
            precision=options.precision,
            threads=options.threads,
            model_digest=model.digest,
            versions=self._versions,
            streams=options.streams,
        )
        try:
            self.run(probe_feeds(self._inputs))
        except InferenceError as error:
            raise ModelLoadError(f"{model.path}: loads, but its first run fails: {error}") from error

    def _engine_cache(self, model: OnnxModel, options: OnnxOptions) -> Path | None:
        if options.provider is not Provider.TENSORRT or options.tensorrt_files.engine_cache is None:
            return None
        self._versions["tensorrt"] = _version_of("tensorrt-cu12") or _version_of("tensorrt") or "unknown"
        folder = engine_cache_folder(
            options.tensorrt_files.engine_cache,
            model_digest=model.digest,
            versions=self._versions,
            gpu=gpu_name(options.device_id),
            profile=options.tensorrt_files.shapes,
        )
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def identity(self) -> RuntimeIdentity:
        """What really runs."""
        return self._identity

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs as it states them."""
        return self._outputs

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network once; a call waits while every stream is busy.

        Args:
            feeds: a tensor for every input, of its dtype.

        Returns:
            Output name to tensor; the caller owns them.

        Raises:
            InferenceError: the feeds do not fit, or the session failed or is closed.
        """
        check_feeds(self._inputs, feeds)
        names = [spec.name for spec in self._outputs]
        with self._sessions.lend() as session:
            try:
                results = cast("list[Tensor]", session.run(names, dict(feeds)))
            except Exception as error:
                shapes = {name: tensor.shape for name, tensor in feeds.items()}
                raise InferenceError(f"ONNX Runtime failed on inputs {shapes}: {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.close()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _spec(argument: Any) -> TensorSpec:
    dtype = _DTYPES.get(argument.type)
    if dtype is None:
        raise ModelLoadError(f"tensor {argument.name!r} has type {argument.type}, which no segmentation network uses")
    shape = tuple(axis if isinstance(axis, int) and axis > 0 else None for axis in argument.shape)
    return TensorSpec(name=argument.name, dtype=np.dtype(dtype), shape=shape)

"""What ONNX Runtime is told, provider by provider: pure functions, so that it is checked without the hardware."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.options import OnnxOptions, Precision, Provider, Shape

ProviderSettings = dict[str, str]

PROVIDER_NAMES: Mapping[Provider, str] = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Everything that a session is created with."""

    threads: int  # intra-op, of each session
    sessions: int  # how many are made; the streams share them
    config: Mapping[str, str]  # session configuration entries
    providers: tuple[tuple[str, ProviderSettings], ...]  # in order of preference, with their settings
    log_severity: int  # 0 verbose … 4 fatal
    io_binding: bool = False  # whether inputs and outputs stay in the GPU's memory (`engine.runtimes.onnx.binding`)
    # whether the session gets the model that also tells the classes (`engine.runtimes.onnx.classes`)
    classes: bool = False


def cuda_settings(options: OnnxOptions) -> ProviderSettings:
    """Settings of the CUDA provider.

    TF32 stays off unless it is allowed: it rounds the inputs of a multiplication to 10 bits and moves pixels on class
    borders. Each session has an arena of its own, so that they share the limit on memory.
    """
    settings = {
        "device_id": str(options.device_id),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": str(int(options.gpu.allow_tf32)),
        "prefer_nhwc": str(int(options.cuda.prefer_nhwc)),
        "enable_cuda_graph": str(int(options.cuda.cuda_graph)),
    }
    if options.gpu.memory_bytes is not None:
        settings["gpu_mem_limit"] = str(options.gpu.memory_bytes // session_count(options))
    return settings


def session_count(options: OnnxOptions) -> int:
    """Count the sessions of a model: 1, or as many as there are streams.

    Streams of one thread share a session, whose `run` is reentrant. A recorded graph has one place for its input, so
    that each stream needs its own.
    """
    return 1 if options.threads_per_stream == 1 and not options.cuda.cuda_graph else options.streams


def shape_text(name: str, shape: Shape) -> str:
    """Write a shape as TensorRT's provider reads it.

    >>> shape_text("x", (1, 3, 512, 640))
    'x:1x3x512x640'
    """
    return f"{name}:{'x'.join(map(str, shape))}"


def tensorrt_settings(options: OnnxOptions, cache_folder: Path | None) -> ProviderSettings:
    """Settings of the TensorRT provider, which keeps engines and timings in the folder, if there is one.

    INT8 models carry their scales (QDQ), so no calibration table is named. An FP16 model is the certified one, with its
    own casts. TensorRT 10 refuses half tensors where FP16 is not enabled, and the provider has no setting by which
    TensorRT would keep to the model's types; it is told to keep normalizations in FP32, as the model does.

    The argmax behind the network (`engine.runtimes.onnx.classes`) is left to CUDA, since nothing says which of equal
    scores TensorRT takes; the other three operators are what the provider leaves out by itself.
    """
    settings = {
        "device_id": str(options.device_id),
        "trt_min_subgraph_size": str(options.gpu.min_subgraph_size),
        "trt_max_workspace_size": str(options.gpu.workspace_bytes),
        "trt_op_types_to_exclude": "NonMaxSuppression,NonZero,RoiAlign,ArgMax",
        "trt_fp16_enable": str(options.precision is Precision.FP16),
        "trt_layer_norm_fp32_fallback": str(options.precision is Precision.FP16),
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


def session_plan(options: OnnxOptions, cache_folder: Path | None = None, *, vnni: bool = True) -> SessionPlan:
    """Decide everything that a session is created with, but for OpenVINO, which is loaded elsewhere (ValueError).

    The folder, of `engine_folder`, is for engines. `vnni`: the processor sums products of 8-bit numbers exactly.
    """
    cpu: tuple[str, ProviderSettings] = (PROVIDER_NAMES[Provider.CPU], {})
    cuda = (PROVIDER_NAMES[Provider.CUDA], cuda_settings(options))
    providers: tuple[tuple[str, ProviderSettings], ...]
    match options.provider:
        case Provider.CPU:
            providers = (cpu,)
        case Provider.OPENVINO:
            raise ValueError("OpenVINO has a runtime of its own, which is not a provider of ONNX Runtime")
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
    on_gpu = options.provider.device == "gpu"
    return SessionPlan(
        threads=options.threads_per_stream,
        sessions=session_count(options),
        config=config,
        providers=providers,
        log_severity=0 if options.verbose else 3,
        io_binding=on_gpu and options.cuda.io_binding,
        classes=on_gpu,
    )

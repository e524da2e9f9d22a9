"""From what a user asks for to what is tried, in order.

A tuned profile (`engine.runtimes.profile`) names what is tried first. After it, and without one, `auto` on a CPU tries
ONNX Runtime (CPU provider), then Paddle with oneDNN, then Paddle without; on a GPU ONNX Runtime (CUDA, or TensorRT if
asked for), then Paddle. Whatever was named explicitly is the only thing tried.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from engine.declaration import Options, option
from engine.errors import OptionError
from engine.options import (
    DEVICE_PATTERN,
    Device,
    GpuOptions,
    NumberedGpu,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    RuntimeName,
    RuntimeOptions,
    TensorRtFiles,
    parse_device,
)
from engine.runtimes.profile import Profile
from engine.system.machine.cores import thread_count, usable_cores


class OneDnn(StrEnum):
    """Whether Paddle uses oneDNN on the CPU."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class RuntimeRequest(Options):
    """What a user asks for; None leaves the choice to `auto`.

    Attributes:
        runtime: the library.
        provider: ONNX Runtime's execution provider.
        device: CPU, GPU, or one of several GPUs; None: the CPU, or what the provider needs.
        precision: arithmetic of the network; None: the tuned profile's, that of the bundle's only model, or FP32.
        threads: maximum number; None: all cores that the process may use.
        streams: runs that may be under way at once, each with an equal share of the threads; None: one.
        onednn: for Paddle on the CPU.
        tensorrt: use TensorRT.
        gpu: TF32, memory, and the size of subgraphs for TensorRT.
        verbose: let the library log.
        tensorrt_files: shapes and engines of TensorRT.
        tuned: a profile that fits bundle and machine; tried before what the other attributes allow.

    Raises:
        OptionError: the request contradicts itself.
    """

    title: ClassVar[str] = "What runs the network"

    runtime: RuntimeName | None = option(
        None,
        "Which library runs the network: ONNX Runtime or Paddle. auto takes the first that runs the model.",
        none="auto",
    )
    provider: Provider | None = option(
        None, "Execution provider of ONNX Runtime. auto takes the one for the device.", none="auto"
    )
    device: Device | NumberedGpu | None = option(
        None,
        "What runs the network: cpu, gpu, or one of several GPUs by its number, such as gpu:1. By default the CPU, or "
        "what the provider needs.",
        metavar="cpu|gpu|gpu:N",
        parse=parse_device,
        pattern=DEVICE_PATTERN,
    )
    precision: Precision | None = option(
        None,
        "Number format of the network. fp16 needs a GPU, int8 a bundle that holds an INT8 model. By default the "
        "tuned profile's format, that of the bundle's only model, or fp32.",
    )
    threads: int | None = option(
        None,
        "Maximum number of CPU threads, never more than the cores of this process. By default all cores.",
        minimum=1,
    )
    streams: int | None = option(
        None,
        "Number of runs of the network at the same time, which share the threads. By default the tuned profile's "
        "number, or 1.",
        minimum=1,
    )
    onednn: OneDnn = option(OneDnn.AUTO, "Whether Paddle uses oneDNN on the CPU.", name="mkldnn")
    tensorrt: bool = option(False, "Run the network through TensorRT, which needs a GPU.", name="use_trt")
    gpu: GpuOptions = GpuOptions()
    verbose: bool = option(False, "Let the library that runs the network write its own log.", name="print_detail")
    tensorrt_files: TensorRtFiles = TensorRtFiles()
    tuned: Profile | None = None

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        self._check_provider()
        if self.onednn is OneDnn.ON and (self.runtime is RuntimeName.ONNX or self.provider is not None):
            raise OptionError("oneDNN belongs to Paddle: it needs runtime paddle or auto", option="mkldnn")
        if self.onednn is OneDnn.ON and self.wanted_device is Device.GPU:
            raise OptionError("oneDNN runs on the CPU only: leave it out with a GPU", option="mkldnn")
        if self.tensorrt and self.wanted_device is Device.CPU:
            raise OptionError("TensorRT needs a GPU: ask for device gpu, too, or leave it out", option="use_trt")
        if self.precision is Precision.FP16 and self.wanted_device is Device.CPU:
            raise OptionError("fp16 needs a GPU: ask for device gpu, too, or for fp32 or int8", option="precision")

    def _check_provider(self) -> None:
        if self.provider is None:
            return
        if self.runtime is RuntimeName.PADDLE:
            raise OptionError(f"{self.provider} belongs to ONNX Runtime: use runtime onnx or auto", option="provider")
        if self.device is not None and self.provider.device is not self.wanted_device:
            raise OptionError(
                f"{self.provider} runs on the {self.provider.device}, but device {self.device} was asked for",
                option="provider",
            )
        if self.tensorrt and self.provider is not Provider.TENSORRT:
            raise OptionError(f"it needs provider tensorrt, not {self.provider}", option="use_trt")

    @property
    def wanted_device(self) -> Device:
        """The kind of device, even if only the provider determines it."""
        if self.device is not None:
            return Device.GPU if isinstance(self.device, NumberedGpu) else self.device
        return Device.CPU if self.provider is None else self.provider.device

    @property
    def device_id(self) -> int:
        """Number of the GPU."""
        return self.device.number if isinstance(self.device, NumberedGpu) else 0

    @property
    def wants_tensorrt(self) -> bool:
        """Whether TensorRT was asked for, by its own option or as the provider."""
        return self.tensorrt or self.provider is Provider.TENSORRT

    @property
    def leaves_all_to_a_profile(self) -> bool:
        """Whether a tuned profile may decide, because the user named nothing that it states."""
        named = (self.runtime, self.provider, self.device, self.precision, self.threads, self.streams)
        return self.onednn is OneDnn.AUTO and not self.tensorrt and all(each is None for each in named)


def candidates(request: RuntimeRequest) -> tuple[RuntimeOptions, ...]:
    """List what is tried, best first.

    Args:
        request: what the user asks for.

    Returns:
        At least one set of options.

    Raises:
        OptionError: nothing can honour the request.
    """
    found = _untuned(request)
    if request.tuned is not None:
        tuned = replace(request.tuned.options(verbose=request.verbose), gpu=request.gpu)
        found = (tuned, *(each for each in found if each != tuned))
    _require_gpu_options_used(request.gpu, found)
    return found


def _require_gpu_options_used(gpu: GpuOptions, found: Iterable[RuntimeOptions]) -> None:
    usual = GpuOptions()
    devices = {each.provider.device if isinstance(each, OnnxOptions) else each.device for each in found}
    for name, asked in (("allow_tf32", gpu.allow_tf32), ("gpu_memory_limit", gpu.memory_bytes is not None)):
        if asked and Device.GPU not in devices:
            raise OptionError(
                "it acts on a GPU, and none is asked for: leave it out, or ask for device gpu", option=name
            )
    uses_tensorrt = any(
        each.provider is Provider.TENSORRT if isinstance(each, OnnxOptions) else each.tensorrt for each in found
    )
    if gpu.min_subgraph_size != usual.min_subgraph_size and not uses_tensorrt:
        raise OptionError("it acts on TensorRT: leave it out, or add use-trt", option="min_subgraph_size")


def _untuned(request: RuntimeRequest) -> tuple[RuntimeOptions, ...]:
    threads = _shared_threads(request)
    onnx = [_onnx_options(request, threads)]
    if onnx[0].provider is Provider.TENSORRT and onnx[0].tensorrt_files.shapes is not None:
        # Where TensorRT leaves an operator to CUDA, the parts between have inputs that the profile does not name, and
        # the provider refuses it. Without a profile it builds engines as shapes come.
        files = replace(onnx[0].tensorrt_files, shapes=None)
        onnx.append(replace(onnx[0], tensorrt_files=files))
    if request.runtime is RuntimeName.ONNX or request.provider is not None:
        return tuple(onnx)
    if request.runtime is RuntimeName.PADDLE or request.onednn is OneDnn.ON:
        return tuple(_paddle_options(request, threads))
    try:
        paddle = _paddle_options(request, threads)
    except OptionError:
        # INT8 on a CPU: only ONNX Runtime can, and it says so itself if the bundle holds no such model.
        paddle = []
    return (*onnx, *paddle)


def _shared_threads(request: RuntimeRequest) -> int:
    """Threads of all streams together: no more than asked for, and as many for each stream."""
    threads, streams = thread_count(request.threads, usable_cores()), request.streams or 1
    if streams > threads:
        raise OptionError(
            f"{streams} streams need a thread each, and there are {threads}: ask for at most {threads}",
            option="streams",
        )
    return threads - threads % streams


def _onnx_options(request: RuntimeRequest, threads: int) -> OnnxOptions:
    provider = request.provider
    if provider is None and request.wanted_device is Device.GPU:
        provider = Provider.TENSORRT if request.tensorrt else Provider.CUDA
    return OnnxOptions(
        provider=provider or Provider.CPU,
        precision=request.precision or Precision.FP32,
        threads=threads,
        streams=request.streams or 1,
        device_id=request.device_id,
        gpu=request.gpu,
        tensorrt_files=request.tensorrt_files,
        verbose=request.verbose,
    )


def _paddle_options(request: RuntimeRequest, threads: int) -> list[PaddleOptions]:
    if request.wanted_device is Device.GPU:
        onednn_choices = [False]
    else:
        onednn_choices = {OneDnn.AUTO: [True, False], OneDnn.ON: [True], OneDnn.OFF: [False]}[request.onednn]
    return [
        PaddleOptions(
            device=request.wanted_device,
            onednn=onednn,
            tensorrt=request.tensorrt,
            precision=request.precision or Precision.FP32,
            threads=threads,
            streams=request.streams or 1,
            device_id=request.device_id,
            gpu=request.gpu,
            tensorrt_files=request.tensorrt_files,
            verbose=request.verbose,
        )
        for onednn in onednn_choices
    ]

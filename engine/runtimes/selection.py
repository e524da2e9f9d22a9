"""From what a user asks for to what is tried, in order.

A tuned profile (`engine.runtimes.profile`) names what is tried first. After it, and without one, `auto` on a CPU tries
ONNX Runtime (CPU provider), then Paddle with oneDNN, then Paddle without; on a GPU ONNX Runtime (CUDA, or TensorRT if
asked for), then Paddle. Whatever was named explicitly is the only thing tried.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine.errors import OptionError
from engine.options import (
    Device,
    DynamicShapeProfile,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    RuntimeName,
    RuntimeOptions,
)
from engine.runtimes.profile import Profile
from engine.system.cores import thread_count, usable_cores


class OneDnn(StrEnum):
    """Whether Paddle uses oneDNN on the CPU."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class RuntimeRequest:
    """What a user asks for; None leaves the choice to `auto`.

    Attributes:
        runtime: the library.
        provider: ONNX Runtime's execution provider.
        device: CPU or GPU; None: the CPU, or what the provider needs.
        precision: arithmetic of the network.
        threads: the most to use; None: all cores that the process may use.
        streams: runs that may be under way at once, each with an equal share of the threads; None: one.
        onednn: for Paddle on the CPU.
        tensorrt: use TensorRT.
        min_subgraph_size: for TensorRT.
        profile: shapes for TensorRT.
        shape_range_file: ranges of inner tensors for Paddle's TensorRT on a `.pdmodel`.
        engine_cache: folder for TensorRT's engines.
        verbose: let the library log.
        tuned: a profile that fits bundle and machine; tried before what the other attributes allow.
    """

    runtime: RuntimeName | None = None
    provider: Provider | None = None
    device: Device | None = None
    precision: Precision = Precision.FP32
    threads: int | None = None
    streams: int | None = None
    onednn: OneDnn = OneDnn.AUTO
    tensorrt: bool = False
    min_subgraph_size: int = 3
    profile: DynamicShapeProfile | None = None
    shape_range_file: Path | None = None
    engine_cache: Path | None = None
    verbose: bool = False
    tuned: Profile | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}; it must be at least 1")
        if self.streams is not None and self.streams < 1:
            raise OptionError(f"streams is {self.streams}; it must be at least 1")
        self._check_provider()
        if self.onednn is OneDnn.ON and (self.runtime is RuntimeName.ONNX or self.provider is not None):
            raise OptionError("oneDNN belongs to Paddle: --mkldnn on goes with --runtime paddle or auto")
        if self.onednn is OneDnn.ON and self.wanted_device is Device.GPU:
            raise OptionError("oneDNN runs on the CPU only: leave --mkldnn on out with a GPU")
        if self.tensorrt and self.wanted_device is Device.CPU:
            raise OptionError("TensorRT needs a GPU: add --device gpu or leave --use-trt out")
        if self.precision is Precision.FP16 and self.wanted_device is Device.CPU:
            raise OptionError("precision fp16 needs a GPU: add --device gpu, or use fp32 or int8")

    def _check_provider(self) -> None:
        if self.provider is None:
            return
        if self.runtime is RuntimeName.PADDLE:
            raise OptionError(f"provider {self.provider} belongs to ONNX Runtime: use --runtime onnx or auto")
        if self.device is not None and self.provider.device is not self.device:
            raise OptionError(
                f"provider {self.provider} runs on the {self.provider.device}, but --device {self.device} was given"
            )
        if self.tensorrt and self.provider is not Provider.TENSORRT:
            raise OptionError(f"--use-trt goes with --provider tensorrt, not {self.provider}")

    @property
    def wanted_device(self) -> Device:
        """The device, also where only the provider tells it."""
        if self.device is not None:
            return self.device
        return Device.CPU if self.provider is None else self.provider.device

    @property
    def is_auto(self) -> bool:
        """Whether the library is left to `auto`."""
        return self.runtime is None and self.provider is None and self.onednn is not OneDnn.ON


def candidates(request: RuntimeRequest) -> tuple[RuntimeOptions, ...]:
    """List what is tried, best first.

    Args:
        request: what the user asks for.

    Returns:
        At least one set of options.

    Raises:
        OptionError: nothing can honour the request.
    """
    untuned = _untuned(request)
    if request.tuned is None:
        return untuned
    tuned = request.tuned.options(verbose=request.verbose)
    return (tuned, *(each for each in untuned if each != tuned))


def _untuned(request: RuntimeRequest) -> tuple[RuntimeOptions, ...]:
    threads = _shared_threads(request)
    onnx = [_onnx_options(request, threads)]
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
            f"{streams} streams need a thread each, and there are {threads}: ask for at most {threads} streams"
        )
    return threads - threads % streams


def _onnx_options(request: RuntimeRequest, threads: int) -> OnnxOptions:
    provider = request.provider
    if provider is None and request.wanted_device is Device.GPU:
        provider = Provider.TENSORRT if request.tensorrt else Provider.CUDA
    return OnnxOptions(
        provider=provider or Provider.CPU,
        precision=request.precision,
        threads=threads,
        streams=request.streams or 1,
        min_subgraph_size=request.min_subgraph_size,
        profile=request.profile,
        engine_cache=request.engine_cache,
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
            precision=request.precision,
            threads=threads,
            streams=request.streams or 1,
            min_subgraph_size=request.min_subgraph_size,
            profile=request.profile,
            shape_range_file=request.shape_range_file,
            engine_cache=request.engine_cache,
            verbose=request.verbose,
        )
        for onednn in onednn_choices
    ]

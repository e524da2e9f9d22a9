"""What is measured: axes that multiply, the configurations they give, and why some cannot run on this machine."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import ClassVar, assert_never

from engine.bundle.bundle import Bundle
from engine.declaration import Options, option
from engine.errors import ConversionError, OptionError, RuntimeUnavailableError
from engine.options import (
    CudaExecution,
    Device,
    GpuOptions,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    RuntimeName,
    RuntimeOptions,
    TensorRtFiles,
)
from engine.segmentation.opening import Convert, require_available
from engine.system.machine.cores import usable_cores

DEFAULT_MIN_SUBGRAPH_SIZE = 3


class ProviderName(StrEnum):
    """ONNX Runtime's execution providers and Paddle's ways to run, called as in a mask's provenance."""

    CPU = "cpu"
    OPENVINO = "openvino"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    PADDLE_CPU = "paddle-cpu"
    PADDLE_ONEDNN = "paddle-onednn"
    PADDLE_GPU = "paddle-gpu"
    PADDLE_TENSORRT = "paddle-tensorrt"

    @property
    def runtime(self) -> RuntimeName:
        return RuntimeName.PADDLE if self.value.startswith("paddle-") else RuntimeName.ONNX

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return self in {ProviderName.CUDA, ProviderName.TENSORRT, ProviderName.PADDLE_GPU, ProviderName.PADDLE_TENSORRT}

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT takes part, and with it the smallest subgraph that it takes."""
        return self in {ProviderName.TENSORRT, ProviderName.PADDLE_TENSORRT}


@dataclass(frozen=True, slots=True, order=True)
class Size:
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def parse_size(text: str) -> Size:
    """Read a size as a user writes it; OptionError for something else.

    >>> parse_size("512x640")
    Size(height=512, width=640)
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise OptionError(f"{text}: give height and width in pixels, such as 512x640", option="size")
    return Size(int(sides[0]), int(sides[1]))


@dataclass(frozen=True, slots=True)
class Configuration:
    """One point of the product of the axes.

    `threads` are of all streams together, which have an equal share each; `batch_size` images share one run. Every
    image is resized to `size` beforehand, if there is one. TensorRT takes subgraphs of at least `min_subgraph_size`
    nodes.
    """

    provider: ProviderName
    precision: Precision = Precision.FP32
    threads: int = 1
    streams: int = 1
    batch_size: int = 1
    size: Size | None = None
    min_subgraph_size: int = DEFAULT_MIN_SUBGRAPH_SIZE
    cuda: CudaExecution = CudaExecution()

    @property
    def label(self) -> str:
        """What a table calls it: what differs from a single session over single images as they are.

        >>> Configuration(ProviderName.CPU, threads=4, streams=2, size=Size(512, 640)).label
        'cpu fp32, 4 threads in 2 streams, 512x640'
        """
        parts = [f"{self.provider} {self.precision}", _counted(self.threads, "thread")]
        if self.streams > 1:
            parts[-1] += f" in {self.streams} streams"
        if self.batch_size > 1:
            parts.append(f"batch {self.batch_size}")
        if self.size is not None:
            parts.append(str(self.size))
        if self.min_subgraph_size != DEFAULT_MIN_SUBGRAPH_SIZE:
            parts.append(f"subgraphs from {self.min_subgraph_size}")
        named = (("NHWC", self.cuda.prefer_nhwc), ("CUDA graph", self.cuda.cuda_graph))
        parts += [name for name, chosen in named if chosen]
        return ", ".join(parts)

    def options(self, files: TensorRtFiles | None = None) -> RuntimeOptions:
        """What the runtime is opened with; OptionError where the configuration contradicts itself."""
        if self.batch_size < 1:
            raise OptionError(f"batch size is {self.batch_size}; it must be at least 1")
        provider = self.provider
        told = files if files is not None and provider.is_tensorrt else TensorRtFiles()
        match provider:
            case ProviderName.CPU | ProviderName.OPENVINO | ProviderName.CUDA | ProviderName.TENSORRT:
                return OnnxOptions(
                    provider=Provider(provider.value),
                    precision=self.precision,
                    threads=self.threads,
                    streams=self.streams,
                    gpu=GpuOptions(min_subgraph_size=self.min_subgraph_size),
                    tensorrt_files=told,
                    cuda=self.cuda,
                )
            case (
                ProviderName.PADDLE_CPU
                | ProviderName.PADDLE_ONEDNN
                | ProviderName.PADDLE_GPU
                | ProviderName.PADDLE_TENSORRT
            ):
                return PaddleOptions(
                    device=Device.GPU if provider.on_gpu else Device.CPU,
                    onednn=provider is ProviderName.PADDLE_ONEDNN,
                    tensorrt=provider.is_tensorrt,
                    precision=self.precision,
                    threads=self.threads,
                    streams=self.streams,
                    gpu=GpuOptions(min_subgraph_size=self.min_subgraph_size),
                    tensorrt_files=told,
                )
            case _:
                assert_never(provider)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + "s" * (count != 1)


@dataclass(frozen=True, slots=True)
class Axes(Options):
    """The values of every axis; an empty one is left to `configurations`."""

    title: ClassVar[str] = "Options of which all combinations are measured"

    runtimes: tuple[RuntimeName, ...] = option(
        (), "Library that runs the network. May be repeated. By default both.", name="runtime", repeatable=True
    )
    providers: tuple[ProviderName, ...] = option(
        (),
        "Execution provider. May be repeated. By default all; those that cannot run are listed.",
        name="provider",
        repeatable=True,
    )
    precisions: tuple[Precision, ...] = option(
        (),
        "Number format. May be repeated. By default fp32 and those that the bundle holds.",
        name="precision",
        repeatable=True,
    )
    threads: tuple[int, ...] = option(
        (), "Threads of all streams together. May be repeated. By default all usable cores.", repeatable=True
    )
    streams: tuple[int, ...] = option(
        (1,), "Streams that share the threads. May be repeated. By default 1.", repeatable=True
    )
    batch_sizes: tuple[int, ...] = option(
        (1,), "Images per run. May be repeated. By default 1.", name="batch_size", repeatable=True
    )
    sizes: tuple[Size | None, ...] = option(
        (None,),
        "Height and width to which images are resized first. May be repeated. By default they are not resized.",
        name="size",
        metavar="HxW",
        parse=parse_size,
        repeatable=True,
    )
    min_subgraph_sizes: tuple[int, ...] = option(
        (DEFAULT_MIN_SUBGRAPH_SIZE,),
        "Smallest number of operators in a part of the network that TensorRT takes over. May be repeated. By default "
        "3.",
        name="min_subgraph_size",
        repeatable=True,
    )


def configurations(axes: Axes, bundle: Bundle) -> tuple[Configuration, ...]:
    """Multiply the axes: every combination once, in their order; whether it can run is not known yet.

    Raises OptionError where no provider belongs to the runtimes.
    """
    providers = _providers(axes)
    if set(axes.min_subgraph_sizes) != {DEFAULT_MIN_SUBGRAPH_SIZE} and not any(each.is_tensorrt for each in providers):
        raise OptionError("it acts on TensorRT: leave it out, or measure a provider of it", option="min_subgraph_size")
    held = (each.precision for each in bundle.onnx)
    precisions = axes.precisions or tuple(dict.fromkeys((Precision.FP32, *held)))
    product = itertools.product(
        providers,
        precisions,
        axes.threads or (usable_cores(),),
        axes.streams,
        axes.batch_sizes,
        axes.sizes,
        axes.min_subgraph_sizes,
    )
    points = (Configuration(*values) for values in product)
    return tuple(
        dict.fromkeys(
            each if each.provider.is_tensorrt else replace(each, min_subgraph_size=DEFAULT_MIN_SUBGRAPH_SIZE)
            for each in points
        )
    )


def _providers(axes: Axes) -> Sequence[ProviderName]:
    runtimes = axes.runtimes or tuple(RuntimeName)
    fitting = [each for each in axes.providers or tuple(ProviderName) if each.runtime in runtimes]
    if not fitting:
        raise OptionError(
            f"none of the providers {', '.join(axes.providers)} belongs to {', '.join(runtimes)}: "
            "those of Paddle are called paddle-…, the others are ONNX Runtime's"
        )
    return fitting


@dataclass(frozen=True, slots=True)
class Skipped:
    """A configuration that cannot run here, with the reason, and what to do about it."""

    configuration: Configuration
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What will be measured, and what not, in the order asked for.

    The bundle has a converted model added, if one was needed and made.
    """

    bundle: Bundle
    runnable: tuple[Configuration, ...]
    skipped: tuple[Skipped, ...]


def select(wanted: Sequence[Configuration], bundle: Bundle, convert: Convert | None = None) -> Selection:
    """Sort out what this machine and this bundle cannot run, before anything is measured."""
    ready = _Ready(bundle, convert)
    runnable: list[Configuration] = []
    skipped: list[Skipped] = []
    for each in wanted:
        reason = ready.obstacle(each)
        if reason is None:
            runnable.append(each)
        else:
            skipped.append(Skipped(each, reason))
    return Selection(ready.bundle, tuple(runnable), tuple(skipped))


class _Ready:
    """A bundle that gains its FP32 ONNX model when a configuration needs it, and what is known to be absent."""

    def __init__(self, bundle: Bundle, convert: Convert | None) -> None:
        self.bundle = bundle
        self._convert = convert
        self._refusal: str | None = None
        # Asking a library may mean loading it: once per provider is enough.
        self._unavailable: Callable[[ProviderName], str | None] = cache(_unavailable)

    def obstacle(self, configuration: Configuration) -> str | None:
        try:
            options = configuration.options()
        except OptionError as error:
            return str(error)
        return self._unavailable(configuration.provider) or self._missing_model(options)

    def _missing_model(self, options: RuntimeOptions) -> str | None:
        source = self.bundle.source
        if isinstance(options, PaddleOptions):
            if self.bundle.paddle is not None:
                return None
            return f"{source}: holds no Paddle program (model.json, model.pdiparams): measure runtime onnx"
        precision = options.precision
        if self.bundle.onnx_model(precision) is not None:
            return None
        if precision is not Precision.FP32:
            calibration = " --calibrate PICTURES" if precision is Precision.INT8 else ""
            return (
                f"{source}: holds no onnx/{precision}/model.onnx: make it with "
                f"`pseg convert {source} --precision {precision}{calibration} --out …` and measure that bundle"
            )
        return self._convert_once()

    def _convert_once(self) -> str | None:
        if self._refusal is None and self._convert is not None and self.bundle.paddle is not None:
            try:
                self.bundle = self.bundle.with_onnx(self._convert(self.bundle))
            except ConversionError as error:
                self._refusal = str(error)
            else:
                return None
        return self._refusal or (
            f"{self.bundle.source}: holds no onnx/fp32/model.onnx, and nothing to make it of: measure runtime paddle"
        )


def _unavailable(provider: ProviderName) -> str | None:
    try:
        require_available(Configuration(provider).options())
    except RuntimeUnavailableError as error:
        return str(error)
    return None

"""What a runtime may be asked for. Each runtime has its own options, so none can reach the wrong one."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic_core import core_schema

from engine.declaration import Options, enumeration_value, option
from engine.errors import OptionError
from engine.quantities import MEMORY_PATTERN, memory_bytes

Shape = tuple[int, ...]


class RuntimeName(StrEnum):
    """The library that runs the network."""

    ONNX = "onnx"
    PADDLE = "paddle"


class Device(StrEnum):
    """Where the network runs."""

    CPU = "cpu"
    GPU = "gpu"


class NumberedGpu(str):
    """One of several GPUs, by its number as CUDA counts them: `gpu:1`.

    >>> NumberedGpu("gpu:1").number, NumberedGpu("gpu:1") == "gpu:1"
    (1, True)
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Read it as users write it; ValueError: the text is something else."""
        if not re.fullmatch(DEVICE_PATTERN, text) or ":" not in text:
            raise ValueError("give cpu, gpu, or a GPU by its number, such as gpu:1")
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> core_schema.CoreSchema:
        """In a model it is checked text."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())

    @property
    def number(self) -> int:
        """The number, from 0."""
        return int(self.partition(":")[2])


DEVICE_PATTERN: Final = "^(cpu|gpu|gpu:(0|[1-9][0-9]{0,2}))$"
"""How a device is written, where it is checked as text."""


def parse_device(text: str) -> Device | NumberedGpu:
    """Read a device.

    >>> parse_device("gpu"), parse_device("gpu:0")
    (<Device.GPU: 'gpu'>, 'gpu:0')

    Args:
        text: `cpu`, `gpu`, or `gpu:N`.

    Returns:
        The device; without a number it is that of the first GPU.

    Raises:
        ValueError: the text is something else.
    """
    return Device(text) if text in set(Device) else NumberedGpu(text)


class Precision(StrEnum):
    """The arithmetic of the network's heavy layers."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Provider(StrEnum):
    """ONNX Runtime's execution providers that this engine configures."""

    CPU = "cpu"
    OPENVINO = "openvino"
    CUDA = "cuda"
    TENSORRT = "tensorrt"

    @property
    def device(self) -> Device:
        """The device that the provider needs."""
        return Device.GPU if self in {Provider.CUDA, Provider.TENSORRT} else Device.CPU


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The smallest, most common and largest shape of one input."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        ranks = {len(self.minimum), len(self.optimum), len(self.maximum)}
        ordered = all(
            1 <= low <= middle <= high
            for low, middle, high in zip(self.minimum, self.optimum, self.maximum, strict=False)
        )
        if len(ranks) != 1 or not ordered:
            raise OptionError(
                f"dynamic shape profile: {self.minimum} ≤ {self.optimum} ≤ {self.maximum} does not hold axis by axis; "
                "give three shapes of one rank, each axis at least 1 and in ascending order"
            )


@dataclass(frozen=True, slots=True)
class DynamicShapeProfile:
    """The range of shapes that TensorRT prepares for, input by input."""

    inputs: tuple[tuple[str, ShapeRange], ...]

    @classmethod
    def from_shapes(cls, name: str, shapes: Sequence[Shape]) -> Self:
        """Build the profile of one input from shapes that occurred.

        The optimum is the shape that occurred most often; of several such shapes, the largest.

        Args:
            name: the input's name in the model.
            shapes: at least one shape; all of one rank.

        Returns:
            The profile.

        Raises:
            OptionError: no shapes, or shapes of several ranks.

        >>> DynamicShapeProfile.from_shapes("x", [(1, 3, 4, 8), (1, 3, 8, 4), (1, 3, 8, 4)]).inputs[0][1]
        ShapeRange(minimum=(1, 3, 4, 4), optimum=(1, 3, 8, 4), maximum=(1, 3, 8, 8))
        """
        if not shapes or len({len(shape) for shape in shapes}) != 1:
            raise OptionError(f"dynamic shape profile of input {name!r}: needs shapes of one rank, got {list(shapes)}")
        axes = list(zip(*shapes, strict=True))
        optimum, _ = max(Counter(shapes).items(), key=lambda item: (item[1], math.prod(item[0]), item[0]))
        seen = ShapeRange(tuple(map(min, axes)), optimum, tuple(map(max, axes)))
        return cls(inputs=((name, seen),))


WORKSPACE_BYTES: Final = 1 << 30
"""TensorRT's scratch memory, where no limit says less."""


@dataclass(frozen=True, slots=True)
class TensorRtFiles:
    """What TensorRT is given beside the model."""

    shapes: DynamicShapeProfile | None = None  # of the inputs that will come
    shape_range_file: Path | None = None  # ranges of all inner tensors, collected by Paddle for a `.pdmodel`
    engine_cache: Path | None = None  # folder for engines, timings and calibration tables; none are kept without it


_LEAST_GPU_BYTES: Final = 256 << 20


def _gpu_memory_bytes(text: str) -> int:
    size = memory_bytes(text)
    if size < _LEAST_GPU_BYTES:
        raise ValueError(f"no network runs in less than {_LEAST_GPU_BYTES >> 20}MiB")
    return size


@dataclass(frozen=True, slots=True)
class GpuOptions(Options):
    """What may be asked of a GPU, whichever runtime uses it."""

    title: ClassVar[str] = "What runs the network"

    min_subgraph_size: int = option(
        3, "Smallest number of operators in a part of the network that TensorRT takes over.", minimum=1
    )
    allow_tf32: bool = option(
        False,
        "Let a GPU multiply FP32 numbers with 10 bits of precision (TF32), which is faster and moves some pixels on "
        "borders between classes.",
    )
    memory_bytes: int | None = option(
        None,
        "Maximum GPU memory for the network and its runs, such as 4GiB; batches and tiles are reduced to fit. By "
        "default what is free.",
        name="gpu_memory_limit",
        metavar="SIZE",
        parse=_gpu_memory_bytes,
        pattern=MEMORY_PATTERN,
        minimum=_LEAST_GPU_BYTES,
    )

    @property
    def workspace_bytes(self) -> int:
        """TensorRT's scratch memory."""
        return min(WORKSPACE_BYTES, self.memory_bytes or WORKSPACE_BYTES)


@dataclass(frozen=True, slots=True)
class CudaExecution:
    """How ONNX Runtime works on a GPU: what is measured, not asked for. The masks are the same."""

    io_binding: bool = True  # inputs and outputs stay in the GPU's memory, and results come through pinned memory
    prefer_nhwc: bool = False  # convolutions take the channels last
    cuda_graph: bool = False  # the runs of one size are recorded once and replayed

    def __post_init__(self) -> None:
        if self.cuda_graph and not self.io_binding:
            raise OptionError("CUDA graphs are replayed at fixed addresses, which only IO binding keeps")


def _check_counts(threads: int, streams: int) -> None:
    for name, value in (("threads", threads), ("streams", streams)):
        if value < 1:
            raise OptionError(f"{value} is less than 1", option=name)
    if threads % streams:
        raise OptionError(
            f"{threads} thread{'s' * (threads != 1)} cannot be shared evenly by {streams} streams: "
            "give a number of threads that is a multiple of the streams"
        )


def _read_words(options: object, **enumerations: type[StrEnum]) -> None:
    """Put members of enumerations in the place of words for them."""
    for name, kind in enumerations.items():
        value = enumeration_value(kind, getattr(options, name), option=name)
        object.__setattr__(options, name, value)


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """How ONNX Runtime runs the model.

    Attributes:
        provider: the execution provider; no other is used instead.
        precision: which ONNX file of the bundle runs. A CPU also runs FP16 models, but slowly, which is enough to check
            them.
        threads: intra-op threads of all streams together.
        streams: runs that may be in progress at the same time; each has an equal share of the threads.
        device_id: GPU index.
        gpu: TF32, memory, and the size of subgraphs for TensorRT.
        tensorrt_files: shapes and engines of TensorRT.
        verbose: let the library log.
        cuda: how it works on a GPU.
    """

    provider: Provider = Provider.CPU
    precision: Precision = Precision.FP32
    threads: int = 1
    streams: int = 1
    device_id: int = 0
    gpu: GpuOptions = GpuOptions()
    tensorrt_files: TensorRtFiles = TensorRtFiles()
    verbose: bool = False
    cuda: CudaExecution = CudaExecution()

    def __post_init__(self) -> None:
        _read_words(self, provider=Provider, precision=Precision)
        _check_counts(self.threads, self.streams)
        if self.cuda != CudaExecution() and self.provider.device is Device.CPU:
            raise OptionError(f"IO binding, NHWC and CUDA graphs belong to a GPU, and {self.provider} runs on the CPU")

    @property
    def threads_per_stream(self) -> int:
        """Each stream's share of the threads."""
        return self.threads // self.streams

    @property
    def label(self) -> str:
        """One word for tables and provenance."""
        return self.provider.value


PaddleProvider = Literal["paddle-cpu", "paddle-onednn", "paddle-gpu", "paddle-tensorrt"]


class TensorRtPreparation(StrEnum):
    """What Paddle writes down for later runs under TensorRT."""

    SHAPE_RANGES = "shape ranges"
    """`shape_range_file`, when the runtime is closed."""
    CALIBRATION = "calibration"
    """The calibration table of INT8 in the engine cache, when the runtime is closed."""


@dataclass(frozen=True, slots=True)
class PaddleOptions:
    """How Paddle Inference runs the model.

    Attributes:
        device: CPU or GPU.
        onednn: use oneDNN's kernels (CPU only).
        tensorrt: hand subgraphs to TensorRT (GPU only).
        precision: FP32; FP16 on a GPU; INT8 under TensorRT only, with a calibration table.
        threads: threads of the CPU math library, of all streams together.
        streams: runs that may be in progress at the same time; each has an equal share of the threads.
        device_id: GPU index.
        gpu: TF32, memory, and the size of subgraphs for TensorRT.
        tensorrt_files: shapes, engines and calibration tables of TensorRT.
        preparation: what this run records for later runs under TensorRT; None: an ordinary run.
        verbose: let the library log.
    """

    device: Device = Device.CPU
    onednn: bool = False
    tensorrt: bool = False
    precision: Precision = Precision.FP32
    threads: int = 1
    streams: int = 1
    device_id: int = 0
    gpu: GpuOptions = GpuOptions()
    tensorrt_files: TensorRtFiles = TensorRtFiles()
    preparation: TensorRtPreparation | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        _read_words(self, device=Device, precision=Precision)
        _check_counts(self.threads, self.streams)
        if self.onednn and self.device is Device.GPU:
            raise OptionError("oneDNN runs on the CPU only: turn mkldnn off with device gpu")
        if self.tensorrt and self.device is Device.CPU:
            raise OptionError("TensorRT needs a GPU: ask for device gpu, too, or leave use-trt out")
        if self.precision is Precision.FP16 and self.device is Device.CPU:
            raise OptionError("precision fp16 needs a GPU under Paddle Inference: use device gpu or precision fp32")
        if self.precision is Precision.INT8 and not self.tensorrt:
            raise OptionError(
                "Paddle Inference runs int8 under TensorRT only: ask for use-trt and device gpu, "
                "or for runtime onnx with a bundle that holds onnx/int8/model.onnx"
            )
        if self.preparation is TensorRtPreparation.SHAPE_RANGES and self.tensorrt_files.shape_range_file is None:
            raise OptionError("collecting shape ranges needs shape_range_file to write to")
        if self.preparation is TensorRtPreparation.CALIBRATION and self.precision is not Precision.INT8:
            raise OptionError(f"a calibration table is for int8, not for {self.precision}: ask for precision int8")

    @property
    def threads_per_stream(self) -> int:
        """Each stream's share of the threads."""
        return self.threads // self.streams

    @property
    def label(self) -> PaddleProvider:
        """One word for tables and provenance."""
        if self.device is Device.GPU:
            return "paddle-tensorrt" if self.tensorrt else "paddle-gpu"
        return "paddle-onednn" if self.onednn else "paddle-cpu"


RuntimeOptions = OnnxOptions | PaddleOptions

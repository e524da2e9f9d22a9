"""What a benchmark notes beside its times, so that a table can be made of it later."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field

_Returned = TypeVar("_Returned")


class Startup(BaseModel):
    """Start of the process to the mask on disk, in pairs that alternate."""

    kind: Literal["startup"] = "startup"
    bundle: str
    pseg_s: float
    original_s: float
    pairs: int


class Latency(BaseModel):
    """One run of the network over one photograph; the time is the benchmark's own."""

    kind: Literal["latency"] = "latency"
    bundle: str
    provider: str


class Throughput(BaseModel):
    """A folder through the whole pipeline, in several runs at once; the time is the benchmark's own."""

    kind: Literal["throughput"] = "throughput"
    bundle: str
    provider: str
    streams: int
    images: int


class Agreement(BaseModel):
    """Masks of ONNX Runtime against Paddle's; pixels that differ are per million."""

    kind: Literal["agreement"] = "agreement"
    bundle: str
    mismatched_ppm: float
    pixels: int


class Memory(BaseModel):
    """Resident memory early and late in a run, each after so many images."""

    kind: Literal["memory"] = "memory"
    provider: str
    early_images: int
    early_bytes: int
    late_images: int
    late_bytes: int

    @property
    def growth_percent(self) -> float:
        return 100 * (self.late_bytes / self.early_bytes - 1)


class Step(BaseModel):
    """One step around the network; the time is the benchmark's own."""

    kind: Literal["step"] = "step"
    step: str


class Conversion(BaseModel):
    """A conversion from program to certified bundle; the time is the benchmark's own.

    `peak_bytes` is the largest resident memory of the command and of each process that it started.
    """

    kind: Literal["conversion"] = "conversion"
    bundle: str
    peak_bytes: int


class Variant(BaseModel):
    """A changed graph, from pixels to mask on one processor.

    `ratio` is of that and the unchanged graph's in the same turn, the median; a quarter of the turns had a smaller one
    than `ratio_low`, a quarter a larger one than `ratio_high`. `output_bytes` leave the network; the mask's pixels that
    differ from the unchanged graph's are per million.
    """

    variant: str
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    output_bytes: int
    mismatched_ppm: float


class GraphVariants(BaseModel):
    """Changes of a converted graph against the graph as it is made, whose median is from pixels to mask."""

    kind: Literal["graph variants"] = "graph variants"
    bundle: str
    plain_ms: float
    plain_output_bytes: int
    rows: list[Variant]


Noted = Startup | Latency | Throughput | Agreement | Memory | Step | Conversion | GraphVariants
Figure = Annotated[Noted, Field(discriminator="kind")]


class Benchmark(Protocol):
    """As much of pytest-benchmark's fixture as is used here; it ships no types."""

    extra_info: dict[str, Any]
    group: str | None

    def __call__(self, function_to_benchmark: Callable[..., _Returned], *args: Any, **kwargs: Any) -> _Returned:  # noqa: ANN401
        ...

    def pedantic(
        self, target: Callable[..., _Returned], *, rounds: int = 1, iterations: int = 1, warmup_rounds: int = 0
    ) -> _Returned:
        """Measure a function a stated number of times."""
        ...


def note(benchmark: Benchmark, figure: Noted) -> None:
    """Store a figure with the benchmark's times."""
    benchmark.extra_info.update(figure.model_dump())

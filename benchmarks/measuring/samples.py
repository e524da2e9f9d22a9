"""What was measured, raw, and what is derived from it: percentiles, rates, means."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np

from benchmarks.measuring.configurations import Configuration, Skipped
from benchmarks.measuring.environment import Environment
from converters.parity import ParityReport
from engine.segmentation.prediction import Provenance

STAGES = ("decode", "preprocess", "run", "postprocess", "encode")
RUNS_FOR_P99 = 100
"""Of fewer runs the 99th percentile would be little else than the largest."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, once; of a batch, an equal share of the stages of its run, and the latency of the whole batch.

    `latency_ms` is from the start of decoding to the end of encoding.
    """

    image: str
    stages_ms: Mapping[str, float]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class PipelinePass:
    """The images once through the pipeline, where decoding, running and encoding overlap.

    `cpu_s` are seconds of all cores that the process took meanwhile.
    """

    images: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a configuration: every image by itself, then all through the pipeline.

    `started_s` is on a clock that all configurations share; `peak_rss_bytes` the most memory that the process has held
    since its start, `VmHWM`.
    """

    started_s: float
    samples: tuple[Sample, ...]
    pipeline: PipelinePass
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The start of a configuration, and what really runs.

    `load_ms` is for importing the library, loading the model, and the engine's own small trial run; `first_run_ms` for
    the network's first run on a real image.
    """

    load_ms: float
    first_run_ms: float
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is known of a configuration; `loaded` is None where it did not start.

    Configurations of one lot took turns; lots ran one after another. There are as many turns as came before an error.
    `agreement` is None where masks were not compared with the reference's.
    """

    configuration: Configuration
    lot: int
    loaded: Loaded | None
    turns: tuple[Turn, ...]
    agreement: ParityReport | None
    error: str | None

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(sample for turn in self.turns for sample in turn.samples)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the masks of how many pictures of each size are compared with.

    `label` is provider and precision, None where there is no reference; `note` says why there is none, or why it is not
    Paddle's FP32 without oneDNN.
    """

    label: str | None
    images: int
    note: str | None


@dataclass(frozen=True, slots=True)
class Results:
    """One run of measurements on one machine; `images` says how many pictures, and where they come from.

    `repeats` are the turns that were asked for; `skipped` is what cannot run here.
    """

    bundle: str
    bundle_digest: str
    images: str
    repeats: int
    environment: Environment
    reference: Reference
    measurements: tuple[Measurement, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A measurement in a few figures; None where nothing is known.

    Percentiles are of the latency; `p99_ms` is None below 100 runs, each of which holds a whole batch. Rates and
    core-seconds are through the pipeline, `images_per_s` the median of the turns. `stages_ms` are medians. What follows
    is against the reference's masks: pixels of another class per million, IoU (the smallest is that of a class that
    counts), and the largest difference of a class's cover in one image, 0-1.
    """

    samples: int
    load_ms: float | None
    first_run_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    images_per_s: float | None
    peak_rss_mib: float | None
    cpu_s_per_image: float | None
    stages_ms: Mapping[str, float]
    mismatched_ppm: float | None
    min_class_iou: float | None
    class_iou: Mapping[str, float]
    max_cover_error: float | None


def summarize(measurement: Measurement) -> Summary:
    samples, loaded, agreement = measurement.samples, measurement.loaded, measurement.agreement
    latencies = [each.latency_ms for each in samples]
    runs = len(samples) / measurement.configuration.batch_size
    passes = [turn.pipeline for turn in measurement.turns]
    rates = [each.images / each.wall_s for each in passes]
    return Summary(
        samples=len(samples),
        load_ms=loaded and loaded.load_ms,
        first_run_ms=loaded and loaded.first_run_ms,
        p50_ms=_percentile(latencies, 50),
        p90_ms=_percentile(latencies, 90),
        p99_ms=_percentile(latencies, 99) if runs >= RUNS_FOR_P99 else None,
        images_per_s=_percentile(rates, 50),
        peak_rss_mib=max((turn.peak_rss_bytes / 2**20 for turn in measurement.turns), default=None),
        cpu_s_per_image=sum(each.cpu_s for each in passes) / sum(each.images for each in passes) if passes else None,
        stages_ms={stage: median([each.stages_ms[stage] for each in samples]) for stage in STAGES} if samples else {},
        mismatched_ppm=agreement and agreement.mismatched_ppm,
        min_class_iou=agreement and agreement.min_class_iou,
        class_iou=agreement.class_iou if agreement else {},
        max_cover_error=agreement and agreement.max_cover_error,
    )


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def pareto_front(
    items: Iterable[_Item], cost: Callable[[_Item], float], worth: Callable[[_Item], float]
) -> tuple[_Item, ...]:
    """Keep what nothing else beats: nothing is at least as cheap and worth at least as much, and better in one of both.

    >>> pareto_front([(3, 1.0), (1, 0.9), (2, 0.8)], lambda each: each[0], lambda each: each[1])
    ((1, 0.9), (3, 1.0))
    """
    front: list[_Item] = []
    for each in sorted(items, key=lambda item: (cost(item), -worth(item))):
        if not front or worth(each) > worth(front[-1]):
            front.append(each)
    return tuple(front)

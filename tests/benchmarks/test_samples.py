"""Percentiles against the standard library, rates by hand, the Pareto front against its definition."""

import doctest
from collections.abc import Sequence
from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measuring import samples as module
from benchmarks.measuring.configurations import Configuration, ProviderName
from benchmarks.measuring.samples import (
    STAGES,
    Measurement,
    PipelinePass,
    Sample,
    Turn,
    pareto_front,
    summarize,
)

_FIGURES = st.floats(0.001, 1e6)


def measurement_of(*turns: Turn, batch_size: int = 1) -> Measurement:
    return Measurement(Configuration(ProviderName.CPU, batch_size=batch_size), 0, None, turns, None, None)


def turn_of(latencies_ms: Sequence[float], pipeline: PipelinePass | None = None, peak: int = 1 << 20) -> Turn:
    samples = tuple(Sample("a.png", dict.fromkeys(STAGES, each / 10), each) for each in latencies_ms)
    return Turn(0.0, samples, pipeline or PipelinePass(1, 1.0, 1.0), peak)


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


@given(st.lists(_FIGURES, min_size=100, max_size=130))
def test_percentiles_are_those_of_the_standard_library(latencies_ms: list[float]) -> None:
    summary = summarize(measurement_of(turn_of(latencies_ms[:40]), turn_of(latencies_ms[40:])))
    cuts = quantiles(latencies_ms, n=100, method="inclusive")
    assert [summary.p50_ms, summary.p90_ms, summary.p99_ms] == pytest.approx([cuts[49], cuts[89], cuts[98]])


def test_p99_needs_a_hundred_runs() -> None:
    latencies_ms = [float(each) for each in range(1, 101)]
    assert summarize(measurement_of(turn_of(latencies_ms[:99]))).p99_ms is None
    assert summarize(measurement_of(turn_of(latencies_ms))).p99_ms == pytest.approx(99.01)
    # The images of a batch share one run and its latency: these are fifty runs, then a hundred.
    assert summarize(measurement_of(turn_of(latencies_ms), batch_size=2)).p99_ms is None
    assert summarize(measurement_of(turn_of(latencies_ms * 2), batch_size=2)).p99_ms == pytest.approx(99.01)


def test_rates_by_hand() -> None:
    summary = summarize(
        measurement_of(
            turn_of([10, 20], PipelinePass(images=4, wall_s=2, cpu_s=3), peak=3 << 20),
            turn_of([30], PipelinePass(images=4, wall_s=1, cpu_s=3), peak=7 << 20),
            turn_of([40], PipelinePass(images=2, wall_s=0.25, cpu_s=3), peak=5 << 20),
        )
    )
    # 2, 4 and 8 images per second; 9 core-seconds for 10 images.
    assert (summary.images_per_s, summary.cpu_s_per_image, summary.peak_rss_mib) == (4, pytest.approx(0.9), 7)
    assert (summary.samples, summary.p50_ms) == (4, 25)
    assert summary.stages_ms == dict.fromkeys(STAGES, 2.5)


def test_nothing_is_made_up_for_what_never_ran() -> None:
    summary = summarize(Measurement(Configuration(ProviderName.CPU), 0, None, (), None, "it died"))
    assert (summary.samples, summary.p50_ms, summary.images_per_s, summary.peak_rss_mib) == (0, None, None, None)
    assert (summary.stages_ms, summary.class_iou) == ({}, {})


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), unique=True))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    unbeaten = [
        (cost, worth)
        for cost, worth in points
        if not any(other <= cost and more >= worth and (other, more) != (cost, worth) for other, more in points)
    ]
    assert list(pareto_front(points, lambda point: point[0], lambda point: point[1])) == sorted(unbeaten)

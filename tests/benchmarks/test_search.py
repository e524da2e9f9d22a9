"""The search against brute force over made-up figures: limits hold, losers drop out, the budget is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measuring.configurations import Configuration, ProviderName
from benchmarks.measuring.samples import STAGES, Measurement, PipelinePass, Sample, Turn
from benchmarks.tuning.search import Goal, TuningLimits, front, search
from benchmarks.tuning.tune import variants_of
from converters.parity import ParityReport
from engine.errors import OptionError
from engine.options import CudaExecution
from engine.segmentation.prediction import Provenance

NOWHERE = Provenance("", "", "onnx", "cpu", "fp32", 1, (), {})


@dataclass(frozen=True)
class Figures:
    """What a configuration of the made-up machine gives."""

    latency_ms: float = 10.0
    images_per_s: float = 100.0
    peak_mib: float = 100.0
    iou: float = 1.0
    cover_error: float = 0.0
    error: str | None = None


def agreement(figures: Figures) -> ParityReport:
    return ParityReport(
        1,
        1.0,
        0.0,
        {"sand": figures.iou},
        figures.iou,
        ("sand",),
        figures.cover_error,
        None,
        None,
        "a",
        NOWHERE,
        NOWHERE,
    )


@dataclass
class MadeUpMachine:
    """Measures by looking figures up; every turn takes its time on a clock of its own."""

    table: Mapping[Configuration, Figures]
    turn_s: float = 1.0
    now_s: float = 0.0
    calls: list[tuple[tuple[Configuration, ...], int, bool]] = field(
        default_factory=list[tuple[tuple[Configuration, ...], int, bool]]
    )

    def clock(self) -> float:
        return self.now_s

    def __call__(
        self, wanted: Sequence[Configuration], turns: int, *, compare: bool, within_s: float
    ) -> Sequence[Measurement]:
        assert within_s > 0
        self.calls.append((tuple(wanted), turns, compare))
        self.now_s += self.turn_s * turns * len(wanted)
        return [self._measurement(each, turns, compare) for each in wanted]

    def _measurement(self, configuration: Configuration, turns: int, compare: bool) -> Measurement:
        figures = self.table[configuration]
        if figures.error is not None:
            return Measurement(configuration, 0, None, (), None, figures.error)
        turn = Turn(
            0.0,
            (Sample("a.png", dict.fromkeys(STAGES, 0.0), figures.latency_ms),),
            PipelinePass(1, 1 / figures.images_per_s, 1.0),
            round(figures.peak_mib * 2**20),
        )
        return Measurement(configuration, 0, None, (turn,) * turns, agreement(figures) if compare else None, None)


def field_of(*figures: Figures) -> dict[Configuration, Figures]:
    return {Configuration(ProviderName.CPU, threads=index + 1): each for index, each in enumerate(figures)}


figures_of_any_kind = st.builds(
    Figures,
    latency_ms=st.integers(1, 1000).map(float),
    images_per_s=st.integers(1, 1000).map(float),
    peak_mib=st.integers(1, 1000).map(float),
    iou=st.sampled_from([0.5, 0.96, 0.97, 0.99, 1.0]),
    cover_error=st.sampled_from([0.0, 0.005, 0.006, 0.5]),
    error=st.sampled_from([None, None, None, "killed"]),
)
tables = st.lists(
    figures_of_any_kind, min_size=1, max_size=24, unique_by=(lambda each: each.latency_ms, lambda each: each.peak_mib)
).map(lambda each: field_of(*each))
some_limits = st.builds(
    TuningLimits, max_latency_ms=st.sampled_from([None, 300.0]), max_rss_mib=st.sampled_from([None, 400.0])
)
WORTH: Mapping[Goal, Callable[[Figures], float]] = {
    Goal.LATENCY: lambda each: -each.latency_ms,
    Goal.THROUGHPUT: lambda each: each.images_per_s,
    Goal.MEMORY: lambda each: -each.peak_mib,
}


def permitted(figures: Figures, limits: TuningLimits) -> bool:
    return (
        figures.error is None
        and figures.iou >= 0.97
        and figures.cover_error <= 0.005
        and (limits.max_latency_ms is None or figures.latency_ms <= limits.max_latency_ms)
        and (limits.max_rss_mib is None or figures.peak_mib <= limits.max_rss_mib)
    )


@given(tables, st.sampled_from(Goal), some_limits)
def test_the_choice_is_that_of_brute_force(
    table: dict[Configuration, Figures], goal: Goal, limits: TuningLimits
) -> None:
    found = search(tuple(table), MadeUpMachine(table), goal, limits, deadline=1e9)
    worths = [WORTH[goal](each) for each in table.values() if permitted(each, limits)]
    if not worths:
        assert found.chosen is None
    else:
        assert found.chosen is not None
        chosen = table[found.chosen.configuration]
        assert permitted(chosen, limits)
        # A rate is one over a time, rounded.
        assert WORTH[goal](chosen) == pytest.approx(max(worths))
    assert {each.configuration for each in found.trials} == set(table)
    assert not found.cut_short


@given(tables, st.integers(0, 40), st.sampled_from(Goal))
def test_the_budget_is_kept_but_for_two_configurations(
    table: dict[Configuration, Figures], budget_s: int, goal: Goal
) -> None:
    machine = MadeUpMachine(table)
    found = search(tuple(table), machine, goal, TuningLimits(), deadline=budget_s, clock=machine.clock)
    assert machine.now_s <= max(budget_s, min(2, len(table)))
    assert len(found.trials) + len(found.untried) == len(table)
    assert len(found.trials) >= min(2, len(table))
    if found.untried:
        assert found.cut_short
    if found.chosen is not None:
        assert permitted(table[found.chosen.configuration], TuningLimits())


def test_losers_drop_out_and_the_first_stays() -> None:
    table = field_of(*(Figures(latency_ms=each) for each in (80.0, 70.0, 60.0, 50.0, 40.0, 30.0, 20.0, 10.0)))
    first, *_, second_best, best = table
    machine = MadeUpMachine(table)
    search(tuple(table), machine, Goal.LATENCY, TuningLimits(), deadline=1e9)
    assert machine.calls[:8] == [((each,), 1, True) for each in table]
    fields = [(len(wanted), turns, compare) for wanted, turns, compare in machine.calls[8:]]
    assert fields == [(5, 2, False), (4, 4, False), (3, 8, False)]
    assert set(machine.calls[-1][0]) == {best, second_best, first}


def test_a_short_budget_lets_more_of_them_drop_out() -> None:
    """Of seven seconds left, five configurations would take ten for their two turns; three take six."""
    table = field_of(*(Figures(latency_ms=each) for each in (80.0, 70.0, 60.0, 50.0, 40.0, 30.0, 20.0, 10.0)))
    first, *_, second_best, best = table
    machine = MadeUpMachine(table)
    found = search(tuple(table), machine, Goal.LATENCY, TuningLimits(), deadline=15, clock=machine.clock)
    assert machine.calls[8:] == [((first, best, second_best), 2, False)]
    assert found.cut_short
    assert found.chosen is not None
    assert found.chosen.configuration == best


def test_variants_of_the_better_half_are_tried() -> None:
    cpu, onednn, plain = (Configuration(each) for each in list(ProviderName)[:3])
    table = {cpu: Figures(30.0), onednn: Figures(20.0), plain: Figures(90.0)}
    table |= {replace(each, threads=2): Figures(table[each].latency_ms - 15) for each in (cpu, onednn, plain)}
    found = search(
        (cpu, onednn, plain),
        MadeUpMachine(table),
        Goal.LATENCY,
        TuningLimits(),
        deadline=1e9,
        variants=lambda each: (replace(each, threads=2),),
    )
    assert {each.configuration for each in found.trials} == {*table} - {replace(plain, threads=2)}
    assert found.chosen is not None
    assert found.chosen.configuration == replace(onednn, threads=2)


def test_a_variant_may_keep_a_limit_that_the_field_breaks() -> None:
    many = Configuration(ProviderName.CPU, threads=2)
    one = replace(many, threads=1)
    table = {many: Figures(peak_mib=300.0), one: Figures(peak_mib=200.0)}
    limits = TuningLimits(max_rss_mib=250)
    found = search((many,), MadeUpMachine(table), Goal.LATENCY, limits, deadline=1e9, variants=lambda _: (one,))
    assert found.chosen is not None
    assert found.chosen.configuration == one
    assert found.trials[0].broken == ("peak memory 300.0 MiB, limit 250 MiB",)


def test_what_breaks_a_limit_only_later_is_not_chosen() -> None:
    """A machine whose first turn flatters: the second time, it is slower than the limit."""
    table = field_of(Figures(latency_ms=20.0), Figures(latency_ms=10.0))
    slow_starter = list(table)[1]

    class Flatterer(MadeUpMachine):
        def _measurement(self, configuration: Configuration, turns: int, compare: bool) -> Measurement:
            if configuration == slow_starter and turns > 1:
                self.table = {**self.table, slow_starter: Figures(latency_ms=40.0)}
            return super()._measurement(configuration, turns, compare)

    limits = TuningLimits(max_latency_ms=25)
    found = search(tuple(table), Flatterer(table), Goal.LATENCY, limits, deadline=1e9)
    assert found.chosen is not None
    assert found.chosen.configuration == next(iter(table))
    assert [each.broken for each in found.trials] == [(), ("latency of nine in ten 40.0 ms, limit 25 ms",)]


def test_accuracy_that_is_not_known_breaks_the_limit() -> None:
    class Blind(MadeUpMachine):
        def _measurement(self, configuration: Configuration, turns: int, compare: bool) -> Measurement:
            return super()._measurement(configuration, turns, False)

    found = search(tuple(field_of(Figures())), Blind(field_of(Figures())), Goal.LATENCY, TuningLimits(), deadline=1e9)
    assert found.chosen is None
    assert found.trials[0].broken == ("masks were not compared",)


def test_a_judge_has_the_last_word_on_accuracy() -> None:
    table = field_of(Figures(latency_ms=20.0), Figures(latency_ms=10.0, iou=0.5))
    lenient = search(
        tuple(table),
        MadeUpMachine(table),
        Goal.LATENCY,
        TuningLimits(),
        deadline=1e9,
        judge=lambda _, summary: replace(summary, min_class_iou=1.0, max_cover_error=0.0),
    )
    assert lenient.chosen is not None
    assert lenient.chosen.configuration == list(table)[1]


def test_the_front_is_what_nothing_beats() -> None:
    table = field_of(
        Figures(latency_ms=10.0, iou=0.98), Figures(latency_ms=20.0), Figures(latency_ms=30.0), Figures(error="killed")
    )
    found = search(tuple(table), MadeUpMachine(table), Goal.LATENCY, TuningLimits(), deadline=1e9)
    assert front(found.trials, Goal.LATENCY) == set(list(table)[:2])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_latency_ms": 0.0}, "max-latency-ms: 0.0 is not more than 0"),
        ({"max_rss_mib": -1.0}, "max-rss-mib: -1.0 is not more than 0"),
        ({"min_iou": 1.1}, "min-iou: 1.1 is more than 1"),
        ({"max_cover_error": -0.1}, "max-cover-error"),
    ],
)
def test_limits_that_nothing_can_keep_are_refused(limits: dict[str, float], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        TuningLimits(**limits)


def test_on_a_gpu_the_best_way_is_found_though_some_do_not_run() -> None:
    """A made-up card: channels last take half of the time, and graphs cannot be recorded of this network."""
    cpu, cuda = Configuration(ProviderName.CPU, threads=2), Configuration(ProviderName.CUDA, threads=2)
    table = {cpu: Figures(latency_ms=200.0), cuda: Figures(latency_ms=20.0)}
    for each in variants_of(cpu, Goal.LATENCY, 9):
        table[each] = Figures(latency_ms=300.0)
    for each in variants_of(cuda, Goal.LATENCY, 9):
        table[each] = Figures(latency_ms=10.0, error="no graph" if each.cuda.cuda_graph else None)
    found = search(
        (cpu, cuda),
        MadeUpMachine(table),
        Goal.LATENCY,
        TuningLimits(),
        deadline=1e9,
        variants=lambda each: variants_of(each, Goal.LATENCY, 9),
    )
    assert found.chosen is not None
    assert found.chosen.configuration == replace(cuda, cuda=CudaExecution(prefer_nhwc=True))
    assert sum(each.failed for each in found.trials) == 2

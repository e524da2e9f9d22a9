"""Successive halving: which configuration is best within limits, found without measuring all of them at length."""

# The field has one turn each, and its masks are compared; then the variants of its better half do. What breaks a limit
# is out. The better half of all that then takes turns, twice as many as before, and so on until two are left. The first
# configuration of all stays to the end, since the others are told against it.

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Protocol

from benchmarks.measuring.configurations import Configuration
from benchmarks.measuring.measure import TIMEOUT_S
from benchmarks.measuring.samples import Measurement, Summary, pareto_front, summarize
from engine.declaration import Options, option
from engine.quantities import shown_beside, shown_figure

DEFAULT_MIN_IOU = 0.97
DEFAULT_MAX_COVER_ERROR = 0.005
_ALWAYS_TRIED = 2
"""Of the order, whatever the budget says."""


class Goal(StrEnum):
    """What is to be best."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    MEMORY = "memory"

    def cost(self, summary: Summary) -> float:
        """Put the goal in a figure, the less, the better: median ms, images per second below zero, or MiB."""
        throughput = summary.images_per_s
        match self:
            case Goal.LATENCY:
                cost = summary.p50_ms
            case Goal.THROUGHPUT:
                cost = None if throughput is None else -throughput
            case Goal.MEMORY:
                cost = summary.peak_rss_mib
        if cost is None:
            raise ValueError("a measurement without samples has no cost")
        return cost

    def told(self, summary: Summary) -> str:
        figure = abs(self.cost(summary))
        return {
            Goal.LATENCY: f"{figure:.1f} ms",
            Goal.THROUGHPUT: f"{shown_figure(figure, 2)} images/s",
            Goal.MEMORY: f"{summary.peak_rss_mib or 0:.0f} MiB",
        }[self]


@dataclass(frozen=True, slots=True)
class TuningLimits(Options):
    """What the choice must keep; None: anything.

    Against labels, a class's IoU may fall short of the reference's by 1 minus `min_iou`, and the mean error of a
    class's cover may exceed the reference's by `max_cover_error`.
    """

    title: ClassVar[str] = "Limits that the choice must keep"

    max_latency_ms: float | None = option(
        None, "Nine of ten images must be finished within this many ms, including decoding and encoding.", above=0
    )
    max_rss_mib: float | None = option(None, "Peak memory of the process, in MiB.", above=0)
    min_iou: float = option(
        DEFAULT_MIN_IOU,
        "Smallest IoU of a class with the reference. With masks, it may be lower than the reference's by 1 minus this.",
        minimum=0,
        maximum=1,
    )
    max_cover_error: float = option(
        DEFAULT_MAX_COVER_ERROR,
        "Largest difference of a cover from the reference. With masks, the most by which the mean error of a cover "
        "may grow.",
        minimum=0,
        maximum=1,
    )

    def broken(self, summary: Summary) -> tuple[str, ...]:
        """List the limits that a configuration breaks."""
        ceilings = (
            ("latency of nine in ten", summary.p90_ms, self.max_latency_ms, "ms"),
            ("peak memory", summary.peak_rss_mib, self.max_rss_mib, "MiB"),
        )
        lines = [
            f"{name} {'-' if value is None else shown_beside(value, limit, 1)} {unit}, limit {limit:.15g} {unit}"
            for name, value, limit, unit in ceilings
            if limit is not None and (value is None or value > limit)
        ]
        if summary.min_class_iou is None or summary.max_cover_error is None:
            return (*lines, "masks were not compared")
        if summary.min_class_iou < self.min_iou:
            lines.append(f"class IoU {shown_beside(summary.min_class_iou, self.min_iou, 4)}, limit {self.min_iou:.15g}")
        if summary.max_cover_error > self.max_cover_error:
            off = shown_beside(summary.max_cover_error, self.max_cover_error, 5)
            lines.append(f"cover error {off}, limit {self.max_cover_error:.15g}")
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is known of a configuration from the last time that it was measured, and how many turns that took.

    `broken` are limits that it breaks, or why it failed; empty: it may be chosen.
    """

    configuration: Configuration
    summary: Summary
    turns: int
    broken: tuple[str, ...]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found, in the order tried; the budget had no room for `untried` ones.

    `chosen` is the best that breaks no limit; `cut_short`: the budget ended it before two were left.
    """

    trials: tuple[Trial, ...]
    untried: tuple[Configuration, ...]
    chosen: Trial | None
    cut_short: bool


class Measure(Protocol):
    """Lets configurations take turns."""

    def __call__(
        self, wanted: Sequence[Configuration], turns: int, *, compare: bool, within_s: float
    ) -> Sequence[Measurement]: ...


Judge = Callable[[Configuration, Summary], Summary]
"""Puts accuracy by other means in the place of the agreement with the reference."""
Variants = Callable[[Configuration], Sequence[Configuration]]
Clock = Callable[[], float]


def as_measured(_configuration: Configuration, summary: Summary) -> Summary:
    """Judge by the agreement with the reference, which is in the summary."""
    return summary


def search(
    wanted: Sequence[Configuration],
    measure: Measure,
    goal: Goal,
    limits: TuningLimits,
    *,
    deadline: float,
    variants: Variants = lambda _: (),
    judge: Judge = as_measured,
    clock: Clock = time.monotonic,
) -> Search:
    """Halve the field until two are left, and choose."""
    run = _Run(measure, goal, limits, deadline, judge, clock)
    run.try_once(wanted)
    run.try_once([variant for each in run.promising() for variant in variants(each)])
    run.halve(wanted[0])
    trials = tuple(run.trials.values())
    return Search(trials, tuple(run.untried), _choice(trials, goal), run.cut_short)


@dataclass(slots=True)
class _Run:
    """A search under way."""

    measure: Measure
    goal: Goal
    limits: TuningLimits
    deadline: float
    judge: Judge
    clock: Clock
    trials: dict[Configuration, Trial] = field(default_factory=dict[Configuration, Trial])
    untried: list[Configuration] = field(default_factory=list[Configuration])
    cut_short: bool = False
    _cost_s: dict[Configuration, float] = field(default_factory=dict[Configuration, float])

    def try_once(self, wanted: Sequence[Configuration]) -> None:
        """Give each a turn by itself, as long as there is time."""
        for each in wanted:
            started = self.clock()
            granted = len(self.trials) < _ALWAYS_TRIED
            if not granted and started >= self.deadline:
                self.untried.append(each)
                self.cut_short = True
                continue
            within_s = TIMEOUT_S if granted else self.deadline - started
            (measurement,) = self.measure([each], 1, compare=True, within_s=within_s)
            self._cost_s[each] = self.clock() - started
            summary = summarize(measurement)
            if measurement.error is None:
                summary = self.judge(each, summary)
            self.trials[each] = _trial(measurement, summary, self.limits, 1)

    def promising(self) -> list[Configuration]:
        """The better half of what did not fail; a limit of speed or memory may be kept by a variant."""
        sound = [each for each in self.trials.values() if each.summary.samples and not each.failed]
        ordered = sorted(sound, key=lambda each: (bool(each.broken), self.goal.cost(each.summary)))
        return [each.configuration for each in ordered[: _half(len(ordered))]]

    def halve(self, first: Configuration) -> None:
        """Let the better half take turns, until two are left, or no time."""
        survivors = _better_half(self.trials.values(), self.goal, first)
        turns = 1
        while len(survivors) > 1:
            turns *= 2
            remaining_s = self.deadline - self.clock()
            survivors = self._affordable(survivors, turns, remaining_s, first)
            if len(survivors) < 2:
                return
            wanted = [each.configuration for each in survivors]
            again = self.measure(wanted, turns, compare=False, within_s=remaining_s)
            renewed = [_renewed(old, new, self.limits, turns) for old, new in zip(survivors, again, strict=True)]
            self.trials |= {each.configuration: each for each in renewed}
            fewer = _better_half(renewed, self.goal, first)
            if len(fewer) == len(survivors):
                return
            survivors = fewer

    def _affordable(
        self, survivors: Sequence[Trial], turns: int, remaining_s: float, first: Configuration
    ) -> list[Trial]:
        """Let the worst go until there is time for the others; at the end, there is nobody to compare with."""
        kept = sorted(survivors, key=lambda each: (each.configuration != first, self.goal.cost(each.summary)))
        while kept and turns * sum(self._cost_s[each.configuration] for each in kept) > remaining_s:
            kept.pop()
            self.cut_short = True
        return kept


def _trial(measurement: Measurement, summary: Summary, limits: TuningLimits, turns: int) -> Trial:
    failed = measurement.error is not None
    broken = (f"failed: {measurement.error}",) if failed else limits.broken(summary)
    return Trial(measurement.configuration, summary, turns, broken, failed=failed)


def _renewed(old: Trial, measurement: Measurement, limits: TuningLimits, turns: int) -> Trial:
    summary = replace(
        summarize(measurement),
        mismatched_ppm=old.summary.mismatched_ppm,
        min_class_iou=old.summary.min_class_iou,
        class_iou=old.summary.class_iou,
        max_cover_error=old.summary.max_cover_error,
    )
    return _trial(measurement, summary, limits, turns)


def _better_half(trials: Iterable[Trial], goal: Goal, first: Configuration) -> list[Trial]:
    """Of those that may be chosen: the better half, but at least two, and the first configuration in any case."""
    permitted = sorted((each for each in trials if not each.broken), key=lambda each: goal.cost(each.summary))
    kept = _half(len(permitted))
    return [*permitted[:kept], *(each for each in permitted[kept:] if each.configuration == first)]


def _half(count: int) -> int:
    return max(2, (count + 1) // 2)


def _choice(trials: Iterable[Trial], goal: Goal) -> Trial | None:
    """The best of those that were measured longest, since a lucky turn may have spared the others nothing."""
    permitted = [each for each in trials if not each.broken]
    return min(permitted, key=lambda each: (-each.turns, goal.cost(each.summary)), default=None)


def front(trials: Iterable[Trial], goal: Goal) -> frozenset[Configuration]:
    """Find the Pareto front, in goal and agreement, of what was measured and compared."""
    points = [
        (goal.cost(each.summary), each.summary.min_class_iou, each.configuration)
        for each in trials
        if not each.failed and each.summary.min_class_iou is not None
    ]
    return frozenset(each for _, _, each in pareto_front(points, lambda point: point[0], lambda point: point[1]))

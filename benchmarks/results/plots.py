"""Results as pictures: latency against accuracy with the Pareto front, and where the time goes."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.measuring.samples import STAGES, Measurement, Results, Summary
from benchmarks.results.tables import front, measured
from engine.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
_LATENCY_ACCURACY, _TIME_SPLIT = "latency_accuracy", "time_split"
_WIDTH_IN, _ROW_IN = 9.0, 0.4
_POINTS_IN, _LEGEND_ROW_IN, _LEGEND_COLUMNS = 4.1, 0.18, 2
_DPI = 150
_LOG_FROM = 10
"""Latencies that differ by so many times are shown on a logarithmic axis."""


def require_plotting() -> None:
    """Find out whether plots can be made, before hours are spent on measuring; OptionError without matplotlib."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"plots need matplotlib, which cannot be imported ({error}): install the extra `bench`, "
            "or print the results with --json instead of --out"
        ) from error


def plot_names() -> list[str]:
    return [f"{name}.{file_format}" for name in (_LATENCY_ACCURACY, _TIME_SPLIT) for file_format in FORMATS]


def plots(results: Results) -> dict[str, bytes]:
    from matplotlib import rc_context

    figures: dict[str, Figure] = {}
    done = measured(results)
    # A dollar sign in a label is no formula.
    with rc_context({"text.parse_math": False}):
        if any(summary.min_class_iou is not None for _, summary in done):
            figures[_LATENCY_ACCURACY] = _latency_accuracy(results)
        if done:
            figures[_TIME_SPLIT] = _time_split(done)
    return {
        f"{name}.{file_format}": encoded_figure(figure, file_format)
        for name, figure in figures.items()
        for file_format in FORMATS
    }


def _latency_accuracy(results: Results) -> "Figure":
    from matplotlib.figure import Figure

    best = front(results)
    points = sorted(
        (
            (summary.p50_ms, summary.min_class_iou, each.configuration)
            for each, summary in measured(results)
            if summary.p50_ms is not None and summary.min_class_iou is not None
        ),
        key=lambda point: point[0],
    )
    sizes = list(dict.fromkeys(configuration.size for _, _, configuration in points))
    legend_rows = math.ceil((len(points) + len(sizes)) / _LEGEND_COLUMNS)
    figure = Figure(figsize=(_WIDTH_IN, _POINTS_IN + _LEGEND_ROW_IN * legend_rows), layout="constrained")
    axes = figure.subplots()
    for number, (p50_ms, iou, configuration) in enumerate(points, start=1):
        axes.plot(
            [p50_ms],
            [iou],
            marker="o",
            linestyle="none",
            color="tab:green" if configuration in best else "tab:gray",
            label=f"{number}: {configuration.label}",
        )
        axes.annotate(str(number), (p50_ms, iou), xytext=(4, 4), textcoords="offset points")
    for size in sizes:
        on_front = [(p50_ms, iou) for p50_ms, iou, each in points if each in best and each.size == size]
        label = "Pareto front" + (f" of {size}" if size else "")
        axes.step(*zip(*on_front, strict=True), where="post", color="tab:green", linewidth=1, label=label)
    if points[-1][0] > _LOG_FROM * points[0][0]:
        axes.set_xscale("log")
    lowest = min(iou for _, iou, _ in points)
    margin = max(0.01, (1 - lowest) / 10)
    axes.set_ylim(lowest - margin, 1 + margin)
    axes.set_xlabel("median latency of an image, ms")
    axes.set_ylabel("smallest class IoU with the reference")
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=_LEGEND_COLUMNS, frameon=False)
    return figure


def _time_split(done: Sequence[tuple[Measurement, Summary]]) -> "Figure":
    from matplotlib.figure import Figure

    slowest_first = sorted(done, key=lambda each: -sum(each[1].stages_ms.values()))
    labels = [each.configuration.label for each, _ in slowest_first]
    figure = Figure(figsize=(_WIDTH_IN, 1.5 + _ROW_IN * len(labels)), layout="constrained")
    axes = figure.subplots()
    ends = [0.0] * len(labels)
    for stage in STAGES:
        widths = [summary.stages_ms[stage] for _, summary in slowest_first]
        axes.barh(range(len(labels)), widths, left=ends, label=stage)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("median per image, ms")
    figure.legend(loc="outside upper center", ncols=len(STAGES), frameon=False)
    return figure


def encoded_figure(figure: "Figure", file_format: str) -> bytes:
    """Write a figure so that the same one gives the same file."""
    from matplotlib import rc_context

    file = io.BytesIO()
    # The same results give the same file: no date in it, and no random names.
    with rc_context({"svg.hashsalt": "pseg"}):
        figure.savefig(file, format=file_format, dpi=_DPI, metadata={"Date": None} if file_format == "svg" else None)
    return file.getvalue()

"""The page docs/benchmarks.md: figures against their goals, and the repetitions that they come from."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lab.headline.figures import FIGURES, auto_ratios
from benchmarks.lab.headline.measured import Part, Result
from benchmarks.lab.headline.scenarios import Software
from benchmarks.results.markdown import Markup, Table, markdown
from benchmarks.results.plots import FORMATS, encoded_figure
from engine.system.machine.hardware import telling_flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

_INTRODUCTION = """# Benchmarks

<!-- Written by `make bench-headline`. -->

This page is for readers who want to compare `pseg` with other programs. It states the goals, and which of them were
missed. `make bench-headline` measures all of this, part by part, and writes this page. The ways to run a network are
loaded at the same time, each in its own process, and take turns, so that a machine that slows down affects all of them
alike. Figures are medians of their repetitions, and ratios compare values of the same run. The raw repetitions are in
`benchmarks/lab/headline/results/`. Networks for which only the speed is measured are untrained.
"""
_EXPLANATIONS = Path(__file__).resolve().parent / "explanations.md"
_TITLES = {
    "network": "OCRNet on HRNet-W48, 2 classes, one picture of 866×1154",
    "folder": "A folder through the whole pipeline",
    "growth": "Seconds per image as the work grows",
    "start": "From the start of the process to the mask",
    "families": "Eight families in FP32, one picture of 512×512",
    "auto": "`auto` with a tuned profile, against every configuration",
    "tuning": "The tuner on trained bundles",
}


def page(parts: Mapping[str, Part]) -> str:
    """Write the page, with the explanations that were written by hand."""
    headline = [each for name, derive in FIGURES.items() if name in parts for each in derive(parts[name])]
    verdicts = {True: "yes", False: Markup("**no**"), None: "–"}
    rows = [(Markup(each.what), each.goal, each.found, verdicts[each.reached]) for each in headline]
    lines = [_INTRODUCTION, _machines(parts)]
    lines += ["## Figures and goals\n", markdown(Table(("figure", "goal", "measured", "reached"), tuple(rows))), ""]
    lines += [_EXPLANATIONS.read_text(encoding="utf-8").strip(), ""]
    for name, part in parts.items():
        lines += [f"## {_TITLES[name]}\n"]
        if name in PLOTS:
            lines += [f"![{_TITLES[name]}](benchmarks/{name}.svg)\n"]
        for (network, pictures), results in part.by_scenario().items():
            lines += [f"### {network}, {pictures}\n", _repetitions(results), ""]
        for network, table in part.searches.items():
            lines += [f"### Search: {network}\n", markdown(table), ""]
        lines += [f"- {each}" for each in part.notes] + ([""] if part.notes else [])
    return "\n".join(lines).rstrip() + "\n"


def _machines(parts: Mapping[str, Part]) -> str:
    measured: dict[str, list[str]] = {}
    for name, part in parts.items():
        machine = part.environment
        libraries = ", ".join(f"{library} {version}" for library, version in machine.libraries.items())
        line = (
            f"{machine.processor} ({' '.join(telling_flags(machine.flags))}), {machine.usable_cores} cores, "
            f"{machine.memory_bytes / 2**30:.0f} GiB; {machine.system}, Python {machine.python}; {libraries}; "
            f"commit {(machine.commit or 'unknown')[:12]}"
        )
        measured.setdefault(line, []).append(f"{name} ({machine.load_average:.1f})")
    lines = [f"- {', '.join(names)}: {line}\n" for line, names in measured.items()]
    return "Parts, the load average before each, and the machine:\n\n" + "".join(lines)


def _repetitions(results: Sequence[Result]) -> str:
    networks = (each.median_s for each in results if not each.is_of(Software.CONVOLUTIONS))
    best = min(networks, default=math.inf)
    rows = [
        (each.way.label, each.error, *[""] * 4)
        if each.error
        else (
            each.way.label,
            f"{each.median_s:.3f}",
            f"{each.median_s / best:.2f}",
            f"{each.images_per_s:.2f}",
            f"{each.peak_rss_bytes / 2**20:.0f}" if each.peak_rss_bytes else "–",
            str(len(each.repetitions)),
        )
        for each in results
    ]
    return markdown(Table(("way", "seconds", "of the fastest", "images/s", "peak MiB", "repetitions"), tuple(rows)))


# ---- plots ------------------------------------------------------------------------------------------------------


def _network_plot(part: Part) -> "Plot":
    shown = [each for each in part.results if not each.error and not each.is_of(Software.CONVOLUTIONS)]
    ordered = sorted(shown, key=lambda each: -each.median_s)
    ours = [each.is_of(Software.PSEG) for each in ordered]
    seconds = [each.median_s for each in ordered]
    return _bars([each.way.label for each in ordered], seconds, ours, "seconds for one picture, median")


def _auto_plot(part: Part) -> "Plot":
    ratios = auto_ratios(part)
    label = "latency of auto, of the best configuration's"
    figure = _bars(list(ratios), list(ratios.values()), [False] * len(ratios), label)
    figure.axes[0].axvline(1.05, color="tab:red", linewidth=1)
    return figure


PLOTS: Mapping[str, Callable[[Part], "Plot"]] = {"network": _network_plot, "auto": _auto_plot}
"""Part to what draws it."""


def _bars(names: Sequence[str], values: Sequence[float], ours: Sequence[bool], label: str) -> "Plot":
    from matplotlib.figure import Figure as Plot

    figure = Plot(figsize=(9, 1 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), values, color=["tab:green" if each else "tab:gray" for each in ours])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(label)
    axes.margins(x=0.1)
    return figure


def write_plots(parts: Mapping[str, Part], folder: Path) -> None:
    """Write the plots beside the page, as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        if name in parts:
            figure = draw(parts[name])
            for file_format in FORMATS:
                (folder / f"{name}.{file_format}").write_bytes(encoded_figure(figure, file_format))

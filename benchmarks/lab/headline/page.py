"""The page docs/benchmarks.md: figures against their goals, and the laps that they come from."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lab.headline.convolutions import GFLOP
from benchmarks.lab.headline.parts import Part
from benchmarks.lab.headline.race import Record
from benchmarks.results.plots import FORMATS, encoded_figure
from benchmarks.results.tables import Table, markdown
from engine.system.hardware import telling_flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK_GFLOP = 1227.0
"""Convolutions of OCRNet on HRNet-W48 at 864×1152; a multiplication and an addition are two."""

_INTRODUCTION = """# Benchmarks

<!-- Written by `make bench-headline`. -->

`make bench-headline` measures all of this, part by part, and writes this page. Contestants are loaded at the same time,
each in a process of its own, and take laps in turn, so that a machine that slows down slows all alike; figures are
medians of their laps, and ratios are of one run. The raw laps lie in `benchmarks/lab/headline/results/`. Networks of
which only the speed is measured are untrained.
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the headline table.

    Attributes:
        what: Is compared.
        goal: In words.
        found: In words.
        reached: Whether the goal is; None where there is nothing to judge.
    """

    what: str
    goal: str
    found: str
    reached: bool | None


def page(parts: Mapping[str, Part], explanations: str) -> str:
    """Write the page.

    Args:
        parts: What was measured.
        explanations: Markdown, written by hand: what did not reach its goal and why, and the tuner's choices.

    Returns:
        Markdown.
    """
    lines = [_INTRODUCTION, _machines(parts)]
    headline = [each for name, derive in _HEADLINE.items() if name in parts for each in derive(parts[name])]
    rows = [(each.what, each.goal, each.found, _verdict(each.reached)) for each in headline]
    lines += ["## Figures and goals\n", markdown(Table(("figure", "goal", "measured", "reached"), tuple(rows))), ""]
    lines += [explanations.strip(), ""]
    for name, part in parts.items():
        lines += [f"## {_TITLES[name]}\n"]
        if name in PLOTS:
            lines += [f"![{_TITLES[name]}](benchmarks/{name}.svg)\n"]
        for title, records in part.records.items():
            lines += [f"### {title}\n", _laps(records), ""]
        for title, table in part.tables.items():
            lines += [f"### Search: {title}\n", markdown(table), ""]
        lines += [f"- {each}" for each in part.notes] + ([""] if part.notes else [])
    return "\n".join(lines).rstrip() + "\n"


_TITLES = {
    "network": "OCRNet on HRNet-W48, 2 classes, one picture of 866×1154",
    "folder": "A folder through the whole pipeline",
    "growth": "Seconds per image as the work grows",
    "start": "From the start of the process to the mask",
    "auto": "`auto` with a tuned profile, against every configuration",
    "tuning": "The tuner on trained bundles",
}


def _verdict(reached: bool | None) -> str:
    return {True: "yes", False: "**no**", None: "–"}[reached]


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


def _laps(records: Mapping[str, Record]) -> str:
    best = min(
        (each.median_s for name, each in records.items() if not name.startswith("convolutions")), default=math.inf
    )
    rows = [
        (
            name,
            *(
                (each.error, "", "", "", "")
                if each.error
                else (
                    f"{each.median_s:.3f}",
                    f"{each.median_s / best:.2f}",
                    f"{each.images_per_s:.2f}",
                    f"{each.peak_rss_bytes / 2**20:.0f}" if each.peak_rss_bytes else "–",
                    str(len(each.laps)),
                )
            ),
        )
        for name, each in records.items()
    ]
    return markdown(Table(("contestant", "lap s", "of the fastest", "images/s", "peak MiB", "laps"), tuple(rows)))


# ---- the headline -----------------------------------------------------------------------------------------------


def _chosen(records: Mapping[str, Record], *words: str) -> dict[str, Record]:
    return {name: each for name, each in records.items() if all(word in name for word in words) and not each.error}


def _fastest(records: Mapping[str, Record]) -> Record:
    return min(records.values(), key=lambda each: each.median_s)


def network_figures(part: Part) -> list[Figures]:
    """Derive the figures of the network.

    Args:
        part: As measured.

    Returns:
        Against the original, against the best FP32 of all, of FP32 alone, of the roof.
    """
    (records,) = part.records.values()
    ours = _chosen(records, "pseg")
    best, best_name = _fastest(ours), min(ours, key=lambda name: ours[name].median_s)
    original = _fastest(_chosen(records, "original's setting"))
    today = _fastest(_chosen(records, "deploy script"))
    peers = {
        name: each for name, each in records.items() if not each.error and not name.startswith(("pseg", "convolutions"))
    }
    ours_fp32 = _fastest(_chosen(ours, "fp32"))
    best_fp32 = min(_fastest(peers).median_s, ours_fp32.median_s)
    faster, today_faster = original.median_s / best.median_s, today.median_s / best.median_s
    memory = best.peak_rss_bytes / original.peak_rss_bytes
    lines = [
        Figures(
            f"our best ({best_name}) against Paddle with oneDNN off and 10 threads",
            "at least 14 times faster",
            f"{faster:.1f} times (against today's deploy script {today_faster:.1f} times)",
            faster >= 14,
        ),
        Figures("its peak memory, of the same", "at most 0.33", f"{memory:.2f}", memory <= 0.33),
        Figures(
            "our best against the best FP32 of Paddle oneDNN and ONNX Runtime",
            "at least 3.5 times faster",
            f"{best_fp32 / best.median_s:.2f} times",
            best_fp32 / best.median_s >= 3.5,
        ),
        Figures(
            "our FP32 against the best FP32 of any peer",
            "never slower than 1.02",
            f"{ours_fp32.median_s / _fastest(peers).median_s:.3f} times its time",
            ours_fp32.median_s / _fastest(peers).median_s <= 1.02,
        ),
    ]
    for precision in ("int8", "fp32"):
        stacks, nets = _chosen(records, "convolutions", precision), _chosen(ours, precision)
        if stacks and nets:
            roof, reached = GFLOP / _fastest(stacks).median_s, NETWORK_GFLOP / _fastest(nets).median_s
            lines.append(
                Figures(
                    f"share of this machine's {precision.upper()} roof ({roof:.0f} GFLOP/s in convolutions alone)",
                    "at least 0.9" if precision == "int8" else "no goal",
                    f"{reached / roof:.2f}",
                    reached / roof >= 0.9 if precision == "int8" else None,
                )
            )
    return lines


def folder_figures(part: Part) -> list[Figures]:
    """Derive the figures of the pipeline.

    Args:
        part: As measured.

    Returns:
        Its rate against the bare session's, for each network.
    """
    lines: list[Figures] = []
    for (title, records), goal in zip(part.records.items(), (0.80, 0.95), strict=False):
        bare = _fastest(_chosen(records, "bare")).images_per_s
        found = {name: each.images_per_s / bare for name, each in _chosen(records, "pseg").items()}
        told = ", ".join(f"{name.split(' in ')[1]}: {ratio:.2f}" for name, ratio in found.items())
        lines.append(
            Figures(
                f"{title}: whole pipeline against the bare session on prepared tensors",
                f"at least {goal:.2f} of its images per second",
                told,
                max(found.values()) >= goal,
            )
        )
    return lines


def growth_figures(part: Part) -> list[Figures]:
    """Derive the figure of growing work.

    Args:
        part: As measured.

    Returns:
        Seconds per image of the largest folder, against the smallest.
    """
    (records,) = part.records.values()
    each_s = {name: 1 / record.images_per_s for name, record in records.items() if not record.error}
    small, large = each_s["10 images"], each_s["1000 images"]
    told = ", ".join(f"{name}: {1000 * seconds:.1f} ms" for name, seconds in each_s.items())
    return [Figures("seconds per image from 10 to 1000 images", "flat within 5 %", told, large <= 1.05 * small)]


def start_figures(part: Part) -> list[Figures]:
    """Derive the figure of the start.

    Args:
        part: As measured.

    Returns:
        Ours against PaddleSeg's way.
    """
    (records,) = part.records.values()
    ours, theirs = records["pseg predict"], records["PaddleSeg's way"]
    ratio = theirs.median_s / ours.median_s
    found = f"{ratio:.2f} times ({ours.median_s:.2f} s against {theirs.median_s:.2f} s)"
    return [Figures("start to first mask, PP-LiteSeg on 657×667", "at least 5 times faster", found, ratio >= 5)]


def auto_ratios(part: Part) -> dict[str, float]:
    """Derive how far `auto` is from the best configuration.

    Args:
        part: As measured.

    Returns:
        Network to the ratio of latencies; 1 is the best.
    """
    return {
        name: records["auto"].median_s / min(each.median_s for label, each in records.items() if label != "auto")
        for name, records in part.records.items()
    }


def auto_figures(part: Part) -> list[Figures]:
    """Derive the figure of `auto`.

    Args:
        part: As measured.

    Returns:
        The worst of all networks.
    """
    ratios = auto_ratios(part)
    worst = max(ratios, key=lambda name: ratios[name])
    return [
        Figures(
            f"`auto` with a profile against the best single configuration, {len(ratios)} networks",
            "at most 1.05 times its latency, for each",
            f"at most {ratios[worst]:.3f} ({worst})",
            ratios[worst] <= 1.05,
        )
    ]


_HEADLINE: Mapping[str, Callable[[Part], list[Figures]]] = {
    "network": network_figures,
    "folder": folder_figures,
    "auto": auto_figures,
    "start": start_figures,
    "growth": growth_figures,
}


# ---- plots ------------------------------------------------------------------------------------------------------


def network_plot(part: Part) -> "Figure":
    """Draw the latency of every contestant.

    Args:
        part: As measured.

    Returns:
        Bars.
    """
    (records,) = part.records.values()
    shown = {name: each for name, each in records.items() if not each.error and "convolutions" not in name}
    ordered = sorted(shown, key=lambda name: -shown[name].median_s)
    return _bars(ordered, [shown[name].median_s for name in ordered], "seconds for one picture, median")


def auto_plot(part: Part) -> "Figure":
    """Draw how far `auto` is from the best configuration.

    Args:
        part: As measured.

    Returns:
        Bars, one a network.
    """
    ratios = auto_ratios(part)
    figure = _bars(list(ratios), list(ratios.values()), "latency of auto, of the best configuration's")
    figure.axes[0].axvline(1.05, color="tab:red", linewidth=1)
    return figure


PLOTS: Mapping[str, Callable[[Part], "Figure"]] = {"network": network_plot, "auto": auto_plot}


def _bars(names: Sequence[str], values: Sequence[float], label: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), values, color=["tab:green" if "pseg" in name else "tab:gray" for name in names])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(label)
    axes.margins(x=0.1)
    return figure


def write_plots(parts: Mapping[str, Part], folder: Path) -> None:
    """Write the plots beside the page.

    Args:
        parts: What was measured.
        folder: Gets an SVG and a PNG for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        if name in parts:
            figure = draw(parts[name])
            for file_format in FORMATS:
                (folder / f"{name}.{file_format}").write_bytes(encoded_figure(figure, file_format))

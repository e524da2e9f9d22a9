"""The README's table of ratios, from pytest-benchmark's JSON: `python -m benchmarks.lab.suites.report FILE.json`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, assert_never

from pydantic import BaseModel, BeforeValidator

from benchmarks.lab.suites.figures import (
    Agreement,
    Conversion,
    Figure,
    GraphVariants,
    Latency,
    Memory,
    Startup,
    Step,
    Throughput,
)
from benchmarks.results.markdown import Table, markdown

BASELINE = "paddle-cpu"
_Row = tuple[str, str, str, str]


class Stats(BaseModel):
    """Times of one benchmark, in seconds."""

    median: float


class Entry(BaseModel):
    """One benchmark; what it noted is None where it failed before."""

    stats: Stats
    extra_info: Annotated[Figure | None, BeforeValidator(lambda noted: noted or None)]


class Measured(BaseModel):
    benchmarks: list[Entry]


def table(measured: Measured) -> str:
    """Write measurements as Markdown.

    >>> entries = [
    ...     Entry(stats=Stats(median=0.2), extra_info=Latency(bundle="demo", provider="onnx")),
    ...     Entry(stats=Stats(median=0.5), extra_info=Latency(bundle="demo", provider="paddle-cpu")),
    ... ]
    >>> print(table(Measured(benchmarks=entries)))
    | measured | here | against | ratio |
    | --- | ---: | ---: | ---: |
    | one run, 866×1154, demo, onnx | 200.0 ms | paddle-cpu 500.0 ms | 2.50× |
    """
    rows = [row for entry in measured.benchmarks for row in _rows(entry, measured.benchmarks)]
    return markdown(Table(("measured", "here", "against", "ratio"), tuple(rows)))


def _rows(entry: Entry, others: Sequence[Entry]) -> list[_Row]:
    figure = entry.extra_info
    match figure:
        case None:
            return []
        case Startup():
            ratio = f"{figure.original_s / figure.pseg_s:.2f}×"
            what = f"process start to mask written, {figure.bundle} (median of {figure.pairs} pairs)"
            return [(what, f"{figure.pseg_s:.2f} s", f"PaddleSeg's way {figure.original_s:.2f} s", ratio)]
        case Latency():
            return _latency_rows(figure, entry.stats.median, others)
        case Throughput():
            streams = f"{figure.streams} stream{'s' * (figure.streams != 1)}"
            what = f"a folder of {figure.images} JPEGs, {figure.bundle}, {figure.provider}, {streams}"
            return [(what, f"{figure.images / entry.stats.median:.2f} images/s", "", "")]
        case Agreement():
            what = f"masks of ONNX Runtime, {figure.bundle} ({figure.pixels / 1e6:.1f} megapixels)"
            return [(what, f"{figure.mismatched_ppm:.1f} ppm differ", f"{BASELINE}", "")]
        case Memory():
            what = f"memory after {figure.late_images} images of mixed sizes, {figure.provider}"
            here = f"{figure.late_bytes / 2**20:.0f} MiB ({figure.growth_percent:+.1f} %)"
            return [(what, here, f"after {figure.early_images} images {figure.early_bytes / 2**20:.0f} MiB", "")]
        case Conversion():
            peak = f"{entry.stats.median:.0f} s, peak {figure.peak_bytes / 2**30:.1f} GiB"
            return [(f"conversion with certificate, {figure.bundle}", peak, "", "")]
        case GraphVariants():
            return [
                (
                    f"{figure.bundle}: {each.variant} ({each.mismatched_ppm:.1f} ppm, {each.output_bytes} bytes out)",
                    f"{each.median_ms:.1f} ms",
                    f"as it is made {figure.plain_ms:.1f} ms ({figure.plain_output_bytes} bytes out)",
                    f"{1 / each.ratio:.2f}× ({1 / each.ratio_high:.2f} to {1 / each.ratio_low:.2f})",
                )
                for each in figure.rows
            ]
        case Step():
            return [(figure.step, f"{1000 * entry.stats.median:.1f} ms", "", "")]
        case _:
            assert_never(figure)


def _latency_rows(figure: Latency, median_s: float, others: Sequence[Entry]) -> list[_Row]:
    if figure.provider == BASELINE:
        return []
    baselines = [
        other.stats.median
        for other in others
        if isinstance(other.extra_info, Latency)
        and (other.extra_info.bundle, other.extra_info.provider) == (figure.bundle, BASELINE)
    ]
    what, here = f"one run, 866×1154, {figure.bundle}, {figure.provider}", f"{1000 * median_s:.1f} ms"
    return [
        (what, here, f"{BASELINE} {1000 * baseline_s:.1f} ms", f"{baseline_s / median_s:.2f}×")
        for baseline_s in baselines
    ] or [(what, here, "", "")]


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write(
            "usage: python -m benchmarks.lab.suites.report FILE.json (pytest-benchmark keeps them in .benchmarks/)\n"
        )
        return 2
    measured = Measured.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    sys.stdout.write(table(measured) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Fail where a ratio of one run got worse than stated: `python -m benchmarks.lab.check FILE.json` (`make bench-check`).

The ratios stated here are about two thirds of what was measured (docs/benchmarks.md, README.md) on a slow processor
without VNNI, so that a noisy machine passes and a real loss does not.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.suites.figures import Agreement, Latency, Memory, Startup, Throughput
from benchmarks.lab.suites.report import Entry, Measured

_REFERENCE = "paddle-cpu"


@dataclass(frozen=True, slots=True)
class Stated:
    """A ratio that must be kept.

    Attributes:
        what: Key of a ratio, see `ratios`.
        at_least: The least that it may be.
    """

    what: str
    at_least: float


STATED = (
    Stated("start, demo: PaddleSeg's way against pseg", 3.0),
    Stated("start, segformer: PaddleSeg's way against pseg", 1.7),
    Stated("latency, demo: paddle-cpu against onnx", 2.0),
    Stated("latency, segformer: paddle-cpu against onnx", 2.0),
    Stated("latency, nuclei: paddle-cpu against onnx", 2.0),
    Stated("throughput, demo, onnx: a stream for each core against one", 0.9),
    Stated("agreement, demo: 100 ppm against mismatched", 1.0),
    Stated("agreement, segformer: 100 ppm against mismatched", 1.0),
    Stated("memory, onnx cpu: early against late", 0.95),
    Stated("memory, paddle-onednn: early against late", 0.95),
    Stated("memory, paddle-cpu: early against late", 0.95),
)


def ratios(entries: Sequence[Entry]) -> dict[str, float]:
    """Derive the ratios of a run; more is better.

    Args:
        entries: Of one run on one machine.

    Returns:
        What is compared, to its ratio.

    >>> from benchmarks.lab.suites.report import Stats
    >>> ratios([
    ...     Entry(stats=Stats(median=0.2), extra_info=Latency(bundle="demo", provider="onnx")),
    ...     Entry(stats=Stats(median=0.5), extra_info=Latency(bundle="demo", provider="paddle-cpu")),
    ... ])
    {'latency, demo: paddle-cpu against onnx': 2.5}
    """
    found: dict[str, float] = {}
    reference_s = {
        each.extra_info.bundle: each.stats.median
        for each in entries
        if isinstance(each.extra_info, Latency) and each.extra_info.provider == _REFERENCE
    }
    rates: dict[tuple[str, str], dict[int, float]] = {}
    for each in entries:
        match each.extra_info:
            case Startup() as noted:
                found[f"start, {noted.bundle}: PaddleSeg's way against pseg"] = noted.original_s / noted.pseg_s
            case Latency() as noted if noted.provider != _REFERENCE and noted.bundle in reference_s:
                what = f"latency, {noted.bundle}: {_REFERENCE} against {noted.provider}"
                found[what] = reference_s[noted.bundle] / each.stats.median
            case Throughput() as noted:
                rates.setdefault((noted.bundle, noted.provider), {})[noted.streams] = 1 / each.stats.median
            case Agreement() as noted:
                what = f"agreement, {noted.bundle}: 100 ppm against mismatched"
                found[what] = 100 / max(noted.mismatched_ppm, 1e-9)
            case Memory() as noted:
                found[f"memory, {noted.provider}: early against late"] = noted.early_bytes / noted.late_bytes
            case _:
                pass
    for (bundle, provider), by_streams in rates.items():
        if 1 in by_streams:
            what = f"throughput, {bundle}, {provider}: a stream for each core against one"
            found[what] = by_streams[max(by_streams)] / by_streams[1]
    return found


def broken(found: dict[str, float], stated: Sequence[Stated] = STATED) -> list[str]:
    """Hold ratios against what is stated.

    Args:
        found: As `ratios` gives them.
        stated: What must be kept.

    Returns:
        A line for each that is worse, or was not measured.

    >>> broken({"a": 1.5}, [Stated("a", 2.0), Stated("b", 1.0)])
    ['a: 1.50, at least 2', 'b: was not measured (some need PSEG_SHARED_DATA)']
    """
    lines: list[str] = []
    for each in stated:
        ratio = found.get(each.what)
        if ratio is None:
            lines.append(f"{each.what}: was not measured (some need PSEG_SHARED_DATA)")
        elif ratio < each.at_least:
            lines.append(f"{each.what}: {ratio:.2f}, at least {each.at_least:g}")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Check one file.

    Args:
        arguments: The file.

    Returns:
        Exit status: 1 where a ratio is worse than stated, or missing.
    """
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m benchmarks.lab.check FILE.json (as pytest-benchmark writes it)\n")
        return 2
    found = ratios(Measured.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8")).benchmarks)
    for what, ratio in found.items():
        sys.stdout.write(f"{what}: {ratio:.2f}\n")
    problems = broken(found)
    for line in problems:
        sys.stderr.write(f"worse than stated: {line}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

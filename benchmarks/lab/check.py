"""Fail where a ratio of one run got worse than stated: `python -m benchmarks.lab.check FILE.json` (`make bench-check`).

The ratios stated here are about two thirds of what was measured (docs/benchmarks.md, README.md) on a slow processor
without VNNI, so that a noisy machine passes and a real loss does not.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.lab.suites.figures import Agreement, Latency, Memory, Startup, Throughput
from benchmarks.lab.suites.report import BASELINE, Entry, Measured


class Measure(StrEnum):
    """What is compared; more is better."""

    START = "PaddleSeg's deploy script against pseg"
    LATENCY = f"{BASELINE} against it"
    THROUGHPUT = "a stream for each core against one"
    AGREEMENT = "100 ppm against mismatched"
    MEMORY = "early against late"


@dataclass(frozen=True, slots=True)
class Ratio:
    """What a ratio is of: bundle, or provider as in the provenance, are empty where there is no choice."""

    measure: Measure
    bundle: str = ""
    provider: str = ""

    def __str__(self) -> str:
        return f"{', '.join(filter(None, (self.measure.name.lower(), self.bundle, self.provider)))}: {self.measure}"


STATED: Mapping[Ratio, float] = {
    Ratio(Measure.START, "demo"): 3.0,
    Ratio(Measure.START, "segformer"): 1.7,
    Ratio(Measure.LATENCY, "demo", "onnx"): 2.0,
    Ratio(Measure.LATENCY, "segformer", "onnx"): 2.0,
    Ratio(Measure.LATENCY, "nuclei", "onnx"): 2.0,
    Ratio(Measure.THROUGHPUT, "demo", "onnx"): 0.9,
    Ratio(Measure.AGREEMENT, "demo"): 1.0,
    Ratio(Measure.AGREEMENT, "segformer"): 1.0,
    Ratio(Measure.MEMORY, provider="onnx cpu"): 0.95,
    Ratio(Measure.MEMORY, provider="paddle-onednn"): 0.95,
    Ratio(Measure.MEMORY, provider="paddle-cpu"): 0.95,
}
"""The least that each may be."""


def ratios(entries: Sequence[Entry]) -> dict[Ratio, float]:
    """Derive the ratios of a run on one machine.

    >>> from benchmarks.lab.suites.report import Stats
    >>> found = ratios([
    ...     Entry(stats=Stats(median=0.2), extra_info=Latency(bundle="demo", provider="onnx")),
    ...     Entry(stats=Stats(median=0.5), extra_info=Latency(bundle="demo", provider="paddle-cpu")),
    ... ])
    >>> {str(ratio): value for ratio, value in found.items()}
    {'latency, demo, onnx: paddle-cpu against it': 2.5}
    """
    found: dict[Ratio, float] = {}
    baseline_s = {
        each.extra_info.bundle: each.stats.median
        for each in entries
        if isinstance(each.extra_info, Latency) and each.extra_info.provider == BASELINE
    }
    rates: dict[tuple[str, str], dict[int, float]] = {}
    for each in entries:
        match each.extra_info:
            case Startup() as noted:
                found[Ratio(Measure.START, noted.bundle)] = noted.original_s / noted.pseg_s
            case Latency() as noted if noted.provider != BASELINE and noted.bundle in baseline_s:
                ratio = Ratio(Measure.LATENCY, noted.bundle, noted.provider)
                found[ratio] = baseline_s[noted.bundle] / each.stats.median
            case Throughput() as noted:
                rates.setdefault((noted.bundle, noted.provider), {})[noted.streams] = 1 / each.stats.median
            case Agreement() as noted:
                found[Ratio(Measure.AGREEMENT, noted.bundle)] = 100 / max(noted.mismatched_ppm, 1e-9)
            case Memory() as noted:
                found[Ratio(Measure.MEMORY, provider=noted.provider)] = noted.early_bytes / noted.late_bytes
            case _:
                pass
    for (bundle, provider), by_streams in rates.items():
        if 1 in by_streams:
            found[Ratio(Measure.THROUGHPUT, bundle, provider)] = by_streams[max(by_streams)] / by_streams[1]
    return found


def broken(found: Mapping[Ratio, float], stated: Mapping[Ratio, float] = STATED) -> list[str]:
    """A line for each ratio that is worse than stated, or was not measured.

    >>> broken({Ratio(Measure.START): 1.5}, {Ratio(Measure.START): 2.0, Ratio(Measure.MEMORY): 1.0})[0]
    "start: PaddleSeg's deploy script against pseg: 1.50, at least 2"
    """
    return [
        f"{ratio}: was not measured (some need PSEG_SHARED_DATA)"
        if ratio not in found
        else f"{ratio}: {found[ratio]:.2f}, at least {at_least:g}"
        for ratio, at_least in stated.items()
        if found.get(ratio, 0.0) < at_least
    ]


def main(arguments: Sequence[str]) -> int:
    """Check one file; the status is 1 where a ratio is worse than stated, or missing."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m benchmarks.lab.check FILE.json (as pytest-benchmark writes it)\n")
        return 2
    found = ratios(Measured.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8")).benchmarks)
    for ratio, value in found.items():
        sys.stdout.write(f"{ratio}: {value:.2f}\n")
    problems = broken(found)
    for line in problems:
        sys.stderr.write(f"worse than stated: {line}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

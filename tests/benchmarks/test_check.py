"""Ratios of a run against what is stated."""

import doctest
import json
from pathlib import Path

import pytest

from benchmarks.lab import check as module
from benchmarks.lab.check import STATED, broken, main, ratios
from benchmarks.lab.suites.figures import Agreement, Latency, Memory, Startup, Throughput
from benchmarks.lab.suites.report import Entry, Measured, Stats


def entry(median_s: float, noted: Startup | Latency | Throughput | Agreement | Memory) -> Entry:
    return Entry(stats=Stats(median=median_s), extra_info=noted)


def run(onnx_s: float) -> list[Entry]:
    """A run in which everything is as stated but the latency of ONNX Runtime."""
    entries = [
        entry(1.0, Memory(provider=name, early_images=20, early_bytes=100, late_images=500, late_bytes=101))
        for name in ("onnx cpu", "paddle-onednn", "paddle-cpu")
    ]
    for name in ("demo", "segformer"):
        entries.append(entry(1.0, Startup(bundle=name, pseg_s=0.5, original_s=2.5, pairs=5)))
        entries.append(entry(1.0, Agreement(bundle=name, mismatched_ppm=0.5, pixels=1000)))
    for name in ("demo", "segformer", "nuclei"):
        entries.append(entry(onnx_s, Latency(bundle=name, provider="onnx")))
        entries.append(entry(1.0, Latency(bundle=name, provider="paddle-cpu")))
    entries.append(entry(2.0, Throughput(bundle="demo", provider="onnx", streams=1, images=8)))
    entries.append(entry(1.6, Throughput(bundle="demo", provider="onnx", streams=2, images=8)))
    return entries


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0


def test_every_stated_ratio_is_one_that_a_run_gives() -> None:
    found = ratios(run(0.25))
    assert {each.what for each in STATED} <= set(found)
    assert found["latency, demo: paddle-cpu against onnx"] == pytest.approx(4.0)
    assert found["throughput, demo, onnx: a stream for each core against one"] == pytest.approx(1.25)
    assert broken(found) == []


def test_what_got_worse_or_is_missing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "run.json"
    report.write_text(json.dumps(Measured(benchmarks=run(0.25)).model_dump(mode="json")))
    assert main([str(report)]) == 0
    report.write_text(json.dumps(Measured(benchmarks=run(0.9)[1:]).model_dump(mode="json")))
    assert main([str(report)]) == 1
    said = capsys.readouterr().err
    assert "latency, demo: paddle-cpu against onnx: 1.11, at least 2" in said
    assert "memory, onnx cpu: early against late: was not measured" in said
    assert main([]) == 2

"""Results as tables, files and pictures, from samples made by hand."""

import csv
import doctest
import io
import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter

from benchmarks.measuring import environment as environment_module
from benchmarks.measuring.configurations import Configuration, ProviderName, Size, Skipped
from benchmarks.measuring.environment import Environment
from benchmarks.measuring.samples import (
    STAGES,
    Loaded,
    Measurement,
    PipelinePass,
    Reference,
    Results,
    Sample,
    Turn,
)
from benchmarks.results import markdown as module
from benchmarks.results.plots import plots
from benchmarks.results.tables import (
    facts,
    figures,
    front,
    record,
    time_split,
    to_csv,
    to_markdown,
    troubles,
)
from converters.parity import ParityReport
from engine import Precision, Provenance

MACHINE = Environment(
    "Some | CPU", ("avx2", "sse"), 4, 2, 1.5, 8 << 30, None, "Linux", "3.11", {"numpy": "2"}, None, 0.5
)
PROVENANCE = Provenance("b", "m", "onnx", "cpu", "fp32", 2, (), {"onnxruntime": "1"})


def measurement(
    configuration: Configuration, latency_ms: float, iou: float | None = None, error: str | None = None
) -> Measurement:
    """Two turns of one image; every stage takes a tenth of the latency, the run six tenths."""
    stages_ms = {stage: latency_ms * (0.6 if stage == "run" else 0.1) for stage in STAGES}
    sample = Sample("a.png", stages_ms, latency_ms)
    turns = tuple(Turn(at, (sample,), PipelinePass(2, 0.5, 0.8), 100 << 20) for at in (0.0, 1.0))
    agreement = None
    if iou is not None:
        agreement = ParityReport(
            1, 0.9, 1e5, {"sand": 1.0, "grass": iou}, iou, ("sand", "grass"), 0.1, None, None, "a.png", PROVENANCE,
            PROVENANCE,
        )  # fmt: skip
    return Measurement(configuration, 0, Loaded(50, 9, PROVENANCE), turns, agreement, error)


FAST = Configuration(ProviderName.CPU, Precision.INT8, threads=2)
EXACT = Configuration(ProviderName.CPU, threads=2)
BEATEN = Configuration(ProviderName.PADDLE_CPU, threads=2)
SMALL = Configuration(ProviderName.CPU, threads=2, size=Size(8, 16))
DEAD = Configuration(ProviderName.PADDLE_ONEDNN, threads=2)
ABSENT = Configuration(ProviderName.CUDA, threads=2)


@pytest.fixture
def results() -> Results:
    return Results(
        bundle="reef.tgz",
        bundle_digest="d" * 64,
        images="1 pictures",
        repeats=2,
        environment=MACHINE,
        reference=Reference("paddle-cpu fp32", 1, None),
        measurements=(
            measurement(BEATEN, 300, iou=0.9),
            measurement(EXACT, 200, iou=1.0),
            measurement(FAST, 100, iou=0.9),
            measurement(SMALL, 10, iou=1.0),
            measurement(DEAD, 1, error="the process ended with signal SIGKILL"),
        ),
        skipped=(Skipped(ABSENT, "no GPU"),),
    )


def test_examples() -> None:
    assert doctest.testmod(module).failed == doctest.testmod(environment_module).failed == 0


def test_the_fastest_comes_first_and_the_front_is_per_size(results: Results) -> None:
    assert front(results) == {SMALL, FAST, EXACT}
    table = figures(results)
    assert [row[0] for row in table.rows] == [each.label for each in (SMALL, FAST, EXACT, BEATEN)]
    fast = dict(zip(table.header, table.rows[1], strict=True))
    # Two images in half a second, with 0.8 seconds of all cores.
    told = {"p50 ms": "100.0", "p99 ms": "-", "images/s": "4.00", "CPU s/image": "0.400", "load ms": "50"}
    assert {name: fast[name] for name in told} == told
    assert (fast["peak MiB"], fast["ppm differ"], fast["min IoU"], fast["front"]) == (
        "100",
        "100000.0",
        "0.9000",
        "yes",
    )


def test_where_the_time_goes(results: Results) -> None:
    assert time_split(results).rows[1] == (FAST.label, "10.0", "10.0", "60.0", "10.0", "10.0")


def test_nothing_is_dropped(results: Results) -> None:
    assert troubles(results) == [
        ("failed: the process ended with signal SIGKILL", (DEAD.label,)),
        ("skipped: no GPU", (ABSENT.label,)),
    ]
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(to_csv(results).decode())))
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed", "skipped"]
    assert [row["provider"] for row in rows] == ["paddle-cpu", "cpu", "cpu", "cpu", "paddle-onednn", "cuda"]
    assert rows[-1]["reason"] == "no GPU"
    assert (float(rows[2]["p50_ms"]), float(rows[2]["run_ms"]), float(rows[2]["iou grass"])) == (100, 60, 0.9)
    assert (rows[3]["size"], rows[0]["size"]) == ("8x16", "")
    page = to_markdown(results, ["time_split.svg"])
    assert "![time split](time_split.svg)" in page
    assert f"- {ABSENT.label}: skipped: no GPU" in page
    assert "Some \\| CPU; 2 of 4 cores, quota 1.5" in page


def test_lots_are_told(results: Results) -> None:
    first, *others = results.measurements
    several = replace(results, measurements=(replace(first, lot=1), *others))
    assert dict(facts(several))["lots"].startswith("2, ")
    assert "lots" not in dict(facts(results))


def test_a_record_is_read_again_as_it_was(results: Results) -> None:
    text = json.dumps(record(results))
    assert TypeAdapter(Results).validate_json(text) == results
    first = json.loads(text)["measurements"][0]
    assert (first["label"], first["summary"]["p50_ms"]) == (BEATEN.label, 300)
    assert [turn["samples"][0]["latency_ms"] for turn in first["turns"]] == [300, 300]


def test_plots_name_what_they_show(results: Results) -> None:
    drawn = plots(results)
    assert set(drawn) == {f"{name}.{kind}" for name in ("latency_accuracy", "time_split") for kind in ("svg", "png")}
    for name, content in drawn.items():
        if name.endswith(".png"):
            with Image.open(io.BytesIO(content)) as image:
                assert image.format == "PNG"
                assert image.width > 1000
        else:
            assert b"<svg" in content
            # Whose legend or axis names each configuration, in comments of the glyphs.
            assert all(each.label.encode() in content for each in (FAST, EXACT, BEATEN, SMALL))
            assert DEAD.label.encode() not in content
    assert plots(results) == drawn


def test_no_accuracy_is_drawn_where_none_is_known(results: Results) -> None:
    bare = replace(results, measurements=(measurement(EXACT, 200),))
    assert set(plots(bare)) == {"time_split.svg", "time_split.png"}
    assert figures(bare).rows[0][9:] == ("-", "-", "-", "")
    assert plots(replace(results, measurements=())) == {}


def test_plots_of_many_configurations_keep_their_axes(results: Results) -> None:
    """matplotlib warns where the legend leaves nothing of the axes."""
    many = tuple(measurement(replace(EXACT, threads=1 + index), 100 + index, iou=1.0) for index in range(60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots(replace(results, measurements=many))


def test_a_page_needs_no_plots(results: Results) -> None:
    assert "![" not in to_markdown(results)

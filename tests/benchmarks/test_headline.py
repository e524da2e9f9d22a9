"""Contestants in turn, and the figures that are derived from their laps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.lab.headline.contestants import BareOnnxRuntime, BarePaddle, Entered, Lap, PsegFolder, PsegNetwork
from benchmarks.lab.headline.convolutions import GFLOP, write_stack
from benchmarks.lab.headline.page import (
    auto_figures,
    folder_figures,
    growth_figures,
    network_figures,
    page,
    start_figures,
)
from benchmarks.lab.headline.parts import Part
from benchmarks.lab.headline.race import Record, race
from benchmarks.measuring.environment import environment
from engine.bundle.bundle import OnnxModel, open_bundle
from engine.options import OnnxOptions, PaddleOptions, Precision
from engine.runtimes import probe_feeds
from engine.runtimes.onnx import OnnxRuntime

DEMO = Path(__file__).resolve().parents[2] / "demo" / "demo_seagrass.tgz"


@pytest.mark.long
def test_all_take_their_laps_and_a_failure_is_told(tmp_path: Path) -> None:
    feed, picture = tmp_path / "feed.npy", tmp_path / "picture.jpg"
    np.save(feed, np.zeros((1, 3, 64, 96), np.float32))
    Image.new("RGB", (96, 64), (90, 120, 60)).save(picture)
    with open_bundle(DEMO) as bundle:
        model, paddle = bundle.onnx_model(Precision.FP32), bundle.paddle
        assert model is not None
        assert paddle is not None
        contestants = {
            "bare onnx": BareOnnxRuntime(model.path, (feed, feed), 1),
            "bare paddle": BarePaddle(paddle.program, paddle.params, (feed,), 1, onednn=False),
            "network": PsegNetwork(DEMO, (feed,), PaddleOptions(threads=1)),
            "folder": PsegFolder(DEMO, OnnxOptions(threads=2, streams=2), (picture,), -1, tmp_path),
            "broken": PsegNetwork(DEMO, (tmp_path / "absent.npy",), OnnxOptions()),
        }
        records = race(contestants, 2, tmp_path / "ledger")
    assert list(records) == list(contestants)
    assert "absent.npy" in (records.pop("broken").error or "")
    assert [[lap.images for lap in each.laps] for each in records.values()] == [[2, 2], [1, 1], [1, 1], [1, 1]]
    for each in records.values():
        assert each.entered is not None
        assert all(lap.seconds > 0 and (lap.peak_rss_bytes or 0) > 20 << 20 for lap in each.laps)
    with Image.open(tmp_path / "picture.png") as mask:
        assert mask.size == (96, 64)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.long
def test_the_stack_is_what_its_name_says(precision: Precision, tmp_path: Path) -> None:
    path = write_stack(tmp_path / "stack.onnx", precision)
    runtime = OnnxRuntime(OnnxModel(path, precision, ""), OnnxOptions(precision=precision, threads=2))
    (output,) = runtime.run(probe_feeds(runtime.inputs)).values()
    assert output.shape == (1, 256, 128, 128)
    assert pytest.approx(6 * 2 * 256 * 256 * 9 * 128 * 128 / 1e9) == GFLOP


# ---- figures, by hand -------------------------------------------------------------------------------------------


def record(seconds: float, peak_mib: int = 100, images: int = 1) -> Record:
    laps = tuple(Lap(each, each, images, peak_mib << 20) for each in (seconds * 2, seconds, seconds / 2))
    return Record(Entered(1.0, 1.0), laps, None)


FAILED = Record(None, (), "died")


def part(records: dict[str, dict[str, Record]]) -> Part:
    return Part(environment(commit="0" * 40), 1.0, records, {}, ("something was left out",))


NETWORK = part(
    {
        "net": {
            "Paddle, oneDNN off, 10 threads (the original's setting)": record(30.0, 3000),
            "Paddle as PaddleSeg's deploy script sets it today, 10 threads": record(12.0),
            "Paddle, oneDNN, 2 threads": FAILED,
            "ONNX Runtime, 2 threads": record(8.0),
            "pseg cpu fp32, 2 threads": record(8.08),
            "pseg cpu int8, 2 threads": record(2.0, 600),
            "convolutions, cpu int8": record(GFLOP / 1000),
        }
    }
)


def test_figures_of_the_network_by_hand() -> None:
    against, memory, best, fp32, roof = network_figures(NETWORK)
    assert against.found == "15.0 times (against today's deploy script 6.0 times)"
    assert (memory.found, memory.reached) == ("0.20", True)
    assert (best.found, best.reached) == ("4.00 times", True)
    assert (fp32.found, fp32.reached) == ("1.010 times its time", True)
    # 1227 GFLOP in 2 s, of 1000 GFLOP/s.
    assert (roof.found, roof.reached) == ("0.61", False)


def test_a_goal_that_is_missed_is_told() -> None:
    (records,) = NETWORK.records.values()
    slow = {**records, "pseg cpu int8, 2 threads": record(4.0, 1500)}
    against, memory, best, *_ = network_figures(part({"net": slow}))
    assert (against.reached, memory.reached, best.reached) == (False, False, False)


def test_figures_of_the_other_parts_by_hand() -> None:
    bare, one, two = record(10.0, images=60), record(12.0, images=60), record(9.0, images=60)
    names = ("bare session, 2 threads", "pseg, 2 threads in 1 stream", "pseg, 2 threads in 2 streams")
    (folder,) = folder_figures(part({"light": dict(zip(names, (bare, one, two), strict=True))}))
    assert folder.found == "1 stream: 0.83, 2 streams: 1.11"
    (growth,) = growth_figures(
        part({"net": {"10 images": record(1.0, images=10), "1000 images": record(106, 1, 1000)}})
    )
    assert growth.found == "10 images: 100.0 ms, 1000 images: 106.0 ms"
    assert not growth.reached
    (start,) = start_figures(part({"net": {"pseg predict": record(0.5), "PaddleSeg's way": record(3.0)}}))
    assert start.found == "6.00 times (0.50 s against 3.00 s)"
    (auto,) = auto_figures(
        part({"a": {"auto": record(1.0), "x": record(1.0)}, "b": {"auto": record(1.1), "x": record(1)}})
    )
    assert auto.found == "at most 1.100 (b)"
    assert not auto.reached


def test_page_shows_every_contestant_and_who_failed() -> None:
    text = page({"network": NETWORK}, "What was tried.")
    assert "| Paddle, oneDNN, 2 threads | died |" in text
    assert "| pseg cpu int8, 2 threads | 2.000 |" in text
    assert "| its peak memory, of the same | at most 0.33 | 0.20 | yes |" in text
    assert "What was tried." in text
    assert "- something was left out" in text
    busy = replace(NETWORK, environment=replace(NETWORK.environment, load_average=3.0))
    assert "network (3.0): " in page({"network": busy}, "")

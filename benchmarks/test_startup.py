"""From the start of the process to the mask on disk: `pseg predict` against the way of PaddleSeg's own deployment."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.conftest import photograph
from benchmarks.figures import Benchmark, Startup, note
from converters.conversion import convert, write_bundle
from converters.repository import Repository
from engine import Precision, open_bundle

PAIRS = 5
ORIGINAL_WAY = Path(__file__).with_name("original_way.py")
PSEG = Path(sys.executable).with_name("pseg")


def with_onnx(path: Path, cache: Path, folder: Path) -> Path:
    """The bundle with ONNX inside."""
    with open_bundle(path) as bundle:
        if bundle.onnx_model(Precision.FP32) is not None:
            return path
        write_bundle(bundle, convert(bundle, Repository(cache / "onnx")), folder / "with-onnx.tgz")
    return folder / "with-onnx.tgz"


def seconds_until_written(command: list[str], mask: Path) -> float:
    """Run a command; the mask's own time tells when it was there, whatever the process does afterwards."""
    mask.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started_ns = time.time_ns()
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return (mask.stat().st_mtime_ns - started_ns) / 1e9


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bundle_path", ["demo", "segformer"], indirect=True)
def test_startup(
    bundle_path: Path,
    cache: Path,
    tmp_path: Path,
    benchmark: Benchmark,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = str(request.node.callspec.params["bundle_path"])
    picture = tmp_path / "picture.jpg"
    Image.fromarray(photograph(657, 667)).save(picture, quality=95)
    ours, theirs = tmp_path / "picture.pseudo.png", tmp_path / "original.png"
    pseg = [str(PSEG), "predict", str(with_onnx(bundle_path, cache, tmp_path)), str(picture), "--out", str(tmp_path)]
    taken_s: dict[str, list[float]] = {"pseg": [], "original": []}
    with open_bundle(bundle_path) as unpacked:
        original = [sys.executable, str(ORIGINAL_WAY), str(unpacked.folder), str(picture), str(theirs)]

        def pair() -> None:
            taken_s["pseg"].append(seconds_until_written(pseg, ours))
            taken_s["original"].append(seconds_until_written(original, theirs))

        benchmark.pedantic(pair, rounds=PAIRS, warmup_rounds=1)
    medians = {way: statistics.median(times[1:]) for way, times in taken_s.items()}
    figure = Startup(bundle=name, pseg_s=medians["pseg"], original_s=medians["original"], pairs=PAIRS)
    note(benchmark, figure)
    with capsys.disabled():
        ratio = figure.original_s / figure.pseg_s
        print(f"\n{name}: pseg {figure.pseg_s:.2f} s, PaddleSeg's way {figure.original_s:.2f} s, {ratio:.2f} times")

"""From the start of the process to the mask on disk: `pseg predict` against the way of PaddleSeg's own deployment."""

import statistics
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.lab.startup import ORIGINAL_WAY, PSEG, seconds_until_written
from benchmarks.lab.suites.figures import Benchmark, Startup, note
from benchmarks.measuring.pictures import photograph
from converters.conversion import convert, write_bundle
from converters.repository import Repository
from engine import Precision, open_bundle

PAIRS = 5


def with_onnx(path: Path, cache: Path, folder: Path) -> Path:
    with open_bundle(path) as bundle:
        if bundle.onnx_model(Precision.FP32) is not None:
            return path
        write_bundle(bundle, convert(bundle, Repository(cache / "onnx")), folder / "with-onnx.tgz")
    return folder / "with-onnx.tgz"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bundle_path", ["demo", "segformer"], indirect=True)
def test_startup(
    bundle_path: Path,
    cache: Path,
    tmp_path: Path,
    benchmark: Benchmark,
    request: pytest.FixtureRequest,
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
    note(benchmark, Startup(bundle=name, pseg_s=medians["pseg"], original_s=medians["original"], pairs=PAIRS))

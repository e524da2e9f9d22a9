"""What a conversion takes: `pseg convert` from a Paddle program to a certified bundle, time and peak memory."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.lab.startup import PSEG
from benchmarks.lab.suites.figures import Benchmark, Conversion, note
from benchmarks.lab.zoo.runner import export_only
from benchmarks.lab.zoo.scenarios import OCRNET_HRNET_W48


@pytest.fixture(scope="module")
def ocrnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OCRNet on HRNet-W48, two classes, untrained: 70 million parameters."""
    folder = tmp_path_factory.mktemp("ocrnet") / "ocrnet"
    export_only(OCRNET_HRNET_W48, folder)
    return folder


def peak_bytes(command: list[str]) -> int:
    """Run a command; the largest resident memory of it and of the processes that it started, one at a time."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss << 10


@pytest.mark.timeout(1800)
def test_conversion_of_ocrnet(ocrnet: Path, tmp_path: Path, benchmark: Benchmark) -> None:
    out = tmp_path / "converted.tgz"
    command = [str(PSEG), "convert", str(ocrnet), "--out", str(out), "--cache-dir", str(tmp_path / "cache")]
    largest = benchmark.pedantic(lambda: peak_bytes(command))
    note(benchmark, Conversion(bundle="OCRNet-HRNet-W48", peak_bytes=largest))

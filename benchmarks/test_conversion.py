"""What a conversion takes: `pseg convert` from a Paddle program to a certified bundle, time and peak memory."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# Paddle and PaddleSeg ship no type information.

import os
import subprocess
import warnings
from pathlib import Path

import pytest

from benchmarks.figures import Benchmark, Conversion, note
from benchmarks.test_startup import PSEG
from benchmarks.zoo.networks import NORMALIZE, adopt_statistics
from converters.export import ExportClass, export_bundle


@pytest.fixture(scope="module")
def ocrnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OCRNet on HRNet-W48, two classes, untrained: 70 million parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle
        from paddleseg.models import HRNet_W48, OCRNet

        paddle.seed(7)
        network = OCRNet(num_classes=2, backbone=HRNet_W48(pretrained=None), backbone_indices=[0])
        adopt_statistics(network)
        classes = (ExportClass("sand"), ExportClass("seagrass"))
        folder = tmp_path_factory.mktemp("ocrnet") / "ocrnet"
        return export_bundle(network, folder, name="ocrnet-hrnet-w48", classes=classes, transforms=[NORMALIZE])


def peak_bytes(command: list[str]) -> int:
    """Run a command; the largest resident memory of it and of the processes that it started, one at a time."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss << 10


@pytest.mark.timeout(1800)
def test_conversion_of_ocrnet(
    ocrnet: Path, tmp_path: Path, benchmark: Benchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "converted.tgz"
    command = [str(PSEG), "convert", str(ocrnet), "--out", str(out), "--cache-dir", str(tmp_path / "cache")]
    largest = benchmark.pedantic(lambda: peak_bytes(command))
    note(benchmark, Conversion(bundle="OCRNet-HRNet-W48", peak_bytes=largest))
    with capsys.disabled():
        print(f"\nOCRNet-HRNet-W48: peak {largest / 2**20:.0f} MiB")

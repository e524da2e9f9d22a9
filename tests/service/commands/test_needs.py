"""`pseg inspect --measure`: what a run of a bundle takes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.measuring.configurations import Size
from engine.errors import ImageError
from engine.system.machine.cores import usable_cores
from service import cli
from service.inspection.needs import measure_need
from service.request import build_request
from tests.service.bundles import bundle_folder, strongest_band_network

MIB = 1 << 20


@pytest.mark.long
def test_the_memory_holds_what_the_network_must_hold(bundle: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(
        cli.app, ["inspect", str(bundle), "--measure", "--size", "40x60", "--json", "--cache-dir", str(tmp_path)]
    )
    assert answer.exit_code == 0, answer.stderr
    small = json.loads(answer.stdout)["need"]
    assert (small["height"], small["width"], small["max_img_size"]) == (40, 60, 1_000_000)
    assert (small["runtime"], small["provider"], small["precision"]) == ("onnx", "cpu", "fp32")
    assert small["threads"] == usable_cores()
    assert 0 < small["image_s"] < small["open_s"]
    assert small["processor_s"] > 0
    large = measure_need(bundle, Size(800, 1000), build_request(max_img_size=-1), tmp_path)
    # An image of bytes, and a tensor of three bands of float32 in front of the network and one behind it.
    assert large.peak_rss_bytes - small["peak_rss_bytes"] > 800 * 1000 * 3 * (1 + 4 + 4)
    asked = int(small["request"]["memory"].removesuffix("Mi")) * MIB
    assert asked % (64 * MIB) == 0
    assert 0 <= asked - small["peak_rss_bytes"] * 1.25 < 64 * MIB
    assert small["request"]["cpu"] == str(usable_cores())


@pytest.mark.long
@pytest.mark.parametrize("bands", [1, 5])
def test_pictures_have_the_bands_of_the_network(bands: int, tmp_path: Path) -> None:
    network = strongest_band_network(bands=bands, classes=5)
    bundle = bundle_folder(tmp_path / "bundle", network=network, transforms=[])
    need = measure_need(bundle, Size(40, 60), build_request(), tmp_path / "cache")
    assert (need.height, need.width) == (40, 60)


def test_what_goes_wrong_in_the_measured_process_is_told(tmp_path: Path) -> None:
    fixed = bundle_folder(tmp_path / "fixed", network=strongest_band_network(32, 32))
    with pytest.raises(ImageError, match=r"40×60.*the network takes 3×32×32"):
        measure_need(fixed, Size(40, 60), build_request(), tmp_path)

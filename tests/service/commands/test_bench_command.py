"""`pseg bench`: axes multiply, everything is told, and the exit status says whether all came to its end."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from service import cli
from service.commands.terminal import ExitStatus
from tests.service.bundles import bundle_folder, strongest_band_network
from tests.service.pictures import BLUE, GREEN, RED, painted


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)], catch_exceptions=False)


def recorded(*arguments: object, status: ExitStatus = ExitStatus.DONE) -> dict[str, Any]:
    result = bench(*arguments, "--json")
    assert result.exit_code == status, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_bytes(painted(RED, GREEN))
    (folder / "2.png").write_bytes(painted(BLUE, GREEN, RED))
    return folder


@pytest.mark.long
def test_axes_multiply_and_every_image_is_measured(bundle: Path, images: Path, tmp_path: Path) -> None:
    record = recorded(
        bundle, "--images", images, "--provider", "cpu", "--threads", 1, "--threads", 2, "--batch-size", 1,
        "--batch-size", 2, "--repeats", 2, "--cache-dir", tmp_path / "cache",
    )  # fmt: skip
    found = [(each["configuration"]["threads"], each["configuration"]["batch_size"]) for each in record["measurements"]]
    assert found == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for each in record["measurements"]:
        assert each["error"] is None
        assert [Path(sample["image"]).name for turn in each["turns"] for sample in turn["samples"]] == [
            "1.png",
            "2.png",
        ] * 2
        assert each["summary"]["mismatched_ppm"] == 0
    assert (record["images"], record["repeats"], record["skipped"]) == ("2 pictures", 2, [])
    assert record["environment"]["processor"]


def test_results_are_written_and_shown(bundle: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = bench(
        bundle, "--images", images, "--provider", "cpu", "--provider", "cuda", "--threads", 2, "--streams", 2,
        "--size", "12x18", "--repeats", 1, "--out", out, "--cache-dir", tmp_path / "cache",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    label = "cpu fp32, 2 threads in 2 streams, 12x18"
    assert label in result.stdout
    assert "cuda fp32, 2 threads in 2 streams, 12x18: skipped: provider cuda" in result.stdout
    names = {"results.json", "results.csv", "results.md"}
    names |= {f"{name}.{kind}" for name in ("latency_accuracy", "time_split") for kind in ("svg", "png")}
    assert {path.name for path in out.iterdir()} == names
    kept = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [each["label"] for each in kept["measurements"]] == [label]
    assert [each["configuration"]["provider"] for each in kept["skipped"]] == ["cuda"]
    assert label in (out / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--size", "24x40", "--max-img-size", 64), "--max-img-size: images of a named size are not shrunk"),
        (("--provider", "cpu", "--min-subgraph-size", 7), "--min-subgraph-size: it acts on TensorRT"),
    ],
)
def test_options_without_effect_are_refused(bundle: Path, options: tuple[object, ...], said: str) -> None:
    result = bench(bundle, *options)
    assert (result.exit_code, result.stdout) == (ExitStatus.WRONG_REQUEST, "")
    assert said in " ".join(result.stderr.split())


def test_nothing_that_can_run_here_is_refused_with_the_reasons(bundle: Path) -> None:
    result = bench(bundle, "--provider", "cpu", "--precision", "int8", "--provider", "paddle-cpu")
    assert (result.exit_code, result.stdout) == (ExitStatus.WRONG_REQUEST, "")
    said = " ".join(result.stderr.split())
    assert "nothing of what was asked for can be measured here" in said
    assert "pseg convert" in said
    assert "int8 under TensorRT only" in said


@pytest.mark.long
def test_one_that_fails_is_told_and_the_others_are_measured(images: Path, tmp_path: Path) -> None:
    folder = bundle_folder(tmp_path / "damaged")
    (folder / "onnx" / "int8").mkdir()
    (folder / "onnx" / "int8" / "model.onnx").write_bytes(b"no model")
    options = ("--images", images, "--provider", "cpu", "--repeats", 1, "--threads", 1, "--cache-dir", tmp_path / "c")
    record = recorded(folder, *options, status=ExitStatus.INCOMPLETE)
    assert [(each["label"], each["error"] is None) for each in record["measurements"]] == [
        ("cpu fp32, 1 thread", True),
        ("cpu int8, 1 thread", False),
    ]


def test_masks_need_not_be_compared(bundle: Path, images: Path, tmp_path: Path) -> None:
    record = recorded(
        bundle, "--images", images, "--provider", "cpu", "--repeats", 1, "--compare-images", 0, "--cache-dir",
        tmp_path / "cache",
    )  # fmt: skip
    assert record["reference"]["label"] is None
    assert record["measurements"][0]["agreement"] is None


def test_missing_plots_are_told_before_anything_is_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench(bundle, "--provider", "cpu", "--out", tmp_path / "out")
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "install the extra `bench`" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_large_images_are_shrunken_as_in_predict(tmp_path: Path) -> None:
    # The network takes ten by ten pixels and nothing else.
    ten_by_ten = bundle_folder(tmp_path / "ten", network=strongest_band_network(10, 10))
    Image.new("RGB", (64, 64), RED).save(tmp_path / "large.png")
    options = ("--images", tmp_path / "large.png", "--provider", "cpu", "--repeats", 1, "--cache-dir", tmp_path / "c")
    record = recorded(ten_by_ten, *options, "--max-img-size", 100)
    assert record["measurements"][0]["error"] is None
    record = recorded(ten_by_ten, *options, "--max-img-size", -1, status=ExitStatus.INCOMPLETE)
    assert "large.png: after the transforms the image is 3×64×64" in record["measurements"][0]["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "12"), "height and width in pixels"),
        (("--repeats", 0), "--repeats: 0 is less than 1"),
        (("--provider", "cpu", "--max-img-size", 0), "--max-img-size: 0 is"),
        (("--runtime", "paddle", "--provider", "cpu"), "belongs to paddle"),
    ],
)
def test_wrong_options_are_refused(bundle: Path, arguments: tuple[object, ...], said: str) -> None:
    result = bench(bundle, *arguments)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert said in result.stderr

"""`pseg convert` and `pseg verify` as users run them, on a small real network."""
# pyright: reportUnknownMemberType=false
# onnx ships no complete types.

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from converters.conversion import ConversionRequest, convert
from converters.parity import ParityLimits
from converters.precision.quantization import QuantizationError
from converters.repository import Repository
from engine import Precision, RuntimeName, RuntimeRequest, list_images, open_bundle, open_predictor, read_image
from engine.images.quality import read_reference
from service import cli
from service.commands.terminal import ExitStatus
from tests.service.bundles import bundle_folder

PARITY_KEYS = [
    "images",
    "pixel_agreement",
    "mismatched_ppm",
    "class_iou",
    "min_class_iou",
    "max_cover_error",
    "max_abs_logit_error",
    "worst_image",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight smooth pictures of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((96 + 8 * number, 80), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def converted(small_network: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("converted") / "new.tgz"
    status, stdout, stderr = run("convert", small_network, "--out", out, "--json", "--cache-dir", cache)
    assert (status, stderr) == (0, "converting folding constants comparing with Paddle")
    return out, json.loads(stdout)


def test_one_line_of_json(converted: tuple[Path, Any]) -> None:
    out, record = converted
    assert list(record) == [
        "bundle", "precision", "opset", "dynamic", "size_bytes", "seconds", "excluded_nodes", "parity",
    ]  # fmt: skip
    assert (record["bundle"], record["precision"], record["opset"]) == (str(out), "fp32", 17)
    assert record["dynamic"] is True
    assert record["excluded_nodes"] == []
    assert list(record["parity"]) == PARITY_KEYS
    assert record["parity"]["images"] == 3
    with tarfile.open(out) as archive:
        assert archive.getmember("onnx/fp32/model.onnx").size == record["size_bytes"]


@pytest.mark.long
def test_a_precision_is_not_replaced_unasked(converted: tuple[Path, Any], cache: Path, tmp_path: Path) -> None:
    bundle, _ = converted
    new = tmp_path / "new.tgz"
    status, _, stderr = run("convert", bundle, "--out", new, "--cache-dir", cache)
    assert status == ExitStatus.UNUSABLE_MODEL
    assert "already holds onnx/fp32/model.onnx: add --replace" in stderr
    assert not new.exists()
    assert run("convert", bundle, "--out", new, "--replace", "--cache-dir", cache)[0] == 0
    with open_bundle(new) as replaced, open_bundle(bundle) as first:
        assert [each.digest for each in replaced.onnx] == [each.digest for each in first.onnx]
        assert replaced.paddle is not None and first.paddle is not None
        assert replaced.paddle.digest == first.paddle.digest


@pytest.mark.parametrize("name", ["model.onnx", "model.zip"])
def test_an_archive_is_not_called_otherwise(name: str, small_network: Path, cache: Path, tmp_path: Path) -> None:
    status, _, stderr = run("convert", small_network, "--out", tmp_path / name, "--cache-dir", cache)
    assert status == ExitStatus.WRONG_REQUEST
    assert "is written as a gzipped tar" in stderr and "such as model.tgz" in stderr
    assert not (tmp_path / name).exists()


@pytest.mark.long
def test_int8_lies_beside_fp32(converted: tuple[Path, Any], pictures: Path, cache: Path, tmp_path: Path) -> None:
    bundle, plain = converted
    out = tmp_path / "int8.tgz"
    # The network is untrained: its masks are noise, so that nothing but the limits given here would do.
    limits = ("--min-iou", "0.5", "--max-cover-error", "0.2")
    status, stdout, _ = run(
        "convert", bundle, "--out", out, "--precision", "int8", "--calibrate", pictures, *limits,
        "--json", "--cache-dir", cache,
    )  # fmt: skip
    assert status == 0
    record = json.loads(stdout)
    assert record["precision"] == "int8"
    assert record["parity"]["images"] == 8
    assert record["parity"]["worst_image"] in {f"{number}.png" for number in range(8)}
    assert record["size_bytes"] < plain["size_bytes"]
    with open_bundle(out) as opened:
        assert {each.precision for each in opened.onnx} == {Precision.FP32, Precision.INT8}
        assert opened.paddle is not None
    verified = ("verify", out, "--precision", "int8", "--images", pictures, "--cache-dir", cache)
    assert run(*verified, *limits)[0] == 0
    status, _, stderr = run(*verified, "--min-iou", "1")
    assert status == ExitStatus.INCOMPLETE
    assert "smallest class IoU" in stderr


@pytest.mark.long
def test_missed_limits_write_nothing(small_network: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.tgz"
    status, _, stderr = run(
        "convert", small_network, "--out", out, "--precision", "int8", "--calibrate", pictures,
        "--min-iou", "1", "--max-cover-error", "0", "--cache-dir", cache,
    )  # fmt: skip
    assert status == ExitStatus.INCOMPLETE
    assert "INT8 is not worthwhile for this network" in stderr
    assert "allow more (min-iou is 1, max-cover-error is 0)" in " ".join(stderr.split())
    assert stderr.count("calibrating") == stderr.count("trying INT8") == 1  # a line a step, however often it is tried
    assert "class IoU" in stderr
    assert list(tmp_path.iterdir()) == []
    # Asked again, it is remembered, and the table is there as data.
    request = ConversionRequest(
        precision=Precision.INT8,
        calibration=tuple(list_images([str(pictures)])),
        limits=ParityLimits(max_mismatched_ppm=None, min_class_iou=1.0, max_cover_error=0.0),
    )
    with open_bundle(small_network) as opened, pytest.raises(QuantizationError) as again:
        convert(opened, Repository(cache / "onnx"), request)
    told, _, remembered = str(again.value).partition(" (remembered: remove ")
    assert " ".join(told.split()) in stderr
    assert remembered.startswith(str(cache / "onnx"))
    rows = [f"{len(each.excluded_nodes)} {each.report.min_class_iou:.4f}" for each in again.value.trials]
    assert len(rows) > 2
    assert [row for row in rows if f" {row} " not in stderr] == []


@pytest.mark.long
def test_fixed_input_shape(small_network: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "fixed.tgz"
    status, stdout, _ = run(
        "convert", small_network, "--out", out, "--input-shape", "64", "96", "--json", "--cache-dir", cache
    )
    assert status == 0
    assert json.loads(stdout)["dynamic"] is False
    with open_bundle(out) as opened:
        model = opened.onnx_model(Precision.FP32)
        assert model is not None
        (given,) = onnx.load(model.path).graph.input
    assert [each.dim_value for each in given.type.tensor_type.shape.dim][1:] == [3, 64, 96]


@pytest.mark.long
def test_fp16_takes_and_gives_fp32(small_network: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "fp16.tgz"
    status, stdout, _ = run(
        "convert", small_network, "--out", out, "--precision", "fp16", "--min-iou", "0.9", "--json",
        "--cache-dir", cache,
    )  # fmt: skip
    assert status == 0
    with open_bundle(out) as opened:
        model = opened.onnx_model(Precision.FP16)
        assert model is not None
        assert json.loads(stdout)["size_bytes"] == model.path.stat().st_size
        graph = onnx.load(model.path).graph
    kinds = [each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--precision", "int8"], "at least 8 pictures like those that it will see, 0 were given"),
        (["--verify", "/absent/pictures"], "/absent/pictures"),
        (["--input-shape", "0", "64"], "--input-shape: 0 is less than 1"),
    ],
)
def test_wrong_requests(
    arguments: list[str], says: str, small_network: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    given = [each.format(pictures=pictures) for each in arguments]
    status, _, stderr = run("convert", small_network, "--out", tmp_path / "new.tgz", *given, "--cache-dir", cache)
    assert status in {ExitStatus.WRONG_REQUEST, ExitStatus.UNUSABLE_MODEL}
    assert says in stderr
    assert list(tmp_path.iterdir()) == []


def test_calibration_picture_that_cannot_be_read(
    small_network: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    for path in pictures.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "9.png").write_bytes(b"no picture")
    status, _, stderr = run(
        "convert", small_network, "--out", tmp_path / "new.tgz", "--precision", "int8", "--calibrate", tmp_path,
        "--cache-dir", cache,
    )  # fmt: skip
    assert status == ExitStatus.UNUSABLE_MODEL
    assert "9.png" in stderr
    assert not (tmp_path / "new.tgz").exists()


@pytest.mark.long
def test_converted_bundle_gives_the_masks_of_paddle(converted: tuple[Path, Any], pictures: Path) -> None:
    with open_bundle(converted[0]) as opened:
        masks: list[Any] = []
        for runtime in (RuntimeName.ONNX, RuntimeName.PADDLE):
            with open_predictor(opened, RuntimeRequest(runtime=runtime, threads=2)) as predictor:
                masks.append(predictor.predict(read_image(pictures / "5.png")).mask)
    np.testing.assert_array_equal(*masks)


def test_the_statistics_of_a_calibration_flag_what_is_unlike(
    small_network: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new.tgz"
    few = sorted(pictures.iterdir())[0]
    status, _, stderr = run("convert", small_network, "--out", out, "--calibrate", few, "--cache-dir", cache)
    assert status == ExitStatus.UNUSABLE_MODEL
    assert "1 pictures to calibrate on do not tell what others look like: name 8 or more" in stderr
    assert run("convert", small_network, "--out", out, "--calibrate", pictures, "--cache-dir", cache)[0] == 0
    with open_bundle(out) as opened:
        reference = read_reference(opened.folder)
        known = [read_image(path).statistics for path in sorted(pictures.iterdir())]
        assert reference is not None
        assert list(reference.pictures) == known
        certificate = json.loads((opened.folder / "onnx" / "fp32" / "parity.json").read_text())
        assert (certificate["compared_on"], certificate["report"]["images"]) == ("calibration", len(known))
    odd = tmp_path / "odd.png"
    Image.fromarray(np.full((64, 64, 3), (250, 0, 250), np.uint8)).save(odd)
    status, stdout, _ = run("predict", out, odd, "--out", tmp_path / "masks", "--json", "--cache-dir", cache)
    assert status == 0
    assert "unlike the calibration" in json.loads(stdout)["flags"]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_bundle_of_onnx_alone_gets_statistics(form: list[str], pictures: Path, cache: Path, tmp_path: Path) -> None:
    folder, out = bundle_folder(tmp_path / "onnx"), tmp_path / "new.tgz"
    given = ("convert", folder, "--out", out, "--cache-dir", cache)
    status, stdout, stderr = run(*given, "--calibrate", pictures, *form)
    assert status == 0, stderr
    if form:
        assert json.loads(stdout) == {"bundle": str(out), "statistics": 8}
    else:
        assert "with the statistics of 8 pictures, and the same models" in " ".join(stdout.split())
    with open_bundle(folder) as before, open_bundle(out) as after:
        reference = read_reference(after.folder)
        assert reference is not None
        assert list(reference.pictures) == [read_image(path).statistics for path in sorted(pictures.iterdir())]
        assert (after.digest, [each.digest for each in after.onnx]) == (before.digest, [before.onnx[0].digest])
    assert run(*given, "--calibrate", pictures, "--max-img-size", "2000")[0] == 0
    with open_bundle(out) as shrunken:
        reference = read_reference(shrunken.folder)
        assert reference is not None
        read = [read_image(path, max_img_size=2000).statistics for path in sorted(pictures.iterdir())]
        assert list(reference.pictures) == read
    for more in (
        (),
        ("--replace",),
        ("--calibrate", pictures, "--replace"),
        ("--calibrate", pictures, "--opset", "18"),
    ):
        status, _, stderr = run(*given, *more)
        assert status == ExitStatus.UNUSABLE_MODEL
        assert "holds no Paddle program to convert" in stderr
        assert "with --calibrate alone, a copy gets the statistics" in stderr

"""The command `pseg`, as users run it: in a process of its own where that matters, in this one for the many options."""

import base64
import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from engine.bundle.archive import unpack
from engine.system.machine.cores import usable_cores
from service import cli
from service.commands.terminal import ExitStatus
from tests.service.bundles import CLASSES, bundle_folder, packed, strongest_band_network

PSEG = Path(sys.executable).with_name("pseg")
RED, GREEN, BLUE = (220, 20, 30), (10, 200, 40), (0, 30, 180)
KEYS = ["image", "status", "error", "mask", "cover", "provenance", "timings_ms", "network_size"]
HAS_GPU = Path("/proc/driver/nvidia/gpus").is_dir()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines; fails on any other line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def pseg(*arguments: object) -> Outcome:
    """The command in this process: fast."""
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def pseg_process(*arguments: object, **environment: str) -> Outcome:
    """The installed command in a process of its own."""
    done = subprocess.run(
        [PSEG, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def pseg_error(*arguments: object) -> str:
    """What a command that must not work says, on one line, without a trace."""
    outcome = pseg(*arguments)
    assert outcome.status in {ExitStatus.WRONG_REQUEST, ExitStatus.UNUSABLE_MODEL}
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    return outcome.stderr


def remarks(outcome: Outcome) -> list[str]:
    """What was said on stderr before the line that ends a run."""
    lines = outcome.stderr.splitlines()
    ends = [
        index for index, line in enumerate(lines) if re.match(r"\d+ of \d+ images done, \d+ failed[^;]*; run by ", line)
    ]
    return lines[: ends[0]] if ends else lines


def halves(
    path: Path,
    left: tuple[int, int, int] = RED,
    right: tuple[int, int, int] = BLUE,
    *,
    size: tuple[int, int] = (64, 32),
    exif: Image.Exif | None = None,
) -> Path:
    """A photograph of two colours; of JPEG's coarser colours no pixel mixes the two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    if path.suffix == ".jpg":
        image.save(path, quality=95, subsampling=0, exif=exif or Image.Exif())
    else:
        image.save(path)
    return path


def written(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return halves(tmp_path / "photo.png")


# ---- done -------------------------------------------------------------------------------------------------------


def test_a_mask_and_the_cover_of_every_class(bundle: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "masks"
    outcome = pseg_process("predict", bundle, photo, "--out", out)
    assert outcome.status == 0
    assert outcome.stdout == f"{photo} -> {out}/photo.pseudo.png: red 50.0%, green 0.0%, blue 50.0%\n"
    # The last line says what ran.
    assert outcome.stderr == f"1 of 1 images done, 0 failed; run by onnx cpu fp32, {usable_cores()} threads\n"
    assert names(out) == ["ledger.jsonl", "photo.pseudo.png"]


def test_json_is_one_line_an_image_in_the_order_given(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images = [
        halves(tmp_path / "b.png"),
        tmp_path / "broken.jpg",
        halves(tmp_path / "ä ö.png", GREEN, GREEN, size=(5, 7)),
    ]
    images[1].write_bytes(b"")
    outcome = pseg_process("predict", bundle, *images, "--out", out, "--json", "--save", "mask,pseudo")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert outcome.stderr == ""
    first, broken, last = outcome.records
    assert [record["image"] for record in outcome.records] == [str(path) for path in images]
    assert [record["status"] for record in outcome.records] == ["ok", "failed", "ok"]
    for record in outcome.records:
        assert list(record) == KEYS
        provenance = record["provenance"]
        assert list(provenance) == [
            *("bundle", "model", "runtime", "provider"),
            *("precision", "threads", "fallbacks", "versions"),
        ]
        assert (provenance["runtime"], provenance["provider"], provenance["precision"]) == ("onnx", "cpu", "fp32")
        assert provenance["fallbacks"] == []
        assert {"numpy", "onnxruntime"} <= set(provenance["versions"])
    assert first["mask"] == {"path": str(out / "b.mask.png"), "width": 64, "height": 32}
    assert first["cover"] == [
        {"id": given["id"], "name": given["name"], "color": given["def_color"], "cover": cover}
        for given, cover in zip(CLASSES, (0.5, 0.0, 0.5), strict=True)
    ]
    assert list(first["timings_ms"]) == ["decode", "preprocess", "run", "postprocess", "encode"]
    assert all(elapsed >= 0 for elapsed in first["timings_ms"].values())
    assert broken["mask"] is None
    assert broken["error"]["type"] == "ImageError"
    assert str(images[1]) in broken["error"]["message"]
    assert (last["mask"]["width"], last["mask"]["height"]) == (5, 7)


def test_streams_give_the_same_masks_in_the_same_order(bundle: Path, tmp_path: Path) -> None:
    images = [halves(tmp_path / f"{number}.png", RED, GREEN, size=(20 + number, 30)) for number in range(6)]
    alone, streamed = (
        pseg("predict", bundle, *images, "--out", tmp_path / name, "--json", "--threads", "2", "--streams", name)
        for name in ("1", "2")
    )
    assert [each["image"] for each in streamed.records] == [str(each) for each in images]
    assert {(each["provenance"]["threads"], each["provenance"]["streams"]) for each in streamed.records} == {(2, 2)}
    assert "streams" not in alone.records[0]["provenance"]
    for path in (tmp_path / "1").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_pictures_hold_class_indices_and_the_colours_of_the_bundle(bundle: Path, photo: Path, tmp_path: Path) -> None:
    assert pseg("predict", bundle, photo, "--out", tmp_path / "o", "--save", "mask,pseudo,overlay").status == 0
    assert names(tmp_path / "o") == [
        *("ledger.jsonl", "photo.mask.png"),
        *("photo.overlay.jpg", "photo.pseudo.png"),
    ]
    mask = written(tmp_path / "o" / "photo.mask.png")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, np.repeat([[0, 2]], 32, axis=1).repeat(32, axis=0))
    with Image.open(tmp_path / "o" / "photo.pseudo.png") as pseudo:
        assert pseudo.mode == "P"
        assert np.array_equal(np.asarray(pseudo), mask)
        assert pseudo.convert("RGB").getpixel((0, 0)) == (200, 10, 10)
        assert pseudo.convert("RGB").getpixel((63, 31)) == (10, 10, 200)
    with Image.open(tmp_path / "o" / "photo.overlay.jpg") as overlay:
        assert overlay.size == (64, 32)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def test_a_turned_photograph_gets_a_mask_of_the_upright_one(bundle: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "turned.jpg", exif=turned(6))
    (record,) = pseg("predict", bundle, photo, "--out", tmp_path, "--save", "mask,pseudo", "--json").records
    assert (record["mask"]["width"], record["mask"]["height"]) == (32, 64)
    mask = written(tmp_path / "turned.mask.png")
    assert mask.shape == (64, 32)
    assert (mask[:32] == 0).all()
    assert (mask[32:] == 2).all()
    assert np.array_equal(mask, written(tmp_path / "turned.pseudo.png"))


@pytest.mark.parametrize(("mask_size", "shape"), [("original", (120, 200)), ("inference", (54, 91))])
def test_a_shrunken_photograph_gets_a_mask_of_the_size_asked_for(
    bundle: Path, tmp_path: Path, mask_size: str, shape: tuple[int, int]
) -> None:
    photo = halves(tmp_path / "large.png", size=(200, 120))
    limits = ("--max-img-size", 5000, "--mask-size", mask_size)
    assert pseg("predict", bundle, photo, "--out", tmp_path / "o", "--save", "mask,pseudo", *limits).status == 0
    mask = written(tmp_path / "o" / "large.mask.png")
    assert mask.shape == shape
    assert np.array_equal(mask, written(tmp_path / "o" / "large.pseudo.png"))
    edge = shape[1] // 2
    assert (mask[:, : edge - 4] == 0).all()
    assert (mask[:, edge + 4 :] == 2).all()


def test_a_turned_and_shrunken_photograph(bundle: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "both.jpg", size=(320, 160), exif=turned(8))
    assert pseg("predict", bundle, photo, "--out", tmp_path, "--save", "mask", "--max-img-size", 9000).status == 0
    mask = written(tmp_path / "both.mask.png")
    assert mask.shape == (320, 160)
    assert (mask[:150] == 2).all()
    assert (mask[170:] == 0).all()


def test_images_of_one_name_do_not_overwrite_each_other(bundle: Path, tmp_path: Path) -> None:
    halves(tmp_path / "a" / "x.png", RED, RED)
    halves(tmp_path / "b" / "x.jpg", GREEN, GREEN)
    halves(tmp_path / "c" / "X.png", BLUE, BLUE)
    outcome = pseg(
        "predict", bundle, *(tmp_path / name for name in "abc"), "--out", tmp_path / "o", "--save", "mask", "--json"
    )
    paths = [Path(record["mask"]["path"]) for record in outcome.records]
    assert [path.name for path in paths] == ["x.mask.png", "x-2.mask.png", "X-3.mask.png"]
    assert [int(written(path).max()) for path in paths] == [0, 1, 2]


def test_files_folders_and_globs(bundle: Path, tmp_path: Path) -> None:
    for name in ("f/1.png", "f/2.jpg", "g/3.png", "g/4.jpg", "5.png"):
        halves(tmp_path / name)
    (tmp_path / "f" / "notes.txt").write_text("no image")
    arguments = [tmp_path / "5.png", tmp_path / "f", tmp_path / "g" / "*.png", tmp_path / "f" / "1.png"]
    outcome = pseg("predict", bundle, *arguments, "--out", tmp_path / "o", "--save", "none", "--json")
    assert [Path(record["image"]).name for record in outcome.records] == ["5.png", "1.png", "2.jpg", "3.png"]


def test_nothing_is_written_where_nothing_is_asked_for(bundle: Path, photo: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "o", "--save", "none", "--json")
    assert outcome.records[0]["mask"] == {"path": None, "width": 64, "height": 32}
    assert names(tmp_path / "o") == []


def test_a_batch_gives_the_same_as_one_by_one(bundle: Path, tmp_path: Path) -> None:
    images = [
        halves(tmp_path / f"{index}.png", left, size=(64, 32 + index % 2))
        for index, left in enumerate((RED, GREEN, BLUE, GREEN, RED))
    ]
    for size in (1, 3):
        pseg("predict", bundle, *images, "--out", tmp_path / f"of-{size}", "--save", "mask", "--batch-size", size)
    for image in images:
        name = f"{image.stem}.mask.png"
        assert (tmp_path / "of-1" / name).read_bytes() == (tmp_path / "of-3" / name).read_bytes()


def test_a_folder_is_as_good_as_an_archive(bundle: Path, photo: Path, tmp_path: Path) -> None:
    unpack(bundle, tmp_path / "unpacked")
    arguments = (photo, "--out", tmp_path / "o", "--json")
    (packed_record,) = pseg("predict", bundle, *arguments).records
    (folder_record,) = pseg("predict", tmp_path / "unpacked", *arguments).records
    assert packed_record["provenance"] == folder_record["provenance"]


def test_a_file_name_that_is_no_unicode(bundle: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    odd = folder / os.fsdecode(b"fish-\xff.png")
    odd.write_bytes(photo.read_bytes())
    arguments = ("predict", bundle, folder, "--out", tmp_path / "o", "--csv", tmp_path / "cover.csv")
    outcome = pseg_process(*arguments, "--json", PYTHONUTF8="1")
    assert outcome.status == 0, outcome.stderr
    assert os.fsdecode(base64.b64decode(outcome.records[0]["image_base64"])) == str(odd)
    assert b"fish-%FF.png" in (tmp_path / "cover.csv").read_bytes()
    assert pseg_process(*arguments, PYTHONUTF8="1").status == 0


# ---- some images fail -------------------------------------------------------------------------------------------


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """Two good photographs among three broken files."""
    folder = tmp_path / "mixed"
    halves(folder / "a-good.jpg")
    (folder / "b-empty.jpg").write_bytes(b"")
    (folder / "c-text.jpg").write_text("this is no image\n" * 100)
    whole = halves(tmp_path / "whole.jpg", size=(256, 256)).read_bytes()
    (folder / "d-cut.jpg").write_bytes(whole[: len(whole) // 2])
    halves(folder / "e-good.png")
    return folder


def test_broken_images_fail_alone_and_are_named(bundle: Path, mixed_folder: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, mixed_folder, "--out", tmp_path / "o")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert names(tmp_path / "o") == ["a-good.pseudo.png", "e-good.pseudo.png", "ledger.jsonl"]
    assert [line.partition(" ")[0] for line in outcome.stdout.splitlines()] == [
        str(mixed_folder / "a-good.jpg"),
        str(mixed_folder / "e-good.png"),
    ]
    empty, text, cut = remarks(outcome)
    assert f"{mixed_folder / 'b-empty.jpg'}: is empty (0 bytes)" in empty
    assert f"{mixed_folder / 'c-text.jpg'}: is not a JPEG" in text
    assert f"{mixed_folder / 'd-cut.jpg'}: damaged or truncated" in cut


def test_all_images_broken(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    outcome = pseg("predict", bundle, tmp_path / "x.jpg", "--out", tmp_path / "o")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert names(tmp_path / "o") == ["ledger.jsonl"]


def test_a_named_file_that_is_missing_fails_alone(bundle: Path, photo: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, tmp_path / "missing.jpg", photo, "--out", tmp_path / "o")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert f"{tmp_path / 'missing.jpg'}: no such file" in outcome.stderr
    assert names(tmp_path / "o") == ["ledger.jsonl", "photo.pseudo.png"]


def test_an_image_that_the_network_does_not_take_is_named(photo: Path, tmp_path: Path) -> None:
    fixed = bundle_folder(tmp_path / "fixed", network=strongest_band_network(16, 16))
    outcome = pseg("predict", fixed, photo, "--out", tmp_path / "o")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert str(photo) in outcome.stderr
    assert "3×32×64" in outcome.stderr


def test_too_many_pixels(bundle: Path, photo: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "o", "--max-pixels", 2047)
    assert outcome.status == ExitStatus.INCOMPLETE
    assert "raise max-pixels" in outcome.stderr


def test_the_table_of_cover(bundle: Path, mixed_folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.DateTimeOriginal: "2024:06:30 14:05:09", ExifTags.Base.OffsetTimeOriginal: "+02:00"}
    )
    gps = ExifTags.GPS
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {
            gps.GPSLatitudeRef: "S",
            gps.GPSLatitude: (27.0, 30.0, 0.0),
            gps.GPSLongitudeRef: "E",
            gps.GPSLongitude: (153.0, 15.0, 36.0),
        }
    )
    # Only an EXIF block that has been through its bytes is written with its directories.
    placed_exif = Image.Exif()
    placed_exif.load(exif.tobytes())
    halves(mixed_folder / "f,placed.jpg", RED, GREEN, exif=placed_exif)
    table = tmp_path / "tables" / "cover.csv"
    outcome = pseg("predict", bundle, mixed_folder, "--out", tmp_path / "o", "--save", "none", "--csv", table)
    assert outcome.status == ExitStatus.INCOMPLETE
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("image", "status", "mask", "width", "height", "network_width", "network_height"),
        *("taken_at", "latitude_deg", "longitude_deg", "cover_red", "cover_green", "cover_blue"),
        *("flags", "bundle", "model", "error"),
    ]
    assert [(Path(row["image"]).name, row["status"]) for row in rows] == [
        ("a-good.jpg", "ok"),
        ("b-empty.jpg", "failed"),
        ("c-text.jpg", "failed"),
        ("d-cut.jpg", "failed"),
        ("e-good.png", "ok"),
        ("f,placed.jpg", "ok"),
    ]
    good, empty, placed = rows[0], rows[1], rows[5]
    assert (good["width"], good["height"], good["taken_at"], good["latitude_deg"]) == ("64", "32", "", "")
    assert [float(good[name]) for name in ("cover_red", "cover_green", "cover_blue")] == [0.5, 0.0, 0.5]
    assert "is empty (0 bytes)" in empty["error"]
    assert empty["width"] == empty["cover_red"] == ""
    assert placed["taken_at"] == "2024-06-30T14:05:09+02:00"
    assert float(placed["latitude_deg"]) == pytest.approx(-27.5)
    assert float(placed["longitude_deg"]) == pytest.approx(153.26)
    assert names(table.parent) == ["cover.csv"]


def test_a_killed_run_leaves_no_half_written_file(bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "o"
    content = halves(tmp_path / "one.png", size=(400, 300)).read_bytes()
    folder.mkdir()
    for index in range(300):
        (folder / f"{index:03}.png").write_bytes(content)
    command = [PSEG, "predict", bundle, folder, "--out", out, "--save", "mask,pseudo,overlay", "--json"]
    with subprocess.Popen([str(each) for each in command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(list(islice(process.stdout, 12))) == 12
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    finished = [path for path in out.iterdir() if path.suffix in {".png", ".jpg"} and not path.name.startswith(".")]
    assert 36 <= len(finished) < 900
    for path in finished:
        with Image.open(path) as image:
            image.load()
            assert image.size == (400, 300)


# ---- wrong requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp16"], "fp16 needs a GPU"),
        (["--precision", "int8", "--runtime", "paddle"], "int8 under TensorRT only"),
        (["--precision", "int8", "--runtime", "onnx"], "holds no onnx/int8/model.onnx"),
        (["--save", "png"], "save"),
        (["--save", "mask,none"], "save"),
        (["--save", ""], "save"),
        (["--max-img-size", "0"], "--max-img-size: 0 is not allowed"),
        (["--max-img-size", "-5"], "--max-img-size: -5 is less than -1"),
        (["--max-pixels", "0"], "max-pixels"),
        (["--use-trt"], "TensorRT needs a GPU"),
        (["--auto-tune-shapes"], "needs --use-trt"),
        (["--mkldnn", "on", "--runtime", "onnx"], "oneDNN belongs to Paddle"),
        (["--mkldnn", "on", "--provider", "cpu"], "oneDNN belongs to Paddle"),
        (["--provider", "cpu", "--runtime", "paddle"], "belongs to ONNX Runtime"),
        (["--provider", "cpu", "--device", "gpu"], "--provider: cpu runs on the cpu"),
        (["--threads", "0"], "threads"),
        (["--batch-size", "0"], "batch-size"),
        (["--threshold", "2"], "threshold"),
        (["--threshold", "1"], "--threshold: 1.0 is not between 0 and 1"),
        (["--threshold", "0"], "--threshold: 0.0 is not between 0 and 1"),
        (["--threshold", "0.4"], "--threshold: strongest-band gives each pixel its strongest class"),
        (["--runtime", "torch"], "--runtime"),
        (["--device", "xpu"], "--device"),
        (["--mkldnn", "maybe"], "--mkldnn"),
        (["--mask-size", "huge"], "--mask-size"),
        (["--threads", "two"], "--threads"),
        (["--no-such-option"], "No such option"),
        (["--save", "mask", "--save", "overlay"], "more than once"),
        (["--threads", "1", "--threads", "2"], "more than once"),
    ],
)
def test_wrong_options(bundle: Path, photo: Path, tmp_path: Path, options: list[str], message: str) -> None:
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "o", *options)
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert message in outcome.stderr
    assert outcome.stdout == ""
    assert not (tmp_path / "o").exists() or names(tmp_path / "o") == []


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize(
    "options",
    [
        ["--device", "gpu"],
        ["--device", "gpu", "--runtime", "onnx"],
        ["--device", "gpu", "--runtime", "paddle"],
        ["--device", "gpu", "--use-trt"],
        ["--provider", "cuda"],
        ["--provider", "tensorrt"],
    ],
)
def test_a_gpu_that_is_not_there(bundle: Path, photo: Path, tmp_path: Path, options: list[str]) -> None:
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "o", *options)
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert "RuntimeUnavailableError" in outcome.stderr
    assert outcome.stdout == ""


def test_a_slim_bundle_runs_and_says_where_it_comes_from(bundle: Path, photo: Path, tmp_path: Path) -> None:
    slim, onnx = tmp_path / "slim.tgz", ("pack", bundle, "--for", "onnx-fp32")
    packed = json.loads(pseg(*onnx, "--out", slim, "--json").stdout)
    assert packed["bytes"] == slim.stat().st_size
    outcome = pseg("predict", slim, photo, "--out", tmp_path / "o", "--json")
    assert outcome.records[0]["provenance"]["derived_from"] == packed["derived_from"]
    assert "a name that ends in .onnx" in pseg_error(*onnx, "--as", "onnx", "--out", slim)
    assert "needs --as onnx" in pseg_error(*onnx, "--side", 64, "--out", slim)
    assert "holds no Paddle program" in pseg_error("pack", bundle, "--for", "paddle", "--out", slim)


def test_openvino_is_a_provider_of_the_onnx_side(bundle: Path, photo: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "o", "--provider", "openvino", "--json")
    assert outcome.status == 0
    provenance = outcome.records[0]["provenance"]
    assert (provenance["runtime"], provenance["provider"]) == ("onnx", "openvino")
    assert provenance["versions"]["openvino"] == metadata.version("openvino")


def test_a_file_in_place_of_the_output_folder(bundle: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    assert "cannot be written to" in pseg_error("predict", bundle, photo, "--out", tmp_path / "taken")
    assert "cannot be written to" in pseg_error("predict", bundle, photo, "--out", tmp_path / "taken" / "below")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_in_place_of_the_table(bundle: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "cover.csv").mkdir()
    arguments = ("predict", bundle, photo, "--out", tmp_path / "o", "--csv", tmp_path / "cover.csv")
    assert "is a folder" in pseg_error(*arguments)


@pytest.mark.parametrize("name", ["*.tif", "empty"])
def test_images_that_are_not_there(bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / name) in pseg_error("predict", bundle, tmp_path / name, "--out", tmp_path / "o")


def test_arguments_are_asked_for(bundle: Path) -> None:
    assert "BUNDLE" in pseg_error("predict")
    assert "IMAGE" in pseg_error("predict", bundle)


# ---- unusable models --------------------------------------------------------------------------------------------


def bundles_gone_bad(folder: Path, good: Path) -> Mapping[str, tuple[Path, str]]:
    """Each kind of broken bundle, and what is said of it."""
    text, cut = folder / "text.tgz", folder / "cut.tgz"
    text.write_text("this is no archive")
    cut.write_bytes(good.read_bytes()[:300])
    bare = bundle_folder(folder / "bare")
    (bare / "deploy.yaml").unlink()
    unweighted = bundle_folder(folder / "unweighted", network=b"")
    (unweighted / "model.json").write_text("{}")
    garbage = bundle_folder(folder / "garbage", network=b"garbage")
    return {
        "absent": (folder / "absent.tgz", "no such file"),
        "not a tar": (text, "is a text, not an archive"),
        "cut short": (cut, "truncated"),
        "no deploy.yaml": (packed(bare, folder / "bare.tgz"), "no deploy.yaml"),
        "no model": (bundle_folder(folder / "empty", network=b""), "model missing"),
        "no weights": (unweighted, "weights missing"),
        "unknown transform": (bundle_folder(folder / "odd", transforms=[{"type": "Sharpen"}]), "Sharpen"),
        "random transform": (bundle_folder(folder / "random", transforms=[{"type": "RandomBlur"}]), "RandomBlur"),
        "damaged model": (garbage, "onnx/fp32/model.onnx is damaged"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("absent", "not a tar", "cut short", "no deploy.yaml", "no model"),
        *("no weights", "unknown transform", "random transform", "damaged model"),
    ],
)
def test_unusable_models(bundle: Path, photo: Path, tmp_path: Path, kind: str) -> None:
    bad, message = bundles_gone_bad(tmp_path, bundle)[kind]
    outcome = pseg("predict", bad, photo, "--out", tmp_path / "o", "--runtime", "onnx", "--json")
    assert outcome.status == ExitStatus.UNUSABLE_MODEL
    assert message in outcome.stderr
    assert str(bad) in outcome.stderr
    assert outcome.stdout == ""
    assert not (tmp_path / "o").exists()


def test_paddle_without_a_paddle_program(bundle: Path, photo: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, photo, "--out", tmp_path / "o", "--runtime", "paddle")
    assert outcome.status == ExitStatus.UNUSABLE_MODEL
    assert "holds no Paddle program" in outcome.stderr


# ---- the other commands -----------------------------------------------------------------------------------------


def test_inspect_tells_what_a_bundle_holds(bundle: Path) -> None:
    outcome = pseg_process("inspect", bundle, "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    (record,) = outcome.records
    assert list(record) == [
        *("name", "source", "digest", "derived_from", "lineage", "license", "classes", "transforms", "paddle", "onnx"),
        *("declared", "profile", "statistics", "multilabel", "cleanup", "evaluation", "warnings"),
    ]
    assert record["name"] == "strongest-band"
    assert [each["name"] for each in record["classes"]] == ["red", "green", "blue"]
    assert record["classes"][0] == {"index": 0, "id": CLASSES[0]["id"], "name": "red", "color": [200, 10, 10]}
    assert len(record["transforms"]) == 1
    assert record["paddle"] is None
    assert [each["precision"] for each in record["onnx"]] == ["fp32"]
    assert record["declared"]["output_op"] == "none"
    assert record["warnings"] == ["holds no Paddle program: it runs on ONNX Runtime only"]


def test_inspect_for_people(bundle: Path) -> None:
    outcome = pseg("inspect", bundle)
    assert (outcome.status, outcome.stderr) == (0, "")
    for word in ("strongest-band", "Normalize", "red", "green", "blue", "fp32", "holds no Paddle program"):
        assert word in outcome.stdout


def warnings_of(folder: Path) -> str:
    (record,) = pseg("inspect", folder, "--json").records
    return "\n".join(record["warnings"])


def test_inspect_warns_of_what_will_bite(tmp_path: Path) -> None:
    assert "names no classes" in warnings_of(bundle_folder(tmp_path / "1", classes=None))
    assert "names no classes" in warnings_of(bundle_folder(tmp_path / "2", classes=[]))
    same = [{"name": "sand", "def_color": [1, 2, 3]}, {"name": "rock", "def_color": [1, 2, 3]}, {"name": "other"}]
    found = warnings_of(bundle_folder(tmp_path / "3", classes=same))
    assert "colour [1, 2, 3] is used by sand, rock" in found
    assert "no def_color for other" in found
    twice = [{"name": "sand", "id": "urn:1"}, {"name": "sand", "id": "urn:2"}]
    assert "several classes have the same name (sand)" in warnings_of(bundle_folder(tmp_path / "5", classes=twice))
    assert "RandomHorizontalFlip" in warnings_of(
        bundle_folder(tmp_path / "4", transforms=[{"type": "RandomHorizontalFlip"}])
    )


def test_inspect_shows_names_as_they_are(tmp_path: Path) -> None:
    odd = [{"name": "[/] [red]sand[/red]", "def_color": [1, 2, 3]}, {"name": "[bold]"}]
    outcome = pseg("inspect", bundle_folder(tmp_path / "odd", classes=odd))
    assert outcome.status == 0
    assert "[/] [red]sand[/red]" in outcome.stdout
    assert "no def_color for [bold]" in outcome.stdout


@pytest.mark.parametrize("kind", ["absent", "not a tar", "cut short", "no deploy.yaml", "no model", "no weights"])
def test_inspect_refuses_what_is_no_bundle(bundle: Path, tmp_path: Path, kind: str) -> None:
    bad, message = bundles_gone_bad(tmp_path, bundle)[kind]
    outcome = pseg("inspect", bad, "--json")
    assert outcome.status == ExitStatus.UNUSABLE_MODEL
    assert message in outcome.stderr
    assert outcome.stdout == ""


def test_convert_needs_a_paddle_program(bundle: Path, tmp_path: Path) -> None:
    outcome = pseg("convert", bundle, "--replace", "--out", tmp_path / "new.tgz", "--cache-dir", tmp_path / "cache")
    assert outcome.status == ExitStatus.UNUSABLE_MODEL
    assert "holds no Paddle program" in outcome.stderr
    assert not (tmp_path / "new.tgz").exists()


def test_convert_never_changes_the_bundle_in_place(bundle: Path) -> None:
    before = bundle.read_bytes()
    assert "never changed in place" in pseg_error("convert", bundle, "--out", bundle)
    assert bundle.read_bytes() == before


def test_convert_refuses_wrong_arguments(bundle: Path, tmp_path: Path) -> None:
    assert "--out" in pseg_error("convert", bundle)
    assert "--opset" in pseg_error("convert", bundle, "--out", tmp_path / "new.tgz", "--opset", "new")
    assert "is a folder" in pseg_error("convert", bundle, "--out", tmp_path)
    (tmp_path / "taken").touch()
    assert "cannot be written to" in pseg_error("convert", bundle, "--out", tmp_path / "taken" / "new.tgz")


def test_doctor_tells_what_starts(bundle: Path, tmp_path: Path) -> None:
    outcome = pseg_process("doctor", bundle, "--cache-dir", tmp_path / "cache", COLUMNS="300")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "usable" in outcome.stdout
    starts = {
        cells[0]: cells for cells in (line.split() for line in outcome.stdout.replace("│", " ").splitlines()) if cells
    }
    assert starts["cpu"][1] == "yes"
    assert starts["paddle-cpu"][1] == starts["paddle-onednn"][1] == "no"
    assert {"onnxruntime", "paddlepaddle", "numpy"} <= set(starts)
    if "no NVIDIA card found" in outcome.stdout:
        assert {"cuda", "tensorrt", "paddle-gpu"}.isdisjoint(starts)
        assert "onnxruntime-gpu[" not in outcome.stdout
    everywhere = pseg_process("doctor", bundle, "--gpu", "--cache-dir", tmp_path / "cache", COLUMNS="300")
    assert {"cuda", "tensorrt", "paddle-gpu", "paddle-tensorrt"} <= set(everywhere.stdout.split())


def test_doctor_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    assert "no such file" in pseg_error("doctor", tmp_path / "absent.tgz", "--cache-dir", tmp_path)


def test_demo_refuses_a_file_in_place_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    assert "cannot be written to" in pseg_error("demo", "--out", tmp_path / "taken")


def test_help_lists_the_commands() -> None:
    outcome = pseg_process("--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    for command in ("predict", "inspect", "convert", "verify", "evaluate", "export", "import", "doctor", "demo"):
        assert f" {command} " in outcome.stdout
        assert pseg(command, "--help").status == 0


def test_no_command_shows_the_help() -> None:
    outcome = pseg()
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert "predict" in outcome.stdout + outcome.stderr


def test_a_wrong_command_is_refused() -> None:
    assert "segment" in pseg_error("segment")


@pytest.mark.shared
def test_json_stays_clean_under_paddle(photo: Path, tmp_path: Path) -> None:
    bundle = shared_data() / "bundles" / "legacy_humanseg_lite_logits.tgz"
    outcome = pseg_process(
        *("predict", bundle, photo, "--runtime", "paddle", "--out", tmp_path / "o"),
        *("--json", "--cache-dir", tmp_path / "cache"),
    )
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr == ""
    (record,) = outcome.records
    assert record["provenance"]["runtime"] == "paddle"
    assert (record["mask"]["width"], record["mask"]["height"]) == (64, 32)


@functools.cache
def shared_data() -> Path:
    named = os.environ.get("PSEG_SHARED_DATA")
    if named is None:
        pytest.skip("PSEG_SHARED_DATA names no folder of test data")
    return Path(named)


@pytest.mark.long
def test_what_vendors_print_is_kept_out_of_the_results(tmp_path: Path) -> None:
    """Paddle tells of the mean that this network takes, on standard output, from C++."""
    demo = Path(cli.__file__).parents[1] / "demo"
    picture = demo / "pictures" / "scene_900004.jpg"
    outcome = pseg_process(
        "predict", demo / "nuclei.tgz", picture, "--runtime", "paddle", "--json", "--out", tmp_path / "out",
        "--cache-dir", tmp_path / "cache",
    )  # fmt: skip
    assert outcome.status == 0
    assert [record["status"] for record in outcome.records] == ["ok"]


# ---- flags ------------------------------------------------------------------------------------------------------


def test_a_flag_warns_and_changes_nothing_else(bundle: Path, tmp_path: Path) -> None:
    dark = halves(tmp_path / "dark.png", (20, 4, 4), (4, 4, 20))
    table, page = tmp_path / "cover.csv", tmp_path / "report.html"
    bright = halves(tmp_path / "bright.png")
    outcome = pseg("predict", bundle, dark, bright, "--out", tmp_path / "out", "--csv", table, "--report", page)
    assert outcome.status == ExitStatus.DONE
    assert "dark.png may be too dark" in outcome.stderr
    with table.open(newline="") as file:
        row, _ = csv.DictReader(file)
    assert (row["flags"], row["cover_red"]) == ("too dark", "0.5")
    text = page.read_text()
    assert "1 photograph is flagged</strong> as possibly too dark (1)" in text
    assert text.count('<td data-value="too dark">too dark</td>') == text.count('<td data-value=""></td>') == 1
    run = ("predict", bundle, dark, "--out", tmp_path / "out", "--resume", "--json")
    (record,) = pseg(*run).records
    assert record["flags"] == ["too dark"]

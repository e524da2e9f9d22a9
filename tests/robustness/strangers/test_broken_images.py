"""Every broken image is a correct mask or a failed result that names it, the whole way through the front doors."""

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from engine.system.machine.memory import process_memory_bytes
from service.ivcap.publishing import SUMMARY_SCHEMA
from tests.robustness.conftest import Tally
from tests.robustness.strangers.broken_images import ANY, Case, all_cases, encoded, mask_of, scene
from tests.service.bundles import bundle_folder, packed

pytestmark = pytest.mark.long

KIND = "broken images"
REPOSITORY = Path(__file__).parents[3]
PSEG = Path(sys.executable).with_name("pseg")
MEMORY_CAP_BYTES = 400 << 20
CASES = {case.name: case for case in all_cases()}


@dataclass(frozen=True, slots=True)
class Run:
    """How one run of `pseg predict` ended."""

    status: int
    records: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, str]]
    messages: str
    out: Path
    peak_bytes: int


def real_names(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the bytes of names that are no UTF-8 in place of what is shown for them."""
    real = dict(record)
    for name, value in record.items():
        if isinstance(value, dict):
            real[name] = real_names(cast("dict[str, Any]", value))
        if f"{name}_base64" in record:
            real[name] = os.fsdecode(base64.b64decode(record[f"{name}_base64"]))
    return real


def predicted(bundle: Path, folder: Path, *images: str, out: Path) -> Run:
    """`pseg predict` in a process of its own, from inside of the images' folder."""
    table = out.with_suffix(".csv")
    with (out.with_suffix(".out")).open("w+b") as stdout, (out.with_suffix(".err")).open("w+b") as stderr:
        command = [PSEG, "predict", str(bundle), "--json", "--csv", str(table), "--out", str(out), "--", *images]
        process = subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=stderr)
        peak_bytes = 0
        # Not by `wait4`: its peak is at least the memory of the process that started the command.
        while process.poll() is None:
            peak_bytes = max(peak_bytes, process_memory_bytes("VmHWM", process.pid))
            time.sleep(0.005)
        stdout.seek(0)
        stderr.seek(0)
        lines, messages = stdout.read().splitlines(), stderr.read().decode(errors="surrogateescape")
    assert "Traceback" not in messages, messages
    records = [real_names(json.loads(line)) for line in lines]
    text = table.read_bytes().decode() if table.exists() else ""
    rows = [
        {column: os.fsdecode(unquote_to_bytes(cell.removeprefix("'"))) for column, cell in row.items()}
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]
    return Run(
        process.returncode,
        {record["image"]: record for record in records},
        {row["image"]: row for row in rows},
        messages,
        out,
        peak_bytes,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return packed(bundle_folder(folder / "files"), folder / "strongest-band.tgz")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for case in CASES.values():
        (folder / case.name).write_bytes(case.content)
    return folder


@pytest.fixture(scope="module")
def run(bundle: Path, album: Path) -> Run:
    return predicted(bundle, album, ".", out=album.with_name("album-masks"))


def written(record: dict[str, Any], folder: Path) -> np.ndarray[Any, Any]:
    with Image.open(folder / record["mask"]["path"]) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def outcome_of(case: Case, run: Run, album: Path) -> str:
    """Check what became of a case; how it survived is told."""
    record, row = run.records[case.name], run.rows[case.name]
    assert record["status"] == row["status"]
    if record["status"] == "failed":
        message = record["error"]["message"]
        assert case.reason is not None, message
        assert re.search(case.reason, message), message
        assert message.startswith(f"{case.name}: "), "the message does not name the image"
        assert row["error"] == message
        assert record["mask"] is None
        return "failed by name"
    assert case.mask is not None, "nothing can be right about this file"
    if case.mask is ANY:
        assert written(record, album).shape == (record["mask"]["height"], record["mask"]["width"])
        return "some mask"
    assert (record["mask"]["height"], record["mask"]["width"]) == case.mask.shape
    assert (row["height"], row["width"]) == tuple(map(str, case.mask.shape))
    assert np.array_equal(written(record, album), case.mask)
    return "correct mask"


@pytest.mark.parametrize("name", CASES)
def test_every_image_of_a_folder_is_right_or_fails_by_name(name: str, run: Run, album: Path, tally: Tally) -> None:
    tally(KIND, outcome_of(CASES[name], run, album))


def test_nothing_else_comes_of_the_folder(run: Run) -> None:
    assert run.status == 1
    assert set(run.records) == set(run.rows) == set(CASES)
    assert len(CASES) >= 80
    masks = [record for record in run.records.values() if record["status"] == "ok"]
    # What is written is one picture a mask, under its own name, and of those that failed the ledger's lines.
    expected = [*(Path(each["mask"]["path"]).name for each in masks), "ledger.jsonl"]
    assert sorted(path.name for path in run.out.iterdir() if not path.name.startswith(".pseg-")) == sorted(expected)
    assert run.peak_bytes < MEMORY_CAP_BYTES


def test_an_order_does_the_good_ones_and_names_the_bad_ones(
    bundle: Path, album: Path, tmp_path: Path, tally: Tally
) -> None:
    (tmp_path / "out").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IVCAP_", "PSEG_"))}
    ended = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "service.py"), "--model", str(bundle), "--images", str(album)),
            *("--ivcap:out-dir", str(tmp_path / "out")),
        ],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "PSEG_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    # An order that did something is done; its summary names what failed.
    assert ended.returncode == 0, ended.stdout + ended.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    [summary] = [record for record in records if record["$schema"] == SUMMARY_SCHEMA]
    failed = {each["name"]: each["reason"] for each in summary["failures"]}
    assert summary["images"]["total"] == len(CASES)
    masks = {record["image"].rpartition("/")[2]: record for record in records if "width" in record}
    assert set(failed) | set(masks) == set(CASES)
    for name, reason in failed.items():
        pattern = CASES[name].reason
        assert pattern is not None, reason
        assert re.search(pattern, reason)
        assert name in reason
    for name, record in masks.items():
        mask = CASES[name].mask
        assert mask is not None
        picture = np.asarray(Image.open(record["$entity"].removeprefix("urn:file://")))
        assert (record["height"], record["width"]) == picture.shape
        assert mask is ANY or np.array_equal(picture, mask)
    tally("broken images in an order", "failed by name", len(failed))
    tally("broken images in an order", "correct mask", len(masks))


LONGEST = 255
NAMES = [
    "with a space.png",
    " leading and trailing .png",
    "new\nline.png",
    "carriage\rreturn.png",
    "tab\tand\x1bescape.png",
    "-leading-dash.png",
    "--out.png",
    "-",
    "größe_漢字_🐟.png",
    "e\u0301 decomposed.png",
    "\u202eright-to-left.png",
    'comma,semicolon;quote".png',
    "'single' `back` $HOME $(true).png",
    "%s %d {0} {name}.png",
    "[bold]markup[bold].png",
    "star*question?.png",
    "brackets[0-9].png",
    "back\\slash.png",
    "=1+1.png",
    "~home.png",
    "#hash & ampersand.png",
    "no suffix",
    "dots...png",
    ".png",
    "CON.png",
    "no_utf8_\udcff\udcfe.png",
    "a" * (LONGEST - 4) + ".png",
    "ä" * ((LONGEST - 4) // 2) + ".png",
    "漢" * ((LONGEST - 4) // 3) + "x.png",
]


def test_images_by_any_name(bundle: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(encoded(scene(), "PNG"))
    run = predicted(bundle, folder, *NAMES, out=tmp_path / "masks")
    assert run.status == 0, run.messages
    assert set(run.records) == set(run.rows) == set(NAMES)
    for record in run.records.values():
        assert np.array_equal(written(record, folder), mask_of(scene()))
        # What was cut of a name's stem is cut at the end, so that it can be found again.
        stem = Path(record["image"]).stem
        name = Path(record["mask"]["path"]).name.removesuffix(".pseudo.png")
        assert stem.startswith(name)
        assert name == stem or len(os.fsencode(name)) in range(177, 181)
    assert len(list((tmp_path / "masks").glob("*.png"))) == len(NAMES)
    tally("image names", "correct mask", len(NAMES))


def test_two_long_names_that_begin_alike_keep_their_own_results(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / ("a" * 250 + "1.png")).write_bytes(encoded(scene(), "PNG"))
    (tmp_path / ("a" * 250 + "2.png")).write_bytes(encoded(scene()[::-1], "PNG"))
    out = tmp_path / "masks"
    run = predicted(bundle, tmp_path, ".", out=out)
    assert run.status == 0
    assert sorted(path.name for path in out.glob("*.png")) == [
        "a" * 180 + "-2.pseudo.png",
        "a" * 180 + ".pseudo.png",
    ]
    masks = [written(record, tmp_path) for _, record in sorted(run.records.items())]
    assert np.array_equal(masks[0], mask_of(scene()))
    assert np.array_equal(masks[1], mask_of(scene())[::-1])


def test_what_is_named_and_is_no_file_fails_by_name(bundle: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "good.png").write_bytes(encoded(scene(), "PNG"))
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "pipe.png")
    names = ["good.png", "absent.png", "nowhere.png", "circle.png", "pipe.png", "/dev/zero", "x" * 256 + ".png"]
    run = predicted(bundle, folder, *names, out=tmp_path / "masks")
    assert run.status == 1
    assert list(run.records) == names
    for name in names[1:]:
        assert run.records[name]["status"] == "failed"
        assert name in run.records[name]["error"]["message"]
    assert run.records["good.png"]["status"] == "ok"
    tally(KIND, "failed by name", len(names) - 1)

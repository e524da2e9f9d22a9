"""Text from outside at every exit of the command line: shown harmlessly, never the end of a run, and found again.

Also what lies around a run: who reads its output, where it goes, and a user without a home.
"""

import base64
import csv
import html
import io
import json
import os
import pwd
import re
import sqlite3
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import numpy as np
import pydantic_core
import pytest
import tifffile
from PIL import Image

from benchmarks.results.markdown import Table, markdown
from service.commands.terminal import ExitStatus, Products
from service.results.pictures import CoverTable
from service.results.report import report_at
from service.session import caches_at
from tests.service.bundles import bundle_folder
from tests.service.commands.test_cli import PSEG, Outcome, halves, pseg, pseg_process, remarks

CLASSES = (
    "\x1b]0;title\x07\x1b[2J\r\nroot# \u202egnp.exe\u200b\x9b31m",
    "a\x85b",
    "</script><img src=x onerror=alert(1)> [red]x[/red] :bomb: $x$ `a|b` =1+1",
)
SHOWN = (
    "%1B]0;title%07%1B[2J%0D%0Aroot# %E2%80%AEgnp.exe%E2%80%8B%C2%9B31m",
    "a%C2%85b",
    "</script><img src=x onerror=alert(1)> [red]x[/red] :bomb: $x$ `a|b` =1+1",
)
FILES = (b"=1+1.png", b"a\nroot: fake line.png", b"\x1b]0;title\x07\xff.png", b"-2+3.png", b"%FF.png")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return bundle_folder(tmp_path / "hostile", classes=[{"name": name} for name in CLASSES])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder in GBK, as unzip leaves it; every second file is no picture."""
    folder = tmp_path / os.fsdecode(b"gbk\xc4\xa3\xd0\xcd")
    folder.mkdir()
    whole = halves(tmp_path / "whole.png").read_bytes()
    for name in FILES:
        Path(folder, os.fsdecode(name)).write_bytes(whole)
        Path(folder, os.fsdecode(b"bad" + name)).write_bytes(b"no picture")
    return folder


def require_harmless(text: str) -> None:
    """Nothing moves the cursor, turns the direction or hides."""
    kinds = {unicodedata.category(letter) for letter in text.replace("\n", "")}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}, ascii(text)


def failing(error: Exception) -> Callable[..., NoReturn]:
    """What fails whatever it is given."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def rows_of(table: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table.read_bytes().decode(), newline="")))


# ---- predict ----------------------------------------------------------------------------------------------------


def test_terminal_table_and_page_of_one_run(hostile: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--csv", tmp_path / "cover.csv", "--report", tmp_path / "report.html")
    outcome = pseg_process("predict", hostile, pictures, "--out", tmp_path / "out", *options)
    assert outcome.status == ExitStatus.INCOMPLETE
    assert "Traceback" not in outcome.stderr
    for text in (outcome.stdout, outcome.stderr, (tmp_path / "report.html").read_bytes().decode()):
        require_harmless(text)
    assert len(outcome.stdout.splitlines()) == len(remarks(outcome)) == len(FILES)
    for name in SHOWN:
        assert name in outcome.stdout
    header, *rows = rows_of(tmp_path / "cover.csv")
    assert [f"cover_{name}" for name in SHOWN] == header[10:13]
    assert len(rows) == 2 * len(FILES)
    # No cell of text is a formula, and every name is there once, whichever way it is broken.
    assert not [cell for row in rows for cell in (row[0], row[-1]) if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert len({row[0] for row in rows}) == 2 * len(FILES)
    shown_folder = str(pictures).encode(errors="surrogateescape").replace(b"\xd0\xcd", b"%D0%CD").decode()
    assert f"{shown_folder}/%1B]0;title%07%FF.png" in {row[0] for row in rows}
    assert f"{shown_folder}/%25FF.png" in {row[0] for row in rows}


def test_json_is_what_a_strict_reader_takes_and_names_the_files(hostile: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ("predict", hostile, pictures, "--out", tmp_path / "out", "--json")
    done = subprocess.run([PSEG, *arguments], capture_output=True, check=False, timeout=120)
    require_harmless(done.stdout.decode())
    records: list[dict[str, Any]] = [pydantic_core.from_json(line) for line in done.stdout.splitlines()]
    assert len(records) == 2 * len(FILES)
    for record in records:
        coded = record.get("image_base64")
        assert os.path.isfile(os.fsdecode(base64.b64decode(coded)) if coded else record["image"])  # noqa: PTH113
    good = [record for record in records if record["status"] == "ok"]
    assert [each["name"] for each in good[0]["cover"]] == list(CLASSES)
    again = pseg_process(*arguments, "--resume")
    assert [record["image"] for record in again.records] == [record["image"] for record in records]
    assert f"{len(FILES)} of {2 * len(FILES)} images were done earlier" in again.stderr


def test_a_stream_of_ascii_shows_the_same_names(bundle: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "é海.png")
    arguments = ("predict", bundle, photo, "--out", tmp_path / "out")
    outcome = pseg_process(*arguments, PYTHONIOENCODING="ascii")
    assert outcome.status == ExitStatus.DONE, outcome.stderr
    assert "/%C3%A9%E6%B5%B7.png -> " in outcome.stdout
    (record,) = pseg_process(*arguments, "--json", PYTHONIOENCODING="ascii").records
    assert record["image"] == str(photo)


def test_a_very_long_name_is_cut_for_people_only(tmp_path: Path) -> None:
    long = "A" * 999  # with one more letter the longest that a bundle may hold
    bundle = bundle_folder(tmp_path / "long", classes=[{"name": long}, {"name": long + "B"}, {"name": "c"}])
    options = ("--csv", tmp_path / "cover.csv", "--report", tmp_path / "report.html")
    arguments = ("predict", bundle, halves(tmp_path / "photo.png"), "--out", tmp_path / "out", *options)
    told = pseg(*arguments).stdout
    assert len(told) < 2000
    assert len(set(re.findall(r"#[0-9a-f]{8}", told))) == 2
    assert max(map(len, rows_of(tmp_path / "cover.csv")[0])) < 32_767
    assert (tmp_path / "report.html").stat().st_size < 100_000
    (record,) = pseg(*arguments, "--json").records
    assert record["cover"][0]["name"] == long


@pytest.mark.parametrize(("vectors", "suffix"), [("gpkg", ".gpkg"), ("geojson", ".geojson")])
def test_maps_and_polygons(vectors: str, suffix: str, hostile: Path, pictures: Path, tmp_path: Path) -> None:
    raster = pictures / os.fsdecode(b"t\n\x1b[31m\xff.tif")
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10, 0], pixels[:, 10:20, 1], pixels[:, 20:, 2] = 200, 200, 200
    tifffile.imwrite(raster, pixels, photometric="rgb")
    out = pictures / "out"
    outcome = pseg("predict", hostile, raster, "--tile", "--vectors", vectors, "--out", out)
    assert outcome.status == ExitStatus.DONE, outcome.stderr
    with (out / raster.name).open("rb") as file, tifffile.TiffFile(file) as written:
        # GDAL escapes texts twice.
        items = ElementTree.fromstring(str(written.gdal_metadata))  # noqa: S314
    told = {each.get("name"): html.unescape(each.text or "") for each in items}
    assert [told[f"CLASS_{index}"] for index in range(3)] == list(SHOWN)
    require_harmless("".join(told.values()))
    content = (out / f"{raster.stem}{suffix}").read_bytes()
    copy = tmp_path / f"copy{suffix}"
    copy.write_bytes(content)
    if vectors == "gpkg":
        database = sqlite3.connect(copy)
        ((layer,),) = database.execute("SELECT table_name FROM gpkg_contents")
        names = {name for (name,) in database.execute(f'SELECT name FROM "{layer}"')}  # noqa: S608
        database.close()
    else:
        collection = json.loads(content)
        layer, names = collection["name"], {each["properties"]["name"] for each in collection["features"]}
    assert layer == "t%0A%1B[31m%FF"
    assert names == set(SHOWN)


@pytest.mark.parametrize("name", ["gpkg_contents", "sqlite_master", 'a"b; DROP TABLE x'])
def test_a_layer_may_be_called_as_its_raster_is(name: str, bundle: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / f"{name}.tif", np.full((8, 8, 3), 9, np.uint8), photometric="rgb")
    arguments = ("predict", bundle, tmp_path / f"{name}.tif", "--tile", "--vectors", "gpkg", "--out", tmp_path / "out")
    assert pseg(*arguments).status == ExitStatus.DONE
    assert pseg(*arguments).status == ExitStatus.DONE, "its own layer is taken for another's"


# ---- other commands ---------------------------------------------------------------------------------------------


def test_inspect_shows_a_strangers_names_as_text(hostile: Path) -> None:
    outcome = pseg_process("inspect", hostile, COLUMNS="400")
    assert outcome.status == ExitStatus.DONE
    require_harmless(outcome.stdout)
    for name in SHOWN:
        assert name in outcome.stdout
    (record,) = pseg("inspect", hostile, "--json").records
    assert [each["name"] for each in record["classes"]] == list(CLASSES)


def test_evaluate_and_merge_take_the_same_names(hostile: Path, pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / os.fsdecode(b"labels\xff")
    labels.mkdir()
    for name in FILES:
        with (labels / os.fsdecode(name)).open("wb") as file:
            Image.new("L", (64, 32)).save(file, "PNG")
        (pictures / os.fsdecode(b"bad" + name)).unlink()
    evaluated = pseg("evaluate", hostile, "--images", pictures, "--masks", labels, "--allow-missing-classes")
    assert evaluated.status == ExitStatus.DONE, evaluated.stderr
    out = pictures / "out"
    assert pseg("predict", hostile, pictures, "--out", out, "--shard", "1/1").status == ExitStatus.DONE
    products = ("--csv", tmp_path / "m.csv", "--report", tmp_path / "m.html")
    merged = pseg("merge", out, "--out", tmp_path / "m", *products)
    assert merged.status == ExitStatus.DONE, merged.stderr
    for text in (evaluated.stdout, merged.stdout, (tmp_path / "m.html").read_bytes().decode()):
        require_harmless(text)
        assert SHOWN[1] in text
    assert rows_of(tmp_path / "m.csv")[0][10:13] == [f"cover_{name}" for name in SHOWN]


def test_markdown_keeps_text_in_its_cell() -> None:
    name = "a|b`c`\n<img src=x>$x$[l](http://x)"
    page = markdown(Table(("class", "IoU"), ((name, "1"), ("plain_name 2-3", "0"))))
    assert page.splitlines()[2] == r"| a\|b\`c\`%0A\<img src=x\>\$x\$\[l\](http://x) | 1 |"
    assert len(page.splitlines()) == 4


# ---- one product that fails takes no other ----------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["table", "report"])
def test_a_product_that_cannot_be_written_takes_no_other(
    broken: str, bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, report = tmp_path / "cover.csv", tmp_path / "report.html"
    lost, kept = (table, report) if broken == "table" else (report, table)
    if broken == "table":
        monkeypatch.setattr(CoverTable, "to_csv", failing(UnicodeError("no such letter")))
    else:
        monkeypatch.setattr("service.results.report._jpeg", failing(ValueError("no such picture")))
    arguments = ("--csv", table, "--report", report, "--out", tmp_path / "out")
    outcome = pseg("predict", bundle, pictures / os.fsdecode(FILES[0]), *arguments)
    assert outcome.status == ExitStatus.INCOMPLETE
    assert f"the {broken} {lost} is not written" in outcome.stderr
    assert (kept.is_file(), lost.exists()) == (True, False)
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_what_is_lost_is_named_each(capsys: pytest.CaptureFixture[str]) -> None:
    products = Products()
    for name in ("one\x1b", "two"):
        with products.written(name):
            raise OSError("no room")
    assert products.missing == ["one\x1b", "two"]
    assert "one%1B is not written: no room" in capsys.readouterr().err


# ---- who reads the output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["predict", "{bundle}", "{images}", "--out", "{out}", "--json"],
                ["predict", "{bundle}", "{images}", "--out", "{out}"],
                ["inspect", "{bundle}"], ["--help"], ["--version"]]
)  # fmt: skip
def test_who_stops_reading_ends_the_command_quietly(
    command: Sequence[str], bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = [each.format(bundle=bundle, images=pictures, out=tmp_path / "out") for each in command]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([PSEG, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120)
    os.close(writer)
    assert done.returncode == ExitStatus.READER_GONE == 141
    assert b"roken" not in done.stderr
    assert b"Exception" not in done.stderr


def test_head_takes_one_line_and_the_table_holds_what_was_done(bundle: Path, tmp_path: Path) -> None:
    for index in range(6):
        halves(tmp_path / "in" / f"{index}.png")
    command = '"$1" predict "$2" "$3" --out "$4" --csv "$5" --json | head -n 1; exit ${PIPESTATUS[0]}'
    places = (PSEG, bundle, tmp_path / "in", tmp_path / "out", tmp_path / "cover.csv")
    done = subprocess.run(["bash", "-c", command, "-", *places], capture_output=True, check=False, timeout=120)
    assert done.returncode in {ExitStatus.READER_GONE, ExitStatus.DONE}
    assert json.loads(done.stdout)["image"].endswith("/0.png")
    assert done.stderr == b""
    assert 2 <= len(rows_of(tmp_path / "cover.csv")) <= 7


def test_a_full_device_is_an_error_by_name(bundle: Path) -> None:
    for arguments in (("inspect", bundle), ("inspect", bundle, "--json"), ("--help",)):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [PSEG, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120
            )
        assert done.returncode == ExitStatus.WRONG_REQUEST
        assert "No space left on device: 'standard output'" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr


def test_closed_streams_are_no_files(bundle: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "photo.png")
    command = '"$1" predict "$2" "$3" --out "$4" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", command, "-", PSEG, bundle, photo, tmp_path / "out"], check=False, timeout=120)
    assert done.returncode == ExitStatus.DONE
    with Image.open(tmp_path / "out" / "photo.pseudo.png") as mask:
        assert mask.size == (64, 32)


# ---- a user without a home --------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_user_without_a_home_works_with_a_temporary_cache(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "tmp").mkdir()
    arguments = ("predict", bundle, halves(tmp_path / "photo.png"), "--out", tmp_path / "out")
    surroundings = {
        "a file": {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": ""},
        "a relative one": {"HOME": str(tmp_path), "XDG_CACHE_HOME": "cache"},
        "a file for caches": {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "file")},
    }
    for environment in surroundings.values():
        outcome: Outcome = pseg_process(*arguments, **environment, TMPDIR=str(tmp_path / "tmp"))
        assert outcome.status == ExitStatus.DONE, outcome.stderr
        told = " ".join(outcome.stderr.split())
        assert "no cache folder can be used" in told
        assert "--cache-dir" in told
        assert list((tmp_path / "tmp").iterdir()) == [], "the temporary cache stays"
    assert not (tmp_path / "cache").exists()


def test_a_user_whom_the_system_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    caches = caches_at(None)
    assert caches.root.is_dir()
    assert caches_at(None) == caches
    assert caches_at(tmp_path).root == tmp_path


def test_a_cache_that_somebody_filled_is_used_even_if_it_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = tmp_path / "pseg"
    filled.mkdir()
    (filled / "onnx").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.TemporaryFile", failing(OSError("read-only")))
    assert caches_at(None).root == filled


# ---- logs -------------------------------------------------------------------------------------------------------

LOGS = """
import logging, sys
from service.logs import set_up_logs
theirs = logging.getLogger("library")
theirs.addHandler(logging.StreamHandler(sys.stdout))
theirs.propagate = False
set_up_logs({}, sys.stdout)
name = "a\\nINFO root: fake \\x1b[31m\\udcff"
logging.getLogger("service").info("%s: done", name)
theirs.warning("%s: done", name)
try:
    raise OSError(name)
except OSError:
    logging.getLogger("service").exception("broken off")
"""


def test_no_name_forges_a_line_of_a_log() -> None:
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, check=True, timeout=60)
    text = done.stdout.decode()
    require_harmless(text)
    records = [line for line in text.splitlines() if not line.startswith("  ")]
    assert len(records) == 3
    assert records[0].endswith("service a%0AINFO root: fake %1B[31m%FF: done")
    assert records[1] == "a%0AINFO root: fake %1B[31m%FF: done"
    assert [line for line in text.splitlines() if "fake" in line][-1].startswith("  ")


def test_a_page_is_lost_by_name_and_its_block_goes_on(tmp_path: Path) -> None:
    lost: list[Exception] = []
    from tests.service.results.test_report import PROVENANCE

    page = tmp_path / "report.html"
    with report_at(page, title="t", provenance=PROVENANCE, lost=lost.append) as report:
        report.add_failure("a", "b")
        page.mkdir()
        (page / "in the way").touch()
    assert len(lost) == 1
    assert isinstance(lost[0], OSError)

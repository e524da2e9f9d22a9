"""`pseg summarize`: from ledgers to a table of a survey, by arithmetic by hand."""
# pyogrio ships no type information, and that of onnx is partial.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import csv
import hashlib
import html
import json
import re
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx.helper
import pyogrio.raw
import pytest
from ifdo import iFDO
from PIL import ExifTags, Image

from engine import OptionError, open_bundle
from engine.images import Capture
from service.commands.terminal import ExitStatus
from service.surveys.pictures import SurveyClass, SurveyPicture, columns_of
from service.surveys.places import Place, SurveyOptions, place_pictures
from tests.service.bundles import CLASSES, bundle_folder, strongest_band_network
from tests.service.commands.test_cli import BLUE, GREEN, RED, halves, pseg, pseg_error

PATTERN = "{site}/{transect}/{date}/{quadrat}.png"


def stripes(path: Path, red: int) -> Path:
    """Ten columns, the first ones red, the others blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (10, 4), BLUE)
    image.paste(RED, (0, 0, red, 4))
    image.save(path)
    return path


@pytest.fixture
def dives(tmp_path: Path, bundle: Path) -> Path:
    """Three transects on two dates; in percent the red of the transects is 20, 40, 90, then 30, 60, 90."""
    for date, tens in (("20260110", (2, 4, 9)), ("20260610", (3, 6, 9))):
        for number, red in enumerate(tens, 1):
            stripes(tmp_path / "north" / f"T{number}" / date / "q1.png", red)
    # the first transect has a second quadrat: 0 and 40 are 20 on average
    stripes(tmp_path / "north/T1/20260110/q1.png", 0)
    stripes(tmp_path / "north/T1/20260110/q2.png", 4)
    assert pseg("predict", bundle, tmp_path / "north", "--recursive", "--out", tmp_path / "masks").status == 0
    return tmp_path / "masks"


def summary_of(*arguments: object) -> dict[str, Any]:
    (record,) = pseg("summarize", *arguments, "--json").records
    return record


def red_of(record: dict[str, Any]) -> dict[str, Any]:
    (red,) = (each for each in record["cover"] if each["name"] == "red")
    return red


def test_the_transect_is_the_unit(dives: Path) -> None:
    found = summary_of(dives, "--pattern", PATTERN)
    assert (found["unit"], found["level"]) == ("transect", 0.95)
    assert found["images"] == {"used": 7, "failed": 0, "missing": 0, "unplaced": 0}
    first, second = found["groups"]
    assert (first["site"], first["date"], first["units"], first["pictures"]) == ("north", "2026-01-10", 3, 4)
    # by hand: 20, 40, 90: mean 50, deviations -30, -10, 40, variance 2600 / 2, error sqrt(1300 / 3) = 20.817; times
    # 4.30265, the quantile of t with two degrees of freedom, is 89.57, beyond both ends
    red = red_of(first)
    assert red["mean"] == pytest.approx(0.5, abs=1e-6)
    assert red["standard_error"] == pytest.approx(0.208167, abs=1e-6)
    assert (red["low"], red["high"], red["method"]) == (0, 1, "t")
    assert red_of(second)["mean"] == pytest.approx(0.6, abs=1e-6)
    # by hand: the transects changed by 10, 20, 0: mean 10, variance 100, error sqrt(100 / 3) = 5.7735
    (change,) = found["changes"]
    assert (change["earlier"], change["later"], change["paired"]) == ("2026-01-10", "2026-06-10", True)
    assert red_of(change)["mean"] == pytest.approx(0.1, abs=1e-6)
    assert red_of(change)["standard_error"] == pytest.approx(0.057735, abs=1e-6)
    assert red_of(change)["low"] == pytest.approx(0.1 - 4.302653 * 0.0577350, abs=2e-6)


def test_the_report_shows_groups_with_their_intervals(dives: Path, tmp_path: Path) -> None:
    page = tmp_path / "survey.html"
    assert pseg("summarize", dives, "--pattern", PATTERN, "--report", page).status == ExitStatus.DONE
    text = re.sub(r"<[^>]*>", " ", page.read_text().partition('id="groups"')[2].partition("</section>")[0])
    words = " ".join(text.split())
    # Of the figures by hand above: 50 percent within the whole scale, and 10 points more at the second date.
    assert "north 2026-01-10 3 transects 3 50.0% 20.82 0.0% to 100.0%" in words
    assert "north 2026-06-10 3 transects 3 60.0%" in words
    assert "north 2026-01-10 to 2026-06-10 3 paired transects 3 paired +10.00 5.77 -14.84 to +34.84" in words
    assert "The unit is the transect" in words
    assert "7 of 7 images segmented" in page.read_text()
    assert "<dt>pattern</dt>" in page.read_text()
    ledger = dives / "ledger.jsonl"
    assert "ledger.jsonl is a ledger" in pseg_error("summarize", dives, "--pattern", PATTERN, "--report", ledger)


def facts_of(page: Path) -> dict[str, str]:
    """What a report says of how it was made."""
    rows = re.findall(r"(?s)<div><dt>(.*?)</dt><dd[^>]*>(.*?)</dd></div>", page.read_text())
    return {name: html.unescape(re.sub(r"<[^>]*>", "", value)).strip() for name, value in rows}


def test_the_report_says_what_has_to_be_published(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the options of all ledgers, also of one that states neither bundle nor version."""
    monkeypatch.chdir(tmp_path)
    for site in ("N", "S"):
        halves(Path("in", site, "a.png"))
    asked = "--exclude-class", "blue", "--roi", "0,0,3,4"
    pseg("predict", bundle, "in/N", "--out", "n", *asked, "--max-img-size", 900)
    pseg("predict", bundle, "in/S", "--out", "s", *asked)
    first, *others = Path("s/ledger.jsonl").read_text().splitlines(keepends=True)
    run = json.loads(first)
    name, version = run.pop("bundle_name"), run.pop("pseg")
    with open_bundle(bundle) as opened:
        assert (name, version) == (opened.name, metadata.version("paddleseg-dual-runtime"))
    (entry,) = map(json.loads, others)
    assert entry["provenance"]["versions"].pop("pseg") == version
    Path("s/ledger.jsonl").write_text(f"{json.dumps(run)}\n{json.dumps(entry)}\n")
    assert pseg("summarize", "n", "s", "--pattern", "{site}/a.png", "--report", "page.html").status == ExitStatus.DONE
    facts = facts_of(tmp_path / "page.html")
    assert facts["bundle"] == f"{name}; not recorded by this ledger"
    assert facts["versions"].startswith(f"pseg {version} (1 image)pseg of a version that is not recorded (1 image)")
    assert facts["summarized by"] == f"pseg {version}"
    assert (facts["exclude-class"], facts["roi"], facts["pattern"]) == (
        "blue",
        "polygon:0,0 3,0 3,4 0,4",
        "{site}/a.png",
    )
    assert "above 900 pixels" in facts["images"]
    assert "above 1,000,000 pixels" in facts["images"]


def test_no_page_and_no_message_says_where_the_folders_lie(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        halves(Path("in", "N", f"{name}.png"))
    Path("in/N/b.png").write_bytes(b"")
    table = tmp_path / "table.csv"
    table.write_text("image,site\na,N\nb,N\n")
    pseg("predict", bundle, "in", "--recursive", "--out", "o")
    assert str(tmp_path) not in pseg_error("summarize", "o", "--survey", "table.csv")
    outcome = pseg("summarize", "o", "--survey", table, "--skip-unplaced", "--report", "page.html")
    assert [line for line in outcome.stderr.splitlines() if line.startswith(("failed", "left out"))] == [
        "failed: in/N/b.png: is empty (0 bytes): copy it again",
        "left out: in/N/c.png: no row of the table names it",
    ]
    page = re.sub(r"<wbr>", "", Path("page.html").read_text())
    assert "in/N/b.png" in page
    facts = facts_of(tmp_path / "page.html")
    assert facts["table of the survey"] == "table.csv"
    assert facts["left out"] == "1 picture without a place, which is not in this report"
    assert "1 group has a single unit, which has no interval" in outcome.stdout
    for told in (page, outcome.stdout, outcome.stderr):
        assert str(tmp_path) not in told
    assert "another run" not in page
    assert "pseg predict --report" in page


def test_a_picture_of_which_nothing_counts_has_no_part_in_the_mean(tmp_path: Path, bundle: Path) -> None:
    for transect, color in (("T1", BLUE), ("T2", BLUE), ("T3", RED)):
        halves(tmp_path / "in" / transect / "q.png", color, GREEN if color == BLUE else RED)
    options = "--recursive", "--out", tmp_path / "o", "--exclude-class", "red"
    assert pseg("predict", bundle, tmp_path / "in", *options).status == 0
    outcome = pseg("summarize", tmp_path / "o", "--pattern", "{transect}/*.png", "--json")
    assert outcome.status == ExitStatus.INCOMPLETE
    (record,) = outcome.records
    # by hand: half of each of two pictures; the third is all of the class that is left out
    assert [(each["name"], each["mean"]) for each in record["groups"][0]["cover"]] == [("green", 0.5), ("blue", 0.5)]
    assert record["groups"][0]["units"] == 2
    (failure,) = record["failures"]
    assert Path(failure["image"]).parts[-2] == "T3"
    assert failure["reason"].startswith("no pixel counts")


def test_classes_that_only_some_pictures_have_and_no_bundle_names_are_0_in_the_others(tmp_path: Path) -> None:
    """The network returns class indices, whose number nothing tells: red is 0, green 1, blue 2."""
    network = onnx.load_from_string(strongest_band_network())
    network.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["mask"], axis=1, keepdims=0))
    del network.graph.output[:]
    network.graph.output.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.INT64, [None, None, None]))
    nameless = bundle_folder(tmp_path / "b", classes=None, network=network.SerializeToString())
    for name, left, right in (("1", RED, GREEN), ("2", RED, RED), ("3", RED, BLUE)):
        halves(tmp_path / "north" / f"{name}.png", left, right)
    region = "--roi", "0,0,64,32", "--quadrat-size", "1mx1m"
    assert pseg("predict", nameless, tmp_path / "north", "--out", tmp_path / "o", *region).status == 0
    (group,) = summary_of(tmp_path / "o", "--pattern", "{site}/{quadrat}.png")["groups"]
    # by hand: a half, nothing and nothing of the second class, and nothing, nothing and a half of the third
    assert [each["name"] for each in group["cover"]] == ["class-0", "class-1", "class-2"]
    assert [each["mean"] for each in group["cover"]] == pytest.approx([2 / 3, 1 / 6, 1 / 6], abs=1e-6)
    assert [each["mean_area_cm2"] for each in group["cover"]] == pytest.approx(
        [20000 / 3, 5000 / 3, 5000 / 3], abs=0.01
    )


def test_classes_that_the_bundle_names_are_not_taken_for_0(bundle: Path, tmp_path: Path) -> None:
    """Of two runs of one bundle, of which one has the class unsure behind the same others."""
    one, other = halves(tmp_path / "a.png"), halves(tmp_path / "b.png")
    assert pseg("predict", bundle, one, "--out", tmp_path / "o1").status == 0
    assert pseg("predict", bundle, other, "--out", tmp_path / "o2", "--unsure", "0.5").status == 0
    assert "has other classes than" in pseg_error("summarize", tmp_path / "o1", tmp_path / "o2")


def test_without_transects_the_picture_is_the_unit_and_that_is_said(dives: Path) -> None:
    outcome = pseg("summarize", dives, "--pattern", "*/{date}/*.png")
    assert outcome.status == ExitStatus.DONE
    assert "the unit is the picture, because no transect is known" in outcome.stdout
    found = summary_of(dives, "--pattern", "*/{date}/*.png")
    assert [each["units"] for each in found["groups"]] == [4, 3]
    # by hand: 0, 40, 40, 90
    assert red_of(found["groups"][0])["mean"] == pytest.approx(0.425, abs=1e-6)
    assert [each["paired"] for each in found["changes"]] == [False]


def test_groups_of_transects_have_quadrats_as_units(dives: Path) -> None:
    found = summary_of(dives, "--pattern", PATTERN, "--per", "site,transect")
    first = found["groups"][0]
    assert (first["transect"], first["units"], found["unit"]) == ("T1", 2, "quadrat")
    assert red_of(found["groups"][1])["low"] is None
    assert "5 groups have a single unit, which has no interval" in found["notes"]


def test_different_transects_are_not_paired(dives: Path) -> None:
    (dives / "table.csv").write_text(
        "image;transect;date;depth\n"
        "T1/20260110/q1.png;A;2026-01;3,5\nT1/20260110/q2;A;2026-01;3,5\nT2/20260110/q1;B;2026-01;5\n"
        "T2/20260610/q1.png;B;2026-06;5\nT3/20260610/q1.png;C;2026-06;7\n"
    )
    told = " ".join(pseg_error("summarize", dives, "--survey", dives / "table.csv").split())
    assert "2 of 7 pictures have no place" in told
    assert "T3/20260110/q1.png: no row of the table names it" in told
    assert "leave them out with --skip-unplaced" in told
    outcome = pseg("summarize", dives, "--survey", dives / "table.csv", "--skip-unplaced", "--json")
    (found,) = outcome.records
    assert outcome.status == ExitStatus.DONE
    assert [Path(each["image"]).parts[-3:] for each in found["unplaced"]] == [
        ("T1", "20260610", "q1.png"),
        ("T3", "20260110", "q1.png"),
    ]
    assert [each["mean_depth"] for each in found["groups"]] == [4, 6]
    (change,) = found["changes"]
    assert (change["units_earlier"], change["units_later"], change["paired"]) == (2, 2, False)
    # by hand: 60 and 90, minus 20 and 40
    assert red_of(change)["mean"] == pytest.approx(0.45, abs=1e-6)


def test_tables_hold_the_same_figures(dives: Path, tmp_path: Path) -> None:
    tables = tmp_path / "cover.csv", tmp_path / "changes.csv"
    found = summary_of(dives, "--pattern", PATTERN, "--csv", tables[0], "--changes", tables[1])
    for path, records, first in zip(tables, (found["groups"], found["changes"]), ("date", "earlier"), strict=True):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        told = [(record, each) for record in records for each in record["cover"]]
        assert [(row["site"], row[first], row["class"], row["mean"]) for row in rows] == [
            (record["site"], record[first], each["name"], str(each["mean"])) for record, each in told
        ]


def test_the_table_of_differences_has_its_columns_also_without_a_row(dives: Path, bundle: Path, tmp_path: Path) -> None:
    both, one = tmp_path / "both.csv", tmp_path / "one.csv"
    summary_of(dives, "--pattern", PATTERN, "--changes", both)
    for each in (1, 2):
        stripes(tmp_path / "south" / f"T{each}" / "20260110" / "q1.png", each)
    pseg("predict", bundle, tmp_path / "south", "--recursive", "--out", tmp_path / "one")
    summary_of(tmp_path / "one", "--pattern", PATTERN, "--changes", one)
    assert one.read_text().splitlines() == both.read_text().splitlines()[:1]


@pytest.mark.parametrize("names", [("sand", "sand_2", "Sand"), ("a", "A", "a_1", "a_1_", "a")])
def test_no_two_classes_share_a_column(names: tuple[str, ...]) -> None:
    columns = columns_of([SurveyClass(f"urn:{name}", name, (0, 0, 0)) for name in names], "cover")
    # Databases, and GeoPackage among them, ignore the case of letters.
    assert len({column.lower() for column in columns}) == len(names)
    assert all(column.startswith(f"cover_{name}") for column, name in zip(columns, names, strict=True))


def test_failed_pictures_are_counted_and_named(bundle: Path, tmp_path: Path) -> None:
    halves(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o")
    (tmp_path / "t.csv").write_text("image,site\na.png,N\nb.png,N\nc.png,N\n")
    outcome = pseg("summarize", tmp_path / "o", "--survey", tmp_path / "t.csv")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert "1 used, 1 failed, 0 missing" in outcome.stdout
    assert "b.png is empty" in outcome.stderr or "b.png: is empty" in outcome.stderr
    assert "no picture of the table's row: c.png" in outcome.stderr


@pytest.mark.parametrize("command", ["summarize", "sample"])
def test_the_advice_for_a_run_without_a_mask_works(bundle: Path, tmp_path: Path, command: str) -> None:
    image, out = halves(tmp_path / "in" / "a.png"), tmp_path / "o"
    asked = ["--count", 1, "--out", tmp_path / "s.csv"] if command == "sample" else ["--per", "all"]
    run = "predict", bundle, image.parent, "--out", out
    whole = image.read_bytes()
    image.write_bytes(b"")
    pseg(*run)
    assert "1 failed, the first for this reason" in pseg_error(command, out, *asked)
    image.write_bytes(whole)
    # as a run leaves it that is interrupted before its first image is done
    first, *_ = (out / "ledger.jsonl").read_text().splitlines(keepends=True)
    (out / "ledger.jsonl").write_text(first)
    said = pseg_error(command, out, *asked)
    assert "ended before one of its 1 images was done: give the command of the run (`pseg predict` with" in said
    assert said.rstrip().endswith("again, with --resume")
    assert pseg(*run, "--resume").status == ExitStatus.DONE
    assert pseg(command, out, *asked).status == ExitStatus.DONE


def test_points_lie_where_the_pictures_were_taken(bundle: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "S", 2: (33, 51, 36), 3: "E", 4: (151, 12, 0)})
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:03:14 10:00:00"
    # Only an EXIF block that has been through its bytes is written with its directories.
    placed = Image.Exif()
    placed.load(exif.tobytes())
    halves(tmp_path / "in" / "N_T1.jpg", GREEN, exif=placed)
    halves(tmp_path / "in" / "N_T2.jpg", GREEN)
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o")
    for name in ("p.gpkg", "p.geojson"):
        outcome = pseg(
            "summarize", tmp_path / "o", "--pattern", "{site}_{transect}.jpg", "--points", tmp_path / name, "--json"
        )
        assert "1 of 2 pictures have a position" in outcome.stderr
        meta, _, geometry, fields = pyogrio.raw.read(tmp_path / name)
        values = dict(zip(meta["fields"], (each[0] for each in fields), strict=True))
        assert (values["site"], values["transect"], str(values["date"])) == ("N", "T1", "2026-03-14")
        assert values["cover_green"] == 0.5
        # well-known binary: byte order, kind, then longitude and latitude
        assert list(memoryview(geometry[0][5:]).cast("d")) == pytest.approx([151.2, -33.86], abs=1e-7)
    assert [each["date"] for each in outcome.records[0]["groups"]] == [None, "2026-03-14"]


def test_ledgers_of_one_bundle_are_joined(bundle: Path, tmp_path: Path) -> None:
    halves(tmp_path / "in" / "1" / "a.png", RED)
    halves(tmp_path / "in" / "2" / "a.png", GREEN)
    for index in (1, 2):
        pseg("predict", bundle, tmp_path / "in" / str(index), "--out", tmp_path / f"o{index}")
    found = summary_of(tmp_path / "o1", tmp_path / "o2", "--pattern", "{site}/a.png", "--per", "all")
    assert [each["mean"] for each in found["groups"][0]["cover"]] == [0.25, 0.25, 0.5]
    for index, (change, told) in enumerate(
        (
            ({"name": "violet"}, "(red, green, violet; there red, green, blue)"),
            # Names that are the same say nothing of the difference.
            (
                {"def_color": [10, 10, 201]},
                "(their colours are #c80a0a, #0ac80a, #0a0ac9; there #c80a0a, #0ac80a, #0a0ac8)",
            ),
        )
    ):
        other = bundle_folder(tmp_path / f"other{index}", classes=[*CLASSES[:2], {**CLASSES[2], **change}])
        pseg("predict", other, tmp_path / "in" / "2", "--out", tmp_path / f"p{index}")
        error = " ".join(pseg_error("summarize", tmp_path / "o1", tmp_path / f"p{index}").split())
        assert "has other classes than" in error
        assert told in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pattern", "{place}/{quadrat}.png"), "{place} is not a name that may stand there once"),
        (("--pattern", "{site}/{site}.png"), "{site} is not a name that may stand there once"),
        (("--pattern", "*.png"), "no name in braces"),
        (("--pattern", "{date}/{quadrat}/*.png"), "is not a date"),
        (("--pattern", "{site}.tif"), "7 of 7 pictures have no place"),
        (("--pattern", "{date}/*.png"), "the pictures that it describes lie below different folders, such as "),
        (("--pattern", "{date}/*.png"), "such as */{date}/*.png"),
        (("--skip-unplaced",), "places are given by survey or pattern"),
        (("--pattern", PATTERN, "--per", "depth"), "no depth is known"),
        (("--pattern", PATTERN, "--per", "quadrat"), "give any of site, transect, depth"),
        (("--pattern", PATTERN, "--points", "p.shp"), "written as .gpkg or .geojson"),
        (("--pattern", PATTERN, "--plot", "p.png"), "it is written as .svg"),
        (("--pattern", PATTERN, "--ifdo-header", "h.json"), "a header needs an iFDO"),
    ],
)
def test_what_cannot_be_summarized_is_said(dives: Path, options: tuple[str, ...], message: str) -> None:
    assert message in " ".join(pseg_error("summarize", dives, *options).split())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("picture,site\na,N\n", "name one image"),
        ("image,site\nq1.png,N\n", "give more of its path"),
        ("image,site\nT1/20260610/q1.png,N\nT1/20260610/q1.png,S\n", "row 3 names T1/20260610/q1.png again"),
        ("image,site\nT1/20260610/q1.png,N\nT1/20260610/q1,S\n", "both name"),
        ("image,site\nT1/20260610/q1.png,\n", "row 2: it has no site"),
        ("image,date\nT1/20260610/q1.png,14.3.2026\n", "14.3.2026 is not a date"),
        ("image,depth\nT1/20260610/q1.png,deep\n", "deep is not a depth"),
        ('image,depth\nT1/20260610/q1.png,"3,5"\n', "3,5 is not a depth (a number of metres, such as 3.5)"),
        ("image,site,transect\nT1/20260610/q1.png,Bay, north,T1\n", "row 2 has 4 cells, the header 3: put text with a"),
        ("image,site,transect,depth\nq1.png,Bay, north,T1,\n", "row 2 has 5 cells, the header 4"),
    ],
)
def test_tables_that_cannot_be_used(dives: Path, table: str, message: str) -> None:
    (dives / "table.csv").write_text(table)
    assert message in " ".join(pseg_error("summarize", dives, "--survey", dives / "table.csv").split())


def test_pictures_outside_of_the_pattern_stop_the_survey_unless_they_are_left_out(dives: Path, bundle: Path) -> None:
    """One lies two folders higher, where the pattern would take names of other folders; the date of another is none."""
    sources = dives.parent
    stripes(sources / "north" / "T1" / "test.png", 5)
    stripes(sources / "north" / "T1" / "tests" / "q1.png", 5)
    assert pseg("predict", bundle, sources / "north", "--recursive", "--out", dives, "--resume").status == 0
    told = " ".join(pseg_error("summarize", dives, "--pattern", PATTERN).split())
    assert "2 of 9 pictures have no place" in told
    assert "north/T1/test.png: T1 is not a date (2026-03-14, 20260314, 2026-03 or 2026)" in told
    assert "tests/q1.png: tests is not a date" in told
    with_them = summary_of(dives, "--pattern", "{site}/{transect}/*/{quadrat}.png", "--skip-unplaced")
    assert [each["reason"].partition(" below ")[0] for each in with_them["unplaced"]] == ["it does not lie as deep"]
    left = pseg("summarize", dives, "--pattern", PATTERN, "--skip-unplaced")
    assert left.status == ExitStatus.DONE
    assert "left out: " in left.stderr
    assert summary_of(dives, "--pattern", PATTERN, "--skip-unplaced")["groups"][0]["units"] == 3


def test_a_row_for_each_quadrat(dives: Path, tmp_path: Path) -> None:
    table = tmp_path / "quadrats.csv"
    summary_of(dives, "--pattern", PATTERN, "--quadrats", table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    first = next(row for row in rows if (row["transect"], row["date"], row["quadrat"]) == ("T1", "2026-01-10", "q2"))
    assert (first["site"], first["pictures"], first["cover_red"]) == ("north", "1", "0.4")
    assert Path(first["image"]).name == "q2.png"
    # The pictures of one quadrat are averaged: 0 and 40 percent.
    pictures = sorted((dives.parent / "north").rglob("*.png"))
    places = [f"{path},north,{path.parts[-3]},q,{path.parts[-2]}" for path in pictures]
    (tmp_path / "table.csv").write_text("\n".join(["image,site,transect,quadrat,date", *places]))
    summary_of(dives, "--survey", tmp_path / "table.csv", "--quadrats", table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    (first,) = (row for row in rows if (row["transect"], row["date"]) == ("T1", "2026-01-10"))
    assert (first["quadrat"], first["pictures"], first["image"], first["cover_red"]) == ("q", "2", "", "0.2")


def test_regions_of_known_size_have_areas(dives: Path, bundle: Path, tmp_path: Path) -> None:
    """The region is the left half of every picture, half a metre by one on the ground."""
    region = "--roi", "0,0,5,4", "--quadrat-size", "50cmx1m"
    assert pseg("predict", bundle, dives.parent / "north", "--recursive", "--out", tmp_path / "o", *region).status == 0
    options = tmp_path / "o", "--pattern", PATTERN, "--csv", tmp_path / "c.csv", "--quadrats", tmp_path / "q.csv"
    red = red_of(summary_of(*options)["groups"][0])
    # by hand: 0 and 80 %, then 80 % and 100 % of 5000 cm²
    assert red["mean"] == pytest.approx((0.4 + 0.8 + 1) / 3, abs=1e-6)
    assert red["mean_area_cm2"] == pytest.approx(5000 * (0.4 + 0.8 + 1) / 3, abs=0.01)
    with (tmp_path / "c.csv").open(newline="") as file:
        row = next(each for each in csv.DictReader(file) if each["class"] == "red")
    assert (row["mean_area_cm2"], row["corrected"]) == (str(red["mean_area_cm2"]), "no")
    with (tmp_path / "q.csv").open(newline="") as file:
        quadrats = {(each["transect"], each["date"], each["quadrat"]): each for each in csv.DictReader(file)}
    assert quadrats["T1", "2026-01-10", "q2"]["area_cm2_red"] == "4000.0"
    assert "mean cm²" in " ".join(pseg("summarize", *options[:3]).stdout.split())


def test_the_cover_inside_a_region_counts(dives: Path) -> None:
    """Records whose region was found, and one whose region was not."""
    path = dives / "ledger.jsonl"
    first, *lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        inside = [{**each, "cover": 1.0 if each["name"] == "red" else 0.0} for each in record["cover"]]
        record["roi"] = {"method": "frame", "error": None, "polygon": [], "cover": inside, "quality": {}}
    records[0]["roi"] |= {"error": "no frame was found", "cover": []}
    path.write_text("\n".join([first, *map(json.dumps, records)]) + "\n")
    found = summary_of(dives, "--pattern", PATTERN)
    assert {red_of(each)["mean"] for each in found["groups"]} == {1.0}
    assert [each["reason"] for each in found["failures"]] == ["no region of interest: no frame was found"]


def test_the_plot_shows_every_group_with_its_interval(dives: Path, tmp_path: Path) -> None:
    path = tmp_path / "cover.svg"
    found = summary_of(dives, "--pattern", PATTERN, "--plot", path)
    root = ElementTree.fromstring(path.read_text())  # noqa: S314 (our own file)
    space = "{http://www.w3.org/2000/svg}"
    told = [each[0].text for each in root.iter(f"{space}circle")]
    # three classes, each on two dates
    assert told[:2] == [
        "north 2026-01-10: 50.00 % (0.00 to 100.00 %)",
        f"north 2026-06-10: 60.00 % ({100 * red_of(found['groups'][1])['low']:.2f} to 100.00 %)",
    ]
    assert len(told) == 6
    assert len(list(root.iter(f"{space}polyline"))) == 3
    first, second, *_ = root.iter(f"{space}circle")
    # the axis of a class with up to 100 % is 150 pixels long, and its lines lie 30 apart
    lines = [float(each.attrib["y1"]) for each in root.iter(f"{space}line")][:6]
    assert (lines[0] - lines[-1], lines[1] - lines[0]) == (150, -30)
    assert float(first.attrib["cy"]) == pytest.approx((lines[0] + lines[-1]) / 2, abs=0.1)
    # the two dates share the whole width of the panel
    line = next(root.iter(f"{space}line")).attrib
    left, width = float(line["x1"]), float(line["x2"]) - float(line["x1"])
    assert [(float(each.attrib["cx"]) - left) / width for each in (first, second)] == pytest.approx(
        [0.25, 0.75], abs=0.02
    )
    assert [each.text for each in root.iter(f"{space}text")][:2] == ["mean", "95 % interval"]
    # with commas, as programs of SVG 1.1 (Inkscape, QGIS) read it
    assert re.fullmatch(r"rgb\(\d+,\d+,\d+\)", first.attrib["fill"])


def test_no_line_leads_from_pictures_without_a_date(dives: Path, tmp_path: Path) -> None:
    table, path = tmp_path / "t.csv", tmp_path / "cover.svg"
    table.write_text("image,transect,date\nT2/20260110/q1.png,A,\nT2/20260610/q1.png,A,2026-06\n")
    outcome = pseg("summarize", dives, "--survey", table, "--skip-unplaced", "--plot", path)
    assert outcome.status == ExitStatus.DONE
    drawn = path.read_text()
    assert (drawn.count("<circle"), drawn.count("<polyline")) == (2 * 3, 0)


def test_ifdo_tells_what_pictures_and_people_know(bundle: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "S", 2: (33, 51, 36), 3: "E", 4: (151, 12, 0)})
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.DateTimeOriginal: "2026:03:14 10:00:00", ExifTags.Base.OffsetTimeOriginal: "+10:00"}
    )
    placed = Image.Exif()
    placed.load(exif.tobytes())
    halves(tmp_path / "in" / "N" / "a.jpg", GREEN, exif=placed)
    halves(tmp_path / "in" / "b #2.jpg", RED)
    (tmp_path / "t.csv").write_text("image,depth\na.jpg,3.5\nb #2.jpg,4\n")
    pseg("predict", bundle, tmp_path / "in", "--recursive", "--out", tmp_path / "o")
    (tmp_path / "header.json").write_text(
        json.dumps({"image-set-name": "Bay", "image-handle": "https://hdl.handle.net/1/", "image-copyright": "Us"})
    )
    path = tmp_path / "ifdo.json"
    outcome = pseg(
        *("summarize", tmp_path / "o", "--survey", tmp_path / "t.csv", "--ifdo", path),
        *("--ifdo-header", tmp_path / "header.json"),
    )
    assert "iFDO asks for image-set-handle, image-datetime, image-latitude, image-longitude, image-coordinate" in (
        " ".join(outcome.stderr.split())
    )
    found = json.loads(path.read_text())
    items, header = found["image-set-items"], found["image-set-header"]
    content = (tmp_path / "in" / "N" / "a.jpg").read_bytes()
    assert items["N/a.jpg"] == {
        "image-uuid": items["N/a.jpg"]["image-uuid"],
        "image-hash-sha256": hashlib.sha256(content).hexdigest(),
        "image-handle": "https://hdl.handle.net/1/N/a.jpg",
        "image-datetime": "2026-03-14 00:00:00.000000",
        "image-latitude": pytest.approx(-33.86),
        "image-longitude": pytest.approx(151.2),
        "image-altitude-meters": -3.5,
    }
    assert uuid.UUID(items["b #2.jpg"]["image-uuid"]).version == 4
    assert items["b #2.jpg"]["image-handle"] == "https://hdl.handle.net/1/b%20%232.jpg"
    assert (header["image-set-name"], header["image-copyright"], header["image-altitude-meters"]) == ("Bay", "Us", -4)
    assert [each["name"] for each in header["image-annotation-labels"]] == ["red", "green", "blue"]
    # The package of the format's authors reads it.
    header["image-set-handle"] = "https://hdl.handle.net/1"
    read: Any = iFDO.from_dict(found)
    assert read.image_set_items["N/a.jpg"].image_altitude_meters == -3.5
    (tmp_path / "header.json").write_text('{"image-handle": 7}')
    arguments = "summarize", tmp_path / "o", "--ifdo", path, "--ifdo-header", tmp_path / "header.json"
    assert "image-handle: give the beginning of an address" in pseg_error(*arguments)


def test_sets_of_pictures_with_the_same_names_are_different_sets(bundle: Path, tmp_path: Path) -> None:
    identifiers: list[str] = []
    for dive, color in (("one", RED), ("other", BLUE), ("one", RED)):
        halves(tmp_path / dive / "in" / "a.png", color)
        pseg("predict", bundle, tmp_path / dive / "in", "--out", tmp_path / dive / "o")
        pseg("summarize", tmp_path / dive / "o", "--ifdo", tmp_path / "ifdo.json")
        identifiers.append(json.loads((tmp_path / "ifdo.json").read_text())["image-set-header"]["image-set-uuid"])
    first, other, again = identifiers
    assert first == again != other


def placed_at(paths: Sequence[str], options: SurveyOptions) -> list[Place]:
    pictures: list[SurveyPicture] = []
    for path in paths:
        entry: Any = SimpleNamespace(name=path)
        pictures.append(SurveyPicture(path, np.zeros(1), Capture(), None, entry, Path(), at_full_size=True))
    return [each.place for each in place_pictures(pictures, options).pictures]


@pytest.mark.parametrize(
    ("pattern", "path", "place"),
    [
        # What is fixed between names, and what is no date or depth, decides.
        ("{site}_T{transect}_Q{quadrat}.jpg", "Great_Bay_T1_Q1.jpg", Place("Great_Bay", "1", "1")),
        ("{site}_{date}.jpg", "Great_Bay_2026-03-14.jpg", Place("Great_Bay", date="2026-03-14")),
        ("{site}_{depth}m_*.jpg", "Great_Bay_3.5m_a_b.jpg", Place("Great_Bay", depth=3.5)),
        ("{site}/*/{quadrat}.JPG", "/in/N/any_thing/1.jpg", Place("N", quadrat="1")),
        ("*{transect}/{quadrat}_*.jpg", "T/7_a_b.jpg", "quadrat 7, or quadrat 7_a"),
        ("{site}_{transect}_{quadrat}.jpg", "Great_Bay_T1_Q1.jpg", "site Great and transect Bay and quadrat T1_Q1"),
        ("{quadrat}*.jpg", "q1.jpg", "quadrat q, or quadrat q1"),
        ("{site}/{quadrat}_*.jpg", "N/1.jpg", "the pattern does not fit"),
        ("{site}_{date}.jpg", "Great_Bay.jpg", "Bay is not a date"),
        ("{date}.jpg", "2024-02-29.jpg", Place(date="2024-02-29")),
        ("{date}.jpg", "20260229.jpg", "20260229 is not a date"),
        ("{date}.jpg", "2026-04-31.jpg", "2026-04-31 is not a date"),
        ("{date}.jpg", "0000.jpg", "0000 is not a date"),
        ("{depth}.jpg", "3_5.jpg", "3_5 is not a depth"),
    ],
)
def test_a_path_is_placed_where_the_pattern_fits_in_one_way(pattern: str, path: str, place: Place | str) -> None:
    if isinstance(place, Place):
        assert placed_at([path], SurveyOptions(pattern=pattern)) == [place]
    else:
        with pytest.raises(OptionError, match=re.escape(place)):
            placed_at([path], SurveyOptions(pattern=pattern))


def test_names_that_look_alike_are_one_name(tmp_path: Path) -> None:
    # The same letters, in the two forms of Unicode (NFC and NFD), and a blank that nobody sees.
    composed, separate = "Bah\u00eda", "Bahi\u0301a"
    paths = [f"/in/{composed}/T1/{separate}_2025.jpg", f"/in/{separate}/T1 /{composed}_2026.jpg"]
    expected = [Place("Bah\u00eda", "T1", date=date) for date in ("2025", "2026")]
    for spelled in (composed, separate):
        assert placed_at(paths, SurveyOptions(pattern=f"{{site}}/{{transect}}/{spelled}_{{date}}.jpg")) == expected
    table = tmp_path / "survey.csv"
    table.write_text(
        f"image,site,transect,date\n{separate}_2025,{composed},T1,2025\n{composed}_2026.jpg,{separate},T1,2026\n"
    )
    assert placed_at(paths, SurveyOptions(survey=table)) == expected


def test_a_depth_of_minus_0_is_in_the_group_of_0() -> None:
    assert {place.key(["depth"]) for place in placed_at(["0.jpg", "-0.jpg"], SurveyOptions(pattern="{depth}.jpg"))} == {
        ("0.0",)
    }


def test_groups_of_depths_are_in_their_order(dives: Path) -> None:
    table = dives / "table.csv"
    depths = {"T1/20260110/q1": "10", "T1/20260110/q2": "3.5", "T2/20260110/q1": "-1", "T3/20260110/q1": ""}
    table.write_text("\n".join(["image,depth", *(f"{image},{depth}" for image, depth in depths.items())]))
    found = summary_of(dives, "--survey", table, "--per", "depth", "--skip-unplaced")
    assert [each["depth"] for each in found["groups"]] == ["", "-1.0", "3.5", "10.0"]
    assert "1 picture has no depth, and groups without a depth hold pictures of any depth" in found["notes"]


def test_sites_whose_names_a_pattern_cuts_are_not_one_site(bundle: Path, tmp_path: Path) -> None:
    for name in ("Great_Bay_T1_Q1", "Great_Reef_T1_Q1"):
        stripes(tmp_path / "in" / f"{name}.png", 5)
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o")
    told = " ".join(pseg_error("summarize", tmp_path / "o", "--pattern", "{site}_{transect}_{quadrat}.png").split())
    assert "2 of 2 pictures have no place" in told
    assert "Great_Bay_T1_Q1.png: the pattern fits in several ways" in told
    groups = summary_of(tmp_path / "o", "--pattern", "{site}_T{transect}_Q{quadrat}.png")["groups"]
    assert [each["site"] for each in groups] == ["Great_Bay", "Great_Reef"]


def test_a_photograph_counts_once_whatever_its_path(bundle: Path, tmp_path: Path) -> None:
    halves(tmp_path / "in" / "N" / "a.png", RED, RED)
    halves(tmp_path / "in" / "N" / "b.png", GREEN, GREEN)
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    (tmp_path / "one" / "N").mkdir(parents=True)
    (tmp_path / "one" / "N" / "c.png").symlink_to(tmp_path / "in" / "N" / "a.png")
    for index, folder in enumerate(("in", "linked", "one")):
        pseg("predict", bundle, tmp_path / folder / "N", "--out", tmp_path / f"o{index}")
    found = summary_of(*(tmp_path / f"o{index}" for index in range(3)))
    assert found["images"]["used"] == 2
    assert red_of(found["groups"][0])["mean"] == 0.5
    assert any(note.startswith("2 images are in more than one ledger, or there by more") for note in found["notes"])

"""What is measured on masks, through `pseg predict`: files, records, tables, refusals."""
# rasterio ships no type information, and SciPy none of its functions.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from PIL import Image
from scipy.special import softmax

from tests.service.test_cli import halves, names, pseg, pseg_error
from tests.service.test_orthomosaics import SMALL, csv_rows, geotiff, pixels_of


def expected_confidence(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Of the network that finds the strongest band of [3, h, w], whose transforms bring 0–255 to -1–1."""
    return softmax(pixels / 127.5 - 1, axis=0).max(axis=0)


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, npt.NDArray[np.uint8]]:
    pixels = pixels_of(60, 90)
    path = tmp_path / "mixed.png"
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(path)
    return path, pixels


@pytest.mark.parametrize("options", [(), ("--tile",)], ids=["whole", "tiles"])
def test_confidence_is_a_picture_a_record_and_columns(
    bundle: Path, mixed: tuple[Path, npt.NDArray[np.uint8]], tmp_path: Path, options: tuple[str, ...]
) -> None:
    path, pixels = mixed
    out, table = tmp_path / "out", tmp_path / "cover.csv"
    arguments = ("--out", out, "--save", "mask,confidence", "--unsure", 0.5, "--csv", table, "--json", *options)
    (record,) = pseg("predict", bundle, path, *arguments).records
    assert names(out) == ["ledger.jsonl", "mixed.confidence.png", "mixed.mask.png"]
    expected = expected_confidence(pixels)
    with Image.open(out / "mixed.confidence.png") as picture:
        found = np.asarray(picture)
    assert found.dtype == np.uint8
    assert np.abs(found / 255 - expected).max() < 0.003
    unsure = expected < 0.5
    with Image.open(out / "mixed.mask.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.where(unsure, 3, pixels.argmax(axis=0)))
    told = record["confidence"]
    assert told["mean"] == pytest.approx(expected.mean(), abs=0.002)
    assert told["unsure"] == record["cover"][3]["cover"] == pytest.approx(unsure.mean(), abs=1e-6)
    (row,) = csv_rows(table)
    assert (float(row["confidence"]), float(row["unsure_share"])) == (told["mean"], told["unsure"])
    assert float(row["cover_unsure"]) == told["unsure"]


def test_the_confidence_of_a_raster_is_a_second_map(bundle: Path, tmp_path: Path) -> None:
    bands = pixels_of(150, 210)
    bands[:, :40] = 0
    source, out = geotiff(tmp_path / "reef.tif", bands, nodata=0), tmp_path / "out"
    arguments = (*SMALL, "--out", out, "--save", "pseudo,confidence", "--unsure", 0.5, "--json")
    (record,) = pseg("predict", bundle, source, *arguments).records
    assert names(out) == ["ledger.jsonl", "reef.confidence.tif", "reef.tif"]
    expected = expected_confidence(bands)
    with rasterio.open(out / "reef.confidence.tif") as confidence, rasterio.open(out / "reef.tif") as classes:
        assert (confidence.crs, confidence.transform) == (classes.crs, classes.transform)
        assert (confidence.nodata, confidence.descriptions) == (0, ("confidence",))
        found, mask = confidence.read(1), classes.read(1)
    assert (found[:40] == 0).all()
    assert np.abs(found[40:] / 255 - expected[40:]).max() < 0.003
    unsure = expected < 0.5
    np.testing.assert_array_equal(mask[40:], np.where(unsure, 3, bands.argmax(axis=0))[40:])
    assert (mask[:40] == 255).all()
    assert record["cover"][3]["cover"] == record["confidence"]["unsure"] == pytest.approx(unsure[40:].mean(), abs=1e-6)
    assert record["cover"][3]["area_m2"] == pytest.approx(unsure[40:].sum() / 4)
    # A run that is resumed finds both maps, and does nothing again.
    outcome = pseg("predict", bundle, source, *arguments, "--resume")
    assert outcome.records == [record]


def test_the_report_states_the_confidence(bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    photo = halves(tmp_path / "photo.png")
    arguments = ("--out", tmp_path / "out", "--unsure", 0.5, "--report", page, "--json")
    (record,) = pseg("predict", bundle, photo, *arguments).records
    content = page.read_text()
    assert f"<dt>confidence</dt><dd>{record['confidence']['mean']:.1%} on average" in content
    assert f'data-value="{record["confidence"]["mean"]}"' in content


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--unsure", 1), "--unsure: 1.0 is not between 0 and 1"),
        (("--save", "certainty"), "--save: certainty: give any of pseudo, mask, overlay, confidence"),
    ],
)
def test_what_cannot_be_is_refused(bundle: Path, tmp_path: Path, options: tuple[Any, ...], said: str) -> None:
    photo = halves(tmp_path / "photo.png")
    assert said in pseg_error("predict", bundle, photo, "--out", tmp_path / "out", *options)


def test_a_bundle_without_scores_is_refused_with_the_remedy(shared_data: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "photo.png")
    legacy = shared_data / "bundles" / "legacy_pp_liteseg_stdc1.tgz"
    said = pseg_error(
        "predict", legacy, photo, "--out", tmp_path / "out", "--save", "confidence", "--runtime", "paddle"
    )
    assert "--save: " in said
    assert "`pseg convert` and its option scores" in said


def test_options_that_are_not_used_are_not_stated(bundle: Path, tmp_path: Path) -> None:
    pseg("predict", bundle, halves(tmp_path / "photo.png"), "--out", tmp_path / "out")
    run = json.loads((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()[0])
    assert "unsure" not in run["options"]


# ---- regions -----------------------------------------------------------------------------------------------------


def quadrat(path: Path, *, cut: bool = False) -> Path:
    """A blue frame around 200×200 pixels, of which the left fifth is green; red elsewhere."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[..., 0] = 255
    pixels[30:270, 80:320] = (0, 0, 255)
    pixels[50:250, 100:300] = (255, 0, 0)
    pixels[50:250, 100:140] = (0, 255, 0)
    if cut:
        pixels = pixels[:, 150:]
    Image.fromarray(pixels).save(path)
    return path


FRAME = ("--roi", "frame:blue", "--quadrat-size", "0.5mx50cm", "--exclude-class", "blue")


def test_the_region_inside_of_a_frame_is_recorded_tabulated_and_drawn(bundle: Path, tmp_path: Path) -> None:
    out, table, page = tmp_path / "out", tmp_path / "cover.csv", tmp_path / "report.html"
    photo = quadrat(tmp_path / "quadrat.png")
    outcome = pseg("predict", bundle, photo, "--out", out, *FRAME, "--csv", table, "--report", page, "--json")
    assert outcome.status == 0
    (record,) = outcome.records
    region = record["roi"]
    assert (region["method"], region["error"], region["area_cm2"]) == ("frame", None, 2500)
    assert np.abs(np.array(region["polygon"]) - [(100, 50), (300, 50), (300, 250), (100, 250)]).max() < 0.3
    red, green, blue = region["cover"]
    assert (red["cover"], green["cover"]) == (pytest.approx(0.8, abs=0.002), pytest.approx(0.2, abs=0.002))
    assert green["area_cm2"] == pytest.approx(500, abs=5)
    assert (blue["cover"], blue["excluded"]) == (0, 0)
    assert region["quality"]["shown"] == [1, 1, 1, 1]
    # The frame does not count in the whole picture either: 240² - 200² of 300×400 pixels.
    counted = 300 * 400 - 240**2 + 200**2
    assert record["cover"][1]["cover"] == pytest.approx(40 * 200 / counted, abs=1e-6)
    assert record["cover"][2]["excluded"] == pytest.approx(1 - counted / (300 * 400), abs=1e-6)
    (row,) = csv_rows(table)
    assert (row["roi_method"], row["roi_error"], row["cover_blue"]) == ("frame", "", "")
    assert float(row["roi_cover_green"]) == green["cover"]
    assert float(row["roi_area_cm2_green"]) == green["area_cm2"]
    assert len(row["roi_polygon"].split()) == 4
    content = page.read_text()
    assert f'{green["cover"]:.1%} <span class="area">{green["area_cm2"]:.0f} cm²</span>' in content
    assert f"left out, {record['cover'][2]['excluded']:.1%}" in content
    # A resumed run does nothing again, and tells the same.
    assert pseg("predict", bundle, photo, "--out", out, *FRAME, "--json", "--resume").records == [record]


def test_a_frame_that_is_not_found_fails_the_region_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "report.html"
    photo = quadrat(tmp_path / "quadrat.png", cut=True)
    outcome = pseg("predict", bundle, photo, "--out", out, *FRAME, "--report", page, "--json")
    assert outcome.status == 1
    (record,) = outcome.records
    assert (record["status"], record["roi"]["cover"], record["roi"]["polygon"]) == ("ok", [], [])
    assert "cut off" in record["roi"]["error"]
    assert record["cover"][0]["cover"] > 0.5
    assert names(out) == ["ledger.jsonl", "quadrat.pseudo.png"]
    assert "1 region of interest not found" in page.read_text()
    again = pseg("predict", bundle, photo, "--out", out, *FRAME, "--resume")
    assert again.status == 1


def test_a_polygon_of_a_file_stands_with_its_points_in_the_ledger(bundle: Path, tmp_path: Path) -> None:
    area, out = tmp_path / "area.json", tmp_path / "out"
    area.write_text("[[100, 50], [300, 50], [300, 250], [100, 250]]")
    photo = quadrat(tmp_path / "quadrat.png")
    (record,) = pseg("predict", bundle, photo, "--out", out, "--roi", f"polygon:{area}", "--json").records
    assert [each["cover"] for each in record["roi"]["cover"]] == [0.8, 0.2, 0]
    run = json.loads((out / "ledger.jsonl").read_text().splitlines()[0])
    assert run["options"]["roi"] == "polygon:100,50 300,50 300,250 100,250"
    area.unlink()
    assert pseg("reproduce", out, "--bundle", bundle).status == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--roi", "fram"), "--roi: fram: give frame, "),
        (("--roi", "frame"), "--roi: frame is not a class of this bundle, which has: 0 red, 1 green, 2 blue"),
        (("--quadrat-size", "1mx1m"), "--quadrat-size: it is the size of a region"),
        (("--roi", "1,2,3,4", "--quadrat-size", "1x1"), "--quadrat-size: 1x1: give two lengths with their units"),
        (("--exclude-class", "sand"), "--exclude-class: sand is no class"),
    ],
)
def test_regions_that_cannot_be_are_refused(bundle: Path, tmp_path: Path, options: tuple[Any, ...], said: str) -> None:
    photo = halves(tmp_path / "photo.png")
    assert said in pseg_error("predict", bundle, photo, "--out", tmp_path / "out", *options)


@pytest.mark.parametrize("option", [("--roi", "1,1,9,9"), ("--min-area", "5px"), ("--fill-holes",)])
def test_what_a_raster_has_no_effect_of_is_refused_at_once(
    bundle: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(90, 120))
    said = pseg_error("predict", bundle, source, "--out", tmp_path / "out", *option)
    assert f"{option[0]}: " in said


def test_clean_up_changes_the_mask_and_is_recorded(bundle: Path, tmp_path: Path) -> None:
    photo = quadrat(tmp_path / "quadrat.png")
    arguments = ("--out", tmp_path / "out", "--save", "mask", "--min-area", "10000px", "--json")
    (record,) = pseg("predict", bundle, photo, *arguments).records
    # 40 × 200 green pixels go to what is nearest: the frame, and the bottom inside of it.
    assert record["cover"][1]["cover"] == 0
    assert record["provenance"]["measuring"] == {"min_area": "10000px"}
    assert pseg("reproduce", tmp_path / "out", "--bundle", bundle).status == 0

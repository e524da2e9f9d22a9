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

from tests.service.commands.test_cli import halves, names, pseg, pseg_error
from tests.service.results.test_orthomosaics import NORTH_UP, SMALL, UTM, classes_of, csv_rows, geotiff, pixels_of


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


def test_there_is_no_cover_where_only_classes_are_that_are_left_out(bundle: Path, tmp_path: Path) -> None:
    """The left half is red, in which the region lies; the right half is blue."""
    photo, table, page = halves(tmp_path / "q.png"), tmp_path / "cover.csv", tmp_path / "report.html"
    options = "--out", tmp_path / "o", "--overwrite", "--csv", table, "--report", page, "--roi", "0,0,32,32"
    outcome = pseg("predict", bundle, photo, *options, "--exclude-class", "red")
    image, region = outcome.stdout.splitlines()
    assert image.endswith("red left out (50.0%), green 0.0%, blue 100.0%")
    assert region.endswith("no pixel counts, red left out (100.0%)")
    (row,) = csv_rows(table)
    assert (row["cover_green"], row["cover_blue"]) == ("0.0", "1.0")
    assert (row["roi_cover_green"], row["roi_cover_blue"]) == ("", "")
    assert page.read_text().count('<td class="number" data-value="">none counts</td>') == 2
    assert pseg("predict", bundle, photo, *options, "--exclude-class", "red,blue").status == 0
    (row,) = csv_rows(table)
    assert [row[name] for name in ("cover_red", "cover_green", "cover_blue")] == ["", "", ""]


def test_areas_of_a_small_region_keep_their_digits(bundle: Path, tmp_path: Path) -> None:
    photo, table, page = quadrat(tmp_path / "q.png"), tmp_path / "cover.csv", tmp_path / "report.html"
    region = "--roi", "100,50,200,200", "--quadrat-size", "0.5mmx0.5mm"
    outcome = pseg(
        "predict", bundle, photo, "--out", tmp_path / "o", *region, "--csv", table, "--report", page, "--json"
    )
    told = outcome.records[0]["roi"]
    assert told["area_cm2"] == 0.0025
    # by hand: 40 of 200 columns are green
    green = told["cover"][1]
    assert green["area_cm2"] == pytest.approx(0.0005, rel=1e-5)
    (row,) = csv_rows(table)
    assert (float(row["roi_area_cm2"]), float(row["roi_area_cm2_green"])) == (0.0025, green["area_cm2"])
    assert '<span class="area">0.0005 cm²</span>' in page.read_text()
    text = pseg("predict", bundle, photo, "--out", tmp_path / "p", *region).stdout
    assert "green 20.0% (0.0005 cm²)" in text


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
    assert "1 of 1 images done, 0 failed, 1 without a region of interest; run by " in again.stderr


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
        (("--exclude-class", "sand"), "--exclude-class: sand is not a class"),
    ],
)
def test_regions_that_cannot_be_are_refused(bundle: Path, tmp_path: Path, options: tuple[Any, ...], said: str) -> None:
    photo = halves(tmp_path / "photo.png")
    assert said in pseg_error("predict", bundle, photo, "--out", tmp_path / "new" / "out", *options)
    assert [each.name for each in tmp_path.iterdir()] == ["photo.png"], "a refused command leaves nothing behind"


def test_a_region_of_a_raster_is_refused_at_once(bundle: Path, tmp_path: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(90, 120))
    assert "--roi: " in pseg_error("predict", bundle, source, "--out", tmp_path / "out", "--roi", "1,1,9,9")


def noisy() -> npt.NDArray[np.uint8]:
    """Bands of which the strongest changes in blocks, and in single pixels."""
    bands = pixels_of(150, 210)
    noise = np.random.default_rng(3).random(bands.shape[1:]) < 0.05
    bands[:, noise] = np.random.default_rng(4).integers(1, 256, (3, int(noise.sum())))
    return bands


CLEANED = ("--median", 3, "--fill-holes", "--min-area", "150px")


@pytest.mark.parametrize("side", [64, 96, 224])
def test_the_cleaned_mask_of_a_raster_is_that_of_the_whole_photograph(bundle: Path, tmp_path: Path, side: int) -> None:
    bands = noisy()
    photo = tmp_path / "photo.png"
    Image.fromarray(np.moveaxis(bands, 0, -1)).save(photo)
    pseg("predict", bundle, photo, "--out", tmp_path / "photo", "--save", "mask", *CLEANED)
    with Image.open(tmp_path / "photo" / "photo.mask.png") as picture:
        whole = np.asarray(picture)
    assert (whole != bands.argmax(axis=0)).mean() > 0.02
    source, out = geotiff(tmp_path / "reef.tif", bands), tmp_path / "out"
    arguments = (*CLEANED, "--tile-size", side, "--overlap", 16, "--vectors", "geojson", "--save", "mask,confidence")
    (record,) = pseg("predict", bundle, source, "--out", out, "--unsure", 0.4, *arguments, "--json").records
    found = classes_of(out / "reef.tif")
    unsure = found == 3
    np.testing.assert_array_equal(found[~unsure], whole[~unsure])
    confidence = classes_of(out / "reef.confidence.tif")
    assert confidence[unsure].max() < 0.4 * 255 <= confidence[~unsure].min()
    counted = np.bincount(found.reshape(-1), minlength=4)
    assert [each["cover"] for each in record["cover"]] == pytest.approx(counted / found.size, abs=1e-6)
    assert [each["area_m2"] for each in record["cover"]] == pytest.approx(counted / 4)
    polygons = json.loads((out / "reef.geojson").read_text())["features"]
    for index in range(4):
        areas = [each["properties"]["area_m2"] for each in polygons if each["properties"]["class"] == index]
        assert sum(areas) == pytest.approx(counted[index] / 4)
    assert record["provenance"]["measuring"] == {"unsure": 0.4, "median": 3, "fill_holes": True, "min_area": "150px"}


@pytest.mark.parametrize(
    ("crs", "transform", "area", "pixels"),
    [
        (UTM, NORTH_UP, "37.4m2", 150),  # 0.25 square metres each
        (UTM, NORTH_UP, "374000cm2", 150),
        # At the equator a pixel of 1e-5 degrees has 1.1132 m × 1.1057 m = 1.2309 m².
        ("EPSG:4326", rasterio.Affine(1e-5, 0, 150, 0, -1e-5, 0), "184m2", 150),
        # At 60 degrees north 0.5580 m × 1.1141 m = 0.6217 m².
        ("EPSG:4326", rasterio.Affine(1e-5, 0, 10, 0, -1e-5, 60), "92.9m2", 150),
    ],
)
def test_an_area_on_the_ground_is_that_of_the_pixels_of_a_raster(
    bundle: Path, tmp_path: Path, crs: str, transform: Any, area: str, pixels: int
) -> None:
    source = geotiff(tmp_path / "reef.tif", noisy(), crs=crs, transform=transform)
    for least in (area, f"{pixels}px"):
        pseg("predict", bundle, source, "--out", tmp_path / least, *SMALL, "--min-area", least)
    found, expected = (classes_of(tmp_path / least / "reef.tif") for least in (area, f"{pixels}px"))
    np.testing.assert_array_equal(found, expected)
    assert (found != noisy().argmax(axis=0)).any()


def test_pixels_without_data_stay_so_and_join_nothing(bundle: Path, tmp_path: Path) -> None:
    bands = np.zeros((3, 60, 80), np.uint8)
    bands[0, 10:50, 10:70] = 200
    bands[:, 20:40, 20:60] = [[[0]], [[200]], [[0]]]
    bands[:, 25:35, 30:50] = [[[200]], [[0]], [[0]]]  # a hole
    bands[:, 30, 40] = 0  # in which a pixel holds no data
    source, out = geotiff(tmp_path / "reef.tif", bands, nodata=0), tmp_path / "out"
    pseg("predict", bundle, source, "--out", out, "--fill-holes", "--median", 5, "--min-area", "300px")
    found, missing = classes_of(out / "reef.tif"), (bands == 0).all(axis=0)
    np.testing.assert_array_equal(found == 255, missing)
    # The hole is none, because nobody knows what lies in it, and it has fewer than 300 pixels.
    assert (found[20:40, 20:60][~missing[20:40, 20:60]] == 1).mean() > 0.98


def test_an_area_on_the_ground_of_a_raster_without_one_is_an_error_of_the_raster(bundle: Path, tmp_path: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(90, 120), crs=None)
    arguments = ("predict", bundle, source, "--out", tmp_path / "out", "--vectors", "gpkg", "--min-area", "1m2")
    outcome = pseg(*arguments, "--json")
    assert outcome.status == 1
    (record,) = outcome.records
    assert "give it in px" in record["error"]["message"]
    photo = halves(tmp_path / "photo.png")
    assert "--min-area: nothing tells" in pseg_error(*arguments[:2], photo, "--out", tmp_path / "o", *arguments[-2:])


def test_clean_up_changes_the_mask_and_is_recorded(bundle: Path, tmp_path: Path) -> None:
    photo = quadrat(tmp_path / "quadrat.png")
    arguments = ("--out", tmp_path / "out", "--save", "mask", "--min-area", "10000px", "--json")
    (record,) = pseg("predict", bundle, photo, *arguments).records
    # 40 × 200 green pixels go to what is nearest: the frame, and the bottom inside of it.
    assert record["cover"][1]["cover"] == 0
    assert record["provenance"]["measuring"] == {"min_area": "10000px"}
    assert pseg("reproduce", tmp_path / "out", "--bundle", bundle).status == 0

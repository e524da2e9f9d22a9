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
    assert "pseg convert --scores" in said


def test_options_that_are_not_used_are_not_stated(bundle: Path, tmp_path: Path) -> None:
    pseg("predict", bundle, halves(tmp_path / "photo.png"), "--out", tmp_path / "out")
    run = json.loads((tmp_path / "out" / "ledger.jsonl").read_text().splitlines()[0])
    assert "unsure" not in run["options"]

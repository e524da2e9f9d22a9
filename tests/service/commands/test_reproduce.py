"""A published mask can be made again from its record, and what is not the same is found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.service.bundles import bundle_folder, packed
from tests.service.commands.test_cli import GREEN, halves, pseg, pseg_error
from tests.service.results.test_orthomosaics import SMALL, geotiff, pixels_of


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    halves(folder / "a.png")
    halves(folder / "b.png", GREEN, GREEN, size=(40, 30))
    return folder


def compared(out: Path, bundle: Path, *options: Any) -> tuple[int, dict[str, int]]:
    """The exit status, and differing pixels by the name of the image."""
    outcome = pseg("reproduce", out, "--bundle", bundle, "--json", *options)
    told = [json.loads(line) for line in outcome.stdout.splitlines()]
    return outcome.status, {Path(each["image"]).name: each["differing_pixels"] for each in told}


def test_masks_are_made_again_as_they_were(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    options = ("--max-img-size", 900, "--scales", "0.5,1.0", "--flip-horizontal", "--save", "mask,pseudo")
    assert pseg("predict", bundle, photographs, "--out", tmp_path / "o", *options).status == 0
    assert compared(tmp_path / "o", bundle) == (0, {"a.png": 0, "b.png": 0})
    assert compared(tmp_path / "o" / "ledger.jsonl", bundle, "--image", "b.png") == (0, {"b.png": 0})


def test_a_pixel_that_was_changed_is_found(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    pseg("predict", bundle, photographs, "--out", tmp_path / "o", "--save", "mask")
    path = tmp_path / "o" / "a.mask.png"
    with Image.open(path) as opened:
        mask = np.asarray(opened).copy()
    mask[3, 4:9] = 1
    Image.fromarray(mask).save(path)
    assert compared(tmp_path / "o", bundle) == (1, {"a.png": 5, "b.png": 0})


def test_a_raster_is_made_again(bundle: Path, tmp_path: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    pseg("predict", bundle, source, "--out", tmp_path / "o", *SMALL)
    assert compared(tmp_path / "o", bundle) == (0, {"reef.tif": 0})
    # Another photograph under the same name gives other classes.
    geotiff(source, pixels_of(seed=6))
    status, differing = compared(tmp_path / "o", bundle)
    assert status == 1
    assert differing["reef.tif"] == int((pixels_of().argmax(axis=0) != pixels_of(seed=6).argmax(axis=0)).sum())


def test_tiles_are_those_of_the_record_whatever_the_memory_is_now(bundle: Path, tmp_path: Path) -> None:
    coarse = np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    Image.fromarray(coarse).save(tmp_path / "big.png")
    options = ("--tile", "--tile-size", 256, "--scales", "0.5,1.0")
    assert pseg("predict", bundle, tmp_path / "big.png", "--out", tmp_path / "o", *options).status == 0
    ledger = tmp_path / "o" / "ledger.jsonl"
    # As a run states them that left the size of tiles to the memory.
    ledger.write_text(ledger.read_text().replace('"tile_side": 256', '"tile_side": null'))
    assert compared(tmp_path / "o", bundle) == (0, {"big.png": 0})


def test_a_tiff_that_was_cut_for_its_polygons(bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels_of().transpose(1, 2, 0)).save(tmp_path / "plain.tif")
    pseg("predict", bundle, tmp_path / "plain.tif", "--out", tmp_path / "o", "--vectors", "gpkg")
    assert compared(tmp_path / "o", bundle) == (0, {"plain.tif": 0})


def test_pages_are_found_by_the_name_of_their_file(bundle: Path, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 6), color) for color in ("red", "green")]
    pages[0].save(tmp_path / "dive.tif", save_all=True, append_images=pages[1:])
    pseg("predict", bundle, tmp_path / "dive.tif", "--out", tmp_path / "o", "--page", "all")
    status, differing = compared(tmp_path / "o", bundle, "--image", "dive.tif")
    assert (status, differing) == (0, {"dive.tif (page 1)": 0, "dive.tif (page 2)": 0})


def test_what_is_not_a_mask_is_not_compared(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    pseg("predict", bundle, photographs, "--out", tmp_path / "o", "--save", "overlay")
    outcome = pseg("reproduce", tmp_path / "o", "--bundle", bundle)
    assert outcome.status == 1
    assert "only a.overlay.jpg was kept, which is not the mask" in outcome.stdout
    (tmp_path / "empty.png").touch()
    pseg("predict", bundle, tmp_path / "empty.png", "--out", tmp_path / "failed")
    assert "has no mask to compare" in pseg_error("reproduce", tmp_path / "failed", "--bundle", bundle)


def test_the_picture_of_the_confidence_is_not_the_mask(tmp_path: Path) -> None:
    demo = Path(__file__).parents[3] / "demo"
    picture = tmp_path / "a.jpg"
    with Image.open(demo / "pictures" / "scene_900004.jpg") as opened:
        opened.resize((96, 64)).save(picture)
    options = ("--runtime", "onnx", "--save", "confidence")
    assert pseg("predict", demo / "demo_seagrass.tgz", picture, "--out", tmp_path / "o", *options).status == 0
    outcome = pseg("reproduce", tmp_path / "o", "--bundle", demo / "demo_seagrass.tgz")
    assert outcome.status == 1
    assert "only a.confidence.png was kept, which is not the mask" in outcome.stdout


def test_what_cannot_be_compared_is_refused(bundle: Path, photographs: Path, tmp_path: Path) -> None:
    pseg("predict", bundle, photographs, "--out", tmp_path / "o")
    other = packed(bundle_folder(tmp_path / "other", classes=None), tmp_path / "other.tgz")
    assert "--bundle: " in pseg_error("reproduce", tmp_path / "o", "--bundle", other)
    assert "--image: " in pseg_error("reproduce", tmp_path / "o", "--bundle", bundle, "--image", "c.png")
    assert "ledger" in pseg_error("reproduce", tmp_path, "--bundle", bundle)
    (photographs / "b.png").unlink()
    status, _ = compared(tmp_path / "o", bundle)
    assert status == 1

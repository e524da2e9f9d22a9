"""`pseg predict` on folders as people have them: sub-folders, pictures that are not read or not there."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.robustness.strangers.broken_images import encoded, mask_of, scene
from tests.service.bundles import bundle_folder, packed
from tests.service.commands.test_cli import pseg


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return packed(bundle_folder(tmp_path / "files"), tmp_path / "strongest-band.tgz")


@pytest.fixture
def dive(tmp_path: Path) -> Path:
    folder = tmp_path / "dive"
    for name in ("q1.jpg", "site a/q1.jpg", "site a/deep/q1.jpg", "old/q1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(scene(), "JPEG"))
    (folder / "d1.NEF").write_bytes(b"II*\0")
    Image.fromarray(scene()).quantize(3).save(folder / "q1.png")
    (folder / "dive.csv").touch()
    return folder


def masks_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_subfolders_are_mirrored_in_the_results(bundle: Path, dive: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "masks", tmp_path / "cover.csv"
    options = ["--recursive", "--exclude", "old", "--out", out, "--csv", table, "--json"]
    ended = pseg("predict", bundle, dive, *options)
    assert ended.status == 0
    expected = ["q1.pseudo.png", "site a/deep/q1.pseudo.png", "site a/q1.pseudo.png"]
    assert masks_in(out) == expected
    paths = [Path(record["mask"]["path"]) for record in ended.records]
    assert sorted(path.relative_to(out).as_posix() for path in paths) == expected
    for path in paths:
        with Image.open(path) as mask:
            assert np.array_equal(np.asarray(mask), mask_of(scene()))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["image"] for row in rows] == [
        str(dive / name) for name in ("q1.jpg", "site a/q1.jpg", "site a/deep/q1.jpg")
    ]
    ledger = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()[1:]]
    assert sorted(line["ledger"]["pictures"][0] for line in ledger) == expected
    (out / "site a/q1.pseudo.png").unlink()
    again = pseg("predict", bundle, dive, *options, "--resume")
    assert "2 of 3 images were done earlier" in again.stderr
    assert masks_in(out) == expected


def test_results_inside_of_the_folder_are_not_searched(bundle: Path, dive: Path) -> None:
    for _ in range(2):
        ended = pseg("predict", bundle, dive, "--recursive", "--out", dive / "masks", "--json")
        assert len(ended.records) == 4
    assert len(masks_in(dive / "masks")) == 4


def test_what_is_left_out_is_told_and_json_stays_json(bundle: Path, dive: Path, tmp_path: Path) -> None:
    ended = pseg("predict", bundle, dive, "--out", tmp_path / "masks", "--json")
    assert ended.status == 0
    assert [Path(record["image"]).name for record in ended.records] == ["q1.jpg"]
    told = ended.stderr.splitlines()
    assert [line for line in told if line.startswith("1 left out: each is a raw file of a camera")]
    assert [line for line in told if line.startswith("1 left out: masks beside their photographs")]
    assert [line for line in told if line.startswith("2 left out: sub-folders are searched with --recursive only")]
    assert "other files, which are not pictures: 1" in told
    idle = pseg("predict", bundle, dive, "--out", tmp_path / "masks", "--exclude", "scene_142")
    assert "--exclude scene_142: matches nothing that was found" in idle.stderr


def test_a_dataset_that_was_not_fetched_does_not_look_done(bundle: Path, dive: Path, tmp_path: Path) -> None:
    (dive / "q2.jpg").symlink_to("../.git/annex/objects/x")
    ended = pseg("predict", bundle, dive, "--out", tmp_path / "masks", "--json")
    assert ended.status == 1
    assert [record["status"] for record in ended.records] == ["ok", "failed"]
    assert "which does not exist: fetch the picture" in ended.records[1]["error"]["message"]


def test_which_of_several_pictures_is_read_is_noted(bundle: Path, tmp_path: Path) -> None:
    others = [Image.fromarray(scene()[::-1])]
    (tmp_path / "moving.png").write_bytes(encoded(scene(), "PNG", save_all=True, append_images=others))
    ended = pseg("predict", bundle, tmp_path / "moving.png", "--save", "none", "--json")
    assert ended.records[0]["notes"] == ["holds 2 pictures, of which the first one is read"]
    told = pseg("predict", bundle, tmp_path / "moving.png", "--save", "none")
    assert "moving.png holds 2 pictures, of which the first one is read" in told.stderr


@pytest.mark.parametrize("options", [[], ["--tile", "--vectors", "geojson"]])
def test_a_subfolder_of_the_results_that_is_a_link_is_refused_and_left_alone(
    bundle: Path, tmp_path: Path, options: list[str]
) -> None:
    pictures, out, elsewhere = tmp_path / "dive/site", tmp_path / "masks", tmp_path / "elsewhere"
    for folder in (pictures / "deep", out, elsewhere):
        folder.mkdir(parents=True)
    for place in (pictures / "q1.tif", pictures / "deep/q1.tif"):
        place.write_bytes(encoded(scene(), "TIFF"))
    (elsewhere / "q1.tif").write_text("a thesis")
    (out / "site").symlink_to(elsewhere)
    ended = pseg("predict", bundle, tmp_path / "dive", "--recursive", "--out", out, *options)
    assert ended.status == 2
    assert "it is a link or no folder, and results are written below it" in ended.stderr
    assert [(path.name, path.read_text()) for path in elsewhere.iterdir()] == [("q1.tif", "a thesis")]

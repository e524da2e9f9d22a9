"""Work that is not finished, in a folder that others have been at: nothing is written or removed outside of it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.commands.terminal import ExitStatus
from tests.service.commands.test_cli import pseg, remarks
from tests.service.results.test_orthomosaics import classes_of, geotiff, pixels_of, stopped_after_three_tiles

FOLDER = ".pseg-reef.tiles"
NAMES = ("lock", "state.json", "state.json.part", "mask.raw", "mask.vrt", "mask.tif", "strip-0", "carry-1.npy")


def symbolic(victim: Path, place: Path) -> None:
    place.symlink_to(victim)


def hard(victim: Path, place: Path) -> None:
    os.link(victim, place)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "thesis.txt"
    path.parent.mkdir()
    path.write_text("years of work")
    return path


def segment(bundle: Path, tmp_path: Path, *more: Any) -> tuple[int, str]:
    source = tmp_path / "reef.tif"
    if not source.exists():
        geotiff(source, pixels_of())
    outcome = pseg("predict", bundle, source, "--tile", "--tile-size", 64, "--out", tmp_path / "out", *more)
    return outcome.status, "\n".join(remarks(outcome)) if outcome.status == 0 else outcome.stderr


def test_a_link_in_the_place_of_the_folder_is_refused_by_name(bundle: Path, tmp_path: Path, victim: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FOLDER).symlink_to(victim.parent)
    status, said = segment(bundle, tmp_path)
    assert status == ExitStatus.INCOMPLETE
    assert f"{FOLDER}: what is not finished of the mask cannot be kept there (it is a link" in said
    assert [path.name for path in victim.parent.iterdir()] == ["thesis.txt"]
    assert victim.read_text() == "years of work"


@pytest.mark.parametrize("plant", [symbolic, hard])
def test_links_in_the_folder_lead_nowhere(
    bundle: Path, tmp_path: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    folder = tmp_path / "out" / FOLDER
    folder.mkdir(parents=True)
    for name in NAMES[1:]:
        plant(victim, folder / name)
    (folder / "notes.txt").write_text("not ours")
    assert segment(bundle, tmp_path, "--vectors", "gpkg") == (0, "")
    assert victim.read_text() == "years of work"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"], "only what is ours is removed"
    np.testing.assert_array_equal(classes_of(tmp_path / "out" / "reef.tif"), pixels_of().argmax(axis=0))


@pytest.mark.parametrize("plant", [symbolic, hard])
@pytest.mark.parametrize("name", ["lock", "mask.raw", "state.json"])
def test_who_resumes_is_told_of_links(
    bundle: Path, tmp_path: Path, victim: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    arguments = stopped_after_three_tiles(bundle, tmp_path, tmp_path / "out", "--tile-size", 64)
    place = tmp_path / "out" / FOLDER / name
    place.unlink()
    plant(victim, place)
    outcome = pseg(*arguments, "--resume")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert f"{FOLDER}/{name}: what is not finished of the mask cannot be kept there" in outcome.stderr
    assert "link" in outcome.stderr
    assert victim.read_text() == "years of work"


def of_a_million_tiles(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "done": 1_000_000}))


def of_odd_types(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "done": True, "tiling": {**state["tiling"], "width": 1e9}}))


def endless(folder: Path) -> None:
    (folder / "state.json").write_text("[" * 200_000)


def of_another_size(folder: Path) -> None:
    for path in folder.glob("carry-*.npy"):
        # a header of 4 TB, and no content
        shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 1000, 1000000), }"
        path.write_bytes(b"\x93NUMPY\x01\x00" + (len(shape) + 1).to_bytes(2, "little") + shape + b"\n")


@pytest.mark.parametrize("edit", [of_a_million_tiles, of_odd_types, endless, of_another_size])
def test_what_was_edited_is_begun_again(bundle: Path, tmp_path: Path, edit: Callable[[Path], None]) -> None:
    arguments = stopped_after_three_tiles(bundle, tmp_path, tmp_path / "out", "--tile-size", 64)
    edit(tmp_path / "out" / FOLDER)
    assert pseg(*arguments, "--resume").status == 0
    np.testing.assert_array_equal(classes_of(tmp_path / "out" / "reef.tif"), pixels_of(300, 300).argmax(axis=0))


def test_a_disk_too_small_for_mask_and_confidence_is_told_before_the_work(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = pixels_of().shape[:2]
    # One byte a pixel for each of the two, and room for one.
    room = shutil.disk_usage(tmp_path)._replace(free=height * width * 3 // 2)

    def disk_usage(_: Path) -> Any:
        return room

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    status, said = segment(bundle, tmp_path, "--save", "mask,confidence")
    assert status == ExitStatus.INCOMPLETE
    assert "write the results to a larger disk" in said
    assert not (tmp_path / "out" / FOLDER).exists()

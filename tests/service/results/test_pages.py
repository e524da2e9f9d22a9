"""`pseg predict --page`: a TIFF of several pages, each an image of its own."""
# tifffile ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from service.commands.terminal import ExitStatus
from tests.service.commands.test_cli import pseg, pseg_error


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Three pages of one colour each."""
    path = tmp_path / "dive.tif"
    with tifffile.TiffWriter(path) as writer:
        for band in range(3):
            page = np.zeros((48, 64 + 8 * band, 3), np.uint8)
            page[..., band] = 200
            writer.write(page, photometric="rgb", metadata=None)
    return path


def records(*arguments: object) -> list[dict[str, Any]]:
    return pseg("predict", *arguments, "--json").records


def classes(path: Path) -> list[int]:
    with Image.open(path) as mask:
        return np.unique(np.asarray(mask)).tolist()


@pytest.mark.parametrize("tiles", [[], ["--tile", "--tile-size", 64]])
def test_every_page_is_an_image(bundle: Path, tmp_path: Path, stack: Path, tiles: list[object]) -> None:
    other = tmp_path / "quadrat.png"
    Image.new("RGB", (40, 30), (0, 0, 200)).save(other)
    out = tmp_path / "out"
    found = records(bundle, stack, other, "--page", "all", "--out", out, "--save", "mask", *tiles)
    assert [each["image"] for each in found] == [*(f"{stack} (page {number})" for number in (1, 2, 3)), str(other)]
    assert all("notes" not in each for each in found)
    suffix = ".tif" if tiles else ".mask.png"
    assert [classes(out / f"dive.p{number}{suffix}") for number in (1, 2, 3)] == [[0], [1], [2]]
    again = records(bundle, stack, other, "--page", "all", "--out", out, "--save", "mask", "--resume", *tiles)
    assert again == found


def test_one_page(bundle: Path, tmp_path: Path, stack: Path) -> None:
    out = tmp_path / "out"
    (found,) = records(bundle, stack, "--page", "2", "--out", out, "--save", "mask")
    assert found["image"] == f"{stack} (page 2)"
    assert [path.name for path in out.glob("*.png")] == ["dive.p2.mask.png"]
    assert classes(out / "dive.p2.mask.png") == [1]
    (missing,) = records(bundle, stack, "--page", "7", "--out", tmp_path / "none")
    assert "has no page 7: it has 3" in str(missing["error"])


def test_without_a_choice_the_first_page_is_read_and_a_note_says_so(bundle: Path, tmp_path: Path, stack: Path) -> None:
    (found,) = records(bundle, stack, "--out", tmp_path / "out", "--save", "mask")
    assert found["image"] == str(stack)
    assert "has 3 pages, of which the first is read (page N" in str(found["notes"])
    assert classes(tmp_path / "out" / "dive.mask.png") == [0]


@pytest.mark.parametrize("page", ["0", "-1", "two", "1,2"])
def test_what_is_no_page(bundle: Path, stack: Path, page: str) -> None:
    assert f"--page: {page}: give the number of a page" in pseg_error("predict", bundle, stack, f"--page={page}")


def test_a_run_with_notes_is_gone_on_with(bundle: Path, tmp_path: Path, stack: Path) -> None:
    out = tmp_path / "out"
    first = records(bundle, stack, "--out", out)
    assert "has 3 pages" in first[0]["notes"][0]
    assert records(bundle, stack, "--out", out, "--resume") == first


def test_pages_are_items_of_an_ifdo_and_no_pictures_to_label(bundle: Path, tmp_path: Path, stack: Path) -> None:
    out, ifdo = tmp_path / "out", tmp_path / "ifdo.json"
    records(bundle, stack, "--page", "all", "--out", out, "--save", "mask")
    for command in (["sample", out, "--count", "2"], ["annotate", out, "--format", "labelme"]):
        assert "dive.tif (page 1): is a page of a file" in pseg_error(*command)
    header = tmp_path / "header.json"
    header.write_text('{"image-handle": "https://reef.example/"}')
    assert pseg("summarize", out, "--ifdo", ifdo, "--ifdo-header", header).status == ExitStatus.DONE
    items = json.loads(ifdo.read_text())["image-set-items"].values()
    digest = hashlib.sha256(stack.read_bytes()).hexdigest()
    assert [each["image-hash-sha256"] for each in items] == [digest] * 3
    assert {each["image-handle"] for each in items} == {"https://reef.example/dive.tif"}
    assert len({each["image-uuid"] for each in items}) == 3

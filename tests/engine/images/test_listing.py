"""What a folder holds: what is taken, and what is left out and why. Files are empty where nobody looks inside."""

import os
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from engine.errors import ImageError
from engine.images import FoundImages, find_images, list_images
from engine.images import listing as listing_module
from tests.engine.images import heic


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def taken(found: FoundImages, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found.images]


def reasons(found: FoundImages) -> dict[str, str]:
    return {each.path.name: each.reason for each in found.left_out}


def test_pictures_that_are_not_read_are_named_with_what_to_do(tmp_path: Path) -> None:
    touched(tmp_path, "q1.jpg", "d1.NEF", "d2.cr2", "d3.dng", "table.csv", "q1.xmp", "notes.txt", "no suffix")
    Image.new("P", (4, 4)).save(tmp_path / "moving.gif")
    (tmp_path / "layers.psd").write_bytes(b"8BPS\0\1" + bytes(40))
    Image.new("RGB", (4, 4)).save(tmp_path / "DSC_0001", "JPEG")
    found = find_images([tmp_path])
    assert taken(found, tmp_path) == ["q1.jpg"]
    assert set(reasons(found)) == {"d1.NEF", "d2.cr2", "d3.dng", "moving.gif", "layers.psd", "DSC_0001"}
    assert "raw file of a camera" in reasons(found)["d2.cr2"]
    assert "GIF picture, which is not read: save it as PNG" in reasons(found)["moving.gif"]
    assert "rename them, or name them one by one" in reasons(found)["DSC_0001"]
    assert found.other_files == 4
    _, raw, *_, last = found.remarks()
    assert raw.startswith("3 left out: each is a raw file of a camera")
    assert raw.endswith(f"{tmp_path / 'd1.NEF'}, {tmp_path / 'd2.cr2'}, {tmp_path / 'd3.dng'}")
    assert last == "other files, which are not pictures: 4"


def test_a_remark_names_three_and_counts_all(tmp_path: Path) -> None:
    touched(tmp_path, "q.jpg", *(f"{n}.orf" for n in range(5)))
    [remark] = find_images([tmp_path]).remarks()
    assert remark.startswith("5 left out: ")
    assert remark.count(".orf") == 3
    assert remark.endswith(", …")


def test_links_that_lead_to_the_same_nothing_are_pictures_each(tmp_path: Path) -> None:
    for name in ("q2.jpg", "q3.jpg"):
        (tmp_path / name).symlink_to("../.git/annex/objects/x")
    assert find_images([str(tmp_path)]).images == [tmp_path / "q2.jpg", tmp_path / "q3.jpg"]


def test_other_names_of_a_picture_are_told(tmp_path: Path) -> None:
    """Two equal photographs of an annex are links to one file."""
    touched(tmp_path, "object")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).symlink_to("object")
    found = find_images([str(tmp_path / "a.jpg"), str(tmp_path / "*.jpg"), str(tmp_path / "a.jpg")])
    assert found.images == [tmp_path / "a.jpg"]
    assert [each.path for each in found.left_out] == [tmp_path / "b.jpg"]
    assert found.remarks() == [f"1 left out: other names of pictures that are taken already: {tmp_path / 'b.jpg'}"]


def test_links_that_lead_nowhere_are_pictures_that_fail(tmp_path: Path) -> None:
    touched(tmp_path, "q1.jpg")
    (tmp_path / "q2.jpg").symlink_to("../.git/annex/objects/x")
    (tmp_path / "q3.png").symlink_to("q3.png")
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    for images in (find_images([tmp_path]).images, list_images([tmp_path]), list_images([f"{tmp_path}/*"])):
        assert [path.name for path in images] == ["q1.jpg", "q2.jpg", "q3.png"]


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    touched(tmp_path, "q1.jpg", "folder.jpg/inside.txt")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = find_images([tmp_path])
    assert taken(found, tmp_path) == ["q1.jpg"]
    assert reasons(found) == {
        "pipe.jpg": "no regular files",
        "folder.jpg": "sub-folders are searched with recursive only",
    }


def test_masks_beside_their_photographs_are_left_out(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    touched(tmp_path, "a.jpg", "b.tif", "c.JPG", "d.jpg")
    Image.fromarray(pixels).quantize(2).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b_mask.png")
    Image.fromarray(pixels).quantize(2).save(tmp_path / "c-labels.png")
    Image.fromarray(pixels).quantize(2).save(tmp_path / "d.reference_mask.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "d_grey.png")  # nothing tells that it is no photograph
    Image.fromarray(pixels).save(tmp_path / "d.png")  # colours: another photograph
    Image.fromarray(pixels).quantize(2).save(tmp_path / "alone.png")  # a picture of few colours
    Image.fromarray(pixels).quantize(2).save(tmp_path / "_mask.png")
    found = find_images([tmp_path])
    assert taken(found, tmp_path) == [
        "_mask.png",
        "a.jpg",
        "alone.png",
        "b.tif",
        "c.JPG",
        "d.jpg",
        "d.png",
        "d_grey.png",
    ]
    masks = ("a.png", "b_mask.png", "c-labels.png", "d.reference_mask.png")
    assert reasons(found) == dict.fromkeys(masks, "masks beside their photographs")
    # Who lists masks on purpose gets them.
    assert {path.name for path in list_images([tmp_path])} >= {"a.png", "b_mask.png", "c-labels.png"}


def test_masks_in_a_folder_beside_that_of_their_photographs_are_left_out(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    for name in ("images/T1/a.jpg", "images/T1/b.png", "images/c.jpg", "grey/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / name)
    for name in ("labels/T1/a.png", "labels/T1/b_mask.png", "labels/c.png", "labels/other.png", "plain/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "labels/T1/coloured.png")
    found = find_images([tmp_path], recursive=True)
    # Without a photograph of its name a picture is none of its masks, and grey pictures of another folder are no masks.
    taken = {path.relative_to(tmp_path).as_posix() for path in found.images}
    assert taken == {
        *("images/T1/a.jpg", "images/T1/b.png", "images/c.jpg", "grey/c.jpg"),
        *("labels/other.png", "labels/T1/coloured.png", "plain/c.png"),
    }
    assert set(found.subfolders) == set(found.images)
    (remark,) = found.remarks()
    assert remark.startswith("3 left out: masks in a folder beside that of their photographs: ")
    assert find_images([tmp_path / "labels/c.png", tmp_path], recursive=True).images[0] == tmp_path / "labels/c.png"
    assert len(find_images([tmp_path / "labels"]).images) == 2


def test_masks_in_a_folder_below_their_photographs_are_left_out(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    touched(tmp_path, "T1/a.jpg", "T1/b.jpg", "T2/c.jpg")
    for name in ("T1/labels/a.png", "T1/labels/b_mask.png", "T1/labels/c.png", "T2/labels/deep/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    found = find_images([tmp_path], recursive=True)
    photographs = ["T1/a.jpg", "T1/b.jpg", "T1/labels/c.png", "T2/c.jpg", "T2/labels/deep/c.png"]
    assert sorted(taken(found, tmp_path)) == photographs
    assert reasons(found) == dict.fromkeys(["a.png", "b_mask.png"], "masks beside their photographs")


def test_results_are_no_photographs_unless_they_are_named(tmp_path: Path) -> None:
    results = ("q1.pseudo.png", "q1.mask.png", "q1.overlay.jpg", "q2.p3.pseudo.png")
    touched(tmp_path, "q1.jpg", "q1.mask.npz", "ledger.jsonl", *results)
    found = find_images([tmp_path])
    assert taken(found, tmp_path) == ["q1.jpg"]
    assert reasons(found) == dict.fromkeys(results, "results of this program")
    assert find_images([tmp_path / "q1.pseudo.png"]).images == [tmp_path / "q1.pseudo.png"]
    with pytest.raises(ImageError, match=r"no images found .* 3 left out: results of this program: "):
        find_images([f"{tmp_path}/q1.[mop]*g"])


def test_heic_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path, "q1.jpg")
    (tmp_path / "IMG_1.HEIC").write_bytes(heic.PLAIN)
    Image.new("RGB", (8, 8)).save(tmp_path / "IMG_2.HEIC", "AVIF")  # which Pillow reads
    assert len(find_images([tmp_path]).images) == 3
    monkeypatch.setattr(listing_module, "heif_available", lambda: False)
    found = find_images([tmp_path])
    assert taken(found, tmp_path) == ["IMG_2.HEIC", "q1.jpg"]
    assert "paddleseg-dual-runtime[heif]" in reasons(found)["IMG_1.HEIC"]


def test_subfolders_are_searched_once_each(tmp_path: Path) -> None:
    touched(tmp_path, "q.jpg", "site b/q.jpg", "site a/deep/q.png", "site a/notes.txt", ".hidden/q.jpg")
    (tmp_path / "site a" / "circle").symlink_to("..")
    (tmp_path / "again").symlink_to("site b")
    found = find_images([tmp_path], recursive=True)
    assert taken(found, tmp_path) == ["q.jpg", "again/q.jpg", "site a/deep/q.png"]
    assert found.subfolders == {
        tmp_path / "again/q.jpg": PurePath("again"),
        tmp_path / "site a/deep/q.png": PurePath("site a/deep"),
    }
    assert reasons(find_images([tmp_path])).keys() == {"again", "site a", "site b"}


def test_the_folder_of_results_is_not_searched(tmp_path: Path) -> None:
    touched(tmp_path, "q.tif", "masks/q.tif")
    assert taken(find_images([tmp_path], recursive=True, results=tmp_path / "masks"), tmp_path) == ["q.tif"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["masks"], ["a_old.jpg", "q.jpg", "site/q.jpg"]),
        (["*masks"], ["a_old.jpg", "q.jpg", "site/q.jpg"]),
        (["*_old.jpg"], ["masks/m.png", "q.jpg", "site/masks/m.png", "site/q.jpg"]),
        (["site/*"], ["a_old.jpg", "masks/m.png", "q.jpg"]),
        (["site", "masks"], ["a_old.jpg", "q.jpg"]),
    ],
)
def test_patterns_leave_out(tmp_path: Path, patterns: list[str], expected: list[str]) -> None:
    touched(tmp_path, "q.jpg", "a_old.jpg", "masks/m.png", "site/q.jpg", "site/masks/m.png")
    found = find_images([tmp_path], recursive=True, exclude=patterns)
    assert sorted(taken(found, tmp_path)) == sorted(expected)
    assert any("left out by exclude" in remark for remark in found.remarks())


def test_a_pattern_that_leaves_nothing_out_is_a_mistake(tmp_path: Path) -> None:
    touched(tmp_path, "q.jpg")
    with pytest.raises(ImageError, match=r"exclude nothing\*: matches nothing"):
        find_images([tmp_path], exclude=["nothing*"])

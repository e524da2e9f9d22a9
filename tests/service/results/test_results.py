"""What is written of a prediction: names that never clash, files that are whole or absent, records and rows."""

import csv
import io
import os
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine import (
    ClassCover,
    Failed,
    ImageError,
    OptionError,
    Prediction,
    Provenance,
    SegmentationClass,
    Segmented,
    SourceImage,
)
from engine.images import Capture
from engine.segmentation.steps import Mask
from service.results.pictures import (
    CoverTable,
    ImageTask,
    ResultWriter,
    distinct_stems,
    require_inputs_kept,
    result_record,
)

stems = st.sampled_from(["x", "X", "x-2", "x-2-2", "é", "É", "straße", "STRASSE", ".x", "a.b", "İ"])
suffixes = st.sampled_from([".jpg", ".png", ""])
images = st.lists(st.tuples(stems, stems, suffixes).map(lambda parts: Path(parts[0], parts[1] + parts[2])), max_size=12)
PROVENANCE = Provenance("b", "m", "onnx", "cpu", "fp32", 2, (), {"numpy": "2"})


@given(images)
def test_stems_are_unique_whatever_the_letter_case(paths: list[Path]) -> None:
    found = distinct_stems(paths)
    assert len(found) == len(paths)
    assert len({stem.casefold() for stem in found}) == len(paths)


@given(images)
def test_stems_keep_their_own_name_in_front(paths: list[Path]) -> None:
    assert all(stem.startswith(path.stem) for stem, path in zip(distinct_stems(paths), paths, strict=True))


@given(images, images)
def test_stems_do_not_depend_on_later_images(paths: list[Path], later: list[Path]) -> None:
    assert distinct_stems([*paths, *later])[: len(paths)] == distinct_stems(paths)


def test_accents_that_are_stored_otherwise_tell_no_results_apart() -> None:
    """As on macOS, where both forms of Unicode name one file: its volumes, and copies there, would hold one result."""
    found = distinct_stems([Path("a/\u00e9.jpg"), Path("b/e\u0301.jpg"), Path("c/E\u0301.jpg")])
    assert found == ["\u00e9", "e\u0301-2", "E\u0301-3"]


@pytest.mark.long
def test_equal_stems_take_no_time() -> None:
    stems = distinct_stems([Path(str(index), "image.jpg") for index in range(100_000)])
    assert (stems[0], stems[1], stems[-1]) == ("image", "image-2", "image-100000")


@given(st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), unique=True))
def test_different_stems_stay_as_they_are(names: list[str]) -> None:
    assert distinct_stems([Path(f"{name}.jpg") for name in names]) == names


def classes(*names: str) -> tuple[SegmentationClass, ...]:
    return tuple(SegmentationClass(f"urn:{name}", name, None) for name in names)


def segmented(
    mask: Mask, names: tuple[str, ...], path: Path = Path("x.jpg"), encoded: Path | None = None
) -> Segmented[ImageTask, Path | None]:
    covers = tuple(ClassCover(each, 0.25) for each in classes(*names))
    height, width = mask.shape[-2:]
    source = SourceImage(np.zeros((height, width, 3), np.uint8), width, height, Capture())
    return Segmented(
        ImageTask(path, path.stem), source, Prediction(mask, covers, {"run": 1.0}), encoded, {"decode": 1.23456}
    )


def write(tmp_path: Path, mask: Mask, names: tuple[str, ...], *kinds: str) -> Path | None:
    result = segmented(mask, names)
    save = cast("frozenset[Literal['pseudo', 'mask', 'overlay']]", frozenset(kinds))
    return ResultWriter(tmp_path, save).write(result.source, result.image, result.prediction)


def test_the_most_exact_picture_is_the_one_that_is_named(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1]], np.uint8)
    assert write(tmp_path, mask, ("a", "b"), "mask", "pseudo", "overlay") == tmp_path / "x.mask.png"
    assert write(tmp_path, mask, ("a", "b"), "pseudo", "overlay") == tmp_path / "x.pseudo.png"
    assert write(tmp_path, mask, ("a", "b"), "overlay") == tmp_path / "x.overlay.jpg"
    assert write(tmp_path, mask, ("a", "b")) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mask.png", "x.overlay.jpg", "x.pseudo.png"]
    with Image.open(tmp_path / "x.mask.png") as written:
        assert np.array_equal(np.asarray(written), mask)


def test_a_mask_of_many_classes_keeps_its_indices(tmp_path: Path) -> None:
    mask = np.array([[0, 299]], np.uint16)
    write(tmp_path, mask, tuple(f"class-{index}" for index in range(300)), "mask", "pseudo")
    with Image.open(tmp_path / "x.mask.png") as written:
        assert np.asarray(written).tolist() == [[0, 299]]
    with Image.open(tmp_path / "x.pseudo.png") as written:
        assert written.mode == "RGB"


def test_planes_are_kept_apart_in_a_file_and_flattened_in_pictures(tmp_path: Path) -> None:
    planes = np.array([[[True, True, False]], [[False, True, False]]])
    assert write(tmp_path, planes, ("a", "b"), "mask", "pseudo") == tmp_path / "x.mask.npz"
    with np.load(tmp_path / "x.mask.npz") as stored:
        assert np.array_equal(stored["planes"], planes)
    with Image.open(tmp_path / "x.pseudo.png") as written:
        assert np.asarray(written).tolist() == [[0, 1, 2]]
        assert np.asarray(written.convert("RGB"))[0, 2].tolist() == [0, 0, 0]


def test_records_of_results_and_failures_have_the_same_keys() -> None:
    good = result_record(segmented(np.zeros((2, 3), np.uint8), ("a",), encoded=Path("o/x.png")), PROVENANCE)
    bad = result_record(Failed(ImageTask(Path("x.jpg"), "x"), ImageError("x.jpg: broken")), PROVENANCE)
    assert list(good) == list(bad)
    assert good["mask"] == {"path": "o/x.png", "width": 3, "height": 2}
    assert good["timings_ms"] == {"decode": 1.235}
    assert bad["mask"] is None
    assert bad["error"] == {"type": "ImageError", "message": "x.jpg: broken"}


def rows(table: CoverTable) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.to_csv().decode())))


def test_a_table_without_covers_still_has_its_header() -> None:
    table = CoverTable()
    failed = Failed(ImageTask(Path("a,b\n.jpg"), "a"), ImageError('a "quoted" reason, with\nlines'))
    table.add(result_record(failed, PROVENANCE), Capture())
    (row,) = rows(table)
    assert row["image"] == "a,b%0A.jpg"
    assert row["error"] == 'a "quoted" reason, with%0Alines'
    assert row["width"] == row["taken_at"] == ""


def test_classes_of_one_name_get_a_column_each() -> None:
    table = CoverTable()
    table.add(result_record(segmented(np.zeros((1, 1), np.uint8), ("a", "a", "a_1", "b")), PROVENANCE), Capture())
    (row,) = rows(table)
    assert len([name for name in row if name.startswith("cover_")]) == 4


def test_a_class_that_only_other_images_have_has_the_cover_0() -> None:
    """As of a bundle without names of classes, whose network returns class indices."""
    table = CoverTable()
    masks = np.array([[0, 0]], np.uint8), np.array([[0, 2]], np.uint8), np.array([[1, 1]], np.uint8)
    for mask in masks:
        names = tuple(f"class-{index}" for index in range(int(mask.max()) + 1))
        table.add(result_record(segmented(mask, names), PROVENANCE), Capture())
    table.add(result_record(Failed(ImageTask(Path("f"), "f"), ImageError("is empty")), PROVENANCE), Capture())
    found = [[row[f"cover_class-{index}"] for index in range(3)] for row in rows(table)]
    assert found == [["0.25", "0.0", "0.0"], ["0.25"] * 3, ["0.25", "0.25", "0.0"], [""] * 3]


def test_a_name_that_is_no_unicode_reaches_the_table() -> None:
    table = CoverTable()
    path = Path(os.fsdecode(b"\xff.jpg"))
    table.add(result_record(segmented(np.zeros((1, 1), np.uint8), ("a",), path), PROVENANCE), Capture())
    (row,) = rows(table)
    assert os.fsdecode(unquote_to_bytes(row["image"])) == str(path)


def test_results_never_take_the_place_of_images(tmp_path: Path) -> None:
    paths = [tmp_path / "x.jpg", tmp_path / "x.mask.png"]
    tasks = [ImageTask(path, stem) for path, stem in zip(paths, distinct_stems(paths), strict=True)]
    require_inputs_kept(tasks, tmp_path, frozenset({"pseudo", "overlay"}))
    require_inputs_kept(tasks, tmp_path / "masks", frozenset({"mask"}))
    with pytest.raises(OptionError, match=r"x\.mask\.png is one of the images.*x\.jpg.*--out"):
        require_inputs_kept(tasks, tmp_path, frozenset({"mask"}))

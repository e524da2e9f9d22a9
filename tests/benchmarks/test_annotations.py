"""Labels of annotation tools are read as pycocotools and Pillow, by which labelme draws, read them."""
# pycocotools ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.accuracy.annotation_files import list_annotations, read_annotations
from benchmarks.accuracy.labels import LabelNames
from engine import ImageError

# pycocotools 2.0.11 was built before numpy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = LabelNames(["sand", "seagrass", "rock"])
WIDTH, HEIGHT = 60, 40


def png(pixels: list[list[int]]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PIXELS = png([[255, 0], [0, 255]])


def drawn(path: Path, content: object, names: LabelNames = NAMES) -> list[list[int]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (found,) = read_annotations([path])
    return found.draw((WIDTH, HEIGHT), names).tolist()


def coco(*regions: object) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "deep\\a.jpg", "width": WIDTH, "height": HEIGHT, "license": 1}],
        "categories": [{"id": 4, "name": "seagrass"}, {"id": 5, "name": "rock"}],
        "annotations": [
            {"id": index, "image_id": 7, "category_id": 4 + index % 2, "segmentation": each, "iscrowd": 0}
            for index, each in enumerate(regions)
        ],
    }


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    wanted = generator.random((HEIGHT, WIDTH)) < generator.uniform(0.01, 0.99)
    # long runs take several letters each
    wanted[:, 10:40] = seed % 2 == 0
    text: Any = coco_mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
    region = {"size": [HEIGHT, WIDTH], "counts": text["counts"].decode()}
    assert np.array_equal(np.array(drawn(tmp_path / "a.json", coco(region))) == 1, wanted)
    flat = wanted.T.ravel()
    ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    counts = ([0] if flat[0] else []) + np.diff(ends).tolist()
    region = {"size": [HEIGHT, WIDTH], "counts": counts}
    assert np.array_equal(np.array(drawn(tmp_path / "b.json", coco(region))) == 1, wanted)


@pytest.mark.parametrize("seed", range(6))
def test_polygons_of_coco_hold_the_pixels_of_pycocotools_but_for_their_edge(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
    radii = generator.uniform(8, 18, 9)
    corners = np.stack([30 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1).ravel().tolist()
    found = np.array(drawn(tmp_path / "a.json", coco([corners]))) == 1
    encode: Any = coco_mask.frPyObjects
    encoded = encode([corners], HEIGHT, WIDTH)
    wanted = np.asarray(coco_mask.decode(encoded))[:, :, 0].astype(bool)
    assert wanted.sum() > 150
    # pycocotools rounds outlines to fifths of a pixel
    inner = wanted & np.roll(wanted, 1, 0) & np.roll(wanted, -1, 0) & np.roll(wanted, 1, 1) & np.roll(wanted, -1, 1)
    outer = wanted | np.roll(wanted, 1, 0) | np.roll(wanted, -1, 0) | np.roll(wanted, 1, 1) | np.roll(wanted, -1, 1)
    assert found[inner].all()
    assert not found[~outer].any()
    assert np.count_nonzero(found != wanted) < 0.06 * wanted.sum()


def test_later_regions_of_coco_lie_over_earlier_ones(tmp_path: Path) -> None:
    square = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]
    shifted = [each + 5 for each in square]
    found = np.array(drawn(tmp_path / "a.json", coco([square], [shifted])))
    # by hand: two squares of 100 pixels share 25
    assert [np.count_nonzero(found == value) for value in (1, 2, 255)] == [75, 100, WIDTH * HEIGHT - 175]
    (found_in,) = read_annotations([tmp_path / "a.json"])
    assert found_in.picture.parts == ("deep", "a.jpg")


def shape(label: str, kind: str | None, *points: tuple[float, float], mask: str | None = None) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "mask": mask, "group_id": None, "flags": {}}


def labelme(*shapes: object, height: int = HEIGHT) -> dict[str, Any]:
    return {"imagePath": "a.jpg", "imageHeight": height, "imageWidth": WIDTH, "shapes": shapes, "imageData": None}


def test_shapes_of_labelme(tmp_path: Path) -> None:
    content = labelme(
        shape("seagrass", "rectangle", (9, 6), (0, 2)),
        shape("rock", "mask", (3, 3), (4, 4), mask=PIXELS),
        shape("sand", "point", (50.9, 30.2)),
        shape("seagrass", None, (20, 20), (24, 20), (24, 24), (20, 24)),
        shape("rock", "circle", (40, 20), (43, 20)),
    )
    found = np.array(drawn(tmp_path / "a.json", content))
    # by hand: rectangles hold their corners
    assert (found[2:7, 0:10] == 1).sum() == 50 - 2
    assert (found[3, 3], found[4, 4], found[3, 4]) == (2, 2, 1)
    assert found[30, 50] == 0
    assert (found[20:25, 20:25] == 1).all()
    assert (found[20, 43], found[20, 44], found[17, 40], found[16, 40]) == (2, 255, 2, 255)


def test_a_name_or_a_mapping_tells_the_class(tmp_path: Path) -> None:
    (tmp_path / "class_mapping.json").write_text(
        json.dumps({"1": {"label": "SG", "name": "seagrass", "id": "urn:x", "color": [0, 0, 0]}})
    )
    (tmp_path / "deep").mkdir()
    for path in (tmp_path / "deep" / "p.csv", tmp_path / "q.csv"):
        path.write_text("Name,Row,Column,Label\na.jpg,0,1,SG\na.jpg,2,3,Rk\na.jpg,4,5,Gone\na.jpg,6,7,\n")
    names = LabelNames(NAMES.classes, {"Rk": "rock", "Gone": "ignore"}, unlabelled="sand")
    annotations = read_annotations(list_annotations([str(tmp_path)]))
    for annotation in annotations:
        found = annotation.draw((WIDTH, HEIGHT), names)
        assert (found[0, 1], found[2, 3], found[4, 5], found[6, 7]) == (1, 2, 255, 0)
    with pytest.raises(ImageError, match=r"Rk is none of the classes sand, seagrass, rock: .* --label-names Rk=CLASS"):
        annotations[0].draw((WIDTH, HEIGHT), NAMES)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_that_cross_themselves_hold_what_pycocotools_counts(tmp_path: Path, seed: int) -> None:
    """Corners of pixels, at random: what is enclosed twice is outside, as in a hole."""
    corners = np.random.default_rng(seed).integers(2, 38, 14).astype(float).tolist()
    found = np.count_nonzero(np.array(drawn(tmp_path / "a.json", coco([corners]))) == 1)
    encode: Any = coco_mask.frPyObjects
    wanted = int(np.asarray(coco_mask.decode(encode([corners], HEIGHT, WIDTH))).sum())
    assert found == pytest.approx(wanted, rel=0.1)


def test_a_label_of_two_classes_is_refused(tmp_path: Path) -> None:
    entries = {str(value): {"label": "S", "name": name} for value, name in enumerate(("sand", "seagrass"))}
    (tmp_path / "class_mapping.json").write_text(json.dumps(entries))
    with pytest.raises(ImageError, match="S stands for sand and for seagrass: leave the file out"):
        read_annotations(list_annotations([str(tmp_path)]))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", labelme(shape("rock", "line", (1, 1), (5, 5))), "a shape of type line with 2 points encloses no"),
        ("a.json", labelme(shape("rock", "mask", (1, 1), (5, 5), mask="AAAA")), "the mask of a shape is not a PNG"),
        ("a.json", labelme(shape("rock", "point", (60, 5))), "row 5, column 60 lies outside 60x40 pixels"),
        ("a.json", labelme(shape("rock", "polygon", (70, 5), (80, 5), (80, 9))), "from 70,5 to 80,9 is none of 60x40"),
        ("a.json", labelme(shape("rock", "circle", (20, 20), (20, 3e6))), "is none of 60x40 pixels"),
        ("a.json", labelme(shape("rock", "rectangle", (-1e12, 0), (1e12, 9))), "is none of 60x40 pixels"),
        ("a.json", labelme(shape("rock", "mask", (1, 1), (1, 1), mask=PIXELS)), "not of the size that its points say"),
        ("a.json", labelme(height=30), "a.jpg is 60x40 pixels, and was 60x30 when it was annotated"),
        ("a.json", coco([[1.0, 1.0, 2.0, 2.0]]), "a polygon has 4 coordinates"),
        ("a.json", coco([]), "a region has no outline"),
        ("a.json", coco([[-1e308, 5.0, 1e308, 7.0, 0.0, 9.0]]), "is none of 60x40 pixels"),
        ("a.json", coco({"size": [HEIGHT, WIDTH], "counts": "o" * 200_000}), "not a text of COCO"),
        ("a.json", coco({"size": [HEIGHT, WIDTH], "counts": [5, 5]}), "are not those of the whole picture"),
        ("a.json", coco({"size": [HEIGHT, WIDTH], "counts": "\u00e9 "}), "not a text of COCO"),
        ("a.json", coco() | {"annotations": [{"image_id": 7, "category_id": 9, "segmentation": []}]}, "not there"),
        ("a.json", coco() | {"annotations": [{"image_id": 7, "category_id": 4}]}, "segmentation: is required"),
        ("a.json", coco() | {"images": coco()["images"] * 2}, "two images or two categories have one id"),
        (
            "a.json",
            coco() | {"categories": [{"id": 4, "name": "rock"}] * 2},
            "two images or two categories have one id",
        ),
        ("a.json", {"version": 1}, "is neither a file of labelme"),
        ("a.json", "{", "is not valid JSON"),
        ("a.csv", "Name,X,Y\na.jpg,1,2\n", "the columns are name, x, y: export annotations from CoralNet"),
        ("a.csv", "Name,Row,Column,Label\na.jpg,1.5,2,rock\n", "line 2: row and column are not numbers"),
        ("a.csv", f"Name,Row,Column,Label\na.jpg,{'9' * 5000},2,rock\n", "line 2: row and column are not numbers"),
        ("a.csv", "Label,Column,Name,Row\nrock,2,a.jpg,1\n\nrock,2,a.jpg\n", "line 4: it ends before all columns"),
        ("a.csv", "Column,Name,Row,Label\n2,a.jpg,1,coral, hard\n", "line 2 has 5 cells, the header 4"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path: Path, name: str, content: object, told: str) -> None:
    with pytest.raises(ImageError) as raised:
        drawn(tmp_path / name, content)
    assert told in str(raised.value)

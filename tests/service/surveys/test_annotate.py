"""`pseg annotate`: what other tools read is the mask again."""
# pycocotools ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from engine.quantities import parse_length
from service.commands.terminal import ExitStatus
from service.surveys.annotations import labelme_record
from service.surveys.pictures import read_pictures
from tests.service.bundles import CLASSES, bundle_folder
from tests.service.commands.test_cli import BLUE, GREEN, RED, pseg, pseg_error

COLORS = np.array([RED, GREEN, BLUE], np.uint8)


def islands(seed: int, height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    """Classes in blots of many sizes: rings, diagonals, single pixels, and holes within holes."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.indices(mask.shape)
    for _ in range(40):
        row, column, radius = generator.uniform(0, height), generator.uniform(0, width), generator.uniform(1, 15)
        away = np.hypot(rows - row, columns - column)
        mask[(away < radius) & (away > radius * generator.uniform(0, 0.8))] = generator.integers(3)
    noise = generator.random(mask.shape) < 0.03
    mask[noise] = generator.integers(3, size=int(noise.sum()))
    mask[-8:, :8] = (rows + columns)[-8:, :8] % 2
    return mask


@pytest.fixture
def masks(bundle: Path, tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(COLORS[islands(1)]).save(tmp_path / "in" / "a.png")
    Image.fromarray(COLORS[islands(2, 41, 30)]).save(tmp_path / "in" / "deep" / "b.png")
    Image.fromarray(COLORS[[[1]]]).resize((50, 20)).save(tmp_path / "in" / "class_mapping.png")
    assert pseg("predict", bundle, tmp_path / "in", "--recursive", "--out", tmp_path / "o").status == 0
    return tmp_path / "o"


WANTED = {"a.png": islands(1), "deep/b.png": islands(2, 41, 30), "class_mapping.png": np.ones((20, 50), np.uint8)}


def drawn_as_labelme_does(record: dict[str, Any], labels: list[str]) -> NDArray[np.uint8]:
    """labelme draws its shapes in order, each as a polygon of Pillow with its outline."""
    mask = np.full((record["imageHeight"], record["imageWidth"]), 255, np.uint8)
    for shape in record["shapes"]:
        assert shape["shape_type"] == "polygon"
        assert len(shape["points"]) > 2
        plane = Image.new("1", (record["imageWidth"], record["imageHeight"]))
        ImageDraw.Draw(plane).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        mask[np.asarray(plane)] = labels.index(shape["label"])
    return mask


def test_simplified_polygons_of_labelme_are_about_the_mask(masks: Path, tmp_path: Path) -> None:
    rows, columns = np.ogrid[:80, :90]
    mask = np.digitize((rows - 40) ** 2 + (columns - 40) ** 2, [200, 1200]).astype(np.uint8)
    picture = read_pictures([masks / "ledger.jsonl"]).pictures[0]
    plain = labelme_record(picture, mask, ["0", "1", "2"], Path("/"))
    record = labelme_record(picture, mask, ["0", "1", "2"], Path("/"), parse_length("2px"))
    assert record["pseg"] == {"simplify": "2px"}
    assert "pseg" not in plain
    corners = [sum(len(each["points"]) for each in found["shapes"]) for found in (record, plain)]
    assert corners[0] < corners[1] / 2
    assert (drawn_as_labelme_does(record, ["0", "1", "2"]) != mask).mean() < 0.03
    for form, tolerance in (("coco", "2px"), ("labelme", "5cm")):
        refused = pseg("annotate", masks, "--format", form, "--out", tmp_path / form, "--simplify", tolerance)
        assert (refused.status, (tmp_path / form).exists()) == (2, False)
        assert "--simplify: " in refused.stderr


def test_polygons_of_labelme_are_the_mask_again(masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelme"
    outcome = pseg("annotate", masks, "--format", "labelme", "--out", out, "--labels", "red=R")
    assert outcome.status == ExitStatus.DONE
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.json"))
    assert files == ["a.json", "class_mapping-2.json", "class_mapping.json", "deep/b.json"]
    for name in ("a.json", "class_mapping-2.json", "deep/b.json"):
        record = json.loads((out / name).read_text())
        # the fields that labelme's reader asks for
        assert set(record) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
        image = ((out / name).parent / record["imagePath"]).resolve()
        wanted = WANTED[str(image.relative_to(tmp_path / "in"))]
        assert np.array_equal(drawn_as_labelme_does(record, ["R", "green", "blue"]), wanted)


@pytest.mark.parametrize("seed", range(12))
def test_polygons_of_any_mask_are_the_mask_again(seed: int, masks: Path) -> None:
    picture = read_pictures([masks / "ledger.jsonl"]).pictures[0]
    generator = np.random.default_rng(seed)
    # noise alone is the hardest: every second pixel begins a region
    mask = generator.integers(3, size=(33, 47)).astype(np.uint8) if seed % 2 else islands(seed)
    record = labelme_record(picture, mask, ["0", "1", "2"], Path("/"))
    assert np.array_equal(drawn_as_labelme_does(record, ["0", "1", "2"]), mask)


# pycocotools 2.0.11 was built before numpy 2.1.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_is_read_by_pycocotools(masks: Path, tmp_path: Path) -> None:
    assert pseg("annotate", masks, "--format", "coco", "--out", tmp_path / "c").status == ExitStatus.DONE
    coco: Any = COCO(str(tmp_path / "c" / "annotations.json"))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["red", "green", "blue"]
    assert len(coco.imgs) == 3
    for number, image in coco.imgs.items():
        mask = np.full((image["height"], image["width"]), 255, np.uint8)
        for each in coco.loadAnns(coco.getAnnIds(imgIds=number)):
            plane = coco.annToMask(each).astype(bool)
            assert (mask[plane] == 255).all(), "regions do not overlap"
            rows, columns = np.nonzero(plane)
            left, top = columns.min(), rows.min()
            assert each["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert each["area"] == plane.sum()
            mask[plane] = each["category_id"] - 1
        assert np.array_equal(mask, WANTED[image["file_name"]])


@pytest.mark.parametrize("colors", [None, ((0, 0, 0), (9, 9, 9), (9, 9, 9))])
def test_label_maps_of_taglab_have_the_colours_of_its_dictionary(
    bundle: Path, masks: Path, tmp_path: Path, colors: tuple[tuple[int, int, int], ...] | None
) -> None:
    """Also where classes have one colour, or black, which TagLab takes for no label."""
    if colors is not None:
        classes = [{**each, "def_color": color} for each, color in zip(CLASSES, colors, strict=True)]
        bundle = bundle_folder(tmp_path / "colored", classes=classes)
        pseg("predict", bundle, tmp_path / "in", "--recursive", "--out", masks, "--overwrite")
    out = tmp_path / "t"
    assert pseg("annotate", masks, "--format", "taglab", "--out", out, "--labels", "red=R").status == ExitStatus.DONE
    dictionary = json.loads((out / "taglab_labels.json").read_text())
    # what TagLab's reader takes: the name, and the colour by which it finds the label of a pixel
    assert set(dictionary) == {"Name", "Description", "Labels"}
    names = {tuple(each["fill"]): each["name"] for each in dictionary["Labels"]}
    assert len(names) == 3
    assert (0, 0, 0) not in names
    for name in ("a.png", "deep/b.png"):
        with Image.open(out / name) as image:
            assert image.mode == "RGB"
            labels = [[names[tuple(pixel)] for pixel in row] for row in np.asarray(image).tolist()]
        assert labels == np.array(["R", "green", "blue"])[WANTED[name]].tolist()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_points_of_coralnet_lie_on_a_grid_or_at_random(masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    assert pseg("annotate", masks, "--format", "coralnet", "--out", out, "--grid", "2x3").status == ExitStatus.DONE
    rows = rows_of(out / "annotations.csv")
    assert list(rows[0]) == ["Name", "Row", "Column", "Label"]
    # by hand: the centres of two rows and three columns of 60 x 90 pixels
    places = [(int(row["Row"]), int(row["Column"])) for row in rows if row["Name"] == "a.png"]
    assert places == [(row, column) for row in (15, 45) for column in (15, 45, 75)]
    drawn = [
        rows_of(out / "annotations.csv")
        for seed in (1, 1, 2)
        if pseg(
            *("annotate", masks, "--format", "coralnet", "--out", out),
            *("--points", 50, "--seed", seed, "--overwrite"),
        ).status
        == ExitStatus.DONE
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    for found in (rows, drawn[0]):
        for row in found:
            (wanted,) = (mask for name, mask in WANTED.items() if Path(name).name == row["Name"])
            assert row["Label"] == ["red", "green", "blue"][wanted[int(row["Row"]), int(row["Column"])]]
    assert len({(row["Row"], row["Column"]) for row in drawn[0] if row["Name"] == "a.png"}) == 50


def test_points_lie_inside_of_the_region(bundle: Path, masks: Path, tmp_path: Path) -> None:
    """Four corners are those of a rectangle on the ground, and the grid is even there."""
    out, corners = tmp_path / "r", "polygon:20.5,1 40.5,1 60.5,59 0.5,59"
    one = tmp_path / "in" / "a.png"
    assert pseg("predict", bundle, one, "--out", out, "--save", "mask", "--roi", corners).status == ExitStatus.DONE
    options = "annotate", out, "--format", "coralnet", "--out", tmp_path / "p", "--overwrite"
    assert pseg(*options, "--grid", "1x3").status == ExitStatus.DONE
    # by hand: the diagonals cross at 15.5, the middle of the ground, where the region reaches from 15.5 to 45.5
    places = [(int(each["Row"]), int(each["Column"])) for each in rows_of(tmp_path / "p" / "annotations.csv")]
    assert places == [(15, 20), (15, 30), (15, 40)]
    assert pseg(*options, "--points", 400).status == ExitStatus.DONE
    drawn = [(int(each["Row"]), int(each["Column"])) for each in rows_of(tmp_path / "p" / "annotations.csv")]
    assert len(set(drawn)) == 400
    # the centres of the pixels lie between the sides, which move by 20 columns in 58 rows
    assert all(abs(column - 30) <= 10 + 20 * (row - 0.5) / 58 for row, column in drawn)
    # A region with an inner corner has the grid of its bounding box, as far as it lies inside.
    corners = "polygon:0,0 40,0 40,20 20,20 20,60 0,60"
    pseg("predict", bundle, one, "--out", tmp_path / "l", "--save", "mask", "--roi", corners)
    pseg("annotate", tmp_path / "l", "--format", "coralnet", "--out", tmp_path / "q", "--grid", "3x2")
    places = [(int(each["Row"]), int(each["Column"])) for each in rows_of(tmp_path / "q" / "annotations.csv")]
    assert places == [(10, 10), (10, 30), (30, 10), (50, 10)]
    pseg("predict", bundle, one, "--out", tmp_path / "n", "--save", "mask", "--roi", "0,0,999,9")
    outcome = pseg("annotate", tmp_path / "n", "--format", "squidle", "--out", tmp_path / "s")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert "no region of interest, in which points could lie" in outcome.stderr


def test_points_of_squidle_are_fractions_under_its_names(masks: Path, tmp_path: Path) -> None:
    """The names are those of the columns that Squidle+ exports, which CoralNet-Toolbox reads, too."""
    out = tmp_path / "s"
    options = "annotate", masks, "--format", "squidle", "--out", out, "--grid", "2x3", "--labels", "red=Sand"
    assert pseg(*options).status == ExitStatus.DONE
    points = [each for each in json.loads((out / "annotations.json").read_text()) if each["point.media.key"] == "a.png"]
    assert {frozenset(each) for each in points} == {
        frozenset({"point.media.key", "point.x", "point.y", "label.name", "needs_review"})
    }
    # by hand: the centres of the pixels in rows 15 and 45 of 60, and in columns 15, 45 and 75 of 90
    assert [(each["point.x"], each["point.y"]) for each in points] == [
        (column / 90, row / 60) for row in (15.5, 45.5) for column in (15.5, 45.5, 75.5)
    ]
    assert [each["label.name"] for each in points] == [
        ["Sand", "green", "blue"][islands(1)[row, column]] for row in (15, 45) for column in (15, 45, 75)
    ]
    assert all(each["needs_review"] is True for each in points)


def test_only_what_was_drawn_and_is_not_labelled_yet_is_annotated(masks: Path, bundle: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    assert pseg("sample", masks, "--count", 2, "--by", "random", "--seed", 3, "--out", sample).status == ExitStatus.DONE
    names = {Path(each["image"]).name for each in rows_of(sample)}
    out = tmp_path / "l"
    told = pseg("annotate", masks, "--format", "labelme", "--sample", sample, "--out", out)
    assert (told.status, "2 of 2 pictures" in told.stdout) == (ExitStatus.DONE, True)
    records = [json.loads(path.read_text()) for path in out.rglob("*.json") if path.name != "class_mapping.json"]
    assert {Path(each["imagePath"]).name for each in records} == names
    larger, added = tmp_path / "larger.csv", tmp_path / "added"
    assert pseg("sample", masks, "--count", 3, "--by", "random", "--seed", 3, "--out", larger).status == ExitStatus.DONE
    assert (
        pseg("annotate", masks, "--format", "labelme", "--sample", larger, "--labelled", sample, "--out", added).status
        == ExitStatus.DONE
    )
    labelled = [{path.name for path in folder.rglob("*.json")} - {"class_mapping.json"} for folder in (out, added)]
    assert [len(each) for each in labelled] == [2, 1]
    assert not labelled[0] & labelled[1]
    both = "--annotations", out, "--annotations", added, "--allow-missing-classes"
    assert len(pseg("evaluate", bundle, "--sample", larger, *both, "--json").records[0]["results"][0]["per_image"]) == 3
    told = pseg_error("annotate", masks, "--format", "coco", "--sample", sample, "--labelled", larger, "--out", added)
    assert "so that its labels would be lost: draw the larger sample with the same survey" in " ".join(told.split())
    sample.write_text("image,stratum,inclusion_probability\n/else/x.png,,1\n")
    told = " ".join(pseg_error("annotate", masks, "--format", "coco", "--sample", sample, "--out", out).split())
    assert "x.png is a picture of the sample, and has no mask in the ledgers" in told


def test_the_mapping_tells_labels_from_classes(masks: Path, tmp_path: Path) -> None:
    pseg("annotate", masks, "--format", "coco", "--out", tmp_path / "c", "--labels", "green=SG, blue=W")
    mapping = json.loads((tmp_path / "c" / "class_mapping.json").read_text())
    assert [mapping[index]["label"] for index in ("0", "1", "2")] == ["red", "SG", "W"]
    assert mapping["1"] == {
        "label": "SG",
        "name": "green",
        "id": "urn:ibenthos:segmentation:class:green",
        "color": [10, 200, 10],
    }


def test_annotations_that_people_may_have_corrected_are_not_replaced(masks: Path, tmp_path: Path) -> None:
    arguments = ("annotate", masks, "--format", "coco", "--out", tmp_path / "c")
    assert pseg(*arguments).status == ExitStatus.DONE
    corrected = tmp_path / "c" / "annotations.json"
    corrected.write_text("corrected")
    again = pseg(*arguments)
    assert again.status == ExitStatus.WRONG_REQUEST
    assert "--overwrite" in again.stderr
    assert corrected.read_text() == "corrected"
    assert pseg(*arguments, "--overwrite").status == ExitStatus.DONE
    assert corrected.read_text() != "corrected"


def test_what_has_no_mask_is_named(masks: Path, bundle: Path, tmp_path: Path) -> None:
    (masks / "a.pseudo.png").unlink()
    outcome = pseg("annotate", masks, "--format", "coco", "--out", tmp_path / "c")
    assert outcome.status == ExitStatus.INCOMPLETE
    assert "2 of 3 pictures" in outcome.stdout
    assert "a.pseudo.png: cannot be read" in outcome.stderr
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "none", "--save", "overlay")
    told = pseg("annotate", tmp_path / "none", "--format", "coco", "--out", tmp_path / "d").stderr
    assert "it has no mask as PNG: predict photographs with --save mask" in told
    small = ("--save", "mask", "--mask-size", "inference", "--max-img-size", 900)
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "small", *small)
    told = pseg("annotate", tmp_path / "small", "--format", "coco", "--out", tmp_path / "e").stderr
    assert "not of the picture's size" in told


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        (("--exclude-class", "red"), ["red", "green", "blue"]),
        (("--exclude-class", "blue", "--unsure", "0.4"), ["red", "green", "blue", "unsure"]),
        (("--roi", "frame:blue", "--quadrat-size", "1mx1m"), ["red", "green", "blue"]),
    ],
)
def test_labels_are_those_of_the_mask_whatever_the_cover_counts(
    masks: Path, bundle: Path, tmp_path: Path, options: tuple[str, ...], classes: list[str]
) -> None:
    """Classes that are left out of the cover are in the mask, and a region without a frame fails no annotation."""
    out = tmp_path / "counted"
    pseg("predict", bundle, masks.parent / "in", "--recursive", "--out", out, "--save", "mask", *options)
    assert pseg("annotate", out, "--format", "labelme", "--out", tmp_path / "l").status == 0
    record = json.loads((tmp_path / "l" / "a.json").read_text())
    with Image.open(out / "a.mask.png") as mask:
        assert np.array_equal(drawn_as_labelme_does(record, classes), np.asarray(mask))


def test_what_cannot_be_annotated_is_said(masks: Path, bundle: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "c")
    assert "no class is called sand" in pseg_error("annotate", masks, "--format", "coco", "--labels", "sand=S", *out)
    assert "give pairs such as" in pseg_error("annotate", masks, "--format", "coco", "--labels", "sand", *out)
    assert "each class once" in pseg_error("annotate", masks, "--format", "coco", "--labels", "red=R,red=S", *out)
    for kind, given, said in (
        ("labelme", ("--grid", "2x2"), "--grid: it places points, which only coralnet and squidle have"),
        ("coco", ("--seed", "2"), "--seed: it places points"),
        ("coralnet", ("--grid", "2x2", "--points", "3"), "--grid: points lie on a grid or at random"),
        ("coralnet", ("--seed", "2"), "--seed: it is of points at random"),
    ):
        assert said in pseg_error("annotate", masks, "--format", kind, *given, *out)
    assert "such as 10x10" in pseg_error("annotate", masks, "--format", "coralnet", "--grid", "99x99", *out)
    told = " ".join(pseg_error("annotate", masks, "--format", "coralnet", "--labels", "red=+R", *out).split())
    assert "+R: a table holds this name as '+R, so that no program reads it as a formula" in told
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "deep" / "-1.png")
    pseg("predict", bundle, tmp_path / "in" / "deep", "--out", tmp_path / "signed")
    assert "-1.png: a table holds this name as '-1.png" in " ".join(
        pseg_error("annotate", tmp_path / "signed", "--format", "coralnet", *out).split()
    )
    (tmp_path / "in" / "deep" / "-1.png").rename(tmp_path / "in" / "deep" / "a.png")
    pseg("predict", bundle, tmp_path / "in", "--recursive", "--out", tmp_path / "again")
    assert "have one name, by which CoralNet knows" in pseg_error(
        "annotate", tmp_path / "again", "--format", "coralnet", *out
    )
    assert not (tmp_path / "c").exists()

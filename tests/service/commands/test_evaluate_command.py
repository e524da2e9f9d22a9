"""`pseg evaluate`: labelled pictures of pure colours, whose scores are known by hand."""

import csv
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner, Result

from service import cli
from service.commands.terminal import ExitStatus
from tests.service.bundles import CLASSES, bundle_folder, strongest_band_network

COLORS = np.array([(220, 20, 30), (10, 200, 40), (0, 30, 180)], np.uint8)
"""Red, green and blue: what the bundle finds as class 0, 1 and 2."""


def evaluate(*arguments: object) -> Result:
    words = ["evaluate", *map(str, arguments)]
    return CliRunner().invoke(cli.app, words, catch_exceptions=False)


def run(*arguments: object) -> None:
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == ExitStatus.DONE, result.stderr


def evaluated(*arguments: object) -> dict[str, Any]:
    result = evaluate(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def refusal(*arguments: object, status: ExitStatus = ExitStatus.WRONG_REQUEST) -> str:
    result = evaluate(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    return result.stderr


def picture(path: Path, classes: Sequence[Sequence[int]], *, orientation: int = 1) -> Path:
    """A picture of the classes' colours, each an 8×8 square; JPEG keeps which band is the strongest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    squares = np.kron(np.array(classes), np.ones((8, 8), int))
    Image.fromarray(COLORS[squares]).save(path, quality=95, subsampling=0, exif=exif)
    return path


def mask(path: Path, classes: Sequence[Sequence[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(np.array(classes), np.ones((8, 8), int)).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[object, ...]:
    """The options that name two images and their masks: six squares right of seven judged."""
    picture(tmp_path / "images" / "1.jpg", [[0, 0, 1, 1]])
    mask(tmp_path / "masks" / "1.png", [[0, 0, 0, 1]])
    picture(tmp_path / "images" / "2.jpg", [[0, 0], [2, 1]])
    mask(tmp_path / "masks" / "2.png", [[0, 0], [2, 255]])
    return "--images", tmp_path / "images", "--masks", tmp_path / "masks"


def swapped_bundle(folder: Path) -> Path:
    """A bundle that takes red for green and green for red."""
    model = onnx.load_from_string(strongest_band_network())
    (weights,) = model.graph.initializer
    weights.float_data[:] = [0, 1, 0, 1, 0, 0, 0, 0, 1]
    return bundle_folder(folder, network=model.SerializeToString())


def by_name(column: Mapping[str, Any], measure: str) -> dict[str, float | None]:
    return {each["name"]: each[measure] for each in column["classes"]}


def test_scores_of_one_bundle(bundle: Path, folders: tuple[object, ...]) -> None:
    record = evaluated(bundle, *folders)
    assert (record["images"], record["pixels"], record["difference"]) == (2, 7 * 64, None)
    (column,) = record["results"]
    assert (column["bundle"], column["runtime"], column["precision"]) == (str(bundle), "onnx", "fp32")
    # Red: four squares in common, five labelled, four found. Green: one in common, one labelled, two found.
    assert by_name(column, "iou") == {"red": pytest.approx(4 / 5), "green": pytest.approx(1 / 2), "blue": 1}
    assert column["miou"] == pytest.approx((4 / 5 + 1 / 2 + 1) / 3)
    assert column["accuracy"] == pytest.approx(6 / 7)
    # A quarter of the first image is green instead of red; in the second one nothing is wrong.
    assert by_name(column, "max_cover_error") == {"red": 0.25, "green": 0.25, "blue": 0}
    assert by_name(column, "mean_cover_error") == {"red": 0.125, "green": 0.125, "blue": 0}
    assert [each["id"] for each in column["classes"]] == [each["id"] for each in CLASSES]
    assert column["provenance"]["model"]


def test_two_bundles_side_by_side(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    other = swapped_bundle(tmp_path / "other")
    record = evaluated(bundle, *folders, "--against", other)
    first, second = record["results"]
    assert second["bundle"] == str(other)
    assert by_name(second, "iou") == {"red": pytest.approx(1 / 6), "green": 0, "blue": 1}
    difference = record["difference"]
    assert difference["miou"] == pytest.approx(second["miou"] - first["miou"])
    assert difference["miou"] < 0
    assert by_name(difference, "iou") == {
        "red": pytest.approx(1 / 6 - 4 / 5),
        "green": pytest.approx(0 - 1 / 2),
        "blue": 0,
    }


def test_one_label_of_two_classes_is_refused(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    """The other bundle calls its first class green: a label of 0 would be red for one, and green for the other."""
    other = bundle_folder(tmp_path / "other", classes=[CLASSES[1], CLASSES[0], CLASSES[2]])
    assert "the same classes in another order (red, green, blue; green, red, blue)" in refusal(
        bundle, *folders, "--against", other
    )


def test_bundles_of_different_classes_are_refused(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    other = bundle_folder(tmp_path / "other", classes=[CLASSES[0], {**CLASSES[1], "name": "algae"}, CLASSES[2]])
    told = refusal(bundle, *folders, "--against", other)
    assert "different classes (red, green, blue; red, algae, blue)" in " ".join(told.split())
    unnamed = bundle_folder(tmp_path / "unnamed", classes=[])
    assert len(evaluated(bundle, *folders, "--against", unnamed)["results"]) == 2


def test_the_mean_iou_differs_over_the_classes_of_both_columns(bundle: Path, tmp_path: Path) -> None:
    """Nothing is green: the first bundle finds none, the other one calls everything red green, with an IoU of 0."""
    picture(tmp_path / "images" / "1.jpg", [[0, 0], [2, 2]])
    mask(tmp_path / "masks" / "1.png", [[0, 2], [2, 2]])
    named = ("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--allow-missing-classes")
    other = swapped_bundle(tmp_path / "other")
    record = evaluated(bundle, *named, "--against", other)
    first, second = record["results"]
    # Red: one square of two found; blue: two of three.
    assert first["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert second["miou"] == pytest.approx((0 + 0 + 2 / 3) / 3)
    assert by_name(record["difference"], "iou") == {"red": pytest.approx(-1 / 2), "green": None, "blue": 0}
    assert record["difference"]["miou"] == pytest.approx((-1 / 2 + 0) / 2)
    told = "difference of the mean IoU: over the classes that have an IoU in both columns"
    assert told in evaluate(bundle, *named, "--against", other).stdout
    assert told not in evaluate(bundle, *named).stdout


def test_images_that_nothing_judges_are_told(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    empty = picture(tmp_path / "images" / "3.jpg", [[1, 1]])
    mask(tmp_path / "masks" / "3.png", [[255, 255]])
    result = evaluate(bundle, *folders, "--json")
    record = json.loads(result.stdout)
    assert (record["images"], record["unjudged"]) == (2, [str(empty)])
    assert "1 of the images have no pixel that is judged, and are left out" in " ".join(result.stderr.split())


@pytest.mark.parametrize("option", [("--label-names", "red=green"), ("--unlabelled", "red")])
def test_options_of_annotations_do_not_go_with_masks(
    option: tuple[str, str], bundle: Path, folders: tuple[object, ...]
) -> None:
    assert f"{option[0]}: it is for annotations" in " ".join(refusal(bundle, *folders, *option).split())


def test_options_of_masks_do_not_go_with_annotations(bundle: Path, folders: tuple[object, ...]) -> None:
    told = refusal(bundle, *folders[:2], "--annotations", "absent.json", "--label-values", "0=1")
    assert "--label-values: it is for masks" in " ".join(told.split())


def test_the_rows_of_images_hold_both_columns(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    evaluated(bundle, *folders, "--against", swapped_bundle(tmp_path / "other"), "--csv", table)
    first, second = csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines())
    assert (first["found_cover_0_red"], first["against_found_cover_0_red"]) == ("0.5", "0.5")
    # Of the second image, two of three squares are labelled red; the other bundle finds green there.
    assert (second["labelled_cover_0_red"], second["found_cover_0_red"]) == ("0.666667", "0.666667")
    assert second["against_found_cover_0_red"] == "0.0"
    assert second["against_found_cover_1_green"] == "0.666667"
    assert (second["accuracy"], second["against_accuracy"]) == ("1.0", "0.333333")
    assert "against_labelled_cover_0_red" not in second


def test_two_precisions_of_one_bundle(folders: tuple[object, ...], tmp_path: Path) -> None:
    both = bundle_folder(tmp_path / "both")
    wrong = swapped_bundle(tmp_path / "wrong") / "onnx" / "fp32" / "model.onnx"
    (both / "onnx" / "int8").mkdir()
    wrong.rename(both / "onnx" / "int8" / "model.onnx")
    first, second = evaluated(both, *folders, "--against-precision", "int8")["results"]
    assert (first["precision"], second["precision"]) == ("fp32", "int8")
    assert first["accuracy"] == pytest.approx(6 / 7)
    assert second["accuracy"] == pytest.approx(2 / 7)


def test_the_table_shows_both_and_the_difference(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    result = evaluate(bundle, *folders, "--against", swapped_bundle(tmp_path / "other"))
    assert result.exit_code == 0
    assert "2 images, 448 labelled pixels" in result.stdout
    (iou_of_red,) = [line.split() for line in result.stdout.splitlines() if "IoU red" in line]
    assert [word for word in iou_of_red if word[-1].isdigit()] == ["0.8000", "0.1667", "-0.6333"]


def test_a_class_that_is_nowhere_has_no_iou(bundle: Path, tmp_path: Path) -> None:
    images = picture(tmp_path / "i" / "1.jpg", [[0, 1]]), mask(tmp_path / "m" / "1.png", [[0, 1]])
    where = ("--images", images[0], "--masks", images[1])
    told = " ".join(refusal(bundle, *where).split())
    assert "no pixel is labelled as class 2 (blue): if another value stands for it in the masks" in told
    (column,) = evaluated(bundle, *where, "--allow-missing-classes")["results"]
    assert by_name(column, "iou") == {"red": 1, "green": 1, "blue": None}
    assert by_name(column, "precision") == by_name(column, "recall") == {"red": 1, "green": 1, "blue": None}
    assert column["miou"] == 1


def test_masks_of_0_and_255_are_not_judged_in_silence(bundle: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "i" / "1.jpg", [[0, 2, 1, 1]])
    labels = mask(tmp_path / "m" / "1.png", [[0, 7, 255, 0]])
    where = ("--images", image, "--masks", labels)
    assert "--label-values 0=0,255=1" in refusal(bundle, *where, "--label-values", "7=2")
    record = evaluated(bundle, *where, "--label-values", "0=0,255=1,7=2")
    assert record["pixels"] == 4 * 64
    (column,) = record["results"]
    assert column["confusion"] == [[64, 64, 0], [0, 64, 0], [0, 0, 64]]
    assert by_name(column, "precision") == {"red": 1, "green": 0.5, "blue": 1}
    assert by_name(column, "recall") == {"red": 0.5, "green": 1, "blue": 1}
    assert by_name(column, "f1") == {"red": pytest.approx(2 / 3), "green": pytest.approx(2 / 3), "blue": 1}
    ignored = ("--label-values", "255=1,7=ignore", "--allow-missing-classes")
    assert evaluated(bundle, *where, *ignored)["pixels"] == 3 * 64


@pytest.mark.parametrize(
    "values",
    ["", "0", "0=0,0=1", "0=0,00=1", "a=1", "0=-1", "0=70000", "0=0;1=1", "1_0=1", "٣=1", "0=1=2", "1" * 5000 + "=1"],
)
def test_label_values_that_are_none(bundle: Path, folders: tuple[object, ...], values: str) -> None:
    message = refusal(bundle, *folders, "--label-values", values)
    assert "label values" in message
    assert len(message) < 500


def test_a_row_per_image(bundle: Path, folders: tuple[object, ...], tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    record = evaluated(bundle, *folders, "--csv", table)
    with table.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert [Path(each["image"]).name for each in (first, second)] == ["1.jpg", "2.jpg"]
    # Of the first image three of four squares are right; red covers 3/4 by the labels, and half as it was found.
    assert (first["pixels"], float(first["accuracy"])) == ("256", 0.75)
    assert (float(first["labelled_cover_0_red"]), float(first["found_cover_0_red"])) == (0.75, 0.5)
    assert (first["iou_2_blue"], float(second["iou_2_blue"])) == ("", 1)
    assert [each["pixels"] for each in record["results"][0]["per_image"]] == [256, 192]


def test_masks_lie_as_the_upright_image(bundle: Path, tmp_path: Path) -> None:
    # Orientation 6: what is stored as a row from the left is seen as a column from the top.
    image = picture(tmp_path / "i" / "1.jpg", [[0, 1, 2]], orientation=6)
    upright = mask(tmp_path / "upright" / "1.png", [[0], [1], [2]])
    (column,) = evaluated(bundle, "--images", image, "--masks", upright)["results"]
    assert column["accuracy"] == 1
    stored = mask(tmp_path / "stored" / "1.png", [[0, 1, 2]])
    assert "1.png: the mask is 24x8 pixels, its upright image 8x24" in refusal(
        bundle, "--images", image, "--masks", stored
    )


def test_shrunken_images_are_judged_at_their_own_size(bundle: Path, folders: tuple[object, ...]) -> None:
    assert evaluated(bundle, *folders, "--max-img-size", 64)["pixels"] == 7 * 64


@pytest.mark.parametrize("columns", ["40", "200"])
def test_counts_of_pixels_are_never_cut(
    bundle: Path, folders: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    printed = evaluate(bundle, *folders).stdout.replace("\u00a0", " ").partition("pixels by labelled class")[2]
    # Of the five squares that are labelled red, one is found as green.
    cells = r"red\s+red 256, green 64\n" if columns == "40" else r"│ red\s+│ +256 │ +64 │ +0 │"
    assert re.search(cells, re.sub(" +\n", "\n", printed))
    assert "…" not in printed
    assert "2 images, 448 labelled pixels" in printed


def test_figures_that_are_nearly_1_or_0_are_not_shown_as_1_or_0(bundle: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "i" / "1.png", np.repeat([[0, 1, 2]], 200, 0).repeat(67, 1).tolist())
    path = mask(tmp_path / "m" / "1.png", np.repeat([[0, 1, 2]], 200, 0).repeat(67, 1).tolist())
    with Image.open(path) as drawn:
        drawn.load()
    drawn.putpixel((0, 0), 1)
    drawn.save(path)
    printed = evaluate(bundle, "--images", image, "--masks", path).stdout
    # By hand: one of 2,572,800 pixels is wrong.
    for name, found in (
        ("pixel accuracy", ">0.9999"),
        ("IoU red", ">0.9999"),
        ("IoU blue", "1.0000"),
        ("mean cover error red", "<0.0001"),
        ("mean cover error blue", "0.0000"),
    ):
        assert re.search(f"{name} +│ +{found} ", printed), name


def test_missing_masks_are_named(bundle: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "i" / "lonely.jpg", [[0]])
    others = mask(tmp_path / "m" / "other.png", [[0]])
    assert "1 of 1 images have no PNG mask" in (said := refusal(bundle, "--images", image, "--masks", others))
    assert "lonely.jpg" in said


def test_pictures_in_sub_folders_are_found_with_recursive(bundle: Path, tmp_path: Path) -> None:
    for name in ("1", "a/1", "b/1"):
        picture(tmp_path / "dives" / f"{name}.jpg", [[0]])
        mask(tmp_path / "labels" / f"{name}.png", [[0]])
    folders = "--images", tmp_path / "dives", "--masks", tmp_path / "labels", "--allow-missing-classes"
    assert evaluated(bundle, *folders, "--recursive")["images"] == 3
    shutil.rmtree(tmp_path / "dives" / "a")
    (tmp_path / "dives" / "1.jpg").unlink()
    assert "1 left out: sub-folders are searched with --recursive only: " in refusal(bundle, *folders)


@pytest.mark.parametrize("command", ["evaluate", "tune", "bench", "verify", "convert", "demo"])
def test_a_folder_that_does_not_exist_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    images = {"demo": [], "convert": ["--verify"]}.get(command, ["--images"])
    further = {"evaluate": ["--masks", "m"], "tune": ["--out", "p"], "convert": ["--out", tmp_path / "c.tgz"]}
    words = [*([] if command == "demo" else ["model.tgz"]), *images, tmp_path / "label", *further.get(command, [])]
    told = CliRunner().invoke(cli.app, [command, *map(str, words)], catch_exceptions=False)
    assert told.exit_code == ExitStatus.WRONG_REQUEST
    assert f"{tmp_path / 'label'}: no such file or folder: did you mean {tmp_path / 'labels'}?" in told.stderr


def test_a_labels_folder_that_does_not_exist_is_named(bundle: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "i" / "1.jpg", [[0]])
    told = refusal(bundle, "--images", image, "--masks", tmp_path / "labels")
    assert f"--masks: {tmp_path / 'labels'}: no such file or folder: check the name" in told


def test_a_pattern_without_quotation_marks_is_explained(bundle: Path) -> None:
    images = [f"photos/{number}.jpg" for number in range(40)]
    told = " ".join(refusal(bundle, "--images", *images, "--masks", "labels").replace("│", " ").split())
    assert "photos/1.jpg, photos/2.jpg, photos/3.jpg and 36 more" in told
    assert "put a pattern into quotation marks" in told
    assert "photos/4.jpg" not in told


def test_labels_of_other_classes_are_named(bundle: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "i" / "1.jpg", [[0]])
    labels = mask(tmp_path / "m" / "1.png", [[3]])
    assert "1.png: holds the class index 3" in refusal(bundle, "--images", image, "--masks", labels)


def test_a_column_against_itself_is_refused(bundle: Path, folders: tuple[object, ...]) -> None:
    assert "the two columns are the same" in refusal(bundle, *folders, "--against", bundle)


def test_a_precision_that_is_not_there_is_refused(bundle: Path, folders: tuple[object, ...]) -> None:
    assert "int8" in refusal(bundle, *folders, "--against-precision", "int8")


@pytest.mark.parametrize("taken", ["bundle", "image", "mask"])
def test_the_table_takes_no_inputs_place(bundle: Path, folders: tuple[object, ...], tmp_path: Path, taken: str) -> None:
    path = {"bundle": bundle, "image": tmp_path / "images" / "1.jpg", "mask": tmp_path / "masks" / "1.png"}[taken]
    content = path.read_bytes()
    refusal(bundle, *folders, "--csv", path)
    assert path.read_bytes() == content


def corrected(path: Path, wrong: str, right: str) -> None:
    content = path.read_text()
    assert content.count(wrong) > 0
    path.write_text(content.replace(wrong, right, 1))


def test_annotations_come_back(bundle: Path, tmp_path: Path) -> None:
    """Masks go to each tool, one label is corrected there, and the corrected pixels or points are measured."""
    for transect in ("T1", "T2"):
        picture(tmp_path / "in" / transect / "q1.jpg", [[0, 0, 1, 1], [2, 2, 1, 1]])
    folders = "--images", tmp_path / "in" / "T1", "--images", tmp_path / "in" / "T2"
    run("predict", bundle, tmp_path / "in", "--recursive", "--out", tmp_path / "o", "--save", "mask")
    for kind in ("labelme", "coco"):
        out = tmp_path / kind
        run("annotate", tmp_path / "o", "--format", kind, "--out", out, "--labels", "red=R")
        labels = "--annotations", out
        assert evaluated(bundle, *folders, *labels)["results"][0]["accuracy"] == 1
        if kind == "labelme":
            corrected(out / "T1" / "q1.json", '"label":"blue"', '"label":"R"')
        else:
            corrected(out / "annotations.json", '"category_id":3', '"category_id":1')
        record = evaluated(bundle, *folders, *labels)
        # sixteen squares, of which two that are found as blue are labelled red
        assert record["pixels"] == 16 * 64
        assert record["results"][0]["confusion"] == [[4 * 64, 0, 2 * 64], [0, 8 * 64, 0], [0, 0, 2 * 64]]


def test_annotations_that_nobody_corrected_are_told(bundle: Path, tmp_path: Path) -> None:
    """Also a picture whose name tables and terminals show in another form is found again."""
    for name in ("=1", "a%0Ab", "c\nd"):
        picture(tmp_path / "in" / f"{name}.jpg", [[0, 1]])
    run("predict", bundle, tmp_path / "in", "--out", tmp_path / "o", "--save", "mask")
    run("sample", tmp_path / "o", "--count", 3, "--by", "random", "--out", tmp_path / "sample.csv")
    run("annotate", tmp_path / "o", "--format", "labelme", "--out", tmp_path / "l")
    arguments = bundle, "--sample", tmp_path / "sample.csv", "--annotations", tmp_path / "l", "--allow-missing-classes"
    result = evaluate(*arguments)
    assert result.exit_code == 0
    assert "on 3 of 3 pictures the labels are what the network found" in " ".join(result.stderr.split())
    for path in sorted((tmp_path / "l").glob("*.json"))[:2]:
        if path.name != "class_mapping.json":
            corrected(path, '"label":"green"', '"label":"blue"')
    assert "are what the network found" not in evaluate(*arguments).stderr


def test_points_of_coralnet_are_judged_as_points(bundle: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg", [[0, 0, 1, 1], [2, 2, 1, 1]])
    run("predict", bundle, tmp_path / "in", "--out", tmp_path / "o", "--save", "mask")
    run("annotate", tmp_path / "o", "--format", "coralnet", "--out", tmp_path / "c", "--grid", "2x4")
    corrected(tmp_path / "c" / "annotations.csv", "blue", "Rk")
    labels = "--annotations", tmp_path / "c" / "annotations.csv", "--label-names", "Rk=green"
    record = evaluated(bundle, "--images", tmp_path / "in", *labels)
    assert (record["pixels"], record["results"][0]["confusion"]) == (8, [[2, 0, 0], [0, 4, 1], [0, 0, 1]])
    told = refusal(bundle, "--images", tmp_path / "in", *labels[:2])
    assert "Rk is none of the classes red, green, blue" in told
    # The advice is for annotations: --label-values is refused with them.
    told = " ".join(
        refusal(bundle, "--images", tmp_path / "in", *labels[:2], "--label-names", "Rk=ignore,blue=green").split()
    )
    assert (
        "no pixel is labelled as class 2 (blue): if another label stands for it in the annotations, say which" in told
    )
    assert "--label-values" not in told


@pytest.mark.parametrize("kind", ["coralnet", "squidle", "labelme"])
def test_pixels_between_points_are_not_given_a_class(bundle: Path, tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "in" / "a.jpg", [[0, 0, 1, 1], [2, 2, 1, 1]])
    labels = tmp_path / ("a.csv" if kind == "coralnet" else "a.json")
    point = {"label": "red", "shape_type": "point", "points": [[1, 1]]}
    labels.write_text(
        {
            "coralnet": "Name,Row,Column,Label\na.jpg,1,1,\n",
            "squidle": json.dumps([{"point.media.key": "a.jpg", "point.x": 0, "point.y": 0, "label.name": "red"}]),
            "labelme": json.dumps({"imagePath": "in/a.jpg", "shapes": [point]}),
        }[kind]
    )
    told = refusal(bundle, "--images", tmp_path / "in", "--annotations", labels, "--unlabelled", "green")
    assert "a.jpg is labelled by points, which say nothing of the pixels between them" in " ".join(told.split())


def test_points_of_squidle_come_back(bundle: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg", [[0, 0, 1, 1], [2, 2, 1, 1]])
    run("predict", bundle, tmp_path / "in", "--out", tmp_path / "o", "--save", "mask")
    run("annotate", tmp_path / "o", "--format", "squidle", "--out", tmp_path / "s", "--grid", "2x4")
    labels = "--annotations", tmp_path / "s"
    corrected(tmp_path / "s" / "annotations.json", '"label.name":"blue"', '"label.name":"green"')
    record = evaluated(bundle, "--images", tmp_path / "in", *labels)
    assert (record["pixels"], record["results"][0]["confusion"]) == (8, [[2, 0, 0], [0, 4, 1], [0, 0, 1]])
    corrected(tmp_path / "s" / "annotations.json", '"needs_review":true', '"point.polygon":[[0,0],[0.1,0],[0,0.1]]')
    assert "only points of Squidle+ are read" in refusal(bundle, "--images", tmp_path / "in", *labels)


def test_labels_are_judged_inside_of_the_region(bundle: Path, tmp_path: Path) -> None:
    """Six squares lie inside of the region, of which one is labelled otherwise; those outside are all labelled so."""
    picture(tmp_path / "in" / "a.jpg", [[0, 0, 1, 1], [2, 2, 1, 1]])
    mask(tmp_path / "masks" / "a.png", [[0, 1, 1, 0], [2, 2, 1, 0]])
    folders = "--images", tmp_path / "in", "--masks", tmp_path / "masks"
    record = evaluated(bundle, *folders, "--roi", "0,0,24,16")
    assert record["results"][0]["confusion"] == [[64, 0, 0], [64, 2 * 64, 0], [0, 0, 2 * 64]]
    # A region whose far side is half as long: by hand, the ground of its upper half is twice as deep as it looks.
    (image,) = evaluated(bundle, *folders, "--roi", "polygon:8,0 24,0 32,16 0,16")["results"][0]["per_image"]
    run("predict", bundle, tmp_path / "in", "--out", tmp_path / "o", "--roi", "polygon:8,0 24,0 32,16 0,16")
    ledger = json.loads((tmp_path / "o" / "ledger.jsonl").read_text().splitlines()[1])
    assert image["found_cover"] == pytest.approx([each["cover"] for each in ledger["roi"]["cover"]], abs=1e-5)
    assert image["found_cover"] != pytest.approx([each["cover"] for each in ledger["cover"]], abs=0.01)
    told = refusal(bundle, *folders, "--roi", "0,0,99,99")
    assert "a.jpg: has no region of interest" in told
    assert "leave the image out" in told
    told = refusal(bundle, *folders, "--roi", "0,0,9,9", "--fit-temperature", tmp_path / "t.tgz")
    assert "--roi: a temperature is fitted on whole images" in told
    told = refusal(bundle, *folders, "--scales", "0.5,1", "--fit-temperature", tmp_path / "t.tgz")
    assert "a temperature is fitted on runs without averaging" in told


def test_masks_are_found_in_sub_folders(bundle: Path, tmp_path: Path) -> None:
    for transect in ("T1", "T2"):
        picture(tmp_path / "in" / transect / "q1.jpg", [[0, 1]])
        mask(tmp_path / "masks" / transect / "q1.png", [[0, 1 if transect == "T1" else 0]])
    folders = "--images", tmp_path / "in" / "T1", "--images", tmp_path / "in" / "T2", "--masks", tmp_path / "masks"
    per_image = evaluated(bundle, *folders, "--allow-missing-classes")["results"][0]["per_image"]
    assert [(Path(each["image"]).parts[-2], each["accuracy"]) for each in per_image] == [("T1", 1), ("T2", 0.5)]


def test_a_sample_says_something_of_the_whole_survey(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / "in" / f"{name}.jpg", [[0, 0]])
        mask(tmp_path / "masks" / f"{name}.png", [[0, 1 if name == "a" else 0]])
    sample = tmp_path / "sample.csv"
    rows = [
        f"{tmp_path}/in/{name},{place}" for name, place in (("a.jpg", "S,0.5"), ("b.jpg", "S,0.5"), ("c.jpg", ",1"))
    ]
    sample.write_text("image,stratum,inclusion_probability\n" + "\n".join(rows))
    arguments = bundle, "--sample", sample, "--masks", tmp_path / "masks", "--allow-missing-classes"
    (column,) = evaluated(*arguments)["results"]
    found = column["survey"]
    # By hand: the first two stand for two pictures each, so that accuracy is (2 x 0.5 + 2 x 1 + 1) / 5. Half of four
    # pictures of one stratum was drawn: variance 16 x (1 - 0.5) x 0.125 / 2 = 0.5 of the sum, and sqrt(0.5) / 5.
    assert found["accuracy"]["mean"] == pytest.approx(0.8)
    assert found["accuracy"]["standard_error"] == pytest.approx(0.5**0.5 / 5)
    assert found["confusion"][0] == [pytest.approx(0.8), 0, 0]
    assert found["confusion"][1] == [pytest.approx(0.2), 0, 0]
    green = found["classes"][1]
    assert (green["name"], green["labelled_cover"]["mean"], green["bias"]["mean"]) == (
        "green",
        pytest.approx(0.2),
        pytest.approx(-0.2),
    )
    assert [each["inclusion_probability"] for each in found["pictures"]] == [0.5, 0.5, 1]
    shown = evaluate(*arguments, "--out", tmp_path / "evaluation.json").stdout
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"][0]["survey"] == found
    assert "the whole survey, each picture once" in shown
    assert "accuracy │ 0.8000 │ 0.1414 │ 0.0000 to 1.0000" in " ".join(shown.split())


def test_samples_and_labels_that_say_nothing_are_refused(
    bundle: Path, folders: tuple[object, ...], tmp_path: Path
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("image,stratum,inclusion_probability\na.jpg,,1.5\n")
    assert "a probability that is not above 0" in refusal(bundle, "--sample", sample, *folders[2:])
    sample.write_text("image\na.jpg\n")
    assert "is not a table of `pseg sample`" in refusal(bundle, "--sample", sample, *folders[2:])
    assert "either the images, or a --sample" in refusal(bundle, "--sample", sample, *folders)
    assert "either the images, or a --sample" in refusal(bundle, *folders[2:])
    assert "either --masks or --annotations" in refusal(bundle, *folders[:2])
    mask(tmp_path / "masks" / "2.png", [[255, 255], [255, 255]])
    sample.write_text(
        f"image,stratum,inclusion_probability\n{tmp_path}/images/1.jpg,,0.5\n{tmp_path}/images/2.jpg,,0.5\n"
    )
    told = refusal(bundle, "--sample", sample, *folders[2:], "--allow-missing-classes")
    assert "only 1 of 2 pictures of the sample have a pixel that is judged" in told


def test_a_temperature_is_fitted_kept_in_a_copy_and_used(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for number in range(12):
        classes = random.integers(0, 3, (6, 6))
        picture(tmp_path / "images" / f"{number}.png", classes.tolist())
        wrong = random.random(classes.shape) < 0.1
        mask(tmp_path / "masks" / f"{number}.png", np.where(wrong, (classes + 1) % 3, classes).tolist())
    original, copy = bundle_folder(tmp_path / "bundle"), tmp_path / "copy.tgz"
    labelled = ("--images", tmp_path / "images", "--masks", tmp_path / "masks")
    found = evaluated(original, *labelled, "--fit-temperature", copy)["calibration"]
    assert (found["fitted_pictures"], found["tested_pictures"]) == (6, 6)
    assert found["error_after"] < found["error_before"]

    def confidence(bundle: Path, out: Path, *more: object) -> dict[str, Any]:
        words = ("predict", bundle, tmp_path / "images" / "0.png", "--out", out, "--save", "confidence", "--json")
        done = CliRunner().invoke(cli.app, list(map(str, (*words, *more))), catch_exceptions=False)
        assert done.exit_code == ExitStatus.DONE, done.stderr
        return json.loads(done.stdout)

    before, after = confidence(original, tmp_path / "o"), confidence(copy, tmp_path / "c")
    # Every second picture was not fitted on; of all squares about 90 % are right, and the confidence says so.
    assert abs(after["confidence"]["mean"] - 0.9) < 0.05 < abs(before["confidence"]["mean"] - 0.9)
    assert after["provenance"]["measuring"] == {"temperature": found["temperature"]}
    assert after["provenance"]["bundle"] == before["provenance"]["bundle"]
    # No confidence of another temperature is taken for this one's.
    again = CliRunner().invoke(
        cli.app, ["predict", str(copy), str(tmp_path / "images" / "0.png"), "--out", str(tmp_path / "o")]
    )
    assert again.exit_code == ExitStatus.WRONG_REQUEST
    (original / "temperature.json").write_text('{"temperature": 0}')
    refused = CliRunner().invoke(
        cli.app, ["predict", str(original), str(tmp_path / "images" / "0.png"), "--save", "confidence"]
    )
    assert refused.exit_code == ExitStatus.UNUSABLE_MODEL
    assert "temperature.json holds something else" in refused.stderr


def test_labels_that_are_refused_leave_no_copy_with_a_temperature(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / "images" / f"{number}.png", [[0, 1], [2, number % 3]])
        mask(tmp_path / "masks" / f"{number}.png", [[0, 0], [255, 0]])
    labelled = ("--images", tmp_path / "images", "--masks", tmp_path / "masks")
    copy = tmp_path / "copy.tgz"
    told = refusal(bundle_folder(tmp_path / "bundle"), *labelled, "--fit-temperature", copy)
    assert "no pixel is labelled as class 1" in told
    assert not copy.exists()


def test_a_temperature_needs_scores_and_a_name_for_the_copy(folders: tuple[object, ...], tmp_path: Path) -> None:
    bundle = bundle_folder(tmp_path / "bundle")
    assert "too few" in refusal(bundle, *folders, "--fit-temperature", tmp_path / "copy.tgz")
    assert "copy.zip" in refusal(bundle, *folders, "--fit-temperature", tmp_path / "copy.zip")
    told = refusal(bundle, *folders, "--fit-temperature", tmp_path / "copy.tgz", "--threshold", 0.3)
    assert "by the classes at the threshold 0.5" in told
    assert not (tmp_path / "copy.tgz").exists()

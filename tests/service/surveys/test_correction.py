"""`pseg summarize --correct-with`: covers are those of the labels, as far as a sample shows them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from service.commands.terminal import ExitStatus
from service.surveys.correction import Correction, UnitPictures
from tests.service.commands.test_cli import pseg, pseg_error
from tests.service.surveys.test_summarize import facts_of, red_of, stripes, summary_of

PATTERN = "{site}/{transect}/{quadrat}.png"


@pytest.fixture
def dive(tmp_path: Path, bundle: Path) -> Path:
    """Two transects of six quadrats; found as red are 0 to 50 % of one, and 40 to 90 % of the other."""
    for transect in range(2):
        for quadrat in range(6):
            stripes(tmp_path / "in" / "N" / f"T{transect}" / f"q{quadrat}.png", 4 * transect + quadrat)
    assert (
        pseg("predict", bundle, tmp_path / "in", "--recursive", "--out", tmp_path / "o", "--save", "mask").status == 0
    )
    return tmp_path


def evaluation_of(dive: Path, bundle: Path, *options: object, red: int, results: str = "o") -> Path:
    """All pictures are labelled: the first columns, one more than found on T0 and `red` of T1, are red."""
    sample = dive / "sample.csv"
    assert pseg("sample", dive / results, "--count", 12, "--by", "random", "--seed", 7, "--out", sample).status == 0
    for path in (dive / "in").rglob("*.png"):
        columns = np.full((4, 10), 2, np.uint8)
        found = 4 * int(path.parts[-2][1]) + int(path.stem[1])
        columns[:, : found + 1 if path.parts[-2] == "T0" else red] = 0
        target = dive / "labels" / path.parts[-2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(columns).save(target)
    masks = "--masks", dive / "labels", "--allow-missing-classes"
    outcome = pseg("evaluate", bundle, "--sample", sample, *masks, "--json", *options)
    (dive / "evaluation.json").write_text(outcome.stdout)
    return dive / "evaluation.json"


def test_if_all_is_labelled_the_covers_are_those_of_the_labels(dive: Path, bundle: Path) -> None:
    evaluation = evaluation_of(dive, bundle, red=3)
    found = summary_of(dive / "o", "--pattern", PATTERN, "--correct-with", evaluation)
    (group,) = found["groups"]
    # by hand: transects of 35 and 30 %, where 25 and 65 % were found: error 5 / 2
    assert red_of(group)["mean"] == pytest.approx(0.325, abs=1e-6)
    assert red_of(group)["standard_error"] == pytest.approx(0.025, abs=1e-6)
    assert sum(each["mean"] for each in group["cover"]) == pytest.approx(1, abs=1e-5)
    assert any("by 12 labelled pictures of a probability sample" in note for note in found["notes"])
    uncorrected = summary_of(dive / "o", "--pattern", PATTERN)
    assert red_of(uncorrected["groups"][0])["mean"] == pytest.approx(0.45, abs=1e-6)
    assert red_of(group)["mean_as_found"] == pytest.approx(0.45, abs=1e-6)
    assert (found["corrected"], uncorrected["corrected"]) == (True, False)


def test_what_is_corrected_says_so(dive: Path, bundle: Path) -> None:
    evaluation = evaluation_of(dive, bundle, red=3)
    written = "--csv", dive / "c.csv", "--plot", dive / "c.svg", "--report", dive / "c.html"
    told = pseg("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", evaluation, *written)
    assert "Cover in percent, corrected for what the network confuses" in told.stdout
    with (dive / "c.csv").open(newline="") as file:
        row = next(each for each in csv.DictReader(file) if each["class"] == "red")
    assert (row["corrected"], row["mean"], row["mean_as_found"]) == ("yes", "0.325", "0.45")
    plot = (dive / "c.svg").read_text()
    assert "red, corrected cover in percent" in plot
    texts = ElementTree.fromstring(plot).iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 (our own file)
    assert [each.text for each in texts][:3] == ["mean", "95 % interval", "mean as found"]
    assert "corrected, 45.00 % as found" in plot
    page = (dive / "c.html").read_text()
    assert page.index(">Corrected cover by group</h2>") < page.index("Not an estimate of the survey:")
    assert "the figures here and in the table of images are as the network found them" in page
    assert ">32.5%</td>" in page
    assert ">45.0%</td>" in page.partition('id="groups"')[2]
    facts = facts_of(dive / "c.html")
    assert (facts["labelled pictures"], facts["sample drawn by"], facts["seed of the sample"]) == ("12", "random", "7")
    assert facts["labelled pictures of groups"] == "N unknown date: 12"
    assert row["labelled_pictures"] == "12"


def test_covers_inside_of_regions_are_corrected(dive: Path, bundle: Path) -> None:
    """The region is the left half: found as red are 0 to 5 of its columns on T0, and 4 or 5 on T1."""
    region = "--roi", "0,0,5,4", "--quadrat-size", "50cmx1m"
    assert pseg("predict", bundle, dive / "in", "--recursive", "--out", dive / "r", *region).status == 0
    evaluation = evaluation_of(dive, bundle, *region, red=3, results="r")
    summarized = dive / "r", "--pattern", PATTERN, "--correct-with", evaluation
    red = red_of(summary_of(*summarized)["groups"][0])
    # by hand: of five columns 1, 2, 3, 4, 5 and 5 are labelled on T0, and 3 of every picture on T1
    assert red["mean"] == pytest.approx((20 / 6 / 5 + 3 / 5) / 2, abs=1e-6)
    assert red["mean_as_found"] == pytest.approx((15 / 6 / 5 + 29 / 6 / 5) / 2, abs=1e-6)
    assert red["mean_area_cm2"] == pytest.approx(5000 * red["mean"], abs=0.01)
    other = evaluation_of(dive, bundle, red=3, results="r")
    assert "is not what was evaluated (another model or other options, another region" in pseg_error(
        "summarize", *summarized[:-1], other
    )


def test_labels_of_the_other_part_of_the_picture_correct_nothing(dive: Path, bundle: Path) -> None:
    """Whole pictures are summarized, and the labels are those of a region."""
    evaluation = evaluation_of(dive, bundle, "--roi", "0,0,5,4", red=3)
    told = pseg_error("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", evaluation)
    assert "is not what was evaluated" in told


def test_labelled_pictures_stand_for_the_others() -> None:
    names = [[f"{unit}{index}" for index in range(10)] for unit in "ab"]
    covers = np.array([[0.5, 0.5]] * 10), np.array([[0.3, 0.7]] * 10)
    units = [UnitPictures(name, cover, np.full(10, 0.1)) for name, cover in zip(names, covers, strict=True)]
    residuals = {f"a{index}": np.array([0.1, -0.1]) for index in range(5)}
    residuals |= {f"b{index}": np.array([0.2, -0.2]) for index in range(5)}
    correction = Correction(np.eye(2), residuals, dict.fromkeys(residuals, 0.5))
    # by hand: 0.5 and 0.3, on average 0.15 too little; the pictures of a say 0.05 less, those of b as much more
    assert correction.corrected(units, "x").covers == pytest.approx(np.array([[0.6, 0.4], [0.5, 0.5]]))


def test_a_picture_that_was_less_likely_to_be_drawn_stands_for_more() -> None:
    units = [
        UnitPictures([f"{unit}{index}" for index in range(6)], np.zeros((6, 1)), np.full(6, 1 / 6)) for unit in "ab"
    ]
    residuals = {f"{unit}{index}": np.array([float(unit == "b")]) for unit in "ab" for index in range(5)}
    probabilities = {name: 0.25 if name.startswith("b") else 0.75 for name in residuals}
    found = Correction(np.eye(1), residuals, probabilities).corrected(units, "x").covers
    # by hand: each of b stands for 4 pictures, each of a for 4 / 3
    assert found.mean() == pytest.approx(3 / 4)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(path.read_text())
    change(content["results"][0])
    target = path.with_name("changed.json")
    target.write_text(json.dumps(content))
    return target


def test_what_is_no_probability_sample_of_the_survey_is_refused(dive: Path, bundle: Path) -> None:
    evaluation = evaluation_of(dive, bundle, red=3)

    def refused(path: Path, *options: object) -> str:
        return pseg_error("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", path, *options)

    assert "are not of a probability sample" in refused(changed(evaluation, lambda each: each.pop("survey")))
    assert "the evaluation has other classes than the ledgers" in refused(
        changed(evaluation, lambda each: each["classes"][0].update(id="urn:x"))
    )
    told = refused(changed(evaluation, lambda each: each["survey"]["pictures"][0].update(image="/elsewhere.png")))
    assert "/elsewhere.png is a picture of the sample, but none of the ledgers" in told
    told = refused(changed(evaluation, lambda each: each["provenance"].update(model="0")))
    assert "is not what was evaluated" in told
    told = refused(evaluation, "--per", "site,transect")
    assert "N T0 has 6 labelled pictures in 6 of 6 units: at least 10 are needed" in told
    assert "cannot be read as an evaluation" in refused(dive / "sample.csv")


@pytest.mark.parametrize("option", ["--keep-classes=red", "--min-area=8px"])
def test_masks_of_other_options_are_refused(dive: Path, bundle: Path, option: str) -> None:
    """The first one changes every cover; the second one none here, but those of other pictures."""
    evaluation = evaluation_of(dive, bundle, red=3)
    assert pseg("predict", bundle, dive / "in", "--recursive", "--out", dive / "clean", option).status == 0
    told = pseg_error("summarize", dive / "clean", "--pattern", PATTERN, "--correct-with", evaluation)
    assert "is not what was evaluated (another model or other options" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inclusion_probability": 0}, "cannot be read as an evaluation"),
        ({"inclusion_probability": -0.5}, "cannot be read as an evaluation"),
        ({"inclusion_probability": 1.5}, "cannot be read as an evaluation"),
        ({"inclusion_probability": 0.5}, "its figures contradict each other"),
        ({"labelled_cover": [float("nan"), 0, 1]}, "cannot be read as an evaluation"),
        ({"labelled_cover": [1.0, 0.0]}, "its figures contradict each other"),
        ({"labelled_cover": [0.0, 1.0, 0.0]}, "its figures contradict each other"),
        ({"found_cover": [0.0, 1.0, 0.0]}, "its figures contradict each other"),
        ({"whole": "?"}, "cannot be read as an evaluation"),
    ],
)
def test_an_edited_evaluation_is_refused(dive: Path, bundle: Path, change: dict[str, object], told: str) -> None:
    evaluation = evaluation_of(dive, bundle, red=3)

    def refused(path: Path) -> str:
        return pseg_error("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", path)

    assert told in refused(changed(evaluation, lambda each: each["survey"]["pictures"][0].update(change)))


def test_a_picture_that_is_there_twice_is_refused(dive: Path, bundle: Path) -> None:
    evaluation = evaluation_of(dive, bundle, red=3)
    path = changed(evaluation, lambda each: each["survey"].update(pictures=2 * each["survey"]["pictures"]))
    told = pseg_error("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", path)
    assert "its figures contradict each other" in told


def test_pictures_that_the_sample_was_not_drawn_from_are_refused(dive: Path, bundle: Path) -> None:
    """Another dive of the same site has no part in the labels."""
    evaluation = evaluation_of(dive, bundle, red=3)
    stripes(dive / "more" / "N" / "T2" / "q0.png", 9)
    assert pseg("predict", bundle, dive / "more", "--recursive", "--out", dive / "o2", "--save", "mask").status == 0
    told = pseg_error("summarize", dive / "o", dive / "o2", "--pattern", f"*/{PATTERN}", "--correct-with", evaluation)
    assert "the labelled pictures stand for 12 pictures, and 13 are summarized" in told


def test_labels_that_people_chose_correct_nothing(dive: Path, bundle: Path) -> None:
    """An evaluation without a sample is one of pictures that somebody picked."""
    evaluation_of(dive, bundle, red=3)
    folder = dive / "in" / "N" / "T0"
    outcome = pseg(
        "evaluate", bundle, "--images", folder, "--masks", dive / "labels" / "T0", "--allow-missing-classes", "--json"
    )
    (dive / "picked.json").write_text(outcome.stdout)
    outcome = pseg("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", dive / "picked.json")
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert "draw pictures with `pseg sample`, label them, and evaluate with --sample" in outcome.stderr


def test_labels_that_nobody_corrected_correct_nothing(dive: Path, bundle: Path) -> None:
    sample, annotations = dive / "sample.csv", dive / "annotations"
    assert pseg("sample", dive / "o", "--count", 12, "--by", "random", "--out", sample).status == 0
    assert pseg("annotate", dive / "o", "--sample", sample, "--format", "labelme", "--out", annotations).status == 0
    labels = "--annotations", annotations, "--allow-missing-classes"
    outcome = pseg("evaluate", bundle, "--sample", sample, *labels, "--json")
    (dive / "evaluation.json").write_text(outcome.stdout)
    told = pseg_error("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", dive / "evaluation.json")
    assert "the labels of all 12 pictures are what the network found" in told


@pytest.mark.parametrize("option", ["--max-img-size=20", "--with-argmax"])
def test_masks_of_options_that_were_not_evaluated_are_refused(dive: Path, bundle: Path, option: str) -> None:
    """Neither the models nor the covers of the labelled points tell the two apart."""
    evaluation = evaluation_of(dive, bundle, option, red=3)
    partly = changed(evaluation, points_only)
    name = option.partition("=")[0]
    for path in (evaluation, partly):
        told = pseg_error("summarize", dive / "o", "--pattern", PATTERN, "--correct-with", path)
        assert f"the evaluation was made with other options than the run of the ledger ({name} " in told
    again = ("predict", bundle, dive / "in", "--recursive", "--out", dive / "again", option)
    assert pseg(*again).status == ExitStatus.DONE
    told = pseg("summarize", dive / "again", "--pattern", PATTERN, "--correct-with", partly)
    assert told.status == ExitStatus.DONE, "the options of the evaluation"


def points_only(result: dict[str, Any]) -> None:
    """As of labelled points, of which the covers of whole pictures are not known."""
    for each in result["survey"]["pictures"]:
        each["whole"] = False


def test_an_evaluation_of_an_earlier_version_corrects_what_it_shows(dive: Path, bundle: Path) -> None:
    evaluation = evaluation_of(dive, bundle, red=3)

    def of_before(result: dict[str, Any]) -> None:
        del result["options"]

    summarized = "summarize", dive / "o", "--pattern", PATTERN, "--correct-with"
    assert pseg(*summarized, changed(evaluation, of_before)).status == ExitStatus.DONE
    unknown = changed(evaluation, lambda result: (of_before(result), points_only(result)))
    assert "evaluate the labels again with this version" in pseg_error(*summarized, unknown)


def test_masks_that_were_cut_into_tiles_are_refused(dive: Path, bundle: Path) -> None:
    evaluation = evaluation_of(dive, bundle, "--max-img-size=-1", red=3)
    tiled = "--tile", "--tile-size", 8, "--overlap", 4
    assert pseg("predict", bundle, dive / "in", "--recursive", "--out", dive / "t", *tiled).status == ExitStatus.DONE
    told = pseg_error("summarize", dive / "t", "--pattern", PATTERN, "--correct-with", evaluation)
    assert "was made of 2 tiles, and `pseg evaluate` segments pictures as a whole" in told

"""`pseg sample`: the inclusion probabilities are those with which pictures are drawn."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.commands.terminal import ExitStatus
from service.surveys.pictures import read_pictures
from service.surveys.places import SurveyOptions, place_pictures
from service.surveys.sampling import draw_sample
from tests.service.test_cli import BLUE, GREEN, RED, halves, pseg, pseg_error


@pytest.fixture
def masks(bundle: Path, tmp_path: Path) -> Path:
    """Six red pictures of the north, two green and one blue one of the south."""
    for index, color in enumerate((*[RED] * 6, GREEN, GREEN, BLUE)):
        halves(tmp_path / "in" / f"{'north' if color == RED else 'south'}_{index}.png", color, color)
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o")
    return tmp_path / "o"


def drawn(masks: Path, *options: object) -> list[dict[str, Any]]:
    out = masks / "sample.csv"
    assert pseg("sample", masks, *options, "--out", out).status == ExitStatus.DONE
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_dominant_class_is_drawn_alike_as_far_as_it_can_be(masks: Path) -> None:
    rows = drawn(masks, "--count", 6)
    assert Counter(row["stratum"] for row in rows) == {"red": 3, "green": 2, "blue": 1}
    assert {(row["stratum"], float(row["inclusion_probability"])) for row in rows} == {
        ("red", 0.5),
        ("green", 1),
        ("blue", 1),
    }
    # each drawn picture stands for so many: together they are the survey
    assert sum(1 / float(row["inclusion_probability"]) for row in rows) == pytest.approx(9)
    assert all(Path(row["image"]).is_file() and Path(row["mask"]).is_file() for row in rows)


def test_sites_and_all_alike(masks: Path) -> None:
    rows = drawn(masks, "--count", 4, "--by", "site", "--pattern", "{site}_{quadrat}.png")
    assert Counter((row["site"], row["inclusion_probability"]) for row in rows) == {
        ("north", repr(2 / 6)): 2,
        ("south", repr(2 / 3)): 2,
    }
    assert {row["inclusion_probability"] for row in drawn(masks, "--count", 3, "--by", "random")} == {repr(1 / 3)}


def test_a_seed_draws_the_same_pictures(masks: Path) -> None:
    first = drawn(masks, "--count", 4, "--by", "random", "--seed", 5)
    assert drawn(masks, "--count", 4, "--by", "random", "--seed", 5) == first
    assert any(drawn(masks, "--count", 4, "--by", "random", "--seed", seed) != first for seed in (6, 7, 8))


def test_what_cannot_be_drawn_is_said(masks: Path) -> None:
    assert "10 pictures are asked for, and the survey has 9" in pseg_error("sample", masks, "--count", 10)
    assert "2 pictures cannot stand for 3 strata" in pseg_error("sample", masks, "--count", 2)
    assert "no site is known" in pseg_error("sample", masks, "--count", 3, "--by", "site")
    assert "know the confidence of 0 of 9" in pseg_error("sample", masks, "--count", 3, "--by", "confidence")


def test_covers_that_no_labels_can_correct_are_named_when_the_sample_is_drawn(tmp_path: Path, bundle: Path) -> None:
    halves(tmp_path / "a.png")
    assert pseg("predict", bundle, tmp_path / "a.png", "--out", tmp_path / "o", "--exclude-class", "blue").status == 0
    drawn = pseg("sample", tmp_path / "o", "--count", 1, "--by", "random", "--out", tmp_path / "sample.csv")
    assert drawn.status == 0
    assert "the covers are those of --exclude-class" in " ".join(drawn.stderr.split())


@pytest.mark.parametrize("by", ["class", "confidence"])
def test_pictures_are_drawn_as_often_as_their_probability_says(masks: Path, by: Any) -> None:
    found = read_pictures([masks / "ledger.jsonl"])
    # one that the network is sure of, and one that it is not sure of at all, which is then drawn every time
    sure = (1.0, 0.9, 0.9, 0.8, 0.8, 0.9, 0.9, 0.9, 0.0)
    pictures = [replace(each, confidence=mean) for each, mean in zip(found.pictures, sure, strict=True)]
    placed = place_pictures(pictures, SurveyOptions()).pictures
    samples = [draw_sample(placed, found.classes, by, 5, seed) for seed in range(3000)]
    assert {len(each) for each in samples} == {5}
    counts = Counter(each.picture.picture.path for sample in samples for each in sample)
    stated = {each.picture.picture.path: each.inclusion_probability for sample in samples for each in sample}
    assert len(stated) == 9
    # five standard errors of a share of 3000
    assert {path: count / 3000 for path, count in counts.items()} == pytest.approx(stated, abs=0.046)
    if by == "confidence":
        assert stated[pictures[8].path] == 1
        assert stated[pictures[0].path] < stated[pictures[3].path]

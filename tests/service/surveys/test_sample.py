"""`pseg sample`: the inclusion probabilities are those with which pictures are drawn."""

import csv
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engine import OptionError
from service.commands.terminal import ExitStatus
from service.surveys.pictures import read_pictures
from service.surveys.places import SurveyOptions, place_pictures
from service.surveys.sampling import draw_sample, read_sample, require_whole_sample
from tests.service.commands.test_cli import BLUE, GREEN, RED, halves, pseg, pseg_error


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


def site_and_date(bundle: Path, folder: Path, counts: dict[str, int]) -> Path:
    """Masks of so many pictures of each SITE/DATE, in turn from the transects T0 and T1."""
    for group, count in counts.items():
        for index in range(count):
            site, date = group.split("/")
            halves(folder / "in" / site / f"T{index % 2}" / date / f"{index}.png", RED, BLUE)
    pseg("predict", bundle, folder / "in", "--recursive", "--out", folder / "o")
    return folder / "o"


SITES = "--pattern", "{site}/{transect}/{date}/{quadrat}.png"


def told_of_draw(masks: Path, *options: object) -> str:
    outcome = pseg("sample", masks, *SITES, *options, "--out", masks / "sample.csv")
    assert outcome.status == ExitStatus.DONE
    return " ".join(outcome.stderr.split())


def test_groups_are_sites_and_dates_and_a_sample_too_small_for_a_correction_is_told(
    bundle: Path, tmp_path: Path
) -> None:
    groups = [f"{site}/{date}" for site in ("bay", "point") for date in ("2024", "2025")]
    masks = site_and_date(bundle, tmp_path, dict.fromkeys(groups, 14))
    # by hand: ten of a group of 14, seven from each transect, are from both transects, and four times ten are enough
    told = told_of_draw(masks, "--count", 38, "--by", "group")
    assert "point 2024 gets 9 from 2, point 2025 gets 9 from 2: --count 40 is enough" in told
    assert "bay 2024" not in told
    assert "correction" not in told_of_draw(masks, "--count", 40, "--by", "group")
    with (masks / "sample.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter((row["site"], row["date"], row["inclusion_probability"]) for row in rows) == {
        ("bay", "2024", repr(10 / 14)): 10,
        ("bay", "2025", repr(10 / 14)): 10,
        ("point", "2024", repr(10 / 14)): 10,
        ("point", "2025", repr(10 / 14)): 10,
    }
    told = told_of_draw(masks, "--count", 40, "--by", "random", "--seed", 1)
    enough = int(told.partition("--count ")[2].split()[0])
    assert "or draw with --by group" in told
    assert "correction" in told_of_draw(masks, "--count", enough - 1, "--by", "random", "--seed", 1)
    assert "correction" not in told_of_draw(masks, "--count", enough, "--by", "random", "--seed", 1)


def test_a_group_that_is_too_small_for_any_correction_is_told(bundle: Path, tmp_path: Path) -> None:
    masks = site_and_date(bundle, tmp_path, {"bay/2024": 12, "bay/2025-03": 7, "bay/2025-04": 7})
    told = told_of_draw(masks, "--count", 24, "--by", "group")
    assert "bay 2025-03 has only 7, bay 2025-04 has only 7: make larger groups, with --per or by giving" in told
    assert "is enough" not in told


@pytest.mark.parametrize("by", ["class", "site", "group", "random"])
def test_a_larger_sample_contains_the_smaller_one(masks: Path, by: Any) -> None:
    found = read_pictures([masks / "ledger.jsonl"])
    placed = place_pictures(found.pictures, SurveyOptions(pattern="{site}_{quadrat}.png"))
    for seed in range(5):
        samples = [
            {each.picture.picture.path for each in draw_sample(found, placed, by, count, seed)}
            for count in range(3, 10)
        ]
        assert [len(each) for each in samples] == [3, 4, 5, 6, 7, 8, 9]
        assert all(smaller < larger for smaller, larger in pairwise(samples))


def test_a_further_site_leaves_the_pictures_of_the_others(masks: Path) -> None:
    """The labels of north remain those of the sample, although the survey grows."""
    found = read_pictures([masks / "ledger.jsonl"])
    place = SurveyOptions(pattern="{site}_{quadrat}.png")
    north = [each for each in found.pictures if "north" in each.path]
    first = draw_sample(found, place_pictures(north, place), "group", 3, 7)
    both = draw_sample(found, place_pictures(found.pictures[::-1], place), "group", 6, 7)
    assert {each.picture.picture.path for each in first} == {
        each.picture.picture.path for each in both if each.stratum == "north"
    }


def test_pictures_that_cannot_be_drawn_are_told_with_the_reason(tmp_path: Path, bundle: Path) -> None:
    halves(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o")
    told = " ".join(pseg_error("sample", tmp_path / "o", "--count", 2).split())
    assert "2 pictures are asked for, and 1 can be drawn (1 image failed, the first for this reason: " in told
    assert "b.png: " in told


def test_a_sample_that_a_spreadsheet_wrote_is_read(masks: Path) -> None:
    rows = drawn(masks, "--count", 4, "--by", "random")
    text = (masks / "sample.csv").read_text()
    assert repr(4 / 9) in text
    (masks / "german.csv").write_text(text.replace(",", ";").replace(repr(4 / 9), repr(4 / 9).replace(".", ",")))
    sample = read_sample(masks / "german.csv")
    assert [(str(each.image), each.inclusion_probability) for each in sample] == [(row["image"], 4 / 9) for row in rows]


def test_a_row_of_too_many_cells_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "sample.csv"
    table.write_text("image,stratum,inclusion_probability\n/a.png,Bay, north,0.5\n/b.png,Bay,0.5\n")
    with pytest.raises(OptionError, match="a row has more cells than the header"):
        read_sample(table)


def test_a_sample_without_some_of_its_rows_stands_for_no_survey(masks: Path, bundle: Path) -> None:
    """A third of the pictures were drawn; each annotator may still take a part of the table."""
    drawn(masks, "--count", 6, "--by", "random")
    header, *rows = (masks / "sample.csv").read_text().splitlines()
    assert header.endswith(",drawn_by,seed,count")
    part = masks / "part.csv"
    part.write_text("\n".join([header, *rows[:4]]))
    told = pseg_error("evaluate", bundle, "--sample", part, "--masks", masks)
    assert "has 4 pictures, and 6 were drawn" in told
    annotated = pseg("annotate", masks, "--sample", part, "--format", "labelme", "--out", masks / "labels")
    assert annotated.status == ExitStatus.DONE
    # As earlier versions wrote it: five of a sample of six of nine stand for 7.5.
    before = [line.rpartition(",")[0] for line in (header, *rows)]
    for removed, refused in ((0, False), (1, True)):
        part.write_text("\n".join(before[: len(before) - removed]))
        sample = read_sample(part)
        with pytest.raises(OptionError, match=r"stand for 7\.50, which is no whole") if refused else nullcontext():
            require_whole_sample(part, sample)


@pytest.mark.parametrize(("shown", "refused"), [("0.67", True), ("0.6667", True), ("0.666666667", False)])
def test_probabilities_that_a_spreadsheet_has_rounded_are_refused(tmp_path: Path, shown: str, refused: bool) -> None:
    """Spreadsheets store in CSV what they show: by default nine digits, which are enough."""
    table = tmp_path / "sample.csv"
    rows = [f"/{index}.png,,{shown},random,0,6" for index in range(6)]
    table.write_text("\n".join(["image,stratum,inclusion_probability,drawn_by,seed,count", *rows]))
    # Six of nine were drawn; 6 / 0.67 is 8.955, and 6 / 0.6667 is 8.99955.
    with pytest.raises(OptionError, match=r"stand for [89]\.\d\d, which is no whole") if refused else nullcontext():
        require_whole_sample(table, read_sample(table))


def test_a_seed_draws_the_same_pictures(masks: Path) -> None:
    first = drawn(masks, "--count", 4, "--by", "random", "--seed", 5)
    assert drawn(masks, "--count", 4, "--by", "random", "--seed", 5) == first
    assert any(drawn(masks, "--count", 4, "--by", "random", "--seed", seed) != first for seed in (6, 7, 8))


def test_what_cannot_be_drawn_is_said(masks: Path) -> None:
    assert "10 pictures are asked for, and 9 can be drawn" in pseg_error("sample", masks, "--count", 10)
    assert "2 pictures cannot stand for 3 strata" in pseg_error("sample", masks, "--count", 2)
    assert "no site is known" in pseg_error("sample", masks, "--count", 3, "--by", "site")
    assert "know the confidence of 0 of 9" in pseg_error("sample", masks, "--count", 3, "--by", "confidence")


def test_covers_that_no_labels_can_correct_are_named_when_the_sample_is_drawn(tmp_path: Path, bundle: Path) -> None:
    halves(tmp_path / "a.png")
    assert pseg("predict", bundle, tmp_path / "a.png", "--out", tmp_path / "o", "--exclude-class", "blue").status == 0
    drawn = pseg("sample", tmp_path / "o", "--count", 1, "--by", "random", "--out", tmp_path / "sample.csv")
    assert drawn.status == 0
    assert "the covers are those of --exclude-class" in " ".join(drawn.stderr.split())


@pytest.mark.parametrize("by", ["class", "group", "random", "confidence"])
def test_pictures_are_drawn_as_often_as_their_probability_says(masks: Path, by: Any) -> None:
    found = read_pictures([masks / "ledger.jsonl"])
    # one that the network is sure of, and one that it is not sure of at all, which is then drawn every time
    sure = (1.0, 0.9, 0.9, 0.8, 0.8, 0.9, 0.9, 0.9, 0.0)
    pictures = [replace(each, confidence=mean) for each, mean in zip(found.pictures, sure, strict=True)]
    placed = place_pictures(pictures, SurveyOptions(pattern="{site}_{quadrat}.png"))
    samples = [draw_sample(found, placed, by, 5, seed) for seed in range(3000)]
    assert {len(each) for each in samples} == {5}
    counts = Counter(each.picture.picture.path for sample in samples for each in sample)
    stated = {each.picture.picture.path: each.inclusion_probability for sample in samples for each in sample}
    assert len(stated) == 9
    # five standard errors of a share of 3000
    assert {path: count / 3000 for path, count in counts.items()} == pytest.approx(stated, abs=0.046)
    if by == "confidence":
        assert stated[pictures[8].path] == 1
        assert stated[pictures[0].path] < stated[pictures[3].path]

"""The rendered survey of docs/surveys.md goes all its steps, and comes out near the truth."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.scenes import SEAGRASS
from demo.survey import render_survey
from demo.survey_pictures import make_survey


def seagrass(path: Path) -> float:
    with Image.open(path) as labels:
        return float((np.asarray(labels) == SEAGRASS).mean())


@pytest.mark.long
def test_the_steps_of_the_page_lead_to_the_cover_of_the_labels(tmp_path: Path) -> None:
    render_survey(tmp_path / "dives", tmp_path / "labels", width=200, height=150)
    make_survey(tmp_path)
    with (tmp_path / "cover.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == "seagrass"]
    assert [(row["site"], row["date"], row["units"], row["pictures"]) for row in rows] == [
        (site, date, "3", "15") for site in ("bay", "point") for date in ("2025-03-14", "2026-03-12")
    ]
    errors: list[tuple[float, float]] = []
    for row in rows:
        truth = float(
            np.mean([seagrass(path) for path in (tmp_path / "labels" / row["site"]).glob(f"*/{row['date']}/*.png")])
        )
        assert float(row["low"]) <= truth <= float(row["high"])
        assert row["corrected"] == "yes"
        errors.append((abs(float(row["mean"]) - truth), abs(float(row["mean_as_found"]) - truth)))
    # four of five pictures are labelled: little is left of the network's error
    corrected, found = np.mean(errors, axis=0)
    assert corrected < found / 2
    assert {path.name for path in tmp_path.glob("survey.*")} == {"survey.svg", "survey.html"}

"""The pictures of docs/surveys.md: ``python -m demo.survey_pictures WORK`` (`make survey-pictures`).

It renders the survey of `demo.survey` into the folder WORK, unless it is there already, runs the commands of the page
with the demo bundle, and draws what they wrote. The report is shown by Chromium (system packages chromium and
chromium-driver).
"""

import argparse
import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from demo.scenes import LABEL_COLORS
from demo.survey import PATTERN, render_survey
from service.cli import app

_BUNDLE: Final = Path(__file__).parent / "demo_seagrass.tgz"
_DOCS: Final = Path(__file__).parents[1] / "docs"
_SAMPLED: Final = 40
_SHOWN: Final = "bay/T2/2025-03-14/Q2"
"""The quadrat of the pictures that show a single one."""
_THUMBNAIL: Final = (84, 63)
_GAP: Final = 4
_DRAWN: Final = (255, 140, 0)
_WRONG: Final = (230, 0, 60)
_WINDOW: Final = (1280, 1900)
_REPORT_HEIGHT: Final = 850
_QUALITY: Final = 66

Picture = NDArray[np.uint8]


def make_survey(work: Path) -> None:
    """Render the survey and run the commands on it, with all that comes of it in a folder."""
    if not (work / "labels").is_dir():
        render_survey(work / "dives", work / "labels")
    for name in ("masks", "annotations"):
        shutil.rmtree(work / name, ignore_errors=True)
    masks, sample = work / "masks", work / "sample.csv"
    place = "--pattern", PATTERN
    saved = "--save", "mask,overlay", "--overlay", "outline"
    _pseg("predict", _BUNDLE, work / "dives", "--recursive", "--out", masks, *saved)
    _pseg("sample", masks, "--count", _SAMPLED, "--by", "group", *place, "--out", sample)
    _pseg("annotate", masks, "--sample", sample, "--format", "labelme", "--out", work / "annotations")
    evaluation = work / "evaluation.json"
    _pseg("evaluate", _BUNDLE, "--sample", sample, "--masks", work / "labels", "--out", evaluation)
    written = "--plot", work / "survey.svg", "--report", work / "survey.html", "--csv", work / "cover.csv"
    _pseg("summarize", masks, *place, "--correct-with", evaluation, *written)


def _pseg(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    if result.exit_code:
        raise RuntimeError(f"pseg {arguments[0]} ended with {result.exit_code}: {result.stderr}")
    return result.stdout


def _read(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _indices(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.array(image)


def _beside(*pictures: Picture) -> Picture:
    gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([each for picture in pictures for each in (gap, picture)][1:])


def show_mask(work: Path) -> Picture:
    """A photograph beside the overlay that `pseg predict` wrote."""
    return _beside(_read(work / "dives" / f"{_SHOWN}.jpg"), _read(work / "masks" / f"{_SHOWN}.overlay.jpg"))


def show_sample(work: Path) -> Picture:
    """All pictures, a row for each transect; those that were drawn are framed, the others pale."""
    with (work / "sample.csv").open(newline="", encoding="utf-8") as file:
        drawn = {row["image"] for row in csv.DictReader(file)}
    rows: list[Picture] = []
    for transect in sorted((work / "dives").glob("*/*")):
        cells: list[Picture] = []
        for path in sorted(transect.glob("*/*.jpg")):
            cell = np.asarray(cv2.resize(_read(path), _THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)
            if str(path.absolute()) in drawn:
                cv2.rectangle(cell, (0, 0), (_THUMBNAIL[0] - 1, _THUMBNAIL[1] - 1), _DRAWN, 3)
            else:
                cell = (255 - (255 - cell.astype(np.uint16)) // 4).astype(np.uint8)
            cells.append(cell)
        row = _beside(*cells)
        rows += [row, np.full((_GAP, row.shape[1], 3), 255, np.uint8)]
    return np.vstack(rows[:-1])


def show_annotation(work: Path) -> Picture:
    """The polygons that `pseg annotate` wrote beside those of the exact labels, to which people would correct them."""
    photograph = _read(work / "dives" / f"{_SHOWN}.jpg")
    record: dict[str, Any] = json.loads((work / "annotations" / f"{_SHOWN}.json").read_text(encoding="utf-8"))
    names = ("sand", "seagrass", "frame")
    written = photograph.copy()
    for shape in record["shapes"]:
        _draw_polygon(written, np.array(shape["points"], np.int32), names.index(shape["label"]))
    labels = _indices(work / "labels" / f"{_SHOWN}.png")
    for index in range(len(names)):
        plane = (labels == index).astype(np.uint8)
        outlines = cast("Any", cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE))[0]
        for outline in outlines:
            _draw_polygon(photograph, outline[:, 0], index)
    return _beside(written, photograph)


def _draw_polygon(picture: Picture, points: NDArray[np.int32], class_index: int) -> None:
    color = LABEL_COLORS[class_index]
    cv2.polylines(picture, [points], isClosed=True, color=color, thickness=1, lineType=cv2.LINE_AA)
    for x, y in points[::12].tolist():
        cv2.circle(picture, (x, y), 2, color, -1, cv2.LINE_AA)


def show_errors(work: Path) -> Picture:
    """A picture at the lower quartile of accuracy: photograph, what was found, and in red where labels differ."""
    (result,) = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))["results"]
    judged = sorted(result["per_image"], key=lambda each: each["accuracy"])
    place = Path(judged[len(judged) // 4]["image"]).relative_to((work / "dives").absolute())
    photograph = _read(work / "dives" / place)
    found = _indices(work / "masks" / place.with_suffix(".mask.png"))
    labels = _indices(work / "labels" / place.with_suffix(".png"))
    wrong = (photograph // 2 + 100).astype(np.uint8)
    wrong[found != labels] = _WRONG
    return _beside(photograph, np.array(LABEL_COLORS, np.uint8)[found], wrong)


def show_report(work: Path) -> Picture:
    """The groups in the report of the survey, in Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise RuntimeError("no chromium and chromedriver: install the system's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size={},{}"):
        options.add_argument(flag.format(*_WINDOW))
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        page.get((work / "survey.html").absolute().as_uri())
        shown = page.find_element("css selector", "section[aria-labelledby=groups]").screenshot_as_png
    finally:
        page.quit()
    with Image.open(io.BytesIO(shown)) as image:
        return np.array(image.convert("RGB"))[:_REPORT_HEIGHT]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(prog="python -m demo.survey_pictures", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the survey, made if absent")
    parser.add_argument("--out", type=Path, default=_DOCS, help="folder of the pictures")
    options = parser.parse_args(arguments)
    work: Path = options.work
    make_survey(work)
    drawn = {
        "predict": show_mask(work),
        "sample": show_sample(work),
        "annotate": show_annotation(work),
        "evaluate": show_errors(work),
        "report": show_report(work),
    }
    for name, picture in drawn.items():
        Image.fromarray(picture).save(options.out / f"survey-{name}.webp", quality=_QUALITY, method=6)
    shutil.copyfile(work / "survey.svg", options.out / "survey-corrected.svg")


if __name__ == "__main__":
    main()

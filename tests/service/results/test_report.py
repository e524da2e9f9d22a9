"""The report in Chromium: pictures under their sliders, a table that sorts, a stranger's text that stays text."""

# Selenium's types have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
import colorsys
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select
from typer.testing import CliRunner

from engine import ClassCover, Prediction, Provenance, SegmentationClass, Segmented, SourceImage, read_image
from engine.cover.regions import RegionMethod
from engine.images import Capture
from engine.images.quality import Flag
from engine.segmentation.confidence import confidence_of
from engine.segmentation.palette import OverlayOptions, OverlayStyle
from engine.segmentation.steps import Mask, RegionCover
from service import cli
from service.commands.terminal import ExitStatus
from service.results.pictures import ImageTask, result_record
from service.results.report import ReportWriter, report_at

PROVENANCE = Provenance(
    "b" * 64, "e" * 64, "paddle", "onednn", "fp32", 3, ("onnx on cpu: not converted",), {"pseg": "0.2.0"}
)
SAND, GRASS = (200, 160, 80), (0, 128, 64)
GREY = (90, 110, 130)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--window-size=1280,1000",
)
HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "</script></style></title><svg onload='window.hacked = 1'>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "two\nlines & 'quotes' — 藻 🐟 \u202eesrever",
)
SHOWN = (*HOSTILE[:-1], "two%0Alines & 'quotes' — 藻 🐟 %E2%80%AEesrever")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if browser is None or driver is None:
        reason = "no chromium and chromedriver: install the system's packages of these names"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


class Page:
    """A report in the browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def devtools(self, command: str, **arguments: object) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def texts(self, selector: str) -> list[str]:
        script = "return Array.from(document.querySelectorAll(arguments[0]), (each) => each.textContent)"
        return cast("list[str]", self.run(script, selector))

    def table(self) -> list[str]:
        """Names in the rows that can be seen."""
        return self.texts("#table tbody tr:not([hidden]) th")

    def cards(self) -> list[str]:
        return self.texts("#cards article:not([hidden]) h3")

    def pixel(self, element: WebElement, x: float, y: float) -> tuple[int, ...]:
        """The colour that an element shows at a place, both 0–1 of its size."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        with Image.open(BytesIO(base64.b64decode(element.screenshot_as_base64))) as shot:
            return cast("tuple[int, ...]", shot.convert("RGB").getpixel((int(x * shot.width), int(y * shot.height))))

    def prefer(self, scheme: str) -> None:
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def contrast(self, selector: str) -> float:
        """WCAG's contrast ratio of an element's text and what is behind it."""
        text, behind = self.run(
            """let element = document.querySelector(arguments[0]), behind = element;
            const clear = (each) => getComputedStyle(each).backgroundColor === 'rgba(0, 0, 0, 0)';
            while (clear(behind)) behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];""",
            selector,
        )
        one, other = sorted((luminance(text), luminance(behind)), reverse=True)
        return (one + 0.05) / (other + 0.05)


def luminance(color: str) -> float:
    levels = [int(level) / 255 for level in re.findall(r"\d+", color)[:3]]
    linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[Page]:
    """A page that asks for nothing but itself and says nothing on the console."""
    shown = Page(chromium)
    yield shown
    shown.devtools("Emulation.setEmulatedMedia", media="", features=[])
    shown.devtools("Emulation.clearDeviceMetricsOverride")
    assert chromium.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    requests = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in requests if each["documentURL"].startswith("file:")]
    assert asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


def photograph(color: Sequence[int] = GREY, width: int = 200, height: int = 100, **capture: Any) -> SourceImage:
    return SourceImage(np.full((height, width, 3), color, np.uint8), width, height, Capture(**capture))


def prediction(mask: Mask, covers: Sequence[float], classes: Sequence[SegmentationClass] | None = None) -> Prediction:
    known = classes or (SegmentationClass("urn:sand", "sand", SAND), SegmentationClass("urn:grass", "grass", GRASS))
    shares = tuple(ClassCover(each, cover) for each, cover in zip(known, covers, strict=False))
    return Prediction(mask, shares, {"run": 1.0})


def add(
    report: ReportWriter,
    name: str,
    image: SourceImage,
    found: Prediction,
    written: Mapping[str, str] | None = None,
) -> None:
    report.add_result(Segmented(ImageTask(Path(name), "stem"), image, found, None, {}), written)


def all_grass(grass: float = 1.0, width: int = 200, height: int = 100) -> Prediction:
    return prediction(np.ones((height, width), np.uint8), (1 - grass, grass))


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Three images, the second without the date that the others have, and a failure."""
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE, expected=4, facts={"bundle": "bay.tgz"}) as report:
        add(
            report, "q10.jpg", photograph(taken_at=datetime(2024, 3, 1, 9, 30)), all_grass(0.25), {"mask file": "m/q10"}
        )
        add(report, "q9.jpg", photograph(), all_grass(0.75))
        report.add_failure("broken.jpg", "broken.jpg: truncated")
        add(report, "q1.jpg", photograph(taken_at=datetime(2023, 3, 1, 9, 30)), all_grass(0.5004))
    return path


def test_the_overview_says_what_was_found_and_how(page: Page, four: Path) -> None:
    page.open(four)
    assert page.driver.title == "Bay"
    assert "3 of 4 images segmented, 1 failed" in page.one(".lead").text
    assert [each.text.split() for each in page.all(".totals tbody tr")] == [
        ["sand", "50.0%", "50.0%", "25.0%", "75.0%"],
        ["grass", "50.0%", "50.0%", "25.0%", "75.0%"],
    ]
    made = dict(zip(page.texts(".provenance dt"), page.texts(".provenance dd"), strict=True))
    assert made == {
        "bundle": "bay.tgz",
        "runtime": "paddle",
        "provider": "onednn",
        "precision": "fp32",
        "threads": "3",
        "fallbacks": "onnx on cpu: not converted",
        "versions": "pseg 0.2.0",
        "bundle digest": "b" * 64,
        "model digest": "e" * 64,
    }
    assert page.one(".failures tbody tr").text == "broken.jpg broken.jpg: truncated"
    assert page.one("#image-1 .details").text.splitlines() == [
        *("photograph", "200 × 100 pixels", "mask", "200 × 100 pixels"),
        *("taken", "2024-03-01 09:30:00", "mask file", "m/q10"),
    ]
    assert "ended early" not in page.one("body").text
    assert "no picture here" not in page.one("body").text
    assert "exclude each other" not in page.one("body").text


def test_the_page_keeps_to_the_grammar_of_html_and_svg(page: Page, tmp_path: Path) -> None:
    """What the Nu HTML checker asks of times and of the filter that draws outlines."""
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        add(report, "a.jpg", photograph(taken_at=datetime(2024, 3, 1, 9, 30, 0, 123456)), all_grass())
        add(report, "b.jpg", photograph(taken_at=datetime(2024, 3, 1, 9, 30)), all_grass())
    page.open(path)
    made, *taken = page.run("return Array.from(document.querySelectorAll('time'), (each) => each.dateTime)")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?\+00:00", made)
    assert taken == ["2024-03-01T09:30:00.123", "2024-03-01T09:30:00"]
    named = page.run(
        "return Array.from(document.querySelectorAll('filter [result]'), (each) => each.getAttribute('result'))"
    )
    ends = page.run("return Array.from(document.querySelectorAll('feComposite'), (each) => each.getAttribute('in2'))")
    assert ends
    assert set(ends) <= set(named)


def test_bars_have_the_lengths_and_colours_of_the_classes(page: Page, four: Path) -> None:
    page.open(four)
    page.run("document.querySelector('#image-1').scrollIntoView()")
    sand, grass = page.all("#image-1 .bar")
    lengths = [each.rect["width"] / page.one("#image-1 .track").rect["width"] for each in (sand, grass)]
    assert lengths == pytest.approx([0.75, 0.25], abs=0.01)
    assert sand.value_of_css_property("background-color") == "rgba(200, 160, 80, 1)"
    assert grass.value_of_css_property("background-color") == "rgba(0, 128, 64, 1)"
    assert page.texts("#image-1 .value") == ["75.0%", "25.0%"]


def near(color: Sequence[int], expected: Sequence[float]) -> bool:
    return bool(np.all(np.abs(np.subtract(color, expected)) <= 6))


HALF_GRASS = tuple((grey + grass) / 2 for grey, grass in zip(GREY, GRASS, strict=True))


def test_the_slider_moves_by_keyboard(page: Page, four: Path) -> None:
    page.open(four)
    pair, slider = page.one("#image-1 .pair"), page.one("#image-1 input")
    assert near(page.pixel(pair, 0.25, 0.5), GREY)
    assert near(page.pixel(pair, 0.75, 0.5), HALF_GRASS)
    slider.send_keys(Keys.HOME)
    assert near(page.pixel(pair, 0.25, 0.5), HALF_GRASS)
    assert slider.get_attribute("aria-valuetext") == "photograph 0%, overlay 100%"
    slider.send_keys(Keys.END)
    assert near(page.pixel(pair, 0.75, 0.5), GREY)
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert slider.get_attribute("value") == "98"
    assert page.one("#image-2 input").get_attribute("value") == "50"


def test_the_slider_follows_the_mouse(page: Page, four: Path) -> None:
    page.open(four)
    pair, slider = page.one("#image-2 .pair"), page.one("#image-2 input")
    page.run("arguments[0].scrollIntoView({block: 'center'})", pair)
    width = pair.rect["width"]
    mouse = ActionChains(page.driver)
    mouse.move_to_element(pair).click_and_hold().move_by_offset(int(-0.3 * width), 5).release().perform()
    assert int(slider.get_attribute("value") or "") == pytest.approx(20, abs=1)
    assert near(page.pixel(pair, 0.1, 0.5), GREY)
    assert near(page.pixel(pair, 0.3, 0.5), HALF_GRASS)


def test_one_tool_moves_all_sliders_and_one_sets_the_opacity(page: Page, four: Path) -> None:
    page.open(four)
    page.one("button[data-border='0']").click()
    assert {each.get_attribute("value") for each in page.all(".border")} == {"0"}
    page.one("#opacity").send_keys(Keys.END)
    assert near(page.pixel(page.one("#image-4 .pair"), 0.1, 0.5), GRASS)
    page.one("button[data-border='100']").click()
    assert near(page.pixel(page.one("#image-4 .pair"), 0.9, 0.5), GREY)


def head(page: Page, name: str) -> WebElement:
    return next(each for each in page.all("#table thead button") if each.text.strip() == name)


def test_the_table_and_the_pictures_sort_together(page: Page, four: Path) -> None:
    page.open(four)
    assert page.table() == ["q10.jpg", "q9.jpg", "broken.jpg", "q1.jpg"]
    head(page, "grass").click()
    assert page.table() == ["q9.jpg", "q1.jpg", "q10.jpg", "broken.jpg"]
    assert page.cards() == ["q9.jpg", "q1.jpg", "q10.jpg"]
    assert page.one("th[aria-sort]").get_attribute("aria-sort") == "descending"
    head(page, "grass").send_keys(Keys.ENTER)
    assert page.table() == ["q10.jpg", "q1.jpg", "q9.jpg", "broken.jpg"]
    head(page, "image").click()
    assert page.table() == ["broken.jpg", "q1.jpg", "q9.jpg", "q10.jpg"]
    head(page, "taken").click()
    assert page.table() == ["q1.jpg", "q10.jpg", "broken.jpg", "q9.jpg"]
    assert len(page.all("th[aria-sort]")) == 1


def test_the_table_and_the_pictures_filter_together(page: Page, four: Path) -> None:
    page.open(four)
    assert page.one("#count").text == "4 images"
    page.one("#find").send_keys("Q1")
    assert page.table() == page.cards() == ["q10.jpg", "q1.jpg"]
    assert page.one("#count").text == "2 of 4 images"
    page.one("#find").clear()
    page.one("#find").send_keys("TRUNC")
    assert page.table() == ["broken.jpg"]
    page.one("#status").send_keys("segmented")
    assert page.table() == page.cards() == []
    assert page.one("#empty").is_displayed()
    page.one("#find").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert page.table() == page.cards() == ["q10.jpg", "q9.jpg", "q1.jpg"]
    page.one("#status").send_keys("failed")
    assert page.table() == ["broken.jpg"]
    assert not page.one("#empty").is_displayed()


def test_a_name_in_the_table_leads_to_its_picture(page: Page, four: Path) -> None:
    page.open(four)
    page.all("#table a")[2].click()
    assert page.run("return document.querySelector(':target h3').textContent") == "q1.jpg"
    assert page.run("return document.querySelector(':target').getBoundingClientRect().top < innerHeight")


def test_everything_that_can_be_used_has_a_name(page: Page, four: Path) -> None:
    page.open(four)
    used = page.all("input, select, button, a, [tabindex='0']")
    assert [each.get_attribute("outerHTML") for each in used if not each.accessible_name.strip()] == []
    assert page.one("#image-1 input").accessible_name.endswith("q10.jpg")
    assert page.one("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(page: Page, four: Path, scheme: str) -> None:
    page.prefer(scheme)
    page.open(four)
    background = page.one("body").value_of_css_property("background-color")
    levels = [int(level) / 255 for level in re.findall(r"\d+", background)[:3]]
    assert (colorsys.rgb_to_hls(*levels)[1] > 0.5) == (scheme == "light")
    for selector in (".lead", ".lead a", ".note", "h1", "dt", "dd", ".failed", ".reason", "#table a", "thead button"):
        assert page.contrast(selector) >= 4.5, selector


def test_a_telephone_shows_it_without_scrolling_sideways(page: Page, four: Path) -> None:
    page.devtools("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    page.open(four)
    assert page.run("return document.documentElement.scrollWidth") == 360


def test_paper_shows_the_whole_table_and_no_tools(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        for number in range(40):
            add(report, f"q{number}.jpg", photograph(), all_grass())
    page.open(path)
    scroller = page.one("#table").find_element(By.XPATH, "..")
    assert page.run("return arguments[0].scrollHeight > arguments[0].clientHeight", scroller)
    page.devtools("Emulation.setEmulatedMedia", media="print")
    assert page.run("return arguments[0].scrollHeight <= arguments[0].clientHeight", scroller)
    assert not page.one("#tools").is_displayed()


def test_a_strangers_text_stays_text(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    no_unicode = os.fsdecode(b"dive\xff\x07.jpg")
    classes = tuple(SegmentationClass(text, text, None) for text in HOSTILE)
    mask = np.zeros((10, 20), np.uint8)
    covers = (1.0, 0.0, 0.0, 0.0, 0.0)
    with report_at(path, title=HOSTILE[2], provenance=PROVENANCE, facts=dict.fromkeys(HOSTILE, HOSTILE[0])) as report:
        for text in HOSTILE:
            add(report, text, photograph(width=20, height=10), prediction(mask, covers, classes), {text: text})
            report.add_failure(text, text)
        report.add_failure(no_unicode, no_unicode)
    page.open(path)
    assert page.run("return window.hacked") is None
    assert page.driver.title == HOSTILE[2]
    assert page.cards() == list(SHOWN)
    assert page.table() == [*(text for text in SHOWN for _ in range(2)), "dive%FF%07.jpg"]
    assert page.texts(".failures td")[:-1] == list(SHOWN)
    assert page.texts("#image-1 .class") == list(SHOWN)
    assert page.texts(".provenance dt")[: len(HOSTILE)] == list(SHOWN)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 2 * len(HOSTILE)
    assert page.run("return arguments[0].title", page.one("#image-1 .class")) == HOSTILE[0]


def test_the_page_may_reach_nothing_and_run_nothing_but_its_own_script(chromium: webdriver.Chrome, four: Path) -> None:
    asked: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

    page = Page(chromium)
    page.open(four)
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        blocked = chromium.execute_async_script(
            """const [address, done] = arguments, blocked = [];
            document.addEventListener('securitypolicyviolation', (event) => {
              blocked.push(event.effectiveDirective);
              if (blocked.length === 3) done(blocked.sort());
            });
            new Image().src = address;
            fetch(address).catch(() => null);
            const script = document.createElement('script');
            script.textContent = 'window.hacked = 1';
            document.body.append(script);""",
            f"http://127.0.0.1:{server.server_port}/",
        )
        server.shutdown()
    assert blocked == ["connect-src", "img-src", "script-src-elem"]
    assert page.run("return window.hacked") is None
    assert asked == []
    chromium.get_log("browser")  # what was blocked


def test_one_image_is_shown_large(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE, expected=1) as report:
        add(report, "q.jpg", photograph(width=2000, height=1000), all_grass(width=2000, height=1000))
    page.open(path)
    assert "1 of 1 image segmented" in page.one(".lead").text
    assert page.one("#count").text == "1 image"
    assert [each.text.split() for each in page.all(".totals tbody tr")] == [["sand", "0.0%"], ["grass", "100.0%"]]
    assert page.run("return arguments[0].naturalWidth", page.one(".photograph")) == 1280
    assert page.one(".pair").rect["width"] > 700
    page.one("#large").click()
    assert page.one(".pair").rect["width"] < 700


@pytest.mark.long
@pytest.mark.parametrize(("images", "most_bytes"), [(1, 2e6), (50, 30e6), (500, 40e6)])
def test_pages_are_small_enough_and_drawn_where_they_are_seen(
    page: Page, tmp_path: Path, images: int, most_bytes: float
) -> None:
    """With `-s` it prints what docs/report.md states: size, and time until the page can be used."""
    scene = read_image(Path("demo/pictures/scene_900004.jpg"))
    stripes = (np.indices(scene.pixels.shape[:2]).sum(axis=0) // 80 % 2).astype(np.uint8)
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE, expected=images) as report:
        for number in range(images):
            add(report, f"dive/q{number}.jpg", scene, prediction(stripes, (1 - number / 1000, number / 1000)))
    assert path.stat().st_size < most_bytes
    page.open(path)
    loaded_s = page.run("return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    drawn = "return arguments[0].checkVisibility({contentVisibilityAuto: true})"
    last = page.one(f"#image-{images} .pair")
    assert page.run(drawn, last) == (images == 1)
    page.run("arguments[0].scrollIntoView()", last)
    page.driver.execute_async_script("requestAnimationFrame(() => arguments[0]())")
    assert page.run(drawn, last)
    assert max(page.pixel(last, 0.25, 0.5)) > 0
    head(page, "grass").click()
    assert page.table()[0] == page.cards()[0] == f"dive/q{images - 1}.jpg"
    filtered_s = page.run(
        """const began = performance.now(), field = document.querySelector('#find');
        field.value = 'q49';
        field.dispatchEvent(new Event('input'));
        document.body.getBoundingClientRect();
        return (performance.now() - began) / 1000;"""
    )
    matching = sum("q49" in f"q{number}" for number in range(images))
    assert page.one("#count").text == f"{matching} of {images} images"
    size = path.stat().st_size / 2**20
    print(f"{images} pictures: {size:.1f} MiB, loaded in {loaded_s:.2f} s, filtered in {filtered_s:.3f} s")


def test_classes_that_do_not_exclude_each_other_are_told(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    planes = np.zeros((2, 10, 20), np.bool_)
    planes[0, :, :15] = planes[1, :, 5:15] = True
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        add(report, "q.jpg", photograph(width=20, height=10), prediction(planes, (0.75, 0.5)))
    page.open(path)
    assert "may sum to less or more than 100%" in page.one("main").text
    page.one("button[data-border='0']").click()
    page.one("#opacity").send_keys(Keys.END)
    shown = [page.pixel(page.one(".pair"), x, 0.5) for x in (0.1, 0.5, 0.95)]
    assert all(near(color, wanted) for color, wanted in zip(shown, (SAND, GRASS, (0, 0, 0)), strict=True))


def test_classes_that_do_not_exclude_each_other_are_told_of_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = prediction(np.zeros((1, 1), np.uint8), (0.75, 0.5))
    result = Segmented(ImageTask(Path("q.jpg"), "q"), photograph(width=1, height=1), found, None, {})
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        report.add_record(result_record(result, PROVENANCE), Capture())
    assert "may sum to less or more than 100%" in path.read_text()


def test_many_classes_are_cut_to_the_largest_and_that_is_told(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    classes = tuple(SegmentationClass(f"urn:{index}", f"c{index}", None) for index in range(300))
    covers = [0.0] * 300
    covers[7], covers[299], covers[100] = 0.6, 0.3996, 0.0004
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        add(
            report,
            "q.jpg",
            photograph(width=20, height=10),
            prediction(np.full((10, 20), 299, np.uint16), covers, classes),
        )
    page.open(path)
    columns = [each.text.strip() for each in page.all("#table thead th")]
    assert len(columns) == 3 + 12
    assert {"c7", "c100", "c299"} < set(columns)
    assert "12 classes with the largest mean of 300" in page.one("main").text
    assert page.one(".card .note").text == "292 more classes, none above 0.0%"
    assert "<0.1%" in page.texts("#image-1 .value")
    assert "288 more classes" in page.one("summary").text


def test_a_mask_of_another_size_than_the_photograph_is_told(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        shrunk = SourceImage(np.full((50, 100, 3), GREY, np.uint8), 200, 100, Capture())
        add(report, "q.jpg", shrunk, all_grass(width=100, height=50))
    page.open(path)
    facts = page.one("#image-1 .details").text
    assert "200 × 100 pixels" in facts
    assert "100 × 50 pixels, not the photograph's size" in facts


def test_a_mask_is_shown_without_a_blur(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    rng = np.random.default_rng(1)
    mask: NDArray[np.uint8] = rng.integers(0, 2, (60, 80), np.uint8)
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        add(report, "q.jpg", photograph(width=80, height=60), prediction(mask, (0.5, 0.5)))
    (encoded,) = re.findall(rb'class="mask" src="data:image/webp;base64,([^"]+)"', path.read_bytes())
    with Image.open(BytesIO(base64.b64decode(encoded))) as shown:
        assert np.array_equal(np.asarray(shown), np.array([SAND, GRASS], np.uint8)[mask])


def test_nothing_is_written_where_nothing_was_done(tmp_path: Path) -> None:
    with report_at(tmp_path / "report.html", title="Bay", provenance=PROVENANCE):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_failures_is_a_report_too(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE, expected=1) as report:
        report.add_failure("q.jpg", "broken")
    page.open(path)
    assert "0 of 1 image segmented, 1 failed" in page.one(".lead").text
    assert "No image was segmented" in page.one("main").text
    assert page.table() == ["q.jpg"]


def test_an_error_leaves_a_report_of_what_was_done(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with (
        pytest.raises(KeyboardInterrupt),
        report_at(path, title="Bay", provenance=PROVENANCE, expected=5) as report,
    ):
        add(report, "q.jpg", photograph(), all_grass())
        raise KeyboardInterrupt
    page.open(path)
    assert "The run ended early: 4 of 5 images were not looked at." in page.one("header").text
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.long
def test_a_killed_run_leaves_nothing(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from tests.service.results.test_report import PROVENANCE, add, all_grass, photograph
from service.results.report import report_at
with report_at(Path(sys.argv[1]), title="Bay", provenance=PROVENANCE) as report:
    add(report, "q.jpg", photograph(), all_grass())
    os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "report.html"], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_no_pictures(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (300, 400, 3), np.uint8)
    image = SourceImage(noise, 400, 300, Capture())
    found = all_grass(width=400, height=300)
    path = tmp_path / "report.html"
    with report_at(path, title="Bay", provenance=PROVENANCE) as report:
        add(report, "q.jpg", image, found)
        tracemalloc.start()
        for _ in range(100):
            add(report, "q.jpg", image, found)
        kept, _ = tracemalloc.get_traced_memory()
        report.write()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert path.stat().st_size > 10e6
    assert kept < 0.5e6
    assert peak < 5e6


def test_the_command_line_writes_it(page: Page, bundle: Path, tmp_path: Path) -> None:
    pictures, path = tmp_path / "pictures", tmp_path / "pages" / "report.html"
    pictures.mkdir()
    pixels = np.full((40, 80, 3), (200, 20, 20), np.uint8)
    pixels[:, 60:] = (20, 200, 20)
    Image.fromarray(pixels).save(pictures / "reef.png")
    (pictures / "text.png").write_text("no picture")
    asked = ("--min-area", "2px", "--fill-holes", "--scales", "1,1.5")
    arguments = ("predict", bundle, pictures, "--out", tmp_path / "masks", "--report", path, *asked)
    ended = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    assert ended.exit_code == ExitStatus.INCOMPLETE
    page.open(path)
    assert page.driver.title == "Segmentation with strongest-band"
    assert page.cards() == [str(pictures / "reef.png")]
    assert page.texts("#image-1 .value") == ["75.0%", "25.0%", "0.0%"]
    assert str(tmp_path / "masks" / "reef.pseudo.png") in page.one("#image-1 .details").text
    assert "text.png" in page.one(".failures tbody tr").text
    made = dict(zip(page.texts(".provenance dt"), page.texts(".provenance dd"), strict=True))
    assert made["bundle"] == str(bundle)
    assert made["runtime"] == "onnx"
    assert made["mask size"] == "the photograph's"
    assert made["images"] == "shrunk for the network above 1,000,000 pixels, unless they are cut into tiles"
    assert (made["min-area"], made["fill-holes"], made["scales"]) == ("2px", "yes", "1.0, 1.5")
    assert re.fullmatch("[0-9a-f]{64}", made["bundle digest"])


def test_a_report_that_cannot_be_written_stops_the_command_before_work(bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "reef.png")
    arguments = ("predict", bundle, tmp_path / "reef.png", "--out", tmp_path / "masks", "--report", tmp_path)
    ended = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    assert ended.exit_code == ExitStatus.WRONG_REQUEST
    assert not (tmp_path / "masks").exists()


def test_the_policy_knows_the_script_by_its_digest(four: Path) -> None:
    page = four.read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "http:" not in page
    assert "https:" not in page


WIDTHS = (360, 800, 1400)


def resize(page: Page, width: int) -> None:
    page.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
    )


def axe_core() -> str:
    """The script of axe-core, which a package carries that needs a browser of its own: nothing else of it is used."""
    try:
        place = metadata.distribution("axe-playwright-python").locate_file("axe_playwright_python/axe.min.js")
    except metadata.PackageNotFoundError:
        reason = "no axe-core: install requirements-oracles.txt"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(str(place)).read_text("utf-8")


LEFT_OUT = ClassCover(SegmentationClass("urn:frame", "frame", (255, 255, 255)), 0, excluded=0.25)


def with_frame(found: Prediction, **areas: float) -> Prediction:
    """A third class, which is left out."""
    measured = tuple(replace(each, **areas) for each in (*found.covers, LEFT_OUT))
    return replace(found, covers=measured)


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """All that a page can hold: groups, a class that is left out, areas, confidence, a region, a flag, a failure."""
    path = tmp_path / "survey.html"
    estimate = {"id": "urn:grass", "name": "grass", "mean": 0.5, "standard_error": 0.1, "low": 0.25, "high": 0.75}
    sand = {**estimate, "id": "urn:sand", "name": "sand", "standard_error": None, "low": None, "high": None}
    besides = {"mean_as_found": 0.625, "mean_area_cm2": 1250.0}
    group = {
        "site": "north",
        "units": 3,
        "pictures": 7,
        "labelled_pictures": 5,
        "cover": [{**each, **besides} for each in (sand, estimate)],
    }
    change = {"site": "north", "earlier": "2025", "later": "2026", "units_earlier": 3, "units_later": 4}
    region = RegionCover(
        RegionMethod.POLYGON,
        ((10, 10), (90, 10), (90, 90)),
        all_grass(0.75).covers,
        0.25,
        {"shown": [1], "residual_px": 0, "hidden_corners": 0},
    )
    found = replace(
        with_frame(all_grass(0.5), area_m2=12.5),
        confidence=confidence_of(np.full((100, 200), 200, np.uint8), np.eye(256, dtype=np.int64)[200], 0.9),
        region=region,
        flags=(Flag.TOO_DARK,),
    )
    with report_at(path, title="Bay", provenance=PROVENANCE, facts={"bundle": "bay.tgz"}) as report:
        add(report, "q1.jpg", photograph(taken_at=datetime(2024, 3, 1, 9, 30)), found)
        add(report, "q2.jpg", photograph(), with_frame(all_grass(0.25), area_m2=100))
        report.add_failure("broken.jpg", "broken.jpg: truncated")
        report.survey = {
            "unit": "transect",
            "corrected": True,
            "measured": True,
            "fields": ["site"],
            "groups": [{**group, "date": "2025"}, {**group, "date": None}],
            "changes": [{**change, "paired": False, "cover": [sand, estimate]}],
            "notes": ["the unit is the transect"],
        }
    return path


@pytest.mark.parametrize("width", [400, 800, 1200])
def test_tables_of_groups_fit_and_names_stay_beside_their_colours(page: Page, survey: Path, width: int) -> None:
    survey.write_text(survey.read_text().replace("<bdi>grass</bdi>", "<bdi>seagrass</bdi>"))
    resize(page, width)
    page.open(survey)
    assert page.run("return arguments[0].scrollWidth - arguments[0].clientWidth", page.one(".scroller.whole")) == 0
    lines = page.run(
        """return Array.from(document.querySelectorAll(".swatch + span"), (name) => {
            const [color, text] = [name.previousElementSibling, name].map((each) => each.getBoundingClientRect());
            return [text.height / parseFloat(getComputedStyle(name).lineHeight), text.left - color.right,
                color.top >= text.top && color.bottom <= text.bottom];
        })"""
    )
    assert len(lines) > 4
    for height, gap, beside in lines:
        assert height < 1.5
        assert 0 <= gap < 12
        assert beside


@pytest.mark.parametrize("width", [400, 800, 1200])
def test_short_names_and_dates_keep_their_line_and_every_row_says_how_many_units_it_has(
    page: Page, survey: Path, width: int
) -> None:
    text = survey.read_text()
    for whole, longer in ((">2025<", ">2025-03-14<"), (">2026<", ">2026-03-12<"), (">north<", ">point<")):
        assert whole in text
        text = text.replace(whole, longer)
    survey.write_text(text)
    resize(page, width)
    page.open(survey)
    heights = page.run(
        """return Array.from(document.querySelectorAll(".groups tbody bdi, .groups .date"), (each) =>
            each.getBoundingClientRect().height / parseFloat(getComputedStyle(each).lineHeight))"""
    )
    assert len(heights) == 14
    assert max(heights) < 1.5
    units = [each.text for each in page.all(".groups tbody .narrow, .groups tbody .units") if each.is_displayed()]
    shown = ["3 transects", "3 transects", "3 and 4 transects"] if width == 400 else ["3", "3", "3 and 4"]
    assert units == 2 * shown


@pytest.mark.parametrize("width", [400, 800])
def test_bars_are_explained_where_they_are_shown_and_their_lines_are_seen_whole(
    page: Page, survey: Path, width: int
) -> None:
    resize(page, width)
    page.open(survey)
    assert {each.is_displayed() for each in page.all(".totals .track")} == {width > 400}
    told = page.one("main").text
    assert ("Each coloured bar" in told, "The line across each bar" in told) == (width > 400, width > 400)
    if width > 400:
        # by hand: the covers of grass are 25 and 50 percent of the pictures
        found = page.run(
            """const track = Array.from(document.querySelectorAll(".overview tr"))
                .filter((row) => row.textContent.includes("grass")).at(-1).querySelector(".track");
            track.scrollIntoView({block: "center"});
            const box = track.getBoundingClientRect();
            return [0.1, 0.28, 0.48, 0.6].map((share) => document.elementFromPoint(
                box.left + share * box.width, box.top + box.height / 2).className);"""
        )
        assert found == ["bar", "span", "span", "track"]


def test_the_table_of_images_has_the_cover_inside_the_region(page: Page, survey: Path) -> None:
    page.open(survey)
    heads = [" ".join(each.split()) for each in page.texts("#table thead th")][-4:]
    assert heads == ["sand in the region", "grass in the region", "sand in the image", "grass in the image"]
    cells = {row[0]: row[-4:] for row in _cells(page)}
    # by hand: grass is three quarters of the first picture's region and half of the picture; the second has no region
    assert cells["q1.jpg"] == ["25.0%", "75.0%", "50.0% 12.5 m²", "50.0% 12.5 m²"]
    assert cells["q2.jpg"] == ["", "", "75.0% 100.0 m²", "25.0% 100.0 m²"]
    assert page.texts("main > .overview caption:not(.hidden)") == ["Inside the regions", "Whole images"]


def _cells(page: Page) -> list[list[str]]:
    return page.run(
        r"""return Array.from(document.querySelectorAll("#table tbody tr"),
            (row) => Array.from(row.cells, (cell) => cell.innerText.replace(/\s+/g, " ").trim()))"""
    )


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (WIDTHS[0], "dark"),
        *(
            pytest.param(width, scheme, marks=pytest.mark.long)
            for width, scheme in [
                (WIDTHS[0], "light"),
                (WIDTHS[-1], "light"),
                *((width, "dark") for width in WIDTHS[1:]),
                (WIDTHS[1], "light"),
            ]
        ),
    ],
)
def test_axe_core_finds_nothing(page: Page, survey: Path, four: Path, width: int, scheme: str) -> None:
    resize(page, width)
    page.prefer(scheme)
    for path in (survey, four):
        page.open(path)
        page.run(axe_core())
        found = page.driver.execute_async_script("const done = arguments[0]; axe.run(document).then(done);")
        told = [(each["id"], each["help"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]
        assert told == []
        assert len(found["passes"]) > 30
        assert page.run("return document.documentElement.scrollWidth") <= width


def test_a_narrow_screen_shows_the_estimates_first_and_how_they_were_made_last(page: Page, survey: Path) -> None:
    def tops() -> list[float]:
        names = ("#groups", "#cover", "#failures", "#images", "#provenance")
        return [
            page.run("return document.querySelector(arguments[0]).getBoundingClientRect().top", name) for name in names
        ]

    resize(page, 360)
    page.open(survey)
    assert tops() == sorted(tops())
    resize(page, 1400)
    groups, cover, *_, images, provenance = tops()
    assert groups < cover
    assert abs(provenance - cover) < 2
    assert provenance < images


def test_a_class_that_is_left_out_is_told_and_is_no_share(page: Page, survey: Path) -> None:
    page.open(survey)
    rows = page.texts(".totals:not(.groups) tbody tr")
    # by hand: of the region a quarter and three quarters; both images have the same pixels, a quarter is the frame's
    assert [" ".join(each.split()) for each in rows[:5]] == [
        "sand25.0%25.0%25.0%",
        "grass75.0%75.0%75.0%",
        "sand62.5%62.5%50.0%75.0%112.5 m²",
        "grass37.5%37.5%25.0%50.0%112.5 m²",
        "frameleft out, 25.0% of all pixels",
    ]
    assert page.texts("#image-1 .left-out") == ["left out, 25.0%"]
    assert "frame" not in "".join(page.texts("#table thead th"))
    assert page.texts(".legend li") == [" sand", " grass", " frame (left out)"]


def test_areas_are_told_of_images_classes_and_regions(page: Page, survey: Path) -> None:
    page.open(survey)
    # by hand: three classes of 12.5 m² each
    assert "area\n37.5 m² with data" in page.one("#image-1 .details").text
    head(page, "area").click()
    assert page.table()[:2] == ["q2.jpg", "q1.jpg"]
    assert page.texts("#image-1 .facts > .bars .area") == ["12.5 m²", "12.5 m²"]
    assert "polygon, 2500 cm²" in page.one("#image-1 .facts").text


def test_groups_have_their_means_and_intervals(page: Page, survey: Path) -> None:
    page.open(survey)
    rows = [" ".join(each.split()) for each in page.texts(".groups tbody tr")]
    assert rows[:3] == [
        "north20253 transects350.0%none: one transect62.5%1250 cm²",
        "northunknown3 transects350.0%none: one transect62.5%1250 cm²",
        "north2025 to 20263 and 4 transects3 and 4+50.00none: one transect",
    ]
    assert rows[3] == "north20253 transects350.0%10.0025.0% to 75.0%62.5%1250 cm²"
    interval, track = page.one(".interval").rect, page.all(".groups .track")[2].rect
    assert interval["x"] - track["x"] == pytest.approx(0.25 * track["width"], abs=1)
    assert interval["width"] == pytest.approx(0.5 * track["width"], abs=1)


def test_overlays_may_be_outlines(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    mask = np.zeros((100, 200), np.uint8)
    mask[:, 150:] = 1
    overlays = OverlayOptions(overlay=OverlayStyle.OUTLINE)
    with report_at(path, title="Bay", provenance=PROVENANCE, overlays=overlays) as report:
        add(report, "q.jpg", photograph(), prediction(mask, (0.75, 0.25)))
    page.open(path)
    pair = page.one("#image-1 .pair")
    page.one("button[data-border='0']").click()

    def colors(*places: float) -> list[tuple[int, ...]]:
        return [page.pixel(pair, x, 0.25) for x in places]

    beside = [0.75 + offset / pair.rect["width"] for offset in range(-4, 5)]
    assert all(near(color, GREY) for color in colors(0.25, 0.7, 0.8, 0.95))
    line = colors(*beside)
    assert [sum(near(color, wanted) for color in line) for wanted in (SAND, GRASS)] == [1, 1]
    Select(page.one("#style")).select_by_visible_text("fill")
    assert all(near(color, SAND) for color in colors(0.25, 0.7))
    assert all(near(color, GRASS) for color in colors(0.8, 0.95))


def test_resumed_pictures_have_their_thumbnails(page: Page, bundle: Path, tmp_path: Path) -> None:
    pictures, path = tmp_path / "pictures", tmp_path / "report.html"
    pictures.mkdir()
    for name in ("a.png", "b.png"):
        pixels = np.full((40, 80, 3), (200, 20, 20), np.uint8)
        pixels[:, 60:] = (20, 200, 20)
        Image.fromarray(pixels).save(pictures / name)
    arguments = ("predict", bundle, pictures, "--out", tmp_path / "masks", "--report", path)

    def predict(*more: str) -> bytes:
        ended = CliRunner().invoke(cli.app, [str(each) for each in (*arguments, *more)], catch_exceptions=False)
        assert ended.exit_code == ExitStatus.DONE
        return path.read_bytes()

    def shown(content: bytes) -> list[bytes]:
        return re.findall(rb'src="(data:image/[^"]+)"', content)

    first = predict("--save", "mask")
    assert shown(predict("--save", "mask", "--resume")) == shown(first)
    page.open(path)
    assert page.cards() == [str(pictures / "a.png"), str(pictures / "b.png")]
    assert str(tmp_path / "masks" / "a.mask.png") in page.one("#image-1 .details").text
    # An overlay is not the mask: rows, and the page says so.
    predict("--save", "overlay", "--overwrite")
    predict("--save", "overlay", "--resume")
    page.open(path)
    assert page.cards() == []
    assert len(page.table()) == 2
    assert "2 of the images have no picture here" in page.one("main").text

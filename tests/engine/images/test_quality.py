"""Flags of photographs: scenes that were rendered, and degraded by known amounts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.images import Capture, SourceImage, read_image
from engine.images.quality import STATISTICS_NAME, Flag, Reference, flags_of, read_reference, statistics_json
from engine.images.statistics import PictureStatistics, picture_statistics
from tests.engine.segmentation.test_predictor import fake_predictor

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def scenes() -> list[Pixels]:
    """As `demo.scenes` renders them."""
    return [read_image(path).pixels for path in sorted((Path(__file__).parents[3] / "demo" / "pictures").glob("*.jpg"))]


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)


def exposed(factor: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.clip(pixels * float(factor), 0, 255).astype(np.uint8)


def moved(pixels: Pixels) -> Pixels:
    """As a camera that moves by 13 pixels to the right."""
    return np.asarray(cv2.blur(pixels, (13, 1)), np.uint8)


@pytest.mark.parametrize(
    ("degrade", "expected"),
    [
        (exposed(1), ()),
        (blurred(1), ()),
        (blurred(3), (Flag.BLURRED,)),
        (moved, (Flag.BLURRED,)),
        (exposed(0.5), ()),
        (exposed(0.2), (Flag.TOO_DARK,)),
        (exposed(4), (Flag.BLOWN_OUT,)),
    ],
    ids=["as rendered", "soft", "blurred", "moved", "half as light", "dark", "blown out"],
)
def test_degraded_scenes(scenes: list[Pixels], degrade: Callable[[Pixels], Pixels], expected: tuple[Flag, ...]) -> None:
    for scene in scenes:
        assert flags_of(picture_statistics(degrade(scene))) == expected


def test_statistics_by_hand() -> None:
    pixels = np.zeros((100, 80, 3), np.uint8)
    pixels[:40] = (252, 20, 30)
    found = picture_statistics(pixels)
    assert found.clipped == 0.4
    assert found.bright == 252
    assert found.mean == pytest.approx((252 * 0.4, 8, 12), abs=0.01)
    # Of two values, 0 and v, in shares 0.6 and 0.4.
    assert found.deviation == pytest.approx([v * (0.4 * 0.6) ** 0.5 for v in (252, 20, 30)], abs=0.01)
    assert found.blur < 0.2


def test_a_large_picture_is_judged_as_the_network_sees_it(scenes: list[Pixels]) -> None:
    large = np.asarray(cv2.resize(scenes[0], (2560, 1920), interpolation=cv2.INTER_LINEAR), np.uint8)
    small = np.asarray(cv2.resize(large, (1154, 866), interpolation=cv2.INTER_AREA), np.uint8)
    assert picture_statistics(large).blur == pytest.approx(picture_statistics(small).blur, abs=0.05)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 700, 3), (64, 64, 3)])
def test_flat_and_tiny_pictures_are_not_blurred(shape: tuple[int, int, int]) -> None:
    assert picture_statistics(np.full(shape, 128, np.uint8)).blur == 0


def like(index: int, **other: object) -> PictureStatistics:
    """Pictures of a kind: a green that varies, and red and blue that go with it."""
    green = 100.0 + 8 * (index % 5)
    usual = PictureStatistics(0.3, 220.0, 0.01, (0.8 * green, green, 0.7 * green + index % 3), (40.0, 42.0, 41.0))
    return replace(usual, **other)  # pyright: ignore[reportArgumentType]


def test_a_picture_that_is_unlike_those_of_the_calibration() -> None:
    reference = Reference(tuple(like(index) for index in range(15)))
    assert all(flags_of(like(index), reference) == () for index in range(15))
    assert flags_of(like(2, mean=(200.0, 60.0, 60.0)), reference) == (Flag.UNLIKE,)
    assert flags_of(like(2, deviation=(3.0, 3.0, 3.0)), reference) == (Flag.UNLIKE,)
    assert flags_of(like(2, mean=(200.0, 60.0, 60.0))) == ()


def test_limits_move_to_what_the_calibration_holds() -> None:
    dark = tuple(like(index, bright=20.0 + index, blur=0.8, clipped=0.5) for index in range(9))
    picture = like(1, bright=30.0, blur=0.75, clipped=0.4)
    assert flags_of(picture) == (Flag.BLURRED, Flag.TOO_DARK, Flag.BLOWN_OUT)
    assert flags_of(picture, Reference(dark)) == ()
    assert flags_of(like(1, bright=10.0, blur=0.9, clipped=0.6), Reference(dark)) == (
        Flag.BLURRED,
        Flag.TOO_DARK,
        Flag.BLOWN_OUT,
    )


def test_statistics_that_a_bundle_carries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_reference(tmp_path) is None
    pictures = tuple(like(index) for index in range(1500))
    file = tmp_path / STATISTICS_NAME
    file.write_bytes(statistics_json(pictures))
    reference = read_reference(tmp_path)
    assert reference is not None
    assert reference.pictures == pictures[::2]
    assert caplog.text == ""
    for wrong in ("{", "[]", json.dumps([{"blur": 2}] * 8), "null"):
        file.write_text(wrong)
        assert read_reference(tmp_path) is None
        assert f"{STATISTICS_NAME} is ignored" in caplog.text
        caplog.clear()


def test_a_prediction_has_the_flags_of_its_photograph(scenes: list[Pixels], tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    cv2.imwrite(str(path), exposed(0.2)(scenes[0]))
    image = read_image(path)
    predictor = fake_predictor(lambda tensor: tensor)
    assert predictor.predict(image).flags == (Flag.TOO_DARK,)
    # Tiles of a raster are not measured.
    assert predictor.predict(SourceImage(image.pixels, image.width, image.height, Capture())).flags == ()

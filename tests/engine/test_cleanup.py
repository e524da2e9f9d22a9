"""Clean-up of masks, by hand and against SciPy."""
# SciPy ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from engine import OptionError, Predictor
from engine.cover.cleanup import only_classes, parse_area, smoothed, without_holes, without_small_patches
from engine.cover.options import CleanupOptions, CoverOptions, RegionOptions
from engine.cover.regions import parse_quadrat, parse_region
from engine.rasters.tiles import predict_in_tiles
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.steps import steps_for
from tests.engine.test_predictor import bundle_of, image_of
from tests.engine.test_regions import FRAME, GRASS, SAND, classes_as_colors, pictured, quadrat
from tests.engine.test_tiled import tiling_of


def speckled(classes: int = 3, seed: int = 2) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, classes, (12, 15)).astype(np.uint8)
    mask = coarse.repeat(10, axis=0).repeat(10, axis=1)
    noise = np.random.default_rng(seed).random(mask.shape) < 0.04
    mask[noise] = np.random.default_rng(seed).integers(0, classes, mask.shape)[noise]
    return mask


def patches_of(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    labelled: Any = ndimage.label(flags, np.ones((3, 3)))
    return labelled[0]


@pytest.mark.parametrize("least", [2, 30, 150])
def test_no_small_patch_is_left_and_large_ones_stay(least: int) -> None:
    mask = speckled()
    found = without_small_patches(mask, least)
    for index in range(3):
        labels = patches_of(mask == index)
        sizes = np.bincount(labels.reshape(-1))
        large = (sizes >= least)[labels] & (labels > 0)
        assert (found[large] == index).all()
    for index in range(3):
        left = patches_of(found == index)
        assert not left.any() or np.bincount(left.reshape(-1))[1:].min() >= least


def test_a_patch_goes_to_the_nearest_class() -> None:
    mask = np.zeros((9, 12), np.uint8)
    mask[:, 8:] = 2
    mask[:, 6:8] = 1
    assert without_small_patches(mask, 19)[4].tolist() == [0] * 7 + [2] * 5
    nothing_else = np.arange(4, dtype=np.uint8).reshape(2, 2)
    np.testing.assert_array_equal(without_small_patches(nothing_else, 9), nothing_else)


def test_holes_are_what_a_larger_patch_encloses() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 2:12] = 1
    mask[5:7, 4:6] = 0  # a hole
    mask[8:11, 8:11] = 0  # another class grows in this one
    mask[9, 9] = 2
    mask[2:18, 15:29] = 2
    mask[3:17, 16:28] = 0  # inside of a thin frame: larger than the frame
    mask[10, 20] = 1
    found = without_holes(mask)
    expected = mask.copy()
    expected[5:7, 4:6] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("side", [3, 7])
def test_the_majority_of_two_classes_is_the_median(side: int) -> None:
    mask = speckled(classes=2)
    inner = (slice(side, -side),) * 2
    np.testing.assert_array_equal(smoothed(mask, side)[inner], ndimage.median_filter(mask, side)[inner])


def test_where_classes_are_equally_many_a_pixel_keeps_its_own() -> None:
    mask = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], np.uint8)
    assert smoothed(mask, 3)[1, 1] == 2


def test_classes_that_are_not_kept_become_class_0() -> None:
    assert only_classes(np.array([[0, 1, 2, 3]], np.uint8), frozenset({2})).tolist() == [[0, 0, 2, 0]]


@pytest.mark.parametrize("text", ["50", "px", "0px", "-1m2", "2 cm2 x"])
def test_areas_carry_units(text: str) -> None:
    with pytest.raises(ValueError, match="50px"):
        parse_area(text)


def cleaning(**options: Any) -> Predictor:
    classes = (SAND, GRASS, FRAME)
    predictor = Predictor(bundle_of((), classes=classes), FakeRuntime(classes_as_colors))
    region = options.pop("region", RegionOptions())
    asked = CoverOptions(region=region, cleanup=CleanupOptions(**options))
    predictor.steps = steps_for(asked, classes, multilabel=False, keep_confidence=False)
    return predictor


def test_tiles_equal_the_whole_and_the_provenance_says_what_was_done() -> None:
    predictor = cleaning(median=3, fill_holes=True, min_area=parse_area("40px"), keep_classes=("grass", "frame"))
    image = image_of(pictured(speckled()))
    whole = predictor.predict(image)
    tiled = predict_in_tiles(predictor, image, *tiling_of(predictor, 64, 16))
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    assert (whole.mask != speckled()).any()
    assert predictor.provenance.measuring == {
        "keep_classes": "grass,frame",
        "median": 3,
        "fill_holes": True,
        "min_area": "40px",
    }


@pytest.mark.parametrize(("area", "stays"), [("20cm2", True), ("30cm2", False)])
def test_an_area_on_the_ground_is_measured_by_the_quadrat(area: str, stays: bool) -> None:
    labels = quadrat()
    # 30×30 of 300×300 pixels of half a metre squared: 25 square centimetres.
    labels[200:230, 300:330] = 1
    region = RegionOptions(roi=parse_region("frame"), quadrat_size=parse_quadrat("0.5mx0.5m"))
    prediction = cleaning(min_area=parse_area(area), region=region).predict(image_of(pictured(labels)))
    assert (prediction.mask[215, 315] == 1) is np.bool_(stays)


def test_an_area_on_the_ground_that_cannot_be_known_is_stated() -> None:
    labels = np.ones((60, 80), np.uint8)
    labels[5, 5] = 0
    region = RegionOptions(roi=parse_region("frame"), quadrat_size=parse_quadrat("0.5mx0.5m"))
    prediction = cleaning(min_area=parse_area("20cm2"), region=region).predict(image_of(pictured(labels)))
    assert prediction.mask[5, 5] == 0
    assert prediction.region is not None
    assert "patches below 20cm2 were kept" in str(prediction.region.error)
    with pytest.raises(OptionError, match="quadrat-size"):
        cleaning(min_area=parse_area("20cm2"))


def test_an_even_square_has_no_middle() -> None:
    with pytest.raises(OptionError, match="odd"):
        CleanupOptions(median=4)

"""Clean-up of masks, by hand and against SciPy."""
# SciPy ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from engine import ImageError, OptionError, Predictor
from engine.cover import cleanup
from engine.cover.cleanup import ArrayRows, fill_holes, keep_classes, remove_small_patches, smooth
from engine.cover.options import CleanupOptions, CoverOptions, RegionOptions
from engine.cover.regions import parse_quadrat, parse_region
from engine.quantities import parse_area
from engine.rasters.tiles import predict_in_tiles
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.steps import steps_for
from tests.engine.cover.test_regions import FRAME, GRASS, SAND, classes_as_colors, pictured, quadrat
from tests.engine.rasters.test_tiled import tiling_of
from tests.engine.segmentation.test_predictor import bundle_of, image_of


def speckled(classes: int = 3, seed: int = 2) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, classes, (12, 15)).astype(np.uint8)
    mask = coarse.repeat(10, axis=0).repeat(10, axis=1)
    noise = np.random.default_rng(seed).random(mask.shape) < 0.04
    mask[noise] = np.random.default_rng(seed).integers(0, classes, mask.shape)[noise]
    return mask


def done(step: Callable[..., None], mask: npt.NDArray[Any], *given: Any, missing: int | None = None) -> Any:
    cleaned = mask.copy()
    step(ArrayRows(cleaned, missing), *given)
    return cleaned


def patches_of(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    labelled: Any = ndimage.label(flags, np.ones((3, 3)))
    return labelled[0]


@pytest.mark.parametrize("least", [2, 30, 150])
def test_no_small_patch_is_left_and_large_ones_stay(least: int) -> None:
    mask = speckled()
    found = done(remove_small_patches, mask, least)
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
    assert done(remove_small_patches, mask, 19)[4].tolist() == [0] * 7 + [2] * 5
    nothing_else = np.arange(4, dtype=np.uint8).reshape(2, 2)
    np.testing.assert_array_equal(done(remove_small_patches, nothing_else, 9), nothing_else)


def test_holes_are_what_a_larger_patch_encloses() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 2:12] = 1
    mask[5:7, 4:6] = 0  # a hole
    mask[8:11, 8:11] = 0  # another class grows in this one
    mask[9, 9] = 2
    mask[2:18, 15:29] = 2
    mask[3:17, 16:28] = 0  # inside of a thin frame: larger than the frame
    mask[10, 20] = 1
    found = done(fill_holes, mask)
    expected = mask.copy()
    expected[5:7, 4:6] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("side", [3, 7])
def test_the_majority_of_two_classes_is_the_median(side: int) -> None:
    mask = speckled(classes=2)
    inner = (slice(side, -side),) * 2
    np.testing.assert_array_equal(done(smooth, mask, side)[inner], ndimage.median_filter(mask, side)[inner])


def test_where_classes_are_equally_many_a_pixel_keeps_its_own() -> None:
    mask = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], np.uint8)
    assert done(smooth, mask, 3)[1, 1] == 2


def test_classes_that_are_not_kept_become_class_0() -> None:
    assert done(keep_classes, np.array([[0, 1, 2, 3]], np.uint8), frozenset({2})).tolist() == [[0, 0, 2, 0]]


@pytest.mark.parametrize("text", ["50", "px", "0px", "-1m2", "2 cm2 x"])
def test_areas_carry_units(text: str) -> None:
    with pytest.raises(ValueError, match="50px"):
        parse_area(text)


def masks_with_gaps() -> Iterator[tuple[int, npt.NDArray[np.uint8], int | None]]:
    """Masks of noise in blocks, of many sizes; in every second one some pixels hold no data (255)."""
    for seed in range(16):
        random = np.random.default_rng(seed)
        height, width, classes, block = (int(each) for each in random.integers(1, (28, 28, 5, 5)))
        mask = random.integers(0, classes, (height, width)).astype(np.uint8)
        mask = mask.repeat(block, 0).repeat(block, 1)[:height, :width]
        noise = random.random(mask.shape) < random.random() * 0.4
        mask[noise] = random.integers(0, classes, mask.shape)[noise]
        if seed % 2:
            mask[random.random(mask.shape) < 0.1] = 255
        yield seed, mask, 255 if seed % 2 else None


@pytest.mark.parametrize("strip_pixels", [1, 60, 200])
def test_strips_equal_the_whole(monkeypatch: pytest.MonkeyPatch, strip_pixels: int) -> None:
    for seed, mask, missing in masks_with_gaps():
        rows_m2 = np.random.default_rng(seed).random(len(mask)) + 0.5
        steps: list[tuple[Any, ...]] = [
            (smooth, 5), (fill_holes,), (remove_small_patches, 6.0), (remove_small_patches, 6.0, rows_m2),
            (keep_classes, frozenset({1})),
        ]  # fmt: skip
        whole = [done(step, mask, *given, missing=missing) for step, *given in steps]
        with monkeypatch.context() as patched:
            patched.setattr(cleanup, "_STRIP_PIXELS", strip_pixels)
            for (step, *given), expected in zip(steps, whole, strict=True):
                np.testing.assert_array_equal(done(step, mask, *given, missing=missing), expected)


def test_holes_are_those_that_scipy_finds() -> None:
    for _, mask, missing in masks_with_gaps():
        expected = mask.copy()
        # What lies around the image, or holds no data, is -1.
        classes = np.pad(mask.astype(int), 1, constant_values=-1)
        classes[classes == 255] = -1
        background = patches_of(classes == 0)
        for number in range(1, background.max() + 1):
            hole = background == number
            around = ndimage.binary_dilation(hole, np.ones((3, 3))) & ~hole
            found = np.unique(classes[around])
            if len(found) == 1 and found[0] > 0:
                patches = patches_of(classes == found[0])
                if hole.sum() < np.bincount(patches.reshape(-1))[np.unique(patches[around])].max():
                    expected[hole[1:-1, 1:-1]] = found[0]
        np.testing.assert_array_equal(done(fill_holes, mask, missing=missing), expected)


def test_small_patches_go_to_a_class_that_no_other_is_nearer_than() -> None:
    for seed, mask, missing in masks_with_gaps():
        rows_m2 = np.random.default_rng(seed).random(len(mask)) + 0.5
        areas = np.repeat(rows_m2[:, np.newaxis], mask.shape[1], axis=1)
        small = np.zeros(mask.shape, np.bool_)
        for index in set(np.unique(mask).tolist()) - {missing}:
            labels = patches_of(mask == index)
            few = np.bincount(labels.reshape(-1), areas.reshape(-1)) < 6
            few[0] = False
            small |= few[labels]
        found = done(remove_small_patches, mask, 6.0, rows_m2, missing=missing)
        rows, columns = np.nonzero(~small & (mask != 255))
        np.testing.assert_array_equal(found[~small], mask[~small])
        for row, column in np.argwhere(small) if len(rows) else ():
            distance = (rows - row) ** 2 + (columns - column) ** 2
            nearest = distance == distance.min()
            assert found[row, column] in mask[rows[nearest], columns[nearest]]


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
    with pytest.raises(ImageError, match="quadrat-size"):
        cleaning(min_area=parse_area("20cm2")).predict(image_of(pictured(labels)))


def test_an_even_square_has_no_middle() -> None:
    with pytest.raises(OptionError, match="odd"):
        CleanupOptions(median=4)


def test_more_patches_than_memory_is_taken_for_are_refused() -> None:
    mask = speckled()
    patches = sum(patches_of(mask == index).max() for index in range(3))
    for step, *given in ((fill_holes,), (remove_small_patches, 9.0, None)):
        done(step, mask, *given, patches)
        with pytest.raises(ImageError, match=f"more than {patches - 1} patches"):
            done(step, mask, *given, patches - 1)

"""Regions of interest: how they are written, found in drawn frames, and what of the ground they hold."""

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import OptionError, Predictor, SegmentationClass
from engine.cover.errors import RegionError
from engine.cover.frame import find_frame
from engine.cover.options import CoverOptions, RegionOptions
from engine.cover.regions import QuadratSize, RegionMethod, ground_pixels, parse_quadrat, parse_region
from engine.rasters.tiles import predict_in_tiles
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.steps import index_of_class, steps_for
from tests.engine.rasters.test_tiled import tiling_of
from tests.engine.segmentation.test_predictor import bundle_of, image_of

Corners = npt.NDArray[np.float64]
SAND, GRASS, FRAME = (SegmentationClass(f"urn:{name}", name, None) for name in ("sand", "grass", "frame"))
SQUARE: Corners = np.array([(150.0, 90.0), (450.0, 90.0), (450.0, 390.0), (150.0, 390.0)])
TILTED: Corners = np.array([(180.0, 80.0), (420.0, 95.0), (520.0, 400.0), (90.0, 380.0)])


def filled(mask: npt.NDArray[np.uint8], corners: Corners, value: int) -> None:
    """Give a value to the pixels whose centres lie on the same side of all edges."""
    rows, columns = np.indices(mask.shape) + 0.5
    sides = [
        (next_x - x) * (rows - y) - (next_y - y) * (columns - x)
        for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    mask[np.all([each > 0 for each in sides], axis=0)] = value


def grown(corners: Corners, pixels: float) -> Corners:
    middle = corners.mean(axis=0)
    return middle + (corners - middle) * (1 + pixels / np.linalg.norm(corners - middle, axis=1, keepdims=True))


def framed(*inner: Corners, width: int = 640, height: int = 480, pipe: float = 20) -> npt.NDArray[np.uint8]:
    """Pixels of frames with these inner corners."""
    mask = np.zeros((height, width), np.uint8)
    for corners in inner:
        own = np.zeros_like(mask)
        filled(own, grown(corners, pipe), 1)
        filled(own, corners, 0)
        mask |= own
    return mask


def turned(corners: Corners, degrees: float) -> Corners:
    middle, angle = corners.mean(axis=0), math.radians(degrees)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    return middle + (corners - middle) @ turn


def distance(found: Corners, exact: Corners) -> float:
    return min(float(np.abs(np.roll(found, shift, axis=0) - exact).max()) for shift in range(4))


@pytest.mark.parametrize("degrees", [0, 7, 30, 45, 88, 180])
@pytest.mark.parametrize("corners", [SQUARE, TILTED], ids=["square", "tilted"])
def test_the_inner_edge_is_found_whatever_its_turn(corners: Corners, degrees: float) -> None:
    exact = turned((corners - corners.mean(axis=0)) * 0.8 + np.array([320, 240]), degrees)
    edge = find_frame(framed(exact) == 1)
    assert distance(edge.corners, exact) < 1.2
    assert min(edge.shown) > 0.9
    assert edge.hidden_corners == 0
    # Clockwise in the picture, from the corner next to the upper left one.
    assert edge.corners.sum(axis=1).argmin() == 0
    (first_x, first_y), (next_x, next_y) = edge.corners[1] - edge.corners[0], edge.corners[2] - edge.corners[1]
    assert first_x * next_y - first_y * next_x > 0


def test_of_a_large_mask_the_edge_is_as_exact_as_of_a_small_one() -> None:
    exact = TILTED * 5
    assert distance(find_frame(framed(exact, width=3200, height=2400, pipe=90) == 1).corners, exact) < 2


def test_vegetation_and_tape_are_bridged() -> None:
    mask = framed(TILTED)
    rng = np.random.default_rng(1)
    for _ in range(60):
        start, stop = rng.uniform((0, 0), (640, 480), (2, 2)).astype(int)
        cv2.line(mask, start.tolist(), stop.tolist(), (0,), 5)
    cv2.line(mask, (0, 200), (639, 260), (1,), 8)  # a tape of the frame's class across the picture
    assert distance(find_frame(mask == 1).corners, TILTED) < 2


def test_a_region_that_reaches_to_the_next_frame_is_refused() -> None:
    left = np.array([(65.0, 120.0), (366.0, 141.0), (366.0, 442.0), (48.0, 439.0)])
    right = np.array([(432.0, 179.0), (717.0, 159.0), (758.0, 446.0), (481.0, 487.0)])
    with pytest.raises(RegionError, match=r"lies within another|several"):
        find_frame(framed(left, right, width=800, height=600) == 1)


def test_of_a_divided_frame_the_whole_counts() -> None:
    mask = framed(SQUARE)
    cv2.line(mask, (150, 220), (450, 240), (1,), 5)
    cv2.line(mask, (300, 90), (310, 390), (1,), 5)
    assert distance(find_frame(mask == 1).corners, SQUARE) < 1.2


def test_one_hidden_corner_is_bridged() -> None:
    mask = framed(TILTED)
    cv2.circle(mask, (90, 380), 120, (0,), -1)
    edge = find_frame(mask == 1)
    assert distance(edge.corners, TILTED) < 2
    assert edge.hidden_corners == 1


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((480, 640), np.uint8), "no pixel is of the frame's class"),
        (framed(SQUARE * 0.02 + np.array([0, 240]), pipe=8), r"no frame shows \(only 0\.\d\d% of the pixels"),
        (framed(SQUARE + np.array([250, 0])), "at the right border of the picture: the frame is probably cut off"),
        (framed(SQUARE + np.array([250, 120])), "at the lower and right border of the picture"),
        (framed(SQUARE - np.array([0, 89.5])), "the frame is cut off: 2 corners lie at the border"),
        (framed(SQUARE * 0.6 - np.array([60, 0]), SQUARE * 0.6 + np.array([240, 60])), "several frames"),
    ],
    ids=["none", "hardly any", "cut off", "cut off twice", "at the border", "two"],
)
def test_what_is_not_one_whole_frame_is_refused(mask: npt.NDArray[np.uint8], reason: str) -> None:
    with pytest.raises(RegionError, match=reason):
        find_frame(mask == 1)


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [
        (slice(None), slice(440, None), "none lies at the border of the picture: a side is covered"),
        (slice(280, None), slice(None), "none lies at the border of the picture: a side is covered"),
        (slice(385, None), slice(210, 450), "too little of the frame shows: of one side 19%, of all sides 79%"),
    ],
    ids=["a side", "two corners", "most of a side"],
)
def test_no_line_is_continued_to_where_nothing_is_seen(rows: slice, columns: slice, reason: str) -> None:
    mask = framed(SQUARE)
    mask[rows, columns] = 0
    with pytest.raises(RegionError, match=reason):
        find_frame(mask == 1)


def test_the_side_of_another_frame_does_not_close_one_that_is_cut() -> None:
    mask = framed(SQUARE)
    mask[:, 400:520] = 0
    cv2.line(mask, (560, 0), (575, 479), (1,), 24)
    with pytest.raises(RegionError):
        find_frame(mask == 1)


def test_stones_and_blobs_are_no_frame() -> None:
    mask = np.zeros((480, 640), np.uint8)
    rng = np.random.default_rng(4)
    for _ in range(40):
        cv2.ellipse(mask, rng.integers(0, 480, 2).tolist(), rng.integers(5, 40, 2).tolist(), 30, 0, 360, (1,), -1)
    with pytest.raises(RegionError):
        find_frame(mask == 1)


# ---- the ground --------------------------------------------------------------------------------------------------


def test_the_share_of_a_half_of_the_ground_is_a_half_whatever_the_perspective() -> None:
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    view = np.asarray(cv2.getPerspectiveTransform(square, TILTED.astype(np.float32)), np.float64)
    half = np.array([[(0, 0), (1, 0), (1, 0.5), (0, 0.5)]], np.float64)
    mask = np.zeros((480, 640), np.uint8)
    filled(mask, np.asarray(cv2.perspectiveTransform(half, view))[0], 1)
    pixels = ground_pixels(TILTED, mask.shape)
    assert pixels.class_shares(mask, 2)[1] == pytest.approx(0.5, abs=0.005)
    # By pixels it would be much less: what is farther away looks smaller.
    assert mask[pixels.rows, pixels.columns][pixels.inside].mean() < 0.42


@given(st.integers(3, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_pixels_inside_are_those_whose_centres_opencv_finds_inside(count: int, seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(1, 39, (count, 2))
    corners = corners[np.argsort(np.arctan2(*(corners - corners.mean(axis=0)).T))]
    outline = corners.astype(np.float32)
    expected = np.array(
        [[cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), True) for x in range(40)] for y in range(40)]
    )
    try:
        pixels = ground_pixels(corners, (40, 40))
    except RegionError:
        assert (expected <= 1e-3).all()
        return
    inside = np.zeros((40, 40), np.bool_)
    inside[pixels.rows, pixels.columns] = pixels.inside
    clear = np.abs(expected) > 1e-3
    np.testing.assert_array_equal(inside[clear], expected[clear] > 0)
    assert pixels.shares.sum() == pytest.approx(1)


# ---- options -----------------------------------------------------------------------------------------------------


def test_regions_are_read_and_written(tmp_path: Path) -> None:
    file = tmp_path / "area.json"
    file.write_text("[[10, 20], [30, 20.5], [30, 40]]")
    region = parse_region(f"polygon:{file}")
    assert region.points == ((10, 20), (30, 20.5), (30, 40))
    assert str(region) == "polygon:10,20 30,20.5 30,40"
    for text in ("frame", "frame:quadrat", "5,6,70,80"):
        assert parse_region(str(parse_region(text))).points == parse_region(text).points
        assert parse_region(str(parse_region(text))).frame_class == parse_region(text).frame_class


@pytest.mark.parametrize(
    "text",
    [*("", "fram", "1,2,3", "1,2,0,4", "1,2,3,-4", "polygon:1,1 2,2", "polygon:1,1 2,2 3,3"), "polygon:/no/such.json"],
)
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        parse_region(text)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2, 3]", "[[1, 2], [3]]", "[[1, 2], [3, 4], [1e999, 2]]"])
def test_a_file_that_holds_no_polygon_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "area.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"corner|polygon"):
        parse_region(f"polygon:{file}")


@pytest.mark.parametrize(
    ("text", "area_m2"), [("0.5mx0.5m", 0.25), ("50cmx50cm", 0.25), ("1mX25cm", 0.25), ("500mmx2m", 1.0)]
)
def test_sizes_carry_units(text: str, area_m2: float) -> None:
    assert parse_quadrat(text).area_m2 == pytest.approx(area_m2)


@pytest.mark.parametrize("text", ["0.5x0.5", "0.5m", "0mx1m", "50 cm x 50 cm", "1kmx1m"])
def test_sizes_without_units_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"0\.5mx0\.5m|above 0"):
        parse_quadrat(text)


def test_a_size_needs_a_region_with_four_corners() -> None:
    size = QuadratSize("1mx1m", 1)
    with pytest.raises(OptionError, match="needs roi"):
        RegionOptions(quadrat_size=size)
    with pytest.raises(OptionError, match="four corners"):
        RegionOptions(roi=parse_region("polygon:1,1 9,1 9,9"), quadrat_size=size)
    with pytest.raises(OptionError, match="four corners"):
        RegionOptions(roi=parse_region("polygon:1,1 9,1 3,3 1,9"), quadrat_size=size)


def test_classes_are_named_in_three_ways() -> None:
    classes = (SAND, GRASS, FRAME)
    assert [index_of_class(classes, each, option="roi") for each in ("frame", "urn:frame", "2")] == [2, 2, 2]
    for wrong in ("quadrat", "3", ""):
        with pytest.raises(OptionError, match="which has: 0 sand, 1 grass, 2 frame"):
            index_of_class(classes, wrong, option="roi")


# ---- through a predictor -----------------------------------------------------------------------------------------


def classes_as_colors(tensor: Tensor) -> Tensor:
    """Scores of a picture whose red, green and blue are the classes."""
    return tensor


def measuring(region: RegionOptions, *, multilabel: bool = False) -> Predictor:
    classes = (SAND, GRASS, FRAME)
    predictor = Predictor(bundle_of((), classes=classes, multilabel=multilabel), FakeRuntime(classes_as_colors))
    options = CoverOptions(region=region)
    predictor.steps = steps_for(options, classes, multilabel=multilabel, keep_confidence=False)
    return predictor


def quadrat() -> npt.NDArray[np.uint8]:
    """Grass on the left 60 pixels inside of `SQUARE`, and everywhere outside; sand elsewhere inside."""
    labels = np.ones((480, 640), np.uint8)
    filled(labels, SQUARE, 0)
    labels[:, 150:210] = 1
    labels[framed(SQUARE) == 1] = 2
    return labels


def pictured(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return (np.eye(3, dtype=np.uint8) * 255)[labels]


@pytest.mark.parametrize("tiles", [False, True], ids=["whole", "tiles"])
def test_cover_and_areas_inside_of_a_frame_stand_beside_those_of_the_whole(tiles: bool) -> None:
    labels = quadrat()
    predictor = measuring(
        RegionOptions(roi=parse_region("frame"), quadrat_size=parse_quadrat("0.5mx0.5m"), exclude_class=("frame",))
    )
    image = image_of(pictured(labels))
    if tiles:
        prediction = predict_in_tiles(predictor, image, *tiling_of(predictor, 160, 32))
    else:
        prediction = predictor.predict(image)
    region = prediction.region
    assert region is not None
    assert (region.method, region.error, region.area_m2) == (RegionMethod.FRAME, None, 0.25)
    assert distance(np.array(region.polygon), SQUARE) < 0.6
    sand, grass, frame = region.covers
    # 60 of 300 pixels of a square are a fifth.
    assert (sand.cover, grass.cover) == (pytest.approx(0.8, abs=0.003), pytest.approx(0.2, abs=0.003))
    assert grass.area_m2 == pytest.approx(0.05, abs=0.001)
    assert (frame.cover, frame.excluded) == (0, pytest.approx(0, abs=0.004))
    counted = labels[labels != 2]
    expected = [float((counted == 0).mean()), float((counted == 1).mean()), 0]
    assert [each.cover for each in prediction.covers] == pytest.approx(expected)
    assert prediction.covers[2].excluded == pytest.approx(float((labels == 2).mean()))


def test_a_rectangle_is_measured_in_pixels_of_the_photograph_also_in_a_shrunken_mask() -> None:
    labels = quadrat()
    predictor = measuring(RegionOptions(roi=parse_region("300,180,300,600")))
    image = image_of(pictured(labels), width=1280, height=960)
    predictor.mask_size = type(predictor.mask_size)("inference")
    region = predictor.predict(image).region
    assert region is not None
    assert region.polygon == ((150, 90), (300, 90), (300, 390), (150, 390))
    assert [each.cover for each in region.covers] == pytest.approx([0.6, 0.4, 0], abs=0.01)


def test_a_frame_that_is_not_found_takes_nothing_else_away() -> None:
    labels = np.ones((60, 80), np.uint8)
    prediction = measuring(RegionOptions(roi=parse_region("frame"))).predict(image_of(pictured(labels)))
    assert prediction.covers[1].cover == 1
    assert prediction.region is not None
    assert (prediction.region.polygon, prediction.region.covers) == ((), ())
    assert prediction.region.error is not None
    assert prediction.region.error.startswith("no frame shows (no pixel is of the frame's class): name the corners")


def test_the_whole_photograph_is_a_region_whatever_the_size_of_its_mask() -> None:
    predictor = measuring(RegionOptions(roi=parse_region("0,0,8256,5504")))
    predictor.mask_size = type(predictor.mask_size)("inference")
    region = predictor.predict(image_of(np.zeros((816, 1224, 3), np.uint8), width=8256, height=5504)).region
    assert region is not None
    assert (region.error, region.polygon) == (None, ((0, 0), (1224, 0), (1224, 816), (0, 816)))


def test_a_region_beyond_the_picture_is_stated() -> None:
    region = (
        measuring(RegionOptions(roi=parse_region("10,10,90,20")))
        .predict(image_of(np.zeros((60, 80, 3), np.uint8)))
        .region
    )
    assert region is not None
    assert "80×60" in str(region.error)


def test_classes_that_overlap_have_a_region_too_and_leave_none_out() -> None:
    predictor = measuring(RegionOptions(roi=parse_region("frame")), multilabel=True)
    labels = quadrat()
    region = predictor.predict(image_of(pictured(labels))).region
    assert region is not None
    assert region.covers[1].cover == pytest.approx(0.2, abs=0.003)
    with pytest.raises(OptionError, match="overlap"):
        measuring(RegionOptions(exclude_class=("frame",)), multilabel=True)

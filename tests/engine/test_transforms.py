"""Our transforms against PaddleSeg's own, and the bundles that are refused."""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.bundle.deploy_yaml import parse_transforms
from engine.errors import ImageError, InferenceError, UnsupportedTransformError
from engine.transforms import (
    MAX_SIDE,
    LimitLong,
    Padding,
    PaddingByAspectRatio,
    Resize,
    ResizeByLong,
    ResizeByShort,
    Transform,
    TransformRecord,
    apply_transforms,
    describe,
    restore_plane,
)

Records: TypeAlias = Sequence[Mapping[str, Any]]
Pixels: TypeAlias = npt.NDArray[np.uint8]

IMAGENET = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SIZES = [(1, 1), (1, 7), (9, 1), (2, 3), (5, 4), (17, 31), (64, 64), (97, 61), (120, 213)]
PIPELINES: list[Records] = [
    [],
    [{"type": "Normalize"}],
    [IMAGENET],
    [{"type": "Normalize", "mean": [0.1, 0.2, 0.3], "std": [0.001]}],
    [IMAGENET, {"type": "Normalize", "mean": (0,), "std": (2, 3, 4)}],
    [{"type": "Resize"}],
    [{"type": "Resize", "target_size": [33, 70]}, IMAGENET],
    [IMAGENET, {"type": "Resize", "target_size": (70, 33)}],
    *[
        [{"type": "Resize", "target_size": [48, 40], "interp": name}]
        for name in ("NEAREST", "CUBIC", "AREA", "LANCZOS4")
    ],
    [{"type": "Resize", "target_size": [300, 400], "keep_ratio": True}, IMAGENET],
    [{"type": "Resize", "target_size": [300, 400], "keep_ratio": True, "size_divisor": 32}],
    [{"type": "Resize", "target_size": [50, 41], "size_divisor": 8}, {"type": "Normalize"}],
    [{"type": "ResizeByLong", "long_size": 333}],
    [{"type": "ResizeByShort", "short_size": 25}],
    [{"type": "ResizeByShort", "short_size": 40, "max_size": 47}],
    [{"type": "ResizeByShort", "short_size": 40, "max_size": 50.5}, IMAGENET],
    [{"type": "LimitLong"}],
    [{"type": "LimitLong", "max_long": 60}],
    [{"type": "LimitLong", "min_long": 150, "max_long": None}, {"type": "Normalize"}],
    [{"type": "LimitLong", "min_long": 30, "max_long": 100}],
    [{"type": "Padding", "target_size": [230, 240]}, IMAGENET],
    [IMAGENET, {"type": "Padding", "target_size": [230, 240], "im_padding_value": 0, "label_padding_value": 3}],
    [{"type": "PaddingByAspectRatio"}],
    [{"type": "PaddingByAspectRatio", "aspect_ratio": 1.37, "im_padding_value": 12.25}, IMAGENET],
    [{"type": "ResizeRangeScaling", "min_value": 77, "max_value": 77}],
    [{"type": "ResizeStepScaling", "min_scale_factor": 1.5, "max_scale_factor": 1.5}],
    [
        {"type": "ResizeByLong", "long_size": 100},
        {"type": "Padding", "target_size": [128, 100]},
        IMAGENET,
        {"type": "PaddingByAspectRatio", "aspect_ratio": 0.5},
        {"type": "LimitLong", "max_long": 150},
        {"type": "ResizeStepScaling", "min_scale_factor": 2, "max_scale_factor": 2, "scale_step_size": 0},
    ],
]

Oracle: TypeAlias = Callable[[Records, Pixels], tuple[npt.NDArray[np.float32], list[TransformRecord]]]


@pytest.fixture(scope="module")
def paddleseg_compose() -> Oracle:
    """PaddleSeg's own Compose, built from the entries of deploy.yaml and fed as its deploy script feeds it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ops: Any = importlib.import_module("paddleseg.transforms")

    def compose(records: Records, pixels: Pixels) -> tuple[npt.NDArray[np.float32], list[TransformRecord]]:
        built = [getattr(ops, each["type"])(**{k: v for k, v in each.items() if k != "type"}) for each in records]
        bands = pixels.shape[2]
        stored = np.ascontiguousarray(pixels[..., ::-1] if bands == 3 else pixels).astype("float32")
        data = ops.Compose(built, img_channels=bands)({"img": stored})
        return data["img"], [TransformRecord(kind, *shape) for kind, shape in data["trans_info"]]

    return compose


@pytest.fixture(scope="module")
def reverse_transform() -> Callable[[npt.NDArray[Any], Sequence[TransformRecord], str], npt.NDArray[Any]]:
    """PaddleSeg's own reverse, on one plane."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle: Any = importlib.import_module("paddle")
        infer: Any = importlib.import_module("paddleseg.core.infer")
    paddle.set_device("cpu")

    def reverse(plane: npt.NDArray[Any], records: Sequence[TransformRecord], mode: str) -> npt.NDArray[Any]:
        trans_info = [(record.kind, (record.height, record.width)) for record in records]
        return infer.reverse_transform(paddle.to_tensor(plane[None, None]), trans_info, mode).numpy()[0, 0]

    return reverse


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- forward ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [2, 4, 7])
@pytest.mark.parametrize("end", [[], [{"type": "PaddingByAspectRatio", "aspect_ratio": 1.4}]], ids=["", "padded"])
def test_other_bands_than_three_equal_paddleseg(
    bands: int, end: list[Mapping[str, Any]], paddleseg_compose: Oracle
) -> None:
    values = [0.1 * band + 0.2 for band in range(bands)]
    records: list[Mapping[str, Any]] = [
        {"type": "ResizeByLong", "long_size": 90},
        {"type": "Normalize", "mean": values, "std": values[::-1]},
        *end,
    ]
    pixels = np.random.default_rng(bands).integers(0, 256, (61, 97, bands), dtype=np.uint8)
    feed, trans_info = apply_transforms(parse_transforms(records, where="deploy.yaml"), pixels, bands=bands)
    assert feed.shape[0] == bands
    if end and bands > 4:
        # OpenCV pads at most four bands, so that PaddleSeg fails; the values are those of the first four.
        bands, feed, pixels, values, back = 4, feed[:4], pixels[..., :4], values[:4], values[::-1][:4]
        records = [records[0], {"type": "Normalize", "mean": values, "std": back}, *end]
    expected, expected_records = paddleseg_compose(records, pixels)
    assert list(trans_info) == expected_records
    # OpenCV resizes more than four bands with other last bits than four.
    np.testing.assert_allclose(feed, expected, atol=1e-4)


def test_values_for_other_bands_are_refused() -> None:
    transforms = parse_transforms([IMAGENET], where="deploy.yaml")
    pixels = np.zeros((5, 5, 4), np.uint8)
    with pytest.raises(UnsupportedTransformError, match="the network takes 4 bands, and these are values for another"):
        apply_transforms(transforms, pixels, bands=4)
    with pytest.raises(ImageError, match="the image has 4 bands, and the network takes 6"):
        apply_transforms((), pixels, bands=6)


@pytest.mark.parametrize("records", PIPELINES, ids=lambda records: "+".join(each["type"] for each in records) or "none")
def test_equals_paddleseg(records: Records, paddleseg_compose: Oracle) -> None:
    transforms = parse_transforms(records, where="deploy.yaml")
    for height, width in SIZES:
        pixels = noise(height, width, seed=height * width)
        try:
            expected, expected_records = paddleseg_compose(records, pixels)
        except cv2.error:  # a side of 0 pixels
            with pytest.raises(ImageError, match="leaves nothing"):
                apply_transforms(transforms, pixels)
            continue
        feed, trans_info = apply_transforms(transforms, pixels)
        assert feed.dtype == np.float32
        assert feed.flags.c_contiguous
        assert list(trans_info) == expected_records
        np.testing.assert_array_equal(feed, expected)


def test_one_band_is_the_grey_that_paddleseg_reads(tmp_path: Path) -> None:
    pixels = noise(50, 70)
    cv2.imwrite(str(tmp_path / "colour.png"), pixels[..., ::-1])
    # Source: paddleseg 2.8.0, transforms.Compose(img_channels=1) reads with IMREAD_GRAYSCALE.
    grey = cv2.imread(str(tmp_path / "colour.png"), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    records = [{"type": "Resize", "target_size": [33, 41]}, {"type": "Normalize", "mean": [0.25], "std": [0.5]}]
    feed, undo = apply_transforms(parse_transforms(records, where="deploy.yaml"), pixels, bands=1)
    resized = cv2.resize(grey.astype(np.float32), (33, 41), interpolation=cv2.INTER_LINEAR)
    assert feed.shape == (1, 41, 33)
    # OpenCV reads PNG through libpng, which cuts off what cvtColor rounds: at most one level of 255.
    np.testing.assert_allclose(feed[0], (resized / 255 - 0.25) / 0.5, atol=1.01 / 255 / 0.5)
    weighted = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(apply_transforms((), pixels, bands=1)[0][0], weighted, atol=0.51)
    assert undo == (TransformRecord("resize", 50, 70),)
    # A grey picture keeps its values.
    equal_bands = np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(apply_transforms((), equal_bands, bands=1)[0][0], pixels[..., 0])


def test_values_for_three_bands_do_not_fit_one() -> None:
    transforms = parse_transforms([IMAGENET], where="deploy.yaml")
    with pytest.raises(
        UnsupportedTransformError, match="the network takes 1 bands, and these are values for another number"
    ):
        apply_transforms(transforms, noise(4, 4), bands=1)


@st.composite
def op(draw: st.DrawFn) -> dict[str, Any]:
    side = st.integers(8, 90)
    size = st.tuples(side, side)
    positive = st.floats(0.3, 3)
    entries = st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("Resize"), "target_size": size, "keep_ratio": st.booleans()},
            optional={
                "size_divisor": st.integers(1, 33),
                "interp": st.sampled_from(["NEAREST", "LINEAR", "CUBIC", "AREA", "LANCZOS4"]),
            },
        ),
        st.fixed_dictionaries({"type": st.just("ResizeByLong"), "long_size": side}),
        st.fixed_dictionaries({"type": st.just("ResizeByShort"), "short_size": side}, optional={"max_size": side}),
        st.fixed_dictionaries({"type": st.just("LimitLong")}, optional={"max_long": st.integers(40, 90)}),
        st.fixed_dictionaries({"type": st.just("LimitLong")}, optional={"min_long": side}),
        st.fixed_dictionaries({"type": st.just("Padding"), "target_size": st.just((400, 400))}),
        st.fixed_dictionaries({"type": st.just("PaddingByAspectRatio"), "aspect_ratio": positive}),
        st.fixed_dictionaries(
            {"type": st.just("Normalize")},
            optional={
                "mean": st.tuples(positive, positive, positive) | st.tuples(positive),
                "std": st.tuples(positive, positive, positive) | st.tuples(positive),
            },
        ),
        positive.map(lambda x: {"type": "ResizeStepScaling", "min_scale_factor": x, "max_scale_factor": x}),
        side.map(lambda x: {"type": "ResizeRangeScaling", "min_value": x, "max_value": x}),
    )
    return draw(entries)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(op(), max_size=4), height=st.integers(1, 80), width=st.integers(1, 80))
def test_any_combination_equals_paddleseg(
    paddleseg_compose: Oracle, records: list[dict[str, Any]], height: int, width: int
) -> None:
    pixels = noise(height, width)
    transforms = parse_transforms(records, where="deploy.yaml")
    try:
        expected, expected_records = paddleseg_compose(records, pixels)
    except (cv2.error, ValueError):  # a side of 0 pixels, or larger than the padding
        with pytest.raises(ImageError):
            apply_transforms(transforms, pixels)
        return
    feed, trans_info = apply_transforms(transforms, pixels)
    np.testing.assert_array_equal(feed, expected)
    assert list(trans_info) == expected_records


@pytest.mark.parametrize("size", [(866, 1154), (511, 1023)])
def test_equals_paddleseg_on_a_large_image(size: tuple[int, int], paddleseg_compose: Oracle) -> None:
    for records in ([IMAGENET], [{"type": "Resize", "target_size": [1024, 512]}, IMAGENET]):
        pixels = noise(*size)
        feed, _ = apply_transforms(parse_transforms(records, where="deploy.yaml"), pixels)
        np.testing.assert_array_equal(feed, paddleseg_compose(records, pixels)[0])


def test_short_side_does_not_depend_on_the_image_before() -> None:
    transforms = (ResizeByShort(50, max_size=60),)
    wide, square = noise(20, 200), noise(40, 40)
    alone, _ = apply_transforms(transforms, square)
    apply_transforms(transforms, wide)
    after, _ = apply_transforms(transforms, square)
    np.testing.assert_array_equal(after, alone)
    assert after.shape == (3, 50, 50)


def test_pixels_are_not_changed_and_may_be_any_view(paddleseg_compose: Oracle) -> None:
    pixels = noise(20, 30)
    kept = pixels.copy()
    for view in (pixels[::2, ::3], pixels[::-1, :, ::-1], np.asfortranarray(pixels)):
        for records in ([IMAGENET], [{"type": "Resize", "target_size": [12, 10]}]):
            feed, _ = apply_transforms(parse_transforms(records, where="deploy.yaml"), view)
            np.testing.assert_array_equal(feed, paddleseg_compose(records, np.ascontiguousarray(view))[0])
    np.testing.assert_array_equal(pixels, kept)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(pixels: npt.NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"uint8\[H, W, C\].*not .*decode"):
        apply_transforms((), pixels)


def test_an_image_larger_than_the_padding_is_refused_with_the_way_out() -> None:
    for size in ((10, 41), (31, 40)):
        with pytest.raises(ImageError, match=rf"{size[1]}×{size[0]}.*40×30.*max-img-size"):
            apply_transforms((Padding((40, 30)),), noise(*size))


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        (ResizeByLong(10), (1, 1000)),
        (ResizeByShort(100, max_size=10), (1, 1000)),
        (LimitLong(max_long=10), (1000, 1)),
        (Resize((10, 10), keep_ratio=True, size_divisor=4), (1, 1000)),
    ],
)
def test_a_side_of_zero_pixels_is_refused(transform: Transform, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=rf"{type(transform).__name__}: .*{size[1]}×{size[0]}.*leaves nothing; crop"):
        apply_transforms((transform,), noise(*size))


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        (ResizeByShort(1000), (1, 70)),
        (Resize((MAX_SIDE, MAX_SIDE)), (4, 4)),
        (Padding((MAX_SIDE, MAX_SIDE)), (4, 4)),
        (PaddingByAspectRatio(1e6), (4, 4)),
    ],
)
def test_a_result_past_the_limit_is_refused(transform: Transform, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"more than the limit of 65536 pixels a side.*max-img-size"):
        apply_transforms((transform,), noise(*size))


# ---- backward ---------------------------------------------------------------------------------------------------

PLANE_SIZES = [(1, 1), (1, 9), (8, 1), (2, 3), (33, 47), (64, 48), (108, 144), (216, 288)]


def records_for(height: int, width: int) -> list[list[TransformRecord]]:
    resize, padding = "resize", "padding"
    inner = (max(1, height - 3), max(1, width - 2))
    return [
        [],
        [TransformRecord(resize, height, width)],
        [TransformRecord(padding, *inner)],
        *[[TransformRecord(resize, *size)] for size in ((1, 1), (13, 11), (1, 40), (200, 333), (512, 1023))],
        [TransformRecord(resize, 91, 77), TransformRecord(padding, *inner)],
        [TransformRecord(padding, 40, 20), TransformRecord(resize, 50, 60), TransformRecord(padding, *inner)],
    ]


@pytest.mark.parametrize("size", PLANE_SIZES)
def test_linear_restores_as_paddleseg_does(size: tuple[int, int], reverse_transform: Callable[..., Any]) -> None:
    plane = np.random.default_rng(1).normal(scale=10, size=size).astype(np.float32)
    tolerance = 1e-4 * max(1.0, float(np.ptp(plane)))
    for records in records_for(*size):
        restored = restore_plane(plane, records, interpolation="linear")
        expected = reverse_transform(plane, records, "bilinear")
        assert restored.dtype == np.float32
        assert restored.shape == expected.shape
        np.testing.assert_allclose(restored, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
@pytest.mark.parametrize("size", PLANE_SIZES)
def test_nearest_picks_the_pixels_that_paddleseg_picks(
    size: tuple[int, int], dtype: type[Any], reverse_transform: Callable[..., Any]
) -> None:
    plane = np.arange(size[0] * size[1]).reshape(size).astype(dtype)
    for records in records_for(*size):
        restored = restore_plane(plane, records, interpolation="nearest")
        assert restored.dtype == dtype
        np.testing.assert_array_equal(restored, reverse_transform(plane, records, "nearest"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 2100), target=st.integers(1, 2600))
def test_nearest_agrees_at_every_ratio(reverse_transform: Callable[..., Any], count: int, target: int) -> None:
    row = np.arange(count, dtype=np.float32)[np.newaxis]
    records = [TransformRecord("resize", 1, target)]
    expected = reverse_transform(row, records, "nearest")
    np.testing.assert_array_equal(restore_plane(row, records, interpolation="nearest"), expected)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int64])
def test_nearest_keeps_any_dtype(dtype: type[Any]) -> None:
    plane = np.array([[0, 1], [1, 0]]).astype(dtype)
    restored = restore_plane(plane, [TransformRecord("resize", 4, 4)], interpolation="nearest")
    assert restored.dtype == dtype
    np.testing.assert_array_equal(restored, plane.repeat(2, axis=0).repeat(2, axis=1))


def test_linear_takes_only_float32() -> None:
    with pytest.raises(TypeError, match="float32 planes, not int64"):
        restore_plane(np.zeros((2, 2), np.int64), [], interpolation="linear")


@pytest.mark.parametrize("size", [(4, 5), (5, 4)])
def test_a_plane_smaller_than_its_crop_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InferenceError, match=r"smaller than the 5×5 that lie inside its padding; export"):
        restore_plane(np.zeros(size, np.uint8), [TransformRecord("padding", 5, 5)], interpolation="nearest")


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(op().filter(lambda each: "Scaling" not in each["type"]), max_size=4),
    height=st.integers(1, 80),
    width=st.integers(1, 80),
)
def test_what_is_restored_has_the_size_of_the_image(records: list[dict[str, Any]], height: int, width: int) -> None:
    try:
        feed, trans_info = apply_transforms(parse_transforms(records, where="deploy.yaml"), noise(height, width))
    except ImageError:
        return
    assert restore_plane(feed[0], trans_info, interpolation="linear").shape == (height, width)
    assert restore_plane(feed[0] > 0, trans_info, interpolation="nearest").shape == (height, width)


# ---- inspection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"type": "Resize"}, "Resize 512×512 (w×h)"),
        (
            {"type": "Resize", "target_size": [8, 4], "keep_ratio": True, "size_divisor": 2, "interp": "AREA"},
            "Resize 8×4 (w×h), ratio kept, sides a multiple of 2, AREA",
        ),
        (IMAGENET, "Normalize mean 0.485/0.456/0.406, std 0.229/0.224/0.225"),
        ({"type": "ResizeByLong", "long_size": 9}, "ResizeByLong long side 9"),
        ({"type": "ResizeByShort", "short_size": 9}, "ResizeByShort short side 9"),
        (
            {"type": "ResizeByShort", "short_size": 9, "max_size": 99},
            "ResizeByShort short side 9, long side at most 99",
        ),
        ({"type": "LimitLong"}, "LimitLong long side not limited"),
        ({"type": "LimitLong", "min_long": 8, "max_long": 9}, "LimitLong long side at least 8 and at most 9"),
        ({"type": "Padding", "target_size": [8, 4]}, "Padding 8×4 (w×h) with 127.5"),
        ({"type": "PaddingByAspectRatio", "im_padding_value": 0}, "PaddingByAspectRatio 1 (w/h) with 0"),
        ({"type": "ResizeRangeScaling", "min_value": 9, "max_value": 9}, "ResizeRangeScaling long side 9"),
        ({"type": "ResizeStepScaling", "min_scale_factor": 0.5, "max_scale_factor": 0.5}, "ResizeStepScaling by 0.5"),
    ],
)
def test_describe(entry: dict[str, Any], line: str) -> None:
    assert describe(parse_transforms([entry], where="deploy.yaml")[0]) == line

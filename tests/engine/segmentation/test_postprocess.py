"""Masks against PaddleSeg's own reverse and argmax, and the outputs that are refused."""

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.errors import InferenceError, OptionError
from engine.segmentation.postprocess import OutputKind, class_count, cover, output_kind, segment
from engine.transforms import TransformRecord

Reverse: TypeAlias = Callable[[npt.NDArray[Any], Sequence[TransformRecord]], npt.NDArray[np.float32]]

RECORDS = [
    [],
    [TransformRecord("resize", 61, 83)],
    [TransformRecord("resize", 9, 11)],
    [TransformRecord("padding", 20, 31)],
    [TransformRecord("resize", 77, 50), TransformRecord("padding", 20, 31)],
    [TransformRecord("padding", 60, 40), TransformRecord("resize", 70, 80)],
]


@pytest.fixture(scope="module")
def restored_by_paddleseg() -> Reverse:
    """PaddleSeg's own reverse_transform on [C, H, W], bilinear."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle: Any = importlib.import_module("paddle")
        infer: Any = importlib.import_module("paddleseg.core.infer")
    paddle.set_device("cpu")

    def reverse(planes: npt.NDArray[Any], records: Sequence[TransformRecord]) -> npt.NDArray[np.float32]:
        trans_info = [(record.kind, (record.height, record.width)) for record in records]
        return infer.reverse_transform(paddle.to_tensor(planes[None]), trans_info, "bilinear").numpy()[0]

    return reverse


def smooth(classes: int, height: int = 24, width: int = 36, seed: int = 0) -> npt.NDArray[np.float32]:
    """Logits of a few blobs, as networks give them: no pixel is a tie."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(height)[:, np.newaxis] / 6, np.arange(width) / 6
    phases = rng.uniform(0, 6, (classes, 2, 1, 1))
    waves = np.sin(rows + phases[:, 0]) * np.cos(columns * 0.7 + phases[:, 1])
    return (3 * waves + rng.normal(scale=0.1, size=waves.shape)).astype(np.float32)


# ---- kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "multilabel", "kind"),
    [
        (np.zeros((2, 4, 5), np.int32), False, OutputKind.MASK),
        (np.zeros((2, 4, 5), np.uint8), True, OutputKind.MASK),
        (np.zeros((2, 4, 5), np.bool_), False, OutputKind.MASK),
        (np.zeros((2, 1, 4, 5), np.int64), False, OutputKind.MASK),
        (np.full((2, 4, 5), 7, np.float32), False, OutputKind.MASK),
        (np.zeros((2, 3, 4, 5), np.float32), False, OutputKind.SCORES),
        (np.zeros((2, 3, 4, 5), np.float16), False, OutputKind.SCORES),
        (np.zeros((2, 1, 4, 5), np.float64), False, OutputKind.PROBABILITY),
        (np.zeros((2, 3, 4, 5), np.float32), True, OutputKind.MULTILABEL),
        (np.zeros((2, 1, 4, 5), np.float32), True, OutputKind.MULTILABEL),
    ],
)
def test_kind_is_read_from_the_output(output: npt.NDArray[Any], multilabel: bool, kind: OutputKind) -> None:
    assert output_kind(output, multilabel=multilabel) is kind


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (np.zeros((4, 5), np.float32), r"float32\[4, 5\] is not a segmentation"),
        (np.zeros((1, 2, 3, 4, 5), np.float32), r"float32\[1, 2, 3, 4, 5\] is not a segmentation"),
        (np.zeros((1, 2, 0, 5), np.float32), r"\[1, 2, 0, 5\] is not a segmentation"),
        (np.zeros((1, 2, 4, 5), np.int32), r"int32\[1, 2, 4, 5\] has whole numbers in several channels"),
        (np.full((1, 4, 5), 0.5, np.float32), r"float32\[1, 4, 5\] has the rank of a mask, but not whole"),
        (np.full((1, 4, 5), np.nan, np.float32), "not whole class indices"),
        (np.zeros((1, 2, 4, 5), np.complex64), "no type that a segmentation has"),
    ],
)
def test_what_is_no_segmentation_is_refused(output: npt.NDArray[Any], complaint: str) -> None:
    with pytest.raises(InferenceError, match=rf"{complaint}.*expected .*\[N, classes, H, W\].*export"):
        output_kind(output, multilabel=False)


@pytest.mark.parametrize(
    ("kind", "channels", "known", "count"),
    [
        (OutputKind.MASK, 1, 4, 4),
        (OutputKind.PROBABILITY, 1, 0, 2),
        (OutputKind.PROBABILITY, 1, 3, 3),
        (OutputKind.SCORES, 19, 4, 19),
        (OutputKind.SCORES, 3, 4, 4),
        (OutputKind.MULTILABEL, 5, 0, 5),
    ],
)
def test_class_count(kind: OutputKind, channels: int, known: int, count: int) -> None:
    assert class_count(np.zeros((2, channels, 3, 3), np.float32), kind, known) == count
    assert class_count(np.zeros((channels, 3, 3), np.float32), kind, known) == count


# ---- scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 6, 19])
@pytest.mark.parametrize("records", RECORDS)
def test_scores_equal_paddleseg(classes: int, records: list[TransformRecord], restored_by_paddleseg: Reverse) -> None:
    scores = smooth(classes, seed=classes)
    restored = restored_by_paddleseg(scores, records)
    mask = segment(scores, OutputKind.SCORES, records)
    assert mask.dtype == np.uint8
    lowest, highest = np.sort(restored, axis=0)[-2:]
    clear = highest - lowest > 1e-4  # closer than this, the last bits of the interpolation decide
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask[clear], restored.argmax(axis=0)[clear])


@pytest.mark.parametrize("records", RECORDS)
def test_probabilities_give_the_mask_of_paddleseg(
    records: list[TransformRecord], restored_by_paddleseg: Reverse
) -> None:
    exponents = np.exp(smooth(4))
    softmax = exponents / exponents.sum(axis=0)
    restored = restored_by_paddleseg(softmax, records)
    mask = segment(softmax, OutputKind.SCORES, records)
    clear = np.ptp(np.sort(restored, axis=0)[-2:], axis=0) > 1e-4
    np.testing.assert_array_equal(mask[clear], restored.argmax(axis=0)[clear])


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.sampled_from([-1.5, -1.0, 0.0, 0.25, 2.0]),
    )
)
def test_the_first_maximum_wins_as_in_argmax(scores: npt.NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(segment(scores, OutputKind.SCORES, []), scores.argmax(axis=0))


def test_half_and_double_precision_are_read_as_single() -> None:
    scores = smooth(3).astype(np.float16)
    expected = scores.argmax(axis=0)
    for dtype in (np.float16, np.float64):
        np.testing.assert_array_equal(segment(scores.astype(dtype), OutputKind.SCORES, []), expected)


def test_past_256_classes_the_mask_is_uint16() -> None:
    scores = np.zeros((257, 2, 2), np.float32)
    scores[256, 0, 1] = 1
    mask = segment(scores, OutputKind.SCORES, [TransformRecord("resize", 4, 4)])
    assert mask.dtype == np.uint16
    assert mask.max() == 256
    assert segment(scores[:256], OutputKind.SCORES, []).dtype == np.uint8


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("records", [[], [TransformRecord("padding", 20, 30)]])
def test_the_output_is_not_changed(classes: int, records: list[TransformRecord]) -> None:
    scores = smooth(classes)
    kept = scores.copy()
    segment(scores, OutputKind.SCORES, records)
    np.testing.assert_array_equal(scores, kept)


@pytest.mark.parametrize("kind", [OutputKind.SCORES, OutputKind.MULTILABEL])
def test_values_that_are_not_finite_are_counted_and_placed(kind: OutputKind) -> None:
    scores = smooth(12)
    scores[2, 0, :3] = np.nan
    scores[5, 1, 1] = np.inf
    with pytest.raises(InferenceError, match=r"3 NaN and 1 infinite values, in class planes 2, 5; choose precision"):
        segment(scores, kind, [])
    scores[:, 3, 3] = -np.inf
    with pytest.raises(InferenceError, match=r"13 infinite values, in class planes 0, 1, 2, 3, 4, 5, 6, 7, …;"):
        segment(scores, kind, [])


def test_what_overflows_single_precision_counts_as_infinite() -> None:
    with pytest.raises(InferenceError, match="0 NaN and 4 infinite values, in class planes 1;"):
        segment(np.stack([np.zeros((2, 2)), np.full((2, 2), 1e300)]), OutputKind.SCORES, [])


# ---- masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float16])
def test_a_mask_is_restored_by_nearest(dtype: type[Any]) -> None:
    mask = np.array([[0, 1], [1, 0]]).astype(dtype)
    restored = segment(mask, OutputKind.MASK, [TransformRecord("resize", 4, 6)])
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, np.array([[0, 1], [1, 0]]).repeat(2, axis=0).repeat(3, axis=1))
    np.testing.assert_array_equal(segment(mask[np.newaxis], OutputKind.MASK, []), mask)


@pytest.mark.parametrize(("index", "dtype"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_a_mask_is_as_wide_as_its_highest_index(index: int, dtype: type[Any]) -> None:
    mask = segment(np.full((2, 2), index, np.int64), OutputKind.MASK, [])
    assert mask.dtype == dtype
    assert mask.max() == index


@pytest.mark.parametrize(
    ("value", "dtype", "complaint"),
    [
        (-1, np.int32, "class index -1; indices start at 0"),
        (-1, np.float32, "class index -1; indices start at 0"),
        (65536, np.int64, "class index 65536; a mask holds at most 65536"),
        (np.inf, np.float32, "4 infinite values"),
    ],
)
def test_indices_that_no_class_has_are_refused(value: float, dtype: type[Any], complaint: str) -> None:
    with pytest.raises(InferenceError, match=complaint):
        segment(np.full((2, 2), value).astype(dtype), OutputKind.MASK, [])


# ---- thresholds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("records", RECORDS)
def test_a_probability_map_is_interpolated_and_then_compared(
    threshold: float, records: list[TransformRecord], restored_by_paddleseg: Reverse
) -> None:
    probabilities = 1 / (1 + np.exp(-smooth(1)))
    restored = restored_by_paddleseg(probabilities, records)[0]
    mask = segment(probabilities, OutputKind.PROBABILITY, records, threshold=threshold)
    assert mask.dtype == np.uint8
    clear = np.abs(restored - threshold) > 1e-4
    np.testing.assert_array_equal(mask[clear], (restored > threshold)[clear])


def test_a_probability_that_equals_the_threshold_is_background() -> None:
    assert not segment(np.full((1, 2, 2), 0.5, np.float32), OutputKind.PROBABILITY, []).any()


def test_probabilities_may_leave_their_range_by_a_rounding_only() -> None:
    probabilities = np.array([[[-0.0005, 1.0005]]], np.float32)
    assert segment(probabilities, OutputKind.PROBABILITY, []).tolist() == [[0, 1]]
    for outside in (-0.01, 1.01):
        with pytest.raises(
            InferenceError, match=r"values from .* looks like logits; .* export the model with a sigmoid"
        ):
            segment(np.full((1, 2, 2), outside, np.float32), OutputKind.PROBABILITY, [])
    with pytest.raises(InferenceError, match="4 NaN"):
        segment(np.full((1, 2, 2), np.nan, np.float32), OutputKind.PROBABILITY, [])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("records", RECORDS)
def test_multilabel_planes_are_independent(
    threshold: float, records: list[TransformRecord], restored_by_paddleseg: Reverse
) -> None:
    logits = smooth(3)
    sigmoid = 1 / (1 + np.exp(-restored_by_paddleseg(logits, records)))
    planes = segment(logits, OutputKind.MULTILABEL, records, threshold=threshold)
    assert planes.dtype == np.bool_
    assert planes.shape == sigmoid.shape
    clear = np.abs(sigmoid - threshold) > 1e-4
    np.testing.assert_array_equal(planes[clear], (sigmoid > threshold)[clear])


@pytest.mark.parametrize("kind", list(OutputKind))
@pytest.mark.parametrize("threshold", [0, 1, -0.5, 50, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(kind: OutputKind, threshold: float) -> None:
    with pytest.raises(OptionError, match=r"threshold is .*between 0 and 1"):
        segment(np.zeros((1, 2, 2), np.float32), kind, [], threshold=threshold)


# ---- any output -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([OutputKind.SCORES, OutputKind.MULTILABEL, OutputKind.MASK]),
    classes=st.integers(1, 4),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    source=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_a_result_has_the_size_of_the_image_and_its_classes(
    kind: OutputKind, classes: int, size: tuple[int, int], source: tuple[int, int]
) -> None:
    scores = np.random.default_rng(classes).normal(size=(classes, *size)).astype(np.float32)
    output = scores.argmax(axis=0) if kind is OutputKind.MASK else scores
    result = segment(output, kind, [TransformRecord("resize", *source)])
    assert result.shape[-2:] == source
    shares = cover(result, classes)
    assert len(shares) == classes
    assert all(0 <= share <= 1 for share in shares)
    if kind is not OutputKind.MULTILABEL:
        assert sum(shares) == pytest.approx(1, abs=1e-12)


# ---- cover ------------------------------------------------------------------------------------------------------


def test_cover_counts_every_pixel_of_a_large_mask() -> None:
    mask = np.random.default_rng(0).integers(0, 5, (1100, 1000)).astype(np.uint8)
    assert cover(mask, 7) == tuple((np.bincount(mask.ravel(), minlength=7) / mask.size).tolist())


def test_cover_reports_indices_past_the_known_classes() -> None:
    assert cover(np.array([[1, 300]], np.uint16), 2)[300] == 0.5
    assert len(cover(np.array([[1, 300]], np.uint16), 2)) == 301


def test_cover_of_multilabel_planes_is_independent_and_filled_up() -> None:
    planes = np.array([[[True, True]], [[True, False]]])
    assert cover(planes, 2) == (1.0, 0.5)
    assert cover(planes, 4) == (1.0, 0.5, 0.0, 0.0)
    assert cover(planes, 1) == (1.0, 0.5)

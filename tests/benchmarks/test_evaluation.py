"""Scores against PaddleSeg's own metrics and hand arithmetic."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import doctest
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.accuracy import evaluation
from benchmarks.accuracy.evaluation import LabelledImage, class_ious, confusion_matrix, evaluate
from converters.agreement import mean_iou
from engine import Bundle, ImageError, InferenceError, OptionError, Predictor, SegmentationClass, SourceImage
from engine.bundle.bundle import DeclaredOutput
from engine.images import Capture
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime, Network
from tests.conftest import vendor_warnings_ignored

Indices = npt.NDArray[np.uint8]


def named(count: int) -> tuple[SegmentationClass, ...]:
    return tuple(SegmentationClass(f"urn:{index}", f"class {index}", None) for index in range(count))


def predictor_of(network: Network, *, classes: int = 3, multilabel: bool = False) -> Predictor:
    bundle = Bundle(
        name="test",
        source=Path("test.tgz"),
        folder=Path("test"),
        digest="d" * 64,
        classes=named(classes),
        transforms=(),
        paddle=None,
        onnx=(),
        declared=DeclaredOutput(None, None, None),
        multilabel=multilabel,
        notes=(),
    )
    return Predictor(bundle, FakeRuntime(network))


def red_is_the_class(x: Tensor) -> Tensor:
    """Scores of three classes; the red band, 0-2, says which is the strongest."""
    return (x[:, :1] == np.arange(3).reshape(1, 3, 1, 1)).astype(np.float32)


def always_the_first(x: Tensor) -> Tensor:
    return np.eye(3, dtype=np.float32)[0].reshape(1, 3, 1, 1) * np.ones_like(x[:, :1])


def labelled(found: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], name: str = "a") -> LabelledImage:
    """A picture in which `red_is_the_class` finds `found`."""
    red = np.array(found, np.uint8)
    pixels = np.stack([red, red * 0, red * 0], axis=-1)
    image = SourceImage(pixels=pixels, width=red.shape[1], height=red.shape[0], capture=Capture())
    return LabelledImage(f"{name}.jpg", image, f"{name}.png", np.array(labels, np.uint8))


def test_as_paddleseg_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    found = random.integers(0, 4, (3, 37, 53)).astype(np.uint8)
    labels = np.where(random.random(found.shape) < 0.6, found, random.integers(0, 4, found.shape)).astype(np.uint8)
    labels[random.random(found.shape) < 0.1] = 255
    with vendor_warnings_ignored():
        import paddle
        from paddleseg.utils import metrics

        # PaddleSeg 2.8.0 concatenates sums, which in Paddle 3 have no axis left to do that along.
        monkeypatch.setattr(paddle, "concat", paddle.stack)
        areas = metrics.calculate_area(
            paddle.to_tensor(found.astype(np.int64)), paddle.to_tensor(labels.astype(np.int64)), 4
        )
        expected_ious, expected_miou = metrics.mean_iou(*areas)
        _, expected_accuracy = metrics.accuracy(areas[0], areas[1])
    confusion = sum(
        (confusion_matrix(one, other, 4) for one, other in zip(found, labels, strict=True)),
        start=np.zeros((4, 4), np.int64),
    )
    assert class_ious(confusion) == pytest.approx(tuple(expected_ious))
    assert mean_iou(class_ious(confusion)) == pytest.approx(expected_miou)
    assert confusion.trace() / confusion.sum() == pytest.approx(expected_accuracy)


def test_scores_by_hand() -> None:
    samples = [
        # Judged: 0→0, 0→1, 1→1; the fourth pixel is not.
        labelled([[0, 1, 1, 2]], [[0, 0, 1, 255]], "a"),
        labelled([[1, 1], [0, 1]], [[1, 1], [1, 1]], "b"),
    ]
    result = evaluate([predictor_of(red_is_the_class)], samples)
    (score,) = result.scores
    assert (score.images, score.pixels) == (2, 7)
    # Class 0: one pixel in common of one labelled too many and one found too many; class 1: four in common, of six.
    assert score.class_iou == (pytest.approx(1 / 3), pytest.approx(4 / 6), None)
    assert score.miou == pytest.approx((1 / 3 + 4 / 6) / 2)
    assert score.accuracy == pytest.approx(5 / 7)
    # Image a: labelled 2/3 and 1/3, found 1/3 and 2/3. Image b: labelled 0 and 1, found 1/4 and 3/4.
    first, second, third = score.cover_error
    assert (first.mean, first.max, first.worst_image) == (
        pytest.approx((1 / 3 + 1 / 4) / 2),
        pytest.approx(1 / 3),
        "a.jpg",
    )
    assert (second.mean, second.max) == (pytest.approx((1 / 3 + 1 / 4) / 2), pytest.approx(1 / 3))
    assert (third.mean, third.max) == (0, 0)
    assert [each.name for each in result.classes] == ["class 0", "class 1", "class 2"]


def test_several_predictors_side_by_side() -> None:
    samples = iter([labelled([[0, 1, 2, 2]], [[0, 1, 2, 2]])])
    right, wrong = evaluate([predictor_of(red_is_the_class), predictor_of(always_the_first)], samples).scores
    assert (right.miou, right.accuracy) == (1, 1)
    assert wrong.class_iou == (0.25, 0, 0)
    assert wrong.accuracy == 0.25
    assert [each.max for each in wrong.cover_error] == [0.75, 0.25, 0.5]


def test_an_image_without_judged_pixels_does_not_count() -> None:
    samples = [labelled([[0, 1]], [[255, 255]], "blank"), labelled([[0, 1]], [[0, 1]], "full")]
    (score,) = evaluate([predictor_of(red_is_the_class)], samples).scores
    assert (score.images, score.pixels, score.miou) == (1, 2, 1)
    with pytest.raises(ImageError, match="no pixel can be judged"):
        evaluate([predictor_of(red_is_the_class)], samples[:1])


def test_labels_without_a_class_name_file_and_value() -> None:
    with pytest.raises(ImageError, match=r"b\.png: holds the class index 3, but the model's classes are 0 to 2"):
        evaluate([predictor_of(red_is_the_class)], [labelled([[0]], [[3]], "b")])


def test_more_channels_than_names_are_classes_too() -> None:
    result = evaluate([predictor_of(red_is_the_class, classes=1)], [labelled([[0, 2]], [[0, 2]])])
    assert [each.name for each in result.classes] == ["class 0", "class-1", "class-2"]
    assert result.scores[0].class_iou == (1, None, 1)


def test_overlapping_classes_are_refused() -> None:
    with pytest.raises(OptionError, match="is multilabel"):
        evaluate([predictor_of(red_is_the_class, multilabel=True)], [labelled([[0]], [[0]])])


def test_different_numbers_of_classes_are_refused() -> None:
    more = predictor_of(red_is_the_class, classes=5)
    with pytest.raises(OptionError, match=r"different numbers of classes .*: 3, .*: 5"):
        evaluate([predictor_of(red_is_the_class), more], [labelled([[0]], [[0]])])


def test_masks_of_unknown_classes_are_refused() -> None:
    def as_mask(x: Tensor) -> Tensor:
        return x[:, 0].astype(np.int32)

    sample = labelled([[0, 2]], [[0, 1]])
    with pytest.raises(OptionError, match=r"names no classes, .*add `classes` to meta\.json"):
        evaluate([predictor_of(as_mask, classes=0)], [sample])
    with pytest.raises(InferenceError, match="the network finds class 2, but the bundle names 2 classes"):
        evaluate([predictor_of(as_mask, classes=2)], [sample])


def test_the_examples_of_the_docstrings() -> None:
    failed, attempted = doctest.testmod(evaluation)
    assert (failed, attempted) == (0, 3)


def test_classes_without_bound_are_not_counted_against_each_other() -> None:
    predictor = predictor_of(red_is_the_class, classes=65536)
    with pytest.raises(OptionError, match=r"has 65536 classes, and labels judge a bundle of at most 1024"):
        evaluate([predictor], [labelled([[0, 1]], [[0, 1]], "a")])

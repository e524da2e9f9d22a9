"""The certificate's figures, by hand, with functions in the place of networks."""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.parity import ParityError, ParityLimits, compare, generated_images, require_parity
from engine import Bundle, Predictor, SegmentationClass, SourceImage
from engine.bundle.bundle import DeclaredOutput
from engine.errors import ConversionError
from engine.images import Capture
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.transforms import Padding

Network = Callable[[NDArray[np.float32]], NDArray[np.generic]]


def predictor(
    network: Network,
    *,
    multilabel: bool = False,
    padding: int | None = None,
    names: Sequence[str] = ("sand", "grass", "frame"),
) -> Predictor:
    classes = tuple(SegmentationClass(f"urn:{name}", name, None) for name in names)
    bundle = Bundle(
        name="fake",
        source=Path("fake.tgz"),
        folder=Path(),
        digest="",
        classes=classes,
        transforms=() if padding is None else (Padding((padding, padding)),),
        paddle=None,
        onnx=(),
        declared=DeclaredOutput(None, None, None),
        multilabel=multilabel,
        notes=(),
    )
    return Predictor(bundle, FakeRuntime(network))


def picture(width: int = 40, height: int = 25) -> SourceImage:
    return SourceImage(np.zeros((height, width, 3), np.uint8), width, height, Capture())


def mask_network(mask: NDArray[np.int64]) -> Network:
    return lambda tensor: np.broadcast_to(mask, (tensor.shape[0], *mask.shape))


def test_equal_masks_agree_in_everything() -> None:
    mask = np.zeros((25, 40), np.int64)
    mask[:, 20:] = 1
    report = compare(predictor(mask_network(mask)), predictor(mask_network(mask)), [("a", picture())])
    assert (report.images, report.pixel_agreement, report.mismatched_ppm) == (1, 1.0, 0.0)
    assert report.class_iou == {"sand": 1.0, "grass": 1.0}
    assert (report.min_class_iou, report.max_cover_error) == (1.0, 0.0)
    assert (report.max_abs_logit_error, report.logit_range) == (None, None)
    require_parity(report, ParityLimits(0.0, 1.0, 0.0), where="fake.tgz")


def test_figures_by_hand_over_two_images() -> None:
    expected = np.zeros((25, 40), np.int64)
    expected[:, 20:] = 1
    actual = expected.copy()
    actual[0, :10] = 1
    same = mask_network(expected)
    calls = iter([same, mask_network(actual)])
    report = compare(
        predictor(same), predictor(lambda tensor: next(calls)(tensor)), [("good", picture()), ("bad", picture())]
    )
    # 10 of 2000 pixels differ; grass: 1000 of 1010; sand: 990 of 1000; grass covers 510 not 500 of 1000 in the second.
    assert report.images == 2
    assert report.mismatched_ppm == pytest.approx(5000)
    assert report.class_iou == pytest.approx({"sand": 990 / 1000, "grass": 1000 / 1010})
    assert report.min_class_iou == pytest.approx(0.99)
    assert report.max_cover_error == pytest.approx(0.01)
    assert report.worst_image == "bad"
    with pytest.raises(
        ParityError, match=r"5000\.0 mismatched pixels per million, at most 100.*worst on bad"
    ) as caught:
        require_parity(report, ParityLimits(), where="fake.tgz")
    assert caught.value.report is report


def test_a_large_class_index_takes_no_table_of_all_pairs_of_classes() -> None:
    expected = np.zeros((25, 40), np.int64)
    expected[:, 20:] = 20002
    actual = expected.copy()
    actual[0, 20:25] = 20001
    tracemalloc.start()
    report = compare(predictor(mask_network(expected)), predictor(mask_network(actual)), [("a", picture())])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.class_iou == pytest.approx({"sand": 1.0, "class-20001": 0.0, "class-20002": 495 / 500})
    assert report.mismatched_ppm == pytest.approx(5000)
    # 20003 counts of 8 bytes take 160 kilobytes, and 20003² of them 3.2 gigabytes.
    assert peak_bytes < 100e6


def test_the_candidate_runs_as_many_images_at_once_as_are_asked_for() -> None:
    mask = np.zeros((25, 40), np.int64)
    sizes: dict[str, list[int]] = {"reference": [], "candidate": []}

    def counted(name: str) -> Network:
        def network(tensor: Tensor) -> Tensor:
            sizes[name].append(len(tensor))
            # In a run of several, every image but the first gets the mask of another class.
            return np.stack([mask, *[mask + 1] * (len(tensor) - 1)])

        return network

    images = [(name, picture()) for name in "abc"]
    report = compare(predictor(counted("reference")), predictor(counted("candidate")), images, batch_size=2)
    assert sizes == {"reference": [1, 1, 1], "candidate": [2, 2]}
    assert report.images == 3
    assert report.mismatched_ppm == pytest.approx(1e6 / 3)
    assert report.worst_image == "b"


def test_a_class_does_not_hide_behind_another_of_its_name() -> None:
    expected = np.zeros((25, 40), np.int64)
    expected[:, 20:] = 1
    actual = np.ones((25, 40), np.int64)
    expected[:5], actual[:5] = 2, 2
    names = ("sand", "reef", "sand")
    original, candidate = (predictor(mask_network(mask), names=names) for mask in (expected, actual))
    report = compare(original, candidate, [("a", picture())])
    # Class 0 covers 400 of 1000 pixels and none is found; class 2, of the same name, is found whole.
    assert report.class_iou == {"sand (class 0)": 0.0, "reef": 0.5, "sand (class 2)": 1.0}
    assert report.min_class_iou == 0.0


def test_a_rare_class_is_reported_but_does_not_decide() -> None:
    expected = np.zeros((50, 40), np.int64)
    expected[0, 0] = 2  # 1 of 2000 pixels: below a thousandth
    actual = np.zeros((50, 40), np.int64)
    report = compare(predictor(mask_network(expected)), predictor(mask_network(actual)), [("a", picture(height=50))])
    assert report.class_iou == pytest.approx({"sand": 1999 / 2000, "frame": 0.0})
    assert report.gated_classes == ("sand",)
    assert report.min_class_iou == pytest.approx(1999 / 2000)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [(ParityLimits(1e6, min_class_iou=0.995), "smallest class IoU"), (ParityLimits(1e6, None, 0.001), "cover off by")],
)
def test_each_limit_is_held(limits: ParityLimits, complaint: str) -> None:
    expected = np.zeros((25, 40), np.int64)
    actual = expected.copy()
    actual[0, :10] = 1
    report = compare(predictor(mask_network(expected)), predictor(mask_network(actual)), [("a", picture())])
    with pytest.raises(ParityError, match=complaint):
        require_parity(report, limits, where="fake.tgz")


def test_a_missed_limit_never_looks_kept() -> None:
    network = mask_network(np.zeros((25, 40), np.int64))
    report = compare(predictor(network), predictor(network), [("a", picture())])
    close = replace(report, mismatched_ppm=100.04, min_class_iou=0.96999, max_cover_error=0.00504)
    with pytest.raises(ParityError) as missed:
        require_parity(close, ParityLimits(100, 0.97, 0.005), where="fake.tgz")
    assert (
        "(100.04 mismatched pixels per million, at most 100; smallest class IoU 0.96999, at least 0.97; "
        "cover off by 0.00504, at most 0.005; worst on a)"
    ) in str(missed.value)


def test_scores_are_compared_before_they_become_classes() -> None:
    scores = np.stack([np.zeros((25, 40)), np.full((25, 40), 4.0)]).astype(np.float32)
    moved = scores.copy()
    moved[0, 3, 3] = -0.25
    report = compare(
        predictor(lambda tensor: scores[np.newaxis]), predictor(lambda tensor: moved[np.newaxis]), [("a", picture())]
    )
    assert report.mismatched_ppm == 0
    assert report.max_abs_logit_error == 0.25
    assert report.logit_range == 4.0


def test_planes_are_compared_one_by_one() -> None:
    planes = np.full((3, 25, 40), -1, np.float32)
    planes[1] = 1
    other = planes.copy()
    other[1, :5] = -1  # a fifth of grass is lost
    report = compare(
        predictor(lambda tensor: planes[np.newaxis], multilabel=True),
        predictor(lambda tensor: other[np.newaxis], multilabel=True),
        [("a", picture())],
    )
    assert report.class_iou == pytest.approx({"grass": 0.8})
    assert report.mismatched_ppm == pytest.approx(1e6 * 200 / 3000)
    assert report.max_cover_error == pytest.approx(0.2)


def test_of_overlapping_classes_each_is_measured_by_its_cover_of_the_image() -> None:
    """A class counts from a thousandth of the image on, however much or little the others cover."""
    planes = np.full((3, 50, 40), -1, np.float32)
    planes[0] = 1
    planes[1, 0, :3] = 1  # 3 of 2000 pixels: more than a thousandth
    planes[2, 0, 0] = 1  # 1 of 2000
    other = planes.copy()
    other[1, 0, 0], other[2] = -1, -1
    report = compare(
        predictor(lambda tensor: planes[np.newaxis], multilabel=True),
        predictor(lambda tensor: other[np.newaxis], multilabel=True),
        [("a", picture(height=50))],
    )
    assert report.class_iou == pytest.approx({"sand": 1, "grass": 2 / 3, "frame": 0})
    assert report.gated_classes == ("sand", "grass")
    alone = np.full((3, 50, 40), -1, np.float32)
    alone[2, 0, 0] = 1
    nothing = np.full((3, 50, 40), -1, np.float32)
    report = compare(
        predictor(lambda tensor: alone[np.newaxis], multilabel=True),
        predictor(lambda tensor: nothing[np.newaxis], multilabel=True),
        [("a", picture(height=50))],
    )
    assert (report.class_iou, report.gated_classes) == ({"frame": 0}, ())


def scores_network(*shape: int) -> Network:
    return lambda tensor: np.broadcast_to(np.linspace(0, 1, shape[0])[:, None, None], shape)[np.newaxis].astype("f4")


@pytest.mark.parametrize(
    ("candidate", "multilabel"),
    [
        (scores_network(4, 25, 40), False),
        (scores_network(3, 50, 80), False),
        # These would be spread over all planes, and compared without an error.
        (scores_network(1, 25, 40), False),
        (scores_network(1, 25, 40), True),
        (mask_network(np.ones((25, 40), np.int64)), True),
    ],
)
def test_networks_of_other_classes_or_sizes_are_not_compared(candidate: Network, multilabel: bool) -> None:
    original = predictor(scores_network(3, 25, 40), multilabel=multilabel)
    with pytest.raises(ConversionError, match=r"fake\.tgz: .* \[3, 25, 40\] and .*: they are not the same network"):
        compare(original, predictor(candidate, multilabel=multilabel), [("a", picture())])


def test_a_mask_is_compared_with_the_classes_of_scores_and_not_with_the_scores() -> None:
    twos = predictor(mask_network(np.full((25, 40), 2, np.int64)))
    scores = predictor(scores_network(3, 25, 40))
    for original, candidate in ((twos, scores), (scores, twos)):
        report = compare(original, candidate, [("a", picture())])
        assert (report.mismatched_ppm, report.max_abs_logit_error, report.logit_range) == (0, None, None)


def test_planes_that_find_nothing_agree() -> None:
    nothing = predictor(lambda tensor: np.full((1, 3, 25, 40), -1, np.float32), multilabel=True)
    report = compare(nothing, nothing, [("a", picture())])
    assert (report.mismatched_ppm, report.class_iou, report.gated_classes) == (0, {}, ())
    assert report.min_class_iou == 1


def test_images_that_the_transforms_refuse_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def network(tensor: NDArray[np.float32]) -> NDArray[np.generic]:
        return np.zeros((tensor.shape[0], *tensor.shape[2:]), np.int64)

    small, large = picture(), picture(width=200)
    report = compare(predictor(network, padding=64), predictor(network), [("large", large), ("small", small)])
    assert (report.images, report.worst_image) == (1, "small")
    assert "not compared: large: " in caplog.text
    with pytest.raises(ConversionError, match=r"fake\.tgz: none of the images fits"):
        compare(predictor(network, padding=64), predictor(network), [("large", large)])


def test_images_that_only_the_original_takes_are_left_out() -> None:
    def network(tensor: NDArray[np.float32]) -> NDArray[np.generic]:
        return np.zeros((tensor.shape[0], *tensor.shape[2:]), np.int64)

    original = predictor(network)
    fixed = Predictor(original.bundle, FakeRuntime(network, input_shape=(None, 3, 25, 40)))
    report = compare(original, fixed, [("large", picture(width=200)), ("small", picture())])
    assert (report.images, report.worst_image) == (1, "small")
    with pytest.raises(ConversionError, match=r"none of the images fits .*3×25×200.*the network takes 3×25×40"):
        compare(original, fixed, [("large", picture(width=200))])


def test_generated_images_are_the_same_every_time_and_not_flat() -> None:
    first, second = generated_images(), generated_images()
    assert [(each.width, each.height) for each in first] == [(256, 256), (448, 320), (517, 331)]
    for one, other in zip(first, second, strict=True):
        assert one.pixels.shape == (one.height, one.width, 3)
        assert np.array_equal(one.pixels, other.pixels)
        assert one.pixels.std() > 20

"""The probability of each pixel's class, against SciPy's softmax; unsure pixels; tiles and the whole."""
# SciPy ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, softmax

from engine import OptionError, Predictor
from engine.cover.options import ConfidenceOptions, CoverOptions
from engine.rasters.tiles import predict_in_tiles
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.confidence import ScoreScale, class_confidence
from engine.segmentation.postprocess import OutputKind, score_planes
from engine.segmentation.steps import MeasuringSteps
from tests.engine.rasters.test_tiled import blurred, patches, predictor_of, strongest, tiling_of, two_classes
from tests.engine.segmentation.test_predictor import Network, bundle_of, image_of


def scores_of(classes: int, seed: int = 3) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (classes, 20, 30)).astype(np.float32)


def confidence_of(scores: npt.NDArray[np.float32], scale: ScoreScale) -> npt.NDArray[np.uint8]:
    planes = score_planes(scores, OutputKind.SCORES)
    return class_confidence(planes, OutputKind.SCORES, scale=scale)


@pytest.mark.parametrize("classes", [2, 3, 19])
def test_it_is_the_softmax_of_logits_and_of_probabilities(classes: int) -> None:
    scores = scores_of(classes)
    expected = softmax(scores, axis=0).max(axis=0) * 255
    for given, scale in ((scores, ScoreScale.LOGITS), (softmax(scores, axis=0), ScoreScale.PROBABILITIES)):
        found = confidence_of(given.astype(np.float32), scale)
        assert np.abs(found - expected).max() <= 0.51


def test_it_is_the_softmax_of_what_went_through_sigmoids() -> None:
    scores = scores_of(5)
    expected = softmax(scores, axis=0).max(axis=0) * 255
    found = confidence_of(expit(scores).astype(np.float32), ScoreScale.SIGMOIDS)
    assert np.abs(found - expected).max() <= 0.51
    with pytest.raises(OptionError, match="two classes that each went through a sigmoid"):
        confidence_of(expit(scores[:2]).astype(np.float32), ScoreScale.SIGMOIDS)


@pytest.mark.parametrize("classes", [2, 3, 19])
@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_a_temperature_divides_logits_whatever_form_they_have(classes: int, temperature: float) -> None:
    scores = scores_of(classes)
    expected = softmax(scores / temperature, axis=0).max(axis=0) * 255
    for given, scale in ((scores, ScoreScale.LOGITS), (softmax(scores, axis=0), ScoreScale.PROBABILITIES)):
        planes = score_planes(given.astype(np.float32), OutputKind.SCORES)
        found = class_confidence(planes, OutputKind.SCORES, scale=scale, temperature=temperature)
        assert np.abs(found - expected).max() <= 0.51
    if classes == 2:
        apart = (scores[1] - scores[0])[np.newaxis]
        found = class_confidence(expit(apart), OutputKind.PROBABILITY, scale=ScoreScale.LOGITS, temperature=temperature)
        assert np.abs(found - expected).max() <= 0.51


def test_a_probability_map_is_confident_of_either_class() -> None:
    probabilities = np.array([[[0.2, 0.7, 0.5, 0.9]]], np.float32)
    logits = np.log(probabilities / (1 - probabilities))
    expected = np.rint(255 * expit(np.abs(logits)))[0]
    found = class_confidence(probabilities, OutputKind.PROBABILITY, scale=ScoreScale.LOGITS, threshold=0.5)
    np.testing.assert_array_equal(found, expected)


def measuring(network: Network, *, unsure: float | None = None) -> Predictor:
    predictor = predictor_of(network)
    options = CoverOptions(confidence=ConfidenceOptions(unsure=unsure))
    predictor.steps = MeasuringSteps(options, keep_confidence=True)
    return predictor


def test_unsure_pixels_are_a_class_with_a_cover_of_its_own() -> None:
    logits = np.array([[[0.0, 2.0, 0.1, 0.0]], [[0.1, 0.0, 0.0, 4.0]], [[0.0, 0.0, 0.0, 0.0]]], np.float32)
    predictor = measuring(lambda _: logits[np.newaxis], unsure=0.6)
    prediction = predictor.predict(image_of(np.zeros((1, 4, 3), np.uint8)))
    # exp(2) / (exp(2) + 2) = 0.79, exp(0.1) / (exp(0.1) + 2) = 0.36
    assert prediction.mask.tolist() == [[3, 0, 3, 1]]
    assert [(each.segmentation_class.name, each.cover) for each in prediction.covers] == [
        *(("a", 0.25), ("b", 0.25), ("c", 0.0), ("unsure", 0.5)),
    ]
    assert prediction.confidence is not None
    shares = softmax(logits, axis=0).max(axis=0)
    assert prediction.confidence.mean == pytest.approx(shares.mean(), abs=1 / 255)
    assert (prediction.confidence.unsure, prediction.confidence.limit) == (0.5, 0.6)
    assert predictor.provenance.measuring == {"unsure": 0.6}


def test_without_a_limit_the_mask_stays_and_0_6_counts() -> None:
    logits = np.array([[[0.0, 2.0]], [[0.1, 0.0]], [[0.0, 0.0]]], np.float32)
    predictor = measuring(lambda _: logits[np.newaxis])
    prediction = predictor.predict(image_of(np.zeros((1, 2, 3), np.uint8)))
    assert prediction.mask.tolist() == [[1, 0]]
    assert len(prediction.covers) == 3
    assert prediction.confidence is not None
    assert (prediction.confidence.unsure, prediction.confidence.limit) == (0.5, 0.6)
    assert predictor.provenance.measuring is None


def test_the_index_of_unsure_pixels_is_a_class_more_than_256() -> None:
    def network(tensor: Tensor) -> Tensor:
        return np.zeros((1, 256, *tensor.shape[2:]), np.float32)

    prediction = measuring(network, unsure=0.6).predict(image_of(np.zeros((2, 2, 3), np.uint8)))
    assert prediction.mask.dtype == np.uint16
    assert prediction.mask.tolist() == [[256, 256], [256, 256]]
    assert prediction.covers[256].segmentation_class.name == "unsure"


@pytest.mark.parametrize("network", [blurred, two_classes], ids=["three classes", "two classes"])
def test_tiles_equal_the_whole(network: Network) -> None:
    predictor = measuring(lambda tensor: network(tensor) / 50, unsure=0.7)
    image = image_of(patches(97, 131))
    tiling, facts = tiling_of(predictor, 64, 12)
    whole, tiled = predictor.predict(image), predict_in_tiles(predictor, image, tiling, facts)
    assert whole.confidence is not None
    assert tiled.confidence is not None
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    assert 0.05 < whole.confidence.unsure < 0.95
    # Sums in another order: a pixel may be on the other side of a step.
    assert np.abs(tiled.confidence.plane.astype(int) - whole.confidence.plane).max() <= 1
    assert tiled.confidence.unsure == pytest.approx(whole.confidence.unsure, abs=1e-3)


@pytest.mark.parametrize(("network", "multilabel"), [(strongest, False), (blurred, True)], ids=["classes", "overlap"])
def test_networks_that_return_no_scores_of_one_class_are_refused(network: Network, multilabel: bool) -> None:
    predictor = Predictor(bundle_of((), multilabel=multilabel), FakeRuntime(network))
    predictor.steps = MeasuringSteps(keep_confidence=True)
    with pytest.raises(OptionError, match="overlap" if multilabel else "pseg convert"):
        predictor.predict(image_of(patches(8, 8)))

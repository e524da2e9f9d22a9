"""Sliding window, scales and flips against PaddleSeg's own functions, on the same network."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from engine import OptionError, Predictor
from engine.errors import ImageError, InferenceError
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.averaging import AveragedForward, Averaging, averaged, sliding_windows
from engine.segmentation.memory_budget import MemoryBudget
from tests.engine.segmentation.test_predictor import bundle_of, image_of, noise

Oracle = Callable[[Tensor, Averaging, list[tuple[str, tuple[int, int]]]], tuple[Tensor, Tensor]]
WAYS = [
    Averaging(crop_size=(20, 16), stride=(13, 11)),
    Averaging(crop_size=(20, 16), stride=(20, 16)),
    Averaging(crop_size=(500, 400), stride=(100, 100)),
    Averaging(scales=(0.5, 1.0, 1.27)),
    Averaging(flip_horizontal=True),
    Averaging(flip_vertical=True),
    Averaging(scales=(0.75, 1.5), flip_horizontal=True, flip_vertical=True),
    Averaging(crop_size=(24, 24), stride=(10, 16), scales=(0.3, 1.25), flip_horizontal=True),
]


def network(tensor: Tensor) -> Tensor:
    """Logits of three classes that see their neighbours, and so the edge of what is given; not the same mirrored."""
    logits: list[list[Any]] = []
    for image in tensor:
        blurred: list[Any] = [cv2.blur(band, (7, 5), borderType=cv2.BORDER_CONSTANT) for band in image]
        slope = np.gradient(image[0], axis=1)
        logits.append([blurred[0] + 0.2 * slope, blurred[1] * 1.2, blurred[2] - 0.1 * slope])
    return np.array(logits, np.float32)


@pytest.fixture(scope="module")
def paddleseg() -> Oracle:
    """`paddleseg.core.infer.aug_inference`: the mask and the averaged logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle: Any = importlib.import_module("paddle")
        infer: Any = importlib.import_module("paddleseg.core.infer")
    paddle.set_device("cpu")

    def run(
        tensor: Tensor, averaging: Averaging, trans_info: list[tuple[str, tuple[int, int]]]
    ) -> tuple[Tensor, Tensor]:
        def model(seen: Any) -> list[Any]:
            return [paddle.to_tensor(network(seen.numpy().astype(np.float32)))]

        mask, logits = infer.aug_inference(
            model,
            paddle.to_tensor(tensor[np.newaxis]),
            trans_info,
            scales=list(averaging.scales),
            flip_horizontal=averaging.flip_horizontal,
            flip_vertical=averaging.flip_vertical,
            is_slide=averaging.crop_size is not None,
            crop_size=averaging.crop_size,
            stride=averaging.stride,
        )
        return mask.numpy()[0, 0], logits.numpy()[0]

    return run


def predictor_for(averaging: Averaging, function: Callable[[Tensor], Tensor] = network) -> Predictor:
    transforms = [{"type": "Resize", "target_size": [53, 41]}, {"type": "Normalize"}]
    return averaged(Predictor(bundle_of(transforms), FakeRuntime(function)), averaging)


@pytest.mark.parametrize("averaging", WAYS, ids=lambda each: str(each.record()))
def test_scores_and_masks_are_paddlesegs(averaging: Averaging, paddleseg: Oracle) -> None:
    predictor = predictor_for(averaging)
    image = image_of(cv2.resize(noise(9, 12), (70, 60)).astype(np.uint8))
    prepared = predictor.prepare(image)
    mask, logits = paddleseg(prepared.tensor, averaging, [("resize", (60, 70))])
    (raw,) = predictor.run([prepared])
    planes = predictor.planes(prepared, raw)
    np.testing.assert_allclose(np.stack(planes), logits, atol=2e-5)
    # Where two classes are as good as equal, the last bit decides.
    best = np.sort(logits, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(predictor.finish(prepared, raw).mask[clear], mask[clear])
    assert predictor.provenance.averaging == averaging.record()


def test_seeing_once_is_the_plain_prediction() -> None:
    image = image_of(noise(50, 60))
    plain = predictor_for(Averaging())
    assert plain.forward is None
    once = replace(plain, forward=AveragedForward(Averaging()))
    np.testing.assert_array_equal(once.predict(image).mask, plain.predict(image).mask)


def test_results_of_a_network_with_the_argmax_inside_vote() -> None:
    # The network gives class 2 right of the middle of what it sees, 1 left of it. Mirrored and turned back it says the
    # opposite: one vote each, and the lower class wins. With the plain view a second time, it is two to one.
    def halves(tensor: Tensor) -> Tensor:
        batch, _, height, width = tensor.shape
        classes = np.ones((batch, height, width), np.int64)
        classes[..., width // 2 :] = 2
        return classes

    image = image_of(noise(40, 52))
    tie = averaged(Predictor(bundle_of(), FakeRuntime(halves)), Averaging(flip_horizontal=True))
    assert np.unique(tie.predict(image).mask).tolist() == [1]
    scales = Averaging(scales=(0.5, 1.0, 2.0))
    agreed = averaged(Predictor(bundle_of(), FakeRuntime(halves)), scales).predict(image).mask
    assert agreed[:, 26:].min() == 2
    assert agreed[:, :26].max() == 1


def test_a_last_window_is_shifted_back_inside() -> None:
    assert list(sliding_windows(100, 40, 30)) == [(0, 40), (30, 70), (60, 100)]
    assert list(sliding_windows(101, 40, 30)) == [(0, 40), (30, 70), (60, 100), (61, 101)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop_size": (8, 8)}, "its size and its stride"),
        ({"stride": (8, 8)}, "its size and its stride"),
        ({"crop_size": (8, 8), "stride": (9, 4)}, r"9×4 \(w×h\) is larger than the window of 8×8.*gaps"),
        ({"crop_size": (8, 8), "stride": (0, 4)}, "stride: 0 is less than 1"),
        ({"scales": ()}, "factors above 0"),
        ({"scales": (1.0, -1.0)}, "factors above 0"),
        ({"scales": (float("nan"),)}, "factors above 0"),
    ],
)
def test_what_leaves_gaps_or_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Averaging(**wrong)


@pytest.mark.parametrize(
    ("scale", "message"), [(0.01, "scale 0.01: .* leaves nothing"), (7000.0, "more than the limit")]
)
def test_a_scale_that_is_impossible_for_an_image_is_an_error_of_the_image(scale: float, message: str) -> None:
    predictor = averaged(Predictor(bundle_of(), FakeRuntime(network)), Averaging(scales=(scale,)))
    with pytest.raises(ImageError, match=message):
        predictor.predict(image_of(noise(10, 10)))


def test_the_memory_limit_holds_for_every_view() -> None:
    plain = Predictor(bundle_of(), FakeRuntime(network))
    plain.network.memory = MemoryBudget(limit_bytes=10_000_000, base_bytes=0, bytes_per_pixel=1000)
    image = image_of(noise(64, 80))
    assert plain.predict(image).mask.shape == (64, 80)
    twice = averaged(plain, Averaging(scales=(2.0,)))
    # 64 · 80 · 2² pixels of 1000 bytes are more than the nine tenths of the limit that runs may use.
    with pytest.raises(InferenceError, match="memory limit"):
        twice.predict(image)

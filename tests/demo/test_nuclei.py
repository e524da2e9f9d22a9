"""The committed bundle of nuclei on images that its training did not see."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import demo
from benchmarks.accuracy.evaluation import evaluate
from demo.nuclei import read_labelled_folder
from engine import Bundle, OnnxOptions, PaddleOptions, Precision, Predictor, open_bundle, open_runtime

BUNDLE = Path(demo.__file__).with_name("nuclei.tgz")
SMALLEST_MIOU = 0.80
LARGEST_LOSS = 0.005
"""Of mean IoU, INT8 against Paddle."""


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    with open_bundle(BUNDLE) as opened:
        yield opened


def test_the_bundle_is_small() -> None:
    assert BUNDLE.stat().st_size <= 8_000_000


@pytest.mark.long
def test_held_out_images_are_segmented_well(bundle: Bundle, shared_data: Path) -> None:
    precisions = [model.precision for model in bundle.onnx]
    assert Precision.FP32 in precisions
    options = [PaddleOptions(), *(OnnxOptions(precision=each) for each in precisions)]
    with ExitStack() as opened:
        predictors = [opened.enter_context(Predictor(bundle, open_runtime(bundle, each))) for each in options]
        images = read_labelled_folder(shared_data / "nuclei" / "test")
        paddle, *converted = evaluate(predictors, images).scores
    assert paddle.images == 50
    assert paddle.miou >= SMALLEST_MIOU
    for precision, score in zip(precisions, converted, strict=True):
        if precision is Precision.FP32:
            assert score.miou == pytest.approx(paddle.miou, abs=1e-4)
        else:
            assert score.miou >= paddle.miou - LARGEST_LOSS

"""Crops keep pictures and labels together, the loss is what its name says, and two processes train as one."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle ships no type information.

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from demo.nuclei import Slide
from demo.training import (
    WORKERS,
    Batch,
    Schedule,
    Seat,
    count_parameters,
    network_ious,
    normalize,
    random_crop,
    segmentation_loss,
    train,
    train_in_two_processes,
)
from tests.conftest import vendor_warnings_ignored


def checkered(height: int, width: int, square: int = 16) -> Slide:
    """White squares of class 1 on black of class 0."""
    rows, columns = np.indices((height, width)) // square
    labels = ((rows + columns) % 2).astype(np.uint8)
    return Slide(np.repeat(labels[..., np.newaxis] * 255, 3, axis=2).astype(np.uint8), labels)


@pytest.mark.parametrize("size", [(300, 200), (90, 400), (60, 60)])
def test_crops_cut_picture_and_labels_alike(size: tuple[int, int]) -> None:
    slide, rng = checkered(*size), np.random.default_rng(5)
    crops = [random_crop(slide, rng, 96) for _ in range(20)]
    for image, labels in crops:
        assert (image.shape, labels.shape) == ((96, 96, 3), (96, 96))
        # At the borders of the squares the resized picture is grey.
        clear = np.abs(image[..., 0].astype(int) - 128) > 120
        assert clear.mean() > 0.4
        assert ((image[..., 0] > 128) == labels)[clear].mean() > 0.99
    assert len({labels.tobytes() for _, labels in crops}) > 3


def test_the_loss_by_numpy() -> None:
    random = np.random.default_rng(8)
    logits = random.standard_normal((2, 3, 5, 7)).astype(np.float32)
    labels = random.integers(0, 3, (2, 5, 7))
    weights = np.array([1.0, 2.0, 0.5])
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    truth = np.moveaxis(np.eye(3)[labels], -1, 1)
    weight_map = weights[labels]
    entropy = (-np.log((shares * truth).sum(axis=1)) * weight_map).sum() / weight_map.sum()
    in_both, each = (shares * truth).sum(axis=(0, 2, 3)), (shares + truth).sum(axis=(0, 2, 3))
    expected = entropy + 1 - ((2 * in_both + 1) / (each + 1)).mean()
    with vendor_warnings_ignored():
        import paddle

        loss = segmentation_loss(paddle.to_tensor(logits), paddle.to_tensor(labels), tuple(weights))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def _linear() -> Any:
    with vendor_warnings_ignored():
        import paddle

        class Linear(paddle.nn.Layer):
            """One convolution of one pixel, as a list of one output."""

            def __init__(self) -> None:
                super().__init__()
                self.convolution = paddle.nn.Conv2D(3, 2, 1)

            def forward(self, x: Any) -> list[Any]:
                return [self.convolution(x)]

        return Linear()


@dataclass(frozen=True, slots=True)
class BrightIsClassOne:
    """A task that a single pixel's brightness decides."""

    recipe: Schedule

    def build_network(self) -> Any:
        return _linear()

    def batches(self, rank: int) -> Iterator[Batch]:
        slide, rng = checkered(64, 64), np.random.default_rng(rank)
        while True:
            crops = [random_crop(slide, rng, self.recipe.crop) for _ in range(self.recipe.batch // WORKERS)]
            yield (
                np.stack([normalize(image) for image, _ in crops]),
                np.stack([labels for _, labels in crops]).astype(np.int64),
            )

    def loss(self, outputs: Sequence[Any], labels: Any) -> Any:
        return segmentation_loss(outputs[0], labels, (1.0, 1.0))


@pytest.mark.long
def test_two_processes_learn_and_repeat() -> None:
    task = BrightIsClassOne(Schedule(seed=4, crop=32, batch=4, steps=40, peak_rate=0.1, warm_up=5))
    with vendor_warnings_ignored():
        (first, steps), (second, _) = train_in_two_processes(task), train_in_two_processes(task)
        assert steps == 40
        assert min(network_ious(first, [checkered(50, 70)], 2)) > 0.95
    assert [each.numpy().tolist() for each in first.parameters()] == [
        each.numpy().tolist() for each in second.parameters()
    ]


def test_the_time_limit_ends_a_training() -> None:
    task = BrightIsClassOne(Schedule(crop=32, batch=4, steps=100_000, limit_s=0.5))
    with vendor_warnings_ignored():
        network = task.build_network()
        gradients = multiprocessing.RawArray("f", WORKERS * count_parameters(network))
        alone = Seat(0, gradients, multiprocessing.RawValue("d", 0.0), multiprocessing.Barrier(1))
        steps = train(network, task, alone)
    assert 0 < steps < 100_000

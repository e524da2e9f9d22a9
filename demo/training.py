"""What the trainings of the demo's networks share: the loop, two processes that average gradients, crops, measures."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import math
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from ctypes import Array, c_double, c_float
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from benchmarks.accuracy.evaluation import class_ious, confusion_matrix

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.nn import Layer

Pixels = npt.NDArray[np.uint8]
"""``uint8[H, W, 3]``, RGB, 0-255."""
Labels = npt.NDArray[np.uint8]
"""``uint8[H, W]``, class index per pixel."""
Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""``float32[N, 3, H, W]``, normalised, and ``int64[N, H, W]``, class indices."""

WORKERS = 2
_PATIENCE_S = 600.0


class Sample(Protocol):
    """A picture with labels of its size."""

    @property
    def image(self) -> Pixels:
        """``uint8[H, W, 3]``, RGB, 0-255."""
        ...

    @property
    def labels(self) -> Labels:
        """``uint8[H, W]``, class index per pixel."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a network is trained.

    `crop` is the side of a crop in pixels, `batch` the crops per step of both workers together; after `limit_s` seconds
    the schedule is cut short; `warm_up` counts the steps until the highest learning rate, `peak_rate`.
    """

    seed: int = 1
    crop: int = 256
    batch: int = 8
    steps: int = 2400
    limit_s: float = 30 * 60
    peak_rate: float = 3e-3
    warm_up: int = 40


class Task(Protocol):
    """A network and what it is to learn; pickled for the second process."""

    @property
    def recipe(self) -> Schedule: ...

    def build_network(self) -> "Layer":
        """The untrained network: float32 NCHW in, a list of logits (float32 NCHW) out, in training mode."""
        ...

    def batches(self, rank: int) -> Iterator[Batch]:
        """Load one worker's own part of the samples; the iterator cuts batches from them without end."""
        ...

    def loss(self, outputs: "Sequence[Tensor]", labels: "Tensor") -> "Tensor":
        """Score the network's outputs against labels, int64 ``[N, H, W]``."""
        ...


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker's place at the table where gradients are averaged; rank 0 keeps the network.

    `gradients` is a shared ``float32[WORKERS * P]``, a row of all gradients per worker; `progress` the shared share of
    the schedule that is done, 0-1, which rank 0 decides.
    """

    rank: int
    gradients: "Array[c_float]"
    progress: c_double
    barrier: Barrier

    def meet(self) -> None:
        """Wait for the other worker; a worker that died must not hold the other for ever."""
        self.barrier.wait(_PATIENCE_S)

    def agree(self, progress: float) -> float:
        """Both workers learn rank 0's progress: their clocks differ, their learning rates must not."""
        if self.rank == 0:
            self.progress.value = progress
        self.meet()
        return self.progress.value

    def average_gradients(self, parameters: "Sequence[Tensor]") -> None:
        """Replace the gradients of ``parameters`` by their mean over the workers."""
        table = np.frombuffer(memoryview(self.gradients), np.float32).reshape(WORKERS, -1)
        # HRNet builds a few layers that its forward pass never uses; they have no gradient.
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        own = [np.asarray(gradient.numpy()) for gradient in gradients]
        filled = sum(values.size for values in own)
        np.concatenate([values.ravel() for values in own], out=table[self.rank, :filled])
        self.meet()
        mean, start = table[:, :filled].mean(axis=0), 0
        for gradient, values in zip(gradients, own, strict=True):
            gradient.set_value(mean[start : start + values.size].reshape(values.shape))
            start += values.size


def start_from_scratch(network: "Layer") -> "Layer":
    """Draw the weights of all convolutions anew, and give batch norms a longer memory."""
    import paddle

    draw = paddle.nn.initializer.KaimingNormal()
    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            # The backbones' own start, a deviation of 0.001, is meant for weights that are loaded afterwards.
            draw(layer.weight)
        elif isinstance(layer, paddle.nn.BatchNorm2D):
            # Batches are small here: the statistics need a longer memory than the default of 0.9.
            layer._momentum = 0.97  # pyright: ignore[reportPrivateUsage]
    return network


def normalize(image: Pixels) -> npt.NDArray[np.float32]:
    """PaddleSeg's ``Normalize`` with its default mean and deviation of 0.5.

    From ``uint8[H, W, 3]``, RGB, to ``float32[3, H, W]``, -1 to 1.

    >>> normalize(np.full((1, 1, 3), 255, np.uint8)).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    return np.ascontiguousarray(((image.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1), np.float32)


def random_crop(sample: Sample, rng: Generator, side: int) -> tuple[Pixels, Labels]:
    """Cut a square of ``side`` pixels at a random place, scale and orientation: image and class indices."""
    height, width = sample.labels.shape
    window = min(int(side / math.exp(rng.uniform(math.log(0.7), math.log(1.6)))), height, width)
    top, left = int(rng.integers(height - window + 1)), int(rng.integers(width - window + 1))
    image = sample.image[top : top + window, left : left + window]
    labels = sample.labels[top : top + window, left : left + window]
    smooth = cv2.INTER_AREA if window > side else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, (side, side), interpolation=smooth), np.uint8)
    labels = np.asarray(cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    turns = int(rng.integers(4))
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def segmentation_loss(logits: "Tensor", labels: "Tensor", class_weights: Sequence[float]) -> "Tensor":
    """Weighted cross entropy plus one minus the mean Dice score over the classes of the batch; a float32 scalar.

    ``logits`` are float32 ``[N, C, H, W]``, ``labels`` int64 ``[N, H, W]``; the weights are of the cross entropy.
    """
    import paddle
    import paddle.nn.functional as F

    entropy = F.cross_entropy(logits, labels, axis=1, weight=paddle.to_tensor(class_weights))
    probabilities = F.softmax(logits, axis=1)
    truth = F.one_hot(labels, logits.shape[1]).transpose([0, 3, 1, 2])
    shared = paddle.sum(probabilities * truth, axis=[0, 2, 3])
    total = paddle.sum(probabilities, axis=[0, 2, 3]) + paddle.sum(truth, axis=[0, 2, 3])
    return entropy + 1 - paddle.mean((2 * shared + 1) / (total + 1))


def train(network: "Layer", task: Task, seat: Seat) -> int:
    """Train in place with AdamW on this worker's samples; the learning rate warms up and then falls along a cosine.

    Every worker starts from the same weights and ends with the same. Returns the steps done, fewer than those of the
    recipe where its time limit came first.
    """
    import paddle

    recipe = task.recipe
    batches = task.batches(seat.rank)
    parameters: list[Tensor] = network.parameters()
    optimizer = paddle.optimizer.AdamW(
        recipe.peak_rate, parameters=parameters, weight_decay=0.01, grad_clip=paddle.nn.ClipGradByGlobalNorm(2.0)
    )
    network.train()
    seat.meet()
    started, smooth = time.monotonic(), float("nan")
    for step in range(recipe.steps):
        elapsed = time.monotonic() - started
        # Progress is counted in steps, so that a run repeats exactly; time only takes over where it would run out.
        progress = seat.agree(max(step / recipe.steps, elapsed / recipe.limit_s))
        if progress >= 1:
            return step
        ramp = min(1.0, (step + 1) / recipe.warm_up)
        optimizer.set_lr(recipe.peak_rate * ramp * (0.5 + 0.5 * math.cos(math.pi * progress)))
        images, labels = next(batches)
        loss = task.loss(network(paddle.to_tensor(images)), paddle.to_tensor(labels))
        loss.backward()
        seat.average_gradients(parameters)
        optimizer.step()
        optimizer.clear_grad()
        smooth = float(loss) if step == 0 else 0.95 * smooth + 0.05 * float(loss)
        if seat.rank == 0 and step % 50 == 49:
            print(f"step {step + 1:5d}/{recipe.steps}  {elapsed:6.0f} s  loss {smooth:.4f}", flush=True)
    return recipe.steps


def _train_beside(task: Task, seat: Seat) -> None:
    """What the second process does; its copy of the network ends equal to the first's and is dropped."""
    train(_seeded_network(task), task, seat)


def _seeded_network(task: Task) -> "Layer":
    import paddle

    paddle.seed(task.recipe.seed)
    return task.build_network()


def train_in_two_processes(task: Task) -> tuple["Layer", int]:
    """Train with half of each batch in another process: Paddle's training kernels use little more than one core."""
    network = _seeded_network(task)
    # Spawned, not forked: a fork would inherit the locked thread pools of OpenCV and Paddle.
    context = multiprocessing.get_context("spawn")
    gradients = context.RawArray("f", WORKERS * count_parameters(network))
    progress, barrier = context.RawValue("d", 0.0), context.Barrier(WORKERS)
    beside = context.Process(target=_train_beside, args=(task, Seat(1, gradients, progress, barrier)), daemon=True)
    beside.start()
    steps = train(network, task, Seat(0, gradients, progress, barrier))
    beside.join()
    return network, steps


def network_ious(network: "Layer", samples: Iterable[Sample], class_count: int) -> tuple[float, ...]:
    """Intersection over union per class, counted over all pixels of all samples at their full size, 0-1.

    1 for a class that is neither there nor found. The network takes float32 NCHW, -1 to 1, gives a list of logits, and
    is left in evaluation mode.
    """
    import paddle

    network.eval()
    confusion = np.zeros((class_count, class_count), np.int64)
    for sample in samples:
        with paddle.no_grad():
            logits = network(paddle.to_tensor(normalize(sample.image)[None]))[0]
        found = np.asarray(logits.numpy())[0].argmax(axis=0)
        confusion += confusion_matrix(found, sample.labels, class_count)
    return tuple(1.0 if iou is None else iou for iou in class_ious(confusion))


def iou_table(names: Sequence[str], ious: Sequence[float]) -> str:
    lines = [f"{name:<10} {iou:.4f}" for name, iou in zip(names, ious, strict=True)]
    return "\n".join(["class      IoU", *lines, f"{'mean':<10} {sum(ious) / len(ious):.4f}"])


def count_parameters(network: "Layer") -> int:
    """Count weights, batch norms' scales and shifts among them."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())

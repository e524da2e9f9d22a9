"""Train the demo bundle's network on rendered quadrats: ``python -m demo.train``.

The network is PaddleSeg's FCN on a narrow HRNet: the backbone's family is the one that quadrat services run (OCRNet on
HRNet-W48), small enough for two cores, and free of what a plain conversion to ONNX cannot express. Scenes and weights
follow from the seed; a slow machine stops at the time limit with the learning rate brought to its end all the same.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import argparse
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Sequence
from ctypes import Array, c_double, c_float
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from converters.export import ExportClass, export_bundle
from demo.scenes import FRAME, LABEL_COLORS, SAND, SEAGRASS, Scene, render_scene

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.nn import Layer

CLASSES = (
    ExportClass("sand", LABEL_COLORS[SAND]),
    ExportClass("seagrass", LABEL_COLORS[SEAGRASS]),
    ExportClass("frame", LABEL_COLORS[FRAME]),
)
HELD_OUT_SEEDS = range(500_000, 500_024)
"""Never trained on, whatever the seed of the training: training scenes count up from ``seed * 1000``."""
HELD_OUT_SIZES = ((800, 600), (657, 667), (600, 800), (1024, 768))
"""(width, height), taken in turn."""
WORKERS = 2
CLASS_WEIGHTS = (1.0, 1.0, 1.5)
"""Of the cross entropy, in the order of the classes: the frame is rare, and misses outnumber its false alarms."""
RECOLORED = 0.5
"""Share of the crops whose colours change: the scenes differ in colour by themselves."""
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the network is trained.

    Attributes:
        seed: Seed of scenes, crops and weights; below 500.
        scenes: Number of training scenes, at most 1000.
        scene_size: (width, height) of a training scene in pixels.
        crop: Side of a training crop in pixels.
        batch: Crops per step, of both workers together.
        steps: Steps of the full schedule.
        limit_s: Seconds of training after which the schedule is cut short.
        peak_rate: Highest learning rate.
        warm_up: Steps until the highest learning rate.
    """

    seed: int = 1
    scenes: int = 240
    scene_size: tuple[int, int] = (800, 600)
    crop: int = 256
    batch: int = 8
    steps: int = 2400
    limit_s: float = 30 * 60
    peak_rate: float = 3e-3
    warm_up: int = 40


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker's place at the table where gradients are averaged.

    Attributes:
        rank: 0 for the process that keeps the network, 1 for the one beside it.
        gradients: Shared ``float32[WORKERS * P]``, a row of all gradients per worker.
        progress: Shared share of the schedule that is done, 0-1; rank 0 decides it.
        barrier: Where the workers wait for each other.
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


def build_network() -> "Layer":
    """The demo network, untrained: float32 NCHW in, a list with one tensor of logits (float32 NCHW, 3 classes) out.

    Returns:
        The network in training mode.
    """
    import paddle
    from paddleseg.models import FCN
    from paddleseg.models.backbones.hrnet import HRNet

    backbone = HRNet(
        stage1_num_blocks=(1,),
        stage1_num_channels=(16,),
        stage2_num_blocks=(2, 2),
        stage2_num_channels=(12, 24),
        stage3_num_modules=1,
        stage3_num_blocks=(2, 2, 2),
        stage3_num_channels=(12, 24, 48),
        stage4_num_modules=1,
        stage4_num_blocks=(2, 2, 2, 2),
        stage4_num_channels=(12, 24, 48, 96),
    )
    network = FCN(num_classes=len(CLASSES), backbone=backbone, channels=64)
    draw = paddle.nn.initializer.KaimingNormal()
    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            # HRNet's own start, a deviation of 0.001, is meant for weights that are loaded afterwards.
            draw(layer.weight)
        elif isinstance(layer, paddle.nn.BatchNorm2D):
            # Batches are small here: the statistics need a longer memory than the default of 0.9.
            layer._momentum = 0.97  # pyright: ignore[reportPrivateUsage]
    return network


def draw_batch(
    scenes: Sequence[Scene], rng: Generator, recipe: Recipe
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Cut one worker's random crops and change them the way photographs differ.

    Args:
        scenes: What to cut from.
        rng: Source of chance; advanced.
        recipe: Crop and batch size.

    Returns:
        ``float32[N, 3, crop, crop]``, normalised as the bundle's ``Normalize`` does (-1 to 1), and
        ``int64[N, crop, crop]``, class indices.
    """
    count = recipe.batch // WORKERS
    crops = [_cut(scenes[int(rng.integers(len(scenes)))], rng, recipe.crop) for _ in range(count)]
    images = np.stack(
        [normalize(_recolor(crop.image, rng) if rng.random() < RECOLORED else crop.image) for crop in crops]
    )
    labels = np.stack([crop.labels for crop in crops]).astype(np.int64)
    return images, labels


def normalize(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """PaddleSeg's ``Normalize`` with its default mean and deviation of 0.5.

    Args:
        image: ``uint8[H, W, 3]``, RGB, 0-255.

    Returns:
        ``float32[3, H, W]``, -1 to 1.

    >>> normalize(np.full((1, 1, 3), 255, np.uint8)).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    return np.ascontiguousarray(((image.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1), np.float32)


def _cut(scene: Scene, rng: Generator, side: int) -> Scene:
    """A square crop at a random place, scale and orientation."""
    height, width = scene.labels.shape
    window = min(int(side / math.exp(rng.uniform(math.log(0.7), math.log(1.6)))), height, width)
    top, left = int(rng.integers(height - window + 1)), int(rng.integers(width - window + 1))
    image = scene.image[top : top + window, left : left + window]
    labels = scene.labels[top : top + window, left : left + window]
    smooth = cv2.INTER_AREA if window > side else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, (side, side), interpolation=smooth), np.uint8)
    labels = np.asarray(cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    turns = int(rng.integers(4))
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(labels))


def _recolor(image: npt.NDArray[np.uint8], rng: Generator) -> npt.NDArray[np.uint8]:
    """Another exposure, contrast, white balance, saturation, sharpness and noise."""
    picture = image.astype(np.float32) / 255
    picture = picture ** rng.lognormal(0, 0.2) * rng.lognormal(0, 0.08, 3).astype(np.float32)
    picture = (picture - 0.5) * rng.lognormal(0, 0.2) + 0.5 + rng.normal(0, 0.05)
    gray = picture.mean(axis=-1, keepdims=True)
    picture = gray + (picture - gray) * rng.uniform(0.5, 1.4)
    if rng.random() < 0.25:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.3)), np.float32)
    if rng.random() < 0.25:
        picture = picture + rng.uniform(0, 0.04) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def segmentation_loss(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Weighted cross entropy plus one minus the mean Dice score over the classes of the batch.

    Args:
        logits: float32 ``[N, C, H, W]``.
        labels: int64 ``[N, H, W]``, class indices.

    Returns:
        float32 scalar.
    """
    import paddle
    import paddle.nn.functional as F

    entropy = F.cross_entropy(logits, labels, axis=1, weight=paddle.to_tensor(CLASS_WEIGHTS))
    probabilities = F.softmax(logits, axis=1)
    truth = F.one_hot(labels, logits.shape[1]).transpose([0, 3, 1, 2])
    shared = paddle.sum(probabilities * truth, axis=[0, 2, 3])
    total = paddle.sum(probabilities, axis=[0, 2, 3]) + paddle.sum(truth, axis=[0, 2, 3])
    return entropy + 1 - paddle.mean((2 * shared + 1) / (total + 1))


def train(network: "Layer", recipe: Recipe, seat: Seat) -> int:
    """Train in place with AdamW on this worker's scenes; the learning rate warms up and then falls along a cosine.

    Args:
        network: As ``build_network`` gives it; every worker starts from the same weights and ends with the same.
        recipe: How to train.
        seat: This worker's place in the exchange of gradients.

    Returns:
        The steps done: those of the recipe, or fewer where its time limit came first.
    """
    import paddle

    scenes = _render_share(recipe, seat.rank)
    rng = np.random.default_rng([recipe.seed, seat.rank, 1])
    parameters: list[Tensor] = network.parameters()
    optimizer = paddle.optimizer.AdamW(
        recipe.peak_rate,
        parameters=parameters,
        weight_decay=0.01,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(2.0),
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
        images, labels = draw_batch(scenes, rng, recipe)
        loss = segmentation_loss(network(paddle.to_tensor(images))[0], paddle.to_tensor(labels))
        loss.backward()
        seat.average_gradients(parameters)
        optimizer.step()
        optimizer.clear_grad()
        smooth = float(loss) if step == 0 else 0.95 * smooth + 0.05 * float(loss)
        if seat.rank == 0 and step % 50 == 49:
            print(f"step {step + 1:5d}/{recipe.steps}  {elapsed:6.0f} s  loss {smooth:.4f}", flush=True)
    return recipe.steps


def _render_share(recipe: Recipe, rank: int) -> list[Scene]:
    """Every worker renders and keeps its own part of the scenes."""
    first = recipe.seed * 1000
    return [render_scene(seed, *recipe.scene_size) for seed in range(first + rank, first + recipe.scenes, WORKERS)]


def _train_beside(recipe: Recipe, seat: Seat) -> None:
    """What the second process does; its copy of the network ends equal to the first's and is dropped."""
    train(_seeded_network(recipe.seed), recipe, seat)


def _seeded_network(seed: int) -> "Layer":
    import paddle

    paddle.seed(seed)
    return build_network()


def train_in_two_processes(recipe: Recipe) -> tuple["Layer", int]:
    """Train with half of each batch in a process of its own: Paddle's training kernels use little more than one core.

    Args:
        recipe: How to train.

    Returns:
        The trained network, in training mode, and the steps done.
    """
    network = _seeded_network(recipe.seed)
    # Spawned, not forked: a fork would inherit the locked thread pools of OpenCV and Paddle.
    context = multiprocessing.get_context("spawn")
    gradients = context.RawArray("f", WORKERS * _count_parameters(network))
    progress, barrier = context.RawValue("d", 0.0), context.Barrier(WORKERS)
    beside = context.Process(target=_train_beside, args=(recipe, Seat(1, gradients, progress, barrier)), daemon=True)
    beside.start()
    steps = train(network, recipe, Seat(0, gradients, progress, barrier))
    beside.join()
    return network, steps


def class_ious(network: "Layer", scenes: Sequence[Scene]) -> tuple[float, ...]:
    """Intersection over union per class, counted over all pixels of all scenes at their full size.

    Args:
        network: As ``build_network`` gives it; left in evaluation mode.
        scenes: Pictures with labels.

    Returns:
        One value per class, 0-1; 1 for a class that is neither there nor found.
    """
    import paddle

    network.eval()
    size = len(CLASSES)
    confusion = np.zeros((size, size), np.int64)
    for scene in scenes:
        with paddle.no_grad():
            logits = network(paddle.to_tensor(normalize(scene.image)[None]))[0]
        found = np.asarray(logits.numpy())[0].argmax(axis=0)
        pairs = scene.labels.astype(np.int64) * size + found
        confusion += np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    shared = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - shared
    return tuple(float(part / whole) if whole else 1.0 for part, whole in zip(shared, union, strict=True))


def _table(ious: Sequence[float]) -> str:
    lines = [f"{entry.name:<10} {iou:.4f}" for entry, iou in zip(CLASSES, ious, strict=True)]
    return "\n".join(["class      IoU", *lines, f"{'mean':<10} {sum(ious) / len(ious):.4f}"])


def _count_parameters(network: "Layer") -> int:
    return sum(math.prod(parameter.shape) for parameter in network.parameters())


def run(out: Path, recipe: Recipe) -> dict[str, Any]:
    """Render, train, measure and write the bundle with ``training.json`` beside it.

    Args:
        out: The bundle to write, ``.tgz``.
        recipe: How to train.

    Returns:
        What ``training.json`` says.
    """
    started = time.monotonic()
    network, steps = train_in_two_processes(recipe)
    training_s = time.monotonic() - started
    sizes = itertools.cycle(HELD_OUT_SIZES)
    held_out = [render_scene(seed, *size) for seed, size in zip(HELD_OUT_SEEDS, sizes, strict=False)]
    ious = class_ious(network, held_out)
    print(_table(ious))
    names = [entry.name for entry in CLASSES]
    measured = {
        "network": "FCN, HRNet backbone (stage widths 12, 24, 48, 96)",
        "parameters": _count_parameters(network),
        "recipe": asdict(recipe),
        "steps_done": steps,
        "training_seeds": [recipe.seed * 1000, recipe.seed * 1000 + recipe.scenes - 1],
        "held_out_seeds": [HELD_OUT_SEEDS[0], HELD_OUT_SEEDS[-1]],
        "held_out_sizes": HELD_OUT_SIZES,
        "iou": {name: round(iou, 4) for name, iou in zip(names, ious, strict=True)},
        "miou": round(sum(ious) / len(ious), 4),
        "paddle": metadata.version("paddlepaddle"),
        "training_s": round(training_s),
        "total_s": round(time.monotonic() - started),
    }
    record = {key: measured[key] for key in ("network", "parameters", "steps_done", "iou", "miou", "paddle")}
    export_bundle(
        network,
        out,
        name="demo-seagrass",
        classes=CLASSES,
        transforms=[{"type": "Normalize"}],
        model_record={"trained_on": "rendered quadrat scenes (demo/scenes.py)", **record},
    )
    text = json.dumps(measured, indent=2) + "\n"
    out.with_name("training.json").write_text(text, encoding="utf-8")
    return measured


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="python -m demo.train", description="Train the demo bundle.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("demo_seagrass.tgz"))
    parser.add_argument("--minutes", type=float, default=recipe.limit_s / 60, help="limit of the training steps")
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--scenes", type=int, default=recipe.scenes)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and report.

    Args:
        arguments: The command line without the program's name; the process's own if None.
    """
    options = _parse(arguments)
    recipe = Recipe(seed=options.seed, scenes=options.scenes, steps=options.steps, limit_s=options.minutes * 60)
    measured = run(options.out, recipe)
    print(
        f"{options.out.name}: mIoU {measured['miou']}, {measured['steps_done']} steps, {measured['total_s']} s in all"
    )


if __name__ == "__main__":
    main()

"""Train the demo bundle's network on rendered quadrats: ``python -m demo.train``."""

# The network is PaddleSeg's FCN on a narrow HRNet: the backbone's family is the one that quadrat services run (OCRNet
# on HRNet-W48), small enough for two cores, and free of what a plain conversion to ONNX cannot express. Scenes and
# weights follow from the seed; a slow machine stops at the time limit with the learning rate brought to its end all the
# same.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from converters.exporting.export import ExportClass, export_bundle
from demo.scenes import FRAME, LABEL_COLORS, SAND, SEAGRASS, Scene, render_scene
from demo.training import (
    WORKERS,
    Batch,
    Schedule,
    count_parameters,
    iou_table,
    network_ious,
    normalize,
    random_crop,
    segmentation_loss,
    start_from_scratch,
    train_in_two_processes,
)

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
CLASS_WEIGHTS = (1.0, 1.0, 1.5)
"""Of the cross entropy, in the order of the classes: the frame is rare, and misses outnumber its false alarms."""
RECOLORED = 0.5
"""Share of the crops whose colours change: the scenes differ in colour by themselves."""


@dataclass(frozen=True, slots=True)
class Recipe(Schedule):
    """How the network is trained, on at most 1000 scenes; the rest is the schedule's, its seed below 500."""

    scenes: int = 240
    scene_size: tuple[int, int] = (800, 600)


@dataclass(frozen=True, slots=True)
class SceneTask:
    """The network and the scenes it learns."""

    recipe: Recipe

    def build_network(self) -> "Layer":
        """The untrained demo network: float32 NCHW in, one float32 NCHW tensor of logits (3 classes) out, in a list."""
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
        return start_from_scratch(FCN(num_classes=len(CLASSES), backbone=backbone, channels=64))

    def batches(self, rank: int) -> Iterator[Batch]:
        """Render this worker's half of the scenes and cut crops from it."""
        first, recipe = self.recipe.seed * 1000, self.recipe
        scenes = [
            render_scene(seed, *recipe.scene_size) for seed in range(first + rank, first + recipe.scenes, WORKERS)
        ]
        return self._cut(scenes, np.random.default_rng([recipe.seed, rank, 1]))

    def _cut(self, scenes: Sequence[Scene], rng: Generator) -> Iterator[Batch]:
        count = self.recipe.batch // WORKERS
        while True:
            crops = [random_crop(scenes[int(rng.integers(len(scenes)))], rng, self.recipe.crop) for _ in range(count)]
            images = [normalize(_recolor(image, rng) if rng.random() < RECOLORED else image) for image, _ in crops]
            yield np.stack(images), np.stack([labels for _, labels in crops]).astype(np.int64)

    def loss(self, outputs: "Sequence[Tensor]", labels: "Tensor") -> "Tensor":
        """Score the only head."""
        return segmentation_loss(outputs[0], labels, CLASS_WEIGHTS)


def _recolor(image: npt.NDArray[np.uint8], rng: Generator) -> npt.NDArray[np.uint8]:
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


def held_out_scenes() -> Iterator[tuple[int, Scene]]:
    """Render the scenes that no training sees, one at a time."""
    for seed, size in zip(HELD_OUT_SEEDS, itertools.cycle(HELD_OUT_SIZES), strict=False):
        yield seed, render_scene(seed, *size)


def run(out: Path, recipe: Recipe) -> dict[str, Any]:
    """Render, train, measure and write the bundle with ``training.json`` beside it."""
    started = time.monotonic()
    network, steps = train_in_two_processes(SceneTask(recipe))
    training_s = time.monotonic() - started
    ious = network_ious(network, (scene for _, scene in held_out_scenes()), len(CLASSES))
    names = [entry.name for entry in CLASSES]
    print(iou_table(names, ious))
    measured = {
        "network": "FCN, HRNet backbone (stage widths 12, 24, 48, 96)",
        "parameters": count_parameters(network),
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
        model_record={"license": "Apache-2.0", "trained_on": "rendered quadrat scenes (demo/scenes.py)", **record},
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
    options = _parse(arguments)
    recipe = Recipe(seed=options.seed, scenes=options.scenes, steps=options.steps, limit_s=options.minutes * 60)
    measured = run(options.out, recipe)
    print(
        f"{options.out.name}: mIoU {measured['miou']}, {measured['steps_done']} steps, {measured['total_s']} s in all"
    )


if __name__ == "__main__":
    main()

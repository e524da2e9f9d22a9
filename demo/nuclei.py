"""Train the bundle of cell nuclei on labelled microscope images: ``python -m demo.nuclei --data DIR --out FILE``."""

# DIR holds ``train`` and ``test``, each with ``images/NNN.jpg`` and ``masks/NNN.png`` (0 background, 1 nucleus). The
# network is PaddleSeg's PP-LiteSeg on a narrow STDC1: adaptive pooling, attention, ReLU. It starts from drawn weights;
# no weights of others go in. Every eighth training image is held back: settings are chosen by ``--validate``, which
# prints the IoU on those. The test images are only measured, once, by the last line of a full run.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.random import Generator

from benchmarks.accuracy.evaluation import LabelledImage, read_labelled
from benchmarks.accuracy.labels import match_masks, require_known_classes
from converters.exporting.export import ExportClass, export_bundle
from demo.training import (
    WORKERS,
    Batch,
    Labels,
    Pixels,
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
from engine import list_images, read_image

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.nn import Layer

CLASSES = (ExportClass("background", (30, 30, 40)), ExportClass("nucleus", (240, 180, 40)))
NAMES = tuple(entry.name for entry in CLASSES)
CLASS_WEIGHTS = (1.0, 1.5)
"""Of the cross entropy, in the order of the classes: nuclei cover a seventh of the pixels."""
HEAD_WEIGHTS = (1.0, 0.4, 0.2, 0.2)
"""Of the losses of PP-LiteSeg's heads, finest first; only the first is in the bundle."""
_HELD_BACK = 8
"""Every eighth training image validates."""


@dataclass(frozen=True, slots=True)
class Recipe(Schedule):
    """How the network is trained; ``data`` has the folders ``train`` and ``test``, the rest is the schedule's."""

    data: Path = Path()
    crop: int = 192
    steps: int = 600
    limit_s: float = 40 * 60


@dataclass(frozen=True, slots=True)
class Slide:
    """A microscope image, RGB, and the class index of each pixel."""

    image: Pixels
    labels: Labels


@dataclass(frozen=True, slots=True)
class NucleiTask:
    """The network and the slides it learns."""

    recipe: Recipe

    def build_network(self) -> "Layer":
        """PP-LiteSeg, untrained: float32 NCHW in, lists of logits (float32 NCHW, 2 classes) out."""
        from paddleseg.models import PPLiteSeg
        from paddleseg.models.backbones.stdcnet import STDCNet

        network = PPLiteSeg(
            num_classes=len(CLASSES),
            backbone=STDCNet(base=16, layers=[2, 2, 2]),
            # From a quarter of the size down: a nucleus may be six pixels wide.
            backbone_indices=[1, 2, 3, 4],
            # Attention by means alone: the gradient of the maximum over channels takes most of a step in Paddle.
            arm_type="UAFM_SpAtten_S",
            cm_out_ch=64,
            arm_out_chs=[32, 32, 48, 64],
            seg_head_inter_chs=[32],
        )
        return start_from_scratch(network)

    def batches(self, rank: int) -> Iterator[Batch]:
        """Read this worker's half of the slides and cut crops from it."""
        slides = training_slides(self.recipe.data)[rank::WORKERS]
        return self._cut(slides, np.random.default_rng([self.recipe.seed, rank, 1]))

    def _cut(self, slides: Sequence[Slide], rng: Generator) -> Iterator[Batch]:
        count = self.recipe.batch // WORKERS
        while True:
            chosen = [slides[int(rng.integers(len(slides)))] for _ in range(count)]
            crops = [random_crop(slide, rng, self.recipe.crop) for slide in chosen]
            images = np.stack([normalize(_recolor(image, rng)) for image, _ in crops])
            yield images, np.stack([labels for _, labels in crops]).astype(np.int64)

    def loss(self, outputs: "Sequence[Tensor]", labels: "Tensor") -> "Tensor":
        """The weighted sum over the heads."""
        losses = [segmentation_loss(logits, labels, CLASS_WEIGHTS) for logits in outputs]
        weighted = [weight * loss for weight, loss in zip(HEAD_WEIGHTS, losses, strict=True)]
        return sum(weighted[1:], start=weighted[0])


def _recolor(image: Pixels, rng: Generator) -> Pixels:
    """Another exposure, stain, sharpness and noise."""
    # Everything multiplies: many slides use a few grey levels next to black, which an added brightness would cut off.
    picture = image.astype(np.float32) / 255
    if rng.random() < 0.2:
        # Fluorescence is as good in any channel's order, and a stain in another hue is still a stain.
        picture = picture[..., rng.permutation(3)]
    picture = picture ** rng.lognormal(0, 0.15) * rng.lognormal(0, 0.25)
    picture = picture * rng.lognormal(0, 0.05, 3).astype(np.float32)
    gray = picture.mean(axis=-1, keepdims=True)
    picture = gray + (picture - gray) * rng.uniform(0.5, 1.3)
    if rng.random() < 0.25:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.2)), np.float32)
    if rng.random() < 0.25:
        noise = rng.standard_normal(picture.shape, dtype=np.float32)
        picture = picture * (1 + rng.uniform(0, 0.1) * noise)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def read_slides(folder: Path) -> list[Slide]:
    """Read labelled images in the order of their names.

    Raises ImageError where a file cannot be read, has no mask, or a mask holds another class.
    """
    slides: list[Slide] = []
    for each in read_labelled_folder(folder):
        require_known_classes(each.labels, len(CLASSES), where=each.labels_name)
        slides.append(Slide(each.image.pixels, each.labels.astype(np.uint8)))
    return slides


def read_labelled_folder(folder: Path) -> Iterator[LabelledImage]:
    """Read labelled images one at a time, in the order of their names; ImageError as of `read_slides`."""
    return read_labelled(match_masks(list_images([folder / "images"]), list_images([folder / "masks"])), read_image)


def training_slides(data: Path) -> list[Slide]:
    """The training images but for those that are held back."""
    return [slide for index, slide in enumerate(read_slides(data / "train")) if index % _HELD_BACK]


def validation_slides(data: Path) -> list[Slide]:
    """The training images that are held back."""
    return read_slides(data / "train")[::_HELD_BACK]


def run(out: Path, recipe: Recipe, *, test: bool) -> dict[str, Any]:
    """Train, measure and write the bundle with a JSON file of its name beside it."""
    started = time.monotonic()
    network, steps = train_in_two_processes(NucleiTask(recipe))
    training_s = time.monotonic() - started
    measured: dict[str, Any] = {
        "network": "PP-LiteSeg, STDC1 backbone (base width 16)",
        "parameters": count_parameters(network),
        "recipe": {name: value for name, value in asdict(recipe).items() if name != "data"},
        "steps_done": steps,
        "training_images": len(training_slides(recipe.data)),
        "validation": _measure(network, validation_slides(recipe.data), "validation"),
        "paddle": metadata.version("paddlepaddle"),
        "training_s": round(training_s),
    }
    if test:
        measured["test"] = _measure(network, read_slides(recipe.data / "test"), "test")
    kept = ("network", "parameters", "steps_done", "validation", "test", "paddle")
    export_bundle(
        network,
        out,
        name="nuclei",
        classes=CLASSES,
        transforms=[{"type": "Normalize"}],
        model_record={
            "license": "Apache-2.0",
            "trained_on": "microscope images of cell nuclei, CC0 (demo/nuclei.py)",
            **{key: measured[key] for key in kept if key in measured},
        },
    )
    out.with_suffix(".json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def _measure(network: "Layer", slides: Sequence[Slide], title: str) -> dict[str, Any]:
    ious = network_ious(network, slides, len(CLASSES))
    print(f"{title}, {len(slides)} images\n{iou_table(NAMES, ious)}", flush=True)
    by_class = {name: round(iou, 4) for name, iou in zip(NAMES, ious, strict=True)}
    return {"images": len(slides), "iou": by_class, "miou": round(sum(ious) / len(ious), 4)}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="python -m demo.nuclei", description="Train the nuclei bundle.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="the bundle to write, .tgz; a .json goes beside it")
    parser.add_argument("--validate", action="store_true", help="leave the test images alone: to choose settings")
    parser.add_argument("--minutes", type=float, default=recipe.limit_s / 60, help="limit of the training steps")
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--steps", type=int, default=recipe.steps)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    recipe = Recipe(data=options.data, seed=options.seed, steps=options.steps, limit_s=options.minutes * 60)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    measured = run(options.out, recipe, test=not options.validate)
    print(f"{options.out.name}: {measured['steps_done']} steps, {measured['training_s']} s")


if __name__ == "__main__":
    main()

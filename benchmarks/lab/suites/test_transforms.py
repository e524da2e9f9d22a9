"""The steps around the network, on a photograph of a megapixel."""

import numpy as np

from benchmarks.lab.suites.figures import Benchmark, Step, note
from benchmarks.measuring.pictures import photograph
from engine.bundle.deploy_yaml import parse_transforms
from engine.segmentation.palette import palette_for, pseudo_color_png
from engine.segmentation.postprocess import OutputKind, segment
from engine.transforms import TransformRecord, apply_transforms

WIDTH, HEIGHT, CLASSES = 1154, 866, 3
IMAGENET = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def blotches(width: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rng = np.random.default_rng(5)
    coarse = rng.standard_normal((CLASSES, height // 32 + 1, width // 32 + 1)).astype(np.float32)
    return np.ascontiguousarray(coarse.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :width])


def test_normalize(benchmark: Benchmark) -> None:
    transforms = parse_transforms([IMAGENET], where="benchmark")
    benchmark(apply_transforms, transforms, photograph(WIDTH, HEIGHT))
    note(benchmark, Step(step="Normalize, 1 megapixel"))


def test_resize_and_normalize(benchmark: Benchmark) -> None:
    transforms = parse_transforms([{"type": "Resize", "target_size": [512, 512]}, IMAGENET], where="benchmark")
    benchmark(apply_transforms, transforms, photograph(WIDTH, HEIGHT))
    note(benchmark, Step(step="Resize to 512×512 and Normalize, 1 megapixel"))


def test_segment(benchmark: Benchmark) -> None:
    benchmark(segment, blotches(WIDTH, HEIGHT), OutputKind.SCORES, [])
    note(benchmark, Step(step="scores of 3 classes to a mask, 1 megapixel"))


def test_enlarge_and_segment(benchmark: Benchmark) -> None:
    records = [TransformRecord("resize", HEIGHT, WIDTH)]
    benchmark(segment, blotches(512, 512), OutputKind.SCORES, records)
    note(benchmark, Step(step="scores of 3 classes at 512×512 to a mask of 1 megapixel"))


def test_encode(benchmark: Benchmark) -> None:
    mask = segment(blotches(WIDTH, HEIGHT), OutputKind.SCORES, [])
    benchmark(pseudo_color_png, mask.astype(np.uint8), palette_for([], CLASSES))
    note(benchmark, Step(step="pseudo-colour PNG, 1 megapixel"))

"""How often the flags of photographs are raised: on rendered scenes, degraded by known amounts, and on photographs.

`python -m demo.checks.quality [FOLDER…]` renders scenes, half of which stand for the pictures of a calibration, and
prints the tables of docs/quality.md: the share of pictures with each flag, and what the statistics of a picture of five
megapixels cost. Photographs of the named folders are judged with and without that calibration, or with one of
their own.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.scenes import render_scene
from engine.images import DEFAULT_MAX_IMG_SIZE, find_images, read_image
from engine.images.quality import LEAST_PICTURES, Flag, Reference, flags_of
from engine.images.statistics import PictureStatistics, picture_statistics

Pixels = NDArray[np.uint8]

_SIZE = (1024, 768)
_FIRST_SEED = 910_000
"""Not among the scenes that the demo network was trained on."""
_REPETITIONS = 50


def _blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)


def _exposed(*factors: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.clip(pixels * np.array(factors), 0, 255).astype(np.uint8)


def _gamma(exponent: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: (255 * (pixels / 255) ** exponent).astype(np.uint8)


def _hue(degrees: int) -> Callable[[Pixels], Pixels]:
    def turned(pixels: Pixels) -> Pixels:
        hsv = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), np.uint8)
        hsv[..., 0] = (hsv[..., 0].astype(int) + degrees // 2) % 180
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)

    return turned


DEGRADED: dict[str, Callable[[Pixels], Pixels]] = {
    "as rendered": lambda pixels: pixels,
    **{f"Gaussian blur of {sigma:g} px": _blurred(sigma) for sigma in (1, 1.5, 2, 3, 4)},
    **{f"exposure × {factor:g}": _exposed(factor) for factor in (0.5, 0.35, 0.25, 0.125, 1.5, 2, 3, 4)},
    **{f"gamma {exponent:g}": _gamma(exponent) for exponent in (2, 3, 4)},
    "red × 1.5, green × 0.8, blue × 0.6": _exposed(1.5, 0.8, 0.6),
    "blue × 0.4": _exposed(1, 1, 0.4),
    "red and blue exchanged": lambda pixels: pixels[..., ::-1],
    "hue turned by 120°": _hue(120),
    "colours inverted": lambda pixels: (255 - pixels).astype(np.uint8),
}


def shares(pictures: Sequence[PictureStatistics], reference: Reference | None) -> dict[Flag, float]:
    """Count the flags: the share of the pictures that have each, 0–1."""
    flags = [flags_of(each, reference) for each in pictures]
    return {flag: sum(flag in each for each in flags) / len(flags) for flag in Flag}


def _row(name: str, pictures: Sequence[PictureStatistics], reference: Reference | None) -> str:
    found = shares(pictures, reference)
    cells = ["–" if flag is Flag.UNLIKE and reference is None else f"{100 * found[flag]:.0f} %" for flag in Flag]
    return f"| {name} | {len(pictures)} | {' | '.join(cells)} |"


def _folder(folder: Path) -> list[PictureStatistics]:
    images = (read_image(path, max_img_size=DEFAULT_MAX_IMG_SIZE) for path in find_images([str(folder)]).images)
    return [each.statistics for each in images if each.statistics is not None]


def _cost_ms(height: int, width: int) -> float:
    """Processor time of the statistics of a picture as it is read, the best of many."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    taken: list[float] = []
    for _ in range(_REPETITIONS):
        started = time.process_time()
        picture_statistics(pixels)
        taken.append(time.process_time() - started)
    return 1000 * min(taken)


def _rows(scenes: Sequence[Pixels], reference: Reference, folders: Iterable[Path]) -> Iterable[str]:
    for name, degrade in DEGRADED.items():
        yield _row(name, [picture_statistics(degrade(scene)) for scene in scenes], reference)
    for folder in folders:
        found = _folder(folder)
        yield _row(f"{folder}, no calibration", found, None)
        yield _row(f"{folder}, calibrated on scenes", found, reference)
        half = len(found) // 2
        if half >= LEAST_PICTURES:
            yield _row(f"{folder}, calibrated on its other half", found[half:], Reference(tuple(found[:half])))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.checks.quality", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="photographs")
    parser.add_argument("--scenes", type=int, default=80, help="half for the calibration, half to be judged")
    chosen = parser.parse_args()
    scenes = [render_scene(_FIRST_SEED + index, *_SIZE).image for index in range(chosen.scenes)]
    half = chosen.scenes // 2
    reference = Reference(tuple(map(picture_statistics, scenes[:half])))
    print(f"| pictures | count | {' | '.join(Flag)} |\n| --- | ---: |{' ---: |' * len(Flag)}")
    for row in _rows(scenes[half:], reference, chosen.folders):
        print(row, flush=True)
    whole_ms, shrunk_ms = _cost_ms(2048, 2560), _cost_ms(866, 1154)
    print(f"\nProcessor time: {whole_ms:.1f} ms for 5 megapixels, {shrunk_ms:.1f} ms for a photograph read at one")


if __name__ == "__main__":
    main()

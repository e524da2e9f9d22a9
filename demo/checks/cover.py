"""Regions of interest and their cover on rendered scenes whose labels and frames are exact: ``make cover-check``.

Each seed is a scene with one frame, with two or without any: turned, seen by a camera that is tilted, cut off by the
border of the picture, overgrown. The inner edge of the frame is found in the exact labels and in the mask of the demo
network. The exact cover is taken on the ground: points of an even grid between the inner edges of the pipes are looked
up in the labels, so that nothing of the code under test takes part in it.
"""

import argparse
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from demo import scenes
from engine import Predictor, SourceImage, open_bundle, open_predictor
from engine.cover.errors import RegionError
from engine.cover.frame import find_frame
from engine.cover.regions import ground_pixels
from engine.images import Capture

BUNDLE: Final = Path(scenes.__file__).with_name("demo_seagrass.tgz")
WIDTH, HEIGHT = 800, 600
"""Of the scenes that the demo network was trained on."""
_GRID: Final = 1200
_SAME_REGION: Final = 0.95
"""Intersection over union with the exact region from which a region is the right one."""
_CORNER_SHOWS: Final = 0.01
"""Share of the picture's shorter side by which an inner corner lies inside of its border, if it shows."""

_MOST_COVER_ERROR: Final = 0.002
_MOST_AREA_ERROR: Final = 0.01
_MOST_NETWORK_ERROR: Final = 0.015
_MOST_REFUSED: Final = 0.1

Labels = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.float64]

KINDS: Final = (("turned", 7), ("tilted", 4), ("cut off", 4), ("overgrown", 2), ("two frames", 2), ("no frame", 1))


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a mask of a scene; ``refused`` says why there is no region.

    ``overlap`` is the intersection over union with the exact region that it meets best; ``area_error`` is of its
    pixels, as a share of that region's; ``cover`` is of seagrass, weighted by ground area, and ``same_region_cover``
    what the exact labels give inside of the region that was found.
    """

    refused: str | None
    overlap: float = 0.0
    area_error: float = 0.0
    cover: float = 0.0
    same_region_cover: float = 0.0


@dataclass(frozen=True, slots=True)
class SceneResult:
    """A scene; covers are exact shares of seagrass.

    All four inner corners show of ``shows`` frames; ``at_border`` frames lie so near to the border that both is right.
    ``cover`` is inside the frame that shows; None where there is not exactly one.
    """

    seed: int
    kind: str
    shows: int
    at_border: int
    cover: float | None
    whole_cover: float
    with_labels: Finding
    with_network: Finding


def kind_of(seed: int) -> str:
    """The kind of a scene: it depends on the seed alone."""
    drawn = np.random.default_rng([seed, 1]).permutation([name for name, share in KINDS for _ in range(share)])
    return str(drawn[0])


def setting_of(seed: int, kind: str) -> scenes.Setting:
    rng = np.random.default_rng([seed, 2])
    match kind:
        case "no frame":
            return scenes.Setting([])
        case "two frames":
            return scenes.Setting(_two_frames(rng))
        case "cut off":
            return scenes.Setting([_frame_seen(rng, size=rng.uniform(0.75, 1.4), off=rng.uniform(0.2, 0.5))])
        case "tilted":
            tilt = math.radians(rng.uniform(15, 40))
            return scenes.Setting([_frame_seen(rng, size=rng.uniform(0.65, 0.85), off=0.03, tilt=tilt)])
        case "overgrown":
            frame = _frame_seen(rng, size=rng.uniform(0.65, 0.85), off=0.03)
            return scenes.Setting([frame], overgrowth=float(rng.uniform(0.35, 0.7)))
        case _:
            return scenes.Setting([_frame_seen(rng, size=rng.uniform(0.6, 0.85), off=0.04)])


def _frame_seen(
    rng: Generator, *, size: float, off: float, tilt: float | None = None, at: tuple[float, float] | None = None
) -> Corners:
    """A square on the ground as a camera above it, tilted by radians (a little, if not stated), sees it.

    ``size`` is a share of the picture's shorter side; ``off``, how far the middle lies from the picture's, and ``at``,
    the middle, are shares of the picture.
    """
    turn = rng.uniform(0, 2 * math.pi) if rng.random() < 0.5 else rng.normal(0, 0.15)
    tilt = math.radians(rng.uniform(0, 12)) if tilt is None else tilt
    towards = rng.uniform(0, 2 * math.pi)
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64) / 2
    square = square @ np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])
    # A pinhole camera whose distance is twice the side of the frame, as usual for a wide angle.
    distance = 2.0
    along = square @ np.array([math.cos(towards), math.sin(towards)])
    across = square @ np.array([-math.sin(towards), math.cos(towards)])
    depth = distance + along * math.sin(tilt)
    seen = np.stack([along * math.cos(tilt), across], axis=1) * (distance / depth)[:, np.newaxis]
    seen = seen @ np.array([(math.cos(towards), math.sin(towards)), (-math.sin(towards), math.cos(towards))])
    middle = np.array(at if at is not None else rng.normal(0, off, 2).clip(-2 * off, 2 * off) + 0.5)
    return seen * size * min(WIDTH, HEIGHT) + middle * [WIDTH, HEIGHT]


def _two_frames(rng: Generator) -> list[Corners]:
    """Side by side, the second one often cut off."""
    small = rng.random() < 0.4
    sizes = (
        (rng.uniform(0.45, 0.58), rng.uniform(0.45, 0.58))
        if small
        else (rng.uniform(0.55, 0.75), rng.uniform(0.5, 0.9))
    )
    first = _frame_seen(rng, size=sizes[0], off=0, at=(0.27 if small else 0.36, rng.uniform(0.45, 0.55)))
    second = _frame_seen(rng, size=sizes[1], off=0, at=(0.75 if small else 1.0, rng.uniform(0.35, 0.65)))
    return [first, second]


def measured(seed: int, predictor: Predictor) -> SceneResult:
    """Render a scene and find its region in both masks."""
    kind = kind_of(seed)
    scene = scenes.render_scene(seed, WIDTH, HEIGHT, setting_of(seed, kind))
    room = [_room(frame.inner) for frame in scene.frames]
    margin = _CORNER_SHOWS * min(WIDTH, HEIGHT)
    showing = [frame for frame, each in zip(scene.frames, room, strict=True) if each > margin]
    at_border = sum(-margin <= each <= margin for each in room)
    network = predictor.predict(SourceImage(scene.image, WIDTH, HEIGHT, Capture())).mask.astype(np.uint8)
    return SceneResult(
        seed,
        kind,
        len(showing),
        at_border,
        exact_cover(scene.labels, showing[0]) if len(showing) == 1 else None,
        float((scene.labels == scenes.SEAGRASS).mean()),
        _finding(scene.labels, scene),
        _finding(network, scene),
    )


def _room(corners: Corners) -> float:
    """Distance of the outermost corner from the border of the picture; negative outside of it."""
    return float(min(corners.min(), (np.array([WIDTH, HEIGHT]) - corners).min()))


def exact_cover(labels: Labels, frame: scenes.Frame) -> float:
    """Share of seagrass between the inner edges of a frame, on the ground."""
    steps = (np.arange(_GRID) + 0.5) / _GRID
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float32)
    view = np.asarray(cv2.getPerspectiveTransform(square, frame.inner.astype(np.float32)), np.float64)
    points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(1, -1, 2)
    seen = np.floor(np.asarray(cv2.perspectiveTransform(points, view))[0]).astype(int)
    columns, rows = np.clip(seen, 0, [WIDTH - 1, HEIGHT - 1]).T
    return float((labels[rows, columns] == scenes.SEAGRASS).mean())


def _finding(mask: Labels, scene: scenes.Scene) -> Finding:
    try:
        corners = find_frame(mask == scenes.FRAME).corners
        pixels = ground_pixels(corners, mask.shape)
    except RegionError as error:
        return Finding(str(error))
    overlaps = [_overlap(corners, frame.inner) for frame in scene.frames]
    if not overlaps:
        return Finding(None)
    exact = scene.frames[int(np.argmax(overlaps))].inner
    classes = len(scenes.LABEL_COLORS)
    return Finding(
        None,
        max(overlaps),
        abs(_area(corners) / _area(exact) - 1),
        float(pixels.class_shares(mask, classes)[scenes.SEAGRASS]),
        float(pixels.class_shares(scene.labels, classes)[scenes.SEAGRASS]),
    )


def _overlap(one: Corners, other: Corners) -> float:
    shared = float(cv2.intersectConvexConvex(one.astype(np.float32), other.astype(np.float32))[0])
    return shared / (_area(one) + _area(other) - shared)


def _area(corners: Corners) -> float:
    following = np.roll(corners, -1, axis=0)
    return abs(float((corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum())) / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure and its limit."""

    what: str
    figure: str
    limit: str
    holds: bool


def verdicts(results: Sequence[SceneResult]) -> list[Verdict]:
    found: list[Verdict] = []
    for name in ("with_labels", "with_network"):
        source = "exact labels" if name == "with_labels" else "the network's masks"
        findings = [(each, each.with_labels if name == "with_labels" else each.with_network) for each in results]
        one = [(each, finding) for each, finding in findings if each.shows == 1 and not each.at_border]
        refused = sum(finding.refused is not None for _, finding in one)
        hidden = [finding for each, finding in findings if not each.shows and not each.at_border]
        taken = sum(finding.refused is None for finding in hidden)
        wrong = sum(finding.refused is None and finding.overlap < _SAME_REGION for _, finding in findings)
        right = [(each, finding) for each, finding in one if finding.refused is None]
        found += [
            Verdict(
                f"{source}: refused where one frame shows its four corners",
                f"{refused} of {len(one)}",
                f"at most {_MOST_REFUSED:.0%}",
                refused <= _MOST_REFUSED * len(one),
            ),
            Verdict(f"{source}: taken where none does", f"{taken} of {len(hidden)}", "0", not taken),
            Verdict(f"{source}: wrong regions", f"{wrong} of {len(results)}", "0", not wrong),
        ]
        if not right:
            continue
        cover = [abs(finding.cover - each.cover) for each, finding in right if each.cover is not None]
        area = [finding.area_error for _, finding in right]
        filled = [abs(finding.same_region_cover - each.cover) for each, finding in right if each.cover is not None]
        if name == "with_labels":
            found += [
                _limited(f"{source}: cover inside, error", cover, _MOST_COVER_ERROR),
                _limited(f"{source}: area, error", area, _MOST_AREA_ERROR),
            ]
        else:
            found.append(
                _limited(f"{source}: their region filled with the exact labels, error", filled, _MOST_NETWORK_ERROR)
            )
    return found


def _limited(what: str, errors: Sequence[float], limit: float) -> Verdict:
    mean, most = statistics.fmean(errors), max(errors)
    figure = f"{100 * mean:.2f} on average, {100 * most:.2f} at most"
    return Verdict(what, figure, f"{100 * limit:g} at most, in percent", most <= limit)


def run(seeds: Iterable[int]) -> Iterator[SceneResult]:
    with open_bundle(BUNDLE) as bundle, open_predictor(bundle) as predictor:
        for seed in seeds:
            yield measured(seed, predictor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure scenes and print the figures; ends with status 1 if one is past its limit."""
    parser = argparse.ArgumentParser(prog="python -m demo.checks.cover", description=__doc__)
    parser.add_argument("--seed", type=int, default=910_000, help="of the first scene; the next ones count up")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file for the result of each scene")
    options = parser.parse_args(arguments)
    results: list[SceneResult] = []
    for result in run(range(options.seed, options.seed + options.count)):
        results.append(result)
        if len(results) % 20 == 0:
            print(f"{len(results)} of {options.count} scenes", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    kinds = Counter(each.kind for each in results)
    print(
        f"seeds {options.seed} to {options.seed + options.count - 1}: "
        + ", ".join(f"{n} {k}" for k, n in kinds.items())
    )
    showing = Counter(each.shows for each in results)
    print(f"frames whose four corners show, in a scene: {dict(sorted(showing.items()))}")
    inside = [(each.cover, each.whole_cover) for each in results if each.cover is not None]
    if inside:
        apart = [abs(cover - whole) for cover, whole in inside]
        print(
            f"seagrass inside and in the whole picture differ by {100 * statistics.fmean(apart):.1f} points on average"
        )
    network = [each.with_network for each in results if each.cover is not None]
    own = [abs(each.cover - each.same_region_cover) for each in network if each.refused is None]
    if own:
        print(
            "the network's own error, its classes against the exact ones in the same region: "
            f"{100 * statistics.fmean(own):.1f} points on average, {100 * max(own):.1f} at most"
        )
    judged = verdicts(results)
    for each in judged:
        print(f"{'holds' if each.holds else 'FAILS'}  {each.what}: {each.figure} (limit: {each.limit})")
    if not all(each.holds for each in judged):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

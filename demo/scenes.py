"""Rendered seagrass quadrats with exact labels: what the demo network is trained on, and what the demo shows."""

# A scene is built the way a photograph comes about: sand with grains, rubble and litter; a canopy of blades in layers
# that shade each other; a white PVC frame with red and blue bands; light with caustics; a column of greenish water; a
# camera. The labels are known because the objects are drawn, not guessed: class 0 is every bottom that is not seagrass
# (sand, rubble, dead leaves, shadow), class 1 is seagrass, class 2 is the frame with its bands.
# The command line writes pictures: ``python -m demo.scenes --out DIR --count 3 --seed 900000 --width 1024 --height
# 768``.

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image

SAND, SEAGRASS, FRAME = 0, 1, 2
LABEL_COLORS = ((194, 178, 128), (0, 128, 0), (255, 255, 255))

Real = npt.NDArray[np.floating]
"""Any shape; ``float32`` unless a calculation with a 64-bit scalar array widened it."""
Field = npt.NDArray[np.floating]
"""One value per pixel, ``float[H, W]``."""
Picture = npt.NDArray[np.floating]
"""Linear colour, ``float[H, W, 3]``, RGB; 0 is black and 1 is white."""
Mask = npt.NDArray[np.uint8]
"""``uint8[H, W]``: 0 or 255 for a shape, a class index for labels."""
Color = tuple[float, float, float]

_SUBPIXEL_BITS = 4
"""OpenCV draws with fixed-point coordinates of this many fractional bits; whole pixels would make blades jagged."""
_CANOPY_COVER = 0.42
"""Share of blades in the close surroundings from which a gap counts as canopy."""
_FRAME_TEXTURE = 1024
"""Side of the square in which the frame is drawn before it is put into perspective, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Where a frame lies: its outer corners, and those of the square between the inner edges of its pipes.

    Each is ``float64[4, 2]``, clockwise on the ground, x and y in pixels from the picture's upper left corner, pixel
    centres at +0.5.
    """

    outer: npt.NDArray[np.float64]
    inner: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What lies in a scene, instead of what its seed would draw.

    ``frames`` are outer corners as in ``Frame``; ``overgrowth`` is the blades that lie across them, as a share of the
    picture.
    """

    frames: Sequence[npt.NDArray[np.floating]]
    overgrowth: float | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered quadrat, RGB; labels are ``uint8[H, W]``, 0 sand, 1 seagrass, 2 frame."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class _Blades:
    """Ribbons to draw."""

    outlines: npt.NDArray[np.int32]
    ridges: npt.NDArray[np.int32]
    colors: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Species:
    """What the blades of one meadow have in common; lengths in pixels, angles in radians."""

    length: float
    width: float
    bend: float
    lean: float
    spread: float
    fresh: Color
    old: Color


def render_scene(seed: int, width: int, height: int, setting: Setting | None = None) -> Scene:
    """Render one quadrat; the same arguments always give the same pixels.

    Raises ValueError where the seed is negative or a side is smaller than 64 pixels.

    >>> scene = render_scene(7, 96, 64)
    >>> scene.image.shape, scene.labels.shape, int(scene.labels.max()) <= FRAME
    ((64, 96, 3), (64, 96), True)
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if min(width, height) < 64:
        raise ValueError(f"a scene is at least 64 x 64 pixels, got {width} x {height}")
    rng = np.random.default_rng(seed)
    unit = math.sqrt(width * height) / 900 * float(np.clip(rng.lognormal(0.15, 0.25), 0.85, 2.0))
    picture = _seabed(rng, (height, width), unit)
    labels = np.zeros((height, width), np.uint8)
    species = _draw_species(rng, unit)
    density = _meadow_density(rng, (height, width))
    _grow_meadow(rng, picture, labels, density, species)
    frames: list[Frame] = []
    if setting is not None:
        frames = [_place_frame(rng, picture, labels, corners) for corners in setting.frames]
        _grow_over_frame(rng, picture, labels, density, species, setting.overgrowth)
    elif rng.random() < 0.8:
        frames = [_place_frame(rng, picture, labels)]
        _grow_over_frame(rng, picture, labels, density, species)
    if rng.random() < 0.3:
        _scatter_dead_leaves(rng, picture, labels, unit, int(rng.integers(1, 8)))
    _cast_light(rng, picture, unit)
    _fill_with_water(rng, picture)
    return Scene(_photograph(rng, picture), labels, tuple(frames))


def _extent(array: npt.NDArray[np.generic]) -> tuple[int, int]:
    """Height and width."""
    return int(array.shape[0]), int(array.shape[1])


def _clouds(rng: Generator, shape: tuple[int, int], cell: float, octaves: int = 4) -> Field:
    """Fractal noise with features of about ``cell`` pixels and finer ones, mean 0 and standard deviation 1."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        rows, columns = max(2, math.ceil(height / step) + 1), max(2, math.ceil(width / step) + 1)
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        total += _enlarge(coarse, shape) * 0.55**octave
        if step == 1.0:
            break
    total -= total.mean()
    total /= total.std() + 1e-6
    return total


def _enlarge(coarse: Field, shape: tuple[int, int]) -> Field:
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _blur(field: Real, sigma: float) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), max(sigma, 0.2)), np.float32)


def _sigmoid(field: Field, center: float, softness: float) -> Field:
    return 1 / (1 + np.exp(np.clip((center - field) / softness, -30, 30)))


def _blend(picture: Picture, color: Real, alpha: Field) -> None:
    picture += (color - picture) * alpha[..., None]


def _color(rng: Generator, low: Color, high: Color) -> npt.NDArray[np.float32]:
    """A colour between two, with a little freedom for each channel."""
    position = rng.random() * 0.8 + 0.2 * rng.random(3)
    return (np.asarray(low) + (np.asarray(high) - np.asarray(low)) * position).astype(np.float32)


def _seabed(rng: Generator, shape: tuple[int, int], unit: float) -> Picture:
    """Sand with grains and ripples, then turf, rubble, litter and things that people leave."""
    sand = _color(rng, (0.40, 0.36, 0.30), (0.76, 0.72, 0.66))
    relief = 0.10 * _clouds(rng, shape, 160 * unit) + 0.05 * _clouds(rng, shape, 24 * unit, 3)
    if rng.random() < 0.3:
        relief += _ripples(rng, shape, unit)
    grain = rng.uniform(0.03, 0.16) * _clouds(rng, shape, rng.uniform(1.5, 5) * unit, 2)
    picture = sand * np.clip(1 + relief + grain, 0.05, 2)[..., None]
    tint = 0.04 * _clouds(rng, shape, 90 * unit, 3)
    picture *= np.stack([1 + tint, np.ones_like(tint), 1 - tint], axis=-1)
    _sprinkle_grains(rng, picture, unit)
    for _ in range(int(rng.integers(0, 2))):
        _lay_turf(rng, picture, unit)
    _strew_rubble(rng, picture, unit)
    labels = np.zeros(shape, np.uint8)
    _scatter_dead_leaves(rng, picture, labels, unit, int(rng.integers(0, 13)))
    if rng.random() < 0.3:
        _leave_marker(rng, picture, unit)
    return picture.astype(np.float32)


def _ripples(rng: Generator, shape: tuple[int, int], unit: float) -> Field:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    angle, wavelength = rng.uniform(0, math.pi), rng.uniform(40, 120) * unit
    phase = (rows * math.sin(angle) + columns * math.cos(angle)) * (2 * math.pi / wavelength)
    return (rng.uniform(0.03, 0.12) * np.sin(phase + 1.5 * _clouds(rng, shape, 150 * unit, 2))).astype(np.float32)


def _sprinkle_grains(rng: Generator, picture: Picture, unit: float) -> None:
    shape = _extent(picture)
    specks = _clouds(rng, shape, rng.uniform(2, 6) * unit, 2)
    patches = 0.4 * _clouds(rng, shape, 120 * unit, 2)
    dark = _sigmoid(specks + patches, rng.uniform(1.2, 2.6), 0.15) * rng.uniform(0.3, 0.85)
    _blend(picture, picture * 0.25, dark)
    bright = _sigmoid(-specks, rng.uniform(2.0, 3.0), 0.15) * rng.uniform(0, 0.5)
    _blend(picture, np.full(3, 0.95, np.float32), bright)


def _lay_turf(rng: Generator, picture: Picture, unit: float) -> None:
    """A patch of brownish fuzz or fine rubble, which is not seagrass."""
    shape = _extent(picture)
    where = _sigmoid(_clouds(rng, shape, rng.uniform(90, 260) * unit), rng.uniform(0.4, 1.5), 0.25)
    fuzz = _clouds(rng, shape, rng.uniform(4, 14) * unit, 4)
    color = _color(rng, (0.10, 0.07, 0.05), (0.46, 0.36, 0.26))
    turf = np.clip(color * (1 + 0.4 * fuzz[..., None]), 0.01, 1)
    _blend(picture, turf, where * _sigmoid(fuzz, rng.uniform(-1.2, 0.8), 0.3) * rng.uniform(0.4, 0.9))


def _strew_rubble(rng: Generator, picture: Picture, unit: float) -> None:
    height, width = _extent(picture)
    light = rng.uniform(0, 2 * math.pi)
    for _ in range(int(rng.integers(0, 14))):
        radius = float(np.clip(rng.lognormal(math.log(16 * unit), 0.8), 3 * unit, 130 * unit))
        center = rng.uniform(0, width), rng.uniform(0, height)
        turns = np.linspace(0, 2 * math.pi, 20, endpoint=False)
        reach = radius * (1 + 0.12 * rng.standard_normal(20) + 0.25 * np.cos(2 * (turns - rng.uniform(0, math.pi))))
        points = np.stack([center[0] + reach * np.cos(turns), center[1] + reach * np.sin(turns)], axis=-1)
        _lay_stone(rng, picture, points, radius, light)


def _lay_stone(rng: Generator, picture: Picture, points: npt.NDArray[np.float64], radius: float, light: float) -> None:
    margin = math.ceil(radius * 0.8) + 4
    height, width = _extent(picture)
    left, top = np.maximum(points.min(axis=0).astype(int) - margin, 0).tolist()
    right, bottom = np.minimum(points.max(axis=0).astype(int) + margin, (width, height)).tolist()
    if right - left < 4 or bottom - top < 4:
        return
    window = picture[top:bottom, left:right]
    shape = _extent(window)
    outline = np.rint((points - (left, top)) * 2**_SUBPIXEL_BITS).astype(np.int32)
    solid = _polygons(shape, outline[None])
    shift = np.asarray([[1, 0, -math.cos(light) * radius * 0.3], [0, 1, -math.sin(light) * radius * 0.3]], np.float32)
    shadow = _blur(np.asarray(cv2.warpAffine(solid, shift, (shape[1], shape[0])), np.float32), radius * 0.15)
    _blend(window, window * 0.25, shadow * rng.uniform(0.3, 0.8))
    color = _color(rng, (0.30, 0.27, 0.22), (0.80, 0.76, 0.70))
    if rng.random() < 0.2:
        color = _color(rng, (0.45, 0.22, 0.10), (0.70, 0.50, 0.42))
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    middle = points.mean(axis=0)
    slope = ((columns - middle[0]) * math.cos(light) + (rows - middle[1]) * math.sin(light)) / radius
    surface = 0.85 + 0.25 * slope + 0.15 * _clouds(rng, shape, max(radius * 0.6, 4), 4)
    _blend(window, np.clip(color * surface[..., None], 0.02, 1), _blur(solid, 0.6))


def _polygons(shape: tuple[int, int], outlines: npt.NDArray[np.int32]) -> Field:
    """Coverage of filled polygons, ``float32[H, W]``, 0-1."""
    canvas = np.zeros(shape, np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [outline], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def _scatter_dead_leaves(rng: Generator, picture: Picture, labels: Mask, unit: float, count: int) -> None:
    """Brown and black leaves on the bottom; they are litter, class 0."""
    if count == 0:
        return
    brown = _color(rng, (0.07, 0.05, 0.05), (0.34, 0.19, 0.11))
    length, width = rng.uniform(40, 120) * unit, rng.uniform(5, 17) * unit
    species = _Species(length, width, 0.35, 0.0, math.pi, _as_color(brown), (0.06, 0.05, 0.05))
    roots = rng.uniform((0, 0), _extent(picture)[::-1], (count, 2))
    leaves = _shape_blades(rng, roots, species, 1.0)
    solid = _draw_blades(rng, picture, leaves, shadow=3 * unit)
    labels[solid > 127] = SAND


def _leave_marker(rng: Generator, picture: Picture, unit: float) -> None:
    """A coloured tag or a line, as divers leave them; both are class 0."""
    height, width = _extent(picture)
    if rng.random() < 0.6:
        coverage = np.zeros((height, width), np.uint8)
        center = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        cv2.circle(coverage, center, max(2, int(rng.uniform(6, 30) * unit)), 255, -1, cv2.LINE_AA)
        strong = np.asarray([(0.02, 0.2, 0.8), (0.8, 0.5, 0.05), (0.7, 0.08, 0.08)][int(rng.integers(3))], np.float32)
        _blend(picture, strong, coverage.astype(np.float32) / 255)
    if rng.random() < 0.6:
        line = np.zeros((height, width), np.uint8)
        ends = rng.uniform((0, 0), (width, height), (2, 2)).astype(int).tolist()
        cv2.line(line, ends[0], ends[1], 255, max(1, round(rng.uniform(1, 4) * unit)), cv2.LINE_AA)
        _blend(picture, _color(rng, (0.4, 0.4, 0.35), (0.8, 0.8, 0.75)), line.astype(np.float32) / 255)


def _draw_species(rng: Generator, unit: float) -> _Species:
    fresh = _color(rng, (0.10, 0.22, 0.05), (0.42, 0.54, 0.18))
    old = _color(rng, (0.07, 0.10, 0.04), (0.24, 0.26, 0.12))
    return _Species(
        length=rng.uniform(55, 180) * unit,
        width=(4.2 + 8 * rng.beta(1.0, 1.7)) * unit,
        bend=rng.uniform(0.1, 0.55),
        lean=rng.uniform(0, 2 * math.pi),
        spread=rng.uniform(0.35, 1.8),
        fresh=_as_color(fresh),
        old=_as_color(old),
    )


def _as_color(values: npt.NDArray[np.float32]) -> Color:
    red, green, blue = values.tolist()
    return red, green, blue


def _meadow_density(rng: Generator, shape: tuple[int, int]) -> Field:
    """How much grows where, 0 (bare) to 1 (closed canopy); from bare bottoms over patches to meadows."""
    side = max(shape)
    patches = _clouds(rng, shape, side * rng.uniform(0.2, 0.9), 4)
    meadow = _sigmoid(patches, rng.uniform(-1.3, 1.6), rng.uniform(0.1, 0.5))
    thinning = np.clip(0.75 + 0.3 * _clouds(rng, shape, side * 0.1, 2), 0, 1)
    sparse = rng.uniform(0, 0.12) * (rng.random() < 0.7)
    return np.clip(meadow * thinning * rng.uniform(0.4, 1.0) + sparse, 0, 1).astype(np.float32)


def _grow_meadow(rng: Generator, picture: Picture, labels: Mask, density: Field, species: _Species) -> None:
    """Draw the canopy from its dark floor to its lit top and label it."""
    shape = _extent(labels)
    mat = _sigmoid(density, rng.uniform(0.3, 0.65), 0.07) * rng.uniform(0.2, 0.95)
    _lay_mat(rng, picture, mat, species)
    cover = rng.uniform(1.2, 2.6)
    blade_area = species.length * species.width * 0.8
    canopy = np.zeros(shape, np.uint8)
    layers = 4
    for layer in range(layers):
        height = (layer + 1) / layers
        wanted = min(int(density.size * 1.2 * cover / layers / blade_area), 2500)
        roots = _sow(rng, density, max(wanted, 12), species.length)
        blades = _shape_blades(rng, roots, species, 0.4 + 0.6 * height)
        canopy = np.maximum(canopy, _draw_blades(rng, picture, blades, shadow=species.width * (0.6 + height)))
    if rng.random() < 0.6:
        _grow_epiphytes(rng, picture, canopy, species)
    labels[_close_canopy(canopy, mat, species.width)] = SEAGRASS


def _lay_mat(rng: Generator, picture: Picture, mat: Field, species: _Species) -> None:
    """The floor of a meadow: shaded stems and debris, dark olive, with streaks finer than the blades above."""
    shape = _extent(picture)
    mottle = 0.75 + 0.35 * _clouds(rng, shape, species.width * 3, 4)
    streaks = _clouds(rng, shape, species.width * 0.8, 2) * rng.uniform(0.05, 0.3)
    floor = np.clip(np.asarray(species.old) * np.clip(mottle + streaks, 0.1, 2)[..., None], 0.01, 1)
    _blend(picture, floor * rng.uniform(0.6, 1.1), mat)
    # In places the bottom shows through.
    gaps = _sigmoid(_clouds(rng, shape, species.width * 5, 3), rng.uniform(1.2, 2.2), 0.2)
    _blend(picture, picture * rng.uniform(1.0, 1.8), gaps * mat)


def _close_canopy(blades: Mask, mat: Field, blade_width: float) -> npt.NDArray[np.bool_]:
    """Blades, and the gaps that have enough blades within about three blade widths; ``bool[H, W]``."""
    solid = blades > 127
    around = _blur(solid.astype(np.float32), 2.5 * blade_width)
    return solid | (around > _CANOPY_COVER * (1 - 0.5 * mat))


def _grow_epiphytes(rng: Generator, picture: Picture, canopy: Mask, species: _Species) -> None:
    shape = _extent(canopy)
    specks = _sigmoid(_clouds(rng, shape, species.width * 1.2, 3), rng.uniform(0.8, 2), 0.3)
    color = _color(rng, (0.20, 0.16, 0.10), (0.62, 0.62, 0.50))
    _blend(picture, color, specks * (canopy.astype(np.float32) / 255) * rng.uniform(0.2, 0.7))


def _sow(rng: Generator, density: Field, count: int, margin: float) -> npt.NDArray[np.float64]:
    """Roots in shoots of a few blades, as dense as the field says; ``float64[N, 2]``, (x, y)."""
    height, width = density.shape
    shoots = rng.uniform((-margin, -margin), (width + margin, height + margin), (math.ceil(count / 3), 2))
    columns = np.clip(shoots[:, 0].astype(int), 0, width - 1)
    rows = np.clip(shoots[:, 1].astype(int), 0, height - 1)
    kept = shoots[rng.random(len(shoots)) < density[rows, columns]]
    roots = np.repeat(kept, 3, axis=0)
    return roots + rng.normal(0, 0.03 * margin, roots.shape)


def _shape_blades(rng: Generator, roots: npt.NDArray[np.float64], species: _Species, brightness: float) -> _Blades:
    """Bend a ribbon from every root (``float64[N, 2]``, x and y); ``brightness`` (0-1) is the light at this height."""
    count = len(roots)
    along = np.linspace(0, 1, 9)
    angle = species.lean + species.spread * rng.standard_normal((count, 1))
    length = species.length * rng.lognormal(0, 0.35, (count, 1))
    bend = species.bend * rng.standard_normal((count, 1))
    wave = 0.03 * rng.standard_normal((count, 1)) * np.sin(2 * math.pi * along + rng.uniform(0, 6, (count, 1)))
    forward, sideways = length * along, length * (bend * along**2 + wave)
    cosine, sine = np.cos(angle), np.sin(angle)
    middle = np.stack([forward * cosine - sideways * sine, forward * sine + sideways * cosine], axis=-1)
    middle += roots[:, None, :]
    tangent = np.gradient(middle, axis=1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    # Seen from above a blade shows its flat side or its edge, so its width varies along the blade and between blades.
    twist = np.clip(0.8 + 0.3 * np.sin(3 * along + rng.uniform(0, 6, (count, 1))), 0.45, 1)
    half = species.width / 2 * rng.lognormal(0, 0.2, (count, 1)) * twist * (1 - 0.75 * along**6)
    left, right = middle - normal * half[..., None], middle + normal * half[..., None]
    outlines = np.concatenate([left, right[:, ::-1]], axis=1)
    ridges = np.concatenate([left, middle[:, ::-1]], axis=1)
    age = np.clip(rng.beta(1.2, 2.2, (count, 1)), 0, 1)
    colors = np.asarray(species.fresh) * (1 - age) + np.asarray(species.old) * age
    colors = colors * brightness * rng.lognormal(0, 0.18, (count, 1)) * rng.lognormal(0, 0.05, (count, 3))
    scale = 2**_SUBPIXEL_BITS
    return _Blades(
        np.rint(outlines * scale).astype(np.int32),
        np.rint(ridges * scale).astype(np.int32),
        np.clip(colors, 0.01, 1).astype(np.float32),
    )


def _draw_blades(rng: Generator, picture: Picture, blades: _Blades, shadow: float) -> Mask:
    """Draw ribbons and the soft shadow they throw ``shadow`` pixels away; returns their coverage, 0-255."""
    shape = _extent(picture)
    solid = (_polygons(shape, blades.outlines) * 255).astype(np.uint8)
    angle = rng.uniform(0, 2 * math.pi)
    shift = np.asarray([[1, 0, shadow * math.cos(angle)], [0, 1, shadow * math.sin(angle)]], np.float32)
    thrown = np.asarray(cv2.warpAffine(solid, shift, (shape[1], shape[0])), np.float32) / 255
    picture *= (1 - rng.uniform(0.15, 0.55) * _blur(thrown, shadow * 0.5))[..., None]
    paint = np.zeros((*shape, 3), np.uint8)
    gloss = rng.uniform(1.05, 1.5)
    for outline, ridge, color in zip(blades.outlines, blades.ridges, blades.colors * 255, strict=True):
        red, green, blue = color.tolist()
        cv2.fillPoly(paint, [outline], (red, green, blue), cv2.LINE_8, _SUBPIXEL_BITS)
        lit = (min(red * gloss, 255), min(green * gloss, 255), min(blue * gloss, 255))
        cv2.fillPoly(paint, [ridge], lit, cv2.LINE_8, _SUBPIXEL_BITS)
    _blend(picture, paint.astype(np.float32) / 255, solid.astype(np.float32) / 255)
    return solid


def _place_frame(
    rng: Generator, picture: Picture, labels: Mask, outer: npt.NDArray[np.floating] | None = None
) -> Frame:
    """Lay the quadrat on the bottom: shadow first, then the pipes."""
    height, width = labels.shape
    texture, alpha, pipe = _frame_texture(rng)
    # Where OpenCV draws, pixel centres are whole numbers.
    corners = _frame_corners(rng, width, height) if outer is None else (outer - 0.5).astype(np.float32)
    side = float(_FRAME_TEXTURE - 1)
    square = np.asarray([(0, 0), (side, 0), (side, side), (0, side)], np.float32)
    view = np.asarray(cv2.getPerspectiveTransform(square, corners), np.float64)
    # Area averaging by hand: a minified warp with plain bilinear sampling would alias the bands.
    shrink = float(np.linalg.norm(corners[1] - corners[0])) / side
    if shrink < 0.7:
        texture, alpha = _blur(texture, 0.4 / shrink), _blur(alpha, 0.4 / shrink)
    pipes = np.asarray(cv2.warpPerspective(texture, view, (width, height)), np.float32)
    coverage = np.clip(np.asarray(cv2.warpPerspective(alpha, view, (width, height)), np.float32), 0, 1)
    away = float(rng.uniform(3, 16)) * math.sqrt(width * height) / 900
    angle = rng.uniform(0, 2 * math.pi)
    shift = np.asarray([[1, 0, away * math.cos(angle)], [0, 1, away * math.sin(angle)]], np.float32)
    thrown = _blur(np.asarray(cv2.warpAffine(coverage, shift, (width, height)), np.float32), away * 0.5)
    picture *= (1 - rng.uniform(0.2, 0.7) * thrown)[..., None]
    _blend(picture, pipes / np.maximum(coverage, 1e-3)[..., None], coverage)
    labels[coverage > 0.5] = FRAME
    low, high = pipe - 0.5, side - pipe + 0.5
    inner = np.asarray([[(low, low), (high, low), (high, high), (low, high)]], np.float64)
    return Frame(corners.astype(np.float64) + 0.5, np.asarray(cv2.perspectiveTransform(inner, view))[0] + 0.5)


def _frame_corners(rng: Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Where the four outer corners lie in the picture, ``float32[4, 2]`` (x, y); they may lie outside."""
    half = rng.uniform(0.36, 0.62) * min(width, height)
    stretch = rng.uniform(1.0, max(width, height) / min(width, height)) if rng.random() < 0.4 else 1.0
    across = np.asarray((stretch, 1.0) if width >= height else (1.0, stretch))
    corners = np.asarray([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half * across
    corners *= 1 + 0.05 * rng.standard_normal((4, 2))
    turn = rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(0, math.pi)
    rotation = np.asarray([(math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))])
    center = np.asarray((width, height)) * rng.normal(0.5, 0.07, 2)
    return (corners @ rotation.T + center).astype(np.float32)


def _frame_texture(rng: Generator) -> tuple[Picture, Field, int]:
    """The frame in its own plane: colour times coverage, coverage (0-1), and how far in the pipes end."""
    size = _FRAME_TEXTURE
    pipe = int(rng.uniform(0.034, 0.064) * size)
    elbow = int(pipe * rng.uniform(1.0, 1.3))
    across = np.arange(pipe, dtype=np.float32) / max(pipe - 1, 1) * 2 - 1
    light = rng.uniform(-0.6, 0.6)
    profile = 1 - rng.uniform(0.15, 0.5) * np.clip(np.abs(across - light) / 1.6, 0, 1) ** 2
    white = _color(rng, (0.84, 0.86, 0.82), (1.0, 1.0, 0.98))
    strip = profile[:, None, None] * np.broadcast_to(white, (pipe, size, 3)).astype(np.float32)
    strip = strip * (1 + 0.03 * _clouds(rng, (pipe, size), 60, 3))[..., None]
    _paint_bands(rng, strip, profile)
    paint = np.zeros((size, size, 3), np.float32)
    alpha = np.zeros((size, size), np.float32)
    inset = (elbow - pipe) // 2
    for _ in range(4):
        paint[inset : inset + pipe] = strip
        alpha[inset : inset + pipe] = 1
        paint, alpha = np.rot90(paint).copy(), np.rot90(alpha).copy()
    reach = int(elbow * rng.uniform(1.3, 2.4))
    knee = np.zeros((size, size), np.float32)
    knee[:elbow, :reach] = 1
    knee[:reach, :elbow] = 1
    joint = white * rng.uniform(0.9, 1.05)
    for _ in range(4):
        shade = (0.85 + 0.15 * _blur(knee, elbow * 0.25))[..., None] * joint
        paint = np.where(knee[..., None] > 0, shade, paint)
        alpha = np.maximum(alpha, knee)
        if rng.random() < 0.4:
            spot = elbow // 2 + int(rng.integers(-2, 3))
            cv2.circle(paint, (spot, spot), max(2, elbow // 7), (0.1, 0.12, 0.12), -1, cv2.LINE_AA)
        knee, paint, alpha = np.rot90(knee).copy(), np.rot90(paint).copy(), np.rot90(alpha).copy()
    grime = _sigmoid(_clouds(rng, (size, size), 80, 5), rng.uniform(1.2, 3), 0.3) * rng.uniform(0.1, 0.4)
    _blend(paint, _color(rng, (0.2, 0.2, 0.1), (0.5, 0.5, 0.35)), grime)
    return (paint * alpha[..., None]).astype(np.float32), alpha, inset + pipe


def _paint_bands(rng: Generator, strip: Picture, profile: Field) -> None:
    """Red and blue tape at even spaces along a pipe (``float32[pipe, length, 3]``); some frames have none."""
    if rng.random() < 0.15:
        return
    count, length = int(rng.integers(2, 8)), strip.shape[1]
    thickness = rng.uniform(0.012, 0.03) * length
    colors = [_color(rng, (0.55, 0.03, 0.02), (0.9, 0.3, 0.2)), _color(rng, (0.02, 0.05, 0.3), (0.1, 0.35, 0.7))]
    first = int(rng.integers(2))
    for index in range(count):
        middle = (index + 1) / (count + 1) * length
        start, stop = int(middle - thickness / 2), int(middle + thickness / 2)
        strip[:, start:stop] = profile[:, None, None] * colors[(first + index) % 2]


def _grow_over_frame(
    rng: Generator, picture: Picture, labels: Mask, density: Field, species: _Species, share: float | None = None
) -> None:
    """A few blades lie across the pipes; only these, without the gaps between them, turn to seagrass again."""
    drawn = rng.uniform(0.02, 0.35)
    wanted = int(density.size * (drawn if share is None else share) / (species.length * species.width))
    roots = _sow(rng, density, max(3, wanted), species.length)
    if len(roots) == 0:
        return
    blades = _shape_blades(rng, roots, species, float(rng.uniform(0.7, 1.0)))
    solid = _draw_blades(rng, picture, blades, shadow=species.width)
    labels[solid > 127] = SEAGRASS


def _cast_light(rng: Generator, picture: Picture, unit: float) -> None:
    """Sun through waves: caustics, broad shadows, and a fall-off towards one side."""
    shape = _extent(picture)
    light = 1 + rng.uniform(0, 0.22) * _clouds(rng, shape, 400 * unit, 2)
    if rng.random() < 0.45:
        ridges = np.exp(-np.abs(_clouds(rng, shape, rng.uniform(60, 200) * unit, 2)) / rng.uniform(0.1, 0.4))
        light += rng.uniform(0.15, 0.8) * (_blur(ridges, 2 * unit) - ridges.mean())
    if rng.random() < 0.35:
        shadow = _sigmoid(_clouds(rng, shape, rng.uniform(150, 700) * unit, 3), rng.uniform(0.2, 1.2), 0.12)
        light *= 1 - rng.uniform(0.3, 0.75) * shadow
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    light *= 1 + rng.uniform(0, 0.4) * (columns * math.cos(angle) + rows * math.sin(angle))
    light *= 1 - rng.uniform(0, 0.45) * np.clip(columns**2 + rows**2, 0, 2) / 2
    picture *= np.clip(light, 0.08, 3)[..., None].astype(np.float32)


def _fill_with_water(rng: Generator, picture: Picture) -> None:
    """Colour cast and veil: red is lost first, and the water scatters its own light into the picture."""
    shape = _extent(picture)
    kind = rng.random()
    if kind < 0.35:
        gain, veil, depth = (0.93, 0.97, 0.95), _color(rng, (0.3, 0.38, 0.38), (0.5, 0.52, 0.5)), rng.uniform(0, 0.15)
    elif kind < 0.75:
        gain, depth = (rng.uniform(0.6, 0.9), 1.0, rng.uniform(0.6, 0.9)), rng.uniform(0.05, 0.42)
        veil = _color(rng, (0.18, 0.42, 0.25), (0.42, 0.72, 0.5))
    elif kind < 0.9:
        gain, depth = (rng.uniform(0.45, 0.8), 0.9, 1.0), rng.uniform(0.05, 0.38)
        veil = _color(rng, (0.08, 0.36, 0.42), (0.3, 0.6, 0.66))
    else:
        gain, depth = (0.8, 0.85, 0.45), rng.uniform(0.15, 0.42)
        veil = _color(rng, (0.22, 0.30, 0.12), (0.42, 0.50, 0.25))
    picture *= np.asarray(gain, np.float32)
    haze = np.clip(depth * (1 + 0.25 * _clouds(rng, shape, max(shape) / 2, 2)), 0, 0.6)
    _blend(picture, veil, haze.astype(np.float32))
    if rng.random() < 0.25:
        flakes = _sigmoid(_clouds(rng, shape, 3, 1), rng.uniform(3.2, 4), 0.1)
        _blend(picture, veil * 1.4, _blur(flakes, rng.uniform(0.5, 2)) * 0.6)


def _photograph(rng: Generator, picture: Picture) -> npt.NDArray[np.uint8]:
    """Exposure, white balance, tone curve, lens blur, sensor noise, sharpening and JPEG, as a camera does them."""
    exposure = rng.uniform(0.75, 1.3) * 0.45 / max(float(picture.mean()), 0.05)
    balance = rng.lognormal(0, 0.06, 3).astype(np.float32)
    exposed = np.clip(picture * balance * exposure ** rng.uniform(0.3, 1.0), 0, None)
    toned = exposed ** rng.uniform(0.75, 1.2)
    toned = (toned - 0.5) * rng.uniform(0.7, 1.3) + 0.5
    gray = toned.mean(axis=-1, keepdims=True)
    toned = gray + (toned - gray) * rng.uniform(0.6, 1.3)
    toned = _blur(toned.astype(np.float32), rng.uniform(0.2, 1.1) if rng.random() < 0.85 else rng.uniform(1.0, 1.7))
    if rng.random() < 0.35:
        toned += rng.uniform(0.3, 1.2) * (toned - _blur(toned, rng.uniform(0.8, 2.5)))
    toned += rng.uniform(0.0, 0.03) * rng.standard_normal(toned.shape, dtype=np.float32)
    developed = np.rint(np.clip(toned, 0, 1) * 255).astype(np.uint8)
    quality = int(rng.integers(45, 97))
    encoded = cv2.imencode(".jpg", developed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if decoded is None:
        raise RuntimeError("OpenCV could not read back the JPEG that it wrote itself")
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)


def save_scene(scene: Scene, picture: Path, labels: Path | None = None) -> None:
    """Write a picture as JPEG and, if asked, its labels as palette PNG; folders are made."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(picture, quality=90, optimize=True)
    if labels is not None:
        labels.parent.mkdir(parents=True, exist_ok=True)
        indices = Image.fromarray(scene.labels, mode="P")
        indices.putpalette([channel for color in LABEL_COLORS for channel in color])
        indices.save(labels, optimize=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.scenes", description="Write rendered quadrat pictures.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures, made if absent")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=900_000, help="seed of the first picture; the next ones count up")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--labels", action="store_true", help="write the labels, too, as palette PNG in labels/")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write pictures as ``scene_SEED.jpg`` and, if asked, labels as ``labels/scene_SEED.png``."""
    options = _parse(arguments)
    folder: Path = options.out
    for seed in range(options.seed, options.seed + options.count):
        scene = render_scene(seed, options.width, options.height)
        labels = folder / "labels" / f"scene_{seed}.png" if options.labels else None
        save_scene(scene, folder / f"scene_{seed}.jpg", labels)
        print(f"{folder / f'scene_{seed}.jpg'}")


if __name__ == "__main__":
    main()

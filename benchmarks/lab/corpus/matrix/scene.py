"""The scene that every file of the matrix holds: smooth, without symmetry, every band different."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus.rules import eight_bit

WIDTH, HEIGHT = 83, 61
"""Not multiples of any side of a tile, nor even: every format's fill shows."""
ALPHA = 5
"""Number of the band that is an alpha: 0 in one corner."""


def _rendered() -> NDArray[np.uint16]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    bands = [
        0.50 + 0.35 * np.sin(x / 17) * np.cos(y / 23),
        0.20 + 0.60 * x / WIDTH,
        0.15 + 0.65 * y / HEIGHT + 0.10 * np.cos(x / 9),
        0.85 - 0.70 * x * y / (WIDTH * HEIGHT),
        0.40 + 0.30 * np.cos((x + 2 * y) / 31),
        np.where((x < 20) & (y < 15), 0.0, 0.55 + 0.45 * y / HEIGHT),
    ]
    return np.rint(np.stack(bands, axis=-1) * 65535).astype(np.uint16)


_SCENE = _rendered()


def samples(bands: Sequence[int], bits: int) -> NDArray[np.uint16]:
    """Take bands of the scene, by number from 0 to 5, at a depth of `bits`: uint16[H, W, len(bands)]."""
    return (_SCENE[..., list(bands)] >> (16 - bits)).astype(np.uint16)


def scene_rgb() -> NDArray[np.uint8]:
    """The scene as everybody should see it: uint8[HEIGHT, WIDTH, 3]."""
    return eight_bit(samples((0, 1, 2), 16), 16)


def cmyk(bits: int) -> NDArray[np.uint16]:
    """The scene in ink: uint16[H, W, 4], 0 to 2**bits - 1."""
    ink = 65535 - _SCENE[..., :3].astype(np.int64)
    black = ink.min(axis=2, keepdims=True) // 2
    return (np.dstack([(ink - black) * 65535 // (65535 - black), black]) >> (16 - bits)).astype(np.uint16)


def colormap(entries: int) -> NDArray[np.uint16]:
    """Colours for a palette: uint16[3, entries], 0 to 65535."""
    ramp = np.linspace(0, 255, entries).round().astype(np.uint16)
    return np.stack([ramp, ramp[::-1], (ramp * 3 + 40) % 256]) * 257

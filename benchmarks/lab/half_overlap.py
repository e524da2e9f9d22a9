"""How habitat-mapper tiles, as a peer: windows that overlap by half, under a Bartlett–Hann window."""

# Its rule is done again here, from its version 0.16.2, because the package runs only models of its own registry; its
# median filter of the finished mask is left out. Tiles start at multiples of half a tile; those that reach over the
# image are filled with zeros; at the image's edges the outer half of a tile counts fully; weights are not normalised.
# The image is in memory here, which changes no pixel.

import numpy as np
from numpy.typing import NDArray

from engine.images import Capture, SourceImage
from engine.segmentation.postprocess import OutputKind, read_planes
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import Mask


def predict_with_half_overlap(predictor: Predictor, image: SourceImage, side: int) -> tuple[Mask, int]:
    """Segment an image by that rule."""
    height, width = image.pixels.shape[:2]
    half = side // 2
    rows, columns = _tiles(height, side), _tiles(width, side)
    extended = np.zeros(((rows + 1) * half, (columns + 1) * half, 3), np.uint8)
    extended[:height, :width] = image.pixels
    sums: NDArray[np.float32] | None = None
    kind: OutputKind | None = None
    for row in range(rows):
        for column in range(columns):
            place = (slice(row * half, row * half + side), slice(column * half, column * half + side))
            tile = SourceImage(np.ascontiguousarray(extended[place]), side, side, Capture())
            prepared = predictor.prepare(tile)
            (raw,) = predictor.run([prepared])
            kind = raw.kind
            planes = predictor.planes(prepared, raw)
            if sums is None:
                sums = np.zeros((len(planes), *extended.shape[:2]), np.float32)
            weights = np.outer(
                _weights(side, first=row == 0, last=row == rows - 1),
                _weights(side, first=column == 0, last=column == columns - 1),
            )
            for plane, total in zip(planes, sums, strict=True):
                total[place] += plane * weights
    if sums is None or kind is None:
        raise AssertionError("an image has at least one tile")
    return read_planes(sums[:, :height, :width], kind, threshold=predictor.threshold), rows * columns


def _tiles(length: int, side: int) -> int:
    return max(1, -(-(length - side) // (side // 2)) + 1)


def _weights(side: int, *, first: bool, last: bool) -> NDArray[np.float64]:
    away = np.abs(np.arange(side) / side - 0.5)
    weights = 0.62 - 0.48 * away + 0.38 * np.cos(2 * np.pi * away)
    if first:
        weights[: side // 2] = 1
    if last:
        weights[side // 2 :] = 1
    return weights

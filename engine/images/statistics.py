"""A few numbers that tell how sharp, light and coloured a photograph is; cheap enough for every one of them."""

# Source of the measure of blur: Crété, Dolmiere, Ladret, Nicolas, "The blur effect: perception and estimation with a
# new no-reference perceptual blur metric", SPIE 6492 (2007): what another blur takes from the differences of
# neighbours. A sharp picture loses most of them, a blurred one little, whatever it shows.

from dataclasses import dataclass
from typing import Annotated, Final

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from pydantic import Field

from engine.images.size import DEFAULT_MAX_IMG_SIZE, shrunken_size

_BLUR_PX: Final = 9
_SMALLEST_SIDE_PX: Final = 64
"""Smaller pictures are mostly border for a blur of nine pixels: how sharp they are is not judged."""
_BANDS: Final = 16
_EVERY_BAND: Final = 8
"""An eighth of the rows, and of the columns."""
_SAMPLED_PIXELS: Final = 65_536
_CLIPPED_FROM: Final = 250
_PERCENTILE: Final = 99

Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True)
class PictureStatistics:
    """How a picture is exposed, sharp and coloured."""

    blur: Share  # 0 sharp to 1 blurred, at the size that the network sees, at most a megapixel
    bright: Level  # the brightest channel of 99 % of the pixels is not above it
    clipped: Share  # share of the pixels in which a channel is at least 250
    mean: tuple[Level, Level, Level]  # of red, green and blue
    deviation: tuple[Level, Level, Level]  # standard deviation of red, green and blue, in levels


def picture_statistics(pixels: NDArray[np.uint8]) -> PictureStatistics:
    """Measure a picture, uint8[H, W, 3], RGB; exposure and colour on every N-th row and column, about 65 000 pixels."""
    height, width = pixels.shape[:2]
    step = max(1, int((height * width / _SAMPLED_PIXELS) ** 0.5))
    sample = np.ascontiguousarray(pixels[::step, ::step])
    red, green, blue = cv2.split(sample)
    brightest = np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)
    levels: NDArray[np.int64] = np.bincount(brightest.ravel(), minlength=256).cumsum()
    total = int(levels[-1])
    mean, deviation = cv2.meanStdDev(sample)
    return PictureStatistics(
        blur=round(_blur(pixels), 4),
        bright=float(np.searchsorted(levels, total * _PERCENTILE / 100)),
        clipped=round(1 - int(levels[_CLIPPED_FROM - 1]) / total, 4),
        mean=_rounded(mean),
        deviation=_rounded(deviation),
    )


def _rounded(values: MatLike) -> tuple[float, float, float]:
    red, green, blue = (round(float(each), 2) for each in values.ravel())
    return red, green, blue


def _blur(pixels: NDArray[np.uint8]) -> float:
    height, width = pixels.shape[:2]
    if min(height, width) < _SMALLEST_SIDE_PX:
        return 0.0
    # Along the rows and along the columns: a camera that moves blurs one of them.
    return max(_kept_by_blur(_sampled(pixels, 0)), _kept_by_blur(cv2.transpose(_sampled(pixels, 1))))


def _sampled(pixels: NDArray[np.uint8], axis: int) -> MatLike:
    """Take bands across an axis, grey and as large as the network sees them: their rows, or columns, stand for all."""
    stored = pixels.shape[:2]
    width, height = shrunken_size(stored[1], stored[0], DEFAULT_MAX_IMG_SIZE)
    seen = [height, width]
    lines = max(1, seen[axis] // (_BANDS * _EVERY_BAND))
    stored_lines = round(lines * stored[axis] / seen[axis])
    firsts = [index * (stored[axis] - stored_lines) // (_BANDS - 1) for index in range(_BANDS)]
    bands = [pixels[_band(axis, first, stored_lines)] for first in firsts]
    grey = cv2.cvtColor(np.concatenate(bands, axis=axis), cv2.COLOR_RGB2GRAY)
    if tuple(seen) == stored:
        return grey
    # As many stored lines for each line that is seen: bands do not mix.
    seen[axis] = _BANDS * lines
    return cv2.resize(grey, (seen[1], seen[0]), interpolation=cv2.INTER_AREA)


def _band(axis: int, first: int, lines: int) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), slice(first, first + lines))


def _kept_by_blur(grey: MatLike) -> float:
    """Share of the differences of neighbours in a row that is left when the rows are blurred."""
    blurred = cv2.blur(grey, (_BLUR_PX, 1))
    before, after = (cv2.absdiff(each[:, 1:], each[:, :-1]) for each in (grey, blurred))
    total = cv2.sumElems(before)[0]
    lost = cv2.sumElems(cv2.subtract(before, after))[0]
    return 1 - lost / total if total else 0.0

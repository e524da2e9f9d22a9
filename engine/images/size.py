"""The size at which the network sees a picture, and the range of its values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from engine.declaration import Options, numbers, option
from engine.errors import ImageError, OptionError
from engine.images.formats import DEFAULT_MAX_PIXELS
from engine.images.values import ScaleRange, scale_range

DEFAULT_MAX_IMG_SIZE = 1_000_000


@dataclass(frozen=True, slots=True)
class ImageLimits(Options):
    """How large pictures and their values may be."""

    title: ClassVar[str] = "Pictures"

    max_img_size: int = option(
        DEFAULT_MAX_IMG_SIZE,
        "Images with more pixels (width times height) are shrunk to this number of pixels for the network; -1 never "
        "shrinks.",
        minimum=-1,
        excluded=0,
    )
    max_pixels: int = option(DEFAULT_MAX_PIXELS, "Images that declare more pixels than this are refused.", minimum=1)
    scale_range: ScaleRange | None = option(
        None,
        "Values that become 0 and 255, such as 0,4095, for images of more than 8 bit and TIFFs of signed or "
        "floating-point values. By default the highest eight bits are taken.",
        metavar="LOW,HIGH",
        parse=scale_range,
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.scale_range is not None:
            try:
                low, high = map(float, self.scale_range)
            except (TypeError, ValueError):
                raise OptionError(
                    f"{self.scale_range} is not a range: give two numbers", option="scale_range"
                ) from None
            object.__setattr__(self, "scale_range", ScaleRange(low, high))
            if not (low < high and math.isfinite(low) and math.isfinite(high)):
                raise OptionError(f"{low:g} is not less than {high:g}", option="scale_range")

    @property
    def largest_pixels(self) -> int:
        """The most pixels that the network may get."""
        return self.max_pixels if self.max_img_size < 0 else self.max_img_size


def bands_option() -> Any:  # noqa: ANN401  (as `option`)
    """Declare which bands of TIFFs are read: `tuple[int, ...] | None`."""
    return option(
        None,
        "Bands of TIFFs to use, counted from 1, as many as the network takes: for example 3,2,1 as red, green and "
        "blue, or one band as grey.",
        minimum=1,
        parse=numbers(int, "3,2,1"),
    )


def require_named_bands(named: Sequence[int] | None, bands: int) -> None:
    """Refuse, with an OptionError, another number of bands of TIFFs than a network takes.

    Without names they are the colours, three bands; of three, one may be named, which becomes three equal ones.
    """
    if named is None:
        if bands != 3:
            raise OptionError(
                f"the network takes images of {bands} bands: name as many of the bands of TIFFs", option="bands"
            )
    elif len(named) not in ({1, 3} if bands == 3 else {bands}):
        one_or = "one or " if bands == 3 else ""
        raise OptionError(f"{len(named)} bands are named: give {one_or}{bands}, as the network takes", option="bands")


def shrunken_size(width: int, height: int, max_img_size: int) -> tuple[int, int]:
    """Apply the limit `max-img-size`, which counts pixels, not a side's length, to a width and height of at least 1.

    Both sides are scaled by `sqrt(max_img_size / (width * height))` and rounded down, to no less than 1. The result
    depends on the sides alike: swapping them swaps the result, so a picture may be shrunken before it is turned
    upright. -1 leaves the size unchanged; OptionError as of `check_max_img_size`.

    >>> shrunken_size(4000, 3000, 1_000_000)
    (1154, 866)
    >>> shrunken_size(800, 600, 1_000_000)
    (800, 600)
    >>> shrunken_size(4000, 3000, -1)
    (4000, 3000)
    """
    check_max_img_size(max_img_size)
    if max_img_size == -1 or width * height <= max_img_size:
        return width, height
    return _shrunken_side(width, height, max_img_size), _shrunken_side(height, width, max_img_size)


def check_max_img_size(max_img_size: int) -> None:
    """Refuse limits that no picture can keep, 0 and less than -1, with an OptionError."""
    if max_img_size == 0 or max_img_size < -1:
        raise OptionError(
            f"{max_img_size} is not a number of pixels: give the most that an image may have, or -1 to leave images "
            "unchanged",
            option="max_img_size",
        )


def check_max_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture that declares too many pixels, with an ImageError."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: declares {width} x {height} = {width * height} pixels, more than the limit of {max_pixels}: "
            "raise max-pixels if the file can be trusted"
        )


def _shrunken_side(side: int, other: int, max_img_size: int) -> int:
    # The integer root is the exact floor of side * sqrt(max_img_size / (side * other)); floats are off by one at times.
    # Where the other side is lifted to 1 pixel, this one alone has to keep the limit.
    return min(max(1, math.isqrt(max_img_size * side // other)), max_img_size)

"""Values of any depth become 8 bit, by one rule for all formats."""

# Without a range of their own, values of more than 8 bit keep their highest eight bits (`v >> 8` of 16 bit, as OpenCV's
# `IMREAD_COLOR`), and fewer bits are spread over 0–255. With one, LOW becomes 0 and HIGH 255, with straight proportion
# between, rounded to the nearest (`gdal_translate -ot Byte -scale LOW HIGH`), and what lies outside is cut off.

from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.declaration import numbers
from engine.errors import ImageError

_DARK: Final = 64
"""A quarter of 256 levels: 14 bit in 16 do not reach it."""


class ScaleRange(NamedTuple):
    """The values that become 0 and 255."""

    low: float
    high: float


def scale_range(text: str) -> ScaleRange:
    """Read two numbers separated by a comma; else ValueError.

    >>> scale_range("0,4095")
    ScaleRange(low=0.0, high=4095.0)
    """
    return ScaleRange(*numbers(float, "0,4095", count=2)(text))


def eight_bit(values: NDArray[Any], bits: int, scale_range: ScaleRange | None = None) -> NDArray[np.uint8]:
    """Bring values, unsigned integers of `bits` bits, to 8 bit; with a range also signed or floating point.

    NaN becomes 0.

    >>> eight_bit(np.array([0, 256, 4095, 65535], np.uint16), 16)
    array([  0,   1,  15, 255], dtype=uint8)
    >>> eight_bit(np.array([0, 256, 4095, 65535], np.uint16), 16, ScaleRange(0, 4095))
    array([  0,  16, 255, 255], dtype=uint8)
    """
    if scale_range is not None:
        if values.dtype == np.uint16:
            return _table(scale_range)[values]
        return _scaled(values, scale_range)
    if bits == 8:
        return values.view(np.uint8) if values.dtype.itemsize == 1 else values.astype(np.uint8)
    if bits > 8:
        return (values >> (bits - 8)).astype(np.uint8)
    return (values.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)


def decoded_by_opencv(file: BinaryIO, bits: int, scale_range: ScaleRange | None) -> NDArray[np.uint8]:
    """Decode a picture of 9 to 16 bit to uint8[H, W, 3], RGB, as `eight_bit` does; alpha is dropped.

    ValueError: OpenCV cannot decode it.
    """
    file.seek(0)
    decoded = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    values = cast("NDArray[np.uint16]", decoded)
    found = eight_bit(values[..., np.newaxis] if values.ndim == 2 else values[..., 2::-1], bits, scale_range)
    return np.repeat(found, 3, axis=-1) if found.shape[-1] == 1 else found


@lru_cache(maxsize=4)
def _table(scale_range: ScaleRange) -> NDArray[np.uint8]:
    """What each value of 16 bit becomes: strips of a raster ask for it band by band."""
    return _scaled(np.arange(1 << 16), scale_range)


def _scaled(values: NDArray[Any], scale_range: ScaleRange) -> NDArray[np.uint8]:
    low, high = scale_range
    inside = np.clip(np.nan_to_num(values.astype(np.float64), nan=low), low, high)
    return ((inside - low) * (255 / (high - low)) + 0.5).astype(np.uint8)


def require_scalable(path: Path, scale_range: ScaleRange | None, *, is_deep: bool) -> None:
    """Refuse a range for a picture that has no use for it, with an ImageError.

    Values are deep that have more than 8 bit, or are signed or floating point, and are read as stored.
    """
    if scale_range is not None and not is_deep:
        raise ImageError(
            f"{path}: scale-range is for PNG, TIFF and JPEG 2000 files of more than 8 bit, and for TIFFs of signed or "
            "floating point values: leave it out for this picture"
        )


def range_notes(levels: tuple[int, int], bits: int, scale_range: ScaleRange | None) -> tuple[str, ...]:
    """Say, in at most one phrase, that a picture uses almost nothing of the range of its values.

    Of the lowest and the highest level, as `eight_bit` gave them: values of more than 8 bit stay below a quarter of the
    range, or, with a range that was asked for, all lie above it.
    """
    lowest, highest = levels
    if scale_range is not None:
        low, high = scale_range
        if highest < _DARK:
            return (
                f"uses less than a quarter of scale-range {low:g},{high:g}: the network sees an almost black picture",
            )
        if lowest == 255:
            return (f"has no value below {high:g}, the end of scale-range: the network sees a white picture",)
        return ()
    if bits <= 8 or highest >= _DARK:
        return ()
    most = ((highest + 1) << (bits - 8)) - 1
    return (
        f"has no value above {most} of {(1 << bits) - 1}: the network sees an almost black picture (scale-range "
        f"0,{most} spreads these values, if that is their range)",
    )

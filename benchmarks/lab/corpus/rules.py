"""The documented rules of reading, written down a second time: stored values become upright RGB of 8 bit."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Model = Literal["grey", "white is zero", "RGB", "palette", "CMYK", "YCbCr", "CIELab", "ICCLab"]

BT601 = (0.299, 0.587, 0.114)
FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_D50 = np.array([0.9642, 1.0, 0.8249])
# Bradford's adaptation from D50 to D65, and XYZ (D65) to linear sRGB (IEC 61966-2-1).
_D50_TO_D65 = np.array(
    [[0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.0204830, 1.3299098]]
)
_XYZ_TO_SRGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the samples of a picture, of 1 to 16 bits, mean.

    `premultiplied`: colours are multiplied by the alpha, which is the band behind them. `colors` of a palette are
    integers [3, entries] as the file has them; of YCbCr, `coefficients` are the shares of red, green and blue in the
    luma, `reference` black and white of each component.
    """

    model: Model
    bits: int = 8
    premultiplied: bool = False
    colors: NDArray[Any] | None = None
    coefficients: tuple[float, float, float] = BT601
    reference: tuple[float, ...] = FULL_RANGE

    @property
    def color_bands(self) -> int:
        return {"grey": 1, "white is zero": 1, "palette": 1, "CMYK": 4}.get(self.model, 3)

    @property
    def is_exact(self) -> bool:
        """Whether the rules leave no room for rounding."""
        return self.model in {"grey", "white is zero", "RGB", "palette"} and not self.premultiplied


def to_rgb(values: NDArray[Any], stored: Stored) -> NDArray[np.uint8]:
    """Apply the rules."""
    if stored.model == "palette":
        return palette_colors(stored)[values[..., 0].astype(np.intp)]
    if stored.premultiplied:
        values = _divided(values, stored)
        stored = replace(stored, premultiplied=False)
    bands = values[..., : stored.color_bands]
    if stored.model in {"CIELab", "ICCLab"}:
        return _lab_to_rgb(bands, stored)
    eight = eight_bit(bands, stored.bits)
    match stored.model:
        case "grey":
            return np.repeat(eight, 3, axis=2)
        case "white is zero":
            return np.repeat(255 - eight, 3, axis=2)
        case "CMYK":
            ink = eight.astype(np.float64)
            return _rounded((255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255)
        case "YCbCr":
            return ycbcr_to_rgb(eight.astype(np.float64), stored)
        case _:
            return np.ascontiguousarray(eight)


def eight_bit(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Keep the highest eight bits, or spread fewer over 0 to 255.

    >>> eight_bit(np.array([3]), 2).tolist(), eight_bit(np.array([0xABC]), 12).tolist()
    ([255], [171])
    """
    wide = values.astype(np.uint32)
    return (wide >> (bits - 8) if bits >= 8 else wide * 255 // ((1 << bits) - 1)).astype(np.uint8)


def palette_colors(stored: Stored) -> NDArray[np.uint8]:
    """Look a palette's colours up, uint8[entries, 3]: the high byte, unless no entry needs more than eight bits."""
    colors = np.asarray(stored.colors)
    return (colors >> 8 if colors.max(initial=0) > 255 else colors).T.astype(np.uint8)


def ycbcr_to_rgb(values: NDArray[np.float64], stored: Stored) -> NDArray[np.uint8]:
    """Convert YCbCr as TIFF 6.0 (section 21) defines it."""
    red, green, blue = stored.coefficients
    black, white = np.array(stored.reference[::2]), np.array(stored.reference[1::2])
    luma, cb, cr = np.moveaxis((values - black) / (white - black) * np.array([255.0, 127.0, 127.0]), -1, 0)
    r = luma + cr * (2 - 2 * red)
    b = luma + cb * (2 - 2 * blue)
    return _rounded(np.stack([r, (luma - blue * b - red * r) / green, b], axis=-1))


def rgb_to_ycbcr(rgb: NDArray[np.uint8], stored: Stored) -> NDArray[np.uint8]:
    red, green, blue = stored.coefficients
    r, g, b = np.moveaxis(rgb.astype(np.float64), -1, 0)
    luma = red * r + green * g + blue * b
    full = np.stack([luma, (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)], axis=-1)
    black, white = np.array(stored.reference[::2]), np.array(stored.reference[1::2])
    return _rounded(full / np.array([255.0, 127.0, 127.0]) * (white - black) + black)


def rgb_to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert sRGB to CIE L*a*b* of D50: float64[H, W, 3], L* 0 to 100, a* and b*."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.linalg.inv(_XYZ_TO_SRGB).T @ np.linalg.inv(_D50_TO_D65).T / _D50
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def lab_samples(lab: NDArray[np.float64], stored: Stored) -> NDArray[np.uint16]:
    """Store CIE L*a*b* as TIFF does."""
    full = (1 << stored.bits) - 1
    step = 1 << (stored.bits - 8)
    lightness = np.rint(lab[..., 0] / 100 * (full if stored.model == "CIELab" or stored.bits == 8 else 0xFF00))
    chroma = np.rint((lab[..., 1:] + (128 if stored.model == "ICCLab" else 0)) * step).astype(np.int64)
    return np.dstack([lightness.astype(np.int64), chroma & full]).astype(np.uint16)


def _lab_to_rgb(values: NDArray[Any], stored: Stored) -> NDArray[np.uint8]:
    full = (1 << stored.bits) - 1
    step = 1 << (stored.bits - 8)
    wide = values.astype(np.int64)
    if stored.model == "CIELab":
        chroma = np.where(wide[..., 1:] > full // 2, wide[..., 1:] - full - 1, wide[..., 1:]) / step
        lightness = wide[..., 0] / full * 100
    else:
        chroma = wide[..., 1:] / step - 128
        lightness = wide[..., 0] / (full if stored.bits == 8 else 0xFF00) * 100
    fy = (lightness + 16) / 116
    f = np.stack([fy + chroma[..., 0] / 500, fy, fy - chroma[..., 1] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _D50
    linear = np.clip(xyz @ _D50_TO_D65.T @ _XYZ_TO_SRGB.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return _rounded(encoded * 255)


def _divided(values: NDArray[Any], stored: Stored) -> NDArray[np.uint16]:
    """Undo the multiplication by alpha; what is wholly transparent is black."""
    full = (1 << stored.bits) - 1
    colors = values[..., : stored.color_bands].astype(np.float64)
    alpha = values[..., stored.color_bands : stored.color_bands + 1].astype(np.float64)
    straight = np.divide(colors * full, alpha, out=np.zeros_like(colors), where=alpha > 0)
    return np.clip(np.rint(straight), 0, full).astype(np.uint16)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a stored picture as TIFF's and EXIF's orientation says; the result is contiguous."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)

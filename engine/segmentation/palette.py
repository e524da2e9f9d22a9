"""Masks -> pictures and files: a mask is the truth, everything here is a view of it."""

# Classes get the colours of their bundle; what it leaves open is filled from PaddleSeg's pseudo-colour map without
# using a colour twice. A class past the end of a palette (the ignored 255 of a label picture, say) is black. All
# encodings are deterministic: the same mask and palette give the same bytes.

import io
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.declaration import Options, option
from engine.errors import ImageError, OptionError
from engine.system.text import legible

Color = tuple[int, int, int]
"""Red, green and blue, 0–255 each."""

Mask = NDArray[np.uint8 | np.uint16]
"""Class indices, `[H, W]`; `uint16` where there are more than 256 classes."""

_LINE_BITS = 4
_JPEG_QUALITY = 90
_JPEG_MAX_SIDE = 65_500
_PLTE_ENTRIES = 256
_SIDES_PER_OUTLINE = 800
_LEGEND_PX = (12, 48)
_LEGEND_NAME = 60


class OverlayStyle(StrEnum):
    """How an overlay shows the classes."""

    FILL = "fill"
    OUTLINE = "outline"


@dataclass(frozen=True, slots=True)
class OverlayOptions(Options):
    """How masks are laid over their pictures."""

    title: ClassVar[str] = "Overlays"

    overlay: OverlayStyle = option(
        OverlayStyle.FILL,
        "How overlays show the classes, and how the report shows them at first: filled, or as the outlines of their "
        "regions.",
    )
    overlay_strength: float | None = option(
        None,
        "How strong the colours of overlays are: 0 shows the picture alone, 1 the colours alone. By default 0.5 for "
        "filled regions and 1 for outlines.",
        minimum=0,
        maximum=1,
    )
    overlay_legend: bool = option(
        False, "Add the names and colours of the classes below each saved overlay, with their values in masks."
    )

    @property
    def strength(self) -> float:
        """Of the colours, 0–1."""
        if self.overlay_strength is not None:
            return self.overlay_strength
        return 0.5 if self.overlay is OverlayStyle.FILL else 1.0

    def record(self) -> dict[str, object]:
        """What differs from the defaults, option to value."""
        usual = OverlayOptions().values()
        return {name: value for name, value in self.values().items() if value != usual[name]}


def palette_for(colors: Sequence[Color | None], count: int) -> NDArray[np.uint8]:
    """Complete the colours of a bundle's classes to a palette, uint8[count, 3], RGB.

    A class without a colour gets the entry at its index of PaddleSeg's pseudo-colour map. Where another class already
    has that colour, it gets the first unused entry past the classes' own, so that no two classes look alike and no
    third one is affected.

    >>> palette_for([None, (128, 0, 0)], 3).tolist()
    [[0, 0, 128], [128, 0, 0], [128, 128, 0]]
    """
    given = [*colors, *[None] * count][:count]
    taken = set(given)
    candidates = map(_voc_color, itertools.count(1))
    own = list(itertools.islice(candidates, count))
    spare = (color for color in candidates if color not in taken)
    chosen = [color or (own[index] if own[index] not in taken else next(spare)) for index, color in enumerate(given)]
    return np.array(chosen, np.uint8).reshape(count, 3)


def pseudo_color_png(mask: Mask, palette: NDArray[np.uint8]) -> bytes:
    """Encode a mask in the colours of its classes; classes past the palette, uint8[K, 3], are black.

    Up to 256 classes the file is a palette PNG: its indices are still the classes. Past them it can only be RGB.
    """
    if mask.dtype == np.uint8 and len(palette) <= _PLTE_ENTRIES:
        image = Image.fromarray(mask)
        image.putpalette(_lookup_table(palette, np.dtype(np.uint8)).tobytes())
        return _png(image)
    return _png(Image.fromarray(_colored(mask, palette)))


def mask_png(mask: Mask) -> bytes:
    """Encode a mask for programs, as a grey PNG of 8 or 16 bit: the grey values are the class indices."""
    return _png(Image.fromarray(mask))


def overlay(
    pixels: NDArray[np.uint8],
    mask: Mask,
    palette: NDArray[np.uint8],
    *,
    opacity: float = 0.5,
    style: OverlayStyle = OverlayStyle.FILL,
) -> NDArray[np.uint8]:
    """Blend a mask's colours into its picture, uint8[H, W, 3], RGB; OptionError if `opacity` is not within 0–1.

    A mask of another size is brought to the picture's by nearest. Classes past the palette, uint8[K, 3], are black.
    Outlines are the pixels next to another class, and have the colour of their own; they grow with the picture.
    """
    if not 0 <= opacity <= 1:
        raise OptionError(f"overlay opacity is {opacity}: give a share between 0 (picture alone) and 1 (mask alone)")
    height, width = pixels.shape[:2]
    if mask.shape != (height, width):
        mask = cast("Mask", cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
    blended = cast("NDArray[np.uint8]", cv2.addWeighted(pixels, 1 - opacity, _colored(mask, palette), opacity, 0))
    if style is OverlayStyle.FILL:
        return blended
    side = 2 * max(1, round(max(height, width) / _SIDES_PER_OUTLINE)) + 1
    around = np.ones((side, side), np.uint8)
    return np.where((cv2.dilate(mask, around) != cv2.erode(mask, around))[..., None], blended, pixels)


def overlay_jpeg(
    pixels: NDArray[np.uint8],
    mask: Mask,
    palette: NDArray[np.uint8],
    options: OverlayOptions = OverlayOptions(),
    names: Sequence[str] = (),
) -> bytes:
    """Encode `overlay` for the eye, as a JPEG of quality 90; ImageError if a side is longer than a JPEG can hold.

    A legend lists the `names` of the classes that the picture shows, and makes the JPEG higher than the picture.
    """
    picture = overlay(pixels, mask, palette, opacity=options.strength, style=options.overlay)
    if options.overlay_legend:
        named = dict(enumerate(names[: len(palette)]))
        shown = {index: named[index] for index in np.unique(mask).tolist() if index in named}
        picture = np.vstack([picture, _legend(picture.shape[1], shown, palette)])
    height, width = picture.shape[:2]
    if max(height, width) > _JPEG_MAX_SIDE:
        raise ImageError(
            f"an overlay of {width} x {height} pixels is too large for a JPEG ({_JPEG_MAX_SIDE} a side): "
            "shrink the image with max-img-size"
        )
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _legend(width: int, names: Mapping[int, str], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw swatches and names of classes, in as many lines as they need, on white."""
    # Few runs draw letters: what renders them is loaded by those.
    from PIL import ImageDraw, ImageFont

    size = min(_LEGEND_PX[1], max(_LEGEND_PX[0], width // 50))
    font = ImageFont.load_default(size)
    line, gap = round(1.6 * size), size // 2
    places: list[tuple[int, int, int, str]] = []
    x, y = gap, 0
    for index, name in names.items():
        text = f"{index} {legible(name, _LEGEND_NAME)}"
        needed = size + gap + round(font.getlength(text)) + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + line
        places.append((x, y, index, text))
        x += needed
    panel = Image.new("RGB", (width, y + line), "white")
    draw = ImageDraw.Draw(panel)
    for left, top, index, text in places:
        swatch = (left, top + line // 2 - size // 2, left + size, top + line // 2 + size // 2)
        draw.rectangle(swatch, fill=tuple(palette[index].tolist()), outline="black")
        draw.text((left + size + gap, top + line // 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(panel)


def draw_outline(picture: NDArray[np.uint8], corners: NDArray[np.float64]) -> None:
    """Draw the border of a region into a picture, uint8[H, W, 3], light on dark, so that it shows on any ground.

    Corners are float64[N, 2], x and y in pixels from the upper left corner.
    """
    line = np.rint((corners - 0.5) * 2**_LINE_BITS).astype(np.int32)
    thickness = max(1, round(max(picture.shape[:2]) / 320))
    for color, width in (((0, 0, 0), 3 * thickness), ((255, 210, 0), thickness)):
        cv2.polylines(picture, [line], isClosed=True, color=color, thickness=width, shift=_LINE_BITS)


def planes_npz(planes: NDArray[np.bool_]) -> bytes:
    """Encode multilabel planes, bool[K, H, W], without loss."""
    file = io.BytesIO()
    np.savez_compressed(file, planes=planes)  # numpy dates its entries 1980, so the bytes do not change with the clock
    return file.getvalue()


def composite(planes: NDArray[np.bool_]) -> Mask:
    """Flatten multilabel planes, bool[K, H, W], to one mask, to be shown.

    Of the classes set at a pixel the last one wins. A pixel of no class gets index K, one past the last class, which a
    palette of the K classes draws black.

    >>> composite(np.array([[[True, True, False]], [[False, True, False]]])).tolist()
    [[0, 1, 2]]
    """
    count, height, width = planes.shape
    mask = np.full((height, width), count, np.uint8 if count <= np.iinfo(np.uint8).max else np.uint16)
    for index, plane in enumerate(planes):
        mask[plane] = index
    return mask


def _voc_color(number: int) -> Color:
    """An entry of PaddleSeg's pseudo-colour map, the one of PASCAL VOC without its first entry, black.

    The bits of the number, lowest first, are dealt in turn to red, green and blue, highest bit first.
    Source: paddleseg/utils/visualize.py, `get_color_map_list`, 2.8.0.
    """
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (number & 1) << bit
        green |= (number >> 1 & 1) << bit
        blue |= (number >> 2 & 1) << bit
        number >>= 3
    return red, green, blue


def _lookup_table(palette: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """Pad a palette with black to all values of a mask's dtype, so that no class can miss it."""
    table = np.zeros((np.iinfo(dtype).max + 1, 3), np.uint8)
    table[: len(palette)] = palette[: len(table)]
    return table


def _colored(mask: Mask, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.take(_lookup_table(palette, mask.dtype), mask, axis=0)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    # Run lengths are what masks are made of: for a 12 megapixel palette PNG with 19 classes this took 30 ms for 450 kB,
    # zlib's default (level 6) 126 ms for 540 kB, level 9 707 ms for 345 kB (Pillow 13.0, zlib-ng 2.3, one core).
    image.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()

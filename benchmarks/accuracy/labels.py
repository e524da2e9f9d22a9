"""Label masks: PNG files of class indices, matched to images by name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from engine.errors import ImageError, OptionError
from engine.system.files import open_to_read
from engine.system.text import legible

Labels = npt.NDArray[np.integer]
"""``[H, W]``: class indices, or 255 where pixels are not judged."""

IGNORED_LABEL = 255
"""PaddleSeg's ``ignore_index``: pixels of this label are not judged."""

_SUFFIX = ".png"
_INDEX_MODES = ("1", "L", "P", "I;16")
_BIT_DEPTH_AT, _COLOR_TYPE_AT = 24, 25
_GREY = 0
_NAMED_AT_MOST = 8
_LARGEST_LABEL = 65535
_DIGITS = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """A picture and what is on it."""

    image: Path
    mask: Path


def match_masks(images: Sequence[Path], masks: Iterable[Path]) -> list[LabelledFiles]:
    """Find the mask of every image: the PNG of its name.

    Raises:
        ImageError: Images have no mask (they are named), or two images or two masks have the same name.

    Returns a pair per image, in the order of the images.
    """
    mask_of = _by_stem((path for path in masks if path.suffix.lower() == _SUFFIX), "masks")
    image_of = _by_stem(images, "images")
    missing = [str(image) for stem, image in image_of.items() if stem not in mask_of]
    if missing:
        named = ", ".join(missing[:_NAMED_AT_MOST]) + (", …" if len(missing) > _NAMED_AT_MOST else "")
        raise ImageError(
            f"{len(missing)} of {len(image_of)} images have no mask: {named}; "
            f"the mask of NAME.jpg is called NAME{_SUFFIX}"
        )
    return [LabelledFiles(image, mask_of[stem]) for stem, image in image_of.items()]


def _by_stem(paths: Iterable[Path], what: str) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise ImageError(
                f"{other} and {path}: two {what} with the same name cannot be distinguished; leave one out"
            )
    return by_stem


def parse_label_values(text: str) -> dict[int, int]:
    """Read which value of a mask stands for which class.

    Raises:
        OptionError: The text is no list of pairs, names a value twice, or a number that no mask holds.

    >>> parse_label_values("0=0,255=1,7=ignore")
    {0: 0, 255: 1, 7: 255}
    """
    pairs = [each.partition("=") for each in text.split(",")]
    values: dict[int, int] = {}
    for value, _, name in pairs:
        label, index = _label(value), IGNORED_LABEL if name.strip() == "ignore" else _label(name)
        if label is None or index is None:
            pair = f"{value}={name}" if name else value
            raise OptionError(
                f"label values hold {legible(pair, 40)!r}: give pairs of value and class index, numbers from 0 to "
                f"{_LARGEST_LABEL}, such as 0=0,255=1"
            )
        if label in values:
            raise OptionError(f"label values name {label} twice: name each value once")
        values[label] = index
    return values


def _label(text: str) -> int | None:
    """A label in plain digits; None for anything else that ``int`` would take (``1_0``, digits of other scripts)."""
    digits = text.strip()
    return int(digits) if _DIGITS.fullmatch(digits) and int(digits) <= _LARGEST_LABEL else None


def read_labels(path: Path, *, size: tuple[int, int], values: Mapping[int, int] | None = None) -> Labels:
    """Read the labels of one image.

    Raises:
        ImageError: The file cannot be read, holds colours instead of indices, or is of another size than the image.
    """
    try:
        with (
            open_to_read(path) as file,
            Image.open(file, formats=["PNG"]) as image,
        ):
            # Before it is decoded: a small file may declare any size.
            if image.size != size:
                raise ImageError(
                    f"{path}: the mask is {image.width}x{image.height} pixels, its upright image {size[0]}x{size[1]}: "
                    "label the image at its own size"
                )
            return _mapped(_indices(path, file, image), values or {})
    except UnidentifiedImageError as cause:
        raise ImageError(f"{path}: is not a PNG file: save the class indices as palette or grey PNG") from cause
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as cause:
        raise ImageError(f"{path}: cannot be read ({cause}): check the file") from cause


def require_known_classes(labels: Labels, class_count: int, *, where: str) -> None:
    """Refuse labels of other classes than a model has.

    Raises:
        ImageError: There is an index that no class has.
    """
    wrong = labels[(labels >= class_count) & (labels != IGNORED_LABEL)]
    if wrong.size:
        raise ImageError(
            f"{where}: holds the class index {int(wrong[0])}, but the model's classes are 0 to {class_count - 1} "
            f"({IGNORED_LABEL}: not judged); map the labels to these"
        )


def _mapped(labels: Labels, values: Mapping[int, int]) -> Labels:
    if not values:
        return labels
    classes = np.arange(_LARGEST_LABEL + 1, dtype=np.uint16)
    for value, class_index in values.items():
        classes[value] = class_index
    return classes[labels]


def _indices(path: Path, file: BinaryIO, image: Image.Image) -> Labels:
    if image.mode not in _INDEX_MODES:
        raise ImageError(f"{path}: mode {image.mode} holds colours, not class indices: save it as palette or grey PNG")
    labels: Labels = np.asarray(image).astype(np.uint16 if image.mode == "I;16" else np.uint8)
    file.seek(0)
    return labels // _grey_step(file.read(_COLOR_TYPE_AT + 1))


def _grey_step(header: bytes) -> int:
    """By what Pillow multiplies the values of a grey PNG of 2 or 4 bit, which PNG optimisers like to write."""
    depth_bit = header[_BIT_DEPTH_AT]
    if header[_COLOR_TYPE_AT] != _GREY or depth_bit not in {2, 4}:
        return 1
    return 255 // (2**depth_bit - 1)

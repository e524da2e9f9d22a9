"""Label masks: PNG files of class indices, matched to images by name."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from engine.errors import ImageError, OptionError
from engine.system.files import open_to_read
from engine.system.text import composed, legible

Labels = npt.NDArray[np.integer]
"""``[H, W]``: class indices, or 255 where pixels are not judged."""

IGNORED_LABEL = 255
"""PaddleSeg's ``ignore_index``: pixels of this label are not judged."""

IGNORE = "ignore"
"""The word that stands for label 255."""

_Labelled = TypeVar("_Labelled")
_SUFFIX = ".png"
_INDEX_MODES = ("1", "L", "P", "I;16")
_BIT_DEPTH_AT, _COLOR_TYPE_AT = 24, 25
_GREY = 0
_NAMED_AT_MOST = 8
_LARGEST_LABEL = 65535
_DIGITS = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class LabelNames:
    """Which class a label stands for, where labels are words.

    `given` maps a label to the name of a class, or `ignore`; `unlabelled` is the class of pixels that no annotation
    holds, None: they are not judged.
    """

    classes: Sequence[str] = ()
    given: Mapping[str, str] = field(default_factory=dict[str, str])
    unlabelled: str | None = None

    def index_of(self, label: str, mapped: Mapping[str, str], where: str) -> int:
        """Find the class index, 255 for `ignore`; what `mapped` says counts where `given` says nothing.

        Raises ImageError where the label stands for no class.

        >>> LabelNames(["sand", "seagrass"], {"Rock": "ignore"}).index_of("SG", {"SG": "seagrass"}, "a.json")
        1
        """
        name = self.given.get(label, mapped.get(label, label))
        if name == IGNORE:
            return IGNORED_LABEL
        if name not in self.classes:
            raise ImageError(
                f"{where}: {legible(label, 40)} is none of the classes {', '.join(map(legible, self.classes))}: say "
                f"which it stands for with --label-names {legible(label, 40)}=CLASS, or =ignore"
            )
        return self.classes.index(name)


class Annotation(Protocol):
    """Labels that people drew in an annotation tool."""

    def draw(self, size: tuple[int, int], names: LabelNames) -> Labels:
        """Draw them as a mask; see `benchmarks.accuracy.annotations.PictureAnnotation`."""
        ...


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """A picture and the file of its labels: a mask, unless an annotation was read from it."""

    image: Path
    mask: Path
    annotation: Annotation | None = None


def match_masks(images: Sequence[Path], masks: Iterable[Path]) -> list[LabelledFiles]:
    """Find the mask of every image, in their order: the PNG of its name. ImageError as of `match_pictures`."""
    named = [(path.absolute(), path) for path in masks if path.suffix.lower() == _SUFFIX]
    return [LabelledFiles(image, mask) for image, mask in match_pictures(images, named, "PNG mask")]


def match_pictures(
    images: Sequence[Path], labels: Sequence[tuple[PurePath, _Labelled]], what: str
) -> list[tuple[Path, _Labelled]]:
    """Find the labels of every image by its name without suffix, and as many folders above as tell equal names apart.

    Where these folders have other names, the labels may lie below their common folder as the images lie below theirs.
    Labels come with the name of their picture. Raises ImageError where images have no labels (they are named), or no
    folder tells two of one name apart.
    """
    named_images = [(PurePath(composed(str(path.absolute()))), path) for path in images]
    labels = [(PurePath(composed(str(name))), each) for name, each in labels]
    above, labels_above = (_common_folder([name for name, _ in each]) for each in (named_images, labels))
    images_of, labels_of = _by_stem(named_images), _by_stem(labels)
    found: dict[Path, _Labelled] = {}
    for stem, of_name in images_of.items():
        labelled = labels_of.get(stem, [])
        depth = max(_telling_depth(of_name, "images"), _telling_depth(labelled, f"{what}s"))
        known = {_end(name, depth): each for name, each in labelled}
        ends = {path: _end(name, depth) for name, path in of_name}
        found |= {path: known[end] for path, end in ends.items() if end in known}
        taken = set(ends.values())
        mirrored = {
            name.relative_to(labels_above).with_suffix(""): each
            for name, each in labelled
            if name.is_relative_to(labels_above) and _end(name, depth) not in taken
        }
        for name, path in of_name:
            if path not in found and (below := name.relative_to(above).with_suffix("")) in mirrored:
                found[path] = mirrored[below]
    missing = [str(image) for image in images if image not in found]
    if missing:
        named = ", ".join(missing[:_NAMED_AT_MOST]) + (", …" if len(missing) > _NAMED_AT_MOST else "")
        raise ImageError(
            f"{len(missing)} of {len(images)} images have no {what}: {named}; the {what} of dive_1/a.jpg is the one "
            "called a, or dive_1/a if several images are called a"
        )
    return [(image, found[image]) for image in images]


def _by_stem(named: Iterable[tuple[PurePath, _Labelled]]) -> dict[str, list[tuple[PurePath, _Labelled]]]:
    by_stem: dict[str, list[tuple[PurePath, _Labelled]]] = defaultdict(list)
    for name, each in named:
        by_stem[name.stem].append((name, each))
    return by_stem


def _common_folder(names: Sequence[PurePath]) -> PurePath:
    try:
        return PurePath(os.path.commonpath([name.parent for name in names]))
    except ValueError:  # there are none, or some are absolute and others are not
        return PurePath()


def _end(name: PurePath, depth: int) -> tuple[str, ...]:
    return name.with_suffix("").parts[-depth:]


def _telling_depth(named: Sequence[tuple[PurePath, object]], what: str) -> int:
    """How many parts of the names, from the end, tell them apart."""
    deepest = max((len(name.parts) for name, _ in named), default=1)
    for depth in range(1, deepest + 1):
        if len({_end(name, depth) for name, _ in named}) == len(named):
            return depth
    first, second = sorted(str(name) for name, _ in named)[:2]
    raise ImageError(f"{first} and {second}: two {what} with the same name cannot be distinguished; leave one out")


def parse_label_values(text: str) -> dict[int, int]:
    """Read which value of a mask stands for which class.

    Raises OptionError where the text is no list of pairs, names a value twice, or a number that no mask holds.

    >>> parse_label_values("0=0,255=1,7=ignore")
    {0: 0, 255: 1, 7: 255}
    """
    pairs = [each.partition("=") for each in text.split(",")]
    values: dict[int, int] = {}
    for value, _, name in pairs:
        label, index = _label(value), IGNORED_LABEL if name.strip() == IGNORE else _label(name)
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


def parse_label_names(text: str) -> dict[str, str]:
    """Read which class a label stands for; OptionError where the text is no list of pairs, or names a label twice.

    >>> parse_label_names("SG=seagrass, Rock=ignore")
    {'SG': 'seagrass', 'Rock': 'ignore'}
    """
    pairs = [each.rpartition("=") for each in text.split(",")]
    names = {label.strip(): name.strip() for label, _, name in pairs}
    if not all(label and name for label, name in names.items()) or len(names) < len(pairs):
        raise OptionError(
            f"label names are {legible(text, 40)!r}: give pairs of label and class, each label once, such as "
            "SG=seagrass,Rock=ignore"
        )
    return names


def _label(text: str) -> int | None:
    """A label in plain digits; None for anything else that ``int`` would take (``1_0``, digits of other scripts)."""
    digits = text.strip()
    return int(digits) if _DIGITS.fullmatch(digits) and int(digits) <= _LARGEST_LABEL else None


def read_labels(path: Path, *, size: tuple[int, int], values: Mapping[int, int] | None = None) -> Labels:
    """Read the labels of one image.

    Raises ImageError where the file cannot be read, holds colours instead of indices, or is of another size.
    """
    try:
        with open_to_read(path) as file, Image.open(file, formats=["PNG"]) as image:
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
    """Refuse (ImageError) labels of other classes than a model has."""
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

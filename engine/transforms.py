"""The deploy transforms of PaddleSeg and how each is undone: pure functions on arrays.

`apply_transforms` takes an image to the network's input, `restore_plane` takes a plane of its output back to the
image's size. Sizes in the bundle are (width, height), as everywhere in PaddleSeg; shapes of arrays are (height, width).

The arithmetic is PaddleSeg's own, on the same OpenCV calls: other libraries resize with other last bits, and a logit
that differs in its last bit may change a pixel of the mask.

Source: paddleseg 2.8.0, ``transforms/transforms.py``, ``transforms/functional.py``, ``core/infer.py``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar, assert_never, cast

import cv2
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from engine.errors import ImageError, InferenceError, UnsupportedTransformError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Image: TypeAlias = npt.NDArray[np.float32]
Interpolation: TypeAlias = Literal["NEAREST", "LINEAR", "CUBIC", "AREA", "LANCZOS4"]
Plane = TypeVar("Plane", bound=np.generic)

MAX_SIDE: Final = 65_536
"""Longest side, in pixels, that a transform may ask for or produce."""

MAX_BANDS: Final = 512
"""Most bands of an image: OpenCV's limit, and PaddleSeg resizes with OpenCV."""

_BANDS_BY_AREA: Final = 4
"""OpenCV averages areas of so many bands at most."""

MAX_PIXELS: Final = 2**28
"""Most pixels that a transform may produce: 3 GiB as float32 RGB."""

INTERPOLATION_FLAGS: Final[Mapping[Interpolation, int]] = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True, slots=True)
class TransformRecord:
    """What one transform did to the size of the image: an entry of PaddleSeg's ``trans_info``."""

    kind: Literal["resize", "padding"]  # ``resize`` is undone by interpolation, ``padding`` by a crop
    height: int  # of the image before the transform, in pixels
    width: int  # of the image before the transform, in pixels


class ImageTransform(ABC):
    """What every transform does to an image."""

    __slots__ = ()

    @abstractmethod
    def apply(self, image: Image) -> tuple[Image, TransformRecord | None]:
        """Transform an image, float32[H, W, C], 0–255 until it is normalised; of three bands RGB.

        Returns float32[H', W', C], and the record by which the change of size is undone; None where PaddleSeg keeps
        none. The memory of a normalised image is laid out CHW. Raises ImageError where a side would become 0 pixels, or
        the image too large.
        """


@dataclass(frozen=True, slots=True)
class Normalize(ImageTransform):
    """Scale 0–255 to 0–1, subtract the mean and divide by the standard deviation.

    Source: paddleseg 2.8.0, ``functional.normalize``: the division by 255 rounds to float32, then the mean and the
    deviation act in float64 and round to float32 again.
    """

    mean: tuple[float, ...] = (0.5,)  # one value for all channels, or one for each; on the 0–1 scale
    std: tuple[float, ...] = (0.5,)  # the same for the standard deviation; no value is 0

    @override
    def apply(self, image: Image) -> tuple[Image, None]:
        planes = np.divide(image.transpose(2, 0, 1), np.float32(255), order="C")
        planes -= _one_per_plane(self.mean)
        planes /= _one_per_plane(self.std)
        return planes.transpose(1, 2, 0), None

    def apply_to_pixels(self, pixels: Pixels) -> tuple[Image, None]:
        """Normalise 8-bit pixels through a table of 256 values for each channel: the same bits, 20 times as fast."""
        bands = pixels.shape[2]
        every_value = np.arange(256, dtype=np.float32)[np.newaxis, :, np.newaxis].repeat(bands, axis=2)
        table = self.apply(every_value)[0].transpose(2, 0, 1)
        planes = np.empty((bands, *pixels.shape[:2]), dtype=np.float32)
        for channel, band in enumerate(cv2.split(pixels)):
            cv2.LUT(band, table[channel], planes[channel])
        return planes.transpose(1, 2, 0), None


@dataclass(frozen=True, slots=True)
class Resize(ImageTransform):
    """Resize to a fixed size, or to fit into it.

    Source: paddleseg 2.8.0, ``transforms.Resize`` and ``functional.rescale_size``: with ``keep_ratio`` the long side of
    the image is set against the long side of the target; ``size_divisor`` rounds up afterwards.
    """

    target_size: tuple[int, int] = (512, 512)  # (width, height) in pixels
    keep_ratio: bool = False  # of the sides
    size_divisor: int | None = None  # both sides become a multiple of this
    interpolation: Interpolation = "LINEAR"

    @override
    def apply(self, image: Image) -> tuple[Image, TransformRecord]:
        width, height = self.size_for(_width(image), _height(image))
        flag = INTERPOLATION_FLAGS[self.interpolation]
        return _resized(image, width, height, "Resize", flag), _record("resize", image)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, in pixels, that an image is resized to; a side may be 0 for an extreme ratio.

        >>> Resize((1024, 512)).size_for(640, 480)
        (1024, 512)
        >>> Resize((1024, 512), keep_ratio=True, size_divisor=32).size_for(640, 480)
        (704, 512)
        """
        target_width, target_height = self.target_size
        if self.keep_ratio:
            sides = (width, height)
            scale = min(max(self.target_size) / max(sides), min(self.target_size) / min(sides))
            target_width, target_height = round(width * scale), round(height * scale)
        if self.size_divisor is None:
            return target_width, target_height
        return _round_up(target_width, self.size_divisor), _round_up(target_height, self.size_divisor)


@dataclass(frozen=True, slots=True)
class ResizeByLong(ImageTransform):
    """Resize so that the long side has a given length, in pixels.

    Source: paddleseg 2.8.0, ``transforms.ResizeByLong``.
    """

    long_size: int

    @override
    def apply(self, image: Image) -> tuple[Image, TransformRecord]:
        return _with_long_side(image, self.long_size, "ResizeByLong"), _record("resize", image)


@dataclass(frozen=True, slots=True)
class ResizeByShort(ImageTransform):
    """Resize so that the short side has a given length, unless the long side would grow past a limit; in pixels.

    Source: paddleseg 2.8.0, ``transforms.ResizeByShort``. PaddleSeg overwrites its own ``short_size`` when the limit
    acts, so that one image changes all that follow; here each image is treated as PaddleSeg treats the first.
    """

    short_size: int
    max_size: float = 1e10  # of the long side

    @override
    def apply(self, image: Image) -> tuple[Image, TransformRecord]:
        short = min(image.shape[:2])
        scale = self.short_size_for(_width(image), _height(image)) / short
        return _scaled(image, scale, "ResizeByShort"), _record("resize", image)

    def short_size_for(self, width: int, height: int) -> int:
        """Length of the short side, in pixels, for an image of this size; it may be 0 for an extreme ratio.

        >>> ResizeByShort(512, max_size=1024).short_size_for(1000, 800)
        512
        >>> ResizeByShort(512, max_size=1024).short_size_for(3000, 1000)
        341
        """
        short, long = sorted((width, height))
        if self.short_size / short * long > self.max_size:
            return int((self.max_size / long) * short)
        return self.short_size


@dataclass(frozen=True, slots=True)
class LimitLong(ImageTransform):
    """Resize only if the long side is outside of given limits, in pixels.

    Source: paddleseg 2.8.0, ``transforms.LimitLong``: a record is left even where nothing is resized.
    """

    max_long: int | None = None
    min_long: int | None = None

    @override
    def apply(self, image: Image) -> tuple[Image, TransformRecord]:
        long = max(image.shape[:2])
        target = self.long_size_for(long)
        resized = image if target == long else _with_long_side(image, target, "LimitLong")
        return resized, _record("resize", image)

    def long_size_for(self, long: int) -> int:
        """Length within the limits, in pixels, that a long side of this length gets.

        >>> [LimitLong(max_long=512, min_long=256).long_size_for(side) for side in (100, 300, 900)]
        [256, 300, 512]
        """
        if self.max_long is not None and long > self.max_long:
            return self.max_long
        if self.min_long is not None and long < self.min_long:
            return self.min_long
        return long


@dataclass(frozen=True, slots=True)
class Padding(ImageTransform):
    """Pad at the bottom and at the right up to a fixed size.

    Source: paddleseg 2.8.0, ``transforms.Padding``.
    """

    target_size: tuple[int, int]  # (width, height) in pixels
    value: float = 127.5  # on the scale that the image has at this step

    @override
    def apply(self, image: Image) -> tuple[Image, TransformRecord]:
        width, height = self.target_size
        bottom, right = height - _height(image), width - _width(image)
        if bottom < 0 or right < 0:
            raise ImageError(
                f"Padding: the image is {_width(image)}×{_height(image)} pixels (w×h) at this step, larger than the "
                f"{width}×{height} that the bundle pads to; set a smaller max-img-size, or export the model with a "
                "larger target_size or with a resize before the padding"
            )
        require_possible_size("Padding", _size(image), (width, height))
        padded = np.full((height, width, image.shape[2]), self.value, np.float32)
        padded[: _height(image), : _width(image)] = image
        return padded, _record("padding", image)


@dataclass(frozen=True, slots=True)
class PaddingByAspectRatio(ImageTransform):
    """Pad at the bottom or at the right until the sides have a given ratio.

    Source: paddleseg 2.8.0, ``transforms.PaddingByAspectRatio``: lengths are truncated, and an image that has the ratio
    already leaves no record.
    """

    aspect_ratio: float = 1.0  # width divided by height
    value: float = 127.5  # on the scale that the image has at this step

    @override
    def apply(self, image: Image) -> tuple[Image, TransformRecord | None]:
        width, height = _width(image), _height(image)
        ratio = width / height
        if ratio == self.aspect_ratio:
            return image, None
        if ratio > self.aspect_ratio:
            height = int(width / self.aspect_ratio)
        else:
            width = int(height * self.aspect_ratio)
        return Padding((width, height), self.value).apply(image)


@dataclass(frozen=True, slots=True)
class ResizeRangeScaling(ImageTransform):
    """Resize so that the long side has a given length, in pixels, and leave no record.

    Source: paddleseg 2.8.0, ``transforms.ResizeRangeScaling`` with equal limits. PaddleSeg leaves no ``trans_info``
    here, so its masks keep the resized size.
    """

    long_size: int

    @override
    def apply(self, image: Image) -> tuple[Image, None]:
        return _with_long_side(image, self.long_size, "ResizeRangeScaling"), None


@dataclass(frozen=True, slots=True)
class ResizeStepScaling(ImageTransform):
    """Resize both sides by a given factor, and leave no record.

    Source: paddleseg 2.8.0, ``transforms.ResizeStepScaling`` with equal limits. PaddleSeg leaves no ``trans_info``
    here, so its masks keep the resized size.
    """

    scale_factor: float

    @override
    def apply(self, image: Image) -> tuple[Image, None]:
        return _scaled(image, self.scale_factor, "ResizeStepScaling"), None


Transform: TypeAlias = (
    Normalize
    | Resize
    | ResizeByLong
    | ResizeByShort
    | LimitLong
    | Padding
    | PaddingByAspectRatio
    | ResizeRangeScaling
    | ResizeStepScaling
)


def apply_transforms(
    transforms: Sequence[Transform], pixels: Pixels, *, bands: int = 3
) -> tuple[npt.NDArray[np.float32], tuple[TransformRecord, ...]]:
    """Take an image, uint8[H, W, C], to the network's input, float32[bands, H', W'], contiguous.

    The image has as many bands as the network takes, or three (RGB) for a network of one, which gets the grey value
    0.299 R + 0.587 G + 0.114 B, rounded as OpenCV does. Also returns the records from which `restore_plane` undoes the
    transforms. Raises ImageError where the array is no image of as many bands, or a transform cannot be applied to its
    size; UnsupportedTransformError where one has values for another number of bands than the network takes.

    Source: paddleseg 2.8.0, ``transforms.Compose``: the image becomes float32 first, and CHW in the end. The values are
    PaddleSeg's, bit for bit.

    >>> feed, records = apply_transforms((Resize((4, 2)), Normalize()), np.full((3, 5, 3), 255, dtype=np.uint8))
    >>> feed.shape, float(feed.max()), records
    ((3, 2, 4), 1.0, (TransformRecord(kind='resize', height=3, width=5),))
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        raise ImageError(
            f"the transforms take uint8[H, W, C] of at least one pixel, not {pixels.dtype}{list(pixels.shape)}; "
            "decode the image to 8-bit RGB first"
        )
    if pixels.shape[2] != bands_of_images(bands):
        raise ImageError(
            f"the image has {pixels.shape[2]} bands, and the network takes {bands}: choose as many bands of a TIFF "
            "with bands, such as 1,2,3,4"
        )
    require_values_for(transforms, bands)
    if bands == 1:
        # Three equal bands go through the transforms, which treat bands alike, and one of them is kept.
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    image, remaining = _first_image(transforms, pixels)
    records: list[TransformRecord] = []
    for transform in remaining:
        image, record = transform.apply(image)
        if record is not None:
            records.append(record)
    return np.ascontiguousarray(image.transpose(2, 0, 1)[:bands]), tuple(records)


def bands_of_images(bands: int) -> int:
    """Tell how many bands an image needs for a network: as many as it takes, or three, which become grey, for one."""
    return 3 if bands == 1 else bands


def require_values_for(transforms: Sequence[Transform], bands: int) -> None:
    """Refuse a mean or deviation that has neither one value nor one for each band: UnsupportedTransformError."""
    for transform in transforms:
        if isinstance(transform, Normalize) and not {len(transform.mean), len(transform.std)} <= {1, bands}:
            raise UnsupportedTransformError(
                f"{describe(transform)}: the network takes {bands} bands, and these are values for another number: "
                "export the model with one value of mean and std, or one for each band"
            )


def restore_plane(
    plane: npt.NDArray[Plane], records: Sequence[TransformRecord], *, interpolation: Literal["linear", "nearest"]
) -> npt.NDArray[Plane]:
    """Undo the transforms on one plane of the network's output, [H, W], by what `apply_transforms` recorded.

    A resize is undone by linear (half-pixel centres, float32 only) or nearest (floor) interpolation. The result, of the
    same dtype, may be a view of the plane. Raises InferenceError where the plane is smaller than what a padding is to
    be cropped to; TypeError for linear interpolation of another dtype.

    Source: paddleseg 2.8.0, ``core.infer.reverse_transform``. Nearest picks the same pixels as Paddle, linear agrees to
    1e-4 of the range of values.

    >>> mask = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    >>> restore_plane(mask, [TransformRecord("padding", 1, 2)], interpolation="nearest").tolist()
    [[1, 2]]
    >>> restore_plane(mask, [TransformRecord("resize", 2, 4)], interpolation="nearest").tolist()
    [[1, 1, 2, 2], [3, 3, 4, 4]]
    """
    if interpolation == "linear" and plane.dtype != np.float32:
        raise TypeError(f"linear interpolation takes float32 planes, not {plane.dtype}")
    resize = _resize_plane_linear if interpolation == "linear" else _resize_plane_nearest
    for record in reversed(records):
        if record.kind == "padding":
            plane = _crop_plane(plane, record.height, record.width)
        elif plane.shape != (record.height, record.width):
            plane = resize(plane, record.height, record.width)
    return plane


def describe(transform: Transform) -> str:
    """Describe what a transform does in one short line; sizes are in pixels.

    >>> describe(Resize((1024, 512), keep_ratio=True))
    'Resize 1024×512 (w×h), ratio kept'
    >>> describe(Normalize())
    'Normalize mean 0.5, std 0.5'
    >>> describe(LimitLong(max_long=2048))
    'LimitLong long side at most 2048'
    """
    match transform:
        case Normalize(mean, std):
            return f"Normalize mean {_listed(mean)}, std {_listed(std)}"
        case Resize():
            return ", ".join(_resize_parts(transform))
        case ResizeByLong(long_size):
            return f"ResizeByLong long side {long_size}"
        case ResizeByShort(short_size, max_size):
            limit = "" if max_size >= 1e10 else f", long side at most {max_size:g}"
            return f"ResizeByShort short side {short_size}{limit}"
        case LimitLong(max_long, min_long):
            return f"LimitLong long side {_limits(min_long, max_long)}"
        case Padding(target_size, value):
            return f"Padding {_by(target_size)} with {value:g}"
        case PaddingByAspectRatio(aspect_ratio, value):
            return f"PaddingByAspectRatio {aspect_ratio:g} (w/h) with {value:g}"
        case ResizeRangeScaling(long_size):
            return f"ResizeRangeScaling long side {long_size}"
        case ResizeStepScaling(scale_factor):
            return f"ResizeStepScaling by {scale_factor:g}"
    assert_never(transform)


# ---- applying ---------------------------------------------------------------------------------------------------


def _first_image(transforms: Sequence[Transform], pixels: Pixels) -> tuple[Image, Sequence[Transform]]:
    """Turn pixels into the float32 image, through a first Normalize if there is one; return what remains to apply."""
    if transforms and isinstance(transforms[0], Normalize):
        return transforms[0].apply_to_pixels(pixels)[0], transforms[1:]
    return pixels.astype(np.float32), transforms


def _one_per_plane(values: tuple[float, ...]) -> npt.NDArray[np.float64]:
    return np.array(values, dtype=np.float64).reshape(-1, 1, 1)


def _width(image: Image) -> int:
    return image.shape[1]


def _height(image: Image) -> int:
    return image.shape[0]


def _size(image: Image) -> tuple[int, int]:
    return _width(image), _height(image)


def _record(kind: Literal["resize", "padding"], image: Image) -> TransformRecord:
    return TransformRecord(kind, _height(image), _width(image))


def _round_up(side: int, divisor: int) -> int:
    return math.ceil(side / divisor) * divisor


def _with_long_side(image: Image, long_size: int, op: str) -> Image:
    return _scaled(image, long_size / max(image.shape[:2]), op)


def _scaled(image: Image, scale: float, op: str) -> Image:
    return _resized(image, round(_width(image) * scale), round(_height(image) * scale), op)


def _resized(image: Image, width: int, height: int, op: str, flag: int = cv2.INTER_LINEAR) -> Image:
    require_possible_size(op, _size(image), (width, height))
    return resize_bands(image, (width, height), flag)


def resize_bands(pixels: npt.NDArray[Plane], size: tuple[int, int], flag: int) -> npt.NDArray[Plane]:
    """Resize uint8 or float32 [H, W, bands] of any number of bands to a width and height, as OpenCV's flag says."""
    at_once = _BANDS_BY_AREA if flag == cv2.INTER_AREA else MAX_BANDS
    starts = range(0, pixels.shape[-1], at_once)
    parts = [pixels] if len(starts) == 1 else [pixels[..., start : start + at_once] for start in starts]
    resized = [cv2.resize(cast("npt.NDArray[Any]", part), size, interpolation=flag) for part in parts]
    shaped = [each.reshape(size[1], size[0], -1) for each in resized]
    return cast("npt.NDArray[Plane]", resized[0] if len(parts) == 1 else np.concatenate(shaped, axis=-1))


def require_possible_size(op: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Refuse (ImageError) a size that OpenCV or the memory of the host would refuse in words of their own.

    `op` asks to make `wanted` of `size`, width and height in pixels: a side would be 0, or the image too large.
    """
    change = f"{op}: an image of {size[0]}×{size[1]} pixels (w×h) would become {wanted[0]}×{wanted[1]}"
    if min(wanted) < 1:
        raise ImageError(f"{change}, which leaves nothing; crop the image to a less extreme ratio of its sides")
    if max(wanted) > MAX_SIDE or wanted[0] * wanted[1] > MAX_PIXELS:
        raise ImageError(
            f"{change}, more than the limit of {MAX_SIDE} pixels a side and {MAX_PIXELS} in all; "
            "set a smaller max-img-size, crop the image, or export the model with smaller sizes"
        )


# ---- undoing ----------------------------------------------------------------------------------------------------


def _crop_plane(plane: npt.NDArray[Plane], height: int, width: int) -> npt.NDArray[Plane]:
    if plane.shape[0] < height or plane.shape[1] < width:
        raise InferenceError(
            f"the network's output is {plane.shape[1]}×{plane.shape[0]} pixels (w×h), smaller than the "
            f"{width}×{height} that lie inside its padding; export the model so that its output has the size of its "
            "input"
        )
    return plane[:height, :width]


def _resize_plane_linear(plane: npt.NDArray[Plane], height: int, width: int) -> npt.NDArray[Plane]:
    # Paddle sets the scale to 0 for a single pixel: it takes the first row or column where OpenCV takes the middle.
    seen = plane[: 1 if height == 1 else None, : 1 if width == 1 else None]
    resized = cv2.resize(cast("npt.NDArray[Any]", seen), (width, height), interpolation=cv2.INTER_LINEAR)
    return cast("npt.NDArray[Plane]", resized)


def _resize_plane_nearest(plane: npt.NDArray[Plane], height: int, width: int) -> npt.NDArray[Plane]:
    # OpenCV scales in float64 and so picks other pixels than Paddle at some sizes; nor does it take int64 and bool.
    rows = _nearest_indices(plane.shape[0], height)
    columns = _nearest_indices(plane.shape[1], width)
    return plane.take(columns, axis=1).take(rows, axis=0)


def _nearest_indices(count: int, target: int) -> npt.NDArray[np.intp]:
    scale = np.float32(count) / np.float32(target)
    indices = (np.arange(target, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(indices, count - 1)


# ---- describing -------------------------------------------------------------------------------------------------


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} (w×h)"


def _limits(least: int | None, most: int | None) -> str:
    limits = [f"{word} {limit}" for word, limit in (("at least", least), ("at most", most)) if limit is not None]
    return " and ".join(limits) or "not limited"


def _resize_parts(resize: Resize) -> list[str]:
    parts = [f"Resize {_by(resize.target_size)}"]
    if resize.keep_ratio:
        parts.append("ratio kept")
    if resize.size_divisor is not None:
        parts.append(f"sides a multiple of {resize.size_divisor}")
    if resize.interpolation != "LINEAR":
        parts.append(resize.interpolation)
    return parts

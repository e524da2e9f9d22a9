"""Read the ``transforms`` list of deploy.yaml, once and strictly."""

# Source: paddleseg 2.8.0, ``transforms/transforms.py``: names of operations and arguments, and their defaults.

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn, cast, get_args

from engine.errors import BundleError, UnsupportedTransformError
from engine.system.settings_files import shown_value
from engine.transforms import (
    INTERPOLATION_FLAGS,
    MAX_BANDS,
    MAX_SIDE,
    Interpolation,
    LimitLong,
    Normalize,
    Padding,
    PaddingByAspectRatio,
    Resize,
    ResizeByLong,
    ResizeByShort,
    ResizeRangeScaling,
    ResizeStepScaling,
    Transform,
)

_LARGEST_NUMBER: Final = 1e18
_SMALLEST_STD: Final = 1e-12
_MOST_TRANSFORMS: Final = 100
_MOST_NAMES_SHOWN: Final = 5


def parse_transforms(records: Sequence[Mapping[str, object]] | None, *, where: str) -> tuple[Transform, ...]:
    """Read the ``transforms`` list of deploy.yaml: one mapping a transform, its ``type`` and its arguments.

    BundleError: the list is not a list of mappings or too long, or an argument is unknown, missing or out of range.
    UnsupportedTransformError: a transform is unknown or random, or cannot be undone.

    >>> parse_transforms([{"type": "ResizeByLong", "long_size": 512}, {"type": "Normalize"}], where="deploy.yaml")
    (ResizeByLong(long_size=512), Normalize(mean=(0.5,), std=(0.5,)))
    """
    entries: object = [] if records is None else records
    if not isinstance(entries, (list, tuple)):
        raise BundleError(
            f"{where}: transforms must be a list, not {shown_value(entries)}; correct it or export the model again"
        )
    listed = cast("Sequence[object]", entries)
    if len(listed) > _MOST_TRANSFORMS:
        raise BundleError(
            f"{where}: transforms has {len(listed)} entries, more than {_MOST_TRANSFORMS}; export the model again"
        )
    return tuple(_parse_transform(entry, f"{where}: transforms[{index}]") for index, entry in enumerate(listed))


_TRAINING_ONLY: Final = "it is random: two runs on one image would differ"
_LABELS_ONLY: Final = "it prepares labels for training, and inference has none"
_RANDOM: Final = (
    "RandomHorizontalFlip RandomVerticalFlip RandomPaddingCrop RandomCenterCrop RandomNoise RandomBlur RandomRotation "
    "RandomScaleAspect RandomDistort RandomAffine".split()
)
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(_RANDOM, _TRAINING_ONLY),
    "ScalePadding": "it leaves no record, so its mask cannot be laid back on the image; PaddleSeg cannot deploy it",
    **dict.fromkeys(("AddEdgeLabel", "GenerateInstanceTargets"), _LABELS_ONLY),
}

_REQUIRED: Final = object()


class _Arguments:
    """The arguments of one transform: each is read once, checked, and its name ticked off."""

    def __init__(self, place: str, op: str, values: Mapping[object, object]) -> None:
        self._place = f"{place} {op}"
        self._values = dict(values)

    def side(self, name: str, default: object = _REQUIRED) -> int:
        value = self._take(name, default)
        if not _is_side(value):
            self.reject(name, value, f"a whole number of pixels from 1 to {MAX_SIDE}")
        return cast("int", value)

    def optional_side(self, name: str) -> int | None:
        if self._values.get(name) is None:
            self._values.pop(name, None)
            return None
        return self.side(name)

    def size(self, name: str, default: object = _REQUIRED) -> tuple[int, int]:
        value = self._take(name, default)
        sides = _as_tuple(value)
        if len(sides) != 2 or not all(map(_is_side, sides)):
            self.reject(name, value, f"(width, height), whole numbers of pixels from 1 to {MAX_SIDE}")
        return cast("tuple[int, int]", sides)

    def number(self, name: str, default: object) -> float:
        value = self._take(name, default)
        if not _is_number(value):
            self.reject(name, value, "a finite number")
        return float(cast("float", value))

    def positive(self, name: str, default: object) -> float:
        value = self.number(name, default)
        if value <= 0:
            self.reject(name, value, "greater than 0")
        return value

    def channels(self, name: str) -> tuple[float, ...]:
        value = self._take(name, (0.5,))
        values = _as_tuple(value)
        if not 1 <= len(values) <= MAX_BANDS or not all(map(_is_number, values)):
            self.reject(name, value, f"a list of 1 to {MAX_BANDS} finite numbers, one for each band")
        return tuple(float(cast("float", each)) for each in values)

    def flag(self, name: str) -> bool:
        value = self._take(name, False)
        if not isinstance(value, bool):
            self.reject(name, value, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        value = self._take(name, default)
        if not isinstance(value, str):
            self.reject(name, value, "a name")
        return value

    def holds_list(self, name: str) -> bool:
        return isinstance(self._values.get(name), (list, tuple))

    def finish(self) -> None:
        if self._values:
            names = ", ".join(sorted(map(shown_value, self._values))[:_MOST_NAMES_SHOWN])
            raise BundleError(f"{self._place}: no such argument: {names}; remove it or export the model again")

    def reject(self, name: str, value: object, expected: str) -> NoReturn:
        raise BundleError(
            f"{self._place}: {name} must be {expected}, not {shown_value(value)}; correct it or export the model again"
        )

    def refuse(self, reason: str) -> NoReturn:
        raise UnsupportedTransformError(
            f"{self._place}: {reason}; replace it with a fixed transform in the deploy configuration"
        )

    def _take(self, name: str, default: object) -> object:
        value = self._values.pop(name, default)
        if value is _REQUIRED:
            raise BundleError(f"{self._place}: {name} is missing; add it or export the model again")
        return value


def _parse_transform(entry: object, place: str) -> Transform:
    if not isinstance(entry, Mapping):
        raise BundleError(
            f"{place} must be a mapping with a type, not {shown_value(entry)}; correct it or export the model again"
        )
    values = dict(cast("Mapping[object, object]", entry))
    op = values.pop("type", None)
    if not isinstance(op, str):
        raise BundleError(
            f"{place}: type must be the name of a transform, not {shown_value(op)}; correct it or export the model "
            "again"
        )
    if op in _REFUSED:
        raise UnsupportedTransformError(
            f"{place} {op}: {_REFUSED[op]}; remove it from the deploy configuration and export the model again"
        )
    if op not in _PARSERS:
        raise UnsupportedTransformError(
            f"{place} {shown_value(op)}: no such transform; those that can be repeated and undone are "
            f"{', '.join(_PARSERS)}"
        )
    arguments = _Arguments(place, op, values)
    transform = _PARSERS[op](arguments)
    arguments.finish()
    return transform


def _parse_normalize(arguments: _Arguments) -> Normalize:
    mean, std = arguments.channels("mean"), arguments.channels("std")
    if any(abs(value) < _SMALLEST_STD for value in std):
        arguments.reject("std", list(std), "numbers other than 0")
    return Normalize(mean, std)


def _parse_resize(arguments: _Arguments) -> Resize:
    interpolation = arguments.text("interp", "LINEAR")
    if interpolation == "RANDOM":
        arguments.refuse("interp RANDOM takes another interpolation for each image")
    if interpolation not in INTERPOLATION_FLAGS:
        arguments.reject("interp", interpolation, f"one of {', '.join(get_args(Interpolation))}")
    return Resize(
        target_size=arguments.size("target_size", (512, 512)),
        keep_ratio=arguments.flag("keep_ratio"),
        size_divisor=arguments.optional_side("size_divisor"),
        interpolation=cast("Interpolation", interpolation),
    )


def _parse_resize_by_long(arguments: _Arguments) -> ResizeByLong:
    return ResizeByLong(arguments.side("long_size"))


def _parse_resize_by_short(arguments: _Arguments) -> ResizeByShort:
    if arguments.holds_list("short_size"):
        arguments.refuse("a list of short_size is a random choice, made once at every start")
    return ResizeByShort(arguments.side("short_size"), arguments.positive("max_size", 1e10))


def _parse_limit_long(arguments: _Arguments) -> LimitLong:
    longest, shortest = arguments.optional_side("max_long"), arguments.optional_side("min_long")
    if longest is not None and shortest is not None and shortest > longest:
        arguments.reject("min_long", shortest, f"at most max_long, which is {longest}")
    return LimitLong(longest, shortest)


def _parse_padding(arguments: _Arguments) -> Padding:
    size = arguments.size("target_size")
    return Padding(size, _parse_padding_value(arguments))


def _parse_padding_by_aspect_ratio(arguments: _Arguments) -> PaddingByAspectRatio:
    ratio = arguments.positive("aspect_ratio", 1)
    return PaddingByAspectRatio(ratio, _parse_padding_value(arguments))


def _parse_padding_value(arguments: _Arguments) -> float:
    arguments.number("label_padding_value", 255)
    return arguments.number("im_padding_value", 127.5)


def _parse_resize_range_scaling(arguments: _Arguments) -> ResizeRangeScaling:
    shortest, longest = arguments.side("min_value", 400), arguments.side("max_value", 600)
    _refuse_range(arguments, "min_value", "max_value", shortest, longest)
    return ResizeRangeScaling(longest)


def _parse_resize_step_scaling(arguments: _Arguments) -> ResizeStepScaling:
    arguments.number("scale_step_size", 0.25)
    smallest, largest = arguments.positive("min_scale_factor", 0.75), arguments.positive("max_scale_factor", 1.25)
    _refuse_range(arguments, "min_scale_factor", "max_scale_factor", smallest, largest)
    return ResizeStepScaling(smallest)


def _refuse_range(arguments: _Arguments, low_name: str, high_name: str, low: float, high: float) -> None:
    if low > high:
        arguments.reject(low_name, low, f"at most {high_name}, which is {high}")
    if low < high:
        arguments.refuse(f"it is random while {low_name} ({low}) and {high_name} ({high}) differ")


_PARSERS: Final[Mapping[str, Callable[[_Arguments], Transform]]] = {
    "Normalize": _parse_normalize,
    "Resize": _parse_resize,
    "ResizeByLong": _parse_resize_by_long,
    "ResizeByShort": _parse_resize_by_short,
    "LimitLong": _parse_limit_long,
    "Padding": _parse_padding,
    "PaddingByAspectRatio": _parse_padding_by_aspect_ratio,
    "ResizeRangeScaling": _parse_resize_range_scaling,
    "ResizeStepScaling": _parse_resize_step_scaling,
}


def _is_number(value: object) -> bool:
    # The comparison is false for NaN, and takes an int of any length.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIDE


def _as_tuple(value: object) -> tuple[object, ...]:
    return tuple(cast("Sequence[object]", value)) if isinstance(value, (list, tuple)) else ()

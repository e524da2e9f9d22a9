"""The transforms list of deploy.yaml: what is read, what is refused and how that is said."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle.deploy_yaml import parse_transforms
from engine.errors import BundleError, UnsupportedTransformError
from engine.transforms import (
    LimitLong,
    Normalize,
    PaddingByAspectRatio,
    Resize,
)

Records: TypeAlias = Sequence[Mapping[str, object]]


def test_no_transforms_is_empty() -> None:
    assert parse_transforms(None, where="deploy.yaml") == ()
    assert parse_transforms([], where="deploy.yaml") == ()


def test_defaults_are_paddlesegs() -> None:
    names = ("Normalize", "Resize", "LimitLong", "PaddingByAspectRatio")
    parsed = parse_transforms([{"type": name} for name in names], where="deploy.yaml")
    assert parsed == (
        Normalize((0.5,), (0.5,)),
        Resize((512, 512)),
        LimitLong(None, None),
        PaddingByAspectRatio(1, 127.5),
    )


def test_the_bundle_is_not_changed_and_transforms_are_values() -> None:
    entry = {"type": "ResizeByLong", "long_size": 512}
    first, second = (parse_transforms([entry], where="deploy.yaml")[0] for _ in range(2))
    assert entry == {"type": "ResizeByLong", "long_size": 512}
    assert first == second
    assert hash(first) == hash(second)
    with pytest.raises(FrozenInstanceError):
        first.long_size = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        *[
            ({"type": f"Random{name}"}, "random.*remove it")
            for name in (
                "HorizontalFlip VerticalFlip PaddingCrop CenterCrop Noise Blur Rotation ScaleAspect Distort Affine"
            ).split()
        ],
        ({"type": "ScalePadding"}, "leaves no record.*remove it"),
        ({"type": "AddEdgeLabel"}, "labels.*remove it"),
        ({"type": "GenerateInstanceTargets", "num_classes": 3}, "labels.*remove it"),
        ({"type": "Sharpen"}, "no such transform.*Normalize, Resize, .*ResizeStepScaling"),
        ({"type": "Resize", "interp": "RANDOM"}, "RANDOM.*replace it"),
        ({"type": "ResizeByShort", "short_size": [400, 500]}, "random choice.*replace it"),
        ({"type": "ResizeRangeScaling"}, r"random while min_value \(400\) and max_value \(600\) differ; replace it"),
        ({"type": "ResizeStepScaling"}, "random while min_scale_factor"),
    ],
)
def test_what_cannot_be_repeated_or_undone_is_refused_with_the_reason(entry: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedTransformError, match=rf"^deploy.yaml: transforms\[1\] '?{entry['type']}.*{reason}"):
        parse_transforms([{"type": "Normalize"}, entry], where="deploy.yaml")


@pytest.mark.parametrize(
    ("op", "arguments", "complaint"),
    [
        ("Normalize", {"mean": 0.5}, "mean must be a list of 1 to 512"),
        ("Normalize", {"mean": [True]}, "mean must be a list of 1 to 512"),
        ("Normalize", {"mean": [math.nan]}, "mean must be"),
        ("Normalize", {"mean": "0.5"}, "mean must be"),
        ("Normalize", {"std": [0.2, 0, 0.2]}, "std must be numbers other than 0"),
        ("Normalize", {"std": [math.inf]}, "std must be"),
        ("Normalize", {"sdt": [1.0]}, "no such argument: 'sdt'; remove"),
        ("Resize", {"target_size": 512}, r"target_size must be \(width, height\)"),
        ("Resize", {"target_size": [512]}, "target_size"),
        ("Resize", {"target_size": [512, 512, 3]}, "target_size"),
        ("Resize", {"target_size": [512, 512.0]}, "target_size"),
        ("Resize", {"target_size": [True, 512]}, "target_size"),
        ("Resize", {"target_size": [0, 512]}, "target_size"),
        ("Resize", {"target_size": [-5, 512]}, "target_size"),
        ("Resize", {"target_size": [65537, 512]}, "from 1 to 65536"),
        ("Resize", {"target_size": None}, "target_size"),
        ("Resize", {"keep_ratio": 1}, "keep_ratio must be true or false, not 1"),
        ("Resize", {"size_divisor": 0}, "size_divisor must be a whole number"),
        ("Resize", {"size_divisor": 2.0}, "size_divisor"),
        ("Resize", {"interp": "linear"}, "interp must be one of NEAREST, LINEAR"),
        ("Resize", {"interp": 1}, "interp must be a name"),
        ("ResizeByLong", {}, "long_size is missing; add it"),
        ("ResizeByLong", {"long_size": True}, "long_size"),
        ("ResizeByLong", {"long_size": "512"}, "long_size"),
        ("ResizeByShort", {"short_size": 10, "max_size": 0}, "max_size must be greater than 0"),
        ("ResizeByShort", {"short_size": 10, "max_size": math.nan}, "max_size must be a finite number"),
        ("ResizeByShort", {"short_size": 10, "max_size": 10**400}, "max_size must be a finite number"),
        ("ResizeByShort", {"short_size": 10, "max_size": "1e10"}, "max_size must be a finite number"),
        ("LimitLong", {"max_long": 10, "min_long": 20}, "min_long must be at most max_long, which is 10"),
        ("LimitLong", {"max_long": 10.5}, "max_long"),
        ("Padding", {}, "target_size is missing"),
        ("Padding", {"target_size": [10, 10], "im_padding_value": [1, 2, 3]}, "im_padding_value must be a finite"),
        ("Padding", {"target_size": [10, 10], "label_padding_value": None}, "label_padding_value"),
        ("PaddingByAspectRatio", {"aspect_ratio": 0}, "aspect_ratio must be greater than 0"),
        ("ResizeRangeScaling", {"min_value": 9, "max_value": 8}, "min_value must be at most max_value, which is 8"),
        ("ResizeStepScaling", {"min_scale_factor": -1}, "min_scale_factor must be greater than 0"),
        ("ResizeStepScaling", {1: 2, "min_scale_factor": 1, "max_scale_factor": 1}, "no such argument: 1;"),
    ],
)
def test_wrong_arguments_are_refused_with_their_place(op: str, arguments: dict[Any, Any], complaint: str) -> None:
    with pytest.raises(BundleError, match=rf"^inference.yml: transforms\[0\] {op}: .*{complaint}") as caught:
        parse_transforms([{"type": op, **arguments}], where="inference.yml")
    assert not isinstance(caught.value, UnsupportedTransformError)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("entries", [{"type": "Normalize"}, "Normalize", 3])
def test_what_is_no_list_is_refused(entries: object) -> None:
    with pytest.raises(BundleError, match=r"^deploy.yaml: transforms must be a list"):
        parse_transforms(cast("Records", entries), where="deploy.yaml")


@pytest.mark.parametrize("entry", [None, "Normalize", ["Normalize"], {}, {"type": None}, {"type": ["Normalize"]}])
def test_what_is_no_transform_is_refused(entry: object) -> None:
    with pytest.raises(BundleError, match=r"^deploy.yaml: transforms\[0\].*(mapping|name of a transform)"):
        parse_transforms(cast("Records", [entry]), where="deploy.yaml")


@settings(max_examples=200, deadline=None)
@given(
    entries=st.lists(
        st.dictionaries(
            st.sampled_from(["type", "target_size", "long_size", "mean", "std", "interp", "max_size", "min_value"]),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.sampled_from(["Resize", "Normalize", "Padding", "ResizeByLong", "RANDOM"])
            | st.lists(st.integers() | st.floats(), max_size=3),
        )
    )
)
def test_any_bundle_parses_or_is_refused_by_name(entries: list[dict[str, Any]]) -> None:
    try:
        parsed = parse_transforms(entries, where="deploy.yaml")
    except BundleError as error:
        assert str(error).startswith("deploy.yaml: transforms[")
    else:
        assert len(parsed) == len(entries)

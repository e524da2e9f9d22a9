"""Shape profiles: collected from images after the transforms, kept, and read again."""

import re
from pathlib import Path

import numpy as np
import pytest

from engine.bundle.bundle import Bundle, DeclaredOutput, open_bundle
from engine.errors import ImageError, OptionError
from engine.gpu.shapes import collect_inner_ranges, collect_profile, read_shape_profile, write_shape_profile
from engine.images import Capture, SourceImage
from engine.options import DynamicShapeProfile, ShapeRange
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.predictor import Predictor
from engine.transforms import Padding, ResizeByLong, Transform

NO_CAPTURE = Capture()


def predictor(*transforms: Transform) -> Predictor:
    """A predictor whose network must not be run."""

    def network(_: Tensor) -> Tensor:
        raise AssertionError("collecting shapes runs nothing")

    bundle = Bundle(
        name="b",
        source=Path("b.tgz"),
        folder=Path(),
        digest="",
        classes=(),
        transforms=transforms,
        paddle=None,
        onnx=(),
        declared=DeclaredOutput(None, None, None),
        multilabel=False,
        notes=(),
    )
    return Predictor(bundle, FakeRuntime(network))


def image(width: int, height: int) -> SourceImage:
    """A black picture."""
    return SourceImage(np.zeros((height, width, 3), np.uint8), width, height, NO_CAPTURE)


def test_shapes_are_those_after_the_transforms() -> None:
    images = [image(100, 50), image(100, 50), image(40, 80)]
    profile = collect_profile(predictor(ResizeByLong(64)), images, batch_size=4)
    seen = ShapeRange(minimum=(1, 3, 32, 32), optimum=(4, 3, 32, 64), maximum=(4, 3, 64, 64))
    assert profile == DynamicShapeProfile((("x", seen),))


def test_a_profile_needs_an_image() -> None:
    with pytest.raises(OptionError, match="at least one image"):
        collect_profile(predictor(), [], batch_size=1)


def test_an_image_that_a_transform_refuses_is_an_error() -> None:
    with pytest.raises(ImageError):
        collect_profile(predictor(Padding((8, 8))), [image(9, 9)], batch_size=1)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shapes" / "profile.json"
    assert read_shape_profile(path) is None
    for side in (8, 16):
        profile = DynamicShapeProfile.from_shapes("x", [(1, 3, 8, side), (4, 3, 64, 32)])
        write_shape_profile(profile, path)
        assert read_shape_profile(path) == profile
    assert [each.name for each in path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"inputs": [["x", {"minimum": [1]}]]}',
        b'{"inputs": [["x", {"minimum": [2], "optimum": [1], "maximum": [3]}]]}',
    ],
)
def test_a_damaged_profile_is_named_with_a_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(
        OptionError, match=r"profile\.json is not a shape profile .*(?s:.)*collect it again with auto-tune"
    ):
        read_shape_profile(path)


def test_paddle_collects_the_ranges_of_inner_tensors(shared_data: Path, tmp_path: Path) -> None:
    shapes = [(1, 3, 64, 96), (1, 3, 96, 64), (1, 3, 96, 64), (1, 3, 128, 128)]
    profile = DynamicShapeProfile.from_shapes("x", shapes)
    path = tmp_path / "new" / "ranges.pbtxt"
    with open_bundle(shared_data / "bundles" / "legacy_humanseg_lite_logits.tgz") as bundle:
        collect_inner_ranges(bundle, profile, path, load_marks=tmp_path)
    text = re.sub(r"\s+", " ", path.read_text())
    expected = (
        'name: "x" min_shape: 1 min_shape: 3 min_shape: 64 min_shape: 64 '
        "max_shape: 1 max_shape: 3 max_shape: 128 max_shape: 128 "
        "opt_shape: 1 opt_shape: 3 opt_shape: 96 opt_shape: 64"
    )
    assert expected in text
    assert text.count("shape_range_info") > 50

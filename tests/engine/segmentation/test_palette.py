"""Oracles: PaddleSeg's own colour map, Pillow and OpenCV as readers, arithmetic by hand."""

import importlib.util
import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ImageError, OptionError
from engine.segmentation.palette import (
    OverlayOptions,
    OverlayStyle,
    composite,
    mask_png,
    overlay,
    overlay_jpeg,
    palette_for,
    planes_npz,
    pseudo_color_png,
)

BLACK = (0, 0, 0)
RED = (255, 0, 0)
PALETTE = np.array([[10, 20, 30], [200, 0, 100]], np.uint8)


def color_map(count: int) -> list[tuple[int, ...]]:
    """The colours of classes for which a bundle states none."""
    return [tuple(color) for color in palette_for([], count).tolist()]


@pytest.fixture(scope="module")
def get_color_map_list() -> Callable[[int], list[int]]:
    """PaddleSeg's function, out of its file: importing the package would load Paddle."""
    package = importlib.util.find_spec("paddleseg")
    if package is None or not package.submodule_search_locations:
        pytest.skip("paddleseg is not installed")
    file = f"{package.submodule_search_locations[0]}/utils/visualize.py"
    spec = importlib.util.spec_from_file_location("paddleseg_visualize", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_color_map_list


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def labels(dtype: type[np.uint8] | type[np.uint16], classes: int) -> NDArray[Any]:
    return np.random.default_rng(7).integers(0, classes, (23, 31)).astype(dtype)


@pytest.mark.parametrize("count", [0, 1, 2, 19, 150, 256, 1000])
def test_color_map_is_paddlesegs(get_color_map_list: Callable[[int], list[int]], count: int) -> None:
    assert [band for color in color_map(count) for band in color] == get_color_map_list(count)


def test_color_map_never_repeats_and_has_no_black() -> None:
    colors = color_map(5000)
    assert len({*colors, BLACK}) == 5001


def test_palette_keeps_given_colors_and_fills_the_others_at_their_index() -> None:
    assert palette_for([None, RED, None], 4).tolist() == [
        list(color) for color in ((128, 0, 0), RED, *color_map(4)[2:])
    ]


def test_a_taken_default_is_replaced_without_touching_other_classes() -> None:
    # Class 2 owns the default of class 0; class 1 keeps its own default, class 0 gets the first entry past the classes.
    assert palette_for([None, None, (128, 0, 0)], 3).tolist() == [[0, 0, 128], [0, 128, 0], [128, 0, 0]]


def test_black_is_a_color_that_can_be_given() -> None:
    assert palette_for([BLACK], 2).tolist() == [[0, 0, 0], [0, 128, 0]]


def test_palette_ignores_colors_past_the_classes() -> None:
    assert palette_for([RED, (128, 0, 0), RED], 1).tolist() == [[255, 0, 0]]


def test_palette_of_no_classes() -> None:
    assert (palette_for([], 0).shape, palette_for([], 0).dtype) == ((0, 3), np.uint8)


map_or_other_color = st.sampled_from([*color_map(60), RED, BLACK])


@given(st.lists(map_or_other_color, unique=True, max_size=30).flatmap(st.permutations), st.data())
def test_no_two_classes_look_alike(colors: Sequence[tuple[int, int, int]], data: st.DataObject) -> None:
    partly = [color if data.draw(st.booleans()) else None for color in colors]
    palette = palette_for(partly, 40)
    assert len({tuple(color) for color in palette.tolist()}) == 40
    assert all(tuple(palette[i].tolist()) == color for i, color in enumerate(partly) if color)


def test_pseudo_color_png_keeps_the_classes_as_indices() -> None:
    mask = labels(np.uint8, 2)
    data = pseudo_color_png(mask, PALETTE)
    assert decoded(data).mode == "P"
    assert np.array_equal(np.asarray(decoded(data)), mask)
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert seen is not None
    assert np.array_equal(seen, PALETTE[mask])


def test_pseudo_color_png_draws_classes_past_the_palette_black() -> None:
    data = pseudo_color_png(np.array([[0, 2, 255]], np.uint8), PALETTE)
    assert np.asarray(decoded(data).convert("RGB")).tolist() == [[[10, 20, 30], [0, 0, 0], [0, 0, 0]]]
    assert np.asarray(decoded(data)).tolist() == [[0, 2, 255]]


@pytest.mark.parametrize(("dtype", "colors"), [(np.uint16, 300), (np.uint16, 5), (np.uint8, 300)])
def test_pseudo_color_png_is_rgb_past_256_classes(dtype: type[np.uint8] | type[np.uint16], colors: int) -> None:
    mask = labels(dtype, min(colors, 256))
    mask[0, 0] = min(colors - 1, np.iinfo(dtype).max)
    palette = palette_for([], colors)
    image = decoded(pseudo_color_png(mask, palette))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), palette[mask])


@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 256), (np.uint16, 65536)])
def test_mask_png_holds_the_classes_as_grey(dtype: type[np.uint8] | type[np.uint16], classes: int) -> None:
    mask = labels(dtype, classes)
    seen = cv2.imdecode(np.frombuffer(mask_png(mask), np.uint8), cv2.IMREAD_UNCHANGED)
    assert seen is not None
    assert seen.dtype == dtype
    assert np.array_equal(seen, mask)


def test_pngs_of_masks_that_are_views() -> None:
    mask = labels(np.uint16, 1000)[::2, ::-3]
    assert np.array_equal(np.asarray(decoded(mask_png(mask))), mask)


def test_overlay_blends_by_opacity() -> None:
    pixels = np.full((1, 2, 3), 100, np.uint8)
    mask = np.array([[0, 1]], np.uint8)
    assert overlay(pixels, mask, PALETTE, opacity=0.25).tolist() == [[[78, 80, 82], [125, 75, 100]]]
    assert overlay(pixels, mask, PALETTE).tolist() == [[[55, 60, 65], [150, 50, 100]]]
    assert np.array_equal(overlay(pixels, mask, PALETTE, opacity=0), pixels)
    assert np.array_equal(overlay(pixels, mask, PALETTE, opacity=1), PALETTE[mask])
    assert (pixels == 100).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overlay_brings_the_mask_to_the_picture(dtype: type[np.uint8] | type[np.uint16]) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    small = np.array([[0, 1, 0], [1, 1, 0]], dtype)
    large = small.repeat(2, axis=0).repeat(2, axis=1).repeat(3, axis=0).repeat(3, axis=1)
    expected = PALETTE[small.repeat(2, axis=0).repeat(2, axis=1)]
    assert np.array_equal(overlay(pixels, small, PALETTE, opacity=1), expected)
    assert np.array_equal(overlay(pixels, large, PALETTE, opacity=1), expected)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_overlay_refuses_an_opacity_that_is_no_share(opacity: float) -> None:
    with pytest.raises(OptionError, match="between 0"):
        overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), PALETTE, opacity=opacity)


def test_overlay_jpeg_is_the_overlay_at_quality_90() -> None:
    pixels = np.full((64, 48, 3), 100, np.uint8)
    mask = np.zeros((64, 48), np.uint8)
    mask[:32] = 1
    data = overlay_jpeg(pixels, mask, PALETTE, OverlayOptions(overlay_strength=0.25))
    image = decoded(data)
    reference = io.BytesIO()
    Image.fromarray(overlay(pixels, mask, PALETTE, opacity=0.25)).save(reference, "JPEG", quality=90)
    assert (image.format, image.size) == ("JPEG", (48, 64))
    assert data == reference.getvalue()
    assert abs(np.asarray(image).astype(int)[8, 8] - [125, 75, 100]).max() <= 2


def test_an_outline_colours_the_pixels_beside_another_class_and_no_others() -> None:
    pixels = np.full((6, 9, 3), 100, np.uint8)
    mask = np.zeros((6, 9), np.uint8)
    mask[:, 5:] = 1
    shown = overlay(pixels, mask, PALETTE, opacity=1, style=OverlayStyle.OUTLINE)
    expected = pixels.copy()
    expected[:, 4], expected[:, 5] = PALETTE[0], PALETTE[1]
    assert np.array_equal(shown, expected)
    # Half as strong, and the same for masks of two bytes.
    faint = overlay(pixels, mask.astype(np.uint16), PALETTE, opacity=0.5, style=OverlayStyle.OUTLINE)
    assert np.abs(faint[:, 4:6].astype(float) - (expected[:, 4:6].astype(float) + 100) / 2).max() <= 0.5
    assert np.array_equal(faint[:, :4], pixels[:, :4])


def test_a_mask_of_one_class_has_no_outline() -> None:
    pixels = np.full((5, 5, 3), 100, np.uint8)
    shown = overlay(pixels, np.ones((5, 5), np.uint8), PALETTE, opacity=1, style=OverlayStyle.OUTLINE)
    assert np.array_equal(shown, pixels)


def test_a_legend_shows_the_classes_of_the_picture_below_it() -> None:
    pixels = np.full((60, 400, 3), 100, np.uint8)
    mask = np.ones((60, 400), np.uint8)
    palette = np.array([(255, 0, 0), (0, 200, 0)], np.uint8)
    options = OverlayOptions(overlay_strength=0, overlay_legend=True)
    shown = np.asarray(decoded(overlay_jpeg(pixels, mask, palette, options, ("sand", "grass"))))
    assert np.abs(shown[:56].astype(int) - 100).max() <= 2
    legend = shown[64:].astype(int)
    assert len(legend) >= 10
    green = (legend[..., 1] > 150) & (legend[..., 0] < 90)
    red = (legend[..., 0] > 150) & (legend[..., 1] < 90)
    assert green.sum() > 30
    assert not red.any()
    # Many classes take several lines, and nobody's picture becomes wider.
    labels = np.arange(40, dtype=np.uint8).repeat(10).reshape(1, -1)
    colors = np.array(color_map(40), np.uint8)
    many = decoded(overlay_jpeg(pixels[:1], labels, colors, options, [f"class {each}" for each in range(40)]))
    assert many.width == 400
    few = decoded(overlay_jpeg(pixels[:1], labels, colors, options, ["class 0"]))
    assert many.height > few.height


@pytest.mark.parametrize(("style", "strength"), [("fill", 0.5), ("outline", 1)])
def test_a_style_has_its_own_strength(style: OverlayStyle, strength: float) -> None:
    assert OverlayOptions(overlay=style).strength == strength
    assert OverlayOptions(overlay=style, overlay_strength=0.25).strength == 0.25


def test_overlay_jpeg_refuses_what_a_jpeg_cannot_hold() -> None:
    with pytest.raises(ImageError, match=r"65501 x 1 pixels.*max-img-size"):
        overlay_jpeg(np.zeros((1, 65501, 3), np.uint8), np.zeros((1, 65501), np.uint8), PALETTE)


def test_planes_npz_gives_the_planes_back() -> None:
    planes = np.random.default_rng(3).random((3, 5, 7)) < 0.5
    with np.load(io.BytesIO(planes_npz(planes))) as file:
        assert file.files == ["planes"]
        assert file["planes"].dtype == np.bool_
        assert np.array_equal(file["planes"], planes)


def test_planes_npz_does_not_know_the_time() -> None:
    with zipfile.ZipFile(io.BytesIO(planes_npz(np.ones((1, 2, 2), np.bool_)))) as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_encodings_are_deterministic() -> None:
    mask = labels(np.uint8, 2)
    pixels = np.random.default_rng(1).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    planes = np.stack([mask == 0, mask == 1])

    def encoded() -> list[bytes]:
        pictures = [pseudo_color_png(mask, PALETTE), mask_png(mask), overlay_jpeg(pixels, mask, PALETTE)]
        return [*pictures, planes_npz(planes)]

    assert encoded() == encoded()


def test_composite_lets_the_last_class_win_and_marks_none() -> None:
    planes = np.array([[[1, 1, 0, 0]], [[0, 1, 0, 1]], [[0, 1, 0, 0]]], np.bool_)
    mask = composite(planes)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 2, 3, 1]]


@pytest.mark.parametrize(("count", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_composite_has_room_for_none(count: int, dtype: type) -> None:
    planes = np.zeros((count, 1, 2), np.bool_)
    planes[-1:, 0, 0] = True
    mask = composite(planes)
    assert mask.dtype == dtype
    assert mask.tolist() == [[max(count - 1, 0), count]]

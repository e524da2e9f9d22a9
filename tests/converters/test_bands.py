"""Networks of other bands than three: exported, converted, certified, and run by both runtimes alike."""
# Paddle ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false

from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as make
import pytest
from onnx import TensorProto

from converters.conversion import convert
from converters.exporting.bundle_files import require_runs
from converters.exporting.export import export_bundle
from converters.repository import Repository
from engine import OnnxOptions, OptionError, Precision, RuntimeName, open_bundle, open_predictor
from engine.bundle.bundle import OnnxModel, PaddleModel
from engine.errors import ModelLoadError
from engine.gdal import write_bands
from engine.images import Capture, ImageLimits, SourceImage
from engine.runtimes.programs.input_bands import input_bands
from engine.runtimes.selection import RuntimeRequest
from service.session import Caches, certify
from tests.conftest import CLASSES, vendor_warnings_ignored


@pytest.fixture(
    scope="module", params=[pytest.param(1, marks=pytest.mark.long), 4, pytest.param(6, marks=pytest.mark.long)]
)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Any]:
    """One convolution of random weights as a bundle; its bands; its weights and biases."""
    bands: int = request.param
    with vendor_warnings_ignored():
        import paddle

        paddle.seed(bands)
        convolution = paddle.nn.Conv2D(bands, 3, 1)
        folder = export_bundle(
            convolution,
            tmp_path_factory.mktemp("bands") / "files",
            name="bands",
            classes=CLASSES,
            transforms=[{"type": "Normalize", "mean": [0.5] * bands, "std": [0.25] * bands}],
            output_op="none",
            input_shape=(None, bands, None, None),
        )
    return folder, bands, (convolution.weight.numpy()[..., 0, 0], convolution.bias.numpy())


def test_both_runtimes_and_the_certificate(
    network: tuple[Path, int, Any], conversions: Repository, load_marks: Path
) -> None:
    folder, bands, (weights, biases) = network
    rng = np.random.default_rng(bands)
    pixels = rng.integers(0, 256, (40, 56, bands), np.uint8)
    shown = np.repeat(pixels, 3, axis=2) if bands == 1 else pixels
    scores = np.einsum("kc,hwc->khw", weights, (pixels / 255 - 0.5) / 0.25) + biases[:, None, None]
    require_runs(folder, folder)
    with open_bundle(folder) as bundle:
        assert bundle.paddle is not None
        converted = convert(bundle, conversions, load_marks=load_marks)
        assert (input_bands(bundle.paddle), input_bands(converted.model)) == (bands, bands)
        assert converted.certificate.report.images == 3
        assert converted.certificate.report.mismatched_ppm == 0
        for runtime in RuntimeName:
            request = RuntimeRequest(runtime=runtime)
            with open_predictor(bundle.with_onnx(converted.model), request, load_marks=load_marks) as predictor:
                mask = predictor.predict(SourceImage(shown, 56, 40, Capture())).mask
            assert (mask != scores.argmax(axis=0)).mean() < 1e-3


@pytest.mark.long
def test_verified_on_pictures_of_several_bands(
    network: tuple[Path, int, Any], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder, bands, _ = network
    pixels = np.random.default_rng(bands).integers(0, 256, (40, 56, bands), np.uint8)
    write_bands(pixels, tmp_path / "a.tif")
    caches = Caches(tmp_path_factory.mktemp("caches"))
    with open_bundle(folder) as bundle:
        named = tuple(range(1, bands + 1))
        report = certify(
            bundle, OnnxOptions(threads=1), caches, [tmp_path / "a.tif"], limits=ImageLimits(), bands=named
        )
        assert (report.images, report.mismatched_ppm) == (1, 0)
        if bands != 1:
            with pytest.raises(OptionError, match=f"the network takes images of {bands} bands"):
                certify(bundle, OnnxOptions(threads=1), caches, [tmp_path / "a.tif"], limits=ImageLimits())


@pytest.mark.parametrize(
    "name", ["legacy_pp_liteseg_stdc1", "legacy_segformer_b0_logits", "legacy_humanseg_lite_logits"]
)
def test_the_bands_of_a_legacy_program(name: str, shared_data: Path) -> None:
    with open_bundle(shared_data / "bundles" / f"{name}.tgz") as bundle:
        assert bundle.paddle is not None
        assert input_bands(bundle.paddle) == 3


@pytest.mark.parametrize(("axis", "wanted"), [(5, 5), (None, None), ("channels", None)])
def test_the_bands_of_an_onnx_model(tmp_path: Path, axis: int | str | None, wanted: int | None) -> None:
    shape: list[Any] = ["N", axis, "H", 64]
    graph = make.make_graph(
        [make.make_node("Relu", ["x"], ["y"])],
        "g",
        [
            make.make_tensor_value_info("scale", TensorProto.FLOAT, [1]),
            make.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        ],
        [make.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(make.make_model(graph).SerializeToString())
    assert input_bands(OnnxModel(path, Precision.FP32, "")) == wanted


@pytest.mark.parametrize("name", ["model.json", "model.pdmodel", "model.onnx"])
@pytest.mark.parametrize("content", [b"\x00", b"{}", b"[]", b'{"program": 1}', b"\xff" * 40, b"\x0a\x00"])
def test_what_is_no_program_has_no_bands(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    model = OnnxModel(path, Precision.FP32, "") if name.endswith("onnx") else PaddleModel(path, path, "")
    with pytest.raises(ModelLoadError):
        input_bands(model)

"""OpenVINO is told what was asked for, compiled models are kept and checked, and its makers are told nothing."""

# pyright: reportPrivateUsage=false

import errno
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import Bundle, ModelLoadError, OnnxModel, OnnxOptions, Precision, Provider, RuntimeUnavailableError
from engine.runtimes import Runtime, Tensor, openvino
from engine.runtimes.loading import load_onnx
from engine.runtimes.openvino import OpenVinoRuntime, compile_settings
from engine.system.machine.hardware import has_vnni

OPTIONS = OnnxOptions(provider=Provider.OPENVINO, threads=2)
NOISE = np.random.default_rng(0).standard_normal((1, 3, 64, 96), dtype=np.float32)


@pytest.fixture
def model(small_bundle: Bundle, tmp_path: Path) -> OnnxModel:
    """A model that may be spoiled or removed."""
    found = small_bundle.onnx_model(Precision.FP32)
    assert found is not None
    shutil.copy(found.path, tmp_path / "model.onnx")
    return replace(found, path=tmp_path / "model.onnx")


def scores(runtime: Runtime) -> Tensor:
    (result,) = runtime.run({runtime.inputs[0].name: NOISE}).values()
    runtime.close()
    return result


@pytest.mark.parametrize(("threads", "streams", "hint"), [(1, 1, "LATENCY"), (4, 2, "THROUGHPUT")])
def test_precision_threads_and_streams_are_always_named(threads: int, streams: int, hint: str) -> None:
    settings = compile_settings(OnnxOptions(provider=Provider.OPENVINO, threads=threads, streams=streams))
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert settings["INFERENCE_NUM_THREADS"] == str(threads)
    assert settings["NUM_STREAMS"] == str(streams)
    assert settings["PERFORMANCE_HINT"] == hint


def test_scores_are_those_of_onnx_runtime(model: OnnxModel) -> None:
    expected = scores(load_onnx(model, OnnxOptions(threads=2), None))
    found = scores(OpenVinoRuntime(model, OPTIONS))
    assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)


def test_a_compiled_model_is_read_in_place_of_the_model(model: OnnxModel, tmp_path: Path) -> None:
    compiled = scores(OpenVinoRuntime(model, OPTIONS, tmp_path / "kept"))
    model.path.unlink()
    assert np.array_equal(scores(OpenVinoRuntime(model, OPTIONS, tmp_path / "kept")), compiled)
    for other, options in (
        (replace(model, digest="another"), OPTIONS),
        (model, replace(OPTIONS, threads=1)),
        (model, replace(OPTIONS, streams=2)),
    ):
        with pytest.raises(ModelLoadError, match="OpenVINO refuses the model"):
            OpenVinoRuntime(other, options, tmp_path / "kept")


@pytest.mark.parametrize("damage", [slice(0, 1), slice(-1, None)])
def test_a_damaged_compiled_model_is_made_again(
    model: OnnxModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: slice
) -> None:
    expected = scores(OpenVinoRuntime(model, OPTIONS, tmp_path / "kept"))
    (blob,) = (tmp_path / "kept").rglob("*.blob")
    content = bytearray(blob.read_bytes())
    whole = bytes(content)
    content[damage] = bytes([content[damage][0] ^ 1])
    blob.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(scores(OpenVinoRuntime(model, OPTIONS, tmp_path / "kept")), expected)
    assert "is damaged: compiling again" in caplog.text
    assert len(blob.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_written_is_only_a_warning(
    model: OnnxModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        OpenVinoRuntime(model, OPTIONS, tmp_path / "file" / "kept").close()
    assert "every start compiles the model again" in caplog.text


def test_a_filled_folder_that_cannot_be_written_is_read(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An image may hold a warm cache of another user."""
    expected = scores(OpenVinoRuntime(model, OPTIONS, tmp_path / "kept"))
    model.path.unlink()

    def refuse(*_: object) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(openvino, "engine_folder", refuse)
    assert np.array_equal(scores(OpenVinoRuntime(model, OPTIONS, tmp_path / "kept")), expected)
    assert caplog.text == ""


def test_what_was_not_asked_for_is_refused(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(options: OnnxOptions) -> dict[str, str]:
        return compile_settings(options) | {"NUM_STREAMS": "2"}

    monkeypatch.setattr(openvino, "compile_settings", otherwise)
    with pytest.raises(ModelLoadError, match="would compute in f32 and 2 streams, not in f32 and 1"):
        OpenVinoRuntime(model, OPTIONS)


def test_threads_that_are_not_there_are_not_stated(model: OnnxModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        runtime = OpenVinoRuntime(model, replace(OPTIONS, threads=4096))
    assert runtime.identity.threads < 4096
    assert f"OpenVINO runs {runtime.identity.threads} threads here, not 4096" in caplog.text
    runtime.close()


def test_a_file_that_is_no_model_is_refused(model: OnnxModel) -> None:
    model.path.write_bytes(b"\x08\x07" + bytes(100))
    with pytest.raises(ModelLoadError, match=r"model\.onnx: OpenVINO refuses the model"):
        OpenVinoRuntime(model, OPTIONS)


def test_sums_of_8_bit_products_are_exact_or_refused(tmp_path: Path) -> None:
    """Pairs of 255 times 127 exceed 16 bits, in which processors without VNNI add them up."""
    constants = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in {
            "scale": np.float32(1 / 255),
            "zero": np.uint8(0),
            "weights": np.full((16, 64, 3, 3), 127, np.int8),
            "weight scale": np.full(16, 1 / 127, np.float32),
            "weight zero": np.zeros(16, np.int8),
        }.items()
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weights", "weight scale", "weight zero"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64, "h", "w"])
    sums = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, "a", "b"])
    graph = helper.make_graph(nodes, "sums", [image], [sums], constants)
    path = tmp_path / "model.onnx"
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(network.SerializeToString())
    model, options = OnnxModel(path, Precision.INT8, "digest"), replace(OPTIONS, precision=Precision.INT8)
    if has_vnni():
        (found,) = OpenVinoRuntime(model, options).run({"x": np.ones((1, 64, 8, 8), np.float32)}).values()
        assert np.allclose(found, 64 * 3 * 3)
    else:
        with pytest.raises(RuntimeUnavailableError, match="sums of 8-bit products overflow: use provider cpu"):
            OpenVinoRuntime(model, options)


@pytest.mark.parametrize(
    ("variable", "limit", "excluded"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", True),
        ("DNNL_MAX_CPU_ISA", "sse41", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", False),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", False),
    ],
)
def test_int8_is_refused_where_the_environment_excludes_vnni(
    monkeypatch: pytest.MonkeyPatch, variable: str, limit: str, excluded: bool
) -> None:
    """The names are those of oneDNN's page on its dispatcher. With AVX2 the sums of 576 above are 291 everywhere."""
    monkeypatch.setattr(openvino, "has_vnni", lambda: True)
    monkeypatch.setenv(variable, limit)
    if excluded:
        with pytest.raises(
            RuntimeUnavailableError, match=f"{variable} in the environment excludes.*remove that setting"
        ):
            openvino.require_openvino(replace(OPTIONS, precision=Precision.INT8))
    else:
        openvino.require_openvino(replace(OPTIONS, precision=Precision.INT8))
    openvino.require_openvino(OPTIONS)


def test_its_telemetry_is_kept_out_and_fp32_is_not_rounded(tmp_path: Path) -> None:
    """The package is installed, and importing it is what writes into the home folder and asks the network.

    The variable of oneDNN is one that guides to fast processors have in a user's profile.
    """
    script = """
import importlib.util, os, sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event.startswith("socket.") else None)
assert importlib.util.find_spec("openvino_telemetry")
from engine.options import OnnxOptions
from engine.runtimes.openvino import require_openvino
require_openvino(OnnxOptions())
assert "openvino.tools.ovc" in sys.modules
assert sys.modules["openvino_telemetry"] is None
assert not asked, asked
assert os.environ["ONEDNN_DEFAULT_FPMATH_MODE"] == "STRICT"
"""
    # Without the variables of continuous integration, which make openvino_telemetry keep still by itself.
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    environment["ONEDNN_DEFAULT_FPMATH_MODE"] = "BF16"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []

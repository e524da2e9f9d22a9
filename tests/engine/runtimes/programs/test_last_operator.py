"""What a network ends in, found in the files that Paddle and the converter write for real networks."""
# Paddle ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engine import ModelLoadError, open_bundle, open_predictor
from engine.bundle.bundle import Bundle, OnnxModel, PaddleModel
from engine.options import Precision, RuntimeName
from engine.runtimes.programs.last_operator import LastOperator, last_operator
from engine.runtimes.selection import RuntimeRequest
from tests.conftest import Convert, ExportNetwork, vendor_warnings_ignored
from tests.engine.segmentation.test_predictor import image_of, noise


@pytest.fixture(scope="module")
def ending_in(export_network: ExportNetwork) -> Callable[[str], Path]:
    """Export one convolution with something behind it."""

    def export(ending: str) -> Path:
        with vendor_warnings_ignored():
            import paddle

        functions = paddle.nn.functional
        endings: dict[str, Callable[[Any], Any]] = {
            "none": lambda scores: scores,
            "sigmoid": functions.sigmoid,
            "softmax": lambda scores: functions.softmax(scores, axis=1),
            "enlarged": lambda scores: functions.interpolate(
                functions.sigmoid(scores), scale_factor=2, mode="bilinear"
            ),
            "argmax": lambda scores: scores.argmax(axis=1),
        }

        class Network(paddle.nn.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.convolution = paddle.nn.Conv2D(3, 3, 1)

            def forward(self, x: Any) -> list[Any]:
                return [endings[ending](self.convolution(x))]

        return export_network(f"ending-{ending}", Network, classes=3, settle=False)

    return cache(export)


@pytest.mark.long
@pytest.mark.parametrize(
    ("ending", "wanted"),
    [
        pytest.param("none", LastOperator.OTHER, marks=pytest.mark.long),
        pytest.param("sigmoid", LastOperator.SIGMOID, marks=pytest.mark.long),
        pytest.param("softmax", LastOperator.SOFTMAX, marks=pytest.mark.long),
        ("enlarged", LastOperator.SIGMOID),
        pytest.param("argmax", LastOperator.ARGMAX, marks=pytest.mark.long),
    ],
)
def test_paddles_program_and_its_conversion(
    ending: str, wanted: LastOperator, ending_in: Callable[[str], Path], converter: Convert
) -> None:
    with open_bundle(ending_in(ending)) as bundle:
        assert bundle.paddle is not None
        assert last_operator(bundle.paddle) is wanted
        assert last_operator(converter(bundle)) is wanted


@pytest.mark.parametrize("runtime", RuntimeName)
@pytest.mark.long
def test_a_sigmoid_in_the_network_changes_no_mask(
    runtime: RuntimeName, ending_in: Callable[[str], Path], converter: Convert
) -> None:
    def overlapping(ending: str) -> Bundle:
        with open_bundle(ending_in(ending)) as bundle:
            return replace(bundle.with_onnx(converter(bundle)), multilabel=True)

    image = image_of(noise(40, 60))
    request = RuntimeRequest(runtime=runtime)
    with (
        open_predictor(overlapping("none"), request) as plain,
        open_predictor(overlapping("sigmoid"), request) as squashed,
    ):
        wanted, found = plain.predict(image).mask, squashed.predict(image).mask
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("legacy_pp_liteseg_stdc1", LastOperator.ARGMAX),
        ("legacy_segformer_b0_logits", LastOperator.OTHER),
        ("legacy_humanseg_lite_logits", LastOperator.OTHER),
    ],
)
def test_a_legacy_program(name: str, wanted: LastOperator, shared_data: Path) -> None:
    with open_bundle(shared_data / "bundles" / f"{name}.tgz") as bundle:
        assert bundle.paddle is not None
        assert bundle.paddle.kind == "pdmodel"
        assert last_operator(bundle.paddle) is wanted


@pytest.mark.parametrize("name", ["model.json", "model.pdmodel"])
def test_a_program_of_gigabytes_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ModelLoadError, match="more than 16777216 bytes"):
        last_operator(PaddleModel(path, path, ""))


@pytest.mark.parametrize(
    ("node", "count"),
    [
        pytest.param(b"\x0a\x05\x22\x03Add", 260_000, id="nodes"),
        pytest.param(b"\x12\x00", 1_000_001, id="fields that are no nodes", marks=pytest.mark.long),
    ],
)
def test_a_graph_without_end_is_not_read(node: bytes, count: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _write_graph(path, node * count)
    with pytest.raises(ModelLoadError, match="more than 1000000 fields"):
        last_operator(OnnxModel(path, Precision.FP32, ""))


def test_a_node_of_inputs_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    node = onnx.NodeProto(op_type="Concat", input=[""] * 1_000_001, output=["y"])
    path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(node=[node])).SerializeToString())
    with pytest.raises(ModelLoadError, match="more than 1000000 fields"):
        last_operator(OnnxModel(path, Precision.FP32, ""))


def _write_graph(path: Path, graph: bytes) -> None:
    """Write an ONNX model of a graph that stands as bytes (at most 2 MiB, as long as three bytes say)."""
    length = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, len(graph) >> 14])
    path.write_bytes(b"\x3a" + length + graph)


@pytest.mark.parametrize("name", ["model.json", "model.pdmodel", "model.onnx"])
@pytest.mark.parametrize("content", [b"\x00", b"{}", b"[]", b'{"program": 1}', b"\xff" * 40, b"\x0a\x00"])
def test_what_is_no_program(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    model = OnnxModel(path, Precision.FP32, "") if name.endswith("onnx") else PaddleModel(path, path, "")
    with pytest.raises(ModelLoadError, match=name):
        last_operator(model)

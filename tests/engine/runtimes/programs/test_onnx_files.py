"""ONNX files, walked over without ONNX Runtime; the onnx package is the oracle for what lies where."""
# onnx ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from engine import Bundle, ModelLoadError, Precision
from engine.bundle.bundle import OnnxModel
from engine.runtimes.programs.input_bands import input_size
from engine.runtimes.programs.onnx_files import opset_of, require_whole_model


def outside(location: str = "../../../etc/passwd") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph_of(nodes: list[Any], tensors: list[TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors or [],
    )


def node_with(**content: Any) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.append(AttributeProto(name="value", **content))
    return node


def sparse(part: str) -> SparseTensorProto:
    whole = numpy_helper.from_array(np.zeros(1, np.float32), "w")
    tensors = {"values": whole, "indices": whole, part: outside()}
    return SparseTensorProto(dims=[4], values=tensors["values"], indices=tensors["indices"])


WITH_TENSORS_OUTSIDE = {
    "initializer": graph_of([], [outside()]),
    "in the folder": graph_of([], [outside("weights.bin")]),
    "sparse values": onnx.GraphProto(sparse_initializer=[sparse("values")]),
    "sparse indices": onnx.GraphProto(sparse_initializer=[sparse("indices")]),
    "attribute": graph_of([node_with(t=outside(), type=AttributeProto.TENSOR)]),
    "attributes": graph_of([node_with(tensors=[outside()], type=AttributeProto.TENSORS)]),
    "sparse attribute": graph_of([node_with(sparse_tensor=sparse("values"), type=AttributeProto.SPARSE_TENSOR)]),
    "sparse attributes": graph_of([node_with(sparse_tensors=[sparse("values")], type=AttributeProto.SPARSE_TENSORS)]),
    "inner graph": graph_of([node_with(g=graph_of([], [outside()]), type=AttributeProto.GRAPH)]),
    "inner graphs": graph_of([node_with(graphs=[graph_of([], [outside()])], type=AttributeProto.GRAPHS)]),
}


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "onnx" / "fp32" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("place", WITH_TENSORS_OUTSIDE)
def test_tensors_in_other_files_are_found(place: str, tmp_path: Path) -> None:
    model = helper.make_model(WITH_TENSORS_OUTSIDE[place])
    with pytest.raises(ModelLoadError, match=r"onnx/fp32/model\.onnx keeps tensors in other files: save it in one"):
        require_whole_model(saved(tmp_path, model.SerializeToString()))


def test_tensors_in_other_files_are_found_in_functions(tmp_path: Path) -> None:
    function = helper.make_function(
        "own",
        "F",
        [],
        ["y"],
        [node_with(t=outside(), type=AttributeProto.TENSOR)],
        [helper.make_opsetid("", 17)],
    )
    model = helper.make_model(graph_of([]), functions=[function])
    with pytest.raises(ModelLoadError, match="keeps tensors in other files"):
        require_whole_model(saved(tmp_path, model.SerializeToString()))


def test_a_model_in_one_file_is_whole(small_bundle: Bundle) -> None:
    model = small_bundle.onnx_model(Precision.FP32)
    assert model is not None
    require_whole_model(model.path)


def varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low]) if value == low else bytes([low | 0x80]) + varint(value >> 7)


def nested(levels: int) -> bytes:
    """Graphs within graphs, written by hand: the onnx package itself refuses to."""
    graph = b""
    for _ in range(levels):
        for number in (6, 5, 1):  # graph of an attribute, attribute of a node, node of a graph
            graph = varint(number << 3 | 2) + varint(len(graph)) + graph
    return varint(7 << 3 | 2) + varint(len(graph)) + graph


@pytest.mark.parametrize("levels", [40, 5_000])
def test_graphs_too_deep_in_each_other(levels: int, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.onnx is damaged .*more than 100 deep"):
        require_whole_model(saved(tmp_path, nested(levels)))


def test_graphs_in_each_other_are_walked(tmp_path: Path) -> None:
    require_whole_model(saved(tmp_path, nested(30)))


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"onnx/fp32/model\.onnx is empty"):
        require_whole_model(saved(tmp_path, b""))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80" * 20, "no end"),
        (b"\x80", "ends in the middle of a number"),
        (b"\x3a\x05ab", "a field ends at byte 7, its message at 4"),
        (b"\x3a\x02\x0a\x05", "a field ends at byte 9, its message at 4"),
        (b"\x3b", "starts no field"),
        (b"\x0d\x00", "a field ends at byte 5"),
    ],
)
def test_damage(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=rf"onnx/fp32/model\.onnx is damaged \(.*{message}"):
        require_whole_model(saved(tmp_path, content))


@pytest.mark.parametrize(("side", "size"), [(64, (64, 96)), (None, None), ("h", None)])
def test_operator_set_and_size_are_read_also_where_weights_are_inputs(
    side: int | str | None, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    inputs = [("w", [16]), ("x", ["n", 3, side, 96])]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(16, np.float32), "w")],
    )
    sets = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 16)]
    path = saved(tmp_path, helper.make_model(graph, opset_imports=sets).SerializeToString())
    assert opset_of(path) == 16
    assert input_size(OnnxModel(path, Precision.FP32, digest="")) == size


def test_a_file_without_an_operator_set_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(ModelLoadError, match="operator set cannot be read"):
        opset_of(path)

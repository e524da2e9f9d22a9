"""Folding: fewer nodes, the same numbers, standard operators only."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# onnx ships no complete types.

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.graph_optimization import fold_constants
from engine import ConversionError


def network(path: Path) -> Path:
    """x · (2 + 3), where the sum is left to be computed and a product with one does nothing."""
    known = {"a": 2, "b": 3, "c": 1}
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in known.items()]
    nodes = [
        helper.make_node("Add", ["a", "b"], ["five"]),
        helper.make_node("Mul", ["x", "five"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "c"], ["same"]),
        helper.make_node("Identity", ["same"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "graph", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_what_is_known_is_computed_once(tmp_path: Path) -> None:
    folded = tmp_path / "folded.onnx"
    fold_constants(network(tmp_path / "plain.onnx"), folded)
    model = onnx.load(folded)
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    session = onnxruntime.InferenceSession(folded, providers=["CPUExecutionProvider"])
    for rows in (1, 4):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], x * 5)


def test_what_onnxruntime_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ConversionError, match=r"broken\.onnx: ONNX Runtime does not load the converter's result"):
        fold_constants(tmp_path / "broken.onnx", tmp_path / "folded.onnx")

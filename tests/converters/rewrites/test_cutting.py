"""Operators cut out of programs, and what goes wrong there."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from pathlib import Path
from typing import Any

import pytest

from converters.rewrites.cutting import Cut, join, sort_nodes
from converters.rewrites.grid_pooling import GridPooling
from converters.rewrites.program import Program
from engine.errors import ConversionError


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "model.json"
    program.write_text('{"program": 1}')
    with pytest.raises(ConversionError, match=r"model\.json is not a PIR program"):
        Program.read(program)


def test_a_lost_tensor_is_noticed() -> None:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([], "empty", [tensor], [tensor]))
    pooling = GridPooling("average", (2, 2), (1,), "float32")
    with pytest.raises(ConversionError, match=r"lost pool2d /Head/ on the way \(rewritten0\.in1\)"):
        join(model, [Cut(pooling, ("rewritten0.in1",), ("rewritten0.out2",), "pool2d /Head/")])


def test_nodes_come_after_what_their_branches_take() -> None:
    from onnx import TensorProto, checker, helper

    def branch(kind: str) -> Any:
        result = helper.make_tensor_value_info(kind, TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node(kind, ["a"], [kind])], kind, [], [result])

    x, y, flag = (
        helper.make_tensor_value_info(name, kind, [1])
        for name, kind in (("x", TensorProto.FLOAT), ("y", TensorProto.FLOAT), ("flag", TensorProto.BOOL))
    )
    chosen = helper.make_node("If", ["flag"], ["y"], then_branch=branch("Abs"), else_branch=branch("Neg"))
    graph = helper.make_graph([chosen, helper.make_node("Relu", ["x"], ["a"])], "unsorted", [x, flag], [y])
    model = helper.make_model(graph)
    with pytest.raises(checker.ValidationError, match="topologically sorted"):
        checker.check_model(model)
    sort_nodes(model.graph)
    checker.check_model(model)

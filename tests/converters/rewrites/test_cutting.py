"""Operators cut out of programs, and what goes wrong there."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from pathlib import Path

import pytest

from converters.rewrites.cutting import Cut, join
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

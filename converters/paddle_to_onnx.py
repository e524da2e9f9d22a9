"""A Paddle program to one ONNX file with dynamic input, by paddle2onnx in a child process."""

# The converter can abort its whole process, hence the child. What it cannot express for every input size is cut out
# before and replaced after it (`converters.rewrites`). Its own graph clean-up is left out: it would install packages at
# run time, and ONNX Runtime folds the same constants when it loads the model.

# paddle2onnx and paddle ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false

import json
import re
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from converters.repository import RefusedError
from converters.rewrites import FINDERS
from converters.rewrites.cutting import cut, join
from converters.rewrites.known import is_known
from converters.rewrites.needless_branches import drop_needless_branches
from converters.rewrites.program import Program
from converters.rewrites.same_padding import drop_ignored_dilations
from engine.bundle.bundle import PaddleModel
from engine.errors import ConversionError
from engine.runtimes.programs.paddle_files import require_arithmetic_only
from engine.system.files import scratch_folder
from engine.system.process import Died, Limits, Raised, Returned, TimedOut, run_isolated

if TYPE_CHECKING:
    import onnx

OPSET, LEAST_OPSET, MOST_OPSET = 17, 7, 21
"""Versions of the operator set: the default, and the limits of paddle2onnx 2.1."""
TIMEOUT_S = 1800
MEMORY_BYTES = 4 << 30
MEMORY_PER_MODEL_BYTE = 16
"""The child may take `MEMORY_BYTES`, and so much more for every byte of the program and its weights."""
_FILE_BYTES = 8 << 30
_OF_THE_NETWORK = re.compile(
    r"unsupported operators|is not supported|\[OP: |pd_op\.\w+|(ShapeInference|TypeInference|Checker|Validation)Error"
)
"""What the converter says where it cannot express a network. All else may be the machine's fault: a library that does
not fit another, a full disk, a crash."""
_TELLING = (re.compile(r"^\[ERROR\]"), re.compile(r"Error: |Exception: "))

_OPERATOR = re.compile(r"pd_op\.(\w+)")
_OPERATORS = "operators.json"
"""What the child leaves in its folder: the operators that it hands to the converter, and where they are."""
_LISTED_NODES = 3


@dataclass(frozen=True, slots=True)
class _Request:
    """What the child converts."""

    program: PaddleModel
    destination: Path
    opset: int
    input_shape: tuple[int, int] | None


def export_in_child(
    program: PaddleModel,
    destination: Path,
    opset: int,
    timeout_s: float,
    *,
    where: str,
    input_shape: tuple[int, int] | None = None,
) -> None:
    """Convert a program; the child may abort, hang or be killed without harm to this process.

    `input_shape` is the only height and width, in pixels, that the ONNX model takes; None leaves both free. The batch
    stays as the program has it. `opset` is from `LEAST_OPSET` to `MOST_OPSET`. RefusedError: the converter will never
    take this network, or not with this operator set; the message names the operator and where it is, but not the
    bundle. ConversionError: it failed for a reason of this machine: time, memory,
    disk, a broken installation.
    """
    model = replace(program, program=program.program.absolute(), params=program.params.absolute())
    memory_bytes = MEMORY_BYTES + MEMORY_PER_MODEL_BYTE * sum(
        each.stat().st_size for each in (model.program, model.params)
    )
    request = _Request(model, destination.absolute(), opset, input_shape)
    with scratch_folder("convert") as folder:
        outcome = run_isolated(_export, request, Limits(timeout_s, memory_bytes, _FILE_BYTES), folder)
        operators = _read_operators(folder / _OPERATORS)
    match outcome:
        case Returned():
            return
        case Raised():
            raise RefusedError(str(outcome.error))
        case TimedOut():
            raise ConversionError(
                f"{where}: the converter did not finish within {timeout_s:g} s: convert on a faster machine, or run it "
                "with runtime paddle, or auto"
            )
        case Died() if outcome.status == -signal.SIGKILL:
            raise ConversionError(
                f"{where}: the converter was killed, most likely for memory: convert on a larger machine"
            )
        case Died() if outcome.out_of_memory:
            raise ConversionError(
                f"{where}: the converter wanted more than {memory_bytes / 2**30:.1f} GiB of memory, which is more than "
                "a network of this size should need: check the bundle, or run it with runtime paddle"
            )
        case Died():
            raise _failure(outcome, operators, where)


def _failure(died: Died, operators: dict[str, dict[str, list[str]]], where: str) -> ConversionError:
    reason = _reason(died.lines)
    if _OF_THE_NETWORK.search(reason):
        return RefusedError(
            f"paddle2onnx cannot convert this network ({died.ended}): {reason}{_nodes_meant(reason, operators)}; "
            "run it with runtime paddle, or auto"
        )
    return ConversionError(
        f"{where}: the converter failed ({died.ended}): {reason}; if that is a fault of this installation, mend it and "
        "convert again (`pseg doctor` tells what is installed), or run the bundle with runtime paddle, or auto"
    )


def _read_operators(path: Path) -> dict[str, dict[str, list[str]]]:
    """What the child left: `nodes`, the places of each kind of operator, and `unknown`, the same of unknown kinds."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"nodes": {}, "unknown": {}}


def _nodes_meant(reason: str, operators: dict[str, dict[str, list[str]]]) -> str:
    """Where the operators are that the converter complains about; it seldom says so itself, and may name none."""
    named = {kind: operators["nodes"][kind] for kind in _OPERATOR.findall(reason) if kind in operators["nodes"]}
    meant = named or (operators["unknown"] if "unsupported operators" in reason else {})
    found = [f"pd_op.{kind} at {', '.join(places[:_LISTED_NODES])}" for kind, places in meant.items()]
    return f" ({'; '.join(found)})" if found else ""


def _reason(lines: Sequence[str]) -> str:
    telling = [line for pattern in _TELLING for line in lines if pattern.search(line)]
    return next(iter([*telling, *lines[-1:]]), "it said nothing")[:300]


def _export(request: _Request) -> None:
    """Convert, in the child process; the working folder is its own, and paddle2onnx takes UTF-8 names only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle2onnx
    import onnx

    model = request.program
    require_arithmetic_only(model)
    program, params = Path(f"source{model.program.suffix}"), Path("source.pdiparams")
    program.symlink_to(model.program)
    params.symlink_to(model.params)
    if model.kind == "pdmodel":
        program, params = _translate_to_pir(program)
    content = Program.read(program)
    drop_ignored_dilations(content)
    drop_needless_branches(content)
    cuts = cut(content, FINDERS)
    rest, made = Path("rest.json"), Path("made.onnx")
    content.write(rest)
    _write_operators(content, Path(_OPERATORS))
    paddle2onnx.export(
        str(rest), str(params), str(made), opset_version=request.opset, auto_upgrade_opset=True, optimize_tool="None"
    )
    if not made.is_file():
        raise RuntimeError("paddle2onnx wrote no model")
    result = onnx.load(made)
    join(result, cuts)
    if request.input_shape is not None:
        result = with_input_shape(result, request.input_shape)
    onnx.checker.check_model(result, full_check=True)
    _require_opset(result, request.opset)
    onnx.save(result, request.destination)


def _require_opset(model: "onnx.ModelProto", asked: int) -> None:
    """A newer one than the default is taken where a network needs it; one that a user chose is kept to."""
    made = next(each.version for each in model.opset_import if not each.domain)
    if made != asked != OPSET:
        raise ConversionError(f"this network needs operator set {made} or later, and {asked} was asked for")


def _write_operators(program: Program, path: Path) -> None:
    from paddle2onnx import paddle2onnx_cpp2py_export  # pyright: ignore[reportAttributeAccessIssue] - compiled

    nodes: dict[str, list[str]] = {}
    for operation in program.everywhere():
        nodes.setdefault(operation.kind, []).append(operation.place)
    known = frozenset(paddle2onnx_cpp2py_export.get_all_supported_operators_pir())
    unknown = {kind: places for kind, places in nodes.items() if not is_known(kind, known)}
    path.write_text(json.dumps({"nodes": nodes, "unknown": unknown}), encoding="utf-8")


def with_input_shape(model: "onnx.ModelProto", input_shape: tuple[int, int]) -> "onnx.ModelProto":
    """Fix height and width of a model's input, in pixels; ConversionError if the program has fixed other ones."""
    import onnx

    (entry,) = model.graph.input
    axes = entry.type.tensor_type.shape.dim[2:4]
    fixed = tuple(axis.dim_value for axis in axes)
    if any(has not in {0, wanted} for has, wanted in zip(fixed, input_shape, strict=True)):
        raise ConversionError(f"the program takes pictures of {fixed} only (height, width), not of {input_shape}")
    for axis, wanted in zip(axes, input_shape, strict=True):
        axis.dim_value = wanted
    # What was said about shapes inside holds for free axes.
    del model.graph.value_info[:]
    for output in model.graph.output:
        for axis in output.type.tensor_type.shape.dim:
            if not axis.dim_value:
                axis.Clear()
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _translate_to_pir(program: Path) -> tuple[Path, Path]:
    """Write a `.pdmodel` of Paddle 2 as a PIR program of Paddle 3, as paddle2onnx itself does before it converts."""
    import paddle
    from paddle2onnx.convert import load_parameter, save_program

    executor = paddle.static.Executor(paddle.CPUPlace())
    with paddle.pir_utils.OldIrGuard():
        loaded, *_ = cast("Any", paddle.static.load_inference_model(program.stem, executor))
    translated = paddle.pir.translate_to_pir(loaded.desc)
    load_parameter(translated)
    save_program(translated, "translated")
    return Path("translated.json"), Path("translated.pdiparams")

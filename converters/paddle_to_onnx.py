"""A Paddle program to one ONNX file with dynamic input, by paddle2onnx in a child process.

The converter can abort its whole process, hence the child. What it cannot express for every input size is marked before
and replaced after it (`converters.dynamic_pool`). Its own graph clean-up is left out: it would install packages at run
time, and ONNX Runtime folds the same constants when it loads the model.
"""

# paddle2onnx and paddle ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false

import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

from converters.dynamic_pool import mark_grid_pools, replace_marks
from converters.repository import RefusedError
from engine.bundle import PaddleModel
from engine.errors import ConversionError

OPSET = 17
TIMEOUT_S = 1800
_CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS})
_TROUBLE = re.compile(r"^(ImportError|ModuleNotFoundError|MemoryError|OSError|PermissionError)\b.*", re.MULTILINE)
"""Of this machine, not of the network: not remembered."""
_TELLING = (re.compile(r"^\[ERROR\]"), re.compile(r"Error: |Exception: "))


def export_in_child(program: PaddleModel, destination: Path, opset: int, timeout_s: float, *, where: str) -> None:
    """Convert a program; the child may abort, hang or be killed without harm to this process.

    Args:
        program: a `.pdmodel` or PIR program with its weights.
        destination: the ONNX file to write.
        opset: ONNX operator set.
        timeout_s: seconds that the child may take.
        where: the bundle, for messages.

    Raises:
        RefusedError: the converter will never take this network.
        ConversionError: it failed for a reason of this machine: time, memory, disk, a broken installation.
    """
    arguments = [str(program.program.absolute()), str(program.params.absolute()), str(destination), str(opset)]
    with tempfile.TemporaryDirectory(prefix="pseg-convert-") as scratch:
        try:
            done = subprocess.run(  # noqa: S603 - our own module with our own arguments
                [sys.executable, "-P", "-W", "ignore", "-m", __name__, *arguments],
                capture_output=True,
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
                cwd=scratch,
            )
        except subprocess.TimeoutExpired as error:
            raise ConversionError(f"{where}: the converter did not finish within {timeout_s:g} s") from error
    if done.returncode == 0 and destination.is_file():
        return
    if -done.returncode == signal.SIGKILL:
        raise ConversionError(f"{where}: the converter was killed, most likely for memory: convert on a larger machine")
    if done.returncode < 0 and -done.returncode not in _CRASHES:
        name = signal.Signals(-done.returncode).name
        raise ConversionError(f"{where}: the converter was stopped ({name}): start the conversion again")
    trouble = _TROUBLE.search(done.stderr.decode(errors="replace"))
    if done.returncode > 0 and trouble:
        raise ConversionError(f"{where}: the converter failed ({trouble.group()[:300]}): mend that and convert again")
    detail = f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"status {done.returncode}"
    raise RefusedError(
        f"{where}: paddle2onnx cannot convert this network ({detail}): {_reason(done.stdout + done.stderr)}; "
        "run it with --runtime paddle, or auto"
    )


def _reason(output: bytes) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", output.decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for pattern in _TELLING for line in lines if pattern.search(line)]
    return next(iter([*telling, *lines[-1:]]), "it said nothing")[:300]


def _export(program: Path, params: Path, destination: Path, opset: int, scratch: Path) -> None:
    """Convert, in the child process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle2onnx
    import onnx

    if program.suffix == ".pdmodel":
        program, params = _translate_to_pir(program, params, scratch)
    marked = scratch / "marked.json"
    pools = mark_grid_pools(program, marked)
    paddle2onnx.export(
        str(marked), str(params), str(destination), opset_version=opset, auto_upgrade_opset=True, optimize_tool="None"
    )
    if pools and destination.is_file():
        model = onnx.load(destination)
        replace_marks(model, pools)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, destination)


def _translate_to_pir(program: Path, params: Path, scratch: Path) -> tuple[Path, Path]:
    """Write a `.pdmodel` of Paddle 2 as a PIR program of Paddle 3, as paddle2onnx itself does before it converts."""
    import paddle
    from paddle2onnx.convert import load_parameter, save_program

    # Paddle wants both under one stem; in a bundle they may have two.
    (scratch / "source.pdmodel").symlink_to(program)
    (scratch / "source.pdiparams").symlink_to(params)
    executor = paddle.static.Executor(paddle.CPUPlace())
    with paddle.pir_utils.OldIrGuard():
        loaded, *_ = cast("Any", paddle.static.load_inference_model(str(scratch / "source"), executor))
    translated = paddle.pir.translate_to_pir(loaded.desc)
    load_parameter(translated)
    save_program(translated, str(scratch / "translated"))
    return scratch / "translated.json", scratch / "translated.pdiparams"


if __name__ == "__main__":
    onnx_file = Path(sys.argv[3])
    _export(Path(sys.argv[1]), Path(sys.argv[2]), onnx_file, int(sys.argv[4]), Path.cwd())
    sys.stdout.flush()
    # Paddle's own tear-down at exit may crash; the file is written.
    os._exit(0 if onnx_file.is_file() else 1)

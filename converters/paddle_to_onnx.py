"""A Paddle program to one ONNX file with dynamic input, by paddle2onnx in a child process.

The converter can abort its whole process, hence the child. What it cannot express for every input size is marked before
and replaced after it (`converters.dynamic_pool`). Its own graph clean-up is left out: it would install packages at run
time, and ONNX Runtime folds the same constants when it loads the model.
"""

# paddle2onnx and paddle ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from converters.dynamic_pool import mark_grid_pools, replace_marks
from converters.packing import pack
from converters.parity import ParityLimits, ParityReport, compare, generated_images, require_parity
from converters.repository import RefusedError, Repository
from engine.bundle import Bundle, OnnxModel, PaddleModel, file_digest
from engine.cores import usable_cores
from engine.errors import ConversionError, ModelLoadError
from engine.images import SourceImage
from engine.opening import open_runtime
from engine.options import OnnxOptions, PaddleOptions, Precision
from engine.predictor import Predictor

OPSET = 17
TIMEOUT_S = 1800
CERTIFICATE = "parity.json"
_REPORT = TypeAdapter(ParityReport)
_RECIPE = 2
"""Raised whenever this module or `dynamic_pool` makes another model of the same program: older cache entries retire."""
_CONVERTER_PACKAGES = ("paddle2onnx", "paddlepaddle", "onnx")
_CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS})
_TROUBLE = re.compile(r"^(ImportError|ModuleNotFoundError|MemoryError|OSError|PermissionError)\b.*", re.MULTILINE)
"""Of this machine, not of the network: not remembered."""
_TELLING = (re.compile(r"^\[ERROR\]"), re.compile(r"Error: |Exception: "))


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model and its certificate.

    Attributes:
        model: the ONNX file, in the cache.
        certificate: the parity report as JSON, beside it.
    """

    model: OnnxModel
    certificate: Path


def convert(
    bundle: Bundle,
    repository: Repository,
    *,
    opset: int = OPSET,
    limits: ParityLimits | None = None,
    timeout_s: float = TIMEOUT_S,
    ledger: Path | None = None,
) -> Conversion:
    """Convert the bundle's Paddle program, or find the conversion in the cache.

    A model that ONNX Runtime does not run, or whose masks differ from Paddle's on generated pictures, counts as not
    converted.

    Args:
        bundle: an open bundle; it is not changed.
        repository: the cache.
        opset: ONNX operator set.
        limits: how far masks may differ; the defaults of `ParityLimits` if None.
        timeout_s: seconds that the converter may take.
        ledger: folder that remembers which Paddle models loaded before.

    Returns:
        The FP32 model and its certificate.

    Raises:
        ParityError: the masks differ by more than the limits; it carries the report.
        ConversionError: the bundle has no Paddle program, the converter is absent, fails, aborts or takes too long, or
            its result does not run.
    """
    program = bundle.paddle
    if program is None:
        raise ConversionError(f"{bundle.source}: holds no Paddle program to convert")
    limits = limits or ParityLimits()

    def make(destination: Path) -> None:
        _convert_in_child(program, destination, opset, timeout_s, where=str(bundle.source))
        model = OnnxModel(path=destination, precision=Precision.FP32, digest=file_digest(destination))
        report = _certify(bundle.with_onnx(model), ledger)
        require_parity(report, limits, where=str(bundle.source))
        (destination.parent / CERTIFICATE).write_bytes(_REPORT.dump_json(report, indent=2))

    path = repository.fetch(_key(program, bundle, opset, limits), make)
    model = OnnxModel(path=path, precision=Precision.FP32, digest=file_digest(path))
    return Conversion(model=model, certificate=path.with_name(CERTIFICATE))


def _certify(bundle: Bundle, ledger: Path | None) -> ParityReport:
    """Run the original through Paddle and the result through ONNX Runtime on generated pictures."""
    threads = usable_cores()
    try:
        candidate = open_runtime(bundle, OnnxOptions(threads=threads))
    except ModelLoadError as error:
        raise RefusedError(
            f"{bundle.source}: paddle2onnx made a model that ONNX Runtime does not run ({error}); "
            "run it with --runtime paddle, or auto"
        ) from error
    reference = open_runtime(bundle, PaddleOptions(threads=threads), ledger=ledger)
    with Predictor(bundle, reference) as expected, Predictor(bundle, candidate) as actual:
        return compare(expected, actual, named_pictures())


def named_pictures() -> list[tuple[str, SourceImage]]:
    """Make the pictures that a conversion is certified with where a user names none.

    Returns:
        Names that tell the size, and images.
    """
    return [(f"generated {each.width}x{each.height}", each) for each in generated_images()]


def write_bundle(bundle: Bundle, conversion: Conversion, destination: Path) -> None:
    """Write a copy of the bundle that also holds an ONNX model; a Paddle user can still use it.

    Args:
        bundle: an open bundle; it is not changed.
        conversion: the model and its certificate.
        destination: the archive to write; replaced in one step.

    Raises:
        ConversionError: the destination cannot be written.
    """
    kept = {
        path.relative_to(bundle.folder).as_posix(): path
        for path in bundle.folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(bundle.folder).parts)
    }
    folder = f"onnx/{conversion.model.precision}"
    added = {f"{folder}/model.onnx": conversion.model.path, f"{folder}/{CERTIFICATE}": conversion.certificate}
    try:
        pack({**kept, **added}, destination)
    except OSError as error:
        raise ConversionError(f"{destination}: cannot be written ({error})") from error


def _key(program: PaddleModel, bundle: Bundle, opset: int, limits: ParityLimits) -> str:
    versions = {name: _version_of(name) for name in _CONVERTER_PACKAGES}
    text = json.dumps([program.digest, repr(bundle.transforms), opset, repr(limits), versions, _RECIPE], sort_keys=True)
    return "fp32-" + hashlib.sha256(text.encode()).hexdigest()[:32]


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise ConversionError(
            f"{distribution} is not installed: install the extras `convert` and `paddle`, or use a bundle that holds "
            "onnx/fp32/model.onnx"
        ) from error


def _convert_in_child(program: PaddleModel, destination: Path, opset: int, timeout_s: float, *, where: str) -> None:
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

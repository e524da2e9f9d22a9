"""Load a Paddle model for the first time in a child process.

Paddle can end the whole process on a damaged or unlucky model. The child takes that blow; a model that it loaded and
ran is remembered in the ledger, so that the trial is made once per model, options and Paddle version.

With oneDNN the child also compares: on Paddle 3.2.2 adaptive average pooling and nearest interpolation give other
values there, in silence, where the grid does not divide the image. A network whose results move is not run with oneDNN.
"""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from engine import errors
from engine.bundle import PaddleModel
from engine.errors import EngineError, InferenceError, ModelLoadError
from engine.files import scratch_folder
from engine.options import PaddleOptions
from engine.runtimes import Runtime, Tensor, TensorSpec

TIMEOUT_S = 600
_COMPARED_SIDES = ((150, 203), (128, 128))
_COMPARED_LIMIT = 1e-3
_log = logging.getLogger(__name__)
_OPTIONS = TypeAdapter(PaddleOptions)


def prove_loadable(model: PaddleModel, options: PaddleOptions, ledger: Path | None) -> None:
    """Make sure that loading the model here cannot kill this process.

    Args:
        model: the Paddle model.
        options: how it will be loaded.
        ledger: folder of earlier successes; None: try each time.

    Raises:
        ModelLoadError: the child was killed, ran out of time, Paddle refuses the model, or oneDNN changes its results.
    """
    mark = None if ledger is None else ledger / _key(model, options)
    if mark is not None and mark.is_file():
        return
    _try_in_child(model, options)
    if mark is not None:
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            _log.warning("%s cannot be written to (%s): the next start tries the model again", ledger, error)


def _key(model: PaddleModel, options: PaddleOptions) -> str:
    try:
        version = metadata.version("paddlepaddle")
    except metadata.PackageNotFoundError:
        version = "unknown"
    text = json.dumps([model.digest, version, _OPTIONS.dump_python(options, mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _try_in_child(model: PaddleModel, options: PaddleOptions) -> None:
    request = {
        "program": str(model.program.absolute()),
        "params": str(model.params.absolute()),
        "digest": model.digest,
        "options": _OPTIONS.dump_python(options, mode="json"),
    }
    # The child reports through a file: Paddle writes to both standard streams as it likes.
    with scratch_folder("trial") as folder:
        answer = folder / "answer.json"
        # -P: a file of the working directory must not take the place of a library.
        command = [sys.executable, "-P", "-W", "ignore", "-m", __name__, json.dumps(request), str(answer)]
        try:
            done = subprocess.run(  # noqa: S603 - our own module with our own arguments
                command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise ModelLoadError(
                f"{model.program.name}: Paddle did not finish loading within {TIMEOUT_S} s: use --runtime onnx"
            ) from error
        if answer.is_file():
            _raise_as_reported(json.loads(answer.read_text()))
            return
        detail = (
            f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"status {done.returncode}"
        )
        raise ModelLoadError(
            f"{model.program.name} with {model.params.name}: Paddle killed its process while loading ({detail}; "
            f"{_last_line(done.stderr)}): the files are damaged or do not belong together, fetch the bundle again"
        )


def _raise_as_reported(report: dict[str, str]) -> None:
    if report["error"]:
        kind = getattr(errors, report["error"], ModelLoadError)
        raise kind(report["message"])


def _last_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or line.startswith("(")]
    return next(iter(telling or lines[-1:]), "it said nothing")[:200]


def _answer(request: dict[str, Any]) -> dict[str, str]:
    from engine.runtimes.paddle import PaddleRuntime

    model = PaddleModel(Path(request["program"]), Path(request["params"]), request["digest"])
    options = _OPTIONS.validate_python(request["options"])
    try:
        runtime = PaddleRuntime(model, options)
        if options.onednn:
            require_same_results(PaddleRuntime(model, replace(options, onednn=False)), runtime, model.program.name)
    except EngineError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "", "message": ""}


def require_same_results(plain: Runtime, onednn: Runtime, where: str) -> None:
    """Compare Paddle's own kernels with oneDNN's on noise, at a size that no grid divides if the network takes it.

    Args:
        plain: without oneDNN.
        onednn: the same model with oneDNN.
        where: the program, for the message.

    Raises:
        ModelLoadError: scores differ by more than a thousandth of their range, or more than a thousandth of a mask.
    """
    for height, width in _COMPARED_SIDES:
        feeds = {spec.name: _noise(spec, height, width) for spec in plain.inputs}
        try:
            wanted = plain.run(feeds)
        except InferenceError:
            # A network may refuse sizes that are no multiples of something.
            continue
        found = onednn.run(feeds)
        error = max(_difference(wanted[name], found[name]) for name in wanted)
        if error > _COMPARED_LIMIT:
            raise ModelLoadError(
                f"{where}: oneDNN changes the results by {error:.1%} at {width}x{height}, a fault of this Paddle: "
                "use --runtime onnx or --mkldnn off, or let auto decide"
            )
        return


def _noise(spec: TensorSpec, height: int, width: int) -> Tensor:
    free = {0: 1, 2: height, 3: width}
    shape = [free.get(axis, 1) if side is None else side for axis, side in enumerate(spec.shape)]
    return np.random.default_rng(0).standard_normal(shape).astype(spec.dtype)


def _difference(wanted: Tensor, found: Tensor) -> float:
    if wanted.dtype.kind != "f":
        return float((wanted != found).mean())
    return float(np.abs(wanted - found).max() / max(float(np.ptp(wanted)), 1e-6))


if __name__ == "__main__":
    answer_path = Path(sys.argv[2])
    reported = json.dumps(_answer(json.loads(sys.argv[1])))
    partial = answer_path.with_suffix(".part")
    partial.write_text(reported)
    partial.replace(answer_path)
    # Paddle's own tear-down at exit may crash; what matters has been said.
    os._exit(0)

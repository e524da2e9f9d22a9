"""Load a model for the first time in a child process.

A damaged, unlucky or hostile model can end the whole process in Paddle; in ONNX Runtime it can take all memory, or
never come to an end. The child takes that blow, within limits on memory and time. A model that it loaded and ran is
remembered in the folder of load marks, so that the trial is made once per model, options and version of the library.

With oneDNN the child also compares: on Paddle 3.2.2 adaptive average pooling and nearest interpolation give other
values there, in silence, where the grid does not divide the image; and a convolution whose weights the network computes
from each picture, as KNet's, keeps those of the first one. A network whose results move is not run with oneDNN.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from engine.bundle.bundle import OnnxModel, PaddleModel
from engine.errors import InferenceError, ModelLoadError, TrialError
from engine.options import Device, OnnxOptions, PaddleOptions, Provider
from engine.runtimes import Runtime, Tensor, TensorSpec
from engine.runtimes.loading import load_onnx
from engine.runtimes.programs.onnx_files import require_whole_model
from engine.system.confinement import FILE_BYTES
from engine.system.libraries import TENSORRT_DISTRIBUTIONS, installed_versions
from engine.system.process import Died, Limits, Raised, Returned, TimedOut, run_isolated

TIMEOUT_S: float = 600
ONNX_TIMEOUT_S: float = 120
MEMORY_BYTES = 4 << 30
MEMORY_PER_MODEL_BYTE = 8
"""A child may take `MEMORY_BYTES`, and so much more for every byte of the model: weights are read, cast and packed."""
_SQUARE_PER_BYTE, _MOST_FOR_LENGTH_BYTES = 5000, 8 << 30
"""What Paddle takes to prepare a program grows with the square of its length: with one operator in about 500 bytes,
Paddle 3.2.2 took the square of the file's bytes, divided by 5400 where each operator waits for the one before it."""

_RULES = 3
"""Raised whenever a trial looks at more than before, or had compared wrongly: older successes are forgotten."""
_COMPARED_SIDES = ((150, 203), (128, 128))
_COMPARED_LIMIT = 1e-3
_log = logging.getLogger(__name__)
_PaddleRequest = tuple[PaddleModel, PaddleOptions]
_OnnxRequest = tuple[OnnxModel, OnnxOptions, Path | None]
_Request = _PaddleRequest | _OnnxRequest
_VERSIONED = (
    *("numpy", "paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *TENSORRT_DISTRIBUTIONS,
)


@dataclass(frozen=True, slots=True)
class _Trial:
    """One model to be tried."""

    # the model and how it will be loaded; for an ONNX model also the folder of what OpenVINO compiled
    request: _Request
    library: str  # what may be killed by it
    model: str  # what messages call the file that is loaded
    files: str  # all that messages name
    timeout_s: float
    instead: str  # what the user may try

    @property
    def key(self) -> str:
        """The same for every trial that needs not be made again: it holds everything that the answer depends on."""
        model, options, *_ = self.request
        kind = "onnx" if isinstance(model, OnnxModel) else model.kind
        versions = installed_versions(_VERSIONED)
        text = json.dumps([_RULES, kind, model.digest, versions, asdict(options)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def prove_loadable(model: PaddleModel, options: PaddleOptions, load_marks: Path | None) -> None:
    """Make sure that loading a Paddle model here cannot kill this process.

    Earlier successes are in the folder `load_marks`; None: try each time. ModelLoadError: the child was killed, ran out
    of memory or time, Paddle refuses the model, or oneDNN changes its results.
    """
    program, params = model.program.name, model.params.name
    # The child works in a folder of its own.
    absolute = replace(model, program=model.program.absolute(), params=model.params.absolute())
    files = options.tensorrt_files
    tried = replace(
        options,
        tensorrt_files=replace(
            files,
            shape_range_file=files.shape_range_file and files.shape_range_file.absolute(),
            engine_cache=files.engine_cache and files.engine_cache.absolute(),
        ),
    )
    _prove(
        _Trial((absolute, tried), "Paddle", program, f"{program} with {params}", TIMEOUT_S, "runtime onnx"), load_marks
    )


def prove_onnx_loadable(model: OnnxModel, options: OnnxOptions, load_marks: Path | None) -> None:
    """Make sure that loading an ONNX model here can neither kill this process nor keep it for ever.

    The CPU stands in for a GPU: TensorRT takes minutes to build an engine, and what is hostile in a model is hostile on
    every provider. OpenVINO compiles in the child for the threads and streams asked for, and what it compiled is kept.
    ModelLoadError: the child was killed, ran out of memory or time, or the library refuses the model.
    RuntimeUnavailableError: the library or the provider is absent.
    """
    name = "/".join(model.path.parts[-3:])
    absolute = replace(model, path=model.path.absolute())
    if options.provider is Provider.OPENVINO:
        kept = load_marks and load_marks.absolute()
        _prove(_Trial((absolute, options, kept), "OpenVINO", name, name, ONNX_TIMEOUT_S, "provider cpu"), load_marks)
        return
    # Whatever else was asked for, a file loads or does not.
    tried = OnnxOptions(precision=options.precision)
    _prove(_Trial((absolute, tried, None), "ONNX Runtime", name, name, ONNX_TIMEOUT_S, "runtime paddle"), load_marks)


def _prove(trial: _Trial, load_marks: Path | None) -> None:
    mark = None if load_marks is None else load_marks / trial.key
    if mark is not None and mark.is_file():
        return
    _try_in_child(trial)
    if mark is not None:
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            _log.warning("%s cannot be written to (%s): the next start tries the model again", load_marks, error)


def _try_in_child(trial: _Trial) -> None:
    outcome = run_isolated(_load, trial.request, _limits(trial))
    match outcome:
        case Returned():
            return
        case Raised():
            raise outcome.error
        case TimedOut():
            raise TrialError(
                f"{trial.model}: {trial.library} did not finish loading within {trial.timeout_s} s: "
                f"use {trial.instead}, or fetch the bundle from whom you trust"
            )
        case Died():
            raise TrialError(
                f"{trial.files}: {trial.library} killed its process while loading: it {outcome.cause}: "
                "the files are damaged or do not belong together, fetch the bundle again"
            )


def _limits(trial: _Trial) -> Limits:
    match trial.request:
        case PaddleModel() as model, PaddleOptions() as options:
            files = (model.program, model.params)
            limited = options.device is Device.CPU
            written = 0
            for_length = min(model.program.stat().st_size ** 2 // _SQUARE_PER_BYTE, _MOST_FOR_LENGTH_BYTES)
        case OnnxModel() as model, OnnxOptions() as options, _:
            files = (model.path,)
            limited = True
            for_length = 0
            # What OpenVINO compiled holds the weights, which are larger than in the file where that was quantized.
            written = MEMORY_PER_MODEL_BYTE if options.provider is Provider.OPENVINO else 0
    size = sum(file.stat().st_size for file in files)
    memory = MEMORY_BYTES + MEMORY_PER_MODEL_BYTE * size + for_length if limited else None
    return Limits(trial.timeout_s, memory, FILE_BYTES + written * size)


def _load(request: _Request) -> None:
    match request:
        case PaddleModel() as model, PaddleOptions() as options:
            _load_paddle(model, options)
        case OnnxModel() as model, OnnxOptions() as options, kept:
            require_whole_model(model.path)
            load_onnx(model, options, kept)


def _load_paddle(model: PaddleModel, options: PaddleOptions) -> None:
    from engine.runtimes.paddle import PaddleRuntime
    from engine.runtimes.programs.paddle_files import require_arithmetic_only

    require_arithmetic_only(model)
    runtime = PaddleRuntime(model, options)
    if options.onednn:
        require_same_results(PaddleRuntime(model, replace(options, onednn=False)), runtime, model.program.name)


def require_same_results(plain: Runtime, onednn: Runtime, where: str) -> None:
    """Compare Paddle's own kernels with oneDNN's on two pictures of noise, one after the other.

    Their size is one that no grid divides, if the network takes it.

    ModelLoadError: scores differ by more than a thousandth of their range, or more than a thousandth of a mask.
    """
    for height, width in _COMPARED_SIDES:
        pictures = [{spec.name: _noise(spec, height, width, seed) for spec in plain.inputs} for seed in (0, 1)]
        try:
            wanted = [plain.run(feeds) for feeds in pictures]
        except InferenceError:
            # A network may refuse sizes that are no multiples of something.
            continue
        found = [onednn.run(feeds) for feeds in pictures]
        pairs = zip(wanted, found, strict=True)
        error = max(_difference(expected[name], actual[name]) for expected, actual in pairs for name in expected)
        if error > _COMPARED_LIMIT:
            raise ModelLoadError(
                f"{where}: oneDNN changes the results by {error:.1%} on an input of {width}×{height} (width×height), "
                "a fault of this Paddle: use runtime onnx or mkldnn off, or let auto decide"
            )
        return


def _noise(spec: TensorSpec, height: int, width: int, seed: int) -> Tensor:
    free = {0: 1, 2: height, 3: width}
    shape = [free.get(axis, 1) if side is None else side for axis, side in enumerate(spec.shape)]
    return np.random.default_rng(seed).standard_normal(shape).astype(spec.dtype)


def _difference(wanted: Tensor, found: Tensor) -> float:
    if wanted.dtype.kind != "f":
        return float((wanted != found).mean())
    if not (np.isfinite(wanted) == np.isfinite(found)).all():
        return float("inf")
    finite = np.isfinite(wanted)
    if not finite.any():
        return 0.0
    wanted, found = wanted[finite], found[finite]
    return float(np.abs(wanted - found).max() / max(float(np.ptp(wanted)), 1e-6))

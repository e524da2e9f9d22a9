"""Paddle Inference: the only engine file that imports paddle.

What is called on Paddle's configuration is first written down as data by the pure functions `configuration` and
`pir_tensorrt_arguments`, so that GPU settings are checked on machines without a GPU.

INT8 under TensorRT rests on Paddle's own calibration table. Paddle reads it from the folder `_opt_cache` beside the
program (or from the folder of its optimisation cache), always writes it beside the program, and only when the predictor
ends; where it finds none, it runs in floating point without a word. So a program that is to run in INT8 is kept in a
folder of the engine cache, its table beside it, and a table that is not there is an error.

Threads: a Paddle predictor keeps its inputs and outputs in itself, so an instance must not be used by two threads at
once. `PaddleRuntime` has a predictor for each stream, clones that share their weights: calls from several threads are
safe, and wait while every stream is busy.
"""

# paddle ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false, reportMissingModuleSource=false
# pyright: reportMissingImports=false

import ctypes
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from typing_extensions import override

from engine.bundle.bundle import PaddleModel, ProgramKind, file_digest
from engine.errors import EngineError, ModelLoadError, OptionError, RuntimeUnavailableError
from engine.options import Device, DynamicShapeProfile, PaddleOptions, Precision, RuntimeName, TensorRtPreparation
from engine.runtimes import Runtime, RuntimeIdentity, Tensor, check_feeds, failed_run, require_first_run
from engine.runtimes.engine_cache import EngineKey, engine_folder
from engine.runtimes.programs.paddle_files import require_whole_weights
from engine.runtimes.programs.paddle_programs import tensor_specs
from engine.runtimes.sessions import Sessions
from engine.runtimes.utf8_paths import utf8_paths
from engine.system.files import scratch_folder
from engine.system.libraries import tensorrt_version
from engine.system.machine.gpu_stacks import how_to_install_paddle
from engine.system.machine.nvidia import GpuMemory, open_libraries, output_to_stderr, require_gpu, set_tf32
from engine.system.machine.onednn import keep_fp32

ONEDNN_CACHE_CAPACITY = 10
"""How many input shapes oneDNN keeps prepared kernels for; without a bound memory grows with every new size."""


_FIRST_ALLOCATION_MIB = 256
"""On the GPU; no limit on its memory is lower."""
_MEMORY_FLAG = "FLAGS_gpu_memory_limit_mb"
_TENSORRT_LIBRARIES = ("libnvinfer.so", "libnvinfer_plugin.so")
_TELLING = re.compile(r"\w*Error: ")
_log = logging.getLogger(__name__)
_SHOWN_TO_PADDLE = ("HOME", "OMP_NUM_THREADS")
_importing = Lock()
_SIGNALS_THAT_PADDLE_TAKES = (
    *(signal.SIGTERM, signal.SIGSEGV, signal.SIGBUS),
    *(signal.SIGFPE, signal.SIGILL, signal.SIGABRT),
)


@dataclass(frozen=True, slots=True)
class PrecisionMode:
    """A member of `paddle.inference.PrecisionType`, by name, so that a configuration can be written without paddle."""

    name: str


@dataclass(frozen=True, slots=True)
class ConfigCall:
    """One call on `paddle.inference.Config`, with positional arguments."""

    method: str
    arguments: tuple[object, ...] = ()


_PRECISION_MODES: Mapping[Precision, PrecisionMode] = {
    Precision.FP32: PrecisionMode("Float32"),
    Precision.FP16: PrecisionMode("Half"),
    Precision.INT8: PrecisionMode("Int8"),
}


def configuration(options: PaddleOptions, kind: ProgramKind) -> tuple[ConfigCall, ...]:
    """Decide what is called on Paddle's configuration, in order.

    TensorRT for a PIR program is another mechanism: the program is converted first (`pir_tensorrt_arguments`), and what
    it makes is loaded like any other. Paddle's `use_optimized_model` is not called: it would write a copy beside the
    program and load that copy the next time. OptionError: TensorRT without any shape profile, or INT8 for a PIR
    program.
    """
    calls = [] if options.verbose else [ConfigCall("disable_glog_info")]
    calls += _gpu_calls(options) if options.device is Device.GPU else _cpu_calls(options)
    calls += [ConfigCall("switch_ir_optim", (True,)), ConfigCall("enable_memory_optim")]
    if kind == "pir":
        calls += [ConfigCall("enable_new_executor"), ConfigCall("enable_new_ir", (True,))]
    if options.preparation is TensorRtPreparation.SHAPE_RANGES:
        calls.append(ConfigCall("collect_shape_range_info", (str(options.tensorrt_files.shape_range_file),)))
    elif options.tensorrt:
        if kind == "pir":
            _require_calibratable(options)
        else:
            calls += _pdmodel_tensorrt_calls(options)
    return tuple(calls)


def _cpu_calls(options: PaddleOptions) -> list[ConfigCall]:
    calls = [ConfigCall("disable_gpu"), ConfigCall("set_cpu_math_library_num_threads", (options.threads_per_stream,))]
    if not options.onednn:
        return [*calls, ConfigCall("disable_mkldnn")]
    return [*calls, ConfigCall("enable_mkldnn"), ConfigCall("set_mkldnn_cache_capacity", (ONEDNN_CACHE_CAPACITY,))]


def _gpu_calls(options: PaddleOptions) -> list[ConfigCall]:
    # Under TensorRT the precision belongs to the engine; the operators around it stay in FP32.
    precision = Precision.FP32 if options.tensorrt else options.precision
    arguments = (_FIRST_ALLOCATION_MIB, options.device_id, _PRECISION_MODES[precision])
    calls = [ConfigCall("enable_use_gpu", arguments)]
    if precision is Precision.FP16:
        # As PaddleX does: what goes in and comes out stays FP32, and the passes that halve the network are run.
        calls += [
            ConfigCall("exp_disable_mixed_precision_ops", ({"feed", "fetch"},)),
            ConfigCall("set_optimization_level", (3,)),
        ]
    return calls


def _pdmodel_tensorrt_calls(options: PaddleOptions) -> list[ConfigCall]:
    files = options.tensorrt_files
    engine = ConfigCall(
        "enable_tensorrt_engine",
        (
            options.gpu.workspace_bytes,
            _largest_batch(files.shapes),
            options.gpu.min_subgraph_size,
            _PRECISION_MODES[options.precision],
            files.engine_cache is not None,
            options.precision is Precision.INT8,
        ),
    )
    calls = [engine]
    # In INT8 engines and table lie beside the program: Paddle writes the table nowhere else.
    if files.engine_cache is not None and options.precision is not Precision.INT8:
        calls.append(ConfigCall("set_optim_cache_dir", (str(files.engine_cache),)))
    if files.shape_range_file is not None:
        calls.append(ConfigCall("enable_tuned_tensorrt_dynamic_shape", (str(files.shape_range_file), True)))
    elif files.shapes is not None:
        ranges = files.shapes.inputs
        calls.append(
            ConfigCall(
                "set_trt_dynamic_shape_info",
                (
                    {name: list(each.minimum) for name, each in ranges},
                    {name: list(each.maximum) for name, each in ranges},
                    {name: list(each.optimum) for name, each in ranges},
                ),
            )
        )
    else:
        raise _profile_missing()
    return calls


def _largest_batch(profile: DynamicShapeProfile | None) -> int:
    return 1 if profile is None else max(each.maximum[0] for _, each in profile.inputs)


def _require_calibratable(options: PaddleOptions) -> None:
    if options.precision is Precision.INT8:
        raise OptionError(
            "Paddle's TensorRT takes a calibration table for a .pdmodel only, and this program is PIR: use runtime "
            "onnx with a bundle whose INT8 model was made for GPUs, or fp16"
        )


def _profile_missing() -> OptionError:
    return OptionError("TensorRT needs to know the shapes that will come: ask for auto-tune-shapes")


@dataclass(frozen=True, slots=True)
class PirTensorRtArguments:
    """Arguments of `paddle.tensorrt`'s conversion of a PIR program."""

    inputs: tuple[Mapping[str, object], ...]  # keyword arguments of `Input`
    min_subgraph_size: int  # in operators
    precision_mode: str  # member name of `paddle.tensorrt.PrecisionMode`
    workspace_size: int  # bytes


def pir_tensorrt_arguments(options: PaddleOptions) -> PirTensorRtArguments:
    """Decide how a PIR program is converted for TensorRT.

    OptionError: no shape profile, or INT8: `TensorRTConfig` takes neither table nor calibrator, and its warm-up data
    serve to find shapes.
    """
    _require_calibratable(options)
    shapes = options.tensorrt_files.shapes
    if shapes is None:
        raise _profile_missing()
    return PirTensorRtArguments(
        inputs=tuple(
            {
                "name": name,
                "min_input_shape": each.minimum,
                "optim_input_shape": each.optimum,
                "max_input_shape": each.maximum,
                "input_data_type": "float32",
            }
            for name, each in shapes.inputs
        ),
        min_subgraph_size=options.gpu.min_subgraph_size,
        precision_mode=options.precision.value.upper(),
        workspace_size=options.gpu.workspace_bytes,
    )


def engine_key(model: PaddleModel, options: PaddleOptions, versions: Mapping[str, str], gpu: str) -> EngineKey:
    """Name all that TensorRT's engines of a model depend on, and for INT8 its calibration table.

    Paddle names both after the tensors at the borders of a subgraph, so that two trainings of one network have the same
    names, and looks at neither shapes nor versions: each key has a folder of its own.
    """
    ranges = options.tensorrt_files.shape_range_file
    return EngineKey(
        model_digest=model.digest,
        versions=versions,
        gpu=gpu,
        shapes=options.tensorrt_files.shapes,
        precision=options.precision,
        min_subgraph_size=options.gpu.min_subgraph_size,
        tf32=options.gpu.allow_tf32,
        shape_ranges=None if ranges is None else file_digest(ranges),
        workspace_bytes=options.gpu.workspace_bytes,
    )


def keep_program(model: PaddleModel, folder: Path) -> PaddleModel:
    """Copy program and weights to a folder, where Paddle may write beside them; what is there already is taken."""
    # Paddle's tools look for the weights by the program's stem.
    kept = PaddleModel(folder / f"model{model.program.suffix}", folder / "model.pdiparams", model.digest)
    folder.mkdir(parents=True, exist_ok=True)
    for source, copy in ((model.params, kept.params), (model.program, kept.program)):
        if not copy.is_file():
            with tempfile.TemporaryDirectory(dir=folder) as partial:
                shutil.copyfile(source, Path(partial) / copy.name)
                (Path(partial) / copy.name).replace(copy)
    return kept


def calibration_tables(folder: Path) -> tuple[Path, ...]:
    """Find the calibration tables beside a kept program, one per subgraph of TensorRT; none before a calibration."""
    return tuple(sorted(folder.glob("_opt_cache/trt_calib_*")))


def prepare_calibration(folder: Path, options: PaddleOptions) -> None:
    """Make sure that Paddle will do with INT8 what was asked for: run with a table, or write a new one.

    Preparing a calibration removes the table in the folder of `keep_program`. OptionError: there is no table, and none
    is to be written.
    """
    if options.preparation is TensorRtPreparation.CALIBRATION:
        shutil.rmtree(folder / "_opt_cache", ignore_errors=True)
    elif not calibration_tables(folder):
        raise OptionError(
            "TensorRT in int8 has no calibration table for this model, Paddle version and GPU: make it once with "
            "runtime paddle, device gpu, use-trt, precision int8 and auto-tune-shapes on at least 8 of your images"
        )


def _import_paddle() -> Any:
    try:
        with warnings.catch_warnings(), _importing:
            warnings.simplefilter("ignore")
            with _signals_kept(), nullcontext() if "paddle" in sys.modules else _environment_kept():
                import paddle
    except ImportError as error:
        missing = "the system package libgomp1" if "libgomp" in str(error) else "the extra `paddle`"
        raise RuntimeUnavailableError(
            f"Paddle cannot be imported ({error}): install {missing}, or use runtime onnx with a bundle that holds "
            "onnx/fp32/model.onnx"
        ) from error
    return paddle


@contextmanager
def _environment_kept() -> Generator[None]:
    """Show Paddle an environment of its own while it is imported.

    It makes a folder for data sets in the home folder, and fails where it cannot; it warns of every OMP_NUM_THREADS
    but 1, and sets it to 1 for all that this process starts. How many threads it computes with is stated for each run.
    With FLAGS_use_mkldnn it uses oneDNN even where that is turned off, also for what is compared with oneDNN.
    """
    keep_fp32()
    flags = sorted(name for name in os.environ if name.startswith("FLAGS_"))
    if flags:
        _log.warning("options state how Paddle computes: %s of the environment has no effect", ", ".join(flags))
    kept = {name: os.environ.pop(name, None) for name in (*flags, *_SHOWN_TO_PADDLE)}
    with scratch_folder("paddle") as home:
        os.environ |= {"HOME": str(home), "OMP_NUM_THREADS": "1"}
        try:
            yield
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextmanager
def _signals_kept() -> Generator[None]:
    """Paddle takes signals for itself when it is imported: it aborts on SIGTERM, and replaces a crash's report.

    Whoever stops a service would lose its results, and whoever asked for Python's report of a crash would not get it.
    Done in C, because Python lets only the main thread set what becomes of a signal.
    """
    libc = ctypes.CDLL(None)
    # More than the largest `struct sigaction` of any Linux.
    actions = {number: ctypes.create_string_buffer(512) for number in _SIGNALS_THAT_PADDLE_TAKES}
    for number, action in actions.items():
        libc.sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in actions.items():
            libc.sigaction(number, action, None)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("---")]
    telling = [line for line in lines if line.startswith("(") or _TELLING.match(line)]
    return next(iter(telling or lines), type(error).__name__)


class PaddleRuntime(Runtime):
    """One Paddle program in a Paddle predictor for each stream."""

    def __init__(self, model: PaddleModel, options: PaddleOptions) -> None:
        """Load the model and prove with a first run that it works.

        RuntimeUnavailableError: Paddle, or its GPU or TensorRT support, is absent. ModelLoadError: Paddle refuses the
        model, or its first run fails. OptionError: TensorRT without a shape profile.
        """
        on_gpu = options.device is Device.GPU
        if on_gpu:
            set_tf32(allowed=options.gpu.allow_tf32)
        require_device(options)
        versions = {"paddlepaddle": str(_import_paddle().__version__)}
        if on_gpu:
            gpu = require_gpu(options.device_id)
            versions["gpu"] = gpu.description
            _limit_memory(options)
            if not options.tensorrt:
                # TensorRT takes no sizes outside its profile, so that its runs are not measured.
                model_bytes = model.params.stat().st_size
                self.memory = GpuMemory(gpu, model_bytes, options.gpu.memory_bytes).measurable()
        if options.tensorrt:
            versions["tensorrt"] = tensorrt_version()
        self.identity = RuntimeIdentity(
            runtime=RuntimeName.PADDLE,
            provider=options.label,
            precision=options.precision,
            threads=options.threads,
            model_digest=model.digest,
            versions=versions,
            streams=options.streams,
        )
        with output_to_stderr() if on_gpu else nullcontext():
            self._open(model, options)

    def _open(self, model: PaddleModel, options: PaddleOptions) -> None:
        try:
            self.inputs, self.outputs = tensor_specs(model)
            require_whole_weights(model)
            predictor = _create_predictor(model, options)
            self._output_names = [str(name) for name in predictor.get_output_names()]
            self._predictors: Sessions[Any] = Sessions(
                [predictor, *(predictor.clone() for _ in range(options.streams - 1))]
            )
        except ModelLoadError as error:
            raise ModelLoadError(f"{model.program.name}: {error}") from error
        except EngineError:
            raise
        except Exception as error:
            raise ModelLoadError(
                f"{model.program.name} with {model.params.name}: Paddle refuses the model ({_first_line(error)}): "
                "fetch or export the bundle again"
            ) from error
        shapes = options.tensorrt_files.shapes if options.tensorrt else None
        if options.preparation is not None or (options.tensorrt and shapes is None):
            # Every run counts among what is collected; and TensorRT takes no shape outside its ranges.
            return
        require_first_run(self, model.program.name, shapes, "choose runtime onnx or mkldnn off, or let auto decide")

    @override
    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_feeds(self.inputs, feeds)
        with self._predictors.lend() as predictor:
            try:
                return self._run_on(predictor, feeds)
            except Exception as error:
                raise failed_run("Paddle", feeds, _first_line(error)) from error

    def _run_on(self, predictor: Any, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in feeds.items():
            handle = predictor.get_input_handle(name)
            handle.reshape(tensor.shape)
            handle.copy_from_cpu(np.ascontiguousarray(tensor))
        predictor.run()
        return {name: predictor.get_output_handle(name).copy_to_cpu() for name in self._output_names}

    @override
    def close(self) -> None:
        self._predictors.close()


def require_device(options: PaddleOptions) -> None:
    """Require that Paddle is installed and sees the device, else RuntimeUnavailableError."""
    paddle = _import_paddle()
    if options.device is Device.CPU:
        return
    if not paddle.is_compiled_with_cuda():
        raise RuntimeUnavailableError(
            f"the installed paddlepaddle {paddle.__version__} has no GPU support: "
            f"{how_to_install_paddle()}, or use device cpu"
        )
    require_gpu(options.device_id)
    if paddle.device.cuda.device_count() <= options.device_id:
        raise RuntimeUnavailableError(
            f"GPU {options.device_id} was asked for, but Paddle sees {paddle.device.cuda.device_count()}: "
            "check the NVIDIA driver, or use device cpu"
        )
    if options.tensorrt:
        open_libraries(
            _TENSORRT_LIBRARIES,
            None,
            "Paddle opens TensorRT's libraries without their version: install TensorRT 10, link each lib*.so.10 of the "
            "folder tensorrt_libs as lib*.so, and name that folder in LD_LIBRARY_PATH; Dockerfile.gpu does so",
        )


def _limit_memory(options: PaddleOptions) -> None:
    """Paddle reads its limit once, at its first allocation: the first model of a process decides."""
    limit_bytes = options.gpu.memory_bytes
    if limit_bytes is not None:
        _import_paddle().set_flags({_MEMORY_FLAG: limit_bytes >> 20})


def _create_predictor(model: PaddleModel, options: PaddleOptions) -> Any:
    from paddle import inference

    if options.tensorrt and options.preparation is not TensorRtPreparation.SHAPE_RANGES:
        model, options = _prepare_for_tensorrt(model, options)
    with utf8_paths(model.program, model.params) as (program, params):
        config = inference.Config(str(program), str(params))
        for call in configuration(options, model.kind):
            arguments = [
                getattr(inference.PrecisionType, each.name) if isinstance(each, PrecisionMode) else each
                for each in call.arguments
            ]
            getattr(config, call.method)(*arguments)
        return inference.create_predictor(config)


def _prepare_for_tensorrt(model: PaddleModel, options: PaddleOptions) -> tuple[PaddleModel, PaddleOptions]:
    """Give the model its own part of the engine cache, and put there what TensorRT must find."""
    cache = options.tensorrt_files.engine_cache
    if cache is None:
        if model.kind == "pir" or options.precision is Precision.INT8:
            raise OptionError("TensorRT for a PIR program, or in int8, needs a cache folder for what it makes")
        return model, options
    versions = {"paddlepaddle": str(_import_paddle().__version__), "tensorrt": tensorrt_version()}
    key = engine_key(model, options, versions, require_gpu(options.device_id).kind)
    # Paddle makes the folder of its cache without those above it.
    folder = engine_folder(cache / "paddle", key)
    options = replace(options, tensorrt_files=replace(options.tensorrt_files, engine_cache=folder))
    if model.kind == "pir":
        return _convert_pir_for_tensorrt(model, options, folder), options
    if options.precision is Precision.INT8:
        prepare_calibration(folder, options)
        return keep_program(model, folder), options
    return model, options


def _convert_pir_for_tensorrt(model: PaddleModel, options: PaddleOptions, folder: Path) -> PaddleModel:
    """Let Paddle put TensorRT engines into a PIR program; the result is kept in the engine cache."""
    try:
        from paddle.tensorrt.export import Input, TensorRTConfig, convert
        from paddle.tensorrt.export import PrecisionMode as TensorRtPrecision
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"this build of Paddle has no TensorRT for PIR programs ({error}): leave use-trt out"
        ) from error
    if options.device_id != 0:
        raise OptionError(
            f"Paddle converts PIR programs for TensorRT on the first GPU only: set CUDA_VISIBLE_DEVICES="
            f"{options.device_id} and ask for gpu",
            option="device",
        )
    arguments = pir_tensorrt_arguments(options)
    converted = folder / "converted"
    if not converted.is_dir():
        # What is there is whole: it appears in one step, and of two that make it at once the first one's is taken.
        with scratch_folder("tensorrt", folder) as scratch:
            source = keep_program(model, scratch / "source")
            config = TensorRTConfig(
                inputs=[Input(**each) for each in arguments.inputs],
                min_subgraph_size=arguments.min_subgraph_size,
                precision_mode=getattr(TensorRtPrecision, arguments.precision_mode),
                workspace_size=arguments.workspace_size,
                save_model_dir=str(scratch / "made" / "model"),
            )
            (scratch / "made").mkdir()
            convert(str(source.program.with_suffix("")), config)
            try:
                (scratch / "made").rename(converted)
            except OSError:
                if not converted.is_dir():
                    raise
    return PaddleModel(converted / "model.json", converted / "model.pdiparams", digest=model.digest)

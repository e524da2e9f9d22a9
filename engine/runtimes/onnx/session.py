"""One ONNX model in ONNX Runtime's sessions."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
from typing_extensions import override

from engine.bundle.bundle import OnnxModel
from engine.errors import InferenceError, ModelLoadError, RuntimeUnavailableError
from engine.options import OnnxOptions, Precision, Provider, RuntimeName
from engine.runtimes import Runtime, RuntimeIdentity, Tensor, TensorSpec, check_feeds, failed_run, require_first_run
from engine.runtimes.engine_cache import EngineKey, empty, engine_folder, holds_engines
from engine.runtimes.onnx.binding import NUMPY_TYPES, BoundSession
from engine.runtimes.onnx.classes import CLASSES, MEAN, require_finite_mean, scores_of, with_classes
from engine.runtimes.onnx.providers import create_session, first_line, is_plugin, load_library, require_provider
from engine.runtimes.onnx.settings import session_count, session_plan
from engine.runtimes.programs.quantized_form import require_symmetric
from engine.runtimes.sessions import Sessions
from engine.runtimes.utf8_paths import utf8_paths
from engine.system.libraries import tensorrt_version
from engine.system.machine.hardware import has_vnni
from engine.system.machine.nvidia import GpuMemory, output_to_stderr, require_gpu, set_tf32
from engine.system.machine.pinned_memory import PinnedMemory


class OnnxRuntime(Runtime):
    """One ONNX model in one ONNX Runtime session, or in one for each stream.

    It may be used from several threads; as many runs are under way as it has streams. ONNX Runtime's `run` is
    reentrant, so that streams of one thread each share one session and its weights; streams of several threads have a
    session each, with threads of its own.
    """

    def __init__(self, model: OnnxModel, options: OnnxOptions) -> None:
        """Load the model and prove with a first run that it works.

        Under TensorRT that run has the profile's own shape. Without a profile TensorRT builds an engine for each new
        range of shapes, so that the first image is the first run. RuntimeUnavailableError: onnxruntime, the provider,
        the GPU or a library is absent. ModelLoadError: the library refuses the model, or its first run fails, or INT8
        is not of the GPU's kind.
        """
        on_gpu = options.provider.device == "gpu"
        if on_gpu and options.precision is Precision.INT8:
            require_symmetric(model.path)
        if on_gpu:
            set_tf32(allowed=options.gpu.allow_tf32)
        require_provider(options.provider, options.device_id)
        self._options = options
        self._pinned: PinnedMemory | None = None
        self._versions = {"onnxruntime": str(load_library().__version__)}
        cache = self._prepare_gpu(model) if on_gpu else None
        with output_to_stderr() if on_gpu else nullcontext():
            if cache is None or not holds_engines(cache):
                self._open(model, cache)
            else:
                _with_repair(lambda: self._open(model, cache), cache)

    def _prepare_gpu(self, model: OnnxModel) -> Path | None:
        options = self._options
        gpu = require_gpu(options.device_id)
        self._versions["gpu"] = gpu.description
        if options.provider is Provider.CUDA:
            # TensorRT takes no sizes outside its profile, so that its runs are not measured.
            model_bytes = session_count(options) * model.path.stat().st_size
            self.memory = GpuMemory(gpu, model_bytes, options.gpu.memory_bytes).measurable()
        root = options.tensorrt_files.engine_cache
        if options.provider is not Provider.TENSORRT or root is None:
            return None
        self._versions["tensorrt"] = tensorrt_version()
        return engine_folder(
            root / "tensorrt",
            EngineKey(
                model_digest=model.digest,
                versions={name: version for name, version in self._versions.items() if name != "gpu"},
                gpu=gpu.kind,
                shapes=options.tensorrt_files.shapes,
                precision=options.precision,
                min_subgraph_size=options.gpu.min_subgraph_size,
                tf32=options.gpu.allow_tf32,
                workspace_bytes=options.gpu.workspace_bytes,
            ),
        )

    def _open(self, model: OnnxModel, cache: Path | None) -> None:
        options = self._options
        plan = session_plan(options, cache, vnni=has_vnni())
        self._scores = scores_of(model.path) if plan.classes else None
        try:
            with utf8_paths(model.path) as (path,):
                ort = load_library()
                source = path if self._scores is None else with_classes(path, self._scores)
                sessions = [create_session(ort, source, plan, options) for _ in range(plan.sessions)]
        except RuntimeUnavailableError:
            raise
        except Exception as error:
            raise ModelLoadError(
                f"{model.path}: ONNX Runtime refuses the model ({first_line(error)}): {_remedy(options)}"
            ) from error
        session = sessions[0]
        streams = sessions * (options.streams // plan.sessions)
        if is_plugin(ort, options.provider):
            _require_obeyed_by_plugin(options)
        elif plan.io_binding:
            streams = [self._bound(ort, each) for each in streams]
        self._sessions: Sessions[Any] = Sessions(streams)
        self._providers = session.get_providers()
        self.inputs = tuple(_spec(each) for each in session.get_inputs())
        added = set[str]() if self._scores is None else {CLASSES, MEAN}
        self.outputs = tuple(_spec(each) for each in session.get_outputs() if each.name not in added)
        self.identity = RuntimeIdentity(
            runtime=RuntimeName.ONNX,
            provider=options.label,
            precision=options.precision,
            threads=options.threads,
            model_digest=model.digest,
            versions=self._versions,
            streams=options.streams,
        )
        shapes = options.tensorrt_files.shapes
        if options.provider is Provider.TENSORRT and shapes is None and any(None in each.shape for each in self.inputs):
            return
        require_first_run(self, str(model.path), shapes if options.provider is Provider.TENSORRT else None)

    def _bound(self, ort: Any, session: Any) -> BoundSession:
        options = self._options
        if options.provider.device == "gpu" and self._pinned is None:
            self._pinned = PinnedMemory(options.device_id)
        device = "cpu" if self._pinned is None else "cuda"
        fetch = None if self._pinned is None else self._pinned.fetch
        return BoundSession(ort, session, (device, options.device_id), graph=options.cuda.cuda_graph, fetch=fetch)

    @override
    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._run([spec.name for spec in self.outputs], feeds)

    @override
    def run_for_classes(self, feeds: Mapping[str, Tensor]) -> Tensor | None:
        if self._scores is None:
            return None
        found = self._run([CLASSES, MEAN], feeds)
        require_finite_mean(found[MEAN])
        return found[CLASSES]

    def _run(self, names: Sequence[str], feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_feeds(self.inputs, feeds)
        with self._sessions.lend() as session:
            try:
                results = cast("list[Tensor]", session.run(names, dict(feeds)))
            except Exception as error:
                raise failed_run("ONNX Runtime", feeds, first_line(error)) from error
            if session.get_providers() != self._providers:
                raise InferenceError(
                    f"provider {self._options.provider} was lost during a run: the session went on with "
                    f"{', '.join(session.get_providers())}; its result is dropped"
                )
        return dict(zip(names, results, strict=True))

    @override
    def close(self) -> None:
        self._sessions.close()
        if self._pinned is not None:
            self._pinned.close()


def _with_repair(open_sessions: Callable[[], None], cache: Path) -> None:
    try:
        open_sessions()
    except ModelLoadError as error:
        empty(cache, str(error))
        open_sessions()


def _require_obeyed_by_plugin(options: OnnxOptions) -> None:
    if options.cuda.cuda_graph:
        # Replayed from where its first input was, without an error.
        raise RuntimeUnavailableError(
            "the plugin of CUDA is used without IO binding, so that it records no CUDA graphs"
        )
    if options.gpu.memory_bytes is not None:
        # One arena for the process, made when it is registered; later settings are dropped.
        raise RuntimeUnavailableError(
            "the plugin of CUDA keeps to no limit on memory: leave gpu-memory-limit out, or install onnxruntime-gpu "
            "in place of onnxruntime and the plugin"
        )


def _remedy(options: OnnxOptions) -> str:
    if options.provider.device == "gpu":
        return "the message is that of CUDA or TensorRT; `pseg doctor` tells whether they start at all"
    return "convert the bundle again"


def _spec(argument: Any) -> TensorSpec:
    dtype = NUMPY_TYPES.get(argument.type)
    if dtype is None:
        raise ModelLoadError(f"tensor {argument.name!r} has type {argument.type}, which no segmentation network uses")
    shape = tuple(axis if isinstance(axis, int) and axis > 0 else None for axis in argument.shape)
    return TensorSpec(name=argument.name, dtype=np.dtype(dtype), shape=shape)

"""A validated request meets a bundle: an open predictor, with the caches of this user behind it."""

import atexit
import logging
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from platformdirs import user_cache_path

from engine import (
    Bundle,
    ConversionError,
    Device,
    EngineError,
    OnnxModel,
    OnnxOptions,
    OptionError,
    PaddleOptions,
    Pipeline,
    Precision,
    Prediction,
    Predictor,
    RuntimeName,
    RuntimeRequest,
    RuntimeUnavailableError,
    SourceImage,
    open_bundle,
    open_predictor,
    open_runtime,
    read_image,
)
from engine.images import DEFAULT_MAX_IMG_SIZE, ImageLimits
from engine.images.size import require_named_bands
from engine.options import DynamicShapeProfile, TensorRtFiles
from engine.runtimes.profile import PROFILE_NAME, Profile, read_profile
from engine.runtimes.programs.input_bands import input_size
from engine.runtimes.selection import candidates
from engine.segmentation.averaging import averaged
from engine.segmentation.opening import import_ahead, require_available
from engine.segmentation.prediction import MaskOptions
from engine.segmentation.steps import MeasuringSteps, cleanup_of, steps_for
from engine.segmentation.temperature import read_temperature
from engine.system.files import scratch_folder
from engine.system.machine.cores import usable_cores
from engine.system.machine.memory import memory_limit_bytes, return_freed_memory
from service.logs import progress_log
from service.request import PredictRequest, build_request

if TYPE_CHECKING:
    # Most runs convert nothing, and start faster without.
    from converters.parity import ParityReport
    from converters.repository import Repository

_log = logging.getLogger(__name__)
_PROFILE_SAMPLE = 64


@dataclass(frozen=True, slots=True)
class Caches:
    """Folders that outlive a run, all below `root`."""

    root: Path

    @property
    def conversions(self) -> "Repository":
        """Models that were converted to ONNX."""
        from converters.repository import Repository

        return Repository(self.root / "onnx")

    @property
    def load_marks(self) -> Path:
        """Which models loaded without killing their process."""
        return self.root / "loadable"

    @property
    def engines(self) -> Path:
        """TensorRT's engines."""
        return self.root / "engines"

    def convert(self, bundle: Bundle) -> OnnxModel:
        """Convert a bundle to FP32, or find its conversion here; raises ConversionError."""
        from converters.conversion import convert

        told: set[str] = set()

        def log_step(step: str, _done: int, _total: int) -> None:
            if step not in told:
                told.add(step)
                progress_log.info("%s, which is done once: %s", bundle.name, step)

        return convert(bundle, self.conversions, load_marks=self.load_marks, advance=log_step).model

    def shape_profile(self, bundle: Bundle) -> Path:
        """Where the shape profile of a bundle is kept, a JSON file."""
        return self.root / "shapes" / f"{bundle.digest}.json"

    def shape_ranges(self, bundle: Bundle) -> Path:
        """Where Paddle keeps the ranges of a bundle's inner tensors, a file of Paddle's own."""
        return self.root / "shapes" / f"{bundle.digest}.pbtxt"


def caches_at(root: Path | None) -> Caches:
    """Choose the cache folder: the user's, unless another one is asked for.

    Who has none, in a container for instance, works with a folder that is removed when the process ends, with a
    warning.
    """
    return Caches(_users_cache() if root is None else root)


def _users_cache() -> Path:
    try:
        stated = os.environ.get("XDG_CACHE_HOME", "/").strip()
        if stated and not Path(stated).is_absolute():
            raise OSError(f"XDG_CACHE_HOME is {stated!r}, which is not an absolute path")
        # platformdirs knows no home of a user who has neither HOME nor an entry in the system's list.
        folder = user_cache_path("pseg")
        folder.mkdir(parents=True, exist_ok=True)
        # One that somebody filled is of use even if nothing can be added, and what has to be says so.
        if not any(folder.iterdir()):
            tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        return _temporary_cache(str(error))
    return folder


@cache
def _temporary_cache(reason: str) -> Path:
    _log.warning(
        "no cache folder can be used (%s): what is converted and tried is kept only until this process ends; name a "
        "folder with --cache-dir, or for orders and jobs with PSEG_CACHE_DIR",
        reason,
    )
    kept = ExitStack()
    atexit.register(kept.close)
    return kept.enter_context(scratch_folder("cache"))


@contextmanager
def open_session(
    path: Path, request: PredictRequest, caches: Caches, images: Sequence[Path] = (), *, profile: Path | None = None
) -> Generator[Predictor]:
    """Open a bundle and a predictor for a request; raises EngineError for whatever is wrong.

    `images` are a sample for the shape profile, where one is to be collected. Without `profile`, that of the bundle is
    used.
    """
    return_freed_memory()
    network = request.network
    if network.wants_tensorrt:
        _require_any(network)
    importing = import_ahead(network)
    with open_bundle(path) as bundle:
        importing.join()
        if request.masks.with_argmax:
            bundle = replace(bundle, multilabel=False)
        if network.wants_tensorrt:
            network = _with_shapes(bundle, request, caches, images)
        network = replace(network, tuned=_profile_in_force(bundle, network, profile))
        with open_predictor(
            bundle,
            network,
            convert=caches.convert,
            load_marks=caches.load_marks,
            threshold=request.masks.threshold,
            mask_size=request.masks.mask_size,
        ) as predictor:
            _require_threshold_used(predictor, request)
            keep_to_memory_limit(predictor, request)
            predictor.images = request.images
            predictor.steps = _steps_of(predictor, request)
            yield averaged(predictor, request.averaging)


def temperature_of(bundle: Bundle, request: PredictRequest) -> float:
    """What the scores are divided by before the softmax of a confidence; 1 where none is asked for or stated."""
    kept = read_temperature(bundle.folder) if request.wants_confidence else None
    return 1.0 if kept is None else kept.temperature


def _steps_of(predictor: Predictor, request: PredictRequest) -> MeasuringSteps:
    """What a request asks for behind the classes."""
    bundle = predictor.bundle
    keep = "confidence" in request.save
    steps = steps_for(
        request.cover, bundle.classes, multilabel=bundle.multilabel, keep_confidence=keep, usual=cleanup_of(bundle)
    )
    if request.wants_confidence:
        option = "unsure" if request.cover.confidence.unsure is not None else "save"
        try:
            return replace(steps, scale=predictor.score_scale(), temperature=temperature_of(bundle, request))
        except OptionError as error:
            raise OptionError(f"{bundle.name}: {error.problem}", option=option) from error
    return steps


def open_model(
    path: Path | str,
    *,
    profile: Path | str | None = None,
    cache_dir: Path | str | None = None,
    **options: object,
) -> Predictor:
    """Open a bundle and its predictor as `pseg predict` does, for scripts and notebooks.

    A network without an ONNX model is converted, and the conversion is kept in the cache folder; a profile that
    `pseg tune` wrote is used if it fits this machine; a model that is new is first tried in a child process.

    >>> with open_model("model.tgz", runtime="onnx") as predictor:  # doctest: +SKIP
    ...     prediction = predictor.predict("quadrat.jpg")

    Args:
        path: the bundle.
        profile: a tuned profile; None: the one that the bundle holds, if any.
        cache_dir: folder for converted models; None: the user's cache folder.
        **options: options of `pseg predict`, with the same names and defaults: `runtime="onnx"`, `threads=2`,
            `max_img_size=-1`, `threshold=0.4`.

    Returns:
        The predictor; close it, or use it as a context manager. The unpacked files of the bundle are then removed.

    Raises:
        EngineError: whatever the engine finds wrong with bundle, options or machine.
        TypeError: there is no option with a given name.
    """
    request = build_request(**options)
    for name in sorted(options.keys() & {"batch_size", "auto_tune_shapes"}):
        raise OptionError("it is for runs over many images, with `pseg predict`: leave it out", option=name)
    if "save" in options and request.save - {"confidence"}:
        raise OptionError("only confidence has an effect here: predictions save their own pictures", option="save")
    caches = caches_at(None if cache_dir is None else Path(cache_dir))
    with ExitStack() as stack:
        session = open_session(Path(path), request, caches, profile=None if profile is None else Path(profile))
        # A copy: closing the session closes its own predictor, which must not close the session again.
        predictor = copy(stack.enter_context(session))
        predictor.resources = stack.pop_all()
        return predictor


def keep_to_memory_limit(predictor: Predictor, request: PredictRequest) -> None:
    """Have a predictor keep to the memory limit of this process, where the images of a request may come near it.

    Its network may run twice, to be measured.
    """
    largest = request.images.largest_pixels * batch_size_of(request, predictor)
    predictor.network.apply_memory_limit(memory_limit_bytes(), largest)


def _require_threshold_used(predictor: Predictor, request: PredictRequest) -> None:
    if request.masks.threshold != MaskOptions().threshold and not predictor.network.uses_threshold:
        raise OptionError(
            f"{predictor.bundle.name} gives each pixel its strongest class, so a threshold has no effect: leave it out",
            option="threshold",
        )


def batch_size_of(request: PredictRequest, predictor: Predictor) -> int:
    """Choose how many images may share a run; the profile decides what the request leaves open."""
    return request.batch_size or (predictor.profile.batch_size if predictor.profile else 1)


def batch_within_memory(request: PredictRequest, predictor: Predictor) -> int:
    """Choose how many images may share a run within the memory limit, at least 1.

    Where images are not shrunken, those of the default size decide.
    """
    limit = request.images.max_img_size
    usual = DEFAULT_MAX_IMG_SIZE if limit < 0 else limit
    return predictor.network.batch_within_memory(batch_size_of(request, predictor), usual, usable_cores())


def _profile_in_force(bundle: Bundle, network: RuntimeRequest, named: Path | None) -> Profile | None:
    """Find the tuned profile that fits bundle, machine and request; what does not is noted, never obeyed."""
    path = named or bundle.folder / PROFILE_NAME
    if named is None and not path.is_file():
        return None
    where = str(named) if named is not None else f"{PROFILE_NAME} of {bundle.source}"
    if not network.leaves_all_to_a_profile:
        if named is not None:
            raise OptionError("it has no effect, because other options name what runs the network", option="profile")
        # Who names a runtime knows that a bundle's own profile is passed over.
        _log.info("%s is not used: the options name what runs the network", where)
        return None
    try:
        profile = read_profile(path)
    except OptionError as error:
        if named is not None:
            raise
        _log.warning("%s is ignored: %s", where, error)
        return None
    reason = profile.mismatch(bundle)
    if reason is not None:
        _log.warning("%s is ignored: %s; run `pseg tune` here", where, reason)
        return None
    return profile


def certify(
    bundle: Bundle,
    options: OnnxOptions,
    caches: Caches,
    images: Sequence[Path],
    *,
    limits: ImageLimits,
    bands: Sequence[int] | None = None,
) -> "ParityReport":
    """Compare the ONNX model of a bundle, or else that of the cache, with the bundle's Paddle program.

    Without `images`, pictures are generated, of the only size that the ONNX model takes if there is one; `bands` of
    TIFFs count from 1. Raises EngineError where an image cannot be read, or one of the two does not run.
    """
    from converters.parity import compare, named_pictures

    if bundle.paddle is None:
        raise ConversionError(
            f"{bundle.source}: holds no Paddle program to compare with: name the bundle that it was made from"
        )
    if bundle.onnx_model(options.precision) is None and options.precision is Precision.FP32:
        bundle = bundle.with_onnx(caches.convert(bundle))
    reference = PaddleOptions(threads=options.threads)
    with (
        Predictor(bundle, open_runtime(bundle, reference, load_marks=caches.load_marks)) as expected,
        Predictor(bundle, open_runtime(bundle, options, load_marks=caches.load_marks)) as actual,
    ):
        if not images:
            return compare(expected, actual, named_pictures(expected, _generated_sizes(bundle, options.precision)))
        require_named_bands(bands, expected.bands)
        read = ((str(path), read_image(path, **limits.values(), bands=bands)) for path in images)
        return compare(expected, actual, read)


def _generated_sizes(bundle: Bundle, precision: Precision) -> Sequence[tuple[int, int]]:
    """Width and height of the pictures on which an ONNX model is compared where the user names none."""
    from converters.parity import GENERATED_SIZES

    model = bundle.onnx_model(precision)
    fixed = None if model is None else input_size(model)
    return GENERATED_SIZES if fixed is None else ((fixed[1], fixed[0]),)


def _with_shapes(bundle: Bundle, request: PredictRequest, caches: Caches, images: Sequence[Path]) -> RuntimeRequest:
    """Add the kept shape profile, or collect it first if that was asked for."""
    from engine.gpu.calibration import collect_calibration_table
    from engine.gpu.shapes import collect_inner_ranges, read_shape_profile, write_shape_profile

    if request.auto_tune_shapes:
        profile = _collect(bundle, request, caches, images)
        write_shape_profile(profile, caches.shape_profile(bundle))
        if bundle.paddle is not None and bundle.paddle.kind == "pdmodel":
            collect_inner_ranges(bundle, profile, caches.shape_ranges(bundle), load_marks=caches.load_marks)
    ranges = caches.shape_ranges(bundle)
    files = TensorRtFiles(
        read_shape_profile(caches.shape_profile(bundle)),
        ranges if ranges.is_file() else None,
        engine_cache=caches.engines,
    )
    ready = replace(request.network, tensorrt_files=files)
    if request.auto_tune_shapes and ready.runtime is RuntimeName.PADDLE and ready.precision is Precision.INT8:
        (options,) = (each for each in candidates(ready) if isinstance(each, PaddleOptions))
        collect_calibration_table(bundle, options, _readable(images, request), load_marks=caches.load_marks)
    return ready


def _collect(bundle: Bundle, request: PredictRequest, caches: Caches, images: Sequence[Path]) -> DynamicShapeProfile:
    from engine.gpu.shapes import collect_profile

    on_cpu = RuntimeRequest(device=Device.CPU, threads=request.network.threads)
    with open_predictor(bundle, on_cpu, convert=caches.convert, load_marks=caches.load_marks) as predictor:
        return collect_profile(predictor, _readable(images, request), batch_size=request.batch_size or 1)


def _readable(images: Sequence[Path], request: PredictRequest) -> Iterator[SourceImage]:
    for path in images[:_PROFILE_SAMPLE]:
        try:
            yield read_image(path, **request.images.values())
        except EngineError as error:
            _log.warning("not used to prepare TensorRT: %s", error)


def _require_any(request: RuntimeRequest) -> None:
    """Before anything is collected for it: one of the choices must be possible on this machine."""
    absent: dict[str, RuntimeUnavailableError] = {}
    for options in candidates(request):
        try:
            require_available(options)
        except RuntimeUnavailableError as error:
            absent[options.label] = error
        else:
            return
    if len(absent) == 1:
        raise next(iter(absent.values()))
    raise RuntimeUnavailableError(
        "nothing here runs TensorRT. " + " | ".join(f"{label}: {error}" for label, error in absent.items())
    )


Source = TypeVar("Source")
Encoded = TypeVar("Encoded")


def build_pipeline(
    predictor: Predictor,
    request: PredictRequest,
    read: Callable[[Source], SourceImage],
    write: Callable[[Source, SourceImage, Prediction], Encoded],
    threads: int | None = None,
) -> Pipeline[Source, Encoded]:
    """Make the pipeline that reads, segments and writes images, the same for every entry point.

    `read` and `write` are called in worker threads, `threads` of each: None for all cores that the process may use.
    """
    workers = threads or usable_cores()
    return Pipeline(
        predictor, read, write, batch_size=batch_within_memory(request, predictor), workers=workers, read_ahead=workers
    )

"""Open a predictor: try what the request allows, in order, and record every step down."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import assert_never

from engine.bundle.bundle import Bundle, OnnxModel
from engine.declaration import enumeration_value
from engine.errors import (
    ConversionError,
    EngineError,
    InferenceError,
    ModelLoadError,
    OptionError,
    RuntimeUnavailableError,
    UnsupportedTransformError,
)
from engine.options import OnnxOptions, PaddleOptions, Precision, Provider, RuntimeOptions
from engine.runtimes import Runtime
from engine.runtimes.loading import load_onnx, require_provider
from engine.runtimes.profile import Profile
from engine.runtimes.selection import RuntimeRequest, candidates
from engine.segmentation.prediction import MaskSize
from engine.segmentation.predictor import Predictor

_log = logging.getLogger(__name__)

Convert = Callable[[Bundle], OnnxModel]
"""Makes an FP32 ONNX model of the bundle's Paddle program; raises ConversionError."""

_STEP_DOWN = (OptionError, RuntimeUnavailableError, ModelLoadError, ConversionError)


@dataclass(frozen=True, slots=True)
class OpenedRuntime:
    """A runtime and how it was arrived at."""

    runtime: Runtime
    bundle: Bundle  # with a converted model added if one was made
    fallbacks: tuple[str, ...]  # what failed before it, one line each
    profile: Profile | None = None  # the tuned one that it was chosen by; None where none was


def open_predictor(
    bundle: Bundle,
    request: RuntimeRequest | None = None,
    *,
    convert: Convert | None = None,
    load_marks: Path | str | None = None,
    threshold: float = 0.5,
    mask_size: MaskSize | str = MaskSize.ORIGINAL,
) -> Predictor:
    """Open a predictor for a bundle.

    Args:
        bundle: an open bundle; it must stay open as long as the predictor.
        request: runtime, provider, precision and so on; None leaves all to `auto`.
        convert: makes an ONNX model if the bundle has none; None: such bundles run only on Paddle.
        load_marks: folder that remembers which models loaded before (see `engine.runtimes.trial`).
        threshold: for probability maps and multilabel planes, 0–1.
        mask_size: at which size masks are returned: `original` or `inference`.

    Returns:
        The predictor; close it, or use it as a context manager.

    Raises:
        OptionError: the request contradicts itself, the bundle or this machine.
        RuntimeUnavailableError: the library or provider asked for is absent.
        ModelLoadError: the model does not load or run.
        ConversionError: ONNX was asked for and the bundle cannot be converted.
        InferenceError: the network does not take one image tensor.
        UnsupportedTransformError: a transform is made for another number of bands than the network takes.
    """
    if not 0 < threshold < 1:
        raise OptionError(f"threshold is {threshold}; it must be a probability between 0 and 1, such as 0.5")
    size = enumeration_value(MaskSize, mask_size, option="mask_size")
    kept = None if load_marks is None else Path(load_marks)
    opened = open_first(bundle, request or RuntimeRequest(), convert=convert, load_marks=kept)
    try:
        return Predictor(
            bundle=opened.bundle,
            runtime=opened.runtime,
            threshold=threshold,
            mask_size=size,
            fallbacks=opened.fallbacks,
            profile=opened.profile,
        )
    except (InferenceError, UnsupportedTransformError):
        opened.runtime.close()
        raise


def open_first(
    bundle: Bundle, request: RuntimeRequest, *, convert: Convert | None = None, load_marks: Path | None = None
) -> OpenedRuntime:
    """Open the first runtime that works of those that the request allows.

    Args:
        bundle: an open bundle.
        request: what the user asks for.
        convert: makes an ONNX model where the bundle has none.
        load_marks: folder that remembers which models loaded before.

    Returns:
        The runtime, the bundle as it runs, and the steps down to it.

    Raises:
        OptionError: nothing can honour the request.
        RuntimeUnavailableError: the only choice is absent.
        ModelLoadError: the only choice does not load, or every choice failed.
        ConversionError: the only choice needs a conversion that fails.
        AssertionError: never, since a request has at least one candidate.
    """
    choices = candidates(_with_only_precision(bundle, request))
    fallbacks: list[str] = []
    for options in choices:
        try:
            require_available(options)
            ready = _with_model(bundle, options, convert)
            runtime = open_runtime(ready, options, load_marks=load_marks)
            profile = request.tuned if options is choices[0] else None
            return OpenedRuntime(runtime, ready, tuple(fallbacks), profile)
        except _STEP_DOWN as error:
            same_provider = all(each.label == options.label for each in choices)
            if len(choices) == 1 or (same_provider and isinstance(error, RuntimeUnavailableError)):
                raise
            shapes = "" if options.tensorrt_files.shapes is None else " with its shape profile"
            fallbacks.append(f"{options.label} {options.precision}{shapes}: {error}")
            if options is choices[-1]:
                # The last choice asks least of the machine, so its error tells what is wrong.
                raise type(error)(f"{bundle.source}: nothing here runs it. {' | '.join(fallbacks)}") from error
            _log.warning("%s does not run %s; stepping down: %s", options.label, bundle.name, error)
    raise AssertionError("a request has at least one candidate")


def _with_only_precision(bundle: Bundle, request: RuntimeRequest) -> RuntimeRequest:
    """A bundle that holds a single model runs that one, unless the request says otherwise."""
    if request.precision is not None or request.tuned is not None or bundle.paddle is not None or len(bundle.onnx) != 1:
        return request
    return replace(request, precision=bundle.onnx[0].precision)


def import_ahead(request: RuntimeRequest) -> Thread:
    """Import ONNX Runtime in a thread of its own if it is tried first on the CPU, while the caller unpacks the bundle.

    What is wrong with the request or the library is not told here, but when the model is opened.

    Returns:
        The thread; wait for it before a model is opened.
    """

    def load() -> None:
        with suppress(EngineError):
            first = candidates(request)[0]
            if isinstance(first, OnnxOptions) and first.provider is Provider.CPU:
                require_available(first)

    thread = Thread(target=load, name="import")
    thread.start()
    return thread


def require_available(options: RuntimeOptions) -> None:
    """Find out whether library, provider and device are there, before any model is touched.

    Args:
        options: what is to be opened.

    Raises:
        RuntimeUnavailableError: something is absent; the message says what to install or choose.
    """
    match options:
        case OnnxOptions():
            require_provider(options)
        case PaddleOptions():
            from engine.runtimes.paddle import require_device

            require_device(options)
        case _:
            assert_never(options)


def open_runtime(bundle: Bundle, options: RuntimeOptions, *, load_marks: Path | str | None = None) -> Runtime:
    """Load the bundle's model into the runtime to which the options belong, and check that it runs.

    Args:
        bundle: holds a model for that runtime.
        options: choose runtime, provider and precision; no others are used instead.
        load_marks: folder that remembers which models were loaded before without killing their process, and keeps what
            OpenVINO compiled; None: remember nothing, try in a child process each time.

    Returns:
        The loaded runtime; close it after use.

    Raises:
        ModelLoadError: no such model in the bundle, the library refuses it, or its first run fails.
        RuntimeUnavailableError: the library or provider is absent.
    """
    kept = None if load_marks is None else Path(load_marks)
    match options:
        case OnnxOptions():
            from engine.runtimes.trial import prove_onnx_loadable

            onnx = bundle.onnx_model(options.precision)
            if onnx is None:
                raise ModelLoadError(
                    f"{bundle.source}: holds no onnx/{options.precision}/model.onnx: "
                    "run `pseg convert` first, or use runtime paddle"
                )
            if bundle.is_made_of_another(onnx):
                raise ModelLoadError(
                    f"{bundle.source}: onnx/{options.precision}/model.onnx was made of another network than the bundle "
                    "holds, as its certificate says: make it again with `pseg convert` and its option replace, or use "
                    "runtime paddle"
                )
            with _naming(bundle):
                prove_onnx_loadable(onnx, options, kept)
                return load_onnx(onnx, options, kept)
        case PaddleOptions():
            from engine.runtimes.paddle import PaddleRuntime
            from engine.runtimes.trial import prove_loadable

            if bundle.paddle is None:
                raise ModelLoadError(
                    f"{bundle.source}: holds no Paddle program (model.json, model.pdiparams): use runtime onnx"
                )
            with _naming(bundle):
                prove_loadable(bundle.paddle, options, kept)
                return PaddleRuntime(bundle.paddle, options)
        case _:
            assert_never(options)


@contextmanager
def _naming(bundle: Bundle) -> Generator[None]:
    """Name the bundle where a model does not load: its own files lie in a temporary folder that nobody knows."""
    try:
        yield
    except ModelLoadError as error:
        raise type(error)(f"{bundle.source}: {error}") from error


def _with_model(bundle: Bundle, options: RuntimeOptions, convert: Convert | None) -> Bundle:
    if not isinstance(options, OnnxOptions) or bundle.onnx_model(options.precision) is not None:
        return bundle
    if options.precision is not Precision.FP32:
        raise OptionError(
            f"{bundle.source}: holds no onnx/{options.precision}/model.onnx, and this precision is not made on "
            f"the fly: make one with `pseg convert` and precision {options.precision}, or use precision fp32"
        )
    if bundle.paddle is None or convert is None:
        raise ModelLoadError(
            f"{bundle.source}: holds no onnx/fp32/model.onnx: run `pseg convert` first, or use runtime paddle"
        )
    return bundle.with_onnx(convert(bundle))

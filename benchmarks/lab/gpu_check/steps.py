"""What is checked on a card, step by step; each returns a sentence, and raises where it fails or is not possible.

Results of a GPU are compared with those of the CPU provider on the same machine, by the limits of a conversion.
"""

# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import io
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np

from converters.conversion import default_limits
from converters.parity import ParityReport, compare, generated_images, require_parity
from converters.precision.half_precision import to_half
from engine import (
    Bundle,
    Device,
    InferenceError,
    OnnxModel,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Predictor,
    Provider,
    RuntimeUnavailableError,
    open_bundle,
    open_runtime,
)
from engine.bundle.bundle import file_digest
from engine.errors import ModelLoadError
from engine.gpu.shapes import collect_inner_ranges, collect_profile
from engine.images import SourceImage
from engine.options import CudaExecution, GpuOptions, RuntimeOptions, TensorRtFiles
from engine.runtimes import Tensor
from engine.runtimes.onnx.providers import require_provider
from engine.system.libraries import installed_versions
from engine.system.machine.nvidia import require_gpu, used_memory_bytes, visible_gpus

ROOT = Path(__file__).parents[3]
BUNDLES = (ROOT / "demo" / "demo_seagrass.tgz", ROOT / "demo" / "nuclei.tgz")
SIZES = ((640, 480), (517, 331))
_RUNS = 50
_FLAT_BYTES = 64 << 20
_LIMIT_BYTES, _CONTEXT_BYTES = 1 << 30, 1 << 30
"""What a network is allowed, and what CUDA takes besides for itself and its kernels."""
_LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "tensorrt-cu12", "tensorrt-cu13", "paddlepaddle-gpu", "numpy")


class NotPossibleError(Exception):
    """A step has nothing to check here; the message says why."""


def driver_and_libraries() -> str:
    gpu = require_gpu(0)
    require_provider(Provider.CUDA)
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions(_LIBRARIES).items())
    return f"{gpu.description}; {len(visible_gpus())} visible; {versions}"


def settings_are_accepted() -> str:
    import onnxruntime

    from engine.runtimes.onnx.settings import PROVIDER_NAMES, cuda_settings

    require_provider(Provider.CUDA)
    with open_bundle(BUNDLES[0]) as bundle:
        _opened(bundle, OnnxOptions(Provider.CUDA)).close()
        model = bundle.onnx_model(Precision.FP32)
        wrong = {**cuda_settings(OnnxOptions(Provider.CUDA)), "pseg_no_such_setting": "1"}
        providers = [(PROVIDER_NAMES[Provider.CUDA], wrong)]
        try:
            onnxruntime.InferenceSession(str(model and model.path), providers=providers, enable_fallback=0)
        except Exception as error:
            return f"all settings were taken, a wrong one was refused: {str(error).splitlines()[0][:80]}"
    raise AssertionError("a setting that does not exist was taken")


def many_runs() -> str:
    with open_bundle(BUNDLES[0]) as bundle, _opened(bundle, OnnxOptions(Provider.CUDA, threads=2, streams=2)) as one:
        image = generated_images(SIZES[:1])[0]
        prepared = one.prepare(image)
        first = one.finish(prepared, one.run([prepared])[0]).mask
        after_first = used_memory_bytes(require_gpu(0))
        for batch in (1, 2, 4) * (_RUNS // 3):
            for raw in one.run([prepared] * batch):
                if not np.array_equal(one.finish(prepared, raw).mask, first):
                    raise AssertionError(f"another mask in a batch of {batch}")
        one.run([prepared])
        grown = used_memory_bytes(require_gpu(0)) - after_first
        for _ in range(_RUNS):
            one.run([prepared])
        if used_memory_bytes(require_gpu(0)) - after_first - grown > _FLAT_BYTES:
            raise AssertionError(f"the GPU's memory rises with every run, by more than {_FLAT_BYTES >> 20} MiB")
    return f"{_RUNS} runs in batches of 1, 2 and 4 gave one mask; memory of the GPU rose by {grown >> 20} MiB"


def provider_stays() -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), open_bundle(BUNDLES[0]) as bundle:
        with _opened(bundle, OnnxOptions(Provider.CUDA)) as predictor:
            for image in generated_images(SIZES):
                predictor.predict(image)
                if predictor.provenance.provider != "cuda":
                    raise AssertionError(f"a mask was made by {predictor.provenance.provider}")
    if printed.getvalue():
        raise AssertionError(f"the standard output holds {printed.getvalue()!r}")
    return "every mask was made by cuda; nothing else was printed"


def clear_errors() -> str:
    with open_bundle(BUNDLES[0]) as bundle:
        try:
            _opened(bundle, OnnxOptions(Provider.CUDA, device_id=99))
        except RuntimeUnavailableError as error:
            told = str(error)
        else:
            raise AssertionError("GPU 99 was opened")
        with _opened(bundle, OnnxOptions(Provider.CUDA)) as predictor:
            side = 32 * int((require_gpu(0).memory_bytes / 400) ** 0.5 // 32)
            try:
                predictor.runtime.run({predictor.network.input_name: np.zeros((1, 3, side, side), np.float32)})
            except InferenceError:
                return f"{told[:60]}; a picture of {side}x{side} pixels: an error, no result from elsewhere"
    raise NotPossibleError(f"GPU 99 is refused; but this card takes {side}x{side} pixels at once")


def tensorrt_fp32() -> str:
    with TemporaryDirectory() as cache, open_bundle(BUNDLES[0]) as bundle:
        options = replace(OnnxOptions(_tensorrt()), tensorrt_files=_files(bundle, Path(cache)))
        found = _compare_one(bundle, options)
        with _opened(bundle, options) as predictor:
            (outside,) = generated_images(((1280, 960),))
            try:
                predictor.predict(outside)
            except InferenceError as error:
                return f"{found}; outside its profile: {str(error)[:80]}"
    return f"{found}; a picture outside the profile ran, too, by a new engine"


def tensorrt_second_start() -> str:
    with TemporaryDirectory() as cache, open_bundle(BUNDLES[0]) as bundle:
        options = replace(OnnxOptions(_tensorrt()), tensorrt_files=_files(bundle, Path(cache)))
        first_s, second_s = _opening_s(bundle, options), _opening_s(bundle, options)
        engines = len(list(Path(cache).rglob("*.engine")))
        if second_s > first_s / 5:
            raise AssertionError(f"the second start took {second_s:.1f} s, the first {first_s:.1f} s")
    return f"first start {first_s:.1f} s, second {second_s:.1f} s, {engines} engines kept"


def tensorrt_fp16() -> str:
    with TemporaryDirectory() as cache, open_bundle(BUNDLES[0]) as bundle:
        options = OnnxOptions(_tensorrt(), Precision.FP16)
        bundle = _with_fp16(bundle, Path(cache))
        return _compare_one(bundle, replace(options, tensorrt_files=_files(bundle, Path(cache))))


def paddle_tensorrt() -> str:
    with TemporaryDirectory() as cache, open_bundle(BUNDLES[0]) as bundle:
        options = replace(
            _paddle(PaddleOptions(device=Device.GPU, tensorrt=True)), tensorrt_files=_files(bundle, Path(cache))
        )
        return _compare_one(bundle, options)


def classes_on_the_gpu() -> str:
    """Classes and scores of one run, of a network and of scores of which many are equal."""
    import onnx
    from onnx import TensorProto, helper

    require_provider(Provider.CUDA)
    told: list[str] = []
    with TemporaryDirectory() as folder, open_bundle(BUNDLES[0]) as bundle:
        equal = Path(folder) / "equal.onnx"
        ends = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", 19, "h", "w"]) for each in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "equal", ends[:1], ends[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), equal)
        held = bundle.onnx_model(Precision.FP32)
        models = {"whole numbers": equal} | ({} if held is None else {bundle.source.name: held.path})
        for name, path in models.items():
            bands = 19 if path is equal else 3
            x = np.random.default_rng(0).integers(0, 3, (2, bands, 480, 640)).astype(np.float32)
            scores, classes = _scores_and_classes(path, x)
            differing = int((classes != scores.argmax(axis=1)).sum())
            if differing:
                raise AssertionError(f"{name}: {differing} of {classes.size} classes are not those of the scores")
            told.append(f"{name}: {classes.size} classes are those of the scores")
    return "; ".join(told)


def _scores_and_classes(path: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    import onnxruntime

    from engine.runtimes.onnx.classes import CLASSES, scores_of, with_classes
    from engine.runtimes.onnx.settings import PROVIDER_NAMES, cuda_settings

    scores = scores_of(path)
    if scores is None:
        raise NotPossibleError(f"{path.name} returns no scores of several classes")
    providers = [(PROVIDER_NAMES[Provider.CUDA], cuda_settings(OnnxOptions(Provider.CUDA)))]
    session = onnxruntime.InferenceSession(with_classes(path, scores), providers=providers, enable_fallback=0)
    found = cast("list[Tensor]", session.run([scores.name, CLASSES], {session.get_inputs()[0].name: x}))
    return found[0], found[1]


def memory_limit() -> str:
    gpu = require_gpu(0)
    with open_bundle(BUNDLES[0]) as bundle:
        before = used_memory_bytes(gpu)
        options = OnnxOptions(Provider.CUDA, gpu=GpuOptions(memory_bytes=_LIMIT_BYTES))
        with _opened(bundle, options) as predictor:
            predictor.network.apply_memory_limit(1 << 50, 1 << 40)
            budget = predictor.network.memory
            if budget is None or not budget.bytes_per_pixel:
                raise AssertionError("what a run takes of the GPU's memory was not measured")
            fitting = budget.images_that_fit(640 * 480, 64)
            side = 32 * int((4 * _LIMIT_BYTES / budget.bytes_per_pixel) ** 0.5 // 32)
            try:
                predictor.runtime.run({predictor.network.input_name: np.zeros((1, 3, side, side), np.float32)})
            except InferenceError:
                taken = used_memory_bytes(gpu) - before
            else:
                raise AssertionError(f"a run of {side}x{side} pixels was not kept to {_LIMIT_BYTES >> 20} MiB")
        if taken > _LIMIT_BYTES + _CONTEXT_BYTES:
            raise AssertionError(f"{taken >> 20} MiB were taken, with a limit of {_LIMIT_BYTES >> 20} MiB")
    return (
        f"{budget.bytes_per_pixel:.0f} bytes a pixel, {fitting} images of 640x480 a run; with a limit of "
        f"{_LIMIT_BYTES >> 20} MiB {taken >> 20} were taken, CUDA's own included; {side}x{side} pixels: an error"
    )


def speeds() -> str:
    ways: Mapping[str, OnnxOptions] = {
        "cpu": OnnxOptions(threads=4),
        "cuda without IO binding": OnnxOptions(Provider.CUDA, cuda=CudaExecution(io_binding=False)),
        "cuda": OnnxOptions(Provider.CUDA),
        "NHWC": OnnxOptions(Provider.CUDA, cuda=CudaExecution(prefer_nhwc=True)),
        "CUDA graph": OnnxOptions(Provider.CUDA, cuda=CudaExecution(cuda_graph=True)),
    }
    rows: list[str] = []
    with open_bundle(BUNDLES[0]) as bundle:
        (image,) = generated_images(SIZES[:1])
        for name, options in ways.items():
            try:
                rows.append(f"{name} {_run_ms(bundle, options, image):.1f} ms")
            except (ModelLoadError, InferenceError) as error:
                if not options.cuda.cuda_graph:
                    raise
                # Graphs cannot be recorded of networks of which a part runs on the CPU.
                rows.append(f"{name}: {str(error)[-120:]}")
    return f"640x480 pixels: {', '.join(rows)}"


def _run_ms(bundle: Bundle, options: OnnxOptions, image: SourceImage) -> float:
    with _opened(bundle, options) as predictor:
        # The second run of a size is recorded, and the third is the first that is replayed.
        for _ in range(3):
            predictor.predict(image)
        started = time.perf_counter()
        for _ in range(10):
            predictor.predict(image)
        return 100 * (time.perf_counter() - started)


STEPS: Mapping[str, tuple[Callable[[], str], float]] = {
    "1 driver, GPU, versions, libraries": (driver_and_libraries, 60),
    "2 settings": (settings_are_accepted, 60),
    "3 CUDA FP32 as on the CPU": (lambda: _compared(OnnxOptions(Provider.CUDA)), 90),
    "4 CUDA FP16": (lambda: _compared(OnnxOptions(Provider.CUDA, Precision.FP16)), 60),
    "5 batches, streams, fifty runs": (many_runs, 60),
    "6 the provider stays, stdout is clean": (provider_stays, 45),
    "7 errors": (clear_errors, 60),
    "8 TensorRT FP32 with a profile": (tensorrt_fp32, 120),
    "9 TensorRT, second start": (tensorrt_second_start, 120),
    "10 TensorRT FP16": (tensorrt_fp16, 120),
    "11 Paddle on the GPU": (lambda: _compared(_paddle(PaddleOptions(device=Device.GPU))), 90),
    "12 Paddle with TensorRT": (paddle_tensorrt, 180),
    "13 classes on the GPU": (classes_on_the_gpu, 45),
    "14 the limit on memory": (memory_limit, 45),
    "15 speeds": (speeds, 60),
}
"""Name to the check and its limit in seconds. The whole has a limit, too."""


def _opened(bundle: Bundle, options: RuntimeOptions) -> Predictor:
    return Predictor(bundle, open_runtime(bundle, options))


def _with_fp16(bundle: Bundle, folder: Path) -> Bundle:
    """The bundles of this repository hold no FP16 model: it is made here, as pseg convert makes it."""
    fp32 = bundle.onnx_model(Precision.FP32)
    if fp32 is None:
        raise NotPossibleError(f"{bundle.source.name} holds no ONNX model to halve")
    path = folder / "half.onnx"
    with _opened(bundle, OnnxOptions(threads=4)) as predictor:
        prepared = (predictor.prepare(image) for image in generated_images(SIZES))
        feeds = ({predictor.network.input_name: each.tensor[None]} for each in prepared)
        to_half(fp32.path, path, feeds, where=bundle.source.name)
    return bundle.with_onnx(OnnxModel(path, Precision.FP16, file_digest(path)))


def _compare_one(bundle: Bundle, options: RuntimeOptions) -> str:
    with _opened(bundle, OnnxOptions(threads=4)) as expected, _opened(bundle, options) as found:
        images = [(f"{image.width}x{image.height}", image) for image in generated_images(SIZES)]
        report: ParityReport = compare(expected, found, images)
    require_parity(report, default_limits(options.precision), where=bundle.source.name)
    return f"{bundle.source.name}: {report.mismatched_ppm:.1f} ppm, class IoU {report.min_class_iou:.4f}"


def _compared(options: RuntimeOptions) -> str:
    found: list[str] = []
    for path in BUNDLES:
        with TemporaryDirectory() as folder, open_bundle(path) as bundle:
            if options.precision is Precision.FP16:
                bundle = _with_fp16(bundle, Path(folder))
            found.append(_compare_one(bundle, options))
    return "; ".join(found)


def _files(bundle: Bundle, cache: Path) -> TensorRtFiles:
    with _opened(bundle, OnnxOptions(threads=4)) as predictor:
        shapes = collect_profile(predictor, generated_images(SIZES), batch_size=1)
    ranges = None
    if bundle.paddle is not None and bundle.paddle.kind == "pdmodel":
        ranges = cache / "ranges.pbtxt"
        collect_inner_ranges(bundle, shapes, ranges, load_marks=None)
    return TensorRtFiles(shapes, ranges, engine_cache=cache)


def _tensorrt() -> Provider:
    try:
        require_provider(Provider.TENSORRT)
    except RuntimeUnavailableError as error:
        raise NotPossibleError(str(error)) from error
    return Provider.TENSORRT


def _paddle(options: PaddleOptions) -> PaddleOptions:
    from engine.runtimes.paddle import require_device

    try:
        require_device(options)
    except RuntimeUnavailableError as error:
        raise NotPossibleError(str(error)) from error
    return options


def _opening_s(bundle: Bundle, options: RuntimeOptions) -> float:
    started = time.perf_counter()
    _opened(bundle, options).close()
    return time.perf_counter() - started

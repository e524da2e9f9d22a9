"""What is installed, which runtimes really start, and what to do about those that do not."""

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measuring.environment import LIBRARIES
from engine import EngineError, OnnxOptions, PaddleOptions, Precision, Provider, open_bundle, open_runtime
from engine.options import Device, DynamicShapeProfile, RuntimeOptions, ShapeRange, TensorRtFiles
from engine.runtimes import TensorSpec, probe_feeds
from engine.segmentation.opening import require_available
from engine.system.libraries import installed_version
from engine.system.machine.cores import quota_cores, usable_cores
from service.session import Caches

_OF_CUDA = re.compile(r"(?:nvidia[-_.].+|tensorrt.*)[-_.]cu(\d+)(?:[-_.](?:libs|bindings))?", re.IGNORECASE)
"""Names of distributions, whose words `-`, `_` and `.` separate alike."""


@dataclass(frozen=True, slots=True)
class Start:
    """Whether one runtime, by its provider, loaded a bundle and ran it once.

    `detail` is versions, or what is wrong and what to do.
    """

    label: str
    works: bool
    detail: str


def installed_versions() -> dict[str, str | None]:
    """List the versions of the distributions that matter, None where one is not installed."""
    return {"python": platform.python_version(), **{name: installed_version(name) for name in LIBRARIES}}


def known_bad(versions: dict[str, str | None]) -> list[str]:
    """Find combinations of versions that are known to fail.

    >>> known_bad({"paddlepaddle": "3.3.1"})[0].startswith("paddlepaddle 3.3")
    True
    """
    found: list[str] = []
    paddle = versions.get("paddlepaddle") or versions.get("paddlepaddle-gpu") or ""
    if paddle.startswith("3.3"):
        found.append("paddlepaddle 3.3 fails in run() on PIR programs with oneDNN: install 3.2.2, or use --mkldnn off")
    if paddle.startswith("2."):
        found.append("paddlepaddle 2 cannot read PIR programs (model.json): install 3.2.2")
    if versions.get("onnxruntime") and versions.get("onnxruntime-gpu"):
        found.append("onnxruntime and onnxruntime-gpu are both installed and CUDA is lost: keep the one that you need")
    if (versions.get("opencv-python-headless") or "").startswith("5."):
        found.append("opencv 5 was not tested against PaddleSeg's transforms: install opencv-python-headless below 5")
    return found


def mixed_cuda(names: Iterable[str]) -> str | None:
    """Find libraries of several major versions of CUDA, of which a process loads whichever comes first.

    Says what is mixed, and what to do; None where nothing is.

    >>> mixed_cuda(["tensorrt_cu12_libs", "nvidia-cudnn-cu13", "numpy"])
    'libraries for CUDA 12 and 13 are installed together: keep those of one, as docs/gpu.md lists them'
    >>> mixed_cuda(["nvidia-cudnn-cu12", "tensorrt-cu12"]) is None
    True
    """
    majors = sorted({int(found[1]) for name in names if (found := _OF_CUDA.fullmatch(name))})
    if len(majors) < 2:
        return None
    told = " and ".join(map(str, majors))
    return f"libraries for CUDA {told} are installed together: keep those of one, as docs/gpu.md lists them"


def cores_line() -> str:
    quota = quota_cores()
    return f"{usable_cores()} usable" + ("" if quota is None else f" (control group quota {quota:g})")


def try_starts(path: Path, caches: Caches, *, gpu: bool) -> list[Start]:
    """Load a bundle into every runtime, with `gpu` also those for a GPU; BundleError where it cannot be read."""
    threads = usable_cores()
    choices: list[RuntimeOptions] = [
        *(OnnxOptions(provider=each, threads=threads) for each in Provider if gpu or each.device is Device.CPU),
        PaddleOptions(threads=threads),
        PaddleOptions(threads=threads, onednn=True),
    ]
    if gpu:
        choices += [PaddleOptions(threads=threads, device=Device.GPU, tensorrt=each) for each in (False, True)]
    starts: list[Start] = []
    inputs: tuple[TensorSpec, ...] = ()
    with open_bundle(path) as bundle:
        for options in choices:
            try:
                require_available(options)
                if isinstance(options, OnnxOptions) and bundle.onnx_model(Precision.FP32) is None:
                    bundle = bundle.with_onnx(caches.convert(bundle))
                if isinstance(options, PaddleOptions) and options.tensorrt:
                    options = replace(options, tensorrt_files=_for_one_size(inputs, caches))
                runtime = open_runtime(bundle, options, load_marks=caches.load_marks)
            except EngineError as error:
                starts.append(Start(options.label, works=False, detail=str(error)))
                continue
            inputs = runtime.inputs
            versions = ", ".join(f"{name} {version}" for name, version in runtime.identity.versions.items())
            runtime.close()
            starts.append(Start(options.label, works=True, detail=versions))
    return starts


def _for_one_size(inputs: tuple[TensorSpec, ...], caches: Caches) -> TensorRtFiles:
    """Paddle's TensorRT needs shapes: those of a first run, of the inputs as another runtime told them."""
    ranges = [(name, ShapeRange(*[tensor.shape] * 3)) for name, tensor in probe_feeds(inputs).items()]
    return TensorRtFiles(DynamicShapeProfile(tuple(ranges)), engine_cache=caches.engines)

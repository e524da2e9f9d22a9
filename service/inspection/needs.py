"""What a bundle needs of a machine, measured: a run of it over photographs, in a process of its own.

The process does what `pseg predict` does, from opening the bundle to writing the masks. It runs twice: what happens
only at a bundle's first use (a conversion, Paddle's trial) is in neither the memory nor the time.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.measuring.configurations import Size
from benchmarks.measuring.pictures import bands_of_copies, write_picture
from engine import Failed, InferenceError, SourceImage, open_bundle, read_image
from engine.images import ImageLimits
from engine.runtimes.programs.input_bands import image_bands
from engine.system.files import scratch_folder
from engine.system.machine.cores import usable_cores
from engine.system.machine.memory import process_memory_bytes
from engine.system.process import Limits, run_isolated, value_of
from service.request import PredictRequest
from service.results.pictures import ImageTask, ResultWriter
from service.session import build_pipeline, caches_at, open_session

MARGIN = 0.25
_STEP_BYTES = 64 << 20
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class _Run:
    """What the process that is measured does."""

    bundle: Path
    request: PredictRequest
    cache: Path | None
    photographs: Path
    bands: tuple[int, ...] | None
    masks: Path
    started_s: float


@dataclass(frozen=True, slots=True)
class Need:
    """What a run took over `images` after the first, of height and width in pixels.

    `max_img_size` is the most pixels that the network got; -1: all. `open_s` is from the start of the process to the
    first mask, `image_s` an image after that, reading and writing included; `processor_s` what an image took over all
    threads: other work on the machine does not count. `threads` are the network's.
    """

    images: int
    height: int
    width: int
    max_img_size: int
    runtime: str
    provider: str
    precision: str
    threads: int
    open_s: float
    image_s: float
    processor_s: float
    peak_rss_bytes: int

    @property
    def memory_request_bytes(self) -> int:
        """What to ask for: the peak and a margin of a quarter, rounded up to 64 MiB."""
        return ceil(self.peak_rss_bytes * (1 + MARGIN) / _STEP_BYTES) * _STEP_BYTES

    def record(self) -> dict[str, object]:
        """Tell it as JSON values.

        `request` is what to ask a cluster for: memory, and a core for each thread of the network, which is what the
        times hold for.

        >>> need = Need(3, 8, 9, -1, "onnx", "cpu", "fp32", 2, 1.0, 0.5, 0.8, 100 << 20)
        >>> need.record()["request"]
        {'memory': '128Mi', 'cpu': '2', 'memory_margin': 0.25}
        """
        memory = f"{self.memory_request_bytes >> 20}Mi"
        return {**asdict(self), "request": {"memory": memory, "cpu": str(self.threads), "memory_margin": MARGIN}}


_NEED = TypeAdapter(Need)


def measure_need(bundle: Path, size: Size, request: PredictRequest, cache: Path | None) -> Need:
    """Run a bundle over generated photographs and look at the process.

    Raises EngineError for what is wrong with bundle or machine; InferenceError where the process was killed (too little
    memory, say), or did not end in time.
    """
    with open_bundle(bundle, inspect_only=True) as opened:
        bands = image_bands(opened)
    with scratch_folder("need") as folder:
        photographs, masks = folder / "photographs", folder / "masks"
        photographs.mkdir()
        masks.mkdir()
        _write_photographs(photographs, size, bands)

        def run() -> Any:  # noqa: ANN401 - what JSON holds
            return _run_child(
                _Run(bundle, request, cache, photographs, bands_of_copies(bands), masks, time.monotonic())
            )

        run()
        answer = run()
    return _NEED.validate_python({"height": size.height, "width": size.width, **answer})


def _write_photographs(folder: Path, size: Size, bands: int) -> None:
    from converters.parity import generated_images

    (picture,) = generated_images([(size.width, size.height)], bands=bands)
    first = write_picture(picture.pixels, folder / "0", ".jpg")
    # As many as are in the pipeline at once, and a few more.
    for number in range(1, 2 * usable_cores() + 4):
        first.with_stem(str(number)).hardlink_to(first)


def _run_child(run: _Run) -> Any:  # noqa: ANN401 - what JSON holds
    # It works where this process does, since the names in the request may be relative.
    outcome = run_isolated(_measured, run, Limits(_TIMEOUT_S), Path.cwd())
    return value_of(
        outcome,
        lambda said: InferenceError(
            f"{run.bundle}: the process that was measured {said}; if memory or time is not enough, give a smaller size"
        ),
    )


def _read(limits: ImageLimits, bands: tuple[int, ...] | None, task: ImageTask) -> SourceImage:
    return read_image(task.path, **limits.values(), bands=bands)


def _measured(run: _Run) -> dict[str, object]:
    request = run.request
    tasks = [ImageTask(path, path.stem) for path in sorted(run.photographs.iterdir())]
    ends_s: list[float] = []
    first_processor_s = 0.0
    with open_session(run.bundle, request, caches_at(run.cache), [task.path for task in tasks]) as predictor:
        read = partial(_read, request.images, run.bands)
        writer = ResultWriter(run.masks, request.save, request.overlays)
        for result in build_pipeline(predictor, request, read, writer.write).run(tasks):
            if isinstance(result, Failed):
                raise result.error
            ends_s.append(time.monotonic())
            if len(ends_s) == 1:
                first_processor_s = time.process_time()
        processor_s = time.process_time() - first_processor_s
        ran = predictor.provenance
    return {
        "images": len(tasks) - 1,
        "max_img_size": request.images.max_img_size,
        "runtime": ran.runtime,
        "provider": ran.provider,
        "precision": ran.precision,
        "threads": ran.threads,
        # The clock is the machine's.
        "open_s": ends_s[0] - run.started_s,
        "image_s": (ends_s[-1] - ends_s[0]) / (len(tasks) - 1),
        "processor_s": processor_s / (len(tasks) - 1),
        "peak_rss_bytes": process_memory_bytes("VmHWM"),
    }

"""What a bundle needs of a machine, measured: a run of it over photographs, in a process of its own.

The process does what `pseg predict` does, from opening the bundle to writing the masks: `python -m service.needs WORK`
reads `WORK/request.json` and writes `WORK/answer.json`. It runs twice: what happens only at a bundle's first use (a
conversion, Paddle's trial) is in neither the memory nor the time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path

from PIL import Image
from pydantic import TypeAdapter

from benchmarks.measuring.configurations import Size
from engine import EngineError, Failed, InferenceError, SourceImage, errors, read_image
from engine.images import ImageLimits
from engine.system.cores import usable_cores
from engine.system.files import write_atomically
from engine.system.memory import process_memory_bytes
from service.request import PredictRequest
from service.results.pictures import ImageTask, ResultWriter
from service.session import build_pipeline, caches_at, open_session

PHOTOGRAPH = Size(3000, 4000)
"""Twelve megapixels, as cameras make them."""

MARGIN = 0.25
_STEP_BYTES = 64 << 20
_TIMEOUT_S = 1800.0
_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Need:
    """What a run took.

    Attributes:
        images: how many were segmented after the first.
        height: of each, in pixels.
        width: of each, in pixels.
        max_img_size: pixels that the network got at most; -1: all.
        runtime: library that ran the network.
        provider: and its execution provider.
        precision: arithmetic of the network.
        threads: threads of the network.
        open_s: seconds from the start of the process to the first mask.
        image_s: seconds an image after that, reading and writing included.
        processor_s: seconds of processor an image took, over all threads; other work on the machine does not count.
        peak_rss_bytes: the most memory that the process ever had.
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

        Returns:
            What was measured, and under `request` what to ask a cluster for: memory, and a core for each thread of the
            network, which is what the times hold for.

        >>> need = Need(3, 8, 9, -1, "onnx", "cpu", "fp32", 2, 1.0, 0.5, 0.8, 100 << 20)
        >>> need.record()["request"]
        {'memory': '128Mi', 'cpu': '2', 'memory_margin': 0.25}
        """
        memory = f"{self.memory_request_bytes >> 20}Mi"
        return {**asdict(self), "request": {"memory": memory, "cpu": str(self.threads), "memory_margin": MARGIN}}


_NEED = TypeAdapter(Need)
_REQUEST = TypeAdapter(PredictRequest)


def measure_need(bundle: Path, size: Size, request: PredictRequest, cache: Path | None) -> Need:
    """Run a bundle over generated photographs and look at the process.

    Args:
        bundle: archive or folder.
        size: of the photographs.
        request: how they are segmented.
        cache: folder of converted models; None: the user's.

    Returns:
        What the second run took.

    Raises:
        EngineError: what the engine finds wrong with bundle or machine.
        InferenceError: the process was killed (too little memory, say), or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="pseg-need-") as folder:
        work = Path(folder)
        (work / "photographs").mkdir()
        _write_photographs(work / "photographs", size)
        parameters = _REQUEST.dump_python(request, mode="json")
        given = {"bundle": str(bundle.absolute()), "cache": None if cache is None else str(cache.absolute())}

        def run() -> dict[str, object]:
            asked = {**given, "parameters": parameters, "started_s": time.monotonic()}
            (work / "request.json").write_text(json.dumps(asked), encoding="utf-8")
            return _run_child(bundle, work)

        run()
        answer = run()
    return _NEED.validate_python({"height": size.height, "width": size.width, **answer})


def _write_photographs(folder: Path, size: Size) -> None:
    from converters.parity import generated_images

    (picture,) = generated_images([(size.width, size.height)])
    first = folder / "0.jpg"
    Image.fromarray(picture.pixels).save(first, quality=_JPEG_QUALITY)
    # As many as are in the pipeline at once, and a few more.
    for number in range(1, 2 * usable_cores() + 4):
        (folder / f"{number}.jpg").hardlink_to(first)


def _run_child(bundle: Path, work: Path) -> dict[str, object]:
    answer = work / "answer.json"
    answer.unlink(missing_ok=True)
    # -P: a file of the working directory must not take the place of a library.
    command = [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(work)]
    try:
        ended = subprocess.run(  # noqa: S603 - our own module
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InferenceError(f"{bundle}: did not end within {_TIMEOUT_S:g} s: give a smaller --size") from error
    if not answer.is_file():
        said = ended.stderr.decode(errors="replace").splitlines() or ["it said nothing"]
        raise InferenceError(
            f"{bundle}: the process that was measured ended with status {ended.returncode} ({said[-1]}); -9 means "
            "that the machine has too little memory for it: give a smaller --size"
        )
    told = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in told:
        raise getattr(errors, told["error"], EngineError)(told["message"])
    return told


def _read(limits: ImageLimits, task: ImageTask) -> SourceImage:
    return read_image(task.path, **limits.values())


def _measured(work: Path) -> dict[str, object]:
    given = json.loads((work / "request.json").read_text(encoding="utf-8"))
    request = _REQUEST.validate_python(given["parameters"])
    caches = caches_at(None if given["cache"] is None else Path(given["cache"]))
    tasks = [ImageTask(path, path.stem) for path in sorted((work / "photographs").iterdir())]
    masks = work / "masks"
    masks.mkdir(exist_ok=True)
    ends_s: list[float] = []
    first_processor_s = 0.0
    with open_session(Path(given["bundle"]), request, caches, [task.path for task in tasks]) as predictor:
        writer = ResultWriter(masks, request.save)
        read = partial(_read, request.images)
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
        "open_s": ends_s[0] - given["started_s"],
        "image_s": (ends_s[-1] - ends_s[0]) / (len(tasks) - 1),
        "processor_s": processor_s / (len(tasks) - 1),
        "peak_rss_bytes": process_memory_bytes("VmHWM"),
    }


def _answer(work: Path) -> dict[str, object]:
    try:
        return _measured(work)
    except Exception as error:
        # Whatever a library raises is what the measuring process tells.
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_atomically(folder / "answer.json", json.dumps(_answer(folder)).encode())
    # Paddle's own tear-down at exit may crash; what matters has been said.
    os._exit(0)

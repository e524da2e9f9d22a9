"""Memory while many images go through one pipeline."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.runtimes import RUNTIMES
from converters.conversion import convert
from converters.repository import Repository
from engine import Failed, Pipeline, Prediction, SourceImage, open_bundle, open_predictor, read_image
from engine.segmentation.palette import palette_for, pseudo_color_png
from engine.system.machine.memory import process_memory_bytes, return_freed_memory

READINGS = (20, 500)
_PALETTE = palette_for([], 256)


def _encode(_: Path, __: SourceImage, prediction: Prediction) -> int:
    return len(pseudo_color_png(prediction.mask.astype("uint8"), _PALETTE))


@dataclass(frozen=True, slots=True)
class SoakWork:
    """What is run."""

    bundle: Path
    runtime: str
    folder: Path
    cache: Path


def soak(work: SoakWork) -> dict[str, object]:
    """Segment all pictures of a folder and look at the memory on the way; in a process of its own.

    `readings` are pairs of a number of images and the largest resident bytes over the twenty up to it. Raises
    RuntimeError where an image failed.
    """
    return_freed_memory()
    cache = work.cache
    repository = Repository(cache / "onnx")
    readings: list[tuple[int, int]] = []
    with (
        open_bundle(work.bundle) as bundle,
        open_predictor(
            bundle,
            RUNTIMES[work.runtime],
            convert=lambda each: convert(each, repository).model,
            load_marks=cache / "loadable",
        ) as predictor,
    ):
        pipeline = Pipeline(predictor, read_image, _encode)
        recent: deque[int] = deque(maxlen=READINGS[0])
        for count, result in enumerate(pipeline.run(sorted(work.folder.iterdir())), start=1):
            if isinstance(result, Failed):
                raise RuntimeError(f"{result.source} failed") from result.error
            recent.append(process_memory_bytes("VmRSS"))
            if count in READINGS:
                readings.append((count, max(recent)))
        return {"provider": predictor.provenance.provider, "readings": readings}

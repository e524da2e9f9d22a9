"""The demonstration: pictures through every CPU runtime of this machine, and how well their masks agree."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import OptionError, Prediction, RuntimeUnavailableError, list_images, read_image
from engine.system.libraries import installed_version
from service.request import SAVE_KINDS, PredictRequest, build_request
from service.results.pictures import ImageTask, ResultWriter, cover_records, distinct_stems, require_inputs_kept
from service.results.totals import TotalCover
from service.session import Caches, open_session

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "demo"
_CONFIGURATIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("paddlepaddle", {"runtime": "paddle", "mkldnn": "off"}),
    ("paddlepaddle", {"runtime": "paddle", "mkldnn": "on"}),
    ("onnxruntime", {"runtime": "onnx", "provider": "cpu"}),
    ("openvino", {"runtime": "onnx", "provider": "openvino"}),
)
"""With the distribution that each needs. The first that runs is the reference that the others are compared with."""


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One runtime over all pictures: covers are shares of all pixels, 0–1, `run_ms` the median of the network's runs.

    `mismatched_ppm` are pixels per million whose class differs from the reference's.
    """

    runtime: str
    provider: str
    covers: dict[str, float]
    mismatched_ppm: float
    run_ms: float


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What was shown: one row a runtime, the reference first, and why others are absent from this machine."""

    rows: tuple[DemoRow, ...]
    absent: tuple[str, ...]
    pictures: Path
    image_count: int


def demo_bundle() -> Path:
    """Find the demonstration bundle of the repository; OptionError where this installation has none."""
    found = sorted(DEMO_FOLDER.glob("demo*.tgz"))
    if not found:
        raise OptionError(f"no demo bundle in {DEMO_FOLDER}: run `make demo-model`, or name a bundle")
    return found[0]


def demonstrate(images: Sequence[str], out: Path, caches: Caches) -> Demonstration:
    """Segment pictures, by default the repository's rendered ones, with the demo bundle on every CPU runtime.

    Raises EngineError where the bundle or an image cannot be used, an installed runtime does not start, or none is
    installed.
    """
    paths = list_images(images or [str(DEMO_FOLDER / "pictures")])
    tasks = [ImageTask(path, stem) for path, stem in zip(paths, distinct_stems(paths), strict=True)]
    require_inputs_kept(tasks, out, frozenset(SAVE_KINDS))
    out.mkdir(parents=True, exist_ok=True)
    rows: list[DemoRow] = []
    absent: list[str] = []
    reference: list[Prediction] = []
    for distribution, configuration in _CONFIGURATIONS:
        request = build_request(**configuration, save=frozenset(SAVE_KINDS))
        try:
            row, predictions = _run(paths, request, caches, out if not reference else None, reference)
        except RuntimeUnavailableError as error:
            if installed_version(distribution) is not None:
                raise
            absent.append(str(error))
            continue
        reference = reference or predictions
        rows.append(row)
    if not rows:
        raise RuntimeUnavailableError("; ".join(absent))
    return Demonstration(tuple(rows), tuple(absent), out, len(paths))


def _run(
    paths: Sequence[Path], request: PredictRequest, caches: Caches, out: Path | None, reference: Sequence[Prediction]
) -> tuple[DemoRow, list[Prediction]]:
    predictions: list[Prediction] = []
    run_ms: list[float] = []
    with open_session(demo_bundle(), request, caches) as predictor:
        for path, stem in zip(paths, distinct_stems(paths), strict=True):
            image = read_image(path, **request.images.values())
            prepared = predictor.prepare(image)
            predictor.run([prepared])
            started = time.perf_counter()
            raw = predictor.run([prepared])[0]
            run_ms.append((time.perf_counter() - started) * 1000)
            prediction = predictor.finish(prepared, raw)
            predictions.append(prediction)
            if out is not None:
                writer = ResultWriter(out, request.save, request.overlays)
                writer.write(ImageTask(path, stem), image, prediction)
        provenance = predictor.provenance
    row = DemoRow(
        runtime=provenance.runtime,
        provider=provenance.provider,
        covers=_covers_over_all(predictions),
        mismatched_ppm=mismatched_ppm(
            [each.mask for each in reference or predictions], [each.mask for each in predictions]
        ),
        run_ms=statistics.median(run_ms),
    )
    return row, predictions


def _covers_over_all(predictions: Sequence[Prediction]) -> dict[str, float]:
    total = TotalCover()
    for each in predictions:
        total.add(each.mask.size, cover_records(each.covers))
    return {each.name: each.cover for each in total.classes()}


def mismatched_ppm(expected: Sequence[NDArray[np.generic]], actual: Sequence[NDArray[np.generic]]) -> float:
    """Compare masks pixel by pixel: pixels that differ, per million, over all masks.

    >>> mismatched_ppm([np.zeros((2, 2))], [np.eye(2)])
    500000.0
    """
    differing = sum(int((one != other).sum()) for one, other in zip(expected, actual, strict=True))
    return 1e6 * differing / sum(mask.size for mask in expected)

"""Many images through one pipeline, in its own process: `python -m benchmarks.lab.soak BUNDLE RUNTIME FOLDER CACHE`.

Prints the provider, then a line with a number of images and the largest resident bytes over the twenty up to it.
"""

import sys
from collections import deque
from pathlib import Path

from benchmarks.lab.runtimes import RUNTIMES
from converters.conversion import convert
from converters.repository import Repository
from engine import Failed, Pipeline, Prediction, SourceImage, open_bundle, open_predictor, read_image
from engine.segmentation.palette import palette_for, pseudo_color_png
from engine.system.memory import process_memory_bytes, return_freed_memory

READINGS = (20, 500)
_PALETTE = palette_for([], 256)


def _encode(_: Path, __: SourceImage, prediction: Prediction) -> int:
    return len(pseudo_color_png(prediction.mask.astype("uint8"), _PALETTE))


def soak(bundle_path: Path, runtime: str, folder: Path, cache: Path) -> None:
    """Segment all pictures of a folder and print the memory on the way.

    Args:
        bundle_path: the bundle.
        runtime: one of `RUNTIMES`.
        folder: holds the pictures.
        cache: for converted models and Paddle's ledger.

    Raises:
        RuntimeError: an image failed.
    """
    repository = Repository(cache / "onnx")
    with (
        open_bundle(bundle_path) as bundle,
        open_predictor(
            bundle, RUNTIMES[runtime], convert=lambda each: convert(each, repository).model, ledger=cache / "loadable"
        ) as predictor,
    ):
        sys.stdout.write(f"{predictor.provenance.provider}\n")
        pipeline = Pipeline(predictor, read_image, _encode)
        recent: deque[int] = deque(maxlen=READINGS[0])
        for count, result in enumerate(pipeline.run(sorted(folder.iterdir())), start=1):
            if isinstance(result, Failed):
                raise RuntimeError(f"{result.source} failed") from result.error
            recent.append(process_memory_bytes("VmRSS"))
            if count in READINGS:
                sys.stdout.write(f"{count} {max(recent)}\n")


if __name__ == "__main__":
    return_freed_memory()
    soak(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))

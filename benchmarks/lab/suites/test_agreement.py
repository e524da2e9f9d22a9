"""The masks of ONNX Runtime against those of Paddle without oneDNN, on networks that people use."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.lab.suites.conftest import DEMO, OpenPredictor
from benchmarks.lab.suites.figures import Agreement, Benchmark, note
from benchmarks.measuring.pictures import drawn_scene
from engine import SourceImage, open_bundle, read_image
from engine.images import Capture

ALLOWED_PPM = 100
SIZES = ((657, 667), (800, 600), (1154, 866), (333, 517))


def images() -> list[SourceImage]:
    rng = np.random.default_rng(7)
    drawn = [SourceImage(drawn_scene(rng, *size), *size, Capture()) for size in SIZES]
    pictures = sorted((DEMO / "pictures").glob("*.[jp][pn]g"))[:4]
    return [*drawn, *(read_image(path, max_img_size=1_000_000) for path in pictures)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("bundle_path", ["demo", "segformer", "pp-liteseg", "text"], indirect=True)
def test_agreement(
    bundle_path: Path,
    open_named: OpenPredictor,
    benchmark: Benchmark,
    request: pytest.FixtureRequest,
) -> None:
    name = str(request.node.callspec.params["bundle_path"])

    def compare() -> tuple[int, list[NDArray[np.generic]]]:
        masks: list[list[NDArray[np.generic]]] = []
        for runtime in ("paddle-cpu", "onnx"):
            with open_bundle(bundle_path) as bundle, open_named(bundle, runtime) as predictor:
                masks.append([predictor.predict(image).mask for image in images()])
        return sum(int((one != other).sum()) for one, other in zip(*masks, strict=True)), masks[0]

    differing, masks = benchmark.pedantic(compare)
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks]))) > 1, "one class everywhere compares nothing"
    pixels = sum(mask.size for mask in masks)
    figure = Agreement(bundle=name, mismatched_ppm=1e6 * differing / pixels, pixels=pixels)
    note(benchmark, figure)
    assert figure.mismatched_ppm <= ALLOWED_PPM

"""One run of the network over one photograph of a megapixel, on each runtime, provider and precision."""

from pathlib import Path

import pytest

from benchmarks.lab.runtimes import EVERY
from benchmarks.lab.suites.conftest import OpenPredictor
from benchmarks.lab.suites.figures import Benchmark, Latency, note
from benchmarks.measuring.pictures import photograph
from engine import SourceImage, open_bundle
from engine.images import Capture

WIDTH, HEIGHT = 1154, 866


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runtime", EVERY)
@pytest.mark.parametrize("bundle_path", ["demo", "nuclei", "segformer"], indirect=True)
def test_latency(
    bundle_path: Path, runtime: str, open_named: OpenPredictor, benchmark: Benchmark, request: pytest.FixtureRequest
) -> None:
    name = str(request.node.callspec.params["bundle_path"])
    image = SourceImage(photograph(WIDTH, HEIGHT), WIDTH, HEIGHT, Capture())
    benchmark.group = name
    with open_bundle(bundle_path) as bundle, open_named(bundle, runtime) as predictor:
        prepared = [predictor.prepare(image)]
        benchmark.pedantic(lambda: predictor.run(prepared), rounds=7, warmup_rounds=2)
        note(benchmark, Latency(bundle=name, provider=runtime))

"""A folder of JPEGs through the whole pipeline: each runtime, provider and precision, in one stream and in several."""

from pathlib import Path

import pytest

from benchmarks.lab.runtimes import EVERY
from benchmarks.lab.suites.conftest import OpenPredictor
from benchmarks.lab.suites.figures import Benchmark, Throughput, note
from benchmarks.measuring.pictures import write_photographs
from benchmarks.measuring.streams import encoded
from engine import Pipeline, Prediction, Segmented, SourceImage, open_bundle, read_image
from engine.system.machine.cores import usable_cores

IMAGES = 12


@pytest.fixture(scope="session")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_photographs(tmp_path_factory.mktemp("jpegs"), IMAGES, 1024, 768)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("streams", sorted({1, usable_cores()}))
@pytest.mark.parametrize("runtime", EVERY)
@pytest.mark.parametrize("bundle_path", ["demo", "nuclei"], indirect=True)
def test_throughput(
    bundle_path: Path,
    runtime: str,
    streams: int,
    jpegs: tuple[Path, ...],
    open_named: OpenPredictor,
    benchmark: Benchmark,
    request: pytest.FixtureRequest,
) -> None:
    name = str(request.node.callspec.params["bundle_path"])
    benchmark.group = f"{name}, folder"
    with open_bundle(bundle_path) as bundle, open_named(bundle, runtime, streams) as predictor:

        def encode(_path: Path, _image: SourceImage, prediction: Prediction) -> bytes:
            return encoded(prediction)

        pipeline = Pipeline(predictor, read_image, encode, workers=usable_cores(), read_ahead=usable_cores())

        def folder() -> None:
            assert all(isinstance(result, Segmented) for result in pipeline.run(jpegs))

        benchmark.pedantic(folder, rounds=3, warmup_rounds=1)
        note(benchmark, Throughput(bundle=name, provider=runtime, streams=streams, images=IMAGES))

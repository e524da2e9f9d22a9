"""Memory over five hundred images of twenty sizes, all of which the first twenty have: it must not grow after them."""

from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.lab.runtimes import RUNTIMES
from benchmarks.lab.soak import READINGS, SoakWork, soak
from benchmarks.lab.suites.figures import Benchmark, Memory, note
from benchmarks.measuring.pictures import drawn_scene
from engine.system.process import Limits, Returned, run_isolated

ALLOWED_PERCENT = 5
SIDES = (200, 500)
IMAGES = READINGS[-1]
TIMEOUT_S = 600


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many pictures as are read, of as many sizes as there are pictures before the first reading."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    sizes = [tuple(map(int, rng.integers(*SIDES, 2))) for _ in range(READINGS[0])]
    for index, (width, height) in enumerate(islice(cycle(sizes), IMAGES)):
        Image.fromarray(drawn_scene(rng, width, height)).save(folder / f"{index:04}.jpg", quality=90)
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bundle_path", ["demo"], indirect=True)
def test_memory(
    bundle_path: Path,
    runtime: str,
    pictures: Path,
    cache: Path,
    benchmark: Benchmark,
) -> None:
    def run() -> Any:
        outcome = run_isolated(soak, SoakWork(bundle_path, runtime, pictures, cache), Limits(TIMEOUT_S))
        assert isinstance(outcome, Returned), outcome
        return outcome.value

    found = benchmark.pedantic(run)
    provider = found["provider"]
    (early, early_bytes), (late, late_bytes) = found["readings"]
    figure = Memory(
        provider=provider if provider.startswith("paddle") else f"onnx {provider}",
        early_images=early,
        early_bytes=early_bytes,
        late_images=late,
        late_bytes=late_bytes,
    )
    note(benchmark, figure)
    assert figure.growth_percent <= ALLOWED_PERCENT

"""Thousands of images of hundreds of sizes: memory, open files, threads and temporary files stay what they were.

Each runtime runs in a process of its own, so that its memory is its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.lab.runtimes import RUNTIMES
from engine import open_bundle, open_predictor
from engine.images import Capture, SourceImage
from engine.options import RuntimeName
from engine.runtimes.selection import RuntimeRequest
from tests.robustness.conftest import Tally
from tests.service.bundles import bundle_folder

DEMO = Path(__file__).parents[2] / "demo" / "demo_seagrass.tgz"
SIZES = 200
SIDES = (64, 400)
ALLOWED_GROWTH = 0.05
RUN = """
import gc, json, os, sys, threading
from pathlib import Path
from engine import Failed, Pipeline, open_bundle, open_predictor
from engine.system.machine.memory import process_memory_bytes, return_freed_memory
from benchmarks.lab.runtimes import RUNTIMES
from tests.robustness.test_long_runs import pictures

bundle, runtime, load_marks, count = sys.argv[1:]
return_freed_memory()

def resources():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

peaks = {"first": 0, "rest": 0}
with open_bundle(bundle) as opened, open_predictor(opened, RUNTIMES[runtime], load_marks=Path(load_marks)) as predictor:
    predictor.predict(next(pictures(1)))
    before = resources()
    pipeline = Pipeline(predictor, lambda image: image, lambda *_: None)
    for number, result in enumerate(pipeline.run(pictures(int(count)))):
        if isinstance(result, Failed):
            raise RuntimeError(number) from result.error
        if result.prediction.mask.shape != (result.image.height, result.image.width):
            raise RuntimeError(f"{number}: a mask of another size")
        part = "first" if number < 200 else "rest"
        peaks[part] = max(peaks[part], process_memory_bytes("VmRSS"))
    after = resources()
print(json.dumps({**peaks, "before": before, "after": after, "threads_at_the_end": threading.active_count()}))
sys.stdout.flush()
os._exit(0)
"""


def pictures(count: int) -> Iterator[SourceImage]:
    """Noise of as many sizes as there are, in turn."""
    chance = np.random.default_rng(5)
    sizes = chance.integers(*SIDES, (SIZES, 2)).tolist()
    for number in range(count):
        height, width = sizes[number % SIZES]
        pixels = chance.integers(0, 256, (height, width, 3), np.uint8)
        yield SourceImage(pixels, width, height, Capture())


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_memory_files_and_threads_do_not_grow(runtime: str, tmp_path: Path, tally: Tally) -> None:
    count, temporary = 2000, tmp_path / "temporary"
    temporary.mkdir()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(DEMO), runtime, str(tmp_path / "load_marks"), str(count)],
        # Without the doors of `service`, a program says itself that it sends no telemetry, which keeps a file, too.
        env={
            **os.environ,
            "TMPDIR": str(temporary),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "ORT_DISABLE_TELEMETRY": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["rest"] <= told["first"] * (1 + ALLOWED_GROWTH), told
    assert told["after"] == told["before"], "open files and threads"
    assert told["threads_at_the_end"] == 1
    # The bundle was closed, the process ended: nothing lies about.
    assert list(temporary.iterdir()) == []
    growth = told["rest"] / told["first"] - 1
    tally(f"long runs: {runtime}", f"images, {growth:+.1%} of {told['first'] >> 20} MiB", count)


def strongest(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    return pixels.argmax(axis=-1)


@pytest.mark.long
def test_two_predictors_used_from_eight_threads_never_mix_results(tmp_path: Path, tally: Tally) -> None:
    """One finds the strongest band; the other one gets its bands in another order."""
    plain, turned = bundle_folder(tmp_path / "plain"), bundle_folder(tmp_path / "turned", transforms=REVERSED)
    request = RuntimeRequest(runtime=RuntimeName.ONNX)
    with (
        open_bundle(plain) as first,
        open_bundle(turned) as second,
        open_predictor(first, request) as of_strongest,
        open_predictor(second, request) as of_weakest,
        ThreadPoolExecutor(8) as threads,
    ):

        def segment(image: SourceImage, number: int) -> None:
            if number % 2 == 0:
                assert np.array_equal(of_strongest.predict(image).mask, strongest(image.pixels))
            else:
                assert np.array_equal(of_weakest.predict(image).mask, strongest(255 - image.pixels))

        done = [threads.submit(segment, image, number) for number, image in enumerate(pictures(240))]
        for each in done:
            each.result()
    tally("threads", "images, their own masks", len(done))


# A negative deviation turns dark into bright.
REVERSED = ({"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [-0.5, -0.5, -0.5]},)

"""Ways to run a network in turns, and the figures that are derived from their repetitions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.lab.headline.convolutions import GFLOP, write_stack
from benchmarks.lab.headline.figures import (
    auto_figures,
    folder_figures,
    growth_figures,
    network_figures,
    start_figures,
)
from benchmarks.lab.headline.measured import Loaded, Part, Repetition, Result, read_part
from benchmarks.lab.headline.page import page
from benchmarks.lab.headline.runner import Workspace, in_turns, run_part
from benchmarks.lab.headline.scenarios import Photographs, Scenario, Software, Way, Work, parts
from benchmarks.lab.headline.ways import Task
from benchmarks.measuring.configurations import Configuration, ProviderName
from benchmarks.measuring.environment import environment
from engine.bundle.bundle import OnnxModel, open_bundle
from engine.options import OnnxOptions, Precision
from engine.runtimes import probe_feeds
from engine.runtimes.onnx import OnnxRuntime

DEMO = Path(__file__).resolve().parents[3] / "demo" / "demo_seagrass.tgz"
CPU = Configuration(ProviderName.CPU, threads=2)
INT8 = replace(CPU, precision=Precision.INT8)
PADDLE_CPU = Configuration(ProviderName.PADDLE_CPU, threads=1)


@pytest.mark.long
def test_all_take_turns_and_a_failure_is_a_result(tmp_path: Path) -> None:
    tensor, picture = tmp_path / "tensor.npy", tmp_path / "picture.jpg"
    np.save(tensor, np.zeros((1, 3, 64, 96), np.float32))
    Image.new("RGB", (96, 64), (90, 120, 60)).save(picture)
    with open_bundle(DEMO) as bundle:
        model, paddle = bundle.onnx_model(Precision.FP32), bundle.paddle
        assert model is not None
        assert paddle is not None
        models = (model.path, paddle.program, paddle.params)
        network = Way(Software.PSEG, PADDLE_CPU)
        task = Task(network, Work.TENSORS, DEMO, models, (tensor, tensor), (picture,), -1, None, tmp_path)
        folder = Way(Software.PSEG, replace(CPU, streams=2), images=1)
        broken = Way(Software.PSEG, CPU)
        tasks = [
            replace(task, way=Way(Software.ONNX_RUNTIME, CPU)),
            replace(task, way=Way(Software.PADDLE, PADDLE_CPU)),
            task,
            replace(task, way=folder, work=Work.FOLDER),
            replace(task, way=broken, tensors=(tmp_path / "absent.npy",)),
        ]
        scenario = Scenario("net", Photographs(1, 96, 64), Work.TENSORS)
        *results, failed = in_turns(scenario, tasks, 2, lambda _: None)
    assert (failed.way, failed.loaded, failed.repetitions) == (broken, None, ())
    assert "absent.npy" in (failed.error or "")
    assert [each.way for each in results] == [each.way for each in tasks[:4]]
    assert [[each.images for each in one.repetitions] for one in results] == [[2, 2], [2, 2], [2, 2], [1, 1]]
    for each in results:
        assert (each.network, each.pictures) == ("net", "1 JPEG of 96×64")
        assert each.loaded is not None
        assert all(one.seconds > 0 and (one.peak_rss_bytes or 0) > 20 << 20 for one in each.repetitions)
    with Image.open(tmp_path / "masks" / "picture.png") as mask:
        assert mask.size == (96, 64)


@pytest.mark.long
def test_a_scenario_of_the_table_runs_from_its_pictures_to_its_results(tmp_path: Path) -> None:
    fewer = Scenario("demo_seagrass", Photographs(3, 80, 60), Work.FOLDER, (Way(Software.PSEG, CPU, images=2),))
    starts = replace(fewer, work=Work.PROCESS, ways=(Way(Software.PSEG),))
    part = run_part([fewer, starts], Workspace(tmp_path, 2, lambda _: None))
    folder, start = part.results
    assert [each.images for each in folder.repetitions] == [2, 2]
    assert (start.way, start.loaded, len(start.repetitions)) == (Way(Software.PSEG), None, 2)
    assert [each.error for each in part.results] == [None, None]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.long
def test_the_stack_is_what_its_name_says(precision: Precision, tmp_path: Path) -> None:
    path = write_stack(tmp_path / "stack.onnx", precision)
    runtime = OnnxRuntime(OnnxModel(path, precision, ""), OnnxOptions(precision=precision, threads=2))
    (output,) = runtime.run(probe_feeds(runtime.inputs)).values()
    assert output.shape == (1, 256, 128, 128)
    assert pytest.approx(6 * 2 * 256 * 256 * 9 * 128 * 128 / 1e9) == GFLOP


def test_no_way_stands_twice_in_a_scenario() -> None:
    for scenarios in parts(1).values():
        for each in scenarios:
            assert len(set(each.ways)) == len(each.ways)


# ---- figures, by hand -------------------------------------------------------------------------------------------


def result(way: Way, seconds: float, peak_mib: int = 100, images: int = 1, network: str = "net") -> Result:
    taken = (Repetition(each, each, images, peak_mib << 20) for each in (seconds * 2, seconds, seconds / 2))
    return Result(network, "a picture", way, Loaded(1.0, 1.0), tuple(taken))


def part(*results: Result) -> Part:
    return Part(environment(commit="0" * 40), 1.0, results, {}, ("something was left out",))


OUR_INT8 = Way(Software.PSEG, INT8)
AUTO = Way(Software.PSEG)
NETWORK = (
    result(Way(Software.PADDLE, replace(PADDLE_CPU, threads=10)), 30.0, 3000),
    result(Way(Software.DEPLOY_SCRIPT), 12.0),
    Result("net", "a picture", Way(Software.PADDLE, Configuration(ProviderName.PADDLE_ONEDNN)), None, (), "died"),
    result(Way(Software.ONNX_RUNTIME, CPU), 8.0),
    result(Way(Software.PSEG, CPU), 8.08),
    result(Way(Software.CONVOLUTIONS, INT8), GFLOP / 1000),
)


def test_figures_of_the_network_by_hand() -> None:
    against, memory, best, fp32, roof = network_figures(part(*NETWORK, result(OUR_INT8, 2.0, 600)))
    assert against.found == "15.0 times (against today's deploy script 6.0 times)"
    assert (memory.found, memory.reached) == ("0.20", True)
    assert (best.found, best.reached) == ("4.00 times", True)
    assert (fp32.found, fp32.reached) == ("1.010 times its time", True)
    # 1227 GFLOP in 2 s, of 1000 GFLOP/s.
    assert (roof.found, roof.reached) == ("0.61", False)


def test_a_goal_that_is_missed_is_reported() -> None:
    against, memory, best, *_ = network_figures(part(*NETWORK, result(OUR_INT8, 4.0, 1500)))
    assert (against.reached, memory.reached, best.reached) == (False, False, False)


def test_figures_of_the_other_parts_by_hand() -> None:
    (folder,) = folder_figures(
        part(
            result(Way(Software.ONNX_RUNTIME, CPU), 10.0, images=60),
            result(Way(Software.PSEG, CPU), 12.0, images=60),
            result(Way(Software.PSEG, replace(CPU, streams=2)), 9.0, images=60),
        )
    )
    assert folder.found == "1 stream: 0.83, 2 streams: 1.11"
    ten, thousand = Way(Software.PSEG, CPU, 10), Way(Software.PSEG, CPU, 1000)
    (growth,) = growth_figures(part(result(ten, 1.0, images=10), result(thousand, 106, images=1000)))
    assert growth.found == "10 images: 100.0 ms, 1000 images: 106.0 ms"
    assert not growth.reached
    (start,) = start_figures(part(result(AUTO, 0.5), result(Way(Software.DEPLOY_SCRIPT), 3.0)))
    assert start.found == "6.00 times (0.50 s against 3.00 s)"
    networks = (("a", 1.0), ("b", 1.1))
    both = [(result(AUTO, auto, network=name), result(OUR_INT8, 1.0, network=name)) for name, auto in networks]
    (auto,) = auto_figures(part(*(each for pair in both for each in pair)))
    assert auto.found == "at most 1.100 (b)"
    assert not auto.reached


def test_page_shows_every_way_and_which_failed() -> None:
    network = part(*NETWORK, result(OUR_INT8, 2.0, 600))
    text = page({"network": network})
    assert "| Paddle: paddle-onednn fp32, 1 thread | died |" in text
    assert "| pseg: cpu int8, 2 threads | 2.000 |" in text
    assert "| its peak memory, of the same | at most 0.33 | 0.20 | yes |" in text
    assert "| **no** |" in text
    assert "What was tried, and did not pay here" in text
    assert "- something was left out" in text
    busy = replace(network, environment=replace(network.environment, load_average=3.0))
    assert "network (3.0): " in page({"network": busy})


def test_the_page_in_the_documentation_is_that_of_the_stored_results() -> None:
    stored = {name: part for name in parts(2) if (part := read_part(name)) is not None}
    docs = Path(__file__).resolve().parents[3] / "docs"
    assert (docs / "benchmarks.md").read_text(encoding="utf-8") == page(stored)

"""Configurations in processes of their own: turns, raw samples, agreement, and what becomes of one that dies."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from benchmarks.bench import BenchRequest, Places, bench, prepare_work
from benchmarks.measuring import interleaving
from benchmarks.measuring.child import Child
from benchmarks.measuring.configurations import Axes, Configuration, ProviderName, Size
from benchmarks.measuring.environment import commit_of, environment
from benchmarks.measuring.interleaving import measure_all, take_turns
from benchmarks.measuring.measure import MeasuringError, Work, ask, opened
from benchmarks.measuring.pictures import Pictures, prepare_pictures, spread
from benchmarks.measuring.recording import RecordedRuntime, RecordingRuntime
from benchmarks.measuring.samples import STAGES, Turn, summarize
from benchmarks.measuring.streams import CollectShapes, TakeTurn, collect_shapes
from converters.parity import generated_images
from engine import Bundle, ImageError, InferenceError, OptionError, Precision, open_bundle, read_image
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.system.machine.memory import process_memory_bytes
from engine.system.process import ChildProcess, Limits
from tests.service.bundles import bundle_folder, strongest_band_network
from tests.service.commands.test_bundle_cleanup import stating

DEMO = Path(__file__).parents[2] / "demo" / "demo_seagrass.tgz"
ONE, TWO = Configuration(ProviderName.CPU, threads=1), Configuration(ProviderName.CPU, threads=2)
COLORS = np.array([(220, 20, 30), (10, 200, 40), (0, 30, 180)], np.uint8)
"""Red, green and blue: what the network finds as class 0, 1 and 2."""


def picture(path: Path, *classes: int) -> Path:
    """Stripes of the classes' colours, eight pixels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(COLORS[[classes]], np.ones((16, 8, 1), np.uint8))).save(path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """FP32 finds the strongest band; its INT8 model takes red for green and green for red."""
    folder = bundle_folder(tmp_path_factory.mktemp("bundle") / "files")
    model = onnx.load_from_string(strongest_band_network())
    (weights,) = model.graph.initializer
    weights.float_data[:] = [0, 1, 0, 1, 0, 0, 0, 0, 1]
    (folder / "onnx" / "int8").mkdir()
    (folder / "onnx" / "int8" / "model.onnx").write_bytes(model.SerializeToString())
    with open_bundle(folder) as opened_bundle:
        yield opened_bundle


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Three pictures: a quarter of the pixels is blue."""
    folder = tmp_path_factory.mktemp("images")
    return (
        picture(folder / "1.png", 0, 1, 1, 2),
        picture(folder / "2.png", 0, 0, 0, 2),
        picture(folder / "3.png", 1, 0, 2, 1),
    )


@pytest.fixture
def work(bundle: Bundle, images: tuple[Path, ...], tmp_path: Path) -> Work:
    """Three pictures as they are; nothing to compare with."""
    return Work(bundle, {None: Pictures(images)}, tmp_path / "load_marks")


def test_turns_alternate_and_every_sample_is_kept(work: Work, images: tuple[Path, ...]) -> None:
    first, second = measure_all([ONE, TWO], work, repeats=3)
    assert (first.error, second.error, first.lot, second.lot) == (None, None, 0, 0)
    order = sorted((turn.started_s, each.configuration.threads) for each in (first, second) for turn in each.turns)
    assert [threads for _, threads in order] == [1, 2, 1, 2, 1, 2]
    for each in (first, second):
        assert [sample.image for sample in each.samples] == [*map(str, images)] * 3
        for sample in each.samples:
            assert tuple(sample.stages_ms) == STAGES
            assert 0 < sum(sample.stages_ms.values()) <= sample.latency_ms
        assert all(turn.pipeline.images == 3 and turn.pipeline.wall_s > 0 for turn in each.turns)
        assert each.loaded is not None
        assert (each.loaded.provenance.provider, each.loaded.provenance.threads) == ("cpu", each.configuration.threads)
        # NumPy, OpenCV and the library alone take more than that, and much less than this.
        assert 30 << 20 < each.turns[-1].peak_rss_bytes < 1 << 30


def test_the_clean_up_of_the_bundle_is_measured_too(images: tuple[Path, ...], tmp_path: Path) -> None:
    with open_bundle(stating(tmp_path / "bundle", median=5)) as cleaned:
        (measured,) = measure_all([ONE], Work(cleaned, {None: Pictures(images)}, tmp_path / "load_marks"), repeats=1)
    assert measured.loaded is not None
    assert measured.loaded.provenance.measuring == {"median": 5, "from_bundle": ["median"]}


@pytest.mark.long
def test_a_killed_process_is_a_row_with_its_error(work: Work) -> None:
    with opened(ONE, work) as doomed, opened(TWO, work) as other:
        take_turns([doomed, other], 1)
        os.kill(doomed.pid, signal.SIGKILL)
        take_turns([doomed, other], 2)
        row, kept = doomed.measurement(), other.measurement()
    assert row.error is not None
    assert "SIGKILL" in row.error
    assert (len(row.turns), len(row.samples)) == (1, 3)
    assert (kept.error, len(kept.turns)) == (None, 3)


def test_a_model_that_does_not_load_is_a_row_with_its_error(tmp_path: Path, images: tuple[Path, ...]) -> None:
    folder = bundle_folder(tmp_path / "damaged")
    (folder / "onnx" / "int8").mkdir()
    (folder / "onnx" / "int8" / "model.onnx").write_bytes(b"no model at all")
    with open_bundle(folder) as damaged:
        broken = replace(ONE, precision=Precision.INT8)
        wrong, right = measure_all(
            [broken, ONE], Work(damaged, {None: Pictures(images)}, tmp_path / "load_marks"), repeats=1
        )
    assert "ModelLoadError" in str(wrong.error)
    assert (wrong.loaded, wrong.turns) == (None, ())
    assert (right.error, len(right.samples)) == (None, 3)


def test_a_process_that_hangs_is_given_up() -> None:
    with ChildProcess(Child, Limits(timeout_s=0.2)) as child:
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(MeasuringError, match=r"did not answer within 0\.2 s"):
            ask(child, TakeTurn(0), Turn)
    assert process_memory_bytes("VmRSS", child.pid) == 0


def test_what_a_dying_process_said_is_told() -> None:
    with ChildProcess(Child, Limits(timeout_s=60)) as child:
        for _ in range(2):
            with pytest.raises(MeasuringError, match="nothing is loaded: the first command must be Load"):
                ask(child, TakeTurn(0), Turn)


@pytest.mark.long
def test_agreement_with_itself_and_with_another(bundle: Bundle, images: tuple[Path, ...], tmp_path: Path) -> None:
    wanted = Axes(providers=(ProviderName.CPU,), precisions=(Precision.FP32, Precision.INT8), threads=(1,))
    results = bench(bundle, BenchRequest(wanted, images, repeats=1), Places(tmp_path, tmp_path / "load_marks"))
    assert results.reference.label == "cpu fp32"
    assert "no Paddle program" in str(results.reference.note)
    same, swapped = map(summarize, results.measurements)
    assert (same.mismatched_ppm, same.min_class_iou, same.max_cover_error) == (0, 1, 0)
    assert same.class_iou == {"red": 1, "green": 1, "blue": 1}
    # What is not blue is taken for the other; the second picture has three quarters of red, and then of green.
    assert (swapped.mismatched_ppm, swapped.max_cover_error) == (pytest.approx(750_000), 0.75)
    assert swapped.class_iou == {"red": 0, "green": 0, "blue": 1}


@pytest.mark.long
def test_the_reference_is_paddle_without_onednn(tmp_path: Path) -> None:
    size = Size(64, 96)
    with open_bundle(DEMO) as demo:
        wanted = Axes(providers=(ProviderName.CPU,), precisions=(Precision.FP32,), threads=(2,), sizes=(size,))
        request = BenchRequest(wanted, repeats=1)
        work, reference = prepare_work(
            demo, [Configuration(ProviderName.CPU, threads=2, size=size)], request, Places(tmp_path, tmp_path / "l")
        )
        assert (reference.label, reference.images, reference.note) == ("paddle-cpu fp32", 3, None)
        configuration = Configuration(ProviderName.CPU, threads=2, size=size)
        (measurement,) = measure_all([configuration], work, repeats=1)
    assert measurement.error is None
    assert measurement.agreement is not None
    assert measurement.agreement.reference.provider == "paddle-cpu"
    assert measurement.agreement.mismatched_ppm < 100


@pytest.mark.long
def test_a_reference_that_does_not_run_is_told_and_the_rest_is_measured(
    images: tuple[Path, ...], tmp_path: Path
) -> None:
    files = bundle_folder(tmp_path / "int8 only")
    (files / "onnx" / "fp32").rename(files / "onnx" / "int8")
    with open_bundle(files) as bundle:
        wanted = Axes(providers=(ProviderName.CPU,), precisions=(Precision.INT8,), threads=(1,))
        results = bench(bundle, BenchRequest(wanted, images, repeats=1), Places(tmp_path, tmp_path / "load_marks"))
    assert results.reference.label is None
    assert "the reference does not run" in str(results.reference.note)
    (measurement,) = results.measurements
    assert (measurement.error, measurement.agreement, len(measurement.samples)) == (None, None, 3)


def test_streams_and_batches_are_full_and_miss_no_picture(work: Work, images: tuple[Path, ...]) -> None:
    (measurement,) = measure_all([replace(TWO, streams=2, batch_size=2)], work, repeats=1)
    assert measurement.error is None
    (turn,) = measurement.turns
    # Three pictures fill two batches of two with one that comes again.
    assert len(turn.samples) == turn.pipeline.images == 4
    assert {sample.image for sample in turn.samples} == set(map(str, images))
    # Those of a batch wait for each other, and share its run.
    assert len({sample.latency_ms for sample in turn.samples}) == 2
    assert len({sample.stages_ms["run"] for sample in turn.samples}) == 2
    assert measurement.loaded is not None
    provenance = measurement.loaded.provenance
    assert (provenance.threads, provenance.streams) == (2, 2)


@pytest.mark.parametrize(("streams", "batch_size", "times"), [(1, 1, 1), (2, 1, 2), (2, 2, 4)])
def test_pictures_of_several_sizes_come_equally_often(
    work: Work, images: tuple[Path, ...], tmp_path: Path, streams: int, batch_size: int, times: int
) -> None:
    paths = (*images[:2], picture(tmp_path / "wide.png", 0, 1, 2, 0, 1, 2))
    work = replace(work, pictures={None: Pictures(paths)})
    (measurement,) = measure_all([replace(TWO, streams=streams, batch_size=batch_size)], work, repeats=1)
    (turn,) = measurement.turns
    # The least common multiple of three pictures and the places of all streams.
    assert Counter(sample.image for sample in turn.samples) == dict.fromkeys(map(str, paths), times)
    assert turn.pipeline.images == 3 * times


@pytest.mark.long
def test_what_does_not_fit_into_memory_waits_for_the_next_lot(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaving, "available_memory_bytes", lambda: 0)
    measurements = measure_all([ONE, TWO], work, repeats=1)
    assert [(each.configuration, each.lot, each.error) for each in measurements] == [(ONE, 0, None), (TWO, 1, None)]


@pytest.mark.long
def test_who_measures_can_stop_some_early(work: Work) -> None:
    with opened(ONE, work) as one, opened(TWO, work) as two:
        take_turns([one, two], 1)
        two.close()
        take_turns([one], 1)
        assert (len(one.measurement().turns), len(two.measurement().turns)) == (2, 1)


def test_generated_pictures_where_none_are_given(tmp_path: Path) -> None:
    pictures = prepare_pictures(Pictures(()), [None, Size(20, 30)], tmp_path)
    expected = generated_images()
    assert [
        np.array_equal(read_image(path).pixels, each.pixels)
        for path, each in zip(pictures[None].paths, expected, strict=True)
    ] == [True] * len(expected)
    assert {read_image(path).pixels.shape for path in pictures[Size(20, 30)].paths} == {(20, 30, 3)}


def test_resized_pictures_keep_their_format_and_are_not_shrunken_again(tmp_path: Path) -> None:
    (path,) = [picture(tmp_path / "a.jpg", 0, 1)]
    pictures = prepare_pictures(Pictures((path, path), 64), [None, Size(100, 200)], tmp_path / "made")
    assert pictures[None] == Pictures((path, path), 64)
    large = pictures[Size(100, 200)]
    assert [each.suffix for each in large.paths] == [".jpg", ".jpg"]
    assert len(set(large.paths)) == 2
    image = read_image(large.paths[0], max_img_size=large.max_img_size)
    assert image.pixels.shape == (100, 200, 3)
    left, right = image.pixels[:, 10].mean(axis=0), image.pixels[:, 190].mean(axis=0)
    assert (left.argmax(), right.argmax()) == (0, 1)


def test_a_picture_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"no\.png"):
        prepare_pictures(Pictures((tmp_path / "no.png",)), [None], tmp_path)


def test_a_sample_is_spread_evenly() -> None:
    pictures = Pictures(tuple(Path(str(each)) for each in range(10)), 5)
    assert [int(str(each)) for each in spread(pictures, 5).paths] == [0, 2, 4, 6, 8]
    assert spread(pictures, 30) == pictures
    with pytest.raises(OptionError, match="at least 1"):
        spread(pictures, 0)


def test_a_recording_answers_as_the_runtime_did(tmp_path: Path) -> None:
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    first = np.random.default_rng(1).random((1, 3, 4, 5), np.float32)
    runtime = RecordingRuntime(FakeRuntime(doubled), tmp_path / "recording")
    runtime.run({"x": first})
    runtime.close()
    recorded = RecordedRuntime(tmp_path / "recording")
    assert np.array_equal(recorded.run({"x": first.copy()})["y"], 2 * first)
    assert (recorded.identity, recorded.inputs, recorded.outputs) == (
        FakeRuntime(doubled).identity,
        FakeRuntime(doubled).inputs,
        FakeRuntime(doubled).outputs,
    )
    with pytest.raises(InferenceError, match="not recorded"):
        recorded.run({"x": first + 1})
    with pytest.raises(InferenceError, match="not recorded"):
        recorded.run({"x": first.reshape(1, 3, 5, 4)})


def test_shapes_for_tensorrt_are_those_of_the_pictures(bundle: Bundle, work: Work, tmp_path: Path) -> None:
    small = picture(tmp_path / "small.png", 0)
    pictures = Pictures((*work.pictures[None].paths, small))
    shapes = collect_shapes(CollectShapes(bundle, pictures, 4, tmp_path, tmp_path / "load_marks"))
    assert shapes.shapes is not None
    ((name, seen),) = shapes.shapes.inputs
    assert (name, seen.minimum, seen.maximum) == ("x", (1, 3, 16, 8), (4, 3, 16, 32))
    assert shapes.shape_range_file is None


def test_the_machine(tmp_path: Path) -> None:
    machine = environment(commit="abc")
    assert (machine.commit, machine.logical_cores) == ("abc", os.cpu_count())
    assert machine.libraries["onnxruntime"] == environment().libraries["onnxruntime"] == "1.32.0"
    assert machine.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert commit_of(tmp_path) is None


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"compared_images": -1}, {"timeout_s": 0.5}])
def test_requests_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="is less than"):
        replace(BenchRequest(Axes()), **wrong)

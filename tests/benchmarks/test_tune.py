"""What a search is given, how labels judge, and what is told of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.labels import LabelledFiles
from benchmarks.measuring.configurations import Configuration, ProviderName
from benchmarks.measuring.samples import Summary
from benchmarks.measuring.streams import Grading
from benchmarks.tuning.search import Goal, Search, Trial
from benchmarks.tuning.tune import (
    TuneRequest,
    Tuning,
    busy_note,
    calibration_pictures,
    field_of,
    gained_cover_error,
    lost_iou,
    profile_of,
    tuning_record,
    tuning_table,
    variants_of,
)
from engine.bundle.bundle import Bundle, DeclaredOutput, OnnxModel
from engine.errors import OptionError
from engine.options import CudaExecution, OnnxOptions, Precision
from engine.system.machine.cores import usable_cores

BUNDLE = Bundle(
    name="reef",
    source=Path("reef.tgz"),
    folder=Path(),
    digest="5" * 64,
    classes=(),
    transforms=(),
    paddle=None,
    onnx=tuple(OnnxModel(Path(f"{each}.onnx"), each, "1" * 64) for each in Precision),
    declared=DeclaredOutput(None, None, None),
    multilabel=False,
    notes=(),
)


def summary_of(p50_ms: float, iou: float) -> Summary:
    return Summary(4, 1.0, 1.0, p50_ms, p50_ms, None, 1000 / p50_ms, 100.0, 1.0, {}, 0.0, iou, {}, 0.0)


def score_of(ious: tuple[float | None, ...], mean_cover_errors: tuple[float, ...]) -> Grading:
    return Grading(ious, mean_cover_errors)


FAST = Trial(
    Configuration(ProviderName.CPU, Precision.INT8, 2), summary_of(10.0, 0.9), 1, ("class IoU 0.9, limit 0.97",)
)
GOOD = Trial(Configuration(ProviderName.CPU, threads=1), summary_of(20.0, 0.99), 4, ())
SLOW = Trial(Configuration(ProviderName.PADDLE_CPU, threads=2), summary_of(90.0, 1.0), 1, ())
USELESS = Trial(Configuration(ProviderName.PADDLE_ONEDNN, threads=2), summary_of(95.0, 0.98), 1, ())


def tuning_of(chosen: Trial | None) -> Tuning:
    found = Search((SLOW, FAST, GOOD, USELESS), (), chosen, cut_short=False)
    return Tuning(found, Goal.LATENCY, BUNDLE, (), "paddle-cpu fp32, 4 images", (), "since it is", 1.0)


@pytest.mark.parametrize(("count", "labelled", "judged", "missing"), [
    (40, 0, 8, 0), (16, 0, 8, 0), (15, 0, 8, 1), (20, 12, 12, 0), (20, 13, 13, 1), (8, 0, 8, 8),
])  # fmt: skip
def test_int8_is_calibrated_on_other_pictures_than_judge_it(
    count: int, labelled: int, judged: int, missing: int
) -> None:
    paths = tuple(Path(f"{number:02}.jpg") for number in range(count))
    labels = tuple(LabelledFiles(path, path.with_suffix(".png")) for path in paths[:labelled])
    request = TuneRequest(images=paths, labelled=labels)
    pictures, note = calibration_pictures(request)
    assert len(pictures.paths) == (count if missing else count - judged)
    assert note == (
        f"INT8 was calibrated on pictures that it is judged on, which flatters it: name at least {missing} more"
        if missing
        else None
    )
    if labelled and not missing:
        assert not {each.image for each in labels} & set(pictures.paths)


def test_against_labels_the_record_says_what_is_kept_and_added() -> None:
    (trial, *_) = tuning_record(replace(tuning_of(GOOD), labelled=True), None)["trials"]
    assert (trial["summary"]["class_iou_kept"], trial["summary"]["cover_error_added"]) == (1.0, 0.0)
    assert not {"min_class_iou", "max_cover_error", "class_iou", "mismatched_ppm"} & trial["summary"].keys()
    (trial, *_) = tuning_record(tuning_of(GOOD), None)["trials"]
    assert (trial["summary"]["min_class_iou"], trial["summary"]["max_cover_error"]) == (1.0, 0.0)


def test_the_field_begins_with_what_auto_takes_by_itself() -> None:
    field = field_of(BUNDLE)
    assert field[0] == Configuration(ProviderName.CPU, threads=usable_cores())
    assert field[1] == Configuration(ProviderName.CPU, Precision.INT8, usable_cores())
    assert {each.provider for each in field} == {each for each in ProviderName if "tensorrt" not in each.value}
    assert Configuration(ProviderName.CPU, Precision.FP16, usable_cores()) not in field
    assert Configuration(ProviderName.CUDA, Precision.FP16, usable_cores()) in field
    assert len(set(field)) == len(field)
    assert all((each.streams, each.batch_size) == (1, 1) for each in field)


def test_variants_follow_the_goal() -> None:
    four = Configuration(ProviderName.CPU, threads=4)

    def found(goal: Goal, images: int = 9) -> list[tuple[int, int, int]]:
        return [(each.threads, each.streams, each.batch_size) for each in variants_of(four, goal, images)]

    assert found(Goal.LATENCY) == [(2, 1, 1)]
    assert found(Goal.MEMORY) == [(2, 1, 1), (1, 1, 1)]
    streams = [(4, 4, 1), (4, 2, 1)]
    assert found(Goal.THROUGHPUT) == [(4, 1, 2), (4, 1, 4), (2, 1, 1), (2, 1, 2), (2, 1, 4), *streams]
    assert found(Goal.THROUGHPUT, images=3) == [(4, 1, 2), (2, 1, 1), (2, 1, 2), *streams]
    one = Configuration(ProviderName.CPU, threads=1)
    assert variants_of(one, Goal.LATENCY, 9) == variants_of(one, Goal.THROUGHPUT, 1) == ()


CUDA = Configuration(ProviderName.CUDA, Precision.FP16, threads=4)


def test_a_gpu_has_axes_of_its_own() -> None:
    ways = [CudaExecution(prefer_nhwc=True), CudaExecution(cuda_graph=True), CudaExecution(True, True, True)]
    assert variants_of(CUDA, Goal.LATENCY, 9) == tuple(replace(CUDA, cuda=way) for way in ways)
    batches = [replace(CUDA, batch_size=size) for size in (2, 4, 8)]
    wanted = (*batches, replace(CUDA, streams=2), *(replace(CUDA, cuda=way) for way in ways))
    assert variants_of(CUDA, Goal.THROUGHPUT, 9) == wanted
    paddle = Configuration(ProviderName.PADDLE_GPU, threads=1)
    assert variants_of(paddle, Goal.LATENCY, 9) == ()
    assert [each.batch_size for each in variants_of(paddle, Goal.THROUGHPUT, 16)] == [2, 4, 8, 16]
    assert replace(CUDA, cuda=ways[2]).label == "cuda fp16, 4 threads, NHWC, CUDA graph"


def test_the_way_of_a_gpu_is_kept_in_the_profile() -> None:
    way = CudaExecution(prefer_nhwc=True)
    chosen = replace(FAST, configuration=replace(CUDA, threads=1, cuda=way))
    profile = profile_of(tuning_of(chosen), "5" * 64)
    options = profile.options()
    assert isinstance(options, OnnxOptions)
    assert options.cuda == way
    with pytest.raises(OptionError, match="Paddle was chosen"):
        replace(profile, provider="paddle-gpu")


def test_labels_tell_what_is_lost_by_hand() -> None:
    reference = score_of((0.9, 0.8, None), (0.01, 0.02, 0.0))
    assert lost_iou(reference, score_of((0.95, 0.75, None), (0.0, 0.0, 0.0))) == pytest.approx(0.05)
    assert lost_iou(reference, score_of((0.95, None, 0.2), (0.0, 0.0, 0.0))) == pytest.approx(0.8)
    assert lost_iou(reference, score_of((0.95, 0.85, None), (0.0, 0.0, 0.0))) == 0
    assert gained_cover_error(reference, score_of((), (0.02, 0.025, 0.0))) == pytest.approx(0.01)
    assert gained_cover_error(reference, score_of((), (0.0, 0.01, 0.0))) == 0


def test_the_table_begins_with_the_choice_and_ends_with_what_breaks_a_limit() -> None:
    table = tuning_table(tuning_of(GOOD))
    front_at, verdict_at = table.header.index("front"), table.header.index("verdict")
    assert [(row[0], row[front_at], row[verdict_at]) for row in table.rows] == [
        ("cpu fp32, 1 thread", "yes", "chosen"),
        ("paddle-cpu fp32, 2 threads", "yes", ""),
        ("paddle-onednn fp32, 2 threads", "", ""),
        ("cpu int8, 2 threads", "yes", "class IoU 0.9, limit 0.97"),
    ]
    assert {row[table.header.index("peak MiB")] for row in table.rows} == {"100"}


def test_what_labels_judge_has_other_names() -> None:
    by_masks, by_labels = (tuning_table(replace(tuning_of(GOOD), labelled=each)) for each in (False, True))
    assert by_masks.header[6:8] == ("min IoU", "cover error")
    assert by_labels.header[6:8] == ("IoU kept", "error added")
    assert by_masks.rows == by_labels.rows


def test_a_choice_becomes_a_profile_and_no_choice_none() -> None:
    profile = profile_of(tuning_of(GOOD), BUNDLE.digest)
    assert (profile.provider, profile.precision, profile.threads, profile.batch_size) == ("cpu", Precision.FP32, 1, 1)
    assert profile.reason == "cpu fp32, 1 thread: since it is"
    assert profile.mismatch(BUNDLE) is None
    with pytest.raises(OptionError, match="since it is"):
        profile_of(tuning_of(None), BUNDLE.digest)
    record = tuning_record(tuning_of(None), None)
    assert record["profile"] is None
    assert [each["chosen"] for each in record["trials"]] == [False] * 4


def test_a_request_needs_time() -> None:
    with pytest.raises(OptionError, match="budget-s: 0 is not more than 0"):
        TuneRequest((Path("a.png"),), budget_s=0)


@pytest.mark.parametrize(
    ("load", "cores", "warned"), [(0.4, 2, False), (0.6, 2, True), (3.0, 16, False), (5.0, 16, True)]
)
def test_a_busy_machine_is_told(load: float, cores: int, warned: bool) -> None:
    note = busy_note(load, cores)
    assert (note is not None) is warned
    if note is not None:
        assert f"load {load:.1f} on {cores} cores" in note

"""A search for the best configuration of a bundle on this machine, and the profile that `auto` obeys."""

# `benchmarks.tuning.search` halves the field; here it gets its field, and its choice is written. `auto`'s own first
# choice is always measured, so that the gain is known. TensorRT is left out, since its engines need the shapes that
# will come.

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import TypeAdapter

from benchmarks.accuracy.labels import IGNORED_LABEL, LabelledFiles
from benchmarks.bench import BenchRequest, Places, prepare_work
from benchmarks.measuring.configurations import Axes, Configuration, ProviderName, Skipped, configurations, select
from benchmarks.measuring.interleaving import Advance, measure_all
from benchmarks.measuring.measure import TIMEOUT_S, MeasuringError, Work, ask_once
from benchmarks.measuring.pictures import Pictures, spread
from benchmarks.measuring.samples import Measurement, Reference, Summary
from benchmarks.measuring.streams import Grade, Grading, reference_options
from benchmarks.results.markdown import Table, shown, shown_share
from benchmarks.tuning.search import Goal, Search, Trial, TuningLimits, as_measured, front, search
from converters.conversion import ConversionRequest, packed_files
from converters.conversion import convert as convert_bundle
from converters.deployment import digest_of
from converters.exporting.packing import pack
from converters.parity import ParityLimits
from converters.repository import Repository
from engine.bundle.bundle import CERTIFICATE, Bundle
from engine.declaration import Options, option
from engine.errors import EngineError, OptionError
from engine.gpu.calibration import MIN_CALIBRATION_IMAGES
from engine.images import DEFAULT_MAX_IMG_SIZE, ImageLimits
from engine.images.size import bands_option
from engine.options import CudaExecution, Precision, RuntimeName, RuntimeOptions
from engine.runtimes.profile import PROFILE_NAME, Profile, TunedProvider, library_versions, profile_json, runtime_of
from engine.segmentation.opening import Convert
from engine.system.machine.cores import usable_cores
from engine.system.machine.hardware import this_host

DEFAULT_BUDGET_S = 600.0
_TIMED_IMAGES = 16
_COMPARED_IMAGES = 8
_CALIBRATION_IMAGES = 32
_BATCHES, _GPU_BATCHES = (1, 2, 4), (1, 2, 4, 8, 16)
"""Images that share a run."""
_WAYS = ((True, False), (False, True), (True, True))
"""Of CUDA: whether channels come last, and whether the runs of a size are recorded."""
_BUSY_SHARE = 0.25
"""Of the cores, what others may use before the search without a word."""


_TRIAL = TypeAdapter(Trial)


@dataclass(frozen=True, slots=True)
class TuneRequest(Options):
    """What is searched for.

    A sample of `images` is timed; `labelled` ones judge accuracy, else the reference's masks do. `budget_s` is for
    everything: a conversion or a run of the reference that has begun is finished, and two configurations are measured
    in any case.
    """

    title: ClassVar[str] = "The search"

    images: tuple[Path, ...] = ()
    goal: Goal = option(Goal.LATENCY, "What the search optimizes.")
    limits: TuningLimits = field(default_factory=TuningLimits)
    labelled: tuple[LabelledFiles, ...] = ()
    budget_s: float = option(DEFAULT_BUDGET_S, "Seconds for the whole search.", above=0)
    max_img_size: int = option(
        DEFAULT_MAX_IMG_SIZE, "Images with more pixels are shrunk to this number of pixels; -1 never shrinks."
    )
    bands: tuple[int, ...] | None = bands_option()

    @property
    def pictures(self) -> Pictures:
        return Pictures(self.images, self.max_img_size, self.bands)


@dataclass(frozen=True, slots=True)
class Tuning:
    """A search, and what it ran on; `bundle` has the models that were made for it.

    `judged_by` says what masks were compared with, or why they were not; `notes` what was not tried, and why; `reason`
    why the choice is what it is, or why there is none. `labelled`: labels judged, and what is told of IoU and cover is
    how much less right masks are than the reference's.
    """

    search: Search
    goal: Goal
    bundle: Bundle
    skipped: tuple[Skipped, ...]
    judged_by: str
    notes: tuple[str, ...]
    reason: str
    seconds: float
    labelled: bool = False


def tuning_table(tuning: Tuning) -> Table:
    """Lay out a search: a row per configuration, the choice, what else keeps the limits, then what breaks them."""
    best = front(tuning.search.trials, tuning.goal)
    header = (
        "configuration", "turns", "p50 ms", "p90 ms", "images/s", "peak MiB",
        *(("IoU kept", "error added") if tuning.labelled else ("min IoU", "cover error")), "front", "verdict",
    )  # fmt: skip
    chosen = tuning.search.chosen
    ordered = sorted(
        tuning.search.trials,
        key=lambda each: (
            each is not chosen,
            bool(each.broken),
            tuning.goal.cost(each.summary) if each.summary.samples else 0.0,
        ),
    )
    return Table(header, tuple(_row(each, each is chosen, each.configuration in best) for each in ordered))


def tuning_record(tuning: Tuning, profile: Profile | None) -> dict[str, Any]:
    best = front(tuning.search.trials, tuning.goal)
    return {
        "bundle": str(tuning.bundle.source),
        "goal": tuning.goal.value,
        "judged_by": tuning.judged_by,
        "reason": tuning.reason,
        "profile": None if profile is None else json.loads(profile_json(profile)),
        "trials": [
            {
                **_trial_record(each, labelled=tuning.labelled),
                "label": each.configuration.label,
                "front": each.configuration in best,
                "chosen": each is tuning.search.chosen,
            }
            for each in tuning.search.trials
        ],
        "untried": [each.label for each in tuning.search.untried],
        "skipped": [{"label": each.configuration.label, "reason": each.reason} for each in tuning.skipped],
        "notes": list(tuning.notes),
        "seconds": round(tuning.seconds, 3),
    }


def _trial_record(trial: Trial, *, labelled: bool) -> dict[str, Any]:
    record: dict[str, Any] = _TRIAL.dump_python(trial, mode="json")
    if labelled:
        summary = record["summary"]
        kept, added = (summary.pop(name) for name in ("min_class_iou", "max_cover_error"))
        del summary["class_iou"], summary["mismatched_ppm"]
        summary |= {"class_iou_kept": kept, "cover_error_added": added}
    return record


def _row(trial: Trial, chosen: bool, on_front: bool) -> tuple[str, ...]:
    summary = trial.summary
    return (
        trial.configuration.label,
        str(trial.turns),
        shown(summary.p50_ms, 1),
        shown(summary.p90_ms, 1),
        shown(summary.images_per_s, 2),
        shown(summary.peak_rss_mib, 0),
        shown_share(summary.min_class_iou, 4),
        shown_share(summary.max_cover_error, 5),
        "yes" if on_front else "",
        "chosen" if chosen else "; ".join(trial.broken),
    )


def field_of(bundle: Bundle) -> tuple[Configuration, ...]:
    """List what a search begins with: every provider with every precision of the bundle, best prospects first.

    That is what `auto` takes by itself, then INT8 and FP16 before FP32, and Paddle without oneDNN last; all cores, one
    image a run. FP16 on a CPU is left out: it is slower than FP32 there.
    """
    providers = tuple(each for each in ProviderName if not each.is_tensorrt)
    cores = usable_cores()
    by_itself = Configuration(ProviderName.CPU, threads=cores)

    def rank(each: Configuration) -> tuple[bool, ...]:
        return (each != by_itself, each.provider is ProviderName.PADDLE_CPU, each.precision is Precision.FP32)

    wanted = configurations(Axes(providers=providers, threads=(cores,)), bundle)
    return tuple(sorted((each for each in wanted if not _is_slow_half(each)), key=rank))


def _is_slow_half(configuration: Configuration) -> bool:
    on_cpu = configuration.provider in {ProviderName.CPU, ProviderName.OPENVINO}
    return on_cpu and configuration.precision is Precision.FP16


def variants_of(configuration: Configuration, goal: Goal, images: int) -> tuple[Configuration, ...]:
    """List what else is tried of a provider and precision that does well.

    On a CPU half of the cores, batches of 2 and 4, a stream for each core and for every two; on a GPU batches of up to
    16, two streams, and for CUDA channels last, recorded graphs, and both. One thread is tried for memory. Batches and
    streams are tried for throughput: the latency of an image in a batch is that of the whole batch, and streams share
    the cores.
    """
    cores, on_gpu, throughput = configuration.threads, configuration.provider.on_gpu, goal is Goal.THROUGHPUT
    threads = (cores,) if on_gpu else (cores, max(1, cores // 2), *((1,) if goal is Goal.MEMORY else ()))
    sizes = (_GPU_BATCHES if on_gpu else _BATCHES) if throughput else (1,)
    every = [
        replace(configuration, threads=count, batch_size=size)
        for count in dict.fromkeys(threads)
        for size in sizes
        if size <= max(1, images)
    ]
    if throughput:
        counts = (2,) if on_gpu else (cores, cores // 2)
        every += [replace(configuration, streams=count) for count in counts if count and not cores % count]
    if configuration.provider is ProviderName.CUDA:
        every += [
            replace(configuration, cuda=CudaExecution(prefer_nhwc=last, cuda_graph=graph)) for last, graph in _WAYS
        ]
    return tuple(each for each in dict.fromkeys(every) if each != configuration)


def tune(
    bundle: Bundle,
    request: TuneRequest,
    places: Places,
    *,
    repository: Repository | None = None,
    convert: Convert | None = None,
    advance: Advance = lambda _step, _configuration: None,
) -> Tuning:
    """Search the best configuration for a bundle, which is not changed, on this machine.

    The repository makes an INT8 model if the bundle holds none, `convert` the FP32 ONNX model. Raises EngineError where
    a picture or label cannot be read, or nothing can be measured here.
    """
    started = time.monotonic()
    if not request.images:
        raise OptionError("tuning needs pictures like those that will come", option="images")
    busy = busy_note(os.getloadavg()[0], os.cpu_count() or 1)
    notes = [] if busy is None else [busy]
    if bundle.onnx_model(Precision.INT8) is None:
        bundle = _with_int8(bundle, request, repository, places.load_marks, notes)
    timed = spread(request.pictures, _TIMED_IMAGES).paths
    selection = select(field_of(bundle), bundle, convert)
    if not selection.runnable:
        reasons = dict.fromkeys(each.reason for each in selection.skipped)
        raise OptionError(f"nothing can be measured here: {' | '.join(reasons)}")
    bundle = selection.bundle
    work, reference = prepare_work(
        bundle,
        selection.runnable,
        BenchRequest(
            Axes(),
            timed,
            request.max_img_size,
            request.bands,
            repeats=1,
            compared_images=0 if request.labelled else _COMPARED_IMAGES,
        ),
        places,
    )
    found = search(
        selection.runnable,
        _Measuring(work, advance),
        request.goal,
        request.limits,
        variants=lambda each: variants_of(each, request.goal, len(timed)),
        deadline=started + request.budget_s,
        judge=_LabelJudge(bundle, request, places.load_marks) if request.labelled else as_measured,
    )
    return Tuning(
        search=found,
        goal=request.goal,
        bundle=bundle,
        skipped=selection.skipped,
        judged_by=_judged_by(request, reference),
        notes=tuple(notes),
        reason=_reason(found, request),
        seconds=time.monotonic() - started,
        labelled=bool(request.labelled),
    )


def busy_note(load: float, cores: int) -> str | None:
    """Warn of other programs that disturb what is measured; None on a quiet machine.

    `load` counts processes that wanted a core over the last minute.

    >>> busy_note(0.2, 2) is None
    True
    """
    if load <= _BUSY_SHARE * cores:
        return None
    return (
        f"the machine was busy before the search (load {load:.1f} on {cores} cores), which distorts what was measured: "
        "tune again while nothing else runs"
    )


@dataclass(frozen=True, slots=True)
class _Measuring:
    """Measures for a search, every configuration in its own process."""

    work: Work
    advance: Advance

    def __call__(
        self, wanted: Sequence[Configuration], turns: int, *, compare: bool, within_s: float
    ) -> Sequence[Measurement]:
        work = replace(
            self.work,
            recordings=self.work.recordings if compare else {},
            timeout_s=min(self.work.timeout_s, max(1.0, within_s)),
        )
        return measure_all(wanted, work, repeats=turns, advance=self.advance)


def _with_int8(
    bundle: Bundle, request: TuneRequest, repository: Repository | None, load_marks: Path, notes: list[str]
) -> Bundle:
    """Quantize where that can be used and may pay; say so where not."""
    if repository is None:
        notes.append("INT8 was not tried: the bundle holds no INT8 model; with --into, one is made")
        return bundle
    if len(request.images) < MIN_CALIBRATION_IMAGES:
        notes.append(
            f"INT8 was not tried: it is calibrated on at least {MIN_CALIBRATION_IMAGES} images, "
            f"{len(request.images)} were given"
        )
        return bundle
    pictures, note = calibration_pictures(request)
    conversion = ConversionRequest(
        precision=Precision.INT8,
        calibration=spread(pictures, _CALIBRATION_IMAGES).paths,
        bands=request.bands,
        images=ImageLimits(max_img_size=request.max_img_size),
        limits=ParityLimits(None, request.limits.min_iou, request.limits.max_cover_error),
    )
    try:
        model = convert_bundle(bundle, repository, conversion, load_marks=load_marks).model
    except EngineError as error:
        notes.append(f"INT8 was not tried: {error}")
        return bundle
    notes += [] if note is None else [note]
    return bundle.with_onnx(model)


def calibration_pictures(request: TuneRequest) -> tuple[Pictures, str | None]:
    """Choose pictures that masks are not judged on; where they are too few, all, and what that means."""
    if request.labelled:
        judged = {each.image for each in request.labelled}
    else:
        judged = set(spread(spread(request.pictures, _TIMED_IMAGES), _COMPARED_IMAGES).paths)
    others = tuple(path for path in request.images if path not in judged)
    if len(others) >= MIN_CALIBRATION_IMAGES:
        return replace(request.pictures, paths=others), None
    missing = MIN_CALIBRATION_IMAGES - len(others)
    return request.pictures, (
        f"INT8 was calibrated on pictures that it is judged on, which flatters it: name at least {missing} more"
    )


class _LabelJudge:
    """Judges by labels: how much is lost against the reference, once for all numbers of threads and streams."""

    def __init__(self, bundle: Bundle, request: TuneRequest, load_marks: Path) -> None:
        self._bundle, self._request, self._load_marks = bundle, request, load_marks
        self._known: dict[RuntimeOptions, Grading] = {}
        self._reference = self._score(reference_options(bundle))
        if self._reference.unlabelled:
            raise OptionError(
                f"no pixel is labelled as class {', '.join(self._reference.unlabelled)}, so that nothing tells what a "
                f"configuration loses of it (masks hold class indices; {IGNORED_LABEL} means that a pixel is not "
                "judged): name pictures on which it is labelled, or leave masks out, to compare with the reference",
                option="masks",
            )

    def __call__(self, configuration: Configuration, summary: Summary) -> Summary:
        try:
            score = self._score(configuration.options())
        except MeasuringError:
            # It stays without a figure for accuracy, and so it cannot be chosen.
            return summary
        return replace(
            summary,
            min_class_iou=1 - lost_iou(self._reference, score),
            max_cover_error=gained_cover_error(self._reference, score),
        )

    def _score(self, options: RuntimeOptions) -> Grading:
        key = replace(options, threads=1, streams=1)
        if key not in self._known:
            request = self._request
            command = Grade(self._bundle, options, request.labelled, request.pictures, self._load_marks)
            self._known[key] = ask_once(command, Grading, timeout_s=TIMEOUT_S)
        return self._known[key]


def lost_iou(reference: Grading, score: Grading) -> float:
    """Tell by how much a class is found worse than the reference finds it: the largest loss of IoU, 0-1."""
    pairs = zip(reference.class_iou, score.class_iou, strict=True)
    return max((max(0.0, before - (after or 0.0)) for before, after in pairs if before is not None), default=0.0)


def gained_cover_error(reference: Grading, score: Grading) -> float:
    """Tell by how much a class's mean cover error is larger than the reference's, at most, 0-1."""
    pairs = zip(reference.cover_error, score.cover_error, strict=True)
    return max(max(0.0, after - before) for before, after in pairs)


def _judged_by(request: TuneRequest, reference: Reference) -> str:
    if request.labelled:
        return f"labels of {len(request.labelled)} images"
    compared = f"{reference.label}, {reference.images} images" if reference.label else "nothing"
    return compared if reference.note is None else f"{compared} ({reference.note})"


def _reason(found: Search, request: TuneRequest) -> str:
    chosen, first = found.chosen, found.trials[0]
    short = "; the budget ended the search early" if found.cut_short else ""
    if chosen is None:
        return f"none of {len(found.trials)} configurations keeps the limits{short}"
    parts = [f"best {request.goal} of {len(found.trials)} configurations: {request.goal.told(chosen.summary)}"]
    if first is not chosen and first.summary.samples:
        parts.append(f"{first.configuration.label}: {request.goal.told(first.summary)}")
    iou, cover_error = shown_share(chosen.summary.min_class_iou, 4), shown_share(chosen.summary.max_cover_error, 5)
    if request.labelled:
        parts.append(
            f"against labels, {iou} of the reference's class IoU is kept; its cover error grows by {cover_error}"
        )
    else:
        parts.append(f"class IoU with the reference at least {iou}, cover error at most {cover_error}")
    return "; ".join(parts) + short


def profile_of(tuning: Tuning, digest: str) -> Profile:
    """Make the profile of a search's choice; OptionError where there is none."""
    if tuning.search.chosen is None:
        raise OptionError(f"{tuning.reason}: allow more, or give more time")
    choice = tuning.search.chosen.configuration
    return Profile(
        bundle=digest,
        host=this_host(),
        versions=library_versions(runtime_of(choice.provider)),
        provider=cast("TunedProvider", choice.provider.value),
        precision=choice.precision,
        threads=choice.threads,
        streams=choice.streams,
        batch_size=choice.batch_size,
        cuda=choice.cuda,
        goal=tuning.goal.value,
        reason=f"{choice.label}: {tuning.reason}",
    )


def write_tuned_bundle(original: Bundle, tuning: Tuning, destination: Path) -> Profile:
    """Write a copy of the bundle, still open, that carries the profile, and the ONNX model that the choice runs.

    Raises OptionError where there is no choice, ConversionError where the destination cannot be written.
    """
    files: dict[str, Path] = {**packed_files(original), **_chosen_model(tuning)}
    files.pop(PROFILE_NAME, None)
    profile = profile_of(tuning, digest_of(files, destination))
    content: Mapping[str, Path | bytes] = {**files, PROFILE_NAME: profile_json(profile)}
    pack(content, destination)
    return profile


def _chosen_model(tuning: Tuning) -> dict[str, Path]:
    chosen = tuning.search.chosen
    if chosen is None or chosen.configuration.provider.runtime is not RuntimeName.ONNX:
        return {}
    model = tuning.bundle.onnx_model(chosen.configuration.precision)
    if model is None:
        return {}
    certificate = model.path.with_name(CERTIFICATE)
    folder = f"onnx/{model.precision}"
    return {f"{folder}/model.onnx": model.path} | (
        {f"{folder}/{CERTIFICATE}": certificate} if certificate.is_file() else {}
    )

"""`pseg evaluate`: a bundle's masks against labels, and against another bundle's, runtime's or precision's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from rich.progress import track
from rich.table import Table

from benchmarks.accuracy.annotation_files import list_annotations, read_annotations
from benchmarks.accuracy.evaluation import (
    Evaluation,
    LabelledImage,
    Score,
    read_labelled,
    unlabelled_classes,
)
from benchmarks.accuracy.evaluation import evaluate as evaluate_predictors
from benchmarks.accuracy.labels import (
    IGNORED_LABEL,
    LabelledFiles,
    LabelNames,
    match_masks,
    match_pictures,
    parse_label_names,
    parse_label_values,
)
from benchmarks.accuracy.reliability import fit_temperature, scored_pixels
from benchmarks.results.markdown import Table as Figures
from benchmarks.results.markdown import shown_share
from converters.conversion import write_copy
from converters.exporting.packing import require_bundle_name
from engine import (
    OptionError,
    Precision,
    Provenance,
    Provider,
    RuntimeName,
    SegmentationClass,
    SourceImage,
    read_image,
)
from engine.cover.options import CoverOptions
from engine.declaration import Options, declared_options, option
from engine.images.size import require_named_bands
from engine.quantities import shown_figure, shown_fraction
from engine.segmentation.averaging import Averaging
from engine.segmentation.palette import OverlayOptions
from engine.segmentation.prediction import MaskOptions
from engine.segmentation.temperature import TEMPERATURE_NAME, Temperature
from engine.system.files import write_atomically
from engine.system.text import counted, csv_table, json_text
from service.commands.flags import with_flags
from service.commands.groups import STANDARD_OUTPUT, OutputOptions, PictureOptions
from service.commands.named_pictures import named_pictures, require_folders
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    messages,
    print_json,
    print_table,
    results_console,
    say,
    shown,
    table_written,
    tell,
)
from service.request import THE_BUNDLE, PredictRequest, require_apart, require_writable_file, written_by
from service.results.runs import options_of_classes, options_with_effect
from service.session import Caches, caches_at, open_session
from service.surveys.accuracy import SurveyAccuracy, accuracy_record, estimate_accuracy
from service.surveys.intervals import Estimate
from service.surveys.sampling import SampleRow, read_sample, require_whole_sample

_JUDGED_IN = frozenset({"roi", "quadrat_size"})
_MEASURED_APART = (
    frozenset(each.name for each in declared_options(CoverOptions)) - _JUDGED_IN - {"ignore_bundle_cleanup"}
)
"""Labels judge the classes that everybody gets from a bundle, before anything is done with them on request."""

_PICTURED = frozenset(each.name for each in declared_options(OverlayOptions))
"""What masks look like in pictures, of which none are written."""

_NAMED_AT_MOST = 8

_CLASS_MEASURES = (
    ("iou", "IoU"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1"),
    ("mean_cover_error", "mean cover error"),
    ("max_cover_error", "max cover error"),
)


@dataclass(frozen=True, slots=True)
class _SecondColumn(Options):
    """What the masks are compared with besides the labels."""

    title: ClassVar[str] = "Second column, which differs only in these options"

    against: Path | None = option(None, "Compare with another bundle that has the same classes.", metavar="BUNDLE")
    against_runtime: RuntimeName | None = option(None, "Compare with another library.")
    against_provider: Provider | None = option(None, "Compare with another execution provider.")
    against_precision: Precision | None = option(None, "Compare with another number format.")

    def of(self, bundle: Path, request: PredictRequest) -> tuple[Path, PredictRequest] | None:
        """Bundle and request of the column; None where none is asked for."""
        named = {
            "runtime": self.against_runtime,
            "provider": self.against_provider,
            "precision": self.against_precision,
        }
        changed = {name: value for name, value in named.items() if value is not None}
        if self.against is None and not changed:
            return None
        column = self.against or bundle, replace(request, network=replace(request.network, **changed))
        if column == (bundle, request):
            raise OptionError(
                "the two columns are the same: name another bundle, runtime or precision", option="against"
            )
        return column


@dataclass(frozen=True, slots=True)
class _LabelOptions(Options):
    """How images, and the masks that people made of them, are read."""

    title: ClassVar[str] = "Labels"

    pictures: PictureOptions = PictureOptions()
    annotations: tuple[str, ...] = option(
        (),
        "Labels from annotation tools instead of masks: JSON files of labelme, COCO or Squidle+, or CSV files of "
        "CoralNet. Files, folders (including sub-folders) or globs. May be repeated.",
        parse=str,
        repeatable=True,
    )
    label_names: Mapping[str, str] | None = option(
        None,
        "Class for each label of the annotations, such as SG=seagrass,Rock=ignore. By default what the "
        "class_mapping.json of `pseg annotate` says, otherwise the class of that name.",
        metavar="LABEL=CLASS,…",
        parse=parse_label_names,
    )
    unlabelled: str | None = option(
        None,
        "Class of the pixels that no polygon or region covers; not for points. By default they are not judged.",
        metavar="CLASS",
    )
    label_values: Mapping[int, int] | None = option(
        None,
        "Class for each value of the masks, such as 0=0,255=1. The class 'ignore' excludes a value.",
        metavar="VALUE=CLASS,…",
        parse=parse_label_values,
    )
    allow_missing_classes: bool = option(False, "Accept labels in which a class of the bundle does not occur.")
    sample: Path | None = option(
        None,
        "Table of `pseg sample`: its pictures are evaluated, and figures for the whole survey are estimated with "
        "their inclusion probabilities.",
        metavar="CSV",
    )
    out: Path | None = option(
        None,
        "Write what --json prints to this file. With --sample, it is what `pseg summarize --correct-with` reads.",
        metavar="JSON",
    )
    fit_temperature: Path | None = option(
        None,
        "Fit a temperature with which the confidence agrees with the share of correct pixels, and write a copy of the "
        "bundle that holds it.",
        metavar="BUNDLE",
    )

    def require_effect(self) -> None:
        """Refuse (OptionError) options for the other kind of labels than is given."""
        for name in ("label_names", "unlabelled"):
            if not self.annotations and getattr(self, name) is not None:
                raise OptionError("it is for annotations, and masks hold class indices: leave it out", option=name)
        if self.annotations and self.label_values is not None:
            raise OptionError(
                "it is for masks, and annotations have labels by name: give label-names", option="label_values"
            )

    def names(self, classes: Sequence[SegmentationClass]) -> LabelNames:
        """Which class a label stands for."""
        return LabelNames([each.name for each in classes], self.label_names or {}, self.unlabelled)


@with_flags(without=("auto_tune_shapes", "batch_size", "mask_size", "save", "streams", *_MEASURED_APART, *_PICTURED))
def evaluate(
    bundle: BundleArgument,
    second: _SecondColumn,
    labels: _LabelOptions,
    request: PredictRequest,
    output: OutputOptions,
    images: Annotated[list[str] | None, typer.Option(help="Files, folders or globs. May be repeated.")] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            help="PNG files of class indices with the names of their images; pixels with the value 255 are ignored. "
            "Files, folders (including sub-folders) or globs. May be repeated."
        ),
    ] = None,
    cache_dir: CacheOption = None,
) -> None:
    """Measure IoU, precision, recall, F1, accuracy and the error of the cover against labels.

    Give the images, or a --sample of them, and their labels: either --masks or --annotations. If the labels are points,
    the points are judged instead of pixels. With --roi, only the labels inside the region of each image are judged.

    The options that begin with --against add a second column for another bundle or configuration. IoU, precision,
    recall and F1 are computed over the pixels of all images together. The cover error is given as the mean and the
    largest value over the images.
    """
    other = second.of(bundle, request)
    columns = [(bundle, request), *([] if other is None else [other])]
    if bool(images) == (labels.sample is not None):
        raise OptionError("give either the images, or a --sample that names them", option="images")
    if bool(masks) == bool(labels.annotations):
        raise OptionError("give the labels of the images, either --masks or --annotations", option="masks")
    labels.require_effect()
    recursive = labels.pictures.recursive
    require_folders(images or [], recursive=recursive)
    sample = None
    if labels.sample is None:
        paths = named_pictures(images or [], option="images", recursive=recursive)
    else:
        sample = read_sample(labels.sample)
        require_whole_sample(labels.sample, sample)
        paths = [row.image for row in sample]
    if masks:
        pairs = match_masks(paths, named_pictures(masks, option="masks", recursive=True))
    else:
        pairs = _annotated(paths, labels)
    _require_places(columns, pairs, labels, output)
    if labels.fit_temperature is not None:
        _require_fittable(request, labels.fit_temperature)
    evaluation, provenances, accuracies, temperature = _evaluate(columns, pairs, labels, sample, caches_at(cache_dir))
    sources = [source for source, _ in columns]
    with table_written(output.csv) as write_table:
        if output.csv is not None:
            write_table(_image_table(evaluation))
        record = _record(evaluation, columns, provenances, accuracies, temperature)
        if labels.out is not None:
            write_atomically(labels.out, json_text(record).encode() + b"\n")
        if output.json_lines:
            print_json(record)
        else:
            _show(evaluation, sources, provenances)
            if accuracies:
                _show_accuracy(accuracies[0], evaluation.classes)
            if temperature is not None:
                _show_temperature(temperature)


def _require_places(
    columns: Sequence[tuple[Path, PredictRequest]],
    pairs: Sequence[LabelledFiles],
    labels: _LabelOptions,
    output: OutputOptions,
) -> None:
    """What is written takes the place of nothing that is read, and can be written."""
    table = None if output.csv == STANDARD_OUTPUT else output.csv
    require_apart(
        written_by({"--csv": table, "--fit-temperature": labels.fit_temperature, "--out": labels.out}),
        {
            THE_BUNDLE: [source for source, _ in columns],
            "one of the images": [each.image for each in pairs],
            "one of the masks or annotations": [each.mask for each in pairs],
            "the sample": [] if labels.sample is None else [labels.sample],
        },
    )
    for path in filter(None, (table, labels.out)):
        require_writable_file(path)


def _require_fittable(request: PredictRequest, out: Path) -> None:
    """Refuse (OptionError) to fit a temperature on other scores than those that it will be applied to."""
    if request.cover.region.roi is not None:
        raise OptionError("a temperature is fitted on whole images: leave it out", option="roi")
    if request.masks.threshold != MaskOptions().threshold:
        raise OptionError(
            f"a temperature is judged by the classes at the threshold {MaskOptions().threshold}: leave it out",
            option="threshold",
        )
    require_bundle_name(out)
    require_writable_file(out)
    if request.averaging != Averaging():
        raise OptionError(
            "a temperature is fitted on runs without averaging, to which it is applied: leave out crop-size, scales "
            "and flips"
        )


def _tell_unjudged(evaluation: Evaluation) -> None:
    left_out = evaluation.unjudged
    if left_out:
        named = ", ".join(map(shown, left_out[:_NAMED_AT_MOST])) + (", …" if len(left_out) > _NAMED_AT_MOST else "")
        say(f"{len(left_out)} of the images have no pixel that is judged, and are left out: {named}")


def _tell_uncorrected(evaluation: Evaluation) -> None:
    """Say that annotations may be those that `pseg annotate` wrote, which nobody has corrected yet."""
    first = evaluation.scores[0]
    equal = sum(each.accuracy == 1 for each in first.per_image)
    if 2 * equal > first.images:
        say(
            f"on {equal} of {first.images} pictures the labels are what the network found, at every pixel or point: "
            "annotations of `pseg annotate` say nothing of the network before people have corrected them"
        )


def _annotated(images: Sequence[Path], labels: _LabelOptions) -> list[LabelledFiles]:
    found = [(each.picture, each) for each in read_annotations(list_annotations(labels.annotations))]
    matched = match_pictures(images, found, "annotation")
    of_points = [image for image, each in matched if each.of_points]
    if labels.unlabelled is not None and of_points:
        raise OptionError(
            f"{of_points[0]} is labelled by points, which say nothing of the pixels between them: leave it out, so "
            "that the points alone are judged",
            option="unlabelled",
        )
    return [LabelledFiles(image, each.source, each) for image, each in matched]


def _require_labelled_classes(evaluation: Evaluation, labels: _LabelOptions) -> None:
    """Refuse labels on which a class never appears: masks of 0 and 255 are the usual reason."""
    missing = unlabelled_classes(evaluation)
    if not missing:
        return
    remedy = (
        "if another label stands for it in the annotations, say which with --label-names, for example "
        "--label-names SG=seagrass"
        if labels.annotations
        else f"if another value stands for it in the masks ({IGNORED_LABEL} means that a pixel is not judged), map it "
        f"with --label-values, for example --label-values 0=0,{IGNORED_LABEL}=1"
    )
    raise OptionError(
        f"no pixel is labelled as class {', '.join(missing)}: {remedy}; if the class is on none of the images, add "
        "--allow-missing-classes"
    )


def _evaluate(
    columns: Sequence[tuple[Path, PredictRequest]],
    pairs: Sequence[LabelledFiles],
    labels: _LabelOptions,
    sample: Sequence[SampleRow] | None,
    caches: Caches,
) -> tuple[Evaluation, list[Provenance], list[SurveyAccuracy], Temperature | None]:
    limits, bands = columns[0][1].images, labels.pictures.bands

    def read(path: Path) -> SourceImage:
        return read_image(path, **limits.values(), bands=bands)

    with ExitStack() as opened:
        predictors = [opened.enter_context(open_session(source, request, caches)) for source, request in columns]
        for predictor in predictors:
            require_named_bands(bands, predictor.bands)
        names = labels.names(predictors[0].bundle.classes)

        def labelled(step: str) -> Iterator[LabelledImage]:
            tracked = track(pairs, step, console=messages(), transient=True, disable=not messages().is_terminal)
            return read_labelled(tracked, read, labels.label_values, names)

        if labels.fit_temperature is not None:
            predictors[0].score_scale()  # refuses networks that state no confidence, before there is work to lose
        evaluation = evaluate_predictors(predictors, labelled("evaluating"))
        _tell_unjudged(evaluation)
        if predictors[0].profile is not None and any(each.profile is None for each in predictors[1:]):
            say(
                "the first column runs as the tuned profile of its bundle says, and the second does not: name runtime, "
                "provider and precision for both, so that they differ in nothing else"
            )
        if not labels.allow_missing_classes:
            _require_labelled_classes(evaluation, labels)
        if sample is not None and labels.annotations:
            _tell_uncorrected(evaluation)
        accuracies = [] if sample is None else [estimate_accuracy(score, sample) for score in evaluation.scores]
        temperature = None
        if labels.fit_temperature is not None:
            temperature = fit_temperature([*scored_pixels(predictors[0], labelled("fitting the temperature"))])
            write_copy(predictors[0].bundle, {TEMPERATURE_NAME: temperature.to_json()}, labels.fit_temperature)
        return evaluation, [predictor.provenance for predictor in predictors], accuracies, temperature


def _record(
    evaluation: Evaluation,
    columns: Sequence[tuple[Path, PredictRequest]],
    provenances: Sequence[Provenance],
    accuracies: Sequence[SurveyAccuracy],
    temperature: Temperature | None,
) -> dict[str, object]:
    measures = [_measures(score) for score in evaluation.scores]
    results = [
        {
            "bundle": str(source),
            "runtime": provenance.runtime,
            "provider": provenance.provider,
            "precision": provenance.precision,
            **_by_class(evaluation.classes, measured),
            "confusion": score.confusion.tolist(),
            "per_image": [
                {**asdict(each), "confusion": each.confusion.tolist(), "shares": each.shares.tolist()}
                for each in score.per_image
            ],
            "options": options_of_classes(options_with_effect(request, provenance.profile)),
            "provenance": asdict(provenance),
        }
        for (source, request), provenance, measured, score in zip(
            columns, provenances, measures, evaluation.scores, strict=True
        )
    ]
    for result, accuracy in zip(results, accuracies, strict=False):
        result["survey"] = accuracy_record(accuracy, evaluation.classes)
    difference = None if len(measures) == 1 else _by_class(evaluation.classes, _difference(*measures))
    first = evaluation.scores[0]
    record: dict[str, object] = {
        "images": first.images,
        "unjudged": list(evaluation.unjudged),
        "pixels": first.pixels,
        "results": results,
        "difference": difference,
    }
    return record if temperature is None else {**record, "calibration": asdict(temperature)}


@dataclass(frozen=True, slots=True)
class _Measures:
    """A score, or the difference of two: of all classes together, and of each; None where there is nothing to say."""

    together: Mapping[str, float | None]
    of_classes: Sequence[Mapping[str, float | None]]


def _measures(score: Score) -> _Measures:
    return _Measures(
        {"miou": score.miou, "accuracy": score.accuracy},
        [
            {"iou": iou, **asdict(found), "mean_cover_error": error.mean, "max_cover_error": error.max}
            for iou, found, error in zip(score.class_iou, score.class_scores, score.cover_error, strict=True)
        ],
    )


def _difference(first: _Measures, second: _Measures) -> _Measures:
    """The second minus the first; of the mean IoU, over the classes that have one in both."""

    def subtracted(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float | None]:
        return {
            name: None if before is None or (after := other[name]) is None else after - before
            for name, before in one.items()
        }

    of_classes = [subtracted(one, other) for one, other in zip(first.of_classes, second.of_classes, strict=True)]
    ious = [each["iou"] for each in of_classes if each["iou"] is not None]
    together = subtracted(first.together, second.together)
    return _Measures({**together, "miou": sum(ious) / len(ious) if ious else None}, of_classes)


def _by_class(classes: Sequence[SegmentationClass], measures: _Measures) -> dict[str, object]:
    named = [
        {"id": each.id, "name": each.name, **values} for each, values in zip(classes, measures.of_classes, strict=True)
    ]
    return {**measures.together, "classes": named}


def _image_table(evaluation: Evaluation) -> bytes:
    """A row per image: its own IoU of every class, and the cover as it was labelled and as it was found.

    The names of what the second column found begin with `against_`.
    """
    names = [f"{index}_{each.name}" for index, each in enumerate(evaluation.classes)]
    measures = ("iou", "labelled_cover", "found_cover")
    measured = ["miou", "accuracy", *(f"{measure}_{name}" for measure in measures for name in names)]
    columns = ["image", "pixels", *measured]
    if len(evaluation.scores) > 1:
        columns += [f"against_{name}" for name in measured if not name.startswith("labelled_cover_")]
    rows: list[list[object]] = []
    for first, *others in zip(*(score.per_image for score in evaluation.scores), strict=True):
        values = [first.miou, first.accuracy, *first.class_iou, *first.labelled_cover, *first.found_cover]
        for each in others:
            values += [each.miou, each.accuracy, *each.class_iou, *each.found_cover]
        rows.append([first.image, first.pixels, *(None if value is None else round(value, 6) for value in values)])
    return csv_table(columns, rows)


def _show(evaluation: Evaluation, sources: Sequence[Path], provenances: Sequence[Provenance]) -> None:
    columns = [_measures(score) for score in evaluation.scores]
    titles = [
        f"{shown(source.name)}\n{provenance.provider} {provenance.precision}"
        for source, provenance in zip(sources, provenances, strict=True)
    ]
    if len(columns) == 1:
        table = Table("", *titles)
    else:
        columns.append(_difference(*columns))
        table = Table("", *titles, "difference")
    for measure, title in (("miou", "mean IoU"), ("accuracy", "pixel accuracy")):
        table.add_row(title, *_cells(column.together[measure] for column in columns))
    for measure, title in _CLASS_MEASURES:
        table.add_section()
        for index, each in enumerate(evaluation.classes):
            table.add_row(
                f"{title} {shown(each.name)}", *_cells(column.of_classes[index][measure] for column in columns)
            )
    console = results_console(120)
    console.print(table)
    first = evaluation.scores[0]
    names = [each.name for each in evaluation.classes]
    counts = [(name, *map(str, row)) for name, row in zip(names, first.confusion.tolist(), strict=True)]
    print_table(
        console,
        "pixels by labelled class, then by found class",
        Figures(("labelled as \\ found as", *names), tuple(counts)),
        absent="0",
    )
    images = counted(first.images, "image", "images")
    console.print(f"{images}, {first.pixels} labelled pixels; fractions from 0 to 1")
    console.print(
        "mean IoU: every class counts once; accuracy, IoU, precision, recall and F1: every labelled pixel of all "
        "images counts once; cover errors: every image counts once"
    )
    sets = {tuple(iou is None for iou in score.class_iou) for score in evaluation.scores}
    if len(sets) > 1:
        console.print("difference of the mean IoU: over the classes that have an IoU in both columns")


def _show_accuracy(found: SurveyAccuracy, classes: Sequence[SegmentationClass]) -> None:
    table = Table("", "estimate", "error", "95 % interval", title="the whole survey, each picture once")
    table.add_row("accuracy", *_estimate_cells(found.accuracy))
    for title, estimates in (("true cover", found.labelled_cover), ("found minus true", found.bias)):
        table.add_section()
        for each, estimate in zip(classes, estimates, strict=True):
            table.add_row(f"{title} {shown(each.name)}", *_estimate_cells(estimate))
    results_console(120).print(table)


def _estimate_cells(estimate: Estimate) -> tuple[str, str, str]:
    if estimate.standard_error is None or estimate.low is None or estimate.high is None:
        return shown_fraction(estimate.mean, 4), "", "none: one picture of a stratum"
    interval = f"{shown_fraction(estimate.low, 4)} to {shown_fraction(estimate.high, 4)}"
    return shown_fraction(estimate.mean, 4), shown_figure(estimate.standard_error, 4), interval


def _show_temperature(found: Temperature) -> None:
    tell(
        f"temperature {found.temperature:g}, from {found.fitted_pictures} pictures; expected calibration error on the "
        f"other {found.tested_pictures}: {found.error_before:.2%}, with the temperature {found.error_after:.2%}"
    )
    if found.error_after >= found.error_before:
        say("the temperature gains nothing on pictures that it was not fitted on: use the bundle without it")


def _cells(values: Iterable[float | None]) -> list[str]:
    return [shown_share(value, 4) for value in values]

"""`pseg evaluate`: a bundle's masks against labels, and against another bundle's, runtime's or precision's."""

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from csv import writer
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from benchmarks.accuracy.evaluation import Evaluation, Score, read_labelled, require_labelled_classes
from benchmarks.accuracy.evaluation import evaluate as evaluate_predictors
from benchmarks.accuracy.labels import LabelledFiles, match_masks, parse_label_values
from engine import (
    Device,
    OneDnn,
    OptionError,
    Precision,
    Provenance,
    SegmentationClass,
    SourceImage,
    list_images,
    read_image,
)
from engine.system.files import write_atomically
from engine.system.text import csv_cell
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    JsonOption,
    errors_end_the_command,
    messages,
    print_json,
    results_console,
    shown,
)
from service.request import (
    DEFAULT_MAX_IMG_SIZE,
    DEFAULT_MAX_PIXELS,
    THE_BUNDLE,
    PredictRequest,
    ProviderChoice,
    RuntimeChoice,
    build_request,
    require_apart,
    require_writable_file,
    written_by,
)
from service.session import Caches, caches_at, open_session

_CLASS_MEASURES = (
    ("iou", "IoU"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1"),
    ("mean_cover_error", "mean cover error"),
    ("max_cover_error", "max cover error"),
)


def evaluate(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Option(help="files, folders or globs; repeatable")],
    masks: Annotated[
        list[str],
        typer.Option(
            help="PNG of class indices (255: not judged), called as their images; files, folders or globs; repeatable"
        ),
    ],
    against: Annotated[Path | None, typer.Option(metavar="BUNDLE", help="another bundle of the same classes")] = None,
    runtime: Annotated[RuntimeChoice, typer.Option(help="library that runs the network")] = "auto",
    against_runtime: Annotated[RuntimeChoice | None, typer.Option(help="default: that of --runtime")] = None,
    provider: Annotated[ProviderChoice, typer.Option(help="ONNX Runtime's execution provider")] = "auto",
    against_provider: Annotated[ProviderChoice | None, typer.Option(help="default: that of --provider")] = None,
    precision: Annotated[Precision, typer.Option(help="arithmetic of the network")] = Precision.FP32,
    against_precision: Annotated[Precision | None, typer.Option(help="default: that of --precision")] = None,
    device: Annotated[Device | None, typer.Option(help="default: cpu, or what the provider needs")] = None,
    threads: Annotated[
        int | None, typer.Option(help="most threads to use; default: all cores this process may use")
    ] = None,
    max_img_size: Annotated[
        int, typer.Option(help="shrink larger images to so many pixels; -1: never")
    ] = DEFAULT_MAX_IMG_SIZE,
    max_pixels: Annotated[int, typer.Option(help="refuse images that declare more pixels")] = DEFAULT_MAX_PIXELS,
    threshold: Annotated[float, typer.Option(help="for probability maps")] = 0.5,
    mkldnn: Annotated[OneDnn, typer.Option(help="oneDNN under Paddle")] = OneDnn.AUTO,
    label_values: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE=CLASS,…",
            help="which value of the masks stands for which class, such as 0=0,255=1; ignore as class: not judged",
        ),
    ] = None,
    allow_missing_classes: Annotated[
        bool, typer.Option("--allow-missing-classes", help="accept labels on which a class of the bundle never appears")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(help="write a table of the first column's scores, a row per image")
    ] = None,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Measure IoU, precision, recall, F1, accuracy and the error of the cover against labels.

    Any of the options --against... adds a second column: the same but for what they say. IoU, precision, recall and F1
    are taken over the pixels of all images together; the cover error is the mean, or the largest, over the images.
    """
    with errors_end_the_command():
        values = None if label_values is None else parse_label_values(label_values)

        def request(runtime: RuntimeChoice, provider: ProviderChoice, precision: Precision) -> PredictRequest:
            return build_request(
                runtime=runtime,
                provider=provider,
                device=device,
                precision=precision,
                threads=threads,
                max_img_size=max_img_size,
                max_pixels=max_pixels,
                threshold=threshold,
                mkldnn=mkldnn,
            )

        columns = [(bundle, request(runtime, provider, precision))]
        if any((against, against_runtime, against_provider, against_precision)):
            other = request(against_runtime or runtime, against_provider or provider, against_precision or precision)
            columns.append((against or bundle, other))
            _require_difference(*columns)
        pairs = match_masks(list_images(images), list_images(masks))
        require_apart(
            written_by({"--csv": csv}),
            {
                THE_BUNDLE: [source for source, _ in columns],
                "one of the images": [each.image for each in pairs],
                "one of the masks": [each.mask for each in pairs],
            },
        )
        if csv is not None:
            require_writable_file(csv)
        evaluation, provenances = _evaluate(columns, pairs, values, caches_at(cache_dir))
        if not allow_missing_classes:
            require_labelled_classes(evaluation)
        if csv is not None:
            write_atomically(csv, _image_table(evaluation))
    sources = [source for source, _ in columns]
    if json_output:
        print_json(_record(evaluation, sources, provenances))
    else:
        _show(evaluation, sources, provenances)


def _require_difference(one: tuple[Path, PredictRequest], other: tuple[Path, PredictRequest]) -> None:
    if one == other:
        raise OptionError("the two columns are the same: let --against... name another bundle, runtime or precision")


def _evaluate(
    columns: Sequence[tuple[Path, PredictRequest]],
    pairs: Sequence[LabelledFiles],
    values: Mapping[int, int] | None,
    caches: Caches,
) -> tuple[Evaluation, list[Provenance]]:
    limits = columns[0][1]

    def read(path: Path) -> SourceImage:
        return read_image(path, max_img_size=limits.max_img_size, max_pixels=limits.max_pixels)

    with ExitStack() as opened:
        predictors = [opened.enter_context(open_session(source, request, caches)) for source, request in columns]
        tracked = track(pairs, "evaluating", console=messages(), transient=True, disable=not messages().is_terminal)
        evaluation = evaluate_predictors(predictors, read_labelled(tracked, read, values))
        return evaluation, [predictor.provenance for predictor in predictors]


def _record(evaluation: Evaluation, sources: Sequence[Path], provenances: Sequence[Provenance]) -> dict[str, object]:
    measures = [_measures(score) for score in evaluation.scores]
    results = [
        {
            "bundle": str(source),
            "runtime": provenance.runtime,
            "provider": provenance.provider,
            "precision": provenance.precision,
            **_by_class(evaluation.classes, measured),
            "confusion": score.confusion.tolist(),
            "per_image": [asdict(each) for each in score.per_image],
            "provenance": asdict(provenance),
        }
        for source, provenance, measured, score in zip(sources, provenances, measures, evaluation.scores, strict=True)
    ]
    difference = None if len(measures) == 1 else _by_class(evaluation.classes, _difference(*measures))
    first = evaluation.scores[0]
    return {"images": first.images, "pixels": first.pixels, "results": results, "difference": difference}


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
    """The second minus the first."""

    def subtracted(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float | None]:
        return {
            name: None if before is None or (after := other[name]) is None else after - before
            for name, before in one.items()
        }

    return _Measures(
        subtracted(first.together, second.together),
        [subtracted(one, other) for one, other in zip(first.of_classes, second.of_classes, strict=True)],
    )


def _by_class(classes: Sequence[SegmentationClass], measures: _Measures) -> dict[str, object]:
    named = [
        {"id": each.id, "name": each.name, **values} for each, values in zip(classes, measures.of_classes, strict=True)
    ]
    return {**measures.together, "classes": named}


def _image_table(evaluation: Evaluation) -> bytes:
    """A row per image: its own IoU of every class, and the cover as it was labelled and as it was found."""
    names = [f"{index}_{each.name}" for index, each in enumerate(evaluation.classes)]
    text = io.StringIO(newline="")
    rows = writer(text, lineterminator="\n")
    measures = ("iou", "labelled_cover", "found_cover")
    columns = ["image", "pixels", "miou", "accuracy", *(f"{measure}_{name}" for measure in measures for name in names)]
    rows.writerow(map(csv_cell, columns))
    for each in evaluation.scores[0].per_image:
        of_classes = (*each.class_iou, *each.labelled_cover, *each.found_cover)
        cells = ["" if value is None else round(value, 6) for value in (each.miou, each.accuracy, *of_classes)]
        rows.writerow([csv_cell(each.image), each.pixels, *cells])
    return text.getvalue().encode()


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
    counts = Table("labelled as \\ found as", *(shown(each.name) for each in evaluation.classes), title="pixels")
    for each, row in zip(evaluation.classes, first.confusion.tolist(), strict=True):
        counts.add_row(shown(each.name), *map(str, row))
    console.print(counts)
    console.print(f"{first.images} images, {first.pixels} labelled pixels; fractions from 0 to 1")


def _cells(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:z.4f}" for value in values]

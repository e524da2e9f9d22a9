"""`pseg evaluate`: a bundle's masks against labels, and against another bundle's, runtime's or precision's."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from benchmarks.evaluation import Evaluation, Score, read_labelled
from benchmarks.evaluation import evaluate as evaluate_predictors
from benchmarks.labels import match_masks
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
    PredictRequest,
    ProviderChoice,
    RuntimeChoice,
    build_request,
)
from service.session import Caches, caches_at, open_session

_CLASS_MEASURES = (("iou", "IoU"), ("mean_cover_error", "mean cover error"), ("max_cover_error", "max cover error"))


def evaluate(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Option(help="files, folders or globs; repeatable")],
    masks: Annotated[
        list[str],
        typer.Option(help="PNG of class indices (255: not judged), called as their images; files, folders or globs"),
    ],
    against: Annotated[Path | None, typer.Option(metavar="BUNDLE", help="another bundle of the same classes")] = None,
    runtime: Annotated[RuntimeChoice, typer.Option(help="library that runs the network")] = "auto",
    against_runtime: Annotated[RuntimeChoice | None, typer.Option(help="default: that of --runtime")] = None,
    provider: Annotated[ProviderChoice, typer.Option(help="ONNX Runtime's execution provider")] = "auto",
    against_provider: Annotated[ProviderChoice | None, typer.Option(help="default: that of --provider")] = None,
    precision: Annotated[Precision, typer.Option(help="arithmetic of the network")] = Precision.FP32,
    against_precision: Annotated[Precision | None, typer.Option(help="default: that of --precision")] = None,
    device: Annotated[Device | None, typer.Option(help="default: cpu, or what the provider needs")] = None,
    threads: Annotated[int | None, typer.Option(help="ceiling; default: all cores this process may use")] = None,
    max_img_size: Annotated[
        int, typer.Option(help="shrink larger images to so many pixels; -1: never")
    ] = DEFAULT_MAX_IMG_SIZE,
    max_pixels: Annotated[int, typer.Option(help="refuse images that declare more pixels")] = DEFAULT_MAX_PIXELS,
    threshold: Annotated[float, typer.Option(help="for probability maps")] = 0.5,
    mkldnn: Annotated[OneDnn, typer.Option(help="oneDNN under Paddle")] = OneDnn.AUTO,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Measure IoU, accuracy and the error of the cover against labels.

    Any of the options --against... adds a second column: the same but for what they say.
    """
    with errors_end_the_command():

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
        evaluation, provenances = _evaluate(columns, list_images(images), list_images(masks), caches_at(cache_dir))
    sources = [source for source, _ in columns]
    if json_output:
        print_json(_record(evaluation, sources, provenances))
    else:
        _show(evaluation, sources, provenances)


def _require_difference(one: tuple[Path, PredictRequest], other: tuple[Path, PredictRequest]) -> None:
    if one == other:
        raise OptionError("the two columns are the same: let --against... name another bundle, runtime or precision")


def _evaluate(
    columns: Sequence[tuple[Path, PredictRequest]], images: list[Path], masks: list[Path], caches: Caches
) -> tuple[Evaluation, list[Provenance]]:
    pairs = match_masks(images, masks)
    limits = columns[0][1]

    def read(path: Path) -> SourceImage:
        return read_image(path, max_img_size=limits.max_img_size, max_pixels=limits.max_pixels)

    with ExitStack() as opened:
        predictors = [opened.enter_context(open_session(source, request, caches)) for source, request in columns]
        shown = track(pairs, "evaluating", console=messages(), transient=True, disable=not messages().is_terminal)
        evaluation = evaluate_predictors(predictors, read_labelled(shown, read))
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
            "provenance": asdict(provenance),
        }
        for source, provenance, measured in zip(sources, provenances, measures, strict=True)
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
            {"iou": iou, "mean_cover_error": error.mean, "max_cover_error": error.max}
            for iou, error in zip(score.class_iou, score.cover_error, strict=True)
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
    console.print(f"{first.images} images, {first.pixels} labelled pixels; shares of 1")


def _cells(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:z.4f}" for value in values]

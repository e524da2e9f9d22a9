"""`pseg convert`: a bundle that also holds ONNX."""

import dataclasses
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from converters.conversion import Conversion, ConversionRequest, calibration_statistics, write_bundle, write_copy
from converters.conversion import convert as convert_bundle
from converters.exporting.packing import require_bundle_name
from converters.scores import ScoresBundle, with_scores
from engine import Bundle, ConversionError, OptionError, Precision, open_bundle
from engine.declaration import Options, option
from engine.images.quality import STATISTICS_NAME
from engine.images.size import require_named_bands
from engine.quantities import shown_figure, shown_fraction
from engine.runtimes.programs.input_bands import image_bands
from engine.system.text import legible
from service.commands.flags import with_flags
from service.commands.groups import PictureOptions, require_pictures_to_read
from service.commands.limits import LimitOptions
from service.commands.named_pictures import named_pictures, require_folders
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    JsonOption,
    lines_of_steps,
    messages,
    print_json,
    tell,
)
from service.request import THE_BUNDLE, require_apart, require_writable_file, written_by
from service.session import caches_at

_PARITY_FIELDS = (
    "images", "pixel_agreement", "mismatched_ppm", "class_iou", "min_class_iou", "max_cover_error",
    "max_abs_logit_error", "worst_image",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _PictureOptions(Options):
    """Pictures that a conversion is made with and judged on."""

    title: ClassVar[str] = "Pictures"

    calibrate: tuple[str, ...] = option(
        (),
        "At least 8 pictures like those that the network is for: files, folders or globs. May be repeated. int8 is "
        "calibrated on them; their statistics are kept in the bundle, so that photographs that are unlike them are "
        "flagged.",
        repeatable=True,
    )
    verify: tuple[str, ...] = option(
        (),
        "Pictures on which the masks are compared: files, folders or globs. May be repeated. By default those for the "
        "calibration (int8 is then not calibrated on every fourth of them, if enough are left) or, if there are none, "
        "generated pictures.",
        repeatable=True,
    )
    read: PictureOptions = PictureOptions()


@dataclass(frozen=True, slots=True)
class _CopyOptions(Options):
    """What the copy of the bundle is to hold."""

    title: ClassVar[str] = "The copy"

    replace: bool = option(False, "Replace a model that the bundle already holds.")
    scores: bool = option(
        False,
        "Cut the last argmax off the network, so that it returns scores: borders of masks are then finer, and tiles "
        "can be blended.",
    )


@with_flags()
def convert(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="Archive to write. The bundle itself is not changed.")],
    request: ConversionRequest,
    pictures: _PictureOptions,
    limits: LimitOptions,
    copy: _CopyOptions,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Write a copy of a bundle that also holds onnx/PRECISION/model.onnx and its certificate.

    With --scores, the copy holds a network that returns scores, made from one that returns masks.
    """
    started = time.perf_counter()
    recursive = pictures.read.recursive
    named = (*pictures.calibrate, *pictures.verify)
    require_folders(named, recursive=recursive)
    request = dataclasses.replace(
        request,
        calibration=tuple(named_pictures(pictures.calibrate, option="calibrate", recursive=recursive)),
        verification=tuple(named_pictures(pictures.verify, option="verify", recursive=recursive)),
        bands=pictures.read.bands,
        limits=limits.of(request.precision),
    )
    require_bundle_name(out)
    require_pictures_to_read(named, bands=pictures.read.bands, limits=request.images)
    seen = [*request.calibration, *request.verification]
    require_apart(written_by({"--out": out}), {THE_BUNDLE: [bundle], "one of the pictures": seen})
    require_writable_file(out)
    caches = caches_at(cache_dir)
    with open_bundle(bundle) as opened, ExitStack() as stack:
        statistics = _statistics(opened, request)
        advance = stack.enter_context(_progress())
        made = None
        source = opened
        if copy.scores:
            advance("cutting the argmax off", 0, 1)
            compared = ((path.name, request.read(path)) for path in request.compared_files)
            made = stack.enter_context(with_scores(opened, compared, load_marks=caches.load_marks))
            source = made.bundle
        conversion = made.as_conversion(request) if made else None
        if conversion is None and source.paddle is None and request.precision is Precision.FP32:
            _write_statistics(source, request, out, statistics, replace=copy.replace)
            _tell_of_statistics(out, request, json_output=json_output)
            return
        if conversion is None:
            _require_room(source, request.precision, replace=copy.replace)
            conversion = convert_bundle(
                source, caches.conversions, request, load_marks=caches.load_marks, advance=advance
            )
        write_bundle(source, conversion, out, statistics)
        record = _record(out, conversion, made, time.perf_counter() - started)
    if json_output:
        print_json(record)
    else:
        _tell(record, conversion)
        if made is not None:
            _tell_of_scores(made)


def _statistics(bundle: Bundle, request: ConversionRequest) -> bytes | None:
    """Of the pictures of the calibration; None where there are none, or no photograph can be compared with them."""
    if request.calibration or request.verification:
        require_named_bands(request.bands, image_bands(bundle))
    if not request.calibration:
        return None
    statistics = calibration_statistics(request)
    if statistics is None and request.precision is not Precision.INT8:
        raise OptionError(
            f"photographs are not compared with pictures of {len(request.bands or ())} bands, and {request.precision} "
            "needs no calibration: leave it out",
            option="calibrate",
        )
    return statistics


def _require_room(bundle: Bundle, precision: Precision, *, replace: bool) -> None:
    if bundle.onnx_model(precision) is not None and not replace:
        raise ConversionError(
            f"{bundle.source}: already holds onnx/{precision}/model.onnx: add --replace to write a copy with a new one"
        )


def _write_statistics(
    bundle: Bundle, request: ConversionRequest, out: Path, statistics: bytes | None, *, replace: bool
) -> None:
    """Without a Paddle program nothing becomes FP32: pictures to calibrate on can only add their statistics."""
    asked = ConversionRequest(
        calibration=request.calibration,
        bands=request.bands,
        images=request.images,
        limits=LimitOptions().of(request.precision),
    )
    if statistics is None or replace or request != asked:
        raise ConversionError(
            f"{bundle.source}: holds no Paddle program to convert, so that its ONNX models stay as they are: with "
            "--calibrate alone, a copy gets the statistics of the pictures"
        )
    write_copy(bundle, {STATISTICS_NAME: statistics}, out)


def _tell_of_statistics(out: Path, request: ConversionRequest, *, json_output: bool) -> None:
    if json_output:
        print_json({"bundle": str(out), "statistics": len(request.calibration)})
    else:
        tell(
            f"{legible(str(out))}: with the statistics of {len(request.calibration)} pictures, and the same models: "
            "without a Paddle program there is nothing to convert"
        )


@contextmanager
def _progress() -> Generator[Callable[[str, int, int], None]]:
    if not messages().is_terminal:
        tell_step = lines_of_steps()
        yield lambda step, _done, _total: tell_step(step)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages(), transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def advance(step: str, done: int, total: int) -> None:
            progress.update(task, description=legible(step), completed=done, total=total)

        yield advance


def _record(out: Path, conversion: Conversion, scores: ScoresBundle | None, seconds: float) -> dict[str, object]:
    certificate = conversion.certificate
    cut = {} if scores is None else {"scores": _scores_record(scores)}
    return {
        "bundle": str(out),
        "precision": certificate.precision,
        "opset": certificate.opset,
        "dynamic": certificate.input_shape is None,
        "size_bytes": conversion.model.path.stat().st_size,
        "seconds": round(seconds, 3),
        "excluded_nodes": list(certificate.excluded_nodes),
        "parity": {field: getattr(certificate.report, field) for field in _PARITY_FIELDS},
        **cut,
    }


def _scores_record(scores: ScoresBundle) -> dict[str, object]:
    report = scores.report
    return {
        "derived_from": scores.bundle.derived_from,
        "images": report.images,
        "mismatched_ppm": report.mismatched_ppm,
        "left_out": list(scores.left_out),
    }


def _tell(record: dict[str, Any], conversion: Conversion) -> None:
    certificate = conversion.certificate
    size_mib = record["size_bytes"] / 2**20
    tell(
        f"{legible(str(record['bundle']))}: onnx/{certificate.precision}/model.onnx, {size_mib:.1f} MiB, "
        f"opset {certificate.opset}, {record['seconds']} s"
    )
    report = certificate.report
    tell(
        f"against {report.reference.provider} on {report.images} {certificate.compared_on} pictures: "
        f"{shown_figure(report.mismatched_ppm, 1)} mismatched pixels per million, smallest class IoU "
        f"{shown_fraction(report.min_class_iou, 4)}, "
        f"cover off by at most {shown_fraction(report.max_cover_error, 4)}"
    )
    if certificate.largest_activation is not None:
        tell(
            f"largest value between layers: {certificate.largest_activation:.4g}; compared on "
            f"{report.candidate.provider}, which computes between layers in FP32: repeat it on the GPU with pseg verify"
        )
    if certificate.excluded_nodes:
        tell(f"left in floating point: {len(certificate.excluded_nodes)} nodes")


def _tell_of_scores(scores: ScoresBundle) -> None:
    tell(
        f"the last argmax of bundle {scores.bundle.derived_from} is cut off: the class with the largest score is the "
        f"original's in every pixel of {scores.report.images} pictures"
    )
    if scores.left_out:
        tell(f"left out, because they hold for masks only: {legible(', '.join(scores.left_out))}; make them again")

"""`pseg verify`: the certificate of a conversion, repeated."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import typer
from pydantic import TypeAdapter
from rich.table import Table

from converters.parity import ParityReport, require_parity
from engine import OnnxOptions, Precision, Provider, open_bundle
from engine.declaration import Options
from engine.images import ImageLimits
from engine.quantities import shown_figure, shown_fraction
from engine.system.machine.cores import usable_cores
from engine.system.text import legible
from service.commands.flags import with_flags
from service.commands.groups import PictureOptions, require_pictures_to_read
from service.commands.limits import LimitOptions
from service.commands.named_pictures import named_pictures, require_folders
from service.commands.terminal import BundleArgument, CacheOption, JsonOption, print_json, results_console, shown
from service.session import caches_at, certify


@dataclass(frozen=True, slots=True)
class _PictureOptions(Options):
    """How the pictures are read that both run on: as those that they will see."""

    title: ClassVar[str] = "Pictures"

    read: PictureOptions = PictureOptions()
    limits: ImageLimits = ImageLimits()


@with_flags()
def verify(
    bundle: BundleArgument,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Files, folders or globs. May be repeated. By default pictures of three sizes are generated."
        ),
    ] = None,
    provider: Annotated[
        Literal["cpu", "openvino", "cuda", "tensorrt"], typer.Option(help="Execution provider of ONNX Runtime.")
    ] = "cpu",
    precision: Annotated[
        Precision, typer.Option(help="Number format of the ONNX model in the bundle.")
    ] = Precision.FP32,
    *,
    limits: LimitOptions,
    pictures: _PictureOptions,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Compare a bundle's ONNX model with its Paddle program on this machine."""
    require_folders(images or [], recursive=pictures.read.recursive)
    paths = named_pictures(images or [], option="images", recursive=pictures.read.recursive)
    require_pictures_to_read(paths, bands=pictures.read.bands, limits=pictures.limits)
    with open_bundle(bundle) as opened:
        report = certify(
            opened,
            OnnxOptions(provider=Provider(provider), precision=precision, threads=usable_cores()),
            caches_at(cache_dir),
            paths,
            limits=pictures.limits,
            bands=pictures.read.bands,
        )
    if json_output:
        print_json(TypeAdapter(ParityReport).dump_python(report))
    else:
        _show_report(report)
    require_parity(report, limits.of(precision), where=str(bundle))


def _show_report(report: ParityReport) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("images", str(report.images))
    table.add_row("mismatched pixels per million", shown_figure(report.mismatched_ppm, 1))
    for name, iou in report.class_iou.items():
        table.add_row(
            f"IoU {shown(name)}", shown_fraction(iou, 5) + ("" if name in report.gated_classes else " (rare)")
        )
    table.add_row("largest cover error", shown_fraction(report.max_cover_error, 6))
    if report.max_abs_logit_error is not None:
        table.add_row("largest score error", f"{report.max_abs_logit_error:.2g} of a range of {report.logit_range:.3g}")
    table.add_row("worst image", legible(report.worst_image))
    table.add_row("reference", report.reference.provider)
    table.add_row("candidate", f"{report.candidate.provider} {report.candidate.precision}")
    results_console().print(table)

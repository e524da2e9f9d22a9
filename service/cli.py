"""The command `pseg`."""

import io
import json
import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from converters.paddle_to_onnx import OPSET, convert, write_bundle
from converters.parity import ParityError, ParityLimits, ParityReport, require_parity
from engine import (
    BundleError,
    ConversionError,
    Device,
    EngineError,
    Failed,
    MaskSize,
    ModelLoadError,
    OneDnn,
    OnnxOptions,
    OptionError,
    Precision,
    Provider,
    Segmented,
    list_images,
    open_bundle,
)
from engine.cores import usable_cores
from service.inspection import inspection
from service.request import (
    DEFAULT_MAX_IMG_SIZE,
    DEFAULT_MAX_PIXELS,
    PredictRequest,
    build_request,
    require_writable,
    require_writable_file,
)
from service.results import (
    CoverTable,
    ImageTask,
    ResultWriter,
    distinct_stems,
    require_inputs_kept,
    result_record,
    write_atomically,
)
from service.session import build_pipeline, caches_at, certify, open_session

app = typer.Typer(
    name="pseg",
    help="Segment photographs with PaddleSeg model bundles, on Paddle Inference or ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_messages = Console(stderr=True)
_log = logging.getLogger(__name__)


class ExitStatus(IntEnum):
    """How every command ends."""

    DONE = 0
    INCOMPLETE = 1
    """Some or all images failed, or an accuracy limit was missed."""
    WRONG_REQUEST = 2
    UNUSABLE_MODEL = 3


def exit_status_of(error: EngineError) -> ExitStatus:
    """Choose the exit status of an error that ends a command.

    Args:
        error: what was raised.

    Returns:
        1 for a missed accuracy limit; 3 for bundle, model and conversion; 2 for everything that was asked for and
        cannot be had.
    """
    if isinstance(error, ParityError):
        return ExitStatus.INCOMPLETE
    if isinstance(error, BundleError | ModelLoadError | ConversionError):
        return ExitStatus.UNUSABLE_MODEL
    return ExitStatus.WRONG_REQUEST


@contextmanager
def _errors_end_the_command() -> Generator[None]:
    try:
        yield
    except EngineError as error:
        _messages.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        _messages.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_status_of(error)) from error


BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="model bundle: .tgz, .tar or folder")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")]
CacheOption = Annotated[
    Path | None, typer.Option("--cache-dir", help="converted models and engines; default: the user's cache folder")
]


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what is done, on stderr")] = False,
) -> None:
    """Set up logging."""
    handler = RichHandler(console=_messages, show_path=False, show_time=False)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler], format="%(message)s")
    logging.captureWarnings(capture=True)


@app.command()
def predict(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="files, folders or globs")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("masks"),
    runtime: Annotated[Literal["auto", "onnx", "paddle"], typer.Option(help="library that runs the network")] = "auto",
    provider: Annotated[
        Literal["auto", "cpu", "openvino", "cuda", "tensorrt"], typer.Option(help="ONNX Runtime's execution provider")
    ] = "auto",
    device: Annotated[Device | None, typer.Option(help="default: cpu, or what the provider needs")] = None,
    precision: Annotated[Precision, typer.Option(help="arithmetic of the network")] = Precision.FP32,
    threads: Annotated[int | None, typer.Option(help="ceiling; default: all cores this process may use")] = None,
    batch_size: Annotated[int, typer.Option(help="images that may share one run")] = 1,
    max_img_size: Annotated[
        int, typer.Option(help="shrink larger images to so many pixels; -1: never")
    ] = DEFAULT_MAX_IMG_SIZE,
    max_pixels: Annotated[int, typer.Option(help="refuse images that declare more pixels")] = DEFAULT_MAX_PIXELS,
    mask_size: Annotated[
        MaskSize, typer.Option(help="size of the masks: the source's, or after --max-img-size")
    ] = MaskSize.ORIGINAL,
    save: Annotated[str, typer.Option(help="pictures to write: any of pseudo,mask,overlay; or none")] = "pseudo",
    threshold: Annotated[float, typer.Option(help="for probability maps and multilabel bundles")] = 0.5,
    mkldnn: Annotated[OneDnn, typer.Option(help="oneDNN under Paddle")] = OneDnn.AUTO,
    use_trt: Annotated[bool, typer.Option("--use-trt", help="TensorRT (needs a GPU)")] = False,
    min_subgraph_size: Annotated[int, typer.Option(help="smallest subgraph that TensorRT takes")] = 3,
    auto_tune_shapes: Annotated[
        bool, typer.Option("--auto-tune-shapes", help="collect TensorRT's shape profile from these images")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="write a table of cover, a row per image")] = None,
    json_lines: JsonOption = False,
    cache_dir: CacheOption = None,
    print_detail: Annotated[bool, typer.Option("--print-detail", help="let the vendor's library log")] = False,
) -> None:
    """Segment images: a mask and the cover of every class for each."""
    with _errors_end_the_command():
        request = build_request(
            runtime=runtime,
            provider=provider,
            device=device,
            precision=precision,
            threads=threads,
            batch_size=batch_size,
            max_img_size=max_img_size,
            max_pixels=max_pixels,
            mask_size=mask_size,
            save=frozenset[str]() if save == "none" else frozenset(save.split(",")),
            threshold=threshold,
            mkldnn=mkldnn,
            use_trt=use_trt,
            min_subgraph_size=min_subgraph_size,
            auto_tune_shapes=auto_tune_shapes,
            print_detail=print_detail,
        )
        paths = list_images(images)
        require_writable(out)
        if csv is not None:
            require_writable_file(csv)
        failed = _predict_all(bundle, paths, request, out, csv, cache_dir, json_lines=json_lines)
    if failed:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _predict_all(
    bundle: Path,
    paths: list[Path],
    request: PredictRequest,
    out: Path,
    csv: Path | None,
    cache_dir: Path | None,
    *,
    json_lines: bool,
) -> int:
    tasks = [ImageTask(path, stem) for path, stem in zip(paths, distinct_stems(paths), strict=True)]
    require_inputs_kept(tasks, out, request.save)
    table = CoverTable()
    failed = 0
    try:
        with open_session(bundle, request, caches_at(cache_dir), paths) as predictor, _progress(len(tasks)) as advance:
            pipeline = build_pipeline(predictor, request, ResultWriter(out, request.save))
            for result in pipeline.run(tasks):
                table.add(result)
                failed += isinstance(result, Failed)
                if json_lines:
                    _print_json(result_record(result, predictor.provenance))
                else:
                    _tell(result)
                advance()
    finally:
        if csv is not None and table.rows:
            write_atomically(csv, table.to_csv())
    return failed


def _tell(result: Segmented[ImageTask, Path | None] | Failed[ImageTask]) -> None:
    if isinstance(result, Failed):
        named, reason = str(result.source.path), str(result.error)
        # What fails behind the reading of the file does not know its name.
        text = f"failed: {reason}" if named in reason else f"failed: {named}: {reason}"
        _messages.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        return
    covers = ", ".join(f"{each.segmentation_class.name} {each.cover:.1%}" for each in result.prediction.covers)
    where = "" if result.encoded is None else f" -> {result.encoded}"
    typer.echo(f"{result.source.path}{where}: {covers}")


@contextmanager
def _progress(total: int) -> Generator[Callable[[], None]]:
    columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_messages, transient=True, disable=not _messages.is_terminal) as progress:
        task = progress.add_task("segmenting", total=total)

        def advance() -> None:
            progress.advance(task)

        yield advance


def _print_json(record: object) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@app.command()
def inspect(bundle: BundleArgument, json_output: JsonOption = False) -> None:
    """Show what a bundle holds, and warn of what will bite."""
    with _errors_end_the_command(), open_bundle(bundle, inspect_only=True) as opened:
        record = inspection(opened)
    if json_output:
        _print_json(record)
        return
    out = Console()
    facts = Table(show_header=False, box=None)
    facts.add_row("name", escape(record["name"]))
    facts.add_row("digest", record["digest"])
    facts.add_row("transforms", escape("\n".join(record["transforms"])) or "none")
    paddle = record["paddle"]
    facts.add_row(
        "paddle", "none" if paddle is None else escape(f"{paddle['program']} ({paddle['kind']}), {paddle['params']}")
    )
    facts.add_row("onnx", ", ".join(each["precision"] for each in record["onnx"]) or "none")
    facts.add_row("declares", escape(", ".join(f"{field} {value}" for field, value in record["declared"].items())))
    out.print(facts)
    classes = Table("index", "class", "id", "colour")
    for each in record["classes"]:
        swatch = "" if each["color"] is None else f"[on rgb({','.join(map(str, each['color']))})]   [/] {each['color']}"
        classes.add_row(str(each["index"]), escape(each["name"]), escape(each["id"]), swatch)
    out.print(classes)
    for warning in record["warnings"]:
        out.print(f"[yellow]![/] {escape(warning)}", highlight=False, soft_wrap=True)


@app.command("convert")
def convert_bundle(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="the archive to write; the bundle itself is not changed")],
    opset: Annotated[int, typer.Option(help="ONNX operator set")] = OPSET,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Write a copy of a bundle that also holds onnx/fp32/model.onnx."""
    with _errors_end_the_command():
        require_writable_file(out)
        if out.resolve() == bundle.resolve():
            raise OptionError(
                f"{out} is the bundle itself, which is never changed in place: name another file with --out"
            )
        with open_bundle(bundle) as opened, _messages.status("converting", spinner="line"):
            caches = caches_at(cache_dir)
            conversion = convert(opened, caches.conversions, opset=opset, ledger=caches.ledger)
            write_bundle(opened, conversion, out)
            size_bytes = conversion.model.path.stat().st_size
            certificate = json.loads(conversion.certificate.read_text())
    if json_output:
        record = {"bundle": str(out), "precision": conversion.model.precision, "opset": opset, "size_bytes": size_bytes}
        _print_json({**record, "parity": certificate})
    else:
        typer.echo(
            f"{out}: onnx/{conversion.model.precision}/model.onnx, {size_bytes / 1e6:.1f} MB, opset {opset}, "
            f"{certificate['mismatched_ppm']:.1f} mismatched pixels per million against Paddle"
        )


@app.command()
def verify(
    bundle: BundleArgument,
    images: Annotated[
        list[str] | None, typer.Option(help="files, folders or globs; default: generated pictures of three sizes")
    ] = None,
    provider: Annotated[
        Literal["cpu", "openvino", "cuda", "tensorrt"], typer.Option(help="ONNX Runtime's execution provider")
    ] = "cpu",
    precision: Annotated[Precision, typer.Option(help="which ONNX model of the bundle")] = Precision.FP32,
    min_agreement: Annotated[float, typer.Option(help="share of pixels that must agree")] = 0.9999,
    min_iou: Annotated[float | None, typer.Option(help="smallest class IoU")] = None,
    max_cover_error: Annotated[float | None, typer.Option(help="largest error of a cover")] = None,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Compare a bundle's ONNX model with its Paddle program on this machine."""
    with _errors_end_the_command():
        limits = ParityLimits(1e6 * (1 - min_agreement), min_iou, max_cover_error)
        with open_bundle(bundle) as opened:
            report = certify(
                opened,
                OnnxOptions(provider=Provider(provider), precision=precision, threads=usable_cores()),
                caches_at(cache_dir),
                list_images(images or []),
            )
        if json_output:
            _print_json(TypeAdapter(ParityReport).dump_python(report, mode="json"))
        else:
            _show_report(report)
        require_parity(report, limits, where=str(bundle))


def _show_report(report: ParityReport) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("images", str(report.images))
    table.add_row("mismatched pixels per million", f"{report.mismatched_ppm:.1f}")
    for name, iou in report.class_iou.items():
        table.add_row(f"IoU {name}", f"{iou:.5f}" + ("" if name in report.gated_classes else " (rare)"))
    table.add_row("largest cover error", f"{report.max_cover_error:.6f}")
    if report.max_abs_logit_error is not None:
        table.add_row("largest score error", f"{report.max_abs_logit_error:.2g} of a range of {report.logit_range:.3g}")
    table.add_row("worst image", report.worst_image)
    table.add_row("reference", report.reference.provider)
    table.add_row("candidate", f"{report.candidate.provider} {report.candidate.precision}")
    Console().print(table)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="default: the demo bundle")] = None,
    cache_dir: CacheOption = None,
) -> None:
    """Tell what is installed, which runtimes really start, and what to do about the others."""
    from service.demonstration import demo_bundle
    from service.doctor import cores_line, installed_versions, known_bad, try_starts

    out = Console()
    versions = installed_versions()
    with _errors_end_the_command():
        starts = try_starts(bundle or demo_bundle(), caches_at(cache_dir))
    out.print(f"cores: {cores_line()}", highlight=False)
    installed = Table("library", "version")
    for name, version in versions.items():
        installed.add_row(name, version or "[dim]not installed[/]")
    out.print(installed)
    runtimes = Table("runtime", "starts", "detail")
    for each in starts:
        runtimes.add_row(each.label, "[green]yes[/]" if each.works else "[yellow]no[/]", escape(each.detail))
    out.print(runtimes)
    for finding in known_bad(versions):
        out.print(f"[red]![/] {finding}", highlight=False)


@app.command()
def demo(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE…]", help="default: rendered pictures")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("demo-output"),
    cache_dir: CacheOption = None,
) -> None:
    """Segment pictures with the demo bundle on every CPU runtime and compare the masks."""
    from service.demonstration import demonstrate

    with _errors_end_the_command():
        require_writable(out)
        shown = demonstrate(images or [], out, caches_at(cache_dir))
    table = Table("runtime", "provider", "cover", "mismatched ppm", "ms per image")
    for row in shown.rows:
        mismatched = "reference" if row is shown.rows[0] else f"{row.mismatched_ppm:.1f}"
        covers = ", ".join(f"{name} {share:.1%}" for name, share in row.covers.items())
        table.add_row(row.runtime, row.provider, escape(covers), mismatched, f"{row.run_ms:.0f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        f"{shown.image_count} images; mismatched: pixels per million against the first row; "
        f"ms: one run of the network, median",
        highlight=False,
    )
    for reason in shown.absent:
        console.print(f"not here: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"masks, pseudo-colour pictures and overlays: {shown.pictures}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that no encoding knows; one such name must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()

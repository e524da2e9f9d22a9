"""`pseg predict`: images in, masks out."""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine import Device, Failed, MaskSize, OneDnn, Pipeline, Precision, Predictor, Provenance, Segmented
from engine.images import find_images, is_tiff
from engine.segmentation.averaging import Averaging, averaged
from engine.system.files import write_atomically
from engine.system.text import legible
from service.collections.sharding import parse_shard
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    ExitStatus,
    JsonOption,
    Products,
    errors_end_the_command,
    messages,
    print_json,
    say,
    shown,
    tell,
)
from service.commands.tile_options import (
    BandsOption,
    CropSizeOption,
    FlipHorizontalOption,
    FlipVerticalOption,
    MaxMemoryOption,
    OverlapOption,
    PageOption,
    ScalesOption,
    StrideOption,
    TileOption,
    TileSizeOption,
    VectorsOption,
    averaging_request,
    chosen_pages,
    large_image_request,
)
from service.request import (
    DEFAULT_MAX_IMG_SIZE,
    DEFAULT_MAX_PIXELS,
    THE_BUNDLE,
    PredictRequest,
    build_request,
    require_apart,
    require_writable,
    require_writable_file,
    written_by,
)
from service.results.large_image_request import LargeImageRequest
from service.results.ledger import Entry, Listing, ledger_path, ledgers_in, list_tasks, open_ledger, run_of
from service.results.pictures import (
    CoverTable,
    ImageTask,
    ResultWriter,
    require_inputs_kept,
    require_results_apart,
    result_paths,
)
from service.session import Caches, build_pipeline, caches_at, open_session

if TYPE_CHECKING:
    from service.results.rasters import LargeImages

_REPORT_SIDE_PX = 1280
"""The largest picture that a report shows."""

Result = Segmented[ImageTask, Path | None] | Failed[ImageTask]


def predict(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="files, folders or globs")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("masks"),
    runtime: Annotated[Literal["auto", "onnx", "paddle"], typer.Option(help="library that runs the network")] = "auto",
    provider: Annotated[
        Literal["auto", "cpu", "openvino", "cuda", "tensorrt"], typer.Option(help="ONNX Runtime's execution provider")
    ] = "auto",
    device: Annotated[Device | None, typer.Option(help="default: cpu, or what the provider needs")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="arithmetic of the network; default: the tuned profile's, or fp32")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="most threads to use; default: all cores this process may use")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(help="images in the network at once, sharing the threads; default: the tuned profile's, or 1"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="images that may share one run; default: the tuned profile's, or 1")
    ] = None,
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
        bool,
        typer.Option(
            "--auto-tune-shapes",
            help="collect TensorRT's shape profile from these images, and Paddle's int8 calibration table",
        ),
    ] = False,
    profile: Annotated[
        Path | None, typer.Option(help="that `pseg tune` wrote; default: the bundle's own, if it carries one")
    ] = None,
    tile: TileOption = False,
    tile_size: TileSizeOption = None,
    overlap: OverlapOption = None,
    max_memory: MaxMemoryOption = None,
    bands: BandsOption = None,
    page: PageOption = None,
    vectors: VectorsOption = None,
    crop_size: CropSizeOption = None,
    stride: StrideOption = None,
    scales: ScalesOption = None,
    flip_horizontal: FlipHorizontalOption = False,
    flip_vertical: FlipVerticalOption = False,
    csv: Annotated[Path | None, typer.Option(help="write a table of cover, a row per image")] = None,
    report: Annotated[
        Path | None, typer.Option(help="write an HTML page to look at: photographs under their masks, cover, failures")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where an earlier run into the same folder was cut off")
    ] = False,
    recursive: Annotated[
        bool,
        typer.Option("--recursive", help="search the sub-folders of folders; the results go into sub-folders, too"),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="leave out what matches, seen from the named folder, such as 'masks' or '*_old.jpg'; repeatable",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="do one of N shares of the images (docs/collections.md)")
    ] = None,
    json_lines: JsonOption = False,
    cache_dir: CacheOption = None,
    print_detail: Annotated[bool, typer.Option("--print-detail", help="let the vendor's library log")] = False,
) -> None:
    """Segment images: a mask and the cover of every class for each."""
    with errors_end_the_command():
        averaging = averaging_request(
            crop_size, stride, scales, flip_horizontal=flip_horizontal, flip_vertical=flip_vertical
        )
        large = large_image_request(
            tile=tile,
            tile_size=tile_size,
            overlap=overlap,
            max_memory=max_memory,
            bands=bands,
            vectors=vectors,
            resume=resume,
            averaging=averaging,
            max_img_size=max_img_size,
        )
        request = build_request(
            runtime=runtime,
            provider=provider,
            device=device,
            precision=precision,
            threads=threads,
            streams=streams,
            batch_size=batch_size,
            max_img_size=-1 if tile else max_img_size,
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
        if request.save:
            require_results_apart(images, out)
        found = find_images(images, recursive=recursive, exclude=exclude or [], results=out)
        for remark in found.remarks():
            say(remark)
        share = None if shard is None else parse_shard(shard)
        listing = list_tasks(found.images, share, found.subfolders, chosen_pages(page))
        named = written_by({"--csv": csv, "--report": report, "--vectors": large.polygon_file})
        require_apart(
            named,
            {
                THE_BUNDLE: [bundle],
                "one of the images": [task.path for task in listing.tasks],
                "the profile": [] if profile is None else [profile],
                "a ledger of the results": [ledger_path(out, listing.shard), *ledgers_in(out)],
                "a result": result_paths(listing.tasks, out, vectors, [path for _, path in named]),
            },
        )
        for folder in listing.folders_of_results(out):
            require_writable(folder, within=None if folder == out else out)
        for asked in (csv, report):
            if asked is not None:
                require_writable_file(asked)
        complete = _predict_all(
            bundle,
            listing,
            request,
            averaging,
            large,
            out,
            csv,
            report,
            caches_at(cache_dir),
            profile,
            resume=resume,
            json_lines=json_lines,
        )
    if not complete:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _predict_all(
    bundle: Path,
    listing: Listing,
    request: PredictRequest,
    averaging: Averaging,
    large: LargeImageRequest,
    out: Path,
    csv: Path | None,
    report: Path | None,
    caches: Caches,
    profile: Path | None,
    *,
    resume: bool,
    json_lines: bool,
) -> bool:
    tasks = [task for _, task in listing.mine]
    require_inputs_kept(listing.tasks, out, request.save)
    # Where nothing else is to be written, a ledger is written only for what reads it.
    keep = bool(request.save) or resume or listing.shard is not None
    table = CoverTable()
    products = Products()
    failed = 0
    writer = ResultWriter(out, request.save)
    try:
        with open_session(bundle, request, caches, [task.path for task in tasks], profile=profile) as session:
            predictor = averaged(session, averaging)
            images = _large_images(tasks, predictor, request, large, writer, with_report=report is not None)
            pipeline = build_pipeline(predictor, request, writer)

            def segment(pending: Iterable[ImageTask]) -> Iterator[Result]:
                return _results(pending, pipeline, images)

            run = run_of(predictor, request, listing, large.options_with_effect())
            with (
                open_ledger(out, run, listing, resume=resume, keep=keep) as ledger,
                _reporting(report, predictor, request, len(tasks), products) as show,
                _progress(len(tasks)) as advance,
            ):
                for note in ledger.notes:
                    say(note)
                for record, result in ledger.results(segment, _provenance_of(predictor, images)):
                    if isinstance(result, Entry):
                        table.add_record(record, result.capture)
                    else:
                        table.add(result)
                    show(result)
                    failed += record["status"] != "ok"
                    if json_lines:
                        print_json(record)
                    else:
                        _tell(record)
                    advance()
    finally:
        if csv is not None and (table.rows or not tasks):
            with products.written(f"the table {csv}"):
                write_atomically(csv, table.to_csv())
    return not failed and not products.missing


def _large_images(
    tasks: Sequence[ImageTask],
    predictor: Predictor,
    request: PredictRequest,
    large: LargeImageRequest,
    writer: ResultWriter,
    *,
    with_report: bool,
) -> "LargeImages | None":
    """What cuts images into tiles; None, and not loaded, where no image of the run can be one of those."""
    if not (large.tile or large.names_rasters or any(is_tiff(task.path) for task in tasks)):
        return None
    from service.results.rasters import LargeImages

    images = LargeImages(predictor, request, large, writer, _REPORT_SIDE_PX if with_report else None)
    images.require_possible(tasks)
    return images


def _provenance_of(predictor: Predictor, images: "LargeImages | None") -> Callable[[Result], Provenance]:
    return (lambda _: predictor.provenance) if images is None else images.provenance_of


def _results(
    tasks: Iterable[ImageTask], pipeline: Pipeline[ImageTask, Path | None], images: "LargeImages | None"
) -> Iterator[Result]:
    """In the order of the tasks; the pipeline reads ahead among those that follow each other."""
    if images is None:
        yield from pipeline.run(tasks)
        return
    for large, group in groupby(tasks, images.takes):
        if large:
            yield from map(images.segment, group)
        else:
            yield from pipeline.run(group)


@contextmanager
def _reporting(
    path: Path | None, predictor: Predictor, request: PredictRequest, images: int, products: Products
) -> Generator[Callable[[Result | Entry], None]]:
    if path is None:
        yield lambda _: None
        return
    from service.results.report import report_at, request_facts

    bundle = predictor.bundle
    facts = {"bundle": str(bundle.source), **request_facts(request)}
    title = f"Segmentation with {bundle.name}"
    with report_at(
        path,
        title=title,
        provenance=predictor.provenance,
        expected=images,
        facts=facts,
        lost=lambda error: products.lose(f"the report {path}", error),
    ) as report:

        def show(result: Result | Entry) -> None:
            if isinstance(result, Entry):
                report.add_record(result.record, result.capture)
                return
            name = str(result.source.path)
            if isinstance(result, Failed):
                report.add_failure(name, str(result.error))
            else:
                written = {} if result.encoded is None else {"result": str(result.encoded)}
                report.add(name, result.image, result.prediction, written)

        yield show


def _tell(record: Mapping[str, Any]) -> None:
    named = record["image"]
    if record["status"] != "ok":
        reason = record["error"]["message"]
        # What fails behind the reading of the file does not know its name.
        say(f"failed: {reason}" if named in reason else f"failed: {named}: {reason}", "red")
        return
    for note in record.get("notes", ()):
        say(f"{named} {note}")
    covers = ", ".join(f"{shown(each['name'])} {each['cover']:.1%}" for each in record["cover"])
    where = "" if record["mask"]["path"] is None else f" -> {legible(record['mask']['path'])}"
    tell(f"{legible(named)}{where}: {covers}")


@contextmanager
def _progress(total: int) -> Generator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages(), transient=True) as progress:
        task = progress.add_task("segmenting", total=total)

        def advance() -> None:
            progress.advance(task)

        yield advance

"""`pseg scale`: a collection on the machines of a Ray cluster."""

import hashlib
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from converters.packing import pack
from engine import Bundle, Device, MaskSize, OneDnn, Precision, open_bundle
from engine.selection import candidates
from service.cluster import (
    LEDGER,
    ROWS,
    Job,
    RemoteTask,
    connected,
    numbered,
    read_ledger_rows,
    record_of,
    require_place,
    segment_all,
    write_ledger_rows,
)
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    ExitStatus,
    JsonOption,
    errors_end_the_command,
    messages,
    print_json,
    tell_totals,
)
from service.ledger import Run, options_with_effect
from service.manifest import read_manifest
from service.merging import totals
from service.request import (
    DEFAULT_MAX_IMG_SIZE,
    DEFAULT_MAX_PIXELS,
    PredictRequest,
    build_request,
    require_writable_file,
)
from service.results import CoverTable, capture_from, write_atomically
from service.session import caches_at
from service.storage import Folder, is_uri

_PROGRESS_LINES = 20


def scale(
    bundle: BundleArgument,
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet file of `pseg manifest`, path or URI")],
    out: Annotated[str, typer.Option(help="folder for the results, path or URI; every machine must reach it")],
    address: Annotated[
        str, typer.Option(help="auto: the cluster of this machine; local: start one here; host:port; ray://host:port")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="the most workers; default: all processors")] = None,
    threads: Annotated[int, typer.Option(min=1, help="processors of each worker")] = 1,
    chunk: Annotated[int, typer.Option(min=1, help="images that are handed to a worker together")] = 16,
    resume: Annotated[bool, typer.Option("--resume", help="do only what the results do not hold yet")] = False,
    runtime: Annotated[Literal["auto", "onnx", "paddle"], typer.Option(help="library that runs the network")] = "auto",
    provider: Annotated[
        Literal["auto", "cpu", "openvino", "cuda", "tensorrt"], typer.Option(help="ONNX Runtime's execution provider")
    ] = "auto",
    device: Annotated[Device | None, typer.Option(help="gpu: one for each worker")] = None,
    precision: Annotated[Precision | None, typer.Option(help="arithmetic of the network; default: fp32")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images that may share one run; default: 1")] = None,
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
    csv: Annotated[Path | None, typer.Option(help="write a table of cover, a row per image")] = None,
    report: Annotated[
        Path | None, typer.Option(help="write an HTML page: totals, table, failures; no pictures")
    ] = None,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Segment a collection on the machines of a Ray cluster; its ledger is <out>/ledger.parquet."""
    with errors_end_the_command():
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
        )
        candidates(request.runtime_request())
        tasks = numbered(read_manifest(manifest))
        for asked in (csv, report):
            if asked is not None:
                require_writable_file(asked)
        place = Folder(out if is_uri(out) else str(Path(out).absolute()))
        archive, run = _bundle_to_ship(bundle, request, len(tasks))
        job = Job(
            request,
            place.root,
            caches_at(cache_dir).root.absolute(),
            hashlib.sha256(archive).hexdigest(),
            run.digest,
            threads,
            uuid.uuid4().hex,
        )
        require_place(place)
        done = _done_earlier(place, job, tasks) if resume else set[str]()
        pending = [task for task in tasks if task.uri not in done]
        if pending:
            with connected(address):
                if not resume:
                    # Not before: what cannot begin takes nothing away.
                    _drop_rows(place)
                told = _progress(len(pending))
                segment_all(job, archive, pending, workers=workers, batch=chunk, told=told)
        rows = _rows_in_order(place, job, tasks)
        write_ledger_rows(place, rows)
        records = [record_of(row) for row in rows]
        summary = totals(records, len(tasks))
        captures = [capture_from(row) for row in rows]
        if csv is not None:
            table = CoverTable()
            for record, capture in zip(records, captures, strict=True):
                table.add_record(record, capture)
            write_atomically(csv, table.to_csv())
        if report is not None:
            from service.report import write_table_report

            facts = {name.replace("_", "-"): str(value) for name, value in run.options.items()}
            write_table_report(report, zip(records, captures, strict=True), expected=len(tasks), facts=facts)
    if json_output:
        print_json(summary)
    else:
        tell_totals(summary, place.name_of(LEDGER))
    if summary["images"]["succeeded"] < len(tasks):
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _bundle_to_ship(path: Path, request: PredictRequest, images: int) -> tuple[bytes, Run]:
    with open_bundle(path) as bundle:
        run = Run(bundle.digest, options_with_effect(request, None), images, "")
        if path.is_file():
            return path.read_bytes(), run
        return _packed(bundle), run


def _packed(bundle: Bundle) -> bytes:
    with tempfile.TemporaryDirectory(prefix="pseg-") as folder:
        files = {
            each.relative_to(bundle.folder).as_posix(): each for each in bundle.folder.rglob("*") if each.is_file()
        }
        pack(files, Path(folder, "bundle.tgz"))
        return Path(folder, "bundle.tgz").read_bytes()


def _drop_rows(place: Folder) -> None:
    for name in [*([LEDGER] if place.exists(LEDGER) else []), *place.names(ROWS)]:
        place.remove(name)


def _done_earlier(place: Folder, job: Job, tasks: Sequence[RemoteTask]) -> set[str]:
    """URIs whose rows hold; all other rows are dropped."""
    stems = {task.uri: task.stem for task in tasks}
    found = read_ledger_rows(place)
    mine = [row for row in found if row["digest"] == job.digest and row["stem"] == stems.get(row["uri"])]
    kept = [row for row in mine if row["status"] == "ok"]
    write_ledger_rows(place, kept)
    _say(f"{len(kept)} of {len(tasks)} images were done earlier")
    if len(mine) > len(kept):
        _say(f"{len(mine) - len(kept)} done again: failed before")
    other = {row["uri"] for row in found if row["digest"] != job.digest} - {row["uri"] for row in kept}
    if other:
        _say(f"{len(other)} done again: bundle or options are not the same")
    return {row["uri"] for row in kept}


def _rows_in_order(place: Folder, job: Job, tasks: Sequence[RemoteTask]) -> list[dict[str, Any]]:
    rows = {row["uri"]: row for row in read_ledger_rows(place) if row["digest"] == job.digest}
    missing = [task.uri for task in tasks if task.uri not in rows]
    if missing:
        _say(f"{len(missing)} images have no row, {missing[0]} for instance: go on with --resume")
    return [rows[task.uri] for task in tasks if task.uri in rows]


def _say(text: str) -> None:
    messages().print(text, markup=False, highlight=False, soft_wrap=True)


def _progress(total: int) -> Callable[[Mapping[str, int]], None]:
    """Tell on stderr how far the cluster is: now and then a line, which a batch system's log keeps."""
    counts: Counter[str] = Counter()
    step = max(1, total // (200 if sys.stderr.isatty() else _PROGRESS_LINES))
    told_at = 0

    def told(statuses: Mapping[str, int]) -> None:
        nonlocal told_at
        counts.update(statuses)
        done = counts.total()
        if done - told_at >= step or done == total:
            told_at = done
            _say(f"{done} of {total} images, {counts['failed']} failed")

    return told

"""`pseg scale`: a collection on the machines of a Ray cluster."""

import hashlib
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from converters.exporting.packing import pack
from engine import Bundle, Device, OptionError, open_bundle
from engine.declaration import Options, option
from engine.runtimes.selection import candidates
from service.collections.cluster import (
    LEDGER,
    ROWS,
    Job,
    RemoteTask,
    StoredRows,
    connected,
    numbered,
    read_ledger_rows,
    record_of,
    require_place,
    segment_all,
    write_ledger_rows,
)
from service.collections.manifest import read_manifest
from service.collections.merging import totals
from service.collections.storage import Folder, is_uri, local_path
from service.commands.flags import with_flags
from service.commands.groups import TableOptions
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    ExitStatus,
    JsonOption,
    Products,
    print_json,
    say,
    tell_totals,
)
from service.ivcap.transfer_limits import Allowance, Sizes
from service.request import (
    THE_BUNDLE,
    PredictRequest,
    require_apart,
    require_writable_file,
    written_by,
)
from service.results.ledger import Run, options_with_effect
from service.results.pictures import (
    CoverTable,
    ImageTask,
    capture_from,
    require_inputs_kept,
    result_paths,
    write_atomically,
)
from service.session import caches_at, open_session

_PROGRESS_LINES = 20
_MAX_IMAGE_BYTES = Sizes().image.most_bytes


@dataclass(frozen=True, slots=True)
class _ClusterOptions(Options):
    """How the work is spread."""

    title: ClassVar[str] = "The cluster"

    out: str = option(MISSING, "folder for the results, path or URI; every machine must reach it")
    address: str = option(
        "auto", "auto: the cluster of this machine; local: start one here; host:port; ray://host:port"
    )
    workers: int | None = option(None, "the most workers; default: all processors", minimum=1)
    threads: int = option(1, "processors of each worker", minimum=1)
    chunk: int = option(16, "images that are handed to a worker together", minimum=1)
    resume: bool = option(False, "do only what the results do not hold yet")
    max_image_bytes: int = option(
        _MAX_IMAGE_BYTES, "refuse images of an object store or a web server that have more bytes", minimum=1
    )


@with_flags(without=("streams", "use_trt", "min_subgraph_size", "auto_tune_shapes", "print_detail"))
def scale(
    bundle: BundleArgument,
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet file of `pseg manifest`, path or URI")],
    cluster: _ClusterOptions,
    request: PredictRequest,
    tables: TableOptions,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Segment a collection on the machines of a Ray cluster; its ledger is <out>/ledger.parquet."""
    candidates(request.network)
    tasks = numbered(read_manifest(manifest))
    place = Folder(cluster.out if is_uri(cluster.out) else str(Path(cluster.out).absolute()))
    _require_apart(tables.files(), bundle, manifest, tasks, place, request)
    for asked in tables.files().values():
        if asked is not None:
            require_writable_file(asked)
    caches = caches_at(cache_dir)
    archive, run = _bundle_to_ship(bundle, request, len(tasks))
    if request.network.wanted_device is not Device.GPU:
        # What no machine can load is told here, in one sentence, before anything is dropped or shipped.
        with open_session(bundle, request, caches):
            pass
    job = Job(
        request,
        place.root,
        None if cache_dir is None else cache_dir.absolute(),
        hashlib.sha256(archive).hexdigest(),
        run.digest,
        cluster.threads,
        Allowance(cluster.max_image_bytes, "raise --max-image-bytes"),
        uuid.uuid4().hex,
    )
    require_place(place)
    stored = read_ledger_rows(place) if cluster.resume else StoredRows((), ())
    pending = pending_tasks(stored, job, tasks, place) if cluster.resume else tasks
    if pending:
        with connected(cluster.address):
            # Not before: what cannot begin takes nothing away.
            if cluster.resume:
                write_ledger_rows(place, _without_pictures_of(pending, stored.rows), stored.batches)
            else:
                _drop_rows(place)
            told = _progress(len(pending))
            segment_all(job, archive, pending, workers=cluster.workers, batch=cluster.chunk, told=told)
    stored = read_ledger_rows(place)
    rows = _rows_in_order(stored, job, tasks)
    others = _without_pictures_of(tasks, stored.rows) if cluster.resume else []
    write_ledger_rows(place, [*rows, *others], stored.batches)
    records = [record_of(row) for row in rows]
    summary = totals(records, len(tasks))
    captures = [capture_from(row) for row in rows]
    products = Products()
    if tables.csv is not None:
        with products.written(f"the table {tables.csv}"):
            table = CoverTable()
            for record, capture in zip(records, captures, strict=True):
                table.add(record, capture)
            write_atomically(tables.csv, table.to_csv())
    if tables.report is not None:
        from service.results.report import write_table_report

        with products.written(f"the report {tables.report}"):
            facts = {name.replace("_", "-"): str(value) for name, value in run.options.items()}
            write_table_report(tables.report, zip(records, captures, strict=True), expected=len(tasks), facts=facts)
    if json_output:
        print_json(summary)
    else:
        tell_totals(summary, place.name_of(LEDGER))
    if products.missing or summary["images"]["succeeded"] < len(tasks):
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _require_apart(
    named: Mapping[str, Path | None],
    bundle: Path,
    manifest: str,
    tasks: Sequence[RemoteTask],
    place: Folder,
    request: PredictRequest,
) -> None:
    here = [ImageTask(path, task.stem) for task in tasks if (path := local_path(task.uri)) is not None]
    folder, table = local_path(place.root), local_path(manifest)
    written = written_by(named)
    kept = {THE_BUNDLE: [bundle], "the manifest": [] if table is None else [table]}
    kept["one of the images"] = [task.path for task in here]
    if folder is not None:
        require_inputs_kept(here, folder, request.save)
        kept["the ledger of the results"] = [folder / LEDGER]
        everywhere = [ImageTask(Path(task.uri), task.stem) for task in tasks]
        kept["a result"] = list(result_paths(everywhere, folder, None, [path for _, path in written]))
    require_apart(written, kept)


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


def pending_tasks(stored: StoredRows, job: Job, tasks: Sequence[RemoteTask], place: Folder) -> list[RemoteTask]:
    """Find the images whose rows do not hold, and say why.

    Args:
        stored: what lies in the place already.
        job: its digest tells which rows are of this bundle and these options.
        tasks: all images of the manifest.
        place: for messages.

    Returns:
        Those that are to be done.

    Raises:
        OptionError: pictures of an image that the manifest does not name would be replaced.
    """
    stems = {task.uri: task.stem for task in tasks}
    done: set[str] = set()
    reasons: dict[str, str] = {}
    strangers: dict[str, str] = {}
    for row in stored.rows:
        if row["uri"] not in stems:
            if row["status"] == "ok" and row["mask"] is not None:
                strangers[row["stem"].casefold()] = row["uri"]
        elif row["digest"] != job.digest:
            reasons[row["uri"]] = "bundle or options are not the same"
        elif row["stem"] != stems[row["uri"]]:
            reasons[row["uri"]] = "another image takes the names of its pictures"
        elif row["status"] == "ok":
            done.add(row["uri"])
        else:
            reasons[row["uri"]] = "failed before"
    pending = [task for task in tasks if task.uri not in done]
    for task in pending:
        if task.stem.casefold() in strangers:
            raise OptionError(
                f"{place.root} holds pictures of {strangers[task.stem.casefold()]}, which the manifest does not name, "
                f"and those of {task.uri} would take their place: name another folder with --out, or leave out --resume"
            )
    say(f"{len(done)} of {len(tasks)} images were done earlier")
    for reason, number in Counter(reason for uri, reason in reasons.items() if uri not in done).items():
        say(f"{number} done again: {reason}")
    return pending


def _without_pictures_of(tasks: Sequence[RemoteTask], rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows whose pictures stay what they are while the tasks are done."""
    stems = {task.stem.casefold() for task in tasks}
    return [row for row in rows if row["stem"].casefold() not in stems]


def _rows_in_order(stored: StoredRows, job: Job, tasks: Sequence[RemoteTask]) -> list[Mapping[str, Any]]:
    rows = {(row["uri"], row["stem"]): row for row in stored.rows if row["digest"] == job.digest}
    found = [rows.get((task.uri, task.stem)) for task in tasks]
    missing = [task.uri for task, row in zip(tasks, found, strict=True) if row is None]
    if missing:
        say(f"{len(missing)} images have no row, {missing[0]} for instance: go on with --resume")
    return [row for row in found if row is not None]


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
            say(f"{done} of {total} images, {counts['failed']} failed")

    return told

"""`pseg scale`: a collection on the machines of a Ray cluster."""

import hashlib
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from converters.conversion import packed_files
from converters.exporting.packing import pack
from engine import Bundle, Device, OptionError, open_bundle
from engine.declaration import Options, option
from engine.runtimes.programs.input_bands import image_bands
from engine.runtimes.selection import candidates
from engine.system.libraries import version_of_pseg
from service.collections.cluster import WorkerOptions, connected, numbered, require_place, segment_all
from service.collections.cluster_ledger import (
    ClusterLedger,
    RemoteTask,
    read_cluster_ledger,
    remove_cluster_ledger,
    write_cluster_ledger,
)
from service.collections.manifest import read_manifest
from service.collections.storage import Folder, is_uri, local_path
from service.commands.collection_results import tell_collection, tell_totals
from service.commands.flags import with_flags
from service.commands.groups import TableOptions, require_one_output
from service.commands.terminal import BundleArgument, CacheOption, ExitStatus, JsonOption, say, tell_missed
from service.ivcap.transfer.limits import Allowance, Sizes
from service.request import THE_BUNDLE, PredictRequest, require_apart, require_writable_file, written_by
from service.results.pictures import ImageTask, region_error, require_inputs_kept, result_paths
from service.results.resuming import CLUSTER_LEDGER
from service.results.runs import Run, options_with_effect, temperature_with_effect
from service.results.totals import totals
from service.session import caches_at, open_session, temperature_of

_PROGRESS_LINES = 20
_MAX_IMAGE_BYTES = Sizes().image.most_bytes


@dataclass(frozen=True, slots=True)
class _ClusterOptions(Options):
    """How the work is spread."""

    title: ClassVar[str] = "The cluster"

    out: str = option(MISSING, "Folder for the results, as a path or URI that every machine can reach.")
    address: str = option(
        "auto",
        "Address of the cluster: host:port or ray://host:port. auto uses this machine's cluster, local starts one.",
    )
    workers: int | None = option(
        None, "Maximum number of workers. By default as many as the processors allow.", minimum=1
    )
    threads: int = option(1, "Processors of each worker.", minimum=1)
    chunk: int = option(16, "Images that a worker receives at a time.", minimum=1)
    resume: bool = option(False, "Process only images that the results do not hold yet.")
    overwrite: bool = option(
        False, "Replace the results that a run with another bundle, other options or other images left in the folder."
    )
    max_image_bytes: int = option(
        _MAX_IMAGE_BYTES, "Images in an object store or on a web server that have more bytes are refused.", minimum=1
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.resume and self.overwrite:
            raise OptionError("what is resumed is not replaced: leave out one of --resume and --overwrite")


@with_flags(without=("streams", "use_trt", "min_subgraph_size", "auto_tune_shapes", "print_detail"), from_file=True)
def scale(
    bundle: BundleArgument,
    manifest: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="Parquet file of `pseg manifest`, as a path or URI.")
    ],
    cluster: _ClusterOptions,
    request: PredictRequest,
    tables: TableOptions,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Segment a collection on the machines of a Ray cluster; its ledger is <out>/ledger.parquet."""
    candidates(request.network)
    request.cover.require_ground()
    tasks = numbered(read_manifest(manifest))
    place = Folder(cluster.out if is_uri(cluster.out) else str(Path(cluster.out).absolute()))
    require_one_output(tables.csv, json_lines=json_output)
    _require_apart(tables.files(), bundle, manifest, tasks, place, request)
    for asked in filter(None, tables.files().values()):
        require_writable_file(asked)
    caches = caches_at(cache_dir)
    archive, run = _bundle_to_ship(bundle, request, len(tasks))
    if request.network.wanted_device is not Device.GPU:
        # What no machine can load is told here, in one sentence, before anything is dropped or shipped.
        with open_session(bundle, request, caches):
            pass
    options = WorkerOptions(
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
    known, pending = _known_and_pending(cluster, place, tasks, run)
    if pending:
        with connected(cluster.address):
            # Not before: what cannot begin takes nothing away.
            if cluster.resume:
                write_cluster_ledger(place, known.without_pictures_of(pending), known.batches)
            else:
                remove_cluster_ledger(place)
            told = _progress(len(pending))
            segment_all(options, archive, pending, workers=cluster.workers, batch=cluster.chunk, told=told)
    known = read_cluster_ledger(place)
    entries = known.of_run(tasks, run.digest)
    if len(entries) < len(tasks):
        say(f"{len(tasks) - len(entries)} images have no row in the ledger: go on with --resume")
    others = known.without_pictures_of(tasks) if cluster.resume else []
    write_cluster_ledger(place, [*entries, *others], known.batches)
    summary = totals([entry.record for entry in entries], len(tasks))
    missed = sum(region_error(entry.record) is not None for entry in entries)

    def tell_summary() -> None:
        tell_totals(summary, place.name_of(CLUSTER_LEDGER))
        tell_missed(missed)

    written = tell_collection(entries, run, tables, summary, tell_summary, json_output=json_output)
    if missed or not written or summary["images"]["succeeded"] < len(tasks):
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _known_and_pending(
    cluster: _ClusterOptions, place: Folder, tasks: Sequence[RemoteTask], run: Run
) -> tuple[ClusterLedger, Sequence[RemoteTask]]:
    """What the ledger says that this run goes on with, and the images that it has to segment."""
    if cluster.resume:
        known = read_cluster_ledger(place)
        pending, resumed = known.pending(tasks, run.digest)
        for note in resumed.notes():
            say(note)
        return known, pending
    if not cluster.overwrite:
        read_cluster_ledger(place).require_same_run(place, tasks, run.digest)
    return ClusterLedger(), tasks


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
        kept["the ledger of the results"] = [folder / CLUSTER_LEDGER]
        everywhere = [ImageTask(Path(task.uri), task.stem) for task in tasks]
        kept["a result"] = list(result_paths(everywhere, folder, None, [path for _, path in written]))
    require_apart(written, kept)


def _bundle_to_ship(path: Path, request: PredictRequest, images: int) -> tuple[bytes, Run]:
    with open_bundle(path) as bundle:
        bands = image_bands(bundle)
        if bands != 3:
            raise OptionError(
                f"{path}: the network takes images of {bands} bands, and photographs, which this command segments, "
                "have three: use `pseg predict --bands`"
            )
        options = options_with_effect(request, None) | temperature_with_effect(temperature_of(bundle, request))
        run = Run(bundle.digest, options, images, "", bundle_name=bundle.name, pseg=version_of_pseg())
        if path.is_file():
            return path.read_bytes(), run
        return _packed(bundle), run


def _packed(bundle: Bundle) -> bytes:
    with tempfile.TemporaryDirectory(prefix="pseg-") as folder:
        pack(packed_files(bundle), Path(folder, "bundle.tgz"))
        return Path(folder, "bundle.tgz").read_bytes()


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

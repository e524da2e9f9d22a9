"""A collection on many machines, by Ray Data: the only file that imports ray.

The driver hands out images in small batches; on the cluster stateful actors hold a predictor each. An actor reads its
images by URI, segments them by the same pipeline as `pseg predict`, stores every picture whole, and then the rows of
its batch as one Parquet file under `rows/`. Those rows are the ledger: a batch whose actor or node dies is given to
another one, which does it again and writes the same files; what goes wrong with one image is its row. At the end the
rows become one file, `ledger.parquet`.

Who resumes reads the rows and hands out only images that are not done. Ray's own checkpoint is not used: it needs an
actor with a processor and a gigabyte for itself, and takes failed images for done.
"""

# ray states few types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from engine import (
    Device,
    EngineError,
    Failed,
    ImageError,
    OptionError,
    Pipeline,
    Prediction,
    Segmented,
    SourceImage,
    read_image,
)
from engine.bundle.archive import unpack
from service.collections.storage import (
    Folder,
    StoreError,
    arrow_tables,
    copy_to,
    local_path,
    read_rows,
    stem_of,
    table_bytes,
)
from service.ivcap.transfer_limits import Allowance
from service.request import PredictRequest
from service.results.pictures import Stems, capture_record, encoded_pictures, result_record, short_stem
from service.results.records import checked_record
from service.session import build_pipeline, caches_at, open_session

_log = logging.getLogger(__name__)
LEDGER = "ledger.parquet"
ROWS = "rows"
COLUMNS: Mapping[str, str] = {
    "uri": "string",
    "stem": "string",
    "status": "string",
    "error_type": "string",
    "error": "string",
    "mask": "string",
    "width": "int64",
    "height": "int64",
    "cover": "cover",
    "taken_at": "string",
    "latitude_deg": "double",
    "longitude_deg": "double",
    "provenance": "string",
    "timings_ms": "string",
    "digest": "string",
    "node": "string",
}
"""Of the rows that are the ledger; provenance and timings are JSON."""
_KNOCK_S = 5.0


class ClusterError(EngineError):
    """The cluster cannot be reached, or the work on it broke off."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker is told.

    Attributes:
        request: validated parameters.
        out: where results go, a path or a URI.
        cache: folder for bundles and conversions on each node; None: the user's cache folder.
        bundle_digest: SHA-256 of the archive that is shipped.
        digest: of bundle and options with effect; stands in every row.
        threads: of each worker.
        image: how large an image may be that is fetched.
        attempt: names this run of the driver; what an earlier one left is none of its batches.
    """

    request: PredictRequest
    out: str
    cache: Path | None
    bundle_digest: str
    digest: str
    threads: int
    image: Allowance
    attempt: str


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """One image of a batch.

    Attributes:
        uri: where it lies.
        stem: of its pictures.
    """

    uri: str
    stem: str

    @property
    def label(self) -> str:
        """What records and tables call it."""
        return self.uri


def numbered(uris: Sequence[str]) -> list[RemoteTask]:
    """Give every image a stem.

    Args:
        uris: all images of the manifest.

    Returns:
        A task an image, in their order; no two stems are alike.
    """
    stems = Stems()
    return [RemoteTask(uri, stems.take(short_stem(stem_of(uri)))) for uri in uris]


class Segmenter:
    """Does batches of images on a node of the cluster; lives as long as its process.

    `bundle` is where the archive lies in the cluster's memory. It is None where there is no cluster: then the archive
    is unpacked in the cache already.
    """

    def __init__(self, job: Job, bundle: Any) -> None:  # noqa: ANN401
        self._job = job
        self._out = Folder(job.out)
        self._node = _node_name(in_cluster=bundle is not None)
        caches = caches_at(job.cache)
        folder = caches.root / "bundles" / job.bundle_digest
        if not folder.is_dir():
            import ray

            _unpack(ray.get(bundle), folder)
        self._session = open_session(folder, job.request, caches)
        self._predictor = self._session.__enter__()

    def close(self) -> None:
        """Free the runtime."""
        self._session.__exit__(None, None, None)

    def __call__(self, batch: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
        """Do a batch, unless its rows are stored already: then whoever stored them died before it could tell.

        Args:
            batch: columns `uri` and `stem`.

        Returns:
            Columns `uri` and `status`.

        Raises:
            StoreError: the rows cannot be stored.
        """
        tasks = [RemoteTask(str(uri), str(stem)) for uri, stem in zip(batch["uri"], batch["stem"], strict=True)]
        name = f"{ROWS}/{_batch_name(self._job.attempt, tasks)}.parquet"
        rows: Sequence[Mapping[str, Any]]
        if self._out.exists(name):
            rows = read_rows(self._out.name_of(name), ["uri", "status"])
        else:
            rows = [self._row(result) for result in self._pipeline().run(tasks)]
            self._out.write(name, table_bytes(rows, COLUMNS))
        return {column: [row[column] for row in rows] for column in ("uri", "status")}

    def _pipeline(self) -> Pipeline[RemoteTask, str | None]:
        return build_pipeline(self._predictor, self._job.request, self._decode, self._store, self._job.threads)

    def _decode(self, task: RemoteTask) -> SourceImage:
        limits = self._job.request.images.values()
        path = local_path(task.uri)
        if path is not None:
            return read_image(path, **limits)
        with tempfile.NamedTemporaryFile(prefix="pseg-") as file:
            copy_to(cast("BinaryIO", file), task.uri, self._job.image)
            file.flush()
            try:
                return read_image(Path(file.name), **limits)
            except ImageError as error:
                # Where it lay for a moment tells nobody anything.
                raise ImageError(str(error).replace(file.name, task.uri)) from error

    def _store(self, task: RemoteTask, image: SourceImage, prediction: Prediction) -> str | None:
        pictures = encoded_pictures(task.stem, self._job.request.save, image, prediction)
        written = [self._out.write(name, content) for name, content in pictures]
        return written[0] if written else None

    def _row(self, result: Segmented[RemoteTask, str | None] | Failed[RemoteTask]) -> dict[str, Any]:
        record = result_record(result, self._predictor.provenance)
        mask, error = record["mask"] or {}, record["error"] or {}
        capture = capture_record(result.image.capture) if isinstance(result, Segmented) else {}
        return {
            "uri": result.source.uri,
            "stem": result.source.stem,
            "status": record["status"],
            "error_type": error.get("type"),
            "error": error.get("message"),
            "mask": mask.get("path"),
            "width": mask.get("width"),
            "height": mask.get("height"),
            "cover": record["cover"],
            **capture,
            "provenance": json.dumps(record["provenance"]),
            "timings_ms": json.dumps(record["timings_ms"]),
            "digest": self._job.digest,
            "node": self._node,
        }


def _node_name(*, in_cluster: bool) -> str:
    if not in_cluster:
        return socket.gethostname()
    import ray

    # Several nodes of a cluster may share a machine.
    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()}"


def _unpack(archive: bytes, folder: Path) -> None:
    """Unpack a bundle once for all workers of a node: whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as work:
        packed, unpacked = Path(work, "bundle"), Path(work, "unpacked")
        packed.write_bytes(archive)
        unpacked.mkdir()
        unpack(packed, unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            # Another worker of this node was faster.
            if not folder.is_dir():
                raise


def _batch_name(attempt: str, tasks: Sequence[RemoteTask]) -> str:
    content = "\0".join([attempt, *(part for task in tasks for part in (task.uri, task.stem))])
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:32]


def record_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a row of the ledger into the record that `--json` prints.

    Args:
        row: of `ledger.parquet`.

    Returns:
        The record.

    Raises:
        OptionError: the row holds something else.
    """
    ok = row["status"] == "ok"
    record = {
        "image": row["uri"],
        "status": row["status"],
        "error": None if ok else {"type": row["error_type"], "message": row["error"]},
        "mask": {"path": row["mask"], "width": row["width"], "height": row["height"]} if ok else None,
        "cover": row["cover"] or [],
    }
    try:
        more = {name: json.loads(row[name]) for name in ("provenance", "timings_ms")}
        return checked_record({**record, **more})
    except (ValueError, TypeError, RecursionError) as error:
        raise OptionError(
            f"{row['uri']}: its row is not that of a ledger of `pseg scale` ({error}): leave out --resume, or name "
            "another folder with --out"
        ) from error


@dataclass(frozen=True, slots=True)
class StoredRows:
    """What lies under a place for results.

    Attributes:
        rows: one for every image, digest and stem: one that was done counts more than one that failed.
        batches: names of the files of batches that were read.
    """

    rows: Sequence[Mapping[str, Any]]
    batches: Sequence[str]


def read_ledger_rows(out: Folder) -> StoredRows:
    """Read what is known of the images.

    Args:
        out: where results go.

    Returns:
        Rows, and where they lay.

    Raises:
        StoreError: something cannot be read.
        OptionError: what is there is no ledger.
    """
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    names = [LEDGER] if out.exists(LEDGER) else []
    batches = [each for each in out.names(ROWS) if each.endswith(".parquet")]
    for name in [*names, *batches]:
        for row in read_rows(out.name_of(name), list(COLUMNS)):
            key = row["uri"], row["digest"], row["stem"]
            if key not in known or known[key]["status"] != "ok":
                known[key] = row
    return StoredRows(list(known.values()), batches)


def write_ledger_rows(out: Folder, rows: Sequence[Mapping[str, Any]], batches: Sequence[str]) -> None:
    """Store rows as one file, and remove the files of batches that they were read from.

    Args:
        out: where results go.
        rows: the ledger.
        batches: names of those files. Others stay: somebody is at work.

    Raises:
        StoreError: it cannot be stored.
    """
    out.write(LEDGER, table_bytes(rows, COLUMNS))
    for name in batches:
        out.remove(name)


@contextmanager
def connected(address: str) -> Generator[None]:
    """Be a driver of a cluster.

    Args:
        address: `auto` for the cluster that runs on this machine or that RAY_ADDRESS names, `local` for one that is
            started here and ends with the block, `host:port`, or `ray://host:port`.

    Yields:
        Nothing.

    Raises:
        ClusterError: ray is not installed, or the cluster cannot be reached.
    """
    # Read when the library is loaded: no usage data leaves.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("ray is not installed: make ray, or pip install -r requirements-ray.txt") from error
    _require_reachable(address)
    # What nodes report is printed by a thread of the library; standard output holds results only.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # ray states no closed set of exceptions
            raise ClusterError(
                f"no cluster at {address} ({' '.join(str(error).split())[:300]}): start one with `ray start --head`, "
                "or give --address local"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _require_reachable(address: str) -> None:
    """Knock first: the library tries for minutes."""
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, colon, port = named.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((host, int(port)), timeout=_KNOCK_S):
            pass
    except (OSError, ValueError) as error:
        raise ClusterError(f"no cluster at {named} ({error}): check the address and that the head node runs") from error


def segment_all(
    job: Job,
    bundle: bytes,
    tasks: Sequence[RemoteTask],
    *,
    workers: int | None,
    batch: int,
    told: Callable[[Mapping[str, int]], None],
) -> None:
    """Do images on the cluster that this process is connected to.

    Args:
        job: what every worker is told.
        bundle: the archive.
        tasks: images that are to be done.
        workers: the most actors; None: one for every `job.threads` processors of the cluster.
        batch: images that are handed out together; as many are done again if a worker dies.
        told: called after each batch with the number of images of each status in it.

    Raises:
        ClusterError: the work broke off. What is done is in the ledger.
    """
    import ray
    import ray.data

    cores = int(ray.cluster_resources().get("CPU", 0))
    most = workers or cores // job.threads
    if most < 1 or cores < job.threads:
        raise ClusterError(f"the cluster has {cores} processors, a worker needs {job.threads}: see --threads")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # It tells of errors at length, and then raises them.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    shipped = ray.put(bundle)
    columns = {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]}
    blocks = arrow_tables(columns, batch)
    done = ray.data.from_arrow(blocks).map_batches(
        Segmenter,
        fn_constructor_kwargs={"job": job, "bundle": shipped},
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=min(most, len(blocks)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=job.threads,
        num_gpus=1 if job.request.network.wanted_device is Device.GPU else None,
        udf_modifying_row_count=False,
    )
    try:
        for rows in done.iter_batches(batch_size=None, batch_format="numpy"):
            told(Counter(map(str, rows["status"])))
    except EngineError:
        raise
    except Exception as error:  # ray states no closed set of exceptions
        reason = " ".join(str(error).split())[-400:]
        raise ClusterError(f"the work broke off ({type(error).__name__}: {reason}): go on with --resume") from error


def require_place(out: Folder) -> None:
    """Prove that results can be stored.

    Args:
        out: where they go.

    Raises:
        StoreError: they cannot.
    """
    out.write(".pseg-writable", b"")
    try:
        out.remove(".pseg-writable")
    except StoreError as error:
        # Some stores let nobody delete.
        _log.info("%s", error)

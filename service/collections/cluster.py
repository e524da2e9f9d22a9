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
import logging
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from engine import Device, EngineError, ImageError, Prediction, Provenance, SourceImage, read_image
from engine.bundle.archive import unpack
from engine.images import ImageLimits, is_tiff
from engine.rasters.options import TileOptions
from engine.rasters.result import Result
from engine.segmentation.palette import OverlayOptions
from service.collections.cluster_ledger import ClusterEntry, RemoteTask, entry_of, read_batch, write_batch
from service.collections.storage import Folder, StoreError, arrow_tables, copy_to, local_path, stem_of
from service.ivcap.transfer.limits import Allowance
from service.request import PredictRequest, SaveKind
from service.results.pictures import Stems, encoded_pictures, short_stem
from service.segmentation_job import SegmentationJob
from service.session import caches_at, open_session

_log = logging.getLogger(__name__)
_KNOCK_S = 5.0


class ClusterError(EngineError):
    """The cluster cannot be reached, or the work on it broke off."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What every worker is told.

    `out` is a path or a URI; `cache` the folder for bundles and conversions on each node, None: the user's cache
    folder; `bundle_digest` the SHA-256 of the archive that is shipped; `digest`, of bundle and options with effect,
    stands in every row; `image` limits an image that is fetched; `attempt` names this run of the driver: what an
    earlier one left is none of its batches.
    """

    request: PredictRequest
    out: str
    cache: Path | None
    bundle_digest: str
    digest: str
    threads: int
    image: Allowance
    attempt: str


def numbered(uris: Sequence[str]) -> list[RemoteTask]:
    """Give every image a stem, all different; tasks are in the order of the images."""
    stems = Stems()
    return [RemoteTask(uri, stems.take(short_stem(stem_of(uri)))) for uri in uris]


@dataclass(frozen=True, slots=True)
class _Images:
    """The images of a batch, read by URI."""

    tasks: Sequence[RemoteTask]
    limits: ImageLimits
    allowance: Allowance
    one_at_a_time: bool = False

    def __iter__(self) -> Iterator[RemoteTask]:
        return iter(self.tasks)

    def read(self, task: RemoteTask) -> SourceImage:
        path = local_path(task.uri)
        if path is not None:
            return self._photograph(path)
        with tempfile.NamedTemporaryFile(prefix="pseg-") as file:
            copy_to(cast("BinaryIO", file), task.uri, self.allowance)
            file.flush()
            try:
                return self._photograph(Path(file.name))
            except ImageError as error:
                # The temporary path means nothing to whoever reads the message.
                raise ImageError(str(error).replace(file.name, task.uri)) from error

    def _photograph(self, path: Path) -> SourceImage:
        if is_tiff(path):
            from service.results.rasters import is_cut

            if is_cut(path, None, TileOptions(), self.limits.max_pixels):
                raise ImageError(
                    f"{path}: is a raster (a TIFF that is georeferenced, or has more than {self.limits.max_pixels} "
                    "pixels), and this command segments photographs only: give it to `pseg predict`, which cuts it "
                    "into tiles and makes a map, or, with --as-photograph, treats it as a photograph"
                )
        return read_image(path, **self.limits.values())


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Stores pictures, local or in an object store."""

    out: Folder
    save: frozenset[SaveKind]
    overlays: OverlayOptions

    def write(self, task: RemoteTask, image: SourceImage, prediction: Prediction) -> str | None:
        pictures = encoded_pictures(task.stem, self.save, image, prediction, self.overlays)
        written = [self.out.write(name, content) for name, content in pictures]
        return written[0] if written else None


@dataclass(frozen=True, slots=True)
class _Batch:
    """The entries of a batch, which are stored together."""

    provenance: Provenance
    digest: str
    node: str
    entries: list[ClusterEntry] = field(default_factory=list[ClusterEntry])

    def record(self, result: Result[RemoteTask, str | None]) -> None:
        self.entries.append(entry_of(result, self.provenance, self.digest, self.node))


class Segmenter:
    """Does batches of images on a node of the cluster; lives as long as its process.

    `bundle` is where the archive lies in the cluster's memory. It is None where there is no cluster: then the archive
    is unpacked in the cache already.
    """

    def __init__(self, options: WorkerOptions, bundle: Any) -> None:  # noqa: ANN401
        self._options = options
        self._out = Folder(options.out)
        self._node = _node_name(in_cluster=bundle is not None)
        caches = caches_at(options.cache)
        folder = caches.root / "bundles" / options.bundle_digest
        if not folder.is_dir():
            import ray

            _unpack(ray.get(bundle), folder)
        self._session = open_session(folder, options.request, caches)
        self._predictor = self._session.__enter__()

    def close(self) -> None:
        self._session.__exit__(None, None, None)

    def __call__(self, batch: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
        """Do a batch of the columns `uri` and `stem`, and return `uri` and `status`.

        What is stored already is not done again: whoever stored it died before it could report that. Raises StoreError
        where the rows cannot be stored.
        """
        tasks = [RemoteTask(str(uri), str(stem)) for uri, stem in zip(batch["uri"], batch["stem"], strict=True)]
        name = _batch_name(self._options.attempt, tasks)
        stored = read_batch(self._out, name)
        if stored is None:
            stored = self._segment(tasks)
            write_batch(self._out, name, stored)
        return {"uri": [entry.source for entry in stored], "status": [entry.record["status"] for entry in stored]}

    def _segment(self, tasks: Sequence[RemoteTask]) -> Sequence[ClusterEntry]:
        options, request = self._options, self._options.request
        source = _Images(tasks, request.images, options.image)
        sink = _Pictures(self._out, request.save, request.overlays)
        ledger = _Batch(self._predictor.provenance, options.digest, self._node)
        for _ in SegmentationJob(source, self._predictor, sink, ledger).results(request, options.threads):
            """Each result is stored and recorded by then."""
        return ledger.entries


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


@contextmanager
def connected(address: str) -> Generator[None]:
    """Be a driver of a cluster.

    `address` is `auto` for the cluster that runs on this machine or that RAY_ADDRESS names, `local` for one that is
    started here and ends with the block, `host:port`, or `ray://host:port`. Raises ClusterError where ray is not
    installed, or the cluster cannot be reached.
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
    options: WorkerOptions,
    bundle: bytes,
    tasks: Sequence[RemoteTask],
    *,
    workers: int | None,
    batch: int,
    told: Callable[[Mapping[str, int]], None],
) -> None:
    """Do images on the cluster that this process is connected to.

    There are at most `workers` actors; None: one for every `options.threads` processors of the cluster. `batch` images
    are handed out together; as many are done again if a worker dies. `told` is called after each batch with the number
    of images of each status in it. Raises ClusterError where the work broke off; what is done is in the ledger.
    """
    import ray
    import ray.data

    cores = int(ray.cluster_resources().get("CPU", 0))
    most = workers or cores // options.threads
    if most < 1 or cores < options.threads:
        raise ClusterError(f"the cluster has {cores} processors, a worker needs {options.threads}: see --threads")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # It tells of errors at length, and then raises them.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    shipped = ray.put(bundle)
    columns = {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]}
    blocks = arrow_tables(columns, batch)
    done = ray.data.from_arrow(blocks).map_batches(
        Segmenter,
        fn_constructor_kwargs={"options": options, "bundle": shipped},
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=min(most, len(blocks)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=options.threads,
        num_gpus=1 if options.request.network.wanted_device is Device.GPU else None,
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
    """Prove that results can be stored; raises StoreError."""
    out.write(".pseg-writable", b"")
    try:
        out.remove(".pseg-writable")
    except StoreError as error:
        # Some stores let nobody delete.
        _log.info("%s", error)

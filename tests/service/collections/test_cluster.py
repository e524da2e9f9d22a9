"""What a worker of the cluster does with its batches, and one run on a real cluster of one node."""

import csv
import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from engine import Pipeline, Precision, RuntimeName, open_bundle
from engine.bundle.archive import unpack
from engine.images import Capture
from engine.runtimes.profile import PROFILE_NAME, Profile, library_versions, profile_json
from engine.segmentation.network import Network
from engine.system.machine.hardware import this_host
from service.collections.cluster import Segmenter, WorkerOptions, numbered
from service.collections.cluster_ledger import (
    COLUMNS,
    ClusterEntry,
    ClusterLedger,
    RemoteTask,
    read_cluster_ledger,
    write_cluster_ledger,
)
from service.collections.storage import Folder, read_rows, table_bytes
from service.commands.terminal import ExitStatus
from service.ivcap.transfer.limits import Allowance
from service.request import build_request
from service.results.resuming import LedgerError
from tests.service.bundles import bundle_folder
from tests.service.commands.test_cli import BLUE, GREEN, RED, halves, pseg, pseg_error, pseg_process
from tests.service.commands.test_cover_options import FRAME, quadrat
from tests.service.results.test_orthomosaics import csv_rows, geotiff
from tests.standins.hostile_server import HostileServer

pytest.importorskip("pyarrow", reason="pyarrow comes with ray: make development")
IMAGE = Allowance(1 << 20, "raise --max-image-bytes")


ADDED = ("network_width", "network_height", "notes", "flags", "confidence", "roi", "excluded")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two photographs of one stem, and a broken file."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "c.png").write_bytes(b"broken")
    return [
        halves(tmp_path / "in" / "a.png", RED),
        halves(tmp_path / "in" / "sub" / "a.png", GREEN, BLUE),
        tmp_path / "in" / "c.png",
    ]


@pytest.fixture
def job(bundle: Path, tmp_path: Path) -> WorkerOptions:
    """A job whose bundle lies on the node already."""
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    unpack(bundle, tmp_path / "cache" / "bundles" / digest)
    request = build_request(threads=1, save=frozenset({"mask", "pseudo"}))
    return WorkerOptions(
        request, str(tmp_path / "out"), tmp_path / "cache", digest, "bundle and options", 1, IMAGE, "first"
    )


def work(job: WorkerOptions, batch: dict[str, list[str]]) -> dict[str, list[str]]:
    """What a worker answers to a batch."""
    with closing(Segmenter(job, None)) as segmenter:
        return segmenter(batch)


@pytest.mark.parametrize(("memory_allows", "wanted"), [(8, 3), (2, 2)], ids=["profile", "memory limit"])
def test_a_worker_keeps_to_the_bundles_profile_and_to_the_memory_limit(
    memory_allows: int, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle_folder(tmp_path / "cache" / "bundles" / "tuned")
    with open_bundle(folder) as bundle:
        profile = Profile(
            bundle=bundle.digest,
            host=this_host(),
            versions=library_versions(RuntimeName.ONNX),
            provider="cpu",
            precision=Precision.FP32,
            threads=1,
            batch_size=3,
            goal="throughput",
            reason="by hand",
        )
    (folder / PROFILE_NAME).write_bytes(profile_json(profile))
    sizes: list[int] = []

    def within_memory(_network: Network, wanted: int, _pixels: int, _read_ahead: int) -> int:
        return min(wanted, memory_allows)

    monkeypatch.setattr(Network, "batch_within_memory", within_memory)
    monkeypatch.setattr("service.session.Pipeline", pipeline_that_tells(sizes))
    photo = halves(tmp_path / "one.png", RED)
    job = WorkerOptions(
        build_request(), str(tmp_path / "out"), tmp_path / "cache", "tuned", "options", 1, IMAGE, "first"
    )
    assert work(job, {"uri": [photo.as_uri()], "stem": ["one"]})["status"] == ["ok"]
    assert sizes == [wanted]


def pipeline_that_tells(sizes: list[int]) -> Callable[..., Pipeline[Any, Any]]:
    """The real pipeline; the batch size that it is asked for is noted."""

    def made(*arguments: Any, batch_size: int, **named: Any) -> Pipeline[Any, Any]:
        sizes.append(batch_size)
        return Pipeline(*arguments, batch_size=batch_size, **named)

    return made


def test_a_batch_is_stored_before_its_rows(
    job: WorkerOptions, bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    tasks = numbered([path.as_uri() for path in photos])
    batch = {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]}
    assert batch["stem"] == ["a", "a-2", "c"]
    told = work(job, batch)
    assert told == {"uri": batch["uri"], "status": ["ok", "ok", "failed"]}
    pseg("predict", bundle, *photos, "--out", tmp_path / "plain", "--save", "mask,pseudo")
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["a-2.mask.png", "a-2.pseudo.png", "a.mask.png", "a.pseudo.png"]
    for name in pictures:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    entries = read_cluster_ledger(Folder(job.out)).entries
    assert [(entry.source, entry.record["status"], entry.digest) for entry in entries] == [
        (uri, status, "bundle and options") for uri, status in zip(batch["uri"], told["status"], strict=True)
    ]
    assert [each["cover"] for each in entries[1].record["cover"]] == [0, 0.5, 0.5]
    assert entries[1].picture == f"{job.out}/a-2.mask.png"
    assert entries[2].record["error"]["type"] == "ImageError"
    assert "is not a JPEG" in entries[2].record["error"]["message"]
    assert entries[0].record["provenance"]["runtime"] == "onnx"
    assert entries[0].record["network_size"] == {
        "width": entries[0].record["mask"]["width"],
        "height": entries[0].record["mask"]["height"],
    }


def test_a_table_of_the_first_version_is_read(job: WorkerOptions, photos: list[Path]) -> None:
    work(job, {"uri": [photos[0].as_uri()], "stem": ["a"]})
    out = Folder(job.out)
    (entry,) = read_cluster_ledger(out).entries
    first_version = {name: kind for name, kind in COLUMNS.items() if name not in ADDED}
    rows = [{name: value for name, value in entry.row().items() if name in first_version}]
    out.write("ledger.parquet", table_bytes(rows, first_version))
    for name in out.names("rows"):
        out.remove(name)
    (read,) = read_cluster_ledger(out).entries
    assert read.record == {**entry.record, "network_size": None}


def test_pictures_are_named_as_people_read_the_uri() -> None:
    uris = ["file:///d/a%20b.jpg", "https://h/get?file=1", "https://h/get?file=2", f"s3://b/{'%C3%A9' * 120}.jpg"]
    assert [task.stem for task in numbered(uris)] == ["a b", "get", "get-2", "é" * 90]


def entry(task: RemoteTask, status: str, digest: str) -> ClusterEntry:
    mask = {"path": "m", "width": 1, "height": 1} if status == "ok" else None
    return ClusterEntry({"image": task.uri, "status": status, "mask": mask}, task.stem, Capture(), digest, "node")


def test_what_is_done_again_is_told_once_an_image(job: WorkerOptions) -> None:
    tasks = numbered(["file:///a.png", "file:///b.png", "file:///c.png"])
    known = ClusterLedger(
        [
            entry(tasks[0], "ok", job.digest),
            entry(tasks[0], "ok", "other"),
            entry(tasks[1], "ok", "other"),
            entry(tasks[2], "failed", job.digest),
        ]
    )
    pending, resumed = known.pending(tasks, job.digest)
    assert [task.uri for task in pending] == ["file:///b.png", "file:///c.png"]
    assert resumed.notes() == [
        "1 of 3 images were done earlier",
        "1 done again: bundle or options are not the same",
        "1 done again: failed before",
    ]
    stranger = ClusterLedger([entry(RemoteTask("file:///dive 1/b.png", "b"), "ok", job.digest)])
    with pytest.raises(LedgerError, match=r"result of file:///dive 1/b\.png, which is not among these") as caught:
        stranger.pending(tasks, job.digest)
    assert caught.value.place == "m"


def test_the_results_of_another_run_are_not_replaced(
    job: WorkerOptions, bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    work(job, {"uri": [photos[0].as_uri()], "stem": ["a"]})
    out = Folder(job.out)
    before = sorted((path, path.read_bytes()) for path in Path(job.out).rglob("*") if path.is_file())
    pseg("manifest", photos[0], "--out", tmp_path / "m.parquet")
    command = ("scale", bundle, tmp_path / "m.parquet", "--out", job.out, "--cache-dir", tmp_path)
    outcome = pseg(*command)
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert "holds the results of another run, 1 images" in outcome.stderr
    assert "--overwrite" in outcome.stderr
    assert sorted((path, path.read_bytes()) for path in Path(job.out).rglob("*") if path.is_file()) == before
    assert "leave out one of --resume and --overwrite" in pseg(*command, "--resume", "--overwrite").stderr
    # The same bundle, options and images may run again, also with more of the images.
    known = read_cluster_ledger(out)
    known.require_same_run(out, numbered([photos[0].as_uri(), photos[1].as_uri()]), job.digest)
    with pytest.raises(LedgerError, match="holds the results of another run"):
        known.require_same_run(out, numbered([photos[1].as_uri()]), job.digest)


EDITS: tuple[tuple[str, Any], ...] = (
    ("stem", "../../x"),
    ("status", "fine"),
    ("mask", None),
    ("width", 0),
    ("latitude_deg", 91.0),
    ("provenance", "[]"),
    ("provenance", "[" * 100_000),
    ("timings_ms", '{"run": NaN}'),
    ("roi", "{}"),
    ("excluded", "[1]"),
    ("excluded", "2"),
)


def test_an_edited_row_is_refused_by_its_number(job: WorkerOptions, photos: list[Path]) -> None:
    tasks = numbered([photos[0].as_uri(), photos[1].as_uri()])
    work(job, {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]})
    out = Folder(job.out)
    known = read_cluster_ledger(out)
    write_cluster_ledger(out, known.entries, known.batches)
    first, second = read_rows(out.name_of("ledger.parquet"))
    for column, value in EDITS:
        edited = {**second, column: value}
        if column == "mask":
            edited["width"] = None
        out.write("ledger.parquet", table_bytes([first, edited], COLUMNS))
        with pytest.raises(LedgerError) as caught:
            read_cluster_ledger(out)
        assert (caught.value.place, caught.value.line) == (out.name_of("ledger.parquet"), 2), (column, value)


def test_a_batch_that_was_stored_is_not_done_twice(job: WorkerOptions, photos: list[Path], tmp_path: Path) -> None:
    tasks = numbered([path.as_uri() for path in photos])
    batch = {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]}
    work(job, batch)
    mask = tmp_path / "out" / "a.mask.png"
    written = mask.stat().st_mtime_ns
    halves(photos[2])
    assert work(job, batch)["status"] == ["ok", "ok", "failed"], "the row was there: its worker had died"
    assert mask.stat().st_mtime_ns == written
    assert work(replace(job, attempt="second"), batch)["status"] == ["ok", "ok", "ok"]
    out = Folder(job.out)
    stored = read_cluster_ledger(out)
    write_cluster_ledger(out, stored.entries, stored.batches)
    assert [entry.failed for entry in read_cluster_ledger(out).entries] == [False, False, False]
    assert list((tmp_path / "out" / "rows").iterdir()) == []


def test_a_result_that_cannot_be_stored_fails_its_image(job: WorkerOptions, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out" / "a.mask.png").mkdir(parents=True)
    tasks = numbered([path.as_uri() for path in photos])
    told = work(job, {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]})
    assert told["status"] == ["failed", "ok", "failed"]


def test_images_that_cannot_be_had_are_rows(job: WorkerOptions, photos: list[Path], tmp_path: Path) -> None:
    with HostileServer() as liar:
        uris = [f"{liar.url}/endless", f"{liar.url}/gzip", f"{liar.url}/good", "file:///a%00b.jpg", photos[0].as_uri()]
        tasks = numbered(uris)
        told = work(job, {"uri": uris, "stem": [task.stem for task in tasks]})
    assert told["status"] == ["failed"] * 4 + ["ok"]
    entries = read_cluster_ledger(Folder(job.out)).entries
    errors: list[str] = [entry.record["error"]["message"] for entry in entries if entry.failed]
    assert "more than 1048576 bytes, the most that is taken" in errors[0]
    assert "--max-image-bytes" in errors[0]
    assert "packed for the transfer" in errors[1]
    assert errors[2].startswith(f"{uris[2]}: is not a JPEG")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.mask.png", "a.pseudo.png"]


@pytest.mark.parametrize("fetched", [False, True], ids=["local", "downloaded"])
def test_what_predict_treats_as_a_raster_is_refused_by_name(
    job: WorkerOptions, tmp_path: Path, *, fetched: bool
) -> None:
    pixels = np.zeros((3, 40, 60), np.uint8)
    pixels[0, :, 30:] = 200
    folder = tmp_path / "in"
    folder.mkdir()
    maps = geotiff(folder / "map.tif", pixels, nodata=0)
    halves(folder / "plain.tif", RED)
    halves(folder / "large.tif", RED, size=(65, 32))
    limited = replace(job, request=build_request(threads=1, save=frozenset({"mask"}), max_pixels=64 * 32 + 1))
    paths = [maps, folder / "plain.tif", folder / "large.tif"]
    with served(folder) if fetched else nullcontext("") as url:
        uris = [f"{url}/{path.name}" if fetched else path.as_uri() for path in paths]
        told = work(limited, {"uri": uris, "stem": ["map", "plain", "large"]})
    assert told["status"] == ["failed", "ok", "failed"]
    assert sorted(path.name for path in Path(job.out).glob("*.png")) == ["plain.mask.png"]
    errors = [each.record["error"]["message"] for each in read_cluster_ledger(Folder(job.out)).entries if each.failed]
    for uri, path, error in zip(uris[::2], paths[::2], errors, strict=True):
        assert error.startswith(f"{uri if fetched else path}: is a raster")
        assert "pseg predict" in error


@contextmanager
def served(folder: Path) -> Generator[str]:
    """A folder on a web server of this machine: its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pseg scale` with one worker in this process; all but the distribution by Ray is real."""

    def segment(options: WorkerOptions, archive: bytes, tasks: Sequence[RemoteTask], **_: Any) -> None:
        assert options.cache is not None
        folder = options.cache / "bundles" / options.bundle_digest
        packed = options.cache / "packed"
        packed.write_bytes(archive)
        unpack(packed, folder)
        work(options, {"uri": [task.uri for task in tasks], "stem": [task.stem for task in tasks]})

    def connected(_: object) -> nullcontext[None]:
        return nullcontext()

    monkeypatch.setattr("service.commands.scale.connected", connected)
    monkeypatch.setattr("service.commands.scale.segment_all", segment)


def test_scale_tells_of_regions_confidence_and_excluded_classes_as_predict_does(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_a_cluster(monkeypatch)
    (tmp_path / "cache").mkdir()
    (tmp_path / "in").mkdir()
    quadrat(tmp_path / "in" / "a.png")
    quadrat(tmp_path / "in" / "cut.png", cut=True)
    asked = ("--save", "mask,confidence", "--unsure", 0.5, *FRAME)
    pseg("manifest", tmp_path / "in", "--out", tmp_path / "m.parquet")
    expected = pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "p", *asked, "--json").records
    merged = pseg("merge", tmp_path / "p", "--out", tmp_path / "merged.jsonl", "--json").records
    told = pseg(
        *("scale", bundle, tmp_path / "m.parquet", "--out", tmp_path / "o", "--cache-dir", tmp_path / "cache"),
        *(*asked, "--csv", tmp_path / "cover.csv", "--json"),
    )
    assert told.status == ExitStatus.INCOMPLETE, "a region was not found"
    found = [entry.record for entry in read_cluster_ledger(Folder(str(tmp_path / "o"))).entries]
    for name in ("cover", "confidence", "roi"):
        assert [each[name] for each in found] == [each[name] for each in expected]
    assert "excluded" in found[0]["cover"][2]
    assert told.records[0]["cover"] == merged[0]["cover"]
    first, second = csv_rows(tmp_path / "cover.csv")
    assert (first["cover_blue"], second["cover_blue"]) == ("", "")
    assert "cut off" in second["roi_error"]


def test_the_ledger_of_a_cluster_is_known_where_it_is_not_read(
    job: WorkerOptions, bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    work(job, {"uri": [photos[0].as_uri()], "stem": ["a"]})
    out = Folder(job.out)
    known = read_cluster_ledger(out)
    write_cluster_ledger(out, known.entries, known.batches)
    ledger = Path(job.out) / "ledger.parquet"
    for named in (ledger.parent, ledger):
        further = {"summarize": (), "merge": ("--out", tmp_path / "m"), "sample": ("--count", 1)}
        for command, options in {**further, "reproduce": ("--bundle", bundle)}.items():
            told = pseg_error(command, named, *options)
            assert f"{ledger} is a Parquet file, such as the ledger of `pseg scale`" in told
            assert "--overwrite" not in told


@pytest.mark.long
def test_a_collection_on_a_cluster_of_one_node(photos: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: make development")
    manifest, out = tmp_path / "m.parquet", tmp_path / "o"
    pseg("manifest", *photos, "--out", manifest)
    bundle = bundle_folder(tmp_path / "files")
    command = ("scale", bundle, manifest, "--out", out, "--address", "local", "--chunk", 2, "--cache-dir", tmp_path)
    files = ("--csv", tmp_path / "cover.csv", "--report", tmp_path / "report.html", "--json")
    outcome = pseg_process(*command, *files)
    assert outcome.status == ExitStatus.INCOMPLETE, outcome.stderr
    (summary,) = outcome.records
    assert summary["images"] == {"total": 3, "succeeded": 2, "failed": 1, "missing": 0}
    assert [each["image"] for each in summary["failures"]] == [photos[2].as_uri()]
    assert "3 of 3 images, 1 failed" in outcome.stderr
    with (tmp_path / "cover.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok", "ok", "failed"]
    assert "2 of 3 images segmented" in (tmp_path / "report.html").read_text()
    photos[2].unlink()
    pseg("manifest", *photos[:2], "--out", manifest)
    resumed = pseg(*command, "--resume")
    assert resumed.status == ExitStatus.DONE, "nothing is left to do: no cluster is needed"
    assert "2 of 2 images were done earlier" in resumed.stderr

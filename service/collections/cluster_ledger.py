"""The ledger of a collection on a cluster: rows of batches in Parquet, and at the end one file of them all.

The rules by which its entries hold for a run are those of `service.results.resuming`, as for a run into a folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config

from engine import Failed, Provenance
from engine.images import Capture
from engine.rasters.result import Result
from service.collections.storage import Folder, read_rows, table_bytes
from service.results.pictures import capture_from, capture_record, result_record
from service.results.records import (
    CaptureRecord,
    CoverRecord,
    RelativeName,
    Share,
    Side,
    Status,
    checked,
    checked_record,
)
from service.results.resuming import CLUSTER_LEDGER, LedgerError, Resumed, require_pictures_kept, resume, supersedes

ROWS = "rows"
COLUMNS: Mapping[str, str] = {
    "uri": "string", "stem": "string", "status": "string", "error_type": "string", "error": "string", "mask": "string",
    "width": "int64", "height": "int64", "cover": "cover", "taken_at": "string", "latitude_deg": "double",
    "longitude_deg": "double", "provenance": "string", "timings_ms": "string", "digest": "string", "node": "string",
    "network_width": "int64", "network_height": "int64", "notes": "string", "flags": "string", "confidence": "string",
    "roi": "string", "excluded": "string",
}  # fmt: skip
"""Of the rows; provenance, timings, and what stands behind the size that the network saw are JSON."""
_FIELDS = ("notes", "flags", "confidence", "roi")
"""Of records, written as JSON where there is one."""
_ADDED = ("network_width", "network_height", *_FIELDS, "excluded")
"""What tables of version 0.1.0 do not have."""


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Row(CaptureRecord):
    uri: str
    stem: RelativeName
    status: Status
    error_type: str | None
    error: str | None
    mask: str | None
    width: Side | None
    height: Side | None
    cover: Annotated[list[CoverRecord], Field(max_length=1 << 16)] | None
    provenance: str
    timings_ms: str
    digest: str
    node: str
    network_width: NotRequired[Side | None]
    network_height: NotRequired[Side | None]
    notes: NotRequired[str | None]
    flags: NotRequired[str | None]
    confidence: NotRequired[str | None]
    roi: NotRequired[str | None]
    excluded: NotRequired[str | None]


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """One image of a collection."""

    uri: str
    stem: str

    @property
    def label(self) -> str:
        return self.uri


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """What the ledger says of an image; `digest` is of bundle and options, `node` the machine that did it."""

    record: Mapping[str, Any]
    stem: str
    capture: Capture
    digest: str
    node: str
    modified_ns: None = None

    @property
    def source(self) -> str:
        return self.record["image"]

    @property
    def failed(self) -> bool:
        return self.record["status"] != "ok"

    @property
    def picture(self) -> str | None:
        return None if self.failed else self.record["mask"]["path"]

    def row(self) -> dict[str, Any]:
        record: Mapping[str, Any] = self.record
        mask: Mapping[str, Any] = record["mask"] or {}
        error: Mapping[str, Any] = record["error"] or {}
        seen: Mapping[str, Any] = record.get("network_size") or {}
        excluded = [each.get("excluded") for each in record["cover"]]
        return {
            "uri": record["image"],
            "stem": self.stem,
            "status": record["status"],
            "error_type": error.get("type"),
            "error": error.get("message"),
            "mask": mask.get("path"),
            "width": mask.get("width"),
            "height": mask.get("height"),
            "cover": record["cover"],
            **capture_record(self.capture),
            "provenance": json.dumps(record["provenance"]),
            "timings_ms": json.dumps(record["timings_ms"]),
            "digest": self.digest,
            "node": self.node,
            "network_width": seen.get("width"),
            "network_height": seen.get("height"),
            **{name: json.dumps(record[name]) if name in record else None for name in _FIELDS},
            # A share of all pixels for each class that is left out, null for the others.
            "excluded": json.dumps(excluded) if any(each is not None for each in excluded) else None,
        }


def entry_of(result: Result[RemoteTask, str | None], provenance: Provenance, digest: str, node: str) -> ClusterEntry:
    capture = Capture() if isinstance(result, Failed) else result.capture
    return ClusterEntry(result_record(result, provenance), result.source.stem, capture, digest, node)


def _entry_from(value: Mapping[str, Any]) -> ClusterEntry:
    row = checked(_Row, value)
    ok, told = row["status"] == "ok", {name: row.get(name) for name in _FIELDS}
    record = {
        "image": row["uri"],
        "status": row["status"],
        "error": None if ok else {"type": row["error_type"], "message": row["error"]},
        "mask": {"path": row["mask"], "width": row["width"], "height": row["height"]} if ok else None,
        "cover": _covers(row["cover"] or [], row.get("excluded")),
        "provenance": json.loads(row["provenance"]),
        "timings_ms": json.loads(row["timings_ms"]),
        "network_size": _size(row.get("network_width"), row.get("network_height")),
        **{name: json.loads(text) for name, text in told.items() if text is not None},
    }
    return ClusterEntry(checked_record(record), row["stem"], capture_from(row), row["digest"], row["node"])


def _covers(covers: Sequence[CoverRecord], excluded: str | None) -> list[dict[str, Any]]:
    if excluded is None:
        return [{**each} for each in covers]
    shares = zip(covers, checked(list[Share | None], json.loads(excluded)), strict=True)
    return [{**each} if share is None else {**each, "excluded": share} for each, share in shares]


def _size(width: int | None, height: int | None) -> dict[str, int] | None:
    return None if width is None or height is None else {"width": width, "height": height}


@dataclass(frozen=True, slots=True)
class ClusterLedger:
    """What is known of the images of a collection: one entry for every image, digest and stem.

    `batches` names the files of batches that were read.
    """

    entries: Sequence[ClusterEntry] = ()
    batches: Sequence[str] = ()

    def pending(self, tasks: Sequence[RemoteTask], digest: str) -> tuple[list[RemoteTask], Resumed[ClusterEntry]]:
        """Find the images that are to be done.

        Raises LedgerError where pictures of an image that the manifest does not name would be replaced.
        """
        known: dict[str, list[ClusterEntry]] = {task.uri: [] for task in tasks}
        strangers: list[ClusterEntry] = []
        for entry in self.entries:
            known.get(entry.source, strangers).append(entry)
        resumed = resume(list(enumerate(tasks)), digest, lambda task: known[task.uri])
        pending = [task for position, task in enumerate(tasks) if position not in resumed.finished]
        require_pictures_kept(strangers, pending, lambda picture: picture)
        return pending, resumed

    def require_same_run(self, out: Folder, tasks: Sequence[RemoteTask], digest: str) -> None:
        """Refuse to replace the results of another run; the same bundle, options and images may run again.

        LedgerError where images were segmented with another bundle, other options, or are not among these.
        """
        done = [entry for entry in self.entries if not entry.failed]
        others = len(done) - sum(not entry.failed for entry in self.of_run(tasks, digest))
        if others:
            differences = "another bundle, other options or other images"
            raise LedgerError.of_another_run(out.root, others, differences)

    def without_pictures_of(self, tasks: Sequence[RemoteTask]) -> list[ClusterEntry]:
        """Select the entries whose pictures stay what they are while images are done."""
        stems = {task.stem.casefold() for task in tasks}
        return [entry for entry in self.entries if entry.stem.casefold() not in stems]

    def of_run(self, tasks: Sequence[RemoteTask], digest: str) -> list[ClusterEntry]:
        """Select the entries of a run, in the order of its images; what has none is left out."""
        found = {(entry.source, entry.stem): entry for entry in self.entries if entry.digest == digest}
        return [found[key] for task in tasks if (key := (task.uri, task.stem)) in found]


def read_cluster_ledger(out: Folder) -> ClusterLedger:
    """Read what is known of the images.

    Raises StoreError where something cannot be read; OptionError where it is no Parquet file of a ledger; LedgerError
    where a row is not that of a ledger.
    """
    known: dict[tuple[str, str, str], ClusterEntry] = {}
    batches = [each for each in out.names(ROWS) if each.endswith(".parquet")]
    for name in [*([CLUSTER_LEDGER] if out.exists(CLUSTER_LEDGER) else []), *batches]:
        for entry in _entries_in(out.name_of(name)):
            key = entry.source, entry.digest, entry.stem
            if key not in known or supersedes(entry, known[key]):
                known[key] = entry
    return ClusterLedger(list(known.values()), batches)


def _entries_in(name: str) -> list[ClusterEntry]:
    entries: list[ClusterEntry] = []
    for number, row in enumerate(read_rows(name, list(COLUMNS), optional=_ADDED), 1):
        try:
            entries.append(_entry_from(row))
        except (ValueError, RecursionError) as error:
            raise LedgerError(
                name,
                f"is not that of a ledger of `pseg scale` ({error}): replace it with --overwrite, or name another "
                "folder with --out",
                line=number,
            ) from error
    return entries


def write_cluster_ledger(out: Folder, entries: Sequence[ClusterEntry], batches: Sequence[str]) -> None:
    """Store entries as one file, and remove the files of batches that they were read from.

    Other batches stay: somebody is at work. Raises StoreError.
    """
    out.write(CLUSTER_LEDGER, _table(entries))
    for name in batches:
        out.remove(name)


def read_batch(out: Folder, name: str) -> Sequence[ClusterEntry] | None:
    """Read the entries of a batch; None if they are not stored."""
    file = f"{ROWS}/{name}.parquet"
    return _entries_in(out.name_of(file)) if out.exists(file) else None


def write_batch(out: Folder, name: str, entries: Sequence[ClusterEntry]) -> None:
    out.write(f"{ROWS}/{name}.parquet", _table(entries))


def remove_cluster_ledger(out: Folder) -> None:
    for name in [*([CLUSTER_LEDGER] if out.exists(CLUSTER_LEDGER) else []), *out.names(ROWS)]:
        out.remove(name)


def _table(entries: Sequence[ClusterEntry]) -> bytes:
    return table_bytes([entry.row() for entry in entries], COLUMNS)

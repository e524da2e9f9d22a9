"""The file of a run ledger: what its lines say of a run and of its images.

`<out>/ledger.jsonl` begins with a line about the run: bundle, options, shard, and the list of images by number and
digest. Then comes a line for every image, appended and synced only after its pictures are stored: the record that
`--json` prints, and in its field `ledger` the image's place in the list and what tells whether the line still holds
(size and time of the source, names of the pictures, digest of bundle and options). A process that is killed leaves at
worst a torn last line, which is dropped when the ledger is read.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NotRequired, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from engine import OptionError
from engine.images import Capture
from engine.system.files import open_regular
from service.collections.sharding import Shard, parse_shard
from service.results.pictures import ImageTask, capture_from, capture_record
from service.results.records import (
    MOST_IMAGES,
    AbsolutePath,
    ByteCount,
    CaptureRecord,
    Digest,
    Facts,
    FileName,
    Nanoseconds,
    Position,
    RecordError,
    RelativeName,
    checked,
    checked_record,
)
from service.results.resuming import CLUSTER_LEDGER, LedgerError
from service.results.runs import Run

_log = logging.getLogger(__name__)
_FORMAT = 2
_LINE_BYTES = 1 << 25  # more than the classes of any bundle take
_MOST_BYTES = 1 << 34
_MOST_PICTURES = 8
_SHOWN = 300
_FIELD = "ledger"
_REPLACED = "replaced"
_BEGIN_AGAIN = "give the command of that run again, or remove the file"
_NO_RUN = "is empty: a run was stopped as it began"
_PARQUET = b"PAR1"
_OF_A_CLUSTER = (
    "is a Parquet file, such as the ledger of `pseg scale`, which only that command reads: for the table or the "
    "report of the collection, give its command again with --resume and --csv or --report; for surveys, labels and "
    "merging, segment the pictures with `pseg predict`, on several machines with --shard"
)
_PAGE = re.compile(r"(?s)(.*) \(page ([0-9]+)\)")

_Parsed = TypeVar("_Parsed")


class _RunLine(TypedDict):
    ledger: Literal[2]
    bundle: str
    options: Facts
    images: Position
    listing: str
    shard: str | None
    bundle_name: NotRequired[str | None]
    pseg: NotRequired[str | None]


class _EntryNote(TypedDict):
    position: Position
    stem: RelativeName
    path: AbsolutePath
    size_bytes: ByteCount | None
    modified_ns: Nanoseconds | None
    # What they may be is known when a run with its options asks for them.
    pictures: Annotated[list[FileName], Field(max_length=_MOST_PICTURES)]
    picture_bytes: list[ByteCount | None]
    capture: CaptureRecord
    digest: Digest
    aside: bool


class _ReplacedNote(TypedDict):
    replaced: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What a ledger says of an image.

    `position` in the list is from 0; `path` is absolute; `size_bytes` and `modified_ns` of the source are None if there
    was no such file; `pictures` are named from the ledger's folder; `digest` is of bundle and options.
    """

    record: Mapping[str, Any]
    position: int
    stem: str
    path: str
    size_bytes: int | None
    modified_ns: int | None
    pictures: tuple[str, ...]
    picture_bytes: tuple[int | None, ...]
    capture: Capture
    digest: str
    aside: bool = False
    """Whether it does not belong to the run that the ledger tells of."""

    @property
    def source(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """What the run called the image, for people."""
        return self.record["image"]

    @property
    def failed(self) -> bool:
        return self.record["status"] != "ok"

    @property
    def picture(self) -> str | None:
        return self.pictures[0] if self.pictures else None

    def line(self) -> bytes:
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "record"}
        return _json_line({**self.record, _FIELD: {**told, "capture": capture_record(self.capture)}})


@dataclass(frozen=True, slots=True)
class LedgerContent:
    """A ledger that was read: the last entry of every image, in the order of the list.

    `aside` are entries of earlier runs with other options or another list, whose pictures are still there.
    """

    path: Path
    run: Run
    entries: Sequence[Entry]
    aside: Sequence[Entry] = ()

    @property
    def folder(self) -> Path:
        """Where it lies, without links."""
        return self.path.parent.resolve()


def ledger_path(folder: Path, shard: Shard | None) -> Path:
    """Name the ledger of a run.

    >>> ledger_path(Path("masks"), Shard(2, 8)).name
    'ledger.2-of-8.jsonl'
    """
    return folder / ("ledger.jsonl" if shard is None else f"ledger.{shard.index}-of-{shard.count}.jsonl")


def read_ledger(path: Path) -> LedgerContent:
    """Read a ledger; a torn last line is dropped.

    Raises LedgerError, which names file and line, where it cannot be read or is no ledger.
    """
    with reading(path) as file:
        return content_of(path, file)


@contextmanager
def reading(path: Path) -> Generator[BinaryIO]:
    try:
        with open(path, "rb", opener=open_regular) as file:
            yield file
    except OSError as error:
        raise LedgerError(path, f"cannot be read ({error.strerror}): name a ledger of `pseg predict`") from error


def run_in(path: Path, file: BinaryIO) -> Run:
    for number, line in _lines(path, file):
        return _parsed(path, number, line, _run_from)
    raise LedgerError(path, f"{_NO_RUN}: {_BEGIN_AGAIN}")


def content_of(path: Path, file: BinaryIO) -> LedgerContent:
    run: Run | None = None
    last: dict[str, Entry] = {}
    aside: dict[str, Entry] = {}
    owners: dict[int, str] = {}
    for number, line in _lines(path, file):
        if run is None:
            run = _parsed(path, number, line, _run_from)
            continue
        told = _parsed(path, number, line, _entry_from)
        if isinstance(told, str):
            aside.pop(told, None)
        elif told.aside:
            aside[told.stem.casefold()] = told
        else:
            if told.position >= run.images or owners.setdefault(told.position, told.path) != told.path:
                raise LedgerError(
                    path,
                    f"has position {told.position}, which is that of another image, or of none of the {run.images}: "
                    "name another folder, or replace it with --overwrite",
                    line=number,
                )
            last[told.path] = told
        if len(last) + len(aside) > MOST_IMAGES:
            raise LedgerError(path, f"is one of more than {MOST_IMAGES} images", line=number)
    if run is None:
        raise LedgerError(path, f"{_NO_RUN}: {_BEGIN_AGAIN}")
    return LedgerContent(path, run, sorted(last.values(), key=lambda entry: entry.position), list(aside.values()))


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are whole, numbered from 1, of a file as long as it is now."""
    left = os.fstat(file.fileno()).st_size
    if left > _MOST_BYTES:
        raise LedgerError(path, f"has {left} bytes, and a ledger of {MOST_IMAGES} images has fewer than {_MOST_BYTES}")
    file.seek(0)
    if file.read(len(_PARQUET)) == _PARQUET:
        raise LedgerError(path, _OF_A_CLUSTER)
    file.seek(0)
    number = 0
    while left > 0 and (line := file.readline(min(left, _LINE_BYTES + 1))):
        number += 1
        left -= len(line)
        if len(line) > _LINE_BYTES:
            raise LedgerError(path, f"is longer than {_LINE_BYTES} bytes: it is not that of a ledger", line=number)
        if not line.endswith(b"\n"):
            _log.warning("%s: the last line is torn, its image is not taken for done", path)
            return
        yield number, line


def begun_ledgers(folder: Path) -> list[Path]:
    """Find the ledgers in a folder as `ledgers_in` does, without empty ones, which a log record names.

    LedgerError where there is none, or all are empty.
    """
    found = ledgers_in(folder)
    if not found and (folder / CLUSTER_LEDGER).is_file():
        raise LedgerError(folder / CLUSTER_LEDGER, _OF_A_CLUSTER)
    if not found:
        raise LedgerError(folder, "holds no ledger: name the folder of a run, or a ledger itself")
    empty = [path for path in found if file_bytes(path) == 0]
    if len(empty) == len(found):
        raise LedgerError(empty[0], f"{_NO_RUN}: {_BEGIN_AGAIN}")
    for path in empty:
        _log.warning("%s %s, and images that no other ledger has count as missing: %s", path, _NO_RUN, _BEGIN_AGAIN)
    return [path for path in found if path not in empty]


def ledgers_in(folder: Path) -> list[Path]:
    """Find the ledgers in a folder: those of shards, then that of a whole run."""
    return [*sorted(folder.glob("ledger.*-of-*.jsonl")), *folder.glob("ledger.jsonl")]


def file_bytes(path: Path) -> int | None:
    """The size of a file; None where there is none, or a link in its place, which no run makes."""
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def file_and_page(path: str) -> tuple[Path, int | None]:
    """Find the file of an image by the path of its entry, and its page as in `ImageTask`."""
    paged = _PAGE.fullmatch(path)
    return (Path(path), None) if paged is None else (Path(paged[1]), int(paged[2]))


def identity_of(task: ImageTask) -> str:
    """The image's place, and which page of it."""
    return _absolute(task.path) if task.page is None else f"{_absolute(task.path)} (page {task.page})"


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (a name: nothing is looked at, no link is followed)


def line_of_run(run: Run) -> bytes:
    return _json_line({_FIELD: _FORMAT, **asdict(run)})


def line_of_replaced(stem: str) -> bytes:
    """Write that the pictures of an image that is put aside are replaced from here on."""
    return _json_line({_FIELD: {_REPLACED: stem.casefold()}})


def _json_line(record: Mapping[str, Any]) -> bytes:
    # In ASCII: a name that is no UTF-8 survives.
    return json.dumps(record).encode() + b"\n"


def _run_from(line: dict[str, Any]) -> Run:
    if line.get(_FIELD) != _FORMAT:
        raise RecordError(_FIELD, "the format is that of another version")
    values = _known(checked(_RunLine, line), Run)
    if values["shard"] is not None:
        values["shard"] = str(parse_shard(values["shard"]))
    return Run(**values)


def _entry_from(line: dict[str, Any]) -> Entry | str:
    """An entry, or the stem whose pictures are replaced."""
    note = line.pop(_FIELD)
    if _REPLACED in note:
        return checked(_ReplacedNote, note)["replaced"]
    values = _known(checked(_EntryNote, note), Entry)
    pictures, sizes = tuple(values["pictures"]), tuple(values["picture_bytes"])
    if len(pictures) != len(sizes):
        raise RecordError("pictures", f"there are {len(pictures)} and {len(sizes)} of picture_bytes")
    values |= {"pictures": pictures, "picture_bytes": sizes, "capture": capture_from(values["capture"])}
    return Entry(checked_record(line), **values)


def _known(told: Mapping[str, Any], kind: type[Run | Entry]) -> dict[str, Any]:
    return {each.name: told[each.name] for each in fields(kind) if each.name in told}


def _parsed(path: Path, number: int, line: bytes, make: Callable[[dict[str, Any]], _Parsed]) -> _Parsed:
    try:
        return make(json.loads(line))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OptionError) as error:
        reason = str(error) if isinstance(error, RecordError | OptionError) else f"{type(error).__name__}: {error}"
        raise LedgerError(
            path,
            f"is not that of a ledger ({reason[:_SHOWN]}): name a ledger of `pseg predict` that this version made, or "
            "name another folder, or replace it with --overwrite",
            line=number,
        ) from error

"""The ledger of a run into a folder: what is finished, so that a run that was cut off goes on where it was.

Who resumes writes the ledger anew, atomically, with the lines that hold for this run and, put aside, those that do not:
they may hold for a later one, with the options that they were made with or the list that they belong to. Before a
picture takes the place of one that is put aside, a line says so. A lock on the file keeps two runs from writing one
ledger.

A folder may hold several ledgers: of shards, of shards of another number, and of whole runs. A run whose pictures take
the place of those that another ledger tells of removes them from that ledger first, so that no two ledgers of a folder
tell of one picture otherwise.
"""

import errno
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from engine import Failed, Provenance
from engine.images import Capture
from engine.rasters.result import Result, SegmentedRaster
from engine.system.files import atomic_file, lock_alone, open_regular
from service.collections.sharding import parse_shard
from service.results.ledger import (
    Entry,
    LedgerContent,
    content_of,
    file_bytes,
    identity_of,
    ledger_path,
    ledgers_in,
    line_of_replaced,
    line_of_run,
    read_ledger,
    reading,
    run_in,
)
from service.results.pictures import (
    ImageTask,
    map_names,
    picture_names,
    polygons_of,
    provenance_record,
    result_record,
)
from service.results.resuming import OTHER_OPTIONS, LedgerError, require_pictures_kept, resume
from service.results.runs import Listing, Run, mixture

_log = logging.getLogger(__name__)
_PATIENCE_S = 30.0  # shards that begin together may each have to change one ledger
_ASKED_EVERY_S = 0.1

_Result = Result[ImageTask, Path | None]


class _UnderWay(NamedTuple):
    """What was known of an image before it was read."""

    position: int
    size_bytes: int | None
    modified_ns: int | None


@dataclass(slots=True)
class Ledger:
    """The ledger of a run that is being made.

    `finished` are entries of images that need not be done again, by position; `notes` what people should know of a
    resumed run; `aside` stems, without letter case, of entries that are put aside. Without `path` nothing is kept.
    """

    run: Run
    listing: Listing
    provenance: Provenance
    finished: Mapping[int, Entry] = field(default_factory=dict[int, Entry])
    notes: Sequence[str] = ()
    aside: frozenset[str] = frozenset()
    path: Path | None = None
    _file: BinaryIO | None = None
    _under_way: dict[ImageTask, _UnderWay] = field(default_factory=dict[ImageTask, _UnderWay])
    _records: dict[ImageTask, Mapping[str, Any]] = field(default_factory=dict[ImageTask, Mapping[str, Any]])

    def pending(self) -> Iterator[ImageTask]:
        """Hand out what is not finished, in the order of the list.

        Raises LedgerError where the ledger cannot be written; nobody would know what is done.
        """
        for position, task in self.listing.mine:
            if position not in self.finished:
                # Before it is read: what changes later has another stamp.
                self._under_way[task] = _UnderWay(position, *_stamp(task.path))
                if task.stem.casefold() in self.aside:
                    self._write(line_of_replaced(task.stem))
                yield task

    def in_order(self, fresh: Iterator[_Result]) -> Iterator[tuple[Mapping[str, Any], _Result | Entry]]:
        """Join what was done earlier with the results of what is pending, which come in its order, recorded by then.

        Yields for every image of this run, in the order of the list, its record, and its result or the entry of an
        earlier run.
        """
        for position, _ in self.listing.mine:
            entry = self.finished.get(position)
            if entry is None:
                result = next(fresh)
                yield self._records.pop(result.source), result
            else:
                yield entry.record, entry

    def record(self, result: _Result) -> None:
        """Append the line of a result that is stored, or of a failure; raises LedgerError as `pending` does."""
        task = result.source
        under_way = self._under_way.pop(task)
        record = self._records[task] = result_record(result, self.provenance)
        if self._file is None or self.path is None:
            return
        pictures: tuple[str, ...] = ()
        capture = Capture()
        if not isinstance(result, Failed):
            if isinstance(result, SegmentedRaster):
                pictures = _files_of_raster(task, self.run)
            else:
                pictures = picture_names(task.stem, self.run.options["save"], planes=result.prediction.mask.ndim == 3)
            capture = result.capture
        entry = Entry(
            record,
            under_way.position,
            task.stem,
            identity_of(task),
            under_way.size_bytes,
            under_way.modified_ns,
            pictures,
            tuple(file_bytes(self.path.parent / name) for name in pictures),
            capture,
            self.run.digest,
        )
        self._write(entry.line())

    def _write(self, line: bytes) -> None:
        if self._file is None or self.path is None:
            return
        try:
            # One write: a reader sees the line whole, or torn at the end of the file.
            written = self._file.write(line)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, str(error.strerror)) from error
        if written != len(line):
            raise _unwritable(self.path, "no room for a whole line")


def _files_of_raster(task: ImageTask, run: Run) -> tuple[str, ...]:
    """Names of the maps and polygons of a raster."""
    save, vectors = run.options["save"], run.options.get("vectors")
    maps = map_names(task.stem, save) if save else ()
    return maps if vectors is None else (*maps, polygons_of(task, vectors))


@contextmanager
def open_ledger(
    folder: Path,
    run: Run,
    listing: Listing,
    provenance: Provenance,
    *,
    resume: bool,
    overwrite: bool = False,
    keep: bool = True,
) -> Generator[Ledger]:
    """Begin a ledger, or with `resume` go on with the one that is there, as far as its entries still hold.

    `overwrite` permits to replace the results of a run with another bundle, other options or other images. Without
    `keep` nothing is written and everything is done. What other ledgers of the folder say of pictures that will be
    replaced is removed from them. Raises LedgerError where what is to be resumed is no ledger, it cannot be written,
    another run is writing it or one of those, or pictures of images that are not among these, or of another run, would
    be replaced.
    """
    if not keep:
        yield Ledger(run, listing, provenance)
        return
    path = ledger_path(folder, listing.shard)
    known = _Known({}, [], [])
    stems = {task.stem.casefold() for _, task in listing.mine}
    outdated: list[LedgerContent] = []
    with ExitStack() as lasting:
        with ExitStack() as held:

            def entries(before: BinaryIO) -> Iterable[Entry]:
                nonlocal known
                others = list(_other_ledgers(path, run, listing, tolerant=overwrite))
                if resume:
                    known = _still_finished(path, before, run, listing, others)
                    known = replace(known, notes=[*known.notes, *_told_mixture(known, listing, provenance)])
                elif not overwrite:
                    own = [content_of(path, before)] if os.fstat(before.fileno()).st_size else []
                    for content in (*own, *others):
                        _require_same_run(content, run)
                replaced = _stems_replaced(run, listing, known.finished)
                outdated.extend(_hold_outdated(held, others, run, replaced, stems))
                return [*known.finished.values(), *known.aside]

            file = lasting.enter_context(_replaced(path, run, entries))
            # Behind this run's own ledger, which now has what it took from them.
            for content in outdated:
                _write_rest(content, stems)
        aside = frozenset(entry.stem.casefold() for entry in known.aside)
        yield Ledger(run, listing, provenance, known.finished, known.notes, aside, path, file)


def write_ledger(content: LedgerContent) -> None:
    """Write a whole ledger, in place of the one that is there.

    Raises LedgerError where it cannot be written, or a run is writing it.
    """
    with _replaced(content.path, content.run, lambda _: [*content.entries, *content.aside]):
        pass


def _replaced(path: Path, run: Run, entries: Callable[[BinaryIO], Iterable[Entry]]) -> BinaryIO:
    """Write a ledger anew, made of what is there, and keep it open and locked behind its content."""
    with _locked(path) as before:
        return _written_anew(path, run, entries(before))


def _written_anew(path: Path, run: Run, entries: Iterable[Entry]) -> BinaryIO:
    try:
        with atomic_file(path) as temporary:
            temporary.write(line_of_run(run))
            temporary.writelines(entry.line() for entry in entries)
            temporary.flush()
            # A second handle on the same opening: the lock lives as long as it does.
            file = os.fdopen(os.dup(temporary.fileno()), "wb", buffering=0)
            _lock(path, file)
    except OSError as error:
        raise _unwritable(path, str(error.strerror)) from error
    return file


def _other_ledgers(path: Path, run: Run, listing: Listing, *, tolerant: bool) -> Iterator[LedgerContent]:
    """Read the other ledgers of a folder, except those of the other shards of this run.

    `tolerant`: what cannot be read is named and left as it is.
    """
    for other in ledgers_in(path.parent):
        if other == path or not file_bytes(other):
            continue
        try:
            with reading(other) as file:
                if not _is_other_shard(run_in(other, file), run, listing):
                    yield content_of(other, file)
        except LedgerError as error:
            if not os.path.lexists(other):
                continue  # a run that replaces it, too, was faster
            if not tolerant:
                raise
            _log.warning("%s: it may tell of pictures that are replaced now: remove it", error)


def _is_other_shard(other: Run, run: Run, listing: Listing) -> bool:
    """Whether it is another shard of one run, so that both have no image in common."""
    if listing.shard is None or other.shard is None or (other.digest, other.listing) != (run.digest, run.listing):
        return False
    shard = parse_shard(other.shard)
    return shard.count == listing.shard.count and shard.index != listing.shard.index


def _stems_replaced(run: Run, listing: Listing, finished: Mapping[int, Entry]) -> frozenset[str]:
    """The stems, without letter case, of pictures that a run will write."""
    if not run.options.get("save") and not run.options.get("vectors"):
        return frozenset()
    return frozenset(task.stem.casefold() for position, task in listing.mine if position not in finished)


def _hold_outdated(
    held: ExitStack, others: Iterable[LedgerContent], run: Run, replaced: Set[str], stems: Set[str]
) -> Iterator[LedgerContent]:
    """Lock the ledgers that tell of what will be replaced, and yield what is left of them.

    `stems`, without letter case, are those of all images of the run.
    """
    for other in others:
        if not _is_outdated(other, run, replaced, stems):
            continue
        file = held.enter_context(_locked(other.path, _PATIENCE_S))
        # As it is by now; empty where somebody else has removed it.
        is_there = os.fstat(file.fileno()).st_size > 0
        content = content_of(other.path, file) if is_there else replace(other, entries=(), aside=())
        entries, aside = (
            [entry for entry in each if not (entry.pictures and entry.stem.casefold() in replaced)]
            for each in (content.entries, content.aside)
        )
        yield replace(content, entries=entries, aside=aside)


def _is_outdated(other: LedgerContent, run: Run, replaced: Set[str], stems: Set[str]) -> bool:
    told = [*other.entries, *other.aside]
    if not told:
        # Of the same images and made otherwise, it would be in the way of those who join ledgers.
        return other.run.listing == run.listing and other.run.digest != run.digest
    if any(entry.pictures and entry.stem.casefold() in replaced for entry in told):
        return True
    # A whole run that does anything has all of it in its own ledger.
    return run.shard is None and bool(replaced) and _tells_only_of(other, stems)


def _tells_only_of(content: LedgerContent, stems: Set[str]) -> bool:
    return all(entry.stem.casefold() in stems for entry in (*content.entries, *content.aside))


def _write_rest(content: LedgerContent, stems: Set[str]) -> None:
    """Write what is left of a ledger that is locked; of one that tells of these stems alone nothing is left."""
    if _tells_only_of(content, stems):
        content.path.unlink(missing_ok=True)
    else:
        _written_anew(content.path, content.run, [*content.entries, *content.aside]).close()


@contextmanager
def _locked(path: Path, patience_s: float = 0) -> Generator[BinaryIO]:
    """The file at a path, made if absent, for nobody else; where an error ends the block, no empty one is left."""
    while True:
        with _opened(path) as file:
            _lock(path, file, patience_s)
            # Who held it before may have put another file in its place.
            if _is_at(path, file):
                try:
                    yield file
                except Exception:
                    # Made for the lock, or by a run that was killed at once: it tells nothing.
                    if _is_at(path, file) and not os.fstat(file.fileno()).st_size:
                        path.unlink()
                    raise
                return


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "a+b", opener=open_regular)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise _unwritable(path, str(error.strerror)) from error
        raise LedgerError(
            path, f"cannot be opened ({error.strerror}): remove it, or name another folder with --out"
        ) from error


def _is_at(path: Path, file: BinaryIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    return False


def _lock(path: Path, file: BinaryIO, patience_s: float = 0) -> None:
    until = time.monotonic() + patience_s
    while True:
        try:
            lock_alone(file)
        except BlockingIOError as error:
            if time.monotonic() < until:
                time.sleep(_ASKED_EVERY_S)
                continue
            raise LedgerError(
                path,
                "is in use: another run is writing its results there: wait for it, or name another folder with --out",
            ) from error
        return


def _unwritable(path: Path, reason: str) -> LedgerError:
    return LedgerError(path, f"cannot be written ({reason}): make room, and go on with --resume")


@dataclass(frozen=True, slots=True)
class _Known:
    """What an earlier ledger says: entries that hold for this run, by position, and those that may hold for another."""

    finished: Mapping[int, Entry]
    aside: Sequence[Entry]
    notes: Sequence[str]


def _still_finished(path: Path, file: BinaryIO, run: Run, listing: Listing, others: Sequence[LedgerContent]) -> _Known:
    own = content_of(path, file) if os.fstat(file.fileno()).st_size else None
    own_entries = [] if own is None else [*own.aside, *own.entries]
    entries = [*(entry for other in others for entry in (*other.aside, *other.entries)), *own_entries]
    listed = {identity_of(task) for task in listing.tasks}
    strangers = [entry for entry in entries if entry.path not in listed]
    known: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        known[entry.path].append(entry)
    for entry in strangers:
        if _stamp(Path(entry.path)) == (None, None):
            known[_moved(Path(entry.path), (entry.size_bytes, entry.modified_ns))].append(entry)
    elsewhere: dict[str, Set[tuple[object, ...]]] = {}

    def entries_of(task: ImageTask) -> list[Entry]:
        return known.get(identity_of(task)) or known.get(_moved(task.path, _stamp(task.path)), [])

    def changed(entry: Entry, task: ImageTask) -> str | None:
        return _change(entry, task, run, path.parent, elsewhere)

    resumed = resume(listing.mine, run.digest, entries_of, changed)
    used = {id(entry) for entry in resumed.finished.values()}
    done = {entry.stem for entry in resumed.finished.values()}
    aside = [replace(entry, aside=True) for entry in own_entries if id(entry) not in used and not entry.failed]
    strangers = [entry for entry in strangers if entry.stem not in done and entry.pictures]
    pending = [task for position, task in listing.mine if position not in resumed.finished]
    require_pictures_kept(strangers, pending, lambda picture: str(path.parent / picture))
    replaced = _stems_replaced(run, listing, resumed.finished)
    for other in others:
        _require_none_replaced(other, run, replaced)
    nothing = own is None and not resumed.finished
    notes = [f"nothing to resume: there was no {path}"] if nothing else resumed.notes()
    if strangers:
        notes.append(f"{len(strangers)} that were done earlier are not among these images, and are left as they are")
    if own is not None and own.run.digest != run.digest:
        changes = "; ".join(run.changes_since(own.run))
        again = resumed.again.get(OTHER_OPTIONS, 0)
        notes.insert(0, f"bundle or options have changed ({changes}); earlier results that are replaced: {again}")
    tasks = dict(listing.mine)
    finished = {at: _as_of_now(entry, at, tasks[at], path.parent) for at, entry in resumed.finished.items()}
    return _Known(finished, aside, notes)


def _told_mixture(known: _Known, listing: Listing, provenance: Provenance) -> list[str]:
    """What differs between earlier results that stay and those that will be made."""
    earlier = [entry.record["provenance"] for entry in known.finished.values()]
    pending = [provenance_record(provenance)] * (len(listing.mine) - len(earlier))
    told = mixture([*earlier, *pending])
    return [] if told is None else [told]


def _moved(path: Path, stamp: tuple[int | None, int | None]) -> tuple[str, tuple[int | None, int | None]]:
    """What a file that was moved is known by."""
    return path.name, stamp


def _require_none_replaced(other: LedgerContent, run: Run, replaced: Set[str]) -> None:
    """What another ledger tells of is replaced image by image only with the bundle and the options that it tells of."""
    if other.run.digest == run.digest:
        return
    kept = [entry for entry in other.entries if entry.stem.casefold() in replaced and _has_picture(other, entry)]
    if kept:
        raise LedgerError(
            other.path,
            f"tells of {len(kept)} of these images, made otherwise ({'; '.join(run.differences(other.run))}): give the "
            "options of that run, name another folder, or replace its results all at once with --overwrite in place "
            "of --resume",
        )


def _has_picture(content: LedgerContent, entry: Entry) -> bool:
    return any(file_bytes(content.path.parent / name) is not None for name in entry.pictures)


def _require_same_run(content: LedgerContent, run: Run) -> None:
    """The same bundle, options and images may run again; other results are not replaced unless that is asked for."""
    if (content.run.digest, content.run.listing) == (run.digest, run.listing):
        return
    kept = sum(_has_picture(content, entry) for entry in (*content.entries, *content.aside))
    if kept:
        others = "; ".join(run.differences(content.run)) or "other images"
        raise LedgerError.of_another_run(content.path.parent, kept, others)


def _change(
    entry: Entry, task: ImageTask, run: Run, folder: Path, elsewhere: dict[str, Set[tuple[object, ...]]]
) -> str | None:
    if (entry.size_bytes, entry.modified_ns) != _stamp(task.path):
        return "the image was changed"
    place = _place_of_pictures(entry, task, run)
    if place is None:
        return "the ledger names other files than its pictures"
    if place and not _is_known_there(entry, folder, place, elsewhere):
        return f"the pictures are said to lie in {place}, and no ledger there knows them"
    sizes = tuple(file_bytes(folder / name) for name in entry.pictures)
    if None in sizes:
        return "pictures are missing"
    if sizes != entry.picture_bytes:
        return "pictures were changed"
    return None


def _place_of_pictures(entry: Entry, task: ImageTask, run: Run) -> str | None:
    """In which folder an entry says that its pictures lie: "" for the ledger's own; None: they are other files."""
    save = run.options["save"]
    for own_names in (
        picture_names(task.stem, save, planes=False),
        picture_names(task.stem, save, planes=True),
        _files_of_raster(task, run),
    ):
        first = entry.pictures[0] if entry.pictures else ""
        place = first.removesuffix(own_names[0]) if own_names else ""
        is_folder = not place or (place.endswith("/") and not place.startswith("/"))
        # A file that the user names for polygons lies where it lies, whatever the folder: joining keeps its name.
        if is_folder and entry.pictures == tuple(os.path.join(place, name) for name in own_names):  # noqa: PTH118
            return place
    return None


def _is_known_there(entry: Entry, folder: Path, place: str, elsewhere: dict[str, Set[tuple[object, ...]]]) -> bool:
    """Whether the run that made pictures in another folder, whose ledger was merged into this one, tells of them."""
    if place not in elsewhere:
        known: set[tuple[object, ...]] = set()
        for ledger in ledgers_in(folder / place):
            with suppress(LedgerError):
                known.update(_told(each, each.pictures) for each in read_ledger(ledger).entries)
        elsewhere[place] = known
    return _told(entry, tuple(name.removeprefix(place) for name in entry.pictures)) in elsewhere[place]


def _told(entry: Entry, pictures: tuple[str, ...]) -> tuple[object, ...]:
    return entry.path, entry.digest, entry.stem, pictures, entry.picture_bytes


def _as_of_now(entry: Entry, position: int, task: ImageTask, folder: Path) -> Entry:
    """An entry as this run would write it: the folder may have been named otherwise."""
    mask = dict(entry.record["mask"])
    # Polygons alone are no mask.
    if mask["path"] is not None and entry.pictures:
        mask["path"] = str(folder / entry.pictures[0])
    return replace(
        entry,
        position=position,
        path=identity_of(task),
        aside=False,
        record={**entry.record, "image": task.label, "mask": mask},
    )


def _stamp(path: Path) -> tuple[int, int] | tuple[None, None]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None, None
    return found.st_size, found.st_mtime_ns

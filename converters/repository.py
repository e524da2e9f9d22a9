"""The cache of converted models: keyed by content, written atomically, bounded, safe when two processes want one model.

An entry appears by one rename of a finished file, so that a reader sees all of it or none. A lock file per entry keeps
two processes from doing the same work; the kernel drops the lock of a process that dies.

After each new entry the cache is brought below its bound: the entries that were used longest ago go first. One that was
used within the last hour stays, whatever the bound, since a process may be about to open it.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine.bundle.bundle import file_digest
from engine.errors import ConversionError
from engine.system.files import open_regular, write_atomically

MODEL = "model.onnx"
DEFAULT_MAX_BYTES = 8 << 30
KEPT_S = 3600.0
_MAKING = "making-"
_LOCK = "lock"
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_REFUSAL_BYTES = 1 << 24
_DIGEST, _DIGEST_BYTES = "digest.json", 1 << 12
_ROOM_BYTES = 1 << 20


_Entry = TypeVar("_Entry")
_log = logging.getLogger(__name__)


class RefusedError(ConversionError):
    """The converter will always refuse this network; remembered, so that it is not tried again at every start.

    Nothing else is remembered: not what may be a fault of the machine, or of what is installed. The message does not
    name the bundle, since another one may hold the same network. With it are remembered `details`, JSON values.
    """

    def __init__(self, message: str, details: object = None) -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder of converted models, made when needed."""

    root: Path
    max_bytes: int = DEFAULT_MAX_BYTES  # bound of all entries together
    kept_s: float = KEPT_S  # for which an entry that was used is safe from removal

    def fetch(self, key: str, make: Callable[[Path], None], read: Callable[[Path], _Entry | None]) -> _Entry:
        """Return what `read` finds at the entry of a key, making the entry first if it is absent or damaged.

        The key, of letters, digits, `-` and `_`, names content and options. `make` writes the entry to the path that it
        is given, and what belongs to it into the same folder; what it raises passes through and leaves no entry, but a
        `RefusedError` is remembered and raised again at once the next time. `read` returns None for an entry that is
        not what `make` wrote. ConversionError: the cache folder cannot be written to, its disk is full, or `read` does
        not take what was just made.
        """
        entry = self.root / key / MODEL
        refusal = entry.with_name("refused.json")
        if (found := _found(entry, read)) is not None:
            return found
        with self._locked(entry):
            if refusal.is_file():
                raise _refusal_at(refusal)
            # Another process may have made it meanwhile.
            if (found := _found(entry, read)) is None:
                _remove_damaged(entry)
                try:
                    _make(entry, make)
                except RefusedError as error:
                    with suppress(OSError):  # remembered if it can be
                        write_atomically(refusal, json.dumps([str(error), error.details]).encode())
                    raise
                found = read(entry)
        self._remove_abandoned()
        self._remove_the_oldest()
        if found is None:
            raise ConversionError(f"{entry}: is damaged just after it was made: check the disk, or name another cache")
        return found

    def _locked(self, entry: Path) -> "_Lock":
        # Whoever removes an entry takes its folder away, lock and all: a lock on a file that is gone locks nothing.
        while True:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                # With `exist_ok`, a folder that is removed at this moment would be an error.
                with suppress(FileExistsError):
                    entry.parent.mkdir()
                if entry.parent.is_symlink():
                    raise OSError(errno.ELOOP, "it is a link, which is not followed", str(entry.parent))
                lock = _Lock(entry.with_name(_LOCK), fcntl.LOCK_EX, make=True)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConversionError(
                    f"the cache {self.root} cannot be written to ({error}): name another with cache-dir"
                ) from error
            if lock.still_there():
                return lock
            lock.__exit__()

    def _remove_abandoned(self) -> None:
        """Remove what killed processes left of entries that nobody asked for again."""
        for folder in self._entries():
            # Others may remove the folder at any moment.
            with suppress(OSError):
                if any(folder.glob(f"{_MAKING}*")):
                    with _Lock(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
                        _remove_unfinished(folder)

    def _remove_the_oldest(self) -> None:
        sizes = {folder: _bytes_in(folder) for folder in self._entries()}
        total = sum(sizes.values())
        for folder in sorted(sizes, key=_used_s):
            if total <= self.max_bytes or _used_s(folder) > time.time() - self.kept_s:
                return
            # Whoever holds the lock is at work there: waiting for each other, two processes would wait forever.
            with suppress(OSError), _Lock(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
                # The model first: without it the rest is no entry, even if the process dies here.
                (folder / MODEL).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]

    def _entries(self) -> list[Path]:
        """The folders that this cache made: each has a lock of its own, and none is a link."""
        return [
            folder
            for folder in self.root.iterdir()
            if _KEY.fullmatch(folder.name) and not folder.is_symlink() and (folder / _LOCK).is_file()
        ]


class _Lock:
    """A lock on a file, taken when made."""

    def __init__(self, path: Path, operation: int, *, make: bool = False) -> None:
        self._path = path
        self._file = os.fdopen(open_regular(path, os.O_RDWR | (os.O_CREAT if make else 0)), "r+b")
        try:
            fcntl.flock(self._file, operation)
        except BlockingIOError:
            self._file.close()
            raise

    def still_there(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.lstat())
        return False

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _used_now(entry: Path) -> bool:
    """Whether the entry is there; if so, its time of use is noted."""
    try:
        if not stat.S_ISREG(entry.lstat().st_mode) or entry.parent.is_symlink():
            return False
    except OSError:
        return False
    # The lock's time, since that of the model tells whether it was changed (`entry_digest`). A cache that can only be
    # read, such as one baked into an image, is still a cache.
    with suppress(OSError):
        os.utime(entry.with_name(_LOCK))
    return True


def _found(entry: Path, read: Callable[[Path], _Entry | None]) -> _Entry | None:
    """What an entry holds, whose time of use is noted; None if there is none, or it is damaged."""
    if not _used_now(entry):
        return None
    try:
        return read(entry)
    except FileNotFoundError:  # another process removed it meanwhile
        return None


def _remove_damaged(entry: Path) -> None:
    """Remove an entry, which is locked, with all that belongs to it; the model first, without which it is none."""
    if not entry.is_file():
        return
    _log.warning("%s: the file or its certificate is damaged, so the model is made again", entry)
    try:
        entry.unlink()
        for companion in entry.parent.iterdir():
            if companion.name != _LOCK and companion.is_file():
                companion.unlink()
    except OSError as error:
        raise ConversionError(f"{entry}: is damaged, and cannot be removed ({error}): remove it") from error


def _used_s(folder: Path) -> float:
    """When the entry was used last; 0 if it is none."""
    with suppress(FileNotFoundError):
        (folder / MODEL).stat()
        return (folder / _LOCK).stat().st_mtime
    return 0.0


def entry_digest(entry: Path) -> str:
    """Tell the SHA-256 of an entry's file, hexadecimal; it is remembered beside it until the file changes.

    Hashing 280 MB takes half a second, at every start of a program that runs the model. OSError: it cannot be read.
    """
    remembered = entry.with_name(_DIGEST)
    before = _stamp(entry)
    with suppress(OSError, ValueError, TypeError, RecursionError):
        with open(remembered, "rb", opener=open_regular) as file:
            stamp, digest = json.loads(file.read(_DIGEST_BYTES))
        if stamp == before and isinstance(digest, str):
            return digest
    digest = file_digest(entry)
    if _stamp(entry) == before:
        with suppress(OSError):  # remembered if it can be
            write_atomically(remembered, json.dumps([before, digest]).encode())
    return digest


def _stamp(path: Path) -> list[int]:
    """What changes with every change of a file: the time of its status, which no program can set, above all."""
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _bytes_in(folder: Path) -> int:
    # Another process may remove the folder meanwhile.
    with suppress(OSError):
        return sum(path.lstat().st_size for path in folder.iterdir())
    return 0


def _refusal_at(path: Path) -> RefusedError:
    try:
        with open(path, "rb", opener=open_regular) as file:
            message, details = json.loads(file.read(_REFUSAL_BYTES))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConversionError(f"{path}: does not say why the model was refused ({error}): remove it") from error
    return RefusedError(f"{message} (remembered: remove {path.parent} to try it again)", details)


def _remove_unfinished(folder: Path) -> None:
    for unfinished in folder.glob(f"{_MAKING}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _require_room(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(_ROOM_BYTES))
        probe.flush()


def _make(entry: Path, make: Callable[[Path], None]) -> None:
    _remove_unfinished(entry.parent)  # of a process that was killed: the lock is ours now
    try:
        with tempfile.TemporaryDirectory(prefix=_MAKING, dir=entry.parent) as folder:
            partial = Path(folder) / entry.name
            try:
                make(partial)
            except ConversionError:
                # Libraries that find no room for a model say that it is wrong, and a refusal would be remembered.
                _require_room(Path(folder))
                raise
            for path in Path(folder).iterdir():
                with path.open("rb") as finished:
                    os.fsync(finished.fileno())
            # The entry comes last: where it is, all that belongs to it is.
            for companion in Path(folder).iterdir():
                if companion != partial:
                    companion.replace(entry.with_name(companion.name))
            partial.replace(entry)
    except OSError as error:
        raise ConversionError(
            f"{entry}: the converted model cannot be stored ({error}): make room, or name another cache folder"
        ) from error

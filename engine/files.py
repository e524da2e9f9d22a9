"""Files that are whole or absent, and temporary folders: what a killed process leaves of either, the next one removes.

Whatever is being written is locked, and the kernel drops the lock of a process that dies: what can be locked belongs to
nobody any more. Where a file system knows no locks, nothing is removed.
"""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_log = logging.getLogger(__name__)
_PART_PREFIX = ".pseg-"
_PART_SUFFIX = ".part"
_FOLDER_PREFIX = "pseg-"
_MARK = ".pseg-in-use"
_CONTENT = "content"
_PUBLIC_FILE = 0o644


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent.

    Args:
        path: replaced if it exists.
        content: the bytes.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """Write a file, piece by piece, that is whole or absent: temporary name, fsync, rename.

    Args:
        path: replaced if it exists, when the block ends without an error.

    Yields:
        The file to write to.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    descriptor, partial = _locked_part(path.parent)
    try:
        # Renamed before it is closed: with the file the lock would go, and with the lock the file.
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.chmod(_PUBLIC_FILE)
            partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say whose writing failed.
            error.filename = str(path)
        raise


def lock_alone(file: BinaryIO) -> None:
    """Lock a file for as long as it is open; where the file system knows no locks, say that nothing keeps others away.

    Args:
        file: an open one.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        _log.warning("%s: this file system knows no locks, nothing keeps two runs apart", file.name)


def remove_abandoned_parts(folder: Path) -> None:
    """Remove what killed processes were writing into a folder with `atomic_file`.

    Args:
        folder: its subfolders are not looked at.
    """
    for path in folder.glob(f"{_PART_PREFIX}*{_PART_SUFFIX}"):
        for _ in _abandoned(path):
            path.unlink(missing_ok=True)


@contextmanager
def scratch_folder(purpose: str, parent: Path | None = None) -> Generator[Path]:
    """Make a folder that is gone afterwards; first, remove those that killed processes of this user left.

    Args:
        purpose: becomes part of its name.
        parent: where it is made; None: the system's folder for temporary files.

    Yields:
        The empty folder.
    """
    root = Path(tempfile.gettempdir() if parent is None else parent)
    _remove_abandoned_folders(root)
    while True:
        with tempfile.TemporaryDirectory(prefix=f"{_FOLDER_PREFIX}{purpose}-", dir=root) as made:
            descriptor = os.open(Path(made, _MARK), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _locked(descriptor):
                    content = Path(made, _CONTENT)
                    content.mkdir()
                    yield content
                    return
            finally:
                os.close(descriptor)


def _locked_part(folder: Path) -> tuple[int, Path]:
    while True:
        descriptor, partial = tempfile.mkstemp(prefix=_PART_PREFIX, suffix=_PART_SUFFIX, dir=folder)
        if _locked(descriptor):
            return descriptor, Path(partial)
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a new file; false if somebody took it for abandoned and removed it before."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


def _abandoned(path: Path) -> Iterator[None]:
    """Yield once, with the file locked, if no process holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone, a link, or another user's
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned_folders(root: Path) -> None:
    for folder in root.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            for _ in _abandoned(folder / _MARK):
                shutil.rmtree(folder, ignore_errors=True)

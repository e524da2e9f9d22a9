"""Files that are whole or absent, and folders for unfinished work: what a killed process leaves, the next one removes.

Whatever is being written is locked, and the kernel drops the lock of a process that dies: what can be locked belongs to
nobody any more. Where a file system knows no locks, nothing is removed.

No link is followed that lies where a file or a folder of ours should be. A folder is held open, and what is in it is
named as seen from there, so that a link that is put in its place meanwhile changes nothing. Only the folder that a user
names may be a link itself. Files get the rights that the user's umask leaves; what is not finished is the user's alone.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from engine.errors import EngineError

_log = logging.getLogger(__name__)
_made_folders: ContextVar[list[Path] | None] = ContextVar("made_folders", default=None)
_PART_PREFIX = ".pseg-"
_PART_SUFFIX = ".part"
_FOLDER_PREFIX = "pseg-"
# Names that are drawn by chance, here and by `tempfile`: nothing else is ever taken for abandoned.
_PART = re.compile(r"\.pseg-[a-z0-9_]{8,16}\.part")
_SCRATCH = re.compile(r"pseg-[a-z-]+-[a-z0-9_]{8}")
_ALIKE = 0.75
_MARK = ".pseg-in-use"
_CONTENT = "content"
_OWN_FOLDER = 0o700
_OWN_FILE = 0o600
_ANY_FILE = 0o666
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC
# A folder that may be written to, but not listed, is a place for files, too.
_PLACE = _FOLDER | getattr(os, "O_PATH", os.O_RDONLY)
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_atomically(path: Path, content: bytes, *, within: Path | None = None) -> None:
    """Write a file that is whole or absent, as `atomic_file` does."""
    with atomic_file(path, within=within) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, *, within: Path | None = None) -> Generator[BinaryIO]:
    """Write a file, piece by piece, that is whole or absent: temporary name, fsync, rename.

    Its rights are those that the umask leaves of read and write for all, also where it replaces a file of other rights.
    A link at `path` is replaced itself, and what it leads to stays. Between `path` and `within`, a folder above it,
    folders are made where absent, and none of them may be a link; without `within` the file's folder is there, and may
    be a link. OSError names the file, or the folder below `within` that is a link; it is raised, too, where `path` is
    a device, or leads to one.
    """
    with _place_of(path, within) as folder:
        _require_no_device(path, folder)
        descriptor, partial = _locked_part(folder)
        try:
            # Renamed before it is closed: with the file the lock would go, and with the lock the file.
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(partial, dir_fd=folder)
            if isinstance(error, OSError) and error.filename in {None, partial}:
                # A full disk does not say whose writing failed.
                _name_only(error, path)
            raise


def open_to_read(path: Path) -> BinaryIO:
    """Open a file that a user named, through links, but never a pipe or a device, which might never answer.

    OSError names it, also if it is no regular file.
    """
    return open(path, "rb", opener=partial(open_regular, follow=True))


def make_folder(path: Path, *, within: Path) -> None:
    """Make a folder, and those above it, where absent; OSError names the one below `within` that is a link."""
    with _place_of(path / _MARK, within):
        pass


@contextmanager
def unused_folders_removed() -> Generator[None]:
    """Remove what `make_output_folder` made in a block that ends with an error, as far as it is empty.

    An error is one of this project, or of the machine's files.
    """
    made: list[Path] = []
    token = _made_folders.set(made)
    try:
        yield
    except (EngineError, OSError):
        for folder in reversed(made):
            with suppress(OSError):  # something lies in it
                folder.rmdir()
        raise
    finally:
        _made_folders.reset(token)


def make_output_folder(path: Path, *, within: Path | None = None) -> None:
    """Make a folder for results, and those above it, where absent; `within` and OSError as of `make_folder`."""
    if (made := _made_folders.get()) is not None:
        made += [folder for folder in (*reversed(path.parents), path) if not os.path.lexists(folder)]
    if within is None:
        path.mkdir(parents=True, exist_ok=True)
    else:
        make_folder(path, within=within)


def advice_on_missing(path: Path) -> str:
    """Say what to do about a name that does not exist: take the one like it that lies there, or check it."""
    try:
        near = get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=1, cutoff=_ALIKE)
    except OSError:
        near = []
    return f"did you mean {path.with_name(near[0])}?" if near else "check the name"


def open_regular(
    name: str | Path, flags: int, mode: int = _ANY_FILE, *, folder: int | None = None, follow: bool = False
) -> int:
    """Open a regular file, never through a link, and without waiting for whoever is behind a pipe.

    `name` is relative to the descriptor of an open folder, else to the working directory. With `follow` a link is
    followed, as for what a user names to be read. OSError names what is a link, or no regular file.
    """
    try:
        descriptor = os.open(name, flags | _NO_LINK & ~(os.O_NOFOLLOW if follow else 0), mode, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            error.strerror = "it is a link, which is not followed"
        elif error.errno == errno.ENXIO:  # nobody reads from the pipe, or listens to the socket
            error.strerror = "it is not a regular file"
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(name))
    return descriptor


def lock_alone(file: BinaryIO) -> None:
    """Lock a file for as long as it is open; where the file system knows no locks, say that nothing keeps others away.

    BlockingIOError: another process holds it.
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
    """Remove what killed processes of this user were writing into a folder with `atomic_file`."""
    with suppress(PermissionError), _opened(folder, _FOLDER) as held:
        for name in filter(_PART.fullmatch, _names_in(held)):
            for _ in _abandoned(name, held):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=held)


class OwnFolder:
    """A folder of this user alone for work that is not finished, held open: nothing in it is reached through a link.

    `path` is its name when it was opened.
    """

    def __init__(self, path: Path, *, within: Path | None = None) -> None:
        """Open a folder, or make it, and take everybody else's rights to it."""
        self.path = path
        with _place_of(path, within) as place:
            try:
                os.mkdir(path.name, _OWN_FOLDER, dir_fd=place)
            except FileExistsError:
                pass
            except OSError as error:
                error.filename = str(path)
                raise
            self._descriptor = _open_folder(path, _FOLDER | os.O_NOFOLLOW, place)
        try:
            if os.fstat(self._descriptor).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
            with suppress(PermissionError):  # file systems without rights
                os.fchmod(self._descriptor, _OWN_FOLDER)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def held_path(self) -> Path:
        """A name for libraries that open files by name: of this folder, whatever lies at `path` meanwhile."""
        held = Path(f"/proc/self/fd/{self._descriptor}")
        return held if held.is_dir() else self.path

    def names(self) -> list[str]:
        return _names_in(self._descriptor)

    def open(self, name: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        """Open a file of this folder; OSError names what is a link, also a hard one, or no regular file."""
        with self._naming(name):
            descriptor = open_regular(name, flags, _OWN_FILE, folder=self._descriptor)
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise OSError(errno.EMLINK, "it is the file of another place, too (a hard link)", str(self.path / name))
        return descriptor

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file of this folder, in place of another one."""
        with self._naming(new_name):
            os.replace(name, new_name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def publish(self, name: str, destination: Path, *, within: Path | None = None) -> None:
        """Move a finished file within its file system, in place of a file or link; OSError names the destination."""
        with _place_of(destination, within) as place:
            try:
                os.replace(name, destination.name, src_dir_fd=self._descriptor, dst_dir_fd=place)
            except OSError as error:
                _name_only(error, destination)
                raise

    def remove(self, name: str) -> None:
        """Remove a file of this folder, if it is there; of a link the link. OSError names it."""
        with suppress(FileNotFoundError), self._naming(name):
            os.unlink(name, dir_fd=self._descriptor)

    def remove_folder(self) -> None:
        """Remove the folder itself, if nothing is left in it."""
        with suppress(OSError):
            self.path.rmdir()

    @contextmanager
    def _naming(self, name: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            _name_only(error, self.path / name)
            raise


@contextmanager
def scratch_folder(purpose: str, parent: Path | None = None) -> Generator[Path]:
    """Make a folder that is gone afterwards; first, remove those that killed processes of this user left.

    `purpose`, of letters and `-`, becomes part of its name; without `parent` it is made in the system's folder for
    temporary files.
    """
    root = Path(tempfile.gettempdir() if parent is None else parent)
    _remove_abandoned_folders(root)
    made, mark = _marked_folder(f"{_FOLDER_PREFIX}{purpose}-", root)
    content = made / _CONTENT
    try:
        content.mkdir()
        yield content
    finally:
        try:
            # The mark goes last: what a process that is killed meanwhile leaves is marked as abandoned, or empty.
            with suppress(FileNotFoundError):
                shutil.rmtree(content)
            with suppress(FileNotFoundError):  # another process may remove it as abandoned once the mark is gone
                (made / _MARK).unlink()
                made.rmdir()
        finally:
            os.close(mark)


def _marked_folder(prefix: str, root: Path) -> tuple[Path, int]:
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        # An empty folder, or one whose mark is not locked yet, may be removed by another process as abandoned.
        with suppress(FileNotFoundError):
            mark = open_regular(made / _MARK, os.O_RDWR | os.O_CREAT, _OWN_FILE)
            if _locked(mark):
                return made, mark
            os.close(mark)


def _names_in(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


@contextmanager
def _opened(folder: Path, flags: int) -> Generator[int]:
    descriptor = _open_folder(folder, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_folder(folder: Path, flags: int, place: int | None = None) -> int:
    """Open a folder by its path, or by its name in a place that is open."""
    try:
        return os.open(folder if place is None else folder.name, flags, dir_fd=place)
    except OSError as error:
        error.filename = str(folder)
        if isinstance(error, NotADirectoryError):
            error.strerror = "it is a link or no folder" if flags & os.O_NOFOLLOW else "it is not a folder"
        raise


@contextmanager
def _place_of(path: Path, within: Path | None) -> Generator[int]:
    with _opened(path.parent if within is None else within, _PLACE) as top:
        if within is None:
            yield top
            return
        descriptor, name = top, within
        try:
            for part in _parts_below(path, within):
                name /= part
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
                try:
                    below = os.open(part, _PLACE | os.O_NOFOLLOW, dir_fd=descriptor)
                except OSError as error:
                    error.filename = str(name)
                    if isinstance(error, NotADirectoryError):
                        error.strerror = "it is a link or no folder, and results are written below it"
                    raise
                if descriptor != top:
                    os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            if descriptor != top:
                os.close(descriptor)


def _name_only(error: OSError, path: Path) -> None:
    """Let an error name one file; where the second name is None instead of absent, it is shown as ``-> None``."""
    error.filename = str(path)
    del error.filename2


def _require_no_device(path: Path, folder: int) -> None:
    """A rename would remove what all programs use: the superuser may put a file in the place of ``/dev/null``."""
    try:
        mode = os.stat(path.name, dir_fd=folder).st_mode
    except OSError:  # nothing is there, or a link that leads nowhere
        return
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "it is a device, which no file may replace", str(path))


def _parts_below(path: Path, within: Path) -> Sequence[str]:
    parts = path.parent.relative_to(within).parts
    if ".." in parts:
        raise OSError(errno.EINVAL, f"it does not lie in {within}", str(path))
    return parts


def _locked_part(folder: int) -> tuple[int, str]:
    while True:
        partial = f"{_PART_PREFIX}{os.urandom(8).hex()}{_PART_SUFFIX}"
        # The kernel applies the umask, or what the folder says of rights in its place.
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, _ANY_FILE, dir_fd=folder)
        if _locked(descriptor):
            return descriptor, partial
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a new file; false if somebody took it for abandoned and removed it before."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


def _abandoned(name: str, folder: int) -> Iterator[None]:
    """Yield once, with the file locked, if it is this user's and no process holds it."""
    try:
        descriptor = open_regular(name, os.O_RDWR, folder=folder)
    except OSError:  # gone, a link, or another user's
        return
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned_folders(root: Path) -> None:
    with suppress(OSError), _opened(root, _FOLDER) as held:
        for name in filter(_SCRATCH.fullmatch, _names_in(held)):
            with suppress(OSError):
                _remove_if_abandoned(name, held)


def _remove_if_abandoned(name: str, root: int) -> None:
    folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=root)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != _OWN_FOLDER:
            return
        for _ in _abandoned(_MARK, folder):
            # The content of the folder that was looked at, whatever has its name by now.
            shutil.rmtree(_CONTENT, ignore_errors=True, dir_fd=folder)
            with suppress(FileNotFoundError):  # whatever else it raises, something is left: so is the mark
                os.rmdir(_CONTENT, dir_fd=folder)
            os.unlink(_MARK, dir_fd=folder)
        # One without a mark goes if it is empty: its process was killed before it was marked, or after.
        os.rmdir(name, dir_fd=root)
    finally:
        os.close(folder)

"""Folders of engines and compiled models: keyed by all that they depend on, bounded, emptied when unreadable."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.options import WORKSPACE_BYTES, DynamicShapeProfile, Precision

MAX_BYTES = 8 << 30
"""All engines of a user together; what was used longest ago goes first."""
_LOCK_SUFFIX = ".lock"
_held: dict[Path, int] = {}
"""Descriptors of the locks of folders that this process uses, until it ends."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FolderKey:
    """What the content of a folder depends on."""

    @property
    def digest(self) -> str:
        """Another one as soon as anything differs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class EngineKey(FolderKey):
    """What an engine of TensorRT depends on."""

    model_digest: str  # SHA-256 of the model
    versions: Mapping[str, str]  # of the runtime's library and TensorRT
    gpu: str  # model and compute capability
    shapes: DynamicShapeProfile | None  # that it is built for
    precision: Precision
    min_subgraph_size: int  # in nodes
    tf32: bool  # whether FP32 products may be rounded to TF32
    shape_ranges: str | None = None  # SHA-256 of Paddle's file of ranges of inner tensors
    workspace_bytes: int = WORKSPACE_BYTES  # TensorRT's scratch memory


def engine_folder(root: Path, key: FolderKey, *, max_bytes: int = MAX_BYTES) -> Path:
    """Make the folder of a key, and room for it in its root. No process removes it while this one lives.

    Its time of change says when it was used last.
    """
    folder = root / key.digest
    root.mkdir(parents=True, exist_ok=True)
    _hold(root / f"{key.digest}{_LOCK_SUFFIX}")
    folder.mkdir(exist_ok=True)
    os.utime(folder)
    with suppress(FileNotFoundError):  # another process tidies up, too
        _remove_oldest(root, max_bytes)
    return folder


def _remove_oldest(root: Path, max_bytes: int) -> None:
    by_age = sorted((each.stat().st_mtime, each) for each in root.iterdir() if each.is_dir() and not each.is_symlink())
    sizes = {folder: _size(folder) for _, folder in by_age}
    held = sum(sizes.values())
    for _, folder in by_age:
        if held <= max_bytes:
            return
        with _unused(folder) as unused:
            if unused:
                shutil.rmtree(folder, ignore_errors=True)
                held -= sizes[folder]
                _log.info("engines removed, since there are more than %d MiB: %s", max_bytes >> 20, folder)


def _hold(lock: Path) -> None:
    while lock not in _held:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            _held[lock] = descriptor
        else:
            os.close(descriptor)  # whoever removed the folder was faster


@contextmanager
def _unused(folder: Path) -> Generator[bool]:
    """Whether no process uses a folder; none begins to in the block. The lock is removed with the folder."""
    lock = folder.with_name(folder.name + _LOCK_SUFFIX)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _size(folder: Path) -> int:
    return sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file() or each.is_symlink())


def holds_engines(folder: Path) -> bool:
    """Tell whether the folder of `engine_folder` holds a file from an earlier start."""
    try:
        return any(each.is_file() for each in folder.rglob("*"))
    except FileNotFoundError:  # another process is making or removing some
        return True


def empty(folder: Path, reason: str) -> None:
    """Remove engines that cannot be read, so that they are built again in the folder of `engine_folder`."""
    _log.warning("kept engines could not be used (%s): they are built again in %s", reason, folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)

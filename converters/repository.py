"""The cache of converted models: keyed by content, written atomically, safe when two processes want the same one.

An entry appears by one rename of a finished file, so that a reader sees all of it or none. A lock file per entry keeps
two processes from doing the same work; the kernel drops the lock of a process that dies.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConversionError


class RefusedError(ConversionError):
    """The converter will always refuse this model; remembered, so that it is not tried again at every start."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder of converted models.

    Attributes:
        root: the folder; made when needed.
    """

    root: Path

    def fetch(self, key: str, make: Callable[[Path], None]) -> Path:
        """Return the entry of a key, making it first if it is absent.

        Args:
            key: names content and options; letters, digits, `-` and `_` only.
            make: writes the entry to the path that it is given, and what belongs to it into the same folder; what it
                raises passes through and leaves no entry, but a `RefusedError` is remembered and raised again at once
                the next time.

        Returns:
            The finished file.

        Raises:
            RefusedError: the model was refused, now or earlier.
            ConversionError: the cache folder cannot be written to.
        """
        entry = self.root / key / "model.onnx"
        refusal = entry.with_name("refused.txt")
        if entry.is_file():
            return entry
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = (entry.parent / "lock").open("w")
        except OSError as error:
            raise ConversionError(
                f"the cache {self.root} cannot be written to ({error}): name another with --cache-dir"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if refusal.is_file():
                raise RefusedError(refusal.read_text(encoding="utf-8"))
            if not entry.is_file():
                try:
                    _make(entry, make)
                except RefusedError as error:
                    _write_refusal(refusal, str(error))
                    raise
        return entry


def _write_refusal(path: Path, reason: str) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(reason, encoding="utf-8")
    partial.replace(path)


def _make(entry: Path, make: Callable[[Path], None]) -> None:
    for abandoned in entry.parent.glob("making-*"):  # of a process that was killed: the lock is ours now
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=entry.parent) as folder:
        partial = Path(folder) / entry.name
        make(partial)
        try:
            with partial.open("rb") as finished:
                os.fsync(finished.fileno())
            # The entry comes last: where it is, all that belongs to it is.
            for companion in Path(folder).iterdir():
                if companion != partial:
                    companion.replace(entry.with_name(companion.name))
            partial.replace(entry)
        except OSError as error:
            raise ConversionError(f"{entry}: the converted model cannot be stored ({error})") from error

"""What is done of a raster while it is not finished: kept beside the results, tile by tile, so that a run can go on.

A killed process loses at most the tiles that were under way. (A machine that loses power may lose more: nothing waits
for the disk.)
"""

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from engine.errors import ImageError, OptionError
from engine.files import lock_alone
from engine.mask_file import MaskFile, MaskLayout
from engine.tiling import Scores, Tiling

_log = logging.getLogger(__name__)
_STATE = "state.json"
_MASK = "mask.raw"
_LOCK = "lock"
_FINGERPRINT_BYTES = 1 << 16
_MIB = 1 << 20


def fingerprint(path: Path) -> str:
    """Tell a file from another of its name, without reading all of it.

    Args:
        path: the file.

    Returns:
        A digest of size, time of change and first bytes.
    """
    status = path.stat()
    with path.open("rb") as file:
        head = file.read(_FINGERPRINT_BYTES)
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode() + head).hexdigest()


def key_of(facts: object) -> str:
    """Make a key of everything that a mask depends on.

    Args:
        facts: what JSON can hold.

    Returns:
        A digest.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _State:
    key: str
    tiling: Tiling
    done: int


class UnfinishedRaster:
    """The folder of one raster.

    Threads: one at a time.

    Attributes:
        folder: hidden, beside the result.
        tiling: of the run that goes on, but with the batch that was given; else the one that was given.
        done: tiles that need not be done again.
        carry: what the next tile continues (`engine.tiling.Blender`).
        mask: as far as it is done.
        strips: see `engine.tiling.Blender`.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        tiling: Tiling,
        layout: MaskLayout,
        *,
        resume: bool,
        keep_tiling: bool,
        limited: bool,
    ) -> None:
        """Open the folder, or make it.

        Args:
            folder: the folder.
            key: of everything that the mask depends on, the tiling apart.
            tiling: wanted one.
            layout: of the mask.
            resume: whether to go on with what lies there, if it has the same key.
            keep_tiling: whether another tiling than the wanted one may be gone on with.
            limited: whether larger tiles than the wanted ones would break a limit that the user set.

        Raises:
            OptionError: another run is at work on it, or what is to be gone on with has larger tiles than are allowed.
            ImageError: the disk is too small for the mask.
        """
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._lock = (folder / _LOCK).open("wb")
        try:
            lock_alone(self._lock)
        except BlockingIOError as error:
            self._lock.close()
            raise OptionError(f"another run is at work on {folder}: wait for it, or name another --out") from error
        state = self._read_state() if resume else None
        if state is not None:
            # How many tiles share a run changes no mask.
            state = replace(state, tiling=replace(state.tiling, batch=tiling.batch))
        if state is not None and (state.key != key or not (keep_tiling or state.tiling == tiling)):
            what = "bundle, options or file" if state.key != key else "tiles"
            _log.warning("%s: begins again after %s tiles: %s are not the same", folder, state.done, what)
            state = None
        if state is not None and limited and state.tiling.pixels > tiling.pixels:
            self._lock.close()
            raise OptionError(
                f"{folder} holds {state.done} tiles of {state.tiling.width}×{state.tiling.height} pixels, and "
                f"--max-memory allows {tiling.width}×{tiling.height}: allow more, or begin again without --resume"
            )
        self._key = key
        self.tiling = state.tiling if state else tiling
        self.done = state.done if state else 0
        self.carry: Scores | None = None
        if state is None:
            for name in (_STATE, _MASK, "strip-0", "strip-1", "carry-0.npy", "carry-1.npy"):
                (folder / name).unlink(missing_ok=True)
            free = shutil.disk_usage(folder).free
            if layout.size_bytes > free:
                self._lock.close()
                shutil.rmtree(folder)
                raise ImageError(
                    f"a mask of {layout.width}×{layout.height} pixels needs {layout.size_bytes // _MIB} MiB in "
                    f"{folder.parent} while it is made, and {free // _MIB} are free: name a larger disk with --out"
                )
        elif self._carry_file(self.done).exists():
            self.carry = np.load(self._carry_file(self.done))
        self.mask = MaskFile(folder / _MASK, layout)
        self.strips: tuple[BinaryIO, BinaryIO] = (self._strip(0), self._strip(1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mask.__exit__(kind, error, trace)
        for strip in self.strips:
            strip.close()
        # What a failed run did is kept for one that goes on; there is nothing to keep of one that did not begin.
        over = kind is None or not self.done
        if over:
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    path.unlink(missing_ok=True)
        self._lock.close()
        if over:
            # Not before: over a network a file that is open stays in its folder. Nothing is lost if it stays.
            with suppress(OSError):
                (self.folder / _LOCK).unlink(missing_ok=True)
                self.folder.rmdir()

    def reached(self, done: int, carry: Scores | None) -> None:
        """Remember that tiles are done.

        Args:
            done: number of tiles.
            carry: what the next one continues.
        """
        file = self._carry_file(done)
        if carry is None:
            file.unlink(missing_ok=True)
        else:
            np.save(file, carry)
        partial = self.folder / f"{_STATE}.part"
        partial.write_text(json.dumps({"key": self._key, "tiling": asdict(self.tiling), "done": done}))
        partial.replace(self.folder / _STATE)
        self.done = done

    def _read_state(self) -> _State | None:
        try:
            record: dict[str, Any] = json.loads((self.folder / _STATE).read_text())
            return _State(record["key"], Tiling(**record["tiling"]), record["done"])
        except (OSError, ValueError, KeyError, TypeError, OptionError):
            return None

    def _carry_file(self, done: int) -> Path:
        # Two in turn: while one is written, the state still names the other.
        return self.folder / f"carry-{done % 2}.npy"

    def _strip(self, number: int) -> BinaryIO:
        return os.fdopen(os.open(self.folder / f"strip-{number}", os.O_RDWR | os.O_CREAT, 0o600), "r+b")

"""What is done of a raster while it is not finished: kept beside the results, tile by tile, so that a run can go on.

A killed process loses at most the tiles that were under way. (A machine that loses power may lose more: nothing waits
for the disk.)
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from engine.errors import ImageError, OptionError
from engine.rasters.mask_file import MaskFile, MaskLayout
from engine.rasters.tiling import Scores, Tiling
from engine.system.files import OwnFolder, lock_alone

_log = logging.getLogger(__name__)
_STATE = "state.json"
_MASK = "mask.raw"
_MORE = frozenset({"confidence.raw", "cleaned.raw", "measured.raw"})
_LOCK = "lock"
_STRIPS = ("strip-0", "strip-1")
_OURS = re.compile(
    # the last ones: beside a map GDAL makes files of its own, and earlier versions gave them other names
    r"state\.json(\.part)?|(mask|confidence|cleaned|measured)\.raw|strip-[01]|carry-[01]\.npy|"
    r"(map|confidence|polygons)-[0-9a-f]{16}\..*|mask\.(vrt|tif)|polygons\.(gpkg|geojson)"
)
_STATE_BYTES = 1 << 16
_LARGEST = 1 << 40
_FINGERPRINT_BYTES = 1 << 16
_MIB = 1 << 20


def fingerprint(path: Path) -> str:
    """Tell a file from another of its name, without reading all of it, by size, time of change and first bytes."""
    status = path.stat()
    with path.open("rb") as file:
        head = file.read(_FINGERPRINT_BYTES)
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode() + head).hexdigest()


def key_of(facts: object) -> str:
    """Make a key of everything that a mask depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _State:
    key: str
    tiling: Tiling
    done: int
    carry: Scores | None


@contextmanager
def _named_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ImageError(
            f"{error.filename}: what is not finished of the mask cannot be kept there ({error.strerror}): "
            f"remove {folder}, or write the results to another folder"
        ) from error


class UnfinishedRaster:
    """The hidden folder of one raster, beside its result; one thread at a time.

    `tiling` is that of the run that goes on, but with the batch that was given; else the one that was given. `done`
    tiles need not be done again; `mask` holds what is done; `carry` and `strips` are as of
    `engine.rasters.tiling.Blender`.
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
        within: Path | None = None,
    ) -> None:
        """Open the folder, or make it; with `resume` go on with what lies there, if it has the same key.

        `keep_tiling`: another tiling than the wanted one may be gone on with; `limited`: larger tiles than the wanted
        ones would break a limit that the user set. `within` is the folder of all results, below which no folder may be
        a link (`engine.system.files.atomic_file`). Raises OptionError where another run is at work on it, or what is to
        be gone on with has larger tiles than are allowed; ImageError where the disk is too small for the mask, or a
        link or somebody else's file is in the way.
        """
        self.folder = folder
        self._within = within
        self._key = key
        with ExitStack() as opened, _named_errors(folder):
            self._own = opened.enter_context(OwnFolder(folder, within=within))
            self._lock = opened.enter_context(open(folder / _LOCK, "r+b", opener=self._open_lock))
            try:
                lock_alone(self._lock)
            except BlockingIOError as error:
                raise OptionError(
                    f"another run is at work on {folder}: wait for it, or write the results to another folder"
                ) from error
            state = self._state_of(key, tiling, layout, keep_tiling=keep_tiling, limited=limited) if resume else None
            self.tiling = state.tiling if state else tiling
            self.done = state.done if state else 0
            self.carry: Scores | None = state.carry if state else None
            if state is None:
                self._remove_files()
                try:
                    self._require_room(layout)
                except ImageError:
                    self._remove_folder()
                    raise
            strips = [opened.enter_context(os.fdopen(self._own.open(name), "r+b")) for name in _STRIPS]
            self.strips: tuple[BinaryIO, BinaryIO] = (strips[0], strips[1])
            self.mask = self._mask_file(_MASK, layout)
            self._others: list[MaskFile] = []
            self._opened = opened.pop_all()

    def _state_of(
        self, key: str, tiling: Tiling, layout: MaskLayout, *, keep_tiling: bool, limited: bool
    ) -> _State | None:
        """What lies there, if it may be gone on with."""
        state = self._read_state(layout)
        if state is None:
            return None
        # How many tiles share a run changes no mask.
        state = replace(state, tiling=replace(state.tiling, batch=tiling.batch))
        if state.key != key or not (keep_tiling or state.tiling == tiling):
            what = "bundle, options or file" if state.key != key else "tiles"
            _log.warning("%s: begins again after %s tiles: %s are not the same", self.folder, state.done, what)
            return None
        if limited and state.tiling.pixels > tiling.pixels:
            raise OptionError(
                f"{self.folder} holds {state.done} tiles of {state.tiling.width}×{state.tiling.height} pixels, and "
                f"--max-memory allows {tiling.width}×{tiling.height}: allow more, or begin again without --resume"
            )
        return state

    def _require_room(self, *layouts: MaskLayout) -> None:
        needed, free = sum(each.size_bytes for each in layouts), shutil.disk_usage(self.folder).free
        if needed > free:
            first = layouts[0]
            raise ImageError(
                f"a mask of {first.width}×{first.height} pixels needs {needed // _MIB} MiB in {self.folder.parent} "
                f"while it is made, and {free // _MIB} are free: write the results to a larger disk"
            )

    def _mask_file(self, name: str, layout: MaskLayout) -> MaskFile:
        return MaskFile(self._own.held_path / name, layout, descriptor=self._own.open(name))

    def beside(self, kind: str, layout: MaskLayout) -> MaskFile:
        """Open another file of the mask's size (`confidence`, `cleaned`, `measured`), kept and removed with it."""
        name = f"{kind}.raw"
        if name not in _MORE:
            raise ValueError(f"{kind} is not a file of an unfinished raster")
        if self.done == 0:
            self._require_room(self.mask.layout, *(each.layout for each in self._others), layout)
        self._others.append(self._mask_file(name, layout))
        return self._others[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._opened:
            # Nothing is removed before it is closed: over a network a file that is open stays in its folder.
            for file in (self.mask, *self._others):
                file.__exit__(kind, error, trace)
            for strip in self.strips:
                strip.close()
            # What a failed run did is kept for one that goes on; there is nothing to keep of one that did not begin.
            over = kind is None or not self.done
            if over:
                self._remove_files()
            self._lock.close()
            if over:
                self._remove_folder()

    def _remove_files(self) -> None:
        """Remove what a run of ours makes there, and nothing else."""
        for name in filter(_OURS.fullmatch, self._own.names()):
            self._own.remove(name)

    def _remove_folder(self) -> None:
        with suppress(OSError):  # nothing is lost if it stays
            self._own.remove(_LOCK)
            self._own.remove_folder()

    def reached(self, done: int, carry: Scores | None) -> None:
        if carry is None:
            self._own.remove(self._carry_file(done))
        else:
            with self._made(self._carry_file(done)) as file:
                np.save(file, carry)
        with self._made(f"{_STATE}.part") as file:
            file.write(json.dumps({"key": self._key, "tiling": asdict(self.tiling), "done": done}).encode())
        self._own.rename(f"{_STATE}.part", _STATE)
        self.done = done

    def new_name(self, kind: str, suffix: str) -> str:
        """Name a file of the folder, for `publish` and `open`, that nobody can have put a link in the place of."""
        return f"{kind}-{os.urandom(8).hex()}{suffix}"

    @contextmanager
    def for_libraries(self) -> Generator[Path]:
        """Name the folder for libraries that open files by their names.

        The name is of the folder that is open, whatever lies in its place meanwhile; an ImageError in the block names
        the folder as people know it.
        """
        held = self._own.held_path
        try:
            yield held
        except ImageError as error:
            raise ImageError(str(error).replace(str(held), str(self.folder))) from error

    def publish(self, name: str, destination: Path) -> Path:
        """Move a finished file out of the folder, in place of another one."""
        self._own.publish(name, destination, within=self._within)
        return destination

    def open(self, name: str) -> BinaryIO:
        return os.fdopen(self._own.open(name, os.O_RDONLY), "rb")

    def _open_lock(self, _path: str, _flags: int) -> int:
        return self._own.open(_LOCK)

    def _made(self, name: str) -> BinaryIO:
        self._own.remove(name)
        return os.fdopen(self._own.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b")

    def _read_state(self, layout: MaskLayout) -> _State | None:
        try:
            with self.open(_STATE) as file:
                record: dict[str, Any] = json.loads(file.read(_STATE_BYTES))
            tiling = Tiling(**{each.name: _whole(record["tiling"][each.name]) for each in fields(Tiling)})
            done = _whole(record["done"])
            if done > len(tiling.grid(layout.width, layout.height)):
                return None
            return _State(str(record["key"]), tiling, done, self._read_carry(done))
        except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError, RecursionError, OptionError):
            return None

    def _read_carry(self, done: int) -> Scores | None:
        try:
            file = self.open(self._carry_file(done))
        except FileNotFoundError:
            return None
        with file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            # Before memory is taken for it.
            if dtype != np.float32 or math.prod(shape) * 4 != os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError("is not what was written")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)

    def _carry_file(self, done: int) -> str:
        # Two in turn: while one is written, the state still names the other.
        return f"carry-{done % 2}.npy"


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(f"{value!r} is not a number of pixels or tiles")
    return value

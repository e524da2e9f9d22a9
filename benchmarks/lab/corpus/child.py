"""Readers in a process of their own, with limits: what crashes or hangs there is a result like any other."""

import os
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus.facts import Facts, facts_of
from engine.system.confinement import confine_process

MEMORY_BYTES = 3 << 30
TIMEOUT_S = 20.0
_START_TIMEOUT_S = 300.0
_LIBRARIES = ("rasterio", "tifffile", "pyvips", "imagecodecs")
PHOTOGRAPH, RASTER = "photograph", "raster"
OURS = (PHOTOGRAPH, RASTER)
"""Our two readers: `engine.read_image`, and what `--tile` reads with."""
_FACTS = "facts"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader gave: uint8[H, W, 3], or the message of an error.

    `refused` is with an error of the engine (of another library: any error), `untold` with any other error of ours;
    `crashed`: the process ended; `hung`: it had to be ended.
    """

    outcome: Literal["read", "refused", "untold", "crashed", "hung"]
    pixels: NDArray[np.uint8] | None = None
    message: str = ""


class Reader:
    """A child process that reads one picture after the other, by one thread; started anew after a crash."""

    def __init__(self, log: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._started: tuple[BaseProcess, Connection[Any, Any]] | None = None

    def read(self, reader: str, path: Path) -> Reading:
        answer = self._ask(reader, path)
        assert isinstance(answer, Reading)  # noqa: S101
        return answer

    def _ask(self, reader: str, path: Path) -> Reading | Facts:
        process, connection = self._started or self._start()
        try:
            connection.send((reader, str(path)))
            if not connection.poll(self._timeout_s):
                self.close()
                return Reading("hung", message=f"not done after {self._timeout_s:g} s")
            return connection.recv()
        except (EOFError, OSError):
            process.join(self._timeout_s)
            code = process.exitcode
            self.close()
            return Reading("crashed", message=f"exit status {code}")

    def facts(self, path: Path) -> Facts:
        """Find out what a file says of itself."""
        answer = self._ask(_FACTS, path)
        return answer if isinstance(answer, Facts) else Facts("another")

    def close(self) -> None:
        if self._started is not None:
            process, connection = self._started
            self._started = None
            connection.close()
            process.kill()
            process.join()

    def _start(self) -> "tuple[BaseProcess, Connection[Any, Any]]":
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, str(self._log)), daemon=True)
        process.start()
        theirs.close()
        if not ours.poll(_START_TIMEOUT_S) or ours.recv() != "ready":
            process.kill()
            raise RuntimeError(f"a reader does not start within {_START_TIMEOUT_S:g} s: see {self._log}")
        self._started = process, ours
        return self._started


def _serve(connection: "Connection[Any, Any]", log: str) -> None:
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 2)
    # Loading libraries is nothing that a picture is to blame for.
    for library in ("engine", "engine.rasters.geotiff", "benchmarks.lab.corpus.oracles", *_LIBRARIES):
        import_module(library)
    confine_process(MEMORY_BYTES)
    connection.send("ready")
    while True:
        try:
            reader, path = connection.recv()
        except EOFError:
            return
        connection.send(facts_of(Path(path)) if reader == _FACTS else _reading(reader, Path(path)))


def _reading(reader: str, path: Path) -> Reading:
    from engine.errors import EngineError

    try:
        return Reading("read", _read(reader, path))
    except EngineError as error:
        return Reading("refused", message=str(error))
    except Exception as error:
        return Reading("untold" if reader in OURS else "refused", message=f"{type(error).__name__}: {error}")


def _read(reader: str, path: Path) -> NDArray[np.uint8]:
    if reader == PHOTOGRAPH:
        from engine import read_image

        return read_image(path).pixels
    if reader == RASTER:
        from engine.rasters.geotiff import open_geotiff
        from engine.window import Window

        with open_geotiff(path) as raster:
            return raster.read(Window(0, 0, raster.width, raster.height)).pixels
    from benchmarks.lab.corpus.oracles import read_by

    return read_by(reader, path)

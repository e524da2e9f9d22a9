"""Paths for libraries that take only UTF-8.

A folder's name may be any bytes, as `unzip` leaves those that were written under another encoding. Python carries them
along; ONNX Runtime and Paddle take text, and refuse what cannot be written as UTF-8.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from engine.system.files import scratch_folder
from engine.system.text import is_utf8


@contextmanager
def utf8_paths(*paths: Path) -> Generator[tuple[Path, ...]]:
    """Give files names that every library takes: the same paths where they are UTF-8, else links for a while."""
    if all(is_utf8(str(path)) for path in paths):
        yield paths
        return
    with scratch_folder("names") as folder:
        links = tuple(folder / f"file{number}{path.suffix}" for number, path in enumerate(paths))
        for link, path in zip(links, paths, strict=True):
            link.symlink_to(path.absolute())
        yield links

"""Verdicts that are kept: a line each, so that a run goes on where it was stopped."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.lab.corpus.sources import SOURCES
from benchmarks.lab.corpus.verdicts import Verdict
from engine.system.libraries import installed_versions

_ROOT = Path(__file__).parents[3]
_CODE = (
    *("engine/images/*.py", "engine/gdal.py", "engine/window.py", "engine/rasters/geotiff.py", "engine/errors.py"),
    "benchmarks/lab/corpus/**/*.py",
)
_NO_MATTER = {"page.py", "__main__.py"}
LIBRARIES = (
    "pillow", "opencv-python-headless", "tifffile", "imagecodecs", "rasterio", "pyvips-binary", "pi-heif", "numpy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one picture, of a project or the `matrix`, in one of our readers.

    `kind` is of a right refusal; `orientation` what EXIF or the TIFF states; `key` is of the code and the libraries
    that gave this result.
    """

    origin: str
    name: str
    format: str
    reader: str
    verdict: Verdict
    kind: str
    note: str
    orientation: int
    key: str


_RESULT = TypeAdapter(Result)


def current_key() -> str:
    """Digest of everything that a result depends on: our readers, this measurement, libraries, sources."""
    digest = hashlib.sha256(repr((installed_versions(LIBRARIES), SOURCES)).encode())
    for pattern in _CODE:
        for path in sorted(_ROOT.glob(pattern)):
            if path.name not in _NO_MATTER:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """Results in a file, a line of JSON each."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path.is_file() else []
        found = [_RESULT.validate_json(line) for line in lines if line.endswith(b"}")]
        self.results = {(each.origin, each.name, each.reader): each for each in found if each.key == key}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(_RESULT.dump_json(each) + b"\n" for each in self.results.values()))

    def add(self, result: Result) -> None:
        self.results[result.origin, result.name, result.reader] = result
        with self._path.open("ab") as file:
            file.write(_RESULT.dump_json(result) + b"\n")

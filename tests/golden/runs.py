"""Runs whose whole result is written down in this folder: what users have, so that a change of structure changes none.

`python -m tests.golden.runs NAME...` writes the files again, all of them without a name; what is new is to be read
before it is committed. Times, digests, versions, sizes of files and folders of this machine are masked.
"""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from service import cli
from tests.service.bundles import bundle_folder, packed
from tests.service.pictures import BLUE, GREEN, RED, painted

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
_COMMANDS = cli._COMMANDS  # pyright: ignore[reportPrivateUsage]
_COLUMNS = 100

_MASKED_FIELDS = re.compile(
    r"(.*_|^)(s|ms|ns|bytes|pixels_per_s|rss|memory|digest|cpu|threads|cores|version|versions|seconds|id|time|at|written)$"
)
"""Fields whose values are of this machine or of this moment."""
_MASKED_TEXT = (
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? ?(s|ms|MiB|MB|KiB|kB|GiB|bytes|threads?|cores?)\b"), "<number> \\2"),
    (re.compile(r"\b\d+\.\d+\.\d+(\.?[a-z0-9+]+)*\b"), "<version>"),
    (re.compile(r"(?<=:collection-item\.1)-\d+(?=\.json)"), "-<number>"),
)
_IMAGE_SUFFIXES = {".png", ".jpg"}


class Run:
    """A folder in which commands run and leave their files.

    Args:
        folder: Empty.
        measured: The results are measurements: of records only the fields are kept.
    """

    def __init__(self, folder: Path, *, measured: bool = False) -> None:
        self.folder = folder
        self._measured = measured
        self._steps: list[dict[str, Any]] = []
        self._hidden = {str(folder): "<folder>", str(REPOSITORY): "<repository>", f"{folder.name}/": "<folder>/"}

    def pseg(self, *arguments: object) -> None:
        """Run the command; its status and what it prints become a step."""
        self._python("-c", "import sys; sys.argv[0] = 'pseg'; from service.cli import main; main()", *arguments)

    def help(self) -> None:
        """Show the help of every command; in one process, for its start takes longer than that."""
        calls = [["--help"], *([command, "--help"] for command in _COMMANDS)]
        shown = f"for call in {calls}: print(call[0]); app(call, prog_name='pseg', standalone_mode=False)"
        self._python("-c", f"from service.cli import app\n{shown}")

    def order(self, *arguments: object) -> None:
        """Run an order, as the platform starts it."""
        self._python(REPOSITORY / "service.py", *arguments, "--ivcap:in-dir", ".", "--ivcap:out-dir", "out")

    def job(self, parameters: Mapping[str, Any]) -> None:
        """Run a job from a file."""
        content = {"id": "test", "in-content-type": "application/json", "in-content": parameters}
        (self.folder / "job.json").write_text(json.dumps(content))
        self._python("-m", "service.job", "--test-file", "job.json")

    def _python(self, *arguments: object) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("IVCAP_", "ARGO_", "PSEG_"))}
        own = {"PSEG_CACHE_DIR": str(self.folder / ".cache"), "COLUMNS": str(_COLUMNS), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env={**kept, **own, "PYTHONPATH": str(REPOSITORY), "IVCAP_LOCAL_DIR": "out", "TERM": "dumb"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        shown = [str(each) for each in arguments if not str(each).startswith(("-c", "import sys;", "from service"))]
        named = [self._text(each) for each in shown]
        self._steps.append(
            {
                "arguments": named,
                "status": ended.returncode,
                "stdout": "<log>" if named[:1] == ["<repository>/service.py"] else self._printed(ended.stdout),
                # Which configurations are tried depends on the machine.
                "stderr": "<log>" if named[:1] in (["-m"], ["tune"]) else self._printed(ended.stderr),
            }
        )

    def record(self) -> dict[str, Any]:
        """What was printed and what lies in the folder now, caches apart, masked."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        names = {path: path.relative_to(self.folder).as_posix() for path in paths}
        files: dict[str, list[Any]] = {}
        for path, name in names.items():
            if not name.startswith(".cache/"):
                content = "<given>" if name.startswith("given/") else self._content(path)
                files.setdefault(self._text(name), []).append(content)
        for same in files.values():
            same.sort(key=json.dumps)
        return {"steps": self._steps, "files": files}

    def _printed(self, text: str) -> Any:
        try:
            return self._value(json.loads(text))
        except ValueError:
            lines = [line.rstrip() for line in text.splitlines()]
            return [self._value(json.loads(line)) if line.startswith('{"') else self._text(line) for line in lines]

    def _text(self, text: str) -> str:
        for known, name in self._hidden.items():
            text = text.replace(known, name)
        for pattern, name in _MASKED_TEXT:
            text = pattern.sub(name, text)
        return text

    def _value(self, value: Any) -> Any:
        match value:
            case dict():
                return {
                    self._text(key): "<masked>"
                    if each is not None and self._is_masked(key, each)
                    else self._value(each)
                    for key, each in value.items()
                }
            case list():
                return [self._value(each) for each in (value[:1] if self._measured else value)]
            case bool() | int() | float() | str() | None if self._measured:
                return "<value>"
            case float():
                return round(value, 3)
            case str():
                return self._text(value)
            case _:
                return value

    def _is_masked(self, key: str, value: object) -> bool:
        # Members of a collection are stored side by side, and which libraries are measured depends on the time.
        if key in {"coordinates", "host", "processor", "item"} or key.startswith("timings"):
            return True
        if self._measured and key == "versions":
            return True
        return _MASKED_FIELDS.match(key) is not None and not isinstance(value, dict | list | type(None))

    def _content(self, path: Path) -> Any:
        suffix = path.suffix.lower()
        if path.read_bytes()[:4] == b"PAR1":
            return "<Parquet>"
        if suffix in {".json", ".geojson"}:
            return self._value(json.loads(path.read_text()))
        if suffix == ".jsonl":
            return [self._value(json.loads(line)) for line in path.read_text().splitlines()]
        if suffix == ".csv":
            return [[self._text(cell) for cell in row] for row in csv.reader(io.StringIO(path.read_text()))]
        if suffix in _IMAGE_SUFFIXES:
            with Image.open(path) as image:
                return {"mode": image.mode, "size": list(image.size), "values": _counted(np.asarray(image))}
        if suffix == ".tif":
            with rasterio.open(path) as raster:
                kept = ("driver", "dtype", "nodata", "width", "height", "count", "compress", "interleave")
                profile = {key: self._value(raster.profile.get(key)) for key in kept}
                return {
                    **profile,
                    "crs": str(raster.crs),
                    "transform": list(raster.transform),
                    "values": _counted(raster.read()),
                }
        if suffix == ".html":
            # Sizes and places of what is drawn are in no words.
            words = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", path.read_text())
            return re.sub(r"\b\d+(\.\d+)?(?! ?%|[\d.])", "<number>", self._text(" ".join(words.split())))
        if suffix == ".tgz":
            with tarfile.open(path) as archive:
                return sorted(member.name for member in archive)
        return "<file>"


def _counted(pixels: NDArray[Any]) -> dict[str, int] | str:
    values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)) if len(values) < 8 else "many"


def _bundle(run: Run) -> Path:
    return packed(bundle_folder(run.folder / ".cache" / "bundle"), run.folder / ".cache" / "bundle.tgz")


def _photographs(run: Run) -> None:
    folder = run.folder / "given"
    (folder / "dive 1").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(painted(RED, width=64, height=32, file_format="JPEG"))
    (folder / "b.png").write_bytes(painted(GREEN, BLUE))
    (folder / "broken.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("not an image")
    (folder / "dive 1" / "c.png").write_bytes(painted(BLUE, RED, RED, width=30))


def _raster(run: Run) -> None:
    (run.folder / "given").mkdir()
    bands = np.random.default_rng(5).integers(1, 256, (3, 15, 21), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    with rasterio.open(
        run.folder / "given" / "map.tif", "w", "GTiff", 210, 150, 3, dtype="uint8", crs="EPSG:32755",
        tiled=True, blockxsize=64, blockysize=64, transform=rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000),
    ) as dataset:  # fmt: skip
        dataset.write(bands)


def _help(run: Run) -> None:
    run.help()


def _statuses(run: Run) -> None:
    bundle = _bundle(run)
    _photographs(run)
    run.pseg("predict", "missing.tgz", "given/b.png", "--out", "masks")
    run.pseg("predict", bundle, "missing.png", "--out", "masks")
    run.pseg("predict", bundle, "given/broken.png", "--out", "masks")
    run.pseg("predict", bundle, "given/b.png", "--out", "masks", "--runtime", "paddle")
    run.pseg("predict", bundle, "given/b.png", "--out", "masks", "--threshold", "2")
    run.pseg("predict", bundle, "given/b.png", "--out", "masks", "--nonsense")
    run.pseg("inspect", "given/notes.txt")
    run.pseg("evaluate", bundle, "--images", "given", "--masks", "given")
    run.pseg("convert", bundle, "--out", "converted.tgz")


def _folder(run: Run) -> None:
    bundle = _bundle(run)
    _photographs(run)
    options = ("--out", "masks", "--csv", "cover.csv", "--report", "report.html", "--runtime", "onnx", "--threads", 1)
    run.pseg("predict", bundle, "given", *options, "--recursive", "--json", "--save", "pseudo,overlay")
    run.pseg("predict", bundle, "given", *options, "--recursive", "--resume")
    run.pseg("merge", "masks", "--out", "merged", "--csv", "merged.csv")
    run.pseg("manifest", "given", "--out", "list.csv")
    run.pseg("inspect", bundle)


def _raster_run(run: Run) -> None:
    bundle = _bundle(run)
    _raster(run)
    options = ("--tile", "--tile-size", 64, "--overlap", 16, "--runtime", "onnx", "--threads", 1)
    run.pseg("predict", bundle, "given/map.tif", "--out", "masks", *options, "--vectors", "geojson", "--json")


def _order(run: Run) -> None:
    bundle = _bundle(run)
    _photographs(run)
    (run.folder / "out").mkdir()
    run.order("--model", bundle, "--images", "given", "--report", "--runtime", "onnx")
    run.order("--model", bundle, "--image", "given/b.png", "--device", "gpu")


def _job(run: Run) -> None:
    bundle = _bundle(run)
    _photographs(run)
    run.job({"model": f"urn:file://{bundle}", "images": "given", "report": True, "runtime": "onnx"})
    run.job({"model": f"urn:file://{bundle}", "images": "given", "device": "nonsense"})


def _conversion(run: Run) -> None:
    demo = REPOSITORY / "demo" / "demo_seagrass.tgz"
    # What is in the user's cache is not converted again.
    run.pseg("convert", demo, "--out", "converted.tgz", "--replace", "--cache-dir", ".cache")
    run.pseg("verify", "converted.tgz", "--json")


def _tuning(run: Run) -> None:
    bundle = _bundle(run)
    _photographs(run)
    (run.folder / "given" / "broken.png").unlink()
    run.pseg("tune", bundle, "--images", "given", "--out", "profile.json", "--json")


RUNS: Mapping[str, Callable[[Run], None]] = {
    "help": _help,
    "statuses": _statuses,
    "folder": _folder,
    "raster": _raster_run,
    "order": _order,
    "job": _job,
    "conversion": _conversion,
    "tuning": _tuning,
}


def record_of(name: str) -> dict[str, Any]:
    """Run one of them in an empty folder, whose name is as long as ever: another length breaks lines elsewhere."""
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        folder = Path(parent).resolve().with_name(f"run{os.getpid():08}")
        Path(parent).rename(folder)
        try:
            run = Run(folder, measured=name in {"conversion", "tuning"})
            RUNS[name](run)
            return run.record()
        finally:
            folder.rename(parent)


def main(names: list[str]) -> None:
    """Write what the runs give into this folder."""
    for name in names or RUNS:
        (HERE / f"{name}.json").write_text(json.dumps(record_of(name), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

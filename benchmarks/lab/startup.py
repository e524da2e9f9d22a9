"""What a command takes, from the start of its process on, against that of another installation.

`python -m benchmarks.lab.startup OTHER` compares this `pseg` with another one, the file `pseg` of its environment, on
the demo bundle: pairs in turn, and the ratio of each. It measures the start (`pseg --version`), one photograph, a
folder of 24 photographs and a georeferenced TIFF of 4096×4096 pixels in tiles. The start ends with its process, the
others with the last mask that is written.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.orthomosaic import write_orthomosaic

ORIGINAL_WAY = Path(__file__).with_name("original_way.py")
PSEG = Path(sys.executable).with_name("pseg")
_DEMO = Path(__file__).resolve().parents[2] / "demo"
_BUNDLE = _DEMO / "demo_seagrass.tgz"
_PICTURES = tuple(_DEMO / "pictures" / f"scene_90000{number}.jpg" for number in range(4, 8))
_COPIES = 6
_RASTER_PX = 4096
_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command took.

    `seconds` are from the start of its process to the last file that it was to write, or to its end if it writes none;
    `processor_s` are of all its threads and child processes.
    """

    seconds: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class Case:
    """A command that both installations run: its arguments, and the files that it writes into its folder of results."""

    arguments: Sequence[str]
    masks: Sequence[str] = ()


def measured(command: Sequence[str], written: Sequence[Path]) -> Measured:
    """Run a command; the files' own times tell when they were there, whatever the process does afterwards.

    Raises RuntimeError where the command failed.
    """
    for each in written:
        each.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    spent_s, started_ns = _children_s(), time.time_ns()
    done = subprocess.run(command, capture_output=True, check=False, env=environment)  # noqa: S603 - our own commands
    ended_ns = time.time_ns()
    if done.returncode:
        raise RuntimeError(f"{command[:2]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    last_ns = max((each.stat().st_mtime_ns for each in written), default=ended_ns)
    return Measured((last_ns - started_ns) / 1e9, _children_s() - spent_s)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_until_written(command: Sequence[str], mask: Path) -> float:
    """Run a command and tell how long it took until a mask was on the disk."""
    return measured(command, [mask]).seconds


def bounds_of_median(values: list[float]) -> tuple[float, float]:
    """Where the median of values like these lies with 95 % confidence, by bootstrap.

    >>> bounds_of_median([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    draw = random.Random(0).choices  # noqa: S311 - no secret
    medians = sorted(statistics.median(draw(values, k=len(values))) for _ in range(_DRAWS))
    return medians[_DRAWS * 25 // 1000], medians[_DRAWS * 975 // 1000]


def cases_in(folder: Path) -> dict[str, Case]:
    """Make the inputs of all cases in an empty folder."""
    pictures, raster = folder / "pictures", folder / "raster.tif"
    pictures.mkdir()
    stems = [f"{picture.stem}_{copy}" for copy in range(_COPIES) for picture in _PICTURES]
    for stem, picture in zip(stems, _COPIES * _PICTURES, strict=True):
        shutil.copyfile(picture, pictures / f"{stem}.jpg")
    write_orthomosaic(raster, _RASTER_PX, seed=0)
    predict = ("predict", str(_BUNDLE), "--runtime", "onnx")
    return {
        "start": Case(["--version"]),
        "photograph": Case([*predict, str(_PICTURES[0])], [f"{_PICTURES[0].stem}.pseudo.png"]),
        "folder": Case([*predict, str(pictures)], [f"{stem}.pseudo.png" for stem in stems]),
        "raster": Case([*predict, str(raster), "--tile"], ["raster.tif"]),
    }


def compared(run: Callable[[str], Measured], pairs: int) -> dict[str, list[Measured]]:
    """Run `this` and `other` in turn, each first in every other pair, after one run of each that does not count."""
    order = ["this", "other"]
    for way in order:
        run(way)
    found: dict[str, list[Measured]] = {way: [] for way in order}
    for _ in range(pairs):
        for way in order:
            found[way].append(run(way))
        order.reverse()
    return found


def summary(this: Sequence[float], other: Sequence[float]) -> str:
    """Medians of two ways, and the median of the ratios of their pairs with its bounds.

    >>> summary([1.0, 1.0], [2.0, 2.0])
    '1.00 against 2.00 s, ratio 0.500 (95 %: 0.500 to 0.500)'
    """
    ratios = [one / two for one, two in zip(this, other, strict=True)]
    lower, upper = bounds_of_median(ratios)
    return (
        f"{statistics.median(this):.2f} against {statistics.median(other):.2f} s, "
        f"ratio {statistics.median(ratios):.3f} (95 %: {lower:.3f} to {upper:.3f})"
    )


def main() -> None:
    """Measure, print a line for each case, and write every sample as JSON."""
    names = ("start", "photograph", "folder", "raster")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.startup", description=__doc__)
    parser.add_argument("other", type=Path, help="the file pseg of another environment")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="by default all")
    parser.add_argument("--samples", type=Path, help="JSON file for every sample")
    chosen = parser.parse_args()
    commands = {"this": PSEG, "other": chosen.other}
    samples: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases_in(Path(folder)).items():
            if name not in chosen.cases:
                continue

            def run(way: str, case: Case = case) -> Measured:
                out = Path(folder) / "results"
                shutil.rmtree(out, ignore_errors=True)
                results = ["--out", str(out)] if case.masks else []
                command = [str(commands[way]), *case.arguments, *results]
                return measured(command, [out / mask for mask in case.masks])

            found = compared(run, chosen.pairs)
            for what, values in (
                ("seconds", {way: [each.seconds for each in runs] for way, runs in found.items()}),
                ("processor", {way: [each.processor_s for each in runs] for way, runs in found.items()}),
            ):
                print(f"{name}, {what}: {summary(values['this'], values['other'])}", flush=True)
            samples[name] = {way: [(each.seconds, each.processor_s) for each in runs] for way, runs in found.items()}
    if chosen.samples is not None:
        chosen.samples.write_text(json.dumps(samples, indent=1) + "\n")


if __name__ == "__main__":
    main()

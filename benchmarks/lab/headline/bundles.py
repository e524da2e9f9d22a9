"""The bundles and pictures that the figures are measured on, made once and kept in a folder."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from PIL import Image

from benchmarks.lab.headline.scenarios import Collection, Photographs
from benchmarks.lab.networks import write_text_network
from benchmarks.lab.zoo.runner import export_only
from benchmarks.lab.zoo.scenarios import INSTALLED, OCRNET_HRNET_W48
from benchmarks.measuring.pictures import demo_pictures, write_photographs
from engine.gpu.calibration import MIN_CALIBRATION_IMAGES

_PSEG = Path(sys.executable).with_name("pseg")
_DEMO = Path(__file__).resolve().parents[3] / "demo"
_TRAINED = {"demo_seagrass", "nuclei"}
_NO_LIMITS = ("--min-iou", "0", "--max-cover-error", "1")
"""For untrained networks: only their speed is measured, and their masks are noise."""


def bundle(name: str, folder: Path, *, int8: bool) -> Path:
    """Find a bundle, or make it: with FP32 inside, and INT8 if asked for, without limits of accuracy."""
    if name in _TRAINED:
        return _DEMO / f"{name}.tgz"
    made = folder / f"{name.replace(' ', '_')}.tgz"
    if not made.is_file():
        with tempfile.TemporaryDirectory(prefix="headline-") as scratch:
            _pseg("convert", _exported(name, Path(scratch)), "--out", made)
    if not int8:
        return made
    quantized = made.with_suffix(".int8.tgz")
    if not quantized.is_file():
        drawn = photographs(Photographs(8, 512, 384), folder / "pictures")
        calibration = [argument for each in drawn for argument in ("--calibrate", each)]
        _pseg("convert", made, "--out", quantized, "--precision", "int8", *calibration, *_NO_LIMITS)
    return quantized


def _exported(name: str, scratch: Path) -> Path:
    if name == "text network":
        return write_text_network(scratch)
    network = next(each for each in (OCRNET_HRNET_W48, *INSTALLED) if each.name == name)
    export_only(network, scratch / "exported")
    return scratch / "exported"


def _pseg(*arguments: str | Path) -> None:
    command = [str(_PSEG), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-2000:]}")


def pictures(wanted: Photographs | Collection, folder: Path) -> tuple[Path, ...] | None:
    """Find pictures, or draw them; None where they are of a collection that is not there."""
    match wanted:
        case Photographs():
            return photographs(wanted, folder)
        case Collection.SCENES:
            return _mirrored(demo_pictures(), folder / "mirrored")
        case Collection.NUCLEI:
            shared = os.environ.get("PSEG_SHARED_DATA")
            images = Path(shared, "nuclei", "train", "images").glob("*.jpg") if shared else ()
            return tuple(sorted(images))[:16] or None
        case _:
            assert_never(wanted)


def photographs(wanted: Photographs, folder: Path) -> tuple[Path, ...]:
    """JPEGs, see `write_photographs`; drawn unless they are there."""
    target = folder / f"{wanted.count}x{wanted.width}x{wanted.height}"
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="pictures-", dir=folder))
        write_photographs(partial, wanted.count, wanted.width, wanted.height)
        partial.replace(target)
    return tuple(sorted(target.glob("*.jpg")))


def _mirrored(originals: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Add mirror images, so that a few pictures are enough to calibrate on."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(originals)
    for turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180):
        for path in originals:
            out = folder / f"{path.stem}.{turn.name.lower()}.png"
            with Image.open(path) as picture:
                picture.convert("RGB").transpose(turn).save(out)
            found.append(out)
    return tuple(found[: 2 * MIN_CALIBRATION_IMAGES])

"""The bundles and pictures that the figures are measured on, made once and kept in a folder."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.lab.networks import write_text_network
from benchmarks.lab.zoo.runner import export_only
from benchmarks.lab.zoo.scenarios import INSTALLED, OCRNET_HRNET_W48, Scenario
from benchmarks.measuring.pictures import write_photographs
from engine.gpu.calibration import MIN_CALIBRATION_IMAGES

_PSEG = Path(sys.executable).with_name("pseg")
_DEMO = Path(__file__).resolve().parents[3] / "demo"
_NO_LIMITS = ("--min-iou", "0", "--max-cover-error", "1")
"""For untrained networks: only their speed is measured, and their masks are noise."""

FAMILIES = ("PPLiteSeg", "SegFormer", "OCRNet", "DeepLabV3P", "BiSeNetV2", "STDCSeg", "PPMobileSeg", "FastSCNN")
"""Networks of different kinds, at the size of their scenarios."""


def scenario(name: str) -> Scenario:
    """Find a scenario.

    Args:
        name: As in `benchmarks.lab.zoo.scenarios`.

    Returns:
        It.
    """
    return next(each for each in (OCRNET_HRNET_W48, *INSTALLED) if each.name == name)


def converted(which: Scenario, folder: Path) -> Path:
    """Export a network, and convert it to ONNX.

    Args:
        which: What to build.
        folder: Where bundles are kept.

    Returns:
        A bundle with FP32 inside.
    """
    bundle = folder / f"{which.name}.tgz"
    if not bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="headline-") as scratch:
            exported = Path(scratch) / which.name
            export_only(which, exported)
            _pseg("convert", str(exported), "--out", str(bundle))
    return bundle


def quantized(bundle: Path, pictures: Sequence[Path], *, limited: bool) -> Path:
    """Add INT8 to a bundle.

    Args:
        bundle: With FP32 inside.
        pictures: To calibrate on.
        limited: Whether the usual limits of accuracy hold.

    Returns:
        A bundle with both.
    """
    out = bundle.with_name(f"{bundle.name.removesuffix('.tgz')}.int8.tgz")
    if not out.is_file():
        limits = () if limited else _NO_LIMITS
        calibration = [argument for each in pictures for argument in ("--calibrate", str(each))]
        _pseg("convert", str(bundle), "--out", str(out), "--precision", "int8", *calibration, *limits)
    return out


def text_bundle(folder: Path) -> Path:
    """Convert the text network.

    Args:
        folder: Where bundles are kept.

    Returns:
        A bundle with FP32 inside.
    """
    bundle = folder / "text.tgz"
    if not bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="headline-") as scratch:
            _pseg("convert", str(write_text_network(Path(scratch))), "--out", str(bundle))
    return bundle


def committed_bundle(name: str) -> Path:
    """Find a trained bundle of this repository.

    Args:
        name: `demo_seagrass` or `nuclei`.

    Returns:
        Its path.
    """
    return _DEMO / f"{name}.tgz"


def _pseg(*arguments: str) -> None:
    done = subprocess.run([str(_PSEG), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"pseg {' '.join(arguments[:2])} failed: {done.stderr.strip()[-2000:]}")


def photographs(folder: Path, count: int, width: int, height: int) -> tuple[Path, ...]:
    """Lay out JPEGs, see `write_photographs`, unless they are there.

    Args:
        folder: Where pictures are kept.
        count: How many.
        width: Pixels.
        height: Pixels.

    Returns:
        Files.
    """
    target = folder / f"{count}x{width}x{height}"
    if not target.is_dir():
        partial = Path(tempfile.mkdtemp(prefix="pictures-", dir=_made(folder)))
        write_photographs(partial, count, width, height)
        partial.replace(target)
    return tuple(sorted(target.glob("*.jpg")))


def mirrored(pictures: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Add mirror images, so that a few pictures are enough to calibrate on.

    Args:
        pictures: At least one.
        folder: Gets them.

    Returns:
        At least as many as calibration asks for.
    """
    _made(folder)
    turns = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180)
    found = list(pictures)
    for turn in turns:
        for path in pictures:
            out = folder / f"{path.stem}.{turn.name.lower()}.png"
            with Image.open(path) as picture:
                picture.convert("RGB").transpose(turn).save(out)
            found.append(out)
    return tuple(found[: 2 * MIN_CALIBRATION_IMAGES])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

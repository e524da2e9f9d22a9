"""`pseg annotate --format labelme` and `pseg evaluate --annotations`, held against labelme itself."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.annotation_files import read_annotations
from benchmarks.accuracy.labels import LabelNames
from service.commands.terminal import ExitStatus
from tests.service.commands.test_cli import pseg
from tests.service.surveys.test_annotate import COLORS, islands

pytestmark = pytest.mark.long

PYTHON = Path(sys.prefix) / "labelme" / "bin" / "python"
SCRIPT = Path(__file__).parents[2] / "labelme_masks.py"
LABELS = "red", "green", "blue"


def drawn_by_labelme(files: Sequence[Path], folder: Path) -> list[NDArray[np.int32]]:
    """Class indices, and -1 where nothing is drawn."""
    assert PYTHON.exists(), "labelme is not installed: make labelme-check"
    folder.mkdir()
    subprocess.run(
        [PYTHON, SCRIPT, folder, ",".join(LABELS), *files],
        check=True,
        timeout=120,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    return [np.load(folder / f"{number}.npy") - 1 for number in range(len(files))]


def test_labelme_draws_the_masks_again(bundle: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    masks = {f"p{seed}": islands(seed, 40 + seed, 60 + 3 * seed) for seed in range(8)}
    # noise alone is the hardest: every second pixel begins a region
    masks |= {f"n{seed}": generator.integers(3, size=(33, 47 + seed)).astype(np.uint8) for seed in range(2)}
    (tmp_path / "in").mkdir()
    for name, mask in masks.items():
        Image.fromarray(COLORS[mask]).save(tmp_path / "in" / f"{name}.png")
    assert pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o").status == ExitStatus.DONE
    options = "--format", "labelme", "--out", tmp_path / "l"
    assert pseg("annotate", tmp_path / "o", *options).status == ExitStatus.DONE
    drawn = drawn_by_labelme([tmp_path / "l" / f"{name}.json" for name in masks], tmp_path / "drawn")
    for found, wanted in zip(drawn, masks.values(), strict=True):
        assert np.array_equal(found, wanted)


def shape(generator: np.random.Generator, kind: str, size: tuple[int, int]) -> dict[str, Any]:
    corners = {"rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4, "polygon": 7}
    points = generator.uniform(0, size, (corners[kind], 2)).tolist()
    found: dict[str, Any] = {"label": LABELS[generator.integers(3)], "shape_type": kind, "points": points}
    if kind == "circle":
        # near the centre, so that it does not reach further out than the picture is wide
        points[1] = [points[0][0] + generator.uniform(1, 12), points[0][1]]
    if kind == "mask":
        left, top = (int(generator.integers(side - 12)) for side in size)
        file = io.BytesIO()
        Image.fromarray(generator.integers(2, size=(9, 11)).astype(np.uint8) * 255).save(file, "PNG")
        found |= {"points": [[left, top], [left + 10, top + 8]], "mask": base64.b64encode(file.getvalue()).decode()}
    return found


def test_shapes_of_every_kind_are_read_as_labelme_draws_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    size = 70, 50
    Image.new("RGB", size).save(tmp_path / "a.png")
    kinds = ("polygon", "rectangle", "circle", "oriented_rectangle", "mask")
    files = [tmp_path / f"{number}.json" for number in range(20)]
    for number, file in enumerate(files):
        shapes = [shape(generator, kinds[(number + each) % len(kinds)], size) for each in range(4)]
        record: dict[str, Any] = {"version": "5.5.0", "shapes": shapes, "imagePath": "a.png", "imageData": None}
        file.write_text(json.dumps({**record, "imageHeight": size[1], "imageWidth": size[0]}))
    for file, wanted in zip(files, drawn_by_labelme(files, tmp_path / "drawn"), strict=True):
        (found,) = read_annotations([file])
        assert np.array_equal(found.draw(size, LabelNames(LABELS)), np.where(wanted < 0, 255, wanted))

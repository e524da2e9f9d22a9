"""The commands in the pages run, in a folder with the files that they name; docs/tested.md lists the others."""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose

from tests.documentation.pages import PAGES, ROOT, commands, is_run, not_run, status_of, statuses, words
from tests.service.results.test_orthomosaics import geotiff, pixels_of

WITH_COMMANDS = [name for name in sorted(PAGES) if any(is_run(command) for command in commands(PAGES[name]))]

_TURNS = (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_TOP_BOTTOM, Transpose.ROTATE_180)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the pages has: a bundle without ONNX, photographs, labels, an orthomosaic."""
    folder = tmp_path_factory.mktemp("files")
    with tarfile.open(ROOT / "demo" / "demo_seagrass.tgz") as whole, tarfile.open(folder / "model.tgz", "w:gz") as part:
        for member in whole:
            if member.isfile() and "onnx/" not in member.name:
                part.addfile(member, whole.extractfile(member))
    for name in ("seagrass.tgz", "old.tgz"):
        shutil.copy(folder / "model.tgz", folder / name)

    pictures = [
        Image.open(path).convert("RGB").resize((160, 128)) for path in sorted((ROOT / "demo/pictures").iterdir())
    ]
    views = [picture.transpose(turn) for turn in _TURNS for picture in pictures]
    for place in ("photographs", "labelled", "one", "thirteen", "dive_1", "survey/north", "survey/test_shots"):
        (folder / place).mkdir(parents=True)
        for number in range(1 if place == "one" else 10):
            views[number % len(views)].save(folder / place / f"{Path(place).name[:2]}{number}.jpg", quality=95)
    for place, first in (("labels", "ph"), ("labelled/masks", "la")):
        (folder / place).mkdir()
        for number in range(10):
            greens = np.asarray(views[number])[..., 1]
            Image.fromarray(greens // 86).save(folder / place / f"{first}{number}.png")
    views[0].save(folder / "quadrat.jpg")
    geotiff(folder / "reef.tif", pixels_of())
    for name in (".venv", "demo", "service.py", "resources.json", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", WITH_COMMANDS, ids=str)
def test_commands_run(name: Path, files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(files, folder, symlinks=True)
    if "Begin in an empty folder" in PAGES[name]:
        shutil.rmtree(folder / "labels")
    for command in filter(is_run, commands(PAGES[name])):
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            check=False,
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
                "XDG_CACHE_HOME": str(files / "cache"),
            },
            text=True,
        )
        assert done.returncode == status_of(command), f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_every_reason_is_for_a_command() -> None:
    shown = [words(command) for page in PAGES.values() for command in commands(page)]
    listed = {**not_run(), **statuses()}
    assert not [beginning for beginning in listed if not any(each.startswith(beginning) for each in shown)]


def test_reasons_name_tests_that_exist() -> None:
    named = {name for reason in not_run().values() for name in re.findall(r"`(tests/[^`]+)`", reason)}
    assert not [name for name in named if not (ROOT / name).is_file()]

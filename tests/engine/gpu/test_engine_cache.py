"""Folders of engines: what keeps them apart, how much they may hold, how they are emptied."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from engine.options import DynamicShapeProfile, Precision, ShapeRange
from engine.runtimes.engine_cache import EngineKey, empty, engine_folder, holds_engines

RANGE = ShapeRange((1, 3, 256, 256), (1, 3, 512, 640), (4, 3, 1024, 1024))
KEY = EngineKey(
    model_digest="a" * 64,
    versions={"onnxruntime": "1.26.0", "tensorrt": "10.14"},
    gpu="NVIDIA L4 8.9",
    shapes=DynamicShapeProfile((("x", RANGE),)),
    precision=Precision.FP32,
    min_subgraph_size=3,
    tf32=False,
)
CHANGES: list[dict[str, Any]] = [
    {"model_digest": "b" * 64},
    {"versions": {"onnxruntime": "1.27.0", "tensorrt": "10.14"}},
    {"versions": {"onnxruntime": "1.26.0", "tensorrt": "10.15"}},
    {"gpu": "NVIDIA H100 9.0"},
    {"shapes": None},
    {"shapes": DynamicShapeProfile((("x", replace(RANGE, maximum=(8, 3, 1024, 1024))),))},
    {"precision": Precision.FP16},
    {"min_subgraph_size": 4},
    {"tf32": True},
    {"shape_ranges": "c" * 64},
    {"workspace_bytes": 1 << 20},
]


def test_every_part_of_the_key_counts(tmp_path: Path) -> None:
    folders = [engine_folder(tmp_path / "deep" / "cache", replace(KEY, **change)) for change in [{}, *CHANGES]]
    assert len(set(folders)) == len(folders)
    assert all(folder.is_dir() for folder in folders)
    same = replace(KEY, versions={"tensorrt": "10.14", "onnxruntime": "1.26.0"})
    assert engine_folder(tmp_path / "deep" / "cache", same) == folders[0]


def kept(root: Path, name: str, size: int, hours: float) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(bytes(size))
    used_s = time.time() - 3600 * hours
    os.utime(folder, (used_s, used_s))
    return folder


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    oldest, older, lately = kept(tmp_path, "a", 400, 9), kept(tmp_path, "b", 400, 5), kept(tmp_path, "c", 400, 0.5)
    engine_folder(tmp_path, KEY, max_bytes=1000)
    assert [each.is_dir() for each in (oldest, older, lately)] == [False, True, True]
    engine_folder(tmp_path, KEY, max_bytes=500)
    assert [each.is_dir() for each in (oldest, older, lately)] == [False, False, True]
    assert {path.name for path in tmp_path.glob("*.lock")} == {f"{KEY.digest}.lock"}


def test_what_a_process_uses_is_not_removed_while_it_lives(tmp_path: Path) -> None:
    mine, other = engine_folder(tmp_path, KEY), replace(KEY, tf32=True)
    code = (
        "import sys; from pathlib import Path; from tests.engine.gpu.test_engine_cache import *;"
        f"print(engine_folder(Path({str(tmp_path)!r}), replace(KEY, tf32=True)), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        for folder in (mine, theirs):
            (folder / "model.engine").write_bytes(bytes(400))
            os.utime(folder, (0, 0))
        third = replace(KEY, min_subgraph_size=9)
        engine_folder(tmp_path, third, max_bytes=10)
        assert (holds_engines(mine), holds_engines(theirs)) == (True, True)
        process.communicate()
    engine_folder(tmp_path, third, max_bytes=10)
    assert (holds_engines(mine), theirs.exists()) == (True, False)
    assert theirs.name == other.digest


def test_engines_that_cannot_be_read_are_removed_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = engine_folder(tmp_path, KEY)
    assert not holds_engines(folder)
    (folder / "model.engine").write_bytes(b"not an engine")
    empty(folder, "could not deserialize")
    assert folder.is_dir()
    assert not holds_engines(folder)
    assert "could not deserialize" in caplog.text

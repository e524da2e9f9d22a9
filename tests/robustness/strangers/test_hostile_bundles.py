"""Bundles from strangers: each ends in an error that names it, or opens without what was hostile in it.

The process that opens them serves on, within stated caps on memory and disk, and nothing is written but into the
temporary folder, which is empty afterwards.
"""

import json
import re
import select
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from converters.exporting.weights_file import read_weights
from engine import ConversionError
from tests.converters.exporting.test_weights_file import FORGED
from tests.robustness.conftest import Tally
from tests.robustness.strangers import hostile, hostile_models, hostile_zips
from tests.robustness.strangers.hostile import Hostile

MEMORY_BYTES = 256 << 20
"""What reading a bundle may take, above what the process had before."""
MODEL_MEMORY_BYTES = 1 << 30
"""The same for loading a model that a child found harmless, with its library."""
DISK_BYTES = 16 << 20
"""What a hostile bundle of this suite may take in the temporary folder."""
PATIENCE_S = 60
MODEL_PATIENCE_S = 300
ONNX_TIMEOUT_S = 20


class Serving:
    """A process that opens bundles; it is started once and must not die."""

    def __init__(self, load_marks: Path) -> None:
        self._load_marks = load_marks
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[3],
        )

    def open(self, bundle: Path, temporary: Path, runtime: str | None) -> dict[str, Any]:
        """Have a bundle opened; what came of it."""
        order = {
            "bundle": str(bundle),
            "temporary": str(temporary),
            "runtime": runtime,
            "load_marks": str(self._load_marks),
            "onnx_timeout_s": ONNX_TIMEOUT_S,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        patience_s = PATIENCE_S if runtime is None else MODEL_PATIENCE_S
        ready, _, _ = select.select([self._process.stdout], [], [], patience_s)
        if not ready:
            self.close()
            pytest.fail(f"no answer within {patience_s} s")
        line = self._process.stdout.readline()
        assert line, f"the process that serves died: status {self._process.wait()}"
        return json.loads(line)

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Serving]]:
    """The process that serves; a dead one is replaced, so that one loss is one failed test."""
    load_marks = tmp_path_factory.mktemp("load_marks")
    running = [Serving(load_marks)]
    yield running
    for each in running:
        each.close()


def listing(folder: Path) -> dict[str, int]:
    """Every file and folder below, with its size."""
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in folder.rglob("*")}


def try_out(each: Hostile, tmp_path: Path, serving: list[Serving]) -> str:
    """Open a hostile bundle and look whether everything is as it should be; what came of it."""
    outer = tmp_path / "outer"
    temporary = outer / "temporary"
    temporary.mkdir(parents=True)
    bundle = outer / "hostile.tgz"
    bundle.write_bytes(each.make())
    (outer / "deploy.yaml").write_text("not yours")
    before = listing(tmp_path)
    if not serving[-1].alive:
        serving.append(Serving(tmp_path.parent / "load_marks"))
    report = serving[-1].open(bundle, temporary, each.runtime)
    assert serving[-1].alive
    assert listing(tmp_path) == before
    assert (outer / "deploy.yaml").read_text() == "not yours"
    assert report["disk_bytes"] <= DISK_BYTES
    assert report["memory_bytes"] <= (MEMORY_BYTES if each.runtime is None else MODEL_MEMORY_BYTES)
    outcome, message = report["outcome"], report["message"]
    if each.message is None or (each.may_open and outcome in {"opens", "loads"}):
        assert outcome == ("opens" if each.runtime is None else "loads"), message
        return "opened without it" if each.runtime is None else "loaded"
    refusals = (
        {"BundleError", "UnsupportedTransformError"}
        if each.runtime is None
        else {"BundleError", "ModelLoadError", "TrialError"}
    )
    assert outcome in refusals, message
    assert message.startswith(f"{bundle}: ")
    assert re.search(each.message, message), message
    assert len(message) < 2_000
    return "refused"


TARS = [*hostile.PATHS, *hostile.KINDS, *hostile.FORMS, *hostile.BOMBS]
ZIPS = [*hostile_zips.PATHS, *hostile_zips.KINDS, *hostile_zips.FORMS, *hostile_zips.BOMBS]


@pytest.mark.long
@pytest.mark.parametrize("each", [*TARS, *ZIPS], ids=lambda each: ascii(each.name))
def test_hostile_archive(each: Hostile, tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    tally("hostile archives", try_out(each, tmp_path, serving))


@pytest.mark.parametrize("each", hostile.TEXTS, ids=lambda each: ascii(each.name))
def test_hostile_text(each: Hostile, tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    tally("hostile deploy.yaml and meta.json", try_out(each, tmp_path, serving))


@pytest.mark.parametrize("each", hostile_models.QUICK, ids=lambda each: each.name)
def test_hostile_onnx_model(each: Hostile, tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    tally("hostile ONNX models", try_out(each, tmp_path, serving))


@pytest.mark.long
@pytest.mark.parametrize("each", hostile_models.ON_PURPOSE, ids=lambda each: each.name)
def test_more_hostile_onnx_models(each: Hostile, tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    tally("hostile ONNX models", try_out(each, tmp_path, serving))


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(each, id=each.name, marks=[pytest.mark.long] if index > 3 else [])
        for index, each in enumerate(hostile_models.MORE_THAN_ARITHMETIC)
    ],
)
def test_paddle_programs_that_do_more_than_compute(
    each: Hostile, tmp_path: Path, serving: list[Serving], tally: Tally
) -> None:
    tally("Paddle programs beyond arithmetic", try_out(each, tmp_path, serving))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if index % 3 == 0 else pytest.mark.long) for index, name in enumerate(FORGED)]
)
def test_weights_that_are_no_arrays(name: str, tmp_path: Path, tally: Tally) -> None:
    content, message = FORGED[name]
    path = tmp_path / "w.pdparams"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=message) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert listing(tmp_path) == {"w.pdparams": len(content)}
    tally("hostile weights (.pdparams)", "refused")


DEMO = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"
DEMO_FILES = ("model.json", "model.pdiparams", "onnx/fp32/model.onnx")
LEGACY_FILES = ("model.pdmodel", "model.pdiparams")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", DEMO_FILES)
def test_models_cut_short_or_flipped(file: str, tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    try_all(DEMO, file, tmp_path, serving, tally)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", LEGACY_FILES)
def test_models_of_paddle_2_cut_short_or_flipped(
    file: str, tmp_path: Path, serving: list[Serving], tally: Tally, shared_data: Path
) -> None:
    try_all(shared_data / "bundles" / "legacy_humanseg_lite_logits.tgz", file, tmp_path, serving, tally)


def try_all(archive: Path, file: str, tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    """Try a model file cut short at every tenth, and with flipped bits."""
    kind = f"{Path(file).suffix.removeprefix('.')} of {archive.stem}"
    for number, each in enumerate(hostile_models.shortened(archive, file)):
        tally(f"{kind}, cut short", try_out(each, tmp_path / f"cut{number}", serving))
    for number, each in enumerate(hostile_models.flipped(archive, file)):
        tally(f"{kind}, bits flipped", try_out(each, tmp_path / f"flip{number}", serving))


def test_a_good_bundle_opens_afterwards(tmp_path: Path, serving: list[Serving], tally: Tally) -> None:
    good = Hostile("nothing", hostile.tgz, None, "onnx")
    tally("good bundles after hostile ones", try_out(good, tmp_path, serving))
    assert len(serving) == 1

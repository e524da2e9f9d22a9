"""Every command that loads a stranger's model tries it in a child first; a new command must say how models enter it."""
# onnxruntime ships no types.
# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from service import cli
from service.commands.terminal import ExitStatus
from tests.launcher import Launcher
from tests.robustness.strangers.hostile import deploy, good_files, tgz
from tests.robustness.strangers.hostile_models import files_of, one_node

TRIAL = "engine.runtimes.trial"
DEMO = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"


@dataclass(frozen=True, slots=True)
class Entry:
    """How a stranger's model enters a command.

    Attributes:
        arguments: makes what follows the command, of the folder that holds `hostile.tgz`, `picture.png` and `masks`.
        child: the module of the child that meets the model; where it is not the trial's, it makes the trial in a child
            of its own, since it opens models as all others do.
        status: how the command ends.
    """

    arguments: Callable[[Path], tuple[object, ...]]
    child: str
    status: ExitStatus = ExitStatus.UNUSABLE_MODEL


def of_bundle(*options: object) -> Callable[[Path], tuple[object, ...]]:
    """The hostile bundle, and options; in those, `{}` is the folder."""
    return lambda folder: (folder / "hostile.tgz", *(str(each).replace("{}", str(folder)) for each in options))


ENTRIES: Mapping[str, Entry | str] = {
    "predict": Entry(of_bundle("{}/picture.png", "--out", "{}/out"), TRIAL),
    "reproduce": "the bundle of an earlier run, by `open_session` as predict",
    "scale": Entry(of_bundle("{}/manifest.parquet", "--out", "{}/out"), TRIAL),
    "inspect": Entry(of_bundle("--measure", "--size", "64x64"), "service.inspection.needs"),
    "convert": Entry(of_bundle("--precision", "fp16", "--out", "{}/out.tgz"), TRIAL),
    "verify": Entry(lambda folder: (folder / "compared.tgz",), TRIAL),
    "evaluate": Entry(of_bundle("--images", "{}/picture.png", "--masks", "{}/masks"), TRIAL),
    "bench": Entry(
        of_bundle("--repeats", "1", "--provider", "cpu"), "benchmarks.measuring.child", ExitStatus.INCOMPLETE
    ),
    "tune": Entry(
        of_bundle("--images", "{}/picture.png", "--out", "{}/profile.json"),
        "benchmarks.measuring.child",
        ExitStatus.INCOMPLETE,
    ),
    "doctor": Entry(of_bundle(), TRIAL, ExitStatus.DONE),
    "pack": "a child of its own reads the ONNX file and its shapes, and runs nothing (`converters.deployment`)",
    "merge": "ledgers only",
    "summarize": "ledgers only",
    "sample": "ledgers only",
    "annotate": "ledgers and masks only",
    "manifest": "names of images only",
    "demo": "the project's own bundle",
    "export": "weights, which converters.exporting.weights_file reads; the network is PaddleSeg's own",
    "import": "a Paddle program, by the same `open_runtime`",
}
"""A row for every command of the command line."""


def test_every_command_has_a_row() -> None:
    assert set(ENTRIES) == set(cli._COMMANDS)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hostile = one_node("Evil", domain="evil.example").SerializeToString()
    (tmp_path / "hostile.tgz").write_bytes(
        tgz(files={**good_files(), "deploy.yaml": deploy(), "onnx/fp32/model.onnx": hostile})
    )
    (tmp_path / "compared.tgz").write_bytes(tgz(files={**files_of(DEMO), "onnx/fp32/model.onnx": hostile}))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "picture.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "masks" / "picture.png")
    run("manifest", tmp_path / "picture.png", "--out", tmp_path / "manifest.parquet")
    return tmp_path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=() if name == "predict" else pytest.mark.long)
        for name, entry in ENTRIES.items()
        if isinstance(entry, Entry)
    ],
)
def test_a_hostile_model_meets_a_child_first(
    command: str, folder: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    entry = ENTRIES[command]
    assert isinstance(entry, Entry)

    def loaded(*_arguments: object, **_options: object) -> NoReturn:
        raise AssertionError("the main process loads the model")

    monkeypatch.setattr(onnxruntime, "InferenceSession", loaded)
    outcome = run(command, *entry.arguments(folder), "--cache-dir", folder / "cache")
    assert "the main process loads the model" not in outcome.output + str(outcome.exception)
    assert entry.child in launcher.started, outcome.output
    assert outcome.exit_code == entry.status, outcome.output
    assert "Evil" in outcome.output

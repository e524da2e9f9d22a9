"""`pseg demo` where a runtime is missing: one that is not installed is left out, one that is broken is an error."""

import sys
from pathlib import Path

import pytest

from engine.system.libraries import installed_version
from service.commands.terminal import ExitStatus
from tests.service.commands.test_cli import halves, pseg


@pytest.fixture(autouse=True)
def no_paddle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment whose Paddle cannot be imported."""
    monkeypatch.setitem(sys.modules, "paddle", None)


def test_a_runtime_that_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_paddle(distribution: str) -> str | None:
        return None if distribution == "paddlepaddle" else installed_version(distribution)

    monkeypatch.setattr("service.demonstration.installed_version", without_paddle)
    outcome = pseg("demo", halves(tmp_path / "a.png"), "--out", tmp_path / "out")
    assert outcome.status == ExitStatus.DONE
    assert "openvino" in outcome.stdout
    assert "paddle-cpu" not in outcome.stdout
    assert "not here: Paddle cannot be imported" in outcome.stdout
    assert (tmp_path / "out" / "a.mask.png").is_file()


def test_a_runtime_that_is_installed_and_broken_is_an_error(tmp_path: Path) -> None:
    outcome = pseg("demo", halves(tmp_path / "a.png"), "--out", tmp_path / "out")
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert "Paddle cannot be imported" in outcome.stderr

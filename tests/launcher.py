"""Child processes in tests: noted, forbidden, or replaced, in the one place that starts them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from engine.system.process import ChildProcess, Limits, Outcome


class Launcher:
    """What starts child processes, changed for a test.

    Attributes:
        started: modules of the functions that children were started for, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note what is started; all children are real ones."""
        self.started: list[str] = []
        self._patch = monkeypatch
        start = ChildProcess.__init__

        def noted(
            child: ChildProcess, target: Callable[..., object], limits: Limits, folder: Path | None = None
        ) -> None:
            self.started.append(target.__module__)
            start(child, target, limits, folder)

        monkeypatch.setattr(ChildProcess, "__init__", noted)

    def forbid(self) -> None:
        """From now on starting a child is an error."""

        def no_child(*_arguments: object) -> NoReturn:
            raise AssertionError("a child was started")

        self._patch.setattr(ChildProcess, "__init__", no_child)

    def answer(self, outcome: Outcome) -> None:
        """From now on no child is started, and this is what comes of each."""

        def nothing(*_arguments: object) -> None:
            return None

        def answered(_child: ChildProcess, _request: object) -> Outcome:
            return outcome

        for name, method in (("__init__", nothing), ("ask", answered), ("close", nothing)):
            self._patch.setattr(ChildProcess, name, method)

    def run_instead(self, folder: Path, script: str) -> None:
        """From now on children are this script of the shell in place of Python."""
        program = folder / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        self._patch.setattr(sys, "executable", str(program))

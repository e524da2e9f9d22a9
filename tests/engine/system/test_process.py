"""Child processes: what comes of a request, what a child may take, and that it ends with its parent."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConversionError, OptionError
from engine.system.files import scratch_folder
from engine.system.process import ChildProcess, Died, Limits, Raised, Returned, TimedOut, run_isolated

REPOSITORY = Path(__file__).parents[3]
LIMITS = Limits(timeout_s=60)
_MARK = "PSEG_TEST_CHILD"
_WAIT_S = 120.0


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child finds the functions of this file, and temporary files lie in a folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))


# ---- what children do -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    sides: tuple[int, int]


class OwnError(ConversionError):
    """An error that the engine does not know by its name."""


class Counter:
    def __init__(self) -> None:
        self._sum = 0

    def __call__(self, number: int) -> int:
        if number < 0:
            raise OptionError("numbers are positive")
        self._sum += number
        return self._sum


def found(path: Path) -> Found:
    return Found(path, (2, 3))


def raise_own(_: object) -> None:
    raise OwnError("of a module that the parent need not know")


def fail(_: object) -> None:
    os.write(1, b"\x1b[31m[ERROR] written by a library\x1b[0m\n")
    raise ValueError("of a library")


def kill_itself(name: str) -> None:
    os.write(2, b"FatalError: out of luck\n")
    os.kill(os.getpid(), getattr(signal, name))


def exit_with(status: int) -> None:
    os._exit(status)


def write_answer(line: str) -> None:
    """As a child that a hostile file has taken over: anything may come through the socket."""
    os.write(int(sys.argv[2]), line.encode() + b"\n")
    time.sleep(60)


def allocate(megabytes: int) -> int:
    return len(bytes(megabytes << 20))


def limits_of(_: object) -> list[int]:
    return [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)]


def folders(_: object) -> dict[str, str]:
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    return {"work": str(Path.cwd()), "temporary": name}


def sleep_with_a_grandchild(folder: Path) -> None:
    """Starts a process, holds Python's lock as a library may, and leaves a temporary file."""
    tempfile.mkstemp()
    subprocess.Popen(["sleep", "60"])
    (folder / "ready").touch()
    # One operation in C, which no other thread of Python interrupts.
    pow(3, 10**9)


# ---- outcomes ---------------------------------------------------------------------------------------------------


def test_dataclasses_and_paths_come_back_as_json_values() -> None:
    path = Path("/tmp/\udcff")  # noqa: S108 - only a name, of bytes that are no UTF-8
    assert run_isolated(found, path, LIMITS) == Returned({"path": str(path), "sides": [2, 3]})


def test_a_child_answers_until_a_request_fails() -> None:
    with ChildProcess(Counter, LIMITS) as child:
        assert [child.ask(number) for number in (1, 2, 3)] == [Returned(1), Returned(3), Returned(6)]
        for _ in range(2):
            outcome = child.ask(-1)
            assert isinstance(outcome, Raised)
            assert isinstance(outcome.error, OptionError)
            assert str(outcome.error) == "numbers are positive"
    assert not Path(f"/proc/{child.pid}").exists()


def test_an_error_of_another_module_becomes_the_one_of_the_engine_above_it() -> None:
    outcome = run_isolated(raise_own, None, LIMITS)
    assert isinstance(outcome, Raised)
    assert type(outcome.error) is ConversionError


def test_an_exception_of_a_library_is_told_with_what_was_written() -> None:
    outcome = run_isolated(fail, None, LIMITS)
    assert isinstance(outcome, Died)
    assert (outcome.status, outcome.exception) == (1, "ValueError: of a library")
    assert outcome.lines[0] == "[ERROR] written by a library"
    assert outcome.cause == "ended (status 1; ValueError: of a library)"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_the_signal_that_ended_a_child_is_told(name: str) -> None:
    outcome = run_isolated(kill_itself, name, LIMITS)
    assert isinstance(outcome, Died)
    assert outcome.cause == f"ended (signal {name}; FatalError: out of luck)"
    assert outcome.out_of_memory == (name == "SIGKILL")


def test_a_child_that_says_nothing() -> None:
    outcome = run_isolated(exit_with, 3, LIMITS)
    assert isinstance(outcome, Died)
    assert outcome.cause == "ended (status 3; it said nothing)"


@pytest.mark.parametrize(
    "line",
    ["no JSON", "[]", '{"raised": "SystemExit", "message": "x"}', "[" * 100_000],
    ids=range(4),
)
def test_an_answer_that_is_none_of_ours_is_no_answer(line: str) -> None:
    outcome = run_isolated(write_answer, line, LIMITS)
    assert isinstance(outcome, Died)
    assert "its answer cannot be read" in outcome.cause


def test_a_child_that_is_too_slow_is_ended(tmp_path: Path) -> None:
    with ChildProcess(sleep_with_a_grandchild, Limits(timeout_s=5)) as child:
        assert child.ask(tmp_path) == TimedOut(5)
    assert processes_of(child.pid) == []


# ---- limits and folders -----------------------------------------------------------------------------------------


def test_limits_hold_in_the_child() -> None:
    memory_bytes = 512 << 20
    assert run_isolated(limits_of, None, Limits(60, memory_bytes, 1 << 20)) == Returned([memory_bytes, 1 << 20, 0])
    outcome = run_isolated(allocate, 600, Limits(60, memory_bytes))
    assert isinstance(outcome, Died)
    assert outcome.out_of_memory
    assert run_isolated(allocate, 600, LIMITS) == Returned(600 << 20)


def test_what_a_child_and_its_libraries_leave_goes_with_it(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    outcome = run_isolated(folders, None, LIMITS)
    assert isinstance(outcome, Returned)
    assert Path(outcome.value["work"]).is_relative_to(temporary)
    assert Path(outcome.value["temporary"]).is_relative_to(temporary)
    outcome = run_isolated(folders, None, LIMITS, tmp_path)
    assert isinstance(outcome, Returned)
    assert outcome.value["work"] == str(tmp_path)
    assert list(temporary.iterdir()) == []


def test_nothing_of_the_working_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a stranger was imported')")
    monkeypatch.chdir(tmp_path)
    assert run_isolated(allocate, 1, LIMITS, Path.cwd()) == Returned(1 << 20)


# ---- the end of the parent --------------------------------------------------------------------------------------

PARENT = """
import sys, tempfile
from pathlib import Path
from engine.system.process import Limits, run_isolated
from tests.engine.system.test_process import sleep_with_a_grandchild, nested
folder = Path(sys.argv[1])
run_isolated({"plain": sleep_with_a_grandchild, "nested": nested}[sys.argv[2]], folder, Limits(600))
"""


def nested(folder: Path) -> None:
    """A child of a child, as the trial of a measured model is."""
    run_isolated(sleep_with_a_grandchild, folder, Limits(600))


def processes_of(mark: int | str) -> list[str]:
    """Command lines of living processes of a session, or with a mark in their environment."""
    living: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if isinstance(mark, int):
                wanted = int(status[3]) == mark
            else:
                wanted = f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if wanted and status[0] != "Z":
                living.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return living


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "plain") for name in ("SIGKILL", "SIGTERM")),
        *(pytest.param(name, "plain", marks=pytest.mark.long) for name in ("SIGINT", "SIGSEGV")),
        ("SIGKILL", "nested"),
    ],
)
def test_children_end_with_their_parent(name: str, kind: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    mark = f"{name}-{kind}-{os.getpid()}-{time.monotonic_ns()}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), _MARK: mark}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path, kind], env=environment, stderr=subprocess.PIPE)
    until(lambda: (tmp_path / "ready").exists() or parent.poll() is not None)
    # The parent, the child, in the nested case its child, and what that has started.
    assert len(processes_of(mark)) == (3 if kind == "plain" else 4)
    parent.send_signal(getattr(signal, name))
    parent.communicate()
    until(lambda: not processes_of(mark))
    if name != "SIGINT":
        # Nobody was left to remove them: the next run does.
        with scratch_folder("next", temporary):
            pass
    assert list(temporary.iterdir()) == []


def test_a_parent_that_ends_before_its_child_has_begun(tmp_path: Path) -> None:
    mark = f"early-{os.getpid()}-{time.monotonic_ns()}"
    script = (
        "import os, signal\nfrom engine.system.process import ChildProcess, Limits\n"
        "from tests.engine.system.test_process import Counter\n"
        "ChildProcess(Counter, Limits(600))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), _MARK: mark}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -signal.SIGKILL
    until(lambda: not processes_of(mark))


def until(happened: Any) -> None:
    ends = time.monotonic() + _WAIT_S
    while not happened():
        assert time.monotonic() < ends, json.dumps(processes_of(""))
        time.sleep(0.02)

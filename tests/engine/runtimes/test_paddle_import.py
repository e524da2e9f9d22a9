"""What Paddle does to a process when it is imported.

It takes signals for itself, that by which platforms stop services too; it writes into the home folder and changes the
environment; and it computes as the environment says. Here it must not.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
# The file of the engine imports Paddle on its own, in the thread that is named; only the main one may set signals.
PROGRAM = """
import os, signal, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: print("stopped in order"))
from engine.runtimes.paddle import _import_paddle
if sys.argv[1] == "main":
    _import_paddle()
else:
    thread = threading.Thread(target=_import_paddle)
    thread.start()
    thread.join()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.05)
print("goes on")
"""


@pytest.mark.parametrize("thread", ["main", pytest.param("another", marks=pytest.mark.long)])
def test_sigterm_stays_with_whoever_set_it(thread: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, thread], cwd=ROOT, capture_output=True, check=False, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[-3:] == ["stopped in order", "goes on", ""]


# At its end it crashes. The number is oneDNN's own account of what it may round FP32 numbers to: 0 is nothing, 1 BF16.
CRASHING = """
import ctypes, faulthandler, json, os, sys
faulthandler.enable()
from engine.runtimes.paddle import _import_paddle
flags = _import_paddle().get_flags(["FLAGS_use_mkldnn"])
(onednn,) = {line.split()[-1] for line in open("/proc/self/maps") if "libdnnl" in line}
mode = ctypes.c_int(-1)
ctypes.CDLL(onednn).dnnl_get_default_fpmath_mode(ctypes.byref(mode))
shown = {name: os.environ.get(name) for name in ("HOME", "OMP_NUM_THREADS", "FLAGS_use_mkldnn")}
print(json.dumps({"mode": mode.value, "flags": flags, "environment": shown}), flush=True)
ctypes.string_at(0)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def crashed(home: Path) -> subprocess.CompletedProcess[str]:
    settings = {"OMP_NUM_THREADS": "4", "DNNL_DEFAULT_FPMATH_MODE": "BF16", "FLAGS_use_mkldnn": "1"}
    environment = {**os.environ, "HOME": str(home), **settings}
    return subprocess.run(
        [sys.executable, "-c", CRASHING],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


def told(crashed: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(crashed.stdout)


def test_a_crash_is_reported_as_python_reports_it(crashed: subprocess.CompletedProcess[str]) -> None:
    """Paddle's own report goes to a file descriptor that whoever collects output may hold, and names no line."""
    assert crashed.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in crashed.stderr
    assert 'File "<string>", line 11 in <module>' in crashed.stderr


def test_the_home_folder_stays_as_it_was(home: Path, crashed: subprocess.CompletedProcess[str]) -> None:
    assert told(crashed)["environment"]["HOME"] == str(home)
    assert list(home.iterdir()) == []


def test_the_number_of_threads_in_the_environment_is_neither_changed_nor_warned_of(
    crashed: subprocess.CompletedProcess[str],
) -> None:
    assert told(crashed)["environment"]["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in crashed.stderr


def test_the_environment_does_not_let_onednn_round_fp32(crashed: subprocess.CompletedProcess[str]) -> None:
    """It counts for the process, also where the user's own code has set it."""
    assert told(crashed)["mode"] == 0


def test_the_environment_does_not_turn_onednn_on(crashed: subprocess.CompletedProcess[str]) -> None:
    """By this flag, which Paddle's pages advise, it uses oneDNN although its configuration says no."""
    assert told(crashed)["flags"] == {"FLAGS_use_mkldnn": False}
    assert told(crashed)["environment"]["FLAGS_use_mkldnn"] == "1"
    assert "FLAGS_use_mkldnn of the environment has no effect" in crashed.stderr

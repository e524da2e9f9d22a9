"""Paddle takes the signal by which platforms stop services for itself when it is imported: here it must not."""

import subprocess
import sys
from pathlib import Path

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

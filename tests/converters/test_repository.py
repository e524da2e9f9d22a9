"""The cache of conversions, with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from converters.repository import RefusedError, Repository
from engine import ConversionError

MAKER = """
import os, sys, time
from pathlib import Path
from converters.repository import Repository

root, started, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make(destination):
    destination.write_bytes(b"half")
    (started / str(os.getpid())).touch()
    time.sleep(pause)
    destination.write_bytes(b"model")

print(Repository(root).fetch("key", make).read_text(), flush=True)
"""


def start_maker(root: Path, started: Path, pause_s: float) -> subprocess.Popen[str]:
    started.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(root), str(started), str(pause_s)], stdout=subprocess.PIPE, text=True
    )


def wait_for_first(started: Path) -> None:
    deadline = time.monotonic() + 30
    while not any(started.iterdir()):
        assert time.monotonic() < deadline, "no maker started"
        time.sleep(0.01)


def write_model(destination: Path) -> None:
    destination.write_bytes(b"model")


def never(_destination: Path) -> NoReturn:
    raise AssertionError("made again")


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_made_once_then_found(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "new" / "cache")
    entry = repository.fetch("key", write_model)
    assert entry.read_bytes() == b"model"
    assert repository.fetch("key", never) == entry
    assert files_below(repository.root) == ["key", "key/lock", "key/model.onnx"]
    assert repository.fetch("other", write_model) != entry


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    started = tmp_path / "started"
    makers = [start_maker(tmp_path / "cache", started, 0.5) for _ in range(2)]
    for maker in makers:
        said, _ = maker.communicate(timeout=60)
        assert (maker.returncode, said) == (0, "model\n")
    assert len(list(started.iterdir())) == 1


def test_threads_make_it_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(destination: Path) -> None:
        made.append(destination)
        time.sleep(0.05)
        write_model(destination)

    threads = [threading.Thread(target=Repository(tmp_path).fetch, args=("key", make)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_killed_maker_leaves_no_entry_and_no_rubbish(tmp_path: Path) -> None:
    root, started = tmp_path / "cache", tmp_path / "started"
    maker = start_maker(root, started, 60)
    wait_for_first(started)
    os.kill(maker.pid, signal.SIGKILL)
    maker.communicate(timeout=60)
    assert maker.returncode == -signal.SIGKILL
    assert not (root / "key" / "model.onnx").exists()
    assert Repository(root).fetch("key", write_model).read_bytes() == b"model"
    assert files_below(root) == ["key", "key/lock", "key/model.onnx"]


def test_waiting_process_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    root, started = tmp_path / "cache", tmp_path / "started"
    first = start_maker(root, started, 60)
    wait_for_first(started)
    second = start_maker(root, started, 0)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    said, _ = second.communicate(timeout=60)
    assert (second.returncode, said) == (0, "model\n")


def test_failure_passes_through_and_is_tried_again(tmp_path: Path) -> None:
    def fail(destination: Path) -> None:
        destination.write_bytes(b"half")
        raise ConversionError("for now")

    repository = Repository(tmp_path)
    with pytest.raises(ConversionError, match="for now"):
        repository.fetch("key", fail)
    assert files_below(tmp_path) == ["key", "key/lock"]
    assert repository.fetch("key", write_model).read_bytes() == b"model"


def test_refusal_is_remembered(tmp_path: Path) -> None:
    def refuse(destination: Path) -> None:
        destination.write_bytes(b"half")
        raise RefusedError("operator of the future: ∞")

    repository = Repository(tmp_path)
    for make in (refuse, never):
        with pytest.raises(RefusedError, match="operator of the future: ∞"):
            repository.fetch("key", make)
    assert not (tmp_path / "key" / "model.onnx").exists()
    assert repository.fetch("other", write_model).is_file()


def test_maker_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot be stored"):
        Repository(tmp_path).fetch("key", lambda _: None)
    assert files_below(tmp_path) == ["key", "key/lock"]


def test_unwritable_root(tmp_path: Path) -> None:
    # The tests may run as root, whom rights do not stop: a file stands where the folder should be.
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match=r"file.*cannot be written to.*--cache-dir"):
        Repository(tmp_path / "file").fetch("key", never)
    (tmp_path / "cache" / "key" / "lock").mkdir(parents=True)
    with pytest.raises(ConversionError, match=r"cache.*cannot be written to.*--cache-dir"):
        Repository(tmp_path / "cache").fetch("key", never)

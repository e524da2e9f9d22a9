"""The cache of conversions, with real processes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from converters.repository import RefusedError, Repository, entry_digest
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

print(Repository(root).fetch("key", make, lambda path: path).read_text(), flush=True)
"""


def start_maker(root: Path, started: Path, pause_s: float) -> subprocess.Popen[str]:
    started.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(root), str(started), str(pause_s)], stdout=subprocess.PIPE, text=True
    )


def wait_for_first(started: Path) -> None:
    deadline = time.monotonic() + 120
    while not any(started.iterdir()):
        assert time.monotonic() < deadline, "no maker started"
        time.sleep(0.01)


def write_model(destination: Path) -> None:
    destination.write_bytes(b"model")


def whole(entry: Path) -> Path:
    return entry


def never(_destination: Path) -> NoReturn:
    raise AssertionError("made again")


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_made_once_then_found(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "new" / "cache")
    entry = repository.fetch("key", write_model, whole)
    assert entry.read_bytes() == b"model"
    assert repository.fetch("key", never, whole) == entry
    assert files_below(repository.root) == ["key", "key/lock", "key/model.onnx"]
    assert repository.fetch("other", write_model, whole) != entry


def read_if_whole(entry: Path) -> str | None:
    content, certificate = entry.read_bytes(), entry.with_name("parity.json")
    return content.decode() if certificate.is_file() and certificate.read_bytes() == content else None


@pytest.mark.parametrize("name", ["model.onnx", "parity.json"])
def test_what_is_damaged_is_made_again(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make(destination: Path) -> None:
        write_model(destination)
        write_model(destination.with_name("parity.json"))

    repository = Repository(tmp_path)
    assert repository.fetch("key", make, read_if_whole) == "model"
    (tmp_path / "key" / name).write_bytes(b"other")
    (tmp_path / "key" / "old.json").touch()
    assert repository.fetch("key", make, read_if_whole) == "model"
    assert "damaged, so the model is made again" in caplog.text
    assert repository.fetch("key", never, read_if_whole) == "model"
    assert files_below(tmp_path) == ["key", "key/lock", "key/model.onnx", "key/parity.json"]


def test_what_cannot_be_read_when_it_is_new_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="damaged just after it was made"):
        Repository(tmp_path).fetch("key", write_model, read_if_whole)


def test_everything_that_belongs_to_an_entry_reaches_the_disk_before_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronized: set[str] = set()

    def fsync(descriptor: int) -> None:
        synchronized.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def make(destination: Path) -> None:
        write_model(destination)
        write_model(destination.with_name("parity.json"))

    monkeypatch.setattr("converters.repository.os.fsync", fsync)
    Repository(tmp_path).fetch("key", make, whole)
    assert synchronized == {"model.onnx", "parity.json"}


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("converters.repository.file_digest", counted)
    repository = Repository(tmp_path)
    for _ in range(3):
        assert repository.fetch("key", write_model, entry_digest) == hashlib.sha256(b"model").hexdigest()
    assert len(hashed) == 1, "use is noted elsewhere"
    entry = tmp_path / "key" / "model.onnx"
    status = entry.stat()
    entry.write_bytes(b"lemon")
    os.utime(entry, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert entry_digest(entry) == hashlib.sha256(b"lemon").hexdigest()
    for damaged in ("", "[", "[1]", "[[], 2]", "{}"):
        entry.with_name("digest.json").write_text(damaged)
        assert entry_digest(entry) == hashlib.sha256(b"lemon").hexdigest()


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

    threads = [threading.Thread(target=Repository(tmp_path).fetch, args=("key", make, whole)) for _ in range(6)]
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
    assert Repository(root).fetch("key", write_model, whole).read_bytes() == b"model"
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
        repository.fetch("key", fail, whole)
    assert files_below(tmp_path) == ["key", "key/lock"]
    assert repository.fetch("key", write_model, whole).read_bytes() == b"model"


def test_refusal_is_remembered(tmp_path: Path) -> None:
    def refuse(destination: Path) -> None:
        destination.write_bytes(b"half")
        raise RefusedError("operator of the future: ∞", {"tried": [1, "two"]})

    repository = Repository(tmp_path)
    for make in (refuse, never):
        with pytest.raises(RefusedError, match="operator of the future: ∞") as refused:
            repository.fetch("key", make, whole)
        assert refused.value.details == {"tried": [1, "two"]}
    assert not (tmp_path / "key" / "model.onnx").exists()
    assert repository.fetch("other", write_model, whole).is_file()


def test_maker_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot be stored"):
        Repository(tmp_path).fetch("key", lambda _: None, whole)
    assert files_below(tmp_path) == ["key", "key/lock"]


def test_unwritable_root(tmp_path: Path) -> None:
    # The tests may run as root, whom rights do not stop: a file stands where the folder should be.
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match=r"file.*cannot be written to.*cache"):
        Repository(tmp_path / "file").fetch("key", never, whole)
    (tmp_path / "cache" / "key" / "lock").mkdir(parents=True)
    with pytest.raises(ConversionError, match=r"cache.*cannot be written to.*cache"):
        Repository(tmp_path / "cache").fetch("key", never, whole)


def write_megabyte(destination: Path) -> None:
    destination.write_bytes(bytes(1 << 20))


def age(entry: Path, hours: float) -> None:
    """Make believe that the entry was last used so long ago."""
    then = time.time() - 3600 * hours
    for path in entry.parent.iterdir():
        os.utime(path, (then, then))


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    repository = Repository(tmp_path, max_bytes=3 << 20)
    entries = {name: repository.fetch(name, write_megabyte, whole) for name in ("a", "b", "c")}
    for hours, entry in zip((5, 4, 3), entries.values(), strict=True):
        age(entry, hours)
    assert repository.fetch("a", never, whole) == entries["a"]  # used now, so b is the oldest
    repository.fetch("d", write_megabyte, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_what_was_just_used_stays_whatever_the_bound(tmp_path: Path) -> None:
    repository = Repository(tmp_path, max_bytes=1)
    entries = [repository.fetch(name, write_megabyte, whole) for name in ("a", "b")]
    assert all(entry.is_file() for entry in entries)


def test_full_disk(tmp_path: Path) -> None:
    def fill(_destination: Path) -> NoReturn:
        raise OSError(28, "No space left on device")

    with pytest.raises(ConversionError, match=r"cannot be stored.*No space left"):
        Repository(tmp_path).fetch("key", fill, whole)
    assert files_below(tmp_path) == ["key", "key/lock"]


REMOVER = """
import sys
from pathlib import Path
from converters.repository import Repository

# Every entry is past its time at once, so that each process removes what the others make and want.
repository = Repository(Path(sys.argv[1]), max_bytes=2 << 20, kept_s=-1)
for turn in range(60):
    key = f"key-{turn * int(sys.argv[2]) % 5}"
    repository.fetch(key, lambda path: path.write_bytes(key.encode() * (1 << 18)), lambda path: path)
"""


def test_makers_and_removers_do_not_trip_over_each_other(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen([sys.executable, "-c", REMOVER, str(tmp_path), str(step)], stderr=subprocess.PIPE, text=True)
        for step in (1, 2, 3)
    ]
    for maker in makers:
        _, said = maker.communicate(timeout=120)
        assert maker.returncode == 0, said
    for entry in tmp_path.glob("*/model.onnx"):
        assert entry.read_bytes() == entry.parent.name.encode() * (1 << 18)


KILLED = """
import sys
from pathlib import Path
from converters.repository import Repository

repository = Repository(Path(sys.argv[1]), max_bytes=3 << 16, kept_s=-1)
print("started", flush=True)
for turn in range(10_000):
    key = f"key-{turn % 7}"
    def make(path):
        path.with_name("parity.json").write_text(key)
        path.write_bytes(key.encode() * (1 << 13))
    repository.fetch(key, make, lambda path: path)
"""


@pytest.mark.long
def test_killed_at_any_moment_leaves_whole_entries_or_none(tmp_path: Path) -> None:
    moments = random.Random(5)  # noqa: S311
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        child.communicate(timeout=60)
        for entry in tmp_path.glob("*/model.onnx"):
            key = entry.parent.name
            assert entry.read_bytes() == key.encode() * (1 << 13)
            assert entry.with_name("parity.json").read_text() == key
    assert Repository(tmp_path).fetch("key-0", write_model, whole).is_file()


def test_only_entries_of_the_cache_are_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "onnx", tmp_path / "elsewhere"
    thesis = elsewhere / "thesis.txt"
    elsewhere.mkdir()
    thesis.write_text("years of work")
    (elsewhere / "lock").touch()
    # A folder of the user's own models that a cache was pointed at.
    (root / "resnet").mkdir(parents=True)
    write_megabyte(root / "resnet" / "model.onnx")
    age(root / "resnet" / "model.onnx", 9)
    (root / "linked").symlink_to(elsewhere)
    (root / "my notes").mkdir()
    repository = Repository(root, max_bytes=1)
    old = repository.fetch("old", write_megabyte, whole)
    age(old, 5)
    repository.fetch("new", write_model, whole)
    assert not old.exists(), "what the cache made goes"
    assert sorted(path.name for path in root.iterdir() if not path.name == "new") == ["linked", "my notes", "resnet"]
    assert (root / "resnet" / "model.onnx").is_file()
    with pytest.raises(ConversionError, match=r"it is a link.*linked"):
        repository.fetch("linked", write_model, whole)
    for name in ("lock", "refused.json"):
        entry = root / name.removesuffix(".json")
        entry.mkdir()
        (entry / name).symlink_to(thesis)
        with pytest.raises(ConversionError, match="link"):
            repository.fetch(entry.name, write_model, whole)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["lock", "thesis.txt"]
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("content", ["{}", "[1]", "[", '"x"', "[" * 100_000])
def test_a_refusal_that_was_edited_is_an_error_of_its_own(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "refused.json").write_text(content)
    with pytest.raises(ConversionError, match=r"refused\.json: does not say why") as caught:
        Repository(tmp_path).fetch("key", never, whole)
    assert not isinstance(caught.value, RefusedError)

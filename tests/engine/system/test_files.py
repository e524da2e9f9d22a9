"""Files that are whole or absent, scratch folders that are gone: also after `kill -9`, from another process's view."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.system.files import OwnFolder, atomic_file, remove_abandoned_parts, scratch_folder, write_atomically


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_a_file_is_replaced_and_has_the_rights_that_the_umask_leaves(
    tmp_path: Path, umask: Callable[[int], object], mask: int
) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    path.chmod(0o640)
    umask(mask)
    write_atomically(path, b"new")
    write_atomically(tmp_path / "sub" / "mask.png", b"new", within=tmp_path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "sub").stat().st_mode) == 0o777 & ~mask
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "sub"]


def test_of_a_link_the_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    (tmp_path / "mask.png").symlink_to("thesis.txt")
    os.link(tmp_path / "thesis.txt", tmp_path / "overlay.png")
    os.mkfifo(tmp_path / "cover.csv")
    for name in ("mask.png", "overlay.png", "cover.csv"):
        write_atomically(tmp_path / name, b"new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_no_file_takes_the_place_of_a_device(tmp_path: Path) -> None:
    """The superuser of a container could remove ``/dev/null`` so, which all programs use."""
    (tmp_path / "cover.csv").symlink_to("/dev/null")
    with pytest.raises(OSError, match="device") as caught:
        write_atomically(tmp_path / "cover.csv", b"new")
    assert caught.value.filename == str(tmp_path / "cover.csv")
    assert stat.S_ISCHR((tmp_path / "cover.csv").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["cover.csv"]


def test_a_link_between_the_folder_and_the_file_is_refused_by_name(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    (tmp_path / "named").symlink_to(out)
    with pytest.raises(OSError, match="link") as caught:
        write_atomically(out / "sub" / "deep" / "mask.png", b"x", within=out)
    assert caught.value.filename == str(out / "sub")
    write_atomically(tmp_path / "named" / "own" / "mask.png", b"x", within=tmp_path / "named")
    assert (out / "own" / "mask.png").read_bytes() == b"x"
    with pytest.raises((OSError, ValueError)):
        write_atomically(out / ".." / "mask.png", b"x", within=out)
    assert list(elsewhere.iterdir()) == []


def test_a_link_that_is_put_in_the_place_of_the_folder_meanwhile_changes_nothing(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    with atomic_file(out / "mask.png") as file:
        file.write(b"x")
        out.rename(tmp_path / "moved")
        out.symlink_to(elsewhere)
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["mask.png"]
    assert list(elsewhere.iterdir()) == []


def test_a_folder_of_ones_own_is_never_a_link_or_anothers(tmp_path: Path, umask: Callable[[int], object]) -> None:
    umask(0)
    (tmp_path / "linked").symlink_to(tmp_path)
    with pytest.raises(OSError, match="link"):
        OwnFolder(tmp_path / "linked")
    (tmp_path / "open").mkdir()
    (tmp_path / "thesis.txt").write_text("x")
    os.link(tmp_path / "thesis.txt", tmp_path / "open" / "state")
    (tmp_path / "open" / "lock").symlink_to(tmp_path / "thesis.txt")
    os.mkfifo(tmp_path / "open" / "pipe")
    with OwnFolder(tmp_path / "open") as folder:
        assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700
        for name, said in (("state", "hard link"), ("lock", "link"), ("pipe", "regular")):
            with pytest.raises(OSError, match=said) as caught:
                folder.open(name)
            assert caught.value.filename == str(tmp_path / "open" / name)
            folder.remove(name)
        os.close(folder.open("state"))
    assert [path.name for path in (tmp_path / "open").iterdir()] == ["state"]
    assert (tmp_path / "thesis.txt").read_text() == "x"
    if os.geteuid() == 0:
        os.chown(tmp_path / "open", 12345, -1)
        with pytest.raises(PermissionError, match="another user"):
            OwnFolder(tmp_path / "open")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert str(caught.value) == f"[Errno 28] No space left on device: '{path}'"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("🐟" * 62 + ".png")
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


HOLDER = """
import sys, time
from pathlib import Path
from engine.system.files import atomic_file, scratch_folder
with scratch_folder("test", Path(sys.argv[1])) as folder, atomic_file(Path(sys.argv[1], "mask.png")) as file:
    file.write(b"half")
    file.flush()
    (folder / "unpacked").write_bytes(b"x")
    print("holding", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_held_is_removed_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout as said:
        assert said.readline() == b"holding\n"
    held = sorted(tmp_path.iterdir())
    assert [path.suffix for path in held] == [".part", ""]
    remove_abandoned_parts(tmp_path)
    with scratch_folder("other", tmp_path):
        pass
    assert sorted(tmp_path.iterdir()) == held
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert sorted(tmp_path.iterdir()) == held
    remove_abandoned_parts(tmp_path)
    with scratch_folder("other", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder.parent]
    assert list(tmp_path.iterdir()) == []


KILLED_AT_EVERY_STEP = """
import itertools, os, signal, sys
from pathlib import Path
from engine.system.files import scratch_folder

root = Path(sys.argv[1])
for last in itertools.count(1):
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)
        sys.addaudithook(lambda *_: os.kill(os.getpid(), signal.SIGKILL) if next(steps) == last else None)
        with scratch_folder("test", root) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "a").write_bytes(b"x")
            (folder / "b").write_bytes(b"x")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with scratch_folder("other", root):
        pass
    left = [str(path.relative_to(root)) for path in root.rglob("*")]
    print(last, os.waitstatus_to_exitcode(status), left)
    if status == 0 or left:
        break
"""


def test_a_scratch_folder_is_removed_whenever_its_process_was_killed(tmp_path: Path) -> None:
    """Killed before each thing that Python asks of the operating system, until it came to the end."""
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path)]
    *killed, finished = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert len(killed) > 15
    assert [line for line in killed if not line.endswith("-9 []")] == []
    assert finished.endswith(" 0 []")


def test_what_only_looks_like_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "pseg-results").mkdir()
    (tmp_path / "pseg-results" / "mask.png").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".pseg-in-use").touch()
    (tmp_path / "pseg-linked").symlink_to(elsewhere)
    (tmp_path / "pseg-bundle-abcdefgh").symlink_to(elsewhere)
    (tmp_path / ".pseg-linked12.part").symlink_to(elsewhere / ".pseg-in-use")
    os.mkfifo(tmp_path / ".pseg-pipepipe.part")
    (tmp_path / ".pseg-my notes.part").touch()
    (tmp_path / "pseg.part").touch()
    # of the right name, and not as this product makes them: open to others, with a pipe in the place of the lock
    (tmp_path / "pseg-bundle-a1b2c3d4").mkdir(0o755)
    (tmp_path / "pseg-bundle-a1b2c3d4" / ".pseg-in-use").touch()
    (tmp_path / "pseg-bundle-pipepipe").mkdir(0o700)
    os.mkfifo(tmp_path / "pseg-bundle-pipepipe" / ".pseg-in-use")
    before = sorted(path.name for path in tmp_path.iterdir())
    remove_abandoned_parts(tmp_path)
    with scratch_folder("other", tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (elsewhere / ".pseg-in-use").is_file()
    assert (tmp_path / "pseg-results" / "mask.png").is_file()


def test_writers_are_never_robbed_by_those_who_clean(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for step in range(40):
            with atomic_file(tmp_path / f"{number}") as file:
                file.write(b"%d" % step)

    def clean(_: int) -> None:
        for _ in range(300):
            remove_abandoned_parts(tmp_path)

    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(write, number) for number in range(4)]
        done += [threads.submit(clean, number) for number in range(4)]
        for each in done:
            each.result()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {str(n): b"39" for n in range(4)}


def test_scratch_folders_are_never_taken_from_those_who_use_them(tmp_path: Path) -> None:
    def use(number: int) -> None:
        for _ in range(40):
            with scratch_folder("use", tmp_path) as folder:
                (folder / "x").write_bytes(b"%d" % number)
                assert (folder / "x").read_bytes() == b"%d" % number

    with ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(use, number) for number in range(8)]:
            each.result()
    assert list(tmp_path.iterdir()) == []

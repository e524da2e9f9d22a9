"""Files that are whole or absent, scratch folders that are gone: also after `kill -9`, from another process's view."""

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.files import atomic_file, remove_abandoned_parts, scratch_folder, write_atomically


def test_a_file_is_replaced_and_can_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("🐟" * 62 + ".png")
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


HOLDER = """
import sys, time
from pathlib import Path
from engine.files import atomic_file, scratch_folder
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


def test_what_only_looks_like_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "pseg-results").mkdir()
    (tmp_path / "pseg-results" / "mask.png").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".pseg-in-use").touch()
    (tmp_path / "pseg-linked").symlink_to(elsewhere)
    (tmp_path / ".pseg-linked.part").symlink_to(elsewhere / ".pseg-in-use")
    (tmp_path / "pseg.part").touch()
    remove_abandoned_parts(tmp_path)
    with scratch_folder("other", tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".pseg-linked.part",
        "elsewhere",
        "pseg-linked",
        "pseg-results",
        "pseg.part",
    ]
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

"""Limits that a child sets on itself."""

import resource
import subprocess
import sys
from pathlib import Path

REPORT = """
import resource, sys
from engine.system.confinement import confine_process
confine_process({})
try:
    bytes(256 << 20)
    print("allocated")
except MemoryError:
    print("MemoryError")
try:
    with open(sys.argv[1], "wb") as file:
        file.truncate(1 << 30)
    print("written")
except OSError as error:
    print(type(error).__name__)
print(resource.getrlimit(resource.RLIMIT_CORE))
print(open("/proc/self/oom_score_adj").read().strip())
"""


def report(memory_bytes: int | None, path: Path) -> list[str]:
    command = [sys.executable, "-c", REPORT.format(memory_bytes), str(path)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()


def test_memory_and_files_are_limited(tmp_path: Path) -> None:
    assert report(128 << 20, tmp_path / "file") == ["MemoryError", "OSError", "(0, 0)", "1000"]


def test_without_a_limit_only_dumps_are_forbidden(tmp_path: Path) -> None:
    assert report(None, tmp_path / "file") == ["allocated", "written", "(0, 0)", "1000"]


def test_this_process_was_not_limited() -> None:
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


def test_a_lower_limit_is_kept(tmp_path: Path) -> None:
    lowered = "resource.setrlimit(resource.RLIMIT_DATA, (128 << 20, 128 << 20))\nconfine_process"
    script = REPORT.replace("confine_process(", f"{lowered}(").format(1 << 40)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, check=True)
    assert done.stdout.splitlines()[0] == b"MemoryError"

"""What memory there is, by made-up control groups; freed memory goes back to the system, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.system.machine.memory import available_memory_bytes, memory_limit_bytes, peak_memory, process_memory_bytes
from tests.engine.system.test_cores import lay_out

SCRIPT = """
from pathlib import Path
from threading import Thread
import numpy as np
from engine.system.machine.memory import return_freed_memory

def resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

def use(sizes):
    kept = []
    for size in sizes:
        kept.append(np.ones(size, np.uint8))
        small = [bytes(5000) for _ in range(20)]
    kept.clear()

return_freed_memory()
before = resident_mib()
sizes = np.random.default_rng(0).integers(200_000, 900_000, 100)
threads = [Thread(target=use, args=(sizes,)) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident_mib() - before)
"""


def test_large_blocks_of_several_threads_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    # Up to 330 MiB were in use at once.
    assert float(done.stdout) < 20


MIB = 1 << 20
UNLIMITED_V1 = 0x7FFF_FFFF_FFFF_F000
LIMITS: list[tuple[str, str, dict[str, str], int | None]] = [
    ("v2", "0::/a/b\n", {"a/b/memory.max": f"{64 * MIB}\n", "a/memory.max": "max\n"}, 64 * MIB),
    ("v2 parent is tighter", "0::/a/b\n", {"a/b/memory.max": f"{64 * MIB}", "a/memory.max": f"{32 * MIB}"}, 32 * MIB),
    ("v2 unlimited", "0::/a\n", {"a/memory.max": "max\n"}, None),
    ("v2 sibling does not count", "0::/a\n", {"b/memory.max": f"{MIB}"}, None),
    ("v1", "4:memory:/d\n", {"memory/d/memory.limit_in_bytes": f"{48 * MIB}\n"}, 48 * MIB),
    ("v1 unlimited", "4:memory:/\n", {"memory/memory.limit_in_bytes": f"{UNLIMITED_V1}\n"}, None),
    ("v1 of the host, mounted at the top", "4:memory:/d/f\n", {"memory/memory.limit_in_bytes": f"{MIB}"}, MIB),
    ("other controllers", "4:cpuset:/d\n", {"memory/d/memory.limit_in_bytes": f"{MIB}"}, None),
    (
        "hybrid",
        "4:memory:/d\n0::/s\n",
        {"memory/d/memory.limit_in_bytes": f"{9 * MIB}", "unified/s/memory.max": f"{7 * MIB}"},
        7 * MIB,
    ),
]


def machine_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:"))


@pytest.mark.parametrize(("own", "files", "limit"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
def test_the_tightest_limit_wins(own: str, files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    root, groups = lay_out(tmp_path, own, files)
    assert memory_limit_bytes(root=root, own=groups) == (machine_bytes() if limit is None else limit)


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(root=tmp_path, own=tmp_path / "absent") == machine_bytes()


def test_this_process_is_within_its_limit() -> None:
    assert 0 < memory_limit_bytes() <= machine_bytes()


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "3000000", "memory.current": "1000000"}, 2_000_000),
        (
            "0::/a\n",
            {"a/memory.max": "max", "memory.max": "9000", "a/memory.current": "1", "memory.current": "1"},
            8999,
        ),
        (
            "0::/\n",
            {"memory.max": "9000", "memory.current": "8000", "memory.stat": "anon 3\ninactive_file 5000\n"},
            6000,
        ),
        (
            "4:memory:/d\n",
            {"memory/d/memory.limit_in_bytes": "7000", "memory/d/memory.usage_in_bytes": "6000"},
            1000,
        ),
        ("0::/\n", {"memory.max": "10", "memory.current": "20"}, 0),
    ],
)
def test_a_control_group_limits_the_memory(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert available_memory_bytes(root=tmp_path / "root", own=tmp_path / "own") == expected


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    free = available_memory_bytes(root=tmp_path, own=tmp_path / "own")
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < free < int(line.split()[1]) * 1024


def test_the_peak_of_a_block_is_seen_after_the_memory_was_freed() -> None:
    before = process_memory_bytes("VmRSS")
    with peak_memory() as peak:
        for _ in range(50):
            np.ones(64 << 20, np.uint8)
        assert peak() - before > 30 << 20

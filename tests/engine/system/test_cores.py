"""Cores by affinity and by the quotas of made-up control groups."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.system.machine.cores import quota_cores, quota_of_v1, quota_of_v2, thread_count, usable_cores


def lay_out(folder: Path, own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """Write `/sys/fs/cgroup` and `/proc/self/cgroup`."""
    root, groups = folder / "cgroup", folder / "own"
    groups.write_text(own)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root, groups


V1 = "cpu.cfs_quota_us", "cpu.cfs_period_us"
CASES: list[tuple[str, str, dict[str, str], float | None]] = [
    ("v2", "0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    ("v2 unlimited", "0::/a\n", {"a/cpu.max": "max 100000\n", "cpu.max": "max 100000\n"}, None),
    ("v2 parent is tighter", "0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 100000"}, 0.5),
    ("v2 own is tighter", "0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000"}, 1.0),
    ("v2 parent only", "0::/a/b/c\n", {"a/cpu.max": "200000 100000"}, 2.0),
    ("v2 namespace root", "0::/\n", {"cpu.max": "300000 100000"}, 3.0),
    ("v2 sibling does not count", "0::/a\n", {"b/cpu.max": "100000 100000"}, None),
    ("v2 no files", "0::/a\n", {}, None),
    ("v1", "3:cpu,cpuacct:/d/x\n", {f"cpu,cpuacct/d/x/{V1[0]}": "250000", f"cpu,cpuacct/d/x/{V1[1]}": "100000"}, 2.5),
    ("v1 linked name", "3:cpuacct,cpu:/d\n", {f"cpu/d/{V1[0]}": "50000", f"cpu/d/{V1[1]}": "100000"}, 0.5),
    ("v1 unlimited", "3:cpu:/d\n", {f"cpu/d/{V1[0]}": "-1\n", f"cpu/d/{V1[1]}": "100000\n"}, None),
    (
        "v1 parent is tighter",
        "3:cpu:/d/x\n",
        {
            f"cpu/d/x/{V1[0]}": "-1",
            f"cpu/d/x/{V1[1]}": "100000",
            f"cpu/d/{V1[0]}": "100000",
            f"cpu/d/{V1[1]}": "100000",
        },
        1.0,
    ),
    ("v1 of the host, mounted at the top", "3:cpu:/docker/f\n", {f"cpu/{V1[0]}": "7", f"cpu/{V1[1]}": "14"}, 0.5),
    ("v1 without period", "3:cpu:/d\n", {f"cpu/d/{V1[0]}": "50000"}, None),
    ("v1 unreadable number", "3:cpu:/d\n", {f"cpu/d/{V1[0]}": "many", f"cpu/d/{V1[1]}": "100000"}, None),
    ("other controllers", "4:cpuset:/d\n9:name=systemd:/d\n", {"cpu.max": "1 1"}, None),
    (
        "hybrid, v2 under unified",
        "3:cpu:/d\n0::/s\n",
        {f"cpu/d/{V1[0]}": "300000", f"cpu/d/{V1[1]}": "100000", "unified/s/cpu.max": "200000 100000"},
        2.0,
    ),
    ("hybrid, v1 is tighter", "3:cpu:/\n0::/\n", {f"cpu/{V1[0]}": "5", f"cpu/{V1[1]}": "10", "cpu.max": "9 9"}, 0.5),
]


@pytest.mark.parametrize(("own", "files", "cores"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_tightest_quota_wins(own: str, files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    root, groups = lay_out(tmp_path, own, files)
    assert quota_cores(root=root, own=groups) == cores


def test_no_control_groups_limit_nothing(tmp_path: Path) -> None:
    assert quota_cores(root=tmp_path, own=tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"), [(8, 150, 2), (1, 400, 1), (8, 5, 1), (3, 300, 3), (4, 101, 2)]
)
def test_affinity_is_cut_to_the_quota_rounded_up(
    affinity: int, quota: int, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sched_getaffinity(pid: int) -> set[int]:
        assert pid == 0
        return set(range(affinity))

    monkeypatch.setattr(os, "sched_getaffinity", sched_getaffinity)
    root, groups = lay_out(tmp_path, "0::/a\n", {"a/cpu.max": f"{quota} 100"})
    assert usable_cores(root=root, own=groups) == cores
    assert usable_cores(root=root, own=tmp_path / "absent") == affinity


def test_this_machine_has_a_core() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_quota_texts() -> None:
    assert quota_of_v2("200000") == 2.0
    assert quota_of_v1(None, 100_000) is None
    assert quota_of_v1(0, 100_000) is None


@pytest.mark.parametrize(
    ("requested", "usable", "threads"), [(None, 4, 4), (10, 2, 2), (1, 8, 1), (8, 8, 8), (0, 4, 1)]
)
def test_threads_have_a_ceiling(requested: int | None, usable: int, threads: int) -> None:
    assert thread_count(requested, usable) == threads

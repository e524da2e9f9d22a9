"""How many cores this process may really use: its affinity and the quota of its control group."""

import math
import os
from pathlib import Path

from engine.system.machine.control_groups import CGROUP_ROOT, OWN_CGROUPS, group_folders, read_number


def quota_of_v2(cpu_max: str) -> float | None:
    """Read the cores of a `cpu.max` file: quota and period in microseconds, or `max` for no limit.

    >>> quota_of_v2("150000 100000")
    1.5
    >>> quota_of_v2("max 100000") is None
    True
    """
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdecimal():
        return None
    return int(quota) / int(period or 100_000)


def quota_of_v1(quota_us: int | None, period_us: int | None) -> float | None:
    """Read a version 1 quota in cores; `cpu.cfs_quota_us` is −1 or None without a limit.

    >>> quota_of_v1(50_000, 100_000)
    0.5
    >>> quota_of_v1(-1, 100_000) is None
    True
    """
    if quota_us is None or quota_us <= 0 or not period_us:
        return None
    return quota_us / period_us


def quota_cores(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> float | None:
    """Find the tightest CPU quota, in cores, of this process's control group and those above it, version 1 or 2."""
    quotas = [_quota_in(version, folder) for version, folder in group_folders("cpu", root=root, own=own)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_in(version: int, folder: Path) -> float | None:
    if version == 1:
        return quota_of_v1(read_number(folder / "cpu.cfs_quota_us"), read_number(folder / "cpu.cfs_period_us"))
    try:
        return quota_of_v2((folder / "cpu.max").read_text())
    except OSError:
        return None


def usable_cores(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Count the cores, at least 1, that this process may use: affinity, cut to the quota rounded up."""
    affinity = len(os.sched_getaffinity(0))
    quota = quota_cores(root=root, own=own)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def thread_count(requested: int | None, usable: int) -> int:
    """Cut a requested number of threads, or all, to what the process may use, at least 1.

    >>> thread_count(10, 2), thread_count(1, 2), thread_count(None, 2)
    (2, 1, 2)
    """
    return usable if requested is None else max(1, min(requested, usable))

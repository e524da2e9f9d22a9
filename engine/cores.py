"""How many cores this process may really use: its affinity and the quota of its control group."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def read_number(path: Path) -> int | None:
    """Read a file of a control group that holds a number.

    Args:
        path: the file.

    Returns:
        The number; None without such a file, or where it says something else, as `max`.
    """
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def quota_of_v2(cpu_max: str) -> float | None:
    """Read a version 2 quota.

    Args:
        cpu_max: the text of a `cpu.max` file: quota and period in microseconds, or `max` for none.

    Returns:
        Cores, or None without a limit.

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
    """Read a version 1 quota.

    Args:
        quota_us: `cpu.cfs_quota_us`; −1 or None without a limit.
        period_us: `cpu.cfs_period_us`.

    Returns:
        Cores, or None without a limit.

    >>> quota_of_v1(50_000, 100_000)
    0.5
    >>> quota_of_v1(-1, 100_000) is None
    True
    """
    if quota_us is None or quota_us <= 0 or not period_us:
        return None
    return quota_us / period_us


def _ancestors(folder: Path, top: Path) -> list[Path]:
    inside = [folder, *folder.parents]
    return [each for each in inside if each == top or top in each.parents]


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A control group of this process, or one above it.

    Attributes:
        folder: where its files are.
        version: 1 or 2.
    """

    folder: Path
    version: Literal[1, 2]


def control_groups(controller: str, *, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> list[ControlGroup]:
    """Find the control groups of this process and the groups above them.

    Args:
        controller: `cpu` or `memory`; of version 2 all groups are found.
        root: where the control groups are mounted.
        own: the list of groups that this process belongs to.

    Returns:
        The groups, whether or not their folders exist; none where the system has no such list.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    groups: list[ControlGroup] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        relative = group.lstrip("/")
        if not controllers:
            for mount in (root, root / "unified"):
                groups += [ControlGroup(folder, 2) for folder in _ancestors(mount / relative, mount)]
        elif controller in controllers.split(","):
            for mount in (root / controllers, root / controller):
                groups += [ControlGroup(folder, 1) for folder in _ancestors(mount / relative, mount)]
    return groups


def quota_cores(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> float | None:
    """Find the tightest CPU quota of this process's control group and the groups above it, version 1 or 2.

    Args:
        root: where the control groups are mounted.
        own: the list of groups that this process belongs to.

    Returns:
        Cores, or None where nothing limits the process.
    """
    quotas = [_quota_of(group) for group in control_groups("cpu", root=root, own=own)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(group: ControlGroup) -> float | None:
    if group.version == 1:
        return quota_of_v1(
            read_number(group.folder / "cpu.cfs_quota_us"), read_number(group.folder / "cpu.cfs_period_us")
        )
    try:
        return quota_of_v2((group.folder / "cpu.max").read_text())
    except OSError:
        return None


def usable_cores(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Count the cores that this process may use: affinity, cut to the quota rounded up.

    Args:
        root: where the control groups are mounted.
        own: the list of groups that this process belongs to.

    Returns:
        At least 1.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = quota_cores(root=root, own=own)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def thread_count(requested: int | None, usable: int) -> int:
    """Cut a requested number of threads to what the process may use.

    Args:
        requested: a ceiling, or None for all usable cores.
        usable: cores that the process may use.

    Returns:
        Threads, at least 1.

    >>> thread_count(10, 2), thread_count(1, 2), thread_count(None, 2)
    (2, 1, 2)
    """
    return usable if requested is None else max(1, min(requested, usable))

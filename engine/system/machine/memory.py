"""How much memory there is, how much this process holds, and how what it frees goes back to the system."""

import ctypes
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from engine.system.machine.control_groups import CGROUP_ROOT, OWN_CGROUPS, group_folders, read_number

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 128 << 10
_MEMORY = Path("/proc/meminfo")
_GROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_SAMPLE_S = 0.001


def return_freed_memory() -> None:
    """Tell the C library to map large blocks by themselves and to keep one heap for all threads.

    By default glibc raises the size from which it maps blocks as it goes, and keeps a heap per thread: freed images
    then lie about in the heaps of several threads and are not returned. For whoever owns the process, before it opens
    a model; without effect where the C library has no such settings.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_M_ARENA_MAX, 1)


def memory_limit_bytes(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Find how much memory this process may use before the kernel ends it.

    It is the machine's, or the tightest limit of the process's control group and the groups above it, version 1 or 2,
    if that is less. What others use of it is not deducted.
    """
    limits = [
        read_number(folder / _GROUP_FILES[version][0])
        for version, folder in group_folders("memory", root=root, own=own)
    ]
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine_bytes, *(limit for limit in limits if limit is not None)])


def available_memory_bytes(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Find out how much memory can still be had: the machine's, cut to what the control groups leave."""
    groups = list(group_folders("memory", root=root, own=own)) or [(2, root)]
    free = [_left(version, folder) for version, folder in groups]
    return max(0, min([kernel_bytes(_MEMORY, "MemAvailable"), *(each for each in free if each is not None)]))


def _left(version: int, folder: Path) -> int | None:
    limit_file, used_file, reclaimable = _GROUP_FILES[version]
    limit, used = read_number(folder / limit_file), read_number(folder / used_file)
    if limit is None or used is None:
        return None
    # Files that were read lately count as used, but make room when memory is asked for.
    return limit - used + _statistic(folder / "memory.stat", reclaimable)


def _statistic(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def process_memory_bytes(field: str, pid: int | None = None) -> int:
    """Read the memory of a process, this one without `pid`; 0 for one that is gone.

    The field is `VmRSS` for what is resident now, `VmHWM` for the most that ever was.
    """
    try:
        return kernel_bytes(Path("/proc") / (str(pid) if pid else "self") / "status", field)
    except (OSError, StopIteration):
        return 0


def kernel_bytes(path: Path, field: str) -> int:
    """Read an amount of memory from one of the kernel's lists."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


@contextmanager
def peak_memory() -> Generator[Callable[[], int]]:
    """Watch the memory of this process while a block runs, for the most bytes that were resident since it began.

    The kernel's own peak (`VmHWM`) is that of the whole life of the process, and is not touched.
    """
    peak = process_memory_bytes("VmRSS")
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_SAMPLE_S):
            peak = max(peak, process_memory_bytes("VmRSS"))

    watcher = threading.Thread(target=watch, name="peak-memory", daemon=True)
    watcher.start()
    try:
        yield lambda: max(peak, process_memory_bytes("VmRSS"))
    finally:
        ended.set()
        watcher.join()

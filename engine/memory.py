"""How much memory this process may use; freed memory goes back to the system."""

import ctypes
import os
from pathlib import Path

from engine.control_groups import CGROUP_ROOT, OWN_CGROUPS, group_folders, read_number

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 128 << 10
_LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}


def memory_limit_bytes(*, root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Find how much memory this process may use before the kernel ends it.

    Args:
        root: where the control groups are mounted.
        own: the list of groups that this process belongs to.

    Returns:
        Bytes: the machine's memory, or the tightest limit of the process's control group and the groups above it,
        version 1 or 2, if that is less. What others use of it is not deducted.
    """
    limits = [
        read_number(folder / _LIMIT_FILES[version]) for version, folder in group_folders("memory", root=root, own=own)
    ]
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine_bytes, *(limit for limit in limits if limit is not None)])


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

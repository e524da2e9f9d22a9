"""Limits that a process sets on itself before it touches what a stranger made."""

import contextlib
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from engine.system.machine.memory import process_memory_bytes

FILE_BYTES = 64 << 20
"""The most that a file of a child may have, where nothing else is said."""

_OUT_OF_MEMORY_SCORE = Path("/proc/self/oom_score_adj")


def confine_process(memory_bytes: int | None, file_bytes: int = FILE_BYTES) -> None:
    """Limit this process, for good: its memory, its files, its dumps.

    The limit counts what the process may write to (heap, anonymous mappings, thread stacks in use), so that an
    allocation beyond it fails in the library's own hands. The whole address space is not limited: CUDA, oneDNN and
    every thread's heap reserve far more of it than they ever touch. Where the machine has less memory than the limit,
    the kernel is asked to end this process before any other. A process that uses a GPU has no limit on memory, and none
    on its files.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # no Linux, or /proc is not ours
        _OUT_OF_MEMORY_SCORE.write_text("1000")
    if memory_bytes is not None:
        _lower(resource.RLIMIT_DATA, memory_bytes)
        _lower(resource.RLIMIT_FSIZE, file_bytes)


@contextmanager
def memory_limited(more_bytes: int) -> Generator[None]:
    """Limit what this process may allocate, beside what it has, for a while.

    An allocation beyond it fails in the library's own hands.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = process_memory_bytes("VmData") + more_bytes
    known = [each for each in (soft, hard, wanted) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _lower(kind: int, value: int) -> None:
    """Set a limit, unless whoever started this process set a lower one."""
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))

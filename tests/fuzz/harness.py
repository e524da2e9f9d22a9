"""What the fuzzing targets share: seeds in a folder that goes, files in memory, libFuzzer's own options."""

# atheris comes without types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import atheris

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - every name below it is made by tempfile
LIMITS = ("-timeout=20", "-rss_limit_mb=2048")


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where there is one."""
    return tempfile.TemporaryDirectory(prefix="pseg-fuzz-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)


def fuzz(try_one: Callable[[bytes], None], seeds: Sequence[bytes], *, most_bytes: int) -> None:
    """Run a target until `-runs=N` or `-max_total_time=S` of the command line; a crash ends with a status of its own.

    Args:
        try_one: takes bytes; what it raises is a crash.
        seeds: what is changed first.
        most_bytes: length of the longest input.
    """
    with scratch_folder() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"seed{number}").write_bytes(seed)
        # Files of inputs on the command line are tried once instead, as libFuzzer does.
        named = [each for each in sys.argv[1:] if not each.startswith("-")]
        inputs = named or [corpus]
        options = [each for each in sys.argv[1:] if each.startswith("-")]
        atheris.Setup([sys.argv[0], *LIMITS, f"-max_len={most_bytes}", *options, *inputs], try_one)
        atheris.Fuzz()

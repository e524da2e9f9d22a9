"""From the start of a process to the mask on disk."""

import os
import subprocess
import sys
import time
from pathlib import Path

ORIGINAL_WAY = Path(__file__).with_name("original_way.py")
PSEG = Path(sys.executable).with_name("pseg")


def seconds_until_written(command: list[str], mask: Path) -> float:
    """Run a command; the mask's own time tells when it was there, whatever the process does afterwards.

    Args:
        command: Writes the mask.
        mask: Removed before.

    Returns:
        Seconds.

    Raises:
        RuntimeError: The command fails.
    """
    mask.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started_ns = time.time_ns()
    done = subprocess.run(command, capture_output=True, check=False, env=environment)  # noqa: S603 - our own commands
    if done.returncode:
        raise RuntimeError(f"{command[:2]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return (mask.stat().st_mtime_ns - started_ns) / 1e9

"""From the start of a process to the mask on disk."""

import os
import subprocess
import sys
import time
from pathlib import Path

ORIGINAL_WAY = Path(__file__).with_name("original_way.py")
PSEG = Path(sys.executable).with_name("pseg")


def seconds_until_written(command: list[str], mask: Path) -> tuple[float, int]:
    """Run a command; the mask's own time tells when it was there, whatever the process does afterwards.

    Args:
        command: Writes the mask.
        mask: Removed before.

    Returns:
        Seconds, and the peak memory of the process in bytes.

    Raises:
        RuntimeError: The command fails.
    """
    mask.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started_ns = time.time_ns()
    with subprocess.Popen(  # noqa: S603 - our own commands
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:2]} failed: {said.decode(errors='replace')[-2000:]}")
    return (mask.stat().st_mtime_ns - started_ns) / 1e9, usage.ru_maxrss << 10

"""Freed memory goes back to the system; in a process of its own, since the setting is the process's."""

import subprocess
import sys

SCRIPT = """
from pathlib import Path
from threading import Thread
import numpy as np
from engine.memory import return_freed_memory

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

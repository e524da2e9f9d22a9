"""The service file of the GPU variant: the repository's own, which then describes a service with a GPU."""

import os
import runpy
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    os.environ["PSEG_SERVICE_DEVICE"] = "gpu"
    sys.path[0] = str(_ROOT)
    runpy.run_path(str(_ROOT / "service.py"), run_name="__main__")

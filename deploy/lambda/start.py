"""The service file of the variant for one picture per request: the repository's own, which then starts its server."""

import os
import runpy
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    os.environ["PSEG_SERVICE_TYPE"] = "lambda"
    sys.path[0] = str(_ROOT)
    runpy.run_path(str(_ROOT / "service.py"), run_name="__main__")

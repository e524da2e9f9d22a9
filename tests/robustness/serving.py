"""A process that serves: it opens one bundle after the other, as it is told on standard input.

For each it reports what came of it, the most memory that it held meanwhile and the most disk that the temporary folder
took. It must never die.
"""

import json
import sys
import threading
from pathlib import Path
from typing import Any

from engine import BundleError, EngineError, ModelLoadError, OneDnn, RuntimeRequest, open_bundle, open_predictor
from engine.options import Device, RuntimeName
from engine.runtimes import trial

WATCH_S = 0.005


def peak_memory_bytes() -> int:
    """The most memory that this process held since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    """Count the peak from now on."""
    Path("/proc/self/clear_refs").write_text("5")


class DiskWatch:
    """Sees, every few milliseconds, how many bytes the files of a folder take."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_bytes = 0

    def __enter__(self) -> "DiskWatch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            taken = 0
            for path in self._folder.rglob("*"):
                try:
                    taken += path.stat().st_blocks * 512
                except OSError:  # it went meanwhile
                    continue
            self.peak_bytes = max(self.peak_bytes, taken)


def opened(order: dict[str, Any]) -> dict[str, str]:
    """Open a bundle, and its model if a runtime is named."""
    try:
        with open_bundle(order["bundle"], temporary_folder=Path(order["temporary"])) as bundle:
            if order["runtime"] is None:
                return {"outcome": "opens", "message": ""}
            # Paddle's own kernels alone: with oneDNN there would be two trials of every damaged model.
            request = RuntimeRequest(runtime=RuntimeName(order["runtime"]), device=Device.CPU, onednn=OneDnn.OFF)
            with open_predictor(bundle, request, load_marks=Path(order["load_marks"])):
                return {"outcome": "loads", "message": ""}
    except (BundleError, ModelLoadError) as error:
        return {"outcome": type(error).__name__, "message": str(error)}
    except EngineError as error:
        return {"outcome": f"not expected: {type(error).__name__}", "message": str(error)}
    except BaseException as error:
        return {"outcome": f"escaped: {type(error).__name__}", "message": repr(error)[:1000]}


def serve() -> None:
    """Do what standard input asks for, a JSON line each."""
    for line in sys.stdin:
        order = json.loads(line)
        trial.ONNX_TIMEOUT_S = order["onnx_timeout_s"]
        forget_peak()
        before = peak_memory_bytes()
        with DiskWatch(Path(order["temporary"])) as disk:
            report: dict[str, Any] = dict(opened(order))
        report |= {"memory_bytes": peak_memory_bytes() - before, "disk_bytes": disk.peak_bytes}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    serve()

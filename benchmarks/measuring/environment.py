"""The machine and the software that figures come from."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from engine.system.libraries import installed_versions
from engine.system.machine.cores import quota_cores, usable_cores
from engine.system.machine.hardware import cpu_information, processor_flags, processor_model
from engine.system.machine.memory import kernel_bytes
from engine.system.machine.nvidia import first_gpu_name

LIBRARIES = (
    "numpy", "opencv-python-headless", "pillow", "rasterio", "onnxruntime", "onnxruntime-gpu", "openvino",
    "paddlepaddle", "paddlepaddle-gpu", "paddle2onnx", "tensorrt-cu12", "tensorrt-cu13",
)  # fmt: skip
_ROOT = Path(__file__).parents[2]
_PROCESSORS = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what was measured.

    `flags` are what the processor can do (`avx512_vnni` and so on), sorted; of the machine's cores this process may use
    `usable_cores`, and `quota_cores` by its control group. `libraries` are those that are installed; `commit` as of
    `commit_of`; `load_average` counts processes that wanted a core over the last minute before the measurements.
    """

    processor: str
    flags: tuple[str, ...]
    logical_cores: int
    usable_cores: int
    quota_cores: float | None
    memory_bytes: int
    gpu: str | None
    system: str
    python: str
    libraries: dict[str, str]
    commit: str | None
    load_average: float


def environment(*, commit: str | None = None) -> Environment:
    processor = cpu_information(_PROCESSORS.read_text(encoding="utf-8"))
    return Environment(
        processor=processor_model(processor),
        flags=processor_flags(processor),
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        quota_cores=quota_cores(),
        memory_bytes=kernel_bytes(_MEMORY, "MemTotal"),
        gpu=first_gpu_name(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        libraries=installed_versions(LIBRARIES),
        commit=commit or commit_of(_ROOT),
        load_average=os.getloadavg()[0],
    )


def commit_of(folder: Path) -> str | None:
    """Ask git for the commit of a folder, with `+changes` where files differ; None without git or a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30)  # noqa: S603
    return done.stdout.strip()

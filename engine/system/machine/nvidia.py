"""NVIDIA GPUs as the driver itself tells of them, and the libraries that a runtime needs beside the driver."""

import ctypes
import importlib.util
import logging
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Self

from engine.errors import OptionError, RuntimeUnavailableError

_log = logging.getLogger(__name__)
DRIVER_LIBRARY = "libcuda.so.1"
MANAGEMENT_LIBRARY = "libnvidia-ml.so.1"
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")

_PCI_DEVICES = Path("/sys/bus/pci/devices")
_PCI_VENDOR = "0x10de"

Load = Callable[[str], Any]
"""Opens a shared library by name or path; raises OSError."""

_MAJOR, _MINOR = 75, 76
"""Attributes of a device that make up its compute capability."""
_NO_DEVICE = 100
_ERRORS = {
    _NO_DEVICE: "no GPU is visible",
    34: "it is a stand-in for building, not a driver",
    803: "driver and kernel module differ in version: restart the machine",
    804: "this driver is too old for the CUDA that is installed",
    999: "the kernel module does not answer: restart the machine, or load it with nvidia-modprobe",
}
_TF32 = "NVIDIA_TF32_OVERRIDE"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU."""

    index: int  # as CUDA counts those that this process may use
    name: str  # of the model
    uuid: str  # of this card, or of this instance of a card that is divided (MIG)
    capability: str  # compute capability, such as 8.9
    memory_bytes: int
    driver: str  # version of the driver, such as 550.54.14; that of CUDA where only that is told
    cuda: str  # the newest CUDA that the driver runs, such as 12.4

    @property
    def description(self) -> str:
        """All that tells cards apart, for provenance.

        >>> Gpu(0, "NVIDIA L4", "GPU-1", "8.9", 1 << 30, "550.54", "12.4").description
        'NVIDIA L4, GPU-1, compute capability 8.9, driver 550.54'
        """
        return f"{self.name}, {self.uuid}, compute capability {self.capability}, driver {self.driver}"

    @property
    def kind(self) -> str:
        """What an engine is built for: it runs on cards of the same model only.

        >>> Gpu(0, "NVIDIA L4", "GPU-1", "8.9", 1 << 30, "550.54", "12.4").kind
        'NVIDIA L4 8.9'
        """
        return f"{self.name} {self.capability}"


class _Uuid(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * 16),)

    def text(self, prefix: str) -> str:
        digits = bytes(self.bytes).hex()
        return f"{prefix}-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def may_have_gpu(devices: Path = _PCI_DEVICES, load: Load = ctypes.CDLL) -> bool:
    """Whether this machine may have an NVIDIA GPU: its bus shows a device of that maker, or the driver is there.

    Args:
        devices: folder of the kernel with a folder for each device of the bus.
    """
    for vendor in devices.glob("*/vendor"):
        with suppress(OSError):
            if vendor.read_text().strip() == _PCI_VENDOR:
                return True
    try:
        load(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def read_gpus(load: Load = ctypes.CDLL) -> tuple[Gpu, ...]:
    """Ask the driver for its GPUs: at least one, in the order of CUDA, which CUDA_VISIBLE_DEVICES decides.

    RuntimeUnavailableError: there is no driver, it does not start, or no GPU is visible.
    """
    try:
        driver = load(DRIVER_LIBRARY)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"no NVIDIA driver was found ({error}): install it on the host, and hand a container its GPUs "
            "(Docker's option gpus); or use device cpu"
        ) from error
    _require(driver.cuInit(0))
    count, cuda = ctypes.c_int(), ctypes.c_int()
    _require(driver.cuDeviceGetCount(ctypes.byref(count)))
    _require(driver.cuDriverGetVersion(ctypes.byref(cuda)))
    if count.value == 0:
        _require(_NO_DEVICE)
    version = f"{cuda.value // 1000}.{cuda.value % 1000 // 10}"
    return tuple(_gpu(driver, index, _driver_version(load) or version, version) for index in range(count.value))


def _gpu(driver: Any, index: int, version: str, cuda: str) -> Gpu:
    device, name, uuid = ctypes.c_int(), ctypes.create_string_buffer(256), _Uuid()
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    _require(driver.cuDeviceGet(ctypes.byref(device), index))
    _require(driver.cuDeviceGetName(name, len(name), device))
    # The second version tells the instances of a divided card apart.
    _require(driver.cuDeviceGetUuid_v2(ctypes.byref(uuid), device))
    _require(driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device))
    _require(driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device))
    _require(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    model = name.value.decode(errors="replace")
    return Gpu(
        index=index,
        name=model,
        uuid=uuid.text("MIG" if " MIG " in model else "GPU"),
        capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
        driver=version,
        cuda=cuda,
    )


def _require(code: int) -> None:
    if code == 0:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
    raise RuntimeUnavailableError(
        f"the NVIDIA driver gives no GPU: {_ERRORS.get(code, 'it answers with an error')} (CUDA error {code}{told}): "
        "look at `nvidia-smi`, hand a container its GPUs (Docker's option gpus), or use device cpu"
    )


def _driver_version(load: Load) -> str | None:
    try:
        management = load(MANAGEMENT_LIBRARY)
    except OSError:
        return None
    version = ctypes.create_string_buffer(96)
    if management.nvmlInit_v2() or management.nvmlSystemGetDriverVersion(version, len(version)):
        return None
    return version.value.decode(errors="replace")


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """Ask the driver once for a process, as `read_gpus` does; after an error the next call asks again."""
    return read_gpus()


def require_gpu(index: int, gpus: Callable[[], Sequence[Gpu]] = visible_gpus) -> Gpu:
    """Find the GPU that was asked for, or raise RuntimeUnavailableError."""
    found = gpus()
    if index >= len(found):
        names = ", ".join(f"gpu:{each.index} {each.name}" for each in found)
        raise RuntimeUnavailableError(f"GPU {index} was asked for, but there are: {names}: name one of these")
    return found[index]


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def used_memory_bytes(gpu: Gpu, load: Load = ctypes.CDLL) -> int:
    """Ask the driver's management library for the memory of a GPU that is in use, by all processes together.

    RuntimeUnavailableError: the library is absent, or does not tell.
    """
    handle, memory = ctypes.c_void_p(), _Memory()
    try:
        management = load(MANAGEMENT_LIBRARY)
    except OSError as error:
        raise RuntimeUnavailableError(f"the GPU's memory is not known: {error}") from error
    code = (
        management.nvmlInit_v2()
        or management.nvmlDeviceGetHandleByUUID(gpu.uuid.encode(), ctypes.byref(handle))
        or management.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    )
    if code:
        raise RuntimeUnavailableError(f"the GPU's memory is not known: NVML answers with error {code}")
    return int(memory.used)


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a GPU as the runs of a network may use it."""

    gpu: Gpu
    model_bytes: int  # of the weights
    limit_bytes: int | None = None  # for weights and runs together; None: all that is free
    load: Load = ctypes.CDLL

    def used_bytes(self) -> int:
        """What all processes together use now; a runtime keeps what its runs took."""
        return used_memory_bytes(self.gpu, self.load)

    def free_bytes(self) -> int:
        """What runs may take."""
        free = self.gpu.memory_bytes - self.used_bytes()
        return max(0, free if self.limit_bytes is None else min(free, self.limit_bytes - self.model_bytes))

    def measurable(self) -> Self | None:
        """Return the memory, or None where the driver does not tell what is used, which is logged."""
        try:
            self.used_bytes()
        except RuntimeUnavailableError as error:
            _log.warning("batches and tiles are not cut to the memory of the GPU: %s", error)
            return None
        return self


def first_gpu_name() -> str | None:
    """Name the model of the first GPU; None where there is none that could be used."""
    try:
        return visible_gpus()[0].name
    except RuntimeUnavailableError:
        return None


def load_globally(name: str) -> object:
    """Open a library by name or path so that others find what it holds; OSError if it cannot be opened."""
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def open_libraries(names: Iterable[str], package: str | None, remedy: str, load: Load = load_globally) -> None:
    """Open libraries for the whole process, so that what needs them later finds them.

    `package` is a Python package that may hold them; else the linker looks where it always does.
    RuntimeUnavailableError names the one that is missing, and the remedy.
    """
    folder = None if package is None else _package_folder(package)
    for name in names:
        held = folder is not None and (folder / name).is_file()
        try:
            load(str(folder / name) if folder is not None and held else name)
        except OSError as error:
            raise RuntimeUnavailableError(f"{name} cannot be opened ({error}): {remedy}") from error


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    locations = [] if spec is None else list(spec.submodule_search_locations or [])
    return Path(locations[0]) if locations else None


def set_tf32(*, allowed: bool) -> None:
    """Decide for the whole process whether NVIDIA's libraries may round FP32 products to TF32.

    They read it once, when they are loaded. What the user's environment says about it stays if TF32 is allowed.
    OptionError: it was decided otherwise earlier in this process, or the environment forbids what is allowed.
    """
    if _tf32_decisions and allowed not in _tf32_decisions:
        earlier, now = ("without", "with") if allowed else ("with", "without")
        raise OptionError(
            f"this process has run {earlier} TF32 and cannot run {now} it, since NVIDIA's libraries read the setting "
            "once: use another process",
            option="allow_tf32",
        )
    if allowed and os.environ.get(_TF32) == "0":
        raise OptionError(
            f"{_TF32} is 0 in the environment, which forbids it: leave it out, or remove that variable",
            option="allow_tf32",
        )
    _tf32_decisions.add(allowed)
    if not allowed:
        os.environ[_TF32] = "0"


_tf32_decisions: set[bool] = set()
_stdout = Lock()


@contextmanager
def output_to_stderr() -> Generator[None]:
    """Send to the standard error output what libraries print on the standard output, which belongs to results.

    One thread at a time.
    """
    # What C's library still holds goes where it was meant to go.
    flush = ctypes.CDLL(None).fflush
    with _stdout:
        flush(None)
        kept = os.dup(1)
        try:
            os.dup2(2, 1)
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)

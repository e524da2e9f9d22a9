"""GPUs, as a driver tells of them; the driver is one written for these tests, with CUDA's own signatures and codes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import OptionError, RuntimeUnavailableError
from engine.system.machine.gpu_stacks import GPU_STACKS, PADDLE_INDEX, how_to_install, how_to_install_paddle
from engine.system.machine.nvidia import Gpu, GpuMemory, may_have_gpu, open_libraries, read_gpus, require_gpu, set_tf32

L4 = ("NVIDIA L4", 8, 9, 24 << 30)
MIG = ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9, 0, 10 << 30)


class Driver:
    """Answers like libcuda and NVML; functions write to where their pointers lead."""

    def __init__(self, *cards: tuple[str, int, int, int], code: int = 0, cuda: int = 12040) -> None:
        self.cards = cards
        self.names = [name.encode() for name, *_ in cards]
        self.code = code
        self.cuda = cuda
        self.used = 0

    def cuInit(self, _flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.cards)
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.cuda
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, text: Any, length: int, device: Any) -> int:
        text.value = self.names[device.value][: length - 1]
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: Any) -> int:
        uuid._obj.bytes[:] = [device.value, *range(1, 16)]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self.cards[device.value][{75: 1, 76: 2}[attribute]]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        memory._obj.value = self.cards[device.value][3]
        return 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, _length: int) -> int:
        text.value = b"550.54.14"
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        handle._obj.value = 1
        return 0 if uuid.startswith(b"GPU-00") else 6

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        assert handle.value == 1
        memory._obj.total, memory._obj.used = 24 << 30, self.used
        return 0


def loads(driver: Driver, *, absent: str = "") -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if name == absent:
            raise OSError(f"{name}: cannot open shared object file")
        assert name in {"libcuda.so.1", "libnvidia-ml.so.1"}
        return driver

    return load


def test_what_the_driver_says_of_each_gpu() -> None:
    first, second = read_gpus(loads(Driver(L4, MIG)))
    assert first == Gpu(
        index=0,
        name="NVIDIA L4",
        uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
        capability="8.9",
        memory_bytes=24 << 30,
        driver="550.54.14",
        cuda="12.4",
    )
    assert (second.index, second.capability, second.memory_bytes) == (1, "9.0", 10 << 30)
    # A part of a divided card has an identity of its own.
    assert second.uuid == "MIG-01010203-0405-0607-0809-0a0b0c0d0e0f"


def test_without_the_management_library_the_driver_is_known_by_its_cuda() -> None:
    (gpu,) = read_gpus(loads(Driver(L4, cuda=13000), absent="libnvidia-ml.so.1"))
    assert (gpu.driver, gpu.cuda) == ("13.0", "13.0")


@pytest.mark.parametrize(("vendor", "expected"), [("0x8086", False), ("0x10de", True), (None, False)])
def test_a_machine_may_have_a_gpu_if_its_bus_shows_one(tmp_path: Path, vendor: str | None, expected: bool) -> None:
    def no_driver(name: str) -> Any:
        raise OSError(name)

    if vendor is not None:
        (tmp_path / "0000:00:02.0").mkdir()
        (tmp_path / "0000:00:02.0" / "vendor").write_text(f"{vendor}\n")
    assert may_have_gpu(tmp_path, no_driver) is expected
    assert may_have_gpu(tmp_path, lambda _: None)  # a driver without a bus, as in a virtual machine


def test_no_driver_at_all() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"no NVIDIA driver was found .*hand a container its GPUs"):
        read_gpus(loads(Driver(), absent="libcuda.so.1"))


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(code=100), r"no GPU is visible \(CUDA error 100"),
        (Driver(), r"no GPU is visible \(CUDA error 100"),
        (Driver(code=34), "a stand-in for building"),
        (Driver(code=803), "differ in version: restart"),
        (Driver(code=999), "kernel module does not answer"),
        (Driver(code=304), "answers with an error .CUDA error 304"),
    ],
)
def test_a_driver_without_a_gpu(driver: Driver, message: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=message):
        read_gpus(loads(driver))


@pytest.mark.parametrize(
    ("used_gib", "limit_gib", "free_gib"),
    [(3, None, 21), (3, 4, 2), (23, 4, 1), (3, 1, 0)],
    ids=["all that is free", "what is allowed", "others use the rest", "less than the model"],
)
def test_what_runs_may_take_of_a_gpu(used_gib: int, limit_gib: int | None, free_gib: int) -> None:
    driver = Driver(L4)
    driver.used = used_gib << 30
    (gpu,) = read_gpus(loads(driver))
    memory = GpuMemory(gpu, 2 << 30, limit_gib and limit_gib << 30, loads(driver)).measurable()
    assert memory is not None
    assert memory.free_bytes() == free_gib << 30


def test_a_driver_that_does_not_tell_what_is_used(caplog: pytest.LogCaptureFixture) -> None:
    (gpu,) = read_gpus(loads(Driver(L4)))
    assert GpuMemory(gpu, 0, load=loads(Driver(L4), absent="libnvidia-ml.so.1")).measurable() is None
    assert "batches and tiles are not cut" in caplog.text


def test_hidden_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeUnavailableError, match="CUDA_VISIBLE_DEVICES is ''"):
        read_gpus(loads(Driver(code=100)))


def test_a_number_that_no_gpu_has() -> None:
    def gpus() -> tuple[Gpu, ...]:
        return read_gpus(loads(Driver(L4, MIG)))

    assert require_gpu(1, gpus).name.startswith("NVIDIA H100")
    with pytest.raises(RuntimeUnavailableError, match=r"GPU 99 was asked for, .*gpu:0 NVIDIA L4, gpu:1 NVIDIA H100"):
        require_gpu(99, gpus)


def test_libraries_are_opened_from_their_package_or_by_the_linker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_libs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "libone.so.10").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    opened: list[str] = []
    open_libraries(("libone.so.10", "libtwo.so.10"), "some_libs", "install it", opened.append)
    open_libraries(("libone.so.10",), None, "install it", opened.append)
    assert opened == [str(package / "libone.so.10"), "libtwo.so.10", "libone.so.10"]


def test_a_missing_library_is_named() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"libnothing\.so\.10 cannot be opened .*: install it"):
        open_libraries(("libc.so.6", "libnothing.so.10"), None, "install it")


def test_tf32_is_switched_off_for_all_libraries_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, setting in ((True, "1"), (False, "0")):
        monkeypatch.setattr("engine.system.machine.nvidia._tf32_decisions", set[bool]())
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
        for _ in range(2):
            set_tf32(allowed=allowed)
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == setting
        with pytest.raises(OptionError, match="NVIDIA's libraries read the setting once"):
            set_tf32(allowed=not allowed)
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == setting


def test_tf32_that_the_environment_forbids_cannot_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0, NVIDIA's libraries never use TF32; the engines of TensorRT would be kept as ones that do."""
    monkeypatch.setattr("engine.system.machine.nvidia._tf32_decisions", set[bool]())
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(OptionError, match=r"^allow-tf32: NVIDIA_TF32_OVERRIDE is 0 in the environment"):
        set_tf32(allowed=True)
    set_tf32(allowed=False)


@pytest.mark.parametrize("before", [False, True], ids=["library", "results before it"])
def test_what_a_library_prints_never_joins_the_results(before: bool) -> None:
    """Also where C's library holds it back, as it does for a pipe."""
    script = (
        "import ctypes, sys\n"
        "from engine.system.machine.nvidia import output_to_stderr\n"
        "c = ctypes.CDLL(None)\n"
        f"c.printf(b'result of C\\n') if {before} else None\n"
        "with output_to_stderr():\n    c.printf(b'library text\\n')\n"
        "print('RESULT')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == [*(["result of C"] if before else []), "RESULT"]
    assert "library text" in done.stderr


def test_what_libraries_print_is_no_result() -> None:
    code = """
import os
from engine.system.machine.nvidia import output_to_stderr
print("result 1", flush=True)
with output_to_stderr():
    os.write(1, b"a library's words\\n")
print("result 2")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("result 1\nresult 2\n", "a library's words\n")


def test_messages_quote_the_stacks() -> None:
    for stack in GPU_STACKS:
        assert stack.onnxruntime in how_to_install()
        assert stack.tensorrt not in how_to_install()
        assert stack.tensorrt in how_to_install(tensorrt=True)
    assert "paddlepaddle-gpu==3.2.2" in how_to_install_paddle()
    assert PADDLE_INDEX in how_to_install_paddle()

"""The machine as far as it decides which configuration is fastest: what a tuned profile is bound to."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.system.machine.cores import usable_cores
from engine.system.machine.nvidia import first_gpu_name

_PROCESSORS = Path("/proc/cpuinfo")
_VNNI = {"avx_vnni", "avx512_vnni"}
"""Of 8-bit numbers; `avx512_4vnniw` adds up products of 16-bit numbers."""
_TELLING_FLAGS = ("avx", "amx", "fma", "vnni", "sve", "asimd", "i8mm", "bf16")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine, as this process may use it."""

    processor: str  # its model, as the kernel tells it
    flags: tuple[str, ...]  # what decides which kernels run (`avx512_vnni` and so on), sorted
    cores: int
    gpu: str | None  # model of the first GPU, as the driver tells it

    def difference(self, other: "Host") -> str | None:
        """Say in what another machine differs first, this machine's value first; None if they are alike.

        >>> one = Host("Fast", ("avx2", "fma"), 2, None)
        >>> one.difference(Host("Fast", ("avx2",), 2, None))
        'processor flags fma differ'
        >>> one.difference(Host("Fast", ("avx2", "fma"), 4, None))
        '2 cores there, 4 here'
        """
        if self.processor != other.processor:
            return f"processor {self.processor!r} there, {other.processor!r} here"
        if self.flags != other.flags:
            return f"processor flags {' '.join(sorted({*self.flags} ^ {*other.flags}))} differ"
        if self.cores != other.cores:
            return f"{self.cores} cores there, {other.cores} here"
        if self.gpu != other.gpu:
            return f"GPU {self.gpu or 'none'} there, {other.gpu or 'none'} here"
        return None


def this_processor() -> tuple[str, ...]:
    """Name what decides which kernels run on the CPU."""
    processor = cpu_information(_PROCESSORS.read_text(encoding="utf-8"))
    return (processor_model(processor), *telling_flags(processor_flags(processor)))


def this_host() -> Host:
    model, *flags = this_processor()
    return Host(processor=model, flags=tuple(flags), cores=usable_cores(), gpu=first_gpu_name())


def has_vnni() -> bool:
    """Tell whether the processor adds up products of 8-bit numbers without overflow, in one instruction.

    True, too, for processors that are not x86, which have their own ways.
    """
    flags = processor_flags(cpu_information(_PROCESSORS.read_text(encoding="utf-8")))
    # Every x86 processor of 64 bit has SSE2, and a virtual one may have no AVX.
    return "sse2" not in flags or not _VNNI.isdisjoint(flags)


def cpu_information(text: str) -> dict[str, str]:
    r"""Read the kernel's account of the first processor.

    >>> cpu_information("processor\t: 0\nmodel name\t: Fast\n\nprocessor\t: 1\nmodel name\t: Slow\n")["model name"]
    'Fast'
    """
    first = text.split("\n\n", 1)[0]
    fields = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in fields}


def processor_model(information: dict[str, str]) -> str:
    return information.get("model name") or platform.processor() or platform.machine()


def processor_flags(information: dict[str, str]) -> tuple[str, ...]:
    """List what the processor can do, sorted."""
    return tuple(sorted((information.get("flags") or information.get("Features") or "").split()))


def telling_flags(flags: Iterable[str]) -> tuple[str, ...]:
    """Pick the flags that decide which kernels run: those of vectors, matrices and short numbers.

    >>> telling_flags(["aes", "avx2", "fma", "sse"])
    ('avx2', 'fma')
    """
    return tuple(flag for flag in flags if flag.startswith(_TELLING_FLAGS))

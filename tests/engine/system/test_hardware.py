"""What a processor can do, from accounts of the kernel; the flags are those of machines, as their kernels list them."""

from pathlib import Path

import pytest

from engine.system.machine import hardware

ZEN_3 = "fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2"
ICE_LAKE = f"{ZEN_3} avx512f avx512dq avx512bw avx512vl avx512_vnni"
ALDER_LAKE = f"{ZEN_3} avx_vnni"
# The processor that virtual machines of Proxmox and others have by default.
X86_64_V2 = "fpu sse sse2 ssse3 cx16 sse4_1 sse4_2 popcnt aes"
# Its instructions for neural networks take numbers of 16 bits.
KNIGHTS_MILL = f"{ZEN_3} avx512f avx512cd avx512er avx512pf avx512_vpopcntdq avx512_4vnniw avx512_4fmaps"


@pytest.mark.parametrize(
    ("account", "exact"),
    [
        (f"model name\t: EPYC\nflags\t\t: {ZEN_3}\n", False),
        (f"model name\t: Xeon\nflags\t\t: {ICE_LAKE}\n", True),
        (f"model name\t: Core\nflags\t\t: {ALDER_LAKE}\n", True),
        (f"model name\t: QEMU\nflags\t\t: {X86_64_V2}\n", False),
        (f"model name\t: Xeon Phi\nflags\t\t: {KNIGHTS_MILL}\n", False),
        ("BogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes atomics\n", True),
    ],
)
def test_sums_of_8_bit_products_are_exact_with_vnni_and_on_other_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: str, exact: bool
) -> None:
    """The header of ONNX Runtime's settings names SSE4.1, AVX2 and AVX-512 without VNNI as those that overflow."""
    processors = tmp_path / "cpuinfo"
    processors.write_text(f"processor\t: 0\n{account}\nprocessor\t: 1\n{account}")
    monkeypatch.setattr(hardware, "_PROCESSORS", processors)
    assert hardware.has_vnni() is exact

"""What oneDNN reads from the environment; Paddle and OpenVINO each hold a oneDNN of their own.

Source: oneDNN 3, the pages "Primitive Attributes: floating-point math mode" and "CPU Dispatcher Control".
"""

import os

_PREFIXES = ("ONEDNN_", "DNNL_")
"""Of the variables; oneDNN reads the second name only where the first is not set."""
_WITHOUT_VNNI = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}


def keep_fp32() -> None:
    """Have oneDNN compute FP32 networks in FP32, before it is loaded.

    A variable of the environment may allow it BF16, FP16 or TF32, as guides to fast processors advise for training.
    """
    os.environ[f"{_PREFIXES[0]}DEFAULT_FPMATH_MODE"] = "STRICT"


def setting_against_vnni() -> str | None:
    """Name the variable of the environment that keeps oneDNN from instructions for products of 8-bit numbers."""
    name = next((name for prefix in _PREFIXES if (name := f"{prefix}MAX_CPU_ISA") in os.environ), None)
    return name if name is not None and os.environ[name].upper() in _WITHOUT_VNNI else None

"""What is installed for NVIDIA GPUs: the only place that names versions; messages, documents and images quote it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuStack:
    """Distributions that fit one major version of CUDA."""

    cuda: int
    driver: int  # the oldest NVIDIA driver that runs it
    onnxruntime: str  # requirement for ONNX Runtime, with CUDA's own libraries
    tensorrt: str
    paddle: str | None  # from Paddle's own package index; None: there is no such build
    capabilities: tuple[str, str]  # compute capabilities that ONNX Runtime's kernels were built for, oldest and newest


GPU_STACKS = (
    GpuStack(
        cuda=12,
        driver=535,
        onnxruntime="onnxruntime-gpu[cuda,cudnn]==1.26.0",
        tensorrt="tensorrt-cu12>=10.14,<11",
        paddle="paddlepaddle-gpu==3.2.2",
        capabilities=("6.0", "9.0"),
    ),
    GpuStack(
        cuda=13,
        driver=580,
        # 1.27.0 asks for a distribution that does not exist; from 1.32 on there are plugins in place of this wheel.
        onnxruntime="onnxruntime-gpu[cuda,cudnn]>=1.28,<1.32",
        tensorrt="tensorrt-cu13>=10.14,<11",
        paddle=None,
        capabilities=("7.5", "12.0"),
    ),
)
"""CUDA 12 is the one on which both runtimes work side by side."""

PADDLE_INDEX = "https://www.paddlepaddle.org.cn/packages/stable/cu126/"
"""Where Paddle's builds for GPUs are; those on the Python Package Index cannot read PIR programs."""


def how_to_install(*, tensorrt: bool = False) -> str:
    """Say what has to be installed for ONNX Runtime on a GPU, for each version of CUDA.

    >>> how_to_install()
    "install 'onnxruntime-gpu[cuda,cudnn]==1.26.0' (CUDA 12) or 'onnxruntime-gpu[cuda,cudnn]>=1.28,<1.32' (CUDA 13)"
    """
    choices = [
        f"'{each.onnxruntime}'" + (f" '{each.tensorrt}'" if tensorrt else "") + f" (CUDA {each.cuda})"
        for each in GPU_STACKS
    ]
    return f"install {' or '.join(choices)}"


def how_to_install_paddle() -> str:
    """Say what has to be installed for Paddle on a GPU."""
    requirement = next(each.paddle for each in GPU_STACKS if each.paddle is not None)
    return f"install '{requirement}' from {PADDLE_INDEX} in place of paddlepaddle"

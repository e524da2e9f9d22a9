"""Convolutions with padding SAME and a dilation."""

# Paddle ignores the dilation there; paddle2onnx aborts its process. So the program says what Paddle does.
# Source: paddle 3.2, ``phi/kernels/cpu/conv_util.h``: ``UpdatePaddingAndDilation``.

from converters.rewrites.program import Program

_CONVOLUTIONS = frozenset({"conv2d", "depthwise_conv2d"})


def drop_ignored_dilations(program: Program) -> None:
    """Set the dilation of convolutions with padding SAME to one."""
    for operation in program.everywhere():
        if operation.kind in _CONVOLUTIONS and operation.get("padding_algorithm") == "SAME":
            operation.put("dilations", [1, 1])

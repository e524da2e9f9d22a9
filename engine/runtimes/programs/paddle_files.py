"""Paddle's own files, checked without Paddle: whether a program only computes, and whether the weights are whole."""

import math
import os
import re
import struct
from collections.abc import Mapping
from typing import BinaryIO

from engine.bundle.bundle import PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes.programs.paddle_programs import operator_names
from engine.runtimes.programs.protobuf import whole_number

_DTYPE_TAG, _AXIS_TAG, _DESCRIPTION_BYTES = 1 << 3, 2 << 3, 1 << 10


_DTYPE_BYTES: Mapping[int, int] = {
    **dict.fromkeys((0, 20, 21), 1),
    **dict.fromkeys((1, 4, 22), 2),
    **dict.fromkeys((2, 5), 4),
    **dict.fromkeys((3, 6, 23), 8),
    24: 16,
}
"""Bytes of a value, by the number that `framework.proto` gives its type."""

_DIALECTS = frozenset({"", "0", "1", "2", "builtin", "pd_op", "cf"})
"""Where a network's operators come from: the parts of every program, Paddle's own operators, branches and loops."""

_NOT_ARITHMETIC = re.compile(
    r"""
    (load|save)(_.*)?               # files, by a path that the program names
    | read | read_file | create_.*reader
    | check_numerics                # may write what it finds to a folder
    | print(_.*)?                   # writes to the standard streams
    | py_func | py_?layer | run_program | faster_tokenizer
    | ap_.* | fusion_group | cinn_.* | jit_kernel.* | .*_engine     # programs of other libraries within the program
    | (partial_|p_)?(send|recv)(_v2|_array|_barrier)? | (fetch|send)_barrier | barrier | listen_and_serv
    | c_(comm|gen)_.* | comm_init_all | distributed_.*              # other machines
    | .*vocab                       # files of words
    """,
    re.VERBOSE,
)
"""Operators of Paddle 3.2.2, and those of Paddle 2 that were left out since, which do more than compute."""


def require_arithmetic_only(model: PaddleModel) -> None:
    """Find out whether a program only computes: Paddle runs operators that read and write files as they come.

    The weights are not read. ModelLoadError: an operator reads or writes files, prints, speaks to other machines, runs
    code that is not Paddle's own, or is of an unknown kind; or the file is no program.
    """
    for name in operator_names(model):
        dialect, _, operator = name.rpartition(".")
        if dialect not in _DIALECTS or _NOT_ARITHMETIC.fullmatch(operator.rstrip("_").removesuffix("_grad")):
            raise ModelLoadError(
                f"{model.program.name} holds the operator {name[:100]!r}, which does more than compute (it may read or "
                "write files, or run code): it is not run; export the network without it, and trust no such bundle"
            )


def require_whole_weights(model: PaddleModel) -> None:
    """Find out whether the weights are all there: of a truncated file Paddle may load what is left, in silence.

    ModelLoadError: the weights end in the middle of a tensor, or are not as many as the program takes.

    Source: paddle 3.2, ``phi/core/framework/dense_tensor_serialize.cc``: version, level of detail, version, length of
    the description, description (framework.proto), values; one tensor after the other.
    """
    length, count = model.params.stat().st_size, 0
    with model.params.open("rb") as file:
        while file.tell() < length:
            try:
                _skip_tensor(file)
            except (struct.error, ValueError, KeyError) as error:
                raise _weights_damaged(model, f"tensor {count} cannot be read") from error
            if file.tell() > length:
                raise _weights_damaged(model, f"it ends in the middle of tensor {count}")
            count += 1
    if model.kind == "pir":
        wanted = model.program.read_text(encoding="utf-8").count('"#":"p"')
        if wanted and wanted != count:
            raise _weights_damaged(model, f"it holds {count} tensors, and {model.program.name} takes {wanted}")


def _weights_damaged(model: PaddleModel, what: str) -> ModelLoadError:
    return ModelLoadError(f"{model.params.name} is damaged: {what}; fetch or export the bundle again")


def _skip_tensor(file: BinaryIO) -> None:
    _, levels = struct.unpack("<IQ", file.read(12))
    for _ in range(levels):
        (level_bytes,) = struct.unpack("<Q", file.read(8))
        _skip_bytes(file, level_bytes)
    _, description_bytes = struct.unpack("<Ii", file.read(8))
    if not 0 < description_bytes <= _DESCRIPTION_BYTES:
        raise ValueError(f"a description of {description_bytes} bytes")
    description = file.read(description_bytes)
    dtype, axes, position = 0, list[int](), 0
    while position < len(description):
        tag, position = whole_number(description, position, len(description))
        value, position = whole_number(description, position, len(description))
        if tag == _DTYPE_TAG:
            dtype = value
        elif tag == _AXIS_TAG:
            axes.append(value)
    _skip_bytes(file, _DTYPE_BYTES[dtype] * math.prod(axes))


def _skip_bytes(file: BinaryIO, count: int) -> None:
    # Not further than just past the end: a damaged file may state more bytes than the system lets a file have.
    left = os.fstat(file.fileno()).st_size - file.tell()
    file.seek(min(count, left + 1), os.SEEK_CUR)

"""Paddle's own files, read without Paddle: what a PIR program takes and returns, and whether the weights are whole."""

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from engine.bundle import PaddleModel
from engine.errors import ModelLoadError
from engine.runtimes import TensorSpec

_DTYPE_TAG, _AXIS_TAG, _DESCRIPTION_BYTES = 1 << 3, 2 << 3, 1 << 10


def pir_tensor_specs(program: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Read inputs and outputs from the text of a PIR program.

    Args:
        program: content of `model.json`.

    Returns:
        Inputs and outputs.

    Raises:
        ModelLoadError: the text is no PIR program.
    """
    try:
        operations = json.loads(program)["program"]["regions"][0]["blocks"][0]["ops"]
        inputs = [op for op in operations if op["#"].rpartition(".")[2] in {"data", "feed"}]
        outputs = [op for op in operations if op["#"].rpartition(".")[2] == "fetch"]
        return tuple(map(_pir_spec, inputs)), tuple(map(_pir_spec, outputs))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelLoadError(f"the program is no PIR JSON of Paddle 3 ({error}): export the model again") from error


_PIR_DTYPES: Mapping[str, type[np.generic]] = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "ui8": np.uint8,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "bool": np.bool_,
}


def _pir_spec(operation: dict[str, Any]) -> TensorSpec:
    attributes = {each["N"]: each["AT"].get("D") for each in operation["A"]}
    dtype, axes, *_ = operation["O"][0]["TT"]["D"]
    return TensorSpec(
        name=attributes["name"],
        dtype=np.dtype(_PIR_DTYPES[dtype["#"].rpartition("t_")[2]]),
        shape=tuple(None if axis < 0 else axis for axis in axes),
    )


_DTYPE_BYTES: Mapping[int, int] = {
    **dict.fromkeys((0, 20, 21), 1),
    **dict.fromkeys((1, 4, 22), 2),
    **dict.fromkeys((2, 5), 4),
    **dict.fromkeys((3, 6, 23), 8),
    24: 16,
}
"""Bytes of a value, by the number that `framework.proto` gives its type."""


def require_whole_weights(model: PaddleModel) -> None:
    """Find out whether the weights are all there: of a truncated file Paddle may load what is left, in silence.

    Source: paddle 3.2, ``phi/core/framework/dense_tensor_serialize.cc``: version, level of detail, version, length of
    the description, description (framework.proto), values; one tensor after the other.

    Args:
        model: program and weights.

    Raises:
        ModelLoadError: the weights end in the middle of a tensor, or are not as many as the program takes.
    """
    length, count = model.params.stat().st_size, 0
    with model.params.open("rb") as file:
        while file.tell() < length:
            try:
                _skip_tensor(file)
            except (struct.error, IndexError, ValueError, KeyError) as error:
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
        file.seek(level_bytes, os.SEEK_CUR)
    _, description_bytes = struct.unpack("<Ii", file.read(8))
    if not 0 < description_bytes <= _DESCRIPTION_BYTES:
        raise ValueError(f"a description of {description_bytes} bytes")
    description = file.read(description_bytes)
    dtype, axes, position = 0, list[int](), 0
    while position < len(description):
        tag, position = _varint(description, position)
        value, position = _varint(description, position)
        if tag == _DTYPE_TAG:
            dtype = value
        elif tag == _AXIS_TAG:
            axes.append(value)
    file.seek(_DTYPE_BYTES[dtype] * math.prod(axes), os.SEEK_CUR)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while content[position] & 0x80:
        value |= (content[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
    return value | content[position] << shift, position + 1

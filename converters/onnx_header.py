"""What an ONNX file says of itself, read without its weights."""

# onnx ships no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

from dataclasses import dataclass
from pathlib import Path

from engine.runtimes.programs.protobuf import Message, in_file

STANDARD_DOMAINS = ("", "ai.onnx")
_OPERATOR_SETS, _GRAPH, _INPUTS = 8, 7, 11
"""Numbers of fields. Source: onnx 1.17, ``onnx/onnx.proto3``."""


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """Version of the standard operator set, and height and width of the input, None where it takes any."""

    opset: int
    input_shape: tuple[int, int] | None


def read_header(path: Path) -> OnnxHeader:
    """Read the header of a model with one input, NCHW; ValueError if the file is no such model."""
    import onnx

    def read(message: Message) -> OnnxHeader:
        def parts(number: int, within: tuple[int, int] | None = None) -> list[bytes]:
            return [message.content[first:last] for first, last in message.fields(number, within)]

        sets = [onnx.OperatorSetIdProto.FromString(each) for each in parts(_OPERATOR_SETS)]
        graph = next(iter(message.fields(_GRAPH)))
        picture = onnx.ValueInfoProto.FromString(parts(_INPUTS, graph)[0])
        height, width = (axis.dim_value for axis in picture.type.tensor_type.shape.dim[2:])
        opset = next(each.version for each in sets if each.domain in STANDARD_DOMAINS)
        return OnnxHeader(opset, (height, width) if height and width else None)

    return in_file(path, read)

"""ONNX files, read without ONNX Runtime: whether a model is whole in its one file, and its operator set.

Source: onnx 1.17, ``onnx/onnx.proto3`` (numbers of fields), and the wire format of protocol buffers.
"""

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path

from engine.errors import ModelLoadError
from engine.runtimes.programs.protobuf import Message, fields_with_length, in_file, whole_numbers

STANDARD_DOMAINS = ("", "ai.onnx")
_OPERATOR_SETS, _DOMAIN, _VERSION = 8, 1, 2
"""Numbers of fields."""
_MOST_DEPTH = 100
"""As protocol buffers themselves allow it."""

_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}
"""Where tensors may hide: kind of message to number of field to kind of message."""


def require_whole_model(path: Path) -> None:
    """Find out whether all of a model lies in its file.

    Tensors in other files are neither in the bundle's digest nor unpacked with it, and may point anywhere.
    ModelLoadError: the file is no protocol buffer or nested too deeply, or a tensor lies in another file.
    """
    where = "/".join(path.parts[-3:])
    if path.stat().st_size == 0:
        raise ModelLoadError(f"{where} is empty: fetch or convert the bundle again")
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            pending = [("model", 0, len(content), 0)]
            while pending:
                kind, start, end, depth = pending.pop()
                if depth > _MOST_DEPTH:
                    raise ValueError(f"messages lie more than {_MOST_DEPTH} deep in each other")
                for number, first, last in fields_with_length(content, start, end):
                    inner = _MESSAGES[kind].get(number)
                    if inner == "external data":
                        raise ModelLoadError(
                            f"{where} keeps tensors in other files: save it in one file and pack the bundle again"
                        )
                    if inner is not None:
                        pending.append((inner, first, last, depth + 1))
        except ValueError as error:
            raise ModelLoadError(f"{where} is damaged ({error}): fetch or convert the bundle again") from error


def opset_of(path: Path) -> int:
    """Read the version of the standard operator set; ModelLoadError if the file names none."""

    def read(model: Message) -> int:
        standard = (each for each in model.fields(_OPERATOR_SETS) if _is_standard(model, each))
        return next(value for number, value in whole_numbers(model.content, *next(standard)) if number == _VERSION)

    try:
        return in_file(path, read)
    except ValueError as error:
        raise ModelLoadError(
            f"{path.name}: its operator set cannot be read ({error}): convert the bundle again"
        ) from error


def _is_standard(model: Message, operator_set: tuple[int, int]) -> bool:
    return all(domain in STANDARD_DOMAINS for domain in model.texts(_DOMAIN, operator_set))

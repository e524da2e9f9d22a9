"""Protocol buffers, read without their descriptions: fields and where they lie, as (first byte, end) in the file.

Bytes that are no message are a ValueError.

Source: the wire format of protocol buffers, protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Callable, Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TypeVar

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5
_FIXED_BYTES: Mapping[int, int] = {_I64: 8, _I32: 4}
_VARINT_BYTES = 10
_PROGRAM_BYTES = 16 << 20
_MOST_FIELDS = 1_000_000
"""Programs hold no weights and are small: SegFormer-B0's takes 21 000. They are read in this process, so what a forged
one may cost is bounded."""

_Found = TypeVar("_Found")

Part = tuple[int, int]
"""A message within the file: its first byte, and the one after its last."""

_NEGATIVE_FROM = 1 << 63
"""From here on a varint holds a negative number."""


class Message:
    """The content of a program, whose fields are counted while they are looked through."""

    def __init__(self, content: mmap) -> None:
        self.content = content
        self._fields = 0

    def fields(self, number: int, message: Part | None = None) -> Iterator[Part]:
        """Find the fields of one number that have a length, in a message of the file or in the whole file.

        ValueError, too, here and below, where more fields were looked through than a network has.
        """
        for found, first, last in fields_with_length(self.content, *(message or (0, len(self.content)))):
            self._count()
            if found == number:
                yield first, last

    def nested(self, message: Part, *numbers: int) -> Iterator[Part]:
        """Find messages within messages: the fields of the last number in those of the one before, and so on."""
        if not numbers:
            yield message
            return
        for inner in self.fields(numbers[0], message):
            yield from self.nested(inner, *numbers[1:])

    def texts(self, number: int, message: Part) -> Iterator[str]:
        """Read the fields of one number as texts."""
        for first, last in self.fields(number, message):
            yield self.content[first:last].decode(errors="backslashreplace")

    def numbers(self, number: int, message: Part) -> Iterator[int]:
        """Read the fields of one number as whole numbers, packed or one by one."""
        for found, value in whole_numbers(self.content, *message):
            self._count()
            if found == number:
                yield value
        for first, last in self.fields(number, message):
            while first < last:
                self._count()
                value, first = whole_number(self.content, first, last)
                yield value

    def _count(self) -> None:
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise ValueError(f"it has more than {_MOST_FIELDS} fields")


def in_file(path: Path, read: Callable[[Message], _Found]) -> _Found:
    """Read something from a file that is a message.

    `read` may end an iteration where a part is missing, which is a ValueError, too.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            return read(Message(content))
        except StopIteration as error:
            raise ValueError("a part is missing") from error


def require_program_size(path: Path) -> None:
    """Refuse to read a program that is larger than any network's without its weights, with a ValueError."""
    if path.stat().st_size > _PROGRAM_BYTES:
        raise ValueError(f"it has more than {_PROGRAM_BYTES} bytes")


def fields_with_length(content: mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Walk over a message and find number, first byte and end of its messages, texts and bytes."""
    position = start
    while position < end:
        tag, position = whole_number(content, position, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, position = whole_number(content, position, end)
        elif wire_type in _FIXED_BYTES:
            position += _FIXED_BYTES[wire_type]
        elif wire_type == _BYTES:
            length, first = whole_number(content, position, end)
            position = first + length
            if position <= end:
                yield number, first, position
        else:
            raise ValueError(f"byte {position - 1} starts no field")
        if position > end:
            raise ValueError(f"a field ends at byte {position}, its message at {end}")


def not_negative(value: int) -> int | None:
    """Read a number of which a negative one means that it is left open; None for those."""
    return value if value < _NEGATIVE_FROM else None


def whole_number(content: mmap | bytes, position: int, end: int) -> tuple[int, int]:
    """Read a whole number of variable length (a varint): the number, and the first byte after it."""
    value = 0
    for index in range(_VARINT_BYTES):
        if position + index >= end:
            raise ValueError(f"it ends in the middle of a number at byte {position}")
        byte = content[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value, position + index + 1
    raise ValueError(f"the number at byte {position} has no end")


def whole_numbers(content: mmap, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Walk over a message and find number and value of its whole numbers."""
    position = start
    while position < end:
        tag, position = whole_number(content, position, end)
        wire_type = tag & 7
        value, position = (
            (position, position + _FIXED_BYTES[wire_type])
            if wire_type in _FIXED_BYTES
            else whole_number(content, position, end)
        )
        if wire_type == _VARINT:
            yield tag >> 3, value
        elif wire_type == _BYTES:
            position += value

"""Trained weights, ``.pdparams``, read without running anything: plain arrays of numbers under their names."""

# The file is a pickle, a program that may call any function. It is not unpickled. `table_of_contents` follows the few
# opcodes that ``paddle.save`` writes for named arrays and calls nothing: what would make an array is noted as dtype,
# shape and the place of its values in the file; whatever else would be called is an error. A child process with limits
# does that. This process then reads the values from the places that it was told.
# Source: Python 3.11, ``pickletools.py`` (opcodes); numpy 2, ``ndarray.__reduce__`` and ``dtype.__reduce__``; paddle
# 3.2.2, ``framework/io.py`` and ``io_utils.py``.

import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConversionError
from engine.system.process import Limits, run_isolated, value_of

TIMEOUT_S: float = 600
MEMORY_BYTES = 2 << 30
"""Enough for the table of the most arrays; the child does not read their values."""

_MOST_OPCODES = 1 << 22
_MOST_ARRAYS = 1 << 16
_MOST_AXES = 32
_LONGEST_AXIS = 1 << 40
_NAME_BYTES = 1 << 10
_LINE_BYTES = 1 << 8
_INTEGER_BYTES = 8
_NEWEST_PROTOCOL = 4
_DTYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
"""Booleans, integers and floating-point numbers. Paddle keeps bfloat16 as u2."""
_BYTE_ORDERS = frozenset({"<", ">", "|", "="})
_BIG_PARAMETERS = "UnpackBigParamInfor@@"
_BOOKKEEPING = {_BIG_PARAMETERS, "StructuredToParameterName@@"}
_NO_WEIGHTS = "no weights of PaddleSeg"
_REMEDY = "save the network's state_dict() with paddle.save, and trust no other file"


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Where the values of an array are."""

    dtype: str  # NumPy's name with the byte order, such as ``<f4``
    shape: tuple[int, ...]
    fortran: bool  # whether the first axis runs fastest
    places: tuple[tuple[int, int], ...]  # first byte and number of bytes of every part, in order
    text: bool  # whether every byte is kept as a character of UTF-8 text (pickles of protocol 2)


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read a ``.pdparams`` file of PaddleSeg's training or ``paddle.save``, with pickle's protocol 2, 3 or 4.

    Arrays, by the names of parameters, are booleans, integers or floating-point numbers; bfloat16 is uint16, as Paddle
    keeps it. ConversionError: it cannot be read, or holds something else than named arrays of numbers.
    """
    if path.is_dir():
        raise ConversionError(f"{path}: is a folder; name the weights in it, such as {path / 'model.pdparams'}")
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ConversionError("is empty: fetch it again")
            return {
                name: _read_array(file.fileno(), name, StoredArray(dtype, tuple(shape), fortran, tuple(places), text))
                for name, (dtype, shape, fortran, places, text) in _listed(path.absolute()).items()
            }
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from error
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error


def _listed(path: Path) -> Any:  # noqa: ANN401 - what JSON holds
    outcome = run_isolated(_list, path, Limits(TIMEOUT_S, MEMORY_BYTES))
    return value_of(outcome, lambda said: ConversionError(f"{_NO_WEIGHTS}: the process that read it {said}"))


def _read_array(descriptor: int, name: str, stored: StoredArray) -> NDArray[Any]:
    content = b"".join(os.pread(descriptor, count, first) for first, count in stored.places)
    try:
        if stored.text:
            content = content.decode().encode("latin1")
        dtype = np.dtype(stored.dtype)
        if len(content) != math.prod(stored.shape) * dtype.itemsize:
            raise ValueError(f"{len(content)} bytes for {dtype}{list(stored.shape)}")
        order = "F" if stored.fortran else "C"
        return np.ndarray(stored.shape, dtype, bytearray(content), order=order)
    except ValueError as error:
        raise ConversionError(f"{_NO_WEIGHTS}: the values of {name} do not fit its shape ({error})") from error


# ---- in the child: what the file holds ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A run of bytes in the file that nobody has looked at."""

    first: int
    count: int
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class _Global:
    """A function or class that the pickle names; it stands for its name, and is never called."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """What ``numpy.dtype`` would make."""

    code: str
    order: str = ""


@dataclass(slots=True)
class _Array:
    """What ``_reconstruct`` of numpy would make."""

    stored: StoredArray | None = None


@dataclass(slots=True)
class _Mapping:
    """A dictionary: its pairs, in order."""

    pairs: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])


_MARK = _Global("a mark")
_RECONSTRUCT, _NDARRAY, _DTYPE = _Global("_reconstruct"), _Global("numpy.ndarray"), _Global("numpy.dtype")
_ORDERED_DICT, _ENCODE = _Global("OrderedDict"), _Global("_codecs.encode")
_TUPLE, _BYTES = _Global("tuple"), _Global("bytes")
_GLOBALS: Mapping[str, _Global] = {
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _DTYPE,
    "collections.OrderedDict": _ORDERED_DICT,
    "_codecs.encode": _ENCODE,
    "builtins.tuple": _TUPLE,
    "__builtin__.tuple": _TUPLE,
    "builtins.bytes": _BYTES,
    "__builtin__.bytes": _BYTES,
}
"""Everything that the pickles of weights name."""


def table_of_contents(content: mmap | bytes) -> dict[str, StoredArray]:
    """List the arrays of a pickle by name without running it; whether the values fit their shapes is not looked at.

    ConversionError: it holds anything else than named arrays of numbers, or is damaged.
    """
    try:
        whole = _Walk(content).run()
        if not isinstance(whole, _Mapping):
            raise _not_an_array("all of it")
        named = dict(whole.pairs)
        slices = named.pop(_BIG_PARAMETERS, None)
        table = {name: _array_of(name, value) for name, value in named.items() if name not in _BOOKKEEPING}
        if slices is not None:
            _join_slices(table, slices)
    except (ValueError, IndexError, struct.error) as error:
        raise ConversionError(f"{_NO_WEIGHTS} ({error}): it is damaged or of another format, fetch it again") from error
    if not table:
        raise _not_an_array("nothing in it")
    if sum(count for each in table.values() for _, count in each.places) > len(content):
        raise ConversionError(f"{_NO_WEIGHTS}: it names the same values again and again")
    return table


def _not_an_array(what: str) -> ConversionError:
    return ConversionError(
        f"{what} is not an array; name the file with the network's parameters (model.pdparams), not the optimizer's "
        "(model.pdopt)"
    )


def _array_of(name: str, value: object) -> StoredArray:
    """An array by itself, or after the name of its variable, as ``paddle.save`` writes a single tensor."""
    if isinstance(value, tuple) and len(parts := cast("tuple[object, ...]", value)) == 2:
        value = parts[1]
    if not isinstance(value, _Array) or value.stored is None:
        raise _not_an_array(name)
    return value.stored


def _join_slices(table: dict[str, StoredArray], slices: object) -> None:
    """Put together the parameters that Paddle saved in slices."""
    # Source: paddle 3.2.2, ``framework/io_utils.py``: parameters over 1 GiB are cut for pickle's older protocols.
    for name, described in _pairs_of(slices):
        parts = dict(_pairs_of(described))
        names = parts.get("slices")
        shape = _shape_of(parts.get("OriginShape"))
        if not isinstance(names, list) or not names:
            raise ValueError(f"{_BIG_PARAMETERS} does not name the slices of {name}")
        arrays: list[StoredArray] = []
        for each in cast("list[object]", names):
            if not isinstance(each, str) or each not in table:
                raise ValueError(f"a slice of {name} is missing, or there twice")
            arrays.append(table.pop(each))
        first = arrays[0]
        if any((each.dtype, each.text, len(each.shape)) != (first.dtype, first.text, 1) for each in arrays):
            raise ValueError(f"the slices of {name} do not belong together")
        places = tuple(place for each in arrays for place in each.places)
        table[name] = StoredArray(first.dtype, shape, fortran=False, places=places, text=first.text)


def _pairs_of(value: object) -> list[tuple[str, object]]:
    if not isinstance(value, _Mapping):
        raise ValueError(f"{_BIG_PARAMETERS} is not a table")
    return value.pairs


def _shape_of(value: object) -> tuple[int, ...]:
    axes = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (None,)
    if len(axes) > _MOST_AXES or not all(type(axis) is int and 0 <= axis <= _LONGEST_AXIS for axis in axes):
        raise ValueError("an array has no shape that an array can have")
    return cast("tuple[int, ...]", axes)


class _Walk:
    """Follows the opcodes of a pickle with a stack and a memo of plain values; nothing in them can be called."""

    def __init__(self, content: mmap | bytes) -> None:
        self._content = content
        self._position = 0
        self._arrays = 0
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(_MOST_OPCODES):
            code = self._take(1)
            if code == b".":
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise ValueError(f"byte {self._position - 1}, {code!r}, has no place in weights")
            step(self)
        raise ValueError(f"it takes more than {_MOST_OPCODES} steps")

    def _take(self, count: int) -> bytes:
        found = self._content[self._position : self._position + count]
        if len(found) < count:
            raise IndexError(f"it ends at byte {len(self._content)}, in the middle of something")
        self._position += count
        return found

    def take_number(self, form: str) -> Any:  # noqa: ANN401 - int or float
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._content.find(b"\n", self._position, self._position + _LINE_BYTES)
        if end < 0:
            raise IndexError(f"the line at byte {self._position} has no end")
        return self._take(end + 1 - self._position)[:-1].decode("ascii")

    def _text(self, value: object) -> str:
        if not isinstance(value, _Bytes) or value.encoding is None:
            raise ValueError("something stands where a name should be")
        if value.count > _NAME_BYTES:
            raise ValueError(f"a name has {value.count} bytes, at most {_NAME_BYTES} are usual")
        return self._content[value.first : value.first + value.count].decode(value.encoding)

    def pop(self) -> object:
        if self._stack[-1] is _MARK:
            raise IndexError("a value is missing")
        return self._stack.pop()

    def above_mark(self) -> list[object]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise IndexError("a mark is missing")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def push_long(self) -> None:
        count = self.take_number("<B")
        if count > _INTEGER_BYTES:
            raise ValueError(f"a number has {count} bytes")
        self.push(int.from_bytes(self._take(count), "little", signed=True))

    def push_bytes(self, form: str, encoding: str | None) -> None:
        """Bytes or text, skipped; the form is that of their length."""
        count, first = self.take_number(form), self._position
        if not 0 <= count <= len(self._content) - first:
            raise IndexError(f"{count} bytes are announced at byte {first}, which are not there")
        self._position += count
        self.push(_Bytes(first, count, encoding))

    def skip_protocol(self) -> None:
        number = self.take_number("<B")
        if number > _NEWEST_PROTOCOL:
            raise ConversionError(f"pickle's protocol {number} is none that paddle.save writes: {_REMEDY}")

    def skip_frame(self) -> None:
        """The length of a frame, which only helps to read ahead."""
        if self.take_number("<Q") > len(self._content) - self._position:
            raise IndexError("a frame is longer than the file")

    def push_global(self) -> None:
        self._push_named(self._line(), self._line())

    def push_stacked_global(self) -> None:
        name, module = self._text(self.pop()), self._text(self.pop())
        self._push_named(module, name)

    def _push_named(self, module: str, name: str) -> None:
        known = _GLOBALS.get(f"{module}.{name}")
        if known is None:
            raise ConversionError(f"it wants to run {module}.{name}, which weights have no need of: {_REMEDY}")
        self.push(known)

    def push_tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(values[::-1]))

    def extend(self, values: list[object]) -> None:
        """Add to the list on top of the stack; names of slices are the only lists that matter."""
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError("values are added to something that is not a list")
        cast("list[object]", target).extend(
            self._text(each) if isinstance(each, _Bytes) and each.encoding else each for each in values
        )

    def set_items(self, values: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, _Mapping) or len(values) % 2:
            raise ValueError("names are added to something that is not a dictionary")
        for name, value in zip(values[::2], values[1::2], strict=True):
            target.pairs.append((self._text(name), value))

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def remember_next(self) -> None:
        self.remember(len(self._memo))

    def recall(self, place: int) -> None:
        if place not in self._memo:
            raise IndexError(f"place {place} of the memo is empty")
        self.push(self._memo[place])

    def reduce(self) -> None:
        """What would be a call: only those of weights are understood, and none is made."""
        arguments, called = self.pop(), self.pop()
        match called, cast("Any", arguments):
            case _Global("_reconstruct"), (_Global("numpy.ndarray"), (0,), _Bytes()):
                self._arrays += 1
                if self._arrays > _MOST_ARRAYS:
                    raise ValueError(f"it holds more than {_MOST_ARRAYS} arrays")
                self.push(_Array())
            case _Global("numpy.dtype"), (_Bytes() as code, False | 0, True | 1):
                dtype = _Dtype(self._text(code))
                if dtype.code not in _DTYPES:
                    raise ConversionError(f"it holds values of type {dtype.code!r}, which are not numbers: {_REMEDY}")
                self.push(dtype)
            case _Global("bytes"), ():
                self.push(_Bytes(0, 0))
            case _Global("OrderedDict"), ():
                self.push(_Mapping())
            case _Global("_codecs.encode"), (_Bytes(first, count, "utf-8"), _Bytes() as to) if (
                self._text(to) == "latin1"
            ):
                self.push(_Bytes(first, count, "latin1 in utf-8"))
            case _Global("tuple"), (tuple(),):
                self.push(cast("Any", arguments)[0])
            case _:
                name = called.name if isinstance(called, _Global) else "something that is not a function"
                raise ConversionError(f"it wants to run {name} in a way that weights have no need of: {_REMEDY}")

    def build(self) -> None:
        """The state of what a call would have made."""
        state, target = self.pop(), self._stack[-1]
        match target, cast("Any", state):
            case _Dtype(order=""), (3, _Bytes() as order, None, None, None, -1, -1, 0):
                target.order = self._text(order)
                if target.order not in _BYTE_ORDERS:
                    raise ValueError(f"{target.order!r} is not a byte order")
            case _Array(None), (1, shape, _Dtype() as dtype, bool() as fortran, _Bytes() as values) if dtype.order:
                text = values.encoding == "latin1 in utf-8"
                place = (values.first, values.count)
                target.stored = StoredArray(dtype.order + dtype.code, _shape_of(shape), fortran, (place,), text)
            case _:
                raise ConversionError(f"it changes something that weights have no need to change: {_REMEDY}")


_STEPS: Mapping[bytes, Callable[[_Walk], None]] = {
    b"\x80": _Walk.skip_protocol,
    b"\x95": _Walk.skip_frame,
    b"(": lambda walk: walk.push(_MARK),
    b"N": lambda walk: walk.push(None),
    b"\x88": lambda walk: walk.push(True),
    b"\x89": lambda walk: walk.push(False),
    b"J": lambda walk: walk.push(walk.take_number("<i")),
    b"K": lambda walk: walk.push(walk.take_number("<B")),
    b"M": lambda walk: walk.push(walk.take_number("<H")),
    b"G": lambda walk: walk.push(walk.take_number(">d")),
    b"\x8a": _Walk.push_long,
    b"\x8c": lambda walk: walk.push_bytes("<B", "utf-8"),
    b"X": lambda walk: walk.push_bytes("<I", "utf-8"),
    b"\x8d": lambda walk: walk.push_bytes("<Q", "utf-8"),
    b"C": lambda walk: walk.push_bytes("<B", None),
    b"B": lambda walk: walk.push_bytes("<I", None),
    b"\x8e": lambda walk: walk.push_bytes("<Q", None),
    b"U": lambda walk: walk.push_bytes("<B", "latin1"),
    b"T": lambda walk: walk.push_bytes("<i", "latin1"),
    b"c": _Walk.push_global,
    b"\x93": _Walk.push_stacked_global,
    b")": lambda walk: walk.push(()),
    b"\x85": lambda walk: walk.push_tuple(1),
    b"\x86": lambda walk: walk.push_tuple(2),
    b"\x87": lambda walk: walk.push_tuple(3),
    b"t": lambda walk: walk.push(tuple(walk.above_mark())),
    b"]": lambda walk: walk.push([]),
    b"a": lambda walk: walk.extend([walk.pop()]),
    b"e": lambda walk: walk.extend(walk.above_mark()),
    b"}": lambda walk: walk.push(_Mapping()),
    b"s": _Walk.set_item,
    b"u": lambda walk: walk.set_items(walk.above_mark()),
    b"q": lambda walk: walk.remember(walk.take_number("<B")),
    b"r": lambda walk: walk.remember(walk.take_number("<I")),
    b"\x94": _Walk.remember_next,
    b"h": lambda walk: walk.recall(walk.take_number("<B")),
    b"j": lambda walk: walk.recall(walk.take_number("<I")),
    b"R": _Walk.reduce,
    b"b": _Walk.build,
}
"""The opcodes that Python's pickle module writes for named arrays."""


def _list(path: Path) -> dict[str, tuple[object, ...]]:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return {name: astuple(stored) for name, stored in table_of_contents(content).items()}

"""A PIR program as Paddle 3 saves it: JSON, read and changed without Paddle."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from engine.errors import ConversionError

FREE = -1
"""The length of an axis that is known only when the network runs."""

_ELEMENTS = {
    "t_f16": "float16", "t_f32": "float32", "t_f64": "float64", "t_i32": "int32", "t_i64": "int64", "t_bool": "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """What an operator makes."""

    number: int  # its identity within the program
    type: dict[str, Any]  # its entry as the program spells it

    @property
    def dtype(self) -> str:
        """Paddle's name of the element type; empty for what is no tensor."""
        return _ELEMENTS.get(_kind(self.type["D"][0]), "") if _kind(self.type) == "t_dtensor" else ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, `FREE` where they are known only when the network runs."""
        return tuple(self.type["D"][1])


class Operation:
    """One operator of a program; a view of its JSON entry, in which changes are made."""

    __slots__ = ("entry",)

    def __init__(self, entry: dict[str, Any]) -> None:
        self.entry = entry

    @property
    def kind(self) -> str:
        """Name of the operator without its dialect, as in `conv2d`."""
        return _kind(self.entry)

    @property
    def place(self) -> str:
        """The layer that it belongs to, as in `/ENet/InitialBlock/`, or, as Paddle 2 names none, what it makes."""
        numbers = ", ".join(f"%{value.number}" for value in self.outputs)
        return str(self.get("struct_name") or numbers)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the values that it takes; 0 stands for one that is absent."""
        return tuple(each["%"] for each in self.entry.get("I", ()))

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values that it makes; a parameter's is its own entry."""
        made = self.entry.get("O", [])
        entries = cast("list[dict[str, Any]]", [made] if isinstance(made, dict) else made)
        return tuple(Value(each["%"], each["TT"]) for each in entries if "TT" in each)

    @property
    def blocks(self) -> tuple[dict[str, Any], ...]:
        """The blocks of a branch or a loop."""
        return tuple(block for region in self.entry.get("regions", ()) for block in region["blocks"])

    @property
    def arrays_written(self) -> frozenset[int]:
        """Numbers of the arrays that it appends to, itself or inside."""
        return frozenset(each.inputs[0] for each in [self, *self.inside()] if each.kind == "array_write_")

    def inside(self) -> Iterator["Operation"]:
        """Go through the operators of its blocks."""
        for block in self.blocks:
            yield from _nested(block["ops"])

    def get(self, name: str) -> Any:  # noqa: ANN401 - what JSON holds
        """Read an attribute: a bool, number, text, or list of these."""
        found = (each["AT"].get("D") for each in self._attributes() if each["N"] == name)
        return _plain(next(found, None))

    def put(self, name: str, value: object) -> None:
        """Change an attribute that is there; a list stays as long as it is."""
        attribute = next(each for each in self._attributes() if each["N"] == name)["AT"]
        if isinstance(value, list):
            kept = attribute["D"]
            attribute["D"] = [{**old, "D": new} for old, new in zip(kept, cast("list[Any]", value), strict=True)]
        else:
            attribute["D"] = value

    def _attributes(self) -> list[dict[str, Any]]:
        # A parameter's attributes are no list of names.
        return [each for each in self.entry.get("A", ()) if isinstance(each, dict) and "N" in each]


class Program:
    """The operators of a network, of which `operations` are those of the top level, in the order in which they run."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        (region,) = content["program"]["regions"]
        (self._block,) = region["blocks"]
        self.operations = [Operation(entry) for entry in self._block["ops"]]
        self._makers = {value.number: each for each in self.operations for value in each.outputs}
        self._values = {value.number: value for each in self.operations for value in each.outputs}
        self._used = {number for each in _nested(self._block["ops"]) for number in each.inputs}
        self._last_number = max(value.number for each in self.everywhere() for value in each.outputs)
        self._last_output = max(each.get("col") for each in self.operations if each.kind == "fetch")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a program; ConversionError if it is no PIR JSON."""
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ConversionError(f"{path.name} is not a PIR program of Paddle 3 ({error!r})") from error

    def write(self, path: Path) -> None:
        """Write the program with the operators that `operations` lists."""
        self._block["ops"] = [each.entry for each in self.operations]
        # Compact, as Paddle writes it: the readers of bundles count parameters in the text.
        path.write_text(json.dumps(self._content, separators=(",", ":")), encoding="utf-8")

    def drop_unused(self) -> None:
        """Leave out the operators that no output of the program depends on; parameters stay."""
        needed: set[int] = set()
        kept: list[Operation] = []
        for operation in reversed(self.operations):
            made = {value.number for value in operation.outputs} | operation.arrays_written
            if operation.kind in {"fetch", "p"} or made & needed:
                kept.append(operation)
                needed.update(operation.inputs, *(each.inputs for each in operation.inside()))
        self.operations = kept[::-1]

    def new_number(self) -> int:
        """Name a value that an added operator makes."""
        self._last_number += 1
        return self._last_number

    def new_output(self) -> int:
        """Name an output that is added."""
        self._last_output += 1
        return self._last_output

    def everywhere(self) -> Iterator[Operation]:
        yield from _nested(self._block["ops"])

    def value(self, number: int) -> Value:
        return self._values[number]

    def maker(self, number: int) -> Operation | None:
        """Look up the operator of the top level that makes a value, if there is one."""
        return self._makers.get(number)

    def is_used(self, value: Value) -> bool:
        """Tell whether any operator takes a value."""
        return value.number in self._used

    def constant(self, number: int) -> list[int] | None:
        """Read a list of whole numbers that the program states; None if they are known only when the network runs."""
        maker = self._makers.get(number)
        return maker.get("value") if maker is not None and maker.kind == "full_int_array" else None

    def parts(self, number: int) -> tuple[int, ...]:
        """Tell which tensors hold a list of whole numbers, which is a tensor, or several that are combined."""
        maker = self._makers.get(number)
        return maker.inputs if maker is not None and maker.kind == "combine" else (number,)

    def scalar(self, number: int) -> float | None:
        """Read a single number that the program states; None if it is known only when the network runs."""
        maker = self._makers.get(number)
        return maker.get("value") if maker is not None and maker.kind == "full" else None


def _kind(entry: dict[str, Any]) -> str:
    return str(entry["#"]).rpartition(".")[2]


def _plain(data: Any) -> Any:  # noqa: ANN401 - what JSON holds
    if isinstance(data, dict):
        return _plain(cast("dict[str, Any]", data).get("D"))
    if isinstance(data, list):
        return [_plain(each) for each in cast("list[Any]", data)]
    return data


def _nested(entries: Iterable[dict[str, Any]]) -> Iterator[Operation]:
    for entry in entries:
        operation = Operation(entry)
        yield operation
        yield from operation.inside()

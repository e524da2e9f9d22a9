"""YAML and JSON that somebody wrote: bounded in size, in any Unicode encoding that its first bytes name, no key twice.

Editors of Windows put a byte order mark before UTF-8 and write UTF-16: both are read. Text in an older encoding is
refused with the byte that shows it, because a wrong guess would change the names of classes.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import yaml

from engine.system.files import open_to_read
from engine.system.text import legible
from engine.system.validation import fault_of, states_value

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

MOST_YAML_BYTES: Final = 256 << 10
"""PyYAML takes seconds, and a thousand times the memory, for a text of this size."""
MOST_JSON_BYTES: Final = 4 << 20
MOST_VALUES: Final = 1 << 18
_NUMBER_BITS: Final = 64
_BYTE_ORDER_MARKS: Final = (
    # The mark of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF8, "UTF-8-sig"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SHOWN_CHARACTERS: Final = 80
_SHORT = Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHOWN_CHARACTERS
_Key = TypeVar("_Key", bound=Hashable)
_Number = TypeVar("_Number", int, float)
_Value = TypeVar("_Value")


class SettingsError(ValueError):
    """A file of settings cannot be read; the message begins with a verb, for the file's name to be put before it."""


def shown_value(value: object) -> str:
    """Show a value on one line of at most 80 characters; a stranger's may be of any depth and length."""
    return _SHORT.repr(value)[:_SHOWN_CHARACTERS]


def first_problem(error: "ValidationError") -> str:
    """Say which field of a file is the first wrong one, what is wrong with it, and its value if it has one."""
    first = error.errors()[0]
    field = legible(".".join(map(str, first["loc"])), _SHOWN_CHARACTERS) or "its content"
    value = f", but it is {shown_value(first['input'])}" if states_value(first) else ""
    return f"{field}: {fault_of(first)}{value}"


def read_text(path: Path, most_bytes: int) -> str:
    """Read a text file: UTF-8, or what its byte order mark names.

    SettingsError: it is missing, in another encoding, or too large, which is found before it is read.
    """
    try:
        with open_to_read(path) as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise SettingsError(f"cannot be read ({error.strerror or error})") from error
    if len(content) > most_bytes:
        raise SettingsError(f"is larger than {most_bytes} bytes: remove everything that is not a setting")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "UTF-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"cannot be read as {encoding.removesuffix('-sig')} text: byte 0x{content[error.start]:02x} in line {line} "
            f"(offset {error.start}) belongs to another encoding: save the file as UTF-8"
        ) from error


def read_json(path: Path, most_bytes: int = MOST_JSON_BYTES) -> object:
    """Read a JSON file; SettingsError, as of `read_text`, also if it is no JSON, or has a key twice."""
    text = read_text(path, most_bytes)
    try:
        return json.loads(text, object_pairs_hook=object_of_unique_keys)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"is not valid JSON: {error}{_hint_for(text)}") from error


def read_record(path: Path, kind: "TypeAdapter[_Value]", most_bytes: int = MOST_JSON_BYTES) -> _Value:
    """Read a JSON file of a known form; SettingsError, as of `read_json`, also if it holds something else."""
    from pydantic import ValidationError

    try:
        return kind.validate_python(read_json(path, most_bytes))
    except ValidationError as error:
        raise SettingsError(f"holds something else ({first_problem(error)})") from error


def object_of_unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of JSON; for `object_pairs_hook` of the standard library's reader.

    Of two equal keys one reader takes the first and another the last, so that programs would disagree on the content: a
    key that is there twice is a ValueError.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = _repeated([key for key, _ in pairs])
        raise ValueError(f"key {shown_value(twice)} is there twice")
    return found


def read_yaml(path: Path, *, as_text: bool = False) -> object:
    """Read a YAML file of one document with PyYAML's safe loader, and without merges, which it copies without end.

    `as_text` gives every scalar as it is written: `no` stays `no` instead of False, `012` stays `012`. SettingsError:
    it cannot be read, is no YAML, has a key twice, unfolds to more than any exporter writes, or holds a number that
    YAML 1.1 takes for another than it looks like.
    """
    text = read_text(path, MOST_YAML_BYTES)
    try:
        loader = _TextLoader(text) if as_text else _StrictLoader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML lets its own slips through: `!!int ""` is an IndexError, `!!bool maybe` a KeyError.
        raise SettingsError(f"is not valid YAML: {error}{_hint_for(text)}") from error
    _refuse_swollen(content)
    return content


def _hint_for(text: str) -> str:
    return " (it holds NUL bytes, as UTF-16 without a byte order mark does: save it as UTF-8)" if "\0" in text else ""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without two things: the last of two equal keys wins, and merges are copied without end."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "write it without merges (<<)", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = _repeated(keys)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {shown_value(twice[1])} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return _refuse_misread(node, super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return _refuse_misread(node, super().construct_yaml_float(node))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_yaml_float)


def _refuse_misread(node: yaml.ScalarNode, number: _Number) -> _Number:
    """YAML 1.1 takes 012 for the octal 10 and 1:30 for 90, which YAML 1.2 and most people do not."""
    digits = str(node.value).lstrip("+-")
    if ":" in digits or re.match("0[0-9_]", digits):
        raise yaml.constructor.ConstructorError(
            None, None, f"{shown_value(node.value)} is {shown_value(number)} in YAML 1.1: write that", node.start_mark
        )
    return number


class _TextLoader(_StrictLoader):
    """The same, but every scalar is the text that is written."""


_TextLoader.yaml_implicit_resolvers = {}


def _repeated(keys: Sequence[_Key]) -> _Key | None:
    return next((key for key, count in Counter(keys).items() if count > 1), None)


def _refuse_swollen(content: object) -> None:
    """Refuse aliases that stand for more than any exporter writes, or for themselves, and numbers without end."""
    pending: list[object] = [content]
    size = 0
    while pending:
        value = pending.pop()
        size += 1 + (len(value) if isinstance(value, str | bytes | list | tuple | dict | set) else 0)  # pyright: ignore[reportUnknownArgumentType]
        if size > MOST_VALUES:
            raise SettingsError(f"unfolds to more than {MOST_VALUES} values: write it without YAML aliases")
        if isinstance(value, int) and value.bit_length() > _NUMBER_BITS:
            raise SettingsError(
                f"holds a number of {value.bit_length()} bits: no setting needs more than {_NUMBER_BITS}"
            )
        if isinstance(value, dict):
            pending += cast("dict[object, object]", value)
            pending += cast("dict[object, object]", value).values()
        elif isinstance(value, list | tuple | set):
            pending += cast("Sequence[object]", value)

"""Flags of a command from a file (`--config`), and into one (`--write-config`).

The file is TOML: a line `name = value` for each flag, by its name without the dashes.
"""

import json
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from engine.errors import OptionError
from engine.system.files import write_atomically
from engine.system.text import legible
from service.commands.terminal import errors_end_the_command

_MOST_BYTES = 1 << 20
_OWN = frozenset({"config", "write_config", "help"})


def _take_flags(context: typer.Context, path: Path | None) -> Path | None:
    """Let what a file says stand where the command line says nothing."""
    if path is not None:
        with errors_end_the_command():
            context.default_map = dict(_flags_in(path, context))
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with flags of this command, as name = value; flags on the command line take precedence.",
        is_eager=True,
        callback=_take_flags,
        metavar="FILE",
    ),
]
WriteConfigOption = Annotated[
    Path | None,
    typer.Option("--write-config", help="Write the flags of this run to a file for --config.", metavar="FILE"),
]


def write_flags(path: Path, context: typer.Context) -> None:
    """Write the flags that a command was given, by its command line or a file; OptionError if the file exists."""
    if os.path.lexists(path):
        raise OptionError(f"{path} exists: name a new file, or remove it", option="write_config")
    lines = [f"# pseg {context.info_name}"]
    for each in _options(context):
        source, value = context.get_parameter_source(each.name), context.params[each.name]
        if source is not None and source.name != "DEFAULT":
            lines.append(f"{str(each.opts[0]).lstrip('-')} = {json.dumps(_plain(value), ensure_ascii=False)}")
    try:
        content = ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError as error:
        raise OptionError(
            "a flag's value is no text in UTF-8, which the file would be: rename the file that it names",
            option="write_config",
        ) from error
    write_atomically(path, content)


def _flags_in(path: Path, context: typer.Context) -> Iterator[tuple[str, Any]]:
    import tomllib

    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        content = tomllib.loads(text.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{path} cannot be read as TOML ({error})", option="config") from error
    if len(text) > _MOST_BYTES:
        raise OptionError(
            f"{path} is larger than {_MOST_BYTES >> 20} MiB: it is not a configuration file", option="config"
        )
    known = {flag.lstrip("-"): each for each in _options(context) for flag in each.opts}
    for name, value in content.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise OptionError(
                f"{path}: {legible(name)} is not a flag of pseg {context.info_name}{hint}", option="config"
            )
        try:
            yield known[name].name, _as_typed(value, known[name])
        except TypeError as error:
            raise OptionError(f"{path}: {name}: {error}", option="config") from error


def _as_typed(value: object, flag: Any) -> Any:  # noqa: ANN401
    """A value as the command line would give it."""
    if flag.is_flag:
        if not isinstance(value, bool):
            raise TypeError("write true or false")
        return value
    if flag.multiple or flag.nargs != 1:
        if not isinstance(value, list):
            raise TypeError("write a list, [1, 2]")
        return [_text(each) for each in cast("list[object]", value)]
    if isinstance(value, list):
        return ",".join(_text(each) for each in cast("list[object]", value))
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError("write a number or a text in quotation marks")
    return str(value)


def _plain(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in cast("Sequence[object]", value)]
    return value if isinstance(value, bool | int | float) else str(value)


def _options(context: typer.Context) -> list[Any]:
    return [each for each in context.command.params if each.param_type_name == "option" and each.name not in _OWN]

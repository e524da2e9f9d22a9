"""Flags of the command line, made from the groups of options that a command takes."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from engine.declaration import DeclaredOption, assembled, declared_options, is_group
from service.commands.config_file import ConfigOption, WriteConfigOption, write_flags
from service.commands.terminal import errors_end_the_command, flag_of

_SHORT_FORMS = {"flip_horizontal": "--flip", "target": "--for"}


def with_flags(
    *, without: Collection[str] = (), from_file: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each option of the groups that it takes, and it its groups made of the flags.

    What is wrong with them ends it. `from_file`: a file may hold the flags, too (`--config`).
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        kinds = get_type_hints(command, include_extras=True)
        flags: dict[str, inspect.Parameter] = {}
        for name, parameter in inspect.signature(command).parameters.items():
            if not is_group(kinds[name]):
                flags[name] = parameter.replace(annotation=kinds[name], kind=inspect.Parameter.KEYWORD_ONLY)
                continue
            for each in declared_options(kinds[name]):
                if each.name not in without:
                    # What two groups know by one name is one flag.
                    flags.setdefault(each.name, _flag(each))

        if from_file:
            flags |= _FLAGS_OF_FILES

        def call(**given: Any) -> None:  # noqa: ANN401
            with errors_end_the_command(flags):
                arguments = {
                    name: assembled(kind, given) if is_group(kind) else given[name]
                    for name, kind in kinds.items()
                    if name != "return"
                }
                if from_file and given["write_config"] is not None:
                    write_flags(given["write_config"], given["context"])
                command(**arguments)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__annotations__ = {name: each.annotation for name, each in flags.items()}
        call.__signature__ = inspect.Signature(list(flags.values()))  # pyright: ignore[reportFunctionMemberAccess]
        return call

    return decorate


_FLAGS_OF_FILES = {
    name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    for name, kind, default in (
        ("config", ConfigOption, None),
        ("write_config", WriteConfigOption, None),
        ("context", typer.Context, inspect.Parameter.empty),
    )
}


def _flag(declared: DeclaredOption) -> inspect.Parameter:
    told, kind, default = declared.declaration, declared.kind, declared.default
    if told.none is not None:
        kind, default = Literal[declared.choices], told.none
    elif told.repeatable:
        kind, default = list[str if told.parse else get_args(kind)[0]] | None, None
    elif told.parse is not None and not _is_pair(kind):
        kind, default = (str | None, None) if default is not MISSING else (str, MISSING)
    names = [flag_of(declared.name)]
    if declared.name in _SHORT_FORMS:
        names.append(_SHORT_FORMS[declared.name])
    panel = declared.group.title
    flag = typer.Option(*names, help=told.text, metavar=told.metavar, rich_help_panel=panel)
    return inspect.Parameter(
        declared.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, flag],
    )


def _is_pair(kind: Any) -> bool:  # noqa: ANN401
    """Two values behind one flag."""
    return any(get_origin(each) is tuple and Ellipsis not in get_args(each) for each in (kind, *get_args(kind)))

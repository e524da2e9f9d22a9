"""Writes docs/commands.md, the reference of the command line, from the commands themselves.

`python -m demo.command_reference` writes the page again.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import typer

from service.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
_INTRODUCTION = """# Commands

This page lists every command and every option, to look one up. It is made from the commands by `make api`; `pseg
COMMAND --help` shows the same. [Segmenting photographs](predict.md#exit-statuses) says what the exit statuses mean.
"""


def page() -> str:
    """The page as it should be."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("pseg", [], resilient_parsing=True)
    names = group.list_commands(context)
    parts = [_INTRODUCTION, "\n".join(f"- [pseg {name}](#pseg-{name}): {_summary(group, name)}" for name in names)]
    for name in names:
        parts += _command(group.get_command(context, name), name, context)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _summary(group: Any, name: str) -> str:  # noqa: ANN401
    return _prose(str(group.get_command(None, name).help).split("\n", maxsplit=1)[0])


def _command(command: Any, name: str, parent: Any) -> list[str]:  # noqa: ANN401
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    parameters = [each for each in command.params if each.name != "help"]
    arguments = [each.metavar or each.name.upper() for each in parameters if each.param_type_name == "argument"]
    parts = [f"## pseg {name}", _prose(str(command.help)), f"`{' '.join(['pseg', name, '[OPTIONS]', *arguments])}`"]
    panels: dict[str, list[str]] = defaultdict(list)
    for each in parameters:
        panels[_panel(each)].append(_row(*each.get_help_record(context)))
    return parts + ["\n".join([f"| {panel} | meaning |", "| --- | --- |", *rows]) for panel, rows in panels.items()]


def _panel(parameter: Any) -> str:  # noqa: ANN401
    if parameter.param_type_name == "argument":
        return "Arguments"
    return parameter.rich_help_panel or "Options"


def _row(usage: str, text: str) -> str:
    return f"| `{_cell(usage)}` | {_prose(_cell(text))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    return text.replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

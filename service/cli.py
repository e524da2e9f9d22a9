"""The command `pseg`."""

import io
import logging
import os
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer import core

from service.commands.terminal import messages

_COMMANDS = (
    "predict",
    "merge",
    "manifest",
    "scale",
    "inspect",
    "convert",
    "verify",
    "evaluate",
    "bench",
    "tune",
    "export",
    "import",
    "doctor",
    "demo",
)
"""Each is a file of `service.commands` with a function of its name (`import_` for import)."""


class _RichMessages(logging.Handler):
    """Log records on stderr; what renders them is loaded with the first one."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.logging import RichHandler

        RichHandler(console=messages(), show_path=False, show_time=False).handle(record)


class _LoadedWhenCalled(core.TyperGroup):
    """A group that imports a command's file only to run that command or to tell of it."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self.commands: dict[str, Any] = dict.fromkeys(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        if cmd_name not in self.commands:
            return None
        place = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command.command(cmd_name)(getattr(import_module(f"service.commands.{place}"), place))
        return typer.main.get_command(command)


app = typer.Typer(
    name="pseg",
    cls=_LoadedWhenCalled,
    help="Segment photographs with PaddleSeg model bundles, on Paddle Inference or ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from service.version import banner

        typer.echo(banner())
        raise typer.Exit


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what is done, on stderr")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="say which build this is", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Set up logging."""
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[_RichMessages()], format="%(message)s")
    logging.captureWarnings(capture=True)


def _keep_stdout() -> None:
    """Keep standard output for results: what vendors' libraries print there from their own C++ goes to stderr."""
    sys.stdout.flush()
    ours = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding, buffering=1)


def main() -> None:
    """Run the command line."""
    _keep_stdout()
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that no encoding knows; one such name must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()

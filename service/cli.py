"""The command `pseg`."""

import gc
import logging
import os
import sys
import traceback
from importlib import import_module
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer import core

from engine.system.text import legible
from service.commands.terminal import CommandStream, ExitStatus, errors_end_the_command, messages, say, tell
from service.logs import legible_trace, make_records_legible, progress_log

_COMMANDS = (
    "predict", "reproduce", "merge", "summarize", "sample", "annotate", "manifest", "scale", "inspect", "convert",
    "pack", "verify", "evaluate", "bench", "tune", "export", "import", "doctor", "demo",
)  # fmt: skip
"""Each is a file of `service.commands` with a function of its name (`import_` for import)."""


_NAMED_AT_MOST = 3
_NAME_LENGTH = 100
_RESUMABLE = frozenset({"predict", "scale"})


class _RichMessages(logging.Handler):
    """Log records on stderr; what renders them is loaded with the first one."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.logging import RichHandler

        RichHandler(console=messages(), show_path=False, show_time=False).handle(record)


class _TakesEachOptionOnce(core.TyperCommand):
    """A command whose options have one value; of two, the parser would drop the first in silence.

    Of arguments that it does not take, such as those of a pattern without quotation marks, it names the first.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        _, _, given = self.make_parser(ctx).parse_args(args=[*args])
        for each in self.params:
            if isinstance(each, core.TyperOption) and not (each.multiple or each.is_flag) and given.count(each) > 1:
                message = "it is given more than once: give it once, and separate the values of a list by commas"
                raise typer.BadParameter(message, ctx=ctx, param=each)
        ctx.allow_extra_args = True
        extra = super().parse_args(ctx, args)
        if extra:
            named = ", ".join(legible(each, _NAME_LENGTH) for each in extra[:_NAMED_AT_MOST])
            more = f" and {len(extra) - _NAMED_AT_MOST} more" if len(extra) > _NAMED_AT_MOST else ""
            ctx.fail(
                f"Unexpected arguments: {named}{more}. An option takes one value each time it is given: put a pattern "
                "into quotation marks ('photos/*.jpg'), or name the folder"
            )
        return extra


class _LoadedWhenCalled(core.TyperGroup):
    """A group that imports a command's file only to run that command or to tell of it."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self.commands: dict[str, Any] = dict.fromkeys(_COMMANDS)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in _RESUMABLE
            say(f"interrupted{'; with --resume the same command goes on where it was' if resumable else ''}")
            raise typer.Exit(ExitStatus.INTERRUPTED) from None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        if cmd_name not in self.commands:
            return None
        place = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command.command(cmd_name, cls=_TakesEachOptionOnce)(getattr(import_module(f"service.commands.{place}"), place))
        if not gc.isenabled():  # see `service.start`; what was loaded stays, and later collections need not look at it
            gc.freeze()
            gc.enable()
        return typer.main.get_command(command)


app = typer.Typer(
    name="pseg",
    cls=_LoadedWhenCalled,
    help="Segment photographs with PaddleSeg model bundles, on Paddle Inference or ONNX Runtime.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from service.version import banner

        tell(banner())
        raise typer.Exit


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every step on stderr.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and the commit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Set up logging."""
    level = logging.DEBUG if verbose else logging.WARNING
    make_records_legible()
    logging.basicConfig(level=level, handlers=[_RichMessages()], format="%(message)s")
    progress_log.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def _take_over_streams() -> None:
    """Keep standard output for ourselves: what vendors' libraries print there from their own C++ goes to stderr."""
    encodings = ["utf-8" if stream is None else stream.encoding for stream in (sys.__stdout__, sys.__stderr__)]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = CommandStream(ours, "standard output", encodings[0])
    sys.stderr = CommandStream(os.dup(2), "standard error", encodings[1])


def main() -> None:
    """Run the command line."""
    _take_over_streams()
    try:
        with errors_end_the_command():
            try:
                app()
            finally:
                sys.stdout.flush()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except OSError:
        # Standard error itself: there is nowhere left to say it.
        sys.exit(ExitStatus.WRONG_REQUEST)
    except Exception:
        # A bug; its trace may hold names from outside.
        sys.stderr.write(legible_trace(traceback.format_exc().rstrip("\n")) + "\n")
        sys.exit(ExitStatus.INCOMPLETE)

"""What the commands share: the arguments that many take, messages, JSON lines, and how a command ends."""

import json
import logging
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import BundleError, ConversionError, EngineError, ModelLoadError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from benchmarks.tables import Table


_log = logging.getLogger(__name__)


class ExitStatus(IntEnum):
    """How every command ends."""

    DONE = 0
    INCOMPLETE = 1
    """Some or all images failed, or an accuracy limit was missed."""
    WRONG_REQUEST = 2
    UNUSABLE_MODEL = 3


def exit_status_of(error: EngineError) -> ExitStatus:
    """Choose the exit status of an error that ends a command.

    Args:
        error: what was raised.

    Returns:
        1 for a missed accuracy limit; 3 for bundle, model and conversion; 2 for everything that was asked for and
        cannot be had.
    """
    from converters.parity import ParityError

    if isinstance(error, ParityError):
        return ExitStatus.INCOMPLETE
    if isinstance(error, BundleError | ModelLoadError | ConversionError):
        return ExitStatus.UNUSABLE_MODEL
    return ExitStatus.WRONG_REQUEST


@cache
def messages() -> "Console":
    """The console on stderr, loaded when there is something to say.

    Returns:
        Always the same.
    """
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def errors_end_the_command() -> Generator[None]:
    """Turn an error of the engine or of the machine's files into a message on stderr and an exit status."""
    try:
        yield
    except EngineError as error:
        messages().print(f"[bold red]{type(error).__name__}[/]: ", end="")
        messages().print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_status_of(error)) from error
    except OSError as error:
        # Of this machine: a disk that is full or may not be written to, too many open files. It names the file.
        _log.debug("broken off", exc_info=error)
        messages().print(f"[bold red]{type(error).__name__}[/]: ", end="")
        messages().print(f"{error}: make room or name another place", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(ExitStatus.WRONG_REQUEST) from error


@contextmanager
def step_shown(first: str) -> Generator[Callable[[str], None]]:
    """Show on a terminal what is being done.

    Args:
        first: the first step.

    Yields:
        Takes the next one; without effect where nobody looks.
    """
    if not messages().is_terminal:
        yield lambda _step: None
        return
    from rich.markup import escape

    with messages().status(first) as status:
        yield lambda step: status.update(escape(step))


def wide_console() -> "Console":
    """Make a console on stdout for tables.

    Returns:
        A narrow terminal wraps cells; where nobody looks at a width, nothing is wrapped.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240)


def rich_table(title: str, table: "Table") -> "RichTable":
    """Lay out a table for a terminal.

    Args:
        title: stands above it.
        table: cells; the first column is text, the others are figures.

    Returns:
        What a console prints.
    """
    from rich.markup import escape
    from rich.table import Table as RichTable

    laid_out = RichTable(title=title)
    for index, name in enumerate(table.header):
        laid_out.add_column(escape(name), justify="right" if index else "left")
    for row in table.rows:
        laid_out.add_row(*map(escape, row))
    return laid_out


BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="model bundle: .tgz, .tar, .zip or folder")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")]
CvConfigOption = Annotated[
    Path | None, typer.Option("--cv-config", help="JSON that names the classes and their colours (docs/export.md)")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache-dir", help="converted models and engines; default: the user's cache folder")
]


def print_json(record: object) -> None:
    """Print one line of JSON on stdout.

    Args:
        record: what JSON can hold.
    """
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def tell_totals(summary: Mapping[str, Any], place: str) -> None:
    """Tell how a collection went: totals on stdout, failures on stderr.

    Args:
        summary: as `service.merging.totals` makes it.
        place: where the results lie.
    """
    counts = summary["images"]
    typer.echo(f"{counts['succeeded']} of {counts['total']} images segmented -> {place}")
    for each in summary["cover"]:
        typer.echo(f"  {each['name']} {each['cover']:.1%}")
    for each in summary["failures"]:
        text = f"failed: {each['image']}: {each['reason']}"
        messages().print(text, style="red", markup=False, highlight=False, soft_wrap=True)

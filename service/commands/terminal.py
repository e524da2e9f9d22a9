"""What the commands share: the arguments that many take, messages, JSON lines, and how a command ends."""

import codecs
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import BundleError, ConversionError, EngineError, ModelLoadError, OptionError, message_of
from engine.quantities import shown_cm2, shown_percent
from engine.system.files import unused_folders_removed, write_atomically
from engine.system.text import json_text, legible
from service.commands.groups import STANDARD_OUTPUT
from service.results.totals import counts_nothing

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.results.markdown import Table


_log = logging.getLogger(__name__)
_NAME_LENGTH = 200
_MESSAGE_LENGTH = 4000
_UNLIMITED = 1 << 20
_NO_BREAK = "\u00a0"
_PERCENT_ENCODING = "pseg-percent-encoding"


class ExitStatus(IntEnum):
    """How every command ends."""

    DONE = 0
    INCOMPLETE = 1
    """Some or all images failed, a table or a page could not be written, or an accuracy limit was missed."""
    WRONG_REQUEST = 2
    UNUSABLE_MODEL = 3
    INTERRUPTED = 130
    """By Ctrl-C: what a shell reports of SIGINT."""
    READER_GONE = 141
    """Who read the output closed it (`pseg … | head -n 1`): what a shell reports of SIGPIPE."""


def exit_status_of(error: EngineError) -> ExitStatus:
    """Choose the exit status of an error that ends a command.

    1 for a missed accuracy limit, also of an INT8 model that is refused for it; 3 for bundle, model and conversion; 2
    for everything that was asked for and cannot be had.
    """
    from converters.parity import ParityError
    from converters.precision.quantization import QuantizationError

    if isinstance(error, ParityError | QuantizationError):
        return ExitStatus.INCOMPLETE
    if isinstance(error, BundleError | ModelLoadError | ConversionError):
        return ExitStatus.UNUSABLE_MODEL
    return ExitStatus.WRONG_REQUEST


class CommandStream(io.TextIOWrapper):
    """Standard output or standard error of a command.

    What its encoding does not know is written as bytes, `%C3%A9`. Who closes it ends the command, quietly, and whatever
    it was doing is put away as at any other end.
    """

    def __init__(self, descriptor: int, name: str, encoding: str) -> None:
        codecs.register_error(_PERCENT_ENCODING, _percent_encoded)
        super().__init__(
            os.fdopen(descriptor, "wb"), encoding=encoding, errors=_PERCENT_ENCODING, newline="", line_buffering=True
        )
        self._told_as = name

    def write(self, text: str, /) -> int:
        """Write text; SystemExit if nobody reads it any more, and an OSError names the stream."""
        with self._given_up():
            return super().write(text)

    def flush(self) -> None:
        """Write what waits; errors as of `write`."""
        with self._given_up():
            super().flush()

    @contextmanager
    def _given_up(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            # What waits is written once more when the process ends, and must not fail again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(ExitStatus.READER_GONE) from error
            error.filename = self._told_as
            raise


def _percent_encoded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    rest = error.object[error.start : error.end].encode(errors="surrogatepass")
    return "".join(f"%{byte:02X}" for byte in rest), error.end


@cache
def messages() -> "Console":
    """The console on stderr, loaded when there is something to say. What it prints is no markup."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def say(message: str, style: str = "") -> None:
    """Say something on stderr; text from outside is made legible, and cut where nobody would read on."""
    text = legible(message, _MESSAGE_LENGTH)
    if style or messages.cache_info().currsize:
        messages().print(text, style=style, soft_wrap=True)
    else:
        # Most runs say one line, and start faster without the library for colours.
        sys.stderr.write(text + "\n")


def tell(line: str) -> None:
    """Print a line on stdout that is legible in all its parts: `shown` for names, `legible` for files."""
    # typer's own way goes around a stream of ASCII, and writes UTF-8.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def shown(name: str) -> str:
    """Make a name fit for a line or a cell."""
    return legible(name, _NAME_LENGTH)


@contextmanager
def errors_end_the_command(options: Collection[str] = ()) -> Generator[None]:
    """Turn an error of the engine or of the machine's files into a message on stderr and an exit status.

    Folders that were made for results, and are empty, are removed. `options` of the command are shown as flags where an
    OptionError names them in its text, if their names are of several words: others may be words of the sentence.
    """
    try:
        with unused_folders_removed():
            yield
    except EngineError as error:
        _say_error(error, "", options)
        raise typer.Exit(exit_status_of(error)) from error
    except OSError as error:
        # Of this machine: a disk that is full or may not be written to, too many open files. It names the file.
        _log.debug("broken off", exc_info=error)
        _say_error(error, ": make room or name another place")
        raise typer.Exit(ExitStatus.WRONG_REQUEST) from error


def flag_of(option: str) -> str:
    """Name the flag of an option.

    >>> flag_of("max_img_size")
    '--max-img-size'
    """
    return f"--{option.replace('_', '-')}"


def _say_error(error: Exception, advice: str, options: Collection[str] = ()) -> None:
    messages().print(f"{type(error).__name__}: ", style="bold red", end="")
    text = str(error)
    if isinstance(error, OptionError):
        text = _with_flags(error.problem, options)
        if error.option is not None:
            text = f"{flag_of(error.option)}: {text}"
    # What a conversion has to say may be a table; of everything else a line break is part of a name.
    lines = text.split("\n") if isinstance(error, ConversionError) else [text]
    for line in (*lines[:-1], f"{lines[-1]}{advice}"):
        say(line)


def _with_flags(text: str, options: Collection[str]) -> str:
    names = "|".join(name.replace("_", "-") for name in options if "_" in name)
    # What is part of a longer name, such as that of a file, is none.
    return re.sub(rf"(?<![\w./-])(?:{names})(?![\w/-]|\.\w)", r"--\g<0>", text) if names else text


@dataclass(slots=True)
class Products:
    """Files that a command writes beside its results: one that cannot be written takes nothing else away."""

    missing: list[str] = field(default_factory=list[str])

    @contextmanager
    def written(self, product: str) -> Generator[None]:
        """Write a product in a block: whatever goes wrong is said, and is no error of the command's other work."""
        try:
            yield
        except Exception as error:
            self.lose(product, error)

    def lose(self, product: str, error: Exception) -> None:
        _log.debug("not written", exc_info=error)
        # An error of the machine's files names the file.
        reason = str(error) if isinstance(error, OSError) else message_of(error)
        say(f"{product} is not written: {reason}", "red")
        self.missing.append(product)


@contextmanager
def table_written(path: Path | None) -> Generator[Callable[[bytes], None]]:
    """Open the way for a table.

    `-` is standard output, and whatever else would be printed there goes to stderr; None: no table.
    """
    output = sys.stdout
    if path != STANDARD_OUTPUT:
        yield lambda table: None if path is None else write_atomically(path, table)
        return

    def write(table: bytes) -> None:
        output.write(table.decode())
        output.flush()

    with redirect_stdout(sys.stderr):
        yield write


def lines_of_steps() -> Callable[[str], None]:
    """Show steps where there is no terminal: a line for each, when it comes for the first time."""
    told: set[str] = set()

    def tell_step(step: str) -> None:
        if step not in told:
            told.add(step)
            say(step)

    return tell_step


@contextmanager
def step_shown(first: str) -> Generator[Callable[[str], None]]:
    """Show what is being done: on a terminal the present step, elsewhere a line for each."""
    if not messages().is_terminal:
        tell_step = lines_of_steps()
        tell_step(first)
        yield tell_step
        return
    with messages().status(first) as status:
        yield lambda step: status.update(legible(step))


def results_console(unseen_width: int | None = None) -> "Console":
    """Make a console on stdout for tables. What it prints is no markup.

    `unseen_width` holds where neither a terminal nor COLUMNS states the characters of a line; None: rich's own.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal() else unseen_width
    return Console(width=width, markup=False, emoji=False, highlight=False)


def wide_console() -> "Console":
    """Make a console on stdout for tables: a narrow terminal wraps cells; where nobody looks, nothing is wrapped."""
    return results_console(240)


def warn(console: "Console", finding: str) -> None:
    """Print a finding, which may hold text from outside, below a table."""
    tell_fact(console, "!", finding, "yellow")


def tell_fact(console: "Console", name: str, value: str, style: str = "bold") -> None:
    """Print a fact, whose value may be text from outside, below a table."""
    from rich.text import Text

    console.print(Text.assemble((name, style), " ", legible(value, _MESSAGE_LENGTH)), soft_wrap=True)


def print_table(console: "Console", title: str, table: "Table", absent: str = "") -> None:
    """Print a table; where the console is too narrow for it, a paragraph for each row, without cells that are `absent`.

    The first column is text, the others are figures.
    """
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    laid_out = RichTable(title=title)
    for index, name in enumerate(table.header):
        laid_out.add_column(shown(name), no_wrap=True, justify="right" if index else "left")
    for row in table.rows:
        laid_out.add_row(*map(shown, row))
    unlimited = console.options.update(max_width=_UNLIMITED)
    if console.measure(laid_out, options=unlimited).maximum <= console.width:
        console.print(laid_out)
        return
    console.print(Text(title, "italic"))
    for row in table.rows:
        console.print(Text(shown(row[0]), "bold"), overflow="fold")
        named = zip(table.header[1:], row[1:], strict=True)
        figures = [
            f"{shown(name)} {shown(cell)}".replace(" ", _NO_BREAK) for name, cell in named if cell not in {"", absent}
        ]
        console.print(Padding(", ".join(figures), (0, 0, 0, 2)))


BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Model bundle: a .tgz, .tar or .zip archive, or a folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
CvConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--cv-config",
        help="JSON file with the names and colours of the classes, and whether they overlap (docs/export.md).",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache-dir", help="Folder for converted models and engines. By default the user's cache folder."),
]


def print_json(record: object) -> None:
    ascii_only = codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8"
    sys.stdout.write(json_text(record, ascii_only=ascii_only) + "\n")
    sys.stdout.flush()


def shown_share(cover: Mapping[str, Any]) -> str:
    """Tell the share of a class, from its record by `cover_records`.

    >>> shown_share({"name": "sand", "cover": 0.0004}), shown_share({"name": "frame", "cover": 0, "excluded": 0.125})
    ('sand <0.1%', 'frame left out (12.5%)')
    """
    name = shown(cover["name"])
    share = f"left out ({shown_percent(cover['excluded'])})" if "excluded" in cover else shown_percent(cover["cover"])
    return f"{name} {share} ({shown_cm2(cover['area_cm2'])})" if "area_cm2" in cover else f"{name} {share}"


def shown_shares(covers: Sequence[Mapping[str, Any]], pixels: int = 1) -> list[str]:
    """Tell the shares of the classes of an image whose so many pixels hold data, or of a region.

    >>> shown_shares([{"name": "sand", "cover": 0.0}, {"name": "frame", "cover": 0.0, "excluded": 1.0}])
    ['no pixel counts', 'frame left out (100.0%)']
    """
    if not counts_nothing(pixels, covers):
        return [shown_share(each) for each in covers]
    return ["no pixel counts", *(shown_share(each) for each in covers if "excluded" in each)]


def tell_missed(regions: int) -> None:
    """Tell on stderr how many regions of interest were not found, if any."""
    if regions:
        found = "1 region of interest was" if regions == 1 else f"{regions} regions of interest were"
        say(
            f"{found} not found: the masks and the covers of the whole images are written, the covers inside the "
            "regions are not",
            "red",
        )

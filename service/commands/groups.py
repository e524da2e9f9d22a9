"""Groups of options that several commands share; those of the engine are declared there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from engine.declaration import Options, option
from engine.errors import ImageError, OptionError
from engine.images.size import ImageLimits, bands_option

STANDARD_OUTPUT = Path("-")
"""Given in the place of a file of a table."""
SEARCH_SUBFOLDERS = "Search the sub-folders of folders, too."


@dataclass(frozen=True, slots=True)
class SelectionOptions(Options):
    """Which images are done."""

    title: ClassVar[str] = "Which images"

    recursive: bool = option(False, f"{SEARCH_SUBFOLDERS} The results go into sub-folders.")
    exclude: tuple[str, ...] = option(
        (),
        "Leave out files and folders whose name or path matches, such as 'masks' or '*_old.jpg'. May be repeated.",
        metavar="PATTERN",
        repeatable=True,
    )
    shard: str | None = option(
        None, "Segment the I-th of N equal shares of the images (docs/collections.md).", metavar="I/N"
    )
    page: str | None = option(
        None,
        "Page of TIFFs to read, counted from 1, or all, which reads each page as an image named <stem>.pN.",
        metavar="N|all",
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.page not in {None, "all"} and _page_number(self.page) < 1:
            raise OptionError(f"{self.page}: give the number of a page, from 1, or all", option="page")

    def pages(self) -> Callable[[Path], Sequence[int | None]]:
        """Tell which pages of an image become images of the run; as in `ImageTask`."""
        if self.page == "all":
            return _all_pages
        chosen = (_page_number(self.page) or None,)
        return lambda _: chosen


def _page_number(text: str | None) -> int:
    """From 1; 0: it is none."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else 0


def _all_pages(path: Path) -> Sequence[int | None]:
    from engine.images.tiff import pages_of

    try:
        found = pages_of(path)
    except ImageError:  # another format, or the reader says what is wrong
        return (None,)
    return [each.number for each in found] if len(found) > 1 else (None,)


@dataclass(frozen=True, slots=True)
class PictureOptions(Options):
    """How pictures are found and read.

    `bands` are those that are read; None: the colours.
    """

    title: ClassVar[str] = "Pictures"

    recursive: bool = option(False, SEARCH_SUBFOLDERS)
    bands: tuple[int, ...] | None = bands_option()


def require_pictures_to_read(
    pictures: Sequence[object], *, bands: Sequence[int] | None, limits: ImageLimits | None = None
) -> None:
    """Refuse (OptionError) options for files where pictures are generated."""
    if pictures:
        return
    if bands is not None:
        raise OptionError(
            "generated pictures have the bands that the network takes: leave it out, or name TIFFs", option="bands"
        )
    defaults = ImageLimits().values()
    for name, value in ({} if limits is None else limits.values()).items():
        if value != defaults[name]:
            raise OptionError("generated pictures are not read from files: leave it out, or name pictures", option=name)


@dataclass(frozen=True, slots=True)
class TableOptions(Options):
    """Tables and pages about all images of a run."""

    title: ClassVar[str] = "Tables and pages"

    csv: Path | None = option(
        None, "Write the table of covers to this file, one row per image; - writes it to standard output."
    )
    report: Path | None = option(
        None, "Write an HTML page to this file: photographs under their masks, cover, failures."
    )

    def files(self) -> dict[str, Path | None]:
        """Flag to file; None: not asked for, or standard output."""
        return {"--csv": None if self.csv == STANDARD_OUTPUT else self.csv, "--report": self.report}


@dataclass(frozen=True, slots=True)
class ResultOptions(Options):
    """Where the results go."""

    title: ClassVar[str] = "Results"

    out: Path = option(Path("masks"), "Folder for the results.")
    resume: bool = option(False, "Continue an interrupted run into the same folder.")
    overwrite: bool = option(
        False, "Replace the results that a run with another bundle, other options or other images left in the folder."
    )
    json_lines: bool = option(False, "Print only JSON on standard output.", name="json")
    quiet: bool = option(False, "Print only failures and warnings.")
    tables: TableOptions = TableOptions()

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        require_one_output(self.tables.csv, json_lines=self.json_lines)
        if self.resume and self.overwrite:
            raise OptionError("what is resumed is not replaced: leave out one of --resume and --overwrite")


def require_one_output(csv: Path | None, *, json_lines: bool) -> None:
    """Refuse (OptionError) a table and JSON on standard output."""
    if json_lines and csv == STANDARD_OUTPUT:
        raise OptionError("standard output holds either a table or the records of --json: name a file", option="csv")


@dataclass(frozen=True, slots=True)
class OutputOptions(Options):
    """What a command tells besides what it shows."""

    title: ClassVar[str] = "Output"

    csv: Path | None = option(
        None, "Write a table of the results to this file, one row per image. - writes it to standard output."
    )
    json_lines: bool = option(False, "Print only JSON on standard output.", name="json")

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        require_one_output(self.csv, json_lines=self.json_lines)


@dataclass(frozen=True, slots=True)
class SessionOptions(Options):
    """What outlives a run."""

    title: ClassVar[str] = "Profile and cache"

    profile: Path | None = option(
        None, "Profile that `pseg tune` wrote. By default the bundle's own profile, if it holds one."
    )
    cache_dir: Path | None = option(
        None, "Folder for converted models and engines. By default the user's cache folder."
    )

"""Pictures that a command is given by files, folders and globs."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from engine import OptionError, list_images
from engine.system.files import advice_on_missing
from service.commands.groups import SEARCH_SUBFOLDERS
from service.commands.terminal import flag_of

_WILDCARD = re.compile(r"[*?\[]")

RecursiveOption = Annotated[bool, typer.Option("--recursive", help=SEARCH_SUBFOLDERS)]


def require_folders(named: Sequence[str], *, recursive: bool) -> None:
    """Refuse (OptionError) to search sub-folders where nothing that is named may be a folder."""
    if recursive and not any(Path(each).is_dir() or _WILDCARD.search(each) for each in named):
        raise OptionError("none of the images is a folder: leave it out", option="recursive")


def named_pictures(named: Sequence[str], *, option: str, recursive: bool) -> list[Path]:
    """List the pictures that the values of an option name, in their order, each once.

    OptionError where a name does not exist; ImageError where a folder or glob holds no pictures, or may not be listed.
    """
    for name in named:
        if name and not _WILDCARD.search(name) and not os.path.lexists(name):
            raise OptionError(f"{name}: no such file or folder: {advice_on_missing(Path(name))}", option=option)
    return list_images(named, recursive=recursive, option_name=flag_of)

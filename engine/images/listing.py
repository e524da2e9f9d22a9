"""Which pictures files, folders and globs name."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ImageError, reason_of
from engine.images.formats import IMAGE_SUFFIXES


def list_images(arguments: Sequence[str | Path]) -> list[Path]:
    """Find the pictures that files, folders and globs name.

    A file is taken whatever its suffix, even if its name holds `[` or `*`. Of a folder (not its subfolders) and of a
    glob (`**` allowed) the files with one of `IMAGE_SUFFIXES` are taken, sorted, hidden ones left out; a glob with a
    part that starts with a dot takes hidden ones too. A plain name that does not exist is listed as it is: reading it
    fails by name, and the other pictures are not lost with it.

    Args:
        arguments: Names of files or folders, or globs.

    Returns:
        The pictures in the order of the arguments; a file that is named twice, even through a link, is listed once.

    Raises:
        ImageError: A folder or glob holds no pictures, or may not be listed.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        for path in _matches(argument):
            found.setdefault(real_path(path), path)
    return list(found.values())


def real_path(path: Path) -> Path:
    """Follow the links of a path, as `Path.resolve` does, but for links in a circle, which end nothing here.

    Args:
        path: a file's.

    Returns:
        An absolute path, the same for every name of a file.
    """
    return Path(os.path.realpath(path))


def _matches(argument: str | Path) -> list[Path]:
    try:
        return _expand(argument)
    except (OSError, ValueError) as cause:
        raise ImageError(
            f"{argument}: cannot be listed ({reason_of(cause)}): check the name and permissions"
        ) from cause


def _expand(argument: str | Path) -> list[Path]:
    if not str(argument):
        raise ImageError("an empty argument names no image: give a file, a folder or a glob")
    path = Path(argument)
    try:
        is_folder = path.is_dir()
    except OSError:
        # A name that is too long, or one in a closed folder: reading it says so, and the other pictures are not lost.
        return [path]
    if is_folder:
        images = sorted(entry for entry in path.iterdir() if _is_image(entry) and not entry.name.startswith("."))
    elif path.exists() or not _is_pattern(str(argument)):
        return [path]
    else:
        images = _glob(path)
    if not images:
        raise ImageError(f"{argument}: no images found ({' '.join(sorted(IMAGE_SUFFIXES))}): check the name")
    return images


def _glob(pattern: Path) -> list[Path]:
    head = tuple(itertools.takewhile(lambda part: not _is_pattern(part), pattern.parts))
    tail = pattern.parts[len(head) :]
    if tail[-1] == "**":
        tail = (*tail, "*")  # to pathlib a last `**` means folders only
    root = Path(*head)
    images = sorted(path for path in root.glob("/".join(tail)) if _is_image(path))
    if any(part.startswith(".") for part in tail):
        return images
    return [path for path in images if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _is_pattern(name: str) -> bool:
    return any(wildcard in name for wildcard in "*?[")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()

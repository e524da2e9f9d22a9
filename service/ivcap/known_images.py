"""Images that are known from the start, wherever the request came from."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.images import find_images, real_path
from service.ivcap.fulfilment import FetchError, Item
from service.ivcap.publishing import SourceName

_log = logging.getLogger(__name__)
LOCAL_URN = "urn:file://"


def photographs_in(folder: str) -> list[Path]:
    """List the photographs of a local folder; what lies there and is not taken is logged.

    Args:
        folder: its name; or a glob, or one file.

    Returns:
        The files, sorted.

    Raises:
        ImageError: there are none, or the folder may not be listed.
    """
    found = find_images([folder])
    for remark in found.remarks():
        _log.warning("%s", remark)
    return found.images


@dataclass(slots=True)
class LocalItem:
    """The user's own file: read where it lies, never removed.

    Attributes:
        path: the file.
    """

    path: Path

    @property
    def source(self) -> SourceName:
        """Its URN and file name."""
        return SourceName(f"{LOCAL_URN}{real_path(self.path)}", self.path.name)

    def fetch(self) -> Path:
        """Name the file.

        Returns:
            The file itself.
        """
        return self.path

    def release(self) -> None:
        """Leave the file alone."""


@dataclass(frozen=True, slots=True)
class UnreachableItem:
    """An artifact that is named and cannot be reached.

    Attributes:
        source: what it is called.
        reason: why.
    """

    source: SourceName
    reason: str

    def fetch(self) -> Path:
        """Tell why there is nothing.

        Raises:
            FetchError: always.
        """
        raise FetchError(f"{self.source.label}: cannot be fetched ({self.reason})")

    def release(self) -> None:
        """There is nothing to remove."""


@dataclass(frozen=True, slots=True)
class KnownImages:
    """Images that are all known from the start: they may be read ahead.

    Attributes:
        items: the images.
        sample: those that are local files.
    """

    items: Sequence[Item]
    sample: Sequence[Path]
    one_at_a_time: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Item]:
        """Hand out the images."""
        return iter(self.items)

    def acknowledge(self) -> None:
        """Nobody waits for it."""

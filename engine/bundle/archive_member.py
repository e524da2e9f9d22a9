"""A member of an archive, whatever the container: what is unpacked of it is decided elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

_SHOWN_LENGTH = 200


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A regular file or a folder of an archive; links and devices never become one."""

    name: str  # as the archive has it; it may be any text
    size: int  # bytes that the archive states
    is_folder: bool
    # opens it; its pieces, in order. Called at most once, before the next member is asked for
    content: Callable[[], Iterator[bytes]]


def shown_name(name: str) -> str:
    """Show the name of a member in quotes, on one line of at most 200 characters; a stranger's may be of any length."""
    text = repr(name)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."

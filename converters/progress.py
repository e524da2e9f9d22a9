"""How work that takes long tells how far it is."""

from collections.abc import Callable

Advance = Callable[[str, int, int], None]
"""Told of progress: the step, how much of it is done, and of how much."""


def ignore_progress(*_: object) -> None:
    """Take progress that nobody looks at."""

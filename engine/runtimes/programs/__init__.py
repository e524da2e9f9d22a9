"""Models' files, read without the libraries that run them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a program: its kind as the file names it, and the names of the values that it takes and makes."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""

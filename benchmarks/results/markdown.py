"""Tables, and how they are written as Markdown."""

import re
from dataclasses import dataclass

from engine.quantities import shown_figure, shown_fraction
from engine.system.text import legible

_MARKDOWN = re.compile(r"[\\`*_\[\]<>|&~$]")
"""What begins something in Markdown in the middle of a line, tables, HTML and formulas included."""


class Markup(str):
    """A cell that is Markdown already, and is written as it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Cells to show: titles, and rows of as many; the first column is text, the others are figures."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown(table: Table) -> str:
    """Write a table as Markdown, without a final newline; the first column is aligned left, the others right."""
    rule = [Markup("---"), *(Markup("---:") for _ in table.header[1:])]
    return "\n".join(f"| {' | '.join(map(escaped, cells))} |" for cells in (table.header, rule, *table.rows))


def shown(value: float | None, digits: int) -> str:
    """Write a figure; `-` where there is none."""
    return "-" if value is None else shown_figure(value, digits)


def shown_share(value: float | None, digits: int) -> str:
    """Write a figure from 0 to 1; `-` where there is none."""
    return "-" if value is None else shown_fraction(value, digits)


def escaped(text: str) -> str:
    r"""Keep text on its line and in its cell, and keep it from being Markdown or HTML.

    >>> print(escaped("a|b\nc <script>"))
    a\|b%0Ac \<script\>
    """
    return text if isinstance(text, Markup) else _MARKDOWN.sub(r"\\\g<0>", legible(text))

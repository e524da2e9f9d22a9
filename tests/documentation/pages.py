"""The pages of the documentation, and the commands in their shell blocks."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
}


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _, text in found]


def commands(page: str) -> list[str]:
    """Each command of the shell blocks: a loop, or a line with those that continue it."""
    return [command for block in blocks(page, "sh") for command in _commands(block)]


def _commands(block: str) -> Iterator[str]:
    held: list[str] = []
    for line in block.splitlines():
        held.append(line)
        text = "\n".join(held)
        is_open = line.rstrip().endswith(("\\", "|")) or (held[0].startswith("for ") and not line.endswith("done"))
        if not is_open:
            held.clear()
            yield text
    assert not held, f"a command that does not end: {held}"


def words(command: str) -> str:
    """A command without comments and without the folder of `pseg`, its words with one blank between."""
    return " ".join(shlex.split(command.replace("\\\n", " "), comments=True)).replace(".venv/bin/", "")


def not_run() -> dict[str, str]:
    """How a command begins to why no test runs it, as docs/tested.md lists them."""
    return {beginning: reason for beginning, reason in _rows(2)}


def statuses() -> dict[str, int]:
    """How a command begins to the exit status that it should have, where this is not 0."""
    return {beginning: int(status) for beginning, status, _ in _rows(3)}


def is_run(command: str) -> bool:
    return not any(words(command).startswith(beginning) for beginning in not_run())


def status_of(command: str) -> int:
    return next((status for beginning, status in statuses().items() if words(command).startswith(beginning)), 0)


def _rows(columns: int) -> list[tuple[str, ...]]:
    row = r"^\| `(.+?)` \|" + r" ([^|]+) \|" * (columns - 1) + "$"
    return re.findall(row, PAGES[Path("docs/tested.md")].replace("\\|", "|"), re.MULTILINE)

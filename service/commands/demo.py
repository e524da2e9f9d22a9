"""`pseg demo`: the demo bundle on every CPU runtime."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.commands.terminal import CacheOption, errors_end_the_command
from service.demonstration import demonstrate
from service.request import require_writable
from service.session import caches_at


def demo(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE…]", help="default: rendered pictures")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("demo-output"),
    cache_dir: CacheOption = None,
) -> None:
    """Segment pictures with the demo bundle on every CPU runtime and compare the masks."""
    with errors_end_the_command():
        require_writable(out)
        shown = demonstrate(images or [], out, caches_at(cache_dir))
    table = Table("runtime", "provider", "cover", "mismatched ppm", "ms per image")
    for row in shown.rows:
        mismatched = "reference" if row is shown.rows[0] else f"{row.mismatched_ppm:.1f}"
        covers = ", ".join(f"{name} {share:.1%}" for name, share in row.covers.items())
        table.add_row(row.runtime, row.provider, escape(covers), mismatched, f"{row.run_ms:.0f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        f"{shown.image_count} images; mismatched: pixels per million against the first row; "
        f"ms: one run of the network, median",
        highlight=False,
    )
    for reason in shown.absent:
        console.print(f"not here: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"masks, pseudo-colour pictures and overlays: {shown.pictures}", highlight=False, soft_wrap=True)

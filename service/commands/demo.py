"""`pseg demo`: the demo bundle on every CPU runtime."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from engine.quantities import shown_figure, shown_percent
from engine.system.text import legible
from service.commands.named_pictures import RecursiveOption, named_pictures, require_folders
from service.commands.terminal import CacheOption, errors_end_the_command, results_console, shown
from service.demonstration import demonstrate
from service.request import require_writable
from service.session import caches_at


def demo(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE…]", help="Files, folders or globs. By default the demo pictures."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo-output"),
    recursive: RecursiveOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Segment pictures with the demo bundle on every CPU runtime and compare the masks."""
    with errors_end_the_command():
        require_writable(out)
        require_folders(images or [], recursive=recursive)
        paths = named_pictures(images or [], option="images", recursive=recursive)
        done = demonstrate([str(path) for path in paths], out, caches_at(cache_dir))
    table = Table("runtime", "provider", "cover", "mismatched ppm", "ms per image")
    for row in done.rows:
        mismatched = "reference" if row is done.rows[0] else shown_figure(row.mismatched_ppm, 1)
        covers = ", ".join(f"{shown(name)} {shown_percent(share)}" for name, share in row.covers.items())
        table.add_row(row.runtime, row.provider, covers, mismatched, f"{row.run_ms:.0f}")
    console = results_console(120)
    console.print(table)
    console.print(
        f"{done.image_count} images; mismatched: pixels per million against the first row; "
        f"ms: one run of the network, median"
    )
    for reason in done.absent:
        console.print(f"not here: {legible(reason)}", soft_wrap=True)
    console.print(f"masks, pseudo-colour pictures and overlays: {legible(str(done.pictures))}", soft_wrap=True)

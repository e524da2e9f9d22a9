"""`pseg doctor`: what is installed and what really starts."""

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from engine import open_bundle
from engine.system.machine.nvidia import may_have_gpu
from engine.system.text import legible
from service.commands.bundle_facts import facts_table
from service.commands.terminal import CacheOption, errors_end_the_command, results_console, tell_fact
from service.demonstration import demo_bundle
from service.inspection.bundle import inspection
from service.inspection.machine import cores_line, installed_versions, known_bad, mixed_cuda, try_starts
from service.session import caches_at


def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="Model bundle. By default the demo bundle.")
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Also try the runtimes for NVIDIA GPUs if no such card is found.")
    ] = False,
    cache_dir: CacheOption = None,
) -> None:
    """Show what is installed, what a bundle holds, which runtimes start with it, and how to fix those that do not."""
    out = results_console()
    versions = installed_versions()
    with errors_end_the_command():
        tried = bundle or demo_bundle()
        has_gpu = may_have_gpu()
        starts = try_starts(tried, caches_at(cache_dir), gpu=gpu or has_gpu)
        with open_bundle(tried, inspect_only=True) as opened:
            record = inspection(opened)
    out.print(f"cores: {cores_line()}")
    if not has_gpu:
        out.print("GPU: no NVIDIA card found (what one needs: pseg doctor --gpu, docs/gpu.md)")
    installed = Table("library", "version")
    for name, version in versions.items():
        installed.add_row(name, version or Text("not installed", "dim"))
    out.print(installed)
    runtimes = Table("runtime", "starts", Column("detail", overflow="fold"))
    for each in starts:
        runtimes.add_row(
            each.label, Text(*(("yes", "green") if each.works else ("no", "yellow"))), legible(each.detail)
        )
    out.print(runtimes)
    out.print(facts_table(record))
    mixed = mixed_cuda(each.name for each in metadata.distributions())
    for finding in (*known_bad(versions), *([] if mixed is None else [mixed])):
        tell_fact(out, "!", finding, "red")

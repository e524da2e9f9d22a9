"""`pseg inspect`: what a bundle holds and, on request, what it needs of a machine."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from engine import OptionError, open_bundle
from service.commands.bundle_facts import facts_table
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    JsonOption,
    errors_end_the_command,
    print_json,
    results_console,
    shown,
    step_shown,
    warn,
)
from service.inspection.bundle import inspection
from service.request import DEFAULT_MAX_IMG_SIZE, build_request

if TYPE_CHECKING:
    from rich.console import Console

_MOST_CLASSES_SHOWN = 1000
"""Networks of the field have up to 171; a table of as many as a mask can hold (65 536) would take a minute."""


def inspect(
    bundle: BundleArgument,
    json_output: JsonOption = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Run the bundle on generated photographs and report the memory and time that it needs."
        ),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width of the photographs for --measure, such as 2048x2560. By default 3000x4000.",
        ),
    ] = None,
    max_img_size: Annotated[
        int | None,
        typer.Option(
            help="Number of pixels to which --measure shrinks larger photographs for the network; -1 never shrinks. "
            f"By default {DEFAULT_MAX_IMG_SIZE}."
        ),
    ] = None,
    cache_dir: CacheOption = None,
) -> None:
    """Show what a bundle holds, list its known problems, and measure what it needs."""
    with errors_end_the_command():
        for name, value in (("size", size), ("max_img_size", max_img_size)):
            if value is not None and not measure:
                raise OptionError("it needs --measure: leave it out, or add --measure", option=name)
        with open_bundle(bundle, inspect_only=True) as opened:
            record = inspection(opened)
        if measure:
            from benchmarks.measuring.configurations import parse_size
            from service.inspection.needs import measure_need

            with step_shown("measuring"):
                request = build_request(max_img_size=max_img_size)
                record["need"] = measure_need(bundle, parse_size(size or "3000x4000"), request, cache_dir).record()
    if json_output:
        print_json(record)
        return
    out = results_console()
    out.print(facts_table(record))
    if "need" in record:
        _show_need(out, record["need"])
    classes = Table("index", Column("class", overflow="fold"), Column("id", overflow="fold"), "colour")
    for each in record["classes"][:_MOST_CLASSES_SHOWN]:
        classes.add_row(str(each["index"]), shown(each["name"]), shown(each["id"]), _swatch(each["color"]))
    out.print(classes)
    if len(record["classes"]) > _MOST_CLASSES_SHOWN:
        warn(
            out, f"{len(record['classes']) - _MOST_CLASSES_SHOWN} more classes are not shown; --json shows all of them"
        )
    for warning in record["warnings"]:
        warn(out, warning)


def _swatch(color: tuple[int, int, int] | None) -> Text:
    if color is None:
        return Text()
    return Text.assemble(("   ", f"on rgb({','.join(map(str, color))})"), f" {color}")


def _show_need(out: "Console", need: dict[str, Any]) -> None:
    request = need["request"]
    facts = Table(show_header=False, box=None, title="measured here", title_justify="left")
    facts.add_row("photographs", f"{need['images']} of {need['height']}x{need['width']}")
    facts.add_row("runs on", f"{need['runtime']} {need['provider']} {need['precision']}, {need['threads']} threads")
    facts.add_row("memory", f"{need['peak_rss_bytes'] / 2**20:.0f} MiB at most")
    facts.add_row("time", f"{need['open_s']:.2f} s to the first mask, {need['image_s']:.2f} s an image after it")
    facts.add_row("processor", f"{need['processor_s']:.2f} s of one core an image")
    facts.add_row("ask for", f"memory {request['memory']} (a quarter more than the peak), cpu {request['cpu']}")
    out.print(facts)

"""`pseg inspect`: what a bundle holds and, on request, what it needs of a machine."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine import open_bundle
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    JsonOption,
    errors_end_the_command,
    print_json,
    step_shown,
)
from service.inspection import inspection
from service.request import DEFAULT_MAX_IMG_SIZE, build_request


def inspect(
    bundle: BundleArgument,
    json_output: JsonOption = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="run it over generated photographs: memory, time, what to ask for"),
    ] = False,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="with --measure: pixels of the photographs, such as 2048x2560")
    ] = "3000x4000",
    max_img_size: Annotated[
        int, typer.Option(help="with --measure: shrink them to so many pixels for the network; -1: never")
    ] = DEFAULT_MAX_IMG_SIZE,
    cache_dir: CacheOption = None,
) -> None:
    """Show what a bundle holds, warn of what will bite, and measure what it needs."""
    with errors_end_the_command():
        with open_bundle(bundle, inspect_only=True) as opened:
            record = inspection(opened)
        if measure:
            from benchmarks.configurations import parse_size
            from service.needs import measure_need

            with step_shown("measuring"):
                request = build_request(max_img_size=max_img_size)
                record["need"] = measure_need(bundle, parse_size(size), request, cache_dir).record()
    if json_output:
        print_json(record)
        return
    out = Console()
    facts = Table(show_header=False, box=None)
    facts.add_row("name", escape(record["name"]))
    facts.add_row("digest", record["digest"])
    facts.add_row("transforms", escape("\n".join(record["transforms"])) or "none")
    paddle = record["paddle"]
    facts.add_row(
        "paddle", "none" if paddle is None else escape(f"{paddle['program']} ({paddle['kind']}), {paddle['params']}")
    )
    facts.add_row("onnx", ", ".join(each["precision"] for each in record["onnx"]) or "none")
    facts.add_row("declares", escape(", ".join(f"{field} {value}" for field, value in record["declared"].items())))
    out.print(facts)
    if "need" in record:
        _show_need(out, record["need"])
    classes = Table("index", "class", "id", "colour")
    for each in record["classes"]:
        swatch = "" if each["color"] is None else f"[on rgb({','.join(map(str, each['color']))})]   [/] {each['color']}"
        classes.add_row(str(each["index"]), escape(each["name"]), escape(each["id"]), swatch)
    out.print(classes)
    for warning in record["warnings"]:
        out.print(f"[yellow]![/] {escape(warning)}", highlight=False, soft_wrap=True)


def _show_need(out: Console, need: dict[str, Any]) -> None:
    request = need["request"]
    facts = Table(show_header=False, box=None, title="measured here", title_justify="left")
    facts.add_row("photographs", f"{need['images']} of {need['height']}x{need['width']}")
    facts.add_row("runs on", f"{need['runtime']} {need['provider']} {need['precision']}, {need['threads']} threads")
    facts.add_row("memory", f"{need['peak_rss_bytes'] / 2**20:.0f} MiB at most")
    facts.add_row("time", f"{need['open_s']:.2f} s to the first mask, {need['image_s']:.2f} s an image after it")
    facts.add_row("processor", f"{need['processor_s']:.2f} s of one core an image")
    facts.add_row("ask for", f"memory {request['memory']} (a quarter more than the peak), cpu {request['cpu']}")
    out.print(facts)

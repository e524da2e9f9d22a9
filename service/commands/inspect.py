"""`pseg inspect`: what a bundle holds."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine import open_bundle
from service.commands.terminal import BundleArgument, JsonOption, errors_end_the_command, print_json
from service.inspection import inspection


def inspect(bundle: BundleArgument, json_output: JsonOption = False) -> None:
    """Show what a bundle holds, and warn of what will bite."""
    with errors_end_the_command(), open_bundle(bundle, inspect_only=True) as opened:
        record = inspection(opened)
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
    classes = Table("index", "class", "id", "colour")
    for each in record["classes"]:
        swatch = "" if each["color"] is None else f"[on rgb({','.join(map(str, each['color']))})]   [/] {each['color']}"
        classes.add_row(str(each["index"]), escape(each["name"]), escape(each["id"]), swatch)
    out.print(classes)
    for warning in record["warnings"]:
        out.print(f"[yellow]![/] {escape(warning)}", highlight=False, soft_wrap=True)

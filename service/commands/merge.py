"""`pseg merge`: the ledgers of shards as one, with table and report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from service.collections.merging import Merged, find_ledgers, merge_ledgers
from service.commands.collection_results import tell_collection, tell_totals
from service.commands.groups import TableOptions, require_one_output
from service.commands.terminal import ExitStatus, JsonOption, errors_end_the_command, say
from service.request import require_apart, require_writable, require_writable_file, written_by
from service.results.ledger import ledger_path, ledgers_in
from service.results.run_ledger import write_ledger


def merge(
    ledgers: Annotated[list[Path], typer.Argument(metavar="DIR_OR_LEDGER…", help="Folders of results, or ledgers.")],
    out: Annotated[Path, typer.Option(help="Folder for the joined ledger.jsonl.")],
    csv: Annotated[
        Path | None,
        typer.Option(help="Write the table of covers of all images to this file; - writes it to standard output."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page with totals, table and failures, but without pictures, to this file."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Join the ledgers of shards and list what is missing. The exit status is 1 if an image failed or is missing."""
    with errors_end_the_command():
        require_one_output(csv, json_lines=json_output)
        tables = TableOptions(csv=csv, report=report)
        found = find_ledgers(ledgers)
        require_apart(
            written_by(tables.files()),
            {"a ledger": [*found, ledger_path(out, None), *ledgers_in(out)]},
        )
        merged = merge_ledgers(found, out)
        require_writable(out)
        for asked in filter(None, tables.files().values()):
            require_writable_file(asked)
        write_ledger(merged.content)
        if (mixture := merged.mixture) is not None:
            say(mixture)
        entries, summary = merged.content.entries, merged.summary()
        written = tell_collection(
            entries, merged.content.run, tables, summary, lambda: _tell(merged, summary), json_output=json_output
        )
    if not (written and merged.complete):
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _tell(merged: Merged, summary: Mapping[str, Any]) -> None:
    tell_totals(summary, str(merged.content.path))
    problems: list[str] = []
    if merged.missing:
        shards = ", ".join(summary["missing_shards"])
        problems.append(f"missing: {merged.missing} images" + (f"; no ledger of shard {shards}" if shards else ""))
    if merged.duplicates:
        differing = f", {len(merged.contradictory)} with different covers" if merged.contradictory else ""
        problems.append(f"done more than once: {len(merged.duplicates)} images{differing}; each counts once")
    for problem in problems:
        say(problem, "red")

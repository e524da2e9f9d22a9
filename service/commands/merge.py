"""`pseg merge`: the ledgers of shards as one, with table and report."""

from pathlib import Path
from typing import Annotated

import typer

from service.collections.merging import Merged, find_ledgers, merge_ledgers
from service.commands.groups import STANDARD_OUTPUT, require_one_output
from service.commands.terminal import (
    ExitStatus,
    JsonOption,
    Products,
    errors_end_the_command,
    print_json,
    say,
    table_written,
    tell_totals,
)
from service.request import require_apart, require_writable, require_writable_file, written_by
from service.results.ledger import ledger_path, ledgers_in, write_ledger
from service.results.pictures import CoverTable


def merge(
    ledgers: Annotated[list[Path], typer.Argument(metavar="DIR_OR_LEDGER…", help="Folders of results, or ledgers.")],
    out: Annotated[Path, typer.Option(help="Folder for the joined ledger.jsonl.")],
    csv: Annotated[
        Path | None, typer.Option(help="Write the table of cover of all images to this file. - is standard output.")
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
        table_file = None if csv == STANDARD_OUTPUT else csv
        found = find_ledgers(ledgers)
        require_apart(
            written_by({"--csv": table_file, "--report": report}),
            {"a ledger": [*found, ledger_path(out, None), *ledgers_in(out)]},
        )
        merged = merge_ledgers(found, out)
        require_writable(out)
        for asked in (table_file, report):
            if asked is not None:
                require_writable_file(asked)
        write_ledger(merged.content)
        if (mixture := merged.mixture) is not None:
            say(mixture)
        products = Products()
        if csv is not None:
            with products.written(f"the table {csv}"), table_written(csv) as write_table:
                write_table(_table(merged))
                if csv == STANDARD_OUTPUT:
                    _tell(merged)
        if report is not None:
            with products.written(f"the report {report}"):
                _write_report(merged, report)
    if json_output:
        print_json(merged.summary())
    elif csv != STANDARD_OUTPUT:
        _tell(merged)
    if products.missing or not merged.complete:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _table(merged: Merged) -> bytes:
    table = CoverTable()
    for entry in merged.content.entries:
        table.add(entry.record, entry.capture)
    return table.to_csv()


def _write_report(merged: Merged, path: Path) -> None:
    from service.results.report import run_facts, write_table_report

    run = merged.content.run
    records = ((entry.record, entry.capture) for entry in merged.content.entries)
    write_table_report(path, records, expected=run.images, facts=run_facts([run]))


def _tell(merged: Merged) -> None:
    summary = merged.summary()
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

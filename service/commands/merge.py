"""`pseg merge`: the ledgers of shards as one, with table and report."""

from pathlib import Path
from typing import Annotated

import typer

from engine import Provenance
from service.commands.terminal import ExitStatus, JsonOption, errors_end_the_command, messages, print_json
from service.ledger import write_ledger
from service.merging import Merged, find_ledgers, merge_ledgers
from service.request import require_writable, require_writable_file
from service.results import CoverTable, write_atomically


def merge(
    ledgers: Annotated[list[Path], typer.Argument(metavar="DIR_OR_LEDGER…", help="folders of results, or ledgers")],
    out: Annotated[Path, typer.Option(help="folder for the joined ledger.jsonl")],
    csv: Annotated[Path | None, typer.Option(help="write the table of cover of all images")] = None,
    report: Annotated[
        Path | None, typer.Option(help="write an HTML page: totals, table, failures; no pictures")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Join the ledgers of shards: totals, failures, what is missing. Status 1 if an image is missing or failed."""
    with errors_end_the_command():
        merged = merge_ledgers(find_ledgers(ledgers), out)
        require_writable(out)
        for asked in (csv, report):
            if asked is not None:
                require_writable_file(asked)
        write_ledger(merged.content)
        if csv is not None:
            write_atomically(csv, _table(merged))
        if report is not None:
            _write_report(merged, report)
    if json_output:
        print_json(merged.summary())
    else:
        _tell(merged)
    if not merged.complete:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _table(merged: Merged) -> bytes:
    table = CoverTable()
    for entry in merged.content.entries:
        table.add_record(entry.record, entry.capture)
    return table.to_csv()


def _write_report(merged: Merged, path: Path) -> None:
    from service.report import report_at

    run, entries = merged.content.run, merged.content.entries
    if not entries:
        return
    provenance = Provenance(**entries[0].record["provenance"])
    facts = {name.replace("_", "-"): str(value) for name, value in run.options.items()}
    with report_at(
        path, title="Segmentation, joined", provenance=provenance, expected=run.images, facts=facts
    ) as report:
        for entry in entries:
            report.add_record(entry.record, entry.capture)


def _tell(merged: Merged) -> None:
    summary = merged.summary()
    counts = summary["images"]
    typer.echo(f"{counts['succeeded']} of {counts['total']} images segmented -> {merged.content.path}")
    for each in summary["cover"]:
        typer.echo(f"  {each['name']} {each['cover']:.1%}")
    problems = [f"failed: {each['image']}: {each['reason']}" for each in summary["failures"]]
    if merged.missing:
        shards = ", ".join(summary["missing_shards"])
        problems.append(f"missing: {len(merged.missing)} images" + (f"; no ledger of shard {shards}" if shards else ""))
    if merged.duplicates:
        differing = f", {len(merged.contradictory)} with different covers" if merged.contradictory else ""
        problems.append(f"done more than once: {len(merged.duplicates)} images{differing}; each counts once")
    for problem in problems:
        messages().print(problem, style="red", markup=False, highlight=False, soft_wrap=True)

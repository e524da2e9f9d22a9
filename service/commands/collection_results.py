"""How `pseg merge` and `pseg scale` end: table, report and totals of a collection, from the entries of its ledger."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from engine.images import Capture
from engine.quantities import shown_percent
from engine.system.text import legible
from service.commands.groups import STANDARD_OUTPUT, TableOptions
from service.commands.terminal import Products, print_json, say, shown_share, table_written, tell
from service.results.pictures import CoverTable
from service.results.runs import Run


class _Entry(Protocol):
    @property
    def record(self) -> Mapping[str, Any]: ...

    @property
    def capture(self) -> Capture: ...


def tell_collection(
    entries: Sequence[_Entry],
    run: Run,
    tables: TableOptions,
    summary: Mapping[str, Any],
    tell_summary: Callable[[], None],
    *,
    json_output: bool,
) -> bool:
    """Write the table and the report, and print the summary, as JSON or in words; False if one could not be written."""
    products = Products()
    if tables.csv is not None:
        with products.written(f"the table {tables.csv}"), table_written(tables.csv) as write_table:
            table = CoverTable()
            for entry in entries:
                table.add(entry.record, entry.capture)
            write_table(table.to_csv())
            if tables.csv == STANDARD_OUTPUT:
                tell_summary()
    if tables.report is not None:
        from service.results.report import run_facts, write_table_report

        with products.written(f"the report {tables.report}"):
            records = ((entry.record, entry.capture) for entry in entries)
            write_table_report(tables.report, records, expected=run.images, facts=run_facts([run]))
    if json_output:
        print_json(summary)
    elif tables.csv != STANDARD_OUTPUT:
        tell_summary()
    return not products.missing


def tell_totals(summary: Mapping[str, Any], place: str) -> None:
    """Tell how a collection went, by `service.results.totals.totals`: totals on stdout, failures on stderr."""
    counts = summary["images"]
    tell(f"{counts['succeeded']} of {counts['total']} images segmented -> {legible(place)}")
    for each in summary["cover"]:
        more = (
            "" if "excluded" in each else f" of all pixels, {shown_percent(each['mean_of_images'])} mean of the images"
        )
        tell(f"  {shown_share(each)}{more}")
    for each in summary["failures"]:
        say(f"failed: {each['image']}: {each['reason']}", "red")

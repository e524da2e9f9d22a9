"""`pseg summarize`: the cover of a survey by site, transect and date, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from benchmarks.results.markdown import Table
from engine.declaration import Options, option
from engine.errors import OptionError
from engine.images import Capture
from engine.quantities import shown_figure
from engine.rasters.vector_file import require_vector_format
from engine.system.files import write_atomically
from engine.system.libraries import version_of_pseg
from engine.system.text import counted, json_text
from service.collections.merging import find_ledgers
from service.commands.flags import with_flags
from service.commands.groups import STANDARD_OUTPUT, require_one_output
from service.commands.terminal import (
    ExitStatus,
    Products,
    print_json,
    print_table,
    results_console,
    say,
    shown,
    table_written,
    tell_fact,
)
from service.request import require_apart, require_writable_file, written_by
from service.surveys.correction import Correction, read_correction
from service.surveys.ifdo import ifdo_record, read_header
from service.surveys.intervals import Estimate
from service.surveys.pictures import SurveyPictures, read_pictures
from service.surveys.places import PlacedPictures, SurveyOptions, place_pictures
from service.surveys.plot import covers_svg
from service.surveys.points import write_points
from service.surveys.summary import (
    Summary,
    changes_csv,
    groups_csv,
    quadrats_csv,
    summarize_survey,
    summary_record,
)

_NAMED_AT_MOST = 20
_WIDTH = 160
_NOT_STATED = "not stated by the sample"


@dataclass(frozen=True, slots=True)
class _SummaryOptions(Options):
    """What is summarized, and where it goes."""

    title: ClassVar[str] = "Summary"

    seed: int = option(0, "Seed of the bootstrap, which gives the intervals from 30 units on.", minimum=0)
    csv: Path | None = option(
        None, "Write the covers to this table, one row per group, date and class; - writes it to standard output."
    )
    changes: Path | None = option(
        None, "Write the differences between dates to this table, one row per group, pair of dates and class."
    )
    quadrats: Path | None = option(
        None,
        "Write the cover of every class to this table, one row per quadrat and date, or per picture if no quadrats "
        "are known.",
    )
    points: Path | None = option(
        None,
        "Write a point for each picture whose position is known, with its cover, to this file (.gpkg or .geojson).",
    )
    report: Path | None = option(
        None,
        "Write an HTML page to this file: covers and differences with their intervals, and a table of the pictures.",
    )
    plot: Path | None = option(
        None, "Draw the covers with their intervals, a panel for each class, into this file (.svg)."
    )
    ifdo: Path | None = option(
        None, "Describe the pictures in this file as an iFDO (image FAIR Digital Object, .json)."
    )
    ifdo_header: Path | None = option(
        None,
        "JSON object with the fields of the iFDO's header that only people know, such as project and licence.",
        metavar="JSON",
    )
    correct_with: Path | None = option(
        None,
        "Correct the covers for classes that the network confuses, with the file that `pseg evaluate --sample … "
        "--out` wrote from the labels of a sample that `pseg sample` drew.",
        metavar="JSON",
    )
    json_lines: bool = option(False, "Print only JSON on standard output.", name="json")

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        require_one_output(self.csv, json_lines=self.json_lines)
        for name, path, suffix in (("plot", self.plot, ".svg"), ("ifdo", self.ifdo, ".json")):
            if path is not None and path.suffix.lower() != suffix:
                raise OptionError(f"{path}: it is written as {suffix}: give a file that ends so", option=name)
        if self.ifdo_header is not None and self.ifdo is None:
            raise OptionError("a header needs an iFDO: name its file with --ifdo", option="ifdo_header")

    def files(self) -> dict[str, Path | None]:
        """Flag to file; None: not asked for, or standard output."""
        csv = None if self.csv == STANDARD_OUTPUT else self.csv
        return {
            "--csv": csv,
            "--changes": self.changes,
            "--quadrats": self.quadrats,
            "--points": self.points,
            "--report": self.report,
            "--plot": self.plot,
            "--ifdo": self.ifdo,
        }


@with_flags()
def summarize(
    ledgers: Annotated[list[Path], typer.Argument(metavar="DIR_OR_LEDGER…", help="Folders of results, or ledgers.")],
    survey: SurveyOptions,
    output: _SummaryOptions,
) -> None:
    """Give the mean cover of every class per group and date, with its standard error and 95 % interval.

    The unit is the transect; if no transects are known, it is the quadrat or, without quadrats, the picture. The exit
    status is 1 if an image failed or is missing (docs/surveys.md).
    """
    paths = find_ledgers(ledgers)
    kept = {
        "a ledger": paths,
        "the table of the survey": [] if survey.survey is None else [survey.survey],
        "the evaluation": [] if output.correct_with is None else [output.correct_with],
        "the header": [] if output.ifdo_header is None else [output.ifdo_header],
    }
    require_apart(written_by(output.files()), kept)
    if output.points is not None:
        require_vector_format(output.points, "points")
    header = {} if output.ifdo_header is None else read_header(output.ifdo_header)
    found = read_pictures(paths)
    require_apart(written_by(output.files()), found.files())
    placed = place_pictures(found.pictures, survey, list(found.failures))
    correction = (
        None if output.correct_with is None else read_correction(output.correct_with, found, len(placed.pictures))
    )
    summary = summarize_survey(found, placed, output.seed, correction)
    for path in filter(None, output.files().values()):
        require_writable_file(path)
    products = Products()
    with table_written(output.csv) as write_table:
        if output.csv is not None:
            with products.written(f"the table {output.csv}"):
                write_table(groups_csv(summary))
        _write(products, output, found, placed, summary)
        if output.report is not None:
            with products.written(f"the report {output.report}"):
                facts = _facts(survey, output, found, placed, summary, correction)
                _write_report(output.report, facts, found, placed, summary)
        if output.ifdo is not None:
            with products.written(f"the iFDO {output.ifdo}"):
                described, notes = ifdo_record(placed.pictures, found.classes, header)
                write_atomically(output.ifdo, json_text(described, indent=1).encode() + b"\n")
                for note in notes:
                    say(note)
        if output.json_lines:
            print_json(_record(found, placed, summary))
        else:
            _show(found, placed, summary)
    if products.missing or found.failures or found.missing or placed.without_picture:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _write(
    products: Products, output: _SummaryOptions, found: SurveyPictures, placed: PlacedPictures, summary: Summary
) -> None:
    for path, what, content in (
        (output.changes, "table", lambda: changes_csv(summary)),
        (output.quadrats, "table", lambda: quadrats_csv(found.classes, placed.pictures)),
        (output.plot, "plot", lambda: covers_svg(summary)),
    ):
        if path is not None:
            with products.written(f"the {what} {path}"):
                write_atomically(path, content())
    if output.points is not None:
        with products.written(f"the map {output.points}"):
            count = write_points(output.points, found.classes, placed.pictures)
            say(f"{count} of {len(placed.pictures)} pictures have a position -> {output.points}")


def _facts(
    survey: SurveyOptions,
    output: _SummaryOptions,
    found: SurveyPictures,
    placed: PlacedPictures,
    summary: Summary,
    correction: Correction | None,
) -> dict[str, str]:
    """What people publish beside the figures, name to value."""
    from service.results.report import run_facts

    facts = {**run_facts(found.runs), "summarized by": f"pseg {version_of_pseg()}"}
    # By its name alone: where it lies is not for a page that is published.
    made_of = {"table of the survey": survey.survey and survey.survey.name, "pattern": survey.pattern}
    facts |= {name: value for name, value in made_of.items() if value is not None}
    if placed.unplaced:
        left_out = counted(
            len(placed.unplaced), "picture without a place, which is", "pictures without a place, which are"
        )
        facts["left out"] = f"{left_out} not in this report"
    if any(each.method == "bootstrap" for group in summary.groups for each in group.covers):
        facts["seed of the bootstrap"] = str(output.seed)
    if correction is not None:
        facts["labelled pictures"] = str(len(correction.probabilities))
        facts["sample drawn by"] = correction.drawn_by or _NOT_STATED
        facts["seed of the sample"] = _NOT_STATED if correction.seed is None else str(correction.seed)
    return facts


def _write_report(
    path: Path, facts: Mapping[str, str], found: SurveyPictures, placed: PlacedPictures, summary: Summary
) -> None:
    from service.results.report import write_table_report

    told = [(each.picture.entry.record, each.picture.capture) for each in placed.pictures]
    failed = [
        ({"image": found.names[image], "status": "failed", "error": {"message": reason}}, Capture())
        for image, reason in found.failures.items()
    ]
    write_table_report(
        path,
        [*told, *failed],
        expected=len(told) + len(failed) + found.missing,
        facts=facts,
        title="Cover of a survey",
        survey={
            **summary_record(summary),
            "fields": list(summary.groups[0].group),
            "measured": any(each.areas_cm2 is not None for each in summary.groups),
        },
    )


def _record(found: SurveyPictures, placed: PlacedPictures, summary: Summary) -> dict[str, object]:
    return {
        "images": {
            "used": len(placed.pictures),
            "failed": len(found.failures),
            "missing": found.missing,
            "unplaced": len(placed.unplaced),
        },
        "failures": [{"image": image, "reason": reason} for image, reason in found.failures.items()],
        "unplaced": [{"image": image, "reason": reason} for image, reason in placed.unplaced.items()],
        "without_picture": list(placed.without_picture),
        **summary_record(summary),
    }


def _show(found: SurveyPictures, placed: PlacedPictures, summary: Summary) -> None:
    console = results_console(_WIDTH)
    corrected = ", corrected for what the network confuses" if summary.corrected else ""
    print_table(console, f"Cover in percent{corrected}", _cover_table(summary))
    if summary.changes:
        print_table(console, f"Difference in percentage points{corrected}", _change_table(summary))
    tell_fact(console, "images", f"{len(placed.pictures)} used, {len(found.failures)} failed, {found.missing} missing")
    for note in summary.notes:
        tell_fact(console, "note", note)
    _say_named("failed", found.told(found.failures))
    _say_named("left out", found.told(placed.unplaced))
    _say_named("no picture of the table's row", placed.without_picture)


def _say_named(what: str, names: Sequence[str]) -> None:
    for name in names[:_NAMED_AT_MOST]:
        say(f"{what}: {name}", "red")
    if len(names) > _NAMED_AT_MOST:
        say(f"{what}: and {len(names) - _NAMED_AT_MOST} more, which --json lists", "red")


def _cover_table(summary: Summary) -> Table:
    measured = any(each.areas_cm2 is not None for each in summary.groups)
    further = (*(["as found"] if summary.corrected else ()), *(["mean cm²"] if measured else ()))
    rows = [
        (
            *each.group.values(),
            each.date or "unknown",
            shown(of_class.name),
            str(each.units),
            *_cells(estimate),
            *(() if each.as_found is None else (shown_figure(100 * each.as_found[index], 2),)),
            *(() if not measured else ("" if each.areas_cm2 is None else shown_figure(each.areas_cm2[index], 1),)),
        )
        for each in summary.groups
        for index, (of_class, estimate) in enumerate(zip(summary.classes, each.covers, strict=True))
    ]
    columns = (*summary.groups[0].group, "date", "class", f"{summary.unit}s", "mean", "error", "95 % interval")
    return Table((*columns, *further), tuple(rows))


def _change_table(summary: Summary) -> Table:
    rows = [
        (
            *each.group.values(),
            f"{each.earlier} to {each.later}",
            shown(of_class.name),
            f"{each.units[0]} paired" if each.paired else f"{each.units[0]} and {each.units[1]}",
            *_cells(estimate),
        )
        for each in summary.changes
        for of_class, estimate in zip(summary.classes, each.changes, strict=True)
    ]
    fields = summary.changes[0].group
    return Table((*fields, "dates", "class", f"{summary.unit}s", "difference", "error", "95 % interval"), tuple(rows))


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    mean = shown_figure(100 * estimate.mean, 2)
    if estimate.standard_error is None or estimate.low is None or estimate.high is None:
        return mean, "", "none: one unit"
    low, high, error = (shown_figure(100 * each, 2) for each in (estimate.low, estimate.high, estimate.standard_error))
    return mean, error, f"{low} to {high} ({estimate.method})"

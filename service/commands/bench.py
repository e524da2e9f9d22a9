"""`pseg bench`: every configuration on the user's own images, measured."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.bench import BenchRequest, Places
from benchmarks.bench import bench as measure_product
from benchmarks.measuring.samples import Results
from benchmarks.results.plots import plot_names, plots, require_plotting
from benchmarks.results.tables import class_agreement, facts, figures, record, time_split, to_csv, to_markdown, troubles
from engine import OptionError, open_bundle
from engine.system.files import scratch_folder, write_atomically
from service.commands.flags import with_flags
from service.commands.groups import PictureOptions, require_pictures_to_read
from service.commands.named_pictures import named_pictures, require_folders
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    ExitStatus,
    JsonOption,
    print_json,
    print_table,
    step_shown,
    tell_fact,
    warn,
    wide_console,
)
from service.request import THE_BUNDLE, require_apart, require_writable
from service.session import Caches, caches_at

_RESULTS_JSON, _RESULTS_CSV, _PAGE = "results.json", "results.csv", "results.md"


@with_flags(from_file=True)
def bench(
    bundle: BundleArgument,
    request: BenchRequest,
    pictures: PictureOptions,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Files, folders or globs. May be repeated. By default pictures are generated."),
    ] = None,
    json_output: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results: JSON with all samples, CSV, Markdown and plots.")
    ] = None,
    cache_dir: CacheOption = None,
) -> None:
    """Measure speed, memory and agreement of all combinations of the options on this machine.

    All values of repeated options are combined. Each configuration runs in its own process, and the configurations
    take turns.
    """
    require_folders(images or [], recursive=pictures.recursive)
    request = replace(
        request, images=tuple(named_pictures(images or [], option="images", recursive=pictures.recursive))
    )
    require_pictures_to_read(request.images, bands=request.bands)
    if out is not None:
        require_plotting()
        names = (_RESULTS_JSON, _RESULTS_CSV, _PAGE, *plot_names())
        require_apart(
            [(f"{name} of --out", out / name) for name in names],
            {THE_BUNDLE: [bundle], "one of the images": request.images},
            advice="name another folder with --out",
        )
        require_writable(out)
    results = _measure(bundle, request, caches_at(cache_dir))
    _require_any(results)
    if out is not None:
        _write(results, out)
    if json_output:
        print_json(record(results))
    else:
        _show(results, out)
    if any(each.error is not None for each in results.measurements):
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _measure(bundle: Path, request: BenchRequest, caches: Caches) -> Results:
    with (
        scratch_folder("bench") as scratch,
        open_bundle(bundle) as opened,
        step_shown("preparing pictures and reference") as show,
    ):
        return measure_product(
            opened,
            request,
            Places(scratch, caches.load_marks, caches.engines),
            convert=caches.convert,
            commit=os.environ.get("PSEG_COMMIT"),
            advance=lambda step, configuration: show(f"{step}: {configuration.label}"),
        )


def _require_any(results: Results) -> None:
    if not results.measurements:
        told = " | ".join(f"{'; '.join(labels)}: {reason}" for reason, labels in troubles(results))
        raise OptionError(f"nothing of what was asked for can be measured here: {told}")


def _write(results: Results, folder: Path) -> None:
    from json import dumps

    pictures = plots(results)
    for name, content in pictures.items():
        write_atomically(folder / name, content)
    page = to_markdown(results, [name for name in pictures if name.endswith(".svg")])
    write_atomically(folder / _PAGE, page.encode())
    write_atomically(folder / _RESULTS_CSV, to_csv(results))
    write_atomically(folder / _RESULTS_JSON, (dumps(record(results), ensure_ascii=False, indent=1) + "\n").encode())


def _show(results: Results, out: Path | None) -> None:
    console = wide_console()
    for title, table in (
        ("measured", figures(results)),
        ("where the time goes", time_split(results)),
        ("agreement with the reference", class_agreement(results)),
    ):
        if table.rows:
            print_table(console, title, table)
    for reason, labels in troubles(results):
        warn(console, f"{'; '.join(labels)}: {reason}")
    for name, value in facts(results):
        tell_fact(console, name, value)
    if out is not None:
        tell_fact(console, "written", str(out / _PAGE))

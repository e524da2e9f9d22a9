"""`pseg predict`: images in, masks out."""

import logging
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine import Failed, ImageError, OptionError, Predictor, Provenance, Segmented, SourceImage, read_image
from engine.images import Capture, ImageLimits, find_images, is_tiff
from engine.rasters.options import TileOptions
from engine.rasters.result import Result
from engine.system.text import legible
from service.collections.sharding import parse_shard
from service.commands.flags import with_flags
from service.commands.groups import ResultOptions, SelectionOptions, SessionOptions
from service.commands.named_pictures import require_folders
from service.commands.terminal import (
    BundleArgument,
    ExitStatus,
    Products,
    flag_of,
    messages,
    print_json,
    say,
    shown_shares,
    table_written,
    tell,
    tell_missed,
)
from service.logs import progress_log
from service.request import (
    THE_BUNDLE,
    PredictRequest,
    at_full_size,
    require_apart,
    require_writable,
    require_writable_file,
    written_by,
)
from service.results.ledger import Entry, ledger_path, ledgers_in
from service.results.pictures import (
    CoverTable,
    ImageTask,
    ResultWriter,
    map_names,
    other_results,
    picture_names,
    region_error,
    require_inputs_kept,
    require_results_apart,
    result_paths,
)
from service.results.run_ledger import Ledger, open_ledger
from service.results.runs import Listing, list_tasks, run_of
from service.results.totals import valid_pixels
from service.segmentation_job import SegmentationJob
from service.session import caches_at, open_session

if TYPE_CHECKING:
    from service.results.rasters import TiledImages
    from service.results.report import Shown

_Result = Result[ImageTask, Path | None]
_NAMED_AT_MOST = 5


@with_flags(from_file=True)
def predict(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Files, folders or globs.")],
    results: ResultOptions,
    selection: SelectionOptions,
    request: PredictRequest,
    tiles: TileOptions,
    session: SessionOptions,
) -> None:
    """Segment images: a mask and the cover of every class for each."""
    if results.quiet:
        progress_log.setLevel(logging.WARNING)
    request = at_full_size(request, tiles)
    if request.save:
        require_results_apart(images, results.out)
    found = find_images(
        images,
        recursive=selection.recursive,
        exclude=selection.exclude,
        results=results.out,
        option_name=flag_of,
    )
    for remark in found.remarks():
        say(remark)
    _require_effect(images, found.images, selection, results, writes=_writes(request, tiles))
    share = None if selection.shard is None else parse_shard(selection.shard)
    listing = list_tasks(found.images, share, found.subfolders, selection.pages())
    run = PredictRun(bundle, listing, request, tiles, results, session)
    run.require_places()
    run.require_effect()
    with table_written(results.tables.csv) as write_table:
        complete = run.complete(write_table)
    if not complete:
        raise typer.Exit(ExitStatus.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class PredictRun:
    """A run of `pseg predict`; its fields are what the command was given."""

    bundle: Path
    listing: Listing
    request: PredictRequest
    tiles: TileOptions
    results: ResultOptions
    session: SessionOptions

    @property
    def tasks(self) -> list[ImageTask]:
        """The images of the run."""
        return [task for _, task in self.listing.mine]

    def require_places(self) -> None:
        """What is written takes the place of nothing that is read, and can be written."""
        out, profile = self.results.out, self.session.profile
        named = written_by({**self.results.tables.files(), "--vectors": self.tiles.polygon_file})
        require_apart(
            named,
            {
                THE_BUNDLE: [self.bundle],
                "one of the images": [task.path for task in self.listing.tasks],
                "the profile": [] if profile is None else [profile],
                "a ledger of the results": [ledger_path(out, self.listing.shard), *ledgers_in(out)],
                "a result": result_paths(self.listing.tasks, out, self.tiles.vectors, [path for _, path in named]),
            },
        )
        for folder in self.listing.folders_of_results(out):
            require_writable(folder, within=None if folder == out else out)
        for asked in filter(None, self.results.tables.files().values()):
            require_writable_file(asked)
        require_inputs_kept(self.listing.tasks, out, self.request.save)

    def require_effect(self) -> None:
        """What is asked of photographs or of rasters is asked of a run that has some of them."""
        tasks = self.listing.tasks
        if self.tiles.as_photograph or self.request.cover.lacks_ground or any(is_tiff(task.path) for task in tasks):
            from service.results.rasters import require_effect

            require_effect(tasks, self.request, self.tiles)

    def complete(self, write_table: Callable[[bytes], None]) -> bool:
        """Segment the images; False if one failed, or a table or page could not be written."""
        table, products, failed, shrunken, missed = CoverTable(), Products(), 0, 0, 0
        written = {task.stem for task in self.listing.tasks} - {task.stem for task in self.tasks}
        try:
            with (
                open_session(
                    self.bundle,
                    self.request,
                    caches_at(self.session.cache_dir),
                    [task.path for task in self.tasks],
                    profile=self.session.profile,
                ) as predictor,
                self._reporting(predictor, products) as show,
                _progress(len(self.tasks), wanted=not self.results.quiet) as advance,
            ):
                for record, result in self.results_of(predictor):
                    if not isinstance(result, Failed | Entry):
                        written.add(result.source.stem)
                    table.add(record, Capture() if isinstance(result, Failed) else result.capture)
                    shrunken += _is_shrunken(result)
                    show(result)
                    failed += record["status"] != "ok"
                    missed += region_error(record) is not None
                    if self.results.json_lines:
                        print_json(record)
                    elif record["status"] != "ok" or not self.results.quiet:
                        _tell(record)
                    advance()
                if not self.results.json_lines and not self.results.quiet:
                    _tell_end(len(self.tasks), failed, missed, shrunken, predictor.provenance)
                    tell_missed(missed)
                # A run that goes on with another one keeps the record of what is not its own.
                if _writes(self.request, self.tiles) and not self.results.resume:
                    self._tell_others(written)
        finally:
            csv = self.results.tables.csv
            if csv is not None and (table.rows or not self.tasks):
                with products.written(f"the table {csv}"):
                    write_table(table.to_csv())
        return not failed and not missed and not products.missing

    def _tell_others(self, written: Set[str]) -> None:
        out, save = self.results.out, self.request.save
        names = {
            name
            for stem in written
            for name in (
                *picture_names(stem, save, planes=False),
                *picture_names(stem, save, planes=True),
                *map_names(stem, save),
            )
        }
        others = other_results(out, names, lambda folder: bool(ledgers_in(folder)))
        if others:
            more = ", …" if len(others) > _NAMED_AT_MOST else ""
            say(
                f"{len(others)} file{'' if len(others) == 1 else 's'} in {out} that this run did not write: no table "
                f"and no report counts them, and you may remove them: {', '.join(others[:_NAMED_AT_MOST])}{more}"
            )

    def results_of(self, predictor: Predictor) -> Iterator[tuple[Mapping[str, Any], _Result | Entry]]:
        """Segment the images, in their order, write what was asked for, and record it: each record with its result."""
        out, resume = self.results.out, self.results.resume
        writer = ResultWriter(out, self.request.save, self.request.overlays)
        tiled = self._tiled(predictor, writer)
        # Where nothing else is to be written, a ledger is written only for what reads it.
        keep = _writes(self.request, self.tiles) or resume or self.listing.shard is not None
        run = run_of(predictor, self.request, self.listing, self.tiles)
        with open_ledger(
            out, run, self.listing, predictor.provenance, resume=resume, overwrite=self.results.overwrite, keep=keep
        ) as ledger:
            for note in ledger.notes:
                say(note)
            job = SegmentationJob(_Pending(ledger, self.request.images), predictor, writer, ledger, tiled)
            yield from ledger.in_order(job.results(self.request))

    def _tiled(self, predictor: Predictor, writer: ResultWriter) -> "TiledImages[ImageTask, Path | None] | None":
        """What cuts images into tiles; None, and not loaded, where no image of the run can be one of those."""
        tiles, tasks = self.tiles, self.tasks
        if tiles == TileOptions() and not any(is_tiff(task.path) for task in tasks):
            return None
        from service.results.rasters import REPORT_SIDE_PX, RasterWriter, TiledImages, require_rasters_possible

        sink = RasterWriter(writer, tiles.vectors)
        require_rasters_possible(tasks, self.listing.tasks, self.request, tiles, sink)
        side = None if self.results.tables.report is None else REPORT_SIDE_PX
        return TiledImages(predictor, self.request, tiles, sink, _file_of, side, self.results.resume)

    @contextmanager
    def _reporting(self, predictor: Predictor, products: Products) -> Generator[Callable[[_Result | Entry], None]]:
        path = self.results.tables.report
        if path is None:
            yield lambda _: None
            return
        from service.results.report import report_at, request_facts

        bundle = predictor.bundle
        with report_at(
            path,
            title=f"Segmentation with {bundle.name}",
            provenance=predictor.provenance,
            expected=len(self.tasks),
            facts={"bundle": str(bundle.source), **request_facts(self.request)},
            overlays=self.request.overlays,
            lost=lambda error: products.lose(f"the report {path}", error),
        ) as report:

            def show(result: _Result | Entry) -> None:
                if isinstance(result, Entry):
                    report.add_record(result.record, result.capture, self._shown_again(result))
                elif isinstance(result, Failed):
                    report.add_failure(result.source.label, str(result.error))
                else:
                    written = {} if result.encoded is None else {"result": str(result.encoded)}
                    report.add_result(result, written)

            yield show

    def _shown_again(self, entry: Entry) -> "Shown | None":
        """The photograph and the mask of an earlier run; None where they cannot be read again."""
        from service.results.report import Shown
        from service.results.saved import read_saved

        path = entry.record["mask"]["path"]
        try:
            image, mask = read_saved(entry, self.results.out, self.request.images)
        except ImageError:
            # The page says how many have no picture.
            return None
        return Shown(image, mask, {} if path is None else {"result": path})


@dataclass(frozen=True, slots=True)
class _Pending:
    """The images that are not finished."""

    ledger: Ledger
    limits: ImageLimits
    one_at_a_time: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[ImageTask]:
        return self.ledger.pending()

    def read(self, task: ImageTask) -> SourceImage:
        return read_image(task.path, **self.limits.values(), page=task.page)


def _writes(request: PredictRequest, tiles: TileOptions) -> bool:
    return bool(request.save) or tiles.vectors is not None


def _require_effect(
    named: Sequence[str], images: Sequence[Path], selection: SelectionOptions, results: ResultOptions, *, writes: bool
) -> None:
    require_folders(named, recursive=selection.recursive)
    if selection.page is not None and images and not any(map(is_tiff, images)):
        raise OptionError("no image of this run is a TIFF, and only TIFFs have pages: leave it out", option="page")
    if results.overwrite and not writes:
        raise OptionError("no result is written that could take the place of another: leave it out", option="overwrite")


def _file_of(task: ImageTask) -> tuple[Path, int | None]:
    return task.path, task.page


def _is_shrunken(result: _Result | Entry) -> bool:
    """Whether the network got fewer pixels than the photograph has; a raster it sees whole, tile by tile."""
    if not isinstance(result, Segmented):
        return False
    height, width = result.image.pixels.shape[:2]
    return (width, height) != (result.image.width, result.image.height)


def _tell_end(images: int, failed: int, missed: int, shrunken: int, provenance: Provenance) -> None:
    streams = f", {provenance.streams} streams" if provenance.streams > 1 else ""
    ran = f"{provenance.runtime} {provenance.provider} {provenance.precision}, {provenance.threads} threads{streams}"
    profile = "" if provenance.profile is None else f", chosen by the profile {provenance.profile[:8]}"
    regions = f", {missed} without a region of interest" if missed else ""
    say(f"{images - failed} of {images} images done, {failed} failed{regions}; run by {ran}{profile}")
    if shrunken:
        say(
            f"{shrunken} of these were shrunk for the network (--max-img-size): their masks have full size, but what "
            "is finer is lost"
        )


def _tell(record: Mapping[str, Any]) -> None:
    named = record["image"]
    if record["status"] != "ok":
        reason = record["error"]["message"]
        # What fails behind the reading of the file does not know its name.
        say(f"failed: {reason}" if named in reason else f"failed: {named}: {reason}", "red")
        return
    for note in record.get("notes", ()):
        say(f"{named} {note}")
    if flags := record.get("flags"):
        say(f"{named} may be {', '.join(flags)}")
    covers = ", ".join(shown_shares(record["cover"], valid_pixels(record)))
    where = "" if record["mask"]["path"] is None else f" -> {legible(record['mask']['path'])}"
    tell(f"{legible(named)}{where}: {covers}")
    region = record.get("roi")
    if region is None:
        return
    if region["error"] is not None:
        say(f"{named}: no region of interest: {region['error']}", "red")
        return
    inside = ", ".join(shown_shares(region["cover"]))
    tell(f"  inside of the region ({region['method']}): {inside}")


@contextmanager
def _progress(total: int, *, wanted: bool) -> Generator[Callable[[], None]]:
    if not wanted or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages(), transient=True) as progress:
        task = progress.add_task("segmenting", total=total)

        def advance() -> None:
            progress.advance(task)

        yield advance

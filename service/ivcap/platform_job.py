"""How an order or a job of a platform is done: fetch, segment, publish, and only then go on.

The model opens before the first image is fetched. Images that are handed out one at a time (a queue's) are never taken
ahead: taking the next one acknowledges the one before, so its results must be stored by then. Others are read ahead. An
image that fails is recorded and the others are done; a result that cannot be stored ends a queue's order, and its image
stays unacknowledged. Whatever happens, a summary says what was done and what was not.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice
from pathlib import Path
from shutil import rmtree
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from engine import (
    EngineError,
    Failed,
    ImageError,
    OptionError,
    Predictor,
    Provenance,
    RuntimeUnavailableError,
    Segmented,
    SourceImage,
    read_image,
)
from engine.errors import message_of
from engine.images import Capture, ImageLimits
from engine.images.tiff import is_georeferenced
from engine.rasters.result import Result
from engine.system.files import scratch_folder
from engine.system.machine.cores import usable_cores
from engine.system.text import legible_values
from service.ivcap.items import ImageSource, StorageError
from service.ivcap.names import ArtifactName, product_stem
from service.ivcap.parameters import ServiceRequest
from service.ivcap.publishing import SUMMARY_SCHEMA, ArtifactStore, ImageTask, Product, PublishedImage, Publisher
from service.ivcap.redaction import without_secrets
from service.request import PredictRequest
from service.results.pictures import CoverTable, Stems, cover_records, provenance_record, result_record
from service.results.rasters import (
    RASTER_OPTIONS,
    REPORT_SIDE_PX,
    TILE_OPTIONS,
    TiledImages,
    given_for_photographs,
)
from service.results.totals import TotalCover
from service.segmentation_job import SegmentationJob

if TYPE_CHECKING:
    from service.results.report import ReportWriter

_log = logging.getLogger(__name__)
_Result = Result[ImageTask, PublishedImage]
_STOP_IS_NOTICED_S = 0.1
_Stored = TypeVar("_Stored")


class ExitStatus(IntEnum):
    """How an order ends."""

    DONE = 0
    """All is done, or what could not be is listed."""
    INCOMPLETE = 1
    """Nothing succeeded, a result could not be stored, or the order ended early."""
    WRONG_REQUEST = 2


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image without results, and why."""

    image: ArtifactName
    reason: str


@dataclass(slots=True)
class Outcome:
    """The ledger of an order or a job: what became of it.

    `problems` are what was not stored besides, and what ended the order early; `products` maps `cover`, `report`,
    `collection` to URNs; `provenance` is None if the model did not open; `refused`: the request cannot be honoured
    here; `samples_ms` maps a stage to its time per image.
    """

    shard: str | None = None
    published: list[PublishedImage] = field(default_factory=list[PublishedImage])
    failed: list[FailedImage] = field(default_factory=list[FailedImage])
    problems: list[str] = field(default_factory=list[str])
    products: dict[str, str] = field(default_factory=dict[str, str])
    provenance: Provenance | None = None
    refused: bool = False
    table: CoverTable = field(default_factory=CoverTable)
    samples_ms: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def record(self, result: _Result) -> None:
        if self.provenance is not None:
            capture = Capture() if isinstance(result, Failed) else result.capture
            self.table.add(result_record(result, self.provenance), capture)
        if not isinstance(result, Failed):
            self.published.append(result.encoded)
            region = result.prediction.region if isinstance(result, Segmented) else None
            if region is not None and region.error is not None:
                self.problems.append(f"the region of interest of {result.source.label}: {region.error}")
            _log.info("%s: done", result.source.label)
            for stage, elapsed_ms in result.timings_ms.items():
                self.samples_ms.setdefault(stage, []).append(elapsed_ms)
            return
        reason = _reason(result.error)
        _log.error("%s: failed: %s", result.source.label, reason)
        self.failed.append(FailedImage(result.source.item.name, reason))
        if isinstance(result.error, StorageError):
            self.problems.append(f"the result of {result.source.label}: {reason}")

    def stored(self, what: str, store: Callable[[], _Stored]) -> _Stored | None:
        """Store something; what is not stored becomes a problem, and the rest is stored all the same."""
        try:
            return store()
        except Exception as error:
            self.not_stored(what, error)
            return None

    def not_stored(self, what: str, error: Exception) -> None:
        _log.error("%s: not stored: %s", what, _reason(error))
        self.problems.append(f"{what}: {_reason(error)}")

    @property
    def exit_status(self) -> ExitStatus:
        if self.refused:
            return ExitStatus.WRONG_REQUEST
        # A share of a small collection may hold nothing.
        nothing_to_do = self.shard is not None and not self.failed
        done = self.published or nothing_to_do
        return ExitStatus.INCOMPLETE if self.problems or not done else ExitStatus.DONE

    def summary(self, order: str, model: str) -> dict[str, Any]:
        """Sum up for the platform."""
        total = TotalCover()
        for each in self.published:
            total.add(each.valid_pixels, cover_records(each.covers))
        summary = {
            "$schema": SUMMARY_SCHEMA,
            "order": order,
            "model": model,
            "status": self.exit_status.name.lower(),
            **({} if self.shard is None else {"shard": self.shard}),
            "images": {
                "total": len(self.published) + len(self.failed),
                "succeeded": len(self.published),
                "failed": len(self.failed),
            },
            "failures": [
                {"image": each.image.urn, "name": each.image.label, "reason": each.reason} for each in self.failed
            ],
            "problems": self.problems,
            "masks": [each.record() for each in self.published],
            "cover": total.records(),
            "products": self.products,
            "provenance": None if self.provenance is None else provenance_record(self.provenance),
        }
        return legible_values(summary)


def run_platform_job(
    request: ServiceRequest,
    open_model: Callable[[PredictRequest], AbstractContextManager[Predictor]],
    source: ImageSource,
    store: ArtifactStore,
    *,
    stop: Event,
) -> Outcome:
    """Do an order or a job; its summary is published, or the problems of the outcome say that it is not.

    `open_model` opens the model for the options of a prediction, until the block ends.
    """
    outcome = Outcome(request.shard)
    with ExitStack() as until_summed_up:
        try:
            options = request.predict_request()
            images = _Images(source, options.images, stop)
            until_summed_up.callback(images.close)
            _require_shapes_possible(options, source)
            with scratch_folder("rasters") as folder, open_model(options) as predictor:
                outcome.provenance = predictor.provenance
                publisher = Publisher(
                    store,
                    request.model,
                    predictor.provenance,
                    predictor.bundle.multilabel,
                    folder,
                    request.tile_options().vectors,
                )
                _Run(request, predictor, images, publisher, outcome).complete(options)
        except (OptionError, RuntimeUnavailableError) as error:
            _log.error("refused: %s", error)
            outcome.refused = True
            outcome.problems.append(_reason(error))
        except EngineError as error:
            _log.error("%s", error)
            outcome.problems.append(_reason(error))
        except Exception as error:
            # Whatever went wrong, what was done until then is summed up.
            _log.exception("the order broke off")
            outcome.problems.append(_reason(error))
        outcome.stored("the summary", lambda: store.attach(store.order, outcome.summary(store.order, request.model)))
    return outcome


def _require_shapes_possible(options: PredictRequest, source: ImageSource) -> None:
    if options.auto_tune_shapes and not source.sample:
        raise OptionError(
            "enable-auto-tune collects shapes from images before the model opens, and these images can only be "
            "fetched afterwards: collect the shapes once with local images, and order with use-trt alone"
        )


@dataclass(slots=True)
class _Images:
    """The images of a platform's source, until it is exhausted or the process is asked to stop."""

    source: ImageSource
    limits: ImageLimits
    stop: Event
    _exhausted: bool = field(default=False, init=False)
    _given_up: bool = field(default=False, init=False)
    """Whether an image that was handed out had not arrived when a stop was asked for."""
    georeferenced: bool = field(default=False, init=False)
    """Whether an image that was read as a photograph says where on the earth it lies."""
    _fetchers: ThreadPoolExecutor | None = field(default=None, init=False)

    @property
    def one_at_a_time(self) -> bool:
        return self.source.one_at_a_time

    def __iter__(self) -> Iterator[ImageTask]:
        if self.stop.is_set():
            return
        stems, count = Stems(), 1 if self.one_at_a_time else usable_cores()
        pool = self._fetchers = ThreadPoolExecutor(count, thread_name_prefix="fetch")
        items = iter(self.source)
        fetching = (
            ImageTask(item, stems.take(product_stem(item.name.label)), pool.submit(item.fetch)) for item in items
        )
        ahead = deque(islice(fetching, count))
        while ahead:
            yield ahead.popleft()
            if self.stop.is_set():
                # What is under way nobody waits for, until all else is done; of a queue nothing more is taken.
                self._exhausted = not self.one_at_a_time and not ahead and next(items, None) is None
                return
            ahead.extend(islice(fetching, 1))
        self._exhausted = True

    def end(self) -> bool:
        """Take no other image, and acknowledge the last one; tells whether none is left."""
        return (self._exhausted or self.source.acknowledge()) and not self._given_up

    def close(self) -> None:
        """Wait for downloads that are under way; none begins."""
        if self._fetchers is not None:
            self._fetchers.shutdown(cancel_futures=True)

    def arrives(self, task: ImageTask) -> bool:
        """Wait for an image; False if a stop is asked for before it is here. What a queue handed out is finished."""
        while not task.fetched.done():
            if self.stop.is_set() and not self.one_at_a_time:
                return False
            wait([task.fetched], timeout=_STOP_IS_NOTICED_S)
        return True

    def read(self, task: ImageTask) -> SourceImage:
        if not self.arrives(task):
            self._given_up = True
            raise ImageError("the process was asked to stop before the image had arrived")
        try:
            path = task.fetched.result()
            if is_georeferenced(path):  # not `|=`: other threads read files, too
                self.georeferenced = True
            return read_image(path, **self.limits.values())
        except ImageError as error:
            raise _named(error, task) from error


def _file_of(task: ImageTask) -> tuple[Path, None]:
    return task.fetched.result(), None


def _named(error: Exception, task: ImageTask, *temporary: Path) -> Exception:
    """Temporary paths mean nothing to whoever reads the message."""
    if not isinstance(error, ImageError):
        return error
    text = str(error)
    if task.fetched.exception() is None:
        text = text.replace(str(task.fetched.result()), task.label)
    for path in temporary:
        text = text.replace(str(path), "the folder for temporary files")
    return ImageError(text)


@dataclass(frozen=True, slots=True)
class _Tiled:
    """Large images of orders and jobs."""

    images: TiledImages[ImageTask, PublishedImage]
    publisher: Publisher
    source: _Images

    def takes(self, task: ImageTask) -> bool:
        return self.source.arrives(task) and self.images.takes(task)

    def segment(self, task: ImageTask) -> _Result:
        folder = self.publisher.folder_of(task)
        try:
            result = self.images.segment(task)
        except OptionError as error:
            # That no tile fits into the memory, say, is nothing to the photographs among the images.
            return Failed(task, error)
        finally:
            rmtree(folder, ignore_errors=True)
        return Failed(task, _named(result.error, task, folder)) if isinstance(result, Failed) else result


@dataclass(frozen=True, slots=True)
class _Run:
    request: ServiceRequest
    predictor: Predictor
    images: _Images
    publisher: Publisher
    outcome: Outcome

    def complete(self, options: PredictRequest) -> None:
        with scratch_folder("report") as folder:
            page = folder / "report.html"
            try:
                with self._report(page, options) as show:
                    self._segment(options, show)
            finally:
                # Also when the source broke off: what is done is worth a table.
                self._publish_products(page)

    def _segment(self, options: PredictRequest, show: Callable[[_Result], None]) -> None:
        side = REPORT_SIDE_PX if self.request.report else None
        tiles = TiledImages(self.predictor, options, self.request.tile_options(), self.publisher, _file_of, side)
        job = SegmentationJob(
            self.images, self.predictor, self.publisher, self.outcome, _Tiled(tiles, self.publisher, self.images)
        )
        for result in job.results(options):
            result.source.item.release()
            show(result)
            if self.images.one_at_a_time and isinstance(result, Failed) and isinstance(result.error, StorageError):
                # It is not acknowledged, and no other one is taken.
                return
        self._require_effect(options)
        if not self.images.end():
            self.outcome.problems.append("ended early because the service was asked to stop: images may be left")
        elif not (self.outcome.published or self.outcome.failed or self.request.shard):
            self.outcome.problems.append(
                f"{self.request.images} held no image: it is empty, or somebody else has done its images"
            )

    def _require_effect(self, asked: PredictRequest) -> None:
        """An option that acted on no image is a mistake; which images there are is known only now."""
        if self.request.shard is not None or self.outcome.failed:
            # The images that it is for may be those that failed, or those of another shard.
            return
        published, tiles = self.outcome.published, self.request.tile_options()
        options = tiles.values()
        given = {name for name in TILE_OPTIONS | RASTER_OPTIONS if options[name] is not None}
        as_photograph = {"as_photograph"} if tiles.as_photograph else set[str]()
        for idle, acted, reason in (
            (given & TILE_OPTIONS, any(each.is_cut for each in published), "no image is cut into tiles"),
            (given & RASTER_OPTIONS, any("raster" in each.details for each in published), "no image is a raster"),
            (as_photograph, self.images.georeferenced, "no image is a georeferenced TIFF"),
            (
                {*given_for_photographs(asked)},
                tiles.tile or not all(each.is_cut for each in published),
                "every image is a raster",
            ),
        ):
            if published and idle and not acted:
                names = " and ".join(sorted(name.replace("_", "-") for name in idle))
                self.outcome.problems.append(f"{reason}, so {names} had no effect: leave it out")

    @contextmanager
    def _report(self, page: Path, options: PredictRequest) -> Generator[Callable[[_Result], None]]:
        if not self.request.report:
            yield lambda _: None
            return
        from service.results.report import report_at, request_facts

        with report_at(
            page,
            title=self.predictor.bundle.name,
            provenance=self.predictor.provenance,
            expected=len(self.images.source.sample) or None,
            facts={"order": self.publisher.store.order, "model": self.request.model, **request_facts(options)},
            overlays=options.overlays,
            lost=lambda error: self.outcome.not_stored("the report", error),
        ) as report:
            yield lambda result: _show(result, report)

    def _publish_products(self, page: Path) -> None:
        outcome, publisher = self.outcome, self.publisher

        def product(kind: str, store: Callable[[], str]) -> None:
            urn = outcome.stored(f"the {kind}", store)
            if urn is not None:
                outcome.products[kind] = urn

        def file(name: str, mime_type: str, content: Callable[[], bytes]) -> Callable[[], str]:
            return lambda: publisher.store.store(Product(name, mime_type, content()))

        if outcome.table.rows:
            product("cover", file("cover.csv", "text/csv", outcome.table.to_csv))
        if page.is_file():
            product("report", file("report.html", "text/html", page.read_bytes))
        if outcome.published:
            product("collection", lambda: publisher.publish_collection(outcome.published))
        if self.request.benchmark and outcome.samples_ms:
            name = self.request.model_name or self.predictor.bundle.name
            outcome.stored("the timings", lambda: publisher.publish_timings(name, outcome.samples_ms))


def _show(result: _Result, report: "ReportWriter") -> None:
    if isinstance(result, Failed):
        report.add_failure(result.source.label, _reason(result.error))
        return
    stored = result.encoded
    polygons = {} if stored.polygons is None else {"polygons": stored.polygons}
    report.add_result(result, {"image": stored.image.urn, "mask": stored.mask, **polygons})


def _reason(error: Exception) -> str:
    return without_secrets(message_of(error))

"""How an order or a job is done, whichever door it came through: fetch, segment, publish, and only then go on.

The model opens before the first image is fetched. Images that are handed out one at a time (a queue's) are never taken
ahead: taking the next one acknowledges the one before, so its results must be stored by then. Others are read ahead. An
image that fails is recorded and the others are done; a result that cannot be stored ends a queue's order, and its image
stays unacknowledged. Whatever happens, a summary says what was done and what was not.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine import (
    EngineError,
    Failed,
    ImageError,
    OptionError,
    Pipeline,
    Prediction,
    Predictor,
    Provenance,
    RuntimeUnavailableError,
    Segmented,
    SourceImage,
    read_image,
)
from engine.errors import message_of
from engine.images import Capture
from engine.system.files import scratch_folder
from engine.system.text import legible_values
from service.ivcap.publishing import (
    SUMMARY_SCHEMA,
    FailedImage,
    Outlet,
    Product,
    PublishedImage,
    Publisher,
    SourceName,
    StorageError,
    TotalCover,
    product_stem,
)
from service.ivcap.redaction import without_secrets
from service.request import ServiceRequest
from service.results.pictures import CoverTable, Stems, cover_records, provenance_record, result_record
from service.session import build_pipeline

if TYPE_CHECKING:
    from service.results.report import ReportWriter

_log = logging.getLogger(__name__)
_Stored = TypeVar("_Stored")


class FetchError(EngineError):
    """An image or a model could not be fetched."""


class SupplyError(EngineError):
    """The supply of images broke off: nobody knows how many are left."""


class ExitStatus(IntEnum):
    """How an order ends."""

    DONE = 0
    """All is done, or what could not be is listed."""
    INCOMPLETE = 1
    """Nothing succeeded, a result could not be stored, or the order ended early."""
    WRONG_REQUEST = 2


class Item(Protocol):
    """One image, wherever it lies."""

    @property
    def source(self) -> SourceName:
        """What it is called."""
        ...

    def fetch(self) -> Path:
        """Bring it here; called in a worker thread.

        Returns:
            A local file.

        Raises:
            FetchError: it cannot be had.
        """
        ...

    def release(self) -> None:
        """Remove what `fetch` brought here, and nothing else."""
        ...


class Supply(Protocol):
    """The images of an order."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether taking an image acknowledges the one before."""
        ...

    @property
    def sample(self) -> Sequence[Path]:
        """Images that can be looked at before the model opens; empty where there are none."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Hand out the images.

        Raises:
            SupplyError: it broke off.
        """
        ...

    def acknowledge(self) -> None:
        """Acknowledge the image that was handed out last, if no other one will be taken."""
        ...


@dataclass(frozen=True, slots=True)
class _Task:
    item: Item
    stem: str

    @property
    def label(self) -> str:
        return self.item.source.label


@dataclass(slots=True)
class Outcome:
    """What became of an order.

    Attributes:
        published: images whose results are stored.
        failed: images without results.
        problems: what was not stored besides, and what ended the order early.
        products: kind to URN: `cover`, `report`, `collection`.
        provenance: of the masks; None if the model did not open.
        refused: the request cannot be honoured here.
        shard: which share of the images was asked for; None: all.
    """

    published: list[PublishedImage] = field(default_factory=list[PublishedImage])
    failed: list[FailedImage] = field(default_factory=list[FailedImage])
    problems: list[str] = field(default_factory=list[str])
    products: dict[str, str] = field(default_factory=dict[str, str])
    provenance: Provenance | None = None
    refused: bool = False
    shard: str | None = None

    @property
    def exit_status(self) -> ExitStatus:
        """How the order ends."""
        if self.refused:
            return ExitStatus.WRONG_REQUEST
        # A share of a small collection may hold nothing.
        nothing_to_do = self.shard is not None and not self.failed
        done = self.published or nothing_to_do
        return ExitStatus.INCOMPLETE if self.problems or not done else ExitStatus.DONE

    def summary(self, order: str, model: str) -> dict[str, Any]:
        """Sum up.

        Args:
            order: URN of the order.
            model: URN of the model bundle.

        Returns:
            The summary aspect; its texts are legible.
        """
        total = TotalCover()
        for each in self.published:
            total.add(each.width, each.height, each.covers)
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
                {"image": each.source.urn, "name": each.source.label, "reason": each.reason} for each in self.failed
            ],
            "problems": self.problems,
            "cover": cover_records(total.covers()),
            "products": self.products,
            "provenance": None if self.provenance is None else provenance_record(self.provenance),
        }
        return legible_values(summary)


def fulfil(
    request: ServiceRequest,
    session: AbstractContextManager[Predictor],
    supply: Supply,
    outlet: Outlet,
    *,
    stop: Event,
) -> Outcome:
    """Do an order or a job.

    Args:
        request: validated parameters.
        session: opens the model when it is entered.
        supply: the images.
        outlet: where results go.
        stop: when it is set, no other image is taken.

    Returns:
        What became of it; its summary is published, or the problems say that it is not.
    """
    fulfilment = _Fulfilment(request, supply, outlet, stop, Outcome(shard=request.shard))
    outcome = fulfilment.outcome
    try:
        fulfilment.require_possible()
        with session as predictor:
            fulfilment.run(predictor)
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
    fulfilment.stored("the summary", fulfilment.publish_summary)
    return outcome


@dataclass(slots=True)
class _Fulfilment:
    request: ServiceRequest
    supply: Supply
    outlet: Outlet
    stop: Event
    outcome: Outcome
    table: CoverTable = field(default_factory=CoverTable)
    stems: Stems = field(default_factory=Stems)
    exhausted: bool = False
    samples_ms: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def require_possible(self) -> None:
        if self.request.predict_request().auto_tune_shapes and not self.supply.sample:
            raise OptionError(
                "enable-auto-tune collects shapes from images before the model opens, and these images can only be "
                "fetched afterwards: collect the shapes once with local images, and order with use-trt alone"
            )

    def run(self, predictor: Predictor) -> None:
        self.outcome.provenance = predictor.provenance
        publisher = Publisher(self.outlet, self.request.model, predictor.provenance, predictor.bundle.multilabel)
        with scratch_folder("report") as folder:
            page = folder / "report.html"
            try:
                with self._report(page, predictor) as report:
                    self._segment(self._pipeline(predictor, publisher), report)
            finally:
                # Also when the supply broke off: what is done is worth a table.
                self._publish_products(publisher, page, self.request.model_name or predictor.bundle.name)

    @contextmanager
    def _report(self, page: Path, predictor: Predictor) -> "Generator[ReportWriter | None]":
        if not self.request.report:
            yield None
            return
        from service.results.report import report_at

        with report_at(
            page,
            title=predictor.bundle.name,
            provenance=predictor.provenance,
            expected=len(self.supply.sample) or None,
            facts={"order": self.outlet.order, "model": self.request.model},
            lost=lambda error: self.not_stored("the report", error),
        ) as report:
            yield report

    def _pipeline(self, predictor: Predictor, publisher: Publisher) -> Pipeline[_Task, PublishedImage]:
        request = self.request.predict_request()

        def decode(task: _Task) -> SourceImage:
            path = task.item.fetch()
            try:
                return read_image(path, **request.images.values())
            except ImageError as error:
                # Where it lay for a moment tells nobody anything.
                raise ImageError(str(error).replace(str(path), task.label)) from error

        def encode(task: _Task, _: SourceImage, prediction: Prediction) -> PublishedImage:
            return publisher.publish_image(task.item.source, task.stem, prediction)

        return build_pipeline(predictor, request, decode, encode)

    def _segment(self, pipeline: Pipeline[_Task, PublishedImage], report: "ReportWriter | None") -> None:
        provenance = pipeline.predictor.provenance
        for result in self._results(pipeline):
            result.source.item.release()
            capture = result.image.capture if isinstance(result, Segmented) else Capture()
            self.table.add(result_record(result, provenance), capture)
            if report is not None:
                _show(result, report)
            if self._record(result) and self.supply.one_at_a_time:
                return
        if not self.exhausted:
            self.outcome.problems.append("ended early because the service was told to stop: images may be left")
            self.supply.acknowledge()

    def _results(
        self, pipeline: Pipeline[_Task, PublishedImage]
    ) -> Iterator[Segmented[_Task, PublishedImage] | Failed[_Task]]:
        if self.supply.one_at_a_time:
            for task in self._tasks():
                yield from pipeline.run([task])
        else:
            yield from pipeline.run(self._tasks())

    def _tasks(self) -> Iterator[_Task]:
        items = iter(self.supply)
        while not self.stop.is_set():
            item = next(items, None)
            if item is None:
                self.exhausted = True
                return
            yield _Task(item, self.stems.take(product_stem(item.source.label)))

    def _record(self, result: Segmented[_Task, PublishedImage] | Failed[_Task]) -> bool:
        """Count a result; true if it was there and could not be stored."""
        if isinstance(result, Segmented):
            self.outcome.published.append(result.encoded)
            _log.info("%s: done", result.source.label)
            if self.request.benchmark:
                for stage, elapsed_ms in result.timings_ms.items():
                    self.samples_ms.setdefault(stage, []).append(elapsed_ms)
            return False
        error, reason = result.error, _reason(result.error)
        _log.error("%s: failed: %s", result.source.label, reason)
        self.outcome.failed.append(FailedImage(result.source.item.source, reason))
        lost = isinstance(error, StorageError)
        if lost:
            self.outcome.problems.append(f"the result of {result.source.label}: {reason}")
        return lost

    def _publish_products(self, publisher: Publisher, page: Path, model_name: str) -> None:
        outcome, store = self.outcome, self.outlet.store
        if self.table.rows:
            self._product("cover", lambda: store(Product("cover.csv", "text/csv", self.table.to_csv())))
        if page.is_file():
            self._product("report", lambda: store(Product("report.html", "text/html", page.read_bytes())))
        if outcome.published:
            self._product("collection", lambda: publisher.publish_collection(outcome.published))
        if self.samples_ms:
            self.stored("the timings", lambda: publisher.publish_timings(model_name, self.samples_ms))

    def _product(self, kind: str, store: Callable[[], str]) -> None:
        urn = self.stored(f"the {kind}", store)
        if urn is not None:
            self.outcome.products[kind] = urn

    def publish_summary(self) -> None:
        self.outlet.attach(self.outlet.order, self.outcome.summary(self.outlet.order, self.request.model))

    def stored(self, what: str, store: Callable[[], _Stored]) -> _Stored | None:
        """Store something; what is not stored becomes a problem of the order, and takes nothing else with it."""
        try:
            return store()
        except Exception as error:
            self.not_stored(what, error)
            return None

    def not_stored(self, what: str, error: Exception) -> None:
        _log.error("%s: not stored: %s", what, _reason(error))
        self.outcome.problems.append(f"{what}: {_reason(error)}")


def _show(result: Segmented[_Task, PublishedImage] | Failed[_Task], report: "ReportWriter") -> None:
    if isinstance(result, Segmented):
        details = {"image": result.encoded.source.urn, "mask": result.encoded.mask}
        report.add(result.source.label, result.image, result.prediction, details)
    else:
        report.add_failure(result.source.label, _reason(result.error))


def _reason(error: Exception) -> str:
    return without_secrets(message_of(error))

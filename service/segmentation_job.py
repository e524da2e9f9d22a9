"""A job: the images of a source are segmented, stored in a sink, and recorded in a ledger.

`pseg predict`, orders, jobs of the platform and the workers of a cluster differ in source, sink and ledger, and in
nothing else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, Protocol, TypeVar

from engine import Pipeline, Prediction, Predictor, SourceImage
from engine.rasters.result import Result
from service.request import PredictRequest
from service.session import build_pipeline

Image = TypeVar("Image")
Stored = TypeVar("Stored")
_Read = TypeVar("_Read")
_Written = TypeVar("_Written", contravariant=True)
_Place = TypeVar("_Place", covariant=True)
_Location = TypeVar("_Location")


class Source(Protocol[_Read]):
    """Where images come from."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether an image is taken only after the result of the one before is stored."""
        ...

    def __iter__(self) -> Iterator[_Read]: ...

    def read(self, image: _Read, /) -> SourceImage:
        """Fetch and decode an image; called in worker threads."""
        ...


class Sink(Protocol[_Written, _Place]):
    """Where results go."""

    def write(self, image: _Written, source: SourceImage, prediction: Prediction, /) -> _Place:
        """Store the result of an image, and say where it is; called in worker threads."""
        ...


class Tiled(Protocol[_Read, _Location]):
    """Segments those images that are cut into tiles: `service.results.rasters.TiledImages`."""

    def takes(self, image: _Read, /) -> bool:
        """Tell whether an image is one of them."""
        ...

    def segment(self, image: _Read, /) -> Result[_Read, _Location]:
        """Segment one of them, and store its result."""
        ...


class Ledger(Protocol[_Read, _Location]):
    """What is done."""

    def record(self, result: Result[_Read, _Location], /) -> None:
        """Record a result that is stored, or a failure."""
        ...


@dataclass(frozen=True, slots=True)
class SegmentationJob(Generic[Image, Stored]):
    """Images, an open model, and where results and records of them go; `tiled` segments large images, if any."""

    source: Source[Image]
    predictor: Predictor
    sink: Sink[Image, Stored]
    ledger: Ledger[Image, Stored]
    tiled: Tiled[Image, Stored] | None = None

    def results(self, request: PredictRequest, threads: int | None = None) -> Iterator[Result[Image, Stored]]:
        """Segment the images, in their order; each result is stored and recorded, or says why the image failed.

        As many `threads` read as write; None: all cores that the process may use.
        """
        pipeline = build_pipeline(self.predictor, request, self.source.read, self.sink.write, threads)
        groups: Iterable[Iterable[Image]]
        groups = ([image] for image in self.source) if self.source.one_at_a_time else (self.source,)
        for group in groups:
            for result in self._segmented(group, pipeline):
                self.ledger.record(result)
                yield result

    def _segmented(self, images: Iterable[Image], pipeline: Pipeline[Image, Stored]) -> Iterator[Result[Image, Stored]]:
        """The pipeline reads ahead among images that follow each other and are not cut."""
        if self.tiled is None:
            yield from pipeline.run(images)
            return
        for cut, group in groupby(images, self.tiled.takes):
            if cut:
                yield from map(self.tiled.segment, group)
            else:
                yield from pipeline.run(group)

"""A job: the images of a source are segmented, stored in a sink, and recorded in a ledger.

Orders, jobs of the platform and the workers of a cluster differ in source, sink and ledger, and in nothing else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engine import Failed, Prediction, Predictor, Segmented, SourceImage
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


class Ledger(Protocol[_Read, _Location]):
    """What is done."""

    def record(self, result: Segmented[_Read, _Location] | Failed[_Read], /) -> None:
        """Record a result that is stored, or a failure."""
        ...


@dataclass(frozen=True, slots=True)
class SegmentationJob(Generic[Image, Stored]):
    """Images, an open model, and where results and records of them go."""

    source: Source[Image]
    predictor: Predictor
    sink: Sink[Image, Stored]
    ledger: Ledger[Image, Stored]

    def results(
        self, request: PredictRequest, threads: int | None = None
    ) -> Iterator[Segmented[Image, Stored] | Failed[Image]]:
        """Segment the images, in their order.

        Args:
            request: validated parameters.
            threads: for reading, and as many for writing; None: all cores that the process may use.

        Yields:
            For each image its result, which is stored and recorded, or why it failed.
        """
        pipeline = build_pipeline(self.predictor, request, self.source.read, self.sink.write, threads)
        groups: Iterable[Iterable[Image]]
        groups = ([image] for image in self.source) if self.source.one_at_a_time else (self.source,)
        for group in groups:
            for result in pipeline.run(group):
                self.ledger.record(result)
                yield result

"""Many images through one predictor: decode, run and encode overlap, memory is bounded, order is kept."""

# Decoding, running and encoding happen in threads of their own; the network has one for each stream of the predictor's
# runtime. At any moment at most `read_ahead + (2 + streams) × batch_size` images are held. What goes wrong with one
# image is that image's failed result.

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from engine.images import Capture, SourceImage
from engine.segmentation.confidence import Confidence
from engine.segmentation.network import PreparedImage, RawOutput
from engine.segmentation.prediction import Prediction
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import ClassCover, RegionCover

_log = logging.getLogger(__name__)

Source = TypeVar("Source")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True, slots=True, eq=False)
class Segmented(Generic[Source, Encoded]):
    """One image that was segmented.

    Attributes:
        source: as it was handed in.
        image: the decoded image.
        prediction: mask and cover.
        encoded: what `encode` returned.
        timings_ms: decode, preprocess, run, postprocess and encode, in milliseconds.
    """

    source: Source
    image: SourceImage
    prediction: Prediction
    encoded: Encoded
    timings_ms: Mapping[str, float]

    @property
    def width(self) -> int:
        """Width of the mask in pixels."""
        return self.prediction.width

    @property
    def height(self) -> int:
        """Height of the mask in pixels."""
        return self.prediction.height

    @property
    def valid_pixels(self) -> int:
        """Pixels of the mask; all of a photograph hold data."""
        return self.width * self.height

    @property
    def covers(self) -> tuple[ClassCover, ...]:
        """One a class, in index order."""
        return self.prediction.covers

    @property
    def capture(self) -> Capture:
        """When and where it was taken."""
        return self.image.capture

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know about how it was read; short phrases, usually none."""
        return self.image.notes

    @property
    def confidence(self) -> Confidence | None:
        """How sure the network is of the classes; None if not requested."""
        return self.prediction.confidence

    @property
    def region(self) -> RegionCover | None:
        """The cover inside the region of interest; None if not requested."""
        return self.prediction.region

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Width and height of what the network saw at once, in pixels."""
        return self.prediction.network_size

    @property
    def tiling(self) -> Mapping[str, object] | None:
        """How the image was cut into tiles, for the provenance; None if it was not."""
        return self.prediction.tiling


@dataclass(frozen=True, slots=True)
class Failed(Generic[Source]):
    """One image that could not be segmented.

    Attributes:
        source: as it was handed in.
        error: why.
    """

    source: Source
    error: Exception


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    image: SourceImage
    prepared: PreparedImage
    decode_ms: float


_Batch = deque[tuple[Source, "Future[Segmented[Source, Encoded]]"]]


@dataclass(slots=True)
class Pipeline(Generic[Source, Encoded]):
    """How a stream of images is segmented.

    Attributes:
        predictor: runs the network.
        decode: source to image; called in worker threads.
        encode: processes a prediction (writes files, for example); called in worker threads.
        batch_size: images that may share one run.
        workers: threads for decoding, and as many for encoding.
        read_ahead: images decoded before they are needed.
    """

    predictor: Predictor
    decode: Callable[[Source], SourceImage]
    encode: Callable[[Source, SourceImage, Prediction], Encoded]
    batch_size: int = 1
    workers: int = 2
    read_ahead: int = 4

    def run(self, sources: Iterable[Source]) -> Iterator[Segmented[Source, Encoded] | Failed[Source]]:
        """Segment a stream of images.

        Args:
            sources: read lazily in the caller's thread, at most `read_ahead` plus one batch for each stream plus one
                more batch ahead.

        Yields:
            One result per source, in their order.
        """
        stream = iter(sources)
        streams = self.predictor.runtime.identity.streams
        with (
            ThreadPoolExecutor(self.workers, thread_name_prefix="encode") as encoders,
            ThreadPoolExecutor(streams, thread_name_prefix="run") as runners,
            ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as decoders,
        ):
            decoding: deque[tuple[Source, Future[_Decoded]]] = deque()
            running: deque[Future[_Batch[Source, Encoded]]] = deque()
            finishing: _Batch[Source, Encoded] = deque()
            try:
                while True:
                    # One batch waits for a stream, so that none is idle while the caller looks at a result.
                    waiting = self.batch_size * max(0, len(running) - streams)
                    free = self.read_ahead + self.batch_size - len(decoding) - waiting
                    decoding.extend((each, decoders.submit(self._decode, each)) for each in islice(stream, free))
                    if decoding and len(running) <= streams:
                        # No name is given to the batch: it would keep the images alive until the next one.
                        running.append(
                            runners.submit(
                                self._run_batch,
                                [decoding.popleft() for _ in range(min(self.batch_size, len(decoding)))],
                                encoders,
                            )
                        )
                        continue
                    if not running:
                        break
                    finishing.extend(running.popleft().result())
                    while len(finishing) > self.batch_size or (finishing and finishing[0][1].done()):
                        yield _result(*finishing.popleft())
                while finishing:
                    yield _result(*finishing.popleft())
            finally:
                for future in (*running, *(future for _, future in (*decoding, *finishing))):
                    future.cancel()

    def _decode(self, source: Source) -> _Decoded:
        started = time.perf_counter()
        image = self.decode(source)
        decode_ms = (time.perf_counter() - started) * 1000
        return _Decoded(image, self.predictor.prepare(image), decode_ms)

    def _run_batch(
        self, batch: Sequence[tuple[Source, Future[_Decoded]]], encoders: ThreadPoolExecutor
    ) -> "_Batch[Source, Encoded]":
        decoded = [(source, _settled(future)) for source, future in batch]
        ready = [each for _, each in decoded if isinstance(each, _Decoded)]
        outputs = iter(self._run_each([each.prepared for each in ready]))
        submitted: _Batch[Source, Encoded] = deque()
        for source, each in decoded:
            if isinstance(each, _Decoded):
                submitted.append((source, encoders.submit(self._finish, source, each, next(outputs))))
            else:
                failed: Future[Segmented[Source, Encoded]] = Future()
                failed.set_exception(each)
                submitted.append((source, failed))
        return submitted

    def _run_each(self, prepared: Sequence[PreparedImage]) -> list[RawOutput | Exception]:
        try:
            return [*self.predictor.run(prepared, for_classes=True)]
        except Exception as error:
            if len(prepared) == 1:
                return [error]
        # One of the batch spoils the run of all: find out which by running each alone.
        return [outcome for each in prepared for outcome in self._run_each([each])]

    def _finish(self, source: Source, decoded: _Decoded, raw: RawOutput | Exception) -> Segmented[Source, Encoded]:
        if isinstance(raw, Exception):
            raise raw
        prediction = self.predictor.finish(decoded.prepared, raw)
        started = time.perf_counter()
        encoded = self.encode(source, decoded.image, prediction)
        timings_ms = {
            "decode": decoded.decode_ms,
            **prediction.timings_ms,
            "encode": (time.perf_counter() - started) * 1000,
        }
        return Segmented(source, decoded.image, prediction, encoded, timings_ms)


def _settled(future: Future[_Decoded]) -> _Decoded | Exception:
    try:
        return future.result()
    except Exception as error:
        return error


def _result(
    source: Source, future: "Future[Segmented[Source, Encoded]]"
) -> "Segmented[Source, Encoded] | Failed[Source]":
    try:
        return future.result()
    except Exception as error:
        # A bug looks like any other failed image to the caller; its trace is kept for who looks for it.
        _log.debug("image failed", exc_info=error)
        _forget_locals(error)
        return Failed(source, error)


def _forget_locals(error: BaseException | None) -> None:
    """Empty the frames of an error's trace: they hold the image, and callers keep errors for their report."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

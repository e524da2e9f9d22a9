"""Many images: order, failures, bounds and abandonment."""

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np
import pytest

from engine import Bundle, Failed, ImageError, InferenceError, Pipeline, Prediction, Predictor, Segmented, SourceImage
from engine.bundle.bundle import DeclaredOutput
from engine.images import Capture
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime

Result: TypeAlias = Segmented[int, Any] | Failed[int]

Encode: TypeAlias = Callable[[int, SourceImage, Prediction], Any]


class Settings(TypedDict, total=False):
    batch_size: int
    workers: int
    read_ahead: int


class StreamedSettings(Settings, total=False):
    streams: int


BUNDLE = Bundle(
    name="test",
    source=Path("test.tgz"),
    folder=Path("test"),
    digest="d" * 64,
    classes=(),
    transforms=(),
    paddle=None,
    onnx=(),
    declared=DeclaredOutput(None, None, None),
    multilabel=False,
    notes=(),
)


def image_of(number: int) -> SourceImage:
    """An image whose every value is its number."""
    return SourceImage(np.full((4, 5, 3), number, np.uint8), 5, 4, Capture())


def value_as_class(tensor: Tensor) -> Tensor:
    return tensor[:, 0].astype(np.int32)


def keep(_source: int, _image: SourceImage, prediction: Prediction) -> int:
    return int(prediction.mask[0, 0])


def pipeline_of(
    network: Callable[[Tensor], Tensor] = value_as_class,
    decode: Callable[[int], SourceImage] = image_of,
    encode: Callable[[int, SourceImage, Prediction], Any] = keep,
    streams: int = 1,
    **settings: Unpack[Settings],
) -> Pipeline[int, Any]:
    return Pipeline(Predictor(BUNDLE, FakeRuntime(network, streams=streams)), decode, encode, **settings)


def outcomes(results: Iterator[Result]) -> list[int | None]:
    """The class that each mask holds, None for a failed image."""
    return [result.encoded if isinstance(result, Segmented) else None for result in results]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


SETTINGS: list[StreamedSettings] = [
    {"batch_size": 1, "workers": 1, "read_ahead": 0},
    {"batch_size": 1, "workers": 2, "read_ahead": 4},
    {"batch_size": 4, "workers": 3, "read_ahead": 2},
    {"batch_size": 7, "workers": 2, "read_ahead": 0},
    {"batch_size": 50, "workers": 2, "read_ahead": 9},
    {"batch_size": 2, "workers": 2, "read_ahead": 3, "streams": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_order_is_kept_whatever_takes_how_long(settings: StreamedSettings) -> None:
    delays = random.Random(3)  # noqa: S311

    def decode(number: int) -> SourceImage:
        time.sleep(delays.random() / 200)
        return image_of(number)

    def encode(source: int, image: SourceImage, prediction: Prediction) -> int:
        time.sleep(delays.random() / 200)
        assert image.pixels[0, 0, 0] == source
        return keep(source, image, prediction)

    results = list(pipeline_of(decode=decode, encode=encode, **settings).run(range(30)))
    assert [result.source for result in results] == list(range(30))
    assert outcomes(iter(results)) == list(range(30))


def test_result_holds_image_prediction_and_timings() -> None:
    (result,) = pipeline_of().run([7])
    assert isinstance(result, Segmented)
    assert result.image.pixels[0, 0, 0] == 7
    assert result.prediction.mask.tolist() == [[7] * 5] * 4
    assert list(result.timings_ms) == ["decode", "preprocess", "run", "postprocess", "encode"]
    assert all(each >= 0 for each in result.timings_ms.values())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_empty_input(settings: StreamedSettings) -> None:
    assert list(pipeline_of(**settings).run([])) == []


# ---- failures ---------------------------------------------------------------------------------------------------

BAD = 5


def failing_decode(number: int) -> SourceImage:
    if number == BAD:
        raise ImageError("decode failed")
    return image_of(number)


def decode_of_other_bands(number: int) -> SourceImage:
    image = image_of(number)
    return SourceImage(image.pixels[..., :2], 5, 4, Capture()) if number == BAD else image


def failing_network(tensor: Tensor) -> Tensor:
    if (tensor == BAD).any():
        raise ValueError("run failed")
    return value_as_class(tensor)


def buggy_network(tensor: Tensor) -> Tensor:
    if (tensor == BAD).any():
        raise NotImplementedError("run failed")
    return value_as_class(tensor)


def network_of_negative_class(tensor: Tensor) -> Tensor:
    return np.where(tensor == BAD, -1, tensor)[:, 0].astype(np.int32)


def failing_encode(source: int, image: SourceImage, prediction: Prediction) -> int:
    if source == BAD:
        raise OSError("disk full")
    return keep(source, image, prediction)


FAILURES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "decode": ({"decode": failing_decode}, ImageError, "decode failed"),
    "prepare": ({"decode": decode_of_other_bands}, Exception, ""),
    "run": ({"network": failing_network}, InferenceError, "run failed"),
    "run, with a bug": ({"network": buggy_network}, NotImplementedError, "run failed"),
    "finish": ({"network": network_of_negative_class}, InferenceError, "class index -1"),
    "encode": ({"encode": failing_encode}, OSError, "disk full"),
}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("failure", FAILURES)
def test_bad_image_is_one_failure_and_the_rest_succeeds(failure: str, settings: StreamedSettings) -> None:
    parts, kind, message = FAILURES[failure]
    results = list(pipeline_of(**parts, **settings).run(range(12)))
    assert outcomes(iter(results)) == [None if number == BAD else number for number in range(12)]
    failed = results[BAD]
    assert isinstance(failed, Failed)
    assert failed.source == BAD
    assert isinstance(failed.error, kind)
    assert message in str(failed.error)


def test_batch_that_one_image_spoils_is_run_one_by_one() -> None:
    sizes: list[int] = []

    def network(tensor: Tensor) -> Tensor:
        sizes.append(len(tensor))
        return failing_network(tensor)

    results = pipeline_of(network=network, batch_size=4, read_ahead=0).run(range(8))
    assert outcomes(results) == [0, 1, 2, 3, 4, None, 6, 7]
    # The second run finds out whether an image is the same by itself.
    assert sizes == [4, 1, 4, 1, 1, 1, 1]


def test_all_images_fail() -> None:
    def decode(number: int) -> SourceImage:
        raise ImageError(f"image {number}")

    results = list(pipeline_of(decode=decode, batch_size=3).run(range(7)))
    assert [str(result.error) for result in results if isinstance(result, Failed)] == [f"image {n}" for n in range(7)]


def test_sources_that_fail_end_the_stream() -> None:
    def sources() -> Iterator[int]:
        yield 0
        raise KeyError("sources")

    with pytest.raises(KeyError, match="sources"):
        list(pipeline_of().run(sources()))


# ---- bounds -----------------------------------------------------------------------------------------------------


class Watch:
    """Hands out sources and images and knows how many of the images are still alive."""

    def __init__(self) -> None:
        self.drawn = 0
        self.decoded = 0
        self._lock = threading.Lock()
        self._alive: weakref.WeakSet[SourceImage] = weakref.WeakSet()

    def sources(self, count: int) -> Iterator[int]:
        for number in range(count):
            self.drawn += 1
            yield number

    def decode(self, number: int) -> SourceImage:
        image = WeakImage(np.full((4, 5, 3), number, np.uint8), 5, 4, Capture())
        with self._lock:
            self.decoded += 1
            self._alive.add(image)
        return image

    @property
    def alive(self) -> int:
        with self._lock:
            return len(self._alive)


class WeakImage(SourceImage):
    """A SourceImage that can be watched: one with slots takes no weak references."""

    __slots__ = ("__weakref__",)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


BOUNDS = [(1, 0, 1), (1, 4, 1), (3, 2, 1), (4, 0, 1), (2, 2, 3)]


@pytest.mark.parametrize(("batch_size", "read_ahead", "streams"), BOUNDS)
def test_sources_are_read_lazily(batch_size: int, read_ahead: int, streams: int) -> None:
    watch = Watch()
    results = pipeline_of(decode=watch.decode, batch_size=batch_size, read_ahead=read_ahead, streams=streams).run(
        watch.sources(100)
    )
    assert watch.drawn == 0
    for yielded, _ in enumerate(results, start=1):
        # What was yielded, what waits to be yielded, what runs or waits for it, what was read ahead.
        assert watch.drawn <= yielded + (2 + streams) * batch_size - 1 + read_ahead
        assert watch.decoded <= watch.drawn
        time.sleep(0.001)
    assert watch.drawn == watch.decoded == 100


def test_slow_reader_holds_the_decoding_back() -> None:
    watch = Watch()
    results = pipeline_of(decode=watch.decode, batch_size=2, read_ahead=3).run(watch.sources(100))
    next(results)
    time.sleep(0.1)
    assert watch.decoded <= 1 + 3 * 2 - 1 + 3
    results.close()  # type: ignore[attr-defined]


def always_failing_encode(source: int, image: SourceImage, prediction: Prediction) -> int:
    raise OSError(f"disk full at {source}, image {image.width}, mask {prediction.width}")


@pytest.mark.parametrize(("batch_size", "read_ahead", "streams"), BOUNDS)
@pytest.mark.parametrize(("encode", "failing"), [(keep, 0), (failing_encode, 1), (always_failing_encode, 60)])
def test_few_images_are_alive(batch_size: int, read_ahead: int, streams: int, encode: Encode, failing: int) -> None:
    watch, most = Watch(), 0
    failures: list[Exception] = []
    pipeline = pipeline_of(
        decode=watch.decode, encode=encode, batch_size=batch_size, read_ahead=read_ahead, streams=streams
    )
    gc.disable()  # cycles that only the collector frees would count as alive
    try:
        results = pipeline.run(watch.sources(60))
        while (result := next(results, None)) is not None:
            if isinstance(result, Failed):
                failures.append(result.error)
            most = max(most, watch.alive)
        left = watch.alive
    finally:
        gc.enable()
    assert most <= (2 + streams) * batch_size + read_ahead + 1
    assert left <= 1
    assert len(failures) == failing


def test_abandoned_stream_stops() -> None:
    watch = Watch()
    results = pipeline_of(decode=watch.decode, batch_size=2, read_ahead=5).run(watch.sources(1000))
    for _ in range(3):
        next(results)
    results.close()  # type: ignore[attr-defined]
    decoded = watch.decoded
    assert decoded < 20
    assert not [each for each in threading.enumerate() if each.name.startswith(("decode", "run", "encode"))]
    time.sleep(0.02)
    assert watch.decoded == decoded
    assert watch.alive == 0


def test_abandoned_before_the_start() -> None:
    watch = Watch()
    del (results := [pipeline_of(decode=watch.decode).run(watch.sources(10))])[0]
    assert not results
    assert watch.drawn == 0


def test_as_many_runs_are_under_way_as_there_are_streams() -> None:
    under_way = threading.Barrier(3, timeout=120)

    def network(tensor: Tensor) -> Tensor:
        under_way.wait()  # breaks unless three runs meet
        return value_as_class(tensor)

    assert outcomes(pipeline_of(network=network, streams=3).run(range(12))) == list(range(12))


def test_network_goes_on_while_the_caller_looks_at_a_result() -> None:
    ran = [threading.Event() for _ in range(4)]

    def network(tensor: Tensor) -> Tensor:
        ran[int(tensor[0, 0, 0, 0])].set()
        return value_as_class(tensor)

    results = pipeline_of(network=network, read_ahead=1).run(range(4))
    next(results)
    assert ran[1].wait(30)
    assert outcomes(results) == [1, 2, 3]


def test_stream_may_be_run_again() -> None:
    pipeline = pipeline_of(batch_size=2)
    assert outcomes(pipeline.run(range(5))) == outcomes(pipeline.run(range(5))) == list(range(5))

"""What fits in a memory limit: by arithmetic, and as the predictor keeps to it."""

import logging

import numpy as np
import pytest

from engine import Bundle, Predictor
from engine.errors import InferenceError
from engine.images import Capture, SourceImage
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation import memory_budget
from engine.segmentation.averaging import Averaging, averaged
from engine.segmentation.memory_budget import MemoryBudget
from tests.engine.segmentation.test_predictor import bundle_of

MIB = 1 << 20


def image(side: int) -> SourceImage:
    return SourceImage(np.zeros((side, side, 3), np.uint8), side, side, Capture())


@pytest.mark.parametrize(
    ("wanted", "megabytes_a_run", "fitting"),
    [(1, 100, 1), (8, 100, 8), (8, 101, 7), (8, 400, 2), (3, 800, 1), (3, 0, 3)],
)
def test_as_many_images_share_a_run_as_fit(wanted: int, megabytes_a_run: int, fitting: int) -> None:
    # 1000 MiB less a tenth, less 100 MiB: 800 MiB are left.
    budget = MemoryBudget(1000 * MIB, 100 * MIB, megabytes_a_run)
    assert budget.images_that_fit(MIB, wanted) == fitting


def test_what_does_not_fit_alone_is_refused_with_figures_and_what_to_do() -> None:
    budget = MemoryBudget(1000 * MIB, 100 * MIB, 801)
    with pytest.raises(InferenceError, match=r"801 MiB .* 800 MiB are left .* limit of 1000 MiB: .*max-img-size"):
        budget.images_that_fit(MIB, 1)


def test_batches_are_cut_and_that_is_noted_once(small_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    batches: list[int] = []

    def network(tensor: Tensor) -> Tensor:
        batches.append(len(tensor))
        return tensor

    predictor = Predictor(small_bundle, FakeRuntime(network))
    predictor.network.memory = MemoryBudget(limit_bytes=1000 * MIB, base_bytes=0, bytes_per_pixel=100 * MIB / 64)
    with caplog.at_level(logging.WARNING):
        assert len(predictor.predict_batch([image(16)] * 5)) == 5
        predictor.predict_batch([image(16)] * 5)
    assert batches == [2, 2, 1] * 2
    (note,) = predictor.provenance.fallbacks
    assert "memory limit" in note
    assert len(caplog.records) == 1
    with pytest.raises(InferenceError, match="memory limit"):
        predictor.predict(image(64))


def test_nothing_is_measured_where_there_is_no_doubt(small_bundle: Bundle) -> None:
    runs: list[tuple[int, ...]] = []

    def network(tensor: Tensor) -> Tensor:
        runs.append(tensor.shape)
        return tensor

    predictor = Predictor(small_bundle, FakeRuntime(network))
    predictor.network.apply_memory_limit(8192 * 1000, 1000)
    assert (runs, predictor.network.memory) == ([], None)
    predictor.network.apply_memory_limit(8192 * 1000 - 1, 1000)
    assert runs == [(1, 3, 128, 128), (1, 3, 256, 256)]
    assert predictor.network.memory is not None
    fixed = Predictor(small_bundle, FakeRuntime(network, input_shape=(1, 3, 64, 64)))
    fixed.network.apply_memory_limit(1, 1000)
    assert fixed.network.memory is None


@pytest.mark.parametrize("way", ["scales", "transforms"])
def test_runs_larger_than_the_image_are_measured_before_the_first(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_held(_name: str) -> int:
        return 0

    # This process holds more than the limit: whatever its runs take would be refused.
    monkeypatch.setattr(memory_budget, "process_memory_bytes", nothing_held)
    shapes: list[tuple[int, ...]] = []

    def network(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    transforms = [{"type": "Resize", "target_size": [64, 64]}] if way == "transforms" else []
    plain = Predictor(bundle_of(transforms), FakeRuntime(network))
    # 16×16 pixels certainly fit, 32×32 do not.
    plain.network.apply_memory_limit(8192 * 1023, 16 * 16)
    assert shapes == []
    predictor = averaged(plain, Averaging(scales=(2.0,))) if way == "scales" else plain
    predictor.predict(image(16))
    assert shapes[:2] == [(1, 3, 128, 128), (1, 3, 256, 256)]
    predictor.predict(image(16))
    assert shapes.count((1, 3, 128, 128)) == 1


def test_a_network_that_takes_no_small_pictures_is_not_judged(small_bundle: Bundle) -> None:
    def network(tensor: Tensor) -> Tensor:
        raise ValueError("too small")

    predictor = Predictor(small_bundle, FakeRuntime(network))
    predictor.network.apply_memory_limit(1, 1000)
    assert predictor.network.memory is None


def test_what_a_run_takes_is_measured(small_bundle: Bundle) -> None:
    kept: list[Tensor] = []

    def network(tensor: Tensor) -> Tensor:
        kept.append(np.ones(int(tensor.shape[-1]) ** 2 * 4000, np.uint8))
        return tensor

    predictor = Predictor(small_bundle, FakeRuntime(network))
    predictor.network.apply_memory_limit(1, 1000)
    assert predictor.network.memory is not None
    # 4000 bytes a pixel, of which the first run keeps 128² · 4000 for the second one's peak; a quarter more for safety.
    expected = 1.25 * 4000 * 256**2 / (256**2 - 128**2)
    assert predictor.network.memory.bytes_per_pixel == pytest.approx(expected, rel=0.15)


class Card:
    """A GPU of 1000 MiB, of which 100 MiB hold the model, and what its runs took stays."""

    def __init__(self, bytes_a_pixel: int, *, limit: int = 1000 * MIB) -> None:
        self.bytes_a_pixel = bytes_a_pixel
        self.limit = limit
        self.taken = 100 * MIB

    def used_bytes(self) -> int:
        return self.taken

    def free_bytes(self) -> int:
        return self.limit - self.taken

    def network(self, tensor: Tensor) -> Tensor:
        pixels = len(tensor) * tensor.shape[-1] * tensor.shape[-2]
        self.taken = max(self.taken, 100 * MIB + pixels * self.bytes_a_pixel)
        return tensor


@pytest.mark.parametrize(("limit", "fitting"), [(1000 * MIB, 8), (600 * MIB, 4), (150 * MIB, 0)])
def test_batches_are_cut_to_the_memory_of_the_gpu(small_bundle: Bundle, limit: int, fitting: int) -> None:
    # 320 bytes a pixel and a quarter more are 100 MiB for 512×512 pixels; a tenth of the limit stays free.
    card = Card(320, limit=limit)
    runtime = FakeRuntime(card.network)
    runtime.memory = card
    predictor = Predictor(small_bundle, runtime)
    # The process itself has all the memory that it could want.
    predictor.network.apply_memory_limit(1 << 50, 8 * 512 * 512)
    budget = predictor.network.memory
    assert budget is not None
    assert budget.bytes_per_pixel == 1.25 * 320
    if fitting:
        assert budget.images_that_fit(512 * 512, 9) == fitting
        # Images that wait lie elsewhere.
        assert budget.batch_that_fits(512 * 512, 9, read_ahead=1000) == fitting
    else:
        with pytest.raises(InferenceError, match="GPU memory limit of 150 MiB"):
            budget.images_that_fit(512 * 512, 9)


def test_a_gpu_that_certainly_holds_the_runs_is_not_measured(small_bundle: Bundle) -> None:
    card = Card(320)
    runtime = FakeRuntime(card.network)
    runtime.memory = card
    predictor = Predictor(small_bundle, runtime)
    predictor.network.apply_memory_limit(1, 300 * 300)
    assert predictor.network.memory is None
    assert card.taken == 100 * MIB

"""Tiles equal the whole where no pixel sees further than the overlap; what is skipped changes nothing; tile sizes."""

import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engine import InferenceError, OptionError, Predictor, SegmentationClass
from engine.rasters import tile_size
from engine.rasters.options import TileOptions
from engine.rasters.tile_size import choose_tiling, natural_size
from engine.rasters.tiles import ImageRaster, Tile, TiledRun, predict_in_tiles
from engine.rasters.tiling import Scores, Tiling
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.segmentation.postprocess import OutputKind
from engine.window import Window
from tests.engine.segmentation.test_predictor import CountingNetwork, Network, bundle_of, image_of

RADIUS = 3
MIB = 1 << 20


def blurred(tensor: Tensor) -> Tensor:
    """Every pixel sees `RADIUS` pixels around it, and zeros behind the edge, as convolutions do."""
    side = 2 * RADIUS + 1
    images: list[list[Any]] = [
        [cv2.blur(band, (side, side), borderType=cv2.BORDER_CONSTANT) for band in image] for image in tensor
    ]
    return np.array(images, np.float32)


def strongest(tensor: Tensor) -> Tensor:
    return blurred(tensor).argmax(axis=1)


def two_classes(tensor: Tensor) -> Tensor:
    return np.ascontiguousarray(blurred(tensor)[:, :2])


def probability(tensor: Tensor) -> Tensor:
    return blurred(tensor)[:, :1] / 255


def patches(height: int, width: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def predictor_of(network: Network, *, multilabel: bool = False, **runtime: Any) -> Predictor:
    classes = [SegmentationClass(f"urn:{name}", name, None) for name in ("a", "b", "c")]
    return Predictor(bundle_of((), classes=classes, multilabel=multilabel), FakeRuntime(network, **runtime))


def tiling_of(predictor: Predictor, side: int, overlap: int, batch: int = 1) -> tuple[Tiling, Any]:
    return choose_tiling(predictor, TileOptions(side=side, overlap=overlap), batch)


@pytest.mark.parametrize("size", [(97, 131), (64, 64), (20, 150), (200, 65)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("network", "multilabel"),
    [(blurred, False), (two_classes, False), (probability, False), (strongest, False), (blurred, True)],
    ids=["scores", "two classes", "probability", "mask", "multilabel"],
)
def test_tiles_equal_the_whole(network: Network, multilabel: bool, batch: int, size: tuple[int, int]) -> None:
    predictor = predictor_of(network, multilabel=multilabel)
    image = image_of(patches(*size))
    # A quarter of the overlap on either side does not count: what counts is seen as in the whole image.
    tiling, facts = tiling_of(predictor, 64, 4 * RADIUS, batch)
    whole = predictor.predict(image)
    tiled = predict_in_tiles(predictor, image, tiling, facts)
    assert tiled.mask.dtype == whole.mask.dtype
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    assert [each.cover for each in tiled.covers] == [each.cover for each in whole.covers]


def test_too_small_an_overlap_shows() -> None:
    predictor = predictor_of(strongest)
    image = image_of(patches(200, 200))
    tiling, facts = tiling_of(predictor, 64, 0)
    assert (predict_in_tiles(predictor, image, tiling, facts).mask != predictor.predict(image).mask).any()


def test_tiles_at_the_end_are_filled_up_to_the_size_of_the_others() -> None:
    network = CountingNetwork(blurred)
    predictor = predictor_of(network)
    tiling, facts = tiling_of(predictor, 64, 16)
    network.shapes.clear()
    predict_in_tiles(predictor, image_of(patches(150, 139)), tiling, facts)
    assert set(network.shapes) == {(1, 3, 64, 64)}


def test_tiles_of_a_batch_share_a_run() -> None:
    network = CountingNetwork(blurred)
    predictor = predictor_of(network)
    image = image_of(patches(32 * 5, 64))
    tiling, facts = tiling_of(predictor, 64, 32, batch=4)
    network.shapes.clear()
    predict_in_tiles(predictor, image, tiling, facts)
    assert network.shapes == [(4, 3, 64, 64), (1, 3, 64, 64)]
    network.shapes.clear()
    predict_in_tiles(predictor, image, tiling, facts)
    assert network.shapes == [(4, 3, 64, 64)]


@pytest.mark.parametrize("batch", [1, 2])
def test_streams_run_at_the_same_time(batch: int) -> None:
    both = threading.Barrier(2)

    def together(tensor: Tensor) -> Tensor:
        if tensor.shape[2:] == (96, 96):
            both.wait(timeout=120)
        return blurred(tensor)

    predictor = predictor_of(together, streams=2)
    image = image_of(patches(32 + 64 * 4, 96))
    tiling, facts = choose_tiling(predictor_of(blurred, streams=2), TileOptions(side=96, overlap=32), batch)
    assert len(tiling.grid(96, 32 + 64 * 4)) == 4
    whole = predictor_of(blurred).predict(image).mask
    np.testing.assert_array_equal(predict_in_tiles(predictor, image, tiling, facts).mask, whole)


class Recorded:
    """A mask in memory, with the pixels that hold data."""

    def __init__(self, height: int, width: int, *, once: bool = True) -> None:
        self.mask = np.full((height, width), 99, np.uint8)
        self.once = once

    def write(self, window: Window, mask: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> None:
        rows, columns = window.inside(Window(0, 0, self.mask.shape[1], self.mask.shape[0]))
        assert not self.once or (self.mask[rows, columns] == 99).all(), "every pixel is written once"
        self.mask[rows, columns] = mask if valid is None else np.where(valid, mask, 255)


class Marked(ImageRaster):
    """An image of which a part holds no data, and a part one colour."""

    def __init__(self, pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> None:
        super().__init__(image_of(pixels))
        object.__setattr__(self, "valid", valid)

    valid: npt.NDArray[np.bool_]

    def read(self, window: Window) -> Tile:
        rows, columns = window.inside(Window(0, 0, self.width, self.height))
        return Tile(ImageRaster.read(self, window).pixels, self.valid[rows, columns])


@pytest.mark.parametrize("network", [blurred, strongest], ids=["scores", "mask"])
@pytest.mark.parametrize("batch", [1, 4])
def test_skipping_changes_no_pixel(network: Network, batch: int) -> None:
    pixels = patches(300, 260)
    pixels[:, 150:] = (9, 120, 40)
    pixels[250:, 200:] = 0
    valid = np.ones((300, 260), np.bool_)
    valid[40:230, :100] = False
    pixels[~valid] = 255
    raster = Marked(pixels, valid)
    counted = CountingNetwork(network)
    predictor = predictor_of(counted)
    tiling, facts = tiling_of(predictor, 48, 16, batch)
    masks: list[npt.NDArray[np.uint8]] = []
    runs: list[int] = []
    for skipping in (False, True):
        counted.shapes.clear()
        sink = Recorded(300, 260)
        run = TiledRun(predictor, raster, tiling, facts, sink, skipping=skipping)
        run.run()
        masks.append(sink.mask)
        runs.append(sum(shape[0] for shape in counted.shapes))
        assert (run.skipped > 4) == (run.repeated > 10) == skipping
        assert runs[-1] + run.skipped + run.repeated >= len(run.grid)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert runs[1] < 0.7 * runs[0]


class Interrupted(Exception):
    """The power went."""


@pytest.mark.parametrize("network", [blurred, strongest], ids=["scores", "mask"])
@pytest.mark.parametrize("after", [1, 4, 5, 11])
def test_a_run_goes_on_from_any_tile(network: Network, after: int) -> None:
    image = image_of(patches(200, 170))
    predictor = predictor_of(network)
    tiling, facts = tiling_of(predictor, 64, 16)
    sink = Recorded(200, 170, once=False)
    kept: list[tuple[int, Scores | None]] = []

    def reached(done: int, carry: Scores | None) -> None:
        kept.append((done, None if carry is None else carry.copy()))
        if done == after:
            raise Interrupted

    first = TiledRun(predictor, ImageRaster(image), tiling, facts, sink, reached=reached)
    with pytest.raises(Interrupted):
        first.run()
    # The last tile was written, but its progress was not kept any more: it is done again.
    done, carry = kept[-2] if len(kept) > 1 else (0, None)
    TiledRun(predictor, ImageRaster(image), tiling, facts, sink, strips=first.strips).run(done, carry)
    np.testing.assert_array_equal(sink.mask, predictor.predict(image).mask)


def test_an_error_names_the_tile() -> None:
    def broken(tensor: Tensor) -> Tensor:
        return np.where(tensor.max() == 255, np.nan, blurred(tensor)).astype(np.float32)

    pixels = patches(200, 200) // 2
    pixels[150, 90] = 255
    predictor = predictor_of(broken)
    tiling, facts = tiling_of(predictor, 64, 0)
    with pytest.raises(InferenceError, match=r"in the tile of 64×64 pixels at column 64, row 128: .*NaN"):
        predict_in_tiles(predictor, image_of(pixels), tiling, facts)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_progress_never_passes_a_tile_that_failed(batch: int, streams: int) -> None:
    def broken(tensor: Tensor) -> Tensor:
        # What is wrong with one of a batch shows when it is blended.
        worst = tensor.max(axis=(1, 2, 3), keepdims=True) == 255
        return np.where(worst, np.nan, blurred(tensor)).astype(np.float32)

    pixels = patches(64 * 8, 64) // 2
    pixels[64 * 3 + 10, 10] = 255
    predictor = predictor_of(broken, streams=streams)
    tiling, facts = tiling_of(predictor, 64, 0, batch)
    done: list[int] = []

    def reached(number: int, carry: Scores | None) -> None:
        done.append(number)

    run = TiledRun(predictor, ImageRaster(image_of(pixels)), tiling, facts, Recorded(64 * 8, 64), reached=reached)
    with pytest.raises(InferenceError, match="row 192"):
        run.run()
    assert done == [1, 2, 3]


# ---- how large tiles are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transforms", "natural"),
    [
        ([{"type": "Normalize"}], (None, True)),
        ([{"type": "Resize", "target_size": [512, 256]}], ((512, 256), False)),
        ([{"type": "ResizeByLong", "long_size": 640}], ((640, 640), False)),
        ([{"type": "Padding", "target_size": [200, 300]}], ((200, 300), False)),
        ([{"type": "LimitLong", "max_long": 2048}], (None, True)),
        ([{"type": "ResizeStepScaling", "min_scale_factor": 0.5, "max_scale_factor": 0.5}], (None, False)),
    ],
    ids=lambda each: str(each)[:40],
)
def test_tiles_have_the_size_that_the_bundle_leaves_unchanged(
    transforms: Sequence[Mapping[str, object]], natural: tuple[Any, bool]
) -> None:
    assert natural_size(Predictor(bundle_of(transforms), FakeRuntime(blurred))) == natural


def test_tiles_of_a_network_of_one_size_have_that_size() -> None:
    predictor = predictor_of(blurred, input_shape=(2, 3, 96, 160))
    tiling, _ = choose_tiling(predictor, TileOptions())
    assert (tiling.width, tiling.height, tiling.batch, tiling.alignment) == (160, 96, 2, 1)
    image = image_of(patches(250, 400))
    facts = choose_tiling(predictor, TileOptions())[1]
    tiled = predict_in_tiles(predictor, image, tiling, facts).mask
    np.testing.assert_array_equal(tiled, predictor_of(blurred).predict(image).mask)


def test_tiles_that_the_bundle_resizes_are_resized_one_by_one() -> None:
    predictor = Predictor(bundle_of([{"type": "Resize", "target_size": [32, 32]}]), FakeRuntime(strongest))
    image = image_of(np.repeat(np.repeat(patches(64, 64), 2, axis=0), 2, axis=1))
    tiling, facts = choose_tiling(predictor, TileOptions(side=64, overlap=0))
    tiled = predict_in_tiles(predictor, image, tiling, facts).mask
    corner = predictor.predict(image_of(np.ascontiguousarray(image.pixels[64:128, :64]))).mask
    np.testing.assert_array_equal(tiled[64:128, :64], corner)


class Card:
    """A GPU, where each run takes 800 bytes a pixel, which stay."""

    def __init__(self, free_mib: int) -> None:
        self.free = free_mib * MIB
        self.taken = 0

    def used_bytes(self) -> int:
        return self.taken

    def free_bytes(self) -> int:
        return self.free - self.taken

    def network(self, tensor: Tensor) -> Tensor:
        self.taken = max(self.taken, 800 * tensor.shape[0] * tensor.shape[2] * tensor.shape[3])
        return blurred(tensor)


def test_tiles_shrink_with_the_memory_of_the_gpu() -> None:
    sides: list[int] = []
    for free_mib in (1100, 700, 300, 100):
        card = Card(free_mib)
        predictor = predictor_of(card.network)
        predictor.runtime.memory = card
        sides.append(choose_tiling(predictor, TileOptions())[0].width)
    # 800 MiB for 1024×1024 pixels, 450 for 768×768, 200 for 512×512, 50 for 256×256, and what the trials left behind
    assert sides == [1024, 768, 512, 256]
    card = Card(30)
    predictor = predictor_of(card.network)
    predictor.runtime.memory = card
    with pytest.raises(OptionError, match=r"30 MiB of GPU memory do not hold .*raise gpu-memory-limit"):
        choose_tiling(predictor, TileOptions())


class Process:
    """The memory of a process where each run takes 800 bytes a pixel, and nothing of it stays."""

    resident = 300 * MIB

    def __init__(self) -> None:
        self.peak = self.resident

    def network(self, tensor: Tensor) -> Tensor:
        self.peak = self.resident + tensor.shape[0] * tensor.shape[2] * tensor.shape[3] * 800
        return blurred(tensor)

    def bytes_of(self, _field: str) -> int:
        return self.resident

    @contextmanager
    def watched(self) -> Generator[Callable[[], int]]:
        yield lambda: self.peak


def test_tiles_shrink_with_the_memory_until_none_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()
    # Pages of this process that the kernel drops and reads again would count as memory of a run.
    monkeypatch.setattr(tile_size, "process_memory_bytes", process.bytes_of)
    monkeypatch.setattr(tile_size, "peak_memory", process.watched)

    def side(spare_mib: int, streams: int = 1) -> int:
        options = TileOptions(memory_bytes=process.resident + spare_mib * MIB)
        tiling, facts = choose_tiling(predictor_of(process.network, streams=streams), options)
        assert facts.kind is OutputKind.SCORES
        return tiling.width

    # 800 MiB for 1024×1024 pixels, 450 for 768×768, 200 for 512×512, and what is read and written
    assert [side(spare_mib) for spare_mib in (2600, 1000, 500)] == [1024, 768, 512]
    # Two streams have two runs under way.
    assert side(1000, streams=2) == 512
    with pytest.raises(OptionError, match=r"do not hold one tile of 256×256 pixels.*max-memory"):
        side(175)


def test_an_overlap_as_large_as_the_tile_is_refused_before_anything_runs() -> None:
    network = CountingNetwork(blurred)
    with pytest.raises(OptionError, match=re.escape("an overlap of 64 pixels does not fit into tiles of 64×64")):
        choose_tiling(predictor_of(network), TileOptions(side=64, overlap=64))
    assert network.shapes == []

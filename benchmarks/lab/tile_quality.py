"""Tiles against the whole, and against the bare session."""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lab.half_overlap import predict_with_half_overlap
from converters.conversion import convert
from converters.repository import Repository
from engine import Predictor, open_bundle, open_predictor
from engine.images import Capture, SourceImage
from engine.rasters.geotiff import GeoTiff, open_geotiff, write_geotiff
from engine.rasters.mask_file import MaskFile, layout_for
from engine.rasters.options import TileOptions
from engine.rasters.tile_size import choose_tiling
from engine.rasters.tiles import OutputFacts, TiledRun, predict_in_tiles
from engine.rasters.tiling import Scores, Tiling
from engine.runtimes.selection import RuntimeRequest
from engine.segmentation.postprocess import OutputKind
from engine.system.machine.memory import return_freed_memory
from engine.window import Window

_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class TileWork:
    """What is measured; tiles are chosen by `memory_bytes`."""

    part: str
    bundle: Path
    raster: Path
    memory_bytes: int
    streams: int
    cache: Path


def seams(predictor: Predictor, raster: GeoTiff, tiling: Tiling, facts: OutputFacts) -> dict[str, Any]:
    """Count the pixels in which tiles and the whole disagree.

    Returns shares of pixels, 0–1: of our tiles, of ours without blending or overlap, of habitat-mapper's rule.
    """
    pixels = raster.read(Window(0, 0, raster.width, raster.height)).pixels
    image = SourceImage(pixels, raster.width, raster.height, Capture())
    whole = predictor.predict(image).mask
    bare = Tiling(tiling.width, tiling.height, 0, tiling.batch, tiling.alignment)
    found: dict[str, Any] = {
        "pixels": [raster.width, raster.height],
        "tile": [tiling.width, tiling.height],
        "overlap": tiling.overlap,
        "tiles": len(tiling.grid(raster.width, raster.height)),
        "mismatched": _share(predict_in_tiles(predictor, image, tiling, facts).mask, whole),
        "mismatched_without_overlap": _share(predict_in_tiles(predictor, image, bare, facts).mask, whole),
    }
    if facts.kind is not OutputKind.MASK and tiling.width == tiling.height:
        mask, tiles = predict_with_half_overlap(predictor, image, tiling.width)
        found |= {"half_overlap_mismatched": _share(mask, whole), "half_overlap_tiles": tiles}
    return found


def throughput(
    predictor: Predictor, bare: Predictor, raster: GeoTiff, tiling: Tiling, facts: OutputFacts
) -> dict[str, Any]:
    """Time a raster from file to file, and the same tiles through the bare session, in turn."""
    grid = tiling.grid(raster.width, raster.height)
    layout = layout_for(
        raster.width, raster.height, facts.classes, multilabel=facts.kind is OutputKind.MULTILABEL,
        marks_missing=raster.marks_missing,
    )  # fmt: skip
    everything_s: list[float] = []
    bare_s: list[float] = []
    runs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def keep(_done: int, carry: Scores | None) -> None:
            """What a run that may be interrupted writes down after each tile."""
            if carry is not None:
                np.save(folder / "carry.npy", carry)

        for number in range(_ROUNDS):
            with (
                MaskFile(folder / f"{number}.raw", layout) as mask,
                (folder / "strip-0").open("w+b") as first,
                (folder / "strip-1").open("w+b") as second,
            ):
                run = TiledRun(predictor, raster, tiling, facts, mask, strips=(first, second), reached=keep)

                def segment(run: TiledRun = run, mask: MaskFile = mask) -> None:
                    run.run()
                    for _ in mask.row_counts(facts.classes):
                        pass
                    write_geotiff(mask, folder / "mask.tif", raster.georeference, [], {})

                everything_s.append(_seconds(segment))
                runs = len(grid) - run.skipped - run.repeated
            bare_s.append(_bare_seconds(bare, raster, tiling, runs))
    return {
        "pixels": [raster.width, raster.height],
        "tile": [tiling.width, tiling.height],
        "batch": tiling.batch,
        "tiles": len(grid),
        "tiles_run": runs,
        "seconds": everything_s,
        "bare_seconds": bare_s,
        "ratio": median(bare_s) / median(everything_s),
        "megapixels_per_second": raster.width * raster.height / 1e6 / median(everything_s),
    }


def _bare_seconds(predictor: Predictor, raster: GeoTiff, tiling: Tiling, tiles: int) -> float:
    """Seconds that the session alone takes for tiles that are ready."""
    side = (min(tiling.height, raster.height), min(tiling.width, raster.width))
    tile = raster.read(Window(raster.width - side[1], raster.height - side[0], side[1], side[0]))
    prepared = predictor.prepare(SourceImage(tile.pixels, side[1], side[0], Capture()))
    batch = np.stack([prepared.tensor] * tiling.batch)
    feeds = {predictor.network.input_name: batch}
    predictor.runtime.run(feeds)
    started = time.perf_counter()
    for _ in range(round(tiles / tiling.batch)):
        predictor.runtime.run(feeds)
    return time.perf_counter() - started


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _share(mask: Any, whole: Any) -> float:  # noqa: ANN401 (arrays of any class index type)
    return float((mask != whole).mean())


def measure_tiles(work: TileWork) -> dict[str, Any]:
    """Measure tiles; in a process of its own, since its memory counts."""
    return_freed_memory()
    repository = Repository(work.cache)
    with ExitStack() as opened:
        bundle = opened.enter_context(open_bundle(work.bundle))

        def predictor_with(request: RuntimeRequest) -> Predictor:
            return opened.enter_context(
                open_predictor(bundle, request, convert=lambda each: convert(each, repository).model)
            )

        predictor = predictor_with(RuntimeRequest(streams=work.streams))
        tiling, facts = choose_tiling(predictor, TileOptions(memory_bytes=work.memory_bytes))
        raster = opened.enter_context(open_geotiff(work.raster, tile_height=tiling.height))
        if work.part == "seams":
            found = seams(predictor, raster, tiling, facts)
        else:
            bare = predictor if work.streams == 1 else predictor_with(RuntimeRequest())
            found = throughput(predictor, bare, raster, tiling, facts)
        provenance = predictor.provenance
        return found | {
            "runtime": provenance.runtime,
            "provider": provenance.provider,
            "threads": provenance.threads,
            "streams": provenance.streams,
        }

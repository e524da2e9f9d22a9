"""Images that are cut into tiles: a TIFF window by window from disk to disk, with everything a map needs."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine import (
    ClassCover,
    EngineError,
    Failed,
    ImageError,
    OptionError,
    Prediction,
    Predictor,
    Provenance,
    Segmented,
)
from engine.bundle.bundle import SegmentationClass
from engine.images import DEFAULT_MAX_IMG_SIZE, Capture, SourceImage, read_image
from engine.images.size import require_named_bands
from engine.images.tiff import is_georeferenced, tiff_size
from engine.quantities import Extent
from engine.rasters.geotiff import (
    ClassLabel,
    GeoTiff,
    PixelAreas,
    centre_degrees,
    crs_name,
    mask_polygons,
    open_geotiff,
    pixel_areas,
    pixel_degrees,
    write_geotiff,
)
from engine.rasters.mask_file import MaskFile, MaskLayout, confidence_layout, layout_for
from engine.rasters.measuring import clean_up, file_confidence, mark_unsure
from engine.rasters.options import STYLE_SUFFIX, TileOptions, is_polygon_format
from engine.rasters.outlines import Simplification, require_simplification
from engine.rasters.polygons import require_layers_kept, write_polygons
from engine.rasters.qgis_style import qgis_style
from engine.rasters.result import Georeference, Overview, Result, SegmentedRaster
from engine.rasters.tile_size import choose_tiling
from engine.rasters.tiles import OutputFacts, TiledRun, predict_in_tiles, tiling_record
from engine.rasters.tiling import Tiling
from engine.rasters.vector_file import require_vector_format
from engine.segmentation.confidence import require_scores
from engine.segmentation.postprocess import OutputKind
from engine.segmentation.prediction import MaskSize
from engine.segmentation.steps import Mask
from engine.system.files import atomic_file, write_atomically
from engine.system.text import json_text
from service.request import PredictRequest, require_apart, require_writable_file
from service.results.pictures import (
    MAP_SUFFIX,
    ImageTask,
    ResultWriter,
    class_palette,
    map_names,
    polygons_of,
    provenance_record,
)
from service.results.unfinished import UnfinishedRaster, fingerprint, key_of

_log = logging.getLogger(__name__)

REPORT_SIDE_PX: Final = 1280
"""Of the largest picture that a report shows."""

TILE_OPTIONS: Final = frozenset({"tile_size", "overlap", "max_memory"})
"""Options that act on images that are cut."""

RASTER_OPTIONS: Final = frozenset({"bands", "vectors"})
"""Options that act on rasters."""

Image = TypeVar("Image")
Stored = TypeVar("Stored")
_Written = TypeVar("_Written", contravariant=True)
_Place = TypeVar("_Place", covariant=True)


@dataclass(frozen=True, slots=True)
class RasterFiles:
    """Where the files of a raster are written; None: not written.

    `folder` is for unfinished work; the files lie in it unless they are named otherwise. `stem` includes a sub-folder
    that they lie in. `polygons_apart` tells whether the user named the file of polygons, wherever it lies; `style` is
    how QGIS is to paint them.
    """

    folder: Path
    stem: str
    map: Path | None
    polygons: Path | None = None
    polygons_apart: bool = False
    confidence: Path | None = None
    style: Path | None = None

    @property
    def layer(self) -> str:
        return self.stem.rpartition("/")[2]


class RasterSink(Protocol[_Written, _Place]):
    """Where the results of images that are cut go."""

    def write(self, image: _Written, source: SourceImage, prediction: Prediction, /) -> _Place:
        """Store the result of an image that was decoded."""
        ...

    def raster_files(self, image: _Written, /) -> RasterFiles:
        """Say where the files of a raster are to be written."""
        ...

    def write_raster(self, image: _Written, raster: SegmentedRaster[Any, RasterFiles], /) -> _Place:
        """Store the result of a raster, whose files are written."""
        ...


@dataclass(slots=True)
class TiledImages(Generic[Image, Stored]):
    """Segments those images of a run that are cut into tiles.

    `file_of` gives the file and page of an image; `overview_side` is the longest side of what a report shows, in
    pixels, None: no report; `resume` goes on with what an interrupted run left. Raises OptionError when made, if other
    numbers of bands are named than the network takes.
    """

    predictor: Predictor
    request: PredictRequest
    tiles: TileOptions
    sink: RasterSink[Image, Stored]
    file_of: Callable[[Image], tuple[Path, int | None]]
    overview_side: int | None = None
    resume: bool = False
    _chosen: tuple[Tiling, OutputFacts] | None = None

    def __post_init__(self) -> None:
        if self.tiles.bands is not None:
            require_named_bands(self.tiles.bands, self.predictor.bands)

    def takes(self, image: Image) -> bool:
        """Tell whether an image is cut; False of one that cannot be had, of which whoever reads it says why."""
        try:
            path, page = self.file_of(image)
        except EngineError:
            return False
        return is_cut(path, page, self.tiles, self.request.images.max_pixels)

    def segment(self, image: Image) -> Result[Image, Stored]:
        """Segment one image; what goes wrong with it is its failed result.

        Raises OptionError for what holds of all images: the memory does not hold a tile, or another run is at work on
        the image.
        """
        try:
            path, page = self.file_of(image)
            if tiff_size(path) is not None:
                return self._segment_raster(image, path, page)
            return self._segment_image(image, path, page)
        except OptionError:
            raise
        except Exception as error:
            # A bug looks like any other failed image; its trace is kept for who looks for it.
            _log.debug("image failed", exc_info=error)
            return Failed(image, error)

    def _tiling(self) -> tuple[Tiling, OutputFacts]:
        if self._chosen is None:
            self._chosen = choose_tiling(self.predictor, self.tiles, self.request.batch_size)
        return self._chosen

    def _segment_image(self, task: Image, path: Path, page: int | None) -> Result[Image, Stored]:
        started = time.perf_counter()
        image = read_image(path, **self.request.images.values(), page=page)
        decoded = time.perf_counter()
        prediction = predict_in_tiles(self.predictor, image, *self._tiling())
        segmented = time.perf_counter()
        stored = self.sink.write(task, image, prediction)
        timings_ms = {
            "decode": (decoded - started) * 1000,
            **prediction.timings_ms,
            "encode": (time.perf_counter() - segmented) * 1000,
        }
        return Segmented(task, image, prediction, stored, timings_ms)

    def _segment_raster(self, image: Image, path: Path, page: int | None) -> Result[Image, Stored]:
        for _, problem in _not_of_rasters(self.request):
            raise ImageError(f"{path} is a raster, {problem}")
        tiling, facts = self._tiling()
        files = self.sink.raster_files(image)
        with open_geotiff(
            path, self.tiles.bands, page=page, tile_height=tiling.height, scale_range=self.request.images.scale_range
        ) as raster:
            areas = _areas_of(path, raster)
            self._require_ground(path, areas)
            multilabel = facts.kind is OutputKind.MULTILABEL
            classes = facts.planes if multilabel else facts.classes
            layout = layout_for(
                raster.width, raster.height, classes, multilabel=multilabel, marks_missing=raster.marks_missing
            )
            result = files.folder / files.stem
            with UnfinishedRaster(
                result.with_name(f".pseg-{result.name}.tiles"),
                self._key(path, page, raster),
                tiling,
                layout,
                resume=self.resume,
                keep_tiling=self.tiles.side is None and self.tiles.overlap is None,
                limited=self.tiles.memory_bytes is not None,
                within=files.folder,
            ) as work:
                if work.done:
                    _log.warning("%s: goes on after %s tiles", path, work.done)
                confidence = self._confidence_file(work, facts)
                run = TiledRun(
                    self.predictor,
                    raster,
                    work.tiling,
                    facts,
                    work.mask,
                    strips=work.strips,
                    reached=work.reached,
                    confidence_sink=confidence,
                )
                # What an earlier run read is not known: the rest of a raster says nothing of its range.
                whole = not work.done
                run.run(work.done, work.carry)
                written = self._finish(
                    image, raster, files, _Masks(work, *self._measured(work, confidence, facts, areas)), run, areas
                )
        if whole:
            written = replace(written, notes=written.notes + raster.range_notes())
        started = time.perf_counter()
        stored = self.sink.write_raster(image, written)
        encode_ms = written.timings_ms["encode"] + (time.perf_counter() - started) * 1000
        return written.stored(stored, {**written.timings_ms, "encode": encode_ms})

    def _finish(
        self, image: Image, raster: GeoTiff, files: RasterFiles, masks: "_Masks", run: TiledRun, areas: PixelAreas
    ) -> SegmentedRaster[Image, RasterFiles]:
        started = time.perf_counter()
        covers, valid_pixels = self._covers(masks.mask, masks.classes, areas)
        tiling = {**tiling_record(run.tiling, run.facts, raster.width, raster.height), "bands": list(raster.bands)}
        if self.tiles.simplify is not None:
            tiling["simplify"] = str(self.tiles.simplify)
        labels = [
            ClassLabel(each.segmentation_class.id, each.segmentation_class.name, (int(red), int(green), int(blue)))
            for each, (red, green, blue) in zip(covers, class_palette(covers), strict=True)
        ]
        facts = _Map(raster.georeference, areas, labels, _tolerance_px(self.tiles.simplify, areas))
        _publish(facts, files, masks, replace(self.predictor.provenance, tiling=tiling))
        side = self.overview_side
        overview = None if side is None else Overview(raster.overview(side), _overview(masks.mask, side))
        latitude, longitude = centre_degrees(raster.georeference, raster.width, raster.height) or (None, None)
        return SegmentedRaster(
            image,
            files,
            raster.width,
            raster.height,
            valid_pixels,
            raster.georeference,
            crs_name(raster.georeference),
            Capture(None, latitude, longitude),
            raster.notes,
            covers,
            tiling,
            (run.tiling.width, run.tiling.height),
            {**run.timings_ms, "encode": run.timings_ms["encode"] + (time.perf_counter() - started) * 1000},
            overview,
            None if masks.confidence is None else file_confidence(masks.confidence, self.predictor.steps, side or 1),
        )

    def _confidence_file(self, work: UnfinishedRaster, facts: OutputFacts) -> MaskFile | None:
        if not self.predictor.steps.wants_confidence:
            return None
        require_scores(facts.kind)
        return work.beside("confidence", confidence_layout(work.mask.layout.width, work.mask.layout.height))

    def _require_ground(self, path: Path, areas: PixelAreas) -> None:
        steps = self.predictor.steps
        least = steps.options.cleanup.min_area
        if least is not None and least.pixels is None and areas.rows_m2 is None:
            raise ImageError(f"{path}: {steps.ground_unknown(f'{areas.note}: give it in px')}")
        tolerance = self.tiles.simplify
        if tolerance is not None and tolerance.pixels is None and areas.rows_m2 is None:
            raise ImageError(f"{path}: simplify {tolerance}: {areas.note}: give it in px")

    def _measured(
        self, work: UnfinishedRaster, confidence: MaskFile | None, facts: OutputFacts, areas: PixelAreas
    ) -> tuple[MaskFile, list[SegmentationClass], MaskFile | None]:
        steps, layout = self.predictor.steps, work.mask.layout
        named = steps.classes(self.predictor.bundle.classes, facts.classes)
        cleaned = clean_up(
            work.mask, steps, areas.rows_m2, lambda: work.beside("cleaned", layout), self.tiles.memory_bytes
        )
        if confidence is None:
            return cleaned, named, None
        marked = layout_for(
            layout.width, layout.height, len(named), multilabel=False, marks_missing=layout.missing is not None
        )
        mask = mark_unsure(cleaned, confidence, steps, facts.classes, lambda: work.beside("measured", marked))
        return mask, named, confidence

    def _covers(
        self, mask: MaskFile, classes: Sequence[SegmentationClass], areas: PixelAreas
    ) -> tuple[tuple[ClassCover, ...], int]:
        """The cover of every class, and how many pixels hold data."""
        pixels = np.zeros(0, np.int64)
        area_m2 = np.zeros(0)
        valid = 0
        for line in mask.row_counts(len(classes)):
            if not len(pixels):
                pixels, area_m2 = np.zeros(len(line.counts), np.int64), np.zeros(len(line.counts))
            pixels += line.counts
            valid += line.valid
            if areas.rows_m2 is not None:
                area_m2 += line.counts * areas.rows_m2[line.row if len(areas.rows_m2) > 1 else 0]
        count = max(len(classes), int(pixels.nonzero()[0].max(initial=-1)) + 1)
        covers = self.predictor.steps.covers(classes, [int(each) / valid if valid else 0.0 for each in pixels[:count]])
        if areas.rows_m2 is not None:
            covers = tuple(
                replace(each, area_m2=float(square_metres))
                for each, square_metres in zip(covers, area_m2[:count], strict=True)
            )
        return covers, valid

    def _key(self, path: Path, page: int | None, raster: GeoTiff) -> str:
        provenance = self.predictor.provenance
        return key_of(
            {
                "source": fingerprint(path),
                "page": page or 1,
                "size": [raster.width, raster.height],
                "bands": list(raster.bands),
                "scale_range": self.request.images.scale_range,
                "bundle": provenance.bundle,
                "model": provenance.model,
                "provider": provenance.provider,
                "precision": provenance.precision,
                "averaging": provenance.averaging,
                "multilabel": self.predictor.bundle.multilabel,
                "threshold": self.predictor.threshold,
                **_confidence_key(self.predictor),
            }
        )


def _confidence_key(predictor: Predictor) -> dict[str, object]:
    """What an unfinished raster must have kept besides the classes."""
    steps = predictor.steps
    return {"confidence": [steps.scale, steps.temperature]} if steps.wants_confidence else {}


def is_cut(path: Path, page: int | None, tiles: TileOptions, max_pixels: int) -> bool:
    """Tell whether an image is cut into tiles: any image, or a TIFF that is georeferenced, or too large to decode."""
    if tiles.tile:
        return True
    size = tiff_size(path, page or 1)
    if size is None:
        return False
    if tiles.names_rasters or size[0] * size[1] > max_pixels:
        return True
    return not tiles.as_photograph and is_georeferenced(path, page or 1)


def _areas_of(path: Path, raster: GeoTiff) -> PixelAreas:
    if raster.georeference.crs_wkt is None:
        _log.warning(
            "%s names no coordinate reference system%s: its mask lies on the same pixels, and no areas are known",
            path,
            ", but ground control points, which are not kept (gdalwarp makes a map of it first)"
            if raster.placed_by_points
            else "",
        )
    areas = pixel_areas(raster.georeference, raster.width, raster.height)
    if areas.rows_m2 is None and raster.georeference.crs_wkt is not None:
        _log.warning("%s: no areas are stated: %s", path, areas.note)
    return areas


def _tolerance_px(asked: Extent | None, areas: PixelAreas) -> float | None:
    """The tolerance of outlines; on the ground by the side of a square of a pixel's area, in the middle of a raster."""
    if asked is None or asked.ground is None or areas.rows_m2 is None:
        return None if asked is None else asked.pixels
    return asked.ground / math.sqrt(areas.rows_m2[len(areas.rows_m2) // 2])


@dataclass(frozen=True, slots=True)
class _Map:
    """What the files of a raster say besides the mask."""

    georeference: Georeference
    areas: PixelAreas
    labels: Sequence[ClassLabel]
    tolerance_px: float | None

    @property
    def square_unit_m2(self) -> float | None:
        """The area of a square whose sides are a unit of the coordinates; None where it is not the same everywhere."""
        rows_m2 = self.areas.rows_m2
        if rows_m2 is None or len(rows_m2) > 1:
            return None
        _, per_column, x_per_row, _, y_per_column, per_row = self.georeference.transform
        return float(rows_m2[0]) / abs(per_column * per_row - x_per_row * y_per_column)


@dataclass(frozen=True, slots=True)
class _Masks:
    """A mask that is complete, and its confidence."""

    work: UnfinishedRaster
    mask: MaskFile
    classes: Sequence[SegmentationClass]
    confidence: MaskFile | None


def _publish(facts: _Map, files: RasterFiles, masks: _Masks, provenance: Provenance) -> None:
    """Write what was asked for; every file is whole or absent."""
    if files.map is None and files.polygons is None:
        return
    tags = {"PSEG_PROVENANCE": json_text(provenance_record(provenance), ascii_only=True)}
    work = masks.work
    name = work.new_name("map", MAP_SUFFIX)
    with work.for_libraries() as folder:
        map_path = folder / name
        write_geotiff(masks.mask, map_path, facts.georeference, facts.labels, tags)
        if files.map is not None:
            # First of all: what is wrong with polygons takes no map away.
            map_path = work.publish(name, files.map)
        if files.confidence is not None and masks.confidence is not None:
            beside = work.new_name("confidence", MAP_SUFFIX)
            write_geotiff(masks.confidence, folder / beside, facts.georeference, (), tags, band="confidence")
            work.publish(beside, files.confidence)
        if files.polygons is None:
            return
        polygons = work.new_name("polygons", files.polygons.suffix)
        _write_polygons(facts, map_path, folder / polygons, files.layer, work.mask.layout)
        # A copy: the file that is wanted may lie on another disk.
        within = None if files.polygons_apart else files.folder
        with work.open(polygons) as content, atomic_file(files.polygons, within=within) as file:
            shutil.copyfileobj(content, file)
        if files.style is not None:
            write_atomically(files.style, qgis_style(facts.labels), within=within)


def _write_polygons(facts: _Map, map_path: Path, path: Path, layer: str, layout: MaskLayout) -> None:
    degrees = pixel_degrees(facts.georeference, layout.width, layout.height)
    crs_wkt = facts.georeference.crs_wkt
    if degrees is None and crs_wkt is not None and path.suffix.lower() == ".geojson":
        _log.warning("%s: nothing leads from its coordinates to WGS 84: GeoJSON holds them as they are", layer)
    tolerance_px = facts.tolerance_px
    write_polygons(
        mask_polygons(map_path, multilabel=layout.multilabel),
        path,
        facts.labels,
        crs_wkt=crs_wkt,
        layer=layer,
        square_unit_m2=facts.square_unit_m2,
        pixel_degrees=degrees,
        simplification=None
        if tolerance_px is None
        else Simplification(tolerance_px, facts.georeference.transform, apart=layout.multilabel),
    )


@dataclass(frozen=True, slots=True)
class RasterWriter:
    """Writes the results of images that are cut into the folder of a run, that of `pictures`.

    `pictures` writes those of images that are no TIFFs; `vectors` is `gpkg`, `geojson` or a file, None: no polygons.
    """

    pictures: ResultWriter
    vectors: str | None

    def write(self, task: ImageTask, image: SourceImage, prediction: Prediction) -> Path | None:
        """Write the pictures of an image that was decoded, and return the most exact one."""
        return self.pictures.write(task, image, prediction)

    def raster_files(self, task: ImageTask) -> RasterFiles:
        folder, vectors = self.pictures.folder, self.vectors
        polygons = None if vectors is None else folder / polygons_of(task, vectors)
        return RasterFiles(
            folder,
            task.stem,
            folder / f"{task.stem}{MAP_SUFFIX}" if self.pictures.save else None,
            polygons,
            polygons_apart=vectors is not None and not is_polygon_format(vectors),
            confidence=folder / map_names(task.stem, ["confidence"])[-1]
            if "confidence" in self.pictures.save
            else None,
            style=None if polygons is None else polygons.with_suffix(STYLE_SUFFIX),
        )

    def write_raster(self, _: ImageTask, raster: SegmentedRaster[Any, RasterFiles]) -> Path | None:
        return raster.encoded.map


def _overview(mask: MaskFile, side: int) -> Mask:
    planes: NDArray[np.generic] = mask.overview(side)
    return planes == 1 if mask.layout.multilabel else planes[0]


def require_rasters_possible(
    tasks: Sequence[ImageTask],
    whole: Sequence[ImageTask],
    request: PredictRequest,
    tiles: TileOptions,
    writer: RasterWriter,
) -> None:
    """Refuse, before there is work to lose, what cannot be asked of the images of a run.

    Raises OptionError where an option has no effect, a result would take the place of an image, or one file is to hold
    the polygons of several; RuntimeUnavailableError where pyogrio is needed and not installed.
    """

    def cuts(task: ImageTask) -> bool:
        return is_cut(task.path, task.page, tiles, request.images.max_pixels)

    cut = list(filter(cuts, tasks))
    _require_effect(tiles, whole, any_cut=bool(cut) or any(map(cuts, whole)))
    rasters = [task for task in cut if tiff_size(task.path) is not None]
    if not rasters:
        return
    for name, problem in _not_of_rasters(request):
        raise OptionError(f"{rasters[0].path} is a raster, {problem}", option=name)
    if "overlay" in request.save:
        raise OptionError(
            f"{rasters[0].path} is a raster, of which no overlay is made: leave overlay out, or ask for as-photograph",
            option="save",
        )
    if tiles.polygon_file is not None and len(rasters) > 1:
        raise OptionError(
            f"{tiles.vectors} is one file for the polygons of {len(rasters)} rasters: "
            "give gpkg or geojson, for a file each",
            option="vectors",
        )
    results: list[tuple[str, Path]] = []
    for task in rasters:
        files = writer.raster_files(task)
        places = [files.folder / name for name in map_names(task.stem, request.save)]
        if files.polygons is not None:
            require_vector_format(files.polygons, "polygons")
            require_writable_file(files.polygons)
            require_layers_kept(files.polygons, files.layer)
            if tiles.simplify is not None:
                require_simplification()
            places += filter(None, (files.polygons, files.style))
        results += [(f"a result of {task.path}", place) for place in places]
    require_apart(
        results,
        {"one of the images": [task.path for task in tasks]},
        advice="name another folder with --out, or another file with --vectors",
    )


def require_effect(images: Sequence[ImageTask], request: PredictRequest, tiles: TileOptions) -> None:
    """Refuse options that act on photographs or on rasters where a run has none of them, or not what they need.

    Of all images that were named, at least one. Raises OptionError where an option has no effect, or a photograph has
    no size on the ground that one needs.
    """
    if not all(
        tiff_size(each.path) and is_cut(each.path, each.page, tiles, request.images.max_pixels) for each in images
    ):
        request.cover.require_ground()
    if tiles.as_photograph and not any(is_georeferenced(each.path, each.page or 1) for each in images):
        raise OptionError("no image of this run is a georeferenced TIFF: leave it out", option="as_photograph")
    if tiles.tile or not all(is_cut(each.path, each.page, tiles, request.images.max_pixels) for each in images):
        return
    idle = given_for_photographs(request)
    if idle:
        raise OptionError(
            "every image of this run is a raster, whose mask has full size, and which is not shrunk: leave it out",
            option=idle[0],
        )


def given_for_photographs(request: PredictRequest) -> list[str]:
    """Name the options that are given, and act on photographs alone."""
    return [
        *(["mask_size"] if request.masks.mask_size is not MaskSize.ORIGINAL else []),
        *(["max_img_size"] if request.images.max_img_size not in {-1, DEFAULT_MAX_IMG_SIZE} else []),
    ]


def _not_of_rasters(request: PredictRequest) -> Iterator[tuple[str, str]]:
    """Options that cannot be asked of a raster, and why."""
    if request.cover.region.roi is not None:
        yield "roi", "in which no region is measured: cut the area out of it first, or leave roi out"


def _require_effect(tiles: TileOptions, tasks: Sequence[ImageTask], *, any_cut: bool) -> None:
    for name, value in tiles.values().items():
        if name in TILE_OPTIONS and value is not None and tasks and not any_cut:
            raise OptionError("no image of this run is cut into tiles: ask for tile, or leave it out", option=name)
        if name in RASTER_OPTIONS and value is not None:
            for task in tasks:
                if tiff_size(task.path) is None:
                    raise OptionError(f"{task.path} is not a TIFF: leave it out of the images", option=name)

"""Large images for `pseg predict`: in tiles; a TIFF window by window from disk to disk, with everything a map needs."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine import ClassCover, Failed, ImageError, OptionError, Prediction, Predictor, Provenance, Segmented
from engine.bundle.bundle import SegmentationClass
from engine.images import Capture, SourceImage, read_image
from engine.images.tiff import is_georeferenced, tiff_size
from engine.rasters.geotiff import (
    ClassLabel,
    Georeference,
    GeoTiff,
    PixelAreas,
    centre_degrees,
    mask_polygons,
    open_geotiff,
    pixel_areas,
    pixel_degrees,
    write_geotiff,
)
from engine.rasters.mask_file import MaskFile, confidence_layout, layout_for
from engine.rasters.measuring import file_confidence, mark_unsure
from engine.rasters.options import TileOptions
from engine.rasters.polygons import require_layers_kept, require_polygon_format, write_polygons
from engine.rasters.tile_size import choose_tiling
from engine.rasters.tiles import OutputFacts, TiledRun, predict_in_tiles
from engine.rasters.tiling import Tiling
from engine.segmentation.confidence import require_scores
from engine.segmentation.postprocess import OutputKind
from engine.segmentation.predictor import Mask
from engine.system.files import atomic_file
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

_NOT_DECODED: Final = np.zeros((1, 1, 3), np.uint8)

_OF_TILES: Final = frozenset({"tile_size", "overlap", "max_memory"})
_OF_RASTERS: Final = frozenset({"bands", "vectors"})

Result = Segmented[ImageTask, Path | None] | Failed[ImageTask]


@dataclass(slots=True)
class LargeImages:
    """Segments those images of a run that are cut into tiles.

    Attributes:
        predictor: an open predictor.
        request: validated parameters.
        tiles: what is asked of large images.
        writer: writes the pictures of images that are no TIFFs; its folder takes everything.
        overview_side: longest side of what a report shows; None: no report.
        resume: whether to go on with what an interrupted run left.
    """

    predictor: Predictor
    request: PredictRequest
    tiles: TileOptions
    writer: ResultWriter
    overview_side: int | None = None
    resume: bool = False
    _chosen: tuple[Tiling, OutputFacts] | None = None
    _tilings: dict[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])

    def require_possible(self, tasks: Sequence[ImageTask]) -> None:
        """Refuse, before there is work to lose, what cannot be.

        Args:
            tasks: all images of the run.

        Raises:
            OptionError: a result would take the place of an image, or one file is to hold the polygons of several.
            RuntimeUnavailableError: pyogrio is needed and not installed.
        """
        cut = [task for task in tasks if self.takes(task)]
        self._require_effect(tasks, cut)
        rasters = [task for task in cut if tiff_size(task.path) is not None]
        if not rasters:
            return
        if self.request.cover.region.roi is not None:
            raise OptionError(
                f"{rasters[0].path} is a raster, in which no region is measured: cut the area out of it first, or "
                "leave roi out",
                option="roi",
            )
        if "overlay" in self.request.save:
            raise OptionError(
                f"{rasters[0].path} is a raster, of which no overlay is made: leave overlay out, or ask for "
                "as-photograph",
                option="save",
            )
        if self.tiles.polygon_file is not None and len(rasters) > 1:
            raise OptionError(
                f"{self.tiles.vectors} is one file for the polygons of {len(rasters)} rasters: "
                "give gpkg or geojson, for a file each",
                option="vectors",
            )
        results: list[tuple[str, Path]] = []
        for task in rasters:
            places = [self.writer.folder / name for name in map_names(task.stem, self.request.save)]
            if self.tiles.vectors is not None:
                vectors = self._vectors_of(task, self.tiles.vectors)
                require_polygon_format(vectors)
                require_writable_file(vectors)
                require_layers_kept(vectors, _layer_of(task))
                places.append(vectors)
            results += [(f"a result of {task.path}", place) for place in places]
        require_apart(
            results,
            {"one of the images": [task.path for task in tasks]},
            advice="name another folder with --out, or another file with --vectors",
        )

    def _require_effect(self, tasks: Sequence[ImageTask], cut: Sequence[ImageTask]) -> None:
        for name, value in self.tiles.values().items():
            if name in _OF_TILES and value is not None and tasks and not cut:
                raise OptionError("no image of this run is cut into tiles: ask for tile, or leave it out", option=name)
            if name in _OF_RASTERS and value is not None:
                for task in tasks:
                    if tiff_size(task.path) is None:
                        raise OptionError(f"{task.path} is not a TIFF: leave it out of the images", option=name)

    def takes(self, task: ImageTask) -> bool:
        """Tell whether an image is cut into tiles.

        Args:
            task: the image.

        Returns:
            Whether it is.
        """
        if self.tiles.tile or self.tiles.names_rasters:
            return True
        page = task.page or 1
        size = tiff_size(task.path, page)
        if size is not None and size[0] * size[1] > self.request.images.max_pixels:
            return True
        return not self.tiles.as_photograph and is_georeferenced(task.path, page)

    def provenance_of(self, result: Result) -> Provenance:
        """Where a result comes from.

        Args:
            result: of any image of the run.

        Returns:
            The predictor's provenance; of images that were cut with how.
        """
        return replace(self.predictor.provenance, tiling=self._tilings.get(result.source.stem))

    def segment(self, task: ImageTask) -> Result:
        """Segment one image; what goes wrong with it is its failed result.

        Args:
            task: the image.

        Returns:
            Its result.

        Raises:
            OptionError: the memory does not hold a tile, or another run is at work on the image: of all images.
        """
        try:
            if tiff_size(task.path) is not None:
                return self._segment_raster(task)
            if self.tiles.names_rasters:
                raise ImageError(f"{task.path}: is not a TIFF, which --bands and --vectors are for")
            return self._segment_image(task)
        except OptionError:
            raise
        except Exception as error:
            # A bug looks like any other failed image; its trace is kept for who looks for it.
            _log.debug("image failed", exc_info=error)
            return Failed(task, error)

    def _tiling(self) -> tuple[Tiling, OutputFacts]:
        if self._chosen is None:
            self._chosen = choose_tiling(self.predictor, self.tiles, self.request.batch_size)
        return self._chosen

    def _segment_image(self, task: ImageTask) -> Result:
        started = time.perf_counter()
        image = read_image(task.path, max_pixels=self.request.images.max_pixels, page=task.page)
        decoded = time.perf_counter()
        tiling, facts = self._tiling()
        prediction = predict_in_tiles(self.predictor, image, tiling, facts)
        self._tilings[task.stem] = _tiling_record(tiling, facts, image.width, image.height)
        segmented = time.perf_counter()
        path = self.writer.write(task, image, prediction)
        timings_ms = {
            "decode": (decoded - started) * 1000,
            **prediction.timings_ms,
            "encode": (time.perf_counter() - segmented) * 1000,
        }
        return Segmented(task, image, prediction, path, timings_ms)

    def _segment_raster(self, task: ImageTask) -> Result:
        tiling, facts = self._tiling()
        with open_geotiff(task.path, self.tiles.bands, page=task.page, tile_height=tiling.height) as raster:
            if raster.georeference.crs_wkt is None:
                _log.warning(
                    "%s names no coordinate reference system%s: its mask lies on the same pixels, and no areas are "
                    "known",
                    task.path,
                    ", but ground control points, which are not kept (gdalwarp makes a map of it first)"
                    if raster.placed_by_points
                    else "",
                )
            areas = pixel_areas(raster.georeference, raster.width, raster.height)
            if areas.rows_m2 is None and raster.georeference.crs_wkt is not None:
                _log.warning("%s: no areas are stated: %s", task.path, areas.note)
            multilabel = facts.kind is OutputKind.MULTILABEL
            classes = facts.planes if multilabel else facts.classes
            result = self.writer.folder / task.stem
            layout = layout_for(
                raster.width, raster.height, classes, multilabel=multilabel, marks_missing=raster.marks_missing
            )
            with UnfinishedRaster(
                result.with_name(f".pseg-{result.name}.tiles"),
                self._key(task, raster),
                tiling,
                layout,
                resume=self.resume,
                keep_tiling=self.tiles.side is None and self.tiles.overlap is None,
                limited=self.tiles.memory_bytes is not None,
                within=self.writer.folder,
            ) as work:
                if work.done:
                    _log.warning("%s: goes on after %s tiles", task.path, work.done)
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
                run.run(work.done, work.carry)
                self._tilings[task.stem] = {
                    **_tiling_record(work.tiling, facts, raster.width, raster.height),
                    "bands": list(raster.bands),
                }
                return self._finish(task, raster, work, run, areas, confidence)

    def _measured(
        self, work: UnfinishedRaster, confidence: MaskFile | None, classes: int
    ) -> tuple[MaskFile, list[SegmentationClass]]:
        """The mask that is reported, and its classes."""
        steps, layout = self.predictor.steps, work.mask.layout
        named = steps.classes(self.predictor.bundle.classes, classes)
        if confidence is None:
            return work.mask, named
        marked = layout_for(
            layout.width, layout.height, len(named), multilabel=False, marks_missing=layout.missing is not None
        )
        return mark_unsure(work.mask, confidence, steps, classes, lambda: work.beside("measured", marked)), named

    def _confidence_file(self, work: UnfinishedRaster, facts: OutputFacts) -> MaskFile | None:
        if not self.predictor.steps.wants_confidence:
            return None
        require_scores(facts.kind)
        return work.beside("confidence", confidence_layout(work.mask.layout.width, work.mask.layout.height))

    def _finish(
        self,
        task: ImageTask,
        raster: GeoTiff,
        work: UnfinishedRaster,
        run: TiledRun,
        areas: PixelAreas,
        confidence: MaskFile | None,
    ) -> Result:
        started = time.perf_counter()
        measured, classes = self._measured(work, confidence, run.facts.classes)
        covers = self._covers(measured, classes, areas)
        path = self._publish(task, raster.georeference, work, measured, confidence, covers, areas)
        mask, pixels = _overview(measured, 1), _NOT_DECODED
        if self.overview_side is not None:
            mask, pixels = _overview(measured, self.overview_side), raster.overview(self.overview_side)
        timings_ms = run.timings_ms
        timings_ms["encode"] += (time.perf_counter() - started) * 1000
        size, tile = (raster.width, raster.height), (work.tiling.width, work.tiling.height)
        steps = self.predictor.steps
        prediction = Prediction(
            mask,
            covers,
            timings_ms,
            whole_size=size,
            network_size=tile,
            confidence=None if confidence is None else file_confidence(confidence, steps, self.overview_side or 1),
        )
        latitude, longitude = centre_degrees(raster.georeference, *size) or (None, None)
        image = SourceImage(pixels, *size, Capture(None, latitude, longitude), raster.notes)
        return Segmented(task, image, prediction, path, timings_ms)

    def _covers(
        self, mask: MaskFile, classes: Sequence[SegmentationClass], areas: PixelAreas
    ) -> tuple[ClassCover, ...]:
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
        if areas.rows_m2 is None:
            return covers
        return tuple(
            replace(each, area_m2=float(square_metres))
            for each, square_metres in zip(covers, area_m2[:count], strict=True)
        )

    def _publish(
        self,
        task: ImageTask,
        georeference: Georeference,
        work: UnfinishedRaster,
        mask: MaskFile,
        confidence: MaskFile | None,
        covers: tuple[ClassCover, ...],
        areas: PixelAreas,
    ) -> Path | None:
        """Write what was asked for; every file is whole or absent."""
        if not self.request.save and self.tiles.vectors is None:
            return None
        labels = [
            ClassLabel(each.segmentation_class.id, each.segmentation_class.name, (int(red), int(green), int(blue)))
            for each, (red, green, blue) in zip(covers, class_palette(covers), strict=True)
        ]
        provenance = replace(self.predictor.provenance, tiling=self._tilings[task.stem])
        tags = {"PSEG_PROVENANCE": json_text(provenance_record(provenance), ascii_only=True)}
        name = work.new_name("map", MAP_SUFFIX)
        with work.for_libraries() as folder:
            map_path = folder / name
            write_geotiff(mask, map_path, georeference, labels, tags)
            if self.request.save:
                # First of all: what is wrong with polygons takes no map away.
                map_path = work.publish(name, self.writer.folder / f"{task.stem}{MAP_SUFFIX}")
            if confidence is not None and "confidence" in self.request.save:
                self._publish_confidence(task, confidence, folder, georeference, work, tags)
            if self.tiles.vectors is not None:
                wanted = self._vectors_of(task, self.tiles.vectors)
                self._publish_polygons(task, map_path, folder, wanted, georeference, work, labels, areas)
        return map_path if self.request.save else None

    def _publish_confidence(
        self,
        task: ImageTask,
        confidence: MaskFile,
        folder: Path,
        georeference: Georeference,
        work: UnfinishedRaster,
        tags: Mapping[str, str],
    ) -> None:
        _, published = map_names(task.stem, ["confidence"])
        name = work.new_name("confidence", MAP_SUFFIX)
        write_geotiff(confidence, folder / name, georeference, (), tags, band="confidence")
        work.publish(name, self.writer.folder / published)

    def _publish_polygons(
        self,
        task: ImageTask,
        map_path: Path,
        folder: Path,
        wanted: Path,
        georeference: Georeference,
        work: UnfinishedRaster,
        labels: Sequence[ClassLabel],
        areas: PixelAreas,
    ) -> None:
        name = work.new_name("polygons", wanted.suffix)
        _, per_column, x_per_row, _, y_per_column, per_row = georeference.transform
        determinant = abs(per_column * per_row - x_per_row * y_per_column)
        in_plane = areas.rows_m2 is not None and len(areas.rows_m2) == 1
        degrees = pixel_degrees(georeference, work.mask.layout.width, work.mask.layout.height)
        if degrees is None and georeference.crs_wkt is not None and wanted.suffix.lower() == ".geojson":
            _log.warning("%s: nothing leads from its coordinates to WGS 84: GeoJSON holds them as they are", task.path)
        write_polygons(
            mask_polygons(map_path, multilabel=work.mask.layout.multilabel),
            folder / name,
            labels,
            crs_wkt=georeference.crs_wkt,
            layer=_layer_of(task),
            square_unit_m2=float(areas.rows_m2[0]) / determinant if in_plane and areas.rows_m2 is not None else None,
            pixel_degrees=degrees,
        )
        # A copy: the file that is wanted may lie on another disk.
        within = self.writer.folder if self.tiles.polygon_file is None else None
        with work.open(name) as content, atomic_file(wanted, within=within) as file:
            shutil.copyfileobj(content, file)

    def _vectors_of(self, task: ImageTask, vectors: str) -> Path:
        return self.writer.folder / polygons_of(task, vectors)

    def _confidence_key(self) -> dict[str, object]:
        """What an unfinished raster must have kept besides the classes."""
        steps = self.predictor.steps
        return {"confidence": [steps.scale, steps.temperature]} if steps.wants_confidence else {}

    def _key(self, task: ImageTask, raster: GeoTiff) -> str:
        provenance = self.predictor.provenance
        return key_of(
            {
                "source": fingerprint(task.path),
                "page": task.page or 1,
                "size": [raster.width, raster.height],
                "bands": list(raster.bands),
                "bundle": provenance.bundle,
                "model": provenance.model,
                "provider": provenance.provider,
                "precision": provenance.precision,
                "averaging": provenance.averaging,
                "multilabel": self.predictor.bundle.multilabel,
                "threshold": self.predictor.threshold,
                **self._confidence_key(),
            }
        )


def _layer_of(task: ImageTask) -> str:
    return task.stem.rpartition("/")[2]


def _overview(mask: MaskFile, side: int) -> Mask:
    planes: NDArray[np.generic] = mask.overview(side)
    return planes == 1 if mask.layout.multilabel else planes[0]


def _tiling_record(tiling: Tiling, facts: OutputFacts, width: int, height: int) -> dict[str, object]:
    return {
        "tile": [tiling.width, tiling.height],
        "overlap": tiling.overlap,
        "batch": tiling.batch,
        "joined": "centres" if facts.kind is OutputKind.MASK else "blended",
        "tiles": len(tiling.grid(width, height)),
    }

"""What an order or a job publishes, for each image and at its end, whichever platform stores it.

- For an image: the mask as a palette PNG, named after the image, with the aspect `INFERENCE_SCHEMA`; where there are
  two classes, and none is left out, also with `SCALAR_SCHEMA`.
- For a raster: the mask as a cloud-optimized GeoTIFF with the same aspects, which also hold areas in square metres,
  coordinate reference system and bounds; on request its polygons, with the aspect `POLYGONS_SCHEMA`.
- At the end: the table of cover, the report if there is one, the collection of the masks, timings if they were asked
  for, and at last the summary.
"""

import json
import statistics
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from engine import ClassCover, Prediction, Provenance, SourceImage
from engine.images import Capture
from engine.rasters.result import SegmentedRaster
from engine.segmentation.palette import pseudo_color_png
from engine.system.text import legible, legible_values
from service.ivcap.items import Item, StorageError
from service.ivcap.names import ArtifactName
from service.results.pictures import (
    MAP_SUFFIX,
    capture_record,
    class_palette,
    cover_records,
    flags_record,
    measured_record,
    provenance_record,
    raster_record,
    shown_mask,
)
from service.results.rasters import RasterFiles

INFERENCE_SCHEMA = "urn:ibenthos:schema:paddle.seg.inference.1"
SCALAR_SCHEMA = "urn:ibenthos:schema:paddle.inference.1"
SUMMARY_SCHEMA = "urn:ibenthos:schema:paddle.seg.summary.1"
POLYGONS_SCHEMA = "urn:ibenthos:schema:paddle.seg.polygons.1"
TIMINGS_SCHEMA = "urn:ibenthos:schema:paddle.seg.timings.1"
COLLECTION_SCHEMA = "urn:ivcap:schema:artifact-collection.1"
"""A list, as the platform's command line writes it."""
NAMED_COLLECTION_SCHEMA = "urn:ivcap:schema:collection.1"
"""A name, as the platform's client writes it; each member is an aspect `COLLECTION_ITEM_SCHEMA`."""
COLLECTION_ITEM_SCHEMA = "urn:ivcap:schema:collection-item.1"
_REQUESTS_AT_A_TIME = 8

MAP_MIME_TYPE: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_POLYGON_MIME_TYPES: Final = {"gpkg": "application/geopackage+sqlite3", "geojson": "application/geo+json"}

Aspect = Mapping[str, Any]
"""JSON values with a `$schema`, attached to an entity."""


@dataclass(frozen=True, slots=True)
class Product:
    """A file to be stored; its name has no folder, and its aspects are attached once it is stored."""

    name: str
    mime_type: str
    content: bytes
    aspects: tuple[Aspect, ...] = ()


class ArtifactStore(Protocol):
    """Where a platform keeps files and aspects."""

    @property
    def order(self) -> str:
        """URN of the order or job that the results belong to."""
        ...

    def store(self, product: Product) -> str:
        """Store a file and its aspects, and return its URN; called from several threads. Raises StorageError."""
        ...

    def attach(self, entity: str, aspect: Aspect) -> None:
        """Attach an aspect to something that is stored, or to the order, by its URN; raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image of an order or a job, with a stem that no other image has.

    `fetched` is its local file, once it is there; it raises `FetchError` if it cannot be had.
    """

    item: Item
    stem: str
    fetched: "Future[Path]"

    @property
    def label(self) -> str:
        return self.item.name.label


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """An image whose results are stored; `mask` and `polygons` are URNs, sizes are of the mask, in pixels.

    `valid_pixels` hold data. `details` is what is known of it besides, as JSON values: region, confidence, flags, place
    of a raster.
    """

    image: ArtifactName
    mask: str
    width: int
    height: int
    valid_pixels: int
    covers: tuple[ClassCover, ...]
    is_cut: bool = False
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    polygons: str | None = None

    def __str__(self) -> str:
        """The URN of the mask, which is where records and tables say that it lies."""
        return self.mask

    def record(self) -> dict[str, Any]:
        """What the summary of an order and the result of a job say of the image."""
        return {
            "image": self.image.urn,
            "name": self.image.label,
            "mask": self.mask,
            "width": self.width,
            "height": self.height,
            "cover": cover_records(self.covers),
            **self.details,
            **({} if self.polygons is None else {"polygons": self.polygons}),
        }


@dataclass(frozen=True, slots=True)
class Publisher:
    """The sink of an order or a job; what is not stored raises StorageError.

    `model` is the URN of the bundle; `folder` takes the files of rasters until they are stored; `vectors` is the suffix
    of their polygons, None for no polygons.
    """

    store: ArtifactStore
    model: str
    provenance: Provenance
    multilabel: bool
    folder: Path
    vectors: str | None = None

    def write(self, task: ImageTask, image: SourceImage, prediction: Prediction) -> PublishedImage:
        size, covers = (prediction.width, prediction.height), prediction.covers
        content = pseudo_color_png(shown_mask(prediction.mask), class_palette(covers))
        details = {**measured_record(prediction.confidence, prediction.region), **flags_record(prediction)}
        aspects = self._aspects(self._common(task, size, image.capture), covers, prediction.tiling, details)
        mask = self.store.store(Product(f"{task.stem}.pseudo.png", "image/png", content, aspects))
        is_cut = prediction.tiling is not None
        pixels = prediction.width * prediction.height
        return PublishedImage(task.item.name, mask, *size, pixels, covers, is_cut, details)

    def raster_files(self, task: ImageTask) -> RasterFiles:
        """Name the files of a raster until they are stored, in a folder of its own."""
        folder = self.folder_of(task)
        folder.mkdir()
        return RasterFiles(folder, task.stem, self._map_of(task), self._polygons_of(task))

    def folder_of(self, task: ImageTask) -> Path:
        """Name the folder for the files of a raster; whoever has it segmented removes it."""
        return self.folder / task.stem

    def _map_of(self, task: ImageTask) -> Path:
        return self.folder_of(task) / f"{task.stem}{MAP_SUFFIX}"

    def _polygons_of(self, task: ImageTask) -> Path | None:
        return None if self.vectors is None else self.folder_of(task) / f"{task.stem}.{self.vectors}"

    def write_raster(self, task: ImageTask, raster: SegmentedRaster[Any, RasterFiles]) -> PublishedImage:
        size = (raster.width, raster.height)
        details = {**measured_record(raster.confidence, None), "raster": raster_record(raster)}
        known = self._common(task, size, raster.capture)
        aspects = self._aspects(known, raster.covers, raster.tiling, details)
        mask = self._stored(self._map_of(task), MAP_MIME_TYPE, aspects)
        polygons, urn = self._polygons_of(task), None
        if polygons is not None and self.vectors is not None:
            aspect = {"$schema": POLYGONS_SCHEMA, **known, "mask": mask, "crs": raster.crs}
            urn = self._stored(polygons, _POLYGON_MIME_TYPES[self.vectors], (legible_values(aspect),))
        return PublishedImage(task.item.name, mask, *size, raster.valid_pixels, raster.covers, True, details, urn)

    def _stored(self, path: Path, mime_type: str, aspects: tuple[Aspect, ...]) -> str:
        return self.store.store(Product(path.name, mime_type, path.read_bytes(), aspects))

    def _common(self, task: ImageTask, size: tuple[int, int], capture: Capture) -> dict[str, Any]:
        """What each aspect of an image says of it; time and position only where they are known."""
        known = {name: value for name, value in capture_record(capture).items() if value is not None}
        return {
            "image": task.item.name.urn,
            "name": task.item.name.label,
            **known,
            "model": self.model,
            "order": self.store.order,
            "width": size[0],
            "height": size[1],
        }

    def _aspects(
        self,
        common: Mapping[str, Any],
        covers: tuple[ClassCover, ...],
        tiling: Mapping[str, object] | None,
        more: Mapping[str, Any],
    ) -> tuple[Aspect, ...]:
        """What is known of a mask."""
        aspects: list[Aspect] = [
            {
                "$schema": INFERENCE_SCHEMA,
                **common,
                "multilabel": self.multilabel,
                "cover": cover_records(covers),
                **more,
                "provenance": provenance_record(replace(self.provenance, tiling=tiling)),
            }
        ]
        left_out = any(each.excluded is not None for each in covers)
        has_data = any(each.cover for each in covers)
        if len(covers) == 2 and not self.multilabel and not left_out and has_data:
            aspects.append({"$schema": SCALAR_SCHEMA, **common, "cover": round(covers[1].cover, 6)})
        return tuple(legible_values(aspect) for aspect in aspects)

    def publish_collection(self, images: Sequence[PublishedImage]) -> str:
        """Gather the masks in a collection, in each of the two forms that are in use, and return its URN."""
        collection = f"urn:ivcap:collection:{uuid.uuid4()}"
        self.store.attach(
            collection,
            {
                "$schema": COLLECTION_SCHEMA,
                "collection": collection,
                "name": f"masks of {self.store.order}",
                "order": self.store.order,
                "artifacts": [each.mask for each in images],
            },
        )
        order = self.store.order
        named = {"name": f"masks of {order}", "description": f"made by {self.model}", "order": order}
        self.store.attach(collection, {"$schema": NAMED_COLLECTION_SCHEMA, **named})

        def add(image: PublishedImage) -> None:
            item = {"$schema": COLLECTION_ITEM_SCHEMA, "collection": collection, "item": image.mask, "order": order}
            self.store.attach(collection, item)

        with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
            for added in [pool.submit(add, image) for image in images]:
                added.result()
        return collection

    def publish_timings(self, model_name: str, samples_ms: Mapping[str, Sequence[float]]) -> None:
        """Attach the timings of an order to it: by stage, one time per image, in milliseconds."""
        self.store.attach(
            self.store.order,
            {
                "$schema": TIMINGS_SCHEMA,
                "model_name": legible(model_name),
                "model": self.model,
                "order": self.store.order,
                "images": max((len(each) for each in samples_ms.values()), default=0),
                "timings_ms": {stage: _statistics(each) for stage, each in samples_ms.items()},
                "provenance": provenance_record(self.provenance),
            },
        )


def _statistics(samples: Sequence[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "mean": round(statistics.fmean(ordered), 3),
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[-(-len(ordered) * 95 // 100) - 1], 3),
        "min": round(ordered[0], 3),
        "max": round(ordered[-1], 3),
    }


def require_json(aspect: Aspect) -> None:
    """Prove that an aspect has a `$schema` and is what JSON can hold: libraries drop what is not.

    Raises StorageError.
    """
    try:
        json.dumps(aspect, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StorageError(f"aspect {aspect.get('$schema')}", f"cannot be written as JSON: {error}") from error

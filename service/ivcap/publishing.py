"""What an order or a job publishes, for each image and at its end, whichever platform stores it.

- For an image: the mask as a palette PNG, named after the image, with the aspect `INFERENCE_SCHEMA`; where there are
  two classes, also with `SCALAR_SCHEMA`.
- At the end: the table of cover, the report if there is one, the collection of the masks, timings if they were asked
  for, and at last the summary.
"""

import json
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine import ClassCover, Prediction, Provenance, SourceImage
from engine.segmentation.palette import pseudo_color_png
from engine.system.text import legible, legible_values
from service.ivcap.items import Item, StorageError
from service.ivcap.names import ArtifactName
from service.results.pictures import cover_records, measured_record, provenance_record, shown_mask

INFERENCE_SCHEMA = "urn:ibenthos:schema:paddle.seg.inference.1"
SCALAR_SCHEMA = "urn:ibenthos:schema:paddle.inference.1"
SUMMARY_SCHEMA = "urn:ibenthos:schema:paddle.seg.summary.1"
TIMINGS_SCHEMA = "urn:ibenthos:schema:paddle.seg.timings.1"
COLLECTION_SCHEMA = "urn:ivcap:schema:artifact-collection.1"

Aspect = Mapping[str, Any]
"""JSON values with a `$schema`, attached to an entity."""


@dataclass(frozen=True, slots=True)
class Product:
    """A file to be stored.

    Attributes:
        name: file name, without a folder.
        mime_type: of the content.
        content: the bytes.
        aspects: attached to the file once it is stored.
    """

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
        """Store a file and its aspects, and return its URN; called from several threads.

        Raises:
            StorageError: file or aspects were not stored.
        """
        ...

    def attach(self, entity: str, aspect: Aspect) -> None:
        """Attach an aspect to something that is stored, or to the order, by its URN.

        Raises:
            StorageError: it was not stored.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image of an order or a job, and the stem of its results, which no other image has."""

    item: Item
    stem: str

    @property
    def label(self) -> str:
        """What tables and reports call it."""
        return self.item.name.label


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """An image whose results are stored.

    Attributes:
        image: what it is called.
        mask: URN of the stored mask.
        width: of the mask, in pixels.
        height: of the mask, in pixels.
        covers: one per class.
    """

    image: ArtifactName
    mask: str
    width: int
    height: int
    covers: tuple[ClassCover, ...]

    def __str__(self) -> str:
        """The URN of the mask, which is where records and tables say that it lies."""
        return self.mask


@dataclass(frozen=True, slots=True)
class Publisher:
    """The sink of an order or a job.

    Attributes:
        store: where files and aspects go.
        model: URN of the model bundle.
        provenance: of the predictor.
        multilabel: whether classes may overlap.
    """

    store: ArtifactStore
    model: str
    provenance: Provenance
    multilabel: bool

    def write(self, task: ImageTask, _: SourceImage, prediction: Prediction) -> PublishedImage:
        """Store the mask of an image and what is known of it.

        Raises:
            StorageError: something of it was not stored.
        """
        common = {
            "image": task.item.name.urn,
            "model": self.model,
            "order": self.store.order,
            "width": prediction.width,
            "height": prediction.height,
        }
        aspects: list[Aspect] = [
            {
                "$schema": INFERENCE_SCHEMA,
                **common,
                "multilabel": self.multilabel,
                "cover": cover_records(prediction.covers),
                **measured_record(prediction),
                "provenance": provenance_record(self.provenance),
            }
        ]
        if len(prediction.covers) == 2 and not self.multilabel:
            aspects.append({"$schema": SCALAR_SCHEMA, **common, "cover": round(prediction.covers[1].cover, 6)})
        shown = tuple(legible_values(aspect) for aspect in aspects)
        content = pseudo_color_png(*shown_mask(prediction))
        mask = self.store.store(Product(f"{task.stem}.pseudo.png", "image/png", content, shown))
        return PublishedImage(task.item.name, mask, prediction.width, prediction.height, prediction.covers)

    def publish_collection(self, images: Sequence[PublishedImage]) -> str:
        """Gather the masks in a collection, and return its URN.

        Raises:
            StorageError: it was not stored.
        """
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
        return collection

    def publish_timings(self, model_name: str, samples_ms: Mapping[str, Sequence[float]]) -> None:
        """Attach the timings of an order to it.

        Args:
            model_name: what the model is called there.
            samples_ms: one time per image, stage by stage, in milliseconds.

        Raises:
            StorageError: they were not stored.
        """
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

    Raises:
        StorageError: it is not.
    """
    try:
        json.dumps(aspect, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StorageError(f"aspect {aspect.get('$schema')}", f"cannot be written as JSON: {error}") from error

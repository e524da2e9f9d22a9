"""What an order or a job publishes, for each image and at its end, whichever platform takes it.

An `Outlet` is where it goes; each door brings its own. What is published is decided here:

- For an image: the mask as a palette PNG, named after the image, with the aspect `INFERENCE_SCHEMA`; where there are
  two classes, also with `SCALAR_SCHEMA`.
- At the end: the table of cover, the report if there is one, the collection of the masks, timings if they were asked
  for, and at last the summary.
"""

import json
import logging
import re
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote

from engine import ClassCover, EngineError, Prediction, Provenance
from engine.segmentation.palette import pseudo_color_png
from engine.system.text import legible, legible_values
from service.results.pictures import cover_records, provenance_record, short_stem, shown_mask

_log = logging.getLogger(__name__)

INFERENCE_SCHEMA = "urn:ibenthos:schema:paddle.seg.inference.1"
SCALAR_SCHEMA = "urn:ibenthos:schema:paddle.inference.1"
SUMMARY_SCHEMA = "urn:ibenthos:schema:paddle.seg.summary.1"
TIMINGS_SCHEMA = "urn:ibenthos:schema:paddle.seg.timings.1"
COLLECTION_SCHEMA = "urn:ivcap:schema:artifact-collection.1"

ARTIFACT_URN = "urn:ivcap:artifact:"

# What separates the parts of a path on some system, controls a terminal, breaks a line or turns its direction.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069/\\:*?\"<>|]+")
# Of devices on Windows, whatever follows a point.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.IGNORECASE)
_URN_REST = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff/\\?#%]{1,1000}(?<!:)")

Aspect = Mapping[str, Any]
"""JSON values with a `$schema`, attached to an entity."""


class StorageError(EngineError):
    """A result could not be stored."""


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


class Outlet(Protocol):
    """Where results go."""

    @property
    def order(self) -> str:
        """URN of the order or job that the results belong to."""
        ...

    def store(self, product: Product) -> str:
        """Store a file and its aspects; called from several threads.

        Args:
            product: the file.

        Returns:
            URN of the stored file.

        Raises:
            StorageError: file or aspects were not stored.
        """
        ...

    def attach(self, entity: str, aspect: Aspect) -> None:
        """Attach an aspect to something that is stored, or to the order.

        Args:
            entity: URN.
            aspect: with its `$schema`.

        Raises:
            StorageError: it was not stored.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceName:
    """What an image is called.

    Attributes:
        urn: of the image.
        label: what people call it: its file name, or where there is none, the URN.
    """

    urn: str
    label: str


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """An image whose results are stored.

    Attributes:
        source: the image.
        mask: URN of the stored mask.
        width: of the mask, in pixels.
        height: of the mask, in pixels.
        covers: one a class.
    """

    source: SourceName
    mask: str
    width: int
    height: int
    covers: tuple[ClassCover, ...]

    def __str__(self) -> str:
        """The URN of the mask, which is where records and tables say that it lies."""
        return self.mask


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image without results.

    Attributes:
        source: the image.
        reason: why.
    """

    source: SourceName
    reason: str


def address_path(address: str) -> str:
    """Take the path out of an address, whatever else of it is wrong.

    Args:
        address: a URL.

    Returns:
        What lies between the host and the query.

    >>> address_path("https://host:80/a/b%20c.png?version=2#top"), address_path("https://["), address_path("file:///a")
    ('/a/b%20c.png', '', '/a')
    """
    _, slash, path = re.split(r"[?#]", address.partition("://")[2], maxsplit=1)[0].partition("/")
    return slash + path


def product_stem(label: str) -> str:
    """Derive the stem of a product's name from its source.

    Args:
        label: a file name, a path, a URL or a URN.

    Returns:
        What a file may be called on every system; at most 180 bytes.

    >>> product_stem("dive 1/GOPR0247.JPG"), product_stem("https://host/a/b%20c.png?version=2")
    ('GOPR0247', 'b c')
    >>> product_stem("urn:ivcap:artifact:0197-aa"), product_stem(".."), product_stem("nul.tar.png")
    ('0197-aa', 'image', '_nul.tar')
    """
    if "://" in label:
        label = unquote(address_path(label.removeprefix("urn:")))
    name = label.rstrip("/").replace("\\", "/").rpartition("/")[2]
    if name.startswith("urn:"):
        stem = name.rpartition(":")[2]
    else:
        stem = PurePosixPath(name).stem if name.strip(".") else ""
    stem = _UNSAFE.sub("_", stem).strip()
    stem = short_stem(legible(stem))
    if _RESERVED.match(stem):
        stem = f"_{stem}"
    return stem if stem.strip(".") else "image"


def is_platform_urn(name: str, prefix: str) -> bool:
    """Tell whether a name is a URN of the platform and nothing else besides: no path, no query, no second line.

    Args:
        name: of an artifact, a collection or a queue.
        prefix: what it begins with.

    Returns:
        True if it is.

    >>> is_platform_urn("urn:ivcap:artifact:7", ARTIFACT_URN), is_platform_urn("urn:ivcap:artifact:../7", ARTIFACT_URN)
    (True, False)
    """
    return name.startswith(prefix) and _URN_REST.fullmatch(name.removeprefix(prefix)) is not None


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes the results of one order.

    Attributes:
        outlet: where they go.
        model: URN of the model bundle.
        provenance: of the predictor.
        multilabel: whether classes may overlap.
    """

    outlet: Outlet
    model: str
    provenance: Provenance
    multilabel: bool

    def publish_image(self, source: SourceName, stem: str, prediction: Prediction) -> PublishedImage:
        """Store the mask of an image and what is known of it.

        Args:
            source: the image.
            stem: of the mask's name; not yet used in this order.
            prediction: mask and cover.

        Returns:
            What was stored.

        Raises:
            StorageError: something of it was not stored.
        """
        content = pseudo_color_png(*shown_mask(prediction))
        common = {
            "image": source.urn,
            "model": self.model,
            "order": self.outlet.order,
            "width": prediction.width,
            "height": prediction.height,
        }
        aspects: list[Aspect] = [
            {
                "$schema": INFERENCE_SCHEMA,
                **common,
                "multilabel": self.multilabel,
                "cover": cover_records(prediction.covers),
                "provenance": provenance_record(self.provenance),
            }
        ]
        if len(prediction.covers) == 2 and not self.multilabel:
            aspects.append({"$schema": SCALAR_SCHEMA, **common, "cover": round(prediction.covers[1].cover, 6)})
        shown = tuple(legible_values(aspect) for aspect in aspects)
        mask = self.outlet.store(Product(f"{stem}.pseudo.png", "image/png", content, shown))
        return PublishedImage(source, mask, prediction.width, prediction.height, prediction.covers)

    def publish_collection(self, images: Sequence[PublishedImage]) -> str:
        """Gather the masks in a collection.

        Args:
            images: those with a mask.

        Returns:
            URN of the collection.

        Raises:
            StorageError: it was not stored.
        """
        collection = f"urn:ivcap:collection:{uuid.uuid4()}"
        self.outlet.attach(
            collection,
            {
                "$schema": COLLECTION_SCHEMA,
                "collection": collection,
                "name": f"masks of {self.outlet.order}",
                "order": self.outlet.order,
                "artifacts": [each.mask for each in images],
            },
        )
        return collection

    def publish_timings(self, model_name: str, samples_ms: Mapping[str, Sequence[float]]) -> None:
        """Attach the timings of an order to it.

        Args:
            model_name: what the model is called there.
            samples_ms: one time an image, stage by stage, in milliseconds.

        Raises:
            StorageError: they were not stored.
        """
        self.outlet.attach(
            self.outlet.order,
            {
                "$schema": TIMINGS_SCHEMA,
                "model_name": legible(model_name),
                "model": self.model,
                "order": self.outlet.order,
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


@dataclass(slots=True)
class TotalCover:
    """The cover over all images, each weighted by its pixels.

    Attributes:
        pixels: of all images.
        covered: pixels of each class, in index order.
    """

    pixels: int = 0
    covered: list[ClassCover] = field(default_factory=list[ClassCover])

    def add(self, width: int, height: int, covers: Sequence[ClassCover]) -> None:
        """Add an image.

        Args:
            width: of its mask, in pixels.
            height: of its mask, in pixels.
            covers: one a class.
        """
        size = width * height
        self.pixels += size
        for index, each in enumerate(covers):
            if index == len(self.covered):
                self.covered.append(ClassCover(each.segmentation_class, 0))
            before = self.covered[index]
            self.covered[index] = ClassCover(before.segmentation_class, before.cover + each.cover * size)

    def covers(self) -> tuple[ClassCover, ...]:
        """Divide by the pixels.

        Returns:
            One cover a class; none without an image.
        """
        return tuple(ClassCover(each.segmentation_class, each.cover / self.pixels) for each in self.covered)


def require_json(aspect: Aspect) -> None:
    """Prove that an aspect is what JSON can hold: libraries drop what is not.

    Args:
        aspect: to be stored.

    Raises:
        StorageError: it is not, or it has no `$schema`.
    """
    try:
        json.dumps(aspect, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StorageError(f"aspect {aspect.get('$schema')} cannot be written as JSON: {error}") from error

"""Typed models of all aspects, requests and results that orders and jobs exchange with a platform, and their schemas.

The files in docs/schemas are made from them by `make schemas`; tests hold everything that is published against those.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from converters.exporting.bundle_files import MODEL_SCHEMA
from service.ivcap.publishing import (
    COLLECTION_ITEM_SCHEMA,
    COLLECTION_SCHEMA,
    INFERENCE_SCHEMA,
    NAMED_COLLECTION_SCHEMA,
    POLYGONS_SCHEMA,
    SCALAR_SCHEMA,
    SUMMARY_SCHEMA,
    TIMINGS_SCHEMA,
)
from service.job import REQUEST_SCHEMA, RESULT_SCHEMA, JobRequest, JobResult
from service.results.records import ConfidenceRecord, CoverRecord, ProvenanceRecord, RasterRecord, RegionRecord, Share

_CLOSED = ConfigDict(extra="forbid")
_Urn = Annotated[str, Field(pattern="^(urn|https?|file):.+")]
_Side = Annotated[int, Field(ge=1, description="of the mask, in pixels")]
_Milliseconds = Annotated[float, Field(ge=0)]


class _OfImage(TypedDict):
    """What every aspect of an image says of it."""

    image: Annotated[_Urn, Field(description="URN of the image")]
    name: Annotated[str, Field(description="name of the image")]
    taken_at: NotRequired[Annotated[str, Field(description="when the photograph was taken, ISO 8601; if it says so")]]
    latitude_deg: NotRequired[Annotated[float, Field(ge=-90, le=90, description="where it was taken")]]
    longitude_deg: NotRequired[Annotated[float, Field(ge=-180, le=180, description="where it was taken")]]
    model: Annotated[_Urn, Field(description="URN of the model bundle")]
    order: Annotated[_Urn, Field(description="URN of the order or job")]
    width: _Side
    height: _Side


class _Measured(TypedDict):
    """What is told of a mask besides, where it was asked for or is known."""

    confidence: NotRequired[Annotated[ConfidenceRecord, Field(description="how sure the network is; shares, 0 to 1")]]
    roi: NotRequired[Annotated[RegionRecord, Field(description="cover inside the region of interest")]]
    flags: NotRequired[Annotated[list[str], Field(description="what the photograph may suffer from, such as blurred")]]
    raster: NotRequired[Annotated[RasterRecord, Field(description="where a raster lies")]]


@with_config(_CLOSED)
class Inference(_OfImage, _Measured):
    """What is known of a mask; attached to it."""

    multilabel: Annotated[bool, Field(description="whether a pixel may belong to several classes")]
    cover: Annotated[list[CoverRecord], Field(description="of every class, by class index")]
    provenance: Annotated[ProvenanceRecord, Field(description="what made the mask")]


@with_config(_CLOSED)
class ScalarInference(_OfImage):
    """The cover of the second of two classes; attached to the mask."""

    cover: Annotated[Share, Field(description="share of the pixels of class 1")]


@with_config(_CLOSED)
class Polygons(_OfImage):
    """What is known of the polygons of a raster; attached to them."""

    mask: Annotated[_Urn, Field(description="URN of the mask that they outline")]
    crs: Annotated[str | None, Field(description="coordinate reference system; null if the raster names none")]


@with_config(_CLOSED)
class _Mask(_Measured):
    image: _Urn
    name: str
    mask: _Urn
    width: _Side
    height: _Side
    cover: list[CoverRecord]
    polygons: NotRequired[_Urn]


@with_config(_CLOSED)
class _Counts(TypedDict):
    total: Annotated[int, Field(ge=0)]
    succeeded: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]


@with_config(_CLOSED)
class _Failure(TypedDict):
    image: _Urn
    name: str
    reason: str


@with_config(_CLOSED)
class _Products(TypedDict):
    cover: NotRequired[Annotated[_Urn, Field(description="table of cover, CSV")]]
    report: NotRequired[Annotated[_Urn, Field(description="report, HTML")]]
    collection: NotRequired[Annotated[_Urn, Field(description="collection of the masks")]]


@with_config(_CLOSED)
class _Total(CoverRecord):
    mean_of_images: Annotated[Share, Field(description="every image counts once; in cover every pixel does")]


@with_config(_CLOSED)
class Summary(TypedDict):
    """What became of an order or a job; attached to it."""

    order: Annotated[_Urn, Field(description="URN of the order or job")]
    model: Annotated[_Urn, Field(description="URN of the model bundle")]
    status: Literal["done", "incomplete", "wrong_request"]
    shard: NotRequired[Annotated[str, Field(description="which share of the images was asked for")]]
    images: _Counts
    failures: Annotated[list[_Failure], Field(description="images without a mask")]
    problems: Annotated[list[str], Field(description="what else was not done or not stored")]
    masks: list[_Mask]
    cover: Annotated[list[_Total], Field(description="over all images, by two rules")]
    products: _Products
    provenance: ProvenanceRecord | None


@with_config(_CLOSED)
class _Statistics(TypedDict):
    mean: _Milliseconds
    median: _Milliseconds
    p95: _Milliseconds
    min: _Milliseconds
    max: _Milliseconds


@with_config(_CLOSED)
class Timings(TypedDict):
    """How long the steps took, per image; attached to the order or job."""

    model_name: str
    model: _Urn
    order: _Urn
    images: Annotated[int, Field(ge=0)]
    timings_ms: dict[str, _Statistics]
    provenance: ProvenanceRecord


@with_config(_CLOSED)
class ListedCollection(TypedDict):
    """A collection of masks as a list, the form of the platform's command line."""

    collection: _Urn
    name: str
    order: _Urn
    artifacts: list[_Urn]


@with_config(_CLOSED)
class NamedCollection(TypedDict):
    """A collection of masks by its name, the form of the platform's client."""

    name: str
    description: str
    order: _Urn


@with_config(_CLOSED)
class CollectionItem(TypedDict):
    """A member of a collection, the form of the platform's client."""

    collection: _Urn
    item: _Urn
    order: _Urn


@with_config(_CLOSED)
class _ModelClass(TypedDict):
    id: str
    name: str
    def_color: NotRequired[Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]]


@with_config(_CLOSED)
class Model(TypedDict):
    """What a bundle says of itself: `meta.json`, and the aspect that is attached to the bundle."""

    artifact: NotRequired[str]
    name: str
    model: Annotated[dict[str, Any], Field(description="how the network was made")]
    classes: list[_ModelClass]
    shape: Annotated[list[int | None], Field(min_length=4, max_length=4, description="of the input: N, C, H, W")]
    multilabel: NotRequired[bool]


_ASPECTS: Mapping[str, type] = {
    INFERENCE_SCHEMA: Inference,
    SCALAR_SCHEMA: ScalarInference,
    POLYGONS_SCHEMA: Polygons,
    SUMMARY_SCHEMA: Summary,
    TIMINGS_SCHEMA: Timings,
    COLLECTION_SCHEMA: ListedCollection,
    NAMED_COLLECTION_SCHEMA: NamedCollection,
    COLLECTION_ITEM_SCHEMA: CollectionItem,
    MODEL_SCHEMA: Model,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """Make the JSON schemas (draft 2020-12) of everything that is published, by the names of their files.

    `$id` is what stands in `$schema` of whatever has that form.
    """
    schemas = {urn: TypeAdapter(model).json_schema() for urn, model in _ASPECTS.items()}
    for urn, schema in schemas.items():
        schema["properties"] = {"$schema": {"const": urn}, **schema["properties"]}
        schema["required"] = ["$schema", *schema["required"]]
    schemas[REQUEST_SCHEMA] = JobRequest.model_json_schema()
    schemas[RESULT_SCHEMA] = JobResult.model_json_schema(mode="serialization")
    return {
        f"{urn.rpartition(':')[2]}.json": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": urn,
            **schema,
        }
        for urn, schema in schemas.items()
    }

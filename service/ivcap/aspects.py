"""Typed models of all aspects, requests and results that orders and jobs exchange with a platform, and their schemas.

The files in docs/schemas are made from them by `make schemas`; tests hold everything that is published against those.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, with_config
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
from service.results.records import CoverRecord, ProvenanceRecord, Share
from service.results.summary_records import CLOSED, MaskSide, Measured, Summary, Urn

_Milliseconds = Annotated[float, Field(ge=0)]


class _OfImage(TypedDict):
    """What every aspect of an image says of it."""

    image: Annotated[Urn, Field(description="URN of the image")]
    name: Annotated[str, Field(description="name of the image")]
    taken_at: NotRequired[Annotated[str, Field(description="when the photograph was taken, ISO 8601; if it says so")]]
    latitude_deg: NotRequired[Annotated[float, Field(ge=-90, le=90, description="where it was taken")]]
    longitude_deg: NotRequired[Annotated[float, Field(ge=-180, le=180, description="where it was taken")]]
    model: Annotated[Urn, Field(description="URN of the model bundle")]
    order: Annotated[Urn, Field(description="URN of the order or job")]
    width: MaskSide
    height: MaskSide


@with_config(CLOSED)
class Inference(_OfImage, Measured):
    """What is known of a mask; attached to it."""

    multilabel: Annotated[bool, Field(description="whether a pixel may belong to several classes")]
    cover: Annotated[list[CoverRecord], Field(description="of every class, by class index")]
    provenance: Annotated[ProvenanceRecord, Field(description="what made the mask")]


@with_config(CLOSED)
class ScalarInference(_OfImage):
    """The cover of the second of two classes; attached to the mask."""

    cover: Annotated[Share, Field(description="share of the pixels of class 1")]


@with_config(CLOSED)
class Polygons(_OfImage):
    """What is known of the polygons of a raster; attached to them."""

    mask: Annotated[Urn, Field(description="URN of the mask that they outline")]
    crs: Annotated[str | None, Field(description="coordinate reference system; null if the raster names none")]


@with_config(CLOSED)
class _Statistics(TypedDict):
    mean: _Milliseconds
    median: _Milliseconds
    p95: _Milliseconds
    min: _Milliseconds
    max: _Milliseconds


@with_config(CLOSED)
class Timings(TypedDict):
    """How long the steps took, per image; attached to the order or job."""

    model_name: str
    model: Urn
    order: Urn
    images: Annotated[int, Field(ge=0)]
    timings_ms: dict[str, _Statistics]
    provenance: ProvenanceRecord


@with_config(CLOSED)
class ListedCollection(TypedDict):
    """A collection of masks as a list, the form of the platform's command line."""

    collection: Urn
    name: str
    order: Urn
    artifacts: list[Urn]


@with_config(CLOSED)
class NamedCollection(TypedDict):
    """A collection of masks by its name, the form of the platform's client."""

    name: str
    description: str
    order: Urn


@with_config(CLOSED)
class CollectionItem(TypedDict):
    """A member of a collection, the form of the platform's client."""

    collection: Urn
    item: Urn
    order: Urn


@with_config(CLOSED)
class _ModelClass(TypedDict):
    id: str
    name: str
    def_color: NotRequired[Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]]


@with_config(CLOSED)
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

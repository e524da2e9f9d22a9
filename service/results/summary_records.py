"""Typed models of the summary of an order or a job: what its aspect, and the result of a job, are made of."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from service.results.records import ConfidenceRecord, CoverRecord, ProvenanceRecord, RasterRecord, RegionRecord, Share

CLOSED = ConfigDict(extra="forbid")
"""What has no description is an error, and not left out."""

Urn = Annotated[str, Field(pattern="^(urn|https?|file):.+")]
File = Annotated[str, Field(pattern="^(urn|https?|file|data):.+")]
MaskSide = Annotated[int, Field(ge=1, description="of the mask, in pixels")]


class Measured(TypedDict):
    """What is told of a mask besides, where it was asked for or is known."""

    confidence: NotRequired[Annotated[ConfidenceRecord, Field(description="how sure the network is; shares, 0 to 1")]]
    roi: NotRequired[Annotated[RegionRecord, Field(description="cover inside the region of interest")]]
    flags: NotRequired[Annotated[list[str], Field(description="what the photograph may suffer from, such as blurred")]]
    raster: NotRequired[Annotated[RasterRecord, Field(description="where a raster lies; absent of a photograph")]]


class _OfImage(Measured):
    image: Annotated[Urn, Field(description="URN of the image")]
    name: Annotated[str, Field(description="name of the image")]
    width: MaskSide
    height: MaskSide
    cover: Annotated[list[CoverRecord], Field(description="of every class, by class index")]


_MASK: Final = "of the mask, whose values are class indices: a palette PNG; a GeoTIFF of a raster"
_POLYGONS: Final = "of the polygons of a raster, if they were asked for"


@with_config(CLOSED)
class Mask(_OfImage):
    """The result of an image that is stored."""

    mask: Annotated[Urn, Field(description=f"URN {_MASK}")]
    polygons: NotRequired[Annotated[Urn, Field(description=f"URN {_POLYGONS}")]]


@with_config(CLOSED)
class JobMask(_OfImage):
    """The result of an image of a job."""

    mask: Annotated[File, Field(description=f"URN {_MASK}; the HTTP server writes the file itself, as data URL")]
    polygons: NotRequired[Annotated[File, Field(description=f"URN, or data URL, {_POLYGONS}")]]


@with_config(CLOSED)
class ImageCounts(TypedDict):
    """How many images an order or a job had."""

    total: Annotated[int, Field(ge=0, description="images that were asked for")]
    succeeded: Annotated[int, Field(ge=0, description="images that have a mask")]
    failed: Annotated[int, Field(ge=0, description="images that have none")]


@with_config(CLOSED)
class Failure(TypedDict):
    """An image without a result."""

    image: Annotated[Urn, Field(description="URN of the image")]
    name: Annotated[str, Field(description="name of the image")]
    reason: Annotated[str, Field(description="what is wrong with it")]


@with_config(CLOSED)
class Products(TypedDict):
    """What is stored besides the masks."""

    cover: NotRequired[Annotated[Urn, Field(description="URN of the table of cover, CSV")]]
    report: NotRequired[Annotated[Urn, Field(description="URN of the report, HTML")]]
    collection: NotRequired[Annotated[Urn, Field(description="URN of the collection of masks")]]


@with_config(CLOSED)
class TotalShare(CoverRecord):
    """The share of a class over all images: in `cover` every pixel counts once."""

    mean_of_images: Annotated[Share, Field(description="mean of the images' covers, 0 to 1: every image counts once")]


@with_config(CLOSED)
class Summary(TypedDict):
    """What became of an order or a job; attached to it."""

    order: Annotated[Urn, Field(description="URN of the order or job")]
    model: Annotated[Urn, Field(description="URN of the model bundle")]
    status: Literal["done", "incomplete", "wrong_request"]
    shard: NotRequired[Annotated[str, Field(description="which share of the images was asked for")]]
    images: ImageCounts
    failures: Annotated[list[Failure], Field(description="images without a mask")]
    problems: Annotated[list[str], Field(description="what else was not done or not stored")]
    masks: list[Mask]
    cover: Annotated[list[TotalShare], Field(description="over all images, by two rules")]
    products: Products
    provenance: ProvenanceRecord | None

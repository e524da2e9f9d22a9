"""Typed models of what ledgers hold: others may have edited the file, so types and bounds are checked when it is read.

A record is a line of `--json`, as `service.results.pictures.result_record` writes it. What does not have its form is
refused by the name of its field, so that whoever shows it, adds it up or names files by it need not look again.
"""

from datetime import datetime
from functools import cache
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, NotRequired, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypeAliasType, TypedDict

from engine.system.validation import fault_of

MOST_IMAGES: Final = 10_000_000
"""Of a collection: ten times what one folder was tried with."""

_MOST_CLASSES = 1 << 16
_MOST_FACTS = 256
_LARGEST = 1 << 63
_LONGEST_SIDE_PX = 1 << 31
_CLOSED = ConfigDict(strict=True, extra="forbid")


class RecordError(ValueError):
    """A field, named with those that it lies in before it, is missing, of another type, or out of range."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def _without_nul(name: str) -> str:
    if not name or "\0" in name:
        raise ValueError("no file has this name")
    return name


def _relative(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("the name leads out of its folder")
    return name


def _absolute(name: str) -> str:
    if not PurePosixPath(name).is_absolute():
        raise ValueError("the path does not begin at the root")
    return name


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


FileName = Annotated[str, AfterValidator(_without_nul)]
RelativeName = Annotated[FileName, AfterValidator(_relative)]
AbsolutePath = Annotated[FileName, AfterValidator(_absolute)]
Position = Annotated[int, Field(ge=0, le=MOST_IMAGES)]
ByteCount = Annotated[int, Field(ge=0, le=_LARGEST)]
Nanoseconds = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Status = Literal["ok", "failed"]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1, le=_LONGEST_SIDE_PX)]

# Named, so that schemas name them, too, instead of writing them out each time.
_Scalar = TypeAliasType("_Scalar", str | bool | Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)] | None)
_Few = Field(max_length=_MOST_FACTS)
_Flat = TypeAliasType("_Flat", _Scalar | Annotated[list[_Scalar], _Few] | Annotated[dict[str, _Scalar], _Few])
_Nested = TypeAliasType("_Nested", _Scalar | Annotated[list[_Flat], _Few] | Annotated[dict[str, _Flat], _Few])
_Fact = TypeAliasType("_Fact", _Scalar | Annotated[list[_Nested], _Few] | Annotated[dict[str, _Nested], _Few])
Facts = Annotated[dict[str, _Fact], _Few]
"""Values by name, such as options: texts, finite numbers, truth values, nothing, and lists or mappings of those."""


@with_config(_CLOSED)
class ErrorRecord(TypedDict):
    """Why an image was not segmented."""

    type: str
    message: str


@with_config(_CLOSED)
class MaskRecord(TypedDict):
    """A mask, and where its most exact picture is."""

    path: str | None
    width: Side
    height: Side


_Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
_Corner = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
_Bounds = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
_Range = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
_Count = Annotated[int, Field(ge=0, le=_LARGEST)]


@with_config(_CLOSED)
class CoverRecord(TypedDict):
    """The cover of a class."""

    id: Annotated[str, Field(description="URN of the class; empty if the bundle has none")]
    name: Annotated[str, Field(description="name of the class")]
    color: Annotated[_Color, Field(description="red, green and blue in the masks, 0 to 255 each")]
    cover: Annotated[Share, Field(description="share of the pixels, 0 to 1")]
    area_m2: NotRequired[
        Annotated[FiniteFloat, Field(ge=0, description="area in square metres, if the raster tells it")]
    ]
    area_cm2: NotRequired[
        Annotated[FiniteFloat, Field(ge=0, description="area in square centimetres, if the region's size is known")]
    ]
    excluded: NotRequired[
        Annotated[Share, Field(description="share of all pixels of a class that is left out, whose cover is then 0")]
    ]


@with_config(_CLOSED)
class RasterRecord(TypedDict):
    """Where a raster lies."""

    crs: Annotated[str | None, Field(description="coordinate reference system, such as EPSG:32755; null if none")]
    bounds: Annotated[_Bounds | None, Field(description="smallest x, smallest y, largest x, largest y in that system")]
    valid_pixels: Annotated[_Count, Field(description="pixels that hold data, of which the covers are shares")]


@with_config(_CLOSED)
class ProvenanceRecord(TypedDict):
    """How a mask was made: the fields of `engine.Provenance`."""

    bundle: Annotated[str, Field(description="digest of the bundle")]
    model: Annotated[str, Field(description="digest of the model that ran")]
    runtime: Annotated[str, Field(description="onnx or paddle")]
    provider: Annotated[str, Field(description="execution provider that ran it")]
    precision: Annotated[str, Field(description="arithmetic of the heavy layers")]
    threads: Annotated[_Count, Field(description="threads of the runtime, all streams together")]
    fallbacks: Annotated[list[str], _Few, Field(description="every step that `auto` went down, in order")]
    versions: Annotated[dict[str, str], _Few, Field(description="versions of pseg and of libraries, by name")]
    profile: NotRequired[Annotated[str | None, Field(description="digest of the tuned profile, if one was used")]]
    streams: NotRequired[Annotated[_Count, Field(description="runs that may be under way at once, if several")]]
    tiling: NotRequired[Annotated[Facts | None, Field(description="how the image was cut into tiles and joined")]]
    averaging: NotRequired[Annotated[Facts | None, Field(description="windows, scales and flips that were averaged")]]
    measuring: NotRequired[Annotated[Facts | None, Field(description="what was done before the cover was taken")]]
    scale_range: NotRequired[Annotated[_Range | None, Field(description="values of pictures that became 0 and 255")]]
    derived_from: NotRequired[Annotated[str | None, Field(description="digest of the bundle that it was made from")]]


@with_config(_CLOSED)
class CaptureRecord(TypedDict):
    """When and where a photograph was taken."""

    taken_at: Annotated[str, AfterValidator(_time)] | None
    latitude_deg: Annotated[float, Field(ge=-90, le=90)] | None
    longitude_deg: Annotated[float, Field(ge=-180, le=180)] | None


@with_config(_CLOSED)
class SizeRecord(TypedDict):
    """The size at which the network saw an image."""

    width: Side
    height: Side


@with_config(_CLOSED)
class ConfidenceRecord(TypedDict):
    """How sure the network is of the classes of an image."""

    mean: Annotated[Share, Field(description="mean probability of the pixels' classes, 0 to 1")]
    unsure: Annotated[Share, Field(description="share of the pixels whose probability is below the limit, 0 to 1")]
    limit: Annotated[Share, Field(description="probability below which a pixel counts as unsure, 0 to 1")]


@with_config(_CLOSED)
class RegionRecord(TypedDict):
    """The cover inside a region of interest."""

    method: Annotated[Literal["frame", "polygon", "rectangle"], Field(description="how the region was found")]
    error: Annotated[str | None, Field(description="why there is no region; null if there is one")]
    polygon: Annotated[list[_Corner], Field(max_length=1000, description="its corners, x and y in pixels")]
    cover: Annotated[list[CoverRecord], Field(max_length=_MOST_CLASSES, description="of every class, inside it")]
    area_cm2: NotRequired[Annotated[FiniteFloat, Field(gt=0, description="its area in square centimetres, if known")]]
    quality: Annotated[Facts, Field(description="how well the region was found, by name")]


class _Common(TypedDict):
    image: str
    cover: Annotated[list[CoverRecord], Field(max_length=_MOST_CLASSES)]
    provenance: ProvenanceRecord
    timings_ms: Annotated[dict[str, Annotated[FiniteFloat, Field(ge=0)]], _Few]
    notes: NotRequired[Annotated[list[str], _Few]]
    flags: NotRequired[Annotated[list[str], _Few]]
    network_size: NotRequired[SizeRecord | None]
    confidence: NotRequired[ConfidenceRecord]
    roi: NotRequired[RegionRecord]


@with_config(_CLOSED)
class SegmentedRecord(_Common):
    """The record of an image that has a mask."""

    status: Literal["ok"]
    error: None
    mask: MaskRecord
    raster: NotRequired[RasterRecord]


@with_config(_CLOSED)
class FailedRecord(_Common):
    """The record of an image that has none."""

    status: Literal["failed"]
    error: ErrorRecord
    mask: None


Record = Annotated[SegmentedRecord | FailedRecord, Field(discriminator="status")]

_Model = TypeVar("_Model")


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:  # noqa: ANN401
    return TypeAdapter(model)


def checked(model: type[_Model], value: object) -> _Model:
    """Check a JSON value by a model of this file, and return it as it is: numbers stay as they were written.

    Raises RecordError where a field is missing, of another type, out of range, or unknown.
    """
    try:
        _adapter(model).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # What tells one kind of record from the other is no field.
        parts = [str(part) for part in first["loc"] if part not in ("ok", "failed")]
        raise RecordError((".".join(parts) or "the record")[:80], fault_of(first)) from None
    return cast("_Model", value)


def checked_record(value: object) -> dict[str, Any]:
    """Check a record as `--json` prints it; RecordError where it is something else."""
    return checked(cast("type[dict[str, Any]]", Record), value)

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


@with_config(_CLOSED)
class CoverRecord(TypedDict):
    """The cover of a class."""

    id: str
    name: str
    color: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
    cover: Share
    area_m2: NotRequired[Annotated[FiniteFloat, Field(ge=0)]]
    area_cm2: NotRequired[Annotated[FiniteFloat, Field(ge=0)]]
    excluded: NotRequired[Share]


@with_config(_CLOSED)
class RasterRecord(TypedDict):
    """Where a raster lies."""

    crs: str | None
    bounds: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)] | None
    valid_pixels: Annotated[int, Field(ge=0, le=_LARGEST)]


@with_config(_CLOSED)
class ProvenanceRecord(TypedDict):
    """How a mask was made: the fields of `engine.Provenance`."""

    bundle: str
    model: str
    runtime: str
    provider: str
    precision: str
    threads: Annotated[int, Field(ge=0, le=_LARGEST)]
    fallbacks: Annotated[list[str], _Few]
    versions: Annotated[dict[str, str], _Few]
    profile: NotRequired[str | None]
    streams: NotRequired[Annotated[int, Field(ge=0, le=_LARGEST)]]
    tiling: NotRequired[Facts | None]
    averaging: NotRequired[Facts | None]
    measuring: NotRequired[Facts | None]
    scale_range: NotRequired[Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | None]
    derived_from: NotRequired[str | None]


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

    mean: Share
    unsure: Share
    limit: Share


@with_config(_CLOSED)
class RegionRecord(TypedDict):
    """The cover inside a region of interest."""

    method: Literal["frame", "polygon", "rectangle"]
    error: str | None
    polygon: Annotated[list[Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]], Field(max_length=1000)]
    cover: Annotated[list[CoverRecord], Field(max_length=_MOST_CLASSES)]
    area_cm2: NotRequired[Annotated[FiniteFloat, Field(gt=0)]]
    quality: Facts


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

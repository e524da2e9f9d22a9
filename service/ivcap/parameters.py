"""The parameters of orders and jobs: what an order is about, and the options of a prediction."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from engine import Device, OneDnn, OptionError, Precision
from engine.cover.regions import names_file
from engine.declaration import Declaration, DeclaredOption, Options, assembled, declared_options
from engine.images import DEFAULT_MAX_PIXELS
from engine.rasters.options import POLYGON_FORMATS, TileOptions
from engine.runtimes.selection import candidates
from engine.system.text import legible
from engine.system.validation import fault_of, states_value
from service.collections.sharding import Shard, parse_shard
from service.request import PredictRequest, at_full_size

_Group = TypeVar("_Group", bound=Options)

_NAMES_IN_ORDERS = {"threads": "cpu_threads", "mkldnn": "enable_mkldnn", "auto_tune_shapes": "enable_auto_tune"}
"""Where users of the service know an option by another name than those of the command line."""
_DEFAULTS_IN_ORDERS: Mapping[str, object] = {
    "device": Device.CPU,
    "precision": Precision.FP32,
    "threads": 10,
    "batch_size": 1,
}
# What orders and jobs cannot be asked for has no place in what is told of their parameters.
_TEXTS_IN_ORDERS: Mapping[str, tuple[str, str]] = {
    "tile": ("max-pixels", f"{DEFAULT_MAX_PIXELS // 10**6} million pixels"),
    "roi": ("polygon:FILE with a JSON list of corners, or polygon:", "polygon:"),
}
_NOT_IN_ORDERS = frozenset({"streams", "max_pixels", "save", "max_memory", "overlay_legend"})


def _options_of_orders(group: type[Options]) -> Iterator[DeclaredOption]:
    return (each for each in declared_options(group) if each.name not in _NOT_IN_ORDERS)


def _parameter(declared: DeclaredOption) -> tuple[Any, Any]:
    """The type and the field of an option among the parameters of orders and jobs."""
    told, kind, default = declared.declaration, declared.kind, declared.default
    text = told.text
    if declared.name == "mkldnn":
        # Users of the service switch it on, or leave it to the runtime.
        return bool, Field(
            default=False, description="Use oneDNN, or fail where that cannot be. If false, the runtime decides."
        )
    if declared.name == "vectors":
        # Files that the command line could name have no place here.
        return Literal["none", *POLYGON_FORMATS], Field(
            default="none", description="Publish the classes of rasters as polygons, too: as GeoPackage or GeoJSON."
        )
    if declared.name in _TEXTS_IN_ORDERS:
        text = text.replace(*_TEXTS_IN_ORDERS[declared.name])
    if declared.name in _DEFAULTS_IN_ORDERS:
        default, text = _DEFAULTS_IN_ORDERS[declared.name], text.split(" By default")[0]
        kind = str if told.parse else next(each for each in get_args(kind) if each is not type(None))
    elif told.none is not None:
        kind, default = Literal[declared.choices], told.none
    elif told.parse is not None:
        kind, default = str | None, None
    limits = told if {int, float} & {kind, *get_args(kind)} else Declaration("")
    return kind, Field(
        default=default,
        description=text,
        ge=limits.minimum,
        le=limits.maximum,
        gt=limits.above,
        lt=limits.below,
        pattern=told.pattern,
        json_schema_extra=None if limits.excluded is None else {"not": {"const": int(limits.excluded)}},
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class _Subject(BaseModel):
    """What an order or a job is about, and what it publishes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_dashed, populate_by_name=True, defer_build=True
    )

    model: str = Field(
        description="URN of the artifact that holds the model bundle: an archive with a model that PaddleSeg exported."
    )
    image: str | None = Field(
        default=None,
        description="URN of the artifact that holds the image, if there is only one (JPEG, PNG, TIFF, WebP and "
        "others). Give either image or images.",
    )
    images: str | list[str] | None = Field(
        default=None,
        description="URN of a collection of images, or a list of the URNs of images. Give either image or images.",
    )
    benchmark: bool = Field(
        default=False, description="Publish how long each step took, in milliseconds: mean, median and 95th percentile."
    )
    model_name: str | None = Field(
        default=None, description="Name of the model in the timings. If left out, the name of the bundle."
    )
    report: bool = Field(
        default=False, description="Also publish a report for people: an HTML page with images, masks and cover."
    )
    shard: str | None = Field(
        default=None,
        json_schema_extra={"pattern": "^[1-9][0-9]*/[1-9][0-9]*$"},
        description="I/N segments the I-th of N equal shares of the images, so that N jobs or orders share a "
        "collection. If left out, all images. It does not go with image.",
    )


_fields: Any = {
    _NAMES_IN_ORDERS.get(each.name, each.name): _parameter(each)
    for group in (PredictRequest, TileOptions)
    for each in _options_of_orders(group)
}
if TYPE_CHECKING:
    _Parameters = _Subject
else:
    # The options of a prediction as parameters.
    _Parameters = create_model("Parameters", __base__=_Subject, **_fields)


class ServiceRequest(_Parameters):
    """The parameters of an order or a job, under the names that users of the service know.

    Besides what an order is about, each option of `PredictRequest` and `TileOptions` is one of them.
    """

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.image is None) == (self.images is None):
            raise ValueError("give either image or images, and not both")
        if self.shard is not None:
            parse_shard(self.shard)
            if self.image is not None:
                raise ValueError("shard parts images: it does not go with a single image")
        return self

    def share(self) -> Shard | None:
        """Read the shard: which share of the images is done; None: all."""
        return None if self.shard is None else parse_shard(self.shard)

    def predict_request(self) -> PredictRequest:
        """Turn the parameters into those of a prediction.

        OptionError names a wrong one as users of the service know it.
        """
        return at_full_size(self._assembled(PredictRequest), self.tile_options())

    def tile_options(self) -> TileOptions:
        """Turn the parameters into what is asked of tiles and rasters; errors as of `predict_request`."""
        return self._assembled(TileOptions)

    def _assembled(self, group: type[_Group]) -> _Group:
        given = {
            each.name: getattr(self, _NAMES_IN_ORDERS.get(each.name, each.name)) for each in _options_of_orders(group)
        }
        if given.get("roi") is not None and names_file(given["roi"]):
            raise OptionError("an order reads no files: give the corners, as polygon:X,Y X,Y X,Y", option="roi")
        if "mkldnn" in given:
            given["mkldnn"] = OneDnn.ON if given["mkldnn"] else OneDnn.AUTO
        if given.get("vectors") == "none":
            given["vectors"] = None
        try:
            return assembled(group, given)
        except OptionError as error:
            known = _NAMES_IN_ORDERS.get(error.option or "", error.option)
            raise OptionError(error.problem, option=known) from error


def build_service_request(**parameters: object) -> ServiceRequest:
    """Validate the parameters of an order or a job, the fields of `ServiceRequest`.

    OptionError names what is wrong with what is allowed, or which parameters contradict each other.
    """
    try:
        request = ServiceRequest.model_validate(parameters)
    except ValidationError as error:
        raise OptionError(problems_of(error)) from error
    # What no runtime can honour is known before model or image are fetched.
    candidates(request.predict_request().network)
    return request


_SHOWN = 80


def problems_of(error: ValidationError) -> str:
    """Say what is wrong with the parameters of an order or a job, a line each."""
    return "\n".join(_problem(each) for each in error.errors())


def _problem(error: Mapping[str, Any]) -> str:
    """What is wrong with a parameter, in one line and in the words of the command line."""
    if not error["loc"]:
        return fault_of(error)
    name, given = _dashed(str(error["loc"][0])), legible(repr(error["input"]), _SHOWN)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = [_dashed(each) for each in ServiceRequest.model_fields]
        similar = get_close_matches(name, known, 1)
        return f"{legible(name, _SHOWN)}: unknown parameter" + (f"; did you mean {similar[0]}?" if similar else "")
    if kind in {"literal_error", "enum"}:
        return f"{name}: {given} is none of {context['expected'].replace(' or ', ', ')}"
    option = _option_named(name)
    problem = None if option is None else option.declaration.problem(error["input"])
    if problem is not None:
        return f"{name}: {problem}"
    value = f", but it is {given}" if states_value(error) else ""
    return f"{name}: {fault_of(error)}{value}"


def _option_named(parameter: str) -> DeclaredOption | None:
    options = (each for group in (PredictRequest, TileOptions) for each in _options_of_orders(group))
    return next((each for each in options if _dashed(_NAMES_IN_ORDERS.get(each.name, each.name)) == parameter), None)

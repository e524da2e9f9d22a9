"""The parameters of a prediction, validated once for every entry point."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from engine import Device, OneDnn, OptionError, Precision, RuntimeRequest
from engine.cover.options import CoverOptions
from engine.cover.regions import names_file
from engine.declaration import Declaration, DeclaredOption, Options, assembled, declared_options, option
from engine.images import DEFAULT_MAX_IMG_SIZE, DEFAULT_MAX_PIXELS, ImageLimits
from engine.rasters.options import POLYGON_FORMATS, TileOptions
from engine.runtimes.selection import candidates
from engine.segmentation.averaging import Averaging
from engine.segmentation.palette import OverlayOptions
from engine.segmentation.prediction import MaskOptions
from engine.system.files import make_folder, remove_abandoned_parts
from engine.system.text import legible
from engine.system.validation import fault_of, states_value
from service.collections.sharding import Shard, parse_shard

SaveKind = Literal["pseudo", "mask", "overlay", "confidence"]
SAVE_KINDS: tuple[SaveKind, ...] = get_args(SaveKind)
_Group = TypeVar("_Group", bound=Options)


def save_kinds(text: str) -> frozenset[SaveKind]:
    """Read which pictures are written: kinds with commas between, or `none`; raises ValueError for another kind.

    >>> sorted(save_kinds("mask,pseudo")), save_kinds("none")
    (['mask', 'pseudo'], frozenset())
    """
    named = [] if text == "none" else text.split(",")
    found = frozenset[SaveKind](kind for kind in SAVE_KINDS if kind in named)
    if len(found) < len(set(named)):
        raise ValueError(f"give any of {', '.join(SAVE_KINDS)} with commas between, or none")
    return found


@dataclass(frozen=True, slots=True)
class PredictRequest(Options):
    """What a user asks of a prediction."""

    title: ClassVar[str] = "Running and saving"

    network: RuntimeRequest = RuntimeRequest()
    images: ImageLimits = ImageLimits()
    masks: MaskOptions = MaskOptions()
    averaging: Averaging = Averaging()
    cover: CoverOptions = CoverOptions()
    overlays: OverlayOptions = OverlayOptions()
    batch_size: int | None = option(
        None,
        "The most images that may share one run of the network; more take more memory. By default the tuned "
        "profile's number, or 1.",
        minimum=1,
    )
    auto_tune_shapes: bool = option(
        False,
        "First collect the shapes that TensorRT needs from the images, and the table of calibration that Paddle "
        "needs for int8. It needs use-trt.",
    )
    save: frozenset[SaveKind] = option(
        frozenset[SaveKind]({"pseudo"}),
        "Pictures to write: any of pseudo,mask,overlay,confidence with commas between, or none. By default pseudo.",
        parse=save_kinds,
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.auto_tune_shapes and not self.network.wants_tensorrt:
            raise OptionError("it collects shapes for TensorRT, and needs use-trt", option="auto_tune_shapes")


def at_full_size(request: PredictRequest, tiles: TileOptions) -> PredictRequest:
    """Fit a request to tiles, which are cut from images at their full size.

    It stays as it is where not every image is cut. Raises OptionError where the two contradict each other.
    """
    if not tiles.tile:
        return request
    if request.averaging.crop_size is not None:
        raise OptionError(
            "crop-size is PaddleSeg's way to cut an image that fits into memory, tile another for any: give one"
        )
    if request.images.max_img_size not in {DEFAULT_MAX_IMG_SIZE, -1}:
        raise OptionError("tile works at full size: leave max-img-size out, or tile")
    return replace(request, images=replace(request.images, max_img_size=-1))


def build_request(**parameters: object) -> PredictRequest:
    """Make a request of options of `PredictRequest` and the groups in it, by the names that users know.

    Raises OptionError for a wrong parameter or a contradiction, TypeError for an option of another name.
    """
    unknown = parameters.keys() - {each.name for each in declared_options(PredictRequest)}
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    return assembled(PredictRequest, parameters)


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


def require_writable(folder: Path, *, within: Path | None = None) -> None:
    """Make the output folder, prove that files can be written there, and remove what killed runs left half-written.

    `within` is the output folder that it is a sub-folder of: no folder between the two may be a link, nor may it
    itself. Without it, the folder is the one that the user named, and may be a link. Raises OptionError where it cannot
    be made or written to, or lies behind a link.
    """
    try:
        if within is None:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            make_folder(folder, within=within)
        # A name of its own: another run may prove the same folder at the same moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_abandoned_parts(folder)
    except OSError as error:
        raise OptionError(f"folder {folder} cannot be written to ({error}): name another") from error


THE_BUNDLE = "the bundle itself, which is never changed in place"
"""What `require_apart` calls a bundle."""


def require_apart(
    written: Iterable[tuple[str, Path]], kept: Mapping[str, Iterable[Path]], *, advice: str = "name another file"
) -> None:
    """Refuse a command that would put a file in the place of one that it reads, or two in one place.

    Two names mean one file if it is the same file, also through links and hard links, or if they name it in the same
    folder with no other difference than that of letter case. `written` and `kept` name files in words, which the
    OptionError repeats; of `THE_BUNDLE`, if it is a folder, everything in it is kept.
    """
    places: dict[_Identity, tuple[str, Path]] = {}
    folders: dict[Path, _Identity] = {}
    for what, path in written:
        other, _ = places.setdefault(_name_of(path, folders), (what, path))
        if other != what:
            raise OptionError(f"{path} is what both {other} and {what} would be written to: {advice}")
    # What two names lead to may be one file: each name is replaced, and the file stays. Where it is kept it must stay.
    places |= {file: place for place in places.values() if (file := _file_of(place[1])) is not None}
    if not places:
        return
    for what, paths in kept.items():
        for path in paths:
            if found := places.get(_file_of(path)) or places.get(_name_of(path, folders)):
                raise OptionError(f"{found[1]} is {what}, and {found[0]} would take its place: {advice}")
            if what == THE_BUNDLE and path.is_dir():
                _require_outside(path, what, places.values(), advice)


def written_by(options: Mapping[str, Path | None]) -> list[tuple[str, Path]]:
    """Name the files that options of a command name, for `require_apart`; None: not given.

    >>> written_by({"--csv": Path("cover.csv"), "--report": None})
    [('what --csv writes', PosixPath('cover.csv'))]
    """
    return [(f"what {option} writes", path) for option, path in options.items() if path is not None]


_Identity = tuple[object, ...] | None


def _file_of(path: Path) -> _Identity:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _name_of(path: Path, folders: dict[Path, _Identity]) -> _Identity:
    """A name also where there is no file yet; of a link its own, which would be replaced."""
    folder = path.parent
    if folder not in folders:
        folders[folder] = _file_of(folder) or (os.path.realpath(folder).casefold(),)
    return folders[folder], path.name.casefold()


def _require_outside(folder: Path, what: str, places: Iterable[tuple[str, Path]], advice: str) -> None:
    for writing, place in places:
        above = Path(os.path.realpath(place.parent))
        if any(each.exists() and each.samefile(folder) for each in (above, *above.parents)):
            raise OptionError(f"{place} lies in {what}, and {writing} would be put there: {advice}")


def require_writable_file(path: Path) -> None:
    """Prove that a file can be written, before there is work to lose; its folder is made if absent.

    Raises OptionError where it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder: name a file in it")
    require_writable(path.parent)

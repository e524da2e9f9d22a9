"""The parameters of a prediction, validated once for every front door."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine import Device, MaskSize, OneDnn, OptionError, Precision, Provider, RuntimeName, RuntimeRequest
from engine.images import DEFAULT_MAX_PIXELS
from engine.runtimes.selection import candidates
from engine.system.files import make_folder, remove_abandoned_parts
from service.collections.sharding import Shard, parse_shard

RuntimeChoice = Literal["auto", "onnx", "paddle"]
ProviderChoice = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
SaveKind = Literal["pseudo", "mask", "overlay"]
SAVE_KINDS: tuple[SaveKind, ...] = ("pseudo", "mask", "overlay")
DEFAULT_MAX_IMG_SIZE = 1_000_000


class PredictRequest(BaseModel):
    """What a user asks of a prediction.

    `auto` leaves a choice to the engine; anything else is honoured or refused. Where nothing is said of precision and
    batch size (None), a tuned profile that is in force decides; otherwise they are FP32 and 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: RuntimeChoice = "auto"
    provider: ProviderChoice = "auto"
    device: Device | None = None
    precision: Precision | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    streams: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    max_img_size: int = DEFAULT_MAX_IMG_SIZE
    max_pixels: Annotated[int, Field(ge=1)] = DEFAULT_MAX_PIXELS
    mask_size: MaskSize = MaskSize.ORIGINAL
    save: frozenset[SaveKind] = frozenset({"pseudo"})
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    mkldnn: OneDnn = OneDnn.AUTO
    use_trt: bool = False
    min_subgraph_size: Annotated[int, Field(ge=1)] = 3
    auto_tune_shapes: bool = False
    print_detail: bool = False
    with_argmax: bool = False

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_img_size < 1 and self.max_img_size != -1:
            raise ValueError(f"max-img-size is {self.max_img_size}: give a number of pixels, or -1 for no limit")
        if self.auto_tune_shapes and not self.use_trt and self.provider != "tensorrt":
            raise ValueError("auto-tune-shapes collects shapes for TensorRT: it goes with use-trt")
        return self

    def leaves_to_profile(self) -> bool:
        """Tell whether a tuned profile may decide.

        Returns:
            False if runtime, provider, device, precision, threads, streams, oneDNN or TensorRT were named.
        """
        named = (self.device, self.precision, self.threads, self.streams)
        left = self.runtime == self.provider == "auto" and self.mkldnn is OneDnn.AUTO and not self.use_trt
        return left and all(each is None for each in named)

    def runtime_request(self) -> RuntimeRequest:
        """Turn the parameters into what the engine takes.

        Returns:
            The request.

        Raises:
            OptionError: the parameters contradict each other.
        """
        return RuntimeRequest(
            runtime=None if self.runtime == "auto" else RuntimeName(self.runtime),
            provider=None if self.provider == "auto" else Provider(self.provider),
            device=self.device,
            precision=self.precision or Precision.FP32,
            threads=self.threads,
            streams=self.streams,
            onednn=self.mkldnn,
            tensorrt=self.use_trt or self.provider == "tensorrt",
            min_subgraph_size=self.min_subgraph_size,
            verbose=self.print_detail,
        )


def build_request(**parameters: object) -> PredictRequest:
    """Validate parameters.

    Args:
        **parameters: fields of `PredictRequest`.

    Returns:
        The request.

    Raises:
        OptionError: a parameter is wrong, named with what is allowed.
    """
    return _validated(PredictRequest, parameters)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class ServiceRequest(BaseModel):
    """The parameters of an order or a job, under the names that users of the service know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_dashed, populate_by_name=True)

    model: str = Field(
        description="URN of the artifact that holds the model bundle: an archive of a model that PaddleSeg exported."
    )
    image: str | None = Field(
        default=None,
        description="URN of the artifact that holds the only image (JPEG, PNG, TIFF, WebP and others). Give either "
        "image or images.",
    )
    images: str | list[str] | None = Field(
        default=None,
        description="URN of a collection of images, or a list of the URNs of images. Give either image or images.",
    )
    max_img_size: int = Field(
        default=DEFAULT_MAX_IMG_SIZE,
        ge=-1,
        json_schema_extra={"not": {"const": 0}},
        description="Images with more pixels (width times height) are shrunk to this many for the network; -1 never "
        "shrinks.",
    )
    batch_size: int = Field(
        default=1,
        ge=1,
        description="The most images that may share one run of the network. More take more memory.",
    )
    device: Device = Field(
        default=Device.CPU, description="What runs the network: the CPU, or a GPU if the service has one."
    )
    use_trt: bool = Field(default=False, description="Run the network through TensorRT, which needs a GPU.")
    precision: Precision = Field(
        default=Precision.FP32,
        description="Number format of the network. fp16 needs a GPU, int8 a bundle that holds an INT8 model.",
    )
    min_subgraph_size: int = Field(
        default=3, ge=1, description="The fewest operators that TensorRT takes over at once."
    )
    enable_auto_tune: bool = Field(
        default=False,
        description="First collect the shapes that TensorRT needs from the images, and the table of calibration that "
        "Paddle needs for int8. It goes with use-trt.",
    )
    cpu_threads: int = Field(
        default=10, ge=1, description="The most CPU threads. Never more are used than the service has cores."
    )
    enable_mkldnn: bool = Field(
        default=False, description="Use oneDNN, or fail where that cannot be. If false, the runtime decides."
    )
    benchmark: bool = Field(
        default=False, description="Publish how long each step took, in milliseconds: mean, median and 95th percentile."
    )
    model_name: str | None = Field(
        default=None, description="Name of the model in the timings. If left out, the name of the bundle."
    )
    with_argmax: bool = Field(
        default=False,
        description="Give each pixel its strongest class, even if the bundle says that its classes overlap.",
    )
    print_detail: bool = Field(default=False, description="Let the library that runs the network write its own log.")
    runtime: RuntimeChoice = Field(
        default="auto",
        description="Which library runs the network: ONNX Runtime or Paddle. auto takes the first that runs the model.",
    )
    provider: ProviderChoice = Field(
        default="auto", description="Execution provider of ONNX Runtime. auto takes the one for the device."
    )
    threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Probability above which a pixel belongs to a class, for models with one probability per class. "
        "Other models do not use it.",
    )
    mask_size: MaskSize = Field(
        default=MaskSize.ORIGINAL,
        description="Size of the masks: that of the image (original), or that after max-img-size (inference).",
    )
    report: bool = Field(
        default=False, description="Publish a report for people: an HTML page of images, masks and cover."
    )
    shard: str | None = Field(
        default=None,
        json_schema_extra={"pattern": "^[1-9][0-9]*/[1-9][0-9]*$"},
        description="I/N segments the I-th of N equal shares of the images, so that N jobs or orders share a "
        "collection. If left out, all images. It does not go with image.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.image is None) == (self.images is None):
            raise ValueError("give either image or images, and not both")
        if self.enable_auto_tune and not self.use_trt and self.provider != "tensorrt":
            raise ValueError("enable-auto-tune collects shapes for TensorRT: it goes with use-trt")
        if self.shard is not None:
            parse_shard(self.shard)
            if self.image is not None:
                raise ValueError("shard parts images: it does not go with a single image")
        return self

    def share(self) -> Shard | None:
        """Read the shard.

        Returns:
            Which share of the images is done; None: all.
        """
        return None if self.shard is None else parse_shard(self.shard)

    def predict_request(self) -> PredictRequest:
        """Turn the parameters into those of a prediction.

        Returns:
            The request.

        Raises:
            OptionError: a parameter is wrong, named with what is allowed.
        """
        return build_request(
            runtime=self.runtime,
            provider=self.provider,
            device=self.device,
            precision=self.precision,
            threads=self.cpu_threads,
            batch_size=self.batch_size,
            max_img_size=self.max_img_size,
            mask_size=self.mask_size,
            threshold=self.threshold,
            mkldnn=OneDnn.ON if self.enable_mkldnn else OneDnn.AUTO,
            use_trt=self.use_trt,
            min_subgraph_size=self.min_subgraph_size,
            auto_tune_shapes=self.enable_auto_tune,
            print_detail=self.print_detail,
            with_argmax=self.with_argmax,
        )


def build_service_request(**parameters: object) -> ServiceRequest:
    """Validate the parameters of an order or a job.

    Args:
        **parameters: fields of `ServiceRequest`.

    Returns:
        The request.

    Raises:
        OptionError: a parameter is wrong, named with what is allowed, or the parameters contradict each other.
    """
    request = _validated(ServiceRequest, parameters)
    # What no runtime can honour is known before model or image are fetched.
    candidates(request.predict_request().runtime_request())
    return request


_Parameters = TypeVar("_Parameters", bound=BaseModel)


def _validated(kind: type[_Parameters], parameters: Mapping[str, object]) -> _Parameters:
    try:
        return kind.model_validate(parameters)
    except ValidationError as error:
        problems = [
            f"{'-'.join(str(part) for part in each['loc'])}: {each['msg'].removeprefix('Value error, ')}".removeprefix(
                ": "
            ).replace("_", "-")
            for each in error.errors()
        ]
        raise OptionError("; ".join(problems)) from error


def require_writable(folder: Path, *, within: Path | None = None) -> None:
    """Make the output folder, prove that files can be written there, and remove what killed runs left half-written.

    Args:
        folder: made if absent, with its parents.
        within: the output folder that it is a sub-folder of: no folder between the two may be a link, nor may it
            itself. None: it is the one that the user named, and may be a link.

    Raises:
        OptionError: it cannot be made or written to, or lies behind a link.
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
    folder with no other difference than that of letter case.

    Args:
        written: what is written, in words, and where.
        kept: what is not to be replaced, in words, and the files; of `THE_BUNDLE`, if it is a folder, everything in it.
        advice: what to do instead.

    Raises:
        OptionError: a file would be replaced, or two would be written to one place; it names both.
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
    """Name the files that options of a command name, for `require_apart`.

    >>> written_by({"--csv": Path("cover.csv"), "--report": None})
    [('what --csv writes', PosixPath('cover.csv'))]

    Args:
        options: option to file; None: not given.

    Returns:
        Words and files.
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
    """Prove that a file can be written, before there is work to lose.

    Args:
        path: the file; its folder is made if absent.

    Raises:
        OptionError: it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder: name a file in it")
    require_writable(path.parent)

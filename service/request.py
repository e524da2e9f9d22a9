"""What may be asked of a prediction, checked once for every entry point, and where its results may be written."""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

from engine import OptionError, RuntimeRequest
from engine.cover.options import CoverOptions
from engine.declaration import Options, assembled, declared_options, option
from engine.images import DEFAULT_MAX_IMG_SIZE, ImageLimits
from engine.rasters.options import TileOptions
from engine.segmentation.averaging import Averaging
from engine.segmentation.palette import OverlayOptions
from engine.segmentation.prediction import MaskOptions
from engine.system.files import make_output_folder, remove_abandoned_parts

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")

SaveKind = Literal["pseudo", "mask", "overlay", "confidence"]
SAVE_KINDS: tuple[SaveKind, ...] = get_args(SaveKind)


def save_kinds(text: str) -> frozenset[SaveKind]:
    """Read which pictures are written: kinds separated by commas, or `none`; raises ValueError for another kind.

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
        "Maximum number of images that share one run of the network; more images need more memory. By default the "
        "tuned "
        "profile's number, or 1.",
        minimum=1,
    )
    auto_tune_shapes: bool = option(
        False,
        "First collect the shapes that TensorRT needs from the images, and the calibration table that Paddle needs "
        "for int8. It needs use-trt.",
    )
    save: frozenset[SaveKind] = option(
        frozenset[SaveKind]({"pseudo"}),
        "Pictures to write: any of pseudo, mask, overlay and confidence, separated by commas, or none. By default "
        "pseudo.",
        parse=save_kinds,
    )

    @property
    def wants_confidence(self) -> bool:
        return "confidence" in self.save or self.cover.confidence.unsure is not None

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


def require_writable(folder: Path, *, within: Path | None = None) -> None:
    """Make the output folder, prove that files can be written there, and remove what killed runs left half-written.

    `within` is the output folder that it is a sub-folder of: no folder between the two may be a link, nor may it
    itself. Without it, the folder is the one that the user named, and may be a link. Raises OptionError where it cannot
    be made or written to, lies behind a link, or is an address such as `s3://reef/masks`.
    """
    _require_no_address(folder)
    try:
        make_output_folder(folder, within=within)
        # A name of its own: another run may prove the same folder at the same moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_abandoned_parts(folder)
    except OSError as error:
        raise OptionError(f"folder {folder} cannot be written to ({error}): name another") from error


def _require_no_address(path: Path) -> None:
    """Refuse `s3://reef/masks`, which would otherwise become a folder `s3:` here."""
    scheme, *below = path.parts or ("",)
    if below and _SCHEME.fullmatch(scheme) and not os.path.lexists(scheme):
        raise OptionError(
            f"{scheme}//{'/'.join(below)} is an address, and results are written to folders of this machine: name a "
            "path here, and copy the files from there (`pseg scale --out` alone writes to object stores)"
        )


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

    Raises OptionError where it is a folder, an address, a device, a pipe or a socket, or its folder cannot be made or
    written to.
    """
    _require_no_address(path)
    if path.is_dir():
        raise OptionError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise OptionError(f"{path} is a device, a pipe or a socket, which no file may replace: name a file")
    require_writable(path.parent)

"""The files of a bundle, written: ``deploy.yaml``, ``meta.json`` and the side file; whole, proven, in one step."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from converters.exporting.packing import ARCHIVE_ENDINGS, pack, require_bundle_name
from converters.parity import MOST_GENERATED_PIXELS, generated_images
from engine.bundle.bundle import DEPLOY_NAMES, Bundle, Color, class_urn, read_bundle
from engine.errors import BundleError, ConversionError, ImageError, InferenceError, ModelLoadError
from engine.options import PaddleOptions
from engine.runtimes.programs.last_operator import LastOperator, last_operator
from engine.segmentation.opening import open_runtime, require_available
from engine.segmentation.postprocess import OutputKind, class_count
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import cleanup_of
from engine.system.files import scratch_folder, write_atomically
from engine.system.machine.cores import usable_cores
from engine.system.settings_files import read_json, read_yaml

DEPLOY, META, WEIGHTS = "deploy.yaml", "meta.json", "model.pdiparams"
FREE_AXES = (None, 3, None, None)
"""Input shape, NCHW, of a network that takes any number of pictures of any size."""
MODEL_SCHEMA = "urn:ibenthos:schema:paddle.seg.model.1"
ARTIFACT_PLACEHOLDER = "@@ARTIFACT@@"
"""Stands in the side file for the URN that the archive gets when it is uploaded."""

EVALUATION = "evaluation"
"""Says in ``meta.json`` how PaddleSeg's evaluation sees each picture several times, if it does."""
_ORIGIN = "derived_from"
_PICTURE_SIDE = 256


@dataclass(frozen=True, slots=True)
class ExportClass:
    """A class of the network, in the order of its output channels."""

    name: str
    color: Color | None = None  # ``def_color``, RGB, 0-255; None leaves it out, and the reader's palette decides
    identifier: str | None = None  # takes the place of the one that is made from the name

    @property
    def urn(self) -> str:
        """The identifier in ``meta.json``; it ends with a colon if the name gives none.

        >>> ExportClass("Other bottom").urn
        'urn:ibenthos:segmentation:class:other-bottom'
        """
        return self.identifier or class_urn(self.name)


def numbered_classes(count: int) -> tuple[ExportClass, ...]:
    """Name classes of which only the number is known: ``class-0``, ``class-1`` and so on, without colours."""
    return tuple(ExportClass(f"class-{index}") for index in range(count))


def require_distinct(classes: Sequence[ExportClass], *, where: str) -> None:
    """Make sure that every class has an identifier of its own, else raise ConversionError."""
    names: dict[str, str] = {}
    for entry in classes:
        if entry.urn.endswith(":"):
            raise ConversionError(
                f"{where}: class {entry.name!r}: an identifier is made of the letters a-z and digits of the name, and "
                "this one has none: rename the class, or give it an id"
            )
        if entry.urn in names:
            raise ConversionError(
                f"{where}: classes {names[entry.urn]!r} and {entry.name!r} both get the identifier {entry.urn}: "
                "rename one of them"
            )
        names[entry.urn] = entry.name


@dataclass(frozen=True, slots=True)
class Description:
    """What ``meta.json`` says of a network."""

    name: str
    classes: Sequence[ExportClass]  # in the order of the output channels
    # of the model's origin, as ``model``; its ``license`` is stated as that of the bundle
    model_record: Mapping[str, object] = field(default_factory=dict[str, object])
    multilabel: bool = False  # whether a pixel may belong to several classes
    evaluation: Mapping[str, object] = field(default_factory=dict[str, object])  # as `Averaging.record` says it


def meta_record(description: Description, input_shape: Sequence[int | None]) -> dict[str, Any]:
    """Make the content of ``meta.json``; None is a free axis of the NCHW shape."""
    origin = dict(description.model_record)
    stated = {"license": origin.pop("license")} if "license" in origin else {}
    entries: list[dict[str, object]] = []
    for entry in description.classes:
        color = {} if entry.color is None else {"def_color": list(entry.color)}
        entries.append({"id": entry.urn, "name": entry.name, **color})
    return {
        "$schema": MODEL_SCHEMA,
        "name": description.name,
        **stated,
        "model": origin,
        "classes": entries,
        "shape": list(input_shape),
        **({"multilabel": True} if description.multilabel else {}),
        **({EVALUATION: dict(description.evaluation)} if description.evaluation else {}),
    }


def meta_text(meta: Mapping[str, object]) -> str:
    """Write ``meta.json``."""
    return json.dumps(meta, indent=2) + "\n"


def settings_file(bundle: Bundle) -> Path:
    """Find the file of a bundle that holds the ``Deploy`` block."""
    return next(bundle.folder / name for name in DEPLOY_NAMES if (bundle.folder / name).is_file())


def read_settings(bundle: Bundle) -> dict[str, Any]:
    """Read the whole file of which the engine has read and checked the ``Deploy`` block."""
    return cast("dict[str, Any]", read_yaml(settings_file(bundle)))


def deploy_text(blocks: Mapping[str, object]) -> str:
    """Write ``deploy.yaml``, ``Deploy`` and what else stands beside it, in the order given."""
    return yaml.safe_dump(dict(blocks), sort_keys=False, default_flow_style=None)


def require_free(destination: Path) -> None:
    """Make sure that a bundle may be written to a destination: an archive is replaced, a folder must be new or empty.

    It is an archive if its name ends in ``.tgz`` or ``.tar.gz``. ConversionError: it is a folder with files in it, or a
    folder where an archive should be. OptionError: it is called like another kind of file.
    """
    require_bundle_name(destination)
    if _is_archive(destination):
        if destination.is_dir():
            raise ConversionError(f"{destination}: is a folder, though its name is an archive's: name another")
    elif destination.exists() and (destination.is_file() or any(destination.iterdir())):
        raise ConversionError(
            f"{destination}: not an empty folder; remove it or name an archive ({ARCHIVE_ENDINGS[0]})"
        )


def side_file_of(destination: Path) -> Path:
    """Say where the side file of a bundle lies.

    >>> side_file_of(Path("out/seagrass.tar.gz")).as_posix()
    'out/seagrass-meta.json'
    """
    ending = next((each for each in ARCHIVE_ENDINGS if destination.name.endswith(each)), "")
    return destination.with_name(f"{destination.name.removesuffix(ending)}-meta.json")


@contextmanager
def bundle_in_one_step(destination: Path, *, side_file: bool = False) -> Generator[Path]:
    """Yield an empty folder, which becomes the bundle when the block ends without an error; else all is as it was.

    The destination is what `require_free` allows, with the same errors; ConversionError, too, if it cannot be written.
    `side_file` writes ``<stem>-meta.json`` beside it: ``meta.json`` with a place for the artifact's URN.
    """
    require_free(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Work lies beside the destination: only within one file system is a rename a single step.
        with scratch_folder("export", destination.parent) as staging:
            finished = folder = staging / "bundle"
            folder.mkdir()
            yield folder
            if _is_archive(destination):
                finished = staging / destination.name
                pack({path.name: path for path in folder.iterdir()}, finished)
            with _side_file(folder, side_file_of(destination)) if side_file else nullcontext():
                finished.replace(destination)
    except OSError as error:
        raise ConversionError(f"{destination}: cannot be written ({error})") from error


@contextmanager
def _side_file(folder: Path, path: Path) -> Generator[None]:
    """Write the side file, so that no bundle appears without it; where the block fails, it is what it was before."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    before = path.read_bytes() if path.is_file() else None
    write_atomically(path, meta_text({**meta, "artifact": ARTIFACT_PLACEHOLDER}).encode())
    try:
        yield
    except OSError:
        if before is None:
            path.unlink()
        else:
            write_atomically(path, before)
        raise


def require_runs(folder: Path, destination: Path) -> int | None:
    """Open the finished files as a bundle and run its program once on a generated picture, through Paddle.

    Returns the number of classes that the network tells apart; None if it returns a mask, which does not say.
    ConversionError: the files are no bundle that the engine takes, its clean-up does not fit its classes, the program
    does not load or run, or it returns no segmentation, a class that the bundle does not name, or one class a pixel
    where classes overlap.
    RuntimeUnavailableError: Paddle is not installed.
    """
    options = PaddleOptions(threads=usable_cores())
    require_available(options)
    try:
        bundle = read_bundle(folder, destination)
        _require_planes(bundle)
        cleanup_of(bundle)
        size = _picture_size(bundle.declared.input_shape)
        with Predictor(bundle, open_runtime(bundle, options)) as predictor:
            (picture,) = generated_images([size], bands=predictor.bands)
            prepared = predictor.prepare(picture)
            (raw,) = predictor.run([prepared])
            predictor.finish(prepared, raw)
    except (BundleError, ConversionError, ModelLoadError, InferenceError, ImageError) as error:
        raise ConversionError(f"{destination}: not written, because the bundle does not work: {error}") from error
    if raw.kind is not OutputKind.MASK:
        return class_count(raw.output, raw.kind, 0)
    largest = int(raw.output.max())
    if bundle.classes and largest >= len(bundle.classes):
        raise ConversionError(
            f"{destination}: not written, because the network returns class {largest}, and only "
            f"{len(bundle.classes)} are named"
        )
    return None


def _require_planes(bundle: Bundle) -> None:
    """Where classes overlap, each needs a plane of its own that no other one changes."""
    ending = last_operator(bundle.paddle) if bundle.multilabel and bundle.paddle is not None else LastOperator.OTHER
    if ending in {LastOperator.ARGMAX, LastOperator.SOFTMAX}:
        raise ConversionError(
            f"its classes overlap (multilabel), and the network ends in {ending}, which lets one of them win: export "
            "it with output-op none, or correct multilabel"
        )


def _picture_size(input_shape: tuple[int | None, ...] | None) -> tuple[int, int]:
    """Width and height of a picture that a network of this input shape takes without a resize."""
    height, width = (None, None) if input_shape is None else input_shape[-2:]
    size = width or _PICTURE_SIDE, height or _PICTURE_SIDE
    if size[0] * size[1] > MOST_GENERATED_PIXELS:
        raise ConversionError(
            f"input_shape asks for a picture of {size[0]}x{size[1]} pixels, and the proof of a bundle makes one of at "
            f"most {MOST_GENERATED_PIXELS}: correct input_shape, or leave height and width free (-1)"
        )
    return size


def _is_archive(destination: Path) -> bool:
    return destination.name.endswith(ARCHIVE_ENDINGS)


def meta_of(bundle: Bundle) -> dict[str, Any]:
    """Read all that `meta.json` of a bundle says, also what the engine does not know; empty if there is none."""
    path = bundle.folder / META
    return cast("dict[str, Any]", read_json(path)) if path.is_file() else {}


def derived_meta(bundle: Bundle, change: str) -> dict[str, Any]:
    """Say in `meta.json` of a bundle that is made from another one what it is made from, with all earlier origins."""
    meta = meta_of(bundle)
    earlier = {_ORIGIN: meta[_ORIGIN]} if meta.get(_ORIGIN) is not None else {}
    return {**meta, _ORIGIN: {"bundle": bundle.digest, "change": change, **earlier}}

"""A model bundle: the archive or folder that PaddleSeg's exporters write, read into a frozen `Bundle`."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from engine.bundle.archive import unpack
from engine.bundle.deploy_yaml import parse_transforms
from engine.bundle.kinds import (
    SETTINGS_NAMES,
    explain_compressed,
    explain_contents,
    explain_file,
    explain_pointer,
    names_below,
)
from engine.errors import BundleError, UnsupportedTransformError
from engine.options import Precision
from engine.system.files import advice_on_missing, scratch_folder
from engine.system.settings_files import SettingsError, first_problem, read_json, read_record, read_yaml, shown_value
from engine.transforms import MAX_SIDE, Transform

Color = tuple[int, int, int]
ProgramKind = Literal["pir", "pdmodel"]

DEPLOY_NAMES = SETTINGS_NAMES
CERTIFICATE = "parity.json"
"""Beside an ONNX model: how it compares with the network that it was made of."""
_PROGRAM_SUFFIXES = (".json", ".pdmodel")
MOST_CLASSES = 1 << 16
_NAME_BYTES = 255
_TEXT_CHARACTERS = 1000
_ARCHIVE_ENDINGS = (".tgz", ".tar.gz", ".tar", ".zip")
_Record = TypeVar("_Record", bound=BaseModel)


def _minus_one_is_dynamic(value: object) -> object:
    return None if value == -1 else value


def _empty_is_none(value: object) -> object:
    # The original service's exporter writes an empty list for a class without a colour.
    return value or None


ClassText = Annotated[str, Field(max_length=_TEXT_CHARACTERS)]
"""A name or an identifier, bounded in length; where a length is bounded, pydantic also refuses halves of characters."""
Axis = Annotated[Annotated[int, Field(ge=1, le=MAX_SIDE, strict=True)] | None, BeforeValidator(_minus_one_is_dynamic)]


class _ClassRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: ClassText | None = None
    name: ClassText | None = None
    def_color: Annotated[
        Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(min_length=3, max_length=4)] | None,
        BeforeValidator(_empty_is_none),
    ] = None


class _OriginRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    bundle: ClassText | None = None


class _CleanupRecord(BaseModel):
    # What is not known would change masks for whoever knows it.
    model_config = ConfigDict(extra="forbid")
    keep_classes: ClassText | None = None
    median: Annotated[int, Field(strict=True)] | None = None
    fill_holes: Annotated[bool, Field(strict=True)] | None = None
    min_area: ClassText | None = None


class _MetaRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: ClassText | None = None
    classes: Annotated[list[_ClassRecord], Field(max_length=MOST_CLASSES)] | None = None
    multilabel: bool = False
    derived_from: _OriginRecord | None = None
    cleanup: _CleanupRecord | None = None


class _ReferenceRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    model: str


class _ReportRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    reference: _ReferenceRecord


class _CertificateRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    model_digest: str
    report: _ReportRecord


class _DeployRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    model: str | None = None
    params: str | None = None
    transforms: list[dict[str, Any]] | None = None
    input_shape: Annotated[list[Axis], Field(min_length=4, max_length=4)] | None = None
    output_op: ClassText | None = None
    output_dtype: ClassText | None = None
    with_softmax: bool | None = None
    with_argmax: bool | None = None


@dataclass(frozen=True, slots=True)
class SegmentationClass:
    """One class of the bundle, as its index in the mask.

    Attributes:
        id: URN of the class.
        name: what people call it.
        color: RGB, 0–255; None where `meta.json` gives none.
    """

    id: str
    name: str
    color: Color | None


@dataclass(frozen=True, slots=True)
class PaddleModel:
    """A Paddle program and its weights.

    Attributes:
        program: `.json` (PIR) or `.pdmodel` file.
        params: `.pdiparams` file.
        digest: SHA-256 of both.
    """

    program: Path
    params: Path
    digest: str

    @property
    def kind(self) -> ProgramKind:
        """The program's format."""
        return "pir" if self.program.suffix == ".json" else "pdmodel"


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An ONNX file.

    Attributes:
        path: the file.
        precision: what it was converted to.
        digest: SHA-256 of the file.
        original: digest of the model with which its certificate compares it; None without a certificate.
    """

    path: Path
    precision: Precision
    digest: str
    original: str | None = None


@dataclass(frozen=True, slots=True)
class DeclaredOutput:
    """What `deploy.yaml` says of the network; shown, never trusted. None stands for what it does not state."""

    input_shape: tuple[int | None, ...] | None  # NCHW, None for a dynamic axis
    output_op: str | None  # argmax, softmax or none
    output_dtype: str | None  # as written


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model bundle, checked and unpacked.

    Attributes:
        name: from `meta.json`, else the archive's stem.
        source: the archive or folder that was opened.
        folder: where its files are now; removed when the bundle is closed, unless it was opened from a folder.
        digest: SHA-256 over the names and contents of its files; the same for archive and folder.
        classes: in index order; may be empty.
        transforms: the deploy transforms, in order.
        paddle: the Paddle program, if present.
        onnx: converted models, if present.
        declared: what `deploy.yaml` claims.
        multilabel: classes are independent planes.
        notes: irregularities that could be resolved.
        derived_from: digest of the bundle that this one says it was made from; None if it says nothing.
        cleanup: clean-up of masks unless users choose otherwise, as options of `engine.cover.options.CleanupOptions`
            whose limits are not checked yet.
    """

    name: str
    source: Path
    folder: Path
    digest: str
    classes: tuple[SegmentationClass, ...]
    transforms: tuple[Transform, ...]
    paddle: PaddleModel | None
    onnx: tuple[OnnxModel, ...]
    declared: DeclaredOutput
    multilabel: bool
    notes: tuple[str, ...]
    derived_from: str | None = None
    cleanup: Mapping[str, str | int | bool] = field(default_factory=dict[str, str | int | bool])

    def onnx_model(self, precision: Precision) -> OnnxModel | None:
        """Find the ONNX model of a precision.

        Args:
            precision: which one.

        Returns:
            The model, or None if the bundle holds none.
        """
        return next((model for model in self.onnx if model.precision is precision), None)

    def is_made_of_another(self, model: OnnxModel) -> bool:
        """Find out whether the network was replaced after this ONNX model had been made from it.

        Args:
            model: one of the bundle's.

        Returns:
            Whether its certificate names another network than the bundle holds. Without a certificate this is unknown,
            and the result is false.
        """
        if self.paddle is not None:
            originals = {self.paddle.digest}
        else:
            floating = self.onnx_model(Precision.FP32)
            if floating is None or floating is model:
                return False
            originals = {floating.digest, floating.original}
        return model.original is not None and model.original not in originals

    def with_onnx(self, model: OnnxModel) -> "Bundle":
        """Add a converted model, replacing one of the same precision.

        Args:
            model: the converted model.

        Returns:
            A new bundle over the same files.
        """
        others = tuple(each for each in self.onnx if each.precision is not model.precision)
        return replace(self, onnx=(*others, model))


@contextmanager
def open_bundle(
    path: Path | str, *, temporary_folder: Path | str | None = None, inspect_only: bool = False
) -> Generator[Bundle]:
    """Open a bundle; archives are unpacked into a temporary folder, which is removed at the end of the context.

    Args:
        path: `.tgz`, `.tar`, `.zip` or folder.
        temporary_folder: where to unpack; the system's default if None.
        inspect_only: note transforms that cannot be honoured instead of refusing the bundle; it must not be run.

    Yields:
        The bundle.

    Raises:
        BundleError: missing, damaged, incomplete, or unsafe.
    """
    source = Path(path)
    if source.is_dir():
        folder = source if _holds_settings(source) else _model_folder(source, source)
        yield read_bundle(folder, source, inspect_only=inspect_only)
        return
    _require_archive(source)
    with scratch_folder("bundle", None if temporary_folder is None else Path(temporary_folder)) as unpacked:
        folder = _unpacked_model(source, unpacked)
        yield read_bundle(folder, source, inspect_only=inspect_only)


def read_bundle(folder: Path, source: Path, *, inspect_only: bool = False) -> Bundle:
    """Read the files of a bundle.

    Args:
        folder: holds `deploy.yaml` or `inference.yml`.
        source: what error messages name.
        inspect_only: note transforms that cannot be honoured instead of refusing the bundle.

    Returns:
        The bundle.

    Raises:
        BundleError: a file is missing or does not say what it should.
        UnsupportedTransformError: a transform cannot be repeated or undone, unless `inspect_only`.
    """
    deploy_path = _deploy_file(folder, source)
    where = f"{source}: {deploy_path.name}"
    deploy = _read_deploy(deploy_path, where)
    meta_path = folder / "meta.json"
    meta = _read_meta(meta_path, f"{source}: meta.json") if meta_path.is_file() else _MetaRecord()
    paddle, notes = _find_paddle(folder, deploy, where)
    transforms: tuple[Transform, ...] = ()
    try:
        transforms = parse_transforms(deploy.transforms, where=where)
    except UnsupportedTransformError as error:
        if not inspect_only:
            raise
        notes.append(str(error))
    onnx = _find_onnx(folder)
    _refuse_pointers([model.path for model in onnx], where)
    if paddle is None and not onnx:
        raise BundleError(
            f"{source}: model missing: no Paddle program (model.json or model.pdmodel) and no onnx/fp32/model.onnx; "
            "export the model again or put its files beside " + deploy_path.name
        )
    settings = [deploy_path, *([meta_path] if meta_path.is_file() else [])]
    digests = {path.name: file_digest(path) for path in settings}
    digests |= {model.path.relative_to(folder).as_posix(): model.digest for model in onnx}
    if paddle is not None:
        digests["paddle"] = paddle.digest
    return Bundle(
        name=meta.name or _stem(source),
        source=source,
        folder=folder,
        digest=_digest_of(digests),
        classes=tuple(_class_of(index, record) for index, record in enumerate(meta.classes or [])),
        transforms=transforms,
        paddle=paddle,
        onnx=onnx,
        declared=_declared(deploy),
        multilabel=meta.multilabel,
        notes=tuple(notes),
        derived_from=None if meta.derived_from is None else meta.derived_from.bundle,
        cleanup={} if meta.cleanup is None else meta.cleanup.model_dump(exclude_none=True),
    )


def file_digest(path: Path) -> str:
    """Hash a file: SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def class_of_index(classes: Sequence[SegmentationClass], index: int) -> SegmentationClass:
    """Name a class index, ≥ 0; one that the bundle does not know is `class-N`, without a colour."""
    return classes[index] if index < len(classes) else _class_of(index, _ClassRecord())


def class_urn(name: str, otherwise: str = "") -> str:
    """Make a class's URN of the letters a–z and digits of its name, or of other words if it has none."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"urn:ibenthos:segmentation:class:{slug or otherwise}"


def distinct_names(classes: Sequence[SegmentationClass], count: int) -> tuple[str, ...]:
    """Name the first classes so that no two names are equal, for what is kept by name.

    Args:
        classes: the bundle's classes.
        count: how many are named, also ones that the bundle does not know.

    Returns:
        The classes' names; one that several classes have is followed by the index.

    >>> sand = SegmentationClass("urn:sand", "sand", None)
    >>> distinct_names((sand, sand), 3)
    ('sand (class 0)', 'sand (class 1)', 'class-2')
    """
    names = [class_of_index(classes, index).name for index in range(count)]
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} (class {index})" for index, name in enumerate(names))


def _digest_of(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _require_archive(source: Path) -> None:
    """Refuse what is known to be something else, before anything is unpacked."""
    if not source.exists():
        if source.is_symlink():
            raise BundleError(f"{source}: is a link to {source.readlink()}, which is not there: fetch the file first")
        raise BundleError(f"{source}: no such file or folder: {advice_on_missing(source)}")
    if not source.is_file():
        raise BundleError(f"{source}: is neither a file nor a folder: save the bundle as a file first")
    told = explain_file(source)
    if told is not None:
        raise BundleError(f"{source}: {told}")


def _unpacked_model(source: Path, unpacked: Path) -> Path:
    try:
        names = unpack(source, unpacked)
    except BundleError as error:
        told = explain_compressed(source)
        if told is None:
            raise
        raise BundleError(f"{source}: {told}") from error
    folder = _model_folder(unpacked, source)
    if not _holds_settings(folder):
        raise BundleError(f"{source}: {explain_contents(names, None)}")
    return folder


def _holds_settings(folder: Path) -> bool:
    return any((folder / name).is_file() for name in DEPLOY_NAMES)


def _model_folder(root: Path, source: Path) -> Path:
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name != "onnx")]
    holding = [folder for folder in candidates if _holds_settings(folder)]
    if len(holding) > 1:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in holding)
        remedy = f"name one of them, such as {holding[0]}" if root == source else "pack one model into one archive"
        raise BundleError(f"{source}: holds several models ({names}): {remedy}")
    return holding[0] if holding else root


def _deploy_file(folder: Path, source: Path) -> Path:
    for name in DEPLOY_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise BundleError(f"{source}: {explain_contents(names_below(folder), folder)}")


def _stem(source: Path) -> str:
    ending = next((each for each in _ARCHIVE_ENDINGS if source.name.lower().endswith(each)), "")
    return source.name[: len(source.name) - len(ending)] or source.resolve().name


def _check(kind: type[_Record], content: object, where: str) -> _Record:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{where}: {first_problem(error)}") from error


def _read_deploy(path: Path, where: str) -> _DeployRecord:
    try:
        content = read_yaml(path)
    except SettingsError as error:
        raise BundleError(f"{where} {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{where} must be a mapping with a Deploy block")
    block = cast("dict[object, object]", content)
    if not isinstance(block.get("Deploy"), dict):
        raise BundleError(f"{where}: Deploy must be a mapping, but it is {shown_value(block.get('Deploy'))}")
    return _check(_DeployRecord, block["Deploy"], where)


def _read_meta(path: Path, where: str) -> _MetaRecord:
    try:
        content = read_json(path)
    except SettingsError as error:
        raise BundleError(f"{where} {error}") from error
    return _check(_MetaRecord, content, where)


def _class_of(index: int, record: _ClassRecord) -> SegmentationClass:
    name = record.name or f"class-{index}"
    color = None if record.def_color is None else cast("Color", tuple(record.def_color[:3]))
    return SegmentationClass(record.id or class_urn(name, f"class-{index}"), name, color)


def _declared(deploy: _DeployRecord) -> DeclaredOutput:
    operation = deploy.output_op
    if operation is None:
        operation = "argmax" if deploy.with_argmax else "softmax" if deploy.with_softmax else None
    shape = None if deploy.input_shape is None else tuple(deploy.input_shape)
    return DeclaredOutput(input_shape=shape, output_op=operation, output_dtype=deploy.output_dtype)


def _inside(folder: Path, name: str, where: str, field: str) -> Path:
    if Path(name).name != name.removeprefix("./") or name in {".", ".."} or "\\" in name or not name.isprintable():
        raise BundleError(f"{where}: {field}: {name!r} must be the name of a file in the bundle's own folder")
    if len(name.encode()) > _NAME_BYTES:
        raise BundleError(f"{where}: {field}: {shown_value(name)} is too long for the name of a file")
    return folder / Path(name).name


def _find_program(folder: Path, declared: Path) -> Path | None:
    if declared.is_file() and declared.suffix in _PROGRAM_SUFFIXES:
        return declared
    stems = dict.fromkeys([declared.stem, "model", "inference"])
    siblings = (folder / f"{stem}{suffix}" for stem in stems for suffix in _PROGRAM_SUFFIXES)
    return next((sibling for sibling in siblings if sibling.is_file()), None)


def _find_paddle(folder: Path, deploy: _DeployRecord, where: str) -> tuple[PaddleModel | None, list[str]]:
    declared = _inside(folder, deploy.model or "model.pdmodel", where, "model")
    declared_params = None if deploy.params is None else _inside(folder, deploy.params, where, "params")
    program = _find_program(folder, declared)
    if program is None:
        return None, []
    notes: list[str] = []
    if deploy.model is not None and program != declared:
        notes.append(f"{where} names {declared.name}, which is not there: {program.name} is used")
    beside = program.with_suffix(".pdiparams")
    params = declared_params if declared_params is not None and declared_params.is_file() else beside
    if not params.is_file():
        raise BundleError(
            f"{where}: weights missing: {(declared_params or beside).name} is not beside {program.name}; "
            "add the .pdiparams file of the export"
        )
    if params.stat().st_size == 0:
        raise BundleError(f"{where}: weights {params.name} are empty: fetch the bundle again")
    if deploy.params and params != declared_params:
        notes.append(f"{where} names {deploy.params}, which is not there: {params.name} is used")
    _refuse_pointers((program, params), where)
    digest = _digest_of({"program": file_digest(program), "params": file_digest(params)})
    return PaddleModel(program=program, params=params, digest=digest), notes


def _refuse_pointers(files: Iterable[Path], where: str) -> None:
    for file in files:
        told = explain_pointer(file)
        if told is not None:
            raise BundleError(f"{where}: {file.name} {told}")


def _find_onnx(folder: Path) -> tuple[OnnxModel, ...]:
    found = ((precision, folder / "onnx" / precision.value / "model.onnx") for precision in Precision)
    models = ((precision, path, file_digest(path)) for precision, path in found if path.is_file())
    return tuple(OnnxModel(path, precision, digest, _original_of(path, digest)) for precision, path, digest in models)


def _original_of(path: Path, digest: str) -> str | None:
    try:
        certificate = read_record(path.with_name(CERTIFICATE), TypeAdapter(_CertificateRecord))
    except SettingsError:
        return None
    return certificate.report.reference.model if certificate.model_digest == digest else None

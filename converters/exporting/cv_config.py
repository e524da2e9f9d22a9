"""The configuration of the image pipeline around a network: its classes, whether they overlap, and where it lies."""

# Two ways of writing it are read: ``{"classes": [{"name": "sand", "def_color": [194, 178, 128]}]}``, which a bundle's
# ``meta.json`` is too, and the keys that the pipeline's own files have, whose paths count from the file's folder.

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError

from converters.exporting.bundle_files import ExportClass, require_distinct
from engine.bundle.bundle import MOST_CLASSES, ClassText, Color
from engine.errors import ConversionError
from engine.system.settings_files import SettingsError, first_problem, read_json


def _empty_is_none(value: object) -> object:
    return None if value == [] else value


_Channel = Annotated[int, Field(ge=0, le=255, strict=True)]
_Color = Annotated[tuple[_Channel, _Channel, _Channel] | None, BeforeValidator(_empty_is_none)]
_Name = Annotated[ClassText, Field(min_length=1)]


class _ClassRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: _Name | None = None
    name: _Name
    def_color: _Color = None


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")
    classes: list[_ClassRecord] = Field(default=[], max_length=MOST_CLASSES)
    names: list[_Name] = Field(default=[], max_length=MOST_CLASSES, alias="segmentationpostprocessing_classes")
    colors: list[_Color] = Field(
        default=[], max_length=MOST_CLASSES, alias="segmentationpostprocessing_default_class_colours"
    )
    multilabel: StrictBool | None = None
    config: _Name | None = Field(default=None, alias="paddlepaddlesegmentation_config_filename")
    weights: _Name | None = Field(default=None, alias="paddlepaddlesegmentation_model_filename")


@dataclass(frozen=True, slots=True)
class CvConfig:
    """What a pipeline's configuration says of its network."""

    classes: tuple[ExportClass, ...] = ()  # in the order of the output channels
    multilabel: bool | None = None  # whether a pixel may belong to several classes; None: it does not say
    config: Path | None = None  # PaddleSeg's training configuration
    weights: Path | None = None  # the trained weights


def read_cv_config(path: Path) -> CvConfig:
    """Read a pipeline's configuration.

    ConversionError: it cannot be read, names classes in both ways or none of what is looked for, gives more colours
    than classes, or two classes the same identifier.
    """
    record = _read(path)
    if record.classes and record.names:
        raise ConversionError(
            f"{path}: names classes twice, as classes and as segmentationpostprocessing_classes: remove one of them"
        )
    if len(record.colors) > len(record.names):
        raise ConversionError(
            f"{path}: {len(record.colors)} colours for {len(record.names)} classes: "
            "segmentationpostprocessing_default_class_colours has at most one a class"
        )
    classes = tuple(ExportClass(each.name, each.def_color, each.id) for each in record.classes)
    classes += _named(record.names, record.colors)
    if not classes and all(each is None for each in (record.multilabel, record.config, record.weights)):
        raise ConversionError(
            f'{path}: names no classes: it needs {{"classes": [{{"name": …, "def_color": [r, g, b]}}]}}'
        )
    require_distinct(classes, where=str(path))
    folder = path.parent
    return CvConfig(
        classes=classes,
        multilabel=record.multilabel,
        config=None if record.config is None else folder / record.config,
        weights=None if record.weights is None else folder / record.weights,
    )


def _named(names: Sequence[str], colors: Sequence[Color | None]) -> tuple[ExportClass, ...]:
    pairs = cast("list[tuple[str, Color | None]]", list(zip_longest(names, colors)))
    return tuple(ExportClass(name, color) for name, color in pairs)


def _read(path: Path) -> _Record:
    try:
        content = read_json(path)
    except SettingsError as error:
        raise ConversionError(f"{path} {error}") from error
    try:
        return _Record.model_validate(content)
    except ValidationError as error:
        raise ConversionError(f"{path}: {first_problem(error)}") from error

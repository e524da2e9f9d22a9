"""Published inference models in, bundle out: what PaddleX offers and PaddleSeg's ``--for_fd`` writes."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from converters.conversion import packed_files
from converters.exporting.bundle_files import (
    DEPLOY,
    FREE_AXES,
    META,
    WEIGHTS,
    Description,
    ExportClass,
    bundle_in_one_step,
    deploy_text,
    derived_meta,
    meta_of,
    meta_record,
    meta_text,
    numbered_classes,
    read_settings,
    require_distinct,
    require_free,
    require_runs,
    settings_file,
    side_file_of,
)
from converters.exporting.evaluation_settings import agreed_multilabel
from engine.bundle.bundle import Bundle, PaddleModel, open_bundle
from engine.errors import BundleError, ConversionError
from engine.images.quality import STATISTICS_NAME
from engine.segmentation.temperature import TEMPERATURE_NAME
from engine.system.settings_files import read_yaml, shown_value

_CHANGE = "imported"


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A published model that became a bundle."""

    name: str
    classes: tuple[ExportClass, ...]  # in the order of the output channels; empty if nothing tells how many there are
    side_file: Path
    left_out: tuple[str, ...]  # files of the source that a bundle may hold and this one does not


def import_published(
    source: Path,
    destination: Path,
    *,
    name: str | None = None,
    classes: Sequence[ExportClass] = (),
    multilabel: bool | None = None,
) -> ImportedModel:
    """Repack a published inference model, or a bundle, as a bundle that has run once, with its side file beside it.

    The destination is that of `require_free`. Without a name it is what the source says, or its stem; without classes,
    in the order of the output channels, they are those that the source names, else ``class-0`` and so on; `multilabel`,
    whether they overlap, is what the source says, else false. All else that a bundle says in ``meta.json`` stays, and
    so do its statistics and its temperature.

    ConversionError: the source is no segmentation model that the engine takes, names another number of classes than its
    network has, says otherwise whether they overlap, cleans up classes that it has no longer, or does not run; or the
    destination cannot be written. RuntimeUnavailableError: Paddle is not installed.
    """
    require_free(destination)
    try:
        with open_bundle(source) as bundle:
            if bundle.paddle is None:
                raise ConversionError(f"{source}: holds no Paddle program; a published model has inference.json")
            known = bundle.multilabel if "multilabel" in meta_of(bundle) else None
            agreed = agreed_multilabel(multilabel, known, f"{source}: meta.json says multilabel: {known}")
            asked = Description(name or "", tuple(classes), multilabel=bool(agreed))
            return _repack(bundle, bundle.paddle, destination, asked)
    except BundleError as error:
        raise ConversionError(f"{source}: not imported, because it is not a segmentation model: {error}") from error


def _repack(bundle: Bundle, model: PaddleModel, destination: Path, asked: Description) -> ImportedModel:
    settings = read_settings(bundle)
    named = asked.name or _name_of(bundle, settings)
    known = tuple(asked.classes) or _published_classes(bundle, settings)
    require_distinct(known, where=str(bundle.source))
    held = packed_files(bundle)
    kept = {file: held[file] for file in (STATISTICS_NAME, TEMPERATURE_NAME) if file in held}
    said_anew = {META, settings_file(bundle).name, model.program.name, model.params.name}
    with bundle_in_one_step(destination, side_file=True) as folder:
        program = f"model{model.program.suffix}"
        shutil.copyfile(model.program, folder / program)
        shutil.copyfile(model.params, folder / WEIGHTS)
        for file, path in kept.items():
            shutil.copyfile(path, folder / file)
        deploy = {**settings["Deploy"], "model": program, "params": WEIGHTS}
        (folder / DEPLOY).write_text(deploy_text({**settings, "Deploy": deploy}), encoding="utf-8")

        def write_meta(final: tuple[ExportClass, ...]) -> None:
            shape = bundle.declared.input_shape or FREE_AXES
            new = meta_record(Description(named, final, _global_block(settings), asked.multilabel), shape)
            changed = {field: new[field] for field in ("name", "classes")}
            (folder / META).write_text(meta_text({**new, **derived_meta(bundle, _CHANGE), **changed}), encoding="utf-8")

        write_meta(known)
        found = require_runs(folder, destination)
        if found is not None and known and len(known) != found:
            raise ConversionError(
                f"{bundle.source}: the network has {found} classes, but {len(known)} are named "
                f"({', '.join(each.name for each in known)}): name them all with a cv-config"
            )
        final = known or numbered_classes(found or 0)
        write_meta(final)
    return ImportedModel(named, final, side_file_of(destination), tuple(sorted({*held} - {*kept} - said_anew)))


def _name_of(bundle: Bundle, settings: Mapping[str, Any]) -> str:
    published = None if "name" in meta_of(bundle) else _global_block(settings).get("model_name")
    return published if isinstance(published, str) and published else bundle.name


def _global_block(settings: Mapping[str, Any]) -> Mapping[str, object]:
    block = settings.get("Global")
    return cast("dict[str, object]", block) if isinstance(block, dict) else {}


def _published_classes(bundle: Bundle, settings: Mapping[str, Any]) -> tuple[ExportClass, ...]:
    if bundle.classes:
        return tuple(ExportClass(each.name, each.color, each.id) for each in bundle.classes)
    block = settings.get("PostProcess")
    if not isinstance(block, dict) or not isinstance(cast("dict[str, object]", block).get("label_list"), list):
        return ()
    # As text: YAML 1.1 takes the names no, on and 010 for False, True and 8.
    written = cast("dict[str, Any]", read_yaml(settings_file(bundle), as_text=True))
    names = cast("list[object]", written["PostProcess"]["label_list"])
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise ConversionError(
                f"{bundle.source}: PostProcess.label_list[{index}] must be the name of a class, not {shown_value(name)}"
            )
    return tuple(ExportClass(str(name)) for name in names)

"""What a deployment needs of a bundle, and nothing else: a slim bundle, or a plain ONNX file that describes itself."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from converters.conversion import packed_files
from converters.exporting.bundle_files import META, derived_meta, meta_text, settings_file
from converters.exporting.packing import pack
from engine.bundle.bundle import CERTIFICATE, Bundle, OnnxModel, read_bundle
from engine.errors import ConversionError, ModelLoadError, OptionError
from engine.images.quality import STATISTICS_NAME
from engine.options import OnnxOptions, Precision, RuntimeName
from engine.runtimes.loading import load_onnx
from engine.runtimes.profile import PROFILE_NAME, profile_json, read_profile
from engine.runtimes.programs.input_bands import input_bands
from engine.runtimes.programs.onnx_files import require_whole_model
from engine.segmentation.temperature import TEMPERATURE_NAME
from engine.system.confinement import FILE_BYTES
from engine.system.files import atomic_file, scratch_folder
from engine.system.process import Limits, run_isolated, value_of
from engine.transforms import Normalize

_CLEANUP = "cleanup"
_BANDS = 3
_TIMEOUT_S = 600.0
_MEMORY_BYTES = 4 << 30
_MEMORY_PER_MODEL_BYTE = 8


class Deployment(StrEnum):
    """What a slim bundle is run on."""

    ONNX_FP32 = "onnx-fp32"
    ONNX_FP16 = "onnx-fp16"
    ONNX_INT8 = "onnx-int8"
    PADDLE = "paddle"

    @property
    def precision(self) -> Precision:
        """The number format of the network."""
        return Precision.FP32 if self is Deployment.PADDLE else Precision(self.value.removeprefix("onnx-"))


@dataclass(frozen=True, slots=True)
class SlimBundle:
    """A slim bundle that was written."""

    digest: str
    files: tuple[str, ...]  # names of its members, sorted
    notes: tuple[str, ...]  # what a user may have expected in it, and why it is not there


def write_slim_bundle(bundle: Bundle, deployment: Deployment, destination: Path) -> SlimBundle:
    """Write a bundle that holds only what one deployment runs.

    It holds settings and classes, the model with its certificate, the tuned profile if that chose this model, the
    statistics of the pictures of a calibration, the clean-up of masks, and the digest of the bundle that it was made
    from. ConversionError: the bundle holds no such model, or the destination cannot be written. ModelLoadError: the
    ONNX model is damaged, or keeps tensors in other files.
    """
    whole = packed_files(bundle)
    kept = _model_files(bundle, deployment)
    told = derived_meta(bundle, f"packed for {deployment}")
    told.pop(_CLEANUP, None)
    if bundle.cleanup:
        told[_CLEANUP] = dict(bundle.cleanup)
    meta = meta_text(told).encode()
    names = (settings_file(bundle).name, *kept, STATISTICS_NAME, TEMPERATURE_NAME)
    files: dict[str, Path | bytes] = {name: whole[name] for name in names if name in whole}
    files[META] = meta
    notes: list[str] = []
    if deployment is not Deployment.PADDLE and not any(name.endswith(CERTIFICATE) for name in kept):
        remedy = (
            "`pseg convert` makes both again if it is asked to replace the model"
            if bundle.paddle
            else "the bundle holds no Paddle program to compare it with"
        )
        notes.append(f"the model has no certificate: {remedy}")
    digest = digest_of(files, destination)
    profile = _profile(bundle, deployment, digest, notes)
    if profile is not None:
        files[PROFILE_NAME] = profile
    pack(files, destination)
    return SlimBundle(digest, tuple(sorted(files)), tuple(notes))


def digest_of(files: Mapping[str, Path | bytes], source: Path) -> str:
    """Tell the digest that a bundle of these members, contents or files that hold them, will have."""
    with scratch_folder("staged") as staged:
        for name, content in files.items():
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                target.symlink_to(content.resolve())
        return read_bundle(staged, source).digest


def _model_files(bundle: Bundle, deployment: Deployment) -> list[str]:
    if deployment is Deployment.PADDLE:
        if bundle.paddle is None:
            raise ConversionError(f"{bundle.source}: holds no Paddle program: pack it for what it holds")
        return [bundle.paddle.program.name, bundle.paddle.params.name]
    model = _onnx_model(bundle, deployment)
    files = [model.path, model.path.with_name(CERTIFICATE)]
    return [path.relative_to(bundle.folder).as_posix() for path in files if path.is_file()]


def _onnx_model(bundle: Bundle, deployment: Deployment) -> OnnxModel:
    if deployment is Deployment.PADDLE:
        raise OptionError("an ONNX file is not made of Paddle's program: name an onnx deployment", option="for")
    model = bundle.onnx_model(deployment.precision)
    if model is None:
        raise ConversionError(
            f"{bundle.source}: holds no onnx/{deployment.precision}/model.onnx: make one with `pseg convert` and "
            f"precision {deployment.precision} first"
        )
    if bundle.is_made_of_another(model):
        raise ConversionError(
            f"{bundle.source}: onnx/{deployment.precision}/model.onnx was made of another network than the bundle "
            "holds, as its certificate says: make it again with `pseg convert` and its option replace first"
        )
    try:
        require_whole_model(model.path)
    except ModelLoadError as error:
        raise type(error)(f"{bundle.source}: {error}") from error
    return model


def _profile(bundle: Bundle, deployment: Deployment, digest: str, notes: list[str]) -> bytes | None:
    """The profile as the slim bundle carries it, if it is of this bundle and chose what is packed."""
    path = bundle.folder / PROFILE_NAME
    if not path.is_file():
        return None
    try:
        profile = read_profile(path)
    except OptionError as error:
        notes.append(f"the tuned profile is left out: {error}")
        return None
    on_paddle = profile.runtime is RuntimeName.PADDLE
    if profile.bundle != bundle.digest:
        notes.append("the tuned profile is left out: it was made for another bundle")
    elif on_paddle is not (deployment is Deployment.PADDLE) or profile.precision is not deployment.precision:
        notes.append(f"the tuned profile is left out: it chose {profile.provider} {profile.precision}")
    else:
        return profile_json(replace(profile, bundle=digest))
    return None


@dataclass(frozen=True, slots=True)
class _Description:
    """What is written into an ONNX file; paths are absolute."""

    model: Path
    destination: Path
    metadata: Mapping[str, str]
    side: int | None  # height and width that the input is fixed to; None: it stays free


def metadata_of(bundle: Bundle, model: OnnxModel) -> dict[str, str]:
    """Describe a model in the metadata of its ONNX file: key to text, all of it JSON.

    `model_type`, `class_names`, `standardization_mean` and `standardization_std` are as Deepness for QGIS reads them;
    `pseg.*` holds all that the bundle says.
    """
    classes: list[dict[str, Any]] = [asdict(each) for each in bundle.classes]
    metadata: dict[str, object] = {
        "model_type": "Segmentor",
        "pseg.name": bundle.name,
        "pseg.bundle": bundle.digest,
        "pseg.precision": model.precision.value,
        "pseg.multilabel": bundle.multilabel,
        "pseg.classes": classes,
        "pseg.transforms": [{"type": type(each).__name__, **asdict(each)} for each in bundle.transforms],
    }
    if bundle.cleanup:
        metadata["pseg.cleanup"] = dict(bundle.cleanup)
    if classes:
        metadata["class_names"] = {str(index): each.name for index, each in enumerate(bundle.classes)}
    bands = input_bands(model) or _BANDS
    for each in bundle.transforms:
        if isinstance(each, Normalize):
            metadata["standardization_mean"] = _per_band(each.mean, bands)
            metadata["standardization_std"] = _per_band(each.std, bands)
    return {name: json.dumps(value, allow_nan=False) for name, value in metadata.items()}


def _per_band(values: tuple[float, ...], bands: int) -> list[float]:
    return [*values] if len(values) > 1 else [*values] * bands


def write_plain_onnx(bundle: Bundle, deployment: Deployment, destination: Path, side: int | None = None) -> None:
    """Write one model of a bundle as an ONNX file that describes itself in its metadata.

    `side` is the height and width that the input is fixed to, with a batch of one; None: as the model has it.
    OptionError: the deployment is Paddle's. ConversionError: the bundle holds no such model, the file cannot be
    written, or the network does not take this size. ModelLoadError: as `write_slim_bundle`.
    """
    model = _onnx_model(bundle, deployment)
    size = model.path.stat().st_size
    limits = Limits(_TIMEOUT_S, _MEMORY_BYTES + _MEMORY_PER_MODEL_BYTE * size, 2 * size + FILE_BYTES)
    with scratch_folder("onnx") as scratch:
        made = scratch / "model.onnx"
        request = _Description(model.path.absolute(), made.absolute(), metadata_of(bundle, model), side)

        def failed(cause: str) -> ConversionError:
            return ConversionError(f"{bundle.source}: onnx/{model.precision}/model.onnx: the process {cause}")

        value_of(run_isolated(_describe, request, limits), failed)
        try:
            with atomic_file(destination) as file, made.open("rb") as content:
                shutil.copyfileobj(content, file)
        except OSError as error:
            raise ConversionError(
                f"{destination}: cannot be written ({error}): make room, or name another file"
            ) from error


def _describe(request: _Description) -> None:
    import onnx

    model = onnx.ModelProto.FromString(request.model.read_bytes())
    if request.side is not None:
        _fix_size(model, request.model, request.side)
    others = [each for each in model.metadata_props if each.key not in request.metadata]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    onnx.helper.set_model_props(model, {**{each.key: each.value for each in others}, **request.metadata})
    request.destination.write_bytes(model.SerializeToString())


def _fix_size(model: Any, path: Path, side: int) -> None:  # noqa: ANN401 - onnx ships no complete types
    """Input and outputs of one size; what the outputs are is seen by running the network once."""
    import numpy as np

    runtime = load_onnx(OnnxModel(path, Precision.FP32, ""), OnnxOptions(), None)
    (taken,) = runtime.inputs
    shape = (1, taken.shape[1] or _BANDS, side, side)
    found = runtime.run({taken.name: np.zeros(shape, taken.dtype)})
    runtime.close()
    sizes = {taken.name: shape, **{name: each.shape for name, each in found.items()}}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in sizes:
            stated = value.type.tensor_type.shape
            # A file may state no axes at all.
            del stated.dim[:]
            for size in sizes[value.name]:
                stated.dim.add(dim_value=size)
    del model.graph.value_info[:]

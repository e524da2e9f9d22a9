"""PaddleSeg training configuration and trained weights in, network or bundle out."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false
# Paddle and PaddleSeg ship no type information.

import io
import logging
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import yaml
from numpy.typing import NDArray

from converters.exporting.adapters import PRETRAINED_WEIGHTS, REVERSED_BANDS, Adapter, replaced, reverse_bands
from converters.exporting.bundle_files import (
    Description,
    ExportClass,
    bundle_in_one_step,
    numbered_classes,
    require_distinct,
    require_free,
    require_runs,
    side_file_of,
)
from converters.exporting.evaluation_settings import EvaluationSettings, classes_overlap, read_evaluation_settings
from converters.exporting.export import OutputOp, Transform, write_files
from converters.exporting.weights_file import read_weights
from engine.bundle.deploy_yaml import parse_transforms
from engine.errors import BundleError, ConversionError, RuntimeUnavailableError
from engine.system.confinement import memory_limited
from engine.system.files import scratch_folder

if TYPE_CHECKING:
    from paddle.nn import Layer

_LABELS_ONLY = {"AddEdgeLabel", "AddMultiLabelAuxiliaryCategory", "GenerateInstanceTargets"}
"""Transforms that change the label and leave the picture as it is."""
_BLUE_FIRST = {"EG1800", "SUPERVISELY"}
"""Data sets that reverse the bands after the transforms. Source: paddleseg 2.8.0, ``datasets/eg1800.py``, and so on."""
_FEWEST_OF_VIM = 30
"""Classes from which on ``upsample: vim`` has an effect. Source: paddleseg 2.8.0, ``models/pp_mobileseg.py``."""
_SHOWN = 5
_SUFFIXES = {".yml", ".yaml"}
_BASE, _INHERITED = "_base_", "_inherited_"
_CONFIGURATION_BYTES = 1 << 20
_MOST_BASES = 8
_MOST_VALUES = 1 << 16
_LARGEST_NUMBER = 1 << 16
_NAME = re.compile(r"(nn\.)?\w*", re.ASCII)
"""Texts of a model block: PaddleSeg evaluates some of them as Python (`norm_layer`, `arm_type`)."""
_MEMORY_BYTES = 4 << 30
_MEMORY_PER_WEIGHT_BYTE = 16
"""Building a network may take `_MEMORY_BYTES`, and so much more for every byte of its weights."""
_TRAINING: Mapping[str, object] = {
    "batch_size": 1,
    "iters": 1,
    "optimizer": {"type": "SGD", "momentum": 0.9},
    "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
    "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
}
"""What PaddleSeg asks of every configuration and no network depends on; configurations for its export lack some."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """What a configuration and its weights say together.

    The network is on the CPU, in evaluation mode: float32 NCHW in, a list of logits out. `bands` are of the images that
    it takes, `transforms` what pictures go through before it, in order. `model_record` is the configuration's ``model``
    block, without paths of this machine, and with the `adapters` that were applied when it was built, if any.
    """

    network: "Layer"
    class_count: int
    bands: int
    transforms: tuple[Transform, ...]
    model_record: Mapping[str, object]
    adapters: tuple[Adapter, ...]
    evaluation: EvaluationSettings


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made beside the bundle.

    `side_file` is ``<stem>-meta.json``. `adapters` were applied so that Paddle exports the network; `evaluation` is how
    PaddleSeg's evaluation sees each picture several times, by the names of the options that do the same, empty if it
    sees each once. Both are also in ``meta.json``.
    """

    side_file: Path
    adapters: tuple[Adapter, ...]
    evaluation: Mapping[str, object]


def export_config(
    config: Path,
    weights: Path,
    destination: Path,
    *,
    name: str | None = None,
    classes: Sequence[ExportClass] = (),
    output_op: OutputOp = "none",
    input_shape: Sequence[int | None] | None = None,
    multilabel: bool | None = None,
) -> Exported:
    """Export what PaddleSeg trained as a bundle that has run once, with its side file beside it.

    The destination is an archive (``.tgz``, ``.tar.gz``), replaced if it exists, or a new folder. Without `name` the
    model is called as the configuration; `classes`, in the order of the output channels, are ``class-0`` and so on if
    empty. In `input_shape`, NCHW, None is a free axis; without it, all but the bands, which the configuration states,
    are free. The configuration says whether a pixel may belong to several classes, unless `multilabel` does.

    Raises ConversionError where a file cannot be read, the weights are not this network's, the number of classes
    differs, it cannot be told whether classes overlap, a transform cannot be repeated on new pictures, Paddle cannot
    export the network, or the bundle does not run; RuntimeUnavailableError where Paddle or PaddleSeg is not installed.
    """
    require_free(destination)
    with _on_cpu():
        trained = load_trained(config, weights)
        named = tuple(classes) or numbered_classes(trained.class_count)
        require_distinct(named, where=str(config))
        if len(named) != trained.class_count:
            raise ConversionError(
                f"{config}: the network has {trained.class_count} classes, but {len(named)} are named "
                f"({', '.join(each.name for each in named)}): name them all, background included"
            )
        evaluation = trained.evaluation.averaging.record()
        overlap = classes_overlap(trained.evaluation, multilabel, str(config))
        with bundle_in_one_step(destination, side_file=True) as folder:
            with _quiet():
                adapters = write_files(
                    trained.network,
                    folder,
                    Description(name or config.stem, named, trained.model_record, overlap, evaluation),
                    transforms=trained.transforms,
                    output_op=output_op,
                    input_shape=input_shape or (None, trained.bands, None, None),
                )
            found = require_runs(folder, destination)
            if found not in {None, trained.class_count}:
                raise ConversionError(
                    f"{config}: num_classes is {trained.class_count}, and the network returns scores of {found} "
                    "classes: give the same number everywhere in the model block, as in the training (KNet states it "
                    "for each of its heads)"
                )
    return Exported(side_file_of(destination), (*trained.adapters, *adapters), evaluation)


def load_trained(config: Path, weights: Path) -> TrainedNetwork:
    """Build the network of a configuration and give it the trained weights, all of them.

    Raises ConversionError as `build_network` does, and where a parameter is missing in the weights or has another shape
    or type there; RuntimeUnavailableError where Paddle or PaddleSeg is not installed.

    Source: paddleseg 2.8.0: ``val_dataset.transforms`` are the deploy transforms (``tools/export.py``); configurations
    of PaddleSeg 2.5 and older may have them in ``export.transforms``.
    """
    _require_configuration(config)
    weight_bytes = weights.stat().st_size if weights.is_file() else 0
    # A mistake in the configuration is found sooner than one in the weights.
    trained = build_network(config, memory_bytes=_MEMORY_BYTES + _MEMORY_PER_WEIGHT_BYTE * weight_bytes)
    _adopt(trained.network, read_weights(weights), config, weights)
    trained.network.eval()
    return trained


def build_network(config: Path, *, memory_bytes: int) -> TrainedNetwork:
    """Build the network of a configuration as PaddleSeg makes it: its weights are not trained yet.

    Raises ConversionError where the configuration cannot be read, PaddleSeg cannot build the network, or a transform
    cannot be repeated on new pictures; RuntimeUnavailableError where Paddle or PaddleSeg is not installed.
    """
    _require_configuration(config)
    content = _read_configuration(config)
    record = content.get("model")
    if not isinstance(record, dict):
        raise ConversionError(f"{config}: no model block, which says what network it is: name a whole configuration")
    evaluation = read_evaluation_settings(content, str(config))
    content["model"] = _without_pretrained(record)
    with nothing_downloaded() as not_loaded, scratch_folder("config") as folder, memory_limited(memory_bytes):
        from paddleseg.cvlibs import Config, SegBuilder
        from paddleseg.utils.utils import get_in_channels

        try:
            _require_plain_model(content["model"], config)
            transforms = _deploy_transforms(content, str(config))
            content = {**_TRAINING, "train_dataset": content.get("val_dataset"), **content}
            plain = folder / "config.yml"
            plain.write_text(yaml.safe_dump(content), encoding="utf-8")
            configuration: Any = Config(str(plain))
            builder: Any = SegBuilder(configuration)
            class_count = configuration.model_cfg.get("num_classes") or builder.train_dataset_class.NUM_CLASSES
            if class_count < 2:
                raise ConversionError(
                    f"{config}: num_classes is {class_count}; a segmentation has at least two classes"
                )
            network = cast("Layer", builder.model)
            if getattr(network, "upsample", None) == "vim" and class_count >= _FEWEST_OF_VIM:
                raise ConversionError(
                    f"{config}: upsample is vim, with which the network returns class indices in place of scores: "
                    "write intepolate (PaddleSeg's spelling), the weights are the same"
                )
            # What is not stated is RGB; where the data set alone states it, PaddleSeg gives it to the model.
            # Source: paddleseg 2.8.0, ``utils.get_in_channels``, ``cvlibs/config_checker.py``, ``tools/export.py``.
            bands = int(get_in_channels(configuration.model_cfg) or 3)
        except BundleError as error:
            raise ConversionError(
                f"{error}; an export block ({{export: {{transforms: [...]}}}}) takes the place of val_dataset's"
            ) from error
        except ConversionError:
            raise
        except Exception as error:
            raise ConversionError(f"{config}: PaddleSeg cannot build the network: {_one_line(error)}") from error
    adapters = (PRETRAINED_WEIGHTS,) if not_loaded else ()
    if any(_data_set(content, block) in _BLUE_FIRST for block in ("train_dataset", "val_dataset")):
        reverse_bands(network)
        adapters = (*adapters, REVERSED_BANDS)
    public = _public_record(record) | ({"adapters": [each.record for each in adapters]} if adapters else {})
    return TrainedNetwork(network, class_count, bands, transforms, public, adapters, evaluation)


def _require_configuration(config: Path) -> None:
    if config.suffix not in _SUFFIXES or not config.is_file():
        raise ConversionError(f"{config}: no such configuration; name PaddleSeg's .yml file")


@contextmanager
def nothing_downloaded() -> Generator[list[str]]:
    """Use PaddleSeg without its reaching for the network, and without its log on standard output.

    Two of its backbones fetch the weights of their position embedding even where ``pretrained`` is None; inside this
    block they keep what they are made with. Yields the classes of those whose own weights were left out so far.

    Raises ConversionError, which names the address, where PaddleSeg wants to download something;
    RuntimeUnavailableError where Paddle or PaddleSeg is not installed.
    """
    with _quiet():
        try:
            from paddle.utils import download as paddle_download
            from paddleseg.models.backbones.cae import CAE
            from paddleseg.models.backbones.vision_transformer import VisionTransformer
            from paddleseg.utils import download, utils
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"PaddleSeg cannot be imported ({error}): `make export-tools` installs it (docs/export.md)"
            ) from error
        except OSError as error:
            raise RuntimeUnavailableError(
                f"PaddleSeg cannot make its folder ({error}): name a writable one in the environment variable SEG_HOME"
            ) from error
        not_loaded: list[str] = []

        def keep_weights(backbone: object) -> None:
            not_loaded.append(type(backbone).__name__)

        with ExitStack() as patches:
            patches.enter_context(replaced(paddle_download, "get_path_from_url", _refuse_download))
            for module in (utils, download):
                patches.enter_context(replaced(module, "download_file_and_uncompress", _refuse_download))
            for backbone in (VisionTransformer, CAE):
                patches.enter_context(replaced(backbone, "init_weight", keep_weights))
            yield not_loaded


def _read_configuration(config: Path) -> dict[str, Any]:
    """Read a configuration and its bases as PaddleSeg does, but only plain values and within limits."""
    # Source: paddleseg 2.8.0, ``cvlibs/config.py``; there YAML may name any function.
    bases_read = 0

    def read(path: Path) -> dict[str, Any]:
        nonlocal bases_read
        content = _load_yaml(path)
        bases: object = content.pop(_BASE, [])
        for name in cast("list[object]", bases) if isinstance(bases, list) else [bases]:
            base = path.parent / str(name)
            if not isinstance(name, str) or base.suffix not in _SUFFIXES or not base.is_file():
                raise ConversionError(
                    f"{path}: {_BASE} must name .yml files that are there, but it is {str(name)[:100]!r}"
                )
            bases_read += 1
            if bases_read > _MOST_BASES:
                raise ConversionError(
                    f"{path}: {_BASE} {name[:100]!r} is one file more than the {_MOST_BASES} that a configuration may "
                    "build on, each counted as often as it is named: write what it says into one file"
                )
            content = _merged(content, read(base))
        return content

    return read(config)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_CONFIGURATION_BYTES + 1)
        if len(text) > _CONFIGURATION_BYTES:
            raise ConversionError(f"{path}: has more than {_CONFIGURATION_BYTES} bytes, so it is not a configuration")
        content = yaml.safe_load(text.decode())
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        # What PyYAML says shows the text around it, which may be of a file that is nobody's business.
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise ConversionError(f"{path}: is not YAML with plain values only ({error.problem}{line})") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConversionError(f"{path}: is not YAML with plain values only ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: is not a configuration of PaddleSeg: it holds no settings with names")
    settings = cast("dict[str, Any]", content)
    _require_bounded(settings, path)
    return settings


def _require_bounded(content: object, path: Path) -> None:
    """Aliases may stand for more than any machine holds, or for themselves."""
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ConversionError(f"{path}: unfolds to more than {_MOST_VALUES} values: write it without YAML aliases")
        if isinstance(value, dict):
            pending += cast("dict[object, object]", value).values()
        elif isinstance(value, list):
            pending += cast("list[object]", value)


def _merged(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    if not settings.get(_INHERITED, True):
        return {key: value for key, value in settings.items() if key != _INHERITED}
    return base | {
        key: _merged(cast("dict[str, Any]", value), cast("dict[str, Any]", base[key]))
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in settings.items()
    }


def _require_plain_model(model: object, config: Path) -> None:
    """Refuse what would make PaddleSeg run or read something, or build what no machine holds."""
    from paddleseg.cvlibs import manager

    known = {*manager.MODELS.components_dict, *manager.BACKBONES.components_dict}
    pending: list[tuple[str, object]] = [("model", model)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            block = cast("dict[str, object]", value)
            kind = block.get("type")
            if kind is not None and kind not in known:
                raise ConversionError(
                    f"{config}: {name}: {str(kind)[:100]!r} is not a network or backbone of PaddleSeg"
                )
            pending += [(f"{name}.{key}", each) for key, each in block.items()]
        elif isinstance(value, list):
            pending += [(name, each) for each in cast("list[object]", value)]
        elif value == "NHWC":
            raise ConversionError(
                f"{config}: {name} is NHWC, and the pictures of a bundle are NCHW: write NCHW, the weights are the same"
            )
        elif isinstance(value, str) and not _NAME.fullmatch(value):
            raise ConversionError(
                f"{config}: {name}: {value[:100]!r} is not a plain name, and PaddleSeg might execute it"
            )
        elif isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:
            raise ConversionError(f"{config}: {name}: {str(value)[:20]} is larger than anything in a network")


def _adopt(network: "Layer", arrays: Mapping[str, NDArray[Any]], config: Path, weights: Path) -> None:
    wanted = network.state_dict()
    wrong: list[str] = []
    for name, parameter in wanted.items():
        array = arrays.get(name)
        shape, dtype = tuple(parameter.shape), str(parameter.dtype).removeprefix("paddle.")
        if array is None:
            wrong.append(f"{name} is missing")
        elif array.shape != shape:
            wrong.append(f"{name} is {list(array.shape)}, the network's {list(shape)}")
        elif array.dtype.name != dtype:
            wrong.append(f"{name} is {array.dtype.name}, the network's {dtype}")
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ConversionError(
            f"{weights}: not the weights of the network in {config}; {len(wrong)} of {len(wanted)} parameters do not "
            f"fit: {'; '.join(wrong[:_SHOWN])}{more}"
        )
    surplus = [name for name in arrays if name not in wanted]
    if surplus:
        raise ConversionError(
            f"{weights}: has {len(surplus)} parameters that the network in {config} does not have "
            f"({', '.join(surplus[:_SHOWN])}): name the configuration that it was trained with"
        )
    network.set_state_dict(cast("dict[str, Any]", arrays))


def _deploy_transforms(configuration: Mapping[str, Any], where: str) -> tuple[Transform, ...]:
    export = configuration.get("export") or {}
    block = "export" if "transforms" in export else "val_dataset"
    if block not in configuration:
        raise ConversionError(
            f"{where}: no val_dataset, whose transforms pictures go through before the network: add it, or an export "
            "block with a list of transforms"
        )
    listed = configuration[block].get("transforms")
    if not isinstance(listed, list):
        others = [name for name, value in configuration[block].items() if value and "transforms" in name]
        instead = f" (it has {', '.join(others)})" if others else ""
        raise ConversionError(
            f"{where}: {block} names no list of transforms{instead}: add an export block "
            "with a list of transforms, those that pictures go through before the network; it may be empty"
        )
    kept = [
        each for each in cast("list[Any]", listed) if not (isinstance(each, dict) and each.get("type") in _LABELS_ONLY)
    ]
    parse_transforms(kept, where=f"{where}: {block}")
    return tuple(kept)


def _data_set(configuration: Mapping[str, Any], block: str) -> str:
    settings = configuration.get(block)
    return str(cast("dict[str, object]", settings).get("type")) if isinstance(settings, dict) else ""


def _without_pretrained(value: object) -> object:
    """The model block with every ``pretrained`` set to None: the trained weights replace them anyway."""
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {key: None if key == "pretrained" else _without_pretrained(each) for key, each in items}
    if isinstance(value, list):
        return [_without_pretrained(each) for each in cast("list[object]", value)]
    return value


def _public_record(record: object) -> Any:  # noqa: ANN401
    """The model block as it is published: ``pretrained`` stays where it is a public address."""
    if isinstance(record, dict):
        items = cast("dict[str, object]", record).items()
        return {
            key: _public_record(value)
            for key, value in items
            if key != "pretrained" or str(value).startswith(("http://", "https://"))
        }
    if isinstance(record, list | tuple):
        return [_public_record(each) for each in cast("Sequence[object]", record)]
    return record


@contextmanager
def _on_cpu() -> Generator[None]:
    """Build and trace where layers do not depend on the device: PaddleSeg makes others on several GPUs."""
    with _quiet():
        try:
            import paddle
        except ImportError as error:
            raise RuntimeUnavailableError(f"Paddle cannot be imported ({error}): install the extra `paddle`") from error
    before = paddle.get_device()
    paddle.set_device("cpu")
    try:
        yield
    finally:
        paddle.set_device(before)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep what PaddleSeg prints off standard output, and Paddle's warnings about itself out of the log."""
    said = io.StringIO()
    try:
        with redirect_stdout(cast("IO[str]", said)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for line in said.getvalue().splitlines():
            _log.debug("%s", line)


def _refuse_download(url: str, *_: object, **__: object) -> NoReturn:
    raise ConversionError(f"PaddleSeg wants to download {url}; an export downloads nothing: set that setting to null")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

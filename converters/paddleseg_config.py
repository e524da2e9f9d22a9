"""PaddleSeg training configuration and trained weights in, network or bundle out.

The only converter that imports paddleseg. Nothing is downloaded: the weights file has every parameter of the network,
or the export fails; pretrained weights, which a configuration may name by address, are left out.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false
# Paddle and PaddleSeg ship no type information.

import io
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from numpy.typing import NDArray

from converters.bundle_files import (
    FREE_AXES,
    ExportClass,
    bundle_in_one_step,
    numbered_classes,
    require_distinct,
    require_free,
    require_runs,
    side_file_of,
)
from converters.export import OutputOp, Transform, write_files
from converters.weights_file import read_weights
from engine.deploy_transforms import parse_transforms
from engine.errors import BundleError, ConversionError, RuntimeUnavailableError

if TYPE_CHECKING:
    from paddle.nn import Layer

_LABELS_ONLY = {"AddEdgeLabel", "GenerateInstanceTargets"}
"""Transforms that change the label and leave the picture as it is."""
_SHOWN = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """What a configuration and its weights say together.

    Attributes:
        network: With the trained weights, on the CPU, in evaluation mode; float32 NCHW in, a list of logits out.
        class_count: Number of classes.
        transforms: What pictures go through before the network, in order; None if the configuration names no list.
        model_record: The configuration's ``model`` block, without paths of this machine.
    """

    network: "Layer"
    class_count: int
    transforms: tuple[Transform, ...] | None
    model_record: Mapping[str, object]


def export_config(
    config: Path,
    weights: Path,
    destination: Path,
    *,
    name: str | None = None,
    classes: Sequence[ExportClass] = (),
    output_op: OutputOp = "argmax",
    input_shape: Sequence[int | None] = FREE_AXES,
) -> Path:
    """Export what PaddleSeg trained as a bundle that has run once, with its side file beside it.

    Args:
        config: PaddleSeg's configuration, ``.yml``.
        weights: Trained weights, ``.pdparams``.
        destination: Archive (``.tgz``, ``.tar.gz``), replaced if it exists, or a new folder.
        name: Name of the model; the configuration's stem if None.
        classes: In the order of the output channels; empty: ``class-0`` and so on.
        output_op: What the program ends in.
        input_shape: NCHW; None is a free axis.

    Returns:
        The side file, ``<stem>-meta.json``.

    Raises:
        ConversionError: A file cannot be read, the weights are not this network's, the number of classes differs, a
            transform cannot be repeated on new pictures, Paddle cannot export the network, or the bundle does not run.
        RuntimeUnavailableError: Paddle or PaddleSeg is not installed.
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
        with bundle_in_one_step(destination, side_file=True) as folder:
            with _quiet():
                write_files(
                    trained.network,
                    folder,
                    name=name or config.stem,
                    classes=named,
                    transforms=trained.transforms,
                    output_op=output_op,
                    input_shape=input_shape,
                    model_record=trained.model_record,
                )
            require_runs(folder, destination)
    return side_file_of(destination)


def load_trained(config: Path, weights: Path) -> TrainedNetwork:
    """Build the network of a configuration and give it the trained weights, all of them.

    Args:
        config: PaddleSeg's configuration, ``.yml``.
        weights: Trained weights, ``.pdparams``.

    Returns:
        The network and what the configuration says about it.

    Raises:
        ConversionError: A file cannot be read, PaddleSeg cannot build the network, a parameter is missing in the
            weights or has another shape or type there, or a transform cannot be repeated on new pictures.
        RuntimeUnavailableError: Paddle or PaddleSeg is not installed.

    Source: paddleseg 2.8.0: ``val_dataset.transforms`` are the deploy transforms (``tools/export.py``); configurations
        of PaddleSeg 2.5 and older may have them in ``export.transforms``.
    """
    if config.suffix not in {".yml", ".yaml"} or not config.is_file():
        raise ConversionError(f"{config}: no such configuration; name PaddleSeg's .yml file with --config")
    arrays = read_weights(weights)
    with nothing_downloaded():
        from paddleseg.cvlibs import Config, SegBuilder

        try:
            parsed = Config(str(config))
            transforms = _deploy_transforms(parsed.dic, str(config))
            record = parsed.dic["model"]
            parsed.dic["model"] = _without_pretrained(record)
            builder: Any = SegBuilder(parsed)
            network = cast("Layer", builder.model)
            class_count = record.get("num_classes") or builder.train_dataset_class.NUM_CLASSES
        except BundleError as error:
            raise ConversionError(
                f"{error}; an export block ({{export: {{transforms: [...]}}}}) takes the place of val_dataset's"
            ) from error
        except ConversionError:
            raise
        except Exception as error:
            raise ConversionError(f"{config}: PaddleSeg cannot build the network: {_one_line(error)}") from error
        if class_count < 2:
            raise ConversionError(f"{config}: num_classes is {class_count}; a segmentation has at least two classes")
        _adopt(network, arrays, config, weights)
    network.eval()
    return TrainedNetwork(network, class_count, transforms, _public_record(record))


@contextmanager
def nothing_downloaded() -> Generator[None]:
    """Use PaddleSeg without its reaching for the network, and without its log on standard output.

    Two of its backbones fetch the weights of their position embedding even where ``pretrained`` is None; inside this
    block they keep what they are made with.

    Raises:
        ConversionError: PaddleSeg wants to download something; names the address.
        RuntimeUnavailableError: Paddle or PaddleSeg is not installed.
    """
    with _quiet():
        try:
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
        with ExitStack() as patches:
            for module in (utils, download):
                patches.enter_context(_replaced(module, "download_file_and_uncompress", _refuse_download))
            for backbone in (VisionTransformer, CAE):
                patches.enter_context(_replaced(backbone, "init_weight", _keep_weights))
            yield


def _adopt(network: "Layer", arrays: Mapping[str, NDArray[Any]], config: Path, weights: Path) -> None:
    """Give the network all of its parameters, or none."""
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


def _deploy_transforms(configuration: Mapping[str, Any], where: str) -> tuple[Transform, ...] | None:
    export = configuration.get("export") or {}
    block = "export" if "transforms" in export else "val_dataset"
    if block not in configuration:
        raise ConversionError(
            f"{where}: no val_dataset, whose transforms pictures go through before the network: add it, or an export "
            "block with a list of transforms"
        )
    listed = configuration[block].get("transforms")
    if listed is None:
        return None
    kept = [each for each in listed if not (isinstance(each, dict) and each.get("type") in _LABELS_ONLY)]
    parse_transforms(kept, where=f"{where}: {block}")
    return tuple(kept)


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


@contextmanager
def _replaced(owner: object, name: str, substitute: object) -> Generator[None]:
    before = getattr(owner, name)
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _refuse_download(url: str, *_: object, **__: object) -> NoReturn:
    raise ConversionError(f"PaddleSeg wants to download {url}; an export downloads nothing: set that setting to null")


def _keep_weights(backbone: object) -> None:
    """Stands in for a backbone's own loading of pretrained weights."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

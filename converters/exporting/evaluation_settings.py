"""How PaddleSeg itself uses a trained network, by its configuration: whether classes overlap, windows and scales."""

# Source: paddleseg 2.8.0, ``core/val.py``, whose arguments ``test_config`` holds, and ``core/infer.py``; windows are
# width and height there, too. ``use_multilabel`` is of the development branch.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from converters.exporting.bundle_files import EVALUATION
from engine.errors import BundleError, ConversionError, OptionError
from engine.segmentation.averaging import Averaging
from engine.system.settings_files import first_problem

_BLOCK = "test_config"
_JUDGE_EACH_CLASS_ALONE = {"BCELoss", "LovaszHingeLoss"}
_MOST_SCALES = 100


def _listed(value: object) -> object:
    return [value] if isinstance(value, int | float) else value


class _AveragingRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")
    crop_size: tuple[StrictInt, StrictInt] | None = None
    stride: tuple[StrictInt, StrictInt] | None = None
    scales: Annotated[
        tuple[Annotated[float, Field(strict=True)], ...], BeforeValidator(_listed), Field(max_length=_MOST_SCALES)
    ] = (1.0,)
    flip_horizontal: StrictBool = False
    flip_vertical: StrictBool = False

    def averaging(self) -> Averaging:
        return Averaging(self.crop_size, self.stride, self.scales, self.flip_horizontal, self.flip_vertical)


class _TestConfig(_AveragingRecord):
    use_multilabel: StrictBool | None = None
    is_slide: StrictBool = False
    aug_eval: StrictBool = False

    def in_effect(self) -> Averaging:
        """Without their switches, PaddleSeg ignores windows, scales and flips."""
        window = {} if self.is_slide else {"crop_size": None, "stride": None}
        views = {} if self.aug_eval else {"scales": (1.0,), "flip_horizontal": False, "flip_vertical": False}
        if self.is_slide and self.crop_size is None:
            raise OptionError("is_slide needs crop_size and stride, each as width and height", option="crop_size")
        return self.model_copy(update={**window, **views}).averaging()


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What a configuration says of the use of its network."""

    multilabel: bool | None  # whether a pixel may belong to several classes; None: it does not say
    losses: frozenset[str]  # of the network's first output, which is the one that counts; empty: it does not say
    averaging: Averaging  # how PaddleSeg's evaluation sees each picture; its window is used in its predictions, too


def read_evaluation_settings(configuration: Mapping[str, Any], where: str) -> EvaluationSettings:
    """Read them from a whole configuration; ConversionError names what is wrong in ``test_config``."""
    try:
        stated = _TestConfig.model_validate(configuration.get(_BLOCK) or {})
        averaging = stated.in_effect()
    except (ValidationError, OptionError) as error:
        raise ConversionError(f"{where}: {_BLOCK}: {_problem_of(error)}") from error
    losses = frozenset(_losses_of_first_output(configuration.get("loss")))
    return EvaluationSettings(stated.use_multilabel, losses, averaging)


def stated_evaluation(meta: Mapping[str, Any], where: str) -> Averaging:
    """Read from ``meta.json`` how PaddleSeg evaluates the network; BundleError names what is wrong in it."""
    try:
        return _AveragingRecord.model_validate(meta.get(EVALUATION) or {}).averaging()
    except (ValidationError, OptionError) as error:
        raise BundleError(f"{where}: meta.json: {EVALUATION}: {_problem_of(error)}") from error


def _problem_of(error: ValidationError | OptionError) -> str:
    if isinstance(error, ValidationError):
        return first_problem(error)
    return error.problem if error.option is None else f"{error.option}: {error.problem}"


def classes_overlap(settings: EvaluationSettings, multilabel: bool | None, where: str) -> bool:
    """Decide whether a pixel may belong to several classes; `multilabel` is what is said beside the configuration.

    ConversionError: the two contradict each other; or neither says it, and the loss judges each class by itself.
    """
    stated = agreed_multilabel(
        multilabel, settings.multilabel, f"{where} says use_multilabel: {settings.multilabel} under {_BLOCK}"
    )
    if stated is None and settings.losses and settings.losses <= _JUDGE_EACH_CLASS_ALONE:
        raise ConversionError(
            f"{where}: the loss ({', '.join(sorted(settings.losses))}) judges each class by itself, and nothing says "
            "whether a pixel may belong to several classes: add multilabel, true or false, to the cv-config, or "
            f"use_multilabel to {_BLOCK}"
        )
    return bool(stated)


def agreed_multilabel(asked: bool | None, known: bool | None, knowledge: str) -> bool | None:
    """Join what a cv-config asks for and what is known already; ConversionError if they contradict each other."""
    if None not in {asked, known} and asked != known:
        raise ConversionError(f"{knowledge}, and the cv-config says multilabel: {asked}: correct the one that is wrong")
    return known if asked is None else asked


def _losses_of_first_output(block: object) -> Iterator[str]:
    types = cast("dict[str, object]", block).get("types") if isinstance(block, dict) else None
    pending = cast("list[object]", types)[:1] if isinstance(types, list) else []
    while pending:
        loss = pending.pop()
        if not isinstance(loss, dict):
            continue
        named = cast("dict[str, object]", loss)
        parts = named.get("losses")
        if isinstance(parts, list):
            pending += cast("list[object]", parts)
        elif isinstance(kind := named.get("type"), str):
            yield kind

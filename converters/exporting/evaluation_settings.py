"""How PaddleSeg itself uses a trained network, by its configuration: whether classes overlap."""

# Source: paddleseg, ``core/predict.py`` and ``core/val.py``, whose arguments ``test_config`` holds; ``use_multilabel``
# is of the development branch.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError

from engine.errors import ConversionError
from engine.system.settings_files import first_problem

_BLOCK = "test_config"
_JUDGE_EACH_CLASS_ALONE = {"BCELoss", "LovaszHingeLoss"}


class _TestConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")
    use_multilabel: StrictBool | None = None


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What a configuration says of the use of its network."""

    multilabel: bool | None  # whether a pixel may belong to several classes; None: it does not say
    losses: frozenset[str]  # of the network's first output, which is the one that counts; empty: it does not say


def read_evaluation_settings(configuration: Mapping[str, Any], where: str) -> EvaluationSettings:
    """Read them from a whole configuration; ConversionError names what is wrong in ``test_config``."""
    try:
        stated = _TestConfig.model_validate(configuration.get(_BLOCK) or {})
    except ValidationError as error:
        raise ConversionError(f"{where}: {_BLOCK}: {first_problem(error)}") from error
    return EvaluationSettings(stated.use_multilabel, frozenset(_losses_of_first_output(configuration.get("loss"))))


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

"""Covers corrected for what the network confuses, by the labels of a probability sample."""

# A model-assisted (generalized difference) estimator (Särndal, Swensson and Wretman 1992, chapter 6). The rates at
# which what was found as one class is labelled as each are estimated over the whole sample, as Olofsson et al. (2014)
# estimate areas from an error matrix, and applied to the cover of every picture. What the labels of a group differ from
# that, on average by their inclusion probabilities, is added: the result is unbiased for the group however much the
# confusion there differs from that elsewhere. The rates decide only how large the error is.
#
# The error: each unit has the value that its labelled pictures add to the linearized estimate, so that the units vary
# as whole and labelled pictures together do (ultimate clusters). Taking the two parts for independent makes intervals
# that hold the truth in 75 to 90 % of surveys only, because labelled pictures belong to the same transects.

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, NotRequired

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from engine.errors import OptionError
from engine.system.settings_files import SettingsError, read_json
from service.results.runs import differing_options, options_of_classes
from service.surveys.pictures import SurveyPictures

LABELLED_AT_LEAST: Final = 10
"""Pictures of a group that have to be labelled."""

LARGER_GROUPS: Final = (
    "make larger groups, with --per or by giving pictures of several days one date, such as 2026, in the table of "
    "--survey"
)

_OPTION: Final = "correct_with"
_MOST_BYTES: Final = 1 << 28
_SAME_COVER: Final = 1e-3
_SAME_SHARE: Final = 1e-6

Values = NDArray[np.float64]
_Shares = list[Annotated[FiniteFloat, Field(ge=0, le=1)]]


class _LabelledPicture(TypedDict):
    image: str
    stratum: str
    inclusion_probability: Annotated[FiniteFloat, Field(gt=0, le=1)]
    whole: bool
    labelled_cover: _Shares
    found_cover: _Shares


class _Survey(TypedDict):
    drawn_by: NotRequired[str | None]
    seed: NotRequired[int | None]
    confusion: list[_Shares]
    pictures: Annotated[list[_LabelledPicture], Field(min_length=1)]


class _Class(TypedDict):
    id: str


class _Result(TypedDict):
    classes: list[_Class]
    provenance: dict[str, Any]
    options: NotRequired[dict[str, Any]]
    survey: NotRequired[_Survey]


class _Evaluation(TypedDict):
    results: list[_Result]


_EVALUATION: Final = TypeAdapter(_Evaluation)


@dataclass(frozen=True, slots=True)
class UnitPictures:
    """The pictures of a unit, by their paths.

    `covers`, `float64[n, classes]`, are as they were found; `shares`, `float64[n]`, together 1, are with which each
    counts within the unit.
    """

    names: Sequence[str]
    covers: Values
    shares: Values

    @property
    def mean(self) -> Values:
        """`float64[classes]`, as it was found."""
        return self.shares @ self.covers


@dataclass(frozen=True, slots=True)
class CorrectedUnits:
    """Corrected covers of the units of a group, `float64[units, classes]`, whose mean is the corrected cover.

    They vary as the estimate does. Single values are no covers: they may be below 0 or above 1. `by_labels` is what
    their own labels add to them, together 0; `labelled` how many units have labels.
    """

    covers: Values
    by_labels: Values
    labelled: int


@dataclass(frozen=True, slots=True)
class Correction:
    """What labels of a probability sample say of a network's confusion.

    `rates`, `float64[classes, classes]`, are the share of what was found as a class (row) that is labelled as each;
    `residuals`, by picture `float64[classes]`, labelled cover, minus what the rates make of the found cover;
    `probabilities`, by picture, those of inclusion. `drawn_by` and `seed` are those of the sample; None where the
    evaluation does not state them.
    """

    rates: Values
    residuals: Mapping[str, Values]
    probabilities: Mapping[str, float]
    drawn_by: str | None = None
    seed: int | None = None

    def corrected(self, units: Sequence[UnitPictures], group: str) -> CorrectedUnits:
        """Correct the covers of a group. Raises OptionError where too few of its pictures are labelled."""
        weights = [
            np.array(
                [
                    share / self.probabilities.get(name, math.inf)
                    for name, share in zip(each.names, each.shares, strict=True)
                ]
            )
            for each in units
        ]
        labelled = [int(np.count_nonzero(each)) for each in weights]
        if not labels_suffice(labelled):
            raise OptionError(
                f"{group} has {sum(labelled)} labelled pictures in {sum(map(bool, labelled))} of {len(units)} units: "
                f"at least {LABELLED_AT_LEAST} are needed, in at least two units: give `pseg sample` a larger count "
                f"and label the pictures that are added, or {LARGER_GROUPS}",
                option=_OPTION,
            )
        nothing = np.zeros(len(self.rates))
        residuals = [np.stack([self.residuals.get(name, nothing) for name in each.names]) for each in units]
        total = sum(float(each.sum()) for each in weights)
        mean = sum((weight @ residual for weight, residual in zip(weights, residuals, strict=True)), nothing) / total
        expected = np.stack([each.mean @ self.rates + mean for each in units])
        by_labels = np.stack(
            [
                len(units) * (weight @ (residual - mean)) / total
                for weight, residual in zip(weights, residuals, strict=True)
            ]
        )
        return CorrectedUnits(expected + by_labels, by_labels, sum(map(bool, labelled)))


def labels_suffice(labelled: Sequence[int]) -> bool:
    """Whether the labelled pictures of a group, counted in each of its units, are enough to correct its cover."""
    return sum(labelled) >= LABELLED_AT_LEAST and sum(map(bool, labelled)) >= min(2, len(labelled))


def correction_from(
    confusion: Values, labelled: Mapping[str, Values], found: Mapping[str, Values], probabilities: Mapping[str, float]
) -> Correction:
    """Learn a correction from covers, `float64[classes]`, by labels and as found of the same pixels or points.

    `confusion` is `float64[classes, classes]`, shares of the survey: rows are labels, columns what was found.
    """
    of_found = confusion.sum(axis=0)
    rates = np.where(of_found > 0, confusion / np.where(of_found > 0, of_found, 1), np.eye(len(confusion))).T
    residuals = {name: labelled[name] - found[name] @ rates for name in labelled}
    return Correction(rates, residuals, probabilities)


def read_correction(path: Path, survey: SurveyPictures, placed: int) -> Correction:
    """Read what `pseg evaluate --sample … --out` wrote, and hold it against the survey that it is to correct.

    Raises OptionError where labels are no probability sample, or not one of this survey, its network and its masks.
    """
    result, drawn = _read_result(path)
    if [each["id"] for each in result["classes"]] != [each.id for each in survey.classes]:
        raise OptionError(
            f"{path}: the evaluation has other classes than the ledgers, whose run had another bundle, --exclude-class "
            "or --unsure: run `pseg predict` again with the bundle of the evaluation and without these two options",
            option=_OPTION,
        )
    sampled = {each["image"]: each for each in drawn["pictures"]}
    confusion = np.array(drawn["confusion"], np.float64)
    labelled, found = (
        {image: np.array(each[name], np.float64) for image, each in sampled.items()}
        for name in ("labelled_cover", "found_cover")
    )
    if all(np.array_equal(labelled[image], found[image]) for image in sampled):
        raise OptionError(
            f"{path}: the labels of all {len(sampled)} pictures are what the network found, which says nothing of it: "
            "people have to correct them before they are evaluated",
            option=_OPTION,
        )
    probabilities = {image: each["inclusion_probability"] for image, each in sampled.items()}
    whole = {image for image, each in sampled.items() if each["whole"]}
    _require_same_options(path, result.get("options"), survey, every_label_whole=len(whole) == len(sampled))
    _require_evaluated(path, result["provenance"], survey, found, whole)
    _require_all_drawn_from(path, list(sampled.values()), placed)
    correction = correction_from(confusion, labelled, found, probabilities)
    return replace(correction, drawn_by=drawn.get("drawn_by"), seed=drawn.get("seed"))


def rules_correction_out(survey: SurveyPictures) -> list[str]:
    """Name the options of the runs whose covers no labels can correct."""
    asked = [_measuring(each.entry.record["provenance"]) for each in survey.pictures]
    return [name for name in ("exclude_class", "unsure") if any(name in each for each in asked)]


def _require_same_options(
    path: Path, evaluated: Mapping[str, Any] | None, survey: SurveyPictures, *, every_label_whole: bool
) -> None:
    """Refuse an evaluation of masks that other options make than those of the runs.

    Older evaluations do not state them; where whole pictures are labelled, the covers tell.
    """
    if evaluated is None:
        if every_label_whole:
            return
        raise OptionError(
            f"{path}: it does not state with which options the pictures were segmented, and not every pixel of its "
            "pictures is labelled, so that nothing shows whether these are the masks of the ledgers: evaluate the "
            "labels again with this version",
            option=_OPTION,
        )
    for run in survey.runs:
        differences = [
            f"{name} {theirs}, the run {mine}"
            for name, mine, theirs in differing_options(options_of_classes(run.options), evaluated)
        ]
        if differences:
            raise OptionError(
                f"{path}: the evaluation was made with other options than the run of the ledger ({differences[0]}): "
                "evaluate again with the options of the run",
                option=_OPTION,
            )


def _require_evaluated(
    path: Path, provenance: Mapping[str, Any], survey: SurveyPictures, found: Mapping[str, Values], whole: Set[str]
) -> None:
    """Refuse labels of pictures that no ledger has, and masks that are not those of the network that was evaluated."""
    missing = found.keys() - {each.path for each in survey.pictures}
    if missing:
        raise OptionError(
            f"{path}: {min(missing)} is a picture of the sample, but none of the ledgers: give the ledgers that the "
            "sample was drawn from",
            option=_OPTION,
        )
    evaluated = _deciding(provenance)
    for each in survey.pictures:
        record = each.entry.record
        tiling: dict[str, Any] = {**(record["provenance"].get("tiling") or {})}
        if (tiles := tiling.get("tiles", 1)) != 1:
            raise OptionError(
                f"{path}: the mask of {each.path} was made of {tiles} tiles, and `pseg evaluate` segments pictures as "
                "a whole, which gives other masks: predict without --tile; covers of rasters cannot be corrected",
                option=_OPTION,
            )
        differs = each.path in whole and float(np.abs(each.covers - found[each.path]).max()) > _SAME_COVER
        if _deciding(record["provenance"]) != evaluated or differs:
            raise OptionError(
                f"{path}: the mask of {each.path} in the ledger is not what was evaluated (another model or other "
                "options, another region of interest, or a clean-up): predict and evaluate with one model and the same "
                "options, the region among them, and without another clean-up than that of the bundle",
                option=_OPTION,
            )


def _measuring(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {**(provenance.get("measuring") or {})}


def _deciding(provenance: Mapping[str, Any]) -> list[Any]:
    """What decides on the class of a pixel; neither the temperature nor who asked for a clean-up does."""
    measuring = _measuring(provenance)
    for name in ("temperature", "from_bundle"):
        measuring.pop(name, None)
    return [measuring, *(provenance.get(name) for name in ("model", "averaging", "scale_range"))]


def _require_all_drawn_from(path: Path, sampled: Sequence[_LabelledPicture], placed: int) -> None:
    """Refuse labels that stand for fewer pictures than there are, where the design tells for how many they stand."""
    strata = {(each["stratum"], each["inclusion_probability"]) for each in sampled}
    stand_for = sum(1 / each["inclusion_probability"] for each in sampled)
    alike = len(strata) == len({stratum for stratum, _ in strata})
    if alike and stand_for < placed - 0.5:
        raise OptionError(
            f"{path}: the labelled pictures stand for {stand_for:.0f} pictures, and {placed} are summarized: give the "
            "ledgers, and the survey or pattern, that the whole sample was drawn from",
            option=_OPTION,
        )


def _read_result(path: Path) -> tuple[_Result, _Survey]:
    try:
        results = _EVALUATION.validate_python(read_json(path, _MOST_BYTES))["results"]
    except (SettingsError, ValidationError) as error:
        raise OptionError(
            f"{path} cannot be read as an evaluation: give what `pseg evaluate --sample SAMPLE.csv --out` wrote",
            option=_OPTION,
        ) from error
    drawn = results[0].get("survey") if results else None
    if drawn is None:
        raise OptionError(
            f"{path}: its {len(results)} results are not of a probability sample, so that the labelled pictures stand "
            "for no others: draw pictures with `pseg sample`, label them, and evaluate with --sample",
            option=_OPTION,
        )
    if not _adds_up(drawn, len(results[0]["classes"])):
        raise OptionError(
            f"{path}: its figures contradict each other, so that somebody changed them: evaluate again", option=_OPTION
        )
    return results[0], drawn


def _adds_up(drawn: _Survey, class_count: int) -> bool:
    """Whether the confusion is that of the labelled pictures, each of which is there once."""
    pictures, confusion = drawn["pictures"], drawn["confusion"]
    covers = [[each["labelled_cover"], each["found_cover"]] for each in pictures]
    lengths = {len(confusion), *map(len, confusion), *(len(row) for pair in covers for row in pair)}
    if lengths != {class_count} or len({each["image"] for each in pictures}) < len(pictures):
        return False
    weights = 1 / np.array([each["inclusion_probability"] for each in pictures])
    mean = np.tensordot(weights / weights.sum(), np.array(covers), 1)
    shares = np.array(confusion)
    return bool(np.abs(mean - [shares.sum(axis=1), shares.sum(axis=0)]).max() < _SAME_SHARE)

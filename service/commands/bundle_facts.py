"""What a bundle holds, as rows for people: shown by `pseg inspect` and `pseg doctor`."""

from collections.abc import Mapping, Set
from typing import Any, Final, cast

from rich.table import Column, Table

from engine.quantities import shown_figure, shown_fraction
from engine.runtimes.programs.last_operator import LastOperator
from service.commands.terminal import shown

_RETURNS: Final[Mapping[str | None, str]] = {
    LastOperator.SIGMOID: "scores: probabilities of each class by itself (ends in a sigmoid)",
    LastOperator.SOFTMAX: "scores: probabilities (ends in a softmax)",
    LastOperator.ARGMAX: "class indices and no scores (ends in an argmax)",
    LastOperator.OTHER: "scores: logits (ends in no sigmoid, softmax or argmax)",
    None: "what cannot be told: the model's file cannot be read",
}


def facts_table(record: Mapping[str, Any]) -> Table:
    """Lay out what `inspection` found, a row for each fact; of the classes only how they go together."""
    facts = Table("fact", Column("value", overflow="fold"), show_header=False, box=None)
    facts.add_row("name", shown(record["name"]))
    facts.add_row("digest", record["digest"])
    facts.add_row("made from", "\n".join(map(_origin_shown, record["lineage"])) or "no other bundle")
    facts.add_row("licence", shown(record["license"] or 'not stated; add "license" to meta.json'))
    facts.add_row("transforms", "\n".join(map(shown, record["transforms"])) or "none")
    paddle = record["paddle"]
    facts.add_row(
        "paddle",
        "none" if paddle is None else shown(f"{paddle['program']} ({paddle['kind']}), {paddle['params']}, fp32"),
    )
    shown_models = (_model_shown(each, convertible=paddle is not None) for each in record["onnx"])
    facts.add_row("onnx", "\n".join(shown_models) or "none")
    models = [*filter(None, [paddle]), *record["onnx"]]
    facts.add_row("takes", " or ".join(sorted({_input_shown(each["input_bands"]) for each in models})))
    facts.add_row("returns", " or ".join(sorted({_RETURNS[each["ends_in"]] for each in models})))
    facts.add_row("classes", "may overlap (multilabel)" if record["multilabel"] else "one for each pixel")
    facts.add_row(
        "clean-up", shown(", ".join(f"{name} {value}" for name, value in record["cleanup"].items())) or "none stated"
    )
    evaluation = as_flags(record["evaluation"])
    facts.add_row("evaluation", f"PaddleSeg evaluates it with {evaluation}" if evaluation else "no options stated")
    facts.add_row("tuned profile", _profile_shown(record["profile"]))
    facts.add_row("statistics", _statistics_shown(record["statistics"], {each["input_bands"] for each in models}))
    facts.add_row("declares", shown(", ".join(f"{field} {value}" for field, value in record["declared"].items())))
    return facts


def as_flags(averaging: Mapping[str, Any]) -> str:
    """Write what `Averaging.record` says as it is asked for on the command line.

    >>> as_flags({"crop_size": [769, 512], "stride": [512, 400], "scales": [0.5, 1.0], "flip_vertical": True})
    '--crop-size 769 512 --stride 512 400 --scales 0.5,1 --flip-vertical'
    """
    flags: list[str] = []
    for name, value in averaging.items():
        flags.append("--" + name.replace("_", "-"))
        if name == "scales":
            flags.append(",".join(f"{each:g}" for each in value))
        elif isinstance(value, list):
            flags += map(str, cast("list[int]", value))
    return " ".join(flags)


def _origin_shown(origin: Mapping[str, str | None]) -> str:
    return shown(": ".join(filter(None, (origin["bundle"], origin["change"]))))


def _model_shown(model: Mapping[str, Any], *, convertible: bool) -> str:
    certificate = model["certificate"]
    if certificate is None and model["unread_certificate"]:
        remedy = "; `pseg convert --replace` makes both again" if convertible else ""
        return (
            f"{model['precision']}, without a certificate: what lies beside it is of another model, or was written by "
            f"another version of pseg{remedy}"
        )
    if certificate is None:
        return f"{model['precision']}, without a certificate"
    return (
        f"{model['precision']}, certified on {certificate['images']} {certificate['compared_on']} pictures: "
        f"{shown_figure(certificate['mismatched_ppm'], 1)} mismatched pixels per million, smallest class IoU "
        f"{shown_fraction(certificate['min_class_iou'], 4)}"
    )


def _input_shown(bands: int | None) -> str:
    match bands:
        case None:
            return "images of a number of bands that it does not state"
        case 1:
            return "images of 1 band: photographs as grey"
        case 3:
            return "images of 3 bands (RGB)"
        case _:
            return f"images of {bands} bands: TIFFs, chosen with --bands"


def _profile_shown(profile: Mapping[str, Any] | None) -> str:
    if profile is None:
        return "none"
    if profile["digest"] is None:
        return shown(f"is ignored: {profile['ignored']}")
    numbers = f"{profile['threads']} threads, {profile['streams']} streams, batch {profile['batch_size']}"
    use = "used here" if profile["ignored"] is None else f"ignored here: {profile['ignored']}"
    return shown(f"{profile['provider']} {profile['precision']}, {numbers}; {use}")


def _statistics_shown(statistics: Mapping[str, Any] | None, bands: Set[int | None]) -> str:
    if statistics is None and bands.isdisjoint({None, 1, 3}):
        return "none: only photographs of colours are compared with others"
    if statistics is None:
        return (
            "none: unlike photographs are not flagged; `pseg convert --calibrate` adds those of pictures like the ones "
            "that the network is for"
        )
    if statistics["ignored"] is not None:
        return shown(statistics["ignored"])
    return f"of {statistics['pictures']} pictures: photographs unlike them are flagged"

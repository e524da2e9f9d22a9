"""docs/zoo.md as Markdown, from the stored results."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.lab.zoo.results import LIMIT_LOGITS, LIMIT_PPM, PACKAGES, VERDICTS, Measurement
from benchmarks.lab.zoo.scenarios import EXCEPTIONS, Origin, Scenario
from benchmarks.results.markdown import Markup, Table, markdown
from converters.exporting.adapters import ADAPTERS, PRETRAINED_WEIGHTS, REVERSED_BANDS
from converters.parity import GENERATED_SIZES
from engine.system.libraries import installed_versions

_LONGEST = 320
_NOT_COMPARED = "Paddle's own rounding is not measured yet."
_TITLES: Mapping[Origin, str] = {
    "installed": "The models that paddleseg 2.8.0 registers",
    "checkout": "PaddleSeg's development branch",
}
_EXPLANATIONS: Mapping[Origin, str] = {
    "installed": "Every registered model, with small backbones and widths (`benchmarks/lab/zoo/scenarios.py`).",
    "checkout": "The smallest configuration of every family below `configs/`, as PaddleSeg publishes it.",
}

_SMALL_RESIDUALS = (
    " In the deep ResNets of {}, the last normalisation of each residual block starts with 0.25, as it often "
    "does in trainings. With 1, as PaddleSeg starts it, the conversions of these networks differed from Paddle by 110 "
    "to 1005 pixels per million, and Paddle differed from itself by 613 to 5413 with the noise described above."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One network; `measurement` is None where it is not measured with these versions."""

    scenario: Scenario
    measurement: Measurement | None


def page(rows: Sequence[Row], processors: Collection[str]) -> str:
    """Write the page of every network of both sets, and of the processors that they were measured on."""
    sizes = ", ".join(f"{width}×{height}" for width, height in GENERATED_SIZES)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(installed_versions(PACKAGES).items()))
    parts = [
        f"""# Every model family of PaddleSeg

This page is for people who train networks. It says for each model family of PaddleSeg whether its networks can be
exported and converted. `make zoo` (`python -m benchmarks.lab.zoo`) writes it, and writes the figures to docs/zoo.json.
An interrupted run continues, and what was measured with these versions is measured again only with `--redo`. The
second set needs a checkout of PaddleSeg (`python -m benchmarks.lab.zoo --paddleseg DIR`) and scikit-image, the only
package it imports that `make export-tools` does not install.

Each network goes through the commands that users run: first `pseg export`, which makes it return logits, with its
configuration and random weights, then `pseg convert`. The figures are those of the certificate that `pseg convert`
writes into the bundle. It compares ONNX Runtime with Paddle without oneDNN on generated pictures of {sizes}
(width×height), or of the next multiples of 32 if the network does not accept these sizes. The statistics of the batch
normalisation are taken from noise, so that masks hold several classes. A network passes with at most {LIMIT_PPM:g}
mismatched pixels per million, logits within {LIMIT_LOGITS:g} of their range, and at least two classes in Paddle's
masks.

With random weights, many classes of a deep network lie so close together that rounding alone changes masks. If a
network misses a limit, its differences are therefore compared with those that Paddle itself shows when noise of a
ten-thousandth of a grey level is added to the same pictures; these are given in parentheses
(`python -m benchmarks.lab.zoo.rounding BUNDLE`). A conversion whose differences are no larger is within rounding.

Versions: {versions}. Measured on: {"; ".join(sorted({*processors})) or "nothing yet"}.""",
        _counts(rows),
    ]
    parts += [_networks(origin, [each for each in rows if each.scenario.origin == origin]) for origin in _TITLES]
    return "\n\n".join([*parts, _adapters(rows), _errors(rows)]).rstrip() + "\n"


def _counts(rows: Sequence[Row]) -> str:
    counted = {
        origin: Counter(
            each.measurement.verdict if each.measurement else "not measured"
            for each in rows
            if each.scenario.origin == origin
        )
        for origin in _TITLES
    }
    rows_of_verdicts = [
        (verdict, *(str(each[verdict]) for each in counted.values()))
        for verdict in (*VERDICTS, "not measured")
        if any(each[verdict] for each in counted.values())
    ]
    return markdown(Table(("", "paddleseg 2.8.0", "development branch"), tuple(rows_of_verdicts)))


def _networks(origin: Origin, rows: Sequence[Row]) -> str:
    header = ("network", "configuration", "weights MB", "verdict", "ppm", "logits", "classes", "adapters")
    cells = [(each.scenario.name, each.scenario.described, *_cells(each.measurement)) for each in rows]
    added = [f"{each.scenario.name}: `{json.dumps(each.scenario.added)}`" for each in rows if each.scenario.added]
    asked = f" These settings are added to them: {'; '.join(added)}." if added else ""
    small = [each.scenario.name for each in rows if each.scenario.residual_scale != 1]
    asked += _SMALL_RESIDUALS.format(", ".join(small)) if small else ""
    legend = "ppm: mismatched pixels per million; logits: largest error as a share of their range."
    return f"## {_TITLES[origin]}\n\n{_EXPLANATIONS[origin]}{asked} {legend}\n\n{markdown(Table(header, tuple(cells)))}"


def _cells(measured: Measurement | None) -> tuple[str, ...]:
    if measured is None:
        return ("", "not measured", "", "", "", "")
    size = "" if measured.weights_mb is None else f"{measured.weights_mb:.1f}"
    names = ", ".join(measured.adapters)
    passes = measured.verdict == "passes"
    verdict = measured.verdict if passes else Markup(f"[{measured.verdict}](#what-does-not-pass)")
    if measured.mismatched_ppm is None or measured.logit_error is None:
        return (size, verdict, "", "", "", names)
    ppm, logits = f"{measured.mismatched_ppm:.0f}", f"{measured.logit_error:.0e}"
    if measured.rounding is not None:
        ppm += f" ({measured.rounding.mismatched_ppm:.0f})"
        logits += f" ({measured.rounding.logit_error:.0e})"
    return (size, verdict, ppm, logits, str(measured.classes), names)


def _adapters(rows: Sequence[Row]) -> str:
    used = {name for row in rows if row.measurement for name in row.measurement.adapters}
    lines = [
        f"- `{each.name}`: {each.reason}"
        for each in (PRETRAINED_WEIGHTS, REVERSED_BANDS, *ADAPTERS)
        if each.name in used
    ]
    introduction = "`pseg export` changes a network if Paddle could not export it otherwise, and reports the change."
    return "\n".join(["## Adapters", "", introduction, "", *lines])


def _errors(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    for row in rows:
        if row.measurement is not None and row.measurement.verdict != "passes":
            unknown = row.measurement.verdict == "differs" and row.measurement.rounding is None
            reason = EXCEPTIONS.get(row.scenario.family, _NOT_COMPARED if unknown else "")
            said = f" `{_plain(row.measurement.error)}`" if row.measurement.error else ""
            lines.append(f"- {row.scenario.name} ({row.measurement.verdict}): {reason}{said}")
    return "\n".join(["## What does not pass", "", *(lines or ["Nothing."])])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("`", "'")[:_LONGEST]

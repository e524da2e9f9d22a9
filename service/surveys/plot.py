"""The covers of a survey as a picture: the mean of each group and date with its interval, a panel for each class."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.system.text import legible
from service.surveys.summary import GroupCover, Summary

_LEFT: Final = 60
_NARROWEST_STEP: Final = 44
_RIGHT: Final = 10
_PANEL: Final = 150
_GAP: Final = 34
_KEY: Final = 30
"""Height of the explanation of the marks, above the panels."""
_KEY_WIDTH: Final = 270
_LETTER: Final = 5
_BOLD_LETTER: Final = 7
_LABEL_LENGTH: Final = 40
_SCALES: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Largest covers that an axis ends at."""
_TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class _Mark:
    x: int
    y: float
    low: float | None
    high: float | None
    as_found: float | None
    told: str


@dataclass(frozen=True, slots=True)
class _Tick:
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    color: str
    top: int
    ticks: Sequence[_Tick]
    marks: Sequence[_Mark]
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Label:
    x: int
    text: str


def covers_svg(summary: Summary) -> bytes:
    """Draw the covers as SVG that needs nothing else and explains its marks; lines join the dates of a group."""
    titles = [_title(summary, index) for index in range(len(summary.classes))]
    needed = max(_KEY_WIDTH, *(_BOLD_LETTER * len(title) for title in titles))
    step = max(_NARROWEST_STEP, math.ceil(needed / len(summary.groups)))
    places = [_LEFT + step * number + step // 2 for number in range(len(summary.groups))]
    labels = [
        _Label(place, legible(_name_of(group), _LABEL_LENGTH))
        for place, group in zip(places, summary.groups, strict=True)
    ]
    panels = [
        _panel(summary, index, title, _KEY + _GAP + index * (_PANEL + _GAP), places)
        for index, title in enumerate(titles)
    ]
    bottom = _KEY + len(panels) * (_PANEL + _GAP)
    environment = Environment(
        loader=PackageLoader("service", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = environment.get_template("covers.svg").render(
        title=f"Cover of {len(panels)} classes in {len(labels)} groups, with 95 % intervals",
        width=_LEFT + step * len(labels) + _RIGHT,
        height=bottom + 30 + _LETTER * max((len(label.text) for label in labels), default=0),
        left=_LEFT,
        right=_RIGHT,
        corrected=summary.corrected,
        bottom=bottom,
        panels=panels,
        labels=labels,
    )
    return drawn.encode() + b"\n"


def _name_of(group: GroupCover) -> str:
    return " ".join(filter(None, (*group.group.values(), group.date))) or "all"


def _title(summary: Summary, index: int) -> str:
    return f"{legible(summary.classes[index].name)}, {'corrected cover' if summary.corrected else 'cover'} in percent"


def _panel(summary: Summary, index: int, title: str, top: int, places: Sequence[int]) -> _Panel:
    estimates = [group.covers[index] for group in summary.groups]
    found = [0.0 if group.as_found is None else group.as_found[index] for group in summary.groups]
    highest = max(found + [max(each.mean, each.high or 0) for each in estimates])
    scale = next((each for each in _SCALES if highest <= each), 1.0)

    def at(cover: float) -> float:
        return round(top + _PANEL * (1 - cover / scale), 1)

    marks = [_mark(place, group, index, at) for place, group in zip(places, summary.groups, strict=True)]
    joined: dict[tuple[str, ...], list[_Mark]] = defaultdict(list)
    for group, mark in zip(summary.groups, marks, strict=True):
        if group.date:
            joined[tuple(group.group.values())].append(mark)
    steps = [scale * number / _TICKS for number in range(_TICKS + 1)]
    return _Panel(
        title,
        "rgb({},{},{})".format(*summary.classes[index].color),
        top,
        [_Tick(at(step), f"{100 * step:g}") for step in steps],
        marks,
        [" ".join(f"{mark.x},{mark.y}" for mark in each) for each in joined.values() if len(each) > 1],
    )


def _mark(place: int, group: GroupCover, index: int, at: Callable[[float], float]) -> _Mark:
    estimate = group.covers[index]
    told = f"{legible(_name_of(group))}: {100 * estimate.mean:.2f} %"
    ends = None, None
    if estimate.low is not None and estimate.high is not None:
        told += f" ({100 * estimate.low:.2f} to {100 * estimate.high:.2f} %)"
        ends = at(estimate.low), at(estimate.high)
    as_found = None
    if group.as_found is not None:
        told += f" corrected, {100 * group.as_found[index]:.2f} % as found"
        as_found = at(group.as_found[index])
    return _Mark(place, at(estimate.mean), *ends, as_found, told)

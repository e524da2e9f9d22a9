"""The report of a run: one HTML file that needs no network, for people to look at.

Every image gets a card with the photograph under its mask, and a row in a table. Cards go to a nameless temporary file
beside the report as they come, and the page is put together at the end: memory holds rows of numbers, never pictures,
and a killed run leaves nothing behind.

Names, classes and reasons are a stranger's text. The templates escape all of it, and the page's content security policy
allows no network and no script but its own.
"""

import base64
import errno
import hashlib
import io
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from engine import MaskSize, Provenance, Segmented, SourceImage
from engine.declaration import declared_options
from engine.images import Capture
from engine.quantities import shown_cm2, shown_figure, shown_percent
from engine.rasters.result import SegmentedRaster
from engine.segmentation.palette import OverlayOptions, draw_outline, overlay
from engine.system.files import atomic_file
from engine.system.text import legible
from service.request import PredictRequest
from service.results.pictures import result_record, shown_mask
from service.results.runs import Run, made_by, options_with_effect
from service.results.totals import NOTHING_COUNTS, ClassTotal, TotalCover, counts_nothing, total_of, valid_pixels

_LEADING_CLASSES = 12
_CARD_CLASSES = 8
_PHOTOGRAPH_QUALITY = 80
_SIDES_PX = ((24, 1280), (100, 960), (250, 640), (600, 400), (1500, 320))
_SMALLEST_SIDE_PX = 240
_TOLD = frozenset({"image", "cover", "mask", "confidence", "roi", "raster", "flags", "provenance"})
"""What rows keep of records."""

_TOLD_APART = frozenset(
    {"max_img_size", "mask_size", "threshold", "scale_range", "save"}
    | {"runtime", "provider", "precision", "profile"}  # the provenance says what came of them
    | {each.name for each in declared_options(OverlayOptions)}
)
"""Options that the page states in words of their own, or that have no effect on the figures."""
_NOT_RECORDED = "not recorded by this ledger"

_Share = TypeVar("_Share")
_BREAKS = re.compile(r"(?<=[/_:])")
_TEXT_LENGTH = 2000
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class _Row:
    """An image: its name and time, and its record, or why it has none."""

    number: int
    name: str
    reason: str | None = None
    taken_at: datetime | None = None
    pictured: bool = False
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def cover(self) -> Sequence[Mapping[str, Any]]:
        return self.record["cover"]

    @property
    def counted(self) -> list[Mapping[str, Any]]:
        """Covers of the classes that are not left out."""
        return [each for each in self.cover if "excluded" not in each]

    @property
    def is_empty(self) -> bool:
        """Whether nothing counts, so that there is no cover."""
        return counts_nothing(valid_pixels(self.record), self.cover)

    @property
    def is_region_empty(self) -> bool:
        """Whether nothing counts inside of the region of interest, if there is one."""
        return self.region is not None and counts_nothing(1, self.region["cover"])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the mask, in pixels."""
        return self.record["mask"]["width"], self.record["mask"]["height"]

    @property
    def confidence(self) -> Mapping[str, float] | None:
        return self.record.get("confidence")

    @property
    def region(self) -> Mapping[str, Any] | None:
        return self.record.get("roi")

    @property
    def flags(self) -> Sequence[str]:
        """What the photograph may suffer from."""
        return self.record.get("flags", ())

    @property
    def areas(self) -> dict[str, float]:
        """Of all pixels with data on the ground; empty where it is not known, also because classes overlap."""
        known = [each["area_m2"] for each in self.cover if "area_m2" in each]
        return {"area_m2": sum(known)} if not self.overlaps and known and len(known) == len(self.cover) else {}

    @property
    def overlaps(self) -> bool:
        """Whether the classes do: otherwise covers sum to 1, or to 0 where nothing counts."""
        covered = sum(each["cover"] for each in self.cover)
        return covered > 0 and abs(covered - 1) > _ROUNDING

    @property
    def crs(self) -> str | None:
        return self.record.get("raster", {}).get("crs")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a card shows: the photograph, or the overview of a raster, and where results lie, name to value.

    `mask` is class indices `[h, w]` or `bool[K, h, w]`, of any size.
    """

    image: SourceImage
    mask: NDArray[np.uint8 | np.uint16 | np.bool_]
    written: Mapping[str, str]


def thumbnail_side(images: int) -> int:
    """Choose the longest side of pictures, in pixels, so that a report stays below about 40 MB up to 1500 images.

    >>> [thumbnail_side(count) for count in (1, 24, 25, 250, 500, 1500, 5000)]
    [1280, 1280, 960, 640, 400, 320, 240]
    """
    return next((side for most, side in _SIDES_PX if images <= most), _SMALLEST_SIDE_PX)


@dataclass(slots=True)
class ReportWriter:
    """Collects the results of a run, in the order in which they are to be shown; one thread at a time.

    `expected` is how many images the run has, None if nobody knows; `facts` what else the page says about how it was
    made, name to value; `overlays` how pictures show their masks until somebody chooses otherwise. `survey` is as
    `service.surveys.summary.summary_record` writes it, with `fields`, the names of what groups are made of, and
    `measured`, whether areas are known; None: the page shows no groups. `figures_only`: it is made from ledgers, which
    hold no pictures.
    """

    path: Path
    title: str
    provenance: Provenance
    expected: int | None
    facts: Mapping[str, str]
    overlays: OverlayOptions
    _cards: BinaryIO
    survey: Mapping[str, Any] | None = None
    figures_only: bool = False
    _card_sizes: list[int] = field(default_factory=list[int])
    _rows: list[_Row] = field(default_factory=list[_Row])
    _sides: set[int] = field(default_factory=set[int])
    _multilabel: bool = False
    _failure: Exception | None = None

    def add_result(
        self, result: Segmented[Any, Any] | SegmentedRaster[Any, Any], written: Mapping[str, str] | None = None
    ) -> None:
        """Add an image that was segmented, which the page calls as people know its source.

        `written` is what the card says of it besides, name to value: where the mask lies, URNs.
        """
        shown = None
        if isinstance(result, Segmented):
            shown = Shown(result.image, result.prediction.mask, written or {})
        elif result.overview is not None:
            image = SourceImage(result.overview.pixels, result.width, result.height, result.capture)
            shown = Shown(image, result.overview.mask, written or {})
        self.add_record(result_record(result, self.provenance), result.capture, shown)

    def add_record(self, record: Mapping[str, Any], capture: Capture, shown: Shown | None = None) -> None:
        """Add an image by its `result_record`; without `shown` it has a row, and no card."""
        if record["status"] != "ok":
            self.add_failure(record["image"], record["error"]["message"])
            return
        row = _Row(
            len(self._rows) + 1,
            record["image"],
            taken_at=capture.taken_at,
            pictured=shown is not None,
            record={name: value for name, value in record.items() if name in _TOLD},
        )
        self._multilabel |= row.overlaps
        try:
            if shown is not None:
                self._add_card(row, capture, shown)
        except Exception as error:
            # The images still to come must not be lost for their card: `write` tells.
            if isinstance(error, OSError):
                error.filename = str(self.path)
            self._failure = self._failure or error
        self._rows.append(row)

    def _add_card(self, row: _Row, capture: Capture, shown: Shown) -> None:
        self._multilabel |= shown.mask.ndim == 3
        side = thumbnail_side(max(self.expected or 0, row.number))
        photograph, mask = _pictures(row, shown, side)
        leading, others = _split(row.counted, itemgetter("cover"), _CARD_CLASSES)
        card = _template("card.html").render(
            row=row,
            source=(shown.image.width, shown.image.height),
            thumbnail=(photograph.width, photograph.height),
            photograph=_jpeg(photograph),
            mask=_lossless_webp(mask),
            leading=leading,
            others=others,
            excluded=[each for each in row.cover if "excluded" in each],
            nothing_counts=NOTHING_COUNTS,
            quality=_quality(row.region),
            details={
                **_place(capture),
                **({"may be": ", ".join(row.flags)} if row.flags else {}),
                **shown.written,
            },
        )
        self._keep(card.encode())
        self._sides.add(side)

    def _keep(self, card: bytes) -> None:
        if self._failure is None and self._cards.write(card) != len(card):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._card_sizes.append(len(card))

    def add_failure(self, name: str, reason: str) -> None:
        self._rows.append(_Row(len(self._rows) + 1, name, reason))

    def write(self) -> None:
        """Put the page together and write it, whole or not at all; without a result there is no page.

        Raises what was wrong with one of its images, such as no room for it on the disk.
        """
        if self._failure is not None:
            raise self._failure
        if not self._rows:
            return
        segmented = [row for row in self._rows if row.reason is None]
        totals = total_of([row.record for row in segmented]).classes()
        counted = [each for each in totals if each.excluded is None]
        leading, others = _split(counted, attrgetter("mean_of_images"), _LEADING_CLASSES)
        rated = [row.confidence for row in segmented if row.confidence is not None]
        style, script = _asset("report.css"), _asset("report.js")
        page = _template("report.html").generate(
            title=self.title,
            made_at=datetime.now(UTC),
            style=Markup(style),  # noqa: S704 (the package's own file)
            script=Markup(script),  # noqa: S704 (the package's own file)
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            rows=self._rows,
            segmented=len(segmented),
            failures=[row for row in self._rows if row.reason is not None],
            missing=max(0, (self.expected or 0) - len(self._rows)),
            dated=any(row.taken_at for row in segmented),
            flagged=sum(bool(row.flags) for row in segmented),
            flags=Counter(flag for row in segmented for flag in row.flags),
            regions=_region_totals(segmented),
            missed=sum(bool(row.region and row.region["error"]) for row in segmented),
            rated=rated[0]["limit"] if rated else None,
            confidence=math.fsum(each["mean"] for each in rated) / len(rated) if rated else None,
            excluded=[each for each in totals if each.excluded is not None],
            leading=leading,
            others=others,
            areas=any(row.areas for row in segmented),
            multilabel=self._multilabel,
            provenance=self.provenance,
            made_by=made_by([row.record["provenance"] for row in segmented] or [asdict(self.provenance)]),
            facts=self.facts,
            sides=sorted(self._sides),
            unpictured=sum(not row.pictured for row in segmented),
            overlays=self.overlays,
            survey=self.survey,
            figures_only=self.figures_only,
            grouped=[] if self.survey is None else _grouped_classes(self.survey, totals),
            cards=self._stored_cards(),
        )
        with atomic_file(self.path) as file:
            file.writelines(piece.encode() for piece in page)

    def _stored_cards(self) -> Iterator[Markup]:
        self._cards.seek(0)
        for size in self._card_sizes:
            yield Markup(self._cards.read(size).decode())  # noqa: S704 (a rendered template)


@contextmanager
def report_at(
    path: Path,
    *,
    title: str,
    provenance: Provenance,
    expected: int | None = None,
    facts: Mapping[str, str] | None = None,
    overlays: OverlayOptions | None = None,
    lost: Callable[[Exception], None] | None = None,
) -> Generator[ReportWriter]:
    """Write a report of what happens in a block, in place of the one that is there.

    An error that ends the block early does not lose the report: it shows the images so far, and says that some of the
    expected ones are missing. Without any image nothing is written. Other arguments are as of `ReportWriter`; `lost` is
    told why there is no page: without it that is an error of the block.
    """
    with tempfile.TemporaryFile(dir=path.parent, buffering=0) as cards:
        writer = ReportWriter(path, title, provenance, expected, facts or {}, overlays or OverlayOptions(), cards)
        try:
            yield writer
        finally:
            try:
                writer.write()
            except Exception as error:
                if lost is None:
                    raise
                lost(error)


def write_table_report(
    path: Path,
    records: Iterable[tuple[Mapping[str, Any], Capture]],
    *,
    expected: int,
    facts: Mapping[str, str],
    title: str = "Segmentation of a collection",
    survey: Mapping[str, Any] | None = None,
) -> None:
    """Write a report without pictures: totals, groups, table, failures; without a record nothing is written.

    `records` are by `result_record`, and when and where each photograph was taken. Other arguments are as of
    `ReportWriter`.
    """
    first, *others = [*records] or [None]
    if first is None:
        return
    provenance = Provenance(**first[0]["provenance"])
    with report_at(path, title=title, provenance=provenance, expected=expected, facts=facts) as report:
        report.survey = survey
        report.figures_only = True
        for record, capture in [first, *(each for each in others if each is not None)]:
            report.add_record(record, capture)


def _quality(region: Mapping[str, Any] | None) -> str | None:
    if region is None or not region["quality"]:
        return None
    quality = region["quality"]
    hidden = f", {quality['hidden_corners']} corner hidden" if quality["hidden_corners"] else ""
    straight = f"sides {quality['residual_px']:.1f} pixels from straight lines"
    return f"at least {min(quality['shown']):.0%} of each side of the frame shows, {straight}{hidden}"


def _region_totals(rows: Sequence[_Row]) -> list[ClassTotal]:
    """Classes over the regions that were found; every one counts once."""
    total = TotalCover()
    for row in rows:
        if row.region is not None and row.region["cover"]:
            total.add(1, row.region["cover"])
    return total.classes()


def _grouped_classes(survey: Mapping[str, Any], totals: Sequence[ClassTotal]) -> list[dict[str, Any]]:
    """The classes with the largest means of groups: name, colour, and the index among the covers of each group."""
    colors = {each.id: each.color for each in totals}
    classes = survey["groups"][0]["cover"]
    means = [max(group["cover"][index]["mean"] for group in survey["groups"]) for index in range(len(classes))]
    leading, _ = _split(range(len(classes)), means.__getitem__, _LEADING_CLASSES)
    return [{**classes[index], "index": index, "color": colors[classes[index]["id"]]} for index in leading]


def request_facts(request: PredictRequest) -> dict[str, str]:
    """Say what a request asks of the masks."""
    return _option_facts(options_with_effect(request, None))


def run_facts(runs: Sequence[Run]) -> dict[str, str]:
    """Say what ledgers tell of how their masks were made; where runs differ, the value of each."""
    told = [{"bundle": run.bundle_name or _NOT_RECORDED, **_option_facts(run.options)} for run in runs]
    names = dict.fromkeys(name for each in told for name in each)
    return {name: "; ".join(dict.fromkeys(each.get(name, "none") for each in told)) for name in names}


def _option_facts(options: Mapping[str, Any]) -> dict[str, str]:
    """Say what options ask of the masks: those whose default matters, and others where they are not the default."""
    limit = options.get("max_img_size")
    # Ledgers may be edited: what is no range or no averaging is told as it is.
    match options.get("scale_range"):
        case [low, high]:
            scaled = {"values": f"{_number(low)} became 0, and {_number(high)} became 255"}
        case None:
            scaled = {}
        case other:
            scaled = {"values": _asked(other)}
    averaged = options.get("averaging")
    averaging = cast("Mapping[str, Any]", averaged if isinstance(averaged, Mapping) else {"averaging": averaged})
    usual = options_with_effect(PredictRequest(), None)
    further = {
        name: value
        for name, value in {**options, "averaging": None, **averaging}.items()
        if name not in _TOLD_APART and value is not None and value is not False and value != usual.get(name)
    }
    return {
        "mask size": "the photograph's"
        if options.get("mask_size") == MaskSize.ORIGINAL
        else "the photograph's as it was read",
        "images": "read at full size"
        if isinstance(limit, int) and limit < 0
        else f"shrunk for the network above {_number(limit)} pixels, unless they are cut into tiles",
        **scaled,
        "threshold": f"{_number(options.get('threshold'))} (for probability maps and overlapping classes)",
        **{name.replace("_", "-"): _asked(value) for name, value in further.items()},
    }


def _number(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _asked(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[object]", value)))
    return "yes" if value is True else str(value)


def _pictures(row: _Row, shown: Shown, side: int) -> tuple[Image.Image, Image.Image]:
    """Shrink a photograph, and colour its mask at the same size."""
    pixels = shown.image.pixels
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    photograph: NDArray[np.uint8] = np.array(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    colors = np.array([each["color"] for each in row.cover], np.uint8).reshape(-1, 3)
    colored = overlay(photograph, shown_mask(shown.mask), colors, opacity=1)
    if row.region is not None and row.region["polygon"]:
        corners = np.array(row.region["polygon"], np.float64) * np.divide(size, row.size)
        for picture in (photograph, colored):
            draw_outline(picture, corners)
    return Image.fromarray(photograph), Image.fromarray(colored)


def _jpeg(photograph: Image.Image) -> Markup:
    file = io.BytesIO()
    photograph.save(file, "JPEG", quality=_PHOTOGRAPH_QUALITY)
    return _data_uri("image/jpeg", file)


def _lossless_webp(mask: Image.Image) -> Markup:
    file = io.BytesIO()
    mask.save(file, "WEBP", lossless=True, method=0)  # half of a palette PNG
    return _data_uri("image/webp", file)


def _data_uri(media_type: str, file: io.BytesIO) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}")  # noqa: S704 (our own)


def _split(
    classes: Sequence[_Share], share_of: Callable[[_Share], float], most: int
) -> tuple[list[_Share], list[_Share]]:
    """Part the classes with the largest shares from the others; both in index order."""
    ranked = sorted(range(len(classes)), key=lambda index: share_of(classes[index]), reverse=True)
    return [classes[index] for index in sorted(ranked[:most])], [classes[index] for index in sorted(ranked[most:])]


def _place(capture: Capture) -> dict[str, str]:
    if capture.latitude_deg is None or capture.longitude_deg is None:
        return {}
    return {"position": f"{capture.latitude_deg:.6f}°, {capture.longitude_deg:.6f}°"}


def points(share: float) -> str:
    """Write a share, or a difference of shares, in percentage points with two decimals, as `pseg summarize` prints it.

    >>> points(0.0804), points(0.00002), points(0)
    ('8.04', '<0.01', '0.00')
    """
    return shown_figure(100 * share, 2)


def change(difference: float) -> str:
    """Write a difference of shares in percentage points, with its sign.

    >>> change(0.0804), change(-0.0004), change(-0.00002), change(0)
    ('+8.04', '-0.04', '>-0.01', '0.00')
    """
    text = points(difference)
    return f"+{text}" if difference > 0 and text[0].isdecimal() else text


def area(areas: Mapping[str, Any]) -> str:
    """Write an area, in the unit that it is known in (`area_m2` or `area_cm2`); empty where none is known.

    >>> area({"area_m2": 1234.5}), area({"area_m2": 0.01234}), area({"area_cm2": 812.4}), area({"cover": 1})
    ('1,234.5 m²', '0.0123 m²', '812 cm²', '')
    """
    if "area_m2" in areas:
        square_metres = areas["area_m2"]
        return f"{square_metres:,.1f} m²" if square_metres >= 10 or not square_metres else f"{square_metres:.3g} m²"
    return shown_cm2(areas["area_cm2"]) if "area_cm2" in areas else ""


def _shown(value: object) -> object:
    """Make text fit for a page, which escapes it; what a template is made of stays as it is."""
    return legible(value, _TEXT_LENGTH) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """Let long names and URNs break where people would break them."""
    return Markup("<wbr>").join(_BREAKS.split(legible(text, _TEXT_LENGTH)))


def _html_time(time: datetime) -> str:
    # HTML allows at most three digits of a second's fraction.
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def _css_color(color: Iterable[int]) -> str:
    # Ledgers may be edited: what is no number between 0 and 255 must not reach the style sheet.
    return "rgb({} {} {})".format(*(min(255, max(0, int(each))) for each in color))


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("service", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(points=points, change=change, html_time=_html_time)
    environment.filters.update(percent=shown_percent, area=area, css_color=_css_color, breakable=_breakable)
    return environment.get_template(name)


@cache
def _asset(name: str) -> str:
    return (files("service") / "assets" / name).read_text("utf-8")

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
import operator
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from engine import MaskSize, Prediction, Provenance, Segmented, SourceImage
from engine.images import Capture
from engine.rasters.result import SegmentedRaster
from engine.segmentation.palette import draw_outline, overlay
from engine.system.files import atomic_file
from engine.system.text import legible
from service.request import PredictRequest
from service.results.pictures import cover_records, measured_record, shown_mask

_LEADING_CLASSES = 12
_CARD_CLASSES = 8
_PHOTOGRAPH_QUALITY = 80
_SIDES_PX = ((24, 1280), (100, 960), (250, 640), (600, 400), (1500, 320))
_SMALLEST_SIDE_PX = 240
_BREAKS = re.compile(r"(?<=[/_:])")
_TEXT_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class ClassShare:
    """A class and its cover of one image.

    Attributes:
        id: URN of the class.
        name: what people call it.
        color: RGB, as the pictures have it.
        cover: share of the image's pixels, 0–1.
    """

    id: str
    name: str
    color: tuple[int, int, int]
    cover: float


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """A class over all images that were segmented.

    Attributes:
        index: its value in the masks.
        id: URN of the class.
        name: what people call it.
        color: RGB, as the pictures have it.
        mean: of the images' covers; every image counts once, whatever its size.
        of_pixels: share of the pixels of all images; every pixel counts once.
        lowest: of the images' covers.
        highest: of the images' covers.
    """

    index: int
    id: str
    name: str
    color: tuple[int, int, int]
    mean: float
    of_pixels: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    name: str
    width: int = 0
    height: int = 0
    taken_at: datetime | None = None
    shares: tuple[ClassShare, ...] = ()
    reason: str | None = None
    pictured: bool = True
    confidence: Mapping[str, float] | None = None
    region: Mapping[str, Any] | None = None

    @property
    def inside(self) -> tuple[ClassShare, ...]:
        """Covers inside of the region of interest; none where there is none."""
        return () if self.region is None else _shares(self.region["cover"])


def thumbnail_side(images: int) -> int:
    """Choose the size of the pictures in a report, so that it stays below about 40 MB up to 1500 images.

    >>> [thumbnail_side(count) for count in (1, 24, 25, 250, 500, 1500, 5000)]
    [1280, 1280, 960, 640, 400, 320, 240]

    Args:
        images: how many the report holds.

    Returns:
        Longest side in pixels.
    """
    return next((side for most, side in _SIDES_PX if images <= most), _SMALLEST_SIDE_PX)


def class_totals(covers: Sequence[tuple[ClassShare, ...]], pixels: Sequence[int]) -> list[ClassTotal]:
    """Sum the covers of images up.

    Args:
        covers: the classes of each image, in index order; where an image has fewer classes, its cover of the rest is 0.
        pixels: of each image.

    Returns:
        One entry a class, in index order.
    """
    known: dict[int, ClassShare] = {}
    for shares in covers:
        known.update((index, share) for index, share in enumerate(shares) if index not in known)
    totals: list[ClassTotal] = []
    for index, share in sorted(known.items()):
        values = [shares[index].cover if index < len(shares) else 0.0 for shares in covers]
        mean = math.fsum(values) / len(values)
        of_pixels = math.fsum(map(operator.mul, values, pixels)) / sum(pixels)
        total = ClassTotal(index, share.id, share.name, share.color, mean, of_pixels, min(values), max(values))
        totals.append(total)
    return totals


@dataclass(slots=True)
class ReportWriter:
    """Collects the results of a run, in the order in which they are to be shown.

    Threads: one at a time.

    Attributes:
        path: the HTML file.
        title: heading of the page.
        provenance: of the predictor.
        expected: how many images the run has; None if nobody knows.
        facts: what else the page says about how the run was made, name to value.
    """

    path: Path
    title: str
    provenance: Provenance
    expected: int | None
    facts: Mapping[str, str]
    _cards: BinaryIO
    _card_sizes: list[int] = field(default_factory=list[int])
    _rows: list[_Row] = field(default_factory=list[_Row])
    _sides: set[int] = field(default_factory=set[int])
    _multilabel: bool = False
    _failure: Exception | None = None

    def add_result(
        self,
        name: str,
        result: Segmented[Any, Any] | SegmentedRaster[Any, Any],
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Add an image that was segmented, photograph or raster with an overview.

        Args:
            name: what the user knows it by.
            result: of the image.
            details: what the card says of it besides, name to value: where the mask lies, URNs.
        """
        if isinstance(result, Segmented):
            self.add(name, result.image, result.prediction, details)
        elif result.overview is not None:
            image = SourceImage(result.overview.pixels, result.width, result.height, result.capture)
            shown = Prediction(result.overview.mask, result.covers, result.timings_ms, confidence=result.confidence)
            self.add(name, image, shown, details, (result.width, result.height))

    def add(
        self,
        name: str,
        image: SourceImage,
        prediction: Prediction,
        details: Mapping[str, str] | None = None,
        mask_size: tuple[int, int] | None = None,
    ) -> None:
        """Add a photograph that was segmented.

        Args:
            name: what the user knows it by.
            image: the photograph.
            prediction: mask and cover.
            details: what the card says of it besides, name to value: where the mask lies, URNs.
            mask_size: width and height of the whole mask, in pixels, where that of the prediction is its overview.
        """
        try:
            self._add(name, image, prediction, details or {}, mask_size or (prediction.width, prediction.height))
        except Exception as error:
            # The images still to come must not be lost for their card: `write` tells.
            if isinstance(error, OSError):
                error.filename = str(self.path)
            self._failure = self._failure or error

    def _add(
        self,
        name: str,
        image: SourceImage,
        prediction: Prediction,
        details: Mapping[str, str],
        mask_size: tuple[int, int],
    ) -> None:
        shares = _shares(cover_records(prediction.covers))
        told = measured_record(prediction.confidence, prediction.region)
        row = _Row(
            len(self._rows) + 1,
            name,
            *mask_size,
            image.capture.taken_at,
            shares=shares,
            confidence=told.get("confidence"),
            region=told.get("roi"),
        )
        self._multilabel |= prediction.mask.ndim == 3
        side = thumbnail_side(max(self.expected or 0, row.number))
        photograph, mask = _pictures(image, prediction, side)
        leading, others = _split([share.cover for share in shares], _CARD_CLASSES)
        card = _template("card.html").render(
            row=row,
            source=(image.width, image.height),
            thumbnail=(photograph.width, photograph.height),
            photograph=_jpeg(photograph),
            mask=_lossless_webp(mask),
            leading=[shares[index] for index in leading],
            others=[shares[index] for index in others],
            quality=_quality(row.region),
            details={**_place(image), **_flags(prediction.flags), **details},
        )
        self._keep(card.encode())
        self._sides.add(side)
        self._rows.append(row)

    def _keep(self, card: bytes) -> None:
        if self._failure is None and self._cards.write(card) != len(card):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._card_sizes.append(len(card))

    def add_record(self, record: Mapping[str, Any], capture: Capture) -> None:
        """Add an image that was done earlier: a row without pictures.

        Args:
            record: as `service.results.pictures.result_record` writes it.
            capture: when and where the photograph was taken.
        """
        if record["status"] != "ok":
            self.add_failure(record["image"], record["error"]["message"])
            return
        mask = record["mask"]
        shares = _shares(record["cover"])
        row = _Row(
            len(self._rows) + 1,
            record["image"],
            mask["width"],
            mask["height"],
            capture.taken_at,
            shares=shares,
            pictured=False,
            confidence=record.get("confidence"),
            region=record.get("roi"),
        )
        self._rows.append(row)

    def add_failure(self, name: str, reason: str) -> None:
        """Add an image that was not segmented.

        Args:
            name: what the user knows it by.
            reason: why.
        """
        self._rows.append(_Row(len(self._rows) + 1, name, reason=reason))

    def write(self) -> None:
        """Put the page together and write it, whole or not at all; without a result there is no page.

        Raises:
            Exception: what was wrong with one of its images, such as no room for it on the disk.
        """
        if self._failure is not None:
            raise self._failure
        if not self._rows:
            return
        segmented = [row for row in self._rows if row.reason is None]
        totals = class_totals([row.shares for row in segmented], [row.width * row.height for row in segmented])
        leading, others = _split([total.mean for total in totals], _LEADING_CLASSES)
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
            regions=_region_columns(segmented),
            missed=sum(bool(row.region and row.region["error"]) for row in segmented),
            rated=next((row.confidence["limit"] for row in segmented if row.confidence), None),
            leading=[totals[index] for index in leading],
            others=[totals[index] for index in others],
            multilabel=self._multilabel,
            provenance=self.provenance,
            facts=self.facts,
            sides=sorted(self._sides),
            unpictured=sum(not row.pictured for row in self._rows),
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
    lost: Callable[[Exception], None] | None = None,
) -> Generator[ReportWriter]:
    """Write a report of what happens in a block.

    An error that ends the block early does not lose the report: it shows the images so far, and says that some of the
    expected ones are missing. Without any image nothing is written.

    Args:
        path: the HTML file; replaced if it exists.
        title: heading of the page.
        provenance: of the predictor.
        expected: how many images there are, so that pictures can be sized for them; None if nobody knows.
        facts: what else the page says about how the run was made, name to value.
        lost: told why there is no page; None: that is an error of the block.

    Yields:
        What takes the results.
    """
    with tempfile.TemporaryFile(dir=path.parent, buffering=0) as cards:
        writer = ReportWriter(path, title, provenance, expected, facts or {}, cards)
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
) -> None:
    """Write a report without pictures: totals, table, failures.

    Args:
        path: the HTML file; replaced if it exists. Without a record nothing is written.
        records: as `service.results.pictures.result_record` writes them, and when and where each photograph was taken.
            The page's provenance is that of the first.
        expected: how many images there are.
        facts: what else the page says about how the run was made, name to value.
    """
    first, *others = [*records] or [None]
    if first is None:
        return
    provenance = Provenance(**first[0]["provenance"])
    with report_at(
        path, title="Segmentation of a collection", provenance=provenance, expected=expected, facts=facts
    ) as report:
        for record, capture in [first, *(each for each in others if each is not None)]:
            report.add_record(record, capture)


def _quality(region: Mapping[str, Any] | None) -> str | None:
    if region is None or not region["quality"]:
        return None
    quality = region["quality"]
    hidden = f", {quality['hidden_corners']} corner hidden" if quality["hidden_corners"] else ""
    return f"at least {min(quality['shown']):.0%} of each side shows, {quality['residual_px']:.1f} pixels off{hidden}"


def _region_columns(rows: Sequence[_Row]) -> list[ClassTotal]:
    """Classes over the regions that were found: those with the largest means."""
    found = [row.inside for row in rows if row.inside]
    if not found:
        return []
    totals = class_totals(found, [1] * len(found))
    leading, _ = _split([total.mean for total in totals], _LEADING_CLASSES)
    return [totals[index] for index in leading]


def _shares(covers: Iterable[Mapping[str, Any]]) -> tuple[ClassShare, ...]:
    return tuple(ClassShare(each["id"], each["name"], tuple(each["color"]), each["cover"]) for each in covers)


def request_facts(request: PredictRequest) -> dict[str, str]:
    """Say what a request asked of the masks.

    Args:
        request: validated parameters.

    Returns:
        Facts for a report, name to value.
    """
    limit, scaled = request.images.max_img_size, request.images.scale_range
    return {
        "mask size": "the photograph's"
        if request.masks.mask_size is MaskSize.ORIGINAL
        else "the photograph's as it was read",
        "images": "read at full size" if limit < 0 else f"shrunk for the network above {limit:,} pixels",
        **({} if scaled is None else {"values": f"{scaled[0]:g} became 0, and {scaled[1]:g} became 255"}),
        "threshold": f"{request.masks.threshold:g} (for probability maps and overlapping classes)",
        "pseg": metadata.version("paddleseg-dual-runtime"),
    }


def _pictures(image: SourceImage, prediction: Prediction, side: int) -> tuple[Image.Image, Image.Image]:
    """Shrink a photograph, and colour its mask at the same size."""
    height, width = image.pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photograph: NDArray[np.uint8] = np.array(cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    mask, palette = shown_mask(prediction)
    colored = overlay(photograph, mask, palette, opacity=1)
    polygon = () if prediction.region is None else prediction.region.polygon
    if polygon:
        fit = np.array([size[0] / prediction.width, size[1] / prediction.height])
        for picture in (photograph, colored):
            draw_outline(picture, np.array(polygon) * fit)
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


def _split(shares: Sequence[float], most: int) -> tuple[list[int], list[int]]:
    """Part the classes with the largest shares from the others; both in index order."""
    ranked = sorted(range(len(shares)), key=lambda index: shares[index], reverse=True)
    return sorted(ranked[:most]), sorted(ranked[most:])


def _place(image: SourceImage) -> dict[str, str]:
    capture = image.capture
    if capture.latitude_deg is None or capture.longitude_deg is None:
        return {}
    return {"position": f"{capture.latitude_deg:.6f}°, {capture.longitude_deg:.6f}°"}


def _flags(flags: Sequence[str]) -> dict[str, str]:
    return {"may be": ", ".join(flags)} if flags else {}


def percent(share: float) -> str:
    """Write a share to a tenth of a percent, without making little into nothing or nearly all into all.

    >>> [percent(share) for share in (0, 0.0004, 0.4321, 0.9996, 1)]
    ['0.0%', '<0.1%', '43.2%', '>99.9%', '100.0%']

    Args:
        share: 0–1.

    Returns:
        For people to read.
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def _shown(value: object) -> object:
    """Make text fit for a page, which escapes it; what a template is made of stays as it is."""
    return legible(value, _TEXT_LENGTH) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """Let long names and URNs break where people would break them."""
    return Markup("<wbr>").join(_BREAKS.split(legible(text, _TEXT_LENGTH)))


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
    environment.filters.update(percent=percent, css_color=_css_color, breakable=_breakable)
    return environment.get_template(name)


@cache
def _asset(name: str) -> str:
    return (files("service") / "assets" / name).read_text("utf-8")

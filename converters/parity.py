"""The certificate of a conversion: two predictors on the same images, and how far apart they are.

Masks are compared pixel by pixel and class by class, raw scores by their largest difference. A class that covers less
than a thousandth of the reference is reported but does not decide: a handful of its pixels would.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.agreement import class_counts, class_ious
from engine.bundle.bundle import Bundle, distinct_names
from engine.errors import ConversionError, ImageError, InferenceError
from engine.images import Capture, SourceImage
from engine.options import OnnxOptions, PaddleOptions, RuntimeOptions
from engine.quantities import shown_beside
from engine.segmentation.network import PreparedImage, RawOutput
from engine.segmentation.opening import open_runtime
from engine.segmentation.postprocess import OutputKind
from engine.segmentation.prediction import Provenance
from engine.segmentation.predictor import Predictor
from engine.segmentation.steps import Mask
from engine.system.machine.cores import usable_cores

GENERATED_SIZES = ((256, 256), (448, 320), (517, 331))
"""Width and height of the pictures that are made where the user gives none; one is odd and not square."""

MOST_GENERATED_PIXELS = 1 << 26
"""Of one picture; larger ones are not made."""
_GATED_SHARE = 0.001
_STEP = 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """What a conversion must keep to; None: anything."""

    max_mismatched_ppm: float | None = 100.0  # pixels per million whose class may differ
    min_class_iou: float | None = None  # intersection over union of a class that counts, 0–1
    max_cover_error: float | None = None  # difference of a class's cover in one image, 0–1


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How a candidate compares with its reference."""

    images: int
    pixel_agreement: float  # share of pixels of equal class, 0–1
    mismatched_ppm: float
    # class name to intersection over union over all images; classes that neither found are left out, and a name that
    # several classes have is followed by the class's index
    class_iou: Mapping[str, float]
    min_class_iou: float  # of those that count (`gated_classes`); 1 if none does
    gated_classes: tuple[str, ...]  # classes that cover at least a thousandth of the reference
    max_cover_error: float  # largest difference of a class's cover in one image
    max_abs_logit_error: float | None  # of a raw score; None where the network returns masks
    logit_range: float | None  # largest minus smallest raw score of the reference; None where the network returns masks
    worst_image: str  # the one with the largest share of mismatched pixels
    reference: Provenance
    candidate: Provenance


class ParityError(ConversionError):
    """A converted model misses its limits; `report` is what was measured."""

    def __init__(self, message: str, report: ParityReport) -> None:
        super().__init__(message)
        self.report = report


def _no_classes() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class _Tally:
    """Sums over images, one entry a class."""

    intersection: NDArray[np.int64] = field(default_factory=_no_classes)
    reference: NDArray[np.int64] = field(default_factory=_no_classes)
    candidate: NDArray[np.int64] = field(default_factory=_no_classes)
    area: int = 0  # of all images, in pixels
    compared: int = 0  # the same, or a multiple of it where classes overlap: once for each
    mismatched: int = 0
    max_cover_error: float = 0.0
    worst: tuple[float, str] = (-1.0, "")
    scores: list[tuple[float, float, float]] = field(default_factory=list[tuple[float, float, float]])


def generated_images(
    sizes: Sequence[tuple[int, int]] = GENERATED_SIZES, *, seed: int = 0, bands: int = 3
) -> list[SourceImage]:
    """Make pictures of smooth coloured noise, which hold all colours and edges of every sharpness."""
    random = np.random.default_rng(seed)
    images: list[SourceImage] = []
    for width, height in sizes:
        total = np.zeros((height, width, bands), np.float32)
        for cell in (8, 32, 128):
            coarse = random.random((height // cell + 2, width // cell + 2, bands), dtype=np.float32)
            total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(total * (255 / 3), 0, 255).astype(np.uint8)
        images.append(SourceImage(pixels=pixels, width=width, height=height, capture=Capture()))
    return images


@dataclass(frozen=True, slots=True)
class TakenSizes:
    """Which sizes of pictures a network takes."""

    # width and height; in place of a refused one the next multiples of 32, if the network takes those
    taken: tuple[tuple[int, int], ...]
    refused: str  # what it says to the last refused one; empty if it takes all


def sizes_taken(reference: Predictor, sizes: Iterable[tuple[int, int]]) -> TakenSizes:
    """Find out which sizes a network takes: some add up branches that only meet at multiples of 8, 16 or 32."""
    taken: list[tuple[int, int]] = []
    refused = ""
    for width, height in sizes:
        error = _refusal(reference, (width, height))
        if not error:
            taken.append((width, height))
            continue
        refused = f"{width}×{height}: {error}"
        rounded = (-(-width // _STEP) * _STEP, -(-height // _STEP) * _STEP)
        if rounded != (width, height) and not _refusal(reference, rounded):
            taken.append(rounded)
    return TakenSizes(tuple(taken), refused)


def _refusal(reference: Predictor, size: tuple[int, int]) -> str:
    (picture,) = generated_images((size,), bands=reference.bands)
    try:
        reference.run([reference.prepare(picture)])
    except (ImageError, InferenceError) as error:
        return str(error)
    return ""


def named_pictures(
    reference: Predictor, sizes: Sequence[tuple[int, int]] = GENERATED_SIZES
) -> list[tuple[str, SourceImage]]:
    """Make the pictures that a conversion is certified with where a user names none.

    Sizes that the original does not take are replaced; ConversionError if it takes none.
    """
    found = sizes_taken(reference, sizes)
    if not found.taken:
        raise ConversionError(
            f"{reference.bundle.source}: the original takes no generated picture ({found.refused}): "
            "name pictures of your own to compare on"
        )
    return [
        (f"generated {each.width}x{each.height}", each) for each in generated_images(found.taken, bands=reference.bands)
    ]


def open_original(bundle: Bundle, load_marks: Path | None) -> Predictor:
    """Open what conversions are compared with: the Paddle program, without oneDNN, else the FP32 ONNX model."""
    threads = usable_cores()
    options: RuntimeOptions = PaddleOptions(threads=threads) if bundle.paddle else OnnxOptions(threads=threads)
    return Predictor(bundle, open_runtime(bundle, options, load_marks=load_marks))


def compare(
    reference: Predictor, candidate: Predictor, images: Iterable[tuple[str, SourceImage]], *, batch_size: int = 1
) -> ParityReport:
    """Run both predictors over the same images; those that one of them does not take are left out, with a warning.

    `batch_size` images share a run of the candidate, and the reference runs each by itself. ConversionError: both took
    none of the images, or they tell other classes apart. InferenceError: a run failed.
    """

    def masks(tally: _Tally, prepared: PreparedImage, expected: RawOutput, actual: RawOutput) -> tuple[Mask, Mask]:
        _require_comparable(expected, actual, where=str(reference.bundle.source))
        if expected.kind is actual.kind:
            _add_scores(tally, expected.output, actual.output)
        return reference.finish(prepared, expected).mask, candidate.finish(prepared, actual).mask

    return _compared(reference, candidate, images, masks, batch_size)


def _compared(
    reference: Predictor,
    candidate: Predictor,
    images: Iterable[tuple[str, SourceImage]],
    masks_of: Callable[[_Tally, PreparedImage, RawOutput, RawOutput], tuple[Mask, Mask]],
    batch_size: int = 1,
) -> ParityReport:
    tally = _Tally()
    count = 0
    reasons: list[str] = []
    fitting = _prepared(reference, candidate, images, reasons)
    while batch := list(islice(fitting, batch_size)):
        count += len(batch)
        filled = [batch[index % len(batch)][1] for index in range(batch_size)]
        for (name, prepared), actual in zip(batch, candidate.run(filled), strict=False):
            (expected,) = reference.run([prepared])
            _add_masks(tally, name, *masks_of(tally, prepared, expected, actual))
    if not count:
        raise ConversionError(
            f"{reference.bundle.source}: none of the images fits the bundle ({next(iter(reasons), 'there are none')}): "
            "name some that do"
        )
    return _report(tally, count, reference, candidate)


def _prepared(
    reference: Predictor, candidate: Predictor, images: Iterable[tuple[str, SourceImage]], reasons: list[str]
) -> Generator[tuple[str, PreparedImage]]:
    """Prepare the images that both take; why others are left out is logged, and added to `reasons`."""
    for name, image in images:
        try:
            prepared = reference.prepare(image)
            candidate.network.require_fitting(prepared.tensor)
        except ImageError as error:
            reasons.append(f"{name}: {error}")
            _log.warning("not compared: %s", reasons[-1])
            continue
        yield name, prepared


def _require_comparable(expected: RawOutput, actual: RawOutput, *, where: str) -> None:
    """A mask can be compared with that of scores; planes only with as many of the same size and meaning."""
    kinds = {expected.kind, actual.kind}
    one_is_a_mask = OutputKind.MASK in kinds and OutputKind.MULTILABEL not in kinds
    if one_is_a_mask or (len(kinds) == 1 and expected.output.shape == actual.output.shape):
        return
    told = " and ".join(f"{each.kind} {list(each.output.shape)}" for each in (expected, actual))
    raise ConversionError(
        f"{where}: the original and the converted model return {told}, of which no masks can be compared: they are not "
        "the same network; convert the bundle again"
    )


def compare_classes(
    reference: Predictor, candidate: Predictor, images: Iterable[tuple[str, SourceImage]]
) -> ParityReport:
    """Compare a network that returns classes with one that returns scores, at the size that the networks return.

    Images that one of them does not take are left out, with a warning. ConversionError: none is left, or the networks
    return something else. InferenceError: a run failed.
    """

    def classes(_: _Tally, _prepared: PreparedImage, expected: RawOutput, actual: RawOutput) -> tuple[Mask, Mask]:
        kinds = (expected.kind, actual.kind)
        if kinds != (OutputKind.MASK, OutputKind.SCORES):
            raise ConversionError(f"{reference.bundle.source}: the networks return {kinds[0]} and {kinds[1]}")
        mask, scores = expected.output, actual.output
        return mask.reshape(mask.shape[-2:]).astype(np.uint16), scores.argmax(axis=0).astype(np.uint16)

    return _compared(reference, candidate, images, classes)


def _add_scores(tally: _Tally, expected: NDArray[np.generic], actual: NDArray[np.generic]) -> None:
    if expected.dtype.kind == "f":
        known = expected.astype(np.float64)
        error = float(np.abs(known - actual.astype(np.float64)).max())
        tally.scores.append((error, float(known.min()), float(known.max())))


def _add_masks(tally: _Tally, name: str, expected: Mask, actual: Mask) -> None:
    planes = expected if expected.dtype == np.bool_ else None
    if planes is None:
        count = int(max(expected.max(), actual.max())) + 1
        in_both, in_expected, in_actual = class_counts(expected, actual, count)
        compared, area = expected.size, expected.size
        mismatched = compared - int(in_both.sum())
    else:
        axes = (1, 2)
        in_both = (planes & actual).sum(axis=axes)
        in_expected, in_actual = planes.sum(axis=axes), actual.sum(axis=axes)
        compared, area = planes.size, planes[0].size
        mismatched = int((planes != actual).sum())
    tally.intersection = _sum_by_class(tally.intersection, in_both)
    tally.reference = _sum_by_class(tally.reference, in_expected)
    tally.candidate = _sum_by_class(tally.candidate, in_actual)
    tally.area += area
    tally.compared += compared
    tally.mismatched += mismatched
    tally.max_cover_error = max(tally.max_cover_error, float(np.abs(in_expected - in_actual).max()) / area)
    tally.worst = max(tally.worst, (mismatched / compared, name))


def _sum_by_class(total: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    result = np.zeros(max(total.size, new.size), np.int64)
    result[: total.size] += total
    result[: new.size] += new
    return result


def _report(tally: _Tally, count: int, reference: Predictor, candidate: Predictor) -> ParityReport:
    names = distinct_names(reference.bundle.classes, tally.reference.size)
    ious = class_ious(tally.intersection, tally.reference, tally.candidate)
    class_iou = {name: iou for name, iou in zip(names, ious, strict=True) if iou is not None}
    gated = tuple(
        name for name, found in zip(names, tally.reference, strict=True) if found and found >= _GATED_SHARE * tally.area
    )
    return ParityReport(
        images=count,
        pixel_agreement=1 - tally.mismatched / tally.compared,
        mismatched_ppm=1e6 * tally.mismatched / tally.compared,
        class_iou=class_iou,
        min_class_iou=min((class_iou[name] for name in gated), default=1.0),
        gated_classes=gated,
        max_cover_error=tally.max_cover_error,
        max_abs_logit_error=max((error for error, _, _ in tally.scores), default=None),
        logit_range=max(high for _, _, high in tally.scores) - min(low for _, low, _ in tally.scores)
        if tally.scores
        else None,
        worst_image=tally.worst[1],
        reference=reference.provenance,
        candidate=candidate.provenance,
    )


def require_parity(report: ParityReport, limits: ParityLimits, *, where: str) -> None:
    """Hold a report against limits; ParityError, which carries the report, if one is missed."""
    missed: list[str] = []
    if limits.max_mismatched_ppm is not None and report.mismatched_ppm > limits.max_mismatched_ppm:
        ppm = shown_beside(report.mismatched_ppm, limits.max_mismatched_ppm, 1)
        missed.append(f"{ppm} mismatched pixels per million, at most {limits.max_mismatched_ppm:.15g}")
    if limits.min_class_iou is not None and report.min_class_iou < limits.min_class_iou:
        iou = shown_beside(report.min_class_iou, limits.min_class_iou, 4)
        missed.append(f"smallest class IoU {iou}, at least {limits.min_class_iou:.15g}")
    if limits.max_cover_error is not None and report.max_cover_error > limits.max_cover_error:
        off = shown_beside(report.max_cover_error, limits.max_cover_error, 4)
        missed.append(f"cover off by {off}, at most {limits.max_cover_error:.15g}")
    if missed:
        raise ParityError(
            f"{where}: the converted model gives other masks ({'; '.join(missed)}; worst on {report.worst_image}): "
            "run it with runtime paddle or at a higher precision, or allow more",
            report,
        )

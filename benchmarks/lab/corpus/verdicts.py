"""Whether a reading of ours is right: other readers decide, and for the matrix the scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus.child import Reading
from benchmarks.lab.corpus.facts import Facts
from benchmarks.lab.corpus.refusals import DAMAGED, REFUSALS, TOO_LARGE
from benchmarks.lab.corpus.rules import BT601

Closeness = Literal["exact", "rounded", "subsampled"]
"""How close a reading has to be: to the last level; within the rounding of a lossy codec or of a conversion of colours;
or, where colours are stored at a lower resolution, with the same luma, since every decoder fills them up in its way."""
Verdict = Literal["equal", "rightly refused", "wrongly refused", "silently wrong", "crashed", "hung", "no agreement"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
FAULTS: frozenset[Verdict] = frozenset({"wrongly refused", "silently wrong", "crashed", "hung"})
"""What `make corpus` fails for."""
LARGEST_MEAN, LARGEST = 1.0, 8
"""Levels that a conversion with rounding in it may differ by."""
_LOSSY_MEAN, _LOSSY_LARGEST = 6.0, 80
"""Levels that a lossy codec may be away from the scene that it was given."""
LENIENT = frozenset({"OpenCV", "imagecodecs", "GDAL"})
"""Readers that fill up what is missing of a truncated file (GDAL, of a BMP): what only they read is not whole. GDAL is
also what decodes TIFFs for us, and so does not count alone."""
_MAX_PIXELS = 200_000_000


@dataclass(frozen=True, slots=True)
class PeerReading:
    """What one reader other than ours gave, or what the scene says; readers of one family count as one.

    `pixels` are uint8[H, W, 3], None where it did not read the file. `approximate`: a lossy codec lies between.
    """

    reader: str
    family: str
    pixels: NDArray[np.uint8] | None
    message: str = ""
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Agreement:
    """What other readers agree on, uint8[H, W, 3]; None: they do not agree, or nobody reads it.

    `readers` gave it; `note` says who disagrees, or why nobody reads it; `whole`: a reader that refuses truncated files
    reads it.
    """

    pixels: NDArray[np.uint8] | None
    readers: tuple[str, ...]
    note: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with its reasons; `kind` is of a refusal that was right."""

    verdict: Verdict
    kind: str = ""
    note: str = ""


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[float, int] | None:
    if one.shape != other.shape:
        return None
    levels = np.abs(one.astype(np.int16) - other)
    return float(levels.mean()), int(levels.max(initial=0))


def is_close(one: NDArray[np.uint8], other: NDArray[np.uint8], closeness: Closeness) -> bool:
    """Tell whether two pictures are equal."""
    apart = difference(one, other)
    if apart is None:
        return False
    mean, largest = apart
    match closeness:
        case "exact":
            return largest == 0
        case "rounded":
            return mean <= LARGEST_MEAN and largest <= LARGEST
        case "subsampled":
            luma = np.abs((one.astype(np.float64) - other) @ np.array(BT601))
            return mean <= LARGEST_MEAN and float(luma.max(initial=0)) <= LARGEST


def agreement(readings: Sequence[PeerReading], closeness: Closeness) -> Agreement:
    """Find what most families of readers agree on.

    One family alone counts if its readers that read the file agree among themselves.
    """
    known = [(each, each.pixels) for each in readings if each.pixels is not None]
    whole = any(each.reader not in LENIENT for each, _ in known)
    if not known:
        return Agreement(None, (), "; ".join(f"{each.reader}: {each.message}" for each in readings), whole)

    def agreeing(one: PeerReading, pixels: NDArray[np.uint8]) -> list[PeerReading]:
        return [each for each, other in known if _agree(one, pixels, each, other, closeness)]

    ranked = [(agreeing(reading, pixels), reading, pixels) for reading, pixels in known if not reading.approximate]
    if not ranked:
        return Agreement(None, (), "only the scene is known", whole)
    largest_group, reading, pixels = max(ranked, key=lambda each: (len({one.family for one in each[0]}), len(each[0])))
    names = tuple(each.reader for each in largest_group)
    others_differ = [each.reader for each, _ in known if each not in largest_group]
    families = {each.family for each in largest_group}
    if len(names) == 1 and names[0] in LENIENT:
        others = f"; {_apart(known)}" if others_differ else ""
        return Agreement(None, (), f"{names[0]} does not count alone{others}", whole)
    all_families = {each.family for each, _ in known}
    if len(families) == 1 and (len(all_families) > 1 or others_differ):
        return Agreement(None, (), _apart(known), whole)
    note = f"otherwise: {', '.join(others_differ)}" if others_differ else ""
    return Agreement(pixels, names, note if reading.reader in names else "", whole)


def _agree(
    one: PeerReading,
    pixels: NDArray[np.uint8],
    other: PeerReading,
    other_pixels: NDArray[np.uint8],
    closeness: Closeness,
) -> bool:
    if other.approximate:
        apart = difference(pixels, other_pixels)
        return apart is not None and apart[0] <= _LOSSY_MEAN and apart[1] <= _LOSSY_LARGEST
    return one is other or is_close(pixels, other_pixels, closeness)


def _apart(known: Sequence[tuple[PeerReading, NDArray[np.uint8]]]) -> str:
    first, pixels = known[0]
    told: list[str] = []
    for each, other in known[1:]:
        apart = difference(pixels, other)
        if apart is None:
            told.append(
                f"{each.reader} gives {other.shape[1]}x{other.shape[0]}, not {pixels.shape[1]}x{pixels.shape[0]}"
            )
        elif apart[1]:
            told.append(f"{each.reader} differs by {apart[0]:.2f} on average, {apart[1]} at most")
    return f"against {first.reader}: {'; '.join(told) or 'equal'}"


def judge(ours: Reading, reader: str, facts: Facts, agreed: Agreement, closeness: Closeness, *, name: str) -> Judged:
    match ours.outcome:
        case "hung":
            return Judged("hung", note=ours.message)
        case "crashed" | "untold":
            return Judged("crashed", note=ours.message)
        case "refused":
            return _judge_refusal(ours.message.replace(name, ""), reader, facts, agreed)
        case "read":
            pass
    if ours.pixels is None or agreed.pixels is None:
        return Judged("no agreement", note=f"read by us; {agreed.note}")
    if is_close(ours.pixels, agreed.pixels, closeness):
        return Judged("equal", note=agreed.note)
    apart = difference(ours.pixels, agreed.pixels)
    height, width = agreed.pixels.shape[:2]
    seen = (
        f"differs by {apart[0]:.2f} on average, {apart[1]} at most"
        if apart
        else f"{ours.pixels.shape[1]}x{ours.pixels.shape[0]} in place of {width}x{height}"
    )
    return Judged("silently wrong", note=f"{seen} ({', '.join(agreed.readers)}) {agreed.note}".strip())


def _judge_refusal(message: str, reader: str, facts: Facts, agreed: Agreement) -> Judged:
    for each in REFUSALS:
        if each.fits(facts, message, reader):
            return Judged("rightly refused", each.kind, message)
    if agreed.pixels is not None and agreed.pixels.shape[0] * agreed.pixels.shape[1] > _MAX_PIXELS:
        return Judged("rightly refused", TOO_LARGE.kind, message)
    if not agreed.whole:
        for each in (TOO_LARGE, DAMAGED):
            if each.fits(facts, message, reader):
                return Judged("rightly refused", each.kind, message)
    if agreed.pixels is None and agreed.whole:
        return Judged("no agreement", note=f"refused by us: {message}; {agreed.note}")
    return Judged("wrongly refused", note=f"{message} ({', '.join(agreed.readers) or 'nobody reads it'}) {agreed.note}")

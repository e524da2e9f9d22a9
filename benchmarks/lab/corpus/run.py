"""Read every picture with our readers and with the others, and judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus.child import OURS, PHOTOGRAPH, Reader
from benchmarks.lab.corpus.facts import Facts
from benchmarks.lab.corpus.matrix import Variant
from benchmarks.lab.corpus.oracles import FAMILIES_OF_TIFF, readers_of
from benchmarks.lab.corpus.results import Result
from benchmarks.lab.corpus.rules import upright
from benchmarks.lab.corpus.verdicts import Agreement, Closeness, Judged, PeerReading, agreement, judge

MATRIX = "matrix"
SCENE = "scene"
_LOSSY_FORMATS = frozenset({"JPEG", "WebP", "AVIF", "HEIC", "JPEG 2000"})
_LOSSY_COMPRESSIONS = frozenset({6, 7, 50001, 34712, 33003, 33004, 33005, 34892, 34933, 34934, 22610, 50002, 52546})


@dataclass(frozen=True, slots=True)
class Task:
    """A picture to judge, of a project or the `MATRIX`; one of the matrix is written when its turn comes."""

    origin: str
    name: str
    path: Path
    variant: Variant | None = None


class Judge:
    """Two child processes, one for our readers, one for the others; one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._ours = Reader(folder / "ours.log")
        self._others = Reader(folder / "others.log")

    def close(self) -> None:
        self._ours.close()
        self._others.close()

    def judge(self, task: Task, key: str) -> list[Result]:
        results: list[Result] = []
        if task.variant is not None:
            task.path.parent.mkdir(parents=True, exist_ok=True)
            task.variant.write(task.path)
        facts = self._others.facts(task.path)
        is_known = task.variant is not None and not task.variant.is_approximate
        closeness = task.variant.closeness if task.variant and is_known else closeness_of(facts)
        agreed = agreement([*_scene_reading(task.variant), *self._peer_readings(task.path, facts)], closeness)
        orientation = facts.tiff.orientation if facts.tiff else max(facts.orientation, facts.told_aside)
        if facts.contradiction:
            agreed = Agreement(None, (), facts.contradiction, agreed.whole)
        for reader in OURS if facts.format == "TIFF" else (PHOTOGRAPH,):
            still = facts.told_aside if facts.tiff is None else facts.tiff.orientation if reader == PHOTOGRAPH else 1
            turned = _turned(agreed, still)
            ours = self._ours.read(reader, task.path)
            if task.variant and task.variant.expected is not None and agreed.readers and SCENE not in agreed.readers:
                judged = Judged(
                    "no agreement", note=f"{', '.join(agreed.readers)} read something else than was written"
                )
            else:
                judged = judge(ours, reader, facts, turned, closeness, name=str(task.path))
            told = (judged.verdict, judged.kind, judged.note)
            results.append(Result(task.origin, task.name, facts.format, reader, *told, orientation, key))
        return results

    def _peer_readings(self, path: Path, facts: Facts) -> Iterator[PeerReading]:
        for reader in readers_of(facts):
            reading = self._others.read(reader, path)
            family = FAMILIES_OF_TIFF[reader] if facts.format == "TIFF" else reader
            yield PeerReading(reader, family, reading.pixels, reading.message)


def closeness_of(facts: Facts) -> Closeness:
    """Find out how close readings of a file have to be."""
    if facts.tiff is None:
        return "rounded" if facts.format in _LOSSY_FORMATS else "exact"
    if facts.tiff.subsampling != (1, 1):
        return "subsampled"
    stored = facts.tiff.stored
    is_exact = facts.tiff.compression not in _LOSSY_COMPRESSIONS and stored is not None and stored.is_exact
    return "exact" if is_exact else "rounded"


def _scene_reading(variant: Variant | None) -> Iterator[PeerReading]:
    if variant is not None and variant.expected is not None:
        pixels: NDArray[np.uint8] = variant.expected if variant.stored is None else variant.stored
        yield PeerReading(SCENE, SCENE, pixels, approximate=variant.is_approximate)


def _turned(agreed: Agreement, orientation: int) -> Agreement:
    if agreed.pixels is None:
        return agreed
    return Agreement(upright(agreed.pixels, orientation), agreed.readers, agreed.note, agreed.whole)

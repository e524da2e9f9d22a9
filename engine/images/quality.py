"""What a photograph may suffer from, told from its statistics: flags that warn and change nothing."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from engine.errors import OptionError
from engine.images.statistics import PictureStatistics
from engine.system.settings_files import SettingsError, read_record
from engine.system.text import json_text

_log = logging.getLogger(__name__)

STATISTICS_NAME: Final = "statistics.json"
"""The file of a bundle that holds the statistics of pictures like those that the network is for."""
MOST_PICTURES: Final = 1000
LEAST_PICTURES: Final = 8

BLURRED_ABOVE: Final = 0.65
DARK_BELOW: Final = 64.0
"""A quarter of the range."""
CLIPPED_ABOVE: Final = 0.15
_NOISE_LEVELS: Final = 10.0
"""Colours that differ by less are alike, however alike the pictures of the calibration are."""


class Flag(StrEnum):
    """What a photograph may suffer from."""

    BLURRED = "blurred"
    TOO_DARK = "too dark"
    BLOWN_OUT = "blown out"
    UNLIKE = "unlike the calibration"


@dataclass(frozen=True, slots=True)
class Reference:
    """Statistics of at least `LEAST_PICTURES` pictures like those that a network is for."""

    pictures: tuple[PictureStatistics, ...]
    _limit: float = field(init=False)
    _spread: "_Spread" = field(init=False, compare=False)

    def __post_init__(self) -> None:
        colors = _colors(self.pictures)
        distances = [_spread_of(np.delete(colors, index, axis=0)).distance(each) for index, each in enumerate(colors)]
        object.__setattr__(self, "_limit", max(distances))
        object.__setattr__(self, "_spread", _spread_of(colors))

    def is_unlike(self, statistics: PictureStatistics) -> bool:
        """Tell whether a picture's colours are farther from those of all of them than those of any from the others."""
        (colors,) = _colors([statistics])
        return self._spread.distance(colors) > self._limit


@cache
def _file() -> TypeAdapter[tuple[PictureStatistics, ...]]:
    return TypeAdapter(
        Annotated[tuple[PictureStatistics, ...], Field(min_length=LEAST_PICTURES, max_length=MOST_PICTURES)]
    )


def _colors(pictures: Sequence[PictureStatistics]) -> NDArray[np.float64]:
    return np.array([[*each.mean, *each.deviation] for each in pictures])


def _covariance(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    off = colors - colors.mean(axis=0)
    return off.T @ off / (len(colors) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    """Mean and inverse covariance of colours."""

    mean: NDArray[np.float64]
    inverse: NDArray[np.float64]

    def distance(self, colors: NDArray[np.float64]) -> float:
        """Mahalanobis' distance from the mean."""
        return cv2.Mahalanobis(colors, self.mean, self.inverse)


def _spread_of(colors: NDArray[np.float64]) -> _Spread:
    noise = np.eye(colors.shape[1]) * _NOISE_LEVELS**2
    return _Spread(colors.mean(axis=0), np.asarray(cv2.invert(_covariance(colors) + noise)[1], np.float64))


def flags_of(statistics: PictureStatistics | None, reference: Reference | None = None) -> tuple[Flag, ...]:
    """Judge a photograph, unless it was not measured, as tiles of a raster.

    A limit that pictures of the bundle's reference exceed is moved to the farthest of them.
    """
    if statistics is None:
        return ()
    known = () if reference is None else reference.pictures
    found = {
        Flag.BLURRED: statistics.blur > max([BLURRED_ABOVE, *(each.blur for each in known)]),
        Flag.TOO_DARK: statistics.bright < min([DARK_BELOW, *(each.bright for each in known)]),
        Flag.BLOWN_OUT: statistics.clipped > max([CLIPPED_ABOVE, *(each.clipped for each in known)]),
        Flag.UNLIKE: reference is not None and reference.is_unlike(statistics),
    }
    return tuple(flag for flag, is_raised in found.items() if is_raised)


def statistics_json(pictures: Sequence[PictureStatistics]) -> bytes:
    """Write the statistics of at least `LEAST_PICTURES` pictures as the file of a bundle.

    At most `MOST_PICTURES` are written, evenly spread.
    """
    step = max(1, -(-len(pictures) // MOST_PICTURES))
    return json_text(_file().dump_python(tuple(pictures[::step]), mode="json"), indent=1).encode()


def read_reference(folder: Path) -> Reference | None:
    """Read the statistics that a bundle carries; a file that is none is logged and ignored: no mask depends on it."""
    try:
        return require_reference(folder)
    except OptionError as error:
        _log.warning("%s: no photograph is compared with those of the calibration", error)
        return None


def require_reference(folder: Path) -> Reference | None:
    """Read the statistics that a bundle carries; OptionError if the file cannot be read, or holds something else."""
    path = folder / STATISTICS_NAME
    if not path.is_file():
        return None
    try:
        return Reference(read_record(path, _file()))
    except SettingsError as error:
        raise OptionError(f"{STATISTICS_NAME} is ignored: it {error}") from error

"""Amounts that users write with a unit (memory, lengths, areas), and how figures are written for people."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

LENGTHS_M: Final = {"mm": 0.001, "cm": 0.01, "m": 1.0}
"""Unit of a length to metres."""

MEMORY_PATTERN: Final = r"^([0-9]+(?:\.[0-9]+)?)\s*([kmgtKMGT]?)(?:[iI]?[bB])?$"
"""How an amount of memory is written."""

_AREAS_M2: Final = {"cm2": 1e-4, "m2": 1.0}
_MEMORY_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LEAST_DIGITS: Final = 6
"""Of an area that is written, whatever its unit: the ground of a small quadrat may be less than a square metre."""
_MOST_DIGITS: Final = 16
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-z]+2?)", re.IGNORECASE)


def memory_bytes(text: str) -> int:
    """Read an amount of memory: a number, perhaps with k, m, g or t (powers of 1024), iB or B; else ValueError.

    >>> memory_bytes("1.5GiB"), memory_bytes("800m"), memory_bytes("4096")
    (1610612736, 838860800, 4096)
    """
    found = re.fullmatch(MEMORY_PATTERN, text.strip())
    if found is None:
        raise ValueError("give an amount such as 1.5GiB or 800MiB")
    return round(float(found[1]) * _MEMORY_UNITS[found[2].lower()])


@dataclass(frozen=True, slots=True)
class Extent:
    """A length or an area, in pixels or on the ground."""

    text: str  # as the user wrote it
    pixels: float | None = None
    ground: float | None = None  # in metres or square metres

    def __str__(self) -> str:
        return self.text


def parse_area(text: str) -> Extent:
    """Read an area, a number with px, cm2 or m2 behind it; ValueError if it is something else, 0, or above 10¹².

    >>> parse_area("50px").pixels, parse_area("0.5m2").ground
    (50.0, 0.5)
    """
    return _extent(text, _AREAS_M2, 1e12, "give an area with its unit, such as 50px, 2cm2 or 0.5m2")


def parse_length(text: str) -> Extent:
    """Read a length, a number with px, mm, cm or m behind it; ValueError if it is something else, 0, or above 10⁶.

    >>> parse_length("2px").pixels, parse_length("5cm").ground
    (2.0, 0.05)
    """
    return _extent(text, LENGTHS_M, 1e6, "give a length with its unit, such as 2px or 0.05m")


def rounded_area(area: float, decimals: int) -> float:
    """Round an area to so many decimals, or to six digits where that keeps more of it.

    >>> rounded_area(1472.39531, 4), rounded_area(0.00035123456, 4), rounded_area(0.0, 4)
    (1472.3953, 0.000351235, 0.0)
    """
    return round(area, max(decimals, _LEAST_DIGITS - 1 - math.floor(math.log10(area))) if area > 0 else decimals)


def shown_cm2(area_cm2: float) -> str:
    """Write square centimetres for people: whole ones from 10 on, three digits below.

    >>> shown_cm2(1812.4), shown_cm2(0.01234), shown_cm2(0)
    ('1812 cm²', '0.0123 cm²', '0 cm²')
    """
    return f"{area_cm2:.0f} cm²" if area_cm2 >= 10 else f"{area_cm2:.3g} cm²"


def shown_percent(share: float) -> str:
    """Write a share, 0–1, to a tenth of a percent, without making little into nothing or nearly all into all.

    >>> [shown_percent(share) for share in (0, 0.0004, 0.4321, 0.9996, 1)]
    ['0.0%', '<0.1%', '43.2%', '>99.9%', '100.0%']
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def shown_figure(value: float, digits: int) -> str:
    """Write a figure with so many digits behind the point, without making little into nothing.

    >>> [shown_figure(value, 1) for value in (0, 0.04, 0.6, -0.04)]
    ['0.0', '<0.1', '0.6', '>-0.1']
    """
    text = f"{value:z.{digits}f}"
    if value == 0 or float(text) != 0:
        return text
    return f"{'<' if value > 0 else '>-'}{10**-digits:.{digits}f}"


def shown_fraction(value: float, digits: int) -> str:
    """Write a figure from 0 to 1 as `shown_figure` does, without making nearly 1 into 1.

    >>> [shown_fraction(value, 4) for value in (0.00004, 0.5, 0.99996, 1)]
    ['<0.0001', '0.5000', '>0.9999', '1.0000']
    """
    text = shown_figure(value, digits)
    return f">{1 - 10**-digits:.{digits}f}" if value < 1 and text == f"{1:.{digits}f}" else text


def shown_beside(value: float, limit: float, digits: int) -> str:
    """Write a figure beside a limit that it misses: with more digits where it would seem to keep the limit.

    >>> shown_beside(100.04, 100, 1), shown_beside(0.96999, 0.97, 4), shown_beside(0.9, 0.97, 4)
    ('100.04', '0.96999', '0.9000')
    """
    for more in range(digits, _MOST_DIGITS):
        text = f"{value:.{more}f}"
        if (float(text) > limit, float(text) < limit) == (value > limit, value < limit):
            return text
    return str(value)


def _extent(text: str, units: Mapping[str, float], largest: float, advice: str) -> Extent:
    found = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) <= largest:
        raise ValueError(advice)
    number, unit = float(found[1]), found[2].lower()
    if unit == "px":
        return Extent(text.strip(), pixels=number)
    if unit not in units:
        raise ValueError(advice)
    return Extent(text.strip(), ground=number * units[unit])

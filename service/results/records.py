"""Records that were written earlier, read with types and bounds: others may have edited the file that they come from.

A record is a line of `--json`. What does not have the form that `service.results.pictures.result_record` writes is
refused by the name of its field, so that whoever shows it, adds it up or names files by it need not look again.
"""

import math
from collections.abc import Sequence
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Final, cast

from engine import Provenance

MOST_IMAGES: Final = 10_000_000
"""Of a collection: ten times what one folder was tried with."""

_MOST_CLASSES = 1 << 16
_MOST_FACTS = 256
_LARGEST = 1 << 63
_LONGEST_SIDE_PX = 1 << 31
_RECORD = ("image", "status", "error", "mask", "cover", "provenance", "timings_ms")


class RecordError(ValueError):
    """A field is missing, of another type, or out of range; the message names it."""


def checked_record(record: object) -> dict[str, Any]:
    """Check a record.

    Args:
        record: JSON value.

    Returns:
        The same, with the fields that `service.results.pictures.result_record` writes and no others.

    Raises:
        RecordError: it is something else.
    """
    told = _members(record, "the record", _RECORD, ("network_size", "notes"))
    text(told["image"], "image")
    if told["status"] not in ("ok", "failed"):
        raise RecordError('status is neither "ok" nor "failed"')
    if told["status"] == "ok":
        if told["error"] is not None:
            raise RecordError("error is told of an image that was segmented")
        _check_mask(told["mask"])
        if told.get("network_size") is not None:
            for name, side in _members(told["network_size"], "network_size", ("width", "height")).items():
                whole(side, f"network_size.{name}", 1, _LONGEST_SIDE_PX)
    else:
        if told["mask"] is not None:
            raise RecordError("mask is told of an image that failed")
        for name, value in _members(told["error"], "error", ("type", "message")).items():
            text(value, f"error.{name}")
    for index, each in enumerate(_list(told["cover"], "cover", _MOST_CLASSES)):
        _check_cover(each, f"cover[{index}]")
    for each in _list(told.get("notes", []), "notes", _MOST_FACTS):
        text(each, "notes")
    _check_provenance(told["provenance"])
    for name, value in _facts(told["timings_ms"], "timings_ms").items():
        number(value, f"timings_ms.{name}", 0, math.inf)
    return told


def _check_mask(value: object) -> None:
    mask = _members(value, "mask", ("path", "width", "height"))
    if mask["path"] is not None:
        text(mask["path"], "mask.path")
    for name in ("width", "height"):
        whole(mask[name], f"mask.{name}", 1, _LONGEST_SIDE_PX)


def _check_cover(value: object, where: str) -> None:
    cover = _members(value, where, ("id", "name", "color", "cover"), ("area_m2",))
    text(cover["id"], f"{where}.id")
    text(cover["name"], f"{where}.name")
    color = _list(cover["color"], f"{where}.color", 3)
    if len(color) != 3:
        raise RecordError(f"{where}.color has {len(color)} values in place of red, green and blue")
    for each in color:
        whole(each, f"{where}.color", 0, 255)
    number(cover["cover"], f"{where}.cover", 0, 1)
    if "area_m2" in cover:
        number(cover["area_m2"], f"{where}.area_m2", 0, math.inf)


def _check_provenance(value: object) -> None:
    known = fields(Provenance)
    needed = [each.name for each in known if each.default is MISSING]
    told = _members(value, "provenance", needed, [each.name for each in known if each.name not in needed])
    for name in ("bundle", "model", "runtime", "provider", "precision"):
        text(told[name], f"provenance.{name}")
    for name in ("threads", "streams"):
        whole(told.get(name, 1), f"provenance.{name}", 0, _LARGEST)
    for each in _list(told["fallbacks"], "provenance.fallbacks", _MOST_FACTS):
        text(each, "provenance.fallbacks")
    for name, version in _facts(told["versions"], "provenance.versions").items():
        text(version, f"provenance.versions.{name}")
    if told.get("profile") is not None:
        text(told["profile"], "provenance.profile")
    for name in ("tiling", "averaging"):
        if told.get(name) is not None:
            checked_facts(told[name], f"provenance.{name}")


def checked_facts(value: object, where: str) -> dict[str, Any]:
    """Check what is told by name, such as options.

    Args:
        value: JSON value.
        where: names it in errors.

    Returns:
        Names to texts, finite numbers, truth values, nothing, and lists or mappings of those.

    Raises:
        RecordError: it is something else, or more than a few hundred.
    """
    told = _facts(value, where)
    for name, each in told.items():
        _check_fact(each, f"{where}.{name}", depth=3)
    return told


def _check_fact(value: object, where: str, *, depth: int) -> None:
    if isinstance(value, list) and depth:
        for each in _list(cast("object", value), where, _MOST_FACTS):
            _check_fact(each, where, depth=depth - 1)
    elif isinstance(value, dict) and depth:
        for each in _facts(cast("object", value), where).values():
            _check_fact(each, where, depth=depth - 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number(value, where, -math.inf, math.inf)
    elif value is not None and not isinstance(value, bool):
        text(cast("object", value), where)


def checked_capture(value: object) -> dict[str, Any]:
    """Check when and where a photograph was taken.

    Args:
        value: JSON value.

    Returns:
        What `service.results.pictures.capture_from` takes.

    Raises:
        RecordError: it is something else.
    """
    told = _members(value, "capture", ("taken_at", "latitude_deg", "longitude_deg"))
    if told["taken_at"] is not None:
        try:
            datetime.fromisoformat(text(told["taken_at"], "capture.taken_at"))
        except ValueError as error:
            raise RecordError(f"capture.taken_at is no time ({error})") from error
    for name, most in (("latitude_deg", 90), ("longitude_deg", 180)):
        if told[name] is not None:
            number(told[name], f"capture.{name}", -most, most)
    return told


def text(value: object, where: str) -> str:
    """Check a text.

    Args:
        value: JSON value.
        where: names it in errors.

    Returns:
        The text.

    Raises:
        RecordError: it is none.
    """
    if not isinstance(value, str):
        raise RecordError(f"{where} is no text")
    return value


def file_name(value: object, where: str, *, absolute: bool = False) -> str:
    """Check the name of a file.

    Args:
        value: JSON value.
        where: names it in errors.
        absolute: whether it begins at the root; otherwise it is a name within a folder.

    Returns:
        The name.

    Raises:
        RecordError: it is none, holds a NUL, or, if relative, leads out of its folder.
    """
    name = text(value, where)
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() is not absolute or (not absolute and ".." in path.parts):
        raise RecordError(f"{where} is {name[:80]!r}, which is no {'path' if absolute else 'name'} of a file")
    return name


def whole(value: object, where: str, least: int, most: int) -> int:
    """Check a whole number.

    Args:
        value: JSON value.
        where: names it in errors.
        least: of what is allowed.
        most: of what is allowed.

    Returns:
        The number.

    Raises:
        RecordError: it is none, or out of range.
    """
    if type(value) is not int or not least <= value <= most:
        raise RecordError(f"{where} is no whole number from {least} to {most}")
    return value


def number(value: object, where: str, least: float, most: float) -> float:
    """Check a number.

    Args:
        value: JSON value.
        where: names it in errors.
        least: of what is allowed.
        most: of what is allowed.

    Returns:
        The number.

    Raises:
        RecordError: it is none, is not finite, or is out of range.
    """
    known = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if isinstance(known, int) and abs(known) > _LARGEST:
        known = math.inf
    if not math.isfinite(known) or not least <= known <= most:
        raise RecordError(f"{where} is no finite number from {least} to {most}")
    return known


def _list(value: object, where: str, most: int) -> list[object]:
    if not isinstance(value, list) or len(cast("list[object]", value)) > most:
        raise RecordError(f"{where} is no list of {most} values at most")
    return cast("list[object]", value)


def _facts(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(cast("dict[str, Any]", value)) > _MOST_FACTS:
        raise RecordError(f"{where} is no mapping of {_MOST_FACTS} values at most")
    return cast("dict[str, Any]", value)


def _members(value: object, where: str, needed: Sequence[str], more: Sequence[str] = ()) -> dict[str, Any]:
    told = _facts(value, where)
    lacking = [name for name in needed if name not in told]
    if lacking:
        raise RecordError(f"{where} has no {lacking[0]}")
    odd = [name for name in told if name not in needed and name not in more]
    if odd:
        raise RecordError(f"{where} has the unknown field {odd[0][:80]!r}")
    return told

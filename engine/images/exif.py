"""What EXIF says: which way up, when and where the picture was taken."""

# Damaged EXIF never fails a good picture.

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, SupportsFloat, SupportsInt, TypeVar

import cv2
from PIL import ExifTags, Image

TURNS: dict[int, tuple[int | None, int | None]] = {
    1: (None, None),
    2: (None, 1),
    3: (cv2.ROTATE_180, None),
    4: (None, 0),
    5: (cv2.ROTATE_90_CLOCKWISE, 1),
    6: (cv2.ROTATE_90_CLOCKWISE, None),
    7: (cv2.ROTATE_90_CLOCKWISE, 0),
    8: (cv2.ROTATE_90_COUNTERCLOCKWISE, None),
}
"""What sets each EXIF orientation upright: a rotation, then a flip (0: top to bottom, 1: left to right)."""

_GPS = ExifTags.GPS
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")
_TIME = re.compile(
    r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,]\d*)?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Capture:
    """When and where the camera took the picture, as far as EXIF says it."""

    # `DateTimeOriginal`; aware if the camera also wrote `OffsetTimeOriginal`, else naive local time
    taken_at: datetime | None = None
    latitude_deg: float | None = None  # WGS 84, -90 to 90, north positive
    longitude_deg: float | None = None  # WGS 84, -180 to 180, east positive


def exif_from(block: bytes | None) -> Image.Exif:
    """Parse an EXIF block, if there is one, with or without `Exif` in front."""
    exif = Image.Exif()
    if block:
        or_else(lambda: exif.load(block), None)
    return exif


def orientation_of(exif: Image.Exif, xmp: bytes | None = None) -> int:
    """Read the orientation, whatever number type it is stored as: 1–8, a key of `TURNS`; 1 where nothing else is said.

    The XMP packet counts where EXIF does not say anything.
    """
    orientation = or_else(lambda: _whole_number(exif[ExifTags.Base.Orientation]), None)
    if orientation is None and (found := _XMP_ORIENTATION.search(xmp or b"")):
        orientation = int(found[1])
    return orientation if orientation is not None and orientation in TURNS else 1


def _whole_number(value: str | bytes | SupportsInt) -> int:
    # BYTE and UNDEFINED come as bytes.
    return value[0] if isinstance(value, bytes) else int(value)


def capture_of(exif: Image.Exif) -> Capture:
    """Read when and where a picture was taken."""
    gps: dict[int, Any] = or_else(lambda: exif.get_ifd(ExifTags.IFD.GPSInfo), {})
    return Capture(
        taken_at=or_else(lambda: _taken_at(exif.get_ifd(ExifTags.IFD.Exif)), None),
        latitude_deg=or_else(lambda: _degrees(gps[_GPS.GPSLatitude], gps[_GPS.GPSLatitudeRef], "NS", 90), None),
        longitude_deg=or_else(lambda: _degrees(gps[_GPS.GPSLongitude], gps[_GPS.GPSLongitudeRef], "EW", 180), None),
    )


def _taken_at(tags: Mapping[int, str]) -> datetime:
    """Read `DateTimeOriginal` of the Exif directory, with its offset if there is one that can be read.

    Date and time may also be written with dashes and a `T`, and the time with a fraction, which is dropped, and with an
    offset of its own, which counts where `OffsetTimeOriginal` does not say one. Some telephones count the hour after
    midnight as 24 of the day that has begun.

    >>> _taken_at({0x9003: "2024:06:30 14:05:09", 0x9011: "+02:00"}).isoformat()
    '2024-06-30T14:05:09+02:00'
    >>> _taken_at({0x9003: "2015-08-22T24:08:19.25Z"}).isoformat()
    '2015-08-22T00:08:19+00:00'
    """
    found = _TIME.fullmatch(_text(tags[ExifTags.Base.DateTimeOriginal]))
    if found is None:
        raise ValueError("no time")
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    local = datetime(year, month, day, 0 if hour == 24 else hour, minute, second)
    offset = or_else(lambda: _offset(_text(tags[ExifTags.Base.OffsetTimeOriginal])), None)
    return local.replace(tzinfo=offset or or_else(lambda: _offset(found[7]), None))


def _text(value: str | bytes) -> str:
    text = value.decode("ascii") if isinstance(value, bytes) else value
    return text.split("\0", 1)[0].strip()


def _offset(text: str) -> tzinfo | None:
    return datetime.strptime(text, "%z").tzinfo


def _degrees(angle: Sequence[SupportsFloat], hemisphere: str, hemispheres: str, limit_deg: float) -> float:
    """Turn degrees, minutes and seconds of a hemisphere, by EXIF's letter, into signed degrees.

    ValueError: the angle is not a number or too large, as cameras without a fix write it.

    >>> _degrees((33, 51, 36), "S", "NS", 90)
    -33.86
    """
    degrees, minutes, seconds = (float(part) for part in angle)
    angle_deg = degrees + minutes / 60 + seconds / 3600
    if not 0 <= angle_deg <= limit_deg:  # also true of NaN, which is what 0/0 becomes
        raise ValueError(f"{angle_deg} degrees")
    sign = {hemispheres[0]: 1, hemispheres[1]: -1}[hemisphere.strip(" \0")]
    return sign * angle_deg


def or_else(read: Callable[[], _Value], otherwise: _Value) -> _Value:
    """Read a value that anybody may have written: whatever is wrong with it must not fail a good picture."""
    try:
        return read()
    except Exception:
        return otherwise

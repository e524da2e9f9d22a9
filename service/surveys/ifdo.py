"""Metadata of a survey's pictures as an image FAIR Digital Object (iFDO 2.2.1)."""

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from engine.errors import OptionError
from engine.system.files import open_to_read
from engine.system.settings_files import SettingsError, read_json
from service.surveys.pictures import SurveyClass
from service.surveys.places import PlacedPicture

_VERSION: Final = "v2.2.1"
_TIME: Final = "%Y-%m-%d %H:%M:%S.%f"
_WGS_84: Final = "EPSG:4326"
_HANDLE: Final = "image-handle"
_OF_ITEMS: Final = ("image-datetime", "image-latitude", "image-longitude", "image-altitude-meters")
_REQUIRED: Final = (
    "image-set-name", "image-set-uuid", "image-set-handle", "image-set-ifdo-version", *_OF_ITEMS,
    "image-coordinate-reference-system", "image-coordinate-uncertainty-meters", "image-context", "image-project",
    "image-event", "image-platform", "image-sensor", "image-pi", "image-creators", "image-license", "image-copyright",
    "image-abstract",
)  # fmt: skip
"""Fields that the schema of version 2.2.1 asks a header for."""


def read_header(path: Path) -> dict[str, Any]:
    """Read what people know of a set of pictures; OptionError unless it is a JSON object of iFDO's header fields."""
    try:
        content = read_json(path)
    except SettingsError as error:
        raise OptionError(f"{path}: {error}", option="ifdo_header") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path}: give a JSON object of iFDO's header fields", option="ifdo_header")
    header = cast("dict[str, Any]", content)
    if not isinstance(header.get(_HANDLE, ""), str):
        raise OptionError(f"{path}: {_HANDLE}: give the beginning of an address", option="ifdo_header")
    return header


def ifdo_record(
    pictures: Sequence[PlacedPicture], classes: Sequence[SurveyClass], header: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Describe pictures as JSON values, and say what these lack.

    That is, fields that iFDO asks for, and how many pictures have no file any more. What people know of the pictures
    (`header`) counts before what is found here; `image-handle` is the beginning of the address of each picture.
    """
    folder = os.path.commonpath([Path(each.picture.path).parent for each in pictures])
    items: dict[str, dict[str, Any]] = {}
    digests = {file: _digest_of(file) for file in dict.fromkeys(each.picture.file for each in pictures)}
    unreadable = 0
    for each in pictures:
        name, file = (Path(os.path.relpath(path, folder)).as_posix() for path in (each.picture.path, each.picture.file))
        handle = header.get(_HANDLE)
        address = None if handle is None else f"{handle}{quote(file, errors='surrogateescape')}"
        items[name] = _item(each, address, digests[each.picture.file])
        unreadable += "image-hash-sha256" not in items[name]
    models = sorted({each.picture.entry.record["provenance"]["model"] for each in pictures})
    # Of names and pictures: two dives may have the same names.
    named = "\0".join(f"{name}\0{item.get('image-uuid', '')}" for name, item in items.items())
    found = {
        "image-set-uuid": _uuid_of(hashlib.sha256(named.encode(errors="surrogateescape")).digest()),
        "image-set-ifdo-version": _VERSION,
        "image-coordinate-reference-system": _WGS_84,
        "image-acquisition": "photo",
        "image-annotation-labels": [{"id": each.id, "name": each.name, "info": each.name} for each in classes],
        "image-annotation-creators": [{"id": model, "name": "pseg", "type": "AI"} for model in models],
    }
    # The header holds a default of each field, which those of the pictures take the place of.
    for name in _OF_ITEMS:
        values = [item[name] for item in items.values() if name in item]
        found |= {name: values[0]} if len(values) == len(items) else {}
    record = found | {name: value for name, value in header.items() if name != _HANDLE}
    lacking = [name for name in _REQUIRED if name not in record]
    lacking += [] if _HANDLE in header else [_HANDLE]
    notes = [f"iFDO asks for {', '.join(lacking)}: add them with --ifdo-header"] if lacking else []
    if unreadable:
        notes.append(f"{unreadable} pictures cannot be read, so that the iFDO has no checksums of them")
    return {"image-set-header": record, "image-set-items": items}, notes


def _item(placed: PlacedPicture, address: str | None, digest: bytes | None) -> dict[str, Any]:
    capture, depth = placed.picture.capture, placed.place.depth
    taken_at = capture.taken_at
    known = {
        "image-uuid": None if digest is None else _uuid_of(_of_page(digest, placed.picture.page)),
        "image-hash-sha256": None if digest is None else digest.hex(),
        _HANDLE: address,
        # Only with its offset is the time of a camera one in UTC.
        "image-datetime": taken_at.astimezone(UTC).strftime(_TIME) if taken_at and taken_at.tzinfo else None,
        "image-latitude": capture.latitude_deg,
        "image-longitude": capture.longitude_deg,
        "image-altitude-meters": None if depth is None else -depth,
    }
    return {field: value for field, value in known.items() if value is not None}


def _of_page(digest: bytes, page: int | None) -> bytes:
    """The digest of a file is that of its picture, but pages are items of their own."""
    return digest if page is None else hashlib.sha256(digest + str(page).encode()).digest()


def _digest_of(path: Path) -> bytes | None:
    try:
        with open_to_read(path) as file:
            return hashlib.file_digest(cast("Any", file), "sha256").digest()
    except OSError:
        return None


def _uuid_of(digest: bytes) -> str:
    """The same for the same content, in the form of a random one, which iFDO asks for."""
    return str(uuid.UUID(bytes=digest[:16], version=4))

"""What artifacts, images and results are called on the platform, and how names of files are derived from that."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from engine.system.text import legible
from service.results.pictures import short_stem

ARTIFACT_URN = "urn:ivcap:artifact:"

# What separates the parts of a path on some system, controls a terminal, breaks a line or turns its direction.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069/\\:*?\"<>|]+")
# Of devices on Windows, whatever follows a point.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.IGNORECASE)
_URN_REST = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff/\\?#%]{1,1000}(?<!:)")


@dataclass(frozen=True, slots=True)
class ArtifactName:
    """What an image or a bundle is called: by its URN, `urn:file://…` for a local file, and by people.

    The label is the file name, or where there is none, the URN.
    """

    urn: str
    label: str


def address_path(address: str) -> str:
    """Take the path, between host and query, out of an address, whatever else of it is wrong.

    >>> address_path("https://host:80/a/b%20c.png?version=2#top"), address_path("https://["), address_path("file:///a")
    ('/a/b%20c.png', '', '/a')
    """
    _, slash, path = re.split(r"[?#]", address.partition("://")[2], maxsplit=1)[0].partition("/")
    return slash + path


def product_stem(label: str) -> str:
    """Derive the stem of a product's name from its source, as every system takes it; at most 180 bytes.

    >>> product_stem("dive 1/GOPR0247.JPG"), product_stem("https://host/a/b%20c.png?version=2")
    ('GOPR0247', 'b c')
    >>> product_stem("urn:ivcap:artifact:0197-aa"), product_stem(".."), product_stem("nul.tar.png")
    ('0197-aa', 'image', '_nul.tar')
    """
    if "://" in label:
        label = unquote(address_path(label.removeprefix("urn:")))
    name = label.rstrip("/").replace("\\", "/").rpartition("/")[2]
    if name.startswith("urn:"):
        stem = name.rpartition(":")[2]
    else:
        stem = PurePosixPath(name).stem if name.strip(".") else ""
    stem = _UNSAFE.sub("_", stem).strip()
    stem = short_stem(legible(stem))
    if _RESERVED.match(stem):
        stem = f"_{stem}"
    return stem if stem.strip(".") else "image"


def is_platform_urn(name: str, prefix: str) -> bool:
    """Tell whether a name is a URN of the platform and nothing else besides: no path, no query, no second line.

    >>> is_platform_urn("urn:ivcap:artifact:7", ARTIFACT_URN), is_platform_urn("urn:ivcap:artifact:../7", ARTIFACT_URN)
    (True, False)
    """
    return name.startswith(prefix) and _URN_REST.fullmatch(name.removeprefix(prefix)) is not None

"""The formats that are read: suffixes, by which a folder's pictures are found, and first bytes, which decide."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

HEIF_SUFFIXES: frozenset[str] = frozenset({".heic", ".heif", ".hif"})
"""Suffixes of pictures that need the extra `heif`, in lower case."""

IMAGE_SUFFIXES: frozenset[str] = HEIF_SUFFIXES.union(
    ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .bmp .avif .jp2 .j2k .jpf .jpx".split()
)
"""Suffixes by which a folder's pictures are told from its other files, in lower case."""

DEFAULT_MAX_PIXELS = 200_000_000
"""Limit for a picture that must be decoded whole."""

PREFIX_BYTES = 512
"""So many bytes of a file's start tell what it is."""

FORMATS = "JPEG, PNG, TIFF, WebP, BMP, HEIC, AVIF or JPEG 2000"
TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
HEIF = re.compile(rb".{4}ftyp(?:he[iv][cmsx]|m(?:if1|sf1)(?!(?:.{4}){1,20}avi[fs]))", re.DOTALL)
DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb".{4}ftyp(?:avi[fs]|m(?:if1|sf1)(?:.{4}){1,20}avi[fs])", re.DOTALL), AvifImageFile),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), Jpeg2KImageFile),
)

RAW_SUFFIXES: frozenset[str] = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw "
    ".rw2 .rwl .sr2 .srf .srw .x3f".split()
)
"""Suffixes of cameras' raw files, in lower case."""


@dataclass(frozen=True, slots=True)
class ForeignKind:
    """A kind of file that is not read."""

    name: str  # what it is, with an article
    advice: str  # what to do about it
    is_picture: bool  # whether people mean a picture by it


_SAVE = "save it as PNG or JPEG"
_FETCH = "it stands for a picture that is not here: fetch it with"
_FLOATS = "scale it to 8 or 16 bit and save it as PNG or TIFF"

RAW_FILE = ForeignKind("a raw file of a camera", "export it as JPEG or TIFF", is_picture=True)

_PICTURES: Mapping[bytes, tuple[str, str]] = {
    rb"GIF8[79]a": ("a GIF picture", _SAVE),
    rb"8BPS": ("a Photoshop document", _SAVE),
    rb"gimp xcf": ("a GIMP document", _SAVE),
    rb"\xff\x0a|\0\0\0\x0cJXL ": ("a JPEG XL picture", _SAVE),
    rb"II\xbc": ("a JPEG XR picture", _SAVE),
    rb"P[1-7][\s#]": ("a Netpbm picture", _SAVE),
    rb"\0\0[\x01\x02]\0[^\0]": ("an icon", _SAVE),
    rb"v/1\x01|#\?RADIANCE": ("a picture of floating point (OpenEXR, Radiance)", _FLOATS),
    rb"SIMPLE  =": ("a FITS picture", _FLOATS),
    rb"FUJIFILMCCD-RAW|FOVb|IIU\0|IIR[OS]|MMOR|\0MRM|.{4}ftypcrx": (RAW_FILE.name, RAW_FILE.advice),
}
_NO_PICTURES: Mapping[bytes, tuple[str, str]] = {
    rb".{4}ftyp|.{4}(?:moov|mdat|wide)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ": ("a film", "save single pictures of it"),
    rb"%PDF": ("a PDF document", "save its pictures as PNG or JPEG"),
    rb"\s*<svg|\s*<\?xml[^>]*>.{0,300}<svg": ("a drawing (SVG)", _SAVE),
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype )?html": (
        "a web page (HTML), perhaps the error page of a download",
        "download the picture again",
    ),
    rb"version https://git-lfs\.": ("a pointer of Git LFS", f"{_FETCH} `git lfs pull`"),
    rb"[^\n]{0,400}/annex/objects/": ("a pointer of git-annex", f"{_FETCH} `git annex get`"),
    rb"\x1f\x8b|PK\x03\x04|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|.{257}ustar": (
        "an archive, perhaps a model bundle",
        "unpack it and name the pictures in it",
    ),
    rb"\x93NUMPY": ("a NumPy array", _SAVE),
}


def foreign_kind(prefix: bytes) -> ForeignKind | None:
    """Recognise files that people take for pictures, or that are pictures in formats that are not read."""
    for patterns, is_picture in ((_PICTURES, True), (_NO_PICTURES, False)):
        for pattern, (name, advice) in patterns.items():
            if re.match(pattern, prefix, re.DOTALL | re.IGNORECASE):
                return ForeignKind(name, advice, is_picture)
    return None


def is_readable_kind(prefix: bytes) -> bool:
    """Tell whether first bytes are of a format that is read; not of BMP, whose two letters begin texts, too."""
    decoded = [signature for signature, decoder in DECODERS if decoder is not BmpImageFile]
    return any(signature.match(prefix) for signature in (HEIF, TIFF, *decoded))

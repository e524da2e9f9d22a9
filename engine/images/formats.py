"""The formats that are read: suffixes, by which a folder's pictures are found, and first bytes, which decide."""

import re

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

HEIF_SUFFIXES: frozenset[str] = frozenset({".heic", ".heif", ".hif"})
"""Suffixes of pictures that need the extra `heif`, in lower case."""

IMAGE_SUFFIXES: frozenset[str] = HEIF_SUFFIXES | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp"),
    *(".avif", ".jp2", ".j2k", ".jpf", ".jpx"),
}
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
    {
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc"),
        *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf"),
        *(".srw", ".x3f"),
    }
)
"""Suffixes of cameras' raw files, in lower case."""

RAW_FILE = "a raw file of a camera", "export it as JPEG or TIFF"
_SAVE = "save it as PNG or JPEG"
_FETCH = "it stands for a picture that is not here: fetch it with"

_OTHERS: tuple[tuple[re.Pattern[bytes], tuple[str, str]], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what)
    for pattern, what in (
        (rb"GIF8[79]a", ("a GIF picture", _SAVE)),
        (rb"8BPS", ("a Photoshop document", _SAVE)),
        (rb"gimp xcf", ("a GIMP document", _SAVE)),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", ("a JPEG XL picture", _SAVE)),
        (rb"II\xbc", ("a JPEG XR picture", _SAVE)),
        (rb"P[1-7][\s#]", ("a Netpbm picture", _SAVE)),
        (rb"\0\0[\x01\x02]\0[^\0]", ("an icon", _SAVE)),
        (rb"v/1\x01|#\?RADIANCE", ("a picture of floating point (OpenEXR, Radiance)", "scale it to 8 or 16 bit PNG")),
        (rb"SIMPLE  =", ("a FITS picture", "scale it to 8 or 16 bit PNG or TIFF")),
        (rb"FUJIFILMCCD-RAW|FOVb|IIU\0|IIR[OS]|MMOR|\0MRM|.{4}ftypcrx", RAW_FILE),
        (rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", ("a film", "save single pictures of it")),
        (rb"%PDF", ("a PDF document", "save its pictures as PNG or JPEG")),
        (rb"\s*<svg|\s*<\?xml[^>]*>.{0,300}<svg", ("a drawing (SVG)", _SAVE)),
        (
            rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype )?html",
            ("a web page (HTML), perhaps the error page of a download", "download the picture again"),
        ),
        (rb"version https://git-lfs\.", ("a pointer of Git LFS", f"{_FETCH} `git lfs pull`")),
        (rb"[^\n]{0,400}/annex/objects/", ("a pointer of git-annex", f"{_FETCH} `git annex get`")),
        (
            rb"\x1f\x8b|PK\x03\x04|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|.{257}ustar",
            ("an archive, perhaps a model bundle", "name pictures behind the bundle, or unpack it"),
        ),
        (rb"\x93NUMPY", ("a NumPy array", _SAVE)),
    )
)


def foreign_kind(prefix: bytes) -> tuple[str, str] | None:
    """Recognise files that people take for pictures, or that are pictures in formats that are not read.

    Args:
        prefix: the first `PREFIX_BYTES` of a file.

    Returns:
        What it is, with an article, and what to do about it; None where it is not known.
    """
    return next((what for pattern, what in _OTHERS if pattern.match(prefix)), None)

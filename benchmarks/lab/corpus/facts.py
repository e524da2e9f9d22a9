"""What a file says of itself, found out without the engine: what may be refused is decided by it."""
# tifffile and pyvips ship no type information that is complete.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import logging
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus.rules import BT601, FULL_RANGE, Model, Stored

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff(?!\xf7)",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WebP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM",
    "AVIF": rb".{4}ftyp(avif|avis|.{8}.{0,16}avif)",
    "HEIC": rb".{4}ftyp(hei[cxms]|hevc|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "GIF": rb"GIF8[79]a",
}
_MODELS: dict[int, Model] = {
    0: "white is zero", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab",
}  # fmt: skip
_HEAD_BYTES = 4096
_BMP_HEAD_BYTES = 66
_REDUCED_OR_MASK = 0b101
_OLD_REDUCED = 2
_UNUSUAL_COLORS = rb"pclr|cdef|colr\x01..(?!\0\0\0[\x10\x11])"
_ALPHA = frozenset({1, 2})
_PLACES = (33550, 33922, 34264, 34735)
"""Tags that place a picture on the earth: scale, points, transform, keys."""


@dataclass(frozen=True, slots=True)
class TiffFacts:
    """What the tags of a TIFF's picture say; photometric and compression are TIFF's numbers.

    `states_bands`: the file says how many samples a pixel has. `kinds` are types of samples: 1 unsigned, 2 signed, 3
    float, 5 and 6 complex, 4 undefined; `extra` are 0 unspecified, 1 associated, 2 unassociated alpha. `orientation` is
    as it stands in the tag; 1 where there is none, or a place on the earth says how the picture lies. `subsampling` is
    horizontal and vertical; `stored` is None for nothing that the rules know.
    """

    bands: int
    states_bands: bool
    bits: tuple[int, ...]
    kinds: frozenset[int]
    photometric: int | None
    compression: int
    extra: tuple[int, ...]
    orientation: int
    pages: int
    is_tiled: bool
    subsampling: tuple[int, int]
    stored: Stored | None

    @property
    def alphas(self) -> int:
        return sum(each in _ALPHA for each in self.extra)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file is, by its first bytes; `another` where they say nothing that is known here, `empty` for no bytes.

    - `depths`: bits of each band of a JPEG or JPEG 2000 file (of a JPEG: once), negative if values are signed.
    - `has_unusual_colors`: of a JPEG 2000 file whose header holds a palette, names its bands, or states colours that
      are neither sRGB nor grey.
    - `orientation`: of a picture that is no TIFF, as libvips reads it from EXIF; 1 where there is none.
    - `told_aside`: an orientation that stands where no other reader looks: in XMP, or in a text of a PNG that holds
      EXIF; it counts where EXIF has none.
    - `quarter_turns`: of a HEIC or AVIF, counter-clockwise (`irot`), which libvips and this project apply.
    - `mirror`: of a HEIC or AVIF, after the turns: 0 exchanges top and bottom, 1 left and right (`imir`).
    - `masks`: of a BMP whose samples lie where bit masks say, for red, green and blue.
    - `is_usual`: of a BMP: its header, depth, palette and compression are some that Windows writes.
    - `contradiction`: between parts of a BMP's header, in words.
    """

    format: str
    tiff: TiffFacts | None = None
    depths: tuple[int, ...] = ()
    has_unusual_colors: bool = False
    orientation: int = 1
    told_aside: int = 1
    quarter_turns: int = 0
    mirror: int | None = None
    masks: tuple[int, int, int] | None = None
    is_usual: bool = True
    contradiction: str = ""


def facts_of(path: Path) -> Facts:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return Facts("empty")
    form = next((name for name, mark in _SIGNATURES.items() if re.match(mark, head, re.DOTALL)), "another")
    match form:
        case "TIFF":
            return Facts(form, _tiff_facts(path))
        case "BMP":
            return _bmp_facts(head)
        case "another" | "GIF":
            return Facts(form)
        case _:
            pass
    orientation = _orientation_by_libvips(path)
    is_heif = form in {"AVIF", "HEIC"}
    turns = re.search(rb"irot(.)", head, re.DOTALL) if is_heif else None
    mirror = re.search(rb"imir(.)", head, re.DOTALL) if is_heif else None
    return Facts(
        form,
        depths=_depths(form, head),
        has_unusual_colors=form == "JPEG 2000" and re.search(_UNUSUAL_COLORS, head, re.DOTALL) is not None,
        orientation=orientation,
        # How a HEIC or an AVIF lies, its container says.
        told_aside=1 if orientation != 1 or is_heif else _orientation_told_aside(form, path.read_bytes()),
        quarter_turns=turns[1][0] & 3 if turns else 0,
        mirror=mirror[1][0] & 1 if mirror else None,
    )


def _depths(form: str, head: bytes) -> tuple[int, ...]:
    if form == "JPEG":
        frame = re.search(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..(.)", head, re.DOTALL)
        return (frame[1][0],) if frame else ()
    size = re.search(rb"\xff\x4f\xff\x51.{36}(..)", head, re.DOTALL) if form == "JPEG 2000" else None
    if size is None:
        return ()
    bands = int.from_bytes(size[1], "big")
    return tuple(
        (depth & 0x7F) + 1 if depth < 0x80 else -(depth & 0x7F) - 1
        for depth in head[size.end() : size.end() + 3 * bands : 3]
    )


def _orientation_told_aside(form: str, content: bytes) -> int:
    told = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])", content)
    if told is None and form == "PNG":
        # The entry of tag 0x0112 with one value of type SHORT or LONG, in either byte order.
        entry = rb"\x01\x12\0[\x03\x04]\0\0\0\x01\0([\x01-\x08])|\x12\x01[\x03\x04]\0\x01\0\0\0([\x01-\x08])"
        told = re.search(entry, _exif_in_text(content))
        return (told[1] or told[2])[0] if told else 1
    return int(told[1]) if told else 1


def _exif_in_text(png: bytes) -> bytes:
    """Unpack the EXIF that ImageMagick and others write as hexadecimal text into a chunk of a PNG."""
    chunk = re.search(rb"(.{4})(tEXt|zTXt)Raw profile type (?:exif|APP1)\0", png, re.DOTALL)
    if chunk is None:
        return b""
    text = png[chunk.end() : chunk.start(2) + 4 + int.from_bytes(chunk[1], "big")]
    try:
        text = zlib.decompress(text[1:]) if chunk[2] == b"zTXt" else text
        return bytes.fromhex(text.split(b"\n", 3)[3].decode("ascii"))
    except (zlib.error, ValueError, IndexError):
        return b""


def _bmp_facts(head: bytes) -> Facts:
    if len(head) < _BMP_HEAD_BYTES:
        return Facts("BMP")
    offset, header = struct.unpack_from("<I", head, 10)[0], struct.unpack_from("<I", head, 14)[0]
    if header < 40:
        return Facts("BMP", is_usual=header == 12)
    bits, compression, _, _, _, colors = struct.unpack_from("<HIIIII", head, 28)
    palette = 4 * (colors or 1 << bits) if bits <= 8 else 0
    masks = struct.unpack_from("<III", head, 54) if compression in {3, 6} and bits in {16, 32} else None
    is_usual = header in {40, 52, 56, 64, 108, 124} and bits in {1, 4, 8, 16, 24, 32} and compression < 4
    contradiction = "the pixels are said to start inside of the palette" if offset < 14 + header + palette else ""
    return Facts("BMP", masks=masks, is_usual=is_usual and colors <= 256, contradiction=contradiction)


def _tiff_facts(path: Path) -> TiffFacts | None:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = main_page(tiff)
            tags = page.tags
            extra = _numbers(tags.valueof(338))
            bits = _numbers(tags.valueof(258, 1))
            photometric = tags.valueof(262)
            return TiffFacts(
                int(page.samplesperpixel),
                277 in tags,
                bits,
                frozenset(_numbers(tags.valueof(339, 1))),
                None if photometric is None else int(photometric),
                int(page.compression),
                extra,
                1 if any(tag in tags for tag in _PLACES) else _orientation(tags.valueof(274, 1)),
                len(tiff.pages),
                bool(page.is_tiled),
                _subsampling(page),
                _meaning(page, bits, extra),
            )
    except Exception:  # tifffile states no closed set of exceptions
        return None


def main_page(tiff: Any) -> Any:  # noqa: ANN401 (tifffile's types)
    """Find the picture of a TIFF: the first directory that is neither a reduced picture nor a mask, or one below it."""
    below: list[Any] = []
    for page in tiff.pages:
        page = page.aspage()
        if not _is_reduced(page):
            return page
        below += [each.aspage() for each in page.pages or ()]
    return next((each for each in below if not _is_reduced(each)), tiff.pages[0])


def _is_reduced(page: Any) -> bool:  # noqa: ANN401 (tifffile's types)
    new, old = page.tags.valueof(254, 0), page.tags.valueof(255, 0)
    return bool(int(new) & _REDUCED_OR_MASK) or int(old) == _OLD_REDUCED


def _meaning(page: Any, bits: tuple[int, ...], extra: tuple[int, ...]) -> Stored | None:  # noqa: ANN401 (tifffile's types)
    photometric = page.tags.valueof(262, 1)
    model = _MODELS.get(int(photometric))
    if model == "grey" and page.samplesperpixel - sum(each in _ALPHA for each in extra) == 3:
        model = "RGB"  # three bands that do not say what they are
    if model is None or len(set(bits)) != 1 or not 1 <= bits[0] <= 16:
        return None
    stored = Stored(model, bits[0], premultiplied=extra[:1] == (1,))
    if model == "palette":
        colors = page.colormap
        return None if colors is None else Stored(model, bits[0], colors=np.asarray(colors))
    if model == "YCbCr":
        shares, reference = _rationals(page.tags.valueof(529)), _rationals(page.tags.valueof(532))
        red, green, blue = shares if len(shares) == 3 else BT601
        return Stored(
            model, bits[0], coefficients=(red, green, blue), reference=reference if len(reference) == 6 else FULL_RANGE
        )
    return stored


def _numbers(value: Any) -> tuple[int, ...]:  # noqa: ANN401 (whatever a tag holds)
    if value is None:
        return ()
    return tuple(int(each) for each in value) if isinstance(value, tuple | list | np.ndarray) else (int(value),)


def _rationals(value: Any) -> tuple[float, ...]:  # noqa: ANN401 (whatever a tag holds)
    if value is None:
        return ()
    numbers: NDArray[Any] = np.asarray(value, np.float64).reshape(-1, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return tuple(float(each) for each in numbers[:, 0] / numbers[:, 1])


def _orientation(value: Any) -> int:  # noqa: ANN401 (whatever a tag holds)
    numbers = _numbers(list(value) if isinstance(value, bytes) else value)
    return numbers[0] if numbers and 1 <= numbers[0] <= 8 else 1


def _orientation_by_libvips(path: Path) -> int:
    import pyvips

    try:
        image: Any = pyvips.Image.new_from_file(str(path))
        return int(image.get("orientation")) if "orientation" in image.get_fields() else 1
    except pyvips.Error:
        return 1


def _subsampling(page: Any) -> tuple[int, int]:  # noqa: ANN401 (tifffile's types)
    if page.tags.valueof(262) != 6:
        return 1, 1
    across, down = _numbers(page.tags.valueof(530, (2, 2)))
    return across, down

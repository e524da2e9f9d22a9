"""What our readers may refuse, kind by kind, with the reason: written before a run, and what a run is held against."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.lab.corpus.facts import Facts, TiffFacts

Path = Literal["photograph", "raster"]
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED, _COMPLEX = 1, 2, 3, 4, frozenset({5, 6})
_CODECS_OF_FEW = {
    34661: "JBIG", 34712: "JPEG 2000", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34933: "PNG",
    34934: "JPEG XR", 22610: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL", 34892: "lossy JPEG of DNG",
    32809: "ThunderScan", 32766: "NeXT", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 32909: "PixarLog",
    6: "JPEG of TIFF 6.0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kind of file that some of our readers may refuse; `message` is a regular expression, whatever the case."""

    kind: str
    reason: str
    applies: Callable[[Facts], bool]
    message: str
    readers: tuple[Path, ...] = ("photograph", "raster")

    def fits(self, facts: Facts, message: str, reader: str) -> bool:
        return reader in self.readers and self.applies(facts) and bool(re.search(self.message, message, re.IGNORECASE))


def _tiff(tells: Callable[[TiffFacts], bool]) -> Callable[[Facts], bool]:
    return lambda facts: facts.tiff is not None and tells(facts.tiff)


def _odd_bands(tiff: TiffFacts) -> bool:
    return tiff.bands - tiff.alphas not in ({4} if tiff.photometric == 5 else {1, 3}) or tiff.alphas > 1


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "another format",
        "JPEG, PNG, TIFF, WebP, BMP, HEIC, AVIF and JPEG 2000 are read, others have to be converted",
        lambda facts: facts.format in {"GIF", "another"},
        r"is (an?|not an?|no) .*(which is not read|file)|JPEG-LS, which is not read",
    ),
    Refusal(
        "JPEG of more than 8 bit",
        "12 and 16 bit, mostly without loss: parts of raw files and of medical pictures",
        lambda facts: facts.format == "JPEG" and max(facts.depths, default=8) > 8,
        r"JPEG of \d+ bit",
    ),
    Refusal(
        "JPEG 2000 of other bands or depths",
        "neither grey nor RGB, with an alpha at most, in bands of at most 16 bit that are all alike and not signed",
        lambda facts: (
            facts.format == "JPEG 2000"
            and (not 1 <= len(facts.depths) <= 4 or len(set(facts.depths)) > 1 or not 0 < facts.depths[0] <= 16)
        ),
        r"\bbands?\b|\bsigned\b|\bcolours of\b",
    ),
    Refusal(
        "JPEG 2000 with colours of few",
        "a palette, bands in another order, or colours that are neither grey nor RGB, which decoders ignore",
        lambda facts: facts.has_unusual_colors,
        r"\bbands in another order\b|\bpalettes of\b|\bcolours of the kind\b",
    ),
    Refusal(
        "BMP with masks of few",
        "colours at other bits than those that Windows writes",
        lambda facts: facts.masks is not None,
        r"bit ?(fields|masks?)|Unsupported BMP compression",
    ),
    Refusal(
        "BMP as Windows does not write them",
        "other headers, depths, palettes or compressions",
        lambda facts: facts.format == "BMP" and not facts.is_usual,
        r"kind that is not read \(Unsupported BMP",
    ),
    Refusal("empty file", "there is nothing to read", lambda facts: facts.format == "empty", r"is empty|0 bytes"),
    Refusal(
        "float",
        "values without a stated range",
        _tiff(lambda tiff: _FLOAT in tiff.kinds),
        r"float.*(no stated range|scale)|no stated range",
    ),
    Refusal(
        "complex numbers",
        "values without a stated range",
        _tiff(lambda tiff: bool(_COMPLEX & tiff.kinds)),
        r"complex",
    ),
    Refusal(
        "signed integers",
        "values without a stated range",
        _tiff(lambda tiff: _SIGNED in tiff.kinds),
        r"(signed|int\d+).*(no stated range|scale)|no stated range",
    ),
    Refusal(
        "integers of more than 16 bit",
        "values without a stated range",
        _tiff(lambda tiff: max(tiff.bits, default=1) > 16),
        r"(32|64|int\d+|24|\b\d\d bit).*(no stated range|scale)|no stated range",
    ),
    Refusal(
        "values of different depths",
        "bands of one picture that have different ranges",
        _tiff(lambda tiff: len(set(tiff.bits)) > 1),
        r"bit|depth",
    ),
    Refusal(
        "number of bands",
        "neither grey, RGB nor CMYK, with an alpha at most: the user has to say which bands are the colours",
        _tiff(_odd_bands),
        r"\bbands?\b",
    ),
    Refusal(
        "YCbCr that does not say of how many bands",
        "TIFF's default is one, which YCbCr cannot have",
        _tiff(lambda tiff: tiff.photometric == 6 and not tiff.states_bands),
        r"YCbCr with \d+ bands",
    ),
    Refusal(
        "YCbCr in tiles without compression",
        "GDAL refuses those whose bytes are no multiple of 1024",
        _tiff(lambda tiff: tiff.photometric == 6 and tiff.compression == 1 and tiff.is_tiled),
        r"YCbCr.*compress",
    ),
    Refusal(
        "YCbCr subsampled four by four",
        "GDAL, as every reader by libtiff's RGBA interface, puts the last columns of a block wrong",
        _tiff(lambda tiff: tiff.subsampling == (4, 4)),
        r"subsampl",
    ),
    Refusal(
        "CMYK as raster",
        "four bands of ink: the user has to say which bands are the colours",
        _tiff(lambda tiff: tiff.photometric == 5),
        r"\bbands?\b|cmyk|ink",
        ("raster",),
    ),
    Refusal(
        "colour models of few",
        "CIELab of 16 bit, LogLuv, colour filter arrays and others that TIFF allows",
        _tiff(
            lambda tiff: (
                tiff.photometric not in {0, 1, 2, 3, 5, 6, None}
                or (tiff.photometric in {6, 5} and max(tiff.bits, default=8) > 8)
            )
        ),
        r"lab|photometric|colou?r (model|space|filter)|logluv|logarithmic|mask|ycbcr|cmyk|have \d+ bit|raw data",
    ),
    Refusal(
        "palette without colours",
        "the file says palette and has no colour map",
        _tiff(lambda tiff: tiff.photometric == 3 and tiff.stored is None),
        r"palette|colou?r ?map",
    ),
    Refusal(
        "compressed by a method of few",
        "methods that GDAL's usual builds do not read: " + ", ".join(sorted(set(_CODECS_OF_FEW.values()))),
        _tiff(lambda tiff: tiff.compression in _CODECS_OF_FEW),
        r"compress|codec",
    ),
)
"""Every kind; the first that fits counts."""

DAMAGED = Refusal(
    "damaged or truncated",
    "no other reader that refuses truncated files reads it either",
    lambda _: True,
    r"damaged|truncated|cannot be (decoded|read)|incomplete",
)
"""Right only where nobody else reads the file: `benchmarks.lab.corpus.verdicts` sees to that."""

TOO_LARGE = Refusal(
    "too large",
    "declares more pixels than `--max-pixels` allows",
    lambda _: True,
    r"declares \d+ x \d+|too large",
)
"""Right only where nobody else reads the file, or it declares more pixels than the limit."""

"""How a file of the matrix is written: by tifffile, by GDAL (rasterio), and what neither writes byte by byte."""
# rasterio, tifffile and imagecodecs ship no type information that is complete.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus import rules
from benchmarks.lab.corpus.matrix import tiff_file
from benchmarks.lab.corpus.matrix.scene import HEIGHT
from benchmarks.lab.corpus.matrix.tiff_file import LONG, SHORT, ByteOrder, Directory
from benchmarks.lab.corpus.rules import Model, Stored
from benchmarks.lab.corpus.verdicts import Closeness

Segments = Literal["one strip", "strips", "tiles"]
Tags = Mapping[int, tuple[int, tuple[int, ...]]]

_PHOTOMETRIC: Mapping[Model, tuple[str, str, int]] = {
    "grey": ("minisblack", "MINISBLACK", 1),
    "white is zero": ("miniswhite", "MINISWHITE", 0),
    "RGB": ("rgb", "RGB", 2),
    "palette": ("palette", "", 3),
    "CMYK": ("separated", "", 5),
    "YCbCr": ("ycbcr", "YCBCR", 6),
    "CIELab": ("", "", 8),
    "ICCLab": ("", "", 9),
}
"""tifffile's word, GDAL's word, TIFF's number."""
_ALPHAS = {"unassalpha": "unassociated", "assocalpha": "associated", "unspecified": "unspecified extra band"}
_LOSSY = {"jpeg", "webp"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One file of the matrix; the name is unique, without suffix.

    `expected`, uint8[H, W, 3], is what a photograph's reader returns, upright; None: the file is none that the rules
    say how to read, and has to be refused or left to the other readers. `stored` is what a raster's reader returns;
    None: the same. `closeness` is how close a reading has to come; `is_approximate`: the codec loses so much that the
    scene is met only roughly.
    """

    name: str
    axes: Mapping[str, str]
    write: Callable[[Path], None]
    expected: NDArray[np.uint8] | None
    stored: NDArray[np.uint8] | None
    closeness: Closeness
    is_approximate: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples are laid out in the file."""

    by_band: bool = False
    segments: Segments = "strips"
    codec: str = "none"
    order: ByteOrder = "<"
    big: bool = False

    @property
    def tiled(self) -> bool:
        return self.segments == "tiles"


@dataclass(frozen=True, slots=True)
class Picture:
    """Samples, [H, W, bands] of the file's own type, and what they mean.

    `axes` are more of them, or other values of `samples`, `photometric` and `bands`; `extra` are tifffile's words for
    the bands beyond the colours; `readable`: the rules say how to read it.
    """

    name: str
    stored: Stored
    values: NDArray[Any]
    axes: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: tuple[str, ...] = ()
    readable: bool = True

    @property
    def bands(self) -> int:
        return self.values.shape[2]

    @property
    def expected(self) -> NDArray[np.uint8] | None:
        return rules.to_rgb(self.values, self.stored) if self.readable else None


def _variant(
    writer: str,
    picture: Picture,
    layout: Layout,
    write: Callable[[Path], None],
    expected: NDArray[np.uint8] | None,
    stored: NDArray[np.uint8] | None = None,
) -> Variant:
    is_big_endian = layout.order == ">"
    parts = (
        writer, picture.name, "planar" * layout.by_band, layout.segments, layout.codec,
        "be" if is_big_endian else "le", "big" * layout.big,
    )  # fmt: skip
    is_lossy = layout.codec in _LOSSY
    return Variant(
        "_".join("-".join(part.replace(".", "").replace(",", "").split()) for part in parts if part),
        {
            "samples": f"uint{picture.stored.bits}",
            "photometric": picture.stored.model,
            **({"alpha": _ALPHAS[picture.extra[-1]] if picture.extra else "none"} if writer == "tifffile" else {}),
            "bands": str(picture.bands),
            "interleaving": "by band" if layout.by_band else "by pixel",
            "layout": layout.segments,
            "codec": layout.codec,
            "byte order": "big-endian" if is_big_endian else "little-endian",
            "file": "BigTIFF" if layout.big else "classic TIFF",
            "writer": "bytes" if writer == "raw" else writer,
            **picture.axes,
        },
        write,
        expected,
        stored,
        "exact" if picture.stored.is_exact and not is_lossy else "rounded",
        is_lossy,
    )


# ---- tifffile ---------------------------------------------------------------------------------------------------

LOSSLESS_CODECS = (
    "none", "deflate", "deflate with predictor", "lzw", "lzw with predictor", "packbits", "zstd",
    "zstd with predictor", "lzma", "lzma with predictor",
)  # fmt: skip
RARE_CODECS = ("lerc", "lerc with deflate", "lerc with zstd", "jxl", "jpeg2000", "png", "jpegxr")
_TIFFFILE_CODECS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "deflate": {"compression": "adobe_deflate"},
    "lzw": {"compression": "lzw"},
    "zstd": {"compression": "zstd"},
    "lzma": {"compression": "lzma"},
    "packbits": {"compression": "packbits"},
    "jpeg": {"compression": "jpeg", "compressionargs": {"level": 95}},
    "webp": {"compression": "webp", "compressionargs": {"level": 95}},
    "webp without loss": {"compression": "webp", "compressionargs": {"lossless": True}},
    "lerc": {"compression": "lerc"},
    "lerc with deflate": {"compression": "lerc", "compressionargs": {"compression": "deflate"}},
    "lerc with zstd": {"compression": "lerc", "compressionargs": {"compression": "zstd"}},
    "jxl": {"compression": "jpegxl", "compressionargs": {"lossless": True}},
    "jpeg2000": {"compression": "jpeg2000"},
    "png": {"compression": "png"},
    "jpegxr": {"compression": "jpegxr", "compressionargs": {"level": 1.0}},
}
_BLOCK_CODECS = {"jpeg", "webp", "webp without loss"}
"""Their strips hold whole blocks, also of subsampled colours."""
_TILE = (32, 48)


def by_tifffile(picture: Picture, layout: Layout, **options: Any) -> Variant:  # noqa: ANN401 (tifffile's options)
    codec, predictor = layout.codec.removesuffix(" with predictor"), layout.codec.endswith("with predictor")
    segments: Mapping[Segments, Mapping[str, Any]] = {
        "one strip": {"rowsperstrip": HEIGHT},
        "strips": {"rowsperstrip": 16 if codec in _BLOCK_CODECS else 7},
        "tiles": {"tile": _TILE},
    }
    every: dict[str, Any] = {
        **_TIFFFILE_CODECS[codec],
        **segments[layout.segments],
        "photometric": _PHOTOMETRIC[picture.stored.model][0],
        "predictor": predictor,
        **options,
    }
    if picture.stored.model == "palette":
        every["colormap"] = picture.stored.colors
    if picture.bands > 1:
        every["planarconfig"] = "separate" if layout.by_band else "contig"
    if picture.extra:
        every["extrasamples"] = picture.extra
    write = partial(_write_with_tifffile, values=picture.values, layout=layout, options=every)
    return _variant("tifffile", picture, layout, write, picture.expected)


def _write_with_tifffile(path: Path, values: NDArray[Any], layout: Layout, options: Mapping[str, Any]) -> None:
    import tifffile

    if values.shape[2] == 1:
        values = values[..., 0]
    elif layout.by_band:
        values = np.moveaxis(values, -1, 0)
    with tifffile.TiffWriter(path, byteorder=layout.order, bigtiff=layout.big) as writer:
        writer.write(values, metadata=None, software=False, **options)


# ---- GDAL -------------------------------------------------------------------------------------------------------


def by_gdal(
    picture: Picture,
    layout: Layout,
    options: Mapping[str, Any] | None = None,
    *,
    interpretations: Sequence[str] = (),
    rows: int = HEIGHT,
) -> Variant:
    """A file that GDAL writes.

    `interpretations` says what each band is, in GDAL's words. Rows from `rows` on are never written, so that their
    blocks are missing in the file, if `sparse_ok` is among the options.
    """
    every: dict[str, Any] = {
        "interleave": "band" if layout.by_band else "pixel",
        "compress": None if layout.codec == "none" else layout.codec,
        "endianness": "little" if layout.order == "<" else "big",
        "bigtiff": "yes" if layout.big else "no",
        "photometric": _PHOTOMETRIC[picture.stored.model][1],
        **({} if picture.stored.bits in {8, 16} else {"nbits": picture.stored.bits}),
        **({"tiled": True, "blockxsize": 32, "blockysize": 16} if layout.tiled else {"blockysize": 8}),
        **(options or {}),
    }
    write = partial(_write_with_gdal, values=picture.values, options=every, interpretations=interpretations, rows=rows)
    return _variant("GDAL", picture, layout, write, picture.expected)


def _write_with_gdal(
    path: Path, values: NDArray[Any], options: Mapping[str, Any], interpretations: Sequence[str], rows: int
) -> None:
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    height, width, bands = values.shape
    # For good: to restore a list of filters afterwards is not safe among threads.
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype=values.dtype.name, **options
    ) as dataset:
        if interpretations:
            dataset.colorinterp = [ColorInterp[each] for each in interpretations]
        part = Window(0, 0, width, rows)  # pyright: ignore[reportCallIssue]
        dataset.write(np.moveaxis(values[:rows], -1, 0), window=part)


# ---- byte by byte -----------------------------------------------------------------------------------------------

_COMPRESSION = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}
_STRIP_ROWS = 16


@dataclass(frozen=True, slots=True)
class Page:
    """A picture for the writer of this project; byte order and BigTIFF are those of the whole file.

    `tags` are more, or others; `subsampling` of YCbCr is horizontal and vertical; `reverse_bits` is FillOrder 2;
    `children` are subdirectories.
    """

    picture: Picture
    layout: Layout
    tags: Tags = field(default_factory=dict[int, tuple[int, tuple[int, ...]]])
    subsampling: tuple[int, int] = (1, 1)
    reverse_bits: bool = False
    children: Sequence["Page"] = ()

    def directory(self) -> Directory:
        values, bits = self.picture.values, self.picture.stored.bits
        height, width, bands = values.shape
        tags = {
            256: (LONG, (width,)),
            257: (LONG, (height,)),
            258: (SHORT, (bits,) * bands),
            259: (SHORT, (_COMPRESSION[self.layout.codec],)),
            262: (SHORT, (_PHOTOMETRIC[self.picture.stored.model][2],)),
            277: (SHORT, (bands,)),
            284: (SHORT, (2 if self.layout.by_band else 1,)),
            **({322: (LONG, (_TILE[1],)), 323: (LONG, (_TILE[0],))} if self.layout.tiled else {}),
            **({} if self.layout.tiled else {278: (LONG, (_STRIP_ROWS,))}),
            **({266: (SHORT, (2,))} if self.reverse_bits else {}),
            **self.tags,
        }
        planes = [values[..., [band]] for band in range(bands)] if self.layout.by_band else [values]
        segments = [self._segment(each) for plane in planes for each in self._cut(plane)]
        return Directory(tags, segments, [each.directory() for each in self.children])

    def _cut(self, plane: NDArray[Any]) -> Iterator[NDArray[Any]]:
        height, width = plane.shape[:2]
        if not self.layout.tiled:
            yield from (plane[top : top + _STRIP_ROWS] for top in range(0, height, _STRIP_ROWS))
            return
        rows, columns = _TILE
        filled = np.pad(plane, ((0, -height % rows), (0, -width % columns), (0, 0)), mode="edge")
        for top, left in itertools.product(range(0, height, rows), range(0, width, columns)):
            yield filled[top : top + rows, left : left + columns]

    def _segment(self, part: NDArray[Any]) -> bytes:
        if self.subsampling != (1, 1):
            packed = _subsampled(part, self.subsampling)
        else:
            rows = part.reshape(len(part), -1)
            packed = tiff_file.pack_samples(rows, self.picture.stored.bits, self.layout.order)
        compressed = _compressed(packed, self.layout.codec)
        if not self.reverse_bits:
            return compressed
        turned = np.unpackbits(np.frombuffer(compressed, np.uint8)).reshape(-1, 8)[:, ::-1]
        return np.packbits(turned).tobytes()


def by_bytes(
    picture: Picture,
    layout: Layout,
    pages: Sequence[Page] = (),
    *,
    expected: NDArray[np.uint8] | None = None,
    stored: NDArray[np.uint8] | None = None,
) -> Variant:
    """A file that this project writes: `pages`, or just the picture; what readers return, if not the picture's own."""
    write = partial(_write_bytes, pages=pages or (Page(picture, layout),), layout=layout)
    return _variant("raw", picture, layout, write, picture.expected if expected is None else expected, stored)


def _write_bytes(path: Path, pages: Sequence[Page], layout: Layout) -> None:
    tiff_file.write_tiff(path, [each.directory() for each in pages], order=layout.order, big=layout.big)


def _compressed(segment: bytes, codec: str) -> bytes:
    import imagecodecs

    match codec:
        case "none":
            return segment
        case "deflate":
            return bytes(imagecodecs.zlib_encode(segment))
        case "lzw":
            return bytes(imagecodecs.lzw_encode(segment))
        case _:
            return bytes(imagecodecs.packbits_encode(segment))


def chroma_means(values: NDArray[Any], subsampling: tuple[int, int]) -> NDArray[np.float64]:
    """The mean Cb and Cr of each block of YCbCr samples [H, W, 3], rounded: [rows, columns, 2]."""
    across, down = subsampling
    height, width = values.shape[:2]
    chroma = np.pad(values[..., 1:], ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    blocks = chroma.reshape(chroma.shape[0] // down, down, chroma.shape[1] // across, across, 2)
    return np.rint(blocks.mean(axis=(1, 3)))


def _subsampled(part: NDArray[Any], subsampling: tuple[int, int]) -> bytes:
    """Pack YCbCr as TIFF 6.0 does: the luma of a block, then its mean Cb and Cr."""
    across, down = subsampling
    height, width = part.shape[:2]
    luma = np.pad(part[..., 0], ((0, -height % down), (0, -width % across)), mode="edge")
    means = chroma_means(part, subsampling)
    rows, columns = means.shape[:2]
    blocks = luma.reshape(rows, down, columns, across).transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    return np.concatenate([blocks, means], axis=2).astype(np.uint8).tobytes()

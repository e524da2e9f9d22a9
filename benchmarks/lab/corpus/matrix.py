"""A matrix of TIFFs of one scene: kinds of samples and colours by layouts, codecs, byte orders and everything else.

Most are written by tifffile and by GDAL (rasterio), what neither writes by `benchmarks.lab.corpus.tiff_writer`. All of
them hold the same rendered scene, so that the right result is known without any reader. The same files come out every
time (but for LERC, whose encoder leaves unused bits as they were in memory).
"""
# rasterio, tifffile and imagecodecs ship no type information that is complete.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus import rules, tiff_writer
from benchmarks.lab.corpus.rules import Stored, eight_bit, upright
from benchmarks.lab.corpus.tiff_writer import BYTE, LONG, RATIONAL, SBYTE, SHORT, SLONG, SSHORT, ByteOrder, Directory
from benchmarks.lab.corpus.verdicts import Closeness

WIDTH, HEIGHT = 83, 61
"""Not multiples of any side of a tile, nor even: every format's fill shows."""
_TILE = (32, 48)
_STRIP_ROWS = 7
_ORDERS: tuple[ByteOrder, ...] = ("<", ">")


@dataclass(frozen=True, slots=True)
class Variant:
    """One file of the matrix.

    Attributes:
        name: of the file, without suffix; unique.
        axes: axis to value.
        write: writes the file.
        expected: uint8[H, W, 3], what a photograph's reader returns, upright; None: the file is none that the rules say
            how to read, and has to be refused or left to the other readers.
        stored: uint8[H, W, 3], what a raster's reader returns; None: the same.
        closeness: how close a reading has to come.
        is_approximate: whether the codec loses so much that the scene is met only roughly.
    """

    name: str
    axes: Mapping[str, str]
    write: Callable[[Path], None]
    expected: NDArray[np.uint8] | None
    stored: NDArray[np.uint8] | None = None
    closeness: Closeness = "exact"
    is_approximate: bool = False


def scene() -> NDArray[np.uint16]:
    """Render the scene: smooth, without symmetry, every band different.

    Returns:
        uint16[HEIGHT, WIDTH, 6]: red, green, blue, two more, and an alpha that is 0 in one corner.
    """
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    bands = [
        0.50 + 0.35 * np.sin(x / 17) * np.cos(y / 23),
        0.20 + 0.60 * x / WIDTH,
        0.15 + 0.65 * y / HEIGHT + 0.10 * np.cos(x / 9),
        0.85 - 0.70 * x * y / (WIDTH * HEIGHT),
        0.40 + 0.30 * np.cos((x + 2 * y) / 31),
        np.where((x < 20) & (y < 15), 0.0, 0.55 + 0.45 * y / HEIGHT),
    ]
    return np.rint(np.stack(bands, axis=-1) * 65535).astype(np.uint16)


_SCENE = scene()
_ALPHA = 5


def samples(bands: Sequence[int], bits: int) -> NDArray[np.uint16]:
    """Take bands of the scene, by number from 0, at a depth of `bits`: uint16[H, W, len(bands)]."""
    return (_SCENE[..., list(bands)] >> (16 - bits)).astype(np.uint16)


def scene_rgb() -> NDArray[np.uint8]:
    """The scene as everybody should see it: uint8[HEIGHT, WIDTH, 3]."""
    return eight_bit(samples((0, 1, 2), 16), 16)


@cache
def variants() -> tuple[Variant, ...]:
    """List the matrix.

    Returns:
        Every file, in a fixed order.
    """
    return tuple(_variants())


def _variants() -> Iterator[Variant]:
    yield from _core()
    yield from _depths()
    yield from _bilevel()
    yield from _value_types()
    yield from _lossy()
    yield from _rare_codecs()
    yield from _ycbcr()
    yield from _lab()
    yield from _palettes()
    yield from _associated_alpha()
    yield from _orientations()
    yield from _pages()
    yield from _sparse()
    yield from _bands_and_nodata()
    yield from _fill_orders()


def sample(count: int) -> list[Variant]:
    """Choose variants that touch every value of every axis, and fill up with evenly spaced others.

    Args:
        count: how many, at least; more if the axes need more.

    Returns:
        Variants, in the order of the matrix.
    """
    every = [frozenset(each.axes.items()) for each in variants()]
    missing = set[tuple[str, str]]().union(*every)
    chosen: set[int] = set()
    while missing:
        best = max(range(len(every)), key=lambda index: (len(missing & every[index]), -index))
        chosen.add(best)
        missing -= every[best]
    for index in range(0, len(every), len(every) // max(1, count)):
        if len(chosen) < count:
            chosen.add(index)
    return [variants()[index] for index in sorted(chosen)]


# ---- what tifffile writes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """Samples and what they mean.

    Attributes:
        name: short.
        stored: what the samples mean.
        values: [H, W, bands] of the file's own type.
        photometric: tifffile's word.
        extra: tifffile's words for what is beyond the colours.
        readable: whether the rules say how to read it.
    """

    name: str
    stored: Stored
    values: NDArray[Any]
    photometric: str
    extra: tuple[str, ...] = ()
    colormap: NDArray[np.uint16] | None = None
    readable: bool = True

    @property
    def expected(self) -> NDArray[np.uint8] | None:
        return rules.to_rgb(self.values, self.stored) if self.readable else None

    @property
    def axes(self) -> dict[str, str]:
        alpha = {"unassalpha": "unassociated", "assocalpha": "associated", "unspecified": "unspecified extra band"}
        return {
            "samples": f"uint{self.stored.bits}",
            "photometric": self.stored.model,
            "alpha": alpha[self.extra[-1]] if self.extra else "none",
            "bands": str(self.values.shape[2]),
        }


def _typed(values: NDArray[np.uint16], bits: int) -> NDArray[Any]:
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def _colormap(entries: int = 256) -> NDArray[np.uint16]:
    ramp = np.linspace(0, 255, entries).round().astype(np.uint16)
    return np.stack([ramp, ramp[::-1], (ramp * 3 + 40) % 256]) * 257


def _cmyk(bits: int) -> NDArray[np.uint16]:
    ink = 65535 - _SCENE[..., :3].astype(np.int64)
    black = ink.min(axis=2, keepdims=True) // 2
    return (np.dstack([(ink - black) * 65535 // (65535 - black), black]) >> (16 - bits)).astype(np.uint16)


def _kinds() -> list[_Kind]:
    kinds: list[_Kind] = []
    for bits in (8, 16):
        grey, rgb = Stored("grey", bits), Stored("RGB", bits)
        kinds += [
            _Kind(f"grey{bits}", grey, _typed(samples((0,), bits), bits), "minisblack"),
            _Kind(f"white{bits}", Stored("white is zero", bits), _typed(samples((0,), bits), bits), "miniswhite"),
            _Kind(f"greyalpha{bits}", grey, _typed(samples((0, _ALPHA), bits), bits), "minisblack", ("unassalpha",)),
            _Kind(f"rgb{bits}", rgb, _typed(samples((0, 1, 2), bits), bits), "rgb"),
            _Kind(f"rgba{bits}", rgb, _typed(samples((0, 1, 2, _ALPHA), bits), bits), "rgb", ("unassalpha",)),
            _Kind(
                f"rgbx{bits}",
                rgb,
                _typed(samples((0, 1, 2, 3), bits), bits),
                "rgb",
                ("unspecified",),
                readable=False,
            ),
            _Kind(
                f"five{bits}",
                grey,
                _typed(samples((0, 1, 2, 3, 4), bits), bits),
                "minisblack",
                ("unspecified",) * 4,
                readable=False,
            ),
            _Kind(f"cmyk{bits}", Stored("CMYK", bits), _typed(_cmyk(bits), bits), "separated"),
        ]
    colors = _colormap()
    kinds.append(
        _Kind(
            "palette8",
            Stored("palette", 8, colors=colors),
            _typed(samples((0,), 8), 8),
            "palette",
            colormap=colors,
        )
    )
    return kinds


_CODECS = {
    "none": (None, False),
    "deflate": ("adobe_deflate", False),
    "deflate with predictor": ("adobe_deflate", True),
    "lzw": ("lzw", False),
    "lzw with predictor": ("lzw", True),
    "packbits": ("packbits", False),
    "zstd": ("zstd", False),
    "zstd with predictor": ("zstd", True),
    "lzma": ("lzma", False),
    "lzma with predictor": ("lzma", True),
}
_LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {"rowsperstrip": HEIGHT},
    "strips": {"rowsperstrip": _STRIP_ROWS},
    "tiles": {"tile": _TILE},
}


def _write_with_tifffile(
    path: Path, kind: _Kind, *, planar: bool, order: ByteOrder, big: bool, options: Mapping[str, Any]
) -> None:
    import tifffile

    values: NDArray[Any] = np.moveaxis(kind.values, -1, 0) if planar else kind.values
    if kind.values.shape[2] == 1:
        values, planar = kind.values[..., 0], False
    more: dict[str, Any] = {"colormap": kind.colormap} if kind.colormap is not None else {}
    if kind.values.shape[2] > 1:
        more["planarconfig"] = "separate" if planar else "contig"
    if kind.extra:
        more["extrasamples"] = kind.extra
    with tifffile.TiffWriter(path, byteorder=order, bigtiff=big) as writer:
        writer.write(values, photometric=kind.photometric, metadata=None, software=False, **more, **options)


def _tifffile_variant(
    kind: _Kind,
    *,
    planar: bool,
    layout: str,
    codec: str,
    order: ByteOrder,
    big: bool,
    options: Mapping[str, Any],
    is_lossy: bool = False,
) -> Variant:
    axes = {
        **kind.axes,
        "interleaving": "by band" if planar else "by pixel",
        "layout": layout,
        "codec": codec,
        "byte order": "little-endian" if order == "<" else "big-endian",
        "file": "BigTIFF" if big else "classic TIFF",
        "writer": "tifffile",
    }
    return Variant(
        _name("tifffile", kind.name, "planar" if planar else "", layout, codec, _order_name(order), "big" * big),
        axes,
        partial(
            _write_with_tifffile,
            kind=kind,
            planar=planar,
            order=order,
            big=big,
            options={**_LAYOUTS[layout], **options},
        ),
        kind.expected,
        closeness="exact" if kind.stored.is_exact and not is_lossy else "rounded",
        is_approximate=is_lossy,
    )


def _core() -> Iterator[Variant]:
    every: tuple[tuple[ByteOrder, bool], ...] = (("<", False), (">", True), (">", False), ("<", True))
    combinations = itertools.product(_kinds(), (False, True), _LAYOUTS, _CODECS.items())
    for number, (kind, planar, layout, (codec, (compression, predictor))) in enumerate(combinations):
        if planar and kind.values.shape[2] == 1:
            continue
        # Codecs know nothing of byte orders and offsets: what is not compressed has all, each codec takes turns.
        for order, big in every if codec == "none" else (every[number % 4],):
            options = {"compression": compression, "predictor": predictor}
            yield _tifffile_variant(
                kind, planar=planar, layout=layout, codec=codec, order=order, big=big, options=options
            )


def _lossy() -> Iterator[Variant]:
    kinds = {each.name: each for each in _kinds()}
    level: dict[str, Any] = {"compressionargs": {"level": 95}}
    without_loss: dict[str, Any] = {"compressionargs": {"lossless": True}}
    lossy: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("grey8", "jpeg", {"compression": "jpeg", **level}),
        ("rgb8", "webp", {"compression": "webp", **level}),
        ("rgb8", "webp without loss", {"compression": "webp", **without_loss}),
    )
    for (name, codec, options), layout, order in itertools.product(lossy, _LAYOUTS, _ORDERS):
        yield _tifffile_variant(
            kinds[name],
            planar=False,
            layout=layout,
            codec=codec,
            order=order,
            big=order == ">",
            options={**options, **_jpeg_options(layout)},
            is_lossy="without" not in codec,
        )
    ycbcr = Stored("YCbCr")
    for subsampling, layout, order in itertools.product(((1, 1), (2, 1), (2, 2)), _LAYOUTS, _ORDERS):
        kind = replace(
            kinds["rgb8"],
            name=f"ycbcr{subsampling[0]}{subsampling[1]}",
            stored=ycbcr,
            values=rules.rgb_to_ycbcr(scene_rgb(), ycbcr),
            photometric="ycbcr",
        )
        variant = _tifffile_variant(
            kind,
            planar=False,
            layout=layout,
            codec="jpeg",
            order=order,
            big=order == "<",
            options={
                "compression": "jpeg",
                "compressionargs": {"level": 95},
                "subsampling": subsampling,
                **_jpeg_options(layout),
            },
            is_lossy=True,
        )
        yield replace(variant, axes={**variant.axes, "subsampling": f"{subsampling[0]}x{subsampling[1]}"})
    for photometric, by_band, tiled, order in itertools.product(
        ("MINISBLACK", "RGB", "YCBCR"), (False, True), (False, True), _ORDERS
    ):
        bands = 1 if photometric == "MINISBLACK" else 3
        if by_band and photometric != "RGB":
            continue
        values = samples(range(bands), 8)
        model = {"MINISBLACK": "grey", "RGB": "RGB", "YCBCR": "YCbCr"}[photometric]
        variant = _gdal_variant(
            f"jpeg {model}",
            _typed(values, 8),
            {"samples": "uint8", "photometric": model, **({"subsampling": "2x2"} if model == "YCbCr" else {})},
            rules.to_rgb(values, Stored("grey" if bands == 1 else "RGB")),
            by_band=by_band,
            tiled=tiled,
            codec="jpeg",
            order=order,
            options={"photometric": photometric, "jpeg_quality": 95, **({} if tiled else {"blockysize": 16})},
        )
        yield replace(variant, is_approximate=True)


def _jpeg_options(layout: str) -> dict[str, Any]:
    # A strip of a JPEG holds whole blocks, also of subsampled colours.
    return {"rowsperstrip": 16} if layout == "strips" else {}


def _rare_codecs() -> Iterator[Variant]:
    kinds = {each.name: each for each in _kinds()}
    lossless = {
        "lerc": {"compression": "lerc"},
        "lerc with deflate": {"compression": "lerc", "compressionargs": {"compression": "deflate"}},
        "lerc with zstd": {"compression": "lerc", "compressionargs": {"compression": "zstd"}},
        "jxl": {"compression": "jpegxl", "compressionargs": {"lossless": True}},
        "jpeg2000": {"compression": "jpeg2000"},
        "png": {"compression": "png"},
        "jpegxr": {"compression": "jpegxr", "compressionargs": {"level": 1.0}},
    }
    for name, (codec, options), layout in itertools.product(
        ("grey8", "grey16", "rgb8", "rgb16"), lossless.items(), ("one strip", "tiles")
    ):
        yield _tifffile_variant(
            kinds[name], planar=False, layout=layout, codec=codec, order="<", big=False, options=options
        )


def _value_types() -> Iterator[Variant]:
    types = "int8 int16 int32 int64 uint32 uint64 float16 float32 float64 complex64 complex128".split()
    for name, bands, codec, order in itertools.product(types, (1, 3), ("none", "deflate"), _ORDERS):
        values = samples(range(bands), 7).astype(name)
        kind = _Kind(
            name,
            Stored("RGB" if bands == 3 else "grey"),
            values,
            "rgb" if bands == 3 else "minisblack",
            readable=False,
        )
        variant = _tifffile_variant(
            kind,
            planar=False,
            layout="strips",
            codec=codec,
            order=order,
            big=order == ">",
            options={"compression": _CODECS[codec][0]},
        )
        yield replace(
            variant,
            name=_name(variant.name, str(bands)),
            axes={**variant.axes, "samples": name},
        )


def _associated_alpha() -> Iterator[Variant]:
    for bits, bands, planar, layout, codec, order in itertools.product(
        (8, 16), (1, 3), (False, True), ("strips", "tiles"), ("none", "lzw with predictor"), _ORDERS
    ):
        alpha = samples((_ALPHA,), bits)
        full = (1 << bits) - 1
        # Nothing is left of a colour where alpha is 0: here the lowest alpha is half.
        alpha = np.maximum(alpha, (full + 1) // 2)
        colors = np.rint(samples(range(bands), bits).astype(np.float64) * alpha / full).astype(np.uint16)
        kind = _Kind(
            f"{'rgb' if bands == 3 else 'grey'}{bits}premultiplied",
            Stored("RGB" if bands == 3 else "grey", bits, premultiplied=True),
            _typed(np.dstack([colors, alpha]), bits),
            "rgb" if bands == 3 else "minisblack",
            ("assocalpha",),
        )
        compression, predictor = _CODECS[codec]
        yield _tifffile_variant(
            kind,
            planar=planar,
            layout=layout,
            codec=codec,
            order=order,
            big=order == ">",
            options={"compression": compression, "predictor": predictor},
        )


# ---- what GDAL writes -------------------------------------------------------------------------------------------


def _write_with_gdal(
    path: Path,
    values: NDArray[Any],
    options: Mapping[str, Any],
    *,
    nodata: float | None = None,
    interpretations: Sequence[str] = (),
    rows: int = HEIGHT,
) -> None:
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    height, width, bands = values.shape
    # For good: to restore a list of filters afterwards is not safe among threads.
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype=values.dtype.name, nodata=nodata,
        **options,
    ) as dataset:  # fmt: skip
        if interpretations:
            dataset.colorinterp = [ColorInterp[each] for each in interpretations]
        part = Window(0, 0, width, rows)  # pyright: ignore[reportCallIssue]
        dataset.write(np.moveaxis(values[:rows], -1, 0), window=part)


def _gdal_variant(
    name: str,
    values: NDArray[Any],
    axes: Mapping[str, str],
    expected: NDArray[np.uint8] | None,
    *,
    by_band: bool,
    tiled: bool,
    codec: str,
    order: ByteOrder,
    options: Mapping[str, Any] | None = None,
    nodata: float | None = None,
    interpretations: Sequence[str] = (),
    rows: int = HEIGHT,
) -> Variant:
    big = order == ">"
    every: dict[str, Any] = {
        "interleave": "band" if by_band else "pixel",
        "compress": None if codec == "none" else codec,
        "endianness": "little" if order == "<" else "big",
        "bigtiff": "yes" if big else "no",
        **({"tiled": True, "blockxsize": 32, "blockysize": 16} if tiled else {"blockysize": 8}),
        **(options or {}),
    }
    return Variant(
        _name("gdal", name, "planar" * by_band, "tiles" if tiled else "strips", codec, _order_name(order)),
        {
            "interleaving": "by band" if by_band else "by pixel",
            "layout": "tiles" if tiled else "strips",
            "codec": codec,
            "byte order": "big-endian" if big else "little-endian",
            "file": "BigTIFF" if big else "classic TIFF",
            "bands": str(values.shape[2]),
            "writer": "GDAL",
            **axes,
        },
        partial(
            _write_with_gdal, values=values, options=every, nodata=nodata, interpretations=interpretations, rows=rows
        ),
        expected,
    )


def _depths() -> Iterator[Variant]:
    meanings = {
        "grey": ("grey", "MINISBLACK", 1),
        "white": ("white is zero", "MINISWHITE", 1),
        "rgb": ("RGB", "RGB", 3),
    }
    for bits, (name, (model, photometric, bands)), by_band, tiled, codec, order in itertools.product(
        (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 14, 15),
        meanings.items(),
        (False, True),
        (False, True),
        ("none", "deflate", "lzw"),
        _ORDERS,
    ):
        if by_band and bands == 1:
            continue
        values = samples(range(bands), bits)
        yield _gdal_variant(
            f"{name}{bits}",
            _typed(values, bits),
            {"samples": f"uint{bits}", "photometric": model},
            rules.to_rgb(values, Stored(model, bits)),  # pyright: ignore[reportArgumentType]
            by_band=by_band,
            tiled=tiled,
            codec=codec,
            order=order,
            options={"nbits": bits, "photometric": photometric},
        )


def _bilevel() -> Iterator[Variant]:
    values = samples((0,), 1)
    for codec, model, tiled, order in itertools.product(
        ("ccittrle", "ccittfax3", "ccittfax4", "packbits"), ("grey", "white is zero"), (False, True), _ORDERS
    ):
        yield _gdal_variant(
            f"bilevel {model}",
            _typed(values, 1),
            {"samples": "uint1", "photometric": model},
            rules.to_rgb(values, Stored(model, 1)),  # pyright: ignore[reportArgumentType]
            by_band=False,
            tiled=tiled,
            codec=codec,
            order=order,
            options={"nbits": 1, "photometric": "MINISBLACK" if model == "grey" else "MINISWHITE"},
        )


def _bands_and_nodata() -> Iterator[Variant]:
    alphas = {"none": (), "unassociated": ("alpha",)}
    for bits, bands, (alpha, more), nodata, by_band in itertools.product(
        (8, 16), (1, 2, 3, 4, 5), alphas.items(), (None, 0.0, 200.0, 255.0), (False, True)
    ):
        if by_band and bands + len(more) == 1:
            continue
        values = samples((*range(bands), *([_ALPHA] * len(more))), bits)
        colors = ("red", "green", "blue", "undefined", "undefined") if bands >= 3 else ("gray", "undefined")
        model = "RGB" if bands >= 3 else "grey"
        told = "none" if nodata is None else f"{nodata:g}"
        readable = bands in {1, 3}
        yield _gdal_variant(
            f"bands{bands} {alpha} {bits} bit nodata {told}",
            _typed(values, bits),
            {"samples": f"uint{bits}", "photometric": model, "alpha": alpha, "nodata": told},
            rules.to_rgb(values, Stored(model, bits)) if readable else None,
            by_band=by_band,
            tiled=False,
            codec="deflate",
            order="<",
            options={"photometric": "RGB" if bands >= 3 else "MINISBLACK"},
            nodata=nodata,
            interpretations=(*colors[:bands], *more),
        )
    for photometric, by_band, tiled, bits, codec in itertools.product(
        ("MINISBLACK", "RGB"), (False, True), (False, True), (8, 16), ("none", "deflate", "zstd", "lzw")
    ):
        values = samples((0, 1, 2), bits)
        yield _gdal_variant(
            f"three bands {photometric} {bits} bit",
            _typed(values, bits),
            {
                "samples": f"uint{bits}",
                "photometric": "RGB" if photometric == "RGB" else "three bands without meaning",
            },
            rules.to_rgb(values, Stored("RGB", bits)),
            by_band=by_band,
            tiled=tiled,
            codec=codec,
            order="<",
            options={"photometric": photometric, "predictor": 2} if codec != "none" else {"photometric": photometric},
        )


def _sparse() -> Iterator[Variant]:
    rows = 24
    for bits, bands, by_band, tiled, codec, order in itertools.product(
        (8, 16), (1, 3), (False, True), (False, True), ("none", "lzw", "deflate"), _ORDERS
    ):
        if by_band and bands == 1:
            continue
        values = samples(range(bands), bits)
        present = np.where(np.arange(HEIGHT)[:, np.newaxis, np.newaxis] < _written_rows(rows, tiled), values, 0)
        # GDAL writes whole blocks: the last one that is touched is filled from what lies below.
        stored = Stored("RGB" if bands == 3 else "grey", bits)
        yield _gdal_variant(
            f"sparse {'rgb' if bands == 3 else 'grey'}{bits}",
            _typed(present.astype(np.uint16), bits),
            {"samples": f"uint{bits}", "photometric": stored.model, "segments": "some are missing"},
            rules.to_rgb(present, stored),
            by_band=by_band,
            tiled=tiled,
            codec=codec,
            order=order,
            options={"sparse_ok": True, "photometric": "RGB" if bands == 3 else "MINISBLACK"},
            rows=_written_rows(rows, tiled),
        )


def _written_rows(rows: int, tiled: bool) -> int:
    block = 16 if tiled else 8
    return rows // block * block


# ---- what neither writes ----------------------------------------------------------------------------------------


def _write_raw(path: Path, pages: Sequence["_Raw"], *, big: bool) -> None:
    tiff_writer.write_tiff(path, [each.directory() for each in pages], order=pages[0].order, big=big)


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


_COMPRESSION = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}


@dataclass(frozen=True, slots=True)
class _Raw:
    """A picture for the writer of this project.

    Attributes:
        values: [H, W, bands], unsigned.
        bits: of every sample.
        photometric: TIFF's number.
        codec: a name.
        order: of bytes.
        planar: whether bands are stored one after the other.
        tiled: tiles in place of strips.
        tags: more of them.
        subsampling: of YCbCr, horizontal and vertical.
        reverse_bits: FillOrder 2.
        children: subdirectories.
    """

    values: NDArray[Any]
    bits: int
    photometric: int
    codec: str = "none"
    order: ByteOrder = "<"
    planar: bool = False
    tiled: bool = False
    tags: Mapping[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    subsampling: tuple[int, int] = (1, 1)
    reverse_bits: bool = False
    children: Sequence["_Raw"] = ()

    def directory(self) -> Directory:
        """Lay it out."""
        height, width, bands = self.values.shape
        tags = {
            256: (LONG, (width,)),
            257: (LONG, (height,)),
            258: (SHORT, (self.bits,) * bands),
            259: (SHORT, (_COMPRESSION[self.codec],)),
            262: (SHORT, (self.photometric,)),
            277: (SHORT, (bands,)),
            284: (SHORT, (2 if self.planar else 1,)),
            **self.tags,
        }
        if self.reverse_bits:
            tags[266] = (SHORT, (2,))
        if self.tiled:
            tags |= {322: (LONG, (_TILE[1],)), 323: (LONG, (_TILE[0],))}
        else:
            tags[278] = (LONG, (16,))
        planes = [self.values[..., [band]] for band in range(bands)] if self.planar else [self.values]
        segments = [self._segment(each) for plane in planes for each in self._cut(plane)]
        return Directory(tags, segments, [each.directory() for each in self.children])

    def _cut(self, plane: NDArray[Any]) -> Iterator[NDArray[Any]]:
        height, width = plane.shape[:2]
        if not self.tiled:
            yield from (plane[top : top + 16] for top in range(0, height, 16))
            return
        rows, columns = _TILE
        filled = np.pad(plane, ((0, -height % rows), (0, -width % columns), (0, 0)), mode="edge")
        for top, left in itertools.product(range(0, height, rows), range(0, width, columns)):
            yield filled[top : top + rows, left : left + columns]

    def _segment(self, part: NDArray[Any]) -> bytes:
        if self.subsampling != (1, 1):
            packed = _subsampled(part, self.subsampling)
        else:
            packed = tiff_writer.pack_samples(part.reshape(len(part), -1), self.bits, self.order)
        compressed = _compressed(packed, self.codec)
        if not self.reverse_bits:
            return compressed
        turned = np.unpackbits(np.frombuffer(compressed, np.uint8)).reshape(-1, 8)[:, ::-1]
        return np.packbits(turned).tobytes()


def _subsampled(part: NDArray[Any], subsampling: tuple[int, int]) -> bytes:
    """Pack YCbCr as TIFF 6.0 does: the luma of a block, then its mean Cb and Cr."""
    across, down = subsampling
    height, width = part.shape[:2]
    filled = np.pad(part, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge").astype(np.float64)
    rows, columns = filled.shape[0] // down, filled.shape[1] // across
    blocks = filled.reshape(rows, down, columns, across, 3).transpose(0, 2, 1, 3, 4)
    luma = blocks[..., 0].reshape(rows, columns, -1)
    chroma = np.rint(blocks[..., 1:].mean(axis=(2, 3)))
    return np.concatenate([luma, chroma], axis=2).astype(np.uint8).tobytes()


def _raw_variant(
    name: str,
    raw: _Raw,
    axes: Mapping[str, str],
    expected: NDArray[np.uint8] | None,
    *,
    stored: NDArray[np.uint8] | None = None,
    closeness: Closeness = "exact",
    before: Sequence[_Raw] = (),
    after: Sequence[_Raw] = (),
    big: bool = False,
) -> Variant:
    layout = "tiles" if raw.tiled else "strips"
    return Variant(
        _name("raw", name, "planar" * raw.planar, layout, raw.codec, _order_name(raw.order), "big" * big),
        {
            "interleaving": "by band" if raw.planar else "by pixel",
            "layout": layout,
            "codec": raw.codec,
            "byte order": "little-endian" if raw.order == "<" else "big-endian",
            "file": "BigTIFF" if big else "classic TIFF",
            "bands": str(raw.values.shape[2]),
            "samples": f"uint{raw.bits}",
            "writer": "bytes",
            **axes,
        },
        partial(_write_raw, pages=[*before, raw, *after], big=big),
        expected,
        stored,
        closeness,
    )


def _rational(values: Sequence[float]) -> tuple[int, tuple[int, ...]]:
    return RATIONAL, tuple(part for value in values for part in (round(value * 10000), 10000))


def _ycbcr() -> Iterator[Variant]:
    coefficients = {"BT.601": rules.BT601, "BT.709": (0.2125, 0.7154, 0.0721)}
    references = {"full": rules.FULL_RANGE, "studio": (16.0, 235.0, 128.0, 240.0, 128.0, 240.0)}
    for subsampling, (law, shares), (span, reference), tiled, codec, order in itertools.product(
        ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)),
        coefficients.items(),
        references.items(),
        (False, True),
        ("none", "lzw"),
        _ORDERS,
    ):
        stored = Stored("YCbCr", coefficients=shares, reference=reference)
        raw = _Raw(
            rules.rgb_to_ycbcr(scene_rgb(), stored),
            8,
            6,
            codec,
            order,
            tiled=tiled,
            tags={
                529: _rational(shares),
                530: (SHORT, subsampling),
                532: _rational(reference),
            },
            subsampling=subsampling,
        )
        axes = {"photometric": "YCbCr", "subsampling": f"{subsampling[0]}x{subsampling[1]}", "range": f"{law} {span}"}
        name = f"ycbcr{subsampling[0]}{subsampling[1]} {law} {span}"
        yield _raw_variant(
            name, raw, axes, rules.to_rgb(_chroma_means(raw), stored), closeness="rounded", big=order == ">"
        )


def _chroma_means(raw: _Raw) -> NDArray[np.uint8]:
    """What a reader has after it repeated each mean over its block."""
    across, down = raw.subsampling
    height, width = raw.values.shape[:2]
    chroma = np.pad(raw.values[..., 1:], ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    blocks = chroma.reshape(chroma.shape[0] // down, down, chroma.shape[1] // across, across, 2)
    means = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    repeated = means.repeat(down, axis=0).repeat(across, axis=1)[:height, :width]
    return np.dstack([raw.values[..., :1], repeated])


def _lab() -> Iterator[Variant]:
    lab = rules.rgb_to_lab(scene_rgb())
    for model, bits, planar, tiled, codec, order in itertools.product(
        ("CIELab", "ICCLab"), (8, 16), (False, True), (False, True), ("none", "deflate"), _ORDERS
    ):
        stored = Stored(model, bits)
        raw = _Raw(
            rules.lab_samples(lab, stored),
            bits,
            8 if model == "CIELab" else 9,
            codec,
            order,
            planar=planar,
            tiled=tiled,
        )
        yield _raw_variant(
            f"{model}{bits}", raw, {"photometric": model}, rules.to_rgb(raw.values, stored), closeness="rounded"
        )


def _palettes() -> Iterator[Variant]:
    for bits, tall, codec, tiled, order in itertools.product(
        (1, 2, 4, 8), (True, False), ("none", "packbits", "lzw"), (False, True), _ORDERS
    ):
        colors = _colormap(1 << bits) // (1 if tall else 257)
        raw = _Raw(
            samples((0,), bits),
            bits,
            3,
            codec,
            order,
            tiled=tiled,
            tags={320: (SHORT, tuple(int(value) for value in colors.ravel()))},
        )
        expected = rules.to_rgb(raw.values, Stored("palette", bits, colors=colors))
        axes = {"photometric": "palette", "colour map": "16 bit" if tall else "8 bit in 16"}
        yield _raw_variant(f"palette{bits} {'tall' if tall else 'low'}", raw, axes, expected, big=order == ">")


def _orientations() -> Iterator[Variant]:
    kinds = {"BYTE": BYTE, "SHORT": SHORT, "LONG": LONG, "SBYTE": SBYTE, "SSHORT": SSHORT, "SLONG": SLONG}
    for orientation, (kind, number), bands, tiled in itertools.product(
        range(1, 9), kinds.items(), (1, 3), (False, True)
    ):
        order = _ORDERS[orientation % 2]
        raw = _Raw(
            samples(range(bands), 8),
            8,
            2 if bands == 3 else 1,
            "lzw" if tiled else "none",
            order,
            tiled=tiled,
            tags={274: (number, (orientation,))},
        )
        stored = Stored("RGB" if bands == 3 else "grey")
        rgb = rules.to_rgb(raw.values, stored)
        axes = {"photometric": stored.model, "orientation": f"{orientation}", "type of the orientation": kind}
        yield _raw_variant(
            f"orientation {orientation} {kind} {bands}", raw, axes, upright(rgb, orientation), stored=rgb
        )


def _pages() -> Iterator[Variant]:
    rgb = samples((0, 1, 2), 8)
    other = rgb[::-1, :, ::-1]
    small = rgb[::4, ::4]
    expected = rules.to_rgb(rgb, Stored("RGB"))

    def page(
        values: NDArray[Any],
        order: ByteOrder,
        codec: str,
        tags: Mapping[int, tuple[int, tuple[int, ...]]] | None = None,
        children: Sequence[_Raw] = (),
    ) -> _Raw:
        return _Raw(values, 8, 2, codec, order, tags=tags or {}, children=children)

    for order, codec, big in itertools.product(_ORDERS, ("none", "deflate"), (False, True)):
        reduced, mask, single = {254: (LONG, (1,))}, {254: (LONG, (4,))}, {254: (LONG, (2,))}
        coverage = _Raw(np.ones((HEIGHT, WIDTH, 1), np.uint8), 1, 4, codec, order, tags=mask)
        first = page(rgb, order, codec)
        layouts: dict[str, tuple[Sequence[_Raw], _Raw, Sequence[_Raw]]] = {
            "one page": ((), first, ()),
            "three pages": ((), page(rgb, order, codec, single), [page(other, order, codec, single)] * 2),
            "overview behind": ((), first, [page(small, order, codec, reduced)]),
            "overview behind, old tag": ((), first, [page(small, order, codec, {255: (SHORT, (2,))})]),
            "mask behind": ((), first, [coverage]),
            "preview before": ([page(small, order, codec, reduced)], first, ()),
            "preview before, old tag": ([page(small, order, codec, {255: (SHORT, (2,))})], first, ()),
            "preview with the picture below": (
                (),
                page(small, order, codec, reduced, [first]),
                (),
            ),
            "picture with an overview below": (
                (),
                page(rgb, order, codec, None, [page(small, order, codec, reduced)]),
                (),
            ),
        }
        for name, (before, raw, after) in layouts.items():
            axes = {"photometric": "RGB", "pages": name}
            yield _raw_variant(name, raw, axes, expected, before=before, after=after, big=big)


def _fill_orders() -> Iterator[Variant]:
    for bits, codec, order in itertools.product((1, 4, 8), ("none", "packbits", "deflate"), _ORDERS):
        raw = _Raw(samples((0,), bits), bits, 1, codec, order, reverse_bits=True)
        axes = {"photometric": "grey", "order of bits": "lowest first"}
        yield _raw_variant(f"fill order {bits}", raw, axes, rules.to_rgb(raw.values, Stored("grey", bits)))


def _order_name(order: ByteOrder) -> str:
    return "le" if order == "<" else "be"


def _name(*parts: str) -> str:
    return "_".join("-".join(part.replace(".", "").replace(",", "").split()) for part in parts if part)

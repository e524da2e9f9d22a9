"""Which pictures the matrix holds, and in which layouts each."""
# numpy's products of generic arrays are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.corpus import rules
from benchmarks.lab.corpus.matrix.scene import ALPHA, HEIGHT, cmyk, colormap, samples, scene_rgb
from benchmarks.lab.corpus.matrix.tiff_file import BYTE, LONG, RATIONAL, SBYTE, SHORT, SLONG, SSHORT, ByteOrder
from benchmarks.lab.corpus.matrix.writers import (
    LOSSLESS_CODECS,
    RARE_CODECS,
    Layout,
    Page,
    Picture,
    Segments,
    Tags,
    Variant,
    by_bytes,
    by_gdal,
    by_tifffile,
    chroma_means,
)
from benchmarks.lab.corpus.rules import Model, Stored, upright

_ORDERS: tuple[ByteOrder, ...] = ("<", ">")
_EITHER = (False, True)
_TWO: tuple[Segments, ...] = ("strips", "tiles")
_THREE: tuple[Segments, ...] = ("one strip", "strips", "tiles")


def _layouts(
    bands: int,
    *,
    by_band: Sequence[bool] = _EITHER,
    segments: Sequence[Segments] = _TWO,
    codecs: Sequence[str] = ("none",),
    orders: Sequence[ByteOrder] = _ORDERS,
    big: ByteOrder | None = None,
) -> Iterator[Layout]:
    """Every combination; files of the byte order `big` are BigTIFFs. A single band has no interleaving."""
    for planar, part, codec, order in itertools.product(by_band, segments, codecs, orders):
        if not (planar and bands == 1):
            yield Layout(planar, part, codec, order, order == big)


def _typed(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    return values.astype(np.uint8) if bits <= 8 else values


def _of_bands(bands: int, bits: int = 8) -> Picture:
    """Grey of one band, RGB of three."""
    stored = Stored("grey" if bands == 1 else "RGB", bits)
    return Picture(f"{stored.model.lower()}{bits}", stored, _typed(samples(range(bands), bits), bits))


def _kinds() -> list[Picture]:
    alpha, unknown = ("unassalpha",), ("unspecified",)
    shapes: list[tuple[str, Model, tuple[int, ...], tuple[str, ...]]] = [
        ("grey", "grey", (0,), ()),
        ("white", "white is zero", (0,), ()),
        ("greyalpha", "grey", (0, ALPHA), alpha),
        ("rgb", "RGB", (0, 1, 2), ()),
        ("rgba", "RGB", (0, 1, 2, ALPHA), alpha),
        ("rgbx", "RGB", (0, 1, 2, 3), unknown),
        ("five", "grey", (0, 1, 2, 3, 4), unknown * 4),
    ]
    kinds: list[Picture] = []
    for bits in (8, 16):
        kinds += [
            Picture(
                f"{name}{bits}", Stored(model, bits), _typed(samples(bands, bits), bits), extra=extra,
                readable=extra[:1] != unknown,
            )
            for name, model, bands, extra in shapes
        ]  # fmt: skip
        kinds.append(Picture(f"cmyk{bits}", Stored("CMYK", bits), _typed(cmyk(bits), bits)))
    palette = Stored("palette", 8, colors=colormap(256))
    return [*kinds, Picture("palette8", palette, _typed(samples((0,), 8), 8))]


# ---- what tifffile writes ---------------------------------------------------------------------------------------


def _core() -> Iterator[Variant]:
    files: tuple[tuple[ByteOrder, bool], ...] = (("<", False), (">", True), (">", False), ("<", True))
    combinations = itertools.product(_kinds(), _EITHER, _THREE, LOSSLESS_CODECS)
    for number, (picture, by_band, segments, codec) in enumerate(combinations):
        if by_band and picture.bands == 1:
            continue
        # Codecs know nothing of byte orders and offsets: what is not compressed has all, each codec takes turns.
        for order, big in files if codec == "none" else (files[number % 4],):
            yield by_tifffile(picture, Layout(by_band, segments, codec, order, big))


def _lossy() -> Iterator[Variant]:
    for bands, codecs in ((1, ("jpeg",)), (3, ("webp", "webp without loss"))):
        for layout in _layouts(bands, by_band=(False,), segments=_THREE, codecs=codecs, big=">"):
            yield by_tifffile(_of_bands(bands), layout)
    stored = Stored("YCbCr")
    for across, down in ((1, 1), (2, 1), (2, 2)):
        axes = {"subsampling": f"{across}x{down}"}
        picture = Picture(f"ycbcr{across}{down}", stored, rules.rgb_to_ycbcr(scene_rgb(), stored), axes)
        for layout in _layouts(3, by_band=(False,), segments=_THREE, codecs=("jpeg",), big="<"):
            yield by_tifffile(picture, layout, subsampling=(across, down))
    models: tuple[tuple[Model, str, int], ...] = (("grey", "MINISBLACK", 1), ("RGB", "RGB", 3), ("YCbCr", "YCBCR", 3))
    for model, photometric, bands in models:
        # GDAL takes RGB and converts it.
        axes = {"photometric": model, **({"subsampling": "2x2"} if model == "YCbCr" else {})}
        picture = Picture(f"jpeg {model}", _of_bands(bands).stored, _of_bands(bands).values, axes)
        by_band = _EITHER if model == "RGB" else (False,)
        for layout in _layouts(bands, by_band=by_band, codecs=("jpeg",), big=">"):
            rows = {} if layout.tiled else {"blockysize": 16}
            yield by_gdal(picture, layout, {"photometric": photometric, "jpeg_quality": 95, **rows})


def _rare_codecs() -> Iterator[Variant]:
    for bands, bits in itertools.product((1, 3), (8, 16)):
        for layout in _layouts(
            bands, by_band=(False,), segments=("one strip", "tiles"), codecs=RARE_CODECS, orders=("<",)
        ):
            yield by_tifffile(_of_bands(bands, bits), layout)


def _value_types() -> Iterator[Variant]:
    types = "int8 int16 int32 int64 uint32 uint64 float16 float32 float64 complex64 complex128".split()
    for name, bands in itertools.product(types, (1, 3)):
        values = samples(range(bands), 7).astype(name)
        picture = Picture(f"{name} {bands}", _of_bands(bands).stored, values, {"samples": name}, readable=False)
        for layout in _layouts(bands, by_band=(False,), segments=("strips",), codecs=("none", "deflate"), big=">"):
            yield by_tifffile(picture, layout)


def _associated_alpha() -> Iterator[Variant]:
    for bits, bands in itertools.product((8, 16), (1, 3)):
        full = (1 << bits) - 1
        # Nothing is left of a colour where alpha is 0: here the lowest alpha is half.
        alpha = np.maximum(samples((ALPHA,), bits), (full + 1) // 2)
        colors = np.rint(samples(range(bands), bits).astype(np.float64) * alpha / full).astype(np.uint16)
        stored = Stored("RGB" if bands == 3 else "grey", bits, premultiplied=True)
        values = _typed(np.dstack([colors, alpha]), bits)
        picture = Picture(f"{stored.model.lower()}{bits}premultiplied", stored, values, extra=("assocalpha",))
        for layout in _layouts(bands + 1, codecs=("none", "lzw with predictor"), big=">"):
            yield by_tifffile(picture, layout)


# ---- what GDAL writes -------------------------------------------------------------------------------------------


def _depths() -> Iterator[Variant]:
    models: tuple[tuple[str, Model, int], ...] = (("grey", "grey", 1), ("white", "white is zero", 1), ("rgb", "RGB", 3))
    for bits, (name, model, bands) in itertools.product((1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 14, 15), models):
        picture = Picture(f"{name}{bits}", Stored(model, bits), _typed(samples(range(bands), bits), bits))
        for layout in _layouts(bands, codecs=("none", "deflate", "lzw"), big=">"):
            yield by_gdal(picture, layout)


def _bilevel() -> Iterator[Variant]:
    models: tuple[Model, ...] = ("grey", "white is zero")
    for model in models:
        picture = Picture(f"bilevel {model}", Stored(model, 1), _typed(samples((0,), 1), 1))
        for layout in _layouts(1, codecs=("ccittrle", "ccittfax3", "ccittfax4", "packbits"), big=">"):
            yield by_gdal(picture, layout)


def _bands_and_nodata() -> Iterator[Variant]:
    for bits, bands, has_alpha, nodata in itertools.product(
        (8, 16), (1, 2, 3, 4, 5), _EITHER, (None, 0.0, 200.0, 255.0)
    ):
        alpha, told = "unassociated" if has_alpha else "none", "none" if nodata is None else f"{nodata:g}"
        colors = ("red", "green", "blue", "undefined", "undefined") if bands >= 3 else ("gray", "undefined")
        picture = Picture(
            f"bands{bands} {alpha} {bits} bit nodata {told}",
            Stored("RGB" if bands >= 3 else "grey", bits),
            _typed(samples((*range(bands), *(ALPHA,) * has_alpha), bits), bits),
            {"alpha": alpha, "nodata": told},
            readable=bands in {1, 3},
        )
        for layout in _layouts(picture.bands, segments=("strips",), codecs=("deflate",), orders=("<",)):
            interpretations = (*colors[:bands], *("alpha",) * has_alpha)
            yield by_gdal(picture, layout, {"nodata": nodata}, interpretations=interpretations)
    for photometric, bits in itertools.product(("MINISBLACK", "RGB"), (8, 16)):
        axes = {"photometric": "RGB" if photometric == "RGB" else "three bands without meaning"}
        plain = _of_bands(3, bits)
        picture = Picture(f"three bands {photometric} {bits} bit", plain.stored, plain.values, axes)
        for layout in _layouts(3, codecs=("none", "deflate", "zstd", "lzw"), orders=("<",)):
            predictor = {} if layout.codec == "none" else {"predictor": 2}
            yield by_gdal(picture, layout, {"photometric": photometric, **predictor})


def _sparse() -> Iterator[Variant]:
    for bits, bands in itertools.product((8, 16), (1, 3)):
        whole = _of_bands(bands, bits)
        for layout in _layouts(bands, codecs=("none", "lzw", "deflate"), big=">"):
            # GDAL writes whole blocks, of 16 rows in tiles and 8 in strips: these end with a block.
            rows = 16 if layout.tiled else 24
            values = np.where(np.arange(HEIGHT)[:, np.newaxis, np.newaxis] < rows, whole.values, 0)
            axes = {"segments": "some are missing"}
            picture = Picture(f"sparse {whole.name}", whole.stored, values.astype(whole.values.dtype), axes)
            yield by_gdal(picture, layout, {"sparse_ok": True}, rows=rows)


# ---- what neither writes ----------------------------------------------------------------------------------------


def _ycbcr() -> Iterator[Variant]:
    coefficients = {"BT.601": rules.BT601, "BT.709": (0.2125, 0.7154, 0.0721)}
    references = {"full": rules.FULL_RANGE, "studio": (16.0, 235.0, 128.0, 240.0, 128.0, 240.0)}
    for subsampling, (law, shares), (span, reference) in itertools.product(
        ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)), coefficients.items(), references.items()
    ):
        stored = Stored("YCbCr", coefficients=shares, reference=reference)
        axes = {"subsampling": f"{subsampling[0]}x{subsampling[1]}", "range": f"{law} {span}"}
        name = f"ycbcr{subsampling[0]}{subsampling[1]} {law} {span}"
        picture = Picture(name, stored, rules.rgb_to_ycbcr(scene_rgb(), stored), axes)
        tags = {529: _rational(shares), 530: (SHORT, subsampling), 532: _rational(reference)}
        expected = rules.to_rgb(_with_repeated_chroma(picture.values, subsampling), stored)
        for layout in _layouts(3, by_band=(False,), codecs=("none", "lzw"), big=">"):
            yield by_bytes(picture, layout, [Page(picture, layout, tags, subsampling)], expected=expected)


def _rational(values: Sequence[float]) -> tuple[int, tuple[int, ...]]:
    return RATIONAL, tuple(part for value in values for part in (round(value * 10000), 10000))


def _with_repeated_chroma(values: NDArray[np.uint8], subsampling: tuple[int, int]) -> NDArray[np.uint8]:
    """What a reader has after it repeated each mean over its block."""
    means = chroma_means(values, subsampling).astype(np.uint8)
    repeated = means.repeat(subsampling[1], axis=0).repeat(subsampling[0], axis=1)
    return np.dstack([values[..., :1], repeated[: len(values), : values.shape[1]]])


def _lab() -> Iterator[Variant]:
    lab = rules.rgb_to_lab(scene_rgb())
    models: tuple[Model, ...] = ("CIELab", "ICCLab")
    for model, bits in itertools.product(models, (8, 16)):
        stored = Stored(model, bits)
        picture = Picture(f"{model}{bits}", stored, rules.lab_samples(lab, stored))
        for layout in _layouts(3, codecs=("none", "deflate")):
            yield by_bytes(picture, layout)


def _palettes() -> Iterator[Variant]:
    for bits, tall in itertools.product((1, 2, 4, 8), (True, False)):
        stored = Stored("palette", bits, colors=colormap(1 << bits) // (1 if tall else 257))
        axes = {"colour map": "16 bit" if tall else "8 bit in 16"}
        picture = Picture(f"palette{bits} {'tall' if tall else 'low'}", stored, samples((0,), bits), axes)
        tags: Tags = {320: (SHORT, tuple(int(value) for value in np.asarray(stored.colors).ravel()))}
        for layout in _layouts(1, codecs=("none", "packbits", "lzw"), big=">"):
            yield by_bytes(picture, layout, [Page(picture, layout, tags)])


def _orientations() -> Iterator[Variant]:
    types = {"BYTE": BYTE, "SHORT": SHORT, "LONG": LONG, "SBYTE": SBYTE, "SSHORT": SSHORT, "SLONG": SLONG}
    for orientation, (kind, number), bands, segments in itertools.product(range(1, 9), types.items(), (1, 3), _TWO):
        axes = {"orientation": f"{orientation}", "type of the orientation": kind}
        plain = _of_bands(bands)
        picture = Picture(f"orientation {orientation} {kind} {bands}", plain.stored, plain.values, axes)
        codec = "lzw" if segments == "tiles" else "none"
        layout = Layout(segments=segments, codec=codec, order=_ORDERS[orientation % 2])
        rgb = rules.to_rgb(picture.values, picture.stored)
        tags: Tags = {274: (number, (orientation,))}
        page = Page(picture, layout, tags)
        yield by_bytes(picture, layout, [page], expected=upright(rgb, orientation), stored=rgb)


def _pages() -> Iterator[Variant]:
    rgb = samples((0, 1, 2), 8)
    main, other, small = (Picture("", Stored("RGB"), values) for values in (rgb, rgb[::-1, :, ::-1], rgb[::4, ::4]))
    cover = Picture("", Stored("grey", 1), np.ones((HEIGHT, rgb.shape[1], 1), np.uint8))
    single: Tags = {254: (LONG, (2,))}
    mask: Tags = {254: (LONG, (4,)), 262: (SHORT, (4,))}
    for order, codec, big in itertools.product(_ORDERS, ("none", "deflate"), _EITHER):
        layout = Layout(codec=codec, order=order, big=big)
        first = Page(main, layout)
        reduced, reduced_of_old = (Page(small, layout, {tag: (kind, (value,))})
                                   for tag, kind, value in ((254, LONG, 1), (255, SHORT, 2)))  # fmt: skip
        files = {
            "one page": [first],
            "three pages": [Page(main, layout, single), *[Page(other, layout, single)] * 2],
            "overview behind": [first, reduced],
            "overview behind, old tag": [first, reduced_of_old],
            "mask behind": [first, Page(cover, layout, mask)],
            "preview before": [reduced, first],
            "preview before, old tag": [reduced_of_old, first],
            "preview with the picture below": [Page(small, layout, reduced.tags, children=[first])],
            "picture with an overview below": [Page(main, layout, children=[reduced])],
        }
        for name, pages in files.items():
            yield by_bytes(Picture(name, main.stored, rgb, {"pages": name}), layout, pages)


def _fill_orders() -> Iterator[Variant]:
    for bits in (1, 4, 8):
        axes = {"order of bits": "lowest first"}
        picture = Picture(f"fill order {bits}", Stored("grey", bits), samples((0,), bits), axes)
        for layout in _layouts(1, segments=("strips",), codecs=("none", "packbits", "deflate")):
            yield by_bytes(picture, layout, [Page(picture, layout, reverse_bits=True)])


GROUPS: tuple[Callable[[], Iterator[Variant]], ...] = (
    _core, _depths, _bilevel, _value_types, _lossy, _rare_codecs, _ycbcr, _lab, _palettes, _associated_alpha,
    _orientations, _pages, _sparse, _bands_and_nodata, _fill_orders,
)  # fmt: skip

"""The options of `pseg predict` about large images and about seeing an image several times."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from engine.errors import ImageError, OptionError
from engine.rasters.options import TileWishes, is_polygon_format
from engine.segmentation.averaging import Averaging
from service.request import DEFAULT_MAX_IMG_SIZE
from service.results.large_image_request import LargeImageRequest

_Number = TypeVar("_Number", int, float)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)

TileOption = Annotated[
    bool,
    typer.Option(
        "--tile",
        help="work in overlapping tiles at full size (a TIFF above --max-pixels always is); implies --max-img-size -1",
    ),
]
TileSizeOption = Annotated[
    int | None, typer.Option(min=1, help="side of a tile in pixels; default: what the memory holds, at most 1024")
]
OverlapOption = Annotated[int | None, typer.Option(min=0, help="pixels that tiles share; default: a quarter of a tile")]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        help="for the whole process, such as 1.5GiB: decides the size of tiles; default: 80 % of what there is"
    ),
]
BandsOption = Annotated[
    str | None, typer.Option(help="bands of TIFFs to take, from 1: 3,2,1 as red, green, blue, or one as grey")
]
PageOption = Annotated[
    str | None, typer.Option(metavar="N|all", help="page of TIFFs to take, from 1, or all of them: <stem>.pN for each")
]
VectorsOption = Annotated[
    str | None, typer.Option(help="polygons of TIFFs: gpkg or geojson for <stem>.gpkg or .geojson, or a file")
]
CropSizeOption = Annotated[
    tuple[int, int] | None, typer.Option(metavar="W H", help="PaddleSeg's sliding window; goes with --stride")
]
StrideOption = Annotated[
    tuple[int, int] | None, typer.Option(metavar="W H", help="how far the window moves; goes with --crop-size")
]
ScalesOption = Annotated[
    str | None, typer.Option(help="average over sizes, as PaddleSeg does: factors such as 0.75,1.0,1.25")
]
FlipHorizontalOption = Annotated[
    bool, typer.Option("--flip-horizontal", "--flip", help="average with left and right exchanged")
]
FlipVerticalOption = Annotated[bool, typer.Option("--flip-vertical", help="average with top and bottom exchanged")]


def memory_bytes(text: str) -> int:
    """Read an amount of memory.

    Args:
        text: a number, perhaps with k, m, g or t (powers of 1024), iB or B behind it.

    Returns:
        Bytes.

    Raises:
        OptionError: it is none.

    >>> memory_bytes("1.5GiB"), memory_bytes("800m"), memory_bytes("4096")
    (1610612736, 838860800, 4096)
    """
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise OptionError(f"--max-memory {text}: give an amount such as 1.5GiB or 800MiB")
    return round(float(found[1]) * _UNITS[found[2].lower()])


def averaging_request(
    crop_size: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    scales: str | None,
    *,
    flip_horizontal: bool,
    flip_vertical: bool,
) -> Averaging:
    """Put together how each image is seen.

    Args:
        crop_size: width and height of the sliding window.
        stride: how far it moves.
        scales: factors with commas between.
        flip_horizontal: see `Averaging`.
        flip_vertical: see `Averaging`.

    Returns:
        The request.

    Raises:
        OptionError: the options contradict each other, or are no numbers.
    """
    factors = (1.0,) if scales is None else tuple(_numbers("--scales", scales, float, "0.75,1.0,1.25"))
    return Averaging(crop_size, stride, factors, flip_horizontal, flip_vertical)


def large_image_request(
    *,
    tile: bool,
    tile_size: int | None,
    overlap: int | None,
    max_memory: str | None,
    bands: str | None,
    vectors: str | None,
    resume: bool,
    averaging: Averaging,
    max_img_size: int,
) -> LargeImageRequest:
    """Put together what is asked of large images.

    Args:
        tile: whether every image is cut.
        tile_size: side of a tile.
        overlap: of tiles.
        max_memory: see `memory_bytes`.
        bands: numbers with commas between.
        vectors: a format or a file.
        resume: whether to go on with what an interrupted run left.
        averaging: how each image is seen.
        max_img_size: as given.

    Returns:
        The request.

    Raises:
        OptionError: the options contradict each other.
    """
    if tile and averaging.crop_size is not None:
        raise OptionError(
            "--crop-size is PaddleSeg's way to cut an image that fits into memory, --tile another for any: give one"
        )
    if tile and max_img_size not in {DEFAULT_MAX_IMG_SIZE, -1}:
        raise OptionError("--tile works at full size: leave --max-img-size out, or --tile")
    if vectors is not None and not is_polygon_format(vectors) and not Path(vectors).suffix:
        raise OptionError(f"--vectors {vectors}: give gpkg, geojson, or a file that ends in .gpkg or .geojson")
    return LargeImageRequest(
        tile=tile,
        wishes=TileWishes(tile_size, overlap, memory_bytes=None if max_memory is None else memory_bytes(max_memory)),
        bands=None if bands is None else tuple(_numbers("--bands", bands, int, "3,2,1")),
        vectors=vectors,
        resume=resume,
    )


def _numbers(option: str, text: str, kind: type[_Number], example: str) -> list[_Number]:
    try:
        return [kind(each) for each in text.split(",")]
    except ValueError as error:
        raise OptionError(f"{option} {text}: give numbers with commas between, such as {example}") from error


def chosen_pages(page: str | None) -> Callable[[Path], Sequence[int | None]]:
    """Tell which pages of an image become images of the run.

    Args:
        page: a number from 1, `all`, or None.

    Returns:
        Given an image, its pages; None for the first of an image that has no other, or where nothing was asked for.

    Raises:
        OptionError: it is neither.
    """
    if page is None:
        return lambda _: (None,)
    if page == "all":
        return _all_pages
    if not page.isascii() or not page.isdecimal() or int(page) < 1:
        raise OptionError(f"--page {page}: give the number of a page, from 1, or all")
    number = int(page)
    return lambda _: (number,)


def _all_pages(path: Path) -> Sequence[int | None]:
    from engine.images.tiff import pages_of

    try:
        found = pages_of(path)
    except ImageError:  # another format, or the reader says what is wrong
        return (None,)
    return [each.number for each in found] if len(found) > 1 else (None,)

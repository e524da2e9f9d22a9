"""GDAL, through rasterio: the only file that imports it.

A raster that somebody sent must not make GDAL open anything else, and GDAL is willing to: files beside it, files and
addresses that its metadata name, grids that its coordinate reference system names. So

- a file is handed over as an open descriptor (`/proc/self/fd/…`): nothing lies beside that name, and no name of a file
  is ever taken for an address, an archive or a description;
- only the driver for GeoTIFF is asked, in an environment (`_READING`) in which GDAL looks at nothing else;
- a file whose metadata name another one as its overviews is refused before a pixel is read, by what GDAL itself has
  read of the metadata;
- a coordinate reference system that names a file is not used (`names_files`);
- what the environment says to GDAL or PROJ (`GDAL_*`, `PROJ_*`, …) is removed from it, so that the same file gives the
  same result everywhere.

Maps are written in a new folder, where nothing lies that could change them.
"""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine.system.files import scratch_folder
from engine.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

NAMES_OVERVIEWS: Final = (
    "its metadata name another file as its overviews (OVERVIEW_FILE), which is not opened: export it again without "
    "this item"
)
"""Why a file is refused."""

_CACHE_MIB: Final = 64
_LARGEST_CACHE_MIB: Final = 128

_READING: Final[Mapping[str, str]] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_DRIVER_PATH": "disable",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GTIFF_IMPLICIT_JPEG_OVR": "NO",
    # No address ends like this: nothing is fetched, whoever asks.
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".nothing-is-fetched",
}
_WRITING: Final[Mapping[str, str]] = {
    **_READING,
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "YES",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "ALL",
}

_FOREIGN_VARIABLES: Final = re.compile(
    "(GDAL|OGR|OSR|GTIFF|VRT|CPL|VSI|PROJ)_.*|USE_RRD|ESRI_XML_PAM|CONVERT_YCBCR_TO_RGB|TIFF_USE_OVR"
)
_OWN_VARIABLES: Final = {"PROJ_NETWORK": "OFF", "GDAL_CONFIG_FILE": os.devnull}
_isolating = threading.Lock()

_EXTENSION: Final = re.compile(r'EXTENSION\s*[\[(]\s*"(?:[^"]|"")*"\s*,\s*"((?:[^"]|"")*)"', re.IGNORECASE)
_PLAIN_TERM: Final = re.compile(
    r"\+(proj|a|b|rf|f|es|ellps|datum|lat_[012]|lat_ts|lon_[012]|lonc|x_0|y_0|k|k_0|units|to_meter|wktext"
    r"|no_defs|type|over|h|sweep|gamma|alpha|zone|south|R|pm|towgs84|axis)(=[\w.,@+-]*)?"
)
_BARE_NAME: Final = re.compile(
    r'EXTENSION\["PROJ4_GRIDS",\s*"[\w.,-]+"\]|GEOIDMODEL\["(?!PROJ)[^"/\\]*"|\+nadgrids=@null', re.IGNORECASE
)
"""Of grids: PROJ looks for them among its own files."""
_NAMES_FILE: Final = re.compile(
    r"grids|parameterfile|geoidmodel|proj[-_ ]?based|pipeline|\b(init|file|model|catalog)\s*=", re.IGNORECASE
)


class GdalError(Exception):
    """GDAL cannot do what it was asked for, or refuses to; the message names no file."""


def isolate_environment() -> None:
    """Remove what the environment says to GDAL and PROJ, for this process and its children; again it changes nothing.

    GDAL looks some of it up when it is loaded and some at every call.
    """
    with _isolating:
        for name in [name for name in os.environ if _FOREIGN_VARIABLES.fullmatch(name) and name not in _OWN_VARIABLES]:
            del os.environ[name]
        for name, value in _OWN_VARIABLES.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _environment(options: Mapping[str, str], *, cache_mib: int | None = None) -> Generator[None]:
    isolate_environment()
    import rasterio
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning
    from rasterio.session import DummySession

    # What GDAL remarks on a file is not for its user; what fails is raised.
    # For good: to restore a list of filters afterwards is not safe among threads. That a georeference is missing the
    # service says in its own words; what is missing is decided in `engine.images.tiff`.
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    for remark in (NotGeoreferencedWarning, NodataShadowWarning):
        if ("ignore", None, remark, None, 0) not in warnings.filters:
            warnings.simplefilter("ignore", remark)
    # A session of its own, or rasterio would look for credentials of a cloud.
    settings: dict[str, Any] = {**options} if cache_mib is None else {**options, "GDAL_CACHEMAX": cache_mib}
    with rasterio.Env(session=DummySession(), **settings):
        yield


@dataclass(slots=True)
class Dataset:
    """A picture of a TIFF, opened by GDAL. Threads: one at a time, any."""

    width: int
    height: int
    dtypes: tuple[str, ...]  # one a band
    meanings: tuple[str, ...]  # what GDAL takes each band for: `red`, `gray`, `alpha`, `undefined`, …
    block_shape: tuple[int, int]  # rows and columns of a strip or tile
    has_mask: bool  # whether a mask of the file's own, or a value for each band, tells which pixels count
    crs_wkt: str | None  # None where the file names no coordinate reference system that is understood
    # x of the corner, x per column, x per row, y of the corner, y per column, y per row
    transform: tuple[float, float, float, float, float, float]
    area_or_point: str  # what a pixel's coordinates mean, as GeoTIFF says it
    placed_by_points: bool  # whether there are ground control points in place of a georeference
    _dataset: "DatasetReader" = field(repr=False)
    _cache_mib: int = _CACHE_MIB

    def read(self, bands: Sequence[int], window: Window, size: tuple[int, int] | None = None) -> NDArray[Any]:
        """Read bands (from 1) of a window as [bands, height, width], of the file's own type.

        It is reduced to `size` (height, width) by taking single pixels. GdalError: the file is damaged there.
        """
        shape = (len(bands), *(size or (window.height, window.width)))
        with self._reading(window) as part:
            return self._dataset.read(list(bands), window=part, out_shape=shape)

    def read_mask(self, window: Window, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """Read which pixels count by the file's own mask, bool[height, width], as `read` does."""
        shape = size or (window.height, window.width)
        with self._reading(window) as part:
            return self._dataset.read_masks(1, window=part, out_shape=shape) > 0

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Read the palette of the first band: index to red, green, blue and alpha, 0–255; empty where there is none."""
        try:
            return self._dataset.colormap(1)
        except ValueError:
            return {}

    @contextmanager
    def _reading(self, window: Window) -> Generator[Any]:
        from rasterio import windows
        from rasterio.errors import RasterioError

        # Again for each read: it may be by another thread than the one that opened the file.
        with _environment(_READING, cache_mib=self._cache_mib):
            try:
                yield windows.Window(window.x, window.y, window.width, window.height)  # pyright: ignore[reportCallIssue]
            except RasterioError as error:
                raise GdalError(_reason_of(error)) from error


@contextmanager
def open_tiff(
    file: BinaryIO,
    *,
    directory_offset: int | None = None,
    as_stored: bool = False,
    use_georeference: bool = True,
    use_mask: bool = True,
    rows_at_a_time: int = 1024,
) -> Generator[Dataset]:
    """Open a picture of a TIFF; no pixels are read yet.

    The regular file stays open as long as the picture is used. `directory_offset` is where the picture's directory lies
    (None: the first one, with its overviews and its mask), `as_stored` leaves samples of other colour models than RGB
    as they are, and a file of whole rows needs a cache for `rows_at_a_time`. `use_mask` says whether the first mask of
    the file is that of the first picture, for which GDAL takes it. GdalError where GDAL cannot open it, or its
    metadata name another file.
    """
    name = f"/proc/self/fd/{file.fileno()}"
    if directory_offset is not None:
        name = f"GTIFF_DIR:off:{directory_offset}:{name}"
    if as_stored:
        name = f"GTIFF_RAW:{name}"
    options = _READING if use_georeference else {**_READING, "GDAL_GEOREF_SOURCES": "NONE"}
    with _environment(options):
        import rasterio
        from rasterio.errors import RasterioError

        try:
            dataset = rasterio.open(name, driver="GTiff")
        except (RasterioError, ValueError) as error:
            raise GdalError(_reason_of(error)) from error
        try:
            described = _described(dataset, rows_at_a_time, use_mask=use_mask)
        except GdalError:
            dataset.close()
            raise
        except Exception as error:  # GDAL's errors are those of rasterio's inside
            dataset.close()
            raise GdalError(_reason_of(error)) from error
    with dataset:
        yield described


def _described(dataset: "DatasetReader", rows_at_a_time: int, *, use_mask: bool) -> Dataset:
    if any(key.upper() == "OVERVIEW_FILE" for key in dataset.tags(ns="OVERVIEWS")):
        raise GdalError(NAMES_OVERVIEWS)
    meanings = tuple(each.name for each in dataset.colorinterp)
    flags = [{flag.name for flag in each} for each in dataset.mask_flag_enums]
    # Asked for masks, GDAL looks at all directories. What is wrong with another one is no fault of this picture, but
    # would be told as the error of the next call.
    with suppress(Exception):
        _ = dataset.colorinterp
    block = dataset.block_shapes[0]
    cache_mib = _CACHE_MIB
    if block[1] >= dataset.width:
        dtype = "complex64" if dataset.dtypes[0].startswith("complex") else dataset.dtypes[0]
        row_bytes = dataset.width * dataset.count * np.dtype(dtype).itemsize
        cache_mib = max(_CACHE_MIB, min(_LARGEST_CACHE_MIB, (row_bytes * rows_at_a_time >> 20) + 8))
    return Dataset(
        width=int(dataset.width),
        height=int(dataset.height),
        dtypes=tuple(dataset.dtypes),
        meanings=meanings,
        block_shape=(int(block[0]), int(block[1])),
        has_mask="per_dataset" in flags[0] and "alpha" not in flags[0] and (use_mask or "nodata" in flags[0]),
        crs_wkt=_wkt_of(dataset),
        transform=dataset.transform.to_gdal(),
        area_or_point=dataset.tags().get("AREA_OR_POINT", "Area"),
        placed_by_points=not dataset.crs and bool(dataset.gcps[0]),
        _dataset=dataset,
        _cache_mib=cache_mib,
    )


def _wkt_of(dataset: "DatasetReader") -> str | None:
    from rasterio.errors import CRSError

    try:
        return dataset.crs.to_wkt() if dataset.crs else None
    except CRSError:
        return None


def _reason_of(error: BaseException) -> str:
    """What GDAL says, without the names under which it knows a file, in the order from the cause to its effect."""
    said: list[str] = []
    current: BaseException | None = error
    while current is not None:
        text = re.sub(r"(GTIFF_(RAW|DIR):[\w:]*)?/proc/self/fd/\d+(, band \d+)?:? ?", "", str(current))
        said.append(text.strip().rstrip("."))
        current = current.__cause__
    # Its first sentence is only that something went wrong.
    return ": ".join(dict.fromkeys(each for each in reversed(said) if each)) or type(error).__name__


# ---- coordinate reference systems ---------------------------------------------------------------------------------


def names_files(wkt: str) -> bool:
    """Tell whether well-known text, or a part of it, names files, which PROJ would open.

    So does what might do so in a way that is not known to be harmless.
    """
    rest = _BARE_NAME.sub("", wkt)
    terms = [term for each in _EXTENSION.findall(rest) for term in str(each).split() if not _PLAIN_TERM.fullmatch(term)]
    return bool(terms) or _NAMES_FILE.search(rest) is not None


@dataclass(frozen=True, slots=True)
class CoordinateSystem:
    """What a coordinate reference system says of its units."""

    kind: str  # `projected`, `geographic` or another word
    unit: float  # of its coordinates: in metres, or in radians of a geographic one
    code: str | None  # such as `EPSG:32755`; None where it has none


def coordinate_system(wkt: str) -> CoordinateSystem:
    """Look up kind, units and code; GdalError where the text cannot be understood."""
    with _environment(_READING):
        from rasterio.crs import CRS

        try:
            crs = CRS.from_wkt(wkt)
            kind = "projected" if crs.is_projected else "geographic" if crs.is_geographic else "other"
            authority = crs.to_authority()
            return CoordinateSystem(kind, float(crs.units_factor[1]), ":".join(authority) if authority else None)
        except Exception as error:  # PROJ's errors are those of rasterio's inside
            raise GdalError(str(error)) from error


def transform_points(
    wkt: str, target: str | Mapping[str, Any], xs: Sequence[float], ys: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Tell coordinates in another system, longitudes and latitudes in degrees; GdalError where nothing leads there."""
    with _environment(_READING):
        from rasterio.crs import CRS
        from rasterio.warp import transform

        try:
            moved = transform(CRS.from_wkt(wkt), target, list(xs), list(ys))
        except Exception as error:  # PROJ's errors are those of rasterio's inside
            raise GdalError(str(error)) from error
    return list(moved[0]), list(moved[1])


# ---- maps ---------------------------------------------------------------------------------------------------------


@contextmanager
def new_file_at(path: Path) -> Generator[Path]:
    """Let a library write a file where nothing lies beside it, under a name that means nothing else to it.

    Libraries take some names for addresses or archives, and read files that lie beside the one that they write. The
    path that is yielded replaces `path` in the end.
    """
    with scratch_folder("map") as neutral, scratch_folder("map", path.parent) as beside:
        link = neutral / "new"
        link.symlink_to(beside.absolute())
        written = link / f"written{path.suffix}"
        yield written
        (beside / written.name).replace(path)


def write_bands(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8[h, w, bands] as a compressed TIFF without a georeference; GdalError if it cannot be written."""
    height, width, bands = pixels.shape
    with new_file_at(path) as written, _environment(_WRITING):
        import rasterio

        layout: dict[str, Any] = {"width": width, "height": height, "count": bands, "compress": "deflate"}
        try:
            with rasterio.open(str(written), "w", driver="GTiff", dtype="uint8", **layout) as file:
                file.write(pixels.transpose(2, 0, 1))
        except Exception as error:  # a full disk is an error of rasterio's inside
            raise GdalError(_reason_of(error)) from error


def write_cloud_optimized(values: Path, description: Callable[[str], str], path: Path, block_px: int) -> None:
    """Write a cloud-optimized GeoTIFF of raw values, in place of what is there; GdalError where it cannot be written.

    `description` returns the VRT of the map for the name under which GDAL finds the values.
    """
    with new_file_at(path) as written, _environment(_WRITING, cache_mib=_CACHE_MIB):
        from rasterio.shutil import copy

        (written.parent / "values").symlink_to(values.absolute())
        described = written.with_suffix(".vrt")
        described.write_text(description("values"), encoding="utf-8")
        try:
            copy(
                str(described),
                str(written),
                driver="COG",
                COMPRESS="DEFLATE",
                BLOCKSIZE=str(block_px),
                OVERVIEW_RESAMPLING="NEAREST",
                BIGTIFF="IF_SAFER",
                # Handing blocks to more of them takes longer than the compressing.
                NUM_THREADS="1",
            )
        except Exception as error:  # a full disk is an error of rasterio's inside
            raise GdalError(_reason_of(error)) from error


def traced_shapes(path: Path) -> Iterator[tuple[int, float, float | None, list[NDArray[np.float64]]]]:
    """Trace the outlines of connected pixels of one value (by edges, not corners).

    Yields the band, from 1; the value; the value that marks missing pixels; and rings float64[n, 2] of coordinates: the
    outer one first, then holes.
    """
    with path.open("rb") as file, open_tiff(file) as opened:
        import rasterio
        from rasterio import features

        dataset = opened._dataset  # pyright: ignore[reportPrivateUsage]
        for band in range(1, dataset.count + 1):
            with _environment(_READING, cache_mib=_CACHE_MIB):
                source = rasterio.band(dataset, band)
                for value, rings in _traced(features.shapes(source, connectivity=4, transform=dataset.transform)):
                    yield band, value, dataset.nodata, rings


def traced_mask(mask: NDArray[Any]) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Trace uint8[H, W] or uint16[H, W] as `traced_shapes` does.

    Yields the value, and rings float64[n, 2] of columns and rows, from the upper left corner of the first pixel.
    """
    from rasterio import features

    for value, rings in _traced(features.shapes(mask, connectivity=4)):
        yield int(value), rings


def _traced(shapes: Iterable[Any]) -> Iterator[tuple[float, list[NDArray[np.float64]]]]:
    for geometry, value in shapes:
        yield value, [np.asarray(ring, np.float64) for ring in geometry["coordinates"]]

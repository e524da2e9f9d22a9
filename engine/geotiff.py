"""GeoTIFFs: read window by window, and masks written as one; the only file that imports rasterio.

Pixels follow the rules of `engine.images`: of 16 bit the high byte is kept (`v >> 8`), of 9 to 15 bit the highest
eight bits; fewer than 8 bit are spread over 0–255; a palette becomes its colours; grey becomes three equal bands. Other
values have no stated range and are refused. An orientation tag is not applied: a raster lies as its georeference says.

Without a choice of bands the red, green and blue ones are taken, or a single one; whatever else a file has besides an
alpha band makes the choice the user's. What the file marks as missing (a nodata value, an internal mask, alpha 0) is
missing from the mask, too.
"""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
import re
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xml.sax.saxutils import escape, quoteattr

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError, RuntimeUnavailableError
from engine.files import scratch_folder
from engine.mask_file import MaskFile
from engine.text import is_utf8, legible
from engine.tiled import Tile
from engine.tiling import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_CACHE_MIB = 64
_LARGEST_CACHE_MIB = 128
_BLOCK_PX = 512
_NAME_LENGTH = 200
_COLORS = ("red", "green", "blue")
_LARGEST_DISTORTION = 0.01
_DEGREE = math.pi / 180
_SPHEROID = re.compile(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.]+),\s*([0-9.]+)')
_IDENTITY = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a raster lies on the earth.

    Attributes:
        crs_wkt: the coordinate reference system; None where the file names none.
        transform: x of the corner, x per column, x per row, y of the corner, y per column, y per row.
        area_or_point: what a pixel's coordinates mean, as GeoTIFF says it.
    """

    crs_wkt: str | None
    transform: tuple[float, float, float, float, float, float]
    area_or_point: str = "Area"


@dataclass(frozen=True, slots=True)
class PixelAreas:
    """What pixels cover on the ground.

    Attributes:
        rows_m2: of one pixel of each row, in square metres, float64[H] or float64[1] if all are alike; None: unknown.
        note: why unknown, or how they were computed.
    """

    rows_m2: NDArray[np.float64] | None
    note: str


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """What a mask's file says of a class.

    Attributes:
        id: URN.
        name: what people call it.
        color: RGB, 0–255.
    """

    id: str
    name: str
    color: tuple[int, int, int]


def require_rasterio() -> None:
    """Find out whether GeoTIFFs can be read here.

    Raises:
        RuntimeUnavailableError: rasterio is not installed.
    """
    if find_spec("rasterio") is None:
        raise RuntimeUnavailableError(
            "reading a GeoTIFF in windows needs rasterio: install the extra `geo` (pip install -e '.[geo]')"
        )


class GeoTiff:
    """An open GeoTIFF.

    Threads: one at a time, any.
    """

    def __init__(self, path: Path, dataset: "DatasetReader", bands: tuple[int, ...]) -> None:
        """Take an open dataset; see `open_geotiff`.

        Args:
            path: for messages.
            dataset: stays open as long as this is used.
            bands: one or three, from 1.
        """
        self._path = path
        self._dataset = dataset
        self.bands = bands
        self._eight_bit = _eight_bit_reader(path, dataset, bands)
        self.placed_by_points = dataset.crs is None and bool(dataset.gcps[0])
        self.marks_missing = any("all_valid" not in {flag.name for flag in flags} for flags in dataset.mask_flag_enums)
        self._missing_values = _missing_values(dataset, bands)
        tags = dataset.tags()
        self.georeference = Georeference(
            dataset.crs.to_wkt() if dataset.crs else None,
            cast("tuple[float, float, float, float, float, float]", dataset.transform.to_gdal()),
            tags.get("AREA_OR_POINT", "Area"),
        )

    @property
    def width(self) -> int:
        """Columns."""
        return int(self._dataset.width)

    @property
    def height(self) -> int:
        """Rows."""
        return int(self._dataset.height)

    def read(self, window: Window) -> Tile:
        """Read a window.

        Args:
            window: inside of the raster.

        Returns:
            Its pixels, and which of them hold data.

        Raises:
            ImageError: the file is damaged there.
        """
        return self._read(window, (window.height, window.width))

    def overview(self, longest_side: int) -> NDArray[np.uint8]:
        """Read the whole raster small; from its overviews, if it has some.

        Args:
            longest_side: in pixels at most.

        Returns:
            uint8[h, w, 3], RGB; pixels without data are black.

        Raises:
            ImageError: the file is damaged.
        """
        scale = min(1.0, longest_side / max(self.width, self.height))
        size = (max(1, round(self.height * scale)), max(1, round(self.width * scale)))
        tile = self._read(Window(0, 0, self.width, self.height), size)
        if tile.valid is not None:
            tile.pixels[~tile.valid] = 0
        return tile.pixels

    def _read(self, window: Window, size: tuple[int, int]) -> Tile:
        from rasterio import windows
        from rasterio.errors import RasterioError

        part = windows.Window(window.x, window.y, window.width, window.height)  # pyright: ignore[reportCallIssue]
        try:
            values = self._dataset.read(list(self.bands), window=part, out_shape=(len(self.bands), *size))
            valid: NDArray[np.bool_] | None = None
            if self._missing_values is not None:
                pairs = zip(values, self._missing_values, strict=True)
                valid = np.logical_or.reduce([plane != missing for plane, missing in pairs])
            elif self.marks_missing:
                valid = self._dataset.dataset_mask(window=part, out_shape=size) > 0
        except RasterioError as error:
            raise ImageError(
                f"{self._path}: damaged or truncated, its pixels at column {window.x}, row {window.y} cannot be read "
                f"({error}{f': {error.__cause__}' if error.__cause__ else ''}): copy or export it again"
            ) from error
        return Tile(self._eight_bit(values), valid)


@contextmanager
def open_geotiff(path: Path, bands: Sequence[int] | None = None, *, tile_height: int = 1024) -> Generator[GeoTiff]:
    """Open a GeoTIFF; no pixels are read yet.

    Args:
        path: the file.
        bands: one or three numbers of bands, from 1; None: the colours (see the top of this file).
        tile_height: rows that will be read at a time: a file of whole rows needs a cache for them.

    Yields:
        The raster.

    Raises:
        RuntimeUnavailableError: rasterio is not installed.
        ImageError: the file cannot be opened, or has bands or values that are not read.
    """
    require_rasterio()
    import rasterio
    from rasterio.errors import RasterioError

    if not path.is_file():
        raise ImageError(f"{path}: no such file: check the name")
    with _named_in_utf8(path) as name:
        try:
            _ignore_known_warnings()
            # No other driver: a file that calls itself a TIFF must not make GDAL open something else.
            dataset = rasterio.open(name, driver="GTiff")
        except RasterioError as error:
            raise ImageError(f"{path}: cannot be read as a GeoTIFF ({error}): copy or export it again") from error
        with dataset, rasterio.Env(GDAL_CACHEMAX=_cache_mib(dataset, tile_height)):
            yield GeoTiff(path, dataset, _chosen_bands(path, dataset, bands))


@contextmanager
def _named_in_utf8(path: Path) -> Generator[Path]:
    """Name a file so that GDAL takes it, which knows names in UTF-8 only."""
    absolute = path.absolute()
    if is_utf8(str(absolute)):
        yield absolute
        return
    with scratch_folder("raster") as folder:
        if is_utf8(path.name):
            # The file may be still to be written.
            folder = folder / "here"
            folder.symlink_to(absolute.parent)
            yield folder / path.name
        else:
            link = folder / "raster.tif"
            link.symlink_to(absolute)
            yield link


def _ignore_known_warnings() -> None:
    # For good: to restore a list of filters afterwards is not safe among threads. That a georeference is missing the
    # service says in its own words; of a nodata value beside an alpha band rasterio takes the alpha.
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    warnings.simplefilter("ignore", NodataShadowWarning)


def _cache_mib(dataset: "DatasetReader", tile_height: int) -> int:
    block_width = dataset.block_shapes[0][1]
    if block_width < dataset.width:
        return _CACHE_MIB
    row_bytes = dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
    return max(_CACHE_MIB, min(_LARGEST_CACHE_MIB, (row_bytes * tile_height >> 20) + 8))


def _chosen_bands(path: Path, dataset: "DatasetReader", bands: Sequence[int] | None) -> tuple[int, ...]:
    meanings = [each.name for each in dataset.colorinterp]
    listed = ", ".join(f"{index} {meaning}" for index, meaning in enumerate(meanings, start=1))
    if bands is not None:
        if len(bands) not in {1, 3} or not all(1 <= band <= dataset.count for band in bands):
            raise ImageError(
                f"{path}: --bands {','.join(map(str, bands))}: the network takes one band or three, and the file has "
                f"{dataset.count} ({listed})"
            )
        return tuple(bands)
    visible = [index for index, meaning in enumerate(meanings, start=1) if meaning != "alpha"]
    if len(visible) == 1:
        return (visible[0],)
    if len(visible) == 2 and meanings[0] == "gray" and visible[0] == 1:
        # The second band of a grey picture is an alpha that does not say so.
        return (1,)
    if len(visible) == 3 and not {"cyan", "magenta", "YCbCr_Y"} & set(meanings):
        if all(color in meanings for color in _COLORS):
            return tuple(meanings.index(color) + 1 for color in _COLORS)
        return tuple(visible)
    raise ImageError(
        f"{path}: {dataset.count} bands ({listed}), and the network takes three: choose them with --bands, for example "
        "--bands 1,2,3"
    )


def _missing_values(dataset: "DatasetReader", bands: tuple[int, ...]) -> tuple[int, ...] | None:
    """Find the values that mark missing pixels, where the bands that are read tell all about it.

    GDAL would read every band a second time to find out, which takes longer than to read them.

    Returns:
        One a band, all of which must have it in a missing pixel; None: ask GDAL.
    """
    flags = [[flag.name for flag in each] for each in dataset.mask_flag_enums]
    if set(bands) != set(range(1, dataset.count + 1)) or any(each != ["nodata"] for each in flags):
        return None
    found: list[int] = []
    for band in bands:
        stated, kind = dataset.nodatavals[band - 1], np.dtype(dataset.dtypes[band - 1])
        if kind.kind != "u" or stated is None or not (0 <= stated <= np.iinfo(kind).max and stated == int(stated)):
            return None
        found.append(int(stated))
    return tuple(found)


def _eight_bit_reader(
    path: Path, dataset: "DatasetReader", bands: tuple[int, ...]
) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Choose how values [1 or 3, h, w] become uint8[h, w, 3]."""
    kinds = {dataset.dtypes[band - 1] for band in bands}
    if len(bands) == 1 and dataset.colorinterp[bands[0] - 1].name == "palette":
        table = np.zeros((256, 3), np.uint8)
        for index, color in dataset.colormap(bands[0]).items():
            if index < len(table):
                table[index] = color[:3]
        return lambda values: table[np.minimum(values[0], 255)]
    if not kinds <= {"uint8", "uint16"}:
        raise ImageError(
            f"{path}: values of type {'/'.join(sorted(kinds))} have no stated range: scale them to 8 or 16 bit"
        )
    widths = [
        int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8 * np.dtype(dataset.dtypes[band - 1]).itemsize))
        for band in bands
    ]
    inverted = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"

    def one(plane: NDArray[Any], bits: int) -> NDArray[np.uint8]:
        if bits == 8:
            return plane.astype(np.uint8, copy=False)
        if bits > 8:
            return (plane >> (bits - 8)).astype(np.uint8)
        return (plane.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)

    def read(values: NDArray[Any]) -> NDArray[np.uint8]:
        planes = [one(plane, bits) for plane, bits in zip(values, widths, strict=True)]
        if inverted:
            planes = [~plane for plane in planes]
        return cast("NDArray[np.uint8]", cv2.merge(planes * (3 // len(planes))))

    return read


# ---- areas ------------------------------------------------------------------------------------------------------


def pixel_areas(georeference: Georeference, width: int, height: int) -> PixelAreas:
    """Find out what pixels cover on the ground.

    In a projected system it is the area in the plane, unless the projection distorts areas by more than 1 % somewhere
    in the raster. In a geographic one it is the area on the ellipsoid between the meridians and parallels of a pixel.

    Args:
        georeference: of the raster.
        width: columns.
        height: rows.

    Returns:
        Areas, or why there are none.
    """
    from rasterio.crs import CRS

    if georeference.crs_wkt is None:
        return PixelAreas(None, "the file names no coordinate reference system")
    crs = CRS.from_wkt(georeference.crs_wkt)
    spheroid = _SPHEROID.search(georeference.crs_wkt)
    if spheroid is None or not (crs.is_projected or crs.is_geographic):
        return PixelAreas(None, "its coordinate reference system is neither projected nor geographic")
    axis, inverse_flattening = float(spheroid[1]), float(spheroid[2])
    x, per_column, x_per_row, y, y_per_column, per_row = georeference.transform
    if crs.is_geographic:
        if x_per_row or y_per_column:
            return PixelAreas(None, "degrees of a rotated raster cover other areas in every pixel")
        edges_rad = (y + per_row * np.arange(height + 1, dtype=np.float64)) * _DEGREE
        if abs(edges_rad).max() > math.pi / 2 + 1e-9:
            return PixelAreas(None, "its latitudes exceed 90 degrees")
        zones = np.abs(np.diff(_area_from_equator(edges_rad, axis, inverse_flattening)))
        return PixelAreas(zones * abs(per_column) * _DEGREE, "on the ellipsoid")
    _, factor_m = crs.linear_units_factor
    determinant = abs(per_column * per_row - x_per_row * y_per_column)
    corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height), (width / 2, height / 2)]
    places = [(x + c * per_column + r * x_per_row, y + c * y_per_column + r * per_row) for c, r in corners]
    try:
        scales = _area_scales(crs, places, factor_m, axis, inverse_flattening)
    except Exception as error:  # PROJ's errors are those of rasterio's inside
        return PixelAreas(None, f"its place lies outside of its projection ({error})")
    worst = max(abs(scale - 1) for scale in scales)
    if worst > _LARGEST_DISTORTION:
        return PixelAreas(
            None,
            f"its projection changes areas by {worst:.0%}: reproject it to an equal-area or local one (UTM, say)",
        )
    return PixelAreas(np.array([determinant * factor_m**2]), "in the plane of its projection")


def pixel_degrees(georeference: Georeference, width: int, height: int) -> float | None:
    """Find out how large a pixel is in degrees, where its coordinates can be told in longitude and latitude.

    Args:
        georeference: of the raster.
        width: columns.
        height: rows.

    Returns:
        The side of a pixel in the middle of the raster, in degrees; None where nothing leads to WGS 84.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform

    if georeference.crs_wkt is None:
        return None
    x, per_column, x_per_row, y, y_per_column, per_row = georeference.transform
    xs = [x + column * per_column + height / 2 * x_per_row for column in (width / 2, width / 2 + 1)]
    ys = [y + column * y_per_column + height / 2 * per_row for column in (width / 2, width / 2 + 1)]
    try:
        longitudes, latitudes = transform(CRS.from_wkt(georeference.crs_wkt), "EPSG:4326", xs, ys)[:2]
    except Exception:  # PROJ's errors are those of rasterio's inside
        return None
    side = math.hypot(longitudes[1] - longitudes[0], latitudes[1] - latitudes[0])
    return side if math.isfinite(side) and side else None


def _area_from_equator(
    latitude_rad: NDArray[np.float64], axis: float, inverse_flattening: float
) -> NDArray[np.float64]:
    """Area on the ellipsoid between equator and latitude, per radian of longitude, in square metres; signed."""
    flattening = 1 / inverse_flattening if inverse_flattening else 0.0
    squared = flattening * (2 - flattening)
    sine = np.sin(latitude_rad)
    if not squared:
        return axis**2 * sine
    eccentricity = math.sqrt(squared)
    inner = sine / (1 - squared * sine**2) + np.arctanh(eccentricity * sine) / eccentricity
    return axis**2 * (1 - squared) / 2 * inner


def _area_scales(
    crs: Any,  # noqa: ANN401 (rasterio's type)
    places: list[tuple[float, float]],
    factor_m: float,
    axis: float,
    inverse_flattening: float,
) -> list[float]:
    """Area in the plane over area on the ellipsoid, at each place."""
    from rasterio.warp import transform

    step = 1.0 / factor_m
    points = [(x + dx, y + dy) for x, y in places for dx, dy in ((0.0, 0.0), (step, 0.0), (0.0, step))]
    geographic = {"proj": "longlat", "a": axis, "rf": inverse_flattening or math.inf}
    if not inverse_flattening:
        geographic = {"proj": "longlat", "R": axis}
    longitudes, latitudes = transform(crs, geographic, [x for x, _ in points], [y for _, y in points])[:2]
    on_sphere = list(zip(np.array(longitudes) * _DEGREE, np.array(latitudes) * _DEGREE, strict=True))
    flattening = 1 / inverse_flattening if inverse_flattening else 0.0
    squared = flattening * (2 - flattening)
    scales: list[float] = []
    for origin, east, north in zip(on_sphere[::3], on_sphere[1::3], on_sphere[2::3], strict=True):
        latitude = origin[1]
        bend = 1 - squared * math.sin(latitude) ** 2
        parallel_m = axis / math.sqrt(bend) * math.cos(latitude)
        meridian_m = axis * (1 - squared) / bend**1.5
        a = ((east[0] - origin[0]) * parallel_m, (east[1] - origin[1]) * meridian_m)
        b = ((north[0] - origin[0]) * parallel_m, (north[1] - origin[1]) * meridian_m)
        on_ground = abs(a[0] * b[1] - a[1] * b[0])
        scales.append(1 / on_ground if on_ground else math.inf)
    return scales


# ---- masks ------------------------------------------------------------------------------------------------------


def write_geotiff(
    mask: MaskFile,
    path: Path,
    georeference: Georeference,
    labels: Sequence[ClassLabel],
    tags: Mapping[str, str],
) -> None:
    """Write a mask as a cloud-optimized GeoTIFF: tiles, overviews, palette, names of the classes, all in one file.

    Class names, URNs and colours are tags of the file (`CLASS_0`, `CLASS_0_ID`, …), since a TIFF has no place of its
    own for names. Overviews hold every second pixel: classes have no mean.

    Args:
        mask: complete.
        path: the file; beside it lies a temporary description while it is written.
        georeference: of the source.
        labels: one a class, in index order.
        tags: what else the file is to say.

    Raises:
        ImageError: the file cannot be written.
    """
    import rasterio
    from rasterio.shutil import copy

    # A mask file is raw values; this description makes GDAL read it as a raster with everything that belongs to it.
    described = mask.path.with_suffix(".vrt")
    described.write_text(_description(mask, georeference, labels, tags), encoding="utf-8")
    try:
        with (
            _named_in_utf8(described) as source,
            _named_in_utf8(path) as target,
            rasterio.Env(GDAL_CACHEMAX=_CACHE_MIB),
        ):
            copy(
                str(source),
                str(target),
                driver="COG",
                COMPRESS="DEFLATE",
                BLOCKSIZE=str(_BLOCK_PX),
                OVERVIEW_RESAMPLING="NEAREST",
                BIGTIFF="IF_SAFER",
                # Handing blocks to more of them takes longer than the compressing.
                NUM_THREADS="1",
            )
    except Exception as error:  # a full disk is an error of rasterio's inside
        raise ImageError(f"{path}: the mask cannot be written ({error}): is there room on the disk?") from error
    finally:
        described.unlink(missing_ok=True)


def _description(
    mask: MaskFile, georeference: Georeference, labels: Sequence[ClassLabel], more: Mapping[str, str]
) -> str:
    layout = mask.layout
    tags = {**more, "AREA_OR_POINT": georeference.area_or_point}
    for index, label in enumerate(labels):
        color = "#{:02x}{:02x}{:02x}".format(*label.color)
        tags |= {
            f"CLASS_{index}": legible(label.name),
            f"CLASS_{index}_ID": legible(label.id),
            f"CLASS_{index}_COLOR": color,
        }
    parts = [f'<VRTDataset rasterXSize="{layout.width}" rasterYSize="{layout.height}">']
    if georeference.crs_wkt is not None:
        parts.append(f"<SRS>{escape(georeference.crs_wkt)}</SRS>")
    if georeference.transform != _IDENTITY:
        parts.append(f"<GeoTransform>{', '.join(map(repr, georeference.transform))}</GeoTransform>")
    parts.append("<Metadata>")
    parts += [f"<MDI key={quoteattr(name)}>{escape(value)}</MDI>" for name, value in tags.items()]
    parts.append("</Metadata>")
    item = layout.dtype.itemsize
    for band in range(layout.bands):
        name = legible(labels[band].name, _NAME_LENGTH) if layout.multilabel else "class"
        parts.append(
            f'<VRTRasterBand dataType="{"Byte" if item == 1 else "UInt16"}" band="{band + 1}" '
            'subClass="VRTRawRasterBand">'
            f"<Description>{escape(name)}</Description>"
        )
        if layout.missing is not None:
            parts.append(f"<NoDataValue>{layout.missing}</NoDataValue>")
        if not layout.multilabel and item == 1:
            entries = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*label.color) for label in labels)
            parts.append(f"<ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>")
        parts.append(
            f'<SourceFilename relativeToVRT="1">{escape(mask.path.name)}</SourceFilename>'
            f"<ImageOffset>{band * layout.width * layout.height * item}</ImageOffset>"
            f"<PixelOffset>{item}</PixelOffset><LineOffset>{layout.width * item}</LineOffset>"
            "<ByteOrder>LSB</ByteOrder></VRTRasterBand>"
        )
    return "".join([*parts, "</VRTDataset>"])


def mask_polygons(path: Path, *, multilabel: bool) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Trace the outlines of connected pixels of one class (by edges, not corners).

    Memory grows with the number of polygons, not of pixels.

    Args:
        path: a mask that `write_geotiff` wrote.
        multilabel: whether each band is a class.

    Yields:
        The class, and rings float64[n, 2] of coordinates: the outer one first, then holes.
    """
    import rasterio
    from rasterio import features

    _ignore_known_warnings()
    with (
        _named_in_utf8(path) as name,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MIB),
        rasterio.open(name) as dataset,
    ):
        for band in range(1, dataset.count + 1):
            traced = features.shapes(rasterio.band(dataset, band), connectivity=4, transform=dataset.transform)
            for geometry, value in traced:
                if value == dataset.nodata or (multilabel and value != 1):
                    continue
                rings = [np.asarray(ring, np.float64) for ring in geometry["coordinates"]]
                yield (band - 1 if multilabel else int(value)), rings

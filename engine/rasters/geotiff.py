"""GeoTIFFs: read window by window, and masks written as one; how large pixels are on the ground."""

import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.gdal import (
    GdalError,
    coordinate_system,
    names_files,
    open_tiff,
    traced_shapes,
    transform_points,
    write_cloud_optimized,
)
from engine.images.formats import TIFF
from engine.images.read import open_image_file
from engine.images.tiff import NAMES_FILES_NOTE, Tiff, open_picture
from engine.images.values import ScaleRange
from engine.rasters.mask_file import MaskFile
from engine.rasters.result import Georeference
from engine.rasters.tiles import Tile
from engine.system.files import open_regular
from engine.system.text import legible
from engine.window import Window

_BLOCK_PX = 512
_NAME_LENGTH = 200
_LARGEST_DISTORTION = 0.01
_DEGREE = math.pi / 180
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SPHEROID = re.compile(rf'(?:SPHEROID|ELLIPSOID)\["(?:[^"]|"")*",\s*({_NUMBER}),\s*({_NUMBER})')
_IDENTITY = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_AXES_M = (1e5, 1e9)
"""Of anything in the solar system that is surveyed."""
_SMALLEST_INVERSE_FLATTENING = 5.0
_WORLD_FILE_BYTES = 1024
_IGNORED_SUFFIXES: Final = (".aux.xml", ".ovr", ".msk", ".prj", ".tab", ".aux", ".imd", ".rpb")


@dataclass(frozen=True, slots=True)
class PixelAreas:
    """What pixels cover on the ground."""

    # of one pixel of each row, float64[H], or float64[1] if all are alike; None: unknown
    rows_m2: NDArray[np.float64] | None
    note: str  # why unknown, or how they were computed


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """What a mask's file says of a class."""

    id: str
    name: str
    color: tuple[int, int, int]  # RGB, 0–255


class GeoTiff:
    """An open GeoTIFF. Threads: one at a time, any.

    `bands` are those that are read, from 1; `notes` are phrases for people, mostly none.
    """

    def __init__(self, picture: Tiff, georeference: Georeference, notes: Sequence[str]) -> None:
        self._picture = picture
        self.bands = picture.bands
        self.placed_by_points = picture.dataset.placed_by_points
        self.marks_missing = picture.marks_missing
        self.georeference = georeference
        self.notes = (*picture.notes, *notes)

    @property
    def width(self) -> int:
        return self._picture.width

    @property
    def height(self) -> int:
        return self._picture.height

    def range_notes(self) -> tuple[str, ...]:
        """Say, in at most one phrase, that what was read so far uses almost nothing of the range of its values."""
        return self._picture.range_notes()

    def read(self, window: Window) -> Tile:
        """Read a window; ImageError where the file is damaged."""
        return Tile(*self._picture.read(window))

    def overview(self, longest_side: int) -> NDArray[np.uint8]:
        """Read the whole raster small, from its overviews, if it has some; ImageError where the file is damaged.

        Returns uint8[h, w, 3]: the colours, or the first three bands of others, the first one as grey where there are
        two. Pixels without data are black.
        """
        scale = min(1.0, longest_side / max(self.width, self.height))
        size = (max(1, round(self.height * scale)), max(1, round(self.width * scale)))
        pixels, valid = self._picture.read(Window(0, 0, self.width, self.height), size)
        if valid is not None:
            pixels[~valid] = 0
        shown = [0, 0, 0] if pixels.shape[-1] < 3 else [0, 1, 2]
        return np.ascontiguousarray(pixels[..., shown])


@contextmanager
def open_geotiff(
    path: Path,
    bands: Sequence[int] | None = None,
    *,
    page: int | None = None,
    tile_height: int = 1024,
    scale_range: ScaleRange | None = None,
) -> Generator[GeoTiff]:
    """Open a GeoTIFF; no pixels are read yet.

    Bands and pages count from 1; without them the colours (see `engine.images.tiff`) of the first page are read, and a
    note says so. A file of whole rows needs a cache for `tile_height` rows. ImageError: the file cannot be opened, or
    has bands or values that are not read.
    """
    with open_image_file(path) as file:
        if TIFF.match(file.read(4)) is None:
            raise ImageError(f"{path}: is not a TIFF: convert it to one")
        with open_picture(
            path, file, page=page, bands=bands, rows_at_a_time=tile_height, scale_range=scale_range
        ) as picture:
            georeference, notes = _georeference_of(path, picture)
            yield GeoTiff(picture, georeference, notes)


# ---- georeferences ----------------------------------------------------------------------------------------------


def _georeference_of(path: Path, picture: Tiff) -> tuple[Georeference, list[str]]:
    """Where a raster lies, and what the user should know about it."""
    dataset, notes = picture.dataset, list[str]()
    wkt, transform = dataset.crs_wkt, dataset.transform
    if wkt is not None and names_files(wkt):
        wkt = None
        notes.append(NAMES_FILES_NOTE)
    used: set[Path] = set()
    if not picture.directory.is_georeferenced and transform == _IDENTITY:
        for candidate in _world_files(path):
            placed = _read_world_file(candidate)
            if placed is not None:
                transform = placed
                used.add(candidate)
                break
    _, per_column, x_per_row, _, y_per_column, per_row = transform
    determinant = per_column * per_row - x_per_row * y_per_column
    if not all(map(math.isfinite, transform)) or not math.isfinite(determinant) or not determinant:
        wkt, transform = None, _IDENTITY
        notes.append("has a georeference that gives pixels no size: it is read as if it had none")
    ignored = [found.name for found in _side_files(path) if found not in used]
    if ignored:
        notes.append(
            f"has files beside it that are ignored ({', '.join(ignored)}): what they say belongs into the file itself "
            "(gdal_translate copies it there)"
        )
    orientation = picture.directory.orientation
    if orientation != 1:
        notes.append(f"has an orientation ({orientation}) that is not applied: a raster is segmented as its pixels lie")
    area_or_point = dataset.area_or_point if dataset.area_or_point in {"Area", "Point"} else "Area"
    return Georeference(wkt, transform, area_or_point), notes


def _side_files(path: Path) -> list[Path]:
    """What lies beside a raster and says something about it, as other programs see it."""
    names = [*(f"{path.name}{suffix}" for suffix in _IGNORED_SUFFIXES)]
    names += [f"{path.stem}{suffix}" for suffix in _IGNORED_SUFFIXES]
    return [beside for beside in [*(path.with_name(name) for name in names), *_world_files(path)] if beside.is_file()]


def _world_files(path: Path) -> list[Path]:
    kind = path.suffix[1:]
    if not kind:
        return []
    suffixes = [f"{kind[0]}{kind[-1]}w", f"{kind}w", "wld"]
    return [path.with_suffix(f".{case}") for suffix in suffixes for case in dict.fromkeys((suffix, suffix.upper()))]


def _read_world_file(path: Path) -> tuple[float, float, float, float, float, float] | None:
    """Read six numbers: x and y per column, x and y per row, x and y of the middle of the first pixel."""
    try:
        # Neither a link to another file nor a pipe that never ends.
        with open(path, "rb", opener=open_regular) as file:
            content = file.read(_WORLD_FILE_BYTES + 1)
    except OSError:
        return None
    try:
        numbers = [float(each) for each in content.split()]
    except ValueError:
        return None
    if len(numbers) != 6 or len(content) > _WORLD_FILE_BYTES or not all(map(math.isfinite, numbers)):
        return None
    per_column, y_per_column, x_per_row, per_row, x, y = numbers
    corner = (x - (per_column + x_per_row) / 2, y - (y_per_column + per_row) / 2)
    return corner[0], per_column, x_per_row, corner[1], y_per_column, per_row


# ---- areas ------------------------------------------------------------------------------------------------------


def pixel_areas(georeference: Georeference, width: int, height: int) -> PixelAreas:
    """Find out what pixels cover on the ground.

    In a projected system it is the area in the plane, unless the projection distorts areas by more than 1 % somewhere
    in the raster. In a geographic one it is the area on the ellipsoid between the meridians and parallels of a pixel.
    """
    wkt = georeference.crs_wkt
    if wkt is None:
        return PixelAreas(None, "the file names no coordinate reference system")
    try:
        system = coordinate_system(wkt)
    except GdalError as error:
        return PixelAreas(None, f"its coordinate reference system cannot be understood ({error})")
    spheroid = _SPHEROID.search(wkt)
    if spheroid is None or system.kind not in {"projected", "geographic"}:
        return PixelAreas(None, "its coordinate reference system is neither projected nor geographic")
    axis, inverse_flattening = float(spheroid[1]), float(spheroid[2])
    if not _AXES_M[0] <= axis <= _AXES_M[1] or 0 != inverse_flattening < _SMALLEST_INVERSE_FLATTENING:
        return PixelAreas(
            None, f"its ellipsoid (axis {axis:g} m, inverse flattening {inverse_flattening:g}) is that of no planet"
        )
    if not (system.unit > 0 and math.isfinite(system.unit)):
        return PixelAreas(None, "the unit of its coordinates has no length")
    if system.kind == "geographic":
        found = _areas_between_parallels(georeference, width, height, system.unit, axis, inverse_flattening)
    else:
        found = _areas_in_plane(georeference, width, height, system.unit, axis, inverse_flattening)
    if found.rows_m2 is not None and not (np.isfinite(found.rows_m2).all() and (found.rows_m2 > 0).all()):
        return PixelAreas(None, "its georeference gives pixels no area")
    return found


def _areas_between_parallels(
    georeference: Georeference, width: int, height: int, unit_rad: float, axis: float, inverse_flattening: float
) -> PixelAreas:
    _, per_column, x_per_row, y, y_per_column, per_row = georeference.transform
    if x_per_row or y_per_column:
        return PixelAreas(None, "degrees of a rotated raster cover other areas in every pixel")
    edges_rad = (y + per_row * np.arange(height + 1, dtype=np.float64)) * unit_rad
    if not abs(edges_rad).max() <= math.pi / 2 + 1e-9:
        return PixelAreas(None, "its latitudes exceed 90 degrees")
    if not abs(per_column) * width * unit_rad <= 2 * math.pi + 1e-9:
        return PixelAreas(None, "its longitudes go more than once around the earth")
    zones = np.abs(np.diff(_area_from_equator(edges_rad, axis, inverse_flattening)))
    return PixelAreas(zones * abs(per_column) * unit_rad, "on the ellipsoid")


def _areas_in_plane(
    georeference: Georeference, width: int, height: int, unit_m: float, axis: float, inverse_flattening: float
) -> PixelAreas:
    wkt = georeference.crs_wkt or ""
    _, per_column, x_per_row, _, y_per_column, per_row = georeference.transform
    determinant = abs(per_column * per_row - x_per_row * y_per_column)
    corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height), (width / 2, height / 2)]
    places = [georeference.place(column, row) for column, row in corners]
    try:
        scales = _area_scales(wkt, places, unit_m, axis, inverse_flattening)
    except (GdalError, ValueError) as error:  # not all of them are finite
        return PixelAreas(None, f"its place lies outside of its projection ({error})")
    worst = max(abs(scale - 1) for scale in scales)
    if not math.isfinite(worst):
        return PixelAreas(None, "its place lies outside of its projection")
    if worst > _LARGEST_DISTORTION:
        return PixelAreas(
            None, f"its projection changes areas by {worst:.0%}: reproject it to an equal-area or local one (UTM, say)"
        )
    return PixelAreas(np.array([determinant * unit_m**2]), "in the plane of its projection")


def pixel_degrees(georeference: Georeference, width: int, height: int) -> float | None:
    """Find out how many degrees the side of a pixel in the middle has; None where nothing leads to WGS 84."""
    if georeference.crs_wkt is None:
        return None
    one, next_one = (georeference.place(column, height / 2) for column in (width / 2, width / 2 + 1))
    try:
        longitudes, latitudes = transform_points(georeference.crs_wkt, "EPSG:4326", *zip(one, next_one, strict=True))
    except GdalError:
        return None
    side = math.hypot(longitudes[1] - longitudes[0], latitudes[1] - latitudes[0])
    return side if math.isfinite(side) and side else None


def crs_name(georeference: Georeference) -> str | None:
    """Name a coordinate reference system by its code, such as `EPSG:32755`, else by its well-known text, if any."""
    wkt = georeference.crs_wkt
    if wkt is None:
        return None
    try:
        return coordinate_system(wkt).code or wkt
    except GdalError:
        return wkt


def centre_degrees(georeference: Georeference, width: int, height: int) -> tuple[float, float] | None:
    """Find latitude and longitude of the middle of a raster on WGS 84, in degrees; None where nothing leads there."""
    if georeference.crs_wkt is None:
        return None
    east, north = georeference.place(width / 2, height / 2)
    try:
        (longitude,), (latitude,) = transform_points(georeference.crs_wkt, "EPSG:4326", [east], [north])
    except GdalError:
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 360):
        return None
    # Rasters across the date line, and those of oceans, count on from 180 degrees.
    return latitude, longitude - math.copysign(360, longitude) if abs(longitude) > 180 else longitude


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
    wkt: str, places: list[tuple[float, float]], unit_m: float, axis: float, inverse_flattening: float
) -> list[float]:
    """Area in the plane over area on the ellipsoid, at each place."""
    step = 1.0 / unit_m
    points = [(x + dx, y + dy) for x, y in places for dx, dy in ((0.0, 0.0), (step, 0.0), (0.0, step))]
    geographic: dict[str, object] = {"proj": "longlat", "a": axis, "rf": inverse_flattening}
    if not inverse_flattening:
        geographic = {"proj": "longlat", "R": axis}
    longitudes, latitudes = transform_points(wkt, geographic, [x for x, _ in points], [y for _, y in points])
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
    *,
    band: str = "class",
) -> None:
    """Write a mask as a cloud-optimized GeoTIFF: tiles, overviews, palette, names of the classes, all in one file.

    Class names, URNs and colours are tags of the file (`CLASS_0`, `CLASS_0_ID`, …), since a TIFF has no place of its
    own for names. Overviews hold every second pixel: classes have no mean. Labels are in index order; `band` names the
    only band, where the classes exclude each other. A temporary folder lies beside the file while it is written.
    ImageError: it cannot be written.
    """
    try:
        # A mask file is raw values; the description makes GDAL read it as a raster with everything that belongs to it.
        write_cloud_optimized(
            mask.path, lambda values: _description(mask, values, georeference, labels, tags, band), path, _BLOCK_PX
        )
    except (GdalError, OSError) as error:
        raise ImageError(f"{path}: the mask cannot be written ({error}): is there room on the disk?") from error


def _description(
    mask: MaskFile,
    values: str,
    georeference: Georeference,
    labels: Sequence[ClassLabel],
    more: Mapping[str, str],
    only_band: str,
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
    parts += [f'<MDI key="{escape(name)}">{escape(value)}</MDI>' for name, value in tags.items()]
    parts.append("</Metadata>")
    item = layout.dtype.itemsize
    for band in range(layout.bands):
        name = legible(labels[band].name, _NAME_LENGTH) if layout.multilabel else only_band
        parts.append(
            f'<VRTRasterBand dataType="{"Byte" if item == 1 else "UInt16"}" band="{band + 1}" '
            'subClass="VRTRawRasterBand">'
            f"<Description>{escape(name)}</Description>"
        )
        if layout.missing is not None:
            parts.append(f"<NoDataValue>{layout.missing}</NoDataValue>")
        if labels and not layout.multilabel and item == 1:
            entries = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*label.color) for label in labels)
            parts.append(f"<ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>")
        parts.append(
            f'<SourceFilename relativeToVRT="1">{escape(values)}</SourceFilename>'
            f"<ImageOffset>{band * layout.width * layout.height * item}</ImageOffset>"
            f"<PixelOffset>{item}</PixelOffset><LineOffset>{layout.width * item}</LineOffset>"
            "<ByteOrder>LSB</ByteOrder></VRTRasterBand>"
        )
    return "".join([*parts, "</VRTDataset>"])


def mask_polygons(path: Path, *, multilabel: bool) -> Iterator[tuple[int, list[NDArray[np.float64]]]]:
    """Trace the outlines of connected pixels of one class (by edges, not corners).

    Memory grows with the number of polygons, not of pixels. Yields the class, and rings float64[n, 2] of coordinates:
    the outer one first, then holes.
    """
    for band, value, missing, rings in traced_shapes(path):
        if value == missing or (multilabel and value != 1):
            continue
        yield (band - 1 if multilabel else int(value)), rings


def differing_pixels(one: Path, other: Path) -> int:
    """Count the pixels whose class differs in two masks of `write_geotiff`: all, where sizes or numbers of planes do.

    ImageError: one cannot be read.
    """
    try:
        with one.open("rb") as first, other.open("rb") as second, open_tiff(first) as left, open_tiff(second) as right:
            if (left.width, left.height, left.dtypes) != (right.width, right.height, right.dtypes):
                return left.width * left.height
            bands = range(1, len(left.dtypes) + 1)
            rows = max(left.block_shape[0], 1)
            windows = (Window(0, top, left.width, min(rows, left.height - top)) for top in range(0, left.height, rows))
            return sum(int((left.read(bands, each) != right.read(bands, each)).any(axis=0).sum()) for each in windows)
    except (OSError, GdalError) as error:
        raise ImageError(f"{one} and {other} cannot be compared: {error}") from error

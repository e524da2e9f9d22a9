"""What a GeoTIFF marks as missing is what rasterio says; its pixels are those that other pictures give."""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from engine.errors import ImageError
from engine.gdal import names_files, new_file_at
from engine.images import read_image
from engine.rasters.geotiff import Georeference, centre_degrees, open_geotiff, pixel_areas
from engine.window import Window
from tests.engine.images.tiffs import ASCII, BYTE, DOUBLE, SHORT, Value, tiff_file
from tests.robustness.strangers.hostile_pictures import UTM, coordinate_system, metadata, picture

NORTH_UP = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)


@pytest.mark.parametrize(
    ("count", "bands", "dtype", "nodata"),
    [
        (3, None, np.uint8, 0),
        (3, None, np.uint8, 255),
        (3, (3, 1, 2), np.uint8, 7),
        (3, (2,), np.uint8, 0),
        (3, None, np.uint16, 300),
        (1, None, np.uint8, 0),
        (1, (1, 1, 1), np.uint8, 0),
        (4, (1, 2, 3), np.uint8, 0),
    ],
)
def test_missing_pixels(
    tmp_path: Path, count: int, bands: tuple[int, ...] | None, dtype: type[np.integer[Any]], nodata: int
) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, np.iinfo(dtype).max, (count, 100, 130)).astype(dtype)
    values[:, 20:60, 30:90] = nodata
    # A pixel that has the value in some of its bands holds data.
    values[0, 70:90, 10:60] = nodata
    path = tmp_path / "reef.tif"
    with rasterio.open(
        path, "w", "GTiff", 130, 100, count, dtype=dtype, nodata=nodata, crs="EPSG:32755", transform=NORTH_UP
    ) as dataset:
        dataset.write(values)
    with rasterio.open(path) as dataset, open_geotiff(path, bands) as raster:
        expected = dataset.dataset_mask(window=((8, 98), (16, 116))) > 0
        valid = raster.read(Window(16, 8, 100, 90)).valid
    assert 0 < expected.mean() < 1
    assert valid is not None
    np.testing.assert_array_equal(valid, expected)


def test_grey_whose_zero_is_white(tmp_path: Path) -> None:
    grey = np.arange(120 * 100, dtype=np.uint32).reshape(100, 120).astype(np.uint8)
    path = tmp_path / "scan.tif"
    with rasterio.open(
        path, "w", "GTiff", 120, 100, 1, dtype=np.uint8, transform=NORTH_UP, photometric="MINISWHITE"
    ) as dataset:
        dataset.write(grey, 1)
    with open_geotiff(path) as raster:
        pixels = raster.read(Window(0, 0, 120, 100)).pixels
    np.testing.assert_array_equal(pixels, read_image(path).pixels)


# ---- nothing but the file itself ----------------------------------------------------------------------------------


def opened(path: Path) -> None:
    with open_geotiff(path):
        pass


def white_elsewhere(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "white.tif"
    with rasterio.open(
        path, "w", "GTiff", 300, 300, 3, dtype=np.uint8, photometric="RGB", transform=NORTH_UP
    ) as dataset:
        dataset.write(np.full((3, 300, 300), 255, np.uint8))
    return path


@pytest.mark.parametrize(
    "tags",
    [
        metadata('"OVERVIEWS"', '"OVERVIEW_FILE"', "{white}"),
        metadata('"OVERVIEWS"', '"OVERVIEW_FILE"', "/vsicurl/http://127.0.0.1:9/x.tif"),
        metadata('"overviews"', '"&#111;verview_file"', "{white}", SHORT),
    ],
    ids=["file", "address", "hidden"],
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_picture_that_names_another_one_is_refused(tmp_path: Path, tags: dict[int, Value], number: int) -> None:
    white = str(white_elsewhere(tmp_path / "elsewhere"))
    named = {tag: (kind, with_name(values, white)) for tag, (kind, values) in tags.items()}
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_file(*[picture()] * (number - 1), picture(named)))
    for read in (read_image, opened):
        with pytest.raises(ImageError, match=r"x\.tif: .*\(OVERVIEW_FILE\), which is not opened: export it again"):
            read(path)


def with_name(values: Any, name: str) -> Any:
    text = bytes(values).replace(b"{white}", name.encode())
    return text if isinstance(values, bytes) else list(text)


@pytest.mark.parametrize("suffix", [".tif.ovr", ".tif.msk", ".tif.aux.xml", ".ovr", ".msk", ".prj", ".tab"])
def test_files_beside_a_raster_are_ignored_and_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_file(picture()))
    with open_geotiff(path) as raster:
        alone = raster.overview(200), raster.read(Window(0, 0, 90, 90)).valid, raster.georeference
    content = white_elsewhere(tmp_path / "elsewhere").read_bytes()
    pam = b'<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    (tmp_path / f"x{suffix}").write_bytes(pam if "aux" in suffix else content)
    with open_geotiff(path) as raster:
        np.testing.assert_array_equal(raster.overview(200), alone[0])
        assert (raster.read(Window(0, 0, 90, 90)).valid, raster.georeference) == alone[1:]
        assert any(f"beside it that are ignored (x{suffix})" in note for note in raster.notes)


UNPLACED = {33550: (SHORT, list[int]()), 33922: (SHORT, list[int]())}
WORLD = "0.5\n0.25\n0.125\n-2\n100\n200\n"


@pytest.mark.parametrize("suffix", [".tfw", ".TFW", ".tifw", ".wld"])
def test_a_world_file_places_a_raster_without_a_place(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_text(WORLD)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_file(picture(UNPLACED)))
    with open_geotiff(path) as raster:
        # The corner lies half a pixel before the middle of the first one.
        assert raster.georeference.transform == (100 - 0.3125, 0.5, 0.125, 200 + 0.875, 0.25, -2)
        assert raster.notes == ()
    path.write_bytes(tiff_file(picture()))
    with open_geotiff(path) as raster:
        assert raster.georeference.transform == (5e5, 1, 0, 6e6, 0, -1)
        assert f"ignored (x{suffix})" in raster.notes[0]


@pytest.mark.parametrize(
    "content", ["", "1\n2\n3\n", "nan\n0\n0\n1\n0\n0\n", "a\nb\nc\nd\ne\nf\n", WORLD + " " * 2000, "1 2 3 4 5 6 7"]
)
def test_a_world_file_of_other_content_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.tfw").write_text(content)
    (tmp_path / "x.tif").write_bytes(tiff_file(picture(UNPLACED)))
    with open_geotiff(tmp_path / "x.tif") as raster:
        assert raster.georeference.transform == (0, 1, 0, 0, 0, 1)
        assert "ignored (x.tfw)" in raster.notes[0]


def test_neither_links_nor_pipes_are_world_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(WORLD)
    (tmp_path / "x.tfw").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "x.wld")
    (tmp_path / "x.tif").write_bytes(tiff_file(picture(UNPLACED)))
    with open_geotiff(tmp_path / "x.tif") as raster:
        assert raster.georeference.transform == (0, 1, 0, 0, 0, 1)


GRIDS = UTM % ',EXTENSION["PROJ4","+proj=utm +zone=55 +south +ellps=intl +nadgrids=/etc/hostname +no_defs"]'


@pytest.mark.parametrize("kind", [ASCII, BYTE, SHORT])
def test_a_coordinate_reference_system_that_names_files_is_not_used(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.tif"
    for wkt, named in ((UTM % "", False), (GRIDS, True)):
        path.write_bytes(tiff_file(picture(coordinate_system(wkt, kind))))
        with open_geotiff(path) as raster:
            assert (raster.georeference.crs_wkt is None) == named
            assert any("names files in its coordinate reference system" in note for note in raster.notes) == named


@pytest.mark.parametrize("code", ["EPSG:3857", "EPSG:32755", "EPSG:4326", "EPSG:27572", "EPSG:32755+5773", "EPSG:2154"])
@pytest.mark.parametrize("version", ["WKT1_GDAL", "WKT2_2019"])
def test_coordinate_reference_systems_in_use_name_no_files(code: str, version: str) -> None:
    assert not names_files(rasterio.CRS.from_user_input(code).to_wkt(version=version))


@pytest.mark.parametrize("name", ["zip!a.tif", "http:..x.tif", "GTIFF_DIR:2:x.tif", "a?b#c.tif", "%20.tif", "-x.tif"])
def test_a_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(tiff_file(picture()))
    assert read_image(path).width == 600
    with open_geotiff(path) as raster:
        assert raster.width == 600


@pytest.mark.parametrize("name", ["/vsicurl/http://127.0.0.1:9/x.tif", "/vsimem/x.tif", "zip:///tmp/a.zip!x.tif"])
def test_an_address_is_no_file(name: str) -> None:
    for read in (read_image, opened):
        with pytest.raises(ImageError, match="no such file"):
            read(Path(name))


def test_the_environment_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_file(picture(coordinate_system(UTM % ""))))
    code = (
        "import os, sys; from pathlib import Path; from engine.rasters.geotiff import open_geotiff, pixel_areas\n"
        "with open_geotiff(Path(sys.argv[1])) as raster:\n"
        "    print(pixel_areas(raster.georeference, raster.width, raster.height).rows_m2, os.environ['PROJ_NETWORK'])"
    )
    hostile = {
        "PROJ_DATA": str(tmp_path), "PROJ_LIB": str(tmp_path), "PROJ_NETWORK": "ON", "GDAL_DATA": str(tmp_path),
        "GDAL_DRIVER_PATH": str(tmp_path), "GDAL_GEOREF_SOURCES": "NONE", "GTIFF_FORCE_RGBA": "YES",
        "GDAL_SKIP": "GTiff", "GDAL_CONFIG_FILE": str(tmp_path / "gdalrc"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, env={**os.environ, **hostile}, check=False
    )
    assert done.stdout == "[1.] OFF\n", done.stderr


# ---- areas --------------------------------------------------------------------------------------------------------


def ellipsoid(axis: str, inverse_flattening: str) -> str:
    return (
        f'GEOGCS["x",DATUM["d",SPHEROID["s",{axis},{inverse_flattening}]],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433]]'
    )


DEGREES = (140.0, 1e-5, 0.0, -30.0, 0.0, -1e-5)


@pytest.mark.parametrize(
    ("wkt", "transform", "reason"),
    [
        (ellipsoid("1e308", "298"), DEGREES, "that of no planet"),
        (ellipsoid("6378137", "0.9"), DEGREES, "that of no planet"),
        (ellipsoid("6378137", "0.3"), DEGREES, "cannot be understood"),
        (ellipsoid("0", "298"), DEGREES, "cannot be understood"),
        (ellipsoid("6378137", "298"), (140.0, 1.0, 0.0, -30.0, 0.0, -1e-5), "more than once around"),
        (ellipsoid("6378137", "298"), (140.0, 1e-5, 0.0, 95.0, 0.0, -1e-5), "exceed 90 degrees"),
        ('LOCAL_CS["]]></SRS><x>",UNIT["metre",1]]', DEGREES, "neither projected nor geographic"),
        ("no WKT", DEGREES, "cannot be understood"),
    ],
)
def test_where_areas_are_unknown_the_reason_is_told(wkt: str, transform: Any, reason: str) -> None:
    areas = pixel_areas(Georeference(wkt, transform), 600, 600)
    assert areas.rows_m2 is None
    assert reason in areas.note


def test_areas_in_grads() -> None:
    """Of the same place in degrees and in grads."""
    grads = ellipsoid("6378137", "298").replace("degree", "grad").replace("0.0174532925199433", "0.01570796326794897")
    one = pixel_areas(Georeference(ellipsoid("6378137", "298"), DEGREES), 5, 5).rows_m2
    x, per_column, _, y, _, per_row = (each / 0.9 for each in DEGREES)
    other = pixel_areas(Georeference(grads, (x, per_column, 0.0, y, 0.0, per_row)), 5, 5).rows_m2
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    "scale", [[math.nan, 1, 0], [math.inf, 1, 0], [0, 0, 0], [1e-320, 1e-320, 0], [1e308, 1e308, 0]]
)
def test_a_place_without_size_is_none(tmp_path: Path, scale: list[float]) -> None:
    path = tmp_path / "x.tif"
    points = [0.0, 0, 0, 1e308 * (scale[0] > 1), 0, 0]
    path.write_bytes(tiff_file(picture({33550: (DOUBLE, scale), 33922: (DOUBLE, points)})))
    with open_geotiff(path) as raster:
        assert raster.georeference == Georeference(None, (0, 1, 0, 0, 0, 1))


WRITER = """
import sys, time
from pathlib import Path
from engine.gdal import new_file_at
with new_file_at(Path(sys.argv[1])) as written:
    written.write_bytes(bytes(100))
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_wrote_of_a_map_is_gone_after_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "reef.mask.tif"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout as said:
        assert said.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert list(tmp_path.iterdir())
    with new_file_at(path) as written:
        written.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("west", "middle"),
    [(147, 147.04), (200, -159.96), (179.98, -179.98), (-200.04, 160), (-180.08, 179.96), (500, None)],
)
def test_the_position_of_a_raster_lies_between_the_two_sides_of_the_date_line(
    west: float, middle: float | None
) -> None:
    georeference = Georeference(rasterio.CRS.from_epsg(4326).to_wkt(), (west, 0.001, 0, -42, 0, -0.001))
    assert centre_degrees(georeference, 80, 60) == (None if middle is None else pytest.approx((-42.03, middle)))

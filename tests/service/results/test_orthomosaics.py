"""Large images through `pseg predict`: maps in, maps out, as rasterio and pyogrio read them."""
# rasterio and pyogrio ship no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import csv
import json
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import pytest
import rasterio
from PIL import Image
from rasterio import features, warp
from rasterio.errors import NotGeoreferencedWarning
from scipy import ndimage

from engine import OptionError
from engine.rasters.mask_file import layout_for
from engine.rasters.tiling import Tiling
from service.commands.terminal import ExitStatus
from service.results.unfinished import UnfinishedRaster
from tests.service.bundles import bundle_folder, strongest_band_network
from tests.service.commands.test_cli import halves, names, pseg, pseg_error, remarks, written

UTM = "EPSG:32755"
NORTH_UP = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_500_000)
ROTATED = rasterio.Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_500_000)
SMALL = ("--tile-size", 64, "--overlap", 16)


def pixels_of(height: int = 150, width: int = 210, seed: int = 5) -> npt.NDArray[np.uint8]:
    """[3, h, w]; in most pixels one band is clearly the strongest."""
    coarse = np.random.default_rng(seed).integers(1, 256, (3, height // 10 + 1, width // 10 + 1), dtype=np.uint8)
    return coarse.repeat(10, axis=1).repeat(10, axis=2)[:, :height, :width]


def geotiff(path: Path, bands: npt.NDArray[Any], *, crs: str | None = UTM, mask: Any = None, **profile: Any) -> Path:
    count, height, width = bands.shape
    settings: dict[str, Any] = {
        "transform": NORTH_UP,
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "compress": "deflate",
    }
    with rasterio.open(
        path, "w", "GTiff", width, height, count, dtype=bands.dtype, crs=crs, **{**settings, **profile}
    ) as dataset:
        dataset.write(bands)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def classes_of(path: Path) -> npt.NDArray[Any]:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_georeferenced_tiff_is_a_raster_without_being_asked_for(bundle: Path, tmp_path: Path, out: Path) -> None:
    bands = pixels_of(90, 120)
    bands[:, :30] = 0
    source = geotiff(tmp_path / "reef.tif", bands, nodata=0)
    table = tmp_path / "cover.csv"
    record = json.loads(pseg("predict", bundle, source, "--out", out, "--csv", table, "--json").stdout)
    assert names(out) == ["ledger.jsonl", "reef.tif"]
    expected = bands[:, 30:].argmax(axis=0)
    covers = [float((expected == index).mean()) for index in range(3)]
    assert [each["cover"] for each in record["cover"]] == pytest.approx(covers, abs=1e-6)
    assert sum(each["area_m2"] for each in record["cover"]) == pytest.approx(expected.size * 0.25, rel=1e-3)
    (row,) = csv_rows(table)
    assert (row["mask"], row["bundle"]) == (str(out / "reef.tif"), record["provenance"]["bundle"])
    # The middle of the raster, as PROJ has it.
    longitudes, latitudes, *_ = warp.transform(UTM, "EPSG:4326", [500_030.0], [5_499_977.5])
    assert float(row["latitude_deg"]) == pytest.approx(latitudes[0], abs=1e-6)
    assert float(row["longitude_deg"]) == pytest.approx(longitudes[0], abs=1e-6)


def test_a_georeferenced_tiff_may_be_a_photograph(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(90, 120), nodata=0)
    record = json.loads(pseg("predict", bundle, source, "--out", out, "--as-photograph", "--json").stdout)
    assert names(out) == ["ledger.jsonl", "reef.pseudo.png"]
    assert "area_m2" not in record["cover"][0]
    assert "--as-photograph" in pseg_error("predict", bundle, source, "--out", out, "--as-photograph", "--tile")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tile-size", 64), "--tile-size: no image of this run is cut into tiles"),
        (("--max-memory", "1GiB"), "--max-memory: no image of this run is cut into tiles"),
        (("--vectors", "gpkg"), "--vectors: "),
        (("--bands", 1), "--bands: "),
        (("--as-photograph",), "--as-photograph: no image of this run is a georeferenced TIFF"),
        (("--page", "all"), "--page: no image of this run is a TIFF"),
        (("--page", 1), "--page: no image of this run is a TIFF"),
        (("--recursive",), "--recursive: none of the images is a folder"),
        (("--save", "none", "--overwrite"), "--overwrite: no result is written"),
        (("--allow-tf32",), "--allow-tf32: it acts on a GPU"),
        (("--min-subgraph-size", 5), "--min-subgraph-size: it acts on TensorRT"),
    ],
)
def test_options_that_have_no_effect_on_a_photograph_are_refused_at_once(
    bundle: Path, tmp_path: Path, out: Path, options: tuple[Any, ...], said: str
) -> None:
    photograph = halves(tmp_path / "photograph.png")
    assert said in pseg_error("predict", bundle, photograph, "--out", out, *options)
    assert not [*out.rglob("*")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mask-size", "inference"), "--mask-size: "),
        (("--max-img-size", 1000), "--max-img-size: every image of this run is a raster"),
    ],
)
def test_options_that_have_no_effect_on_a_raster_are_refused_at_once(
    bundle: Path, tmp_path: Path, out: Path, options: tuple[Any, ...], said: str
) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(90, 120))
    assert said in pseg_error("predict", bundle, source, "--out", out, *options)
    assert not out.exists()
    assert pseg("predict", bundle, source, "--out", out, "--as-photograph", *options).status == 0


def test_an_overlay_of_a_raster_is_refused_at_once(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(90, 120))
    assert "--save: " in pseg_error("predict", bundle, source, "--out", out, "--save", "overlay")


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north up", "rotated"])
def test_a_map_becomes_a_map(bundle: Path, tmp_path: Path, out: Path, transform: rasterio.Affine) -> None:
    bands = pixels_of(700, 600)
    bands[:, 100:300, :250] = 0
    source = geotiff(tmp_path / "reef.tif", bands, nodata=0, transform=transform)
    table = tmp_path / "cover.csv"
    outcome = pseg("predict", bundle, source, "--tile", "--tile-size", 256, "--out", out, "--json", "--csv", table)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert names(out) == ["ledger.jsonl", "reef.tif"]
    missing = (bands == 0).all(axis=0)
    expected = np.where(missing, 255, bands.argmax(axis=0))
    with rasterio.open(source) as before, rasterio.open(out / "reef.tif") as after:
        np.testing.assert_array_equal(after.read(1), expected)
        np.testing.assert_array_equal(after.dataset_mask(), before.dataset_mask())
        assert (after.crs, after.transform, after.nodata) == (before.crs, before.transform, 255)
        assert after.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert after.overviews(1) == [2]
        palette = after.colormap(1)
        assert [palette[index][:3] for index in range(3)] == [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
        tags = after.tags()
    assert (tags["CLASS_1"], tags["CLASS_1_ID"]) == ("green", "urn:ibenthos:segmentation:class:green")
    (record,) = outcome.records
    assert json.loads(tags["PSEG_PROVENANCE"]) == record["provenance"]
    assert record["mask"] == {"path": str(out / "reef.tif"), "width": 600, "height": 700}
    assert record["provenance"]["tiling"] == {
        "tile": [256, 256],
        "overlap": 64,
        "batch": 8,
        "joined": "blended",
        "tiles": 12,
        "bands": [1, 2, 3],
    }
    # The determinant of both transforms is 0.25 square metres.
    for index, entry in enumerate(record["cover"]):
        count = int((expected == index).sum())
        assert entry["cover"] == pytest.approx(count / (~missing).sum(), abs=1e-6)
        assert entry["area_m2"] == pytest.approx(count / 4, rel=1e-9)
    header, row = (line.split(",") for line in table.read_text().splitlines())
    assert float(row[header.index("area_m2_green")]) == record["cover"][1]["area_m2"]


def test_a_raster_without_data_has_no_cover(bundle: Path, tmp_path: Path, out: Path) -> None:
    source, table, page = tmp_path / "reef.tif", tmp_path / "cover.csv", tmp_path / "report.html"
    geotiff(source, np.zeros((3, 60, 80), np.uint8), nodata=0)
    outcome = pseg("predict", bundle, source, *SMALL, "--out", out, "--csv", table, "--report", page)
    assert outcome.stdout == f"{source} -> {out}/reef.tif: no pixel counts\n"
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[f"cover_{name}"] for name in ("red", "green", "blue")] == ["", "", ""]
    assert [float(row[f"area_m2_{name}"]) for name in ("red", "green", "blue")] == [0, 0, 0]
    content = page.read_text()
    assert content.count('<td class="number" data-value="">none counts</td>') == 3
    assert "No pixel counts: it holds no data" in content


def test_areas_of_small_pixels_keep_their_digits(bundle: Path, tmp_path: Path, out: Path) -> None:
    """Of a quadrat whose pixels have half a millimetre."""
    bands, table = pixels_of(60, 80), tmp_path / "cover.csv"
    source = geotiff(
        tmp_path / "quadrat.tif", bands, transform=rasterio.Affine(0.0005, 0, 500_000, 0, -0.0005, 5_500_000)
    )
    outcome = pseg("predict", bundle, source, *SMALL, "--out", out, "--csv", table, "--json")
    pixels = np.bincount(bands.argmax(axis=0).ravel(), minlength=3)
    areas = [each["area_m2"] for each in outcome.records[0]["cover"]]
    assert areas == pytest.approx(pixels * 0.0005**2, rel=1e-5)
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[f"area_m2_{name}"]) for name in ("red", "green", "blue")] == areas


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_polygons(bundle: Path, tmp_path: Path, out: Path, suffix: str) -> None:
    bands = pixels_of()
    bands[:, :50, :60] = 0
    source = geotiff(tmp_path / "reef.tif", bands, nodata=0)
    outcome = pseg("predict", bundle, source, *SMALL, "--out", out, "--vectors", suffix, "--save", "none")
    assert (outcome.status, remarks(outcome)) == (0, [])
    assert names(out) == ["ledger.jsonl", f"reef.{suffix}", "reef.qml"]
    meta, _, _, (index, name, urn, area_m2) = pyogrio.raw.read(out / f"reef.{suffix}")
    assert meta["geometry_type"] == "Polygon"
    assert meta["crs"] == (UTM if suffix == "gpkg" else "EPSG:4326")
    mask = np.where((bands == 0).all(axis=0), 255, bands.argmax(axis=0))
    for number, label in enumerate(("red", "green", "blue")):
        assert set(name[index == number]) == {label}
        assert set(urn[index == number]) == {f"urn:ibenthos:segmentation:class:{label}"}
        assert area_m2[index == number].sum() == pytest.approx((mask == number).sum() / 4)


def test_simplified_polygons_say_the_areas_of_the_mask(bundle: Path, tmp_path: Path, out: Path) -> None:
    rows, columns = np.ogrid[:150, :210]
    bands = np.zeros((3, 150, 210), np.uint8)
    bands[np.digitize((rows - 60) ** 2 + (columns - 100) ** 2, [900, 2500]), rows, columns] = 200
    bands[:, 120:] = 0
    source = geotiff(tmp_path / "reef.tif", bands, nodata=0, transform=ROTATED)
    found: dict[str, Any] = {}
    records: dict[str, Any] = {}
    for simplify in ("", "2px", "1m"):
        options = ("--simplify", simplify) if simplify else ()
        arguments = (*SMALL, "--out", out / f"at{simplify}", "--vectors", "gpkg", *options, "--json")
        (records[simplify],) = pseg("predict", bundle, source, *arguments).records
        found[simplify] = pyogrio.raw.read(out / f"at{simplify}" / "reef.gpkg")
    # A pixel has sides of half a metre: both are one.
    for each, other in zip(found["2px"][2], found["1m"][2], strict=True):
        assert each == other
    for index in range(4):
        np.testing.assert_array_equal(found["2px"][3][index], found[""][3][index])
    assert sum(map(len, found["2px"][2])) < sum(map(len, found[""][2])) / 3
    assert records["2px"]["cover"] == records[""]["cover"]
    assert records["2px"]["provenance"]["tiling"]["simplify"] == "2px"
    assert "simplify" not in records[""]["provenance"]["tiling"]
    with rasterio.open(out / "at2px" / "reef.tif") as made:
        mask = made.read(1)
    shapes = zip(map(geometry, found["2px"][2]), found["2px"][3][0], strict=True)
    drawn = features.rasterize(shapes, mask.shape, fill=255, transform=ROTATED)
    # Pixels whose middle lies on the other side of an outline are next to one.
    changed = np.zeros(mask.shape, np.bool_)
    changed[1:], changed[:, 1:] = mask[1:] != mask[:-1], changed[:, 1:] | (mask[:, 1:] != mask[:, :-1])
    assert not (drawn != mask)[np.logical_not(ndimage.binary_dilation(changed, iterations=2))].any()
    assert 0 < (drawn != mask).mean() < 0.01
    np.testing.assert_array_equal(drawn == 255, mask == 255)


def geometry(well_known_binary: bytes) -> dict[str, Any]:
    """Of a polygon, as GeoJSON has it."""
    (rings,) = struct.unpack_from("<I", well_known_binary, 5)
    at, coordinates = 9, list[Any]()
    for _ in range(rings):
        (points,) = struct.unpack_from("<I", well_known_binary, at)
        coordinates.append(np.frombuffer(well_known_binary, "<f8", 2 * points, at + 4).reshape(-1, 2).tolist())
        at += 4 + 16 * points
    return {"type": "Polygon", "coordinates": coordinates}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--simplify", "2px"), "--simplify: it is for polygons: give vectors, too"),
        (("--simplify", "2", "--vectors", "gpkg"), "--simplify: 2: give a length with its unit"),
        (("--simplify", "0m", "--vectors", "gpkg"), "--simplify: 0m: give a length"),
    ],
)
def test_tolerances_that_cannot_be_are_refused(
    bundle: Path, tmp_path: Path, out: Path, options: tuple[Any, ...], said: str
) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(60, 60))
    assert said in pseg_error("predict", bundle, source, "--out", out, *options)


def test_a_tolerance_on_the_ground_needs_a_place_on_it(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(60, 60), crs=None)
    outcome = pseg("predict", bundle, source, "--out", out, "--vectors", "gpkg", "--simplify", "1m", "--json")
    assert outcome.status == 1
    assert "simplify 1m" in outcome.records[0]["error"]["message"]
    assert "give it in px" in outcome.records[0]["error"]["message"]


def test_qgis_paints_polygons_in_the_colours_of_their_classes(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    assert pseg("predict", bundle, source, *SMALL, "--out", out, "--vectors", "gpkg").status == 0
    renderer = ElementTree.fromstring((out / "reef.qml").read_text())[0]  # noqa: S314 (our own file)
    assert (renderer.attrib["type"], renderer.attrib["attr"]) == ("categorizedSymbol", "class")
    painted = {
        each.attrib["label"]: (
            each.attrib["value"],
            renderer.find(f"symbols/symbol[@name='{each.attrib['symbol']}']//Option[@name='color']").attrib["value"],  # pyright: ignore[reportOptionalMemberAccess]
        )
        for each in renderer.iter("category")
    }
    # the colours of the bundle, and the field of the polygons by which they are told apart
    assert painted == {
        "red": ("0", "200,10,10,160"),
        "green": ("1", "10,200,10,160"),
        "blue": ("2", "10,10,200,160"),
    }


def test_polygons_go_to_the_file_that_is_named(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    wanted = tmp_path / "all.gpkg"
    assert pseg("predict", bundle, source, *SMALL, "--out", out, "--vectors", wanted).status == 0
    assert pyogrio.raw.read(wanted)[0]["geometry_type"] == "Polygon"
    # Once more it takes its own place; in a file with a layer of somebody else it would take that, too.
    assert pseg("predict", bundle, source, *SMALL, "--out", out, "--vectors", wanted).status == 0
    with closing(sqlite3.connect(wanted)) as database, database:
        database.execute("UPDATE gpkg_contents SET table_name = 'transects'")
    message = pseg_error("predict", bundle, source, *SMALL, "--out", out, "--vectors", wanted)
    assert f"{wanted} holds other layers (transects)" in message
    second = geotiff(tmp_path / "bay.tif", pixels_of())
    message = pseg_error("predict", bundle, source, second, "--out", out, "--vectors", wanted)
    assert "2 rasters" in message


@pytest.mark.parametrize("named", [False, True])
def test_polygons_that_were_lost_are_made_again(bundle: Path, tmp_path: Path, out: Path, named: bool) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    wanted = tmp_path / "all.geojson" if named else out / "reef.geojson"
    arguments = ("predict", bundle, source, *SMALL, "--out", out, "--vectors", wanted if named else "geojson")
    assert pseg(*arguments).status == 0
    assert "1 of 1 images were done earlier" in pseg(*arguments, "--resume").stderr
    wanted.unlink()
    assert "1 done again: pictures are missing" in pseg(*arguments, "--resume").stderr
    assert wanted.is_file()


def test_polygons_alone_are_not_made_again(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    arguments = ("predict", bundle, source, "--out", out, "--save", "none", "--vectors", "gpkg", "--json")
    first = pseg(*arguments)
    assert names(out) == ["ledger.jsonl", "reef.gpkg", "reef.qml"]
    again = pseg(*arguments, "--resume")
    assert "1 of 1 images were done earlier" in again.stderr
    assert again.records == first.records
    assert again.records[0]["mask"]["path"] is None


def test_polygons_of_small_pixels_stay_polygons(bundle: Path, tmp_path: Path, out: Path) -> None:
    # Half a millimetre: seven digits of a degree are eleven.
    fine = rasterio.Affine(0.0005, 0, 500_000, 0, -0.0005, 8_000_000)
    source = geotiff(tmp_path / "reef.tif", pixels_of(), transform=fine)
    outcome = pseg("predict", bundle, source, *SMALL, "--out", out, "--vectors", "geojson")
    assert outcome.status == 0
    kinds = {each["geometry"]["type"] for each in json.loads((out / "reef.geojson").read_text())["features"]}
    assert kinds == {"Polygon"}


def test_polygons_in_local_coordinates(
    bundle: Path, tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local = 'LOCAL_CS["Local Coordinates (m)",LOCAL_DATUM["Local Datum",0],UNIT["metre",1]]'
    source = geotiff(tmp_path / "reef.tif", pixels_of(), crs=local)
    outcome = pseg("predict", bundle, source, *SMALL, "--out", out, "--vectors", "geojson")
    assert outcome.status == 0, outcome.stderr
    assert "nothing leads from its coordinates to WGS 84" in caplog.text
    shapes = json.loads((out / "reef.geojson").read_text())["features"]
    east = [x for shape in shapes for ring in shape["geometry"]["coordinates"] for x, _ in ring]
    assert (min(east), max(east)) == (500_000, 500_105)


@pytest.mark.parametrize("folder", ["Reef!", "a!b.zip!c"])
def test_polygons_in_a_folder_of_any_name(bundle: Path, tmp_path: Path, folder: str) -> None:
    source = geotiff(tmp_path / "reef!1.tif", pixels_of())
    named = tmp_path / "elsewhere!" / "all.geojson"
    for vectors in ("gpkg", named):
        options = ("--out", tmp_path / folder, "--vectors", vectors, "--overwrite")
        outcome = pseg("predict", bundle, source, *SMALL, *options)
        assert outcome.status == 0, outcome.stderr
    assert names(tmp_path / folder) == ["ledger.jsonl", "reef!1.gpkg", "reef!1.qml", "reef!1.tif"]
    assert json.loads(named.read_text())["features"]


def test_a_tiff_that_is_too_large_to_decode_is_cut_by_itself(bundle: Path, tmp_path: Path, out: Path) -> None:
    bands = pixels_of()
    source = geotiff(tmp_path / "large.tif", bands)
    photo = halves(tmp_path / "photo.png")
    outcome = pseg("predict", bundle, photo, source, photo.parent, "--out", out, "--max-pixels", 31_000, *SMALL)
    assert outcome.status == 0, outcome.stderr
    assert names(out) == ["large.tif", "ledger.jsonl", "photo.pseudo.png"]
    np.testing.assert_array_equal(classes_of(out / "large.tif"), bands.argmax(axis=0))


def test_a_photograph_in_tiles_is_the_photograph(bundle: Path, tmp_path: Path, out: Path) -> None:
    photo = halves(tmp_path / "photo.png", size=(300, 200))
    outcome = pseg("predict", bundle, photo, "--tile", *SMALL, "--out", out, "--json", "--report", tmp_path / "r.html")
    assert outcome.status == 0, outcome.stderr
    (record,) = outcome.records
    assert record["provenance"]["tiling"]["tile"] == [64, 64]
    assert set(record["timings_ms"]) == {"decode", "preprocess", "run", "postprocess", "encode"}
    mask = written(out / "photo.pseudo.png")
    assert mask.shape == (200, 300)
    assert (mask[:, :150] == 0).all()
    assert (mask[:, 150:] == 2).all()


def test_the_report_shows_a_map_small(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(200, 3000))
    page = tmp_path / "report.html"
    (record,) = pseg("predict", bundle, source, "--tile", "--out", out, "--report", page, "--json").records
    text = page.read_text()
    # by hand: 200 × 3000 pixels of half a metre
    areas = [each["area_m2"] for each in record["cover"]]
    assert sum(areas) == pytest.approx(200 * 3000 / 4)
    assert "<dt>area</dt><dd>150,000.0 m² with data</dd>" in text
    assert all(f'<span class="area">{area:,.1f} m²</span>' in text for area in areas)
    assert all(f'<td class="number">{area:,.1f} m²</td>' in text for area in areas)
    assert "<dt>coordinates</dt><dd><bdi>" in text
    assert "3000" in text
    assert text.count("data:image/jpeg") == 1
    assert len(text) < 300_000


Pixels = npt.NDArray[np.uint8]


def turned_round(rgb: Pixels) -> Pixels:
    return rgb[::-1]


def sixteen_bit(rgb: Pixels) -> npt.NDArray[np.uint16]:
    return rgb.astype(np.uint16) * np.uint16(256) + np.uint16(77)


def twelve_bit(rgb: Pixels) -> npt.NDArray[np.uint16]:
    return rgb.astype(np.uint16) * np.uint16(16) + np.uint16(9)


def five_bands(rgb: Pixels) -> Pixels:
    return np.stack([rgb[0], *rgb, rgb[1]])


@pytest.mark.parametrize(
    ("bands", "profile", "options"),
    [
        (turned_round, {}, ["--bands", "3,2,1"]),
        (sixteen_bit, {}, []),
        (twelve_bit, {"NBITS": 12}, []),
        (five_bands, {}, ["--bands", "2,3,4"]),
    ],
)
def test_bands_and_depths(
    bundle: Path,
    tmp_path: Path,
    out: Path,
    bands: Callable[[Pixels], npt.NDArray[Any]],
    profile: dict[str, Any],
    options: list[str],
) -> None:
    rgb = pixels_of()
    source = geotiff(tmp_path / "reef.tif", bands(rgb), **profile)
    outcome = pseg("predict", bundle, source, "--tile", *SMALL, *options, "--out", out)
    assert (outcome.status, remarks(outcome)) == (0, [])
    np.testing.assert_array_equal(classes_of(out / "reef.tif"), rgb.argmax(axis=0))


@pytest.mark.parametrize("how", ["alpha", "internal mask"])
def test_what_the_file_masks_is_missing(bundle: Path, tmp_path: Path, out: Path, how: str) -> None:
    rgb = pixels_of()
    valid = np.ones(rgb.shape[1:], np.uint8) * 255
    valid[30:130, 40:] = 0
    if how == "alpha":
        source = geotiff(tmp_path / "reef.tif", np.stack([*rgb, valid]), photometric="RGB", alpha="yes")
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            source = geotiff(tmp_path / "reef.tif", rgb, mask=valid)
    assert pseg("predict", bundle, source, "--tile", *SMALL, "--out", out).status == 0
    with rasterio.open(out / "reef.tif") as dataset:
        np.testing.assert_array_equal(dataset.dataset_mask(), valid)
        np.testing.assert_array_equal(dataset.read(1)[valid > 0], rgb.argmax(axis=0)[valid > 0])


@pytest.mark.parametrize(
    ("crs", "transform", "said"),
    [
        (None, None, "no coordinate reference system"),
        (UTM, rasterio.Affine(0.05, 0, 5e8, 0, -0.05, 8e8), "outside of its projection"),
        ("EPSG:3857", rasterio.Affine(0.5, 0, 1.6e7, 0, -0.5, -5e6), "changes areas by"),
    ],
)
def test_where_areas_are_not_known_it_says_so(
    bundle: Path,
    tmp_path: Path,
    out: Path,
    caplog: pytest.LogCaptureFixture,
    crs: str | None,
    transform: Any,
    said: str,
) -> None:
    with pytest.warns(NotGeoreferencedWarning) if crs is None else nullcontext():
        source = geotiff(tmp_path / "reef.tif", pixels_of(), crs=crs, transform=transform)
    outcome = pseg("predict", bundle, source, "--tile", *SMALL, "--out", out, "--json")
    assert outcome.status == 0
    assert said in caplog.text
    assert all("area_m2" not in entry for entry in outcome.records[0]["cover"])
    if crs is not None:
        with rasterio.open(out / "reef.tif") as dataset:
            assert dataset.crs == crs


def test_in_degrees_areas_are_those_on_the_ellipsoid(bundle: Path, tmp_path: Path, out: Path) -> None:
    degree = rasterio.Affine(0.25, 0, 10, 0, -0.25, 60)
    source = geotiff(tmp_path / "reef.tif", pixels_of(100, 120), crs="EPSG:4326", transform=degree)
    outcome = pseg("predict", bundle, source, "--tile", *SMALL, "--out", out, "--json")
    # 30 degrees of longitude between 35° and 60° N of WGS 84, by the equal-area cylinder (Snyder, eq. 3-12).
    e2 = 0.00669437999014

    def zone(latitude_deg: float) -> float:
        sine = np.sin(np.radians(latitude_deg))
        e = np.sqrt(e2)
        q = (1 - e2) * (sine / (1 - e2 * sine**2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))
        return float(np.radians(30) * 6378137.0**2 * q / 2)

    total = sum(entry["area_m2"] for entry in outcome.records[0]["cover"])
    assert total == pytest.approx(zone(60) - zone(35), rel=1e-9)


# ---- what is wrong ----------------------------------------------------------------------------------------------


def failed(bundle: Path, *arguments: Any) -> str:
    outcome = pseg("predict", bundle, *arguments, "--json")
    assert outcome.status == ExitStatus.INCOMPLETE
    (record,) = outcome.records
    assert record["mask"] is None
    return f"{record['error']['type']}: {record['error']['message']}"


def test_rasters_that_cannot_be_used(bundle: Path, tmp_path: Path, out: Path) -> None:
    rgb = pixels_of(300, 400)
    many = geotiff(tmp_path / "many.tif", np.concatenate([rgb, rgb])[:5])
    assert "5 bands" in failed(bundle, many, "--tile", "--out", out)
    assert "bands 1,2,9" in failed(bundle, many, "--bands", "1,2,9", "--out", out)
    floats = geotiff(tmp_path / "floats.tif", rgb.astype(np.float32))
    assert "no stated range" in failed(bundle, floats, "--tile", "--out", out)
    truncated = geotiff(tmp_path / "cog.tif", np.random.default_rng(0).integers(0, 256, (3, 300, 400), dtype=np.uint8))
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    message = failed(bundle, truncated, "--tile", "--out", out)
    assert message.startswith("ImageError")
    assert "truncated" in message
    photo = halves(tmp_path / "photo.png")
    assert "is not a TIFF" in pseg_error("predict", bundle, photo, "--vectors", "gpkg", "--out", out)
    assert [name for name in names(out) if not name.startswith(".")] == ["ledger.jsonl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tile", "--tile-size", 64, "--overlap", 64], "does not fit into tiles of 64×64"),
        (["--tile", "--max-memory", "0"], "0 MiB of memory do not hold one tile"),
        (["--tile", "--max-memory", "60MiB"], "60 MiB of memory do not hold one tile of 256×256"),
        (["--tile", "--max-memory", "much"], "such as 1.5GiB"),
        (["--tile", "--max-img-size", 5000], "tile works at full size"),
        (["--tile", "--crop-size", 8, 8, "--stride", 8, 8], "crop-size is PaddleSeg"),
        (["--bands", "red"], "--bands: red: give numbers"),
        (["--vectors", "shp"], "gpkg, geojson, or a file"),
        (["--vectors", "reef.shp"], ".gpkg or .geojson"),
        (["--scales", "1,x"], "--scales: 1,x: give numbers"),
        (["--stride", 8, 8], "its size and its stride"),
    ],
)
def test_options_that_cannot_be_honoured(bundle: Path, tmp_path: Path, options: list[Any], said: str) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    assert said in " ".join(pseg_error("predict", bundle, source, "--out", tmp_path / "out", *options).split())


def test_a_result_never_takes_the_place_of_an_image(bundle: Path, tmp_path: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    before = source.read_bytes()
    assert "take its place" in pseg_error("predict", bundle, source, "--tile", "--out", tmp_path)
    assert source.read_bytes() == before


# ---- interrupted ------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_tile_by_tile(bundle: Path, tmp_path: Path, out: Path) -> None:
    bands = pixels_of(500, 500)
    bands[:, 100:200, 100:400] = 0
    source = geotiff(tmp_path / "reef.tif", bands, nodata=0)
    arguments = ["predict", bundle, source, "--tile", *SMALL, "--batch-size", 1, "--out", out]
    start = "from service.start import main; main()"
    process = subprocess.Popen([sys.executable, "-c", start, *map(str, arguments)])
    state = out / ".pseg-reef.tiles" / "state.json"
    done = 0
    while done < 20 and process.poll() is None:
        time.sleep(0.005)
        done = json.loads(state.read_text())["done"] if state.exists() else 0
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "reef.tif").exists()
    outcome = pseg(*arguments, "--resume")
    assert outcome.status == 0
    assert names(out) == ["ledger.jsonl", "reef.tif"]
    expected = np.where((bands == 0).all(axis=0), 255, bands.argmax(axis=0))
    np.testing.assert_array_equal(classes_of(out / "reef.tif"), expected)


@pytest.mark.long
def test_a_changed_raster_is_done_again_from_the_start(
    bundle: Path, tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of(400, 400))
    content = bytearray(source.read_bytes())
    content[-3000:] = bytes(3000)
    whole = source.read_bytes()
    source.write_bytes(content)
    arguments = ["predict", bundle, source, "--tile", *SMALL, "--batch-size", 1, "--out", out, "--resume"]
    assert pseg(*arguments).status == ExitStatus.INCOMPLETE
    assert (out / ".pseg-reef.tiles" / "state.json").exists(), "what was done is kept for a run that goes on"
    assert pseg(*arguments).status == ExitStatus.INCOMPLETE
    assert "goes on after" in caplog.text
    caplog.clear()
    source.write_bytes(whole)
    assert pseg(*arguments).status == 0
    assert "goes on after" not in caplog.text
    np.testing.assert_array_equal(classes_of(out / "reef.tif"), pixels_of(400, 400).argmax(axis=0))


# ---- seen several times -----------------------------------------------------------------------------------------


def test_averaging_is_on_the_record(bundle: Path, tmp_path: Path, out: Path) -> None:
    photo = halves(tmp_path / "photo.png")
    options = ["--crop-size", 20, 20, "--stride", 10, 10, "--scales", "0.5,1.0", "--flip", "--flip-vertical"]
    outcome = pseg("predict", bundle, photo, "--out", out, "--json", *options)
    assert outcome.status == 0, outcome.stderr
    assert outcome.records[0]["provenance"]["averaging"] == {
        "crop_size": [20, 20],
        "stride": [10, 10],
        "scales": [0.5, 1.0],
        "flip_horizontal": True,
        "flip_vertical": True,
    }
    with Image.open(out / "photo.pseudo.png") as image:
        assert np.asarray(image)[5].tolist() == [0] * 32 + [2] * 32


def test_other_tiles_of_a_raster_are_another_run(bundle: Path, tmp_path: Path, out: Path) -> None:
    source = geotiff(tmp_path / "reef.tif", pixels_of())
    command = ("predict", bundle, source, "--out", out, "--resume")
    assert pseg(*command, "--tile-size", 64).status == 0
    assert "1 of 1 images were done earlier" in pseg(*command, "--tile-size", 64).stderr
    assert "tile-side: 64 → 96" in pseg(*command, "--tile-size", 96).stderr


def test_how_many_tiles_share_a_run_does_not_begin_again(
    bundle: Path, tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = stopped_after_three_tiles(bundle, tmp_path, out, "--tile-size", 64, "--overlap", 16, "--batch-size", 1)
    assert pseg(*arguments[:-1], 3, "--resume").status == 0
    assert "goes on after 3 tiles" in caplog.text


def test_progress_that_cannot_be_used_is_told(
    bundle: Path, tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = stopped_after_three_tiles(bundle, tmp_path, out, "--tile-size", 64, "--overlap", 16)
    assert pseg(*arguments[:-1], 32, "--resume").status == 0
    assert "begins again after 3 tiles: tiles are not the same" in caplog.text


def test_larger_tiles_than_the_memory_allows_are_not_gone_on_with(bundle: Path, tmp_path: Path, out: Path) -> None:
    stopped_after_three_tiles(bundle, tmp_path, out)
    folder, layout = out / ".pseg-reef.tiles", layout_for(300, 300, 3, multilabel=False, marks_missing=False)
    key = json.loads((folder / "state.json").read_text())["key"]
    with pytest.raises(OptionError, match=r"holds 3 tiles of .* --max-memory allows 32×32"):
        UnfinishedRaster(folder, key, Tiling(32, 32, 8), layout, resume=True, keep_tiling=True, limited=True)


def stopped_after_three_tiles(bundle: Path, tmp_path: Path, out: Path, *options: Any) -> list[Any]:
    """A run whose fourth tile never came, and its arguments."""
    source = geotiff(tmp_path / "reef.tif", pixels_of(300, 300))
    arguments = ["predict", bundle, source, "--out", out, "--tile", *(options or ("--tile-size", 64))]
    reached = UnfinishedRaster.reached

    def stop(work: UnfinishedRaster, done: int, carry: Any) -> None:
        if done == 4:
            raise RuntimeError("the power went")
        reached(work, done, carry)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UnfinishedRaster, "reached", stop)
        assert pseg(*arguments).status == ExitStatus.INCOMPLETE
    return arguments


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_values_of_a_stated_range_in_rasters_and_photographs(bundle: Path, tmp_path: Path, out: Path) -> None:
    bands = pixels_of(90, 120).astype(np.uint16) * 16
    source = geotiff(tmp_path / "reef.tif", bands)
    photograph = geotiff(tmp_path / "photograph.tif", bands, crs=None, transform=rasterio.Affine.identity())
    (dark,) = pseg("predict", bundle, source, "--out", out / "dark", "--json").records
    assert "no value above 4095 of 65535" in dark["notes"][-1]
    assert "scale_range" not in dark["provenance"]
    run = ("predict", bundle, source, photograph, "--out", out / "scaled", "--scale-range", "0,4095")
    for record in pseg(*run, "--json").records:
        assert record["provenance"]["scale_range"] == [0, 4095]
        assert not any("no value above" in note for note in record.get("notes", ()))
    np.testing.assert_array_equal(classes_of(out / "scaled" / "reef.tif"), bands.argmax(axis=0))
    ledger = (out / "scaled" / "ledger.jsonl").read_text().splitlines()
    assert json.loads(ledger[0])["options"]["scale_range"] == [0, 4095]
    # The masks depend on it: no other range goes on in the same folder, and the same one has nothing left to do.
    assert "scale-range 0.0,4000.0, there 0.0,4095.0" in pseg_error(*run[:-1], "0,4000")
    assert pseg(*run, "--resume").status == 0


def test_a_network_of_five_bands_takes_five_bands_of_a_raster(tmp_path: Path, out: Path) -> None:
    bands = np.random.default_rng(3).integers(1, 256, (6, 12, 15), np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    source = geotiff(tmp_path / "reef.tif", bands)
    classes = [{"id": f"urn:band-{band}", "name": f"band-{band}"} for band in range(5)]
    normalize = [{"type": "Normalize", "mean": [0.5, 0.4, 0.5, 0.4, 0.5], "std": [0.5, 0.5, 0.5, 0.5, 0.5]}]
    folder = bundle_folder(
        tmp_path / "five", network=strongest_band_network(bands=5), classes=classes, transforms=normalize
    )
    page = tmp_path / "report.html"
    (record,) = pseg(
        "predict", folder, source, "--out", out, "--bands", "6,2,3,4,5", "--json", "--report", page
    ).records
    assert record["provenance"]["tiling"]["bands"] == [6, 2, 3, 4, 5]
    means = np.array([0.5, 0.4, 0.5, 0.4, 0.5])[:, None, None]
    expected = (bands[[5, 1, 2, 3, 4]] / 255 - means).argmax(axis=0)
    assert (classes_of(out / "reef.tif") != expected).mean() < 1e-3
    assert "reef.tif" in page.read_text()
    assert "--bands: 3 bands are named: give 5" in pseg_error(
        "predict", folder, source, "--out", out, "--bands", "1,2,3"
    )
    photograph = halves(tmp_path / "photograph.png")
    assert "the image has 3 bands, and the network takes 5" in failed(folder, photograph, "--out", tmp_path / "other")
    assert "images of 5 bands: TIFFs, chosen with --bands" in pseg("inspect", folder).stdout

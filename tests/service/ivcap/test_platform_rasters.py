"""Rasters in orders and jobs: a GeoTIFF comes in, and a GeoTIFF with areas, and polygons, go out.

The network finds the strongest band, so the right mask is known. Maps are read by GDAL, polygons by pyogrio, neither
through the code under test.
"""

# rasterio and pyogrio ship no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import pytest
import rasterio

from service.ivcap.platform_job import ExitStatus
from service.ivcap.publishing import INFERENCE_SCHEMA, POLYGONS_SCHEMA, SUMMARY_SCHEMA
from tests.service.ivcap.test_fulfilment import Picture, Pictures, Scene
from tests.service.ivcap.test_job import Machine, good, new_machine
from tests.service.ivcap.test_order import Platform, aspects_in, new_platform, results_folder
from tests.service.pictures import RED, painted
from tests.service.results.test_orthomosaics import NORTH_UP, UTM, geotiff, pixels_of
from tests.standins.faulty_server import FaultyServer
from tests.standins.job_sidecar import JobPlatform, job_sidecar

PIXEL_M2 = abs(NORTH_UP.a * NORTH_UP.e)


@pytest.fixture
def scene(tmp_path: Path, bundle: Path) -> Scene:
    return Scene(tmp_path, bundle)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = new_platform(tmp_path)
    yield made
    assert list(made.temporary.iterdir()) == [], "an order left temporary files"


def reef(folder: Path) -> tuple[Path, npt.NDArray[Any]]:
    """A raster with a corner without data, and its mask: 255 where there are none."""
    bands = pixels_of()
    bands[:, :50, :60] = 0
    mask = np.where((bands == 0).all(axis=0), 255, bands.argmax(axis=0)).astype(np.uint8)
    return geotiff(folder / "reef.tif", bands, nodata=0), mask


def read_map(path: Path) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    with rasterio.open(path) as dataset:
        return dataset.read(1), {"crs": str(dataset.crs), "bounds": tuple(dataset.bounds), "nodata": dataset.nodata}


def areas_m2(mask: npt.NDArray[Any]) -> list[float]:
    return [float((mask == index).sum()) * PIXEL_M2 for index in range(3)]


def test_a_georeferenced_tiff_gives_a_map_polygons_and_areas(scene: Scene, tmp_path: Path) -> None:
    path, mask = reef(tmp_path)
    pictures = [*scene.pictures(1), Picture(path, scene.history)]
    outcome, shelf = scene.do(Pictures(pictures, scene.history), vectors="gpkg", report=True)
    assert outcome.exit_status is ExitStatus.DONE, outcome.problems
    assert set(shelf.products) == {"0.pseudo.png", "reef.tif", "reef.gpkg", "cover.csv", "report.html"}
    (tmp_path / "map.tif").write_bytes(shelf.products["reef.tif"])
    made, place = read_map(tmp_path / "map.tif")
    assert np.array_equal(made, mask)
    with rasterio.open(path) as source:
        assert place == {"crs": UTM, "bounds": tuple(source.bounds), "nodata": 255}
        bounds = list(source.bounds)
    (tmp_path / "polygons.gpkg").write_bytes(shelf.products["reef.gpkg"])
    _, _, _, (index, *_, area_m2) = pyogrio.raw.read(tmp_path / "polygons.gpkg")
    for each, expected in enumerate(areas_m2(mask)):
        assert area_m2[index == each].sum() == pytest.approx(expected)

    photograph, raster, polygons = shelf.stored_aspects
    assert "raster" not in photograph
    assert raster["$schema"] == INFERENCE_SCHEMA
    assert raster["raster"] == {"crs": UTM, "bounds": bounds, "valid_pixels": int((mask != 255).sum())}
    assert [each["area_m2"] for each in raster["cover"]] == pytest.approx(areas_m2(mask))
    assert raster["provenance"]["tiling"]["bands"] == [1, 2, 3]
    assert "tiling" not in photograph["provenance"]
    assert polygons["$schema"] == POLYGONS_SCHEMA
    assert (polygons["image"], polygons["mask"]) == ("urn:test:reef.tif", "urn:ivcap:artifact:reef.tif")


def test_every_pixel_with_data_counts_once_in_the_summary(scene: Scene, tmp_path: Path) -> None:
    path, mask = reef(tmp_path)
    _, shelf = scene.do(Pictures([*scene.pictures(1), Picture(path, scene.history)], scene.history))
    valid, red = int((mask != 255).sum()), int((mask == 0).sum())
    # The photograph is red, 6×4 pixels.
    assert shelf.summary["cover"][0]["cover"] == pytest.approx((red + 24) / (valid + 24), abs=1e-6)
    assert shelf.summary["cover"][0]["mean_of_images"] == pytest.approx((red / valid + 1) / 2, abs=1e-6)


def test_tiles_and_photographs_by_choice(scene: Scene, tmp_path: Path) -> None:
    path, _ = reef(tmp_path)
    whole, shelf = scene.do(Pictures([Picture(path, scene.history)], scene.history), as_photograph=True)
    assert (set(shelf.products), whole.published[0].is_cut) == ({"reef.pseudo.png", "cover.csv"}, False)
    scene.do(Pictures([Picture(path, scene.history)], scene.history), tile_size=64, overlap=16)
    _, shelf = scene.do(Pictures(scene.pictures(1), scene.history), tile=True, tile_size=64)
    (aspect,) = shelf.stored_aspects
    assert aspect["provenance"]["tiling"] == {
        "tile": [64, 64],
        "overlap": 16,
        "batch": 1,
        "joined": "blended",
        "tiles": 1,
    }


def test_an_option_that_acted_on_no_image_is_a_problem(scene: Scene) -> None:
    outcome, shelf = scene.do(Pictures(scene.pictures(1), scene.history), bands="1", overlap=16)
    assert outcome.exit_status is ExitStatus.INCOMPLETE
    assert outcome.problems == [
        "no image is cut into tiles, so overlap had no effect: leave it out",
        "no image is a raster, so bands had no effect: leave it out",
    ]
    assert "0.pseudo.png" in shelf.products


def test_what_is_for_photographs_or_against_rasters_is_a_problem_without_them(scene: Scene, tmp_path: Path) -> None:
    plain, _ = scene.do(Pictures(scene.pictures(1), scene.history), as_photograph=True)
    assert plain.problems == ["no image is a georeferenced TIFF, so as-photograph had no effect: leave it out"]
    path, _ = reef(tmp_path)
    rasters = [Picture(path, scene.history)]
    only, _ = scene.do(Pictures(rasters, scene.history), mask_size="inference", max_img_size=900)
    assert only.problems == ["every image is a raster, so mask-size and max-img-size had no effect: leave it out"]
    both = [*rasters, *scene.pictures(1)]
    mixed, _ = scene.do(Pictures(both, scene.history), mask_size="inference", max_img_size=900)
    assert mixed.problems == []


def test_a_damaged_raster_is_listed_by_its_name(scene: Scene, tmp_path: Path) -> None:
    path, _ = reef(tmp_path)
    content = bytearray(path.read_bytes())
    content[200:3000] = b"\xff" * 2800
    path.write_bytes(content)
    outcome, _ = scene.do(Pictures([Picture(path, scene.history), *scene.pictures(1)], scene.history))
    assert outcome.exit_status is ExitStatus.DONE
    (failed,) = outcome.failed
    assert failed.reason.startswith("reef.tif")
    assert str(tmp_path) not in failed.reason


def test_an_order_of_an_orthomosaic(platform: Platform, bundle: Path, tmp_path: Path) -> None:
    path, mask = reef(tmp_path)
    out = results_folder(platform)
    ended = platform.order(
        *("--model", str(bundle), "--image", str(path), "--vectors", "geojson", "--tile-size", "64"),
        *("--ivcap:in-dir", ".", "--ivcap:out-dir", str(out)),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made, place = read_map(out / "reef.tif")
    assert np.array_equal(made, mask)
    assert place["crs"] == UTM
    (aspect,) = aspects_in(out, INFERENCE_SCHEMA)
    assert [each["area_m2"] for each in aspect["cover"]] == pytest.approx(areas_m2(mask))
    assert json.loads((out / "reef.geojson").read_text())["features"]
    (polygons,) = aspects_in(out, POLYGONS_SCHEMA)
    assert polygons["mask"] == f"urn:file://{out}/reef.tif"
    (summary,) = aspects_in(out, SUMMARY_SCHEMA)
    assert summary["images"] == {"total": 1, "succeeded": 1, "failed": 0}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from new_machine(tmp_path)


@pytest.fixture
def sidecar() -> Iterator[FaultyServer[JobPlatform]]:
    with job_sidecar() as server:
        yield server


@pytest.mark.long
def test_a_job_of_an_orthomosaic(
    sidecar: FaultyServer[JobPlatform], machine: Machine, bundle: Path, tmp_path: Path
) -> None:
    path, mask = reef(tmp_path)
    platform = sidecar.platform()
    model = platform.put("model.tgz", bundle.read_bytes())
    raster, photograph = platform.put("reef.tif", path.read_bytes()), platform.put("a.png", painted(RED))
    job = platform.submit(model=model, images=[raster, photograph], vectors="gpkg")
    first, second = good(machine.do_jobs(platform)[job])["masks"]
    assert first["raster"]["crs"] == UTM
    assert first["raster"]["valid_pixels"] == int((mask != 255).sum())
    assert [each["area_m2"] for each in first["cover"]] == pytest.approx(areas_m2(mask))
    assert first["polygons"].startswith("urn:ivcap:artifact:")
    assert {"raster", "polygons"} & second.keys() == set()


def test_rasters_that_cannot_be_cut_fail_alone(scene: Scene, tmp_path: Path) -> None:
    path, _ = reef(tmp_path)
    pictures = [Picture(path, scene.history), *scene.pictures(1)]
    outcome, shelf = scene.do(Pictures(pictures, scene.history), tile_size=64, overlap=64)
    assert [each.image.label for each in outcome.failed] == ["reef.tif"]
    assert "overlap" in outcome.failed[0].reason
    assert "0.pseudo.png" in shelf.products


def test_a_share_without_a_raster_is_no_mistake(scene: Scene) -> None:
    outcome, _ = scene.do(Pictures(scene.pictures(1), scene.history), vectors="gpkg", shard="1/2")
    assert outcome.exit_status is ExitStatus.DONE


def test_a_call_to_stop_waits_for_no_download(scene: Scene) -> None:
    """The summary is published first."""
    pictures = scene.pictures(6)
    published: list[bool] = []

    @dataclass(slots=True)
    class SlowPicture(Picture):
        def fetch(self) -> Path:
            # The first picture has arrived by then.
            time.sleep(0.5)
            scene.stop.set()
            while not published:
                time.sleep(0.01)
            return self.path

    slow = [pictures[0], *(SlowPicture(each.path, scene.history) for each in pictures[1:])]

    def stored(name: str) -> None:
        if name == "cover.csv":
            published.append(True)

    outcome, shelf = scene.do(Pictures(slow, scene.history), when_stored=stored)
    assert [each.image.label for each in outcome.published] == ["0.png"]
    # Of the others, those that were to be read next say why they were not.
    assert all("before the image had arrived" in each.reason for each in outcome.failed)
    assert "asked to stop" in shelf.summary["problems"][0]

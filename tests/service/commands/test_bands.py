"""Networks of other numbers of bands than three in the commands that measure: labelled folders, speed, INT8."""
# rasterio ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import Affine
from typer.testing import CliRunner, Result

from engine import open_bundle, read_image
from engine.errors import ImageError
from engine.images.quality import STATISTICS_NAME
from service import cli
from service.commands.terminal import ExitStatus
from tests.service.bundles import bundle_folder, strongest_band_network

BANDS = 4
TO_THE_NETWORK = (4, 3, 2, 1)
"""Band of the file for each band of the network: they are stored the other way round."""
CLASSES = [{"id": f"urn:test:{name}", "name": name} for name in ("red", "green", "blue", "infrared")]


@pytest.fixture(scope="module")
def multispectral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transforms = [{"type": "Normalize", "mean": [0.5] * BANDS, "std": [0.5] * BANDS}]
    return bundle_folder(
        tmp_path_factory.mktemp("bundle") / "files",
        transforms=transforms,
        classes=CLASSES,
        network=strongest_band_network(bands=BANDS),
    )


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one band: class 0 where it is bright, 1 where it is dark."""
    return bundle_folder(
        tmp_path_factory.mktemp("grey") / "files",
        transforms=[{"type": "Normalize", "mean": [0.5], "std": [0.5]}],
        classes=CLASSES[:2],
        network=strongest_band_network(bands=1, classes=2),
    )


def strongest(index: int) -> NDArray[np.uint8]:
    """Labels of a picture: the class of each 8×8 square."""
    squares = (np.arange(24).reshape(4, 6) + index) % BANDS
    return np.kron(squares, np.ones((8, 8), int)).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight TIFFs of four bands, and their labels."""
    images, masks = (tmp_path_factory.mktemp(name) for name in ("images", "masks"))
    place = Affine(1, 0, 100, 0, -1, 200)
    for index in range(8):
        labels = strongest(index)
        # The band of the class is the brightest; the others differ, so that a wrong order gives other classes.
        seen = np.stack([np.where(labels == band, 200 + index, 20 * band) for band in range(BANDS)]).astype(np.uint8)
        stored = seen[[TO_THE_NETWORK.index(band) for band in range(1, BANDS + 1)]]
        height, width = labels.shape
        with rasterio.open(
            images / f"{index}.tif", "w", driver="GTiff", width=width, height=height, count=BANDS, dtype="uint8",
            transform=place,
        ) as file:  # fmt: skip
            file.write(stored)
        Image.fromarray(labels).save(masks / f"{index}.png")
    return images, masks


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def pseg(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)


def recorded(*arguments: object) -> dict[str, Any]:
    result = pseg(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def named(bands: Sequence[int] = TO_THE_NETWORK) -> tuple[str, str]:
    return "--bands", ",".join(map(str, bands))


def test_bands_are_read_in_the_order_that_is_named(folders: tuple[Path, Path]) -> None:
    path = folders[0] / "0.tif"
    with rasterio.open(path) as file:
        stored = file.read()
    image = read_image(path, bands=(2, 4), max_img_size=-1)
    assert np.array_equal(image.pixels, stored[[1, 3]].transpose(1, 2, 0))
    assert image.statistics is None
    small = read_image(path, bands=(2, 4, 1, 3), max_img_size=12 * 8)
    # Each 4×4 square becomes the mean of its pixels, band by band, rounded.
    means = stored.reshape(4, 8, 4, 12, 4).mean(axis=(2, 4)).transpose(1, 2, 0)[..., [1, 3, 0, 2]]
    assert np.abs(small.pixels - means).max() <= 0.5
    assert (small.width, small.height) == (48, 32)
    with pytest.raises(ImageError, match="the file has 4"):
        read_image(path, bands=(5,))


def test_labelled_folders_of_several_bands(multispectral: Path, folders: tuple[Path, Path], cache: Path) -> None:
    images, masks = folders
    labelled = ("evaluate", multispectral, "--images", images, "--masks", masks, "--cache-dir", cache)
    (column,) = recorded(*labelled, *named())["results"]
    assert (column["miou"], column["accuracy"]) == (1, 1)
    # The first two bands of the network are exchanged: their classes are found for each other.
    (column,) = recorded(*labelled, *named((3, 4, 2, 1)))["results"]
    assert [each["iou"] for each in column["classes"]] == [0, 0, 1, 1]


@pytest.mark.parametrize("command", ["evaluate", "bench", "tune", "convert"])
def test_other_numbers_of_bands_are_refused_by_that_of_the_network(
    command: str, multispectral: Path, folders: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    images, masks = folders
    pictures = {
        "evaluate": ("--images", images, "--masks", masks),
        "bench": ("--images", images, "--provider", "cpu"),
        "tune": ("--images", images, "--out", tmp_path / "profile.json"),
        "convert": ("--calibrate", images, "--precision", "int8", "--out", tmp_path / "made.tgz"),
    }
    asked = (command, multispectral, *pictures[command], "--cache-dir", cache)
    for bands, said in (((), "the network takes images of 4 bands"), (named((1, 2, 3)), "3 bands are named: give 4")):
        result = pseg(*asked, *bands)
        assert (result.exit_code, result.stdout) == (ExitStatus.WRONG_REQUEST, "")
        assert said in " ".join(result.stderr.split())
        assert "--bands" in result.stderr


def test_photographs_have_no_bands_to_choose_from(multispectral: Path, tmp_path: Path, cache: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    result = pseg("bench", multispectral, "--images", tmp_path, "--provider", "cpu", *named(), "--cache-dir", cache)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "which only TIFFs have" in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", ["bench", "convert"])
def test_generated_pictures_have_no_bands_to_choose_from(
    command: str, multispectral: Path, cache: Path, tmp_path: Path
) -> None:
    out = () if command == "bench" else ("--out", tmp_path / "made.tgz")
    result = pseg(command, multispectral, *named(), *out, "--cache-dir", cache)
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "generated pictures have the bands that the network takes" in " ".join(result.stderr.split())


@pytest.mark.parametrize("network", ["multispectral", pytest.param("grey", marks=pytest.mark.long)])
def test_generated_pictures_have_the_bands_of_the_network(
    network: str, cache: Path, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(network)
    record = recorded(
        "bench", bundle, "--provider", "cpu", "--threads", 1, "--size", "24x40", "--repeats", 1, "--cache-dir", cache
    )
    (measured,) = record["measurements"]
    assert (measured["error"], measured["summary"]["mismatched_ppm"]) == (None, 0)


@pytest.mark.long
def test_own_pictures_of_several_bands_are_measured(
    multispectral: Path, folders: tuple[Path, Path], cache: Path
) -> None:
    record = recorded(
        "bench", multispectral, "--images", folders[0], *named(), "--provider", "cpu", "--threads", 1, "--repeats", 1,
        "--cache-dir", cache,
    )  # fmt: skip
    (measured,) = record["measurements"]
    assert measured["error"] is None
    assert measured["summary"]["class_iou"] == dict.fromkeys([each["name"] for each in CLASSES], 1)


@pytest.mark.long
def test_a_profile_is_found_with_pictures_of_several_bands(
    multispectral: Path, folders: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    images, masks = folders
    record = recorded(
        "tune", multispectral, "--images", images, "--masks", masks, *named(), "--budget-s", 20,
        "--into", tmp_path / "tuned.tgz", "--cache-dir", cache,
    )  # fmt: skip
    assert record["judged_by"] == "labels of 8 images"
    assert {each["configuration"]["precision"] for each in record["trials"]} == {"fp32", "int8"}
    assert record["profile"]["provider"] == "cpu"


def test_int8_is_calibrated_on_several_bands(
    multispectral: Path, folders: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.tgz"
    record = recorded(
        "convert", multispectral, "--precision", "int8", "--calibrate", folders[0], *named(), "--out", made,
        "--cache-dir", cache,
    )  # fmt: skip
    assert (record["parity"]["images"], record["parity"]["min_class_iou"]) == (8, 1)
    with open_bundle(made) as bundle:
        # Photographs have three bands: nothing of these could be compared with them.
        assert not (bundle.folder / STATISTICS_NAME).exists()
    result = pseg(
        "convert", made, "--precision", "fp16", "--calibrate", folders[0], *named(), "--out", tmp_path / "b.tgz",
        "--cache-dir", cache,
    )  # fmt: skip
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "photographs are not compared with pictures of 4 bands" in " ".join(result.stderr.split())


def test_grey_networks_are_evaluated_and_calibrated_on_photographs(grey: Path, cache: Path, tmp_path: Path) -> None:
    photographs, masks = tmp_path / "photographs", tmp_path / "masks"
    photographs.mkdir()
    masks.mkdir()
    for index in range(8):
        # Green counts for 0.587 of the grey value, blue for 0.114: the one is bright, the other dark.
        is_dark = (np.arange(24) + index) % 8 < 4
        row = np.where(is_dark[:, None], (0, 0, 250), (30, 250 - index, 10)).astype(np.uint8)
        Image.fromarray(np.repeat(row[None], 16, axis=0)).save(photographs / f"{index}.png")
        Image.fromarray(np.repeat(is_dark[None], 16, axis=0).astype(np.uint8)).save(masks / f"{index}.png")
    (column,) = recorded("evaluate", grey, "--images", photographs, "--masks", masks, "--cache-dir", cache)["results"]
    assert column["accuracy"] == 1
    made = tmp_path / "made.tgz"
    recorded("convert", grey, "--precision", "int8", "--calibrate", photographs, "--out", made, "--cache-dir", cache)
    with open_bundle(made) as bundle:
        assert (bundle.folder / STATISTICS_NAME).exists()


def test_a_cluster_segments_photographs_only(multispectral: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (24, 24)).save(picture)
    assert pseg("manifest", picture, "--out", tmp_path / "m.parquet").exit_code == ExitStatus.DONE
    result = pseg("scale", multispectral, tmp_path / "m.parquet", "--out", tmp_path / "o")
    assert result.exit_code == ExitStatus.WRONG_REQUEST
    assert "takes images of 4 bands" in " ".join(result.stderr.split())
    assert not (tmp_path / "o").exists()

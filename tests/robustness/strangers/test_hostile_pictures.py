"""No picture makes the process open another file or call an address, whatever it holds and whatever lies beside it.

The system calls are watched by strace: allowed is the picture itself, and what a good one has opened before.
"""

# rasterio and pyogrio ship no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Generator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.engine.images.tiffs import tiff_file
from tests.robustness.conftest import Tally
from tests.robustness.reading import MARK
from tests.robustness.strangers.hostile_pictures import SIDE, naming_others, picture, with_side_files

ROOT = Path(__file__).parents[3]
BUNDLE = ROOT / "demo" / "demo_seagrass.tgz"
PSEG = str(Path(sys.executable).with_name("pseg"))
KIND = "pictures that name other files"
_OPENED = re.compile(r'open(?:at2?)?\((?:AT_FDCWD, |\d+, )?"([^"]*)".*\) = \d+')
_BEYOND = re.compile(r"(connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_INET6?,")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    if (
        shutil.which("strace") is None
        or subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False).returncode
    ):
        if os.environ.get("CI"):
            pytest.fail("strace is not installed or may not trace here")
        pytest.skip("strace is not installed or may not trace here")


@pytest.fixture
def address() -> Generator[tuple[str, list[str]]]:
    """An address on this machine, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/private.tif", asked
        server.shutdown()
        thread.join()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no picture may make anybody open; as a grid of shifts it is one, too."""
    path = tmp_path / "elsewhere" / "private.tif"
    path.parent.mkdir()
    with rasterio.open(path, "w", "GTiff", SIDE // 2, SIDE // 2, 3, dtype=np.uint8, photometric="RGB") as dataset:
        dataset.write(np.full((3, SIDE // 2, SIDE // 2), 255, np.uint8))
    return path


def watched(command: Sequence[str | Path], folder: Path, **environment: str) -> tuple[str, list[str]]:
    """Run a command: what it said, and its calls that open a file or reach for an address."""
    trace = folder / "calls"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file,%network", "-e", "signal=none", "-o", trace, *command],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache"), **environment},
        timeout=280,
    )
    return (done.stdout + done.stderr).decode(errors="replace"), trace.read_text(errors="replace").splitlines()


def opened_by_picture(calls: Sequence[str]) -> dict[str, set[str]]:
    """Which files were opened, and which addresses tried, while each picture was read."""
    found: dict[str, set[str]] = defaultdict(set)
    current = ""
    for call in calls:
        if MARK in call:
            current = call.split(MARK)[1].split('"')[0]
        elif (opened := _OPENED.search(call)) is not None:
            found[current].add(re.sub(r"/proc/self/fd/\d+", "(itself)", opened[1]))
        elif _BEYOND.search(call):
            found[current].add(call)
    return found


def test_what_is_opened(tmp_path: Path, secret: Path, address: tuple[str, list[str]], tally: Tally) -> None:
    url, asked = address
    folder = tmp_path / "pictures"
    folder.mkdir()
    # Read first of all: what they need once belongs to no other.
    (folder / "00_good.tif").write_bytes(tiff_file(picture()))
    (folder / "01_unplaced.tif").write_bytes(tiff_file(picture({33550: (3, []), 33922: (3, [])})))
    (folder / "01_unplaced.tfw").write_text("2\n0\n0\n-2\n5\n5\n")
    with rasterio.open(
        folder / "02_utm.tif", "w", "GTiff", SIDE, SIDE, 3, dtype=np.uint8, crs="EPSG:32755",
        transform=rasterio.Affine(1, 0, 5e5, 0, -1, 6e6),
    ) as dataset:  # fmt: skip
        dataset.write(np.zeros((3, SIDE, SIDE), np.uint8))
    pictures = naming_others(secret, url)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    beside = with_side_files(folder, secret, url)
    said, calls = watched([sys.executable, "-m", "tests.robustness.reading", folder], tmp_path)
    assert "Traceback" not in said, said
    opened = opened_by_picture(calls)
    assert "(itself)" in opened["00_good.tif"]
    known = set[str]().union(*(opened[name] for name in opened if name == "" or name.startswith("0")))
    assert str(folder / "01_unplaced.tfw") in opened["01_unplaced.tfw"] | opened["01_unplaced.tif"]
    for path in sorted(folder.glob("[a-z]*.tif")):
        more = opened[path.name] - known - {str(path)}
        tally(KIND, "lost" if more else "survived")
        assert not more, path.name
    assert len(opened) > len(pictures) + len(beside)
    assert asked == []


@pytest.mark.long
def test_predict_shows_nothing_of_other_files(
    tmp_path: Path, secret: Path, address: tuple[str, list[str]], tally: Tally
) -> None:
    url, asked = address
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for name, content in naming_others(secret, url).items():
        (folder / name).write_bytes(content)
    beside = with_side_files(folder, secret, url)
    names = ["overview_file", "overview_entities", "overview_of_page_2", "overview_address", "system_grids"]
    pictures = [folder / f"{name}.tif" for name in (*names, "beside0", "beside1", "beside4", "linked")]
    options = ["--tile", "--tile-size", "256", "--vectors", "geojson", "--runtime", "onnx"]
    said, calls = watched(
        [PSEG, "predict", BUNDLE, *pictures, *options, "--out", out, "--report", tmp_path / "report.html"], tmp_path
    )
    assert "Traceback" not in said, said
    for name in names[:4]:
        assert re.search(rf"failed: .*{name}\.tif: .*OVERVIEW_FILE", said), said
    assert "system_grids.tif names files in its coordinate reference system" in said
    opened = set[str]().union(*opened_by_picture(calls).values())
    others = {str(secret), *map(str, beside)}
    assert opened & others == set()
    assert [call for call in calls if _BEYOND.search(call)] == []
    assert asked == []
    tally("commands given such pictures")


@pytest.mark.long
def test_files_in_the_results_folder_change_no_result(tmp_path: Path, secret: Path, tally: Tally) -> None:
    (tmp_path / "reef.tif").write_bytes(tiff_file(picture()))
    for name in ("plain", "planted"):
        out = tmp_path / name
        out.mkdir()
        if name == "planted":
            # Over all of it lies a mask that takes everything away, and metadata that move it.
            with rasterio.open(out / "reef.tif.msk", "w", "GTiff", SIDE, SIDE, 1, dtype=np.uint8) as mask:
                mask.write(np.zeros((1, SIDE, SIDE), np.uint8))
            shutil.copy(secret, out / "reef.tif.ovr")
            (out / "reef.tif.aux.xml").write_text(
                "<PAMDataset><GeoTransform>0,9,0,0,0,9</GeoTransform>"
                '<PAMRasterBand band="1"><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>'
            )
            for more in ("reef.gpkg-journal", "reef.gpkg-wal", "reef.gpkg.aux.xml"):
                (out / more).write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
        options = ["--tile", "--tile-size", "256", "--vectors", "gpkg", "--runtime", "onnx"]
        said, _ = watched([PSEG, "predict", BUNDLE, tmp_path / "reef.tif", *options, "--out", out], tmp_path)
        assert (out / "reef.gpkg").is_file(), said
    from pyogrio.raw import read as read_polygons

    assert (tmp_path / "plain" / "reef.tif").read_bytes() == (tmp_path / "planted" / "reef.tif").read_bytes()
    read = [
        read_polygons(shutil.copy(tmp_path / name / "reef.gpkg", tmp_path / f"{name}.gpkg"))
        for name in ("plain", "planted")
    ]
    assert len(read[0][2]) == len(read[1][2]) > 0
    assert all(one == other for one, other in zip(read[0][2], read[1][2], strict=True))
    tally("files in the results' folder")

"""`make scale-check`: a cluster of three nodes on this machine, a node and a driver that are killed, an S3 store.

Its name keeps it out of `make test`: starting nodes takes longer than many tests together. Counts are printed.
"""

# ray, moto and boto3 state no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.collections.storage import read_rows
from tests.service.commands.test_cli import PSEG

ROOT = Path(__file__).parents[3]
BUNDLE = ROOT / "demo" / "demo_seagrass.tgz"
IMAGES, BROKEN_EVERY = 300, 20
BROKEN = IMAGES // BROKEN_EVERY
PATIENCE_S = 400

pytest.importorskip("ray", reason="ray is not installed: make development")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 small pictures of coloured patches; every twentieth is no image."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(7)
    for number in range(IMAGES):
        path = folder / f"{number:03}.png"
        if number % BROKEN_EVERY == 0:
            path.write_bytes(b"broken")
            continue
        patches = random.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(patches).resize((256, 192), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="module")
def manifest(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    done = subprocess.run([PSEG, "manifest", pictures, "--out", path], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"{IMAGES} images")
    return path


@pytest.fixture(scope="module")
def expected(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The masks of a plain `pseg predict`."""
    out = tmp_path_factory.mktemp("expected")
    done = subprocess.run([PSEG, "predict", BUNDLE, pictures, "--out", out], check=False, capture_output=True)
    assert done.returncode == 1, "some images are broken"
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


@dataclass(frozen=True, slots=True)
class Nodes:
    """A running cluster.

    Attributes:
        address: of its head.
        doomed: id of the node that is killed.
        kill: ends one of the other nodes, without a word.
    """

    address: str
    doomed: str
    kill: Callable[[], None]


@pytest.fixture
def cluster() -> Generator[Nodes]:
    """Three nodes of one processor each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        doomed = made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        made.wait_for_nodes()
        yield Nodes(str(made.address), doomed.node_id, lambda: made.remove_node(doomed, allow_graceful=False))
    finally:
        made.shutdown()


@pytest.fixture(autouse=True, scope="module")
def _caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def scale(manifest: Path | str, out: Path | str, address: str, *more: str) -> "subprocess.Popen[str]":
    arguments = ["scale", str(BUNDLE), str(manifest), "--out", str(out), "--address", address, "--chunk", "5", *more]
    return subprocess.Popen(
        [str(PSEG), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "nothing happens"
        time.sleep(0.1)


def rows_stored(out: Path) -> int:
    return len(list((out / "rows").glob("*.parquet")))


def rows_of(node: str, out: Path) -> int:
    """Images that a node has done so far."""
    nodes = [row["node"] for path in (out / "rows").glob("*.parquet") for row in read_rows(str(path), ["node"])]
    return sum(name.endswith(node) for name in nodes)


def require_done_once(out: Path, expected: dict[str, bytes], pictures: Path) -> list[dict[str, Any]]:
    rows = read_rows(str(out / "ledger.parquet"))
    assert [row["uri"] for row in rows] == [path.as_uri() for path in sorted(pictures.iterdir())]
    assert Counter(row["status"] for row in rows) == {"ok": IMAGES - BROKEN, "failed": BROKEN}
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == expected
    return rows


def test_a_node_is_killed(
    cluster: Nodes, manifest: Path, pictures: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = scale(manifest, out, cluster.address, "--json")
    wait_for(lambda: rows_stored(out) >= 15 and rows_of(cluster.doomed, out) >= 5, process)
    before, lost = rows_stored(out), rows_of(cluster.doomed, out)
    cluster.kill()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, errors
    rows = require_done_once(out, expected, pictures)
    counts = json.loads(output)["images"]
    assert counts == {"total": IMAGES, "succeeded": IMAGES - BROKEN, "failed": BROKEN, "missing": 0}
    told = f"after {before * 5} of {IMAGES} images, {lost} of them its own"
    print(f"\nnode killed {told}: {counts}; masks equal: {len(expected)}")
    assert len(rows) == IMAGES


def test_the_driver_is_killed(
    cluster: Nodes, manifest: Path, pictures: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = scale(manifest, out, cluster.address)
    wait_for(lambda: rows_stored(out) >= 12, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(2)  # what the workers had in hand when they lost their driver
    stored = [row for path in (out / "rows").glob("*.parquet") for row in read_rows(str(path))]
    finished = [row for row in stored if row["status"] == "ok"]
    assert 0 < len(finished) < IMAGES - BROKEN
    before = {row["mask"]: Path(row["mask"]).stat().st_mtime_ns for row in finished}
    resumed = scale(manifest, out, cluster.address, "--resume")
    _, errors = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 1, errors
    assert f"{len(finished)} of {IMAGES} images were done earlier" in errors
    require_done_once(out, expected, pictures)
    assert {mask: Path(mask).stat().st_mtime_ns for mask in before} == before
    print(f"\ndriver killed after {len(stored)} of {IMAGES} images; done again: 0 of {len(finished)}; then all done")


def test_an_s3_store(
    pictures: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moto", reason="moto is not installed: make development")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        store = boto3.client("s3")
        store.create_bucket(Bucket="reef")
        names = [path.name for path in sorted(pictures.iterdir())][:40]
        for name in names:
            store.upload_file(str(pictures / name), "reef", f"in/{name}")
        manifest = tmp_path / "manifest.parquet"
        absent = "s3://reef/in/absent.png"
        uris = [*(f"s3://reef/in/{name}" for name in names), absent]
        subprocess.run([PSEG, "manifest", *uris, "--out", manifest], check=True, capture_output=True)
        process = scale(manifest, "s3://reef/masks", "local", "--json")
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1, errors
        summary = json.loads(output)
        assert summary["images"] == {"total": 41, "succeeded": 38, "failed": 3, "missing": 0}
        assert absent in summary["failures"][-1]["reason"]
        listed = [each["Key"] for each in store.list_objects_v2(Bucket="reef", Prefix="masks/")["Contents"]]
        masks = [key for key in listed if key.endswith(".png")]
        assert len(masks) == 38
        for key in masks:
            content = store.get_object(Bucket="reef", Key=key)["Body"].read()
            assert content == expected[key.removeprefix("masks/")]
        assert len(read_rows("s3://reef/masks/ledger.parquet")) == 41
        print(f"\nS3: {summary['images']}; masks equal: {len(masks)}")
    finally:
        server.stop()

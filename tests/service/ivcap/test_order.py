"""Orders through the platform's real library, in child processes: on local files, and against a stand-in of its proxy.

The network finds the strongest band, so the right mask of a painted image is known: 0 red, 1 green, 2 blue.
"""

# onnx's generated message types are not known to pyright.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.system.machine.cores import usable_cores
from service.ivcap.publishing import COLLECTION_SCHEMA, INFERENCE_SCHEMA, SCALAR_SCHEMA, SUMMARY_SCHEMA, TIMINGS_SCHEMA
from tests.published import problem_of
from tests.service.bundles import CLASSES, bundle_folder, packed
from tests.service.pictures import BLUE, GREEN, RED, mask_of, painted
from tests.standins.data_proxy import DataProxy, Fault, FaultKind, Operation, Storage
from tests.standins.faulty_server import IMPATIENT

REPOSITORY = Path(__file__).parents[3]
QUEUE = "urn:ivcap:queue:collection"
ORDER = "urn:ivcap:order:1234"


@dataclass(frozen=True, slots=True)
class Platform:
    """Where children run: their temporary files and caches are looked at afterwards."""

    root: Path
    temporary: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("IVCAP_", "ARGO_", "PSEG_"))}
        return {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(self.temporary),
            "PSEG_CACHE_DIR": str(self.root / "cache"),
            "PSEG_HTTP_SILENCE_S": "20",
            "PSEG_HTTP_RETRIES": "2",
            "PSEG_HTTP_PAUSE_S": "0.02",
            **more,
        }

    def order(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """One order, as the platform starts it."""
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "service.py"), *arguments],
            cwd=self.root,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def orders(self, orders: Sequence[Sequence[str]], **more: str) -> list[int]:
        """Several orders in one process, for its start takes longer than an order."""
        given, statuses = self.root / "orders.json", self.root / "statuses.json"
        given.write_text(json.dumps(orders))
        ended = subprocess.run(
            [sys.executable, "-m", "tests.standins.run_orders", str(given), str(statuses)],
            cwd=self.root,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(statuses.read_text())


def new_platform(root: Path) -> Platform:
    temporary = root / "temporary"
    temporary.mkdir()
    return Platform(root, temporary)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = new_platform(tmp_path)
    yield made
    assert list(made.temporary.iterdir()) == [], "an order left temporary files"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "GOPR0247.JPG").write_bytes(painted(RED, width=64, height=32, file_format="JPEG"))
    (folder / "b.png").write_bytes(painted(GREEN, BLUE))
    (folder / "b.tiff").write_bytes(painted(BLUE, file_format="TIFF"))
    (folder / ".hidden.png").write_bytes(painted(RED))
    (folder / "notes.txt").write_text("not an image")
    (folder / "sub").mkdir()
    return folder


def aspects_in(folder: Path, schema: str) -> list[dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert [problem for record in records if (problem := problem_of(record))] == []
    return [record for record in records if record["$schema"] == schema]


def results_folder(platform: Platform, name: str = "results") -> Path:
    folder = platform.root / name
    folder.mkdir()
    return folder


# Local orders


def test_an_order_on_a_local_image_writes_what_is_documented(
    platform: Platform, bundle: Path, photographs: Path
) -> None:
    out = results_folder(platform)
    image = photographs / "b.png"
    before = image.read_bytes()
    ended = platform.order(
        *("--device", "cpu", "--model", str(bundle), "--image", "photographs/b.png", "--report"),
        *("--ivcap:in-dir", ".", "--ivcap:out-dir", str(out)),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert mask_of((out / "b.pseudo.png").read_bytes()) == [[1] * 12 + [2] * 12] * 16
    meta = json.loads((out / "b.pseudo.png-meta.json").read_text())
    assert meta["$schema"] == INFERENCE_SCHEMA
    assert meta["$entity"] == f"urn:file://{out}/b.pseudo.png"
    assert meta["image"] == f"urn:file://{image}"
    assert meta["model"] == f"urn:file://{bundle}"
    assert meta["order"] == "urn:ivcap:order:00000000-0000-0000-0000-000000000000"
    assert (meta["width"], meta["height"]) == (24, 16)
    assert [(each["name"], each["color"], each["cover"]) for each in meta["cover"]] == [
        ("red", [200, 10, 10], 0),
        ("green", [10, 200, 10], 0.5),
        ("blue", [10, 10, 200], 0.5),
    ]
    assert meta["cover"][1]["id"] == CLASSES[1]["id"]
    assert meta["provenance"]["runtime"] == "onnx"
    assert meta["provenance"]["threads"] == min(10, usable_cores())
    assert (
        (out / "cover.csv")
        .read_text()
        .splitlines()[1]
        .startswith(f"b.png,ok,urn:file://{out}/b.pseudo.png,24,16,24,16,")
    )
    assert b"<html" in (out / "report.html").read_bytes()
    [summary] = aspects_in(out, SUMMARY_SCHEMA)
    assert summary["images"] == {"total": 1, "succeeded": 1, "failed": 0}
    assert set(summary["products"]) == {"cover", "report", "collection"}
    [collection] = aspects_in(out, COLLECTION_SCHEMA)
    assert collection["artifacts"] == [f"urn:file://{out}/b.pseudo.png"]
    assert image.read_bytes() == before
    assert not (platform.root / "cache" / "cache").exists()


def test_the_documented_command_runs_on_the_demo_picture(platform: Platform) -> None:
    out = results_folder(platform)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "service.order", "--device", "cpu", "--model", "demo/demo_seagrass.tgz"),
            *("--image", "demo/pictures/scene_900004.jpg", "--ivcap:in-dir", ".", "--ivcap:out-dir", str(out)),
        ],
        cwd=REPOSITORY,
        env=platform.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    meta = json.loads((out / "scene_900004.pseudo.png-meta.json").read_text())
    assert (meta["width"], meta["height"]) == (1024, 768)
    assert sum(each["cover"] for each in meta["cover"]) == pytest.approx(1, abs=1e-5)
    assert not (REPOSITORY / "cache").exists()


@pytest.mark.long
def test_a_local_folder_is_done_in_order_without_what_is_no_image(
    platform: Platform, bundle: Path, photographs: Path
) -> None:
    (photographs / "broken.jpg").write_bytes(painted(RED, width=640, height=480, file_format="JPEG")[:600])
    out = results_folder(platform)
    ended = platform.order(
        *("--model", str(bundle), "--images", "photographs", "--batch-size", "3", "--ivcap:out-dir", str(out)),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.split(",")[:2] for line in (out / "cover.csv").read_text().splitlines()[1:]]
    assert rows == [["GOPR0247.JPG", "ok"], ["b.png", "ok"], ["b.tiff", "ok"], ["broken.jpg", "failed"]]
    assert sorted(path.name for path in out.glob("*.png")) == ["GOPR0247.pseudo.png", "b-2.pseudo.png", "b.pseudo.png"]
    assert mask_of((out / "b-2.pseudo.png").read_bytes()) == [[2] * 24] * 16
    [summary] = aspects_in(out, SUMMARY_SCHEMA)
    assert summary["images"] == {"total": 4, "succeeded": 3, "failed": 1}
    [failure] = summary["failures"]
    assert failure["image"] == f"urn:file://{photographs}/broken.jpg"
    assert "damaged" in failure["reason"]
    # by hand: 64 × 32 red, 24 × 16 half green and half blue, 24 × 16 blue
    pixels = 64 * 32 + 2 * 24 * 16
    expected = [64 * 32 / pixels, 12 * 16 / pixels, (12 + 24) * 16 / pixels]
    assert [each["cover"] for each in summary["cover"]] == pytest.approx(expected, abs=1e-6)
    assert len(list(photographs.iterdir())) == 7


@pytest.mark.long
def test_results_of_an_earlier_order_are_kept(platform: Platform, bundle: Path, photographs: Path) -> None:
    out = results_folder(platform)
    order = ["--model", str(bundle), "--image", str(photographs / "b.png"), "--ivcap:out-dir", str(out)]
    assert platform.orders([order, [*order, "--ivcap:order-id", ORDER], [*order, "--ivcap:order-id", ORDER]]) == [
        0,
        0,
        0,
    ]
    assert len(list(out.glob("b.pseudo*.png"))) == 3
    assert len(aspects_in(out, INFERENCE_SCHEMA)) == 3
    assert len(aspects_in(out, SUMMARY_SCHEMA)) == 3


def multilabel_bundle(folder: Path) -> Path:
    made = bundle_folder(folder / "files")
    meta = json.loads((made / "meta.json").read_text())
    (made / "meta.json").write_text(json.dumps({**meta, "multilabel": True}))
    return packed(made, folder / "multilabel.tgz")


def test_each_parameter_does_what_it_says(platform: Platform, bundle: Path, photographs: Path) -> None:
    multilabel = multilabel_bundle(platform.root)
    demo = REPOSITORY / "demo" / "demo_seagrass.tgz"
    cases: dict[str, list[str]] = {
        "shrunken": ["--max-img-size", "128", "--mask-size", "inference"],
        "unchanged": ["--max-img-size", "-1", "--mask-size", "inference"],
        "restored": ["--max-img-size", "128", "--mask-size", "original"],
        "named": ["--runtime", "onnx", "--provider", "cpu", "--precision", "fp32", "--print-detail"],
        "one-thread": ["--cpu-threads", "1"],
        "batched": ["--device", "cpu", "--batch-size", "3"],
        "timed": ["--benchmark", "--model-name", "my network"],
        "overlapping": ["--model", str(multilabel), "--threshold", "0.3"],
        "overlapping-high": ["--model", str(multilabel), "--threshold", "0.9"],
        "argmax": ["--model", str(multilabel), "--with-argmax"],
        "onednn": ["--model", str(demo), "--enable-mkldnn"],
    }
    outs = {name: results_folder(platform, name) for name in cases}
    base = ["--model", str(bundle), "--image", str(photographs / "GOPR0247.JPG")]
    statuses = platform.orders([[*base, *case, "--ivcap:out-dir", str(outs[name])] for name, case in cases.items()])
    assert dict(zip(cases, statuses, strict=True)) == dict.fromkeys(cases, 0)
    meta = {name: aspects_in(out, INFERENCE_SCHEMA)[0] for name, out in outs.items()}
    sizes = {name: (meta[name]["width"], meta[name]["height"]) for name in ("shrunken", "unchanged", "restored")}
    assert sizes == {"shrunken": (16, 8), "unchanged": (64, 32), "restored": (64, 32)}
    assert meta["named"]["provenance"]["provider"] == "cpu"
    assert meta["one-thread"]["provenance"]["threads"] == 1
    assert meta["onednn"]["provenance"]["provider"] == "paddle-onednn"
    [timings] = aspects_in(outs["timed"], TIMINGS_SCHEMA)
    assert (timings["model_name"], timings["images"]) == ("my network", 1)
    assert timings["timings_ms"]["run"]["median"] > 0
    assert aspects_in(outs["named"], TIMINGS_SCHEMA) == []
    # Red is 200/255 = 0.57 after Normalize(0.5, 0.5), green and blue below -0.75: sigmoids of 0.64, and below 0.32.
    covers = {name: [each["cover"] for each in meta[name]["cover"]] for name in cases}
    assert covers["overlapping"][0] == 1
    assert sum(covers["overlapping"]) > 1
    assert covers["overlapping-high"] == [0, 0, 0]
    assert covers["argmax"] == [1, 0, 0]


REFUSED: dict[str, list[str]] = {
    "no image": [],
    "both": ["--image", "photographs/b.png", "--images", "photographs"],
    "TensorRT on a CPU": ["--image", "photographs/b.png", "--use-trt"],
    "tuning without TensorRT": ["--image", "photographs/b.png", "--enable-auto-tune"],
    "oneDNN under ONNX Runtime": ["--image", "photographs/b.png", "--enable-mkldnn", "--runtime", "onnx"],
    "oneDNN on a GPU": ["--image", "photographs/b.png", "--enable-mkldnn", "--device", "gpu"],
    "half precision on a CPU": ["--image", "photographs/b.png", "--precision", "fp16"],
    "8 bit under Paddle on a CPU": ["--image", "photographs/b.png", "--precision", "int8", "--runtime", "paddle"],
    "no such precision in the bundle": ["--image", "photographs/b.png", "--precision", "int8", "--runtime", "onnx"],
    "provider of the other library": ["--image", "photographs/b.png", "--provider", "cpu", "--runtime", "paddle"],
    "provider of another device": ["--image", "photographs/b.png", "--provider", "cuda"],
    "no pixels": ["--image", "photographs/b.png", "--max-img-size", "0"],
    "no batch": ["--image", "photographs/b.png", "--batch-size", "0"],
    "no threads": ["--image", "photographs/b.png", "--cpu-threads", "0"],
    "no subgraphs": ["--image", "photographs/b.png", "--min-subgraph-size", "0"],
    "no threshold": ["--image", "photographs/b.png", "--threshold", "1.5"],
    "unknown option": ["--image", "photographs/b.png", "--mask-size", "half"],
    "no such file": ["--image", "photographs/nowhere.png"],
    "no such parameter": ["--image", "photographs/b.png", "--save-dir", "x"],
    "an empty folder": ["--images", "photographs/sub"],
    "a shard past the last": ["--images", "photographs", "--shard", "5/4"],
    "a shard of one image": ["--image", "photographs/b.png", "--shard", "1/2"],
}


def test_wrong_requests_end_before_an_image_is_read(platform: Platform, bundle: Path, photographs: Path) -> None:
    # An order that reads it cannot end with 2: the image is broken, and that is a failed image.
    (photographs / "b.png").write_bytes(b"broken")
    out = results_folder(platform)
    base = ["--model", str(bundle), "--ivcap:out-dir", str(out)]
    statuses = platform.orders([[*base, *case] for case in REFUSED.values()])
    assert dict(zip(REFUSED, statuses, strict=True)) == dict.fromkeys(REFUSED, 2)
    assert list(out.glob("*.png")) == []


def test_what_cannot_be_done_ends_with_1(platform: Platform, bundle: Path, photographs: Path) -> None:
    (photographs / "b.png").write_bytes(b"broken")
    (platform.root / "broken.tgz").write_bytes(b"no archive")
    outs = [results_folder(platform, "image"), results_folder(platform, "model")]
    models = [bundle, platform.root / "broken.tgz"]
    image = ["--image", str(photographs / "b.png")]
    statuses = platform.orders(
        [["--model", str(model), *image, "--ivcap:out-dir", str(out)] for model, out in zip(models, outs, strict=True)]
    )
    assert statuses == [1, 1]
    [of_image], [of_model] = (aspects_in(out, SUMMARY_SCHEMA) for out in outs)
    assert [each["name"] for each in of_image["failures"]] == ["b.png"]
    assert of_image["images"]["succeeded"] == 0
    assert "broken.tgz" in of_model["problems"][0]
    assert of_model["provenance"] is None


@pytest.mark.long
def test_a_result_that_cannot_be_written_is_told(platform: Platform, bundle: Path, photographs: Path) -> None:
    out = results_folder(platform)
    # The name that the metadata would get is taken by a folder; the library only logs that.
    (out / "b.pseudo.png-meta.json").mkdir()
    ended = platform.order(
        *("--model", str(bundle), "--images", str(photographs), "--ivcap:out-dir", str(out)),
    )
    assert ended.returncode == 1
    (out / "b.pseudo.png-meta.json").rmdir()
    [summary] = aspects_in(out, SUMMARY_SCHEMA)
    assert [each["name"] for each in summary["failures"]] == ["b.png"]
    assert summary["images"] == {"total": 3, "succeeded": 2, "failed": 1}


@pytest.mark.long
def test_an_aspect_that_cannot_be_written_is_told(platform: Platform, bundle: Path, photographs: Path) -> None:
    out = results_folder(platform)
    # The library names the summary's file after the order; too long a name fails, which it only logs.
    order = f"urn:ivcap:order:{'9' * 250}"
    ended = platform.order(
        *("--model", str(bundle), "--image", str(photographs / "b.png")),
        *("--ivcap:out-dir", str(out), "--ivcap:order-id", order),
    )
    assert ended.returncode == 1
    assert "the summary: not stored" in ended.stdout
    assert len(aspects_in(out, INFERENCE_SCHEMA)) == 1
    assert aspects_in(out, SUMMARY_SCHEMA) == []


# The description


def description(platform: Platform, **more: str) -> dict[str, Any]:
    ended = platform.order("--ivcap:print-service-description", **more)
    assert ended.returncode == 0, ended.stderr
    return yaml.safe_load(ended.stdout)


def test_the_description_names_every_parameter_with_its_default(platform: Platform) -> None:
    service = description(platform, IVCAP_CONTAINER="registry/image:1")
    assert service["name"] == "infer-with-paddle-paddle"
    assert {each["name"]: (each["type"], each.get("default")) for each in service["parameters"]} == {
        "model": ("artifact", None),
        "image": ("artifact", None),
        "images": ("collection", None),
        "max-img-size": ("int", "1000000"),
        "batch-size": ("int", "1"),
        "device": ("string", "cpu"),
        "use-trt": ("bool", None),
        "precision": ("option", "fp32"),
        "min-subgraph-size": ("int", "3"),
        "allow-tf32": ("bool", None),
        "gpu-memory-limit": ("string", None),
        "enable-auto-tune": ("bool", None),
        "cpu-threads": ("int", "10"),
        "enable-mkldnn": ("bool", None),
        "benchmark": ("bool", None),
        "model-name": ("string", None),
        "with-argmax": ("bool", None),
        "print-detail": ("bool", None),
        "runtime": ("option", "auto"),
        "provider": ("option", "auto"),
        "threshold": ("float", "0.5"),
        "mask-size": ("option", "original"),
        "report": ("bool", None),
        "shard": ("string", None),
        "scale-range": ("string", None),
        "crop-size": ("string", None),
        "stride": ("string", None),
        "scales": ("string", None),
        "flip-horizontal": ("bool", None),
        "flip-vertical": ("bool", None),
        "unsure": ("float", None),
        "roi": ("string", None),
        "quadrat-size": ("string", None),
        "exclude-class": ("string", None),
        "keep-classes": ("string", None),
        "median": ("int", None),
        "fill-holes": ("bool", None),
        "min-area": ("string", None),
        "ignore-bundle-cleanup": ("bool", None),
        "simplify": ("string", None),
        "overlay": ("option", "fill"),
        "overlay-strength": ("float", None),
        "tile": ("bool", None),
        "as-photograph": ("bool", None),
        "tile-size": ("int", None),
        "overlap": ("int", None),
        "bands": ("string", None),
        "vectors": ("option", "none"),
    }
    workflow = service["workflow"]["basic"]
    assert workflow["command"] == ["python", "/app/service.py"]
    assert workflow["image"] == "registry/image:1"
    assert not any(name.startswith("gpu") for name in workflow)
    assert set(workflow) >= {"memory", "cpu", "ephemeral-storage"}


@pytest.mark.long
def test_the_variant_for_a_gpu_asks_for_one(platform: Platform) -> None:
    service = description(platform, PSEG_SERVICE_DEVICE="gpu", PSEG_SERVICE_MEMORY="12Gi")
    workflow = service["workflow"]["basic"]
    assert int(workflow["gpu-number"]) == 1
    assert workflow["gpu-type"]
    assert workflow["memory"] == {"request": "12Gi"}
    assert service["name"] == "infer-with-paddle-paddle-gpu"
    [device] = [each for each in service["parameters"] if each["name"] == "device"]
    assert device["default"] == "gpu"


@pytest.mark.long
def test_a_start_tells_which_build_it_is(platform: Platform, bundle: Path) -> None:
    build = {"PSEG_VERSION": "1.2.3", "PSEG_COMMIT": "abcdef", "PSEG_BUILD_DATE": "2026-01-02"}
    ended = platform.order("--model", str(bundle), "--ivcap:in-dir", ".", **build)
    assert ended.returncode == 2
    banner = ended.stdout.splitlines()[0]
    assert all(value in banner for value in build.values())


@pytest.mark.long
def test_settings_that_are_wrong_are_refused(platform: Platform) -> None:
    assert platform.order("--ivcap:print-service-description", PSEG_SERVICE_DEVICE="xpu").returncode == 2
    ended = platform.order("--ivcap:print-service-description", PSEG_HTTP_RETRIES="often")
    assert ended.returncode == 2
    assert "PSEG_HTTP_RETRIES" in ended.stdout


@pytest.mark.long
def test_logs_are_json_lines_on_request(platform: Platform, bundle: Path, photographs: Path) -> None:
    (photographs / "zoë.png").write_bytes(b"broken")
    order = ("--model", str(bundle), "--images", str(photographs), "--ivcap:out-dir", str(results_folder(platform)))
    ended = platform.order(*order, PSEG_LOG_FORMAT="json", PSEG_VERSION="1.2.3")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {tuple(line) for line in lines} == {("time", "level", "logger", "message")}
    assert all(datetime.fromisoformat(line["time"]).utcoffset() == timedelta() for line in lines)
    said = [(line["logger"], line["level"], line["message"]) for line in lines]
    # the platform's library and we, each once
    assert [logger for logger, level, message in said if level == "INFO" and "1.2.3" in message] == ["ivcap"]
    assert said.count(("service.ivcap.platform_job", "INFO", "b.png: done")) == 1
    assert [level for logger, level, message in said if "zoë.png" in message and logger == "service.ivcap.platform_job"]
    refused = platform.order(*order, PSEG_LOG_FORMAT="xml")
    assert refused.returncode == 2
    assert "PSEG_LOG_FORMAT is 'xml': give text or json" in refused.stdout


@pytest.mark.long
def test_the_help_tells_every_parameter(platform: Platform) -> None:
    ended = platform.order("-H")
    assert ended.returncode == 0
    assert "--enable-mkldnn" in ended.stdout


# Orders in the cluster


@pytest.fixture(scope="module")
def proxy() -> Generator[DataProxy]:
    with DataProxy() as proxy:
        yield proxy


def cluster_order(storage: Storage, model: str, *more: str) -> list[str]:
    return [
        *("--model", model, "--images", QUEUE, *more),
        *("--ivcap:storage-url", storage.url, "--ivcap:order-id", ORDER, "--ivcap:out-dir", "."),
    ]


def test_an_item_is_acknowledged_when_its_results_are_stored(
    platform: Platform, bundle: Path, proxy: DataProxy
) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    first = storage.put("first", painted(RED, GREEN), queued=True)
    second = storage.put("second", painted(BLUE), queued=True)
    assert platform.orders([cluster_order(storage, model)]) == [0]
    order = [(event.operation, event.what) for event in storage.events]
    assert order[0] == ("read", model)
    for urn in (first, second):
        name = f"{urn.rpartition(':')[2]}.pseudo.png"
        mask = next(each for each in storage.uploads if each.name == name)
        steps = [
            ("look", urn),
            ("read", urn),
            ("upload", name),
            ("annotate", f"{INFERENCE_SCHEMA} {mask.urn}"),
            ("acknowledge", urn),
        ]
        positions = [order.index(step) for step in steps]
        assert positions == sorted(positions)
        assert order.count(("read", urn)) == 1
    # The second is not asked for before the first is acknowledged.
    assert order.index(("acknowledge", first)) < order.index(("look", second))
    assert storage.queue == []
    assert {name: mask_of(content)[0] for name, content in storage.masks.items()} == {
        "first.pseudo.png": [0] * 12 + [1] * 12,
        "second.pseudo.png": [2] * 24,
    }
    assert {each.mime_type for each in storage.uploads if each.name.endswith(".png")} == {"image/png"}
    [record, _] = storage.records(INFERENCE_SCHEMA)
    assert (record["image"], record["model"], record["order"]) == (first, model, ORDER)
    assert [each["cover"] for each in record["cover"]] == [0.5, 0.5, 0]
    [summary] = storage.records(SUMMARY_SCHEMA)
    assert summary["$entity"] == ORDER
    assert summary["images"] == {"total": 2, "succeeded": 2, "failed": 0}
    [collection] = storage.records(COLLECTION_SCHEMA)
    assert collection["$entity"] == collection["collection"]
    assert collection["artifacts"] == [each.urn for each in storage.uploads if each.name.endswith(".png")]


def test_shards_of_a_queue_share_no_image_and_leave_none_out(
    platform: Platform, bundle: Path, proxy: DataProxy
) -> None:
    # Each order has a queue of its own over the whole collection.
    storages = {shard: proxy.storage() for shard in ("1/3", "2/3", "3/3")}
    orders: list[list[str]] = []
    for shard, storage in storages.items():
        orders.append(cluster_order(storage, storage.put("model", bundle.read_bytes()), "--shard", shard))
        for number in range(6):
            storage.put(f"picture-{number}", painted(RED, GREEN), queued=True)
    assert platform.orders(orders) == [0, 0, 0]
    done: list[str] = []
    for shard, storage in storages.items():
        assert storage.queue == [], "what belongs to others is acknowledged"
        [summary] = storage.records(SUMMARY_SCHEMA)
        assert (summary["shard"], summary["images"]["total"]) == (shard, len(storage.masks))
        read = [event.what for event in storage.events if event.operation == "read" and "picture" in event.what]
        assert len(read) == len(storage.masks), "what belongs to others is not fetched"
        done += storage.masks
    assert sorted(done) == [f"picture-{number}.pseudo.png" for number in range(6)]


@pytest.mark.long
def test_shards_of_a_local_folder(platform: Platform, bundle: Path, photographs: Path) -> None:
    outs = {shard: results_folder(platform, shard.replace("/", "-of-")) for shard in ("1/4", "2/4", "3/4", "4/4")}
    base = ["--model", str(bundle), "--images", str(photographs), "--shard"]
    assert platform.orders([[*base, shard, "--ivcap:out-dir", str(out)] for shard, out in outs.items()]) == [0] * 4
    images = [[meta["image"] for meta in aspects_in(out, INFERENCE_SCHEMA)] for out in outs.values()]
    assert images == [[f"urn:file://{photographs}/{name}"] for name in ("GOPR0247.JPG", "b.png", "b.tiff")] + [[]]


@pytest.mark.long
def test_a_single_artifact_and_a_model_of_two_classes(platform: Platform, proxy: DataProxy) -> None:
    storage = proxy.storage()
    folder = bundle_folder(platform.root / "files", classes=CLASSES[:2], network=two_class_network())
    model = storage.put("model", packed(folder, platform.root / "two.tgz").read_bytes())
    image = storage.put("image", painted(RED, GREEN, GREEN, GREEN))
    order = [
        *("--model", model, "--image", image, "--ivcap:storage-url", storage.url),
        *("--ivcap:order-id", ORDER, "--ivcap:out-dir", "."),
    ]
    assert platform.orders([order]) == [0]
    [scalar] = storage.records(SCALAR_SCHEMA)
    assert (scalar["cover"], scalar["image"], scalar["model"]) == (0.75, image, model)
    [mask] = [each for each in storage.uploads if each.name.endswith(".png")]
    assert scalar["$entity"] == mask.urn


def test_a_bundle_is_named_as_people_know_it(platform: Platform, proxy: DataProxy) -> None:
    storage = proxy.storage()
    damaged, empty = storage.put("model", b"no archive"), bundle_folder(platform.root / "files", classes=CLASSES)
    (empty / "deploy.yaml").write_text("Deploy: 3")
    image = storage.put("image", painted(RED, GREEN))
    models = [damaged, storage.put("other", packed(empty, platform.root / "empty.tgz").read_bytes())]
    shared = ["--image", image, "--ivcap:storage-url", storage.url, "--ivcap:order-id", ORDER, "--ivcap:out-dir", "."]
    assert platform.orders([["--model", model, *shared] for model in models]) == [1, 1]
    problems = [summary["problems"] for summary in storage.records(SUMMARY_SCHEMA)]
    assert all(each.startswith(model) for model, (each,) in zip(models, problems, strict=True)), problems
    assert str(platform.root) not in str(problems)


def two_class_network() -> bytes:
    """Class 0 where red is strongest, 1 where green is."""
    import onnx
    import onnx.helper as make

    kind = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        [make.make_node("Conv", ["x", "weights"], ["logits"], kernel_shape=[1, 1])],
        "red or green",
        [make.make_tensor_value_info("x", kind, [None, 3, None, None])],
        [make.make_tensor_value_info("logits", kind, [None, 2, None, None])],
        [make.make_tensor("weights", kind, [2, 3, 1, 1], [1, 0, 0, 0, 1, 0])],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.long
def test_names_of_any_script_reach_the_storage(platform: Platform, bundle: Path, proxy: DataProxy) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    addresses = [
        "https://reef.example/dive/фото.png",
        "urn:https://reef.example/фото-2.png?page=1&token=abc",
        "https://reef.example/..%2Fa%00b%0A.png",
    ]
    storage.addresses |= {each.removeprefix("urn:"): painted(RED) for each in addresses}
    order = ["--model", model, "--ivcap:storage-url", storage.url, "--ivcap:cache-proxy", storage.cache_url]
    orders = [[*order, "--image", each, "--ivcap:order-id", ORDER, "--ivcap:out-dir", "."] for each in addresses]
    assert platform.orders(orders) == [0, 0, 0]
    assert list(storage.masks) == ["фото.pseudo.png", "фото-2.pseudo.png", "a_b_.pseudo.png"]
    images = [each["image"] for each in storage.records(INFERENCE_SCHEMA)]
    assert images[1] == "urn:https://reef.example/фото-2.png?page=1&token=[hidden]"


def test_in_the_cluster_no_parameter_names_something_of_this_machine(
    platform: Platform, bundle: Path, photographs: Path, proxy: DataProxy
) -> None:
    storage, other = proxy.storage(), proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    storage.put("image", painted(RED))
    picture = photographs / "b.png"
    elsewhere = other.url.replace("127.0.0.1", "localhost")
    named = [
        *(f"file://{picture}", f"urn:file://{picture}", str(picture), "photographs/b.png", "file:///etc/hostname"),
        *("file:photographs/b.png", "FILE:///etc/hostname", "data:image/png;base64,iVBORw0KGgo=", "ftp://127.0.0.1/a"),
        *(f"{elsewhere}/urn:ivcap:artifact:image", f"urn:{elsewhere}/urn:ivcap:artifact:image", "-x"),
        *("urn:ivcap:artifact:../../other", "urn:ivcap:artifact:image?x=1", "urn:ivcap:artifact:%2e%2e%2fother"),
        *("urn:ivcap:artifact:image\r\nX-Evil: 1", "urn:ivcap:artifact:", "urn:other:artifact:image", ""),
    ]
    base = ["--ivcap:storage-url", storage.url, "--ivcap:order-id", ORDER, "--ivcap:out-dir", "."]
    orders = {
        **{f"image {each}": ["--model", model, f"--image={each}", *base] for each in named},
        **{f"images {each}": ["--model", model, f"--images={each}", *base] for each in named[:9]},
        **{f"model {each}": [f"--model={each}", "--images", QUEUE, *base] for each in (str(bundle), bundle.as_uri())},
    }
    cached = [*base, "--ivcap:cache-proxy", storage.cache_url]
    for each in (f"{storage.url}/x", f"urn:{storage.url}.example/x", f"urn:{storage.url}@localhost/x", *named[::2][:2]):
        orders[f"past the cache {each}"] = ["--model", model, f"--image={each}", *cached]
    statuses = platform.orders(list(orders.values()))
    assert dict(zip(orders, statuses, strict=True)) == dict.fromkeys(orders, 2)
    assert (storage.events, storage.uploads, other.events) == ([], [], []), "nothing is asked or stored"
    ended = platform.order("--model", model, "--image", "file:///etc/hostname", *base)
    assert "argument --image: 'file:///etc/hostname' is nothing that the platform keeps" in ended.stderr
    assert "urn:ivcap:" in ended.stderr


@pytest.mark.long
def test_what_the_queue_hands_out_is_asked_from_the_platform_alone(
    platform: Platform, bundle: Path, proxy: DataProxy
) -> None:
    storage, other = proxy.storage(), proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    storage.put("good", painted(RED), queued=True)
    other.put("stolen", painted(RED))
    address = f"{other.url.replace('127.0.0.1', 'localhost')}/urn:ivcap:artifact:stolen"
    storage.elsewhere = {"urn:ivcap:artifact:away": address}
    storage.queue.insert(0, "urn:ivcap:artifact:away")
    ended = platform.order(*cluster_order(storage, model))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert other.events == []
    [summary] = storage.records(SUMMARY_SCHEMA)
    [failure] = summary["failures"]
    assert "is not asked" in failure["reason"]
    assert "PSEG_HTTP_HOSTS" in failure["reason"]
    assert list(storage.masks) == ["good.pseudo.png"]


@pytest.mark.long
def test_downloads_have_limits(platform: Platform, bundle: Path, proxy: DataProxy) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    picture = painted(RED)
    storage.put("small", picture, queued=True)
    storage.put("large", painted(RED) + bytes(20 << 20), queued=True)
    storage.put("page", b"<html><title>Log in</title></html>", queued=True)
    limits = {"PSEG_HTTP_IMAGE_BYTES": str(len(picture)), "PSEG_HTTP_BUNDLE_BYTES": str(len(bundle.read_bytes()))}
    ended = platform.order(*cluster_order(storage, model), **limits)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(storage.masks) == ["small.pseudo.png"]
    [summary] = storage.records(SUMMARY_SCHEMA)
    large, page = (each["reason"] for each in summary["failures"])
    assert f"more than {len(picture)} bytes" in large
    assert "raise PSEG_HTTP_IMAGE_BYTES" in large
    assert "is a web page" in page
    assert storage.done("read").count("urn:ivcap:artifact:large") == 1, "it is not asked for again"
    limits["PSEG_HTTP_BUNDLE_BYTES"] = str(len(bundle.read_bytes()) - 1)
    ended = platform.order(*cluster_order(storage, model), **limits)
    assert ended.returncode == 1
    assert "raise PSEG_HTTP_BUNDLE_BYTES" in storage.records(SUMMARY_SCHEMA)[1]["problems"][0]


PASSING_KINDS = ("500", *(pytest.param(each, marks=pytest.mark.long) for each in ("reset", "slow")), "truncated")
PLACES: Mapping[str, tuple[Operation, str]] = {
    "model": ("read", "model"),
    "image": ("read", "image-1"),
    "look": ("look", "image-1"),
    "queue": ("take", ""),
    "acknowledgement": ("acknowledge", "image-1"),
    "mask": ("upload", "image-1.pseudo.png"),
    "metadata": ("annotate", f"{INFERENCE_SCHEMA} urn:ivcap:artifact:out-1"),
    "table": ("upload", "cover.csv"),
    "summary": ("annotate", SUMMARY_SCHEMA),
}
# place: exit status, images that succeed, images that fail, what stays in the queue, of image-0, image-1, image-2
PERMANENT: Mapping[str, tuple[int, list[int], list[int], list[int]]] = {
    "model": (1, [], [], [0, 1, 2]),
    "image": (0, [0, 2], [1], []),
    "look": (0, [0, 2], [1], []),
    "queue": (1, [], [], [0, 1, 2]),
    "acknowledgement": (1, [0, 1], [], [1, 2]),
    "mask": (1, [0], [1], [1, 2]),
    "metadata": (1, [0], [1], [1, 2]),
    "table": (1, [0, 1, 2], [], []),
    "summary": (1, [0, 1, 2], [], []),
}


@dataclass(frozen=True, slots=True)
class Faulty:
    status: int
    storage: Storage


def orders_with_a_fault(
    root: Path, bundle: Path, proxy: DataProxy, kind: FaultKind, times: int | None
) -> dict[str, Faulty]:
    """An order for each place where the fault may happen."""
    platform = new_platform(root)
    storages: dict[str, Storage] = {}
    for place, (operation, where) in PLACES.items():
        storage = proxy.storage()
        storage.put("model", bundle.read_bytes())
        for number, color in enumerate((RED, GREEN, BLUE)):
            storage.put(f"image-{number}", painted(color), queued=True)
        storage.faults.append(Fault(operation, kind, times, where))
        storages[place] = storage
    orders = [cluster_order(storage, "urn:ivcap:artifact:model") for storage in storages.values()]
    statuses = platform.orders(orders, **(IMPATIENT if kind == "slow" else {}))
    assert list(platform.temporary.iterdir()) == [], "an order left temporary files"
    return {place: Faulty(status, storage) for (place, storage), status in zip(storages.items(), statuses, strict=True)}


@pytest.fixture(scope="module", params=PASSING_KINDS)
def orders_with_a_passing_fault(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bundle: Path, proxy: DataProxy
) -> tuple[FaultKind, dict[str, Faulty]]:
    return request.param, orders_with_a_fault(tmp_path_factory.mktemp("faults"), bundle, proxy, request.param, 1)


@pytest.fixture(scope="module")
def orders_with_a_lasting_fault(
    tmp_path_factory: pytest.TempPathFactory, bundle: Path, proxy: DataProxy
) -> dict[str, Faulty]:
    return orders_with_a_fault(tmp_path_factory.mktemp("faults"), bundle, proxy, "500", None)


def urns(numbers: Sequence[int]) -> list[str]:
    return [f"urn:ivcap:artifact:image-{number}" for number in numbers]


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_passes_costs_nothing(
    orders_with_a_passing_fault: tuple[FaultKind, dict[str, Faulty]], place: str
) -> None:
    kind, orders = orders_with_a_passing_fault
    order = orders[place]
    storage = order.storage
    assert storage.faults[0].times == 0, "the fault did not happen"
    assert order.status == 0
    assert storage.queue == []
    stored = {each.name: mask_of(each.content)[0][0] for each in storage.uploads if each.name.endswith(".png")}
    assert stored == {"image-0.pseudo.png": 0, "image-1.pseudo.png": 1, "image-2.pseudo.png": 2}
    # An answer that was cut off does not tell that the file was stored: rather twice than not at all.
    repeated = 1 if (place, kind) == ("mask", "truncated") else 0
    assert sum(each.name.endswith(".png") for each in storage.uploads) == 3 + repeated
    assert {record["image"] for record in storage.records(INFERENCE_SCHEMA)} == set(urns([0, 1, 2]))
    summary = storage.records(SUMMARY_SCHEMA)[-1]
    assert summary["images"] == {"total": 3, "succeeded": 3, "failed": 0}
    assert summary["problems"] == []


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_stays_is_never_hidden(orders_with_a_lasting_fault: dict[str, Faulty], place: str) -> None:
    order = orders_with_a_lasting_fault[place]
    storage = order.storage
    status, succeeded, failed, left = PERMANENT[place]
    assert order.status == status
    assert storage.queue == urns(left)
    assert {record["image"] for record in storage.records(INFERENCE_SCHEMA)} == set(urns(succeeded))
    if place == "model":
        assert storage.done("take") == []
    if place == "summary":
        assert storage.records(SUMMARY_SCHEMA) == []
        return
    [summary] = storage.records(SUMMARY_SCHEMA)
    assert [each["image"] for each in summary["failures"]] == urns(failed)
    assert summary["images"]["succeeded"] == len(succeeded)
    assert bool(summary["problems"]) == (status != 0)
    assert summary["status"] == ("done" if status == 0 else "incomplete")


@pytest.mark.long
def test_a_queue_that_takes_no_acknowledgements_does_not_go_on_for_ever(
    platform: Platform, bundle: Path, proxy: DataProxy
) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    storage.put("image", painted(RED), queued=True)
    storage.takes_acknowledgements = False
    assert platform.orders([cluster_order(storage, model)]) == [1]
    assert list(storage.masks) == ["image.pseudo.png"]
    [summary] = storage.records(SUMMARY_SCHEMA)
    assert "again and again" in summary["problems"][0]


def test_an_image_that_a_queue_names_often_is_done_once(platform: Platform, bundle: Path, proxy: DataProxy) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    for name in ("first", *["often"] * 6, "first", "last"):
        storage.put(name, painted(RED), queued=True)
    assert platform.orders([cluster_order(storage, model)]) == [0]
    assert storage.queue == []
    assert list(storage.masks) == ["first.pseudo.png", "often.pseudo.png", "last.pseudo.png"]


@pytest.mark.long
def test_a_queue_without_images_and_tuning_on_a_queue_are_told(
    platform: Platform, bundle: Path, proxy: DataProxy
) -> None:
    empty, tuned = proxy.storage(), proxy.storage()
    models = [storage.put("model", bundle.read_bytes()) for storage in (empty, tuned)]
    tuned.put("image", painted(RED), queued=True)
    tuning = ("--device", "gpu", "--use-trt", "--enable-auto-tune")
    orders = [cluster_order(empty, models[0]), cluster_order(tuned, models[1], *tuning)]
    assert platform.orders(orders) == [1, 2]
    assert tuned.done("take") == []
    [summary] = empty.records(SUMMARY_SCHEMA)
    assert summary["problems"] == [f"{QUEUE} held no image: it is empty, or somebody else has done its images"]
    [summary] = tuned.records(SUMMARY_SCHEMA)
    assert "enable-auto-tune" in summary["problems"][0]


@pytest.mark.long
def test_a_collection_with_broken_images_is_done_in_bounded_memory(
    platform: Platform, bundle: Path, proxy: DataProxy
) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    good = painted(GREEN, BLUE, width=96, height=72)
    broken = [good[:100], b"", b"not an image", painted(RED, file_format="GIF")]
    count = 200
    for number in range(count):
        content = broken[number // 10 % len(broken)] if number % 10 == 3 else good
        storage.put(f"q{number}", content, queued=True)
    memory_kib: list[int] = []
    temporary: list[int] = []

    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "service.py"), *cluster_order(storage, model)],
        cwd=platform.root,
        env=platform.environment(),
        stdout=subprocess.DEVNULL,
    ) as child:

        def look(_: int) -> None:
            status = Path(f"/proc/{child.pid}/status").read_text()
            memory_kib.append(int(status.partition("VmRSS:")[2].split()[0]))
            temporary.append(len(list(platform.temporary.glob("pseg-order-*/*/*"))))

        storage.when_taken = look
        assert child.wait(timeout=120) == 0
    failed = {f"urn:ivcap:artifact:q{number}" for number in range(3, count, 10)}
    assert len(storage.masks) == 180
    assert {record["image"] for record in storage.records(INFERENCE_SCHEMA)} == set(storage.artifacts) - failed - {
        model
    }
    [summary] = storage.records(SUMMARY_SCHEMA)
    assert summary["images"] == {"total": 200, "succeeded": 180, "failed": 20}
    assert {each["image"] for each in summary["failures"]} == failed
    assert all(str(platform.root) not in each["reason"] for each in summary["failures"])
    assert storage.queue == []
    assert max(storage.done("acknowledge").count(f"urn:ivcap:artifact:q{number}") for number in range(count)) == 1
    assert max(memory_kib[20:]) - memory_kib[20] < 8 << 10, memory_kib
    assert max(temporary) <= 1, "downloads stay"


def test_sigterm_ends_after_the_image_in_hand(platform: Platform, bundle: Path, proxy: DataProxy) -> None:
    storage = proxy.storage()
    model = storage.put("model", bundle.read_bytes())
    for number in range(6):
        storage.put(f"q{number}", painted(RED), queued=True)
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "service.py"), *cluster_order(storage, model)],
        cwd=platform.root,
        env=platform.environment(ARGO_NODE_ID="node", IVCAP_STORAGE_URL=storage.url),
        stdout=subprocess.DEVNULL,
    ) as child:

        def stop(taken: int) -> None:
            if taken == 2:
                child.send_signal(signal.SIGTERM)

        storage.when_taken = stop
        assert child.wait(timeout=60) == 1
    assert storage.done("look")[0] == "readyz"
    assert sorted(storage.masks) == ["q0.pseudo.png", "q1.pseudo.png", "q2.pseudo.png"]
    assert storage.queue == urns_of("q3", "q4", "q5")
    [summary] = storage.records(SUMMARY_SCHEMA)
    assert summary["images"] == {"total": 3, "succeeded": 3, "failed": 0}
    assert "asked to stop" in summary["problems"][0]
    assert {each.name for each in storage.uploads} >= {"cover.csv"}


def urns_of(*names: str) -> list[str]:
    return [f"urn:ivcap:artifact:{name}" for name in names]

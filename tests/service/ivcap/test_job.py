"""Jobs through the platform's real libraries, in child processes: on local files, and against a stand-in sidecar.

The network finds the strongest band, so the right mask of a painted image is known: 0 red, 1 green, 2 blue.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import pytest

from engine.system.machine.cores import usable_cores
from service.ivcap.publishing import (
    COLLECTION_ITEM_SCHEMA,
    COLLECTION_SCHEMA,
    INFERENCE_SCHEMA,
    NAMED_COLLECTION_SCHEMA,
    SUMMARY_SCHEMA,
    TIMINGS_SCHEMA,
)
from tests.published import problem_of
from tests.service.bundles import CLASSES
from tests.service.pictures import BLUE, GREEN, RED, mask_of, painted
from tests.standins.faulty_server import IMPATIENT, Fault, FaultKind, FaultyServer
from tests.standins.job_sidecar import JobPlatform, Result, job_sidecar

REPOSITORY = Path(__file__).parents[3]
WORKER = (sys.executable, "-m", "service.job")


@pytest.fixture(scope="module")
def sidecar() -> Generator[FaultyServer[JobPlatform]]:
    with job_sidecar() as server:
        yield server


@pytest.fixture
def platform(sidecar: FaultyServer[JobPlatform]) -> JobPlatform:
    return sidecar.platform()


@dataclass(frozen=True, slots=True)
class Machine:
    """Where workers run: their temporary files and caches are looked at afterwards."""

    root: Path
    temporary: Path

    def environment(self, **more: str) -> dict[str, str]:
        foreign = ("IVCAP_", "PSEG_", "OTEL_", "DOCKER_IMG", "ENTRYPOINT", "VERSION")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {
            **kept,
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(self.temporary),
            # The library reads all certificates again for each event, also where nothing is encrypted.
            "SSL_CERT_FILE": str(self.root / "certificate.pem"),
            "PSEG_CACHE_DIR": str(self.root / "cache"),
            "PSEG_HTTP_SILENCE_S": "20",
            "PSEG_HTTP_RETRIES": "2",
            "PSEG_HTTP_PAUSE_S": "0.02",
            **more,
        }

    def work(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """A worker, until it ends."""
        return subprocess.run(
            [*WORKER, *arguments],
            cwd=self.root,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def do_jobs(self, platform: JobPlatform, **more: str) -> dict[str, Result]:
        """All jobs of a platform, in one worker."""
        ended = self.work(IVCAP_BASE_URL=platform.url, **more)
        assert ended.returncode == 0, ended.stderr
        results = {result.job: result for result in platform.results}
        assert len(results) == len(platform.results)
        return results

    def worker(self, platform: JobPlatform) -> "subprocess.Popen[bytes]":
        """A worker in the background."""
        return subprocess.Popen(
            WORKER, cwd=self.root, env=self.environment(IVCAP_BASE_URL=platform.url), stderr=subprocess.DEVNULL
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from new_machine(tmp_path)


def new_machine(tmp_path: Path) -> Iterator[Machine]:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    end = "-----END CERTIFICATE-----"
    (tmp_path / "certificate.pem").write_text(certifi.contents().partition(end)[0] + end)
    yield Machine(tmp_path, temporary)
    assert list(temporary.iterdir()) == [], "a worker left temporary files"


def good(result: Result) -> dict[str, Any]:
    assert not result.is_error, result.content["error"]
    assert result.content["$schema"] == "urn:ibenthos:schema:paddle.seg.job-result.1"
    assert problem_of(result.content) is None
    return result.content


def error_of(result: Result) -> str:
    assert result.is_error
    assert result.content["$schema"] == "urn:ivcap:schema.service.error.1"
    return result.content["error"]


def test_a_job_publishes_what_an_order_publishes(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    first = platform.put("dive/GOPR0247.JPG", painted(RED, GREEN))
    second = platform.put("фото.png", painted(BLUE, width=48))
    job = platform.submit(model=model, images=[first, second], report=True, benchmark=True, **{"model-name": "mine"})
    content = good(machine.do_jobs(platform)[job])
    assert (content["job"], content["model"]) == (job, model)
    assert platform.jobs_named == {job}
    assert content["images"] == {"total": 2, "succeeded": 2, "failed": 0}
    assert content["failures"] == []
    assert [(each["image"], each["name"]) for each in content["masks"]] == [
        (first, "dive/GOPR0247.JPG"),
        (second, "фото.png"),
    ]
    assert [(each["width"], each["height"]) for each in content["masks"]] == [(24, 16), (48, 16)]
    assert [[share["cover"] for share in each["cover"]] for each in content["masks"]] == [[0.5, 0.5, 0], [0, 0, 1]]
    assert content["masks"][0]["cover"][1] == {
        "id": CLASSES[1]["id"],
        "name": "green",
        "color": [10, 200, 10],
        "cover": 0.5,
    }
    # by hand: 12 + 0, 12 + 0 and 0 + 48 columns of 24 + 48
    assert [share["cover"] for share in content["cover"]] == pytest.approx([12 / 72, 12 / 72, 48 / 72], abs=1e-6)
    # the mean of 0.5, 0.5, 0 and 0, 0, 1
    assert [share["mean_of_images"] for share in content["cover"]] == [0.25, 0.25, 0.5]
    assert content["provenance"]["runtime"] == "onnx"

    masks = [platform.artifacts[each["mask"]] for each in content["masks"]]
    assert [(each.name, each.mime_type) for each in masks] == [
        ("GOPR0247.pseudo.png", "image/png"),
        ("фото.pseudo.png", "image/png"),
    ]
    assert [mask_of(each.content)[0] for each in masks] == [[0] * 12 + [1] * 12, [2] * 48]
    record = next(each for each in platform.records(INFERENCE_SCHEMA) if each["image"] == first)
    assert (record["$entity"], record["model"], record["order"]) == (masks[0].urn, model, job)
    table = platform.artifacts[content["products"]["cover"]]
    assert (table.name, table.mime_type) == ("cover.csv", "text/csv")
    assert table.content.decode().splitlines()[1].startswith(f"dive/GOPR0247.JPG,ok,{masks[0].urn},24,16,")
    assert b"<html" in platform.artifacts[content["products"]["report"]].content
    [collection] = platform.records(COLLECTION_SCHEMA)
    assert collection["$entity"] == content["products"]["collection"]
    assert sorted(collection["artifacts"]) == sorted(each.urn for each in masks)
    [timings] = platform.records(TIMINGS_SCHEMA)
    assert (timings["model_name"], timings["images"]) == ("mine", 2)
    [summary] = platform.records(SUMMARY_SCHEMA)
    assert (summary["$entity"], summary["status"]) == (job, "done")

    steps = [(each["$schema"].rsplit(".", 2)[-2], each["name"], each["options"]) for each in platform.progress]
    assert [step[:2] for step in steps] == [
        ("start", "open model"),
        ("finish", "open model"),
        ("start", "segment images"),
        ("generic", "segment images"),
        ("generic", "segment images"),
        ("finish", "segment images"),
        ("start", "store results"),
        ("finish", "store results"),
    ]
    assert steps[3][2] == {"done": 1, "total": 2}


def test_the_model_stays_open_while_jobs_ask_for_the_same(
    machine: Machine, platform: JobPlatform, bundle: Path
) -> None:
    one = platform.put("one.tgz", bundle.read_bytes())
    other = platform.put("other.tgz", bundle.read_bytes())
    image = platform.put("image.png", painted(RED))
    wanted: list[tuple[dict[str, Any], bool]] = [
        ({"model": one}, False),
        ({"model": one, "batch-size": 3, "max-img-size": -1}, True),
        ({"model": one, "cpu-threads": 1}, False),
        ({"model": one, "cpu-threads": 1}, True),
        ({"model": other, "cpu-threads": 1}, False),
        ({"model": one, "cpu-threads": 1}, False),
    ]
    jobs = [platform.submit(image=image, **parameters) for parameters, _ in wanted]
    folders: list[int] = []
    platform.when_read = lambda _: folders.append(len(list(machine.temporary.glob("pseg-worker-*/*/job-*"))))
    results = machine.do_jobs(platform)
    assert max(folders) == 1, "files of earlier jobs stay"
    threads = [good(results[job])["provenance"]["threads"] for job in jobs]
    assert threads == [min(10, usable_cores())] * 2 + [1] * 4
    opened = [each["options"]["kept"] for each in platform.progress if "kept" in (each["options"] or {})]
    assert opened == [kept for _, kept in wanted]
    assert [platform.done("read").count(f"{name} {urn}") for name, urn in (("one.tgz", one), ("other.tgz", other))] == [
        1,
        1,
    ]
    assert len(platform.whole("image.pseudo.png")) == len(jobs)


@pytest.mark.long
def test_shards_of_a_job_share_no_image_and_leave_none_out(
    machine: Machine, platform: JobPlatform, bundle: Path
) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    images = [platform.put(f"{number}.png", painted(RED)) for number in range(3)]
    jobs = [platform.submit(model=model, images=images, shard=f"{index}/4") for index in (1, 2, 3, 4)]
    results = machine.do_jobs(platform)
    masks = [[each["image"] for each in good(results[job])["masks"]] for job in jobs]
    assert masks == [[urn] for urn in sorted(images)] + [[]]


def test_failures_are_listed_and_a_job_without_success_is_an_error(
    machine: Machine, platform: JobPlatform, bundle: Path
) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    image = platform.put("good.png", painted(GREEN))
    broken = platform.put("broken.png", painted(RED)[:60])
    absent = "urn:ivcap:artifact:absent"
    no_bundle = platform.put("broken.tgz", b"no archive")
    some = platform.submit(model=model, images=[broken, image, absent])
    none = platform.submit(model=model, images=[broken, absent])
    unopened = platform.submit(model=no_bundle, image=image)
    after = platform.submit(model=model, image=image)
    results = machine.do_jobs(platform)
    content = good(results[some])
    assert content["images"] == {"total": 3, "succeeded": 1, "failed": 2}
    assert [each["image"] for each in content["masks"]] == [image]
    assert [(each["image"], each["name"]) for each in content["failures"]] == [(broken, "broken.png"), (absent, absent)]
    assert "404" in content["failures"][1]["reason"]
    assert all(str(machine.root) not in each["reason"] for each in content["failures"])
    rows = platform.artifacts[content["products"]["cover"]].content.decode().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["failed", "ok", "failed"]

    told = error_of(results[none])
    assert told.startswith("0 of 2 images succeeded")
    assert "broken.png: " in told
    assert f"{absent}: " in told
    summaries = {each["$entity"]: each for each in platform.records(SUMMARY_SCHEMA)}
    assert [each["image"] for each in summaries[none]["failures"]] == [broken, absent]
    assert "broken.tgz: is a text, not an archive" in error_of(results[unopened])
    assert len(good(results[after])["masks"]) == 1


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "no image": ({}, "either image or images"),
    "both": ({"image": "urn:ivcap:artifact:0001", "images": ["urn:ivcap:artifact:0001"]}, "either image or images"),
    "no images": ({"images": []}, "names no artifacts"),
    "unknown parameter": ({"image": "urn:ivcap:artifact:0001", "save-dir": "x"}, "save-dir"),
    "unknown value": ({"image": "urn:ivcap:artifact:0001", "mask-size": "half"}, "mask-size"),
    "no pixels": ({"image": "urn:ivcap:artifact:0001", "max-img-size": 0}, "max-img-size: 0 is not allowed"),
    "no batch": ({"image": "urn:ivcap:artifact:0001", "batch-size": 0}, "batch-size"),
    "TensorRT on a CPU": ({"image": "urn:ivcap:artifact:0001", "use-trt": True}, "TensorRT"),
    "oneDNN under ONNX Runtime": (
        {"image": "urn:ivcap:artifact:0001", "enable-mkldnn": True, "runtime": "onnx"},
        "oneDNN",
    ),
    "tuning, on the platform": (
        {"image": "urn:ivcap:artifact:0001", "device": "gpu", "use-trt": True, "enable-auto-tune": True},
        "enable-auto-tune",
    ),
    "a file of the worker": ({"image": "urn:file:///etc/hostname"}, "urn:ivcap:artifact:"),
    "a folder of the worker": ({"images": "/etc"}, "urn:ivcap:artifact:"),
    "a path in a URN": ({"image": "urn:ivcap:artifact:../../1/orders?x=1#"}, "urn:ivcap:artifact:"),
    "a header in a URN": ({"images": ["urn:ivcap:artifact:a\r\nX-Evil: 1"]}, "urn:ivcap:artifact:"),
    "another host": ({"image": "http://127.0.0.1:9/q7.png"}, "urn:ivcap:artifact:"),
    "content": ({"image": "data:image/png;base64,iVBORw0KGgo="}, "urn:ivcap:artifact:"),
    "another schema": ({"image": "urn:ivcap:artifact:0001", "$schema": "urn:x:schema:y.1"}, "$schema"),
}


def test_wrong_requests_are_errors_that_say_what_is_wrong(
    machine: Machine, platform: JobPlatform, bundle: Path
) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    platform.put("image.png", painted(RED))
    jobs = {case: platform.submit(model=model, **parameters) for case, (parameters, _) in WRONG.items()}
    results = machine.do_jobs(platform)
    told = {case: error_of(results[job]) for case, job in jobs.items()}
    assert {case for case, (_, part) in WRONG.items() if part not in told[case]} == set(), told
    assert {results[job].content["type"] for case, job in jobs.items() if case != "another schema"} == {"OptionError"}
    assert platform.done("read") == []
    assert platform.stored == []


def test_a_collection_is_read_however_it_was_written(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    images = [platform.put(f"{number}.png", painted(BLUE)) for number in range(6)]
    collection, empty = "urn:reef:collection:abc", "urn:ivcap:collection:none"
    platform.aspects.append({"$schema": COLLECTION_SCHEMA, "$entity": collection, "artifacts": images[:3]})
    platform.aspects += [
        {"$schema": "urn:ivcap:schema:collection-item.1", "$entity": collection, "item": urn} for urn in images[2:]
    ]
    kept_as_aspect = {"$schema": "urn:ibenthos:schema:paddle.seg.job-request.1", "$entity": "urn:x:parameters"}
    full = platform.submit(model=model, images=collection, **kept_as_aspect)
    single, nothing = (platform.submit(model=model, images=name) for name in (images[4], empty))
    twice = platform.submit(model=model, images=[images[5], images[0], images[5]])
    results = machine.do_jobs(platform)
    assert [each["image"] for each in good(results[full])["masks"]] == images
    assert [each["image"] for each in good(results[twice])["masks"]] == [images[5], images[0]]
    assert [each["image"] for each in good(results[single])["masks"]] == [images[4]]
    assert f"{empty} names no artifacts" in error_of(results[nothing])


def test_downloads_have_limits(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    content = bundle.read_bytes()
    model, picture = platform.put("model.tgz", content), painted(RED)
    good = platform.put("good.png", picture)
    large, liar, short, page, packed, moved = (
        platform.put(f"{name}.png", body)
        for name, body in {
            "large": bytes(3 << 20),
            "liar": bytes(3 << 20),
            "another": picture,
            "page": b"<html><title>Log in</title></html>",
            "packed": picture,
            "moved": picture,
        }.items()
    )
    platform.artifacts[liar].size = len(picture)
    platform.artifacts[short].size = len(picture) + 1
    bomb = gzip.compress(bytes(3 << 20))
    platform.raw_answers[packed] = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + bomb
    platform.raw_answers[moved] = (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/latest?sig=topsecret\r\nContent-Length: 0\r\n\r\n"
    )
    some = platform.submit(model=model, images=[large, liar, short, page, packed, moved, good])
    none = platform.submit(model=model, images=[moved])
    heavy = platform.submit(model=platform.put("heavy.tgz", content + bytes(1 << 20)), image=good)
    deep, long = "urn:reef:collection:deep", "urn:reef:collection:long"
    platform.raw_answers[deep] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"[" * 200_000
    platform.raw_answers[long] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b" " * (2 << 20)
    collections = {name: platform.submit(model=model, images=name) for name in (deep, long)}
    after = platform.submit(model=model, image=good)
    limits = {"IMAGE": 1 << 20, "BUNDLE": len(content), "RECORD": 1 << 20}
    results = machine.do_jobs(platform, **{f"PSEG_HTTP_{kind}_BYTES": str(most) for kind, most in limits.items()})

    told = results[some].content
    assert not results[some].is_error, told
    assert [each["image"] for each in told["masks"]] == [good]
    reasons = {each["image"]: each["reason"] for each in told["failures"]}
    assert "more than 1048576 bytes" in reasons[large]
    assert "raise PSEG_HTTP_IMAGE_BYTES" in reasons[large]
    assert f"large.png {large}" not in platform.done("read"), "what the platform says is enough"
    assert "more than 1048576 bytes" in reasons[liar]
    assert f"the platform says {len(picture) + 1} bytes, and {len(picture)} came" in reasons[short]
    assert "is a web page" in reasons[page]
    assert "Content-Encoding: 'gzip'" in reasons[packed]
    assert "302" in reasons[moved]
    assert [platform.done("read").count(f"{platform.names(urn)}") for urn in (liar, packed)] == [1, 1]
    assert "raise PSEG_HTTP_BUNDLE_BYTES" in error_of(results[heavy])
    assert "RecursionError" in error_of(results[collections[deep]])
    assert "raise PSEG_HTTP_RECORD_BYTES" in error_of(results[collections[long]])
    assert not results[after].is_error
    assert "302" in error_of(results[none])
    published = json.dumps([*(each.content for each in platform.results), *platform.aspects, *platform.progress])
    assert "sig=[hidden]" in published
    assert "topsecret" not in published


KINDS: tuple[FaultKind, ...] = ("500", "reset", "truncated", "slow")
# operation, and a part of what it is about: of the second of three images, or of what the job stores
PLACES: Mapping[str, tuple[str, str]] = {
    "model's record": ("look", "model.tgz"),
    "model": ("read", "model.tgz"),
    "image's record": ("look", "b.png"),
    "image": ("read", "b.png"),
    "mask": ("create", "b.pseudo.png"),
    "mask's content": ("send", "b.pseudo.png"),
    "mask's record": ("look", "b.pseudo.png"),
    "mask's aspect": ("annotate", INFERENCE_SCHEMA),
    "table": ("create", "cover.csv"),
    "collection": ("list", COLLECTION_SCHEMA),
    "summary": ("annotate", SUMMARY_SCHEMA),
}


# Each slow answer takes its time: one for each way of asking.
SLOW_PLACES = ("model", "image's record", "mask's content", "mask's aspect")


def put_collection(platform: JobPlatform) -> str:
    """Three images, a.png red, b.png green, c.png blue."""
    images = [platform.put(f"{name}.png", painted(color)) for name, color in (("a", RED), ("b", GREEN), ("c", BLUE))]
    collection = "urn:ivcap:collection:abc"
    platform.aspects.append({"$schema": COLLECTION_SCHEMA, "$entity": collection, "artifacts": images})
    return collection


def test_faults_that_pass_cost_nothing(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    collection = put_collection(platform)
    jobs: dict[str, FaultKind] = {}
    for kind in KINDS:
        model = platform.put("model.tgz", bundle.read_bytes())
        places = SLOW_PLACES if kind == "slow" else PLACES
        faults = [Fault(PLACES[place][0], kind, 1, PLACES[place][1]) for place in places]
        jobs[platform.submit(*faults, model=model, images=collection)] = kind
    results = machine.do_jobs(platform, **IMPATIENT)
    for job, kind in jobs.items():
        missing = [fault for fault in platform.faults_in[job] if fault.times != 0]
        assert missing == [], f"{kind} did not happen"
        content = good(results[job])
        assert content["failures"] == [], kind
        masks = [platform.artifacts[each["mask"]] for each in content["masks"]]
        assert [mask_of(each.content)[0][0] for each in masks] == [0, 1, 2], kind
        annotated = {each["$entity"] for each in platform.records(INFERENCE_SCHEMA) if each["order"] == job}
        assert annotated == {each.urn for each in masks}, kind


def test_an_upload_that_is_cut_off_is_resumed(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    model, image = platform.put("model.tgz", bundle.read_bytes()), platform.put("b.png", painted(GREEN))
    platform.takes_at_most = 50
    job = platform.submit(model=model, image=image)
    content = good(machine.do_jobs(platform)[job])
    mask = platform.artifacts[content["masks"][0]["mask"]]
    assert mask_of(mask.content) == [[1] * 24] * 16
    assert len(mask.content) > 50
    assert [each.name for each in platform.stored] == ["b.pseudo.png", "cover.csv"]


# What the error says where a fault stays; the others fail an image and no more.
LOST: Mapping[str, str] = {
    "model's record": "cannot be fetched",
    "model": "cannot be fetched",
    "mask": "b.pseudo.png: not stored",
    "mask's content": "b.pseudo.png: not stored",
    "mask's record": "b.pseudo.png: not stored",
    "mask's aspect": f"{INFERENCE_SCHEMA}: not stored",
    "table": "cover.csv: not stored",
    "collection": "cannot be read",
    "summary": f"{SUMMARY_SCHEMA}: not stored",
}


@pytest.mark.long
def test_faults_that_stay_are_never_hidden(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    collection = put_collection(platform)
    kept = platform.put("kept.tgz", bundle.read_bytes())
    jobs: dict[str, str] = {}
    for place, (operation, where) in PLACES.items():
        model = platform.put("model.tgz", bundle.read_bytes()) if place.startswith("model") else kept
        jobs[platform.submit(Fault(operation, "500", None, where), model=model, images=collection)] = place
    results = machine.do_jobs(platform)
    for job, place in jobs.items():
        if place in LOST:
            assert LOST[place] in error_of(results[job]), place
        else:
            content = good(results[job])
            assert [each["name"] for each in content["masks"]] == ["a.png", "c.png"], place
            [failure] = content["failures"]
            assert "cannot be fetched" in failure["reason"], place
    summaries = {each["$entity"]: each for each in platform.records(SUMMARY_SCHEMA)}
    succeeded = {place: summaries[job]["images"]["succeeded"] for job, place in jobs.items() if job in summaries}
    assert succeeded == {
        "model's record": 0,
        "model": 0,
        "image's record": 2,
        "image": 2,
        "mask": 2,
        "mask's content": 2,
        "mask's record": 2,
        "mask's aspect": 0,
        "table": 3,
    }


@pytest.mark.long
def test_a_long_job_is_read_ahead_in_bounds(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    images = [
        platform.put(f"{number}.png", b"broken" if number % 10 == 3 else painted(RED, GREEN)) for number in range(60)
    ]
    job = platform.submit(model=model, images=images)
    downloads: list[int] = []

    def look(_: str) -> None:
        downloads.append(len(list(machine.temporary.glob("pseg-worker-*/*/job-*/*"))))

    platform.when_read = look
    content = good(machine.do_jobs(platform)[job])
    assert content["images"] == {"total": 60, "succeeded": 54, "failed": 6}
    assert [each["image"] for each in content["masks"]] == [urn for at, urn in enumerate(images) if at % 10 != 3]
    # Those decoded ahead, one that waits for the network, one that is run, one that is encoded, and the next.
    assert 1 < max(downloads) <= usable_cores() + 4
    told = [each["options"]["done"] for each in platform.progress if "done" in (each["options"] or {})]
    assert told == list(range(3, 61, 3))


def test_sigterm_ends_after_the_image_in_hand(machine: Machine, platform: JobPlatform, bundle: Path) -> None:
    model = platform.put("model.tgz", bundle.read_bytes())
    images = [platform.put(f"{number}.png", painted(RED)) for number in range(30)]
    job = platform.submit(model=model, images=images)
    left = platform.submit(model=model, images=images)
    with machine.worker(platform) as child:

        def stop(urn: str) -> None:
            if urn == images[4]:
                child.send_signal(signal.SIGTERM)

        platform.when_read = stop
        assert child.wait(timeout=60) == 0
    [result] = platform.results
    assert result.job == job
    told = error_of(result)
    assert "asked to stop" in told
    [summary] = platform.records(SUMMARY_SCHEMA)
    succeeded = summary["images"]["succeeded"]
    assert 4 <= succeeded < 30
    # Of those that were under way when the signal came, nothing else can have failed.
    reasons = {each["reason"] for each in summary["failures"]}
    assert reasons <= {"the process was asked to stop before the image had arrived"}
    assert len(platform.whole(".pseudo.png")) == succeeded
    assert len(platform.whole("cover.csv")) == 1
    assert [each["id"] for each in platform.jobs] == [left]


@pytest.mark.long
def test_sigterm_ends_a_worker_that_waits(machine: Machine, platform: JobPlatform) -> None:
    platform.keeps_waiting = True
    with machine.worker(platform) as child:
        assert platform.asked.wait(timeout=60)
        child.send_signal(signal.SIGTERM)
        # sooner than the answer comes
        assert child.wait(timeout=8) == 0


def test_a_job_from_a_file_writes_a_folder(machine: Machine, bundle: Path) -> None:
    photographs = machine.root / "photographs"
    photographs.mkdir()
    (photographs / "b.png").write_bytes(painted(GREEN, BLUE))
    (photographs / "notes.txt").write_text("not an image")
    parameters = {"model": f"urn:file://{bundle}", "images": "photographs"}
    job = machine.root / "job.json"
    job.write_text(json.dumps({"id": "test", "in-content-type": "application/json", "in-content": parameters}))
    ended = machine.work("--test-file", str(job), IVCAP_LOCAL_DIR="out")
    assert ended.returncode == 0, ended.stderr
    content = json.loads(ended.stdout)
    assert content["images"] == {"total": 1, "succeeded": 1, "failed": 0}
    [mask] = content["masks"]
    assert mask["image"] == f"urn:file://{photographs / 'b.png'}"
    path = machine.root / "out" / "artifacts" / "test" / "b.pseudo.png"
    assert mask["mask"] == f"urn:file://{path}"
    assert mask_of(path.read_bytes()) == [[1] * 12 + [2] * 12] * 16
    records = [json.loads(each.read_text()) for each in (machine.root / "out" / "aspects").iterdir()]
    assert {record["schema"] for record in records} == {
        INFERENCE_SCHEMA,
        COLLECTION_SCHEMA,
        NAMED_COLLECTION_SCHEMA,
        COLLECTION_ITEM_SCHEMA,
        SUMMARY_SCHEMA,
    }
    assert bundle.is_file()
    assert len(list(photographs.iterdir())) == 2

    # one file by two names
    named = {**parameters, "images": ["photographs/b.png", f"urn:file://{photographs}/../photographs/b.png"]}
    job.write_text(json.dumps({"id": "test", "in-content-type": "application/json", "in-content": named}))
    ended = machine.work("--test-file", str(job), IVCAP_LOCAL_DIR="out")
    assert [each["mask"] for each in json.loads(ended.stdout)["masks"]] == [f"urn:file://{path}"]

    (photographs / "b.png").write_bytes(b"broken")
    ended = machine.work("--test-file", str(job), IVCAP_LOCAL_DIR="out", PSEG_LOG_FORMAT="json")
    assert ended.returncode == 1
    logged = [json.loads(line) for line in ended.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in logged)
    assert "service.job" in {line["logger"] for line in logged}
    assert "0 of 1 images succeeded" in json.loads(ended.stdout)["error"]


# Names and defaults of the original, and what was added.
PARAMETERS: Mapping[str, Any] = {
    "image": None,
    "images": None,
    "max-img-size": 1000000,
    "batch-size": 1,
    "device": "cpu",
    "use-trt": False,
    "precision": "fp32",
    "min-subgraph-size": 3,
    "enable-auto-tune": False,
    "cpu-threads": 10,
    "enable-mkldnn": False,
    "benchmark": False,
    "model-name": None,
    "with-argmax": False,
    "print-detail": False,
    "runtime": "auto",
    "provider": "auto",
    "threshold": 0.5,
    "mask-size": "original",
    "report": False,
    "shard": None,
    "allow-tf32": False,
    "gpu-memory-limit": None,
    "crop-size": None,
    "stride": None,
    "scales": None,
    "flip-horizontal": False,
    "flip-vertical": False,
    "scale-range": None,
    "unsure": None,
    "roi": None,
    "quadrat-size": None,
    "exclude-class": None,
    "keep-classes": None,
    "median": None,
    "fill-holes": False,
    "min-area": None,
    "overlay": "fill",
    "overlay-strength": None,
    "tile": False,
    "as-photograph": False,
    "simplify": None,
    "ignore-bundle-cleanup": False,
    "tile-size": None,
    "overlap": None,
    "bands": None,
    "vectors": "none",
}


def description(machine: Machine, **more: str) -> dict[str, Any]:
    ended = machine.work("--print-service-description", **more)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.long
def test_the_description_is_what_the_platform_registers(machine: Machine) -> None:
    printed = description(
        machine,
        DOCKER_IMG="registry/pseg:1",
        IVCAP_SERVICE_ID="urn:ivcap:service:7",
        PSEG_SERVICE_CONTACT="Reef Lab",
        PSEG_SERVICE_EMAIL="lab@reef.example",
    )
    assert printed["$schema"] == "urn:ivcap:schema.service.2"
    assert (printed["$id"], printed["name"]) == ("urn:ivcap:service:7", "infer-with-paddle-paddle")
    assert printed["contact"] == {"name": "Reef Lab", "email": "lab@reef.example"}
    assert printed["license"]["name"] == "Apache-2.0"
    controller = printed["controller"]
    assert controller["image"] == "registry/pseg:1"
    assert controller["command"] == ["python", "-m", "service.job"]
    assert controller["resources"] == json.loads((REPOSITORY / "resources.json").read_text())
    properties = printed["request-schema"]["properties"]
    assert {
        name: each.get("default") for name, each in properties.items() if name not in {"model", "$schema"}
    } == PARAMETERS
    assert printed["request-schema"]["required"] == ["model"]
    assert properties["$schema"]["default"].startswith("urn:")
    assert all(properties[name].get("description") for name in ("model", *PARAMETERS))
    assert {"masks", "failures", "products", "cover"} < set(printed["result-schema"]["properties"])


@pytest.mark.long
def test_the_variant_for_a_gpu_asks_for_one(machine: Machine) -> None:
    printed = description(machine, PSEG_SERVICE_DEVICE="gpu")
    assert printed["name"] == "infer-with-paddle-paddle-gpu"
    assert printed["controller"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert printed["request-schema"]["properties"]["device"]["default"] == "gpu"


@pytest.mark.long
def test_settings_that_are_wrong_are_refused(machine: Machine) -> None:
    ended = machine.work("--print-service-description", PSEG_SERVICE_DEVICE="xpu")
    assert ended.returncode == 2
    assert "PSEG_SERVICE_DEVICE is 'xpu'" in ended.stderr
    assert ended.stdout == ""

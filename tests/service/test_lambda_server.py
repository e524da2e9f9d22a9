"""Requests of one picture over HTTP: the server in a child process, on a real socket of loopback.

The network finds the strongest band, so the right mask of a painted image is known: 0 red, 1 green, 2 blue.
"""

import base64
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.ivcap.publishing import INFERENCE_SCHEMA
from service.job import JobResult
from tests.service.ivcap.test_job import Machine, new_machine
from tests.service.pictures import BLUE, GREEN, RED, mask_of, painted
from tests.service.results.test_orthomosaics import geotiff, pixels_of
from tests.standins.job_sidecar import JobPlatform, job_sidecar

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def lines(self) -> list[str]:
        assert "Traceback" not in self.body.decode()
        return self.body.decode().splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer_of(response: HTTPResponse) -> Answer:
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@dataclass(frozen=True, slots=True)
class Running:
    """A server that takes requests."""

    port: int
    process: "subprocess.Popen[str]"
    log: Path

    def connection(self, host: str = "127.0.0.1") -> HTTPConnection:
        return HTTPConnection(host, self.port, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = self.connection()
        try:
            connection.request(method, path, body, headers)
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def request(self, job: str | None = None, **parameters: Any) -> Answer:
        """A request by the platform's way; `job` is the name that the platform gives it."""
        headers = {"Content-Type": "application/json", "Timeout": "60", **({} if job is None else {"Job-Id": job})}
        return self.post("/", json.dumps(parameters).encode(), **headers)

    def begin(self, path: str, size: int, part: bytes) -> HTTPConnection:
        """A picture of which only a part is sent."""
        connection = self.connection()
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(size))
        connection.endheaders(part)
        self.wait_for(taken=1)
        return connection

    def wait_for(self, taken: int) -> None:
        """Wait until so many requests run or wait."""
        deadline = time.monotonic() + 120
        while self.health["taken"] != taken:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def health(self) -> dict[str, Any]:
        answer = self.ask("GET", "/healthz")
        assert answer.status == HTTPStatus.OK
        return answer.json


@contextmanager
def running(machine: Machine, *arguments: str, **more: str) -> Generator[Running]:
    log = machine.root / "log.txt"
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "service.lambda_server", "--port", "0", *arguments],
            cwd=machine.root,
            env=machine.environment(**more),
            stderr=stream,
            text=True,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"running on http://[0-9.]+:(\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield Running(int(found[1]), process, log)
        finally:
            process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from new_machine(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Running]:
    """One with the usual limits."""
    for machine in new_machine(tmp_path_factory.mktemp("server")):
        with running(machine, "--model", str(bundle)) as made:
            yield made


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Running]:
    """One with narrow limits, and a variable that is empty."""
    limits = {
        "PSEG_LAMBDA_HOST": "",
        "PSEG_LAMBDA_PLACES": "1",
        "PSEG_LAMBDA_UPLOAD_BYTES": "20000",
        "PSEG_LAMBDA_PIXELS": "1000",
        "PSEG_LAMBDA_ANSWER_S": "2",
    }
    for machine in new_machine(tmp_path_factory.mktemp("narrow")):
        with running(machine, "--model", str(bundle), **limits) as made:
            yield made


def test_many_clients_at_once_get_the_masks_of_the_command(server: Running, bundle: Path, tmp_path: Path) -> None:
    colors = np.random.default_rng(20).integers(0, 256, (32, 5, 3)).tolist()
    pictures = {f"{number:02}.png": painted(*map(tuple, each), width=60) for number, each in enumerate(colors)}
    folder, masks = tmp_path / "pictures", tmp_path / "masks"
    folder.mkdir()
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    command = [Path(sys.prefix) / "bin" / "pseg", "predict", str(bundle), str(folder), "--out", str(masks)]
    subprocess.run([*command, "--save", "pseudo"], cwd=ROOT, check=True, capture_output=True, timeout=120)
    with ThreadPoolExecutor(len(pictures)) as clients:
        answers = list(clients.map(partial(server.post, "/masks"), pictures.values()))
    assert {(each.status, each.headers["content-type"]) for each in answers} == {(HTTPStatus.OK, "image/png")}
    for name, answer in zip(pictures, answers, strict=True):
        [file] = masks.rglob(f"{Path(name).stem}*.png")
        with Image.open(file) as expected:
            assert mask_of(answer.body) == np.asarray(expected).tolist()
    assert server.health == {"status": "ready", "version": "0.1.0", "taken": 0, "places": 64}


def test_results_are_those_of_a_job_with_the_mask_in_them(server: Running) -> None:
    answer = server.post("/results?keep-classes=green,blue", painted(RED, GREEN))
    assert answer.status == HTTPStatus.OK, answer.body
    result = JobResult.model_validate_json(answer.body)
    [mask] = result.masks
    assert mask["cover"][1]["cover"] == 0.5
    kind, content = mask["mask"].split(",")
    assert kind == "data:image/png;base64"
    assert set(mask_of(base64.b64decode(content))[0][12:]) == {1}
    assert result.images["succeeded"] == 1
    assert result.provenance["runtime"] == "onnx"


def test_a_raster_comes_back_as_one(server: Running, tmp_path: Path) -> None:
    raster = geotiff(tmp_path / "reef.tif", pixels_of())
    mask = server.post("/masks", raster.read_bytes())
    assert (mask.status, mask.headers["content-type"]) == (
        HTTPStatus.OK,
        "image/tiff; application=geotiff; profile=cloud-optimized",
    )
    [result] = server.post("/results?vectors=geojson", raster.read_bytes()).json["masks"]
    assert result["raster"]["crs"].startswith("EPSG:")
    assert result["cover"][0]["area_m2"] > 0
    kind, content = result["polygons"].split(",")
    assert kind == "data:application/geo+json;base64"
    assert json.loads(base64.b64decode(content))["type"] == "FeatureCollection"


def test_every_wrong_parameter_is_a_line(server: Running) -> None:
    answer = server.post("/masks?median=x&scale=1&threshold=2&model-name=a", painted(RED))
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert answer.lines == ["model-name: it does not go with an upload"]
    answer = server.post("/masks?median=x&scale=1&threshold=2", painted(RED))
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert sorted(line.partition(":")[0] for line in answer.lines) == ["median", "scale", "threshold"]
    assert "did you mean scales?" in answer.body.decode()


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/masks", b"not a picture", HTTPStatus.UNPROCESSABLE_ENTITY, "is not a JPEG"),
        ("/masks", painted(RED)[:60], HTTPStatus.UNPROCESSABLE_ENTITY, "upload"),
        ("/masks", b"", HTTPStatus.BAD_REQUEST, "the body is empty"),
        ("/masks?median=3&median=5", painted(RED), HTTPStatus.BAD_REQUEST, "more than once"),
        ("/masks?vectors=gpkg", painted(RED), HTTPStatus.UNPROCESSABLE_ENTITY, "no image is a raster"),
        ("/masks?roi=frame:green", painted(RED), HTTPStatus.UNPROCESSABLE_ENTITY, "the region of interest"),
        ("/masks?overlay=outline", painted(RED), HTTPStatus.BAD_REQUEST, "does not go with an upload"),
        ("/masks?threshold=0.4", painted(RED), HTTPStatus.BAD_REQUEST, "a threshold has no effect"),
        ("/masks?roi=polygon:/etc/hostname", painted(RED), HTTPStatus.BAD_REQUEST, "reads no files"),
    ],
    ids=["no picture", "broken", "empty", "twice", "no raster", "no region", "no overlay", "no effect", "a file"],
)
def test_what_is_wrong_is_said_in_one_line(
    server: Running, path: str, body: bytes, status: HTTPStatus, said: str
) -> None:
    answer = server.post(path, body)
    assert answer.status == status, answer.body
    [line] = answer.lines
    assert said in line


@pytest.mark.parametrize("kind", ["multipart/form-data", "Multipart/Form-Data"])
def test_a_form_is_told_what_to_send_instead(server: Running, kind: str) -> None:
    answer = server.post("/masks", b"--x", **{"Content-Type": f"{kind}; boundary=x"})
    assert (answer.status, "--data-binary" in answer.lines[0]) == (HTTPStatus.BAD_REQUEST, True)


def test_secrets_stand_neither_in_answers_nor_in_the_log(server: Running) -> None:
    answer = server.post("/masks?median=token%3DhushHush123&api_key=hushHush123", painted(RED))
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert "hushHush123" not in answer.body.decode() + server.log.read_text()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://reef.example"},
        {"Origin": "null"},
        {"Host": "reef.example", "Origin": "http://reef.example"},
        {"Host": "reef.example:8090"},
        {"Host": "[reef"},
    ],
    ids=["another site", "no site", "a name that leads here", "by a name", "no name"],
)
@pytest.mark.parametrize("path", ["/masks", "/"])
def test_pages_of_other_sites_are_refused(server: Running, path: str, headers: dict[str, str]) -> None:
    answer = server.post(path, painted(RED), **headers)
    assert answer.status == HTTPStatus.FORBIDDEN, answer.body
    assert "this server" in answer.body.decode() or "this machine" in answer.body.decode()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8090", "[::1]:8090", "192.0.2.7"])
def test_programs_and_pages_of_this_server_are_served(server: Running, host: str) -> None:
    assert server.post("/masks", painted(RED), Host=host).status == HTTPStatus.OK
    assert server.post("/masks", painted(RED), Host=host, Origin=f"http://{host}").status == HTTPStatus.OK


@pytest.mark.parametrize("seconds", ["soon", "-1", "", "9" * 400])
def test_a_wait_that_is_no_number_is_refused(server: Running, seconds: str) -> None:
    answer = server.post("/", b"{}", **{"Content-Type": "application/json", "Timeout": seconds})
    assert (answer.status, answer.json["code"]) == (HTTPStatus.BAD_REQUEST, 400)
    assert "give whole seconds" in answer.json["message"]


@pytest.mark.parametrize("path", ["/masks", "/"])
def test_who_goes_away_leaves_no_trace_in_the_log(server: Running, path: str) -> None:
    connection = server.connection()
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"x")
    connection.close()
    # The server meets the end of the first connection before it answers on the second one.
    assert server.post("/masks", painted(RED)).status == HTTPStatus.OK
    assert server.health["taken"] == 0
    assert "Traceback" not in server.log.read_text()


def test_only_this_machine_is_served_unless_another_address_is_set(
    server: Running, narrow: Running, machine: Machine
) -> None:
    # Every address that begins with 127 is this machine, and one that listens everywhere listens there, too.
    for each in (server, narrow):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", each.port), timeout=5)
    with running(machine, HOST="0.0.0.0", PSEG_LAMBDA_HOST="127.0.0.3") as other:  # noqa: S104 - it is not listened to
        connection = other.connection("127.0.0.3")
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == HTTPStatus.OK
        connection.close()


def test_containers_listen_everywhere() -> None:
    for name in ("Dockerfile.cpu", "Dockerfile.gpu"):
        assert re.search(r"\bPSEG_LAMBDA_HOST=0\.0\.0\.0\b", (ROOT / name).read_text())


def test_who_finds_no_place_is_turned_away(narrow: Running) -> None:
    picture = painted(GREEN)
    first = narrow.begin("/masks", len(picture), picture[:10])
    second = narrow.post("/masks", picture)
    assert (second.status, second.headers["retry-after"]) == (HTTPStatus.TOO_MANY_REQUESTS, "1")
    assert "try again later" in second.lines[0]
    first.send(picture[10:])
    answer = answer_of(first.getresponse())
    assert (answer.status, mask_of(answer.body)[0]) == (HTTPStatus.OK, [1] * 24)
    first.close()
    assert narrow.post("/masks", picture).status == HTTPStatus.OK


def test_an_upload_that_is_too_large_is_refused(narrow: Running) -> None:
    stated = narrow.post("/masks", bytes(20001))
    assert stated.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert "more than 20000 bytes" in stated.lines[0]
    connection = narrow.connection()
    connection.request("POST", "/masks", iter([bytes(15000), bytes(5001)]), encode_chunked=True)
    assert connection.getresponse().status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    connection.close()
    assert narrow.post("/", bytes((1 << 20) + 1)).status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert narrow.health["taken"] == 0


def test_a_full_disk_is_told(machine: Machine, bundle: Path) -> None:
    with running(machine, "--model", str(bundle)) as server:
        large, pid = painted(RED, width=300, height=300) + bytes(200_000), server.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        [line] = server.post("/masks", large).lines
        assert server.post("/masks", large).status == HTTPStatus.INSUFFICIENT_STORAGE
        assert line == "the server cannot keep the picture (File too large): try again later"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)
        assert server.post("/masks", large).status == HTTPStatus.OK
        assert "Traceback" not in server.log.read_text()


def test_a_picture_of_too_many_pixels_is_refused(narrow: Running, tmp_path: Path) -> None:
    for content in (painted(RED, width=100), geotiff(tmp_path / "reef.tif", pixels_of()[:, :40, :40]).read_bytes()):
        answer = narrow.post("/masks", content)
        assert (answer.status, "more than the limit of 1000" in answer.lines[0]) == (
            HTTPStatus.UNPROCESSABLE_ENTITY,
            True,
        )
        assert "/" not in answer.lines[0].partition(" declares")[0]


def test_who_takes_too_long_loses_the_place(narrow: Running) -> None:
    connection = narrow.begin("/masks", 100, b"x")
    answer = answer_of(connection.getresponse())
    connection.close()
    assert answer.status == HTTPStatus.GATEWAY_TIMEOUT
    assert narrow.health["taken"] == 0


def test_the_network_stops_between_two_runs_when_time_is_up(narrow: Running) -> None:
    # Each pixel is a window of its own, at each of many scales: over a million runs.
    picture, scales = painted(RED, width=60), ",".join(["1"] * 2000)
    assert narrow.post(f"/masks?crop-size=1,1&stride=1,1&scales={scales}", picture).status == HTTPStatus.GATEWAY_TIMEOUT
    narrow.wait_for(taken=0)
    assert narrow.post("/masks", picture).status == HTTPStatus.OK


def test_sigterm_finishes_what_was_taken(machine: Machine, bundle: Path) -> None:
    with running(machine, "--model", str(bundle)) as server:
        picture = painted(BLUE)
        connection = server.begin("/masks", len(picture), picture[:10])
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 120
        while "Shutting down" not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        connection.send(picture[10:])
        answer = answer_of(connection.getresponse())
        connection.close()
        assert (answer.status, mask_of(answer.body)[0]) == (HTTPStatus.OK, [2] * 24)
        assert server.process.wait(timeout=120) == 0


def test_the_platform_sends_the_request_of_a_job(machine: Machine, bundle: Path) -> None:
    with job_sidecar() as sidecar:
        platform: JobPlatform = sidecar.platform()
        model = platform.put("model.tgz", bundle.read_bytes())
        image, broken = platform.put("q7.png", painted(RED, GREEN)), platform.put("q8.png", b"token=hushHush123")
        with running(machine, IVCAP_BASE_URL=platform.url) as server:
            answer = server.request(model=model, image=image)
            assert answer.status == HTTPStatus.OK, answer.body
            result = JobResult.model_validate_json(answer.body)
            [mask] = [each for each in platform.stored if each.urn == result.masks[0]["mask"]]
            assert mask_of(mask.content)[0] == [0] * 12 + [1] * 12
            [inference] = platform.records(INFERENCE_SCHEMA)
            assert inference["image"] == image

            answer = server.request(model=model, image=broken)
            assert answer.status == HTTPStatus.BAD_REQUEST
            assert answer.json["message"].startswith("0 of 1 images succeeded")
            assert "hushHush123" not in answer.body.decode()
            answer = server.request(model=model, images=[image], median="x")
            assert answer.json == {"message": "images: one picture per request: give image", "code": 400}
            answer = server.request(model=model, image=image, median="x", threshold=2)
            assert len(answer.json["message"].splitlines()) == 2
            assert server.request(model="/etc/passwd", image=image).status == HTTPStatus.BAD_REQUEST
            answer = server.post("/", b"{", **{"Content-Type": "application/json"})
            assert (answer.status, answer.json["message"].partition(":")[0]) == (400, "the body is not JSON")
            [line] = server.post("/masks", painted(RED)).lines
            assert "--model" in line


def test_every_request_for_artifacts_is_in_the_name_of_the_job(machine: Machine, bundle: Path) -> None:
    with job_sidecar() as sidecar:
        platform: JobPlatform = sidecar.platform()
        model, image = platform.put("model.tgz", bundle.read_bytes()), platform.put("q7.png", painted(RED, GREEN))
        with running(machine, IVCAP_BASE_URL=platform.url) as server:
            assert server.request("urn:ivcap:job:7", model=model, image=image).status == HTTPStatus.OK
            assert server.request("urn:ivcap:job:8", model=model, image=image).status == HTTPStatus.OK
        # without the prefix, as the library writes it
        assert platform.jobs_named == {"7", "8"}
        assert [result.job for result in platform.results] == ["7", "8"]


@pytest.mark.long
def test_who_finds_no_place_costs_nobody_a_result(machine: Machine, bundle: Path) -> None:
    with job_sidecar() as sidecar:
        platform: JobPlatform = sidecar.platform()
        model, image = platform.put("model.tgz", bundle.read_bytes()), platform.put("q7.png", painted(RED, GREEN))
        environment = {"PSEG_LAMBDA_PLACES": "1", "IVCAP_BASE_URL": platform.url}
        with running(machine, "--model", str(bundle), **environment) as server:
            done = server.request("done", model=model, image=image)
            # the place of a job is free only when its result has been sent to the platform, too
            server.wait_for(taken=0)
            picture = painted(RED)
            upload = server.begin("/masks", len(picture), picture[:10])
            # as many as the server keeps results, and one more for the place
            for number in range(257):
                answer = server.request(f"refused-{number}", model=model, image=image)
                assert (answer.status, answer.json["code"]) == (HTTPStatus.TOO_MANY_REQUESTS, 429)
            assert server.ask("GET", "/jobs/refused-0").status == HTTPStatus.NOT_FOUND
            kept = server.ask("GET", "/jobs/done")
            assert (kept.status, kept.json) == (HTTPStatus.OK, done.json)
            upload.send(picture[10:])
            assert upload.getresponse().status == HTTPStatus.OK
            upload.close()


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        pytest.param(["--model", "nowhere.tgz"], {}, "nowhere.tgz", marks=pytest.mark.long),
        ([], {"PSEG_LAMBDA_PLACES": "0"}, "PSEG_LAMBDA_PLACES is 0"),
        pytest.param([], {"PSEG_LAMBDA_ANSWER_S": "long"}, "PSEG_LAMBDA_ANSWER_S is 'long'", marks=pytest.mark.long),
    ],
    ids=["no model", "no places", "no number"],
)
def test_what_cannot_begin_says_why(
    machine: Machine, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service.lambda_server", "--port", "0", *arguments],
        cwd=machine.root,
        env=machine.environment(**variables),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr

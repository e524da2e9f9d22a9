"""The platform's own workflow, `poetry ivcap`, through the real plugin, in a clone of this repository.

Its commands `ivcap` and `docker` are stand-ins that look at what they are given; the platform is one on loopback.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from PIL import Image

from service.ivcap.description import EXAMPLE
from tests.service.pictures import GREEN, RED, mask_of, painted
from tests.standins import docker_command, ivcap_command
from tests.standins.faulty_server import FaultyServer
from tests.standins.job_sidecar import JobPlatform, job_sidecar

ROOT = Path(__file__).parents[3]
POETRY = Path(sys.prefix) / "bin" / "poetry"
TOKEN = "token-of-the-tests"  # noqa: S105
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICE_SCHEMA = "urn:ivcap:schema.service.2"
TOOL_SCHEMA = "urn:sd-core:schema.ai-tool.1"
CPU, GPU = "paddleseg_dual_runtime_amd64", "paddleseg_dual_runtime_gpu_amd64"
LAMBDA = "paddleseg_dual_runtime_lambda_amd64"


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone of the repository, and the machine that it lies on."""

    folder: Path
    state: Path
    commands: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.pathsep.join([str(self.commands), os.defpath]),
            "HOME": str(self.state),
            "LANG": "C.UTF-8",
            "PSEG_CACHE_DIR": str(self.state / "cache"),
            **more,
        }

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["poetry", *arguments],
            cwd=self.folder,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def poetry(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        with self.start(*arguments, **more) as process:
            out, err = process.communicate(timeout=180)
            return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ivcap(self, *arguments: str, **more: str) -> str:
        """A command of the plugin that has to succeed; what it prints."""
        ended = self.poetry(*arguments, **more)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "ERROR" not in ended.stdout, ended.stdout
        return ended.stdout

    @property
    def commit(self) -> str:
        return git(self.folder, "rev-parse", "--short", "HEAD")

    def image(self, name: str) -> dict[str, Any]:
        return json.loads((self.state / "images" / f"{name}:{self.commit}").read_text())

    def aspect(self, schema: str) -> tuple[str, dict[str, Any]]:
        """What was registered: of which entity, and the content."""
        record = json.loads((self.state / "aspects" / schema).read_text())
        return record["entity"], record["content"]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=Test", "-c", "user.email=test@pseg.example", *arguments],
        cwd=folder,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()


def new_clone(folder: Path) -> Clone:
    """The files of this working tree, committed; its name has a blank."""
    clone = folder / "a clone"
    clone.mkdir()
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name.startswith(("tests/", "docs/")) or not (ROOT / name).is_file():
            continue
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        git(clone, *command)
    state, commands = folder / "state", folder / "bin"
    state.mkdir()
    commands.mkdir()
    (state / "token").write_text(TOKEN)
    (state / "address").write_text("https://platform.standin.example")
    (commands / "poetry").symlink_to(POETRY)
    for name, module in (("ivcap", ivcap_command), ("docker", docker_command)):
        script = commands / name
        script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{module.__file__}' '{state}' \"$@\"\n")
        script.chmod(0o755)
    return Clone(clone, state, commands)


@pytest.fixture(scope="module")
def poetry_installed() -> None:
    if not POETRY.exists():
        reason = "Poetry with the platform's plugin is not installed: make poetry"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def clone(poetry_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone after `make install`."""
    made = new_clone(tmp_path_factory.mktemp("machine"))
    (made.folder / ".venv").symlink_to(sys.prefix)
    return made


@pytest.fixture(scope="module")
def sidecar() -> Generator[FaultyServer[JobPlatform]]:
    with job_sidecar() as server:
        yield server


@pytest.fixture
def platform(sidecar: FaultyServer[JobPlatform], clone: Clone) -> JobPlatform:
    """A platform that only who has the token may ask; the stand-in of `ivcap` names it."""
    made = sidecar.platform()
    made.token = TOKEN
    (clone.state / "address").write_text(made.url)
    return made


@pytest.mark.long
def test_one_command_deploys(clone: Clone) -> None:
    clone.ivcap("ivcap", "deploy")
    image = clone.image(CPU)
    assert (image["dockerfile"], image["context"]) == ("Dockerfile.cpu", str(clone.folder))
    version, commit, _time = image["arguments"]["VERSION"].split("|")
    assert (version, commit) == (PROJECT["version"], clone.commit)
    assert image["arguments"]["PSEG_COMMIT"] == clone.commit
    assert (clone.state / "pushed" / f"{CPU}:{clone.commit}").is_file()

    service, described = clone.aspect(SERVICE_SCHEMA)
    assert described["$id"] == service
    assert described["name"] == "infer-with-paddle-paddle"
    assert described["controller"]["image"] == f"{ivcap_command.REGISTRY}/{CPU}:{clone.commit}"
    assert described["controller"]["command"] == ["python", "-m", "service.job"]
    assert described["contact"] == PROJECT["maintainers"][0]
    assert described["license"]["name"] == PROJECT["license"]

    entity, tool = clone.aspect(TOOL_SCHEMA)
    assert entity == tool["service-id"] == service
    assert tool["name"] == "infer_with_paddle_paddle"


@pytest.mark.long
def test_the_service_for_gpus_has_a_project_of_its_own(clone: Clone) -> None:
    for command in ("docker-publish", "service-register", "tool-register"):
        clone.ivcap("-P", "deploy/gpu", "ivcap", command)
    assert clone.image(GPU)["dockerfile"] == "Dockerfile.gpu"
    assert (clone.state / "pushed" / f"{GPU}:{clone.commit}").is_file()
    service, described = clone.aspect(SERVICE_SCHEMA)
    assert described["name"] == "infer-with-paddle-paddle-gpu"
    assert described["controller"]["image"].endswith(f"/{GPU}:{clone.commit}")
    assert described["controller"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert described["request-schema"]["properties"]["device"]["default"] == "gpu"
    entity, tool = clone.aspect(TOOL_SCHEMA)
    assert (entity, tool["name"]) == (service, "infer_with_paddle_paddle_gpu")


@pytest.mark.long
def test_the_service_for_single_pictures_has_a_project_of_its_own(clone: Clone, bundle: Path) -> None:
    for command in ("docker-publish", "service-register", "tool-register"):
        clone.ivcap("-P", "deploy/lambda", "ivcap", command)
    service, described = clone.aspect(SERVICE_SCHEMA)
    assert described["name"] == "infer-with-paddle-paddle-lambda"
    assert described["controller-schema"] == "urn:ivcap:schema.service.rest.1"
    controller = described["controller"]
    assert controller["path"] == "/"
    assert controller["image"].endswith(f"/{LAMBDA}:{clone.commit}")
    assert controller["command"] == ["python", "-m", "service.lambda_server"]
    assert described["request-schema"]["required"] == ["model", "image"]
    assert "images" not in described["request-schema"]["properties"]
    entity, tool = clone.aspect(TOOL_SCHEMA)
    assert (entity, tool["name"]) == (service, "infer_with_paddle_paddle_lambda")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    run = ("-P", "deploy/lambda", "ivcap", "docker-run", "--", "--model", str(bundle), "--port", port)
    with clone.start(*run) as container:
        answer = upload(f"http://127.0.0.1:{port}/masks", painted(RED, GREEN), container)
        assert mask_of(answer)[0] == [0] * 12 + [1] * 12
        container_pid = int((clone.state / "container").read_text())
        os.kill(container_pid, signal.SIGTERM)
        said, _ = container.communicate(timeout=60)
    assert "ERROR" not in said


def upload(address: str, picture: bytes, container: "subprocess.Popen[str]") -> bytes:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(address, picture, timeout=60) as answer:  # noqa: S310 - an address of this machine
                return answer.read()
        except URLError:
            assert container.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("variant", ["gpu", "lambda"])
def test_all_projects_have_one_version(variant: str) -> None:
    project = tomllib.loads((ROOT / "deploy" / variant / "pyproject.toml").read_text())["project"]
    assert (project["version"], project["requires-python"]) == (PROJECT["version"], PROJECT["requires-python"])


@pytest.mark.long
def test_run_does_the_job_of_the_demo_without_the_platform(clone: Clone, platform: JobPlatform, tmp_path: Path) -> None:
    ended = clone.poetry("ivcap", "run", "--", "--test-file", "demo/job.json", IVCAP_LOCAL_DIR=str(tmp_path))
    assert '"succeeded": 4' in ended.stdout, ended.stdout + ended.stderr
    with Image.open(tmp_path / "artifacts" / "demo" / "scene_900004.pseudo.png") as mask:
        assert mask.size == (1024, 768)
    assert platform.events == []


def job_on(platform: JobPlatform, clone: Clone, bundle: Path) -> str:
    """A file with the job of the description's example; its artifacts are put on the platform."""
    contents = [bundle.read_bytes(), painted(RED), painted(RED, GREEN)]
    for urn, content in zip([EXAMPLE["model"], *EXAMPLE["images"]], contents, strict=True):
        put = platform.artifacts.pop(platform.put(f"{len(platform.artifacts)}.png", content))
        put.urn = urn
        platform.artifacts[urn] = put
    # Also where the service is the one for GPUs, which this machine may lack.
    request = {**EXAMPLE, "device": "cpu"}
    (clone.folder / "job.json").write_text(
        json.dumps({"id": "urn:ivcap:job:1", "in-content-type": "application/json", "in-content": request})
    )
    (clone.folder / "request.json").write_text(json.dumps(request))
    return "job.json"


PROJECTS = pytest.mark.parametrize("project", [(), ("-P", "deploy/gpu")], ids=["cpu", "gpu"])


def require_masks(platform: JobPlatform) -> None:
    """By hand: the network's classes are the strongest bands, 0 red and 1 green."""
    masks = [mask_of(each.content)[0] for each in platform.whole(".pseudo.png")]
    assert sorted(masks) == [[0] * 12 + [1] * 12, [0] * 24][::-1]


@pytest.mark.long
@PROJECTS
def test_run_does_a_job_with_the_artifacts_of_the_platform(
    clone: Clone, platform: JobPlatform, bundle: Path, project: tuple[str, ...]
) -> None:
    ended = clone.poetry(*project, "ivcap", "run", "--", "--test-file", job_on(platform, clone, bundle))
    assert '"succeeded": 2' in ended.stdout, ended.stdout + ended.stderr
    require_masks(platform)
    assert TOKEN not in ended.stdout + ended.stderr


@pytest.mark.long
def test_the_container_does_a_job_with_the_artifacts_of_the_platform(
    clone: Clone, platform: JobPlatform, bundle: Path
) -> None:
    clone.ivcap("ivcap", "docker-build")
    said = clone.ivcap("ivcap", "docker-run", "--", "--test-file", job_on(platform, clone, bundle))
    assert '"succeeded": 2' in said
    require_masks(platform)
    assert TOKEN not in said


@pytest.mark.long
@PROJECTS
def test_a_job_is_executed_by_the_worker_that_is_registered(
    clone: Clone, platform: JobPlatform, bundle: Path, project: tuple[str, ...]
) -> None:
    job_on(platform, clone, bundle)
    with clone.start(*project, "ivcap", "job-exec", "request.json", "--", "--timeout", "0") as waiting:
        while not platform.jobs and waiting.poll() is None:
            time.sleep(0.05)
        worker = subprocess.run(
            [sys.executable, "service.py"],
            cwd=clone.folder,
            env=clone.environment(IVCAP_BASE_URL=platform.url, IVCAP_URL=platform.url, IVCAP_JWT=TOKEN),
            capture_output=True,
            check=False,
            text=True,
        )
        assert worker.returncode == 0, worker.stderr
        said, wrong = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said + wrong
    assert '"status": "succeeded"' in said
    require_masks(platform)


@pytest.mark.long
def test_what_is_missing_is_named_where_the_environment_is_not_made(poetry_installed: None, tmp_path: Path) -> None:
    clone = new_clone(tmp_path)
    (clone.state / "pushed").mkdir()
    (clone.state / "pushed" / f"{CPU}:{clone.commit}").touch()
    ended = clone.poetry("ivcap", "service-register")
    assert ended.returncode != 0
    assert "is not installed" in ended.stderr
    assert "`make install`" in ended.stderr
    assert not (clone.state / "aspects").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        pytest.param([], {}, "there is no work", marks=pytest.mark.long),
        (["--test-file", "job.json"], {"IVCAP_URL": "https://platform.standin.example"}, "IVCAP_JWT is not set"),
        pytest.param(["--test-file", "job.json"], {}, "IVCAP_URL has to name the platform", marks=pytest.mark.long),
        pytest.param(["--test-file", "nowhere.json"], {}, "nowhere.json holds no job", marks=pytest.mark.long),
        (["--model", "model.tgz"], {}, "an order has at least one argument that begins with --ivcap:"),
        pytest.param(
            ["--print-service-description"], {"PSEG_SERVICE_DEVICE": "xpu"}, "give cpu or gpu", marks=pytest.mark.long
        ),
    ],
    ids=["no work", "no token", "no platform", "no job", "an order", "no device"],
)
def test_what_cannot_begin_says_why(tmp_path: Path, arguments: list[str], variables: dict[str, str], said: str) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"in-content": {"model": "urn:ivcap:artifact:1"}}))
    ended = subprocess.run(
        [sys.executable, ROOT / "service.py", *arguments],
        cwd=tmp_path,
        env={"PATH": os.defpath, **variables},
        capture_output=True,
        check=False,
        text=True,
    )
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr

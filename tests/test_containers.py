"""The images: who they run as, what goes in, and that the pins agree. `make image-check` builds and runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from cyclonedx.model.bom import Bom

from engine.system.machine.gpu_stacks import GPU_STACKS, PADDLE_INDEX

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIMES = {"onnxruntime", "openvino", "openvino-telemetry", "paddlepaddle"}


@dataclass(slots=True)
class Stage:
    """One stage: its base and its instructions, those of the stages that it is made from first."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def all(self, name: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == name]

    def variables(self, name: str) -> dict[str, str]:
        pairs = [re.findall(r'([\w.]+)=("[^"]*"|\S+)', text) for text in self.all(name)]
        return {key: value.strip('"') for pair in pairs for key, value in pair}


def stages(path: Path) -> dict[str, Stage]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, text = line.strip().partition(" ")
        if instruction == "FROM":
            base, name = text.split(" AS ")
            stage = Stage(base, list(found[base].instructions) if base in found else [])
            found[name] = stage
        elif instruction:
            stage.instructions.append((instruction, " ".join(text.split())))
    return found


CPU = stages(ROOT / "Dockerfile.cpu")
GPU = stages(ROOT / "Dockerfile.gpu")
IMAGES = {"onnx": CPU["onnx"], "paddle": CPU["paddle"], "gpu-onnx": GPU["gpu-onnx"], "gpu": GPU["service"]}


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        reason = "hadolint is not installed: it comes with the development requirements"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run([hadolint, "--no-color", name], capture_output=True, check=False, cwd=ROOT, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_the_default_target_runs_every_bundle() -> None:
    assert list(CPU)[-1] == "paddle"
    assert list(GPU)[-1] == "service"


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_an_image_runs_orders_as_a_user_without_rights(image: Stage) -> None:
    assert image.all("USER")[-1] == "10001:0"
    assert image.all("ENTRYPOINT") == ['["python", "/app/service.py"]']
    assert (ROOT / "service.py").is_file()
    assert image.instructions.index(("USER", "10001:0")) > max(
        number for number, (name, _) in enumerate(image.instructions) if name in {"RUN", "COPY"}
    )


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_what_the_user_may_write_is_where_the_service_writes(image: Stage) -> None:
    folders = image.variables("ENV")
    (made,) = [text for text in image.all("RUN") if "install -d" in text]
    writable = made.partition("install -d -o 10001 -g 0 -m 0775 ")[2].split()
    assert {folders["HOME"], folders["XDG_CACHE_HOME"], *image.all("WORKDIR")} <= set(writable)
    # The platform's library insists on these.
    assert {"/data/in", "/data/out", "/data/cache"} <= set(writable)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_version_commit_and_date_reach_banner_and_labels(image: Stage) -> None:
    arguments, environment, labels = image.variables("ARG"), image.variables("ENV"), image.variables("LABEL")
    for argument, names, label in (
        ("PSEG_VERSION", ("PSEG_VERSION", "IVCAP_SERVICE_VERSION"), "version"),
        ("PSEG_COMMIT", ("PSEG_COMMIT", "IVCAP_SERVICE_COMMIT"), "revision"),
        ("PSEG_BUILD_DATE", ("PSEG_BUILD_DATE", "IVCAP_SERVICE_BUILD"), "created"),
    ):
        assert arguments[argument] == (PYPROJECT["project"]["version"] if argument == "PSEG_VERSION" else "unknown")
        assert {environment[name] for name in names} == {f"${{{argument}}}"}
        assert labels[f"org.opencontainers.image.{label}"] == f"${{{argument}}}"
    # Poetry's plugin hands over all three in one argument, which the platform's library logs.
    assert (arguments["VERSION"], environment["VERSION"]) == ("${PSEG_VERSION}", "${VERSION}")


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_an_image_is_made_from_the_base_and_takes_results_only(image: Stage) -> None:
    assert not [text for text in image.all("RUN") if "pip" in text]
    assert {text.split()[0] for text in image.all("COPY")} <= {
        "--from=project",
        "--from=libraries",
        "--from=libraries-onnx",
        "--from=libraries-paddle",
    }


@pytest.mark.parametrize(
    ("wheel", "left"),
    [
        # The plugins of openvino 2026.4.1, by processor.
        ({"intel_cpu", "intel_gpu", "intel_npu", "hetero"}, {"intel_cpu", "hetero"}),
        ({"arm_cpu", "auto", "hetero"}, {"arm_cpu", "auto", "hetero"}),
    ],
    ids=["x86_64", "aarch64"],
)
def test_openvino_loses_the_parts_for_other_processors_if_it_has_them(
    tmp_path: Path, wheel: set[str], left: set[str]
) -> None:
    (installed,) = [text for text in CPU["libraries-paddle"].all("RUN") if "openvino" in text]
    removal = installed.rpartition("&& ")[2]
    folder = "/opt/pseg/lib/python3.11/site-packages/openvino/libs"
    assert removal.count(folder) == 1
    for name in wheel:
        (tmp_path / f"libopenvino_{name}_plugin.so").touch()
    subprocess.run(["sh", "-c", removal.replace(folder, str(tmp_path))], check=True)
    assert {each.name for each in tmp_path.iterdir()} == {f"libopenvino_{name}_plugin.so" for name in left}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_an_image_lists_what_it_holds(image: Stage) -> None:
    listing = image.instructions.index(("RUN", "python /app/write-sbom /app/sbom.json"))
    assert listing > max(number for number, (name, _) in enumerate(image.instructions) if name == "COPY")


def test_the_list_names_every_installed_package(tmp_path: Path) -> None:
    path = tmp_path / "sbom.json"
    subprocess.run([sys.executable, str(ROOT / "write-sbom"), str(path)], check=True, cwd=tmp_path)
    listing = json.loads(path.read_text())
    assert (listing["bomFormat"], listing["specVersion"]) == ("CycloneDX", "1.6")
    found = [each["purl"] for each in listing["components"]]
    assert len(found) == len(set(found))
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True,
        check=True,
    )
    for each in json.loads(pip.stdout):
        name = re.sub(r"[-_.]+", "-", each["name"]).lower()
        assert f"pkg:pypi/{name}@{each['version'].replace('+', '%2B')}" in found
    # A library that reads such lists is the judge of its form.
    components = cast("Any", Bom).from_json(listing).components
    assert len(components) == len(found)


def test_all_images_have_the_same_base() -> None:
    bases = {line for name in ("Dockerfile.cpu", "Dockerfile.gpu") for line in argument_lines(name, "BASE")}
    assert bases == {"ARG BASE=python:3.11-slim-bookworm"}
    assert {stage.base for stage in (*CPU.values(), *GPU.values())} <= {"${BASE}", *CPU, *GPU}


def argument_lines(name: str, argument: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(f"ARG {argument}")]


def test_both_files_build_the_project_alike() -> None:
    assert CPU["project"] == GPU["project"]


def test_everything_but_the_gpu_builds_is_locked_with_hashes() -> None:
    installs = [
        part
        for stage in (*CPU.values(), *GPU.values())
        for text in stage.all("RUN")
        for part in text.split(" && ")
        if "pip" in part and " install " in part
    ]
    free = {part for part in installs if "--require-hashes" not in part and "--no-index" not in part}
    assert installs
    assert len(free) == 2
    assert all("--constraint locked.txt" in each for each in free)


def test_the_small_image_has_the_same_versions_and_no_paddle() -> None:
    small = locked("requirements-onnx.txt")
    assert small.items() <= locked("requirements.txt").items()
    assert {"onnxruntime", "ivcap-sdk-service", "ivcap-service"} <= set(small)
    assert not {"paddlepaddle", "paddle2onnx"} & set(small)


def test_the_gpu_image_has_the_same_versions_of_all_but_the_runtimes() -> None:
    everything = locked("requirements.txt")
    assert locked("requirements-gpu.txt") == {
        name: version for name, version in everything.items() if name not in RUNTIMES
    }


def test_what_builds_is_what_the_lock_says() -> None:
    assert locked("requirements-build.txt").items() <= locked("requirements.txt").items()


def test_the_gpu_builds_belong_together() -> None:
    arguments = GPU["libraries"].variables("ARG")
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert extras["paddle"] == [f"paddlepaddle=={arguments['PADDLE_VERSION']}"]
    assert arguments["PADDLE_INDEX"] == PADDLE_INDEX
    # One CUDA: the index names its version, TensorRT its major one, and onnxruntime-gpu 1.26 is the last for 12.
    assert arguments["TENSORRT"] == "tensorrt-cu12>=10.14,<11"
    assert arguments["ONNXRUNTIME_VERSION"] == "1.26.0"


def test_the_gpu_images_are_the_gpu_service() -> None:
    for name in ("gpu-onnx", "gpu"):
        environment = IMAGES[name].variables("ENV")
        assert environment["PSEG_SERVICE_DEVICE"] == "gpu"
        assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
        assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
    assert IMAGES["gpu"].variables("ENV")["LD_LIBRARY_PATH"].endswith("/tensorrt_libs")


def test_the_small_gpu_image_needs_no_index_but_the_ordinary_one() -> None:
    assert not [text for text in GPU["libraries-onnx"].all("RUN") if "index" in text.replace("--no-index", "")]
    assert "index" in " ".join(GPU["libraries"].all("RUN"))
    assert "--from=libraries-onnx /opt/pseg /opt/pseg" in IMAGES["gpu-onnx"].all("COPY")


def test_other_images_ask_for_no_gpu() -> None:
    assert "PSEG_SERVICE_DEVICE" not in {**IMAGES["onnx"].variables("ENV"), **IMAGES["paddle"].variables("ENV")}


def test_no_other_place_on_the_network_is_named() -> None:
    names = ["Dockerfile.cpu", "Dockerfile.gpu", ".dockerignore", "image-check", "lock-requirements"]
    locks = sorted(path.name for path in ROOT.glob("requirements*"))
    addresses = {
        address
        for name in names + locks
        for address in re.findall(r"https?://\S+", (ROOT / name).read_text(encoding="utf-8"))
    }
    assert addresses == {PADDLE_INDEX}


def test_what_the_images_need_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {package.partition(".")[0] for package in PYPROJECT["tool"]["setuptools"]["packages"]} <= kept
    assert {
        "service.py",
        "pyproject.toml",
        PYPROJECT["project"]["readme"],
        *PYPROJECT["project"]["license-files"],
    } <= kept
    locks = {word for stage in (*CPU.values(), *GPU.values()) for text in stage.all("COPY") for word in text.split()}
    assert {word for word in locks if word.startswith("requirements")} <= {path.name for path in ROOT.glob("req*.txt")}
    assert "requirements*.txt" in kept


def test_the_check_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([str(ROOT / "image-check"), "--push"], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: ./image-check [--gpu] [--keep]\n")


def test_image_and_documents_quote_the_stacks() -> None:
    cuda_12 = GPU_STACKS[0]
    arguments = GPU["libraries"].variables("ARG")
    assert f"onnxruntime-gpu[cuda,cudnn]=={arguments['ONNXRUNTIME_VERSION']}" == cuda_12.onnxruntime
    assert arguments["TENSORRT"].strip('"') == cuda_12.tensorrt
    assert f"paddlepaddle-gpu=={arguments['PADDLE_VERSION']}" == cuda_12.paddle
    assert arguments["PADDLE_INDEX"] == PADDLE_INDEX
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for stack in GPU_STACKS:
        told = (stack.onnxruntime, stack.tensorrt, stack.paddle or "", f"{stack.driver} or later", *stack.capabilities)
        assert [each for each in told if each not in text] == []

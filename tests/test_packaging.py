"""The project is an application: installed from its own folder, with locked requirements, never uploaded."""

import importlib.util
import json
import re
import subprocess
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]
LOCKED = sorted(ROOT.glob("requirements*.txt"))
REQUIREMENT = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,._ -]+\])?==\S+( ; .+)?((?: --hash=sha256:[0-9a-f]{64})+)")
MACHINES = ("x86_64", "aarch64")


def _locked_requirements(path: str) -> list[Requirement]:
    lines = re.findall(r"^([a-z0-9][^\\\n]*==[^\\\n]*)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    return [Requirement(each) for each in lines]


def _applies(requirement: Requirement, environment: dict[str, str] | None = None) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("package", ["engine", "engine.runtimes", "converters", "service", "benchmarks", "demo"])
def test_a_package_is_the_one_of_this_repository(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT.joinpath(*package.split("."), "__init__.py"))


def test_every_python_file_belongs_to_a_listed_package_or_the_laboratory() -> None:
    top = {package.partition(".")[0] for package in PACKAGES}
    folders = {path.parent.relative_to(ROOT) for name in top for path in (ROOT / name).rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders}
    laboratory = {package for package in packages if package.startswith("benchmarks.lab")}
    assert laboratory
    assert packages - laboratory == set(PACKAGES)


def test_editors_find_the_packages() -> None:
    """An import hook, which is how setuptools installs several packages by default, is followed by no type checker."""
    (installed,) = Path(sysconfig.get_path("purelib")).glob("__editable__.*.pth")
    assert Path(installed.read_text().strip()) == ROOT, "run `make` once, which installs the project again"
    assert all((ROOT / name / "py.typed").is_file() for name in ("engine", "converters", "service"))


def test_every_listed_package_is_a_regular_one() -> None:
    assert [name for name in PACKAGES if not ROOT.joinpath(*name.split("."), "__init__.py").is_file()] == []


def test_the_project_is_never_uploaded() -> None:
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]


def test_the_command_is_where_it_says() -> None:
    assert PYPROJECT["project"]["scripts"] == {"pseg": "service.start:main"}


def test_there_are_locked_requirements() -> None:
    assert {"requirements.txt", "requirements-dev.txt", "requirements-oracles.txt"} <= {path.name for path in LOCKED}


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    assert [line for line in lines if not REQUIREMENT.fullmatch(line)] == []


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_no_address_is_locked_in(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [word for word in ("http://", "https://", "--index-url", "--find-links", "file:") if word in text] == []


def test_the_bounds_of_python_are_stated_once_and_meant_everywhere() -> None:
    admitted = SpecifierSet(PYPROJECT["project"]["requires-python"])
    versions = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in admitted]
    assert versions == ["3.11", "3.12", "3.13"]
    environments = PYPROJECT["tool"]["uv"]["environments"]
    assert len(environments) == len(MACHINES)
    for environment, machine in zip(environments, MACHINES, strict=True):
        on = {"sys_platform": "linux", "platform_machine": machine}
        marker = Marker(environment)
        locked = [f"3.{minor}" for minor in range(11, 30) if marker.evaluate({**on, "python_version": f"3.{minor}"})]
        assert locked == versions
    assert f"--python-version {versions[0]} " in (ROOT / "lock-requirements").read_text(encoding="utf-8")
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == versions[0]
    said = subprocess.run([ROOT / "test-pythons", "--list"], capture_output=True, check=True, text=True)
    assert said.stdout.split() == versions


@pytest.mark.parametrize(
    ("path", "left_out"),
    [("requirements-onnx.txt", set[str]()), ("requirements.txt", {"onnxoptimizer", "paddle2onnx", "polygraphy"})],
)
def test_what_runs_is_locked_for_both_kinds_of_processors(path: str, left_out: set[str]) -> None:
    x86, aarch64 = (
        {each.name for each in _locked_requirements(path) if _applies(each, {"platform_machine": machine})}
        for machine in MACHINES
    )
    assert {"numpy", "onnxruntime", "rasterio"} <= aarch64 <= x86
    assert x86 - aarch64 <= left_out


def test_the_check_for_aarch64_says_what_it_lacks() -> None:
    command = ["env", "UV=no-such-uv", ROOT / "aarch64-check"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("aarch64: NOT CHECKED: uv is needed")


def test_one_requirement_is_overridden_and_no_other_is_broken() -> None:
    names = [each.name for each in _locked_requirements("requirements.txt") if _applies(each)]
    assert {"numpy", "onnx", "onnxruntime"} <= set(names)
    broken: list[str] = []
    for name in names:
        for stated in metadata.requires(name) or []:
            requirement = Requirement(stated)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True):
                broken.append(f"{name}: {requirement.name}")
    assert broken == (["paddle2onnx: onnx"] if "paddle2onnx" in names else [])


def test_no_locked_version_has_a_listed_vulnerability() -> None:
    advisories: list[dict[str, Any]] = json.loads((ROOT / "requirements-advisories.json").read_text())
    assert advisories
    for advisory in advisories:
        locked = [
            found
            for path in LOCKED
            for found in re.findall(rf"^{advisory['package']}==(\S+)", path.read_text(), re.MULTILINE)
        ]
        assert locked, advisory
        assert [version for version in locked if Version(version) < Version(advisory["fixed_in"])] == []
        told = (advisory["package"], ", ".join(advisory["ids"]), advisory["fixed_in"], ", ".join(sorted({*locked})))
        assert f"| {' | '.join(told)} |" in (ROOT / "docs" / "security.md").read_text()

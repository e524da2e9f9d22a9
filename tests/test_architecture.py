"""What an import may cost, and what the engine promises to the outside."""

import ast
import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

import engine
from demo import command_reference, reference
from demo.reference import signatures
from engine.declaration import Options

VENDORS = (
    *("paddle", "onnxruntime", "paddle2onnx", "onnx", "openvino", "paddleseg"),
    *("ray", "pyarrow", "fsspec", "rasterio", "pyogrio", "shapely", "pi_heif"),
)
ROOT = Path(__file__).parents[1]
PACKAGES = ("engine", "converters", "service", "demo")
PINNED: dict[str, list[str]] = json.loads((Path(__file__).parent / "golden" / "api.json").read_text())
PUBLIC_NAMES = [name for name in PINNED if name != "open_model"]

IMPORT_AND_LIST = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(name for name in sys.modules if name.partition(".")[0] in sys.argv[2:])))
"""
RUN_AND_LIST = """
import json, sys
from service.start import main
sys.argv = ["pseg", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps(sorted(sys.modules)))
"""
NOT_OF_A_PHOTOGRAPH = (
    *("http", "ssl", "urllib.request", "urllib3", "requests", "xml", "html", "asyncio", "multiprocessing", "tomllib"),
    *("rich", "jinja2", "jsonschema", "referencing", "concurrent.futures.process", "PIL.ImageDraw", "PIL.ImageFont"),
    *("paddle", "openvino", "onnx", "rasterio", "pyogrio", "shapely", "pi_heif", "pyarrow", "ray"),
    *("engine.gdal", "engine.images.tiff", "engine.rasters.geotiff", "engine.rasters.tiles", "engine.rasters.polygons"),
    *("converters", "benchmarks", "service.ivcap", "service.surveys", "service.results.rasters"),
    *("service.results.report", "service.inspection", "engine.gpu"),
)
"""What a run that segments a photograph with a known ONNX model has no use for."""
IMPORT_WITHOUT_VENDORS = """
import importlib, sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in VENDORS:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

MODULES, VENDORS = sys.argv[1].split(","), sys.argv[2].split(",")
sys.meta_path.insert(0, Absent())
for name in MODULES:
    importlib.import_module(name)
"""


def submodules(package: str) -> list[str]:
    found: ModuleType = importlib.import_module(package)
    return [package, *(each.name for each in pkgutil.walk_packages(found.__path__, f"{package}."))]


def in_child(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["engine", "converters", "service", "service.cli"])
def test_an_import_loads_no_vendor_library(package: str) -> None:
    assert json.loads(in_child(IMPORT_AND_LIST, package, *VENDORS)) == []


def test_a_run_over_a_photograph_imports_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    demo = ROOT / "demo"
    inputs = (str(demo / "demo_seagrass.tgz"), str(demo / "pictures" / "scene_900004.jpg"))
    options = ("--runtime", "onnx", "--threads", "1", "--cache-dir", str(tmp_path / "cache"))
    told = in_child(RUN_AND_LIST, "predict", *inputs, *options, "--out", str(tmp_path / "masks"))
    loaded: list[str] = json.loads(told.splitlines()[-1])
    assert {"onnxruntime", "service.results.ledger"} <= {*loaded}
    assert [name for name in loaded if any(f"{name}.".startswith(f"{each}.") for each in NOT_OF_A_PHOTOGRAPH)] == []


def test_every_module_imports_where_no_vendor_library_is_installed() -> None:
    modules = [name for package in PACKAGES for name in submodules(package)]
    assert len(modules) > 25
    in_child(IMPORT_WITHOUT_VENDORS, ",".join(modules), ",".join(VENDORS))


def test_the_public_names_are_these() -> None:
    assert engine.__all__ == PUBLIC_NAMES


@pytest.fixture(scope="module")
def interface() -> dict[str, list[str]]:
    return signatures()


@pytest.mark.parametrize("name", PINNED)
def test_the_interface_is_this(name: str, interface: dict[str, list[str]]) -> None:
    assert interface[name] == PINNED[name], "if it is meant: edit tests/golden/api.json, and say so in CHANGELOG.md"


@pytest.mark.parametrize("written", [reference, command_reference])
def test_a_page_that_the_code_writes_is_up_to_date(written: ModuleType) -> None:
    assert written.PAGE.read_text(encoding="utf-8") == written.page(), "run `make api`"


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_name_is_there_and_described(name: str) -> None:
    assert getattr(engine, name).__doc__


def test_the_errors_form_one_family() -> None:
    errors = [getattr(engine, name) for name in PUBLIC_NAMES if name.endswith("Error")]
    assert all(issubclass(error, engine.EngineError) for error in errors)


def test_examples_in_docstrings_are_true() -> None:
    files = [path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py")]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if ">>> " in path.read_text("utf-8")
    ]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in modules}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) >= 10


def classes(kind: type) -> set[type]:
    return {below for each in kind.__subclasses__() for below in (each, *classes(each))}


def test_no_group_of_options_is_long() -> None:
    for package in (*PACKAGES, "benchmarks"):
        for name in submodules(package):
            if "lab" not in name.split("."):
                importlib.import_module(name)
    groups = classes(Options)
    assert len(groups) > 10
    assert {each.__name__: len(fields(each)) for each in groups if len(fields(each)) > 12} == {}


@pytest.mark.parametrize("package", ["engine", "converters"])
def test_no_message_of_the_library_names_a_flag(package: str) -> None:
    """Users of the service and of the library have no command line."""
    found: list[str] = []
    for path in (Path(engine.__file__).parents[1] / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        described = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in described:
                continue
            if re.search(r"(^|[\s(`])--[a-z]", node.value):
                found.append(f"{path.name}:{node.lineno}: {node.value}")
    assert found == []

"""Bundles and pictures to measure with, and the table that ends the run."""

import os
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from benchmarks.lab.networks import write_text_network
from benchmarks.lab.runtimes import EVERY
from benchmarks.lab.suites.report import Measured, table
from converters.conversion import convert
from converters.repository import Repository
from engine import Bundle, Precision, Predictor, RuntimeUnavailableError, open_predictor

DEMO = Path(__file__).resolve().parents[3] / "demo"
SHARED_BUNDLES = {"segformer": "legacy_segformer_b0_logits.tgz", "pp-liteseg": "legacy_pp_liteseg_stdc1.tgz"}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Print what the file holds that pytest-benchmark is about to write."""
    sys.stdout.write(f"\n{table(Measured.model_validate(output_json))}\n")


class OpenPredictor(Protocol):
    """Opens a predictor of an open bundle."""

    def __call__(self, bundle: Bundle, runtime: str, streams: int = 1) -> AbstractContextManager[Predictor]: ...


def shared_data() -> Path:
    """Find the folder of shared data, or skip."""
    folder = os.environ.get("PSEG_SHARED_DATA")
    if folder is None:
        pytest.skip("PSEG_SHARED_DATA names no folder: the legacy bundles are not measured")
    return Path(folder)


def _demo_bundle() -> Path:
    found = sorted(DEMO.glob("demo*.tgz"))
    if not found:
        pytest.skip(f"no demo bundle in {DEMO}: run `make demo-model`")
    return found[0]


@pytest.fixture(scope="session")
def bundle_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the test's parameter names: demo, nuclei, segformer, pp-liteseg or text."""
    name: str = request.param
    if name == "nuclei":
        return DEMO / "nuclei.tgz"
    if name == "demo":
        return _demo_bundle()
    if name == "text":
        return write_text_network(tmp_path_factory.mktemp("text"))
    return shared_data() / "bundles" / SHARED_BUNDLES[name]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is converted in this session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def open_named(cache: Path) -> OpenPredictor:
    """Opens a predictor of an open bundle on the runtime of that name; skips what machine or bundle do not have."""
    repository = Repository(cache / "onnx")

    def open_one(bundle: Bundle, runtime: str, streams: int = 1) -> Predictor:
        request = replace(EVERY[runtime], streams=streams)
        precision = request.precision or Precision.FP32
        if precision is not Precision.FP32 and bundle.onnx_model(precision) is None:
            pytest.skip(f"{bundle.name} holds no {precision} model")
        try:
            return open_predictor(
                bundle, request, convert=lambda each: convert(each, repository).model, load_marks=cache / "loadable"
            )
        except RuntimeUnavailableError as error:
            pytest.skip(str(error))

    return open_one

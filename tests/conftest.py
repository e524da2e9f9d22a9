"""Small real networks and their conversions, made once a session; and the data that is not in the repository."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# Paddle and PaddleSeg ship no type information.

import gc
import os
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from benchmarks.lab.zoo.weights import adopt_statistics
from converters.conversion import convert
from converters.exporting.export import ExportClass, OutputOp, export_bundle
from converters.repository import Repository
from engine import Bundle, OnnxModel, open_bundle
from engine.runtimes import Tensor
from service.logs import make_records_legible
from tests.launcher import Launcher

# How long an example takes says something of the machine only, which others may keep busy.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")

ExportNetwork = Callable[..., Path]
Convert = Callable[[Bundle], OnnxModel]

CLASSES = (ExportClass("sand", (230, 210, 160)), ExportClass("seagrass", (40, 140, 60)), ExportClass("rock"))
NORMALIZE: dict[str, object] = {"type": "Normalize"}


class _FailuresAtOnce:
    """Names each failure when it happens: a run that is ended from outside comes to no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when}): {report.longreprtext[-2000:]}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_FailuresAtOnce(config))


def pytest_collection_finish() -> None:
    # What was collected stays to the end; to search it for garbage again and again takes a quarter of the time.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """What starts child processes."""
    return Launcher(monkeypatch)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of images and legacy bundles that are not committed."""
    named = os.environ.get("PSEG_SHARED_DATA")
    if named is not None and Path(named).is_dir():
        return Path(named)
    reason = "PSEG_SHARED_DATA names no folder: set it to the folder of shared images and bundles"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this run of the tests, which its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def caches_of_this_run(run_folder: Path) -> Generator[None]:
    """Commands that name no cache neither find what earlier runs left nor leave anything to the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(run_folder / "caches"))
        yield


@pytest.fixture(scope="session")
def conversions(run_folder: Path) -> Repository:
    """The cache of conversions of this run of the tests."""
    if sys.version_info >= (3, 13):
        pytest.skip("paddle2onnx 2.1.0 has no build for this Python: bundles are converted on Python 3.11 and 3.12")
    return Repository(run_folder / "conversions")


@pytest.fixture(scope="session")
def converter(conversions: Repository, load_marks: Path) -> Convert:
    """What the front doors hand to `open_predictor`."""
    return lambda bundle: convert(bundle, conversions, load_marks=load_marks).model


@pytest.fixture(scope="session")
def load_marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which models loaded in this session."""
    return tmp_path_factory.mktemp("load_marks")


@contextmanager
def vendor_warnings_ignored() -> Generator[None]:
    """Paddle and PaddleSeg warn when they are imported and when they trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def balanced(network: Any, images: Tensor) -> Any:
    """The network with the median of each class's scores on these images taken off, so that none wins everywhere."""
    import paddle

    with paddle.no_grad():
        scores = network(paddle.to_tensor(images))[0].numpy()

    class Balanced(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("medians", paddle.to_tensor(np.median(scores, axis=(0, 2, 3), keepdims=True)))

        def forward(self, x: Any) -> list[Any]:
            return [self.network(x)[0] - self.medians]

    return Balanced()


@pytest.fixture(scope="session")
def export_network(tmp_path_factory: pytest.TempPathFactory) -> ExportNetwork:
    """Build a network from a seed and export it; the folder comes back."""
    root = tmp_path_factory.mktemp("networks")

    def export(
        name: str,
        build: Callable[[], Any],
        *,
        output_op: OutputOp = "none",
        classes: int = 2,
        settle: bool = True,
        balance_on: Tensor | None = None,
    ) -> Path:
        with vendor_warnings_ignored():
            import paddle

            paddle.seed(7)
            network = build()
            if settle:
                adopt_statistics(network)
            if balance_on is not None:
                network = balanced(network, balance_on)
            return export_bundle(
                network,
                root / name,
                name=name,
                classes=CLASSES[:classes],
                transforms=[NORMALIZE],
                output_op=output_op,
            )

    return export


@pytest.fixture(scope="session")
def small_network(export_network: ExportNetwork) -> Path:
    """PP-HumanSeg-Lite: three classes, logits, any input size; 0.4 MB."""
    with vendor_warnings_ignored():
        from paddleseg.models import PPHumanSegLite

    return export_network("human-seg-lite", lambda: PPHumanSegLite(num_classes=3), classes=3)


@pytest.fixture(scope="session")
def refused_network(export_network: ExportNetwork) -> Path:
    """A convolution and a Fourier transform there and back, for which paddle2onnx has no operator."""
    with vendor_warnings_ignored():
        import paddle

    class Spectrum(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = paddle.nn.Conv2D(3, 2, 3, padding=1)

        def forward(self, x: Any) -> list[Any]:
            logits = self.convolution(x)
            return [paddle.fft.ifft2(paddle.fft.fft2(logits)).real()]

    return export_network("spectrum", Spectrum, settle=False)


@pytest.fixture(scope="session")
def small_bundle(small_network: Path, converter: Convert) -> Bundle:
    """The small network with its conversion."""
    with open_bundle(small_network) as bundle:  # from a folder: nothing is unpacked, it stays when it is closed
        return bundle.with_onnx(converter(bundle))


@pytest.fixture(scope="session", autouse=True)
def legible_logs() -> None:
    """Captured logs travel between the processes of the tests as UTF-8: names that are not Unicode are shown."""
    make_records_legible()

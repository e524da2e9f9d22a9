"""A session keeps its provider, or fails; the first run under TensorRT has the profile's shape."""
# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportAttributeAccessIssue=false
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi import _pybind_state

from engine import Bundle, InferenceError, OnnxModel, OnnxOptions, Precision, Provider, RuntimeUnavailableError
from engine.options import DynamicShapeProfile, ShapeRange
from engine.runtimes import TensorSpec, probe_feeds
from engine.runtimes.onnx import OnnxRuntime, providers


def fp32(bundle: Bundle) -> OnnxModel:
    model = bundle.onnx_model(Precision.FP32)
    assert model is not None
    return model


class FailingProvider:
    """What a session runs on, whose provider fails as a lost GPU makes it fail."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *_arguments: object) -> None:
        raise _pybind_state.EPFail("the provider failed")


def test_a_provider_that_fails_is_not_replaced(small_bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = OnnxRuntime(fp32(small_bundle), OnnxOptions())
    with runtime._sessions.lend() as session:
        session._sess = FailingProvider(session._sess)
    with pytest.raises(InferenceError, match="the provider failed"):
        runtime.run(probe_feeds(runtime.inputs))
    # Left to itself, the session says on the standard output that it goes on with another provider.
    assert capfd.readouterr().out == ""


def test_a_result_of_another_provider_is_dropped(small_bundle: Bundle) -> None:
    runtime = OnnxRuntime(fp32(small_bundle), OnnxOptions())
    with runtime._sessions.lend() as session:
        session._providers = ["SomeExecutionProvider"]
    with pytest.raises(InferenceError, match=r"provider cpu was lost during a run.*SomeExecutionProvider.*is dropped"):
        runtime.run(probe_feeds(runtime.inputs))


def test_a_session_is_made_without_the_library_s_own_fallback(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Mapping[str, Any]] = []
    usual = onnxruntime.InferenceSession

    def watched(*arguments: Any, **named: Any) -> Any:
        made.append(named)
        return usual(*arguments, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    OnnxRuntime(fp32(small_bundle), OnnxOptions(threads=4, streams=2))
    assert [each["enable_fallback"] for each in made] == [0, 0]


@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
def test_an_absent_provider_says_what_to_install(provider: Provider, small_bundle: Bundle) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(RuntimeUnavailableError, match=r"onnxruntime-gpu\[cuda,cudnn\]==1\.26\.0"):
        OnnxRuntime(fp32(small_bundle), OnnxOptions(provider=provider))


def test_the_first_run_lies_inside_the_profile() -> None:
    x = TensorSpec("x", np.dtype("float32"), (None, 3, None, None))
    scale = TensorSpec("scale", np.dtype("float32"), (None, 2))
    shapes = DynamicShapeProfile((("x", ShapeRange((1, 3, 512, 512), (2, 3, 512, 640), (4, 3, 512, 640))),))
    found = {name: tensor.shape for name, tensor in probe_feeds((x, scale), shapes).items()}
    assert found == {"x": (2, 3, 512, 640), "scale": (1, 2)}


def test_a_model_does_not_decide_on_its_session(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment allows it, ONNX Runtime takes settings from a model, here to write a file."""
    model = onnx.load(fp32(small_bundle).path)
    settings = {"ort_config": json.dumps({"session_options": {"enable_profiling": 1}})}
    onnx.helper.set_model_props(model, settings)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    OnnxRuntime(OnnxModel(path, Precision.FP32, "0" * 64), OnnxOptions()).close()
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


# ---- plugins ----------------------------------------------------------------------------------------------------


class Library:
    """ONNX Runtime with the providers and devices of another machine."""

    class OrtHardwareDeviceType:
        CPU, GPU = "cpu kind", "gpu kind"

    def __init__(self, *built_in: str, offered: tuple[int, ...] = ()) -> None:
        """`offered` are the GPUs of the plugin, in the order of the bus, by CUDA's numbers."""
        self.built_in = list(built_in)
        self.registered: list[tuple[str, str]] = []
        self.offered = offered

    def get_available_providers(self) -> list[str]:
        return self.built_in

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        class Device:
            def __init__(self, name: str, kind: str, **metadata: str) -> None:
                self.ep_name = name
                self.ep_metadata = metadata
                self.device = type("Hardware", (), {"type": kind, "vendor": "NVIDIA"})

        return [Device("CPUExecutionProvider", "cpu kind")] + [
            Device(name, "gpu kind", cuda_device_id=str(number))
            for name, _ in self.registered
            for number in self.offered
        ]


class Preloading(Library):
    """As ONNX Runtime tells what it cannot open."""

    __version__ = "1.26.0"

    def __init__(self, *missing: str) -> None:
        super().__init__("CUDAExecutionProvider")
        self.missing = missing

    def preload_dlls(self) -> None:
        # In a wheel it may be damaged, and then be found where the linker looks.
        print("Failed to load /site-packages/nvidia/cublas/lib/libcublas.so.12: file too short")
        for name in self.missing:
            print(f"Failed to load {name}: {name}: cannot open shared object file")


def test_a_missing_library_of_cuda_is_named_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(providers, "require_gpu", lambda _number: None)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(providers, "load_library", lambda: Preloading("libnvrtc.so.12"))
    providers.require_provider(Provider.CUDA)  # which the provider is not linked with
    monkeypatch.setattr(providers, "load_library", lambda: Preloading("libnvrtc.so.12", "libcudnn.so.9"))
    with pytest.raises(RuntimeUnavailableError, match=r"^libcudnn\.so\.9 cannot be opened .*: install 'onnx"):
        providers.require_provider(Provider.CUDA)
    assert capsys.readouterr().out == ""


@pytest.fixture
def cuda_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Generator[None]:
    """A package as NVIDIA's plugin comes in, with its two functions."""
    package = tmp_path / "onnxruntime_ep_cuda"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def get_ep_name(): return 'CudaPlugin'\ndef get_library_path(): return '/plugin.so'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(providers, "_registered", set[str]())
    yield
    sys.modules.pop("onnxruntime_ep_cuda", None)


@pytest.mark.usefixtures("cuda_plugin")
def test_cuda_comes_from_its_plugin_where_it_is_not_built_in() -> None:
    library = Library("CPUExecutionProvider", offered=(0, 1))
    assert providers.is_plugin(library, Provider.CUDA)
    providers.plugin_devices(library, Provider.CUDA)
    found = providers.plugin_devices(library, Provider.CUDA)
    assert (found.name, len(found.devices)) == ("CudaPlugin", 2)
    assert library.registered == [("CudaPlugin", "/plugin.so")]
    assert not providers.is_plugin(Library("CUDAExecutionProvider"), Provider.CUDA)
    assert not providers.is_plugin(library, Provider.TENSORRT)


@pytest.mark.usefixtures("cuda_plugin")
@pytest.mark.parametrize("offered", [(0, 1), (1, 0)])
def test_a_plugin_s_gpu_is_that_of_cuda_s_number(offered: tuple[int, ...]) -> None:
    """CUDA counts the fastest GPU first, and ONNX Runtime lists devices in the order of the bus."""
    plugin = providers.plugin_devices(Library("CPUExecutionProvider", offered=offered), Provider.CUDA)
    for number in (0, 1):
        found = providers._numbered(plugin, OnnxOptions(Provider.CUDA, device_id=number))
        assert found.ep_metadata == {"cuda_device_id": str(number)}


@pytest.mark.usefixtures("cuda_plugin")
def test_a_plugin_that_takes_two_cards_of_one_model_for_one() -> None:
    """The first plugins keep what they know of a device by its model: both cards have the number of the first."""
    plugin = providers.plugin_devices(Library("CPUExecutionProvider", offered=(0, 0)), Provider.CUDA)
    told = r"^GPU 1 was asked for, but CudaPlugin offers gpu:0: set CUDA_VISIBLE_DEVICES=1 and ask for gpu$"
    with pytest.raises(RuntimeUnavailableError, match=told):
        providers._numbered(plugin, OnnxOptions(Provider.CUDA, device_id=1))


@pytest.mark.usefixtures("cuda_plugin")
def test_a_plugin_without_a_device() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"its plugin offers no GPU of this machine .vendors: NVIDIA"):
        providers.plugin_devices(Library("CPUExecutionProvider"), Provider.CUDA)


def test_without_a_plugin_cuda_is_absent() -> None:
    assert not providers.is_plugin(Library("CPUExecutionProvider"), Provider.CUDA)

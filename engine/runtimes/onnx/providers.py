"""Execution providers: built into ONNX Runtime, or registered from a plugin; what has to be there for each.

The only engine file that imports onnxruntime.
"""

# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import importlib
import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any

from engine.errors import RuntimeUnavailableError
from engine.options import OnnxOptions, Provider
from engine.runtimes.onnx.settings import PROVIDER_NAMES, SessionPlan
from engine.system.libraries import installed_version
from engine.system.machine.gpu_stacks import how_to_install
from engine.system.machine.nvidia import TENSORRT_LIBRARIES, open_libraries, require_gpu

PLUGINS: Mapping[Provider, str] = {Provider.CUDA: "onnxruntime_ep_cuda"}
"""Providers that also lie in a distribution of their own: the module that tells the path of its library and the name of
its provider. It is used where the provider is not built into the installed ONNX Runtime."""


_CUDA_NUMBER = "cuda_device_id"
"""What CUDA's plugin tells of a device that it offers: the number by which it opens it."""
_NOT_OPENED = re.compile(r"^Failed to load (lib[^/\s]+): (.*)$", re.MULTILINE)
_CUDA_NEEDS = ("libcublasLt.so", "libcublas.so", "libcudart.so", "libcudnn.so", "libcufft.so", "libcurand.so")
"""What the library of the CUDA provider is linked with."""


@dataclass(frozen=True, slots=True)
class PluginDevices:
    """A registered plugin and what it runs on."""

    name: str  # of its provider, as sessions tell it
    devices: tuple[Any, ...]  # the GPUs that it offers


_registering = Lock()
_registered: set[str] = set()


def library_conflict() -> str | None:
    """Say that two distributions overwrite each other's files, and what to do, if they do."""
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        return (
            "onnxruntime and onnxruntime-gpu are both installed and CUDA is lost: "
            "uninstall both, then install the one that you need"
        )
    return None


def load_library() -> Any:
    """Import ONNX Runtime; RuntimeUnavailableError if it is not installed, or installed twice."""
    conflict = library_conflict()
    if conflict is not None:
        raise RuntimeUnavailableError(conflict)
    # Read for each session: with 1 the model, a stranger's, decides on threads and on files that are written.
    os.environ["ORT_LOAD_CONFIG_FROM_MODEL"] = "0"
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot be imported ({error}): install the extra `onnx`, or use runtime paddle"
        ) from error
    return onnxruntime


def remedy(provider: Provider) -> str:
    """Say what has to be installed for a provider."""
    if provider is Provider.CPU:
        return "install the extra `onnx`"
    packages = how_to_install(tensorrt=provider is Provider.TENSORRT)
    return f"{packages} in place of onnxruntime, on a host with an NVIDIA driver"


def require_provider(provider: Provider, device_id: int = 0) -> None:
    """Require ONNX Runtime, the provider, the GPU and the libraries that it needs.

    RuntimeUnavailableError names what is absent.
    """
    ort = load_library()
    if is_plugin(ort, provider):
        # A plugin is registered only where there is a driver: its own messages name none of this.
        require_gpu(device_id)
        plugin_devices(ort, provider)
        return
    if PROVIDER_NAMES[provider] not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"provider {provider} is not part of the installed onnxruntime {ort.__version__} "
            f"(it has {', '.join(ort.get_available_providers())}): {remedy(provider)}"
        )
    if provider.device == "gpu":
        require_gpu(device_id)
        _open_gpu_libraries(ort, provider)


def _open_gpu_libraries(ort: Any, provider: Provider) -> None:
    """CUDA and cuDNN from their wheels, TensorRT from its own: outside of an image the linker knows none of them."""
    told = StringIO()
    # What it cannot open it prints, on the standard output.
    with redirect_stdout(told):
        ort.preload_dlls()
    failures = _NOT_OPENED.findall(told.getvalue())
    for name, reason in failures:
        if name.startswith(_CUDA_NEEDS):
            raise RuntimeUnavailableError(f"{name} cannot be opened ({reason}): {remedy(provider)}")
    if provider is Provider.TENSORRT:
        open_libraries(TENSORRT_LIBRARIES, "tensorrt_libs", remedy(provider))


def is_plugin(ort: Any, provider: Provider) -> bool:
    """Tell whether a provider is not built in, and there is an installed plugin for it."""
    if provider not in PLUGINS or PROVIDER_NAMES[provider] in ort.get_available_providers():
        return False
    return importlib.util.find_spec(PLUGINS[provider]) is not None


def plugin_devices(ort: Any, provider: Provider) -> PluginDevices:
    """Register a plugin once per process and list the devices that it offers, at least one.

    RuntimeUnavailableError: the plugin is absent, does not load, or offers no device.
    """
    try:
        module = importlib.import_module(PLUGINS[provider])
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"provider {provider}: its plugin cannot be imported ({error}): {remedy(provider)}"
        ) from error
    name = str(module.get_ep_name())
    with _registering:
        if name not in _registered:
            try:
                ort.register_execution_provider_library(name, module.get_library_path())
            # The library raises whatever loading a shared object raises.
            except Exception as error:
                raise RuntimeUnavailableError(
                    f"provider {provider}: its plugin does not load ({first_line(error)}): {remedy(provider)}"
                ) from error
            _registered.add(name)
    kind = ort.OrtHardwareDeviceType.GPU
    found = tuple(each for each in ort.get_ep_devices() if each.ep_name == name and each.device.type == kind)
    if not found:
        vendors = sorted({str(each.device.vendor) for each in ort.get_ep_devices()})
        raise RuntimeUnavailableError(
            f"provider {provider}: its plugin offers no GPU of this machine (vendors: "
            f"{', '.join(vendors)}): {remedy(provider)}; or use provider cpu"
        )
    return PluginDevices(name, found)


def create_session(ort: Any, model: Path | bytes, plan: SessionPlan, options: OnnxOptions) -> Any:
    """Create an `InferenceSession` that runs on what was asked for, or raise RuntimeUnavailableError.

    The model is the ONNX file, by a name that the library takes, or what is in it.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = plan.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = plan.log_severity
    # Patterns are kept per input shape: with ever new sizes they only grow.
    settings.enable_mem_pattern = False
    for key, value in plan.config.items():
        settings.add_session_config_entry(key, value)
    name, told = plan.providers[0]
    source = model if isinstance(model, bytes) else str(model)
    if is_plugin(ort, options.provider):
        plugin = plugin_devices(ort, options.provider)
        name = plugin.name
        # What a device is chosen by are the devices themselves.
        told = {key: value for key, value in told.items() if key != "device_id"}
        settings.add_provider_for_devices([_numbered(plugin, options)], told)
        session = ort.InferenceSession(source, settings, enable_fallback=0)
    else:
        # By default a session whose provider fails goes on with another one, and says so on the standard output.
        session = ort.InferenceSession(source, settings, providers=list(plan.providers), enable_fallback=0)
    if name not in session.get_providers():
        raise RuntimeUnavailableError(
            f"provider {options.provider} was asked for, but the session started with "
            f"{', '.join(session.get_providers())}: {remedy(options.provider)}"
        )
    return session


def _numbered(plugin: PluginDevices, options: OnnxOptions) -> Any:
    # They are listed in the order of the bus, which need not be CUDA's, and several may stand for one GPU.
    numbered = {each.ep_metadata.get(_CUDA_NUMBER): each for each in plugin.devices}
    found = numbered.get(str(options.device_id))
    if found is None:
        offered = ", ".join(sorted(f"gpu:{number}" for number in numbered if number is not None))
        raise RuntimeUnavailableError(
            f"GPU {options.device_id} was asked for, but {plugin.name} offers {offered or 'none with a number'}: "
            f"set CUDA_VISIBLE_DEVICES={options.device_id} and ask for gpu"
        )
    return found


def first_line(error: Exception) -> str:
    """Shorten what ONNX Runtime says to its first line that is not empty; else to the class of the error."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

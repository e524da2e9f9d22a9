"""A tuned profile: the configuration that was measured to be best for one bundle on one machine.

`auto` obeys a profile of this bundle, this host and these library versions, and no other (`Profile.mismatch`). A
profile has no say over TensorRT, whose engines also need the shapes that will come.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from engine.bundle.bundle import Bundle
from engine.errors import OptionError
from engine.options import (
    CudaExecution,
    Device,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    RuntimeName,
    RuntimeOptions,
)
from engine.system.libraries import installed_versions
from engine.system.machine.hardware import Host, this_host
from engine.system.settings_files import SettingsError, read_record

PROFILE_NAME = "profile.json"
"""What the profile is called that a bundle carries."""

LARGEST_BATCH = 64
"""Images that a profile may ask to share one run. Tuning tries 16 at most; a pipeline holds several batches, so that
the memory of a run grows with this number, and nothing that was measured is won by more."""
_MOST_BYTES = 64 << 10

TunedProvider = Literal["cpu", "openvino", "cuda", "paddle-cpu", "paddle-onednn", "paddle-gpu"]
"""Execution providers of ONNX Runtime and ways to run Paddle, called as in a mask's provenance."""

_DISTRIBUTIONS: Mapping[RuntimeName, tuple[str, ...]] = {
    RuntimeName.ONNX: ("onnxruntime", "onnxruntime-gpu", "openvino"),
    RuntimeName.PADDLE: ("paddlepaddle", "paddlepaddle-gpu"),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """A configuration, what it was measured on, and why it was chosen."""

    bundle: str  # digest
    host: Host
    versions: Mapping[str, str]  # of the runtime's own libraries
    provider: TunedProvider
    precision: Precision
    threads: int  # of all streams together; at most the cores of the host
    batch_size: int  # images that share one run, 1 to `LARGEST_BATCH`
    goal: str  # what was asked for: latency, throughput or memory
    reason: str  # why this configuration, with its figures
    streams: int = 1  # runs that may be under way at once, each with an equal share of the threads
    cuda: CudaExecution = CudaExecution()

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= LARGEST_BATCH:
            raise OptionError(f"batch size is {self.batch_size}; it must be 1 to {LARGEST_BATCH}")
        if self.threads > self.host.cores:
            raise OptionError(f"{self.threads} threads on {self.host.cores} cores; there must be a core for each")
        texts = (self.bundle, self.goal, self.reason, self.host.processor, self.host.gpu or "", *self.host.flags)
        if not all(each.isprintable() for each in (*texts, *self.versions, *self.versions.values())):
            raise OptionError("a text holds control characters")
        # What contradicts itself is told where the profile is read.
        self.options()

    @property
    def runtime(self) -> RuntimeName:
        return runtime_of(self.provider)

    @property
    def digest(self) -> str:
        """SHA-256 of the profile's content."""
        return hashlib.sha256(_profile_type().dump_json(self)).hexdigest()

    def options(self, *, verbose: bool = False) -> RuntimeOptions:
        """What the runtime is opened with; OptionError if the profile contradicts itself."""
        if self.runtime is RuntimeName.ONNX:
            return OnnxOptions(
                provider=Provider(self.provider),
                precision=self.precision,
                threads=self.threads,
                streams=self.streams,
                verbose=verbose,
                cuda=self.cuda,
            )
        if self.cuda != CudaExecution():
            raise OptionError("NHWC and CUDA graphs belong to ONNX Runtime, and Paddle was chosen")
        return PaddleOptions(
            device=Device.GPU if self.provider == "paddle-gpu" else Device.CPU,
            onednn=self.provider == "paddle-onednn",
            precision=self.precision,
            threads=self.threads,
            streams=self.streams,
            verbose=verbose,
        )

    def mismatch(
        self, bundle: Bundle, host: Host | None = None, versions: Mapping[str, str] | None = None
    ) -> str | None:
        """Say what differs from what it was measured on, so that the profile must not be obeyed; None if nothing does.

        Without `host` and `versions` it is held against this machine and what is installed.
        """
        if self.bundle != bundle.digest:
            return f"it was tuned for another bundle ({self.bundle[:8]} there, {bundle.digest[:8]} here)"
        difference = self.host.difference(host or this_host())
        if difference is not None:
            return f"it was tuned on another host ({difference})"
        here = library_versions(self.runtime) if versions is None else versions
        if dict(self.versions) != dict(here):
            return f"it was tuned with other versions ({_told(self.versions)} there, {_told(here)} here)"
        if (
            self.runtime is RuntimeName.ONNX
            and self.precision is not Precision.FP32
            and bundle.onnx_model(self.precision) is None
        ):
            return f"it names {self.precision}, but the bundle holds no onnx/{self.precision}/model.onnx"
        return None


@cache
def _profile_type() -> TypeAdapter[Profile]:
    # Built when the first profile is read or written: most runs have none, and start faster without.
    return TypeAdapter(Profile)


def runtime_of(provider: str) -> RuntimeName:
    """Tell the library of a provider.

    >>> runtime_of("paddle-onednn"), runtime_of("openvino")
    (<RuntimeName.PADDLE: 'paddle'>, <RuntimeName.ONNX: 'onnx'>)
    """
    return RuntimeName.PADDLE if provider.startswith("paddle-") else RuntimeName.ONNX


def library_versions(runtime: RuntimeName) -> dict[str, str]:
    """List the installed versions that decide how fast a runtime is, by distribution."""
    return installed_versions(_DISTRIBUTIONS[runtime])


def profile_json(profile: Profile) -> bytes:
    return _profile_type().dump_json(profile, indent=2) + b"\n"


def read_profile(path: Path) -> Profile:
    """Read a profile; whether it may be obeyed is not known yet. OptionError if it cannot be read, or is none."""
    try:
        return read_record(path, _profile_type(), _MOST_BYTES)
    except SettingsError as error:
        told = f"it {error}"
    except OptionError as error:
        told = str(error)
    raise OptionError(f"{path}: is not a tuned profile ({told}): make it again with `pseg tune`")


def _told(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "none"

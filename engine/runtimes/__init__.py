"""A runtime is one loaded model on one device: named tensors in, named tensors out.

It knows no images, no classes and no options of another runtime.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import InferenceError, ModelLoadError
from engine.options import DynamicShapeProfile, Precision, RuntimeName

Tensor = NDArray[Any]
PROBE_SIDE = 128


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, type and shape of an input or output, as the model states them.

    Attributes:
        name: the tensor's name in the model.
        dtype: its NumPy type.
        shape: one entry per axis; None for a dynamic one.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class RuntimeIdentity:
    """What really runs, for the provenance of a mask."""

    runtime: RuntimeName
    provider: str  # cpu, openvino, cuda, tensorrt, paddle-cpu, paddle-onednn, paddle-gpu or paddle-tensorrt
    precision: Precision  # of the heavy layers
    threads: int  # that the library was given, for all streams together
    model_digest: str  # SHA-256 of the model
    versions: Mapping[str, str]  # by library; on a GPU also what the driver says of it
    streams: int = 1  # runs that may be under way at once

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs in a GPU's memory."""
        return self.provider in {"cuda", "tensorrt", "paddle-gpu", "paddle-tensorrt"}


class DeviceMemory(Protocol):
    """Memory that runs of the network take, where it is not the process's own."""

    def used_bytes(self) -> int:
        """What is taken now; it does not sink after a run."""
        ...

    def free_bytes(self) -> int:
        """What runs may take besides, by what is free and by what was allowed."""
        ...


class Runtime(Protocol):
    """One loaded model on one device.

    `run` may be called from several threads at the same time. As many runs are in progress as the runtime has streams;
    further callers wait.

    Attributes:
        identity: what really runs.
        inputs: of the model.
        outputs: of the model, as far as it states them; look at what `run` returns.
        memory: that of the GPU, if it can be measured; otherwise None.
    """

    identity: RuntimeIdentity
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory: DeviceMemory | None = None

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network once.

        Args:
            feeds: a tensor for every input, of its dtype.

        Returns:
            Output name to tensor; the caller owns them.

        Raises:
            InferenceError: the feeds do not fit, the library failed (its error is the cause), or the runtime is closed.
        """
        ...

    def run_for_classes(self, feeds: Mapping[str, Tensor]) -> Tensor | None:
        """Run the network once, and determine the classes on the device that runs it.

        Args:
            feeds: as for `run`.

        Returns:
            uint8[N, H, W]: for every pixel the class with the largest score, the first of equal ones; None: this
            runtime cannot do that, and nothing was run.

        Raises:
            InferenceError: as `run`, or a score is not finite.
        """
        return None

    def close(self) -> None:
        """Free the model. Calling it twice is harmless; running afterwards is an error."""
        ...


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Tensor]) -> None:
    """Refuse feeds that do not fit the model, for libraries that do not check them all.

    Paddle silently runs a missing input with the values of the last run, and oneDNN kills the process on an empty
    batch.

    Args:
        inputs: the model's inputs.
        feeds: what is to be run.

    Raises:
        InferenceError: an input is missing or unknown, or a tensor is empty or of another dtype or shape.

    >>> check_feeds((TensorSpec("x", np.dtype("float32"), (None, 3)),), {"x": np.zeros((2, 3), np.float32)})
    """
    if {spec.name for spec in inputs} != set(feeds):
        raise InferenceError(f"the model takes {[spec.name for spec in inputs]}, but was given {list(feeds)}")
    for spec in inputs:
        tensor = feeds[spec.name]
        fits = len(tensor.shape) == len(spec.shape) and all(
            have > 0 and want in {None, have} for want, have in zip(spec.shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != spec.dtype:
            raise InferenceError(
                f"input {spec.name!r} takes {spec.dtype}{list(spec.shape)} (None: any size but 0), "
                f"but was given {tensor.dtype}{list(tensor.shape)}"
            )


def probe_feeds(inputs: tuple[TensorSpec, ...], shapes: DynamicShapeProfile | None = None) -> dict[str, Tensor]:
    """Make tensors for a first run: the stated shape, small where it is dynamic.

    Args:
        inputs: the model's inputs.
        shapes: a profile that the runtime must not leave; its inputs get their optimum.

    Returns:
        A tensor of zeros for every input; dynamic batch axes are 1, dynamic image sides 128.

    >>> spec = TensorSpec("x", np.dtype("float32"), (None, 3, None, 64))
    >>> probe_feeds((spec,))["x"].shape
    (1, 3, 128, 64)
    """
    optima = {} if shapes is None else {name: each.optimum for name, each in shapes.inputs}
    small = {0: 1}
    return {
        spec.name: np.zeros(
            optima.get(spec.name)
            or [small.get(axis, PROBE_SIDE) if side is None else side for axis, side in enumerate(spec.shape)],
            dtype=spec.dtype,
        )
        for spec in inputs
    }


def require_first_run(
    runtime: Runtime, model: str, shapes: DynamicShapeProfile | None = None, advice: str = ""
) -> None:
    """Prove that a model that is loaded also runs.

    Args:
        runtime: with the model loaded.
        model: its name, for the message.
        shapes: as for `probe_feeds`.
        advice: what to do if it does not run.

    Raises:
        ModelLoadError: the run fails.
    """
    try:
        runtime.run(probe_feeds(runtime.inputs, shapes))
    except InferenceError as error:
        told = f"{model}: loads with {runtime.identity.provider}, but its first run fails: {error}"
        raise ModelLoadError(f"{told}; {advice}" if advice else told) from error


def failed_run(library: str, feeds: Mapping[str, Tensor], reason: str) -> InferenceError:
    """Make the error of a run that a library ended with an exception.

    Args:
        library: its name.
        feeds: what it was given.
        reason: what it said.

    Returns:
        An error that names the shapes of the inputs.
    """
    shapes = {name: tensor.shape for name, tensor in feeds.items()}
    return InferenceError(f"{library} failed on inputs {shapes}: {reason}")

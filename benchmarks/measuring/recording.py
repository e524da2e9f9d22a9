"""A runtime's answers, kept in files: the reference runs once and is compared with many, without being in memory."""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InferenceError
from engine.runtimes import Runtime, RuntimeIdentity, Tensor, TensorSpec

_STATED = "stated.pickle"


@dataclass(frozen=True, slots=True)
class _Stated:
    """What a runtime says of itself."""

    identity: RuntimeIdentity
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def _key(feeds: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(feeds.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()[:32]


class RecordingRuntime(Runtime):
    """Hands everything to another runtime, and keeps what it returns; threads as of that one."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self._runtime = runtime
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.identity, self.inputs, self.outputs = runtime.identity, runtime.inputs, runtime.outputs
        (folder / _STATED).write_bytes(pickle.dumps(_Stated(self.identity, self.inputs, self.outputs)))

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answer = self._runtime.run(feeds)
        with (self._folder / f"{_key(feeds)}.npz").open("wb") as file:
            # A name of its own: an output may be called like an argument of `savez`.
            np.savez(file, allow_pickle=False, **{f"_{name}": tensor for name, tensor in answer.items()})
        return answer

    def close(self) -> None:
        self._runtime.close()


class RecordedRuntime(Runtime):
    """Answers as a recorded runtime did; `run` may be called from several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        stated: _Stated = pickle.loads((folder / _STATED).read_bytes())  # noqa: S301 - our own file
        self.identity, self.inputs, self.outputs = stated.identity, stated.inputs, stated.outputs

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Find the answer to these tensors; InferenceError where it was never given them."""
        path = self._folder / f"{_key(feeds)}.npz"
        if not path.is_file():
            shapes = {name: tensor.shape for name, tensor in feeds.items()}
            raise InferenceError(f"the reference was not recorded for {shapes}: record it on the same images")
        with np.load(path) as answer:
            return {name[1:]: answer[name] for name in answer.files}

    def close(self) -> None:
        """Nothing to free; the recording stays."""

"""Runs of a session whose inputs and outputs stay at their places in the device's memory (IO binding)."""

# onnxruntime ships no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.runtimes import Tensor

NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(uint16)": np.uint16, "tensor(int16)": np.int16,
    "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip
"""ONNX Runtime's name of a type to NumPy's."""

Fetch = Callable[[int, tuple[int, ...], np.dtype[Any]], Tensor]
"""Copies a tensor from an address in the device's memory."""
_NOT_RECORDED = "-1"
_Key = tuple[object, ...]


@dataclass(slots=True)
class _Places:
    """What is bound for inputs of one size."""

    binding: Any  # ONNX Runtime's
    inputs: Mapping[str, Any]  # in the device's memory
    fixed: bool = False  # whether the outputs have their places, too, which the first run finds
    recorded: bool = False  # whether runs are recorded as a CUDA graph


class BoundSession:
    """One stream of a session.

    A new size gets new places, which the last size's memory is given back for; where CUDA graphs are recorded, the
    places of the first size that comes twice in succession are kept as long as the session, because a graph is replayed
    at its addresses. Not for several threads at once.
    """

    def __init__(self, ort: Any, session: Any, device: tuple[str, int], *, graph: bool, fetch: Fetch | None) -> None:
        """Take over an `InferenceSession`, which other streams may use as well unless CUDA graphs are recorded.

        The device of inputs and outputs is `cuda` or `cpu`, and its number. Without `fetch` ONNX Runtime copies the
        results.
        """
        self._ort = ort
        self._session = session
        self._device = device
        self._graph = graph
        self._fetch = fetch
        self._places: dict[_Key, _Places] = {}

    def get_providers(self) -> list[str]:
        return self._session.get_providers()

    def run(self, names: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Tensor]:
        key = (*names, *((name, tensor.shape) for name, tensor in feeds.items()))
        places = self._places.get(key)
        if places is None:
            places = self._bound(names, feeds)
            self._places = {old: kept for old, kept in self._places.items() if kept.recorded} | {key: places}
        elif self._graph and not any(each.recorded for each in self._places.values()):
            places.recorded = True
        for name, tensor in feeds.items():
            places.inputs[name].update_inplace(tensor)
        self._session.run_with_iobinding(places.binding, self._options(places))
        outputs = places.binding.get_outputs()
        if not places.fixed:
            for name, value in zip(names, outputs, strict=True):
                places.binding.bind_ortvalue_output(name, value)
            places.fixed = True
        return [self._copied(each) for each in outputs]

    def _bound(self, names: Sequence[str], feeds: Mapping[str, Tensor]) -> _Places:
        binding = self._session.io_binding()
        inputs = {
            name: self._ort.OrtValue.ortvalue_from_shape_and_type(tensor.shape, tensor.dtype.type, *self._device)
            for name, tensor in feeds.items()
        }
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, *self._device)
        return _Places(binding, inputs)

    def _options(self, places: _Places) -> Any:
        if not self._graph or places.recorded:
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", _NOT_RECORDED)
        return options

    def _copied(self, value: Any) -> Tensor:
        if self._fetch is not None:
            return self._fetch(value.data_ptr(), tuple(value.shape()), np.dtype(NUMPY_TYPES[value.data_type()]))
        found = value.numpy()
        # On the CPU it is the place itself, which the next run writes to.
        return found if found.flags.owndata else found.copy()

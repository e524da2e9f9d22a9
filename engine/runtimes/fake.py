"""A NumPy runtime, a peer of the real ones: tests and demonstrations need no vendor library with it."""

from collections.abc import Callable, Mapping

import numpy as np
from typing_extensions import override

from engine.errors import InferenceError
from engine.options import Precision, RuntimeName
from engine.runtimes import Runtime, RuntimeIdentity, Tensor, TensorSpec, check_feeds

Network = Callable[[Tensor], Tensor]


class FakeRuntime(Runtime):
    """Runs a Python function of float32[N, C, H, W] as if it were a network.

    Threads: `run` may be called from several threads if the function may; a pipeline may have so many runs under way as
    there are streams.
    """

    def __init__(
        self, network: Network, *, input_shape: tuple[int | None, ...] = (None, 3, None, None), streams: int = 1
    ) -> None:
        self._network: Network | None = network
        self.inputs = (TensorSpec("x", np.dtype(np.float32), input_shape),)
        # Its shape is known after a run only.
        self.outputs = (TensorSpec("y", np.dtype(np.float32), (None, None, None, None)),)
        self.identity = RuntimeIdentity(
            runtime=RuntimeName.ONNX,
            provider="fake",
            precision=Precision.FP32,
            threads=streams,
            model_digest="0" * 64,
            versions={"numpy": np.__version__},
            streams=streams,
        )

    @override
    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        network = self._network
        if network is None:
            raise InferenceError("the runtime is closed: open it again")
        check_feeds(self.inputs, feeds)
        try:
            return {"y": np.array(network(feeds["x"]))}
        except (ArithmeticError, KeyError, IndexError, ValueError, TypeError) as error:
            raise InferenceError(f"the function failed: {error}") from error

    @override
    def close(self) -> None:
        self._network = None

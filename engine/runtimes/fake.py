"""A NumPy runtime, a peer of the real ones: tests and demonstrations need no vendor library with it."""

from collections.abc import Callable, Mapping

import numpy as np

from engine.errors import InferenceError
from engine.options import Precision, RuntimeName
from engine.runtimes import RuntimeIdentity, Tensor, TensorSpec, check_feeds

Network = Callable[[Tensor], Tensor]


class FakeRuntime:
    """Runs a Python function as if it were a network.

    Threads: `run` may be called from several threads if the function may.
    """

    def __init__(
        self, network: Network, *, input_shape: tuple[int | None, ...] = (None, 3, None, None), streams: int = 1
    ) -> None:
        """Wrap a function.

        Args:
            network: float32[N, C, H, W] to the network's output.
            input_shape: what the input spec states.
            streams: how many runs a pipeline may have under way at once.
        """
        self._network: Network | None = network
        self._streams = streams
        self._inputs = (TensorSpec("x", np.dtype(np.float32), input_shape),)

    @property
    def identity(self) -> RuntimeIdentity:
        """What really runs."""
        return RuntimeIdentity(
            runtime=RuntimeName.ONNX,
            provider="fake",
            precision=Precision.FP32,
            threads=self._streams,
            model_digest="0" * 64,
            versions={"numpy": np.__version__},
            streams=self._streams,
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The single input `x`."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The single output `y`; its shape is only known after a run."""
        return (TensorSpec("y", np.dtype(np.float32), (None, None, None, None)),)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Call the function.

        Args:
            feeds: the tensor `x`.

        Returns:
            The tensor `y`, a copy.

        Raises:
            InferenceError: the tensor does not fit, the function raised, or the runtime is closed.
        """
        network = self._network
        if network is None:
            raise InferenceError("the runtime is closed: open it again")
        check_feeds(self._inputs, feeds)
        try:
            return {"y": np.array(network(feeds["x"]))}
        except (ArithmeticError, KeyError, IndexError, ValueError, TypeError) as error:
            raise InferenceError(f"the function failed: {error}") from error

    def close(self) -> None:
        """Forget the function."""
        self._network = None

"""Layer normalization over several axes."""

# Paddle keeps scale and bias as vectors whatever the normalized axes are; ONNX wants them in the shape of these axes.
# paddle2onnx hands the vectors on, and ONNX Runtime refuses to run them.

from dataclasses import dataclass

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph


@dataclass(frozen=True, slots=True)
class LayerNormalization:
    """A layer normalization with scale and bias."""

    axis: int  # the first normalized axis; all behind it are, too
    epsilon: float  # added to the variance
    inputs: tuple[int, ...]  # the tensor, the scale and the bias

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        tensor, *vectors = inputs
        shape = graph.add("Shape", tensor, start=self.axis)
        shaped = [graph.add("Reshape", vector, shape) for vector in vectors]
        graph.add("LayerNormalization", tensor, *shaped, axis=self.axis, epsilon=self.epsilon, output=outputs[0])


def find(operation: Operation, program: Program) -> LayerNormalization | None:
    """Recognise a layer normalization over more than one axis."""
    if operation.kind != "layer_norm" or 0 in operation.inputs:
        return None
    axis = operation.get("begin_norm_axis")
    if len(program.value(operation.inputs[0]).shape) - axis == 1:
        return None
    return LayerNormalization(axis, operation.get("epsilon"), operation.inputs)

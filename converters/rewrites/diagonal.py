"""A square matrix with a vector on its diagonal, which paddle2onnx does not know."""

# Source: paddle 3.2, ``phi/kernels/cpu/diag_kernel.cc``: ``DiagKernel``.

from dataclasses import dataclass

import numpy as np

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph


@dataclass(frozen=True, slots=True)
class Diagonal:
    """A vector laid on the diagonal of a matrix."""

    offset: int  # how far right of the main diagonal; negative: below it
    filling: float  # what stands beside the diagonal
    inputs: tuple[int, ...]
    dtype: str

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        """Add the nodes. The vector is not multiplied with a mask: infinity times zero is no number."""
        (vector,) = inputs
        size = graph.add("Add", graph.length(vector, 0), graph.whole(abs(self.offset)))
        positions = graph.count(size)
        on_diagonal = graph.add("Equal", graph.add("Sub", positions, graph.column(positions)), graph.whole(self.offset))
        # One value per row above the main diagonal, one per column below it; the rest of them falls beside it.
        before = abs(min(self.offset, 0))
        padding = graph.whole([0, self.offset] if self.offset >= 0 else [0, before])
        padded = graph.add("Pad", vector, padding)
        values = graph.column(padded) if self.offset >= 0 else padded
        filling = graph.constant(np.array(self.filling, self.dtype))
        graph.add("Where", on_diagonal, values, filling, output=outputs[0])


def find(operation: Operation, program: Program) -> Diagonal | None:
    """Recognise a vector that becomes a diagonal."""
    if operation.kind != "diag":
        return None
    vector = program.value(operation.inputs[0])
    if len(vector.shape) != 1:
        return None
    return Diagonal(operation.get("offset"), operation.get("padding_value"), operation.inputs, vector.dtype)

"""Uniform random numbers of a shape that is known only when the network runs.

They are drawn anew in every run, as in Paddle: such a network gives other masks each time, on either runtime.
"""

from dataclasses import dataclass

import numpy as np

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph


@dataclass(frozen=True, slots=True)
class UniformNumbers:
    """Numbers drawn from an interval.

    Attributes:
        low: where the interval begins.
        high: where it ends.
        inputs: number of the shape.
        dtype: of the numbers.
    """

    low: float
    high: float
    inputs: tuple[int, ...]
    dtype: str

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        """Add the nodes.

        Args:
            graph: where to.
            inputs: the shape.
            outputs: the numbers.
        """
        like = graph.add("Expand", graph.constant(np.zeros(1, self.dtype)), graph.numbers(inputs))
        graph.add("RandomUniformLike", like, low=self.low, high=self.high, output=outputs[0])


def find(operation: Operation, program: Program) -> UniformNumbers | None:
    """Recognise uniform random numbers between two constants.

    Args:
        operation: any.
        program: that it belongs to.

    Returns:
        What stands for it, or None.
    """
    if operation.kind != "uniform":
        return None
    shape, *limits = operation.inputs
    low, high = (program.scalar(each) for each in limits)
    if low is None or high is None:
        return None
    return UniformNumbers(low, high, program.parts(shape), operation.outputs[0].dtype)

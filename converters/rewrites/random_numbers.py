"""Uniform random numbers of a shape that is known only when the network runs."""

from dataclasses import dataclass

import numpy as np

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph


@dataclass(frozen=True, slots=True)
class UniformNumbers:
    """Numbers drawn from an interval."""

    low: float
    high: float
    inputs: tuple[int, ...]  # the shape
    dtype: str

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        like = graph.add("Expand", graph.constant(np.zeros(1, self.dtype)), graph.numbers(inputs))
        graph.add("RandomUniformLike", like, low=self.low, high=self.high, output=outputs[0])


def find(operation: Operation, program: Program) -> UniformNumbers | None:
    """Recognise uniform random numbers between two constants."""
    if operation.kind != "uniform":
        return None
    shape, *limits = operation.inputs
    low, high = (program.scalar(each) for each in limits)
    if low is None or high is None:
        return None
    return UniformNumbers(low, high, program.parts(shape), operation.outputs[0].dtype)

"""Adaptive pooling to a grid, average and maximum, for every input size."""

# paddle2onnx turns an adaptive pooling into one of fixed windows, for which it must know the input's size, and aborts
# its process where the size is free. Here, bin i of k on an axis of length L holds the positions from floor(i·L/k) up
# to, not including, ceil((i+1)·L/k), and k itself may be known only when the network runs.
# Source: paddle 3.2, ``phi/kernels/funcs/pooling.h``: ``AdaptStartIndex`` and ``AdaptEndIndex``.

from dataclasses import dataclass
from typing import Literal

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph

_ROWS, _COLUMNS = 2, 3
"""Axes of NCHW."""


@dataclass(frozen=True, slots=True)
class GridPooling:
    """An adaptive pooling."""

    reduction: Literal["average", "maximum"]  # what becomes of the positions of a bin
    # bins over the height and over the width; None if further inputs hold them when the network runs
    grid: tuple[int, int] | None
    inputs: tuple[int, ...]  # the tensor NCHW, and the grid if it is no constant
    dtype: str

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        tensor, *grid = inputs
        rows, columns = self._bins(graph, grid)
        if self.reduction == "average":
            row_matrix = self._averaging_matrix(graph, graph.length(tensor, _ROWS), rows)
            column_matrix = self._averaging_matrix(graph, graph.length(tensor, _COLUMNS), columns)
            turned = graph.add("Transpose", column_matrix, perm=[1, 0])
            pooled = graph.add("MatMul", row_matrix, graph.add("MatMul", tensor, turned))
        else:
            pooled = _maxima(graph, _maxima(graph, tensor, _ROWS, rows), _COLUMNS, columns)
        graph.add("Identity", pooled, output=outputs[0])

    def _bins(self, graph: Subgraph, grid: list[str]) -> tuple[str, str]:
        if self.grid is not None:
            return graph.whole(self.grid[0]), graph.whole(self.grid[1])
        numbers = graph.numbers(grid)
        return graph.add("Gather", numbers, graph.whole(0)), graph.add("Gather", numbers, graph.whole(-1))

    def _averaging_matrix(self, graph: Subgraph, length: str, bins: str) -> str:
        """[bins, length]: each row averages the positions of its bin."""
        start, end = (graph.column(each) for each in _bounds(graph, length, bins))
        positions = graph.count(length)
        inside = graph.add(
            "And", graph.add("Not", graph.add("Less", positions, start)), graph.add("Less", positions, end)
        )
        members = graph.cast(inside, self.dtype)
        return graph.add("Div", members, graph.cast(graph.add("Sub", end, start), self.dtype))


def _bounds(graph: Subgraph, length: str, bins: str) -> tuple[str, str]:
    """int64[bins], twice: where each bin starts, and the position after its last."""
    indices = graph.count(bins)
    first = graph.add("Mul", indices, length)
    start = graph.add("Div", first, bins)
    # Rounding up: what a division of whole numbers cuts off is added before.
    rounding = graph.add("Sub", bins, graph.whole(1))
    end = graph.add("Div", graph.add("Add", graph.add("Add", first, length), rounding), bins)
    return start, end


def _maxima(graph: Subgraph, tensor: str, axis: int, bins: str) -> str:
    length = graph.length(tensor, axis)
    start, end = _bounds(graph, length, bins)
    # No bin is longer than ceil(L/k) + 1; a shorter one sees its last position again, which changes no maximum.
    longest = graph.add("Add", graph.add("Div", length, bins), graph.whole(2))
    positions = graph.add("Add", graph.column(start), graph.count(longest))
    last = graph.column(graph.add("Sub", end, graph.whole(1)))
    gathered = graph.add("Gather", tensor, graph.add("Min", positions, last), axis=axis)
    return graph.maximum(gathered, axis + 1)


def find(operation: Operation, program: Program) -> GridPooling | None:
    """Recognise an adaptive pooling that the converter cannot express.

    Pooling to a single value is left to the converter, which knows it as a global one.
    """
    if not operation.get("adaptive"):
        return None
    if operation.kind == "pool2d":
        tensor, grid_number = operation.inputs
        stated = program.constant(grid_number)
        reduction = "average" if operation.get("pooling_type") == "avg" else "maximum"
    elif operation.kind == "max_pool2d_with_index" and not program.is_used(operation.outputs[1]):
        (tensor,) = operation.inputs
        grid_number, stated, reduction = 0, operation.get("kernel_size"), "maximum"
    else:
        return None
    grid = None if stated is None else (stated[0], stated[-1])
    if grid == (1, 1):
        return None
    inputs = (tensor,) if grid is not None else (tensor, *program.parts(grid_number))
    return GridPooling(reduction, grid, inputs, program.value(tensor).dtype)

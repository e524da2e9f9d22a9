"""Maximum pooling that tells where each maximum was, and unpooling that puts values back there."""

# paddle2onnx does not know unpooling, and it cannot give positions within a plane of free size. ONNX has MaxPool with
# indices and MaxUnpool, but TensorRT takes neither, and CUDA no MaxUnpool. So the positions are found by comparing the
# strided views of the tensor, one for each place of the window, in the order of rows: the first of equal maxima counts,
# as in Paddle. Unpooling is one ScatterElements over the flattened plane.
# Positions are indices into a plane of height × width, int32, whatever the batch and the channel.
# Source: paddle 3.2, ``phi/kernels/funcs/pooling.cc``: ``MaxPool2dWithIndexFunctor``; ``funcs/unpooling.cc``.

from dataclasses import dataclass

import numpy as np

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph

Pair = tuple[int, int]
"""Of the rows, of the columns."""


@dataclass(frozen=True, slots=True)
class PoolingWithPositions:
    """A maximum pooling whose positions are used."""

    kernel: Pair
    strides: Pair
    padding: Pair  # rows and columns before and behind the tensor; they are never a maximum
    ceil_mode: bool  # whether a last window that reaches over the edge counts
    inputs: tuple[int, ...]
    dtype: str

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        (tensor,) = inputs
        values, positions = outputs
        pads = [*self.padding, *self.padding]
        window = {"kernel_shape": self.kernel, "strides": self.strides, "ceil_mode": int(self.ceil_mode)}
        pooled = graph.add("MaxPool", tensor, output=values, pads=pads, **window)
        if positions is not None:
            self._add_positions(graph, tensor, graph.add("Shape", pooled), positions)

    def _add_positions(self, graph: Subgraph, tensor: str, pooled_shape: str, positions: str) -> None:
        padded = self._padded(graph, tensor)
        counts = graph.add("Slice", pooled_shape, graph.whole([2]), graph.whole([4]))
        width = graph.cast(graph.length(tensor, 3), "int32")
        corner = self._corner_positions(graph, counts, width)
        best, found = "", ""
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                view = self._view(graph, padded, counts, (row, column))
                here = graph.add("Add", corner, self._offset(graph, width, (row, column)))
                if not best:
                    best, found = view, graph.add("Expand", here, pooled_shape)
                    continue
                greater = graph.add("Greater", view, best)
                best, found = graph.add("Where", greater, view, best), graph.add("Where", greater, here, found)
        graph.add("Identity", found, output=positions)

    def _padded(self, graph: Subgraph, tensor: str) -> str:
        over = self.strides if self.ceil_mode else (0, 0)
        behind = [padding + more for padding, more in zip(self.padding, over, strict=True)]
        if not any(behind):
            return tensor
        pads = graph.whole([0, 0, *self.padding, 0, 0, *behind])
        return graph.add("Pad", tensor, pads, graph.constant(np.array(np.finfo(self.dtype).min, self.dtype)))

    def _view(self, graph: Subgraph, padded: str, counts: str, place: Pair) -> str:
        """What each window holds at one of its places: every stride-th row and column from there on."""
        starts, steps = graph.whole(place), graph.whole(self.strides)
        covered = graph.add("Mul", graph.add("Sub", counts, graph.whole(1)), steps)
        ends = graph.add("Add", graph.add("Add", covered, starts), graph.whole(1))
        return graph.add("Slice", padded, starts, ends, graph.whole([2, 3]), steps)

    def _corner_positions(self, graph: Subgraph, counts: str, width: str) -> str:
        """int32[rows, columns]: the position of each window's first place; negative in the padding."""
        starts: list[str] = []
        for axis in range(2):
            windows = graph.count(graph.add("Gather", counts, graph.whole(axis)))
            scaled = graph.add("Mul", windows, graph.whole(self.strides[axis]))
            starts.append(graph.cast(graph.add("Sub", scaled, graph.whole(self.padding[axis])), "int32"))
        rows, columns = starts
        return graph.add("Add", graph.add("Mul", graph.column(rows), width), columns)

    @staticmethod
    def _offset(graph: Subgraph, width: str, place: Pair) -> str:
        row, column = (graph.constant(np.array(each, np.int32)) for each in place)
        return graph.add("Add", graph.add("Mul", row, width), column)


@dataclass(frozen=True, slots=True)
class Unpooling:
    """Values put back where maxima were, zeros elsewhere."""

    size: Pair | None  # height and width of the result; None if further inputs hold them when the network runs
    inputs: tuple[int, ...]  # the values NCHW, their positions, and the size if it is no constant
    dtype: str  # of the values

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        values, positions, *size = inputs
        plane = graph.numbers(size) if size else graph.whole(self.size or ())
        planes = graph.add("Slice", graph.add("Shape", values), graph.whole([0]), graph.whole([2]))
        flat_shape = graph.add("Concat", planes, graph.add("ReduceProd", plane, keepdims=1), axis=0)
        zero = graph.constant(np.zeros(1, self.dtype))
        zeros = graph.add("Expand", zero, flat_shape)
        flat = graph.whole([0, 0, -1])
        scattered = graph.add(
            "ScatterElements", zeros, graph.add("Reshape", positions, flat), graph.add("Reshape", values, flat), axis=2
        )
        graph.add("Reshape", scattered, graph.add("Concat", planes, plane, axis=0), output=outputs[0])


def find(operation: Operation, program: Program) -> PoolingWithPositions | Unpooling | None:
    """Recognise maximum pooling with positions, and unpooling."""
    if operation.kind == "unpool":
        values, positions, size_number = operation.inputs
        size = program.constant(size_number)
        inputs = (values, positions) if size is not None else (values, positions, *program.parts(size_number))
        return Unpooling(None if size is None else (size[0], size[1]), inputs, program.value(values).dtype)
    if operation.kind != "max_pool2d_with_index" or operation.get("adaptive"):
        return None
    if not program.is_used(operation.outputs[1]):
        return None
    kernel, strides, padding = (tuple(operation.get(name)) for name in ("kernel_size", "strides", "paddings"))
    dtype = program.value(operation.inputs[0]).dtype
    return PoolingWithPositions(kernel, strides, padding, operation.get("ceil_mode"), operation.inputs, dtype)

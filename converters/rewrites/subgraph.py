"""Standard ONNX operators, made one after another."""

# onnx ships no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Attribute = int | float | Sequence[int]
_AXES_ARE_INPUTS = 18
"""From this operator set on, reductions take their axes as an input."""


class Subgraph:
    """Nodes that stand for one operator of Paddle, in the order in which they run, with names of their own."""

    def __init__(self, prefix: str, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix
        self._opset = opset

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Attribute) -> str:
        """Add a node of the default domain and return the name of its result; an input without a name is absent."""
        from onnx import helper

        result = output or f"{self._prefix}.{len(self.nodes)}.{operator}"
        node = helper.make_node(operator, inputs, [result], name=f"{result}.node")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
        self.nodes.append(node)
        return result

    def constant(self, value: "NDArray[Any]") -> str:
        from onnx import helper, numpy_helper

        result = self.add("Constant")
        self.nodes[-1].attribute.append(helper.make_attribute("value", numpy_helper.from_array(value)))
        return result

    def whole(self, value: int | Sequence[int]) -> str:
        """Add an int64 constant."""
        return self.constant(np.array(value, np.int64))

    def cast(self, tensor: str, dtype: str) -> str:
        """Change the type of the elements."""
        from onnx import helper

        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def maximum(self, tensor: str, axis: int) -> str:
        """Reduce an axis, from 0, to its maximum; the axis goes away."""
        if self._opset < _AXES_ARE_INPUTS:
            return self.add("ReduceMax", tensor, axes=[axis], keepdims=0)
        return self.add("ReduceMax", tensor, self.whole([axis]), keepdims=0)

    def length(self, tensor: str, axis: int) -> str:
        """Read the length of an axis, from 0, when the network runs: an int64 scalar."""
        return self.add("Gather", self.add("Shape", tensor), self.whole(axis))

    def numbers(self, parts: Sequence[str]) -> str:
        """Put a list of whole numbers together to an int64 vector."""
        vectors = [self.add("Reshape", self.cast(each, "int64"), self.whole([-1])) for each in parts]
        return self.add("Concat", *vectors, axis=0)

    def count(self, length: str) -> str:
        """Count from 0 up to, not including, a length, an int64 scalar: an int64 vector."""
        return self.add("Range", self.whole(0), length, self.whole(1))

    def vector(self, scalar: str) -> str:
        """Make a vector of one element."""
        return self.add("Unsqueeze", scalar, self.whole([0]))

    def column(self, vector: str) -> str:
        """Make a matrix of one column."""
        return self.add("Unsqueeze", vector, self.whole([1]))

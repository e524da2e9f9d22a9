"""Adaptive average pooling to a grid, for every input size, in standard ONNX operators.

paddle2onnx turns an adaptive pooling into one of fixed windows, for which it must know the input's size, and aborts its
process where the size is free. So each such pooling is marked in the program before the conversion and replaced in the
ONNX graph afterwards:

1. `mark_grid_pools` puts a softshrink in its place, an operator that the converter takes for any size and no
   segmentation network uses. Its threshold says which pooling it stands for.
2. `replace_marks` puts two matrix products in the place of that node: the averaging matrix of the rows, the tensor, and
   the averaging matrix of the columns. Each matrix is made from the size that the tensor has when the network runs.

Bin i of k on an axis of length L averages the positions from floor(i·L/k) up to, not including, ceil((i+1)·L/k).

Source: paddle 3.2, ``phi/kernels/funcs/pooling.h``: ``AdaptStartIndex`` and ``AdaptEndIndex``.
"""

# onnx ships no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConversionError

if TYPE_CHECKING:
    import onnx

_FIRST_MARK = 1000
"""Thresholds from here on are marks; a softshrink of a real network has one of about 0.5."""

_MARK_NODE = "Shrink"


@dataclass(frozen=True, slots=True)
class GridPool:
    """An adaptive average pooling.

    Attributes:
        rows: bins over the height.
        columns: bins over the width.
    """

    rows: int
    columns: int


def mark_grid_pools(program: Path, marked: Path) -> tuple[GridPool, ...]:
    """Write a copy of a PIR program in which marks stand for its adaptive average poolings.

    Pooling to a single value needs no mark: the converter knows it as a global average.

    Args:
        program: `model.json`.
        marked: the copy.

    Returns:
        The poolings that marks stand for, in the order of their marks; empty if there are none.

    Raises:
        ConversionError: the program is no PIR JSON, or it uses softshrink itself.
    """
    try:
        content = json.loads(program.read_text(encoding="utf-8"))
        pools = [pool for block in _blocks(content) for pool in _mark_block(block["ops"])]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ConversionError(f"{program.name} is no PIR program of Paddle 3 ({error!r})") from error
    numbered = [
        operation for block in _blocks(content) for operation in block["ops"] if operation["#"].endswith(".softshrink")
    ]
    if pools and len(numbered) != len(pools):
        raise ConversionError(f"{program.name} uses softshrink, which stands for adaptive pooling in a conversion")
    for number, operation in enumerate(numbered if pools else []):
        operation["A"] = [{"AT": {"#": "0.a_f32", "D": float(_FIRST_MARK + number)}, "N": "threshold"}]
    marked.write_text(json.dumps(content), encoding="utf-8")
    return tuple(pools)


def _blocks(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [block for region in content["program"]["regions"] for block in region["blocks"]]


def _mark_block(operations: list[dict[str, Any]]) -> list[GridPool]:
    values: dict[int, dict[str, Any]] = {}
    pools: list[GridPool] = []
    for operation in operations:
        for result in operation.get("O", []):
            if isinstance(result, dict):
                values[cast("dict[str, int]", result)["%"]] = operation
        if not operation["#"].endswith(".pool2d") or not _attribute(operation, "adaptive"):
            continue
        grid = _attribute(values[operation["I"][1]["%"]], "value")
        pool = GridPool(rows=grid[0]["D"], columns=grid[-1]["D"])
        if _attribute(operation, "pooling_type") == "avg" and pool != GridPool(1, 1):
            dialect = operation["#"].rpartition(".")[0]
            operation["#"] = f"{dialect}.softshrink"
            operation["I"] = operation["I"][:1]
            pools.append(pool)
    return pools


def _attribute(operation: dict[str, Any], name: str) -> Any:
    return next(each["AT"].get("D") for each in operation["A"] if each["N"] == name)


def replace_marks(model: "onnx.ModelProto", pools: tuple[GridPool, ...]) -> None:
    """Put poolings in the place of their marks.

    Args:
        model: what the converter made of the marked program; changed in place.
        pools: from `mark_grid_pools`.

    Raises:
        ConversionError: the converter lost or repeated a mark.
    """
    nodes = list(model.graph.node)
    found = [_mark_of(node) for node in nodes]
    if sorted(number for number in found if number is not None) != list(range(len(pools))):
        raise ConversionError("the converter lost an adaptive pooling on the way: report this network")
    del model.graph.node[:]
    for node, number in zip(nodes, found, strict=True):
        model.graph.node.extend([node] if number is None else _pooling_nodes(node, pools[number]))


def _mark_of(node: "onnx.NodeProto") -> int | None:
    if node.op_type != _MARK_NODE:
        return None
    threshold = next(attribute.f for attribute in node.attribute if attribute.name == "lambd")
    return round(threshold) - _FIRST_MARK if threshold >= _FIRST_MARK else None


def _pooling_nodes(mark: "onnx.NodeProto", pool: GridPool) -> list["onnx.NodeProto"]:
    """Rows × tensor × columns, with the matrices made from the tensor's own size."""
    name, tensor, result = mark.output[0], mark.input[0], mark.output[0]
    rows = _Subgraph(f"{name}_rows")
    row_matrix = rows.averaging_matrix(rows.length(tensor, axis=2), pool.rows)
    columns = _Subgraph(f"{name}_columns")
    column_matrix = columns.averaging_matrix(columns.length(tensor, axis=3), pool.columns)
    turned = columns.add("Transpose", [column_matrix], perm=[1, 0])
    pooled_columns = columns.add("MatMul", [tensor, turned])
    columns.add("MatMul", [row_matrix, pooled_columns], output=result)
    return [*rows.nodes, *columns.nodes]


class _Subgraph:
    """Nodes that are made one after another, with names of their own."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix

    def add(self, operator: str, inputs: list[str], *, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        result = output or f"{self._prefix}_{len(self.nodes)}_{operator}"
        self.nodes.append(helper.make_node(operator, inputs, [result], name=f"{result}_node", **attributes))
        return result

    def constant(self, value: NDArray[np.int64]) -> str:
        from onnx import numpy_helper

        return self.add("Constant", [], value=numpy_helper.from_array(value))

    def length(self, tensor: str, *, axis: int) -> str:
        """Length of an axis: int64, a scalar."""
        return self.add("Gather", [self.add("Shape", [tensor]), self.constant(np.array(axis, np.int64))])

    def averaging_matrix(self, length: str, bins: int) -> str:
        """float32[bins, length]: each row averages the positions of its bin."""
        from onnx import TensorProto

        indices = np.arange(bins, dtype=np.int64)[:, np.newaxis]
        count = self.constant(np.array(bins, np.int64))
        start = self.add("Div", [self.add("Mul", [self.constant(indices), length]), count])
        last = self.add("Mul", [self.constant(indices + 1), length])
        # Rounding up: what a division of whole numbers cuts off is added before.
        end = self.add("Div", [self.add("Add", [last, self.constant(np.array(bins - 1, np.int64))]), count])
        zero, one = self.constant(np.array(0, np.int64)), self.constant(np.array(1, np.int64))
        positions = self.add("Range", [zero, length, one])
        after_start = self.add("Not", [self.add("Less", [positions, start])])
        inside = self.add("And", [after_start, self.add("Less", [positions, end])])
        members = self.add("Cast", [inside], to=TensorProto.FLOAT)
        size = self.add("Cast", [self.add("Sub", [end, start])], to=TensorProto.FLOAT)
        return self.add("Div", [members, size])

"""Transposed convolution whose output size is known only when the network runs."""

# With a stride s, s sizes are possible, and the program says at run time which of them it wants. paddle2onnx leaves
# that out and always makes the smallest. Here the largest is made, and what is too much is cut off behind.

from dataclasses import dataclass

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph


@dataclass(frozen=True, slots=True)
class SizedTransposedConvolution:
    """A transposed convolution whose output size comes from the network."""

    strides: tuple[int, int]  # of the rows, of the columns
    padding: tuple[int, int, int, int]  # rows before and behind, columns before and behind
    dilations: tuple[int, int]  # of the rows, of the columns
    groups: int  # of channels
    inputs: tuple[int, ...]  # the tensor NCHW, the weights, and height and width of the result

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        tensor, weights, *size = inputs
        top, bottom, left, right = self.padding
        # The rest of the padding behind is what may be added to the smallest size.
        behind = [max(each - stride + 1, 0) for each, stride in zip((bottom, right), self.strides, strict=True)]
        rest = [
            stride - 1 - (each - kept) for each, kept, stride in zip((bottom, right), behind, self.strides, strict=True)
        ]
        largest = graph.add(
            "ConvTranspose",
            tensor,
            weights,
            strides=self.strides,
            pads=[top, left, *behind],
            dilations=self.dilations,
            group=self.groups,
            output_padding=rest,
        )
        graph.add("Slice", largest, graph.whole([0, 0]), graph.numbers(size), graph.whole([2, 3]), output=outputs[0])


def find(operation: Operation, program: Program) -> SizedTransposedConvolution | None:
    """Recognise a transposed convolution whose output size is no constant."""
    if operation.kind not in {"conv2d_transpose", "depthwise_conv2d_transpose"}:
        return None
    tensor, weights, size = operation.inputs
    if size == 0 or program.constant(size) is not None or operation.get("padding_algorithm") != "EXPLICIT":
        return None
    padding = operation.get("paddings")
    top, bottom, left, right = padding if len(padding) == 4 else [padding[0]] * 2 + [padding[1]] * 2
    return SizedTransposedConvolution(
        strides=tuple(operation.get("strides")),
        padding=(top, bottom, left, right),
        dilations=tuple(operation.get("dilations")),
        groups=operation.get("groups"),
        inputs=(tensor, weights, *program.parts(size)),
    )

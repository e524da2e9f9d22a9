"""A convolution of each picture of a batch with weights of its own."""

# A network whose weights depend on the picture loops over the batch, convolves one picture, and appends the result to
# an array. paddle2onnx loses the array. Instead, the whole batch is multiplied at once: for each place of the window,
# the weights of that place times the tensor, shifted to it.

from dataclasses import dataclass

from converters.rewrites.program import Operation, Program
from converters.rewrites.subgraph import Subgraph


@dataclass(frozen=True, slots=True)
class SampleConvolution:
    """Convolutions with weights that differ between the pictures of a batch."""

    kernel: tuple[int, int]  # lengths of the window
    padding: tuple[int, int]  # rows and columns of zeros before and behind the tensor
    inputs: tuple[int, ...]  # the tensor [N, C, H, W], and the weights [N, M, C, rows, columns]

    def build(self, graph: Subgraph, inputs: list[str], outputs: list[str | None]) -> None:
        """Add the nodes, which make [N, M, H', W']."""
        tensor, weights = inputs
        padded = graph.add("Pad", tensor, graph.whole([0, 0, *self.padding, 0, 0, *self.padding]))
        height = self._places(graph, padded, axis=2)
        width = self._places(graph, padded, axis=3)
        total = ""
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                part = self._product(graph, padded, weights, (row, column), (height, width))
                total = graph.add("Add", total, part) if total else part
        # [N, M, H'·W'] to [N, M, H', W'].
        shape = graph.add("Concat", graph.whole([0, 0]), graph.vector(height), graph.vector(width), axis=0)
        graph.add("Reshape", total, shape, output=outputs[0])

    def _places(self, graph: Subgraph, padded: str, axis: int) -> str:
        return graph.add("Sub", graph.length(padded, axis), graph.whole(self.kernel[axis - 2] - 1))

    @staticmethod
    def _product(graph: Subgraph, padded: str, weights: str, place: tuple[int, int], sizes: tuple[str, str]) -> str:
        """[N, M, H'·W']: the weights of one place of the window times the tensor, shifted to it."""
        starts = graph.whole(place)
        ends = graph.add("Add", starts, graph.add("Concat", *(graph.vector(each) for each in sizes), axis=0))
        shifted = graph.add("Slice", padded, starts, ends, graph.whole([2, 3]))
        columns = graph.add("Reshape", shifted, graph.whole([0, 0, -1]))
        of_place = weights
        for position in reversed(place):
            of_place = graph.add("Gather", of_place, graph.whole(position), axis=-1)
        return graph.add("MatMul", of_place, columns)


def find(operation: Operation, program: Program) -> SampleConvolution | None:
    """Recognise the array of a loop over the batch, read as one tensor."""
    if operation.kind != "array_to_tensor" or operation.get("axis") != 0 or operation.get("use_stack"):
        return None
    loops = [each for each in program.operations if operation.inputs[0] in each.arrays_written]
    if len(loops) != 1:
        return None
    body = {value.number: each for each in loops[0].inside() for value in each.outputs}
    written = [
        each for each in loops[0].inside() if each.kind == "array_write_" and each.inputs[0] == operation.inputs[0]
    ]
    if len(written) != 1:
        return None
    convolution = body.get(written[0].inputs[1])
    if convolution is None or convolution.kind != "conv2d" or not _is_plain(convolution):
        return None
    slices = [body.get(each) for each in convolution.inputs]
    if any(each is None or each.kind != "slice" or each.get("axes") != [0] for each in slices):
        return None
    tensor, weights = (each.inputs[0] for each in slices if each is not None)
    if len(program.value(weights).shape) != 5 or len(program.value(tensor).shape) != 4:
        return None
    rows, columns = program.value(weights).shape[3:]
    top, left = convolution.get("paddings")
    return SampleConvolution((rows, columns), (top, left), (tensor, weights))


def _is_plain(convolution: Operation) -> bool:
    return (
        convolution.get("strides") == [1, 1]
        and convolution.get("dilations") == [1, 1]
        and convolution.get("groups") == 1
        and convolution.get("padding_algorithm") == "EXPLICIT"
        and len(convolution.get("paddings")) == 2
    )

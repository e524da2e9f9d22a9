"""INT8 from an FP32 model: static, in QDQ form, per channel; kept only if its masks stay within limits.

Activations become uint8 with a zero point, weights int8 around zero, one scale a channel: the pair for which ONNX
Runtime has fused kernels on x86 processors. For GPUs activations are int8 around zero, too, and biases stay in floating
point: TensorRT takes nothing else. Both are judged on a CPU, which runs either kind. Ranges are the smallest and
largest value that each tensor takes on the calibration pictures (`converters.precision.activations`).

What follows the last convolution stays in floating point: it is cheap, and rounded scores tie. If the masks still miss
the limits, the network is cut into blocks of neighbouring nodes, each block is quantized alone, and the blocks that
move the output most are left in floating point, step by step. Where half of the nodes would stay there, INT8 does not
pay: such a SegFormer-B0 is 13 MB instead of 15, and as slow.

Rounding errors of blocks add up like independent noise; hence a step that halves the sum of the errors of the blocks
that remain halves, roughly, the error of the output.
"""

# onnx and onnxruntime ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import TypeAdapter

from converters.parity import ParityError, ParityLimits, ParityReport, require_parity
from converters.precision.activations import (
    EXTREMES,
    PREPARED,
    Feeds,
    Ranges,
    floating_tensors,
    measured_ranges,
    prepared_for_rewrite,
    write_extremes,
)
from converters.progress import Advance, ignore_progress
from converters.repository import RefusedError
from converters.rewrites.cutting import sort_nodes, taken_by
from converters.rewriting import rewritten
from engine.bundle.bundle import OnnxModel
from engine.errors import CalibrationError, ConversionError
from engine.gpu.calibration import MIN_CALIBRATION_IMAGES
from engine.options import OnnxOptions, Precision
from engine.quantities import shown_fraction
from engine.runtimes import Tensor
from engine.runtimes.onnx import OnnxRuntime
from engine.system.machine.cores import usable_cores

if TYPE_CHECKING:
    import onnx

MAX_TRIALS = 8
BLOCKS = 32
"""Into how many blocks a network is cut: one of them is about three per cent of the work."""

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PASSED_THROUGH = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "Gather", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul",
    "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""They keep a chain of integers unbroken. Softmax and normalizations are left out: they lose most and gain nothing."""

_PROBES = 2
_PROBE_SIDE = 512
_ROUNDS = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuantizationTrial:
    """A row of the table of what was tried."""

    excluded_nodes: tuple[str, ...]  # left in floating point by the search
    report: ParityReport  # how the candidate compares with its reference
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """An INT8 model that keeps its limits."""

    excluded_nodes: tuple[str, ...]  # left in floating point by the search; names of the optimised graph
    trials: tuple[QuantizationTrial, ...]  # the last one is the model
    report: ParityReport
    speedup: float  # run time of FP32 over that of this one, on this machine and a calibration picture


_TRIALS = TypeAdapter(tuple[QuantizationTrial, ...])


class QuantizationError(RefusedError):
    """With INT8 the masks of this network miss the limits; `trials` says what was tried."""

    def __init__(self, message: str, trials: tuple[QuantizationTrial, ...]) -> None:
        super().__init__(message, _TRIALS.dump_python(trials, mode="json"))
        self.trials = trials

    @classmethod
    def recalled(cls, error: RefusedError) -> Self:
        """Make of a refusal that the cache remembered what was raised the first time."""
        return cls(str(error), _TRIALS.validate_python(error.details))


def quantize(
    model: Path,
    destination: Path,
    feeds: Callable[[], Iterator[Feeds]],
    judge: Callable[[Path], ParityReport],
    limits: ParityLimits,
    *,
    where: str,
    symmetric: bool = False,
    advance: Advance = ignore_progress,
) -> Quantized:
    """Make the INT8 model that keeps the limits with the fewest nodes in floating point; else no file is written.

    The model is an FP32 ONNX file of operator set 13 or later. `feeds` yields the calibration pictures as the network
    gets them, one at a time; it is called several times. `symmetric`, for GPUs: activations are int8 around zero,
    biases stay in floating point.

    QuantizationError: the limits are missed with half of the nodes in floating point; it carries the trials.
    CalibrationError: there are fewer than eight pictures, or a tensor's range on them is not finite. ConversionError:
    ONNX Runtime cannot quantize the network.
    """
    count = sum(1 for _ in feeds())
    if count < MIN_CALIBRATION_IMAGES:
        raise CalibrationError(
            f"{where}: INT8 is calibrated on at least {MIN_CALIBRATION_IMAGES} pictures like those that it will see, "
            f"{count} were given: name more"
        )
    with tempfile.TemporaryDirectory(prefix="quantizing-", dir=destination.parent) as folder:
        graph = _prepared(model, Path(folder), where)
        session_path = graph.path.with_name(EXTREMES)
        ranges = measured_ranges(session_path, graph.tensors, _counted(feeds(), count, advance), where)
        recipe = _Recipe(ranges, symmetric)
        candidate = Path(folder) / "candidate.onnx"
        trials: list[QuantizationTrial] = []
        for excluded in islice(_exclusions(graph, recipe, feeds, advance), MAX_TRIALS):
            advance("trying INT8", len(trials), MAX_TRIALS)
            nodes = [node for node in graph.candidates if node not in excluded]
            rewritten(_write_quantized, graph.path, candidate.parent, candidate.name, recipe, nodes)
            trials.append(QuantizationTrial(excluded, judge(candidate), candidate.stat().st_size))
            if _keeps(limits, trials[-1].report):
                speedup = _speedup(model, candidate, next(feeds()))
                _warn_if_slow(speedup, where)
                candidate.replace(destination)
                return Quantized(excluded, tuple(trials), trials[-1].report, speedup)
    raise QuantizationError(_refusal(graph, trials, limits, where), tuple(trials))


def _counted(feeds: Iterable[Feeds], count: int, advance: Advance) -> Iterator[Feeds]:
    for number, each in enumerate(feeds):
        advance("calibrating", number, count)
        yield each


def _keeps(limits: ParityLimits, report: ParityReport) -> bool:
    try:
        require_parity(report, limits, where="")
    except ParityError:
        return False
    return True


def _warn_if_slow(speedup: float, where: str) -> None:
    if speedup < 1:
        _log.warning(
            "%s: on this machine INT8 takes %.2f times as long as FP32: measure on the one that will run it",
            where,
            1 / speedup,
        )


def _refusal(graph: "_Graph", trials: Sequence[QuantizationTrial], limits: ParityLimits, where: str) -> str:
    rows = [
        f"{len(trial.excluded_nodes):>8} {shown_fraction(trial.report.min_class_iou, 4):>9} "
        f"{shown_fraction(trial.report.max_cover_error, 4):>12} "
        f"{trial.size_bytes / 2**20:>8.1f}"
        for trial in trials
    ]
    return "\n".join(
        [
            f"{where}: INT8 is not worthwhile for this network: with up to half of its {len(graph.candidates)} nodes "
            "in floating point the masks miss the limits; use FP32, calibrate on more pictures, or allow more "
            f"({_told(limits)})",
            "excluded class IoU  cover error      MiB",
            *rows,
        ]
    )


def _told(limits: ParityLimits) -> str:
    """The limits by the names of their options."""
    given = {
        "min-agreement": None if limits.max_mismatched_ppm is None else 1 - limits.max_mismatched_ppm / 1e6,
        "min-iou": limits.min_class_iou,
        "max-cover-error": limits.max_cover_error,
    }
    return ", ".join(f"{name} is {limit:g}" for name, limit in given.items() if limit is not None)


# ---- the graph --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Graph:
    """An FP32 model, ready to be quantized."""

    path: Path  # of the folded model; its nodes have names, its tensors types
    tensors: tuple[str, ...]  # those that are floating point and not constant
    candidates: tuple[str, ...]  # nodes that INT8 may take, in the order in which they run
    probe: str  # the last floating-point tensor on the way to the output


def _prepared(model: Path, folder: Path, where: str) -> _Graph:
    found = rewritten(_prepare, model, folder)
    if not found["candidates"]:
        raise ConversionError(f"{where}: the network has no convolution with constant weights: INT8 has nothing to do")
    return _Graph(folder / PREPARED, tuple(found["tensors"]), tuple(found["candidates"]), found["probe"])


def _prepare(model: Path, folder: Path) -> dict[str, object]:
    """Fold constants, and normalizations into convolutions: else both would be rounded, one after the other."""
    proto = prepared_for_rewrite(model, folder)
    floating = floating_tensors(proto)
    candidates = _candidates(proto, frozenset(floating))
    probe = _probe(proto, frozenset(floating)) if candidates else ""
    write_extremes(proto, floating, folder / EXTREMES)
    return {"tensors": floating, "candidates": candidates, "probe": probe}


def _candidates(proto: "onnx.ModelProto", floating: frozenset[str]) -> tuple[str, ...]:
    """Nodes of known kinds up to the last one with weights."""
    constants = {each.name for each in proto.graph.initializer}
    readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
    leads_to_weights: dict[str, bool] = {}
    chosen: list[str] = []
    for node in proto.graph.node:
        for tensor in node.input:
            readers[tensor].append(node)
    for node in reversed(proto.graph.node):
        followers = [reader for tensor in node.output for reader in readers[tensor]]
        is_weighted = node.op_type in _WEIGHTED and node.input[1] in constants
        leads_to_weights[node.name] = is_weighted or any(leads_to_weights[each.name] for each in followers)
        is_known = is_weighted or node.op_type in _PASSED_THROUGH
        if is_known and leads_to_weights[node.name] and node.output[0] in floating:
            chosen.append(node.name)
    return tuple(reversed(chosen))


def _probe(proto: "onnx.ModelProto", floating: frozenset[str]) -> str:
    """Walk back from the output past class indices to the scores that they were made of."""
    makers = {tensor: node for node in proto.graph.node for tensor in node.output}
    tensor = proto.graph.output[0].name
    while tensor not in floating:
        tensor = makers[tensor].input[0]
    return tensor


def _open(path: Path, precision: Precision = Precision.FP32) -> "closing[OnnxRuntime]":
    """The engine's own runtime, so that what is measured is what will run."""
    model = OnnxModel(path=path, precision=precision, digest="")
    return closing(OnnxRuntime(model, OnnxOptions(threads=usable_cores(), precision=precision)))


# ---- quantization -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How values become integers."""

    ranges: Ranges  # of every tensor, on the calibration pictures
    symmetric: bool  # around zero, as GPUs take them; else with a zero point, for which CPUs have the faster kernels


def _write_quantized(model: Path, folder: Path, name: str, recipe: "_Recipe", nodes: Sequence[str]) -> None:
    import onnx

    onnx.save(_quantized(model, recipe, nodes), folder / name)


def _quantized(model: Path, recipe: "_Recipe", nodes: Iterable[str]) -> "onnx.ModelProto":
    """The model with these nodes in INT8."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

    known = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in recipe.ranges.items()
    }
    proto = onnx.load(model)
    try:
        quantizer = QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, {**known}),
            nodes_to_quantize=sorted(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(_WEIGHTED | _PASSED_THROUGH),
            extra_options={"ActivationSymmetric": True, "QuantizeBias": False} if recipe.symmetric else {},
        )
        quantizer.quantize_model()
    # The quantizer raises whatever its own steps raise.
    except Exception as error:
        raise ConversionError(f"onnxruntime cannot quantize this network ({error}): use FP32") from error
    _take_shapes_of_integers(quantizer.model.model)
    sort_nodes(quantizer.model.model.graph)
    return quantizer.model.model


def _take_shapes_of_integers(proto: "onnx.ModelProto") -> None:
    """Ask a quantized tensor for its shape instead of its floating-point copy, which then need not be made."""
    sources = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    for node in proto.graph.node:
        if node.op_type == "Shape" and node.input[0] in sources:
            node.input[0] = sources[node.input[0]]
    read = {tensor for node in proto.graph.node for tensor in taken_by(node)} | {
        each.name for each in proto.graph.output
    }
    for node in [each for each in proto.graph.node if each.output[0] in sources and each.output[0] not in read]:
        proto.graph.node.remove(node)


# ---- the search -------------------------------------------------------------------------------------------------


def _exclusions(
    graph: _Graph, recipe: "_Recipe", feeds: Callable[[], Iterator[Feeds]], advance: Advance
) -> Iterator[tuple[str, ...]]:
    """Sets of nodes to leave in floating point: none, then ever more, the most sensitive first, up to half of all."""
    yield ()
    blocks = _blocks(graph.candidates)
    advance("measuring sensitivity", 0, 1)
    samples = list(islice(feeds(), _PROBES))
    errors = rewritten(_sensitivities, graph.path, graph.path.parent, recipe, blocks, graph.probe, samples)
    remaining = sorted(zip(errors, range(len(blocks)), strict=True), reverse=True)
    excluded: set[str] = set()
    while remaining:
        bound = sum(error for error, _ in remaining) / 2
        excluded |= set(blocks[remaining.pop(0)[1]])
        while sum(error for error, _ in remaining) > bound:
            excluded |= set(blocks[remaining.pop(0)[1]])
        if len(excluded) > len(graph.candidates) / 2:
            return  # what is left brings little: neither size nor time
        yield tuple(node for node in graph.candidates if node in excluded)


def _blocks(nodes: Sequence[str]) -> list[Sequence[str]]:
    """Cut into neighbours: between two nodes of a block nothing is rounded once the block is excluded."""
    size = -(-len(nodes) // BLOCKS)
    return [nodes[start : start + size] for start in range(0, len(nodes), size)]


def _sensitivities(
    model: Path, folder: Path, recipe: "_Recipe", blocks: Sequence[Sequence[str]], probe: str, samples: Sequence[Feeds]
) -> list[float]:
    """Mean squared error of the scores with one block quantized and all others in floating point."""
    import onnx

    probed = folder / "probed.onnx"
    wanted = _scores(onnx.load(model), probe, samples, probed)
    errors: list[float] = []
    for block in blocks:
        found = _scores(_quantized(model, recipe, block), probe, samples, probed)
        errors.append(sum(float(np.square(one - other).mean()) for one, other in zip(found, wanted, strict=True)))
    probed.unlink()
    return errors


def _scores(proto: "onnx.ModelProto", probe: str, feeds: Iterable[Feeds], path: Path) -> list[Tensor]:
    import onnx
    from onnx import TensorProto, helper

    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info(probe, TensorProto.FLOAT, None))
    onnx.save(proto, path)
    with _open(path) as runtime:
        free = {each.name: each.shape for each in runtime.inputs}
        return [
            runtime.run({name: _centre(tensor, free[name]) for name, tensor in each.items()})[probe] for each in feeds
        ]


def _centre(tensor: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    """Cut large sides, where they are free: a sample is enough to rank blocks."""
    for axis, (side, stated) in enumerate(zip(tensor.shape, shape, strict=True)):
        if stated is None and side > _PROBE_SIDE:
            start = (side - _PROBE_SIDE) // 2
            tensor = tensor.take(range(start, start + _PROBE_SIDE), axis)
    return tensor


def _speedup(model: Path, quantized: Path, feeds: Feeds) -> float:
    """Ratio of the medians of runs in turn."""
    with _open(model) as before, _open(quantized, Precision.INT8) as after:
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            for runtime, runs in zip((before, after), seconds, strict=True):
                start = time.perf_counter()
                runtime.run(feeds)
                runs.append(time.perf_counter() - start)
    return median(seconds[0]) / median(seconds[1])

"""The network of a bundle as it runs: images that are prepared for it go in, one output per image comes out."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.bundle.bundle import Bundle
from engine.errors import ImageError, InferenceError
from engine.images.quality import Flag
from engine.runtimes import Runtime, Tensor, TensorSpec
from engine.runtimes.programs.last_operator import LastOperator, last_operator
from engine.segmentation.memory_budget import NO_DOUBT_BYTES, MemoryBudget
from engine.segmentation.postprocess import OutputKind, logits, output_kind, require_channels_first
from engine.transforms import MAX_BANDS, TransformRecord

_log = logging.getLogger(__name__)
_BATCHES_ARE_CUT = "batches are cut to what the memory limit allows"
_ONE_BY_ONE = "images run one by one, because the network mixes those that share a run"
_MOVED = 0.01
"""Of the range of the scores, by how much one moves that is not rounding."""
_MOST_MOVED_SHARE = 0.001
_DIFFERENT = 0.01
"""Of the range of an image's values, how far another image is from it on average that can tell something."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """An image as the network takes it: float32[C, H, W], and what the transforms did, to be undone.

    `source_size` is width and height of the photograph, `flags` its possible faults.
    """

    tensor: NDArray[np.float32]
    records: tuple[TransformRecord, ...]
    preprocess_ms: float
    source_size: tuple[int, int] = (1, 1)
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """What the network returned for one image: its tensor, without the batch axis, and how to read it.

    `run_ms` is the image's share of the run; `classes` that the network tells apart, where the output does not show it.
    """

    output: Tensor
    kind: OutputKind
    run_ms: float
    classes: int = 0


RunOnce = Callable[[Sequence[PreparedImage]], list[RawOutput]]
"""Runs the network over images, each once."""


class Forward(Protocol):
    """A way to see an image that is not one run of the network."""

    def record(self) -> Mapping[str, object]:
        """For the provenance, name to value."""
        ...

    def run(self, run_once: RunOnce, prepared: Sequence[PreparedImage]) -> list[RawOutput]:
        """Run the network, by `run_once`, over images of any mix of shapes: one output per image, in order."""
        ...


@dataclass(slots=True)
class Network:
    """The network of a bundle on a runtime.

    Threads: runs may be called from several threads at once; the runtime has a run under way for each of its streams.
    Batches are cut to the `memory` that runs may use; None: no limit. `before_run` is called before each run, and what
    it raises ends the image. `notes`, for the provenance, say what was done otherwise than asked.
    """

    bundle: Bundle
    runtime: Runtime
    memory: MemoryBudget | None = None
    before_run: Callable[[], None] | None = None
    notes: tuple[str, ...] = ()
    _input: TensorSpec = field(init=False)
    _ends_in_sigmoid: bool = field(init=False)
    _limit_bytes: int = field(init=False, default=0)
    _certain_pixels: float = field(init=False, default=math.inf)
    _measuring: Lock = field(init=False, default_factory=Lock)
    _runtime_tells_classes: bool = field(init=False, default=True)
    _batch_invariant: bool | None = field(init=False, default=None)  # None: no two images have shared a run yet

    def __post_init__(self) -> None:
        images = [spec for spec in self.runtime.inputs if len(spec.shape) == 4]
        if len(self.runtime.inputs) != 1 or len(images) != 1:
            shapes = {spec.name: spec.shape for spec in self.runtime.inputs}
            raise InferenceError(f"the network must have one input of rank 4 (NCHW), but it has {shapes}")
        self._input = images[0]
        if self.bands > MAX_BANDS:
            raise InferenceError(f"the network takes images of {self.bands} bands, and at most {MAX_BANDS} are read")
        self._ends_in_sigmoid = self.bundle.multilabel and self.last_operator() is LastOperator.SIGMOID

    def last_operator(self) -> LastOperator:
        """Find out what the running network does to its scores last.

        It is none of the known operators where the bundle does not hold the file that runs. Raises ModelLoadError where
        the file cannot be read.
        """
        models = (self.bundle.paddle, *self.bundle.onnx)
        running = (each for each in models if each is not None and each.digest == self.runtime.identity.model_digest)
        model = next(running, None)
        return LastOperator.OTHER if model is None else last_operator(model)

    @property
    def uses_threshold(self) -> bool:
        """Whether the threshold can have an effect; known where the network declares what it returns."""
        scores = any(len(each.shape) == 4 and each.shape[1] not in {None, 1} for each in self.runtime.outputs)
        return not self.returns_indices and (self.bundle.multilabel or not scores)

    @property
    def returns_indices(self) -> bool:
        """Whether the network returns class indices and no scores; known where it declares what it returns."""
        return all(np.dtype(each.dtype).kind in "iu" for each in self.runtime.outputs)

    @property
    def bands(self) -> int:
        """Bands of the network's input; three where it states none."""
        return self._input.shape[1] or 3

    @property
    def input_name(self) -> str:
        """Name of the network's input."""
        return self._input.name

    def require_fitting(self, tensor: NDArray[np.float32]) -> None:
        """Refuse (ImageError) `float32[C, H, W]` of another size or number of bands than the network takes."""
        stated = self._input.shape[1:]
        if any(want is not None and want != have for want, have in zip(stated, tensor.shape, strict=True)):
            wanted = "×".join("any" if axis is None else str(axis) for axis in stated)
            raise ImageError(
                f"after the transforms the image is {'×'.join(map(str, tensor.shape))} (bands×height×width), but the "
                f"network takes {wanted}: export it with dynamic input, or with a Resize or Padding to its size"
            )

    def run(
        self, prepared: Sequence[PreparedImage], only_classes_of: Callable[[PreparedImage], bool] = lambda _: False
    ) -> list[RawOutput]:
        """Run the network over images, those of equal shape together, unless it mixes the images of a run.

        `only_classes_of` says for which images a mask will do in place of scores; a runtime that can compare scores
        where it runs then returns one. There is one output per image, in order. Raises InferenceError where the run
        failed, or returned no segmentation.
        """
        groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
        for index, each in enumerate(prepared):
            only_classes = self._runtime_tells_classes and only_classes_of(each)
            groups.setdefault((each.tensor.shape, only_classes), []).append(index)
        outputs: dict[int, RawOutput] = {}
        for (shape, only_classes), indices in groups.items():
            size = self._input.shape[0] or self._images_that_fit(shape[-2] * shape[-1], len(indices))
            for start in range(0, len(indices), size):
                chunk = indices[start : start + size]
                raw = self._run_together([prepared[index].tensor for index in chunk], only_classes=only_classes)
                outputs.update(zip(chunk, raw, strict=True))
        return [outputs[index] for index in range(len(prepared))]

    def _run_together(self, tensors: list[NDArray[np.float32]], *, only_classes: bool) -> list[RawOutput]:
        """Let images of equal shape share a run, if that changes nothing, which the first that do so tell."""

        def run(sharing: list[NDArray[np.float32]]) -> list[RawOutput]:
            if self.before_run is not None:
                self.before_run()
            return self._run_stacked(sharing, only_classes=only_classes)

        if self._batch_invariant is not False:
            together = run(tensors)
            if self._batch_invariant or not _can_tell(tensors):
                return together
            (alone,) = run(tensors[:1])
            self._batch_invariant = same_result(alone.output, together[0].output)
            if self._batch_invariant:
                return together
            _log.warning("%s: %s", self.bundle.name, _ONE_BY_ONE)
            self.notes = (*self.notes, _ONE_BY_ONE)
        return [raw for each in tensors for raw in run([each])]

    def _images_that_fit(self, pixels: int, wanted: int) -> int:
        if self.memory is None and pixels * wanted > self._certain_pixels:
            # Transforms and scales make more of an image than its own pixels.
            self._measure_runs()
        if self.memory is None:
            return wanted
        fitting = self.memory.images_that_fit(pixels, wanted)
        self._note_cut(fitting, wanted, pixels)
        return fitting

    def _note_cut(self, fitting: int, wanted: int, pixels: int) -> None:
        if fitting < wanted and _BATCHES_ARE_CUT not in self.notes:
            _log.warning("%s: %d of %d images of %d pixels share a run", _BATCHES_ARE_CUT, fitting, wanted, pixels)
            self.notes = (*self.notes, _BATCHES_ARE_CUT)

    def batch_within_memory(self, wanted: int, pixels: int, read_ahead: int) -> int:
        """Cut the number of images that may share a run to what a pipeline can hold within the limit: at least 1.

        `pixels` are of the largest image that is usual, `read_ahead` images that are decoded before they are needed.
        Less than wanted is logged and noted.
        """
        if self.memory is None:
            return wanted
        fitting = self.memory.batch_that_fits(pixels, wanted, read_ahead)
        self._note_cut(fitting, wanted, pixels)
        return fitting

    def apply_memory_limit(self, limit_bytes: int, pixels: int) -> None:
        """Keep to a memory limit from now on. What runs take is measured before the first that may not fit.

        `limit_bytes` are of all memory of this process. If the largest run that is to be expected, of so many `pixels`,
        may not fit, the measurement happens now. On a GPU it is the GPU's memory that runs take, and its limit that
        counts. Runs under TensorRT are not measured, since it takes no pictures outside its profile.
        """
        memory = self.runtime.memory
        if (self.runtime.identity.on_gpu and memory is None) or self._input.shape[-2:] != (None, None):
            return
        self._limit_bytes = limit_bytes
        self._certain_pixels = (limit_bytes if memory is None else memory.free_bytes()) / NO_DOUBT_BYTES
        if pixels > self._certain_pixels:
            self._measure_runs()

    def _measure_runs(self) -> None:
        batch, bands = (axis or 1 for axis in self._input.shape[:2])

        def run_square(side: int) -> int:
            outputs = self.runtime.run({self._input.name: np.zeros((batch, bands, side, side), self._input.dtype)})
            return sum(output.nbytes for output in outputs.values())

        with self._measuring:
            if self._certain_pixels == math.inf:
                return
            if self.runtime.memory is None:
                self.memory = MemoryBudget.measured(run_square, self._limit_bytes)
            else:
                self.memory = MemoryBudget.measured_on(self.runtime.memory, run_square)
            # Whatever was found out, it is not asked again: also not of a network that takes no small pictures.
            self._certain_pixels = math.inf

    def _run_stacked(self, tensors: list[NDArray[np.float32]], *, only_classes: bool) -> list[RawOutput]:
        fixed_batch = self._input.shape[0] or len(tensors)
        # A network exported for a fixed batch always gets a full one; what was repeated is dropped.
        filled = [*tensors, *tensors[-1:] * (fixed_batch - len(tensors))]
        batch = np.stack(filled) if len(filled) > 1 else np.ascontiguousarray(filled[0])[np.newaxis]
        feeds = {self._input.name: batch.astype(self._input.dtype, copy=False)}
        started = time.perf_counter()
        masks = self._masks_of(feeds, batch.shape[-2:]) if only_classes else None
        outputs = self.runtime.run(feeds) if masks is None else {}
        run_ms = (time.perf_counter() - started) * 1000 / len(tensors)
        if masks is not None:
            classes = self.runtime.outputs[0].shape[1] or 0
            return [RawOutput(masks[index], OutputKind.MASK, run_ms, classes) for index in range(len(tensors))]
        output, kind = self._segmentation_of(outputs, fixed_batch, batch.shape[-2:])
        return [RawOutput(output[index], kind, run_ms) for index in range(len(tensors))]

    def _masks_of(self, feeds: Mapping[str, Tensor], size: tuple[int, ...]) -> Tensor | None:
        masks = self.runtime.run_for_classes(feeds)
        if masks is None or masks.shape[-2:] != size:
            # A network that returns less than it is given has its scores enlarged.
            self._runtime_tells_classes = False
            return None
        return masks

    def _segmentation_of(
        self, outputs: Mapping[str, Tensor], batch: int, size: tuple[int, ...]
    ) -> tuple[Tensor, OutputKind]:
        problems: list[str] = []
        for name, output in outputs.items():
            try:
                require_channels_first(output, size, len(self.bundle.classes))
                kind = output_kind(output, multilabel=self.bundle.multilabel)
                if kind is OutputKind.MULTILABEL and self._ends_in_sigmoid:
                    output = logits(output)
            except InferenceError as error:
                problems.append(f"{name}: {error}")
                continue
            if output.shape[0] == batch:
                return output, kind
            problems.append(f"{name}: {output.shape[0]} results for {batch} images")
        raise InferenceError(f"no output of the network is a segmentation ({'; '.join(problems)})")


def _can_tell(tensors: Sequence[NDArray[np.float32]]) -> bool:
    """Whether images differ enough from the first to change its result where a network mixes them."""
    first, *others = tensors
    different = _DIFFERENT * float(np.ptp(first))
    return any(float(np.abs(each - first).mean()) > different for each in others)


def same_result(alone: Tensor, shared: Tensor) -> bool:
    """Compare an image's results, `[...]`, by itself (`alone`) and in a run with others (`shared`).

    A network may mix the images of a run in silence: an average over all axes, a reshape that takes the batch for
    something else. Rounding is no mixing: libraries compute a batch in another order than one image. At most a
    thousandth of the classes may differ, or of the scores by more than a hundredth of their range.
    """
    if alone.shape != shared.shape:
        return False
    if alone.dtype.kind != "f":
        return float((alone != shared).mean()) <= _MOST_MOVED_SHARE
    # Values that are no numbers are refused where the result is read.
    with np.errstate(invalid="ignore"):
        moved = np.abs(alone.astype(np.float32) - shared.astype(np.float32)) > _MOVED * float(np.ptp(alone))
    return float(moved.mean()) <= _MOST_MOVED_SHARE

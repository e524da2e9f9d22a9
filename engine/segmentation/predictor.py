"""One image in, one mask out: preprocess, run, postprocess, with provenance and timings."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from engine.bundle.bundle import Bundle
from engine.declaration import Options, enumeration_value, option
from engine.errors import ImageError, InferenceError, OptionError
from engine.images import ImageLimits, ScaleRange, SourceImage, image_of_array, read_image
from engine.runtimes import Runtime, Tensor, TensorSpec
from engine.runtimes.profile import Profile
from engine.runtimes.programs.last_operator import LastOperator, last_operator
from engine.segmentation.confidence import (
    NO_SCORES,
    Confidence,
    ConfidencePlane,
    ScoreScale,
    class_confidence,
    require_more_than_two,
    require_scores,
)
from engine.segmentation.memory_budget import NO_DOUBT_BYTES, MemoryBudget
from engine.segmentation.palette import composite, overlay, palette_for, planes_npz, pseudo_color_png
from engine.segmentation.postprocess import (
    OutputKind,
    class_count,
    logits,
    output_kind,
    require_channels_first,
    score_planes,
    segment,
)
from engine.segmentation.quality import Flag, Reference, flags_of, read_reference
from engine.segmentation.steps import ClassCover, Mask, MeasuringSteps, RegionCover, measured
from engine.system.files import write_atomically
from engine.transforms import (
    MAX_BANDS,
    TransformRecord,
    apply_transforms,
    bands_of_images,
    require_values_for,
    restore_plane,
)

_log = logging.getLogger(__name__)
Photograph = SourceImage | NDArray[np.uint8] | Path | str
"""What may be segmented: a picture as it was read, `uint8[H, W, 3]` RGB (as many bands as the network takes), or the
path of a file."""


class MaskSize(StrEnum):
    """At which size masks are returned."""

    ORIGINAL = "original"
    """The source image's."""
    INFERENCE = "inference"
    """The image's as it was read, after `max_img_size`."""


@dataclass(frozen=True, slots=True)
class MaskOptions(Options):
    """What becomes of the network's output.

    Attributes:
        mask_size: at which size masks are returned.
        threshold: above it, a pixel belongs to a class; for probability maps and bundles whose classes overlap.
        with_argmax: whether a pixel has its strongest class only, also where the bundle says that classes overlap.
    """

    title: ClassVar[str] = "Masks"

    mask_size: MaskSize = option(
        MaskSize.ORIGINAL, "Size of the masks: that of the image (original), or that after max-img-size (inference)."
    )
    threshold: float = option(
        0.5,
        "Probability above which a pixel belongs to a class, for models with one probability per class. Other models "
        "do not use it.",
        above=0,
        below=1,
    )
    with_argmax: bool = option(
        False, "Give each pixel its strongest class, even if the bundle says that its classes overlap."
    )


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a mask comes from.

    Attributes:
        bundle: digest of the bundle.
        model: digest of the model that ran.
        runtime: onnx or paddle.
        provider: execution provider really used.
        precision: arithmetic of the heavy layers.
        threads: threads of the runtime, all streams together.
        fallbacks: every step that `auto` went down, in order.
        versions: library name to version.
        profile: digest of the tuned profile that runtime, provider, precision and threads were chosen by; None where
            none was.
        streams: runs that may be under way at once.
        tiling: how the image was cut into tiles and joined, name to value; None where it was not.
        averaging: windows, scales and flips that were averaged, name to value; None where none were.
        scale_range: the values of pictures that became 0 and 255; None: all that the bits of each can hold.
        derived_from: digest of the bundle that the bundle says it was made from; None if it says nothing.
        measuring: what was done with the classes before the cover was taken, name to value; None where nothing was.
    """

    bundle: str
    model: str
    runtime: str
    provider: str
    precision: str
    threads: int
    fallbacks: tuple[str, ...]
    versions: Mapping[str, str]
    profile: str | None = None
    streams: int = 1
    tiling: Mapping[str, object] | None = None
    averaging: Mapping[str, object] | None = None
    scale_range: ScaleRange | None = None
    derived_from: str | None = None
    measuring: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The result for one image.

    Attributes:
        mask: uint8[H, W] class indices (uint16 past 256 classes), or bool[K, H, W] planes of a multilabel bundle.
        covers: one entry a class, in index order.
        timings_ms: preprocess, run and postprocess, in milliseconds.
        network_size: width and height of what the network saw at once, in pixels; of tiles those of one.
        tiling: how the image was cut into tiles, for the provenance; None where it was not.
        flags: what the photograph may suffer from.
        confidence: how sure the network is of the classes; None where nobody asked.
        region: the cover inside of the region of interest; None where nobody asked.
    """

    mask: Mask
    covers: tuple[ClassCover, ...]
    timings_ms: Mapping[str, float]
    network_size: tuple[int, int] | None = None
    tiling: Mapping[str, object] | None = None
    flags: tuple[Flag, ...] = ()
    confidence: Confidence | None = None
    region: RegionCover | None = None

    @property
    def width(self) -> int:
        """Width of the mask in pixels."""
        return int(self.mask.shape[-1])

    @property
    def height(self) -> int:
        """Height of the mask in pixels."""
        return int(self.mask.shape[-2])

    def save(self, path: Path | str) -> None:
        """Write the mask into a file, as `pseg predict` does.

        Args:
            path: `.png`: a palette PNG, whose indices are the classes (`<stem>.pseudo.png` of the command; of classes
                that overlap the last one is shown). `.npz`, for classes that overlap: `bool[K, H, W]` as `planes`.

        Raises:
            OptionError: the suffix is another one.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            write_atomically(path, self._repr_png_())
        elif path.suffix.lower() == ".npz" and self.mask.dtype == np.bool_:
            write_atomically(path, planes_npz(cast("NDArray[np.bool_]", self.mask)))
        else:
            suffixes = ".png or .npz" if self.mask.dtype == np.bool_ else ".png"
            raise OptionError(f"{path}: give a file that ends in {suffixes}", option="path")

    def overlay(self, pixels: NDArray[np.uint8], *, opacity: float = 0.5) -> NDArray[np.uint8]:
        """Blend the colours of the classes into a photograph.

        Args:
            pixels: `uint8[h, w, 3]`, RGB, of any size.
            opacity: 0 shows the photograph alone, 1 the mask alone.

        Returns:
            `uint8[h, w, 3]`, RGB.

        Raises:
            OptionError: `opacity` is not within 0–1.
        """
        return overlay(pixels, self._indices(), self._palette(), opacity=opacity)

    def _indices(self) -> NDArray[np.uint8 | np.uint16]:
        if self.mask.dtype == np.bool_:
            return composite(cast("NDArray[np.bool_]", self.mask))
        return cast("NDArray[np.uint8 | np.uint16]", self.mask)

    def _palette(self) -> NDArray[np.uint8]:
        return palette_for([each.segmentation_class.color for each in self.covers], len(self.covers))

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it."""
        return pseudo_color_png(self._indices(), self._palette())


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """An image as the network takes it.

    Attributes:
        tensor: float32[C, H, W].
        records: what the transforms did, to be undone.
        preprocess_ms: how long that took.
        source_size: width and height of the photograph.
        flags: what the photograph may suffer from.
    """

    tensor: NDArray[np.float32]
    records: tuple[TransformRecord, ...]
    preprocess_ms: float
    source_size: tuple[int, int] = (1, 1)
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """What the network returned for one image.

    Attributes:
        output: one image's tensor, without the batch axis.
        kind: how to read it.
        run_ms: this image's share of the run.
        classes: that the network tells apart, where the output does not show it.
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
        """Run the network over images.

        Args:
            run_once: runs the network over images, each once.
            prepared: any mix of shapes.

        Returns:
            One output per image, in order.
        """
        ...


@dataclass(slots=True)
class Predictor:
    """A bundle on a runtime.

    Threads: all methods may be called from several threads at once; the runtime has a run under way for each of its
    streams.

    Attributes:
        bundle: transforms and classes.
        runtime: the loaded model; closed with the predictor.
        threshold: for probability maps and multilabel planes, 0–1.
        mask_size: at which size masks are returned.
        fallbacks: steps that were taken down to this runtime.
        profile: the tuned profile that the runtime was chosen by; None where none was.
        memory: what runs may use; batches are cut to it, which is noted among the fallbacks. None: no limit.
        forward: how an image is seen; None: in one run of the network.
        before_run: called before each run of the network; what it raises ends the image. None: nothing is called.
        images: how images are read where their paths are given, and shrunken where arrays are.
        steps: what is done with the classes before the cover is taken.
        resources: closed after the runtime, such as the folder of an unpacked bundle; None: there is nothing to close.
    """

    bundle: Bundle
    runtime: Runtime
    threshold: float = 0.5
    mask_size: MaskSize = MaskSize.ORIGINAL
    fallbacks: tuple[str, ...] = ()
    profile: Profile | None = None
    memory: MemoryBudget | None = None
    forward: Forward | None = None
    before_run: Callable[[], None] | None = None
    images: ImageLimits = ImageLimits()
    steps: MeasuringSteps = MeasuringSteps()
    resources: ExitStack | None = None
    _input: TensorSpec = field(init=False)
    _bands: int = field(init=False)
    _ends_in_sigmoid: bool = field(init=False)
    _reference: Reference | None = field(init=False)
    _runtime_tells_classes: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.mask_size = enumeration_value(MaskSize, self.mask_size, option="mask_size")
        images = [spec for spec in self.runtime.inputs if len(spec.shape) == 4]
        if len(self.runtime.inputs) != 1 or len(images) != 1:
            shapes = {spec.name: spec.shape for spec in self.runtime.inputs}
            raise InferenceError(f"the network must have one input of rank 4 (NCHW), but it has {shapes}")
        self._input = images[0]
        self._bands = self._input.shape[1] or 3
        if self._bands > MAX_BANDS:
            raise InferenceError(f"the network takes images of {self._bands} bands, and at most {MAX_BANDS} are read")
        require_values_for(self.bundle.transforms, self._bands)
        self._reference = read_reference(self.bundle.folder)
        self._ends_in_sigmoid = self.bundle.multilabel and self.last_operator() is LastOperator.SIGMOID

    def last_operator(self) -> LastOperator:
        """Find out what the running network does to its scores last.

        Returns:
            The operator; none of those that are known, where the bundle does not hold the file that runs.

        Raises:
            ModelLoadError: its file cannot be read.
        """
        models = (self.bundle.paddle, *self.bundle.onnx)
        running = (each for each in models if each is not None and each.digest == self.runtime.identity.model_digest)
        model = next(running, None)
        return LastOperator.OTHER if model is None else last_operator(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the runtime. Calling it twice is harmless."""
        self.runtime.close()
        if self.resources is not None:
            self.resources.close()

    @property
    def uses_threshold(self) -> bool:
        """Whether the threshold can have an effect; known where the network declares what it returns."""
        scores = any(len(each.shape) == 4 and each.shape[1] not in {None, 1} for each in self.runtime.outputs)
        return not self.returns_indices and (self.bundle.multilabel or not scores)

    @property
    def returns_indices(self) -> bool:
        """Whether the network returns class indices and no scores; known where it declares what it returns."""
        return all(np.dtype(each.dtype).kind in "iu" for each in self.runtime.outputs)

    def score_scale(self) -> ScoreScale:
        """Find out what the scores of the network are.

        Returns:
            Probabilities if the network ends in a softmax, sigmoids if in a sigmoid, else logits.

        Raises:
            OptionError: there are none that state a confidence.
            ModelLoadError: the network's file cannot be read.
        """
        if self.bundle.multilabel:
            require_scores(OutputKind.MULTILABEL)
        last = self.last_operator()
        if self.returns_indices or last is LastOperator.ARGMAX:
            require_scores(OutputKind.MASK)
        scales = {LastOperator.SOFTMAX: ScoreScale.PROBABILITIES, LastOperator.SIGMOID: ScoreScale.SIGMOIDS}
        scale = scales.get(last, ScoreScale.LOGITS)
        if any(len(each.shape) == 4 and each.shape[1] == 2 for each in self.runtime.outputs):
            require_more_than_two(scale)
        return scale

    @property
    def provenance(self) -> Provenance:
        """Where this predictor's masks come from."""
        identity = self.runtime.identity
        return Provenance(
            bundle=self.bundle.digest,
            model=identity.model_digest,
            runtime=identity.runtime.value,
            provider=identity.provider,
            precision=identity.precision.value,
            threads=identity.threads,
            fallbacks=self.fallbacks,
            versions={"numpy": np.__version__, **identity.versions},
            profile=self.profile and self.profile.digest,
            streams=identity.streams,
            averaging=None if self.forward is None else self.forward.record(),
            scale_range=self.images.scale_range,
            derived_from=self.bundle.derived_from,
            measuring=self.steps.record(),
        )

    @property
    def bands(self) -> int:
        """Bands that an image has to have: as many as the network takes; three, which become grey, for one."""
        return bands_of_images(self._bands)

    @property
    def input_name(self) -> str:
        """Name of the network's input."""
        return self._input.name

    def predict(self, image: Photograph) -> Prediction:
        """Segment one image.

        Args:
            image: a path, an array `uint8[H, W, 3]` of RGB, 0–255, or what `read_image` returned. Paths are read, and
                arrays shrunken, by the limits in `images`: as the command does without options, unless these are
                others.

        Returns:
            Mask, cover and timings.

        Raises:
            ImageError: the image cannot be read, or the network or a transform does not take it.
            InferenceError: the run failed.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[Photograph]) -> list[Prediction]:
        """Segment several images, those of equal tensor shape in one run.

        Args:
            images: any mix of sizes, as `predict` takes them.

        Returns:
            One prediction per image, in order; equal to predicting each by itself.

        Raises:
            ImageError: an image cannot be read, or the network or a transform does not take it.
            InferenceError: the run failed.
        """
        prepared = [self.prepare(self._read(image)) for image in images]
        outputs = self.run(prepared, for_classes=True)
        return [self.finish(each, raw) for each, raw in zip(prepared, outputs, strict=True)]

    def scores(self, image: Photograph) -> NDArray[np.float32]:
        """Compute what the network says of every class, before the classes are read.

        Args:
            image: as `predict` takes it.

        Returns:
            `float32[K, H, W]` at the size that masks have: logits or probabilities, whichever the network returns; one
            plane for a probability map; logits where classes overlap. It takes four bytes for each pixel and class.

        Raises:
            ImageError: the image cannot be read, or the network or a transform does not take it.
            InferenceError: the run failed, or the network returns class indices and no scores.
        """
        prepared = self.prepare(self._read(image))
        (raw,) = self.run([prepared])
        if raw.kind is OutputKind.MASK:
            raise InferenceError(f"{self.bundle.source}: {NO_SCORES}")
        score_planes(raw.output, raw.kind)  # refuses NaN, infinity and impossible values
        records = _undo_records(prepared)
        planes = raw.output.astype(np.float32, copy=False)
        return np.stack([restore_plane(plane, records, interpolation="linear") for plane in planes])

    def _read(self, image: Photograph) -> SourceImage:
        match image:
            case SourceImage():
                return image
            case np.ndarray():
                return image_of_array(image, bands=self.bands, max_img_size=self.images.max_img_size)
            case str() | Path():
                return read_image(image, **self.images.values())
            case _:
                raise ImageError(
                    f"image: is a {type(image).__name__}; give a path, an array uint8[H, W, {self.bands}], or what "
                    "read_image returns"
                )

    def prepare(self, image: SourceImage) -> PreparedImage:
        """Apply the bundle's transforms; a network of one band gets the image's grey values.

        Args:
            image: as `read_image` returns it.

        Returns:
            The tensor, and how to undo the transforms.

        Raises:
            ImageError: the network or a transform does not take this image.
            UnsupportedTransformError: a transform is made for another number of bands.
        """
        started = time.perf_counter()
        tensor, records = apply_transforms(self.bundle.transforms, image.pixels, bands=self._bands)
        self._check_fits(tensor)
        height, width = image.pixels.shape[:2]
        if self.mask_size is MaskSize.ORIGINAL:
            height, width = image.height, image.width
        # Some transforms record nothing; whatever they did, the mask ends at the wanted size.
        wanted = TransformRecord("resize", height, width)
        source_size = (image.width, image.height)
        return PreparedImage(tensor, (wanted, *records), _elapsed_ms(started), source_size, self.flags_of(image))

    def flags_of(self, image: SourceImage) -> tuple[Flag, ...]:
        """Judge a photograph by its statistics, and by those of pictures that the bundle carries.

        Args:
            image: as `read_image` returns it.

        Returns:
            What it may suffer from; nothing where it was not measured.
        """
        return flags_of(image.statistics, self._reference)

    def _check_fits(self, tensor: NDArray[np.float32]) -> None:
        stated = self._input.shape[1:]
        if any(want is not None and want != have for want, have in zip(stated, tensor.shape, strict=True)):
            wanted = "×".join("any" if axis is None else str(axis) for axis in stated)
            raise ImageError(
                f"after the transforms the image is {'×'.join(map(str, tensor.shape))} (bands×height×width), but the "
                f"network takes {wanted}: export it with dynamic input, or with a Resize or Padding to its size"
            )

    def run(self, prepared: Sequence[PreparedImage], *, for_classes: bool = False) -> list[RawOutput]:
        """Run the network over images, in the way that `forward` says.

        Args:
            prepared: any mix of shapes.
            for_classes: whether the outputs are for `finish` only. Where that needs no scores, and the runtime compares
                them where it runs, the outputs are masks.

        Returns:
            One output per image, in order.

        Raises:
            ImageError: what `forward` makes of an image is not taken.
            InferenceError: the run failed, or returned no segmentation.
        """
        if self.forward is not None:
            return self.forward.run(self._run_once, prepared)
        return self._run_once(prepared, for_classes=for_classes)

    def _run_once(self, prepared: Sequence[PreparedImage], *, for_classes: bool = False) -> list[RawOutput]:
        groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
        for index, each in enumerate(prepared):
            groups.setdefault((each.tensor.shape, for_classes and self._needs_no_scores(each)), []).append(index)
        outputs: dict[int, RawOutput] = {}
        for (_, only_classes), indices in groups.items():
            height, width = prepared[indices[0]].tensor.shape[-2:]
            for chunk in self._chunks(indices, height * width):
                if self.before_run is not None:
                    self.before_run()
                raw = self._run_stacked([prepared[index].tensor for index in chunk], only_classes=only_classes)
                outputs.update(zip(chunk, raw, strict=True))
        return [outputs[index] for index in range(len(prepared))]

    def _needs_no_scores(self, prepared: PreparedImage) -> bool:
        # The mask is then the same whether classes are read before the transforms are undone or afterwards.
        if self.bundle.multilabel or self.steps.wants_confidence or not self._runtime_tells_classes:
            return False
        size = prepared.tensor.shape[-2:]
        for record in reversed(prepared.records):
            wanted = (record.height, record.width)
            if record.kind == "resize" and wanted != size:
                return False
            size = wanted
        return True

    def _chunks(self, indices: list[int], pixels: int) -> list[list[int]]:
        size = self._input.shape[0] or self._images_that_fit(pixels, len(indices))
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def _images_that_fit(self, pixels: int, wanted: int) -> int:
        if self.memory is None:
            return wanted
        fitting = self.memory.images_that_fit(pixels, wanted)
        self._note_cut(fitting, wanted, pixels)
        return fitting

    def _note_cut(self, fitting: int, wanted: int, pixels: int) -> None:
        note = "batches are cut to what the memory limit allows"
        if fitting < wanted and note not in self.fallbacks:
            _log.warning("%s: %d of %d images of %d pixels share a run", note, fitting, wanted, pixels)
            self.fallbacks = (*self.fallbacks, note)

    def batch_within_memory(self, wanted: int, pixels: int, read_ahead: int) -> int:
        """Cut a batch size to what a pipeline can hold within the memory limit.

        Args:
            wanted: images that may share a run, at least 1.
            pixels: of the largest image that is usual.
            read_ahead: images that are decoded before they are needed.

        Returns:
            1 to `wanted`; less than wanted is logged, and noted among the fallbacks.
        """
        if self.memory is None:
            return wanted
        fitting = self.memory.batch_that_fits(pixels, wanted, read_ahead)
        self._note_cut(fitting, wanted, pixels)
        return fitting

    def apply_memory_limit(self, limit_bytes: int, pixels: int) -> None:
        """Measure what runs take and keep to a limit from now on, unless they certainly fit.

        On a GPU it is the GPU's memory that runs take, and its limit that counts. Runs under TensorRT are not measured,
        since it takes no pictures outside its profile.

        Args:
            limit_bytes: of all memory of this process.
            pixels: of the largest run that is to be expected.
        """
        memory = self.runtime.memory
        if self.runtime.identity.on_gpu and memory is None:
            return
        room_bytes = limit_bytes if memory is None else memory.free_bytes()
        if self._input.shape[-2:] != (None, None) or pixels * NO_DOUBT_BYTES <= room_bytes:
            return
        batch, bands = (axis or 1 for axis in self._input.shape[:2])

        def run_square(side: int) -> int:
            outputs = self.runtime.run({self._input.name: np.zeros((batch, bands, side, side), self._input.dtype)})
            return sum(output.nbytes for output in outputs.values())

        if memory is None:
            self.memory = MemoryBudget.measured(run_square, limit_bytes)
        else:
            self.memory = MemoryBudget.measured_on(memory, run_square)

    def _run_stacked(self, tensors: list[NDArray[np.float32]], *, only_classes: bool) -> list[RawOutput]:
        fixed_batch = self._input.shape[0] or len(tensors)
        # A network exported for a fixed batch always gets a full one; what was repeated is dropped.
        filled = [*tensors, *tensors[-1:] * (fixed_batch - len(tensors))]
        batch = np.stack(filled) if len(filled) > 1 else np.ascontiguousarray(filled[0])[np.newaxis]
        feeds = {self._input.name: batch.astype(self._input.dtype, copy=False)}
        started = time.perf_counter()
        masks = self._masks_of(feeds, batch.shape[-2:]) if only_classes else None
        outputs = self.runtime.run(feeds) if masks is None else {}
        run_ms = _elapsed_ms(started) / len(tensors)
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

    def planes(self, prepared: PreparedImage, raw: RawOutput) -> tuple[NDArray[np.float32], ...]:
        """Undo the transforms, but read no classes yet.

        Args:
            prepared: from `prepare`.
            raw: from `run`; not a mask.

        Returns:
            float32[H, W] a plane (`engine.segmentation.postprocess.score_planes`), at the size that masks have. They
            may be views of the output.

        Raises:
            InferenceError: the network returned NaN, infinity or impossible values.
        """
        records = _undo_records(prepared)
        return tuple(
            restore_plane(plane, records, interpolation="linear") for plane in score_planes(raw.output, raw.kind)
        )

    def finish(self, prepared: PreparedImage, raw: RawOutput) -> Prediction:
        """Undo the transforms and read the classes.

        Args:
            prepared: from `prepare`.
            raw: from `run`.

        Returns:
            Mask, cover and timings.

        Raises:
            InferenceError: the network returned NaN, infinity or impossible classes.
        """
        started = time.perf_counter()
        mask = self.classes(prepared, raw)
        plane = None
        if self.steps.wants_confidence:
            planes = score_planes(raw.output, require_scores(raw.kind))
            plane = self.confidence_plane(planes, raw.kind, _undo_records(prepared))
        count = max(class_count(raw.output, raw.kind, len(self.bundle.classes)), raw.classes)
        found = measured(mask, plane, self.bundle.classes, count, prepared.source_size, self.steps)
        timings_ms = {
            "preprocess": prepared.preprocess_ms,
            "run": raw.run_ms,
            "postprocess": _elapsed_ms(started),
        }
        height, width = prepared.tensor.shape[-2:]
        return Prediction(
            found.mask,
            found.covers,
            timings_ms,
            network_size=(width, height),
            confidence=found.confidence,
            region=found.region,
            flags=prepared.flags,
        )

    def classes(self, prepared: PreparedImage, raw: RawOutput) -> Mask:
        """Undo the transforms and read the classes, and nothing else.

        Args:
            prepared: from `prepare`.
            raw: from `run`.

        Returns:
            uint8[H, W] class indices (uint16 past 256 classes), or bool[K, H, W] planes of a multilabel bundle.

        Raises:
            InferenceError: the network returned NaN, infinity or impossible classes.
        """
        return segment(raw.output, raw.kind, _undo_records(prepared), threshold=self.threshold)

    def confidence_plane(
        self, planes: NDArray[np.float32], kind: OutputKind, records: Sequence[TransformRecord] = ()
    ) -> ConfidencePlane:
        """Find the probability of each pixel's class.

        Args:
            planes: of scores (`engine.segmentation.postprocess.score_planes`).
            kind: what the planes are.
            records: of the transforms, to be undone.

        Returns:
            uint8[H, W], in steps of 1/255.
        """
        return class_confidence(
            planes,
            kind,
            records,
            scale=self.steps.scale,
            threshold=self.threshold,
            temperature=self.steps.temperature,
        )


def _undo_records(prepared: PreparedImage) -> tuple[TransformRecord, ...]:
    """Records of the transforms, and of the network's own shrinking where it returns less than it was given."""
    height, width = prepared.tensor.shape[-2:]
    return (*prepared.records, TransformRecord("resize", height, width))


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000

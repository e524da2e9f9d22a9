"""One image in, one mask out: preprocess, run, postprocess, with provenance and timings."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.bundle.bundle import Bundle
from engine.declaration import enumeration_value
from engine.errors import ImageError, InferenceError
from engine.images import ImageLimits, SourceImage, image_of_array, read_image
from engine.images.quality import Flag, Reference, flags_of, read_reference
from engine.runtimes import Runtime
from engine.runtimes.profile import Profile
from engine.runtimes.programs.last_operator import LastOperator
from engine.segmentation.confidence import (
    NO_SCORES,
    ConfidencePlane,
    ScoreScale,
    class_confidence,
    require_more_than_two,
    require_scores,
)
from engine.segmentation.network import Forward, Network, PreparedImage, RawOutput
from engine.segmentation.postprocess import OutputKind, class_count, score_planes, segment
from engine.segmentation.prediction import MaskSize, Prediction, Provenance
from engine.segmentation.steps import Mask, MeasuringSteps, measured
from engine.system.libraries import version_of_pseg
from engine.transforms import TransformRecord, apply_transforms, bands_of_images, require_values_for, restore_plane

Photograph = SourceImage | NDArray[np.uint8] | Path | str
"""What may be segmented: a picture as it was read, `uint8[H, W, 3]` RGB (as many bands as the network takes), or the
path of a file."""


@dataclass(slots=True)
class Predictor:
    """A bundle on a runtime.

    All methods may be called from several threads at the same time; the runtime has one run in progress for each of its
    streams.

    Attributes:
        bundle: transforms and classes.
        runtime: the loaded model; closed with the predictor.
        threshold: for probability maps and multilabel planes, 0–1.
        mask_size: at which size masks are returned.
        fallbacks: candidates that did not run before this runtime was chosen.
        profile: the tuned profile that chose the runtime; None without one.
        forward: how the network is run on an image; None: once.
        images: how images are read if paths are given, and how arrays are shrunk.
        steps: what is done with the classes before the cover is calculated.
        resources: what is closed after the runtime, such as the folder of an unpacked bundle; None: nothing.
        network: the runtime as it is run, with the limit of its memory.
    """

    bundle: Bundle
    runtime: Runtime
    threshold: float = 0.5
    mask_size: MaskSize = MaskSize.ORIGINAL
    fallbacks: tuple[str, ...] = ()
    profile: Profile | None = None
    forward: Forward | None = None
    images: ImageLimits = ImageLimits()
    steps: MeasuringSteps = MeasuringSteps()
    resources: ExitStack | None = None
    network: Network = field(init=False)
    _reference: Reference | None = field(init=False)

    def __post_init__(self) -> None:
        self.mask_size = enumeration_value(MaskSize, self.mask_size, option="mask_size")
        self.network = Network(self.bundle, self.runtime)
        require_values_for(self.bundle.transforms, self.network.bands)
        self._reference = read_reference(self.bundle.folder)

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

    def score_scale(self) -> ScoreScale:
        """Find out what the scores of the network are.

        Returns:
            Probabilities if the network ends in a softmax, sigmoids if it ends in a sigmoid, otherwise logits.

        Raises:
            OptionError: it returns no scores from which a confidence follows.
            ModelLoadError: the network's file cannot be read.
        """
        if self.bundle.multilabel:
            require_scores(OutputKind.MULTILABEL)
        last = self.network.last_operator()
        if self.network.returns_indices or last is LastOperator.ARGMAX:
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
            fallbacks=(*self.fallbacks, *self.network.notes),
            versions={"pseg": version_of_pseg(), "numpy": np.__version__, **identity.versions},
            profile=self.profile and self.profile.digest,
            streams=identity.streams,
            averaging=None if self.forward is None else self.forward.record(),
            scale_range=self.images.scale_range,
            derived_from=self.bundle.derived_from,
            measuring=self.steps.record(),
        )

    @property
    def bands(self) -> int:
        """Number of bands that an image must have: that of the network, or three, which become grey, if that is one."""
        return bands_of_images(self.network.bands)

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
        """Compute the network's scores for every class, before the classes are determined.

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
        tensor, records = apply_transforms(self.bundle.transforms, image.pixels, bands=self.network.bands)
        self.network.require_fitting(tensor)
        height, width = image.pixels.shape[:2]
        if self.mask_size is MaskSize.ORIGINAL:
            height, width = image.height, image.width
        # Some transforms record nothing; whatever they did, the mask ends at the wanted size.
        wanted = TransformRecord("resize", height, width)
        source_size = (image.width, image.height)
        return PreparedImage(tensor, (wanted, *records), _elapsed_ms(started), source_size, self.flags_of(image))

    def flags_of(self, image: SourceImage) -> tuple[Flag, ...]:
        """Judge a photograph by its statistics, and by those of the pictures in the bundle's statistics.

        Args:
            image: as `read_image` returns it.

        Returns:
            Its possible faults; none if it was not measured.
        """
        return flags_of(image.statistics, self._reference)

    def run(self, prepared: Sequence[PreparedImage], *, for_classes: bool = False) -> list[RawOutput]:
        """Run the network over images, in the way that `forward` says.

        Args:
            prepared: any mix of shapes.
            for_classes: whether the outputs are for `finish` only. If that needs no scores, and the runtime determines
                the classes itself, the outputs are masks.

        Returns:
            One output per image, in order.

        Raises:
            ImageError: what `forward` makes of an image is not taken.
            InferenceError: the run failed, or returned no segmentation.
        """
        if self.forward is not None:
            return self.forward.run(self.network.run, prepared)
        return self.network.run(prepared, self._needs_no_scores) if for_classes else self.network.run(prepared)

    def _needs_no_scores(self, prepared: PreparedImage) -> bool:
        # The mask is then the same whether classes are read before the transforms are undone or afterwards.
        if self.bundle.multilabel or self.steps.wants_confidence:
            return False
        size = prepared.tensor.shape[-2:]
        for record in reversed(prepared.records):
            wanted = (record.height, record.width)
            if record.kind == "resize" and wanted != size:
                return False
            size = wanted
        return True

    def planes(self, prepared: PreparedImage, raw: RawOutput) -> tuple[NDArray[np.float32], ...]:
        """Undo the transforms without determining the classes.

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
        """Undo the transforms and determine the classes.

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
        """Undo the transforms and determine only the classes.

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

"""The result for one image: a mask, the cover of its classes, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from engine.declaration import Options, option
from engine.errors import OptionError
from engine.images import ScaleRange
from engine.images.quality import Flag
from engine.segmentation.confidence import Confidence
from engine.segmentation.palette import composite, overlay, palette_for, planes_npz, pseudo_color_png
from engine.segmentation.steps import ClassCover, Mask, RegionCover
from engine.system.files import write_atomically


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
        fallbacks: every fallback of `auto`, in order.
        versions: of this package (`pseg`) and of libraries, name to version.
        profile: digest of the tuned profile that chose runtime, provider, precision and threads; None without one.
        streams: runs that may be under way at once.
        tiling: how the image was cut into tiles and joined, name to value; None where it was not.
        averaging: windows, scales and flips that were averaged, name to value; None where none were.
        scale_range: the values of pictures that became 0 and 255; None: the full range of each picture's bits.
        derived_from: digest of the bundle that the bundle says it was made from; None if it says nothing.
        measuring: what was done with the classes before the cover was calculated, name to value; None if nothing was.
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
        covers: one entry per class, in index order.
        timings_ms: preprocess, run and postprocess, in milliseconds.
        network_size: width and height of the image that the network saw, in pixels; with tiles, those of one tile.
        tiling: how the image was cut into tiles, for the provenance; None if it was not.
        flags: possible faults of the photograph.
        confidence: how sure the network is of the classes; None if not requested.
        region: the cover inside the region of interest; None if not requested.
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
        """Write the mask to a file, as `pseg predict` does.

        Args:
            path: `.png`: a palette PNG, whose indices are the classes (`<stem>.pseudo.png` of the command; of classes
                that overlap the last one is shown). `.npz`, for classes that overlap: `bool[K, H, W]` as `planes`.

        Raises:
            OptionError: the file has another suffix.
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

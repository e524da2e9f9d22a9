"""A benchmark from beginning to end: what was asked for, sorted out, measured, and what is known of the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.measuring.configurations import Axes, Configuration, Selection, configurations, select
from benchmarks.measuring.environment import environment
from benchmarks.measuring.interleaving import Advance, measure_all
from benchmarks.measuring.measure import COMPARED_IMAGES, TIMEOUT_S, Work, with_reference, with_shapes
from benchmarks.measuring.pictures import Pictures, prepare_pictures
from benchmarks.measuring.samples import Reference, Results
from engine.bundle.bundle import Bundle
from engine.declaration import Options, option
from engine.errors import OptionError
from engine.images import DEFAULT_MAX_IMG_SIZE
from engine.images.size import bands_option, require_named_bands
from engine.runtimes.programs.input_bands import image_bands
from engine.segmentation.opening import Convert

DEFAULT_REPEATS = 10


@dataclass(frozen=True, slots=True)
class BenchRequest(Options):
    """What is to be measured, on the user's pictures, or on generated ones.

    `max_img_size` has no effect on resized pictures; generated ones have the bands that the network takes.
    """

    title: ClassVar[str] = "Measuring"

    axes: Axes
    images: tuple[Path, ...] = ()
    max_img_size: int = option(
        DEFAULT_MAX_IMG_SIZE,
        "Images with more pixels are shrunk to this number of pixels unless size is given; -1 never shrinks.",
    )
    bands: tuple[int, ...] | None = bands_option()
    repeats: int = option(
        DEFAULT_REPEATS, "Number of turns of every configuration. Each turn measures every image.", minimum=1
    )
    compared_images: int = option(
        COMPARED_IMAGES,
        "Maximum number of images whose masks are compared with the reference; 0 compares none.",
        name="compare_images",
        minimum=0,
    )
    timeout_s: float = option(
        TIMEOUT_S, "Maximum number of seconds for loading a configuration, or for one of its turns.", minimum=1
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.max_img_size not in {-1, DEFAULT_MAX_IMG_SIZE} and None not in self.axes.sizes:
            raise OptionError("images of a named size are not shrunk: leave it or size out", option="max_img_size")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders: an empty one, which goes when the benchmark is done; what remembers which models loaded before.

    Without `engine_cache` TensorRT's engines are built anew.
    """

    scratch: Path
    load_marks: Path
    engine_cache: Path | None = None


def prepare_work(
    bundle: Bundle, runnable: Sequence[Configuration], request: BenchRequest, places: Places
) -> tuple[Work, Reference]:
    """Lay out pictures, run the reference, collect shapes: what comes before the first configuration is measured.

    Raises EngineError where a picture cannot be read, or does not fit the bundle where shapes are collected.
    """
    sizes = dict.fromkeys(each.size for each in runnable)
    taken = image_bands(bundle)
    if request.images:
        require_named_bands(request.bands, taken)
    work = Work(
        bundle=bundle,
        pictures=prepare_pictures(
            Pictures(request.images, request.max_img_size, request.bands),
            sizes,
            places.scratch / "pictures",
            taken=taken,
        ),
        load_marks=places.load_marks,
        compared_images=request.compared_images,
        engine_cache=places.engine_cache,
        timeout_s=request.timeout_s,
    )
    work = with_shapes(work, runnable, places.scratch / "shapes")
    if request.compared_images == 0:
        return work, Reference(None, 0, "masks are not compared, as asked for")
    return with_reference(work, places.scratch / "reference")


def bench(
    bundle: Bundle,
    request: BenchRequest,
    places: Places,
    *,
    convert: Convert | None = None,
    commit: str | None = None,
    advance: Advance | None = None,
) -> Results:
    """Measure the product of the axes; EngineError where a picture cannot be read or axes contradict each other."""
    machine = environment(commit=commit)
    selection: Selection = select(configurations(request.axes, bundle), bundle, convert)
    reference = Reference(None, 0, None)
    measurements = ()
    if selection.runnable:
        work, reference = prepare_work(selection.bundle, selection.runnable, request, places)
        measurements = measure_all(
            selection.runnable, work, repeats=request.repeats, advance=advance or (lambda _step, _configuration: None)
        )
    return Results(
        bundle=str(bundle.source),
        bundle_digest=bundle.digest,
        images=f"{len(request.images)} pictures" if request.images else "generated pictures of coloured noise",
        repeats=request.repeats,
        environment=machine,
        reference=reference,
        measurements=measurements,
        skipped=selection.skipped,
    )

"""What may be asked of the cover; light, for who only asks."""

from dataclasses import dataclass
from typing import ClassVar, Final, cast

import numpy as np

from engine.cover.regions import QuadratSize, RegionRequest, is_quadrilateral, parse_quadrat, parse_region
from engine.declaration import Options, option
from engine.errors import OptionError
from engine.quantities import Extent, parse_area

GROUND_UNKNOWN: Final = (
    "nothing tells how large a pixel of a photograph is on the ground: give it in px, or roi and quadrat-size"
)


def parse_classes(text: str) -> tuple[str, ...]:
    """Read names, URNs or indices of classes separated by commas; ValueError if one is empty.

    >>> parse_classes("frame, 2")
    ('frame', '2')
    """
    named = tuple(each.strip() for each in text.split(","))
    if not all(named):
        raise ValueError("give names of classes separated by commas, such as frame")
    return named


@dataclass(frozen=True, slots=True)
class ConfidenceOptions(Options):
    """What is told of the network's confidence."""

    title: ClassVar[str] = "Confidence"

    unsure: float | None = option(
        None,
        "Give pixels whose class is less probable than this, such as 0.6, to a class unsure, with a cover of its own. "
        "It needs a network that returns scores.",
        above=0,
        below=1,
    )


@dataclass(frozen=True, slots=True)
class RegionOptions(Options):
    """Of which part of a picture the cover is told besides that of the whole."""

    title: ClassVar[str] = "Region of interest"

    roi: RegionRequest | None = option(
        None,
        "Also measure the cover inside a region: within the inner edge of the frame that lies on the ground (frame, or "
        "frame:CLASS if its class has another name), a polygon (polygon:FILE with a JSON list of corners, or "
        "polygon:X,Y X,Y X,Y), or a rectangle (X,Y,W,H), in pixels of the image.",
        metavar="REGION",
        parse=parse_region,
    )
    quadrat_size: QuadratSize | None = option(
        None,
        "Sides of the region on the ground, such as 0.5mx0.5m or 50cmx50cm, for areas in square centimetres. It needs "
        "roi.",
        metavar="SIZE",
        parse=parse_quadrat,
    )
    exclude_class: tuple[str, ...] = option(
        (),
        "Do not count the pixels of these classes when covers are calculated: names, URNs or indices separated by "
        "commas, such as frame.",
        metavar="CLASS,…",
        parse=parse_classes,
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.quadrat_size is None:
            return
        if self.roi is None:
            raise OptionError("it is the size of a region, and needs roi", option="quadrat_size")
        if self.roi.points and not is_quadrilateral(np.array(self.roi.points)):
            raise OptionError(
                "only a region with four corners, none of which points inside, is a rectangle on the ground: leave it "
                "out, or give four corners",
                option="quadrat_size",
            )


@dataclass(frozen=True, slots=True)
class CleanupOptions(Options):
    """What is done with masks before anything is measured; in the order of the options."""

    title: ClassVar[str] = "Clean-up of masks"

    keep_classes: tuple[str, ...] = option(
        (),
        "Keep only these classes (names, URNs or indices separated by commas); the pixels of all others become class "
        "0.",
        metavar="CLASS,…",
        parse=parse_classes,
    )
    median: int | None = option(
        None,
        "Give each pixel the most frequent class in a square around it: the side of the square in pixels, an odd "
        "number.",
        minimum=3,
        maximum=101,
    )
    fill_holes: bool = option(
        False,
        "Fill holes: pixels of class 0 that a larger patch of another class encloses take the class of that patch.",
    )
    min_area: Extent | None = option(
        None,
        "Remove patches (connected pixels of a class) that are smaller than this; their pixels take the class of the "
        "nearest other patch. Write 50px, or on the ground 2cm2 or 0.5m2; areas on the ground need roi and "
        "quadrat-size for photographs and a georeference for rasters.",
        metavar="AREA",
        parse=parse_area,
    )
    ignore_bundle_cleanup: bool = option(
        False,
        "Ignore the clean-up that the bundle states in meta.json. Without this, each of its options applies unless "
        "you give the same option.",
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.median is not None and not self.median % 2:
            raise OptionError(f"{self.median} is even: give an odd number, such as 5", option="median")

    def stated(self) -> dict[str, object]:
        """Name what is done with masks, as JSON values from which the options can be made again."""
        return {name: value for name, value in _stated(self).items() if name != "ignore_bundle_cleanup"}


@dataclass(frozen=True, slots=True)
class CoverOptions(Options):
    """What is measured on a mask besides the share of each class."""

    title: ClassVar[str] = "Cover"

    confidence: ConfidenceOptions = ConfidenceOptions()
    region: RegionOptions = RegionOptions()
    cleanup: CleanupOptions = CleanupOptions()

    @property
    def lacks_ground(self) -> bool:
        """Whether it depends on how large pixels are on the ground, which nothing tells of a photograph."""
        least = self.cleanup.min_area
        return least is not None and least.pixels is None and self.region.quadrat_size is None

    def require_ground(self) -> None:
        """Refuse, with an OptionError, what needs to know how large a photograph's pixels are on the ground."""
        if self.lacks_ground:
            raise OptionError(GROUND_UNKNOWN, option="min_area")

    def record(self) -> dict[str, object]:
        """Name what is asked for, as JSON values from which the options can be made again."""
        return _stated(self)


def _stated(group: Options) -> dict[str, object]:
    usual = type(group)().values()
    return {name: _written(value) for name, value in group.values().items() if value != usual[name]}


def _written(value: object) -> object:
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value)))
    return value if isinstance(value, bool | int | float) else str(value)

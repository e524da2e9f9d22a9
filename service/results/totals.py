"""Counts, failures and cover over many images: the one place where covers are added up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from engine.quantities import rounded_area

NOTHING_COUNTS: Final = "no pixel counts: it holds no data, or nothing but classes that were left out"
"""Why an image has no cover."""

_AREAS = frozenset({"area_m2", "area_cm2"})
"""What the records of covers call areas: of rasters, and of regions of interest."""


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """A class over many images; shares are 0–1.

    In `cover` every pixel counts once, in `mean_of_images` every image, whatever its size; `lowest` and `highest` are
    of the images' covers. `excluded` is, of a class that is left out, its share of all pixels, and the covers are 0;
    None of others. `areas` holds `area_m2` or `area_cm2`, where every image tells it.
    """

    index: int
    id: str
    name: str
    color: Sequence[int]
    cover: float
    mean_of_images: float
    lowest: float
    highest: float
    excluded: float | None
    areas: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "color": list(self.color),
            "cover": round(self.cover, 6),
            **{name: rounded_area(area, 4) for name, area in self.areas.items()},
            **({} if self.excluded is None else {"excluded": round(self.excluded, 6)}),
            "mean_of_images": round(self.mean_of_images, 6),
        }


@dataclass(slots=True)
class _ClassSum:
    """A class over the images so far."""

    first: Mapping[str, Any]
    images: int = 0
    covers: float = 0.0
    lowest: float = 1.0
    highest: float = 0.0
    pixels: float = 0.0
    excluded_pixels: float | None = None
    areas: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])


@dataclass(slots=True)
class TotalCover:
    """The cover over all images, by two rules: every pixel counts once, and every image counts once.

    What is left out counts nowhere. An image of which nothing counts, such as a raster without data, has no cover, and
    no part in the mean. `pixels` hold data; `counted` are those of classes that count.
    """

    images: int = 0
    pixels: int = 0
    counted: float = 0.0
    _counted_images: int = 0
    _classes: list[_ClassSum] = field(default_factory=list[_ClassSum])

    def add(self, pixels: int, covers: Sequence[Mapping[str, Any]]) -> None:
        """Add an image: the pixels of its mask that hold data, and its `cover_records`.

        Where an image has fewer classes than others, its cover of the rest is 0.
        """
        is_empty = counts_nothing(pixels, covers)
        counted = 0.0 if is_empty else pixels * max(0.0, 1 - sum(each.get("excluded", 0.0) for each in covers))
        self.images += 1
        self.pixels += pixels
        self.counted += counted
        self._counted_images += not is_empty
        self._classes += [_ClassSum(each) for each in covers[len(self._classes) :]]
        for known, each in zip(self._classes, covers, strict=False):
            known.pixels += each["cover"] * counted
            if not is_empty:
                known.images += 1
                known.covers += each["cover"]
                known.lowest = min(known.lowest, each["cover"])
                known.highest = max(known.highest, each["cover"])
            if "excluded" in each:
                known.excluded_pixels = (known.excluded_pixels or 0.0) + each["excluded"] * pixels
            for name in each.keys() & _AREAS:
                images, area = known.areas.get(name, (0, 0.0))
                known.areas[name] = images + 1, area + each[name]

    def classes(self) -> list[ClassTotal]:
        """Divide by the pixels, and by the images; one a class, in index order, none without an image."""
        return [self._total(index, each) for index, each in enumerate(self._classes)]

    def _total(self, index: int, of_class: _ClassSum) -> ClassTotal:
        first, excluded = of_class.first, of_class.excluded_pixels
        # An image whose classes end before this one has none of it.
        in_each = 0 < of_class.images == self._counted_images
        return ClassTotal(
            index,
            first["id"],
            first["name"],
            first["color"],
            cover=_share(of_class.pixels, self.counted),
            mean_of_images=_share(of_class.covers, self._counted_images),
            lowest=of_class.lowest if in_each else 0.0,
            highest=of_class.highest,
            excluded=None if excluded is None else _share(excluded, self.pixels),
            areas={name: area for name, (images, area) in of_class.areas.items() if images == self.images},
        )

    def records(self) -> list[dict[str, Any]]:
        """Write the classes as JSON values, those of an aspect or a summary."""
        return [each.record() for each in self.classes()]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def counts_nothing(pixels: int, covers: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether no pixel counts, so that there is no cover: nothing holds data, or all classes there are left out.

    Of an image, or a region, by how many of its pixels hold data, and its `cover_records`: their shares are rounded, so
    that those of classes that are left out need not sum to 1.
    """
    counted = [each for each in covers if "excluded" not in each]
    return not pixels or (len(counted) < len(covers) and not any(each["cover"] for each in counted))


def total_of(records: Sequence[Mapping[str, Any]]) -> TotalCover:
    """Add up the covers of images that have a mask, by their records as `--json` prints them."""
    total = TotalCover()
    for record in records:
        total.add(valid_pixels(record), record["cover"])
    return total


def valid_pixels(record: Mapping[str, Any]) -> int:
    """Count the pixels of which the covers in a record are shares: of a raster, those that hold data."""
    if "raster" in record:
        return int(record["raster"]["valid_pixels"])
    return int(record["mask"]["width"]) * int(record["mask"]["height"])


def totals(records: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    """Sum records up as JSON values: counts, failures, cover over all images by both rules of `TotalCover`."""
    failed = [record for record in records if record["status"] != "ok"]
    return {
        "images": {
            "total": images,
            "succeeded": len(records) - len(failed),
            "failed": len(failed),
            "missing": images - len(records),
        },
        "failures": [{"image": each["image"], "reason": each["error"]["message"]} for each in failed],
        "cover": total_of([record for record in records if record["status"] == "ok"]).records(),
    }

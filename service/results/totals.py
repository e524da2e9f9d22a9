"""Counts, failures and cover over many images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import ClassCover, SegmentationClass
from service.results.pictures import cover_records


@dataclass(slots=True)
class TotalCover:
    """The cover over all images, each weighted by its pixels.

    Attributes:
        pixels: of all images.
        covered: pixels of each class, in index order.
    """

    pixels: int = 0
    covered: list[ClassCover] = field(default_factory=list[ClassCover])

    def add(self, width: int, height: int, covers: Sequence[ClassCover]) -> None:
        """Add an image.

        Args:
            width: of its mask, in pixels.
            height: of its mask, in pixels.
            covers: one a class.
        """
        size = width * height
        self.pixels += size
        for index, each in enumerate(covers):
            if index == len(self.covered):
                self.covered.append(ClassCover(each.segmentation_class, 0))
            before = self.covered[index]
            self.covered[index] = ClassCover(before.segmentation_class, before.cover + each.cover * size)

    def covers(self) -> tuple[ClassCover, ...]:
        """Divide by the pixels.

        Returns:
            One cover a class; none without an image.
        """
        return tuple(ClassCover(each.segmentation_class, each.cover / self.pixels) for each in self.covered)


def totals(records: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    """Sum records up.

    Returns:
        JSON values: counts, failures, cover over all images weighted by their pixels.
    """
    failed = [record for record in records if record["status"] != "ok"]
    total = TotalCover()
    for record in records:
        if record["status"] == "ok":
            covers = [
                ClassCover(SegmentationClass(each["id"], each["name"], tuple(each["color"])), each["cover"])
                for each in record["cover"]
            ]
            total.add(record["mask"]["width"], record["mask"]["height"], covers)
    return {
        "images": {
            "total": images,
            "succeeded": len(records) - len(failed),
            "failed": len(failed),
            "missing": images - len(records),
        },
        "failures": [{"image": each["image"], "reason": each["error"]["message"]} for each in failed],
        "cover": cover_records(total.covers()),
    }

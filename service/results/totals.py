"""Counts, failures and cover over many images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import ClassCover, SegmentationClass
from service.results.pictures import cover_records


@dataclass(slots=True)
class TotalCover:
    """The cover over all images, by two rules: every pixel counts once, and every image counts once.

    Attributes:
        images: how many there are.
        pixels: of all images, of classes that count.
        covered: pixels of each class, in index order.
        image_covers: sum of the images' covers of each class, in index order.
    """

    images: int = 0
    pixels: float = 0
    covered: list[ClassCover] = field(default_factory=list[ClassCover])
    image_covers: list[float] = field(default_factory=list[float])

    def add(self, width: int, height: int, covers: Sequence[ClassCover]) -> None:
        """Add an image.

        Args:
            width: of its mask, in pixels.
            height: of its mask, in pixels.
            covers: one a class.
        """
        # What is left out does not count.
        size = width * height * (1 - sum(each.excluded or 0 for each in covers))
        self.images += 1
        self.pixels += size
        for index, each in enumerate(covers):
            if index == len(self.covered):
                self.covered.append(ClassCover(each.segmentation_class, 0))
                self.image_covers.append(0.0)
            self.image_covers[index] += each.cover
            before = self.covered[index]
            self.covered[index] = ClassCover(before.segmentation_class, before.cover + each.cover * size)

    def records(self) -> list[dict[str, Any]]:
        """Divide by the pixels, and by the images.

        Returns:
            JSON values of each class, none without an image: `cover` is the share of the pixels of all images,
            `mean_of_images` the mean of the images' covers.
        """
        shares = tuple(
            ClassCover(each.segmentation_class, each.cover / self.pixels if self.pixels else 0.0)
            for each in self.covered
        )
        means = (round(each / self.images, 6) for each in self.image_covers)
        records = zip(cover_records(shares), means, strict=True)
        return [{**record, "mean_of_images": mean} for record, mean in records]


def totals(records: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    """Sum records up.

    Returns:
        JSON values: counts, failures, cover over all images by both rules of `TotalCover`.
    """
    failed = [record for record in records if record["status"] != "ok"]
    total = TotalCover()
    for record in records:
        if record["status"] == "ok":
            covers = [
                ClassCover(
                    SegmentationClass(each["id"], each["name"], tuple(each["color"])),
                    each["cover"],
                    excluded=each.get("excluded"),
                )
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
        "cover": total.records(),
    }

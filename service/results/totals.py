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
    pixels: int = 0
    covered: list[ClassCover] = field(default_factory=list[ClassCover])
    image_covers: list[float] = field(default_factory=list[float])

    def add(self, pixels: int, covers: Sequence[ClassCover]) -> None:
        """Add an image.

        Args:
            pixels: of its mask, as far as they hold data.
            covers: one a class.
        """
        # What is left out does not count.
        pixels = round(pixels * (1 - sum(each.excluded or 0 for each in covers)))
        self.images += 1
        self.pixels += pixels
        for index, each in enumerate(covers):
            if index == len(self.covered):
                self.covered.append(ClassCover(each.segmentation_class, 0))
                self.image_covers.append(0.0)
            self.image_covers[index] += each.cover
            before = self.covered[index]
            self.covered[index] = ClassCover(before.segmentation_class, before.cover + each.cover * pixels)

    def records(self) -> list[dict[str, Any]]:
        """Divide by the pixels, and by the images.

        Returns:
            JSON values of each class, none without an image: `cover` is the share of the pixels of all images,
            `mean_of_images` the mean of the images' covers.
        """
        # A raster may hold no data at all, and a class that is left out may be everywhere.
        shares = tuple(ClassCover(each.segmentation_class, each.cover / max(self.pixels, 1)) for each in self.covered)
        means = (round(each / self.images, 6) for each in self.image_covers)
        records = zip(cover_records(shares), means, strict=True)
        return [{**record, "mean_of_images": mean} for record, mean in records]


def valid_pixels(record: Mapping[str, Any]) -> int:
    """Count the pixels of which the covers in a record are shares.

    Args:
        record: of an image that has a mask.

    Returns:
        Those of a raster that hold data; all of a photograph.
    """
    if "raster" in record:
        return int(record["raster"]["valid_pixels"])
    return int(record["mask"]["width"]) * int(record["mask"]["height"])


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
            total.add(valid_pixels(record), covers)
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

"""What is published of an image and of an order, whichever platform takes it."""

import io
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import ivcap_client.collection as platform
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine import ClassCover, Prediction, Provenance, SegmentationClass, SourceImage
from engine.bundle.bundle import class_of_index
from engine.images import Capture
from engine.segmentation.steps import Mask
from service.ivcap.items import StorageError, UnreachableItem
from service.ivcap.names import ArtifactName, product_stem
from service.ivcap.publishing import (
    COLLECTION_SCHEMA,
    INFERENCE_SCHEMA,
    SCALAR_SCHEMA,
    TIMINGS_SCHEMA,
    Aspect,
    ImageTask,
    Product,
    PublishedImage,
    Publisher,
    require_json,
)

PROVENANCE = Provenance("b", "m", "onnx", "cpu", "fp32", 2, (), {"numpy": "2"})
SOURCE = ArtifactName("urn:ivcap:artifact:image", "GOPR0247.JPG")
NO_RASTERS = Path()
PHOTOGRAPH = SourceImage(np.zeros((1, 1, 3), np.uint8), 1, 1, Capture(datetime(2024, 3, 1, 9, 30), -38.5, 145.25))
KNOWN = (
    SegmentationClass("urn:ibenthos:segmentation:class:sand", "sand", (230, 210, 160)),
    SegmentationClass("urn:ibenthos:segmentation:class:seagrass", "seagrass", None),
)


@dataclass(slots=True)
class Shelf:
    """A store that keeps what it gets."""

    order: str = "urn:ivcap:order:1"
    products: list[Product] = field(default_factory=list[Product])
    attached: list[tuple[str, Aspect]] = field(default_factory=list[tuple[str, Aspect]])

    def store(self, product: Product) -> str:
        self.products.append(product)
        return f"urn:ivcap:artifact:{len(self.products)}"

    def attach(self, entity: str, aspect: Aspect) -> None:
        self.attached.append((entity, aspect))


def covers(*shares: float) -> tuple[ClassCover, ...]:
    return tuple(ClassCover(class_of_index(KNOWN, index), share) for index, share in enumerate(shares))


def task(stem: str) -> ImageTask:
    return ImageTask(UnreachableItem(SOURCE, "its pixels are not needed"), stem, Future())


def published(mask: Mask, *shares: float, multilabel: bool = False) -> tuple[Product, PublishedImage]:
    shelf = Shelf()
    publisher = Publisher(shelf, "urn:ivcap:artifact:model", PROVENANCE, multilabel, NO_RASTERS)
    image = publisher.write(task("GOPR0247"), PHOTOGRAPH, Prediction(mask, covers(*shares), {}))
    [product] = shelf.products
    return product, image


def test_the_mask_keeps_its_size_its_indices_and_the_name_of_its_source() -> None:
    product, image = published(np.array([[0, 1, 1]], np.uint8), 1 / 3, 2 / 3)
    assert (product.name, product.mime_type) == ("GOPR0247.pseudo.png", "image/png")
    with Image.open(io.BytesIO(product.content)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (3, 1))
        assert np.asarray(picture).tolist() == [[0, 1, 1]]
        assert picture.convert("RGB").getpixel((0, 0)) == (230, 210, 160)
    assert (image.image, image.mask, image.width, image.height) == (SOURCE, "urn:ivcap:artifact:1", 3, 1)


def test_the_aspect_of_an_inference_names_everything_by_urn() -> None:
    product, _ = published(np.array([[0, 1, 2], [0, 0, 0]], np.uint8), 4 / 6, 1 / 6, 1 / 6)
    [aspect] = product.aspects
    assert aspect["$schema"] == INFERENCE_SCHEMA
    assert (aspect["image"], aspect["name"]) == (SOURCE.urn, "GOPR0247.JPG")
    assert aspect["taken_at"] == "2024-03-01T09:30:00"
    assert (aspect["latitude_deg"], aspect["longitude_deg"]) == (-38.5, 145.25)
    assert aspect["model"] == "urn:ivcap:artifact:model"
    assert aspect["order"] == "urn:ivcap:order:1"
    assert (aspect["width"], aspect["height"]) == (3, 2)
    # An index past the known classes is a class, too; a class without a colour has one.
    assert [each["name"] for each in aspect["cover"]] == ["sand", "seagrass", "class-2"]
    assert all(len(each["color"]) == 3 and each["id"].startswith("urn:") for each in aspect["cover"])
    assert sum(each["cover"] for each in aspect["cover"]) == pytest.approx(1, abs=3e-6)
    assert aspect["provenance"]["model"] == "m"
    # The platform's library turns records of five keys and fewer into a header.
    assert len(aspect) > 5
    require_json(aspect)


def test_two_classes_have_the_older_aspect_too() -> None:
    product, _ = published(np.array([[0, 1, 1, 1]], np.uint8), 0.25, 0.75)
    _, scalar = product.aspects
    assert scalar["$schema"] == SCALAR_SCHEMA
    assert scalar["cover"] == 0.75
    assert (scalar["width"], scalar["height"]) == (4, 1)


def test_a_raster_without_data_makes_no_scalar() -> None:
    product, _ = published(np.array([[0, 0]], np.uint8), 0.0, 0.0)
    [aspect] = product.aspects
    assert [each["cover"] for each in aspect["cover"]] == [0, 0]


def test_a_class_that_is_left_out_makes_no_scalar() -> None:
    shelf = Shelf()
    shares = (covers(1)[0], replace(covers(1, 0)[1], excluded=0.25))
    Publisher(shelf, "m", PROVENANCE, multilabel=False, folder=NO_RASTERS).write(
        task("q"), PHOTOGRAPH, Prediction(np.array([[0, 0, 0, 1]], np.uint8), shares, {})
    )
    [product] = shelf.products
    [aspect] = product.aspects
    assert [each.get("excluded") for each in aspect["cover"]] == [None, 0.25]


def test_overlapping_classes_have_no_scalar_and_need_not_sum_to_one() -> None:
    planes = np.array([[[True, True]], [[False, True]]])
    product, _ = published(planes, 1.0, 0.5, multilabel=True)
    [aspect] = product.aspects
    assert aspect["multilabel"] is True
    assert sum(each["cover"] for each in aspect["cover"]) == 1.5
    with Image.open(io.BytesIO(product.content)) as picture:
        assert np.asarray(picture).tolist() == [[0, 1]]


def test_the_collection_lists_the_masks() -> None:
    shelf = Shelf()
    publisher = Publisher(shelf, "urn:ivcap:artifact:model", PROVENANCE, multilabel=False, folder=NO_RASTERS)
    masks = [
        publisher.write(task(stem), PHOTOGRAPH, Prediction(np.zeros((1, 1), np.uint8), covers(1), {})) for stem in "ab"
    ]
    collection = publisher.publish_collection(masks)
    (_, listed), (_, named), *items = shelf.attached
    assert {entity for entity, _ in shelf.attached} == {collection, listed["collection"]}
    assert listed["$schema"] == COLLECTION_SCHEMA
    assert listed["artifacts"] == ["urn:ivcap:artifact:1", "urn:ivcap:artifact:2"]
    # As the platform's client reads it.
    assert (named["$schema"], named["name"]) == (platform.COLLECTION_SCHEMA, "masks of urn:ivcap:order:1")
    assert [each["$schema"] for _, each in items] == [platform.COLLECTION_ITEM_SCHEMA] * 2
    assert sorted(each["item"] for _, each in items) == ["urn:ivcap:artifact:1", "urn:ivcap:artifact:2"]
    assert {each["collection"] for _, each in items} == {collection}
    assert publisher.publish_collection(masks) != collection


def test_timings_are_summed_up_stage_by_stage() -> None:
    shelf = Shelf()
    samples: list[float] = [4, 1, 2, 3, *[5.0] * 15, 100]
    Publisher(shelf, "m", PROVENANCE, multilabel=False, folder=NO_RASTERS).publish_timings(
        "my network", {"run": samples}
    )
    [(entity, aspect)] = shelf.attached
    assert entity == shelf.order
    assert (aspect["$schema"], aspect["model_name"], aspect["images"]) == (TIMINGS_SCHEMA, "my network", 20)
    # by hand: the 19th of 20 in order is 5; (1 + 2 + 3 + 4 + 15 × 5 + 100) / 20
    assert aspect["timings_ms"]["run"] == {"mean": 9.25, "median": 5, "p95": 5, "min": 1, "max": 100}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_an_error(value: Any) -> None:
    with pytest.raises(StorageError, match="cannot be written as JSON"):
        require_json({"$schema": "urn:x", "value": value})


@pytest.mark.parametrize(
    ("label", "stem"),
    [
        ("GOPR0247.JPG", "GOPR0247"),
        ("a.b.tiff", "a.b"),
        ("/data/in/x.png", "x"),
        ("..\\..\\x.png", "x"),
        ("urn:ivcap:artifact:0197", "0197"),
        ("http://artifact.local/urn:ivcap:artifact:0197", "0197"),
        ("urn:https://host/dive%201/q7.jpg?size=full#top", "q7"),
        ("https://host/%2e%2e%2fetc%2fpasswd", "passwd"),
        ("what?*<>.png", "what_"),
        ("", "image"),
        ("..", "image"),
        ("/", "image"),
        (". ", "image"),
        ("urn:a:..", "image"),
    ],
)
def test_a_product_is_named_after_its_source(label: str, stem: str) -> None:
    assert product_stem(label) == stem


@given(st.text())
def test_a_stem_is_a_file_name_whatever_the_source_is_called(label: str) -> None:
    stem = product_stem(label)
    assert stem and stem not in {".", ".."}
    assert not set(stem) & set('/\\:*?"<>|\0\n')
    assert len(f"{stem}.pseudo.png".encode()) < 255

"""Pictures of the documentation, by the demo bundle: ``python -m demo.showcase``.

The README's shows rendered quadrats beside their masks; those of docs/cover.md the region inside of a frame and the
confidence, and what clean-up and simplified outlines do.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine import Predictor, open_bundle, open_predictor, read_image
from engine.cover.options import CleanupOptions, CoverOptions, RegionOptions
from engine.cover.regions import parse_region
from engine.gdal import traced_mask
from engine.quantities import parse_area
from engine.rasters.outlines import Simplification
from engine.segmentation.palette import draw_outline, overlay, palette_for
from engine.segmentation.steps import steps_for

HERE = Path(__file__).parent
_ROW_HEIGHT = 330
_REGION_SEEDS = (900005, 900007)
_CLEANUP_SEED = 900007
_DETAIL = np.s_[40:240, 40:240]
_CLEANUP = CleanupOptions(median=5, min_area=parse_area("150px"))
_SIMPLIFY_PX = 2.0


def show_row(predictor: Predictor, picture: Path) -> NDArray[np.uint8]:
    """Put a picture beside its mask laid over it."""
    image = read_image(picture)
    prediction = predictor.predict(image)
    palette = palette_for([each.segmentation_class.color for each in prediction.covers], len(prediction.covers))
    covered = overlay(image.pixels, prediction.mask.astype(np.uint8), palette, opacity=0.6)
    both = np.hstack([image.pixels, covered])
    width = round(both.shape[1] * _ROW_HEIGHT / both.shape[0])
    return np.asarray(cv2.resize(both, (width, _ROW_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def show_region(predictor: Predictor, picture: Path) -> NDArray[np.uint8]:
    """Put a picture, its mask and its confidence side by side, with the region inside of the frame drawn.

    The predictor measures regions and keeps the confidence, which is black where it is low.
    """
    image = read_image(picture)
    prediction = predictor.predict(image)
    palette = palette_for([each.segmentation_class.color for each in prediction.covers], len(prediction.covers))
    shown = [image.pixels.copy(), overlay(image.pixels, prediction.mask.astype(np.uint8), palette, opacity=1)]
    if prediction.confidence is not None:
        shown.append(np.repeat(prediction.confidence.plane[..., np.newaxis], 3, axis=2))
    if prediction.region is not None and prediction.region.polygon:
        for each in shown:
            draw_outline(each, np.array(prediction.region.polygon))
    row = np.hstack(shown)
    width = round(row.shape[1] * _ROW_HEIGHT / row.shape[0])
    return np.asarray(cv2.resize(row, (width, _ROW_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def show_cleanup(predictor: Predictor, picture: Path) -> NDArray[np.uint8]:
    """Put a part of a picture, its mask, the cleaned mask and its simplified outlines side by side."""
    image = read_image(picture)
    classes = predictor.bundle.classes
    masks: list[NDArray[np.uint8]] = []
    for cleanup in (CleanupOptions(), _CLEANUP):
        predictor.steps = steps_for(CoverOptions(cleanup=cleanup), classes, multilabel=False, keep_confidence=False)
        masks.append(predictor.predict(image).mask.astype(np.uint8)[_DETAIL])
    palette = palette_for([each.color for each in classes], len(classes))
    detail = image.pixels[_DETAIL]
    shown = [detail, *(overlay(detail, mask, palette, opacity=0.6) for mask in masks)]
    height, width = detail.shape[:2]
    enlarged = [
        np.asarray(cv2.resize(each, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST), np.uint8)
        for each in [*shown, detail]
    ]
    traced = [*traced_mask(masks[1])]
    for rings in Simplification(_SIMPLIFY_PX).simplified(traced):
        for ring in rings:
            draw_outline(enlarged[-1], 2 * ring[:-1])
    gap = np.full((2 * height, 6, 3), 255, np.uint8)
    return np.hstack([part for each in enlarged for part in (each, gap)][:-1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=HERE / "demo_seagrass.tgz")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "demo.jpg")
    parser.add_argument("--cover", type=Path, default=HERE.parent / "docs" / "cover.jpg")
    parser.add_argument("--cleanup", type=Path, default=HERE.parent / "docs" / "cleanup.webp")
    options = parser.parse_args(arguments)
    pictures = [path for path in sorted((HERE / "pictures").iterdir()) if _is_landscape(path)][:2]
    with open_bundle(options.bundle) as bundle, open_predictor(bundle) as predictor:
        rows = [show_row(predictor, picture) for picture in pictures]
        region = CoverOptions(region=RegionOptions(roi=parse_region("frame")))
        predictor.steps = steps_for(region, bundle.classes, multilabel=bundle.multilabel, keep_confidence=True)
        regions = [show_region(predictor, HERE / "pictures" / f"scene_{seed}.jpg") for seed in _REGION_SEEDS]
        cleaned = show_cleanup(predictor, HERE / "pictures" / f"scene_{_CLEANUP_SEED}.jpg")
    width = min(row.shape[1] for row in rows)
    Image.fromarray(np.vstack([row[:, :width] for row in rows])).save(options.out, quality=88)
    Image.fromarray(np.vstack(regions)).save(options.cover, quality=88)
    Image.fromarray(cleaned).save(options.cleanup, quality=60, method=6)


def _is_landscape(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.width > picture.height


if __name__ == "__main__":
    main()

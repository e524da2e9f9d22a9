"""Masks and photographs of earlier runs, read again where a ledger says that they are."""

from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.accuracy.labels import Labels, read_labels
from engine import SourceImage, read_image
from engine.errors import ImageError
from engine.images import ImageLimits
from engine.segmentation.palette import Mask
from service.results.ledger import Entry, file_and_page

_INDEX_PNGS: Final = (".mask.png", ".pseudo.png")


def read_saved_mask(entry: Entry, folder: Path) -> Labels:
    """Read the mask of a photograph, class indices `[H, W]`, from its ledger's folder.

    Raises ImageError where none was saved as PNG, it cannot be read, or it is not of the size that the entry states.
    """
    names = [name for suffix in _INDEX_PNGS for name in entry.pictures if name.endswith(suffix)]
    if not names:
        raise ImageError("it has no mask as PNG: predict photographs with --save mask, and rasters with --vectors")
    mask = entry.record["mask"]
    return read_labels(folder / names[0], size=(mask["width"], mask["height"]))


def read_saved(entry: Entry, folder: Path, limits: ImageLimits) -> tuple[SourceImage, Mask]:
    """Read the photograph and the mask of an earlier run; ImageError where one is gone, or cannot be read."""
    labels = read_saved_mask(entry, folder)
    mask = labels.astype(np.uint8 if labels.dtype == np.uint8 else np.uint16, copy=False)
    path, page = file_and_page(entry.path)
    return read_image(path, **limits.values(), page=page), mask

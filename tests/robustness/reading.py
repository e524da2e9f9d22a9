"""Reads pictures in every way that the commands do, one after another: `python -m tests.robustness.reading FOLDER`.

Between two pictures it looks for a file that is not there, so that who watches its calls knows which picture it is at.
"""

import contextlib
import logging
import sys
from pathlib import Path

from engine.errors import ImageError
from engine.images import read_image
from engine.images.tiff import pages_of, tiff_size
from engine.rasters.geotiff import open_geotiff, pixel_areas, pixel_degrees
from engine.window import Window

MARK = "/reading/"


def read_in_every_way(path: Path) -> None:
    """Read a picture; whether it is refused does not matter here.

    Args:
        path: the picture.
    """
    tiff_size(path)
    with contextlib.suppress(ImageError):
        pages_of(path)
    with contextlib.suppress(ImageError):
        read_image(path)
    for bands in (None, (1, 2, 3)):
        with contextlib.suppress(ImageError), open_geotiff(path, bands) as raster:
            raster.read(Window(0, 0, min(100, raster.width), min(100, raster.height)))
            raster.overview(300)
            pixel_areas(raster.georeference, raster.width, raster.height)
            pixel_degrees(raster.georeference, raster.width, raster.height)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for picture in sorted(Path(sys.argv[1]).iterdir()):
        with contextlib.suppress(OSError):
            Path(MARK + picture.name).stat()
        if picture.suffix == ".tif":
            read_in_every_way(picture)

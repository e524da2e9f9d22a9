"""The pictures that a measurement runs on: the user's own or generated ones, as they are or resized beforehand."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measuring.configurations import Size
from converters.parity import generated_images
from engine.errors import ImageError, OptionError
from engine.gdal import GdalError, write_bands
from engine.images import SourceImage, read_image
from engine.transforms import resize_bands

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_JPEG_QUALITY = 95
_DEMO_PICTURES = Path(__file__).resolve().parents[2] / "demo" / "pictures"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Files, at least one, and how `read_image` reads them."""

    paths: tuple[Path, ...]
    max_img_size: int = -1
    bands: tuple[int, ...] | None = None

    def read(self, path: Path) -> SourceImage:
        return read_image(path, max_img_size=self.max_img_size, bands=self.bands)


def demo_pictures() -> tuple[Path, ...]:
    """Find the rendered scenes of this repository, sorted."""
    return tuple(sorted(_DEMO_PICTURES.glob("*.jpg")))


def prepare_pictures(
    images: Pictures, sizes: Iterable[Size | None], folder: Path, *, taken: int = 3
) -> dict[Size | None, Pictures]:
    """Lay out the pictures of every size; without files of the user's, they are generated.

    Raises ImageError where one cannot be read: left out in silence it would change what is measured; OptionError where
    `max_img_size` is 0 or less than -1.
    """
    originals = images
    if not images.paths:
        originals = replace(images, paths=_generated(folder, taken), bands=bands_of_copies(taken))
    for path in originals.paths:
        originals.read(path)
    return {size: originals if size is None else _all_resized(originals, size, folder / str(size)) for size in sizes}


def spread(pictures: Pictures, count: int) -> Pictures:
    """Take a sample, evenly spread, in order; OptionError where `count` is less than 1."""
    if count < 1:
        raise OptionError(f"a sample of {count} pictures was asked for; it must be at least 1")
    every = len(pictures.paths)
    chosen = sorted({index * every // count for index in range(min(count, every))}) if count < every else range(every)
    return replace(pictures, paths=tuple(pictures.paths[index] for index in chosen))


def _generated(folder: Path, bands: int) -> tuple[Path, ...]:
    return tuple(
        write_picture(image.pixels, folder / f"generated_{image.height}x{image.width}")
        for image in generated_images(bands=bands)
    )


def bands_of_copies(bands: int) -> tuple[int, ...] | None:
    """Tell which bands of pictures that this module wrote are read: all in their order, None for colours."""
    return None if bands in {1, 3} else tuple(range(1, bands + 1))


def _all_resized(originals: Pictures, size: Size, folder: Path) -> Pictures:
    unlimited = replace(originals, max_img_size=-1)
    resized: list[Path] = []
    for index, path in enumerate(originals.paths):
        pixels = unlimited.read(path).pixels
        height, width, _ = pixels.shape
        shrinks = size.height * size.width < height * width
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        copy = resize_bands(pixels, (size.width, size.height), interpolation)
        # Pictures of several folders may have one name.
        resized.append(write_picture(copy, folder / f"{index}_{path.stem}", path.suffix))
    return Pictures(tuple(resized), bands=bands_of_copies(len(originals.bands or (1, 2, 3))))


def write_picture(pixels: NDArray[np.uint8], path: Path, like: str = ".png") -> Path:
    """Write a picture: a JPEG of colours like another JPEG, else a PNG; a TIFF of other numbers of bands.

    Pixels are `uint8[H, W, bands]`, of three bands RGB; the path is without suffix. Raises ImageError where it cannot
    be written.
    """
    is_colored = pixels.shape[-1] == 3
    suffix = ".tif" if not is_colored else ".jpg" if like.lower() in _JPEG_SUFFIXES else ".png"
    path = path.with_name(f"{path.name}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_colored:
            Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)
        else:
            write_bands(pixels, path)
    except (OSError, GdalError) as error:
        raise ImageError(
            f"{path}: cannot be written ({error}): make room, or let TMPDIR name another folder"
        ) from error
    return path


def drawn_scene(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw what a picture is made of: soft ground, grain, shapes with edges, lines of text."""
    ground = rng.integers(40, 216, (8, 8, 3), dtype=np.uint8)
    scene = cast("NDArray[np.uint8]", cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC))
    for _ in range(12):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        color = tuple(int(band) for band in rng.integers(0, 256, 3))
        cv2.circle(scene, center, int(rng.integers(4, max(6, min(width, height) // 6))), color, -1)
    for line in range(1, max(2, height // 90)):
        text = "".join(chr(int(code)) for code in rng.integers(65, 91, 12))
        cv2.putText(scene, text, (width // 20, line * 90), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
    grain = rng.integers(0, 17, scene.shape, dtype=np.uint8)
    return cast("NDArray[np.uint8]", cv2.add(scene, grain))


def photograph(width: int, height: int) -> NDArray[np.uint8]:
    """Take the first demo picture at a size, or draw one where there is none: `uint8[H, W, 3]`, RGB."""
    pictures = demo_pictures()
    if not pictures:
        return drawn_scene(np.random.default_rng(1), width, height)
    content = np.frombuffer(pictures[0].read_bytes(), np.uint8)
    bgr = cv2.imdecode(content, cv2.IMREAD_COLOR)
    if bgr is None:
        raise RuntimeError(f"{pictures[0]} cannot be decoded")
    resized = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[..., ::-1]).astype(np.uint8)


def write_photographs(folder: Path, count: int, width: int, height: int) -> tuple[Path, ...]:
    """Write JPEGs: the first demo picture at a size, rolled on by a little each time."""
    scene = photograph(width, height)
    return tuple(
        write_picture(np.roll(scene, (number * 37, number * 53), axis=(0, 1)), folder / f"{number:04d}", ".jpg")
        for number in range(count)
    )

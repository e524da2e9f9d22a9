"""The pictures that a measurement runs on: the user's own or generated ones, as they are or resized beforehand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measuring.configurations import Size
from converters.parity import generated_images
from engine.errors import ImageError, OptionError
from engine.images import read_image

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_JPEG_QUALITY = 95
_DEMO_PICTURES = Path(__file__).resolve().parents[2] / "demo" / "pictures"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Files, and how they are read.

    Attributes:
        paths: At least one.
        max_img_size: See `read_image`; -1 never shrinks.
    """

    paths: tuple[Path, ...]
    max_img_size: int = -1


def demo_pictures() -> tuple[Path, ...]:
    """Find the rendered scenes of this repository.

    Returns:
        Files, sorted.
    """
    return tuple(sorted(_DEMO_PICTURES.glob("*.jpg")))


def prepare_pictures(
    images: Sequence[Path], sizes: Iterable[Size | None], folder: Path, *, max_img_size: int
) -> dict[Size | None, Pictures]:
    """Lay out the pictures of every size.

    Args:
        images: The user's; empty: pictures of coloured noise are generated.
        sizes: What pictures are resized to; None: not at all.
        folder: Gets the generated and the resized ones.
        max_img_size: For pictures that are not resized; resized ones are never shrunken any more.

    Returns:
        Size to pictures. A resized JPEG is a JPEG again, everything else a PNG, so that decoding costs what it does.

    Raises:
        ImageError: A picture cannot be read; left out in silence it would change what is measured.
        OptionError: `max_img_size` is 0 or less than -1.
    """
    originals = tuple(images) or _generated(folder)
    for path in originals:
        read_image(path, max_img_size=max_img_size)
    return {
        size: Pictures(originals, max_img_size)
        if size is None
        else Pictures(tuple(_resized(path, size, folder / str(size), index) for index, path in enumerate(originals)))
        for size in sizes
    }


def spread(pictures: Pictures, count: int) -> Pictures:
    """Take a sample, evenly spread.

    Args:
        pictures: All.
        count: At most so many are taken; at least 1.

    Returns:
        The sample, in order.

    Raises:
        OptionError: `count` is less than 1.
    """
    if count < 1:
        raise OptionError(f"a sample of {count} pictures was asked for; it must be at least 1")
    every = len(pictures.paths)
    chosen = sorted({index * every // count for index in range(min(count, every))}) if count < every else range(every)
    return Pictures(tuple(pictures.paths[index] for index in chosen), pictures.max_img_size)


def _generated(folder: Path) -> tuple[Path, ...]:
    return tuple(
        _write(image.pixels, folder / f"generated_{image.height}x{image.width}.png") for image in generated_images()
    )


def _resized(path: Path, size: Size, folder: Path, index: int) -> Path:
    pixels = read_image(path).pixels
    shrinks = size.height * size.width < pixels.shape[0] * pixels.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(pixels, (size.width, size.height), interpolation=interpolation), np.uint8)
    suffix = ".jpg" if path.suffix.lower() in _JPEG_SUFFIXES else ".png"
    # Pictures of several folders may have one name.
    return _write(resized, folder / f"{index}_{path.stem}{suffix}")


def _write(pixels: NDArray[np.uint8], path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error}): make room, or let TMPDIR name another folder"
        ) from error
    return path


def drawn_scene(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Draw what a picture is made of: soft ground, grain, shapes with edges, lines of text.

    Args:
        rng: decides everything.
        width: pixels.
        height: pixels.

    Returns:
        `uint8[H, W, 3]`.
    """
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
    """Take the first demo picture at a size, or draw one where there is none.

    Args:
        width: pixels.
        height: pixels.

    Returns:
        `uint8[H, W, 3]`, RGB.
    """
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
    """Write JPEGs: the first demo picture at a size, rolled on by a little each time.

    Args:
        folder: Gets them.
        count: How many.
        width: Pixels.
        height: Pixels.

    Returns:
        Files, in order.
    """
    scene = photograph(width, height)
    return tuple(
        _write(np.roll(scene, (number * 37, number * 53), axis=(0, 1)), folder / f"{number:04d}.jpg")
        for number in range(count)
    )

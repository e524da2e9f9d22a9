"""HEIC pictures, as telephones make them; the only file that imports pi_heif, which is an extra."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError

EXTRA = "HEIC pictures are read by the extra `heif`: install `paddleseg-dual-runtime[heif]` (or `pip install pi-heif`)"


_ISPE = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class HeifPicture:
    """The primary picture of a HEIC file, upright."""

    pixels: NDArray[np.uint8]  # [H, W, C] or [H, W], RGB, RGBA or grey, 0–255
    exif: bytes | None  # the EXIF block
    pictures: int  # how many pictures the file holds


def heif_available() -> bool:
    """Tell whether HEIC pictures can be read here."""
    return find_spec("pi_heif") is not None


def largest_declared(content: bytes) -> tuple[int, int]:
    """Find the largest width and height that a HEIF file (HEIC, AVIF) declares for anything in it; else 0 x 0.

    What is decoded may be larger than the picture, which is cut out of it (`clap`).
    """
    sizes = [(int.from_bytes(found[1], "big"), int.from_bytes(found[2], "big")) for found in _ISPE.finditer(content)]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def read_heif(path: Path, file: BinaryIO, check_size: Callable[[tuple[int, int]], None]) -> HeifPicture:
    """Decode the primary picture of a HEIC file; ImageError without the extra `heif`.

    What the file says about turning (`irot`, `imir`) is applied by the library. The EXIF orientation repeats it and is
    not to be applied again. Of 10 and 12 bit the highest eight are kept. `check_size` takes the declared width and
    height before a pixel is decoded, and raises if they are too large.
    """
    try:
        import pi_heif  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as cause:
        raise ImageError(f"{path}: is a HEIC picture. {EXTRA}") from cause
    # Not registered with Pillow: that would change what every other user of Pillow in the process opens.
    file.seek(0)
    content = file.read()
    check_size(largest_declared(content))
    opened = cast("Any", pi_heif).open_heif(content, convert_hdr_to_8bit=False)
    primary = opened[opened.primary_index]
    check_size(primary.size)
    decoded: NDArray[np.uint8] | NDArray[np.uint16] = np.asarray(primary)
    # A copy either way: what was decoded lies in memory that goes with `primary`.
    pixels = (decoded >> 8).astype(np.uint8) if decoded.dtype == np.uint16 else decoded.astype(np.uint8, copy=True)
    return HeifPicture(pixels, primary.info.get("exif"), len(opened))

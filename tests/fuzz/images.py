"""Fuzz what reads an image: `python -m tests.fuzz.images -runs=10000`, or with the name of a file that crashed.

The name of a picture that cannot be read must be in the error, and one that can has three bands of 8 bit.
"""

# atheris comes without types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false, reportAttributeAccessIssue=false

import io
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL"]):
    from PIL import Image

with atheris.instrument_imports(include=["engine.images"]):
    from engine.errors import ImageError
    from engine.images import read_image
    from tests.engine.images import heic
    from tests.fuzz.harness import fuzz, scratch_folder

MOST_PIXELS = 1 << 18
MOST_BYTES = 1 << 13
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "AVIF", "JPEG2000")
MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("1", "P", "RGBA", "I;16"), "TIFF": ("RGB", "I;16", "F", "LAB")}


def try_one(data: bytes, path: Path) -> None:
    """Read an input as an image."""
    path.write_bytes(data)
    try:
        image = read_image(path, max_img_size=1 << 12, max_pixels=MOST_PIXELS)
    except ImageError as error:
        assert str(error).startswith(str(path))
        return
    height, width, bands = image.pixels.shape
    assert bands == 3 and image.pixels.dtype == "uint8"
    assert 0 < height * width <= 1 << 12
    assert image.width * image.height <= MOST_PIXELS


def seeds() -> list[bytes]:
    """A small picture of every format and mode, with EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2024:06:30 14:05:09"
    exif.get_ifd(0x8825)[2] = (33.0, 51.0, 36.0)
    found: list[bytes] = []
    for kind in FORMATS:
        for mode in MODES.get(kind, ("RGB",)):
            file = io.BytesIO()
            Image.new(mode, (9, 7)).save(file, kind, **({} if kind in {"BMP", "JPEG2000"} else {"exif": exif}))
            found.append(file.getvalue())
    return [*found, heic.PLAIN, heic.TURNED]


if __name__ == "__main__":
    with scratch_folder() as folder:
        fuzz(lambda data: try_one(data, Path(folder) / "fuzzed"), seeds(), most_bytes=MOST_BYTES)

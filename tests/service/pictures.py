"""Images whose right mask is known, for the network that finds the strongest band: 0 red, 1 green, 2 blue."""

import io

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (200, 20, 30), (20, 200, 30), (20, 30, 200)


def painted(*columns: tuple[int, int, int], width: int = 24, height: int = 16, file_format: str = "PNG") -> bytes:
    """An image of upright stripes of equal width."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for index, color in enumerate(columns):
        pixels[:, index * width // len(columns) :] = color
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def mask_of(content: bytes) -> list[list[int]]:
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        return np.asarray(image).tolist()

"""The README's picture: rendered quadrats beside their masks, by the demo bundle: ``python -m demo.showcase``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine import Predictor, open_bundle, open_predictor, read_image
from engine.segmentation.palette import overlay, palette_for

HERE = Path(__file__).parent
_ROW_HEIGHT = 330


def show_row(predictor: Predictor, picture: Path) -> NDArray[np.uint8]:
    """Put a picture beside its mask laid over it.

    Args:
        predictor: Of the demo bundle.
        picture: A rendered scene.

    Returns:
        ``uint8[_ROW_HEIGHT, W, 3]``, RGB, 0-255.
    """
    image = read_image(picture)
    prediction = predictor.predict(image)
    palette = palette_for([each.segmentation_class.color for each in prediction.covers], len(prediction.covers))
    covered = overlay(image.pixels, prediction.mask.astype(np.uint8), palette, opacity=0.6)
    both = np.hstack([image.pixels, covered])
    width = round(both.shape[1] * _ROW_HEIGHT / both.shape[0])
    return np.asarray(cv2.resize(both, (width, _ROW_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=HERE / "demo_seagrass.tgz")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "demo.jpg")
    options = parser.parse_args(arguments)
    pictures = [path for path in sorted((HERE / "pictures").iterdir()) if _is_landscape(path)][:2]
    with open_bundle(options.bundle) as bundle, open_predictor(bundle) as predictor:
        rows = [show_row(predictor, picture) for picture in pictures]
    width = min(row.shape[1] for row in rows)
    Image.fromarray(np.vstack([row[:, :width] for row in rows])).save(options.out, quality=88)


def _is_landscape(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.width > picture.height


if __name__ == "__main__":
    main()

"""Draw files of labelme by labelme itself: it runs in an environment of its own, not in that of the tests.

`labelme_masks.py OUT LABELS FILE…` reads each file, and writes `OUT/0.npy`, `OUT/1.npy` and so on: `int32[H, W]`, 0
where nothing is drawn, else the place of the label in LABELS (with commas between), counted from 1.
"""
# labelme is not installed where types are checked.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import sys
from pathlib import Path

import numpy as np


def main() -> None:
    from labelme import LabelFile
    from labelme.utils import img_data_to_pil, shapes_to_label

    out, labels, *files = sys.argv[1:]
    values = {label: number for number, label in enumerate(labels.split(","), 1)}
    for number, name in enumerate(files):
        file = LabelFile(name)
        width, height = img_data_to_pil(file.image_data).size
        classes, _ = shapes_to_label((height, width), file.shapes, values)
        np.save(Path(out) / f"{number}.npy", classes)


if __name__ == "__main__":
    main()

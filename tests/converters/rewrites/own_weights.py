"""Export a network that computes the weights of its convolutions from each picture: `python -m … FOLDER`.

The folder takes `bundle`, and `wanted.npz`: what Paddle gives for `random_inputs(*SIZES)`.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false

import sys
from pathlib import Path
from typing import Any

import numpy as np

from converters.exporting.export import export_bundle
from tests.conftest import vendor_warnings_ignored
from tests.converters.rewrites.conftest import random_inputs

SIZES = [(2, 16, 24), (1, 9, 13), (1, 31, 8)]


def write(folder: Path) -> None:
    """Export it, and write what Paddle gives."""
    with vendor_warnings_ignored():
        import paddle

    class OwnWeights(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = paddle.nn.Linear(3, 4 * 3), paddle.nn.Linear(3, 4 * 3 * 9)

        def forward(self, x: Any) -> Any:
            batch, _, height, width = paddle.shape(x)
            means = paddle.mean(x, axis=[2, 3])
            of_points = self.small(means).reshape([batch, 4, 3, 1, 1])
            of_windows = self.large(means).reshape([batch, 4, 3, 3, 3])
            points, windows = [], []
            for i in range(batch):
                points.append(paddle.nn.functional.conv2d(x[i : i + 1], of_points[i]))
            for i in range(batch):
                windows.append(paddle.nn.functional.conv2d(x[i : i + 1], of_windows[i], padding=1))
            both = paddle.concat(points, axis=0) + paddle.concat(windows, axis=0)
            return both.reshape([batch, 4, height, width])

    network = OwnWeights()
    network.eval()
    with paddle.no_grad():
        wanted = [network(paddle.to_tensor(tensor)).numpy() for tensor in random_inputs(*SIZES)]
    np.savez(folder / "wanted.npz", *wanted)
    with vendor_warnings_ignored():
        export_bundle(network, folder / "bundle", name="small", classes=[], transforms=None)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""How much rounding alone changes a network's answers: `python -m benchmarks.lab.zoo.rounding BUNDLE`.

Paddle's answers to the generated pictures of `pseg convert` are compared with its answers to the same pictures with
noise of a ten-thousandth of a grey level: as much as the rounding of a few dozen layers in 32-bit floating point. It
runs with oneDNN, which is many times faster, where that gives the results of Paddle's own kernels.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from converters.parity import compare, named_pictures, open_original
from engine import Bundle, ModelLoadError, PaddleOptions, open_bundle, open_runtime
from engine.runtimes import Runtime, Tensor
from engine.segmentation.predictor import Predictor
from engine.system.machine.cores import usable_cores

_GREY_LEVELS = 255
_NOISE_GREY_LEVELS = 1e-4
_DRAWS = 3
"""Of the noise, for each picture: the largest error of a logit differs much from draw to draw."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far apart Paddle's answers are.

    `mismatched_ppm` are pixels of another class per million; `logit_error` is the largest difference of a logit, as a
    share of the logits' range, over all draws of the noise.
    """

    mismatched_ppm: float
    logit_error: float


ROUNDING = TypeAdapter(Rounding)


class _WithNoise(Runtime):
    """A runtime that adds noise to pictures."""

    def __init__(self, runtime: Runtime) -> None:
        self.identity, self.inputs, self.outputs = runtime.identity, runtime.inputs, runtime.outputs
        self._runtime = runtime
        self._random = np.random.default_rng(0)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._runtime.run({name: self._noisy(tensor) for name, tensor in feeds.items()})

    def close(self) -> None:
        self._runtime.close()

    def _noisy(self, tensor: Tensor) -> Tensor:
        # The generated pictures hold all grey levels, so that the range of the values is that of the levels.
        scale = np.ptp(tensor) / _GREY_LEVELS * _NOISE_GREY_LEVELS
        return tensor + self._random.normal(scale=scale, size=tensor.shape).astype(tensor.dtype)


def rounding_of(path: Path) -> Rounding:
    """Measure a bundle that holds a Paddle program and returns logits."""
    with open_bundle(path) as bundle, _opened(bundle) as original:
        noisy = Predictor(bundle, _WithNoise(original.runtime))
        report = compare(original, noisy, named_pictures(original) * _DRAWS)
    return Rounding(report.mismatched_ppm, (report.max_abs_logit_error or 0.0) / (report.logit_range or 1.0))


def _opened(bundle: Bundle) -> Predictor:
    try:
        options = PaddleOptions(threads=usable_cores(), onednn=True)
        return Predictor(bundle, open_runtime(bundle, options))
    except ModelLoadError:
        return open_original(bundle, None)


def main(arguments: list[str]) -> None:
    """Print the differences as JSON."""
    (path,) = arguments
    sys.stdout.write(ROUNDING.dump_json(rounding_of(Path(path))).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

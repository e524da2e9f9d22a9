"""How much rounding alone changes a network's masks: `python -m benchmarks.lab.zoo.rounding BUNDLE`.

It compares Paddle's oneDNN kernels with Paddle's plain ones, on the generated pictures of `pseg convert`.
"""

import sys
from pathlib import Path

from converters.parity import ParityReport, compare, named_pictures, open_original
from engine import PaddleOptions, open_bundle, open_runtime
from engine.segmentation.predictor import Predictor
from engine.system.machine.cores import usable_cores


def compared(path: Path) -> ParityReport:
    """Compare both kernels of Paddle on a bundle that holds a Paddle program."""
    with open_bundle(path) as bundle, open_original(bundle, None) as plain:
        onednn = Predictor(bundle, open_runtime(bundle, PaddleOptions(onednn=True, threads=usable_cores())))
        return compare(plain, onednn, named_pictures(plain))


def main(arguments: list[str]) -> None:
    """Print mismatched pixels per million, and the largest error of a score as a share of the scores' range."""
    (path,) = arguments
    report = compared(Path(path))
    print(f"{path}: {report.mismatched_ppm:.0f} ppm")
    if report.max_abs_logit_error is not None and report.logit_range:
        print(f"scores: {report.max_abs_logit_error / report.logit_range:.1e} of their range")


if __name__ == "__main__":
    main(sys.argv[1:])

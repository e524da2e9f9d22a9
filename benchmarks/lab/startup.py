"""From the start of a process to the mask on disk.

`python -m benchmarks.lab.startup OTHER` compares this `pseg predict` with that of another installation, the file `pseg`
of its environment, on a demo picture: pairs in turn, the ratio of each.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ORIGINAL_WAY = Path(__file__).with_name("original_way.py")
PSEG = Path(sys.executable).with_name("pseg")
_DEMO = Path(__file__).resolve().parents[2] / "demo"
_PICTURE = "scene_900004"
_DRAWS = 10_000


def seconds_until_written(command: list[str], mask: Path) -> float:
    """Run a command; the mask's own time tells when it was there, whatever the process does afterwards.

    Args:
        command: Writes the mask.
        mask: Removed before.

    Returns:
        Seconds.

    Raises:
        RuntimeError: The command fails.
    """
    mask.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started_ns = time.time_ns()
    done = subprocess.run(command, capture_output=True, check=False, env=environment)  # noqa: S603 - our own commands
    if done.returncode:
        raise RuntimeError(f"{command[:2]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return (mask.stat().st_mtime_ns - started_ns) / 1e9


def bounds_of_median(values: list[float]) -> tuple[float, float]:
    """Where the median of values like these lies with 95 % confidence, by bootstrap.

    Args:
        values: At least one.

    Returns:
        Lower and upper bound; the same at every call.

    >>> bounds_of_median([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    draw = random.Random(0).choices  # noqa: S311 - no secret
    medians = sorted(statistics.median(draw(values, k=len(values))) for _ in range(_DRAWS))
    return medians[_DRAWS * 25 // 1000], medians[_DRAWS * 975 // 1000]


def main() -> None:
    """Measure, and print every sample as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.startup", description=__doc__)
    parser.add_argument("other", type=Path, help="the file pseg of another environment")
    parser.add_argument("--pairs", type=int, default=20)
    chosen = parser.parse_args()
    taken_s: dict[str, list[float]] = {"this": [], "other": []}
    with tempfile.TemporaryDirectory() as folder:
        inputs = [str(_DEMO / "demo_seagrass.tgz"), str(_DEMO / "pictures" / f"{_PICTURE}.jpg")]

        def run(who: str, pseg: Path) -> float:
            out = Path(folder) / who
            command = [str(pseg), "predict", *inputs, "--runtime", "onnx", "--out", str(out)]
            return seconds_until_written(command, out / f"{_PICTURE}.pseudo.png")

        order = [("this", PSEG), ("other", chosen.other)]
        for who, pseg in order:
            run(who, pseg)
        for _ in range(chosen.pairs):
            for who, pseg in order:
                taken_s[who].append(run(who, pseg))
            order.reverse()
    ratios = [this / other for this, other in zip(taken_s["this"], taken_s["other"], strict=True)]
    lower, upper = bounds_of_median(ratios)
    medians = {who: round(statistics.median(times), 3) for who, times in taken_s.items()}
    ratio = {"median": statistics.median(ratios), "lower": lower, "upper": upper}
    print(json.dumps({"median_s": medians, "ratio": ratio, "samples_s": taken_s}, indent=1))


if __name__ == "__main__":
    main()

"""Measure the headline figures and write their page: `python -m benchmarks.lab.headline [PART…]`.

A part that was measured is kept, and not measured again unless it is named or `--redo` is given: what takes long can be
done in parts. Let nothing else run meanwhile.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lab.headline.measured import read_part, write_part
from benchmarks.lab.headline.page import page, write_plots
from benchmarks.lab.headline.runner import Workspace, run_part
from benchmarks.lab.headline.scenarios import parts
from engine.system.machine.cores import usable_cores

_ROOT = Path(__file__).resolve().parents[3]


def main(given: Sequence[str]) -> None:
    """Measure what is missing or named, and write the page."""
    every = parts(usable_cores())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.headline", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"measure these again: {', '.join(every)}")
    parser.add_argument("--redo", action="store_true", help="measure everything again")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--repetitions", type=int, default=5, help="of every way (default 5)")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "headline", help="for bundles and pictures")
    options = parser.parse_args(given)
    unknown = set(options.parts) - set(every)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(every)}")

    def report(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    for name, scenarios in every.items():
        due = name in options.parts or options.redo or (not options.parts and read_part(name) is None)
        if due and not options.page_only:
            report(f"== {name}")
            write_part(name, run_part(scenarios, Workspace(options.folder, options.repetitions, report)))
    measured = {name: part for name in every if (part := read_part(name)) is not None}
    docs = _ROOT / "docs"
    (docs / "benchmarks.md").write_text(page(measured), encoding="utf-8")
    write_plots(measured, docs / "benchmarks")


if __name__ == "__main__":
    main(sys.argv[1:])

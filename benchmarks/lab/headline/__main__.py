"""Measure the headline figures and write their page: `python -m benchmarks.lab.headline [PART…] [--laps N]`.

A part that was measured is kept, and not measured again unless it is named or `--redo` is given: what takes long can be
done in parts. Let nothing else run meanwhile.
"""

import argparse
import sys
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.lab.headline.page import page, write_plots
from benchmarks.lab.headline.parts import PARTS, Kitchen, Part

_ROOT = Path(__file__).resolve().parents[3]
_RESULTS = Path(__file__).resolve().parent / "results"
_EXPLANATIONS = Path(__file__).resolve().parent / "explanations.md"
_PART = TypeAdapter(Part)


def stored(name: str) -> Part | None:
    """Read what was measured.

    Args:
        name: Of the part.

    Returns:
        The part; None if it was not measured.
    """
    path = _RESULTS / f"{name}.json"
    return _PART.validate_json(path.read_bytes()) if path.is_file() else None


def main(given: list[str]) -> None:
    """Measure what is missing or named, and write the page.

    Args:
        given: What follows the name of the module.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.headline", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"measure these again: {', '.join(PARTS)}")
    parser.add_argument("--redo", action="store_true", help="measure everything again")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--laps", type=int, default=5, help="of every contestant (default 5)")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "headline", help="for bundles and pictures")
    options = parser.parse_args(given)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")

    def tell(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    for name, measure in PARTS.items():
        due = name in options.parts or options.redo or (not options.parts and stored(name) is None)
        if due and not options.page_only:
            tell(f"== {name}")
            part = measure(Kitchen(options.folder, options.laps, tell))
            _RESULTS.mkdir(parents=True, exist_ok=True)
            (_RESULTS / f"{name}.json").write_bytes(_PART.dump_json(part, indent=1) + b"\n")
    parts = {name: part for name in PARTS if (part := stored(name)) is not None}
    docs = _ROOT / "docs"
    (docs / "benchmarks.md").write_text(page(parts, _EXPLANATIONS.read_text(encoding="utf-8")), encoding="utf-8")
    write_plots(parts, docs / "benchmarks")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Measure every model family that is not measured yet, and write docs/zoo.md."""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.lab.zoo.page import Row, page
from benchmarks.lab.zoo.results import Store
from benchmarks.lab.zoo.runner import TIMEOUT_S, run
from benchmarks.lab.zoo.scenarios import CHECKOUT, INSTALLED, Scenario
from engine.errors import RuntimeUnavailableError


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab.zoo", description=__doc__)
    parser.add_argument("--paddleseg", type=Path, metavar="DIR", help="measure the configurations of this checkout")
    parser.add_argument("--only", help="names of networks, separated by commas")
    parser.add_argument("--redo", action="store_true", help="measure again what is measured")
    parser.add_argument("--retry", action="store_true", help="measure again what did not pass")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--results", type=Path, default=Path("docs/zoo.json"), help="file of the results")
    parser.add_argument("--page", type=Path, default=Path("docs/zoo.md"), help="the page to write")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds that a step may take")
    return parser.parse_args(given)


def chosen(scenarios: Iterable[Scenario], only: str | None) -> list[Scenario]:
    """Find the networks that are asked for by names with commas between; None: all."""
    known = list(scenarios)
    wanted = {each.name for each in known} if only is None else set(only.split(","))
    unknown = wanted - {each.name for each in known}
    if unknown:
        names = ", ".join(each.name for each in known)
        sys.exit(f"no such network: {', '.join(sorted(unknown))}; choose from {names}")
    return [each for each in known if each.name in wanted]


def measure(store: Store, scenarios: Iterable[Scenario], options: argparse.Namespace) -> None:
    """Measure what is due, one network after the other, and store each result at once."""
    for scenario in scenarios:
        found = store.read(scenario)
        if found is not None and not options.redo and (found.measurement.agrees or not options.retry):
            continue
        started = time.monotonic()
        measurement = run(scenario, options.paddleseg, timeout_s=options.timeout)
        if RuntimeUnavailableError.__name__ in measurement.error:  # says nothing of the network
            sys.exit(measurement.error)
        result = store.write(scenario, measurement, time.monotonic() - started)
        sys.stdout.write(f"{scenario.name}: {measurement.verdict} ({result.seconds:g} s) {measurement.error}\n")
        sys.stdout.flush()


def main(given: list[str]) -> None:
    """Measure and write."""
    options = arguments(given)
    store = Store(options.results)
    if options.paddleseg is not None:
        options.paddleseg = options.paddleseg.resolve()
        if not (options.paddleseg / "configs").is_dir():
            sys.exit(f"{options.paddleseg}: is not a checkout of PaddleSeg; it has no folder configs")
    if not options.table:
        measure(store, chosen(INSTALLED if options.paddleseg is None else CHECKOUT, options.only), options)
    results = [(each, store.read(each)) for each in (*INSTALLED, *CHECKOUT)]
    options.page.parent.mkdir(parents=True, exist_ok=True)
    rows = [Row(scenario, result and result.measurement) for scenario, result in results]
    options.page.write_text(page(rows, [each.processor for _, each in results if each]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Measure what is not measured yet and write the table: `python -m benchmarks.zoo --help`."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.zoo.recipes import RECIPES, Recipe
from benchmarks.zoo.results import FORMS, Form, Result, Store, installed_versions, key_of
from benchmarks.zoo.runner import TIMEOUT_S, run
from benchmarks.zoo.table import Row, page

FAMILIES = 61
"""What paddleseg 2.8.0 registers; a test counts them."""


def arguments(given: list[str]) -> argparse.Namespace:
    """Read the command line.

    Args:
        given: what follows the name of the module.

    Returns:
        What was asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--only", help="families or names of recipes, separated by commas")
    parser.add_argument("--form", choices=FORMS, help="PIR or .pdmodel only")
    parser.add_argument("--redo", action="store_true", help="measure again what is measured")
    parser.add_argument("--retry", action="store_true", help="measure again what did not pass")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the table")
    parser.add_argument("--results", type=Path, default=Path("build/zoo"), help="folder of the results")
    parser.add_argument("--page", type=Path, default=Path("docs/zoo.md"), help="the table to write")
    parser.add_argument("--keep", type=Path, help="folder to leave exported and converted networks in")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds a step may take")
    return parser.parse_args(given)


def chosen(only: str | None) -> list[Recipe]:
    """Find the recipes that are asked for.

    Args:
        only: families or names, separated by commas; None: all.

    Returns:
        Recipes, in their order.

    Raises:
        SystemExit: there is no such recipe.
    """
    if only is None:
        return list(RECIPES)
    wanted = set(only.split(","))
    unknown = wanted - {each.family for each in RECIPES} - {each.name for each in RECIPES}
    if unknown:
        sys.exit(
            f"no such family: {', '.join(sorted(unknown))}; choose from {', '.join(each.name for each in RECIPES)}"
        )
    return [each for each in RECIPES if {each.family, each.name} & wanted]


def due(found: Result | None, key: str, *, redo: bool, retry: bool) -> bool:
    """Decide whether a network is to be measured.

    Args:
        found: what is stored of it.
        key: of its recipe and the installed versions.
        redo: measure everything again.
        retry: measure again what did not pass.

    Returns:
        Whether it is.
    """
    if found is None or found.key != key or redo:
        return True
    return retry and found.measurement.verdict != "passes"


def rows(store: Store) -> list[Row]:
    """Gather what is stored of today's recipes and the installed versions.

    Args:
        store: the folder of results.

    Returns:
        A row a recipe, measured or not.
    """
    versions = installed_versions()

    def results(recipe: Recipe) -> dict[Form, Result]:
        found: dict[Form, Result | None] = {form: store.read(recipe, form) for form in FORMS}
        return {form: each for form, each in found.items() if each and each.key == key_of(recipe, form, versions)}

    return [Row(recipe, results(recipe)) for recipe in RECIPES]


def measure(store: Store, recipes: Iterable[Recipe], forms: Iterable[Form], options: argparse.Namespace) -> None:
    """Measure what is due, one network after the other, and store each result at once.

    Args:
        store: the folder of results.
        recipes: what to measure.
        forms: of the program.
        options: `redo`, `retry`, `keep` and `timeout`.
    """
    versions = installed_versions()
    for form in forms:
        for recipe in recipes:
            if due(store.read(recipe, form), key_of(recipe, form, versions), redo=options.redo, retry=options.retry):
                result = run(recipe, form, keep=options.keep, timeout_s=options.timeout)
                store.write(recipe, result)
                sys.stdout.write(f"{recipe.name} {form}: {result.measurement.verdict} ({result.seconds:g} s)\n")
                sys.stdout.flush()


def main(given: list[str]) -> None:
    """Measure and write.

    Args:
        given: what follows the name of the module.
    """
    options = arguments(given)
    store = Store(options.results)
    if not options.table:
        measure(store, chosen(options.only), (options.form,) if options.form else FORMS, options)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(page(rows(store), FAMILIES), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

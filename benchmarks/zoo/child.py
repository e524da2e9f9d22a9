"""One step on one network, in a process that may abort: `python -m benchmarks.zoo.child STEP NAME FORM FOLDER ANSWER`.

STEP is `export` or `measure`; the answer is a `Measurement` as JSON.
"""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter

from benchmarks.zoo.recipes import OCRNET_HRNET_W48, RECIPES, Recipe
from benchmarks.zoo.results import Form, Measurement

_MEASUREMENT = TypeAdapter(Measurement)
_TELLING = re.compile(r"\b\w*(Error|Exception): ")
_LONGEST = 300


def telling_line(text: str) -> str:
    r"""Find the line of a message that says what is wrong.

    Args:
        text: what a library said, perhaps over many lines.

    Returns:
        The last line that names an error, or the first that is not empty; without paths.

    >>> telling_line("In transformed code:\n    x = y\n    ValueError: 3 is no axis (at /p/a.cc:1)")
    'ValueError: 3 is no axis'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _TELLING.search(line)]
    line = next(iter([*reversed(named), *lines]), "it said nothing")
    line = re.sub(r" \(at /[^)]*\)", "", line)
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", line)[:_LONGEST]


def _exported(recipe: Recipe, form: Form, folder: Path) -> Measurement:
    # Read by Paddle when it is imported.
    os.environ["FLAGS_enable_pir_api"] = "1" if form == "pir" else "0"
    from benchmarks.zoo.networks import export

    try:
        return Measurement(parameters_m=export(recipe, form, folder))
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error
        return Measurement(export_error=telling_line(f"{type(cause).__name__}: {cause}"))


def _measured(recipe: Recipe, folder: Path) -> Measurement:
    from benchmarks.zoo.comparison import measure

    return measure(folder, recipe.sizes)


def main(step: str, name: str, form: Form, folder: Path, answer: Path) -> None:
    """Do the step and write the answer.

    Args:
        step: `export` or `measure`.
        name: of the recipe.
        form: of the program.
        folder: of the bundle.
        answer: the file to write.
    """
    recipe = next(each for each in (*RECIPES, OCRNET_HRNET_W48) if each.name == name)
    measurement = _exported(recipe, form, folder) if step == "export" else _measured(recipe, folder)
    answer.write_bytes(_MEASUREMENT.dump_json(measurement))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2], cast("Form", sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
    # Paddle's own tear-down at exit may crash; what matters has been said.
    os._exit(0)

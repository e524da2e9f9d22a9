"""What is known of every network: one JSON file each, so that the zoo can be measured in parts."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from benchmarks.zoo.recipes import Recipe, Size

Form = Literal["pir", "pdmodel"]
FORMS: tuple[Form, ...] = ("pir", "pdmodel")
LIMIT_PPM = 100.0
LIMIT_LOGITS = 1e-3
"""Largest error of a logit, as a share of the logits' range."""
_PACKAGES = ("paddlepaddle", "paddleseg", "paddle2onnx", "onnx", "onnxruntime")

Verdict = Literal[
    "passes",
    "one class",
    "differs",
    "not converted",
    "Paddle does not run it",
    "Paddle does not export it",
    "crashed",
]


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far one network came; what lies behind the first error is empty or None.

    Attributes:
        parameters_m: millions of parameters.
        crash: what became of the process that measured it.
        export_error: why Paddle does not export it.
        run_error: why Paddle does not run what it exported.
        refused_size: what Paddle says to a size that it does not take.
        conversion_error: why it is not converted, or ONNX Runtime does not run it.
        sizes: width and height of the pictures that it was compared on.
        mismatched_ppm: pixels of another class, per million.
        logit_error: largest error of a logit, as a share of the logits' range.
        classes: how many of the classes cover at least a thousandth of Paddle's masks.
    """

    parameters_m: float | None = None
    crash: str = ""
    export_error: str = ""
    run_error: str = ""
    refused_size: str = ""
    conversion_error: str = ""
    sizes: tuple[Size, ...] = ()
    mismatched_ppm: float | None = None
    logit_error: float | None = None
    classes: int | None = None

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if self.crash:
            return "crashed"
        if self.export_error:
            return "Paddle does not export it"
        if self.run_error:
            return "Paddle does not run it"
        if self.conversion_error or self.mismatched_ppm is None or self.logit_error is None or self.classes is None:
            return "not converted"
        if self.mismatched_ppm > LIMIT_PPM or self.logit_error > LIMIT_LOGITS:
            return "differs"
        return "passes" if self.classes >= 2 else "one class"


@dataclass(frozen=True, slots=True)
class Result:
    """One network in one form.

    Attributes:
        name: of the recipe.
        form: of the program.
        key: of recipe and versions; another one makes the result stale.
        versions: package to version.
        measurement: what came out.
        seconds: that it took.
    """

    name: str
    form: Form
    key: str
    versions: Mapping[str, str]
    measurement: Measurement
    seconds: float


_RESULT = TypeAdapter(Result)


def installed_versions() -> dict[str, str]:
    """Look up what decides a result.

    Returns:
        Package to version.
    """
    return {name: metadata.version(name) for name in _PACKAGES}


def key_of(recipe: Recipe, form: Form, versions: Mapping[str, str]) -> str:
    """Name recipe and versions.

    Args:
        recipe: how the network is built.
        form: of the program.
        versions: package to version.

    Returns:
        Sixteen hexadecimal digits.
    """
    text = json.dumps([asdict(recipe), form, dict(versions)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of results.

    Attributes:
        folder: made when needed.
    """

    folder: Path

    def read(self, recipe: Recipe, form: Form) -> Result | None:
        """Read a result, whatever its key.

        Args:
            recipe: of the network.
            form: of the program.

        Returns:
            The result; None if there is none.
        """
        path = self._path(recipe, form)
        return _RESULT.validate_json(path.read_bytes()) if path.is_file() else None

    def write(self, recipe: Recipe, result: Result) -> None:
        """Keep a result, in one step.

        Args:
            recipe: of the network.
            result: takes the place of an earlier one.
        """
        path = self._path(recipe, result.form)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_bytes(_RESULT.dump_json(result, indent=2))
        partial.replace(path)

    def _path(self, recipe: Recipe, form: Form) -> Path:
        return self.folder / f"{recipe.name}.{form}.json"

"""What is known of every network, in one JSON file, so that the zoo can be measured in parts."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter

from benchmarks.lab.zoo.rounding import Rounding
from benchmarks.lab.zoo.scenarios import Origin, Scenario
from engine.system.files import write_atomically
from engine.system.libraries import installed_versions
from engine.system.machine.hardware import this_processor

LIMIT_PPM = 100.0
LIMIT_LOGITS = 1e-3
"""Largest error of a logit, as a share of the logits' range."""
PACKAGES = ("paddlepaddle", "paddle2onnx", "onnx", "onnxruntime")

Step = Literal["weights", "export", "convert"]
Verdict = Literal["passes", "within rounding", "one class", "differs", "not converted", "not exported", "not built"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_STOPPED: Mapping[Step, Verdict] = {"weights": "not built", "export": "not exported", "convert": "not converted"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far one network came; what lies behind the first error is None.

    `stopped_at` is the step that failed; None: all were done. `weights_mb` are 10⁶ bytes, `mismatched_ppm` pixels of
    another class per million, `logit_error` the largest error as a share of the logits' range. `classes` counts those
    that cover at least a thousandth of Paddle's masks. `rounding`, how far apart Paddle's own answers are where only
    rounding differs, is measured of what misses a limit.
    """

    stopped_at: Step | None = None
    error: str = ""
    adapters: tuple[str, ...] = ()
    weights_mb: float | None = None
    mismatched_ppm: float | None = None
    logit_error: float | None = None
    classes: int | None = None
    rounding: Rounding | None = None

    @property
    def verdict(self) -> Verdict:
        if self.stopped_at is not None:
            return _STOPPED[self.stopped_at]
        if self.mismatched_ppm is None or self.logit_error is None or self.classes is None:
            return "not converted"
        passes = self.mismatched_ppm <= LIMIT_PPM and self.logit_error <= LIMIT_LOGITS
        as_paddle_itself = (
            self.rounding is not None
            and self.mismatched_ppm <= max(LIMIT_PPM, self.rounding.mismatched_ppm)
            and self.logit_error <= max(LIMIT_LOGITS, self.rounding.logit_error)
        )
        if not passes and not as_paddle_itself:
            return "differs"
        if self.classes < 2:
            return "one class"
        return "passes" if passes else "within rounding"

    @property
    def agrees(self) -> bool:
        return self.verdict in {"passes", "within rounding"}


@dataclass(frozen=True, slots=True)
class Result:
    """One network, measured. `key` is of scenario and versions: with another one, the result is stale.

    `processor` names its model, and those of its instructions that decide which kernels run.
    """

    origin: Origin
    scenario: str
    key: str
    measurement: Measurement
    seconds: float
    processor: str


_RESULTS = TypeAdapter(list[Result])


def key_of(scenario: Scenario) -> str:
    versions = installed_versions((*PACKAGES, "paddleseg"))
    # Most results are older than `added` and `residual_scale`.
    as_before = {"added": None, "residual_scale": 1}
    stated = {name: value for name, value in asdict(scenario).items() if (name, value) not in as_before.items()}
    text = json.dumps([stated, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Store:
    """A file of results."""

    path: Path

    def read(self, scenario: Scenario) -> Result | None:
        """Read a result; None if there is none of this scenario with these versions."""
        result = self._results().get((scenario.origin, scenario.name))
        return result if result and result.key == key_of(scenario) else None

    def write(self, scenario: Scenario, measurement: Measurement, seconds: float) -> Result:
        """Keep a result, in one step."""
        model, *flags = this_processor()
        processor = f"{model} ({', '.join(flags)})"
        result = Result(scenario.origin, scenario.name, key_of(scenario), measurement, round(seconds, 1), processor)
        results = self._results() | {(scenario.origin, scenario.name): result}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, _RESULTS.dump_json([results[each] for each in sorted(results)], indent=2) + b"\n")
        return result

    def _results(self) -> dict[tuple[Origin, str], Result]:
        kept = _RESULTS.validate_json(self.path.read_bytes()) if self.path.is_file() else []
        return {(each.origin, each.scenario): each for each in kept}

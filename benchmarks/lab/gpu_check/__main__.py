"""Run the steps, each in a process of its own; a JSON line for each, then a table."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import cast

from benchmarks.lab.gpu_check.steps import STEPS, NotPossibleError
from engine.errors import RuntimeUnavailableError
from engine.system.machine.nvidia import require_gpu
from engine.system.process import Died, Limits, Raised, Returned, TimedOut, run_isolated

WHOLE_S = 600.0
PASSED, FAILED, NO_GPU = 0, 1, 3


class Verdict(StrEnum):
    """What came of a step."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_POSSIBLE = "not possible"


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the report."""

    step: str
    verdict: Verdict
    detail: str
    seconds: float = 0.0


Ask = Callable[[str, float], tuple[Verdict, str]]


def _in_child(step: str) -> list[str]:
    """Errors of a step are its result: only what kills the process is told by the process that asked."""
    check, _ = STEPS[step]
    try:
        return [Verdict.PASS, check()]
    except NotPossibleError as error:
        return [Verdict.NOT_POSSIBLE, str(error)]
    except Exception as error:
        return [Verdict.FAIL, f"{type(error).__name__}: {error}"]


def ask_child(step: str, limit_s: float) -> tuple[Verdict, str]:
    """Run one step within its limit."""
    match outcome := run_isolated(_in_child, step, Limits(limit_s)):
        case Returned():
            verdict, detail = cast("list[str]", outcome.value)
            return Verdict(verdict), detail
        case Raised():
            return Verdict.FAIL, str(outcome.error)
        case TimedOut():
            return Verdict.FAIL, f"did not end within {limit_s:.0f} s"
        case Died():
            return Verdict.FAIL, f"the process {outcome.cause}"


def run_steps(missing: str | None, ask: Ask = ask_child, whole_s: float = WHOLE_S) -> Iterable[Result]:
    began = time.monotonic()
    for step, (_, limit_s) in STEPS.items():
        left_s = whole_s - (time.monotonic() - began)
        if missing is not None:
            yield Result(step, Verdict.NOT_POSSIBLE, missing)
        elif left_s < 1:
            yield Result(step, Verdict.NOT_POSSIBLE, f"the {whole_s:.0f} s of the whole check are over")
        else:
            started = time.monotonic()
            verdict, detail = ask(step, min(limit_s, left_s))
            yield Result(step, verdict, detail, round(time.monotonic() - started, 1))


def status_of(results: list[Result]) -> int:
    """3: nothing was checked; 1: a step failed; 0: all that was possible passed."""
    if all(each.verdict is Verdict.NOT_POSSIBLE for each in results):
        return NO_GPU
    return FAILED if any(each.verdict is Verdict.FAIL for each in results) else PASSED


def table(results: list[Result]) -> str:
    width = max(len(each.step) for each in results)
    rows = [
        f"{each.step:<{width}}  {each.verdict:<12}  {each.seconds:>6.1f} s  {each.detail[:100]}" for each in results
    ]
    return "\n".join(rows)


def main() -> int:
    try:
        require_gpu(0)
    except RuntimeUnavailableError as error:
        missing = str(error)
    else:
        missing = None
    results: list[Result] = []
    for each in run_steps(missing):
        results.append(each)
        sys.stdout.write(json.dumps(asdict(each)) + "\n")
        sys.stdout.flush()
    sys.stderr.write(table(results) + "\n")
    status = status_of(results)
    if status == NO_GPU:
        sys.stderr.write(f"Nothing was checked: {missing}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""The logic of `make gpu-check`, with a card that is made up; and what it says where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab.gpu_check.__main__ import FAILED, NO_GPU, PASSED, Result, Verdict, run_steps, status_of, table
from benchmarks.lab.gpu_check.steps import STEPS
from engine import RuntimeUnavailableError
from engine.system.machine.nvidia import require_gpu

ROOT = Path(__file__).parents[2]


def test_a_machine_without_a_gpu_is_never_green() -> None:
    try:
        require_gpu(0)
    except RuntimeUnavailableError as error:
        reason = str(error)
    else:
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.lab.gpu_check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["step"] for line in lines] == list(STEPS)
    assert {(line["verdict"], line["detail"]) for line in lines} == {("not possible", reason)}
    assert done.returncode == NO_GPU
    assert done.stderr.splitlines()[-1] == f"Nothing was checked: {reason}"


def test_each_step_is_asked_within_its_limit() -> None:
    asked: dict[str, float] = {}

    def card(step: str, limit_s: float) -> tuple[Verdict, str]:
        asked[step] = limit_s
        return Verdict.PASS, "as on the CPU"

    results = list(run_steps(None, card))
    assert list(asked) == list(STEPS)
    assert all(asked[step] <= limit_s for step, (_, limit_s) in STEPS.items())
    assert status_of(results) == PASSED


def test_when_the_time_is_over_the_rest_is_not_possible() -> None:
    def card(_step: str, _limit_s: float) -> tuple[Verdict, str]:
        return Verdict.PASS, "as on the CPU"

    results = list(run_steps(None, card, whole_s=0.5))
    assert {each.verdict for each in results} == {Verdict.NOT_POSSIBLE}
    assert status_of(results) == NO_GPU


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.PASS, Verdict.NOT_POSSIBLE], PASSED),
        ([Verdict.PASS, Verdict.FAIL, Verdict.NOT_POSSIBLE], FAILED),
        ([Verdict.FAIL, Verdict.NOT_POSSIBLE], FAILED),
        ([Verdict.NOT_POSSIBLE], NO_GPU),
    ],
)
def test_the_status(verdicts: list[Verdict], status: int) -> None:
    assert status_of([Result(str(number), each, "") for number, each in enumerate(verdicts)]) == status


def test_the_table_has_a_line_for_each_step() -> None:
    lines = table([Result("1 driver", Verdict.PASS, "NVIDIA L4", 1.25), Result("2", Verdict.FAIL, "why")]).splitlines()
    assert [line.split()[:2] for line in lines] == [["1", "driver"], ["2", "fail"]]

"""The logic of `make gpu-check`, with a card that is made up; and what it says where there is none."""
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab.gpu_check import steps
from benchmarks.lab.gpu_check.__main__ import FAILED, NO_GPU, PASSED, Result, Verdict, run_steps, status_of, table
from benchmarks.lab.gpu_check.steps import STEPS
from engine import Provider, RuntimeUnavailableError
from engine.runtimes import Tensor
from engine.runtimes.fake import FakeRuntime
from engine.runtimes.onnx import settings
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


def test_classes_are_held_against_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU in the place of the card, and with classes that are wrong."""
    monkeypatch.setattr(steps, "require_provider", lambda _provider: None)
    monkeypatch.setattr(settings, "PROVIDER_NAMES", {Provider.CUDA: "CPUExecutionProvider"})
    monkeypatch.setattr(settings, "cuda_settings", lambda _options: {})
    told = steps.classes_on_the_gpu()
    assert told.startswith("whole numbers: 614400 classes are those of the scores; demo_seagrass.tgz: ")
    monkeypatch.setattr(steps, "_scores_and_classes", lambda _path, x: (x, 18 - np.argmax(x, axis=1)))
    with pytest.raises(AssertionError, match=r"whole numbers: .* of 614400 classes are not those"):
        steps.classes_on_the_gpu()


class Card:
    """A card on which the network takes 500 bytes a pixel, up to a limit that it heeds or not."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken = 300 << 20

    def used_bytes(self) -> int:
        return self.taken

    def free_bytes(self) -> int:
        return (1 << 30) - self.taken

    def network(self, tensor: Tensor) -> Tensor:
        wanted = (300 << 20) + 500 * tensor.shape[-1] * tensor.shape[-2]
        if wanted > self.limit_bytes:
            raise ValueError("out of memory")
        self.taken = max(self.taken, wanted)
        return tensor[:, :2, :8, :8]


@pytest.mark.parametrize("heeded", [True, False])
def test_a_limit_on_memory_that_is_not_heeded_is_found(heeded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card((1 << 30) if heeded else 1 << 40)
    runtime = FakeRuntime(card.network)
    runtime.memory = card
    monkeypatch.setattr(steps, "require_gpu", lambda _index: None)
    monkeypatch.setattr(steps, "used_memory_bytes", lambda _gpu: card.taken)
    monkeypatch.setattr(steps, "open_runtime", lambda _bundle, _options: runtime)
    if heeded:
        assert steps.memory_limit().startswith("625 bytes a pixel, 3 images of 640x480 a run")
    else:
        with pytest.raises(AssertionError, match="was not kept to 1024 MiB"):
            steps.memory_limit()


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

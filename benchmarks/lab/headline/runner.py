"""Scenarios are run: their ways are loaded at the same time, each in a process of its own, and take turns."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.bench import Places
from benchmarks.lab.headline import bundles
from benchmarks.lab.headline.child import LoadedWay
from benchmarks.lab.headline.measured import Loaded, Part, Repetition, Result
from benchmarks.lab.headline.scenarios import Scenario, Software, Way, Work
from benchmarks.lab.headline.ways import Load, RepeatOnce, Task
from benchmarks.lab.startup import ORIGINAL_WAY, PSEG, seconds_until_written
from benchmarks.measuring.environment import environment
from benchmarks.measuring.measure import MeasuringError, ask
from benchmarks.results.markdown import Table
from benchmarks.tuning.tune import TuneRequest, Tuning, profile_of, tune, tuning_table
from converters.repository import Repository
from engine.bundle.bundle import Bundle, open_bundle
from engine.errors import RuntimeUnavailableError
from engine.images import read_image
from engine.options import OnnxOptions, Precision
from engine.runtimes.profile import profile_json
from engine.segmentation.opening import open_runtime, require_available
from engine.segmentation.predictor import Predictor
from engine.system.machine.cores import usable_cores
from engine.system.process import ChildProcess, Limits

MOST_TENSORS = 4
"""So many of a scenario's pictures become tensors of a repetition."""
TIMEOUT_S = 1800.0
"""That a way may take to load, and for a repetition."""
_Answer = TypeVar("_Answer", Loaded, Repetition)
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where scenarios are run; the folder keeps bundles and pictures from one run to the next."""

    folder: Path
    repetitions: int
    report: Report


@dataclass(slots=True)
class _Findings:
    """Of the scenarios of a part."""

    results: list[Result] = field(default_factory=list[Result])
    searches: dict[str, Table] = field(default_factory=dict[str, Table])
    notes: list[str] = field(default_factory=list[str])


def run_part(scenarios: Sequence[Scenario], workspace: Workspace) -> Part:
    started, machine, findings = time.monotonic(), environment(), _Findings()
    for scenario in scenarios:
        workspace.report(f"-- {scenario.title}")
        _run(scenario, workspace, findings)
    seconds = time.monotonic() - started
    return Part(machine, seconds, tuple(findings.results), findings.searches, tuple(dict.fromkeys(findings.notes)))


def _run(scenario: Scenario, workspace: Workspace, findings: _Findings) -> None:
    pictures = bundles.pictures(scenario.pictures, workspace.folder / "pictures")
    if pictures is None:
        findings.notes.append(f"{scenario.network}: PSEG_SHARED_DATA names no folder with its pictures")
        return
    is_searched = scenario.search_s is not None
    path = bundles.bundle(scenario.network, workspace.folder, int8=scenario.int8 and not is_searched)
    with open_bundle(path) as bundle:
        profile: Path | None = None
        if is_searched:
            found = _search(scenario, bundle, pictures, workspace)
            findings.searches[scenario.network] = tuning_table(found)
            if scenario.work is Work.SEARCH or found.search.chosen is None:
                findings.notes += [f"{scenario.network}: {each}" for each in (found.reason, *found.notes)]
                return
            kept = [Way(Software.PSEG, each.configuration) for each in found.search.trials if not each.broken]
            scenario = replace(scenario, ways=(Way(Software.PSEG), *kept))
            profile = workspace.folder / "profiles" / f"{scenario.network}.json"
            profile.parent.mkdir(parents=True, exist_ok=True)
            profile.write_bytes(profile_json(profile_of(found, bundle.digest)))
        repetitions = max(2, int(workspace.repetitions * scenario.repetitions))
        if scenario.work is Work.PROCESS:
            findings.results += _starts(scenario, bundle, pictures[0], repetitions, workspace.report)
            return
        runnable, notes = _runnable(scenario.ways)
        findings.notes += notes
        tensors = _tensors(scenario, bundle, pictures, workspace)
        model, paddle = bundle.onnx_model(Precision.FP32), bundle.paddle
        task = Task(
            way=Way(Software.PSEG),
            work=scenario.work,
            bundle=path,
            models=(model and model.path, paddle and paddle.program, paddle and paddle.params),
            tensors=tensors,
            pictures=pictures,
            max_img_size=scenario.max_img_size,
            profile=profile,
            scratch=workspace.folder,
        )
        tasks = [replace(task, way=each, pictures=pictures[: each.images]) for each in runnable]
        findings.results += in_turns(scenario, tasks, repetitions, workspace.report)


def _runnable(ways: Sequence[Way]) -> tuple[list[Way], list[str]]:
    """Those that this machine can run, and why it cannot run the others."""
    runnable: list[Way] = []
    notes: list[str] = []
    for way in ways:
        try:
            if way.configuration is not None:
                require_available(way.configuration.options())
            runnable.append(way)
        except RuntimeUnavailableError as error:
            notes.append(f"{way.configuration and way.configuration.provider}: {error}")
    return runnable, notes


def _tensors(scenario: Scenario, bundle: Bundle, pictures: Sequence[Path], workspace: Workspace) -> tuple[Path, ...]:
    """The pictures as the bundle's network takes them; of a folder, as many runs of the first as there are pictures."""
    if scenario.work is Work.FOLDER:
        return (_tensor(scenario, bundle, pictures[0], workspace),) * len(pictures)
    return tuple(_tensor(scenario, bundle, each, workspace) for each in pictures[:MOST_TENSORS])


def _tensor(scenario: Scenario, bundle: Bundle, picture: Path, workspace: Workspace) -> Path:
    out = workspace.folder / "feeds" / bundle.digest[:16] / f"{picture.parent.name}.{picture.stem}.npy"
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        runtime = open_runtime(bundle, OnnxOptions(threads=usable_cores()), load_marks=workspace.folder / "load-marks")
        with Predictor(bundle, runtime) as predictor:
            image = read_image(picture, max_img_size=scenario.max_img_size)
            np.save(out, predictor.prepare(image).tensor[np.newaxis])
    return out


def _search(scenario: Scenario, bundle: Bundle, pictures: tuple[Path, ...], workspace: Workspace) -> Tuning:
    with tempfile.TemporaryDirectory(prefix="headline-") as scratch:
        found = tune(
            bundle,
            TuneRequest(pictures, budget_s=scenario.search_s or 0, max_img_size=scenario.max_img_size),
            Places(Path(scratch), workspace.folder / "load-marks"),
            repository=Repository(workspace.folder / "onnx") if scenario.int8 else None,
            advance=lambda step, configuration: workspace.report(f"{bundle.name}: {step} {configuration.label}"),
        )
    workspace.report(f"{bundle.name}: {found.reason}")
    return found


def in_turns(scenario: Scenario, tasks: Sequence[Task], repetitions: int, report: Report) -> list[Result]:
    """Load all, then let them take turns (A B C A B C …); those that fail are results with their error."""
    loaded: dict[Way, Loaded] = {}
    taken: dict[Way, list[Repetition]] = {each.way: [] for each in tasks}
    errors: dict[Way, str] = {}
    with ExitStack() as stack:
        children: dict[Way, ChildProcess] = {}

        def asked(way: Way, command: Load | RepeatOnce, answer: type[_Answer]) -> _Answer | None:
            if way in errors:
                return None
            try:
                return ask(children[way], command, answer)
            except MeasuringError as error:
                errors[way] = str(error)
                report(f"{way.label}: {error}")
                return None

        for task in tasks:
            children[task.way] = ChildProcess(LoadedWay, Limits(TIMEOUT_S), Path.cwd())
            stack.callback(children[task.way].close)
            if (answer := asked(task.way, Load(task), Loaded)) is not None:
                loaded[task.way] = answer
                report(f"{task.way.label}: loaded in {answer.load_s:.1f} s, first repetition {answer.first_s:.2f} s")
        for number in range(repetitions):
            for way in taken:
                if (answer := asked(way, RepeatOnce(), Repetition)) is not None:
                    taken[way].append(answer)
            report(f"repetition {number + 1} of {repetitions}")
    return [
        Result(scenario.network, str(scenario.pictures), way, loaded.get(way), tuple(done), errors.get(way))
        for way, done in taken.items()
    ]


def _starts(scenario: Scenario, bundle: Bundle, picture: Path, repetitions: int, report: Report) -> list[Result]:
    """Start commands in turn, the first time of each to warm up."""
    with tempfile.TemporaryDirectory(prefix="headline-") as scratch:
        ours, theirs = Path(scratch) / f"{picture.stem}.pseudo.png", Path(scratch) / "original.png"
        commands = {
            Software.PSEG: ([PSEG, "predict", bundle.source, picture, "--out", scratch], ours),
            Software.DEPLOY_SCRIPT: ([sys.executable, ORIGINAL_WAY, bundle.folder, picture, theirs], theirs),
        }
        taken: dict[Way, list[Repetition]] = {each: [] for each in scenario.ways}
        for number in range(repetitions + 1):
            for way, repeated in taken.items():
                command, mask = commands[way.software]
                seconds = seconds_until_written(list(map(str, command)), mask)
                if number:
                    repeated.append(Repetition(seconds, None, 1, None))
            report(f"start {number} of {repetitions}")
    return [Result(scenario.network, str(scenario.pictures), way, None, tuple(done)) for way, done in taken.items()]

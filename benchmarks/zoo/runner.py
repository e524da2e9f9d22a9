"""Run the steps of one network in child processes that may abort or hang, and make one result of them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.zoo.child import telling_line
from benchmarks.zoo.recipes import Recipe
from benchmarks.zoo.results import Form, Measurement, Result, installed_versions, key_of

TIMEOUT_S = 600
_ROOT = Path(__file__).parents[2]
_MEASUREMENT = TypeAdapter(Measurement)


def run(recipe: Recipe, form: Form, *, keep: Path | None = None, timeout_s: float = TIMEOUT_S) -> Result:
    """Export, convert and compare a network.

    Args:
        recipe: how it is built.
        form: of the program.
        keep: folder that the exported bundle and its ONNX files are left in; None: removed.
        timeout_s: seconds that each of the two steps may take.

    Returns:
        What came out; a step that crashed or took too long is its error.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        folder = Path(scratch) / "bundle" if keep is None else keep / f"{recipe.name}.{form}"
        shutil.rmtree(folder, ignore_errors=True)
        answer = Path(scratch) / "answer.json"
        measurement = _step("export", recipe, form, folder, answer, timeout_s)
        if isinstance(measurement, str):
            measurement = Measurement(crash=f"export: {measurement}")
        elif not measurement.export_error:
            parameters_m = measurement.parameters_m
            measured = _step("measure", recipe, form, folder, answer, timeout_s)
            if isinstance(measured, str):
                measured = Measurement(crash=f"comparison: {measured}")
            measurement = replace(measured, parameters_m=parameters_m)
    versions = installed_versions()
    seconds = round(time.monotonic() - start, 1)
    return Result(recipe.name, form, key_of(recipe, form, versions), versions, _without_paths(measurement), seconds)


def export_only(recipe: Recipe, folder: Path, *, timeout_s: float = TIMEOUT_S) -> None:
    """Export a network as a PIR program, in a process of its own.

    Args:
        recipe: how it is built.
        folder: of the bundle; absent.
        timeout_s: seconds that it may take.

    Raises:
        RuntimeError: Paddle does not export it.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        done = _step("export", recipe, "pir", folder, Path(scratch) / "answer.json", timeout_s)
    problem = done if isinstance(done, str) else done.export_error
    if problem:
        raise RuntimeError(f"{recipe.name} is not exported: {problem}")


def _step(step: str, recipe: Recipe, form: Form, folder: Path, answer: Path, timeout_s: float) -> Measurement | str:
    """Return the child's answer, or what became of the child."""
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo.child"]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(  # noqa: S603 - our own module with our own arguments
            [*command, step, recipe.name, form, str(folder), str(answer)],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"not done within {timeout_s:g} s"
        finally:
            # The converter is a child of the child.
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if answer.is_file():
            return _MEASUREMENT.validate_json(answer.read_bytes())
        said.seek(0)
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"the process ended with {ended}: {telling_line(said.read().decode(errors='replace'))}"


def _without_paths(measurement: Measurement) -> Measurement:
    return replace(
        measurement,
        run_error=measurement.run_error and telling_line(measurement.run_error),
        refused_size=measurement.refused_size and telling_line(measurement.refused_size),
        conversion_error=measurement.conversion_error and telling_line(measurement.conversion_error),
    )

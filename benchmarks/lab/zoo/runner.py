"""One network through the commands that a user calls, each in a process of its own that may abort or hang."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.lab.zoo.results import Measurement
from benchmarks.lab.zoo.rounding import ROUNDING, Rounding
from benchmarks.lab.zoo.scenarios import Scenario
from converters.conversion import Certificate

TIMEOUT_S = 900
_ROOT = Path(__file__).parents[3]
_PSEG = Path(sys.executable).with_name("pseg")
_TELLING = re.compile(r"\b\w*(Error|Exception): ")
_LONGEST = 300
_CERTIFICATE = TypeAdapter(Certificate)


class StepError(Exception):
    """A step failed; the message is what it said."""


def run(scenario: Scenario, checkout: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> Measurement:
    """Make random weights, export and convert a network, and read how close the conversion is.

    Without `checkout`, PaddleSeg's own folder, it is the installed PaddleSeg. A step that crashed, or took longer than
    `timeout_s`, is the error of the measurement.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-") as name:
        scratch = Path(name)
        converted = scratch / "converted.tgz"
        weights, exported = scratch / "model.pdparams", scratch / "exported.tgz"
        adapters: tuple[str, ...] = ()
        step = "weights"
        try:
            config = scenario.configuration(scratch, checkout)
            _weights(config, weights, checkout, timeout_s, scenario.residual_scale)
            step = "export"
            adapters = _export(config, weights, exported, checkout, timeout_s)
            step = "convert"
            arguments = ("--min-agreement", "0", "--cache-dir", scratch / "cache")
            _pseg(["convert", exported, "--out", converted, *arguments], checkout, timeout_s)
            report = _certificate(converted).report
            if report.max_abs_logit_error is None or not report.logit_range:
                raise StepError("the logits are the same everywhere")
            measurement = Measurement(
                adapters=adapters,
                weights_mb=round(weights.stat().st_size / 1e6, 2),
                mismatched_ppm=report.mismatched_ppm,
                logit_error=report.max_abs_logit_error / report.logit_range,
                classes=len(report.gated_classes),
            )
        except StepError as error:
            return Measurement(stopped_at=step, error=str(error), adapters=adapters)
        if measurement.verdict != "differs":
            return measurement
        try:
            return replace(measurement, rounding=rounding_of(exported, timeout_s))
        except StepError as error:
            return replace(measurement, error=f"its rounding is not measured: {error}")


def rounding_of(bundle: Path, timeout_s: float = TIMEOUT_S) -> Rounding:
    """Measure how much rounding alone changes the answers of an exported network, in a process of its own.

    Raises StepError where Paddle does not run it, or not in time.
    """
    module = ["-W", "ignore", "-m", "benchmarks.lab.zoo.rounding"]
    return ROUNDING.validate_json(_said([sys.executable, *module, bundle], None, timeout_s).splitlines()[-1])


def export_only(scenario: Scenario, bundle: Path) -> None:
    """Export a network of the installed PaddleSeg with random weights; StepError where Paddle does not export it."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        config = scenario.configuration(Path(scratch), None)
        weights = Path(scratch) / "model.pdparams"
        _weights(config, weights, None, TIMEOUT_S, scenario.residual_scale)
        _export(config, weights, bundle, None, TIMEOUT_S)


def _weights(config: Path, weights: Path, checkout: Path | None, timeout_s: float, residual_scale: float) -> None:
    module = ["-W", "ignore", "-m", "benchmarks.lab.zoo.weights"]
    said = _said([sys.executable, *module, config, weights, str(residual_scale)], checkout, timeout_s)
    if not weights.is_file():  # some of PaddleSeg's layers end the process where they miss something
        raise StepError(f"PaddleSeg ended the process: {telling_line(said)}")


def _export(config: Path, weights: Path, bundle: Path, checkout: Path | None, timeout_s: float) -> tuple[str, ...]:
    arguments = ["--config", config, "--weights", weights, "--out", bundle]
    said = _pseg(["export", *arguments], checkout, timeout_s)
    return tuple(each["name"] for each in json.loads(said)["adapters"])


def _certificate(bundle: Path) -> Certificate:
    with tarfile.open(bundle) as archive:
        member = next(each for each in archive if each.name.endswith("onnx/fp32/parity.json"))
        content = archive.extractfile(member)
        assert content is not None  # noqa: S101 - it is a file: the product wrote it
        return _CERTIFICATE.validate_json(content.read())


def _pseg(arguments: Sequence[str | Path], checkout: Path | None, timeout_s: float) -> str:
    return _said([_PSEG, *arguments, "--json"], checkout, timeout_s)


def _said(command: Sequence[str | Path], checkout: Path | None, timeout_s: float) -> str:
    paths = [str(each) for each in (checkout, _ROOT, os.environ.get("PYTHONPATH")) if each]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(  # noqa: S603 - our own commands with our own arguments
            [str(each) for each in command],
            cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        ) as child,
    ):
        try:
            said, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise StepError(f"not done within {timeout_s:g} s") from error
        finally:
            # The converter is a child of the child.
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        if child.returncode == 0:
            return said.decode()
        complaints.seek(0)
        message = telling_line(complaints.read().decode(errors="replace"))
    if child.returncode < 0:
        raise StepError(f"the process ended with signal {signal.Signals(-child.returncode).name}: {message}")
    raise StepError(message)


def telling_line(text: str) -> str:
    r"""Find the line of a message that says what is wrong, without paths: the last that names an error, or the first.

    >>> telling_line("In transformed code:\n    x = y\n    ValueError: 3 is no axis (at /p/a.cc:1)")
    'ValueError: 3 is no axis'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _TELLING.search(line)]
    line = next(iter([*reversed(named), *lines]), "it said nothing")
    line = re.sub(r" \(at /[^)]*\)", "", line)
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", line)[:_LONGEST]

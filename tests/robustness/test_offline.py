"""Nothing calls home: everything works in a network namespace without any route, and no call goes beyond this machine.

The system calls are watched by strace, which sees an attempt even where it comes to nothing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.robustness.conftest import Tally

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "demo" / "demo_seagrass.tgz"
PICTURE = ROOT / "demo" / "pictures" / "scene_900004.jpg"
PSEG = str(Path(sys.executable).with_name("pseg"))
NAMESPACE = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")
KIND = "runs without a network"
_BEYOND = re.compile(r'sa_family=AF_INET6?, (?!.*(inet_addr\("127\.|"::1"))')


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """What the tests of this file need of the machine."""
    for command, reason in (
        ([*NAMESPACE, "true"], "a network namespace of one's own is not permitted here (unshare --net)"),
        (["strace", "-qq", "-o", "/dev/null", "true"], "strace is not installed or may not trace here"),
    ):
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True, check=False).returncode:
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)


def run_offline(command: Sequence[str], folder: Path, **environment: str) -> tuple[int, str, list[str]]:
    """Run a command without a network: its status, what it said, and its calls beyond this machine."""
    trace = folder / "calls"
    watched = [*NAMESPACE, "strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=%network", "-e", "signal=none"]
    # The way that the doors are started; what switches telemetry off they set themselves.
    cleared = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [*watched, "-o", str(trace), *command],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**cleared, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder / "home"), **environment},
    )
    calls = [line for line in trace.read_text(errors="replace").splitlines() if _BEYOND.search(line)]
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace"), calls


def works(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """The command works, and nothing goes beyond this machine; what it said."""
    status, said, calls = run_offline(command, folder, **(environment or {}))
    assert status == 0, said
    assert calls == []
    # ONNX Runtime's usage reports, where they are not switched off, begin with a session file there.
    assert not (folder / "cache" / "Microsoft").exists()
    return said


def test_an_attempt_is_seen(tmp_path: Path) -> None:
    call = "import socket; socket.create_connection(('203.0.113.1', 80))"
    status, said, calls = run_offline([sys.executable, "-c", call], tmp_path)
    assert status == 1
    assert "Network is unreachable" in said
    assert len(calls) == 1
    assert "203.0.113.1" in calls[0]


def test_predict(tmp_path: Path, tally: Tally) -> None:
    works([PSEG, "predict", str(BUNDLE), str(PICTURE), "--out", str(tmp_path), "--runtime", "onnx"], tmp_path)
    assert (tmp_path / "scene_900004.pseudo.png").is_file()
    tally(KIND)


HIDES_TELEMETRY = {name: "" for name in ("CI", "TF_BUILD")}
"""Where these are set, openvino's makers are told nothing anyway."""


def test_openvino_by_itself_writes_and_asks(tmp_path: Path) -> None:
    """What the next test would see."""
    (tmp_path / "home").mkdir()
    status, said, calls = run_offline([sys.executable, "-c", "import openvino"], tmp_path, **HIDES_TELEMETRY)
    assert status == 0, said
    assert calls or list((tmp_path / "home").rglob("*"))


def test_openvino_tells_nobody(tmp_path: Path, tally: Tally) -> None:
    (tmp_path / "home").mkdir()
    command = [PSEG, "predict", str(BUNDLE), str(PICTURE), "--out", str(tmp_path), "--provider", "openvino"]
    works(command, tmp_path, HIDES_TELEMETRY)
    assert (tmp_path / "scene_900004.pseudo.png").is_file()
    assert list((tmp_path / "home").iterdir()) == []
    tally(KIND)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_both_runtimes(tmp_path: Path, tally: Tally) -> None:
    said = works([PSEG, "demo", str(PICTURE), "--out", str(tmp_path)], tmp_path)
    assert "paddle-onednn" in said and "cpu" in said
    tally(KIND)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_convert(tmp_path: Path, tally: Tally) -> None:
    works([PSEG, "convert", str(BUNDLE), "--replace", "--out", str(tmp_path / "converted.tgz")], tmp_path)
    assert (tmp_path / "converted.tgz").is_file()
    tally(KIND)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_order(tmp_path: Path, tally: Tally) -> None:
    out = tmp_path / "out"
    out.mkdir()
    order = [sys.executable, "-m", "service.order", "--device", "cpu", "--model", str(BUNDLE), "--image", str(PICTURE)]
    works([*order, "--ivcap:in-dir", ".", "--ivcap:out-dir", str(out)], tmp_path)
    assert (out / "scene_900004.pseudo.png").is_file()
    tally(KIND)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_job(tmp_path: Path, tally: Tally) -> None:
    content = {"model": f"urn:file://{BUNDLE}", "image": f"urn:file://{PICTURE}"}
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"id": "check", "in-content-type": "application/json", "in-content": content}))
    out = tmp_path / "job"
    works([sys.executable, "-m", "service.job", "--test-file", str(job)], tmp_path, {"IVCAP_LOCAL_DIR": str(out)})
    assert (out / "artifacts" / "check" / "scene_900004.pseudo.png").is_file()
    tally(KIND)

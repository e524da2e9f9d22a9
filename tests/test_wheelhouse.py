"""The project without its clone and without a network, as on a laptop at sea."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ON_THE_LAPTOP = """
test "$(wc -l < /proc/net/route)" -le 1 || { echo "there is a route"; exit 9; }
"$1" -m venv seagrass
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip="seagrass/bin/python -m pip --quiet install --no-index --find-links wheelhouse --no-deps"
$pip --require-hashes --requirement wheelhouse/requirements.txt
$pip paddleseg-dual-runtime
seagrass/bin/pseg demo --out masks
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_wheelhouse_installs_and_runs_without_a_route(tmp_path: Path) -> None:
    def done(*command: str | Path, folder: Path) -> str:
        result = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    done("make", "wheelhouse", f"WHEELHOUSE={tmp_path / 'wheelhouse'}", folder=ROOT)
    (wheel,) = (tmp_path / "wheelhouse").glob("paddleseg_dual_runtime-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/lab/"))]
    without_a_route = ("unshare", "--map-root-user", "--net", "bash", "-euc", ON_THE_LAPTOP, "bash", sys.executable)
    told = done(*without_a_route, folder=tmp_path)
    for provider in ("paddle-cpu", "paddle-onednn", "cpu", "openvino"):
        assert provider in told
    assert len([*(tmp_path / "masks").glob("*.mask.png")]) == 4

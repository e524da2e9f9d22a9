"""The project without its clone and without a network, as on a laptop at sea."""

import re
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


@pytest.mark.long
@pytest.mark.timeout(900)
def test_pip_can_choose_versions_for_the_extras_that_the_page_names(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r"install '\./paddleseg_dual_runtime-[\d.]+-py3-none-any\.whl\[(.+?)\]'", page)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--dry-run"]
    done = subprocess.run([*pip, f"{ROOT}[{extras}]"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The notebook of the documentation runs, cell by cell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK: dict[str, Any] = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
RUN = """
import ast, json, sys
names = {}
for cell in json.load(sys.stdin):
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        print(type(shown).__name__, bool(getattr(shown, "_repr_png_", None) and shown._repr_png_()))
print(json.dumps(names["table"]))
"""


def test_the_notebook_runs_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copytree(ROOT / "demo" / "pictures", tmp_path / "demo" / "pictures")
    shutil.copy(ROOT / "demo" / "demo_seagrass.tgz", tmp_path / "demo")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        cwd=tmp_path / "docs",
        input=json.dumps(CELLS),
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *shown, table = done.stdout.splitlines()
    assert shown == [
        *("list False", "Provenance False", "Prediction True", "dict False", "Image True", "ndarray False"),
        *("Image True", "dict False", "NoneType False"),
    ]
    covers = json.loads(table)
    assert sorted(covers) == sorted(path.name for path in (ROOT / "demo" / "pictures").glob("*.jpg"))
    assert all(abs(sum(each) - 1) < 0.002 for each in covers.values())
    assert (tmp_path / "docs" / "mask.png").is_file()


def test_the_notebook_keeps_no_results() -> None:
    assert len(NOTEBOOK["cells"]) == 10
    assert all(cell["outputs"] == [] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")

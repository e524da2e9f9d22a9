"""What users have stays as it is written down in this folder (see `runs`)."""

import json
from pathlib import Path

import pytest

from tests.golden.runs import HERE, RUNS, record_of


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_nothing_changed(name: str, tmp_path: Path) -> None:
    wanted = json.loads((HERE / f"{name}.json").read_text())
    assert record_of(name, tmp_path) == wanted, f"read it, then write it: python -m tests.golden.runs {name}"

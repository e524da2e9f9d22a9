"""What users have stays as it is written down in this folder (see `runs`)."""

import json

import pytest

from tests.golden.runs import HERE, RUNS, record_of


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_nothing_changed(name: str) -> None:
    wanted = json.loads((HERE / f"{name}.json").read_text())
    assert record_of(name) == wanted, f"read it, then write it: python -m tests.golden.runs {name}"

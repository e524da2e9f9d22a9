"""Values and bytes that nobody would write: a result, or an error of the project's own; nothing else.

Values come from hypothesis. Bytes come from libFuzzer, for a fixed number of runs here and for minutes by `make fuzz`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine import BundleError, InferenceError, OptionError, open_bundle
from engine.segmentation.postprocess import output_kind, segment
from service.ivcap.parameters import ServiceRequest, build_service_request
from tests.robustness.conftest import Tally
from tests.robustness.strangers import hostile

ROOT = Path(__file__).parents[3]
EXAMPLES = 60
many_times = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
keys = st.sampled_from(
    [
        "Deploy",
        "model",
        "params",
        "transforms",
        "input_shape",
        "output_op",
        "classes",
        "def_color",
        "name",
        "type",
        "id",
    ]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=4)
)


def opens_or_is_refused(folder: Path, name: str, content: bytes) -> None:
    for path, good in {**hostile.good_files(), name: content}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(good)
    try:
        with open_bundle(folder) as bundle:
            assert bundle.digest
    except BundleError as error:
        assert str(error).startswith(str(folder))


@many_times
@given(value=values)
def test_any_deploy_yaml(value: Any, tmp_path: Path, tally: Tally) -> None:
    opens_or_is_refused(tmp_path, "deploy.yaml", yaml.safe_dump({"Deploy": value}).encode())
    tally("fuzzed values: deploy.yaml")


@many_times
@given(value=st.dictionaries(keys, values, max_size=5) | values)
def test_any_meta_json(value: Any, tmp_path: Path, tally: Tally) -> None:
    opens_or_is_refused(tmp_path, "meta.json", json.dumps(value).encode())
    tally("fuzzed values: meta.json")


@many_times
@given(parameters=st.dictionaries(st.sampled_from(sorted(ServiceRequest.model_fields)), scalars, max_size=4))
def test_any_options(parameters: dict[str, Any], tally: Tally) -> None:
    try:
        build_service_request(**parameters)
    except OptionError as error:
        assert str(error)
    tally("fuzzed values: options")


@many_times
@given(
    output=arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.bool_]),
        arrays.array_shapes(min_dims=2, max_dims=5, min_side=0, max_side=5),
    ),
    multilabel=st.booleans(),
    threshold=st.floats() | st.floats(0, 1),
)
def test_any_output_of_a_network(output: Any, multilabel: bool, threshold: float, tally: Tally) -> None:
    try:
        kind = output_kind(output, multilabel=multilabel)
        mask = segment(output[0], kind, [], threshold=threshold)
    except (InferenceError, OptionError) as error:
        assert str(error)
    else:
        assert mask.shape[-2:] == output.shape[-2:]
        assert mask.dtype in {np.dtype(kind) for kind in (np.uint8, np.uint16, np.bool_)}
        assert 0 < threshold < 1
    tally("fuzzed values: outputs of a network")


@pytest.mark.parametrize(("target", "runs"), [("bundles", 300), ("images", 1000)])
@pytest.mark.long
def test_any_bytes(target: str, runs: int, tmp_path: Path, tally: Tally) -> None:
    command = [
        sys.executable,
        "-m",
        f"tests.fuzz.{target}",
        f"-runs={runs}",
        "-seed=1",
        f"-artifact_prefix={tmp_path}/",
    ]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace", cwd=ROOT)
    crashes = [path.read_bytes()[:200] for path in tmp_path.iterdir()]
    assert done.returncode == 0, f"{crashes}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    done_runs = re.search(r"Done (\d+) runs", done.stderr)
    assert done_runs is not None and int(done_runs[1]) >= runs
    tally(f"fuzzed bytes: {target}", count=int(done_runs[1]))

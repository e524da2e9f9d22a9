"""What the service says of itself, read as its readers do: an agent's list of tools, a person's form, the platform."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from engine import Device, OptionError
from service.ivcap.description import EXAMPLE, service_from
from service.ivcap.parameters import ServiceRequest, build_service_request
from service.order import describe
from service.version import banner

Validator: Any = Draft202012Validator
"""Its types are partly unknown."""
ROOT = Path(__file__).parents[3]
# What the interfaces of language models take as names of tools and of their parameters.
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
PARAMETER_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def printed(argument: str) -> str:
    ended = subprocess.run(
        [sys.executable, ROOT / "service.py", argument],
        cwd=ROOT,
        env={"PATH": os.defpath},
        capture_output=True,
        check=True,
        text=True,
    )
    return ended.stdout


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return json.loads(printed("--print-tool-description"))


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    return json.loads(printed("--print-service-description"))


def test_an_agent_can_list_and_call_the_tool(tool: dict[str, Any]) -> None:
    assert tool["$schema"] == "urn:sd-core:schema.ai-tool.1"
    assert tool["service-id"] == "#SERVICE_ID#"
    assert TOOL_NAME.fullmatch(tool["name"])
    schema = tool["fn_schema"]
    Validator.check_schema(schema)
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["model"], False)
    assert [name for name in schema["properties"] if not PARAMETER_NAME.fullmatch(name)] == []
    # Clients of tools resolve no references, and many take no alternatives at the top.
    assert [word for word in ('"$ref"', '"$defs"') if word in json.dumps(schema)] == []
    assert {"anyOf", "oneOf", "allOf"}.isdisjoint(schema)
    signature = tool["fn_signature"]
    assert signature.startswith(
        "infer_with_paddle_paddle(model: str, image: str = None, images: str | list[str] = None"
    )
    assert signature.endswith(") -> JobResult")


def test_the_description_says_what_when_and_what_returns(tool: dict[str, Any], service: dict[str, Any]) -> None:
    what, when, returned, failing = tool["description"].split("\n\n")
    assert what.startswith("Segments")
    assert when.startswith("Use it")
    assert "pixels" in returned and "from 0 to 1" in returned
    assert "fails" in failing
    assert service["description"] == tool["description"]
    assert yaml.safe_load(printed("--ivcap:print-service-description"))["description"] == tool["description"]


def test_every_parameter_is_explained_typed_and_exemplified(tool: dict[str, Any]) -> None:
    properties = tool["fn_schema"]["properties"]
    assert set(properties) == {field.alias for field in ServiceRequest.model_fields.values()}
    titles = [each["title"] for each in properties.values()]
    assert len(set(titles)) == len(titles)
    for name, each in properties.items():
        assert re.fullmatch(r"[A-Zaf-].+\.", each["description"], re.DOTALL), name
        assert all("type" in alternative for alternative in each.get("anyOf", [each])), name
        for value in [*each["examples"], *([each["default"]] if "default" in each else [])]:
            Validator(each).validate(value)
        assert each["examples"], name


def test_the_request_of_the_service_is_that_of_the_tool(service: dict[str, Any], tool: dict[str, Any]) -> None:
    schema = service["request-schema"]
    Validator.check_schema(schema)
    marked = schema["properties"]["$schema"]
    assert marked["default"] == "urn:ibenthos:schema:paddle.seg.job-request.1"
    assert schema == {**tool["fn_schema"], "properties": {**tool["fn_schema"]["properties"], "$schema": marked}}


def test_every_field_of_the_result_is_explained(service: dict[str, Any]) -> None:
    result = service["result-schema"]
    fields = [field for each in (result, *result["$defs"].values()) for field in each.get("properties", {}).items()]
    assert {"mask", "cover", "failures", "total"} <= {name for name, _ in fields}
    assert [name for name, each in fields if not each.get("description")] == ["$schema"]


def test_the_example_is_a_request(tool: dict[str, Any]) -> None:
    example = tool["fn_schema"]["example"]
    assert example == EXAMPLE
    Validator(tool["fn_schema"]).validate(example)
    assert build_service_request(**example).report


@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [
        ("max-img-size", -2, -1),
        ("max-img-size", 0, 1),
        ("batch-size", 0, 1),
        ("min-subgraph-size", 0, 1),
        ("cpu-threads", 0, 1),
        ("threshold", 0, 0.001),
        ("threshold", 1, 0.999),
        ("device", "tpu", "cpu"),
        ("precision", "fp64", "fp32"),
        ("runtime", "torch", "paddle"),
        ("provider", "rocm", "cpu"),
        ("mask-size", "half", "inference"),
        ("shard", "0/4", "1/4"),
        ("shard", "1/0", "2/2"),
    ],
)
def test_the_limits_are_those_of_the_service(tool: dict[str, Any], name: str, refused: object, taken: object) -> None:
    property_of_tool = Validator(tool["fn_schema"]["properties"][name])
    assert not property_of_tool.is_valid(refused)
    with pytest.raises(OptionError, match=name):
        build_service_request(**{"model": "urn:m", "images": "urn:q", name: refused})
    assert property_of_tool.is_valid(taken)
    # It acts on TensorRT alone.
    needed = {"use-trt": True, "device": "gpu"} if name == "min-subgraph-size" else {}
    build_service_request(**{"model": "urn:m", "images": "urn:q", **needed, name: taken})


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of a container that refers to a variable without a value is empty."""
    needs = ("MEMORY", "CPU", "STORAGE", "GPU_TYPE")
    variables = ["PSEG_VERSION", "PSEG_COMMIT", "PSEG_BUILD_DATE", "PSEG_SERVICE_CONTACT", "PSEG_SERVICE_EMAIL"]
    variables += [f"PSEG_SERVICE_{name}" for name in needs]
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    expected = banner()
    empty = dict.fromkeys(variables, "")
    for name in empty:
        monkeypatch.setenv(name, "")
    assert banner() == expected
    for device in Device:
        of_device = {"PSEG_SERVICE_DEVICE": device.value}
        assert str(describe(of_device | empty)) == str(describe(of_device))
        assert service_from(empty, device) == service_from({}, device)

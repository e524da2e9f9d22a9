"""The JSON schemas of what is published: they are those of the models, and what does not have the form is refused."""

import json
from typing import Any

import pytest

from demo.schemas import FOLDER, text_of
from service.ivcap.aspects import json_schemas
from service.ivcap.publishing import COLLECTION_ITEM_SCHEMA, SCALAR_SCHEMA
from tests.published import problem_of

SCALAR = {
    "$schema": SCALAR_SCHEMA,
    "image": "urn:ivcap:artifact:1",
    "name": "q7.jpg",
    "model": "urn:ivcap:artifact:2",
    "order": "urn:ivcap:order:3",
    "width": 24,
    "height": 16,
    "cover": 0.5,
}


def test_the_files_are_those_of_the_models() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert written == {name: text_of(schema) for name, schema in json_schemas().items()}, (
        "the models of what is published have changed: run `make schemas`, and say so in CHANGELOG.md"
    )


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"cover": 1.5}, "$.cover"),
        ({"width": 0}, "$.width"),
        ({"image": "q7.jpg"}, "$.image"),
        ({"colour": "red"}, "$"),
        ({"latitude_deg": 91}, "$.latitude_deg"),
    ],
)
def test_what_does_not_have_the_form_is_found(changed: dict[str, Any], where: str) -> None:
    assert problem_of(SCALAR) is None
    problem = problem_of({**SCALAR, **changed})
    assert problem is not None
    assert f"{where}: " in problem


def test_what_is_missing_or_unknown_is_found() -> None:
    assert problem_of({"$schema": COLLECTION_ITEM_SCHEMA, "collection": "urn:a", "item": "urn:b"}) is not None
    assert problem_of({**SCALAR, "$schema": "urn:else"}) is not None


def test_the_example_of_the_description_is_a_request() -> None:
    schema = json.loads((FOLDER / "paddle.seg.job-request.1.json").read_text(encoding="utf-8"))
    assert schema["$id"] == "urn:ibenthos:schema:paddle.seg.job-request.1"
    job = {"$schema": schema["$id"], "model": "urn:ivcap:artifact:1", "image": "urn:ivcap:artifact:2", "median": 5}
    assert problem_of(job) is None
    assert problem_of({**job, "median": 4.5}) is not None

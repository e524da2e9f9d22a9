"""Holds what is published against the JSON schemas that lie in the repository, by a validator of its own."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
_Validator: Any = Draft202012Validator
"""Its types are partly unknown."""


@cache
def _validators() -> dict[str, Any]:
    schemas = [json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.iterdir()]
    return {schema["$id"]: _Validator(schema) for schema in schemas}


def problem_of(published: Mapping[str, Any]) -> str | None:
    """What does not fit the schema that something names; None: it fits. The entity is what a platform adds."""
    validator = _validators().get(published["$schema"])
    if validator is None:
        return f"{published['$schema']}: docs/schemas has no such schema"
    content = json.loads(json.dumps({name: value for name, value in published.items() if name != "$entity"}))
    problems = [f"{each.json_path}: {each.message[:300]}" for each in validator.iter_errors(content)]
    return f"{published['$schema']}: {'; '.join(problems)}" if problems else None

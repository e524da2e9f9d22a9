"""What pydantic refuses is told in the words of this project."""

import re
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError
from pydantic_core.core_schema import ErrorType

from engine.system.validation import fault_of

# What only a programmer can make wrong: objects and classes of Python, which no file and no request holds.
OF_PROGRAMS = {
    *("no_such_attribute", "needs_python_object", "get_attribute_error", "default_factory_not_called"),
    *(
        "iteration_error",
        "missing_sentinel_error",
        "ellipsis_error",
        "is_instance_of",
        "is_subclass_of",
        "callable_type",
    ),
}
CONTEXT: dict[str, Any] = {
    **dict.fromkeys(("error", "pattern", "expected", "class_name", "class", "tag", "encoding", "method_name"), "x"),
    **dict.fromkeys(("discriminator", "expected_tags", "expected_schemes", "attribute", "encoding_error"), "x"),
    **dict.fromkeys(("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length"), 3),
    **dict.fromkeys(("max_digits", "decimal_places", "whole_digits", "tz_expected", "tz_actual"), 3),
    "expected_version": 4,
    "field_type": "List",
}
JARGON = re.compile(
    r"Input|should|valid (string|integer|number|boolean|dict)|pars|instance|Python|\{|iterable", re.IGNORECASE
)


@pytest.mark.parametrize("kind", sorted({*get_args(ErrorType)} - OF_PROGRAMS))
def test_every_error_that_a_value_can_have_has_words(kind: Any) -> None:
    known = PydanticKnownError(kind, CONTEXT)
    told = fault_of({"type": kind, "ctx": known.context or {}})
    assert "of a type that is not taken" not in told
    assert not JARGON.search(told)
    assert told != known.message()


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        (int, "5x", "must be a whole number"),
        (int, 2.5, "must be a whole number"),
        (float, "much", "must be a number"),
        (dict[str, int], [], "must be a mapping of names to values"),
        (tuple[int, int], [1, 2, 3], "must have at most 2 entries"),
        (tuple[int, int], [1], "is required"),
    ],
)
def test_what_is_wrong_with_a_value(form: Any, value: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(form).validate_python(value)
    assert fault_of(caught.value.errors()[0]) == message

"""What is wrong with a value that a model of pydantic refuses, in the words of this project.

pydantic names types of Python and says that it was unable to parse. Whoever edits a file or sends a request knows
texts, numbers and lists.
"""

from collections.abc import Mapping
from typing import Any, Final

_KINDS: Final[Mapping[str, str]] = {
    "true or false": "bool_type bool_parsing",
    "a whole number": "int_type int_parsing int_from_float",
    "a whole number of fewer digits": "int_parsing_size",
    "a number": "float_type float_parsing decimal_type decimal_parsing fraction_type fraction_parsing complex_type "
    "complex_str_parsing",
    "a finite number": "finite_number",
    "a text": "string_type bytes_type",
    "a text of Unicode characters": "string_unicode bytes_invalid_encoding",
    "a text of ASCII characters": "string_not_ascii",
    "a list": "list_type tuple_type set_type frozen_set_type deque_type iterable_type named_tuple_type",
    "a list of texts or numbers": "set_item_not_hashable",
    "a mapping of names to values": "dict_type mapping_type model_type model_attributes_type dataclass_type "
    "dataclass_exact_type frozen_dict_type ordered_dict_type counter_type arguments_type",
    "null": "none_required",
    "JSON": "json_type",
    "a date (2026-03-14)": "date_type date_parsing date_from_datetime_parsing date_from_datetime_inexact",
    "a time (09:30)": "time_type time_parsing",
    "a date and time (2026-03-14T09:30:00Z)": "datetime_type datetime_parsing datetime_from_date_parsing "
    "datetime_object_invalid",
    "a duration (PT90S)": "time_delta_type time_delta_parsing",
    "in the past": "date_past datetime_past",
    "in the future": "date_future datetime_future",
    "a time without an offset from UTC": "timezone_naive",
    "a time with its offset from UTC": "timezone_aware",
    "a URL": "url_type url_parsing url_syntax_violation",
    "a UUID": "uuid_type uuid_parsing",
    "one name for each value": "multiple_argument_values",
}
"""What a value must be, and the types of errors that say so."""
_WORDS: Final[Mapping[str, str]] = {
    **{error: f"must be {kind}" for kind, errors in _KINDS.items() for error in errors.split()},
    **dict.fromkeys(
        ("missing", "missing_argument", "missing_keyword_only_argument", "missing_positional_only_argument"),
        "is required",
    ),
    **dict.fromkeys(
        ("extra_forbidden", "unexpected_keyword_argument", "unexpected_positional_argument"),
        "is unknown",
    ),
    **dict.fromkeys(("value_error", "assertion_error"), "{error}"),
    **dict.fromkeys(("enum", "literal_error"), "must be {expected}"),
    **dict.fromkeys(("frozen_field", "frozen_instance"), "cannot be changed"),
    **dict.fromkeys(("recursion_loop", "recursion_depth_exceeded"), "is nested too deeply"),
    "json_invalid": "is not JSON: {error}",
    "invalid_key": "must have a text as its name",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have the form {pattern}",
    "bytes_too_short": "must have at least {min_length} bytes",
    "bytes_too_long": "must have at most {max_length} bytes",
    "decimal_max_digits": "must have at most {max_digits} digits",
    "decimal_max_places": "must have at most {decimal_places} digits after the point",
    "decimal_whole_digits": "must have at most {whole_digits} digits before the point",
    "timezone_offset": "must have the offset {tz_expected} s from UTC",
    "union_tag_invalid": "must have one of {expected_tags} as its {discriminator}",
    "union_tag_not_found": "must state its {discriminator}",
    "url_too_long": "must have at most {max_length} characters",
    "url_scheme": "must begin with {expected_schemes}",
    "uuid_version": "must be a UUID of version {expected_version}",
}


def fault_of(error: Mapping[str, Any]) -> str:
    """Say what is wrong with a value.

    Args:
        error: one of `pydantic.ValidationError.errors`.

    Returns:
        What a name can be put before: "must be a whole number". The texts of this project's own checks, as they are.
    """
    return _WORDS.get(error["type"], "is of a type that is not taken here").format_map(error.get("ctx", {}))


def states_value(error: Mapping[str, Any]) -> bool:
    """Whether the error is about a value that was given, and not about one that is absent or has no place here."""
    return _WORDS.get(error["type"]) not in {"is required", "is unknown"}

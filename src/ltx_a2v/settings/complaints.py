"""pydantic's complaints, in words that follow a field and its value: `width 'a'` … `is not a whole number`."""

from __future__ import annotations

from pydantic_core import ErrorDetails

NOT_AN_INTEGER = "is not a whole number"
_COMPLAINTS = {
    "int_type": NOT_AN_INTEGER,
    "int_parsing": NOT_AN_INTEGER,
    "int_parsing_size": "is too large a number",
    "int_from_float": NOT_AN_INTEGER,
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "string_type": "is not text",
    "string_too_short": "is empty",
    "string_too_long": "is too long: it must have at most {max_length} characters",
    "path_type": "is not a path",
    "tuple_type": "is not a list of whole numbers",
    "bool_parsing": "is neither true nor false",
    "literal_error": "is none of {expected}",
    "model_type": "is not a Guidance",
    "greater_than_equal": "is too small: it must be at least {ge}",
    "less_than_equal": "is too large: it must be at most {le}",
    "less_than": "is too large: it must be below {lt}",
}
"""By pydantic's types of errors."""


def reason_of(complaint: ErrorDetails) -> str:
    """The reason of an `InvalidRequest`."""
    context = complaint.get("ctx", {})
    if complaint["type"] == "value_error":
        return str(context["error"])
    if complaint["type"] not in _COMPLAINTS:
        return complaint["msg"]
    limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
    return _COMPLAINTS[complaint["type"]].format(**limits)

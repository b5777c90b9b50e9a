"""What is wrong in a file that somebody wrote for an import, in words for people who know YAML but not Pydantic."""

from __future__ import annotations

from pydantic_core import ErrorDetails

_WORDS = {
    "missing": "is missing; add it",
    "extra_forbidden": "there is no such name here; correct or remove it",
    "string_pattern_mismatch": "{input}: write lower-case letters, digits and _, a letter first",
    "literal_error": "{input} is none of {expected}",
    "string_type": "{input} is no text; put it in quotation marks",
    "string_too_short": "empty; write at least {min_length} character",
    "string_too_long": "{input} is longer than {max_length} character",
    "int_type": "{input} is no whole number",
    "int_parsing": "{input} is no whole number",
    "int_from_float": "{input} is no whole number",
    "float_type": "{input} is no number",
    "float_parsing": "{input} is no number",
    "bool_type": "{input} is neither true nor false",
    "bool_parsing": "{input} is neither true nor false",
    "greater_than_equal": "{input} is less than {ge}",
    "less_than_equal": "{input} is more than {le}",
    "dict_type": "{input} is no section of names and values",
    "model_type": "{input} is no section of names and values",
    "model_attributes_type": "{input} is no section of names and values",
    "list_type": "{input} is no list",
    "tuple_type": "{input} is no list",
}
_LONGEST = 60


def in_plain_words(fault: ErrorDetails) -> str:
    """What is wrong with a value."""
    if fault["type"] == "value_error":
        return fault["msg"].removeprefix("Value error, ")
    if (words := _WORDS.get(fault["type"])) is None:
        return fault["msg"]
    shown = repr(fault["input"])
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
    return words.format_map({**fault.get("ctx", {}), "input": shown})

"""Reader and validator of the YAML files that people edit.

Each mistake is reported in one sentence with its file, line, key and fix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import ContractError
from core.yaml_reader import Document, UnreadableError, read_document

Contents = TypeVar("Contents", bound=BaseModel)

MAX_LINES = 20  # a screenful

_NAMES: Mapping[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text"}
_NEEDED = {
    "string_type": ("text", "Put it in quotes."),
    "int_type": ("a whole number", "Write digits, without quotes."),
    "int_from_float": ("a whole number", "Write digits, without quotes."),
    "int_parsing": ("a whole number", "Write digits, without quotes."),
    "float_type": ("a number", "Write digits and a decimal point, without quotes."),
    "float_parsing": ("a number", "Write digits and a decimal point, without quotes."),
    "bool_type": ("true or false", "Write true or false, without quotes."),
    "bool_parsing": ("true or false", "Write true or false, without quotes."),
    "list_type": ("a list", "Put it in brackets: [...]."),
    "tuple_type": ("a list", "Put it in brackets: [...]."),
    "dict_type": ("names with values", "Write each as `name: value`."),
    "model_type": ("names with values", "Write each as `name: value`."),
    "model_attributes_type": ("names with values", "Write each as `name: value`."),
}
_BOUNDS = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is shorter than {min_length} characters",
    "too_short": "has fewer than {min_length} entries",
    "too_long": "has more than {max_length} entries",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be one of {expected}",
    "finite_number": "is not a finite number",
}

_OTHERS = {
    "missing": "is missing. Add it.",
    "json_invalid": "holds text that is not Unicode. Write it without half a surrogate pair.",
}


def read_yaml(path: Path, contents: type[Contents], what: str) -> Contents:
    """Read and validate a file; errors call it `what`.

    Values are not converted: true is not 1, and a number in quotes is text.

    Raises: ContractError that names the file and every mistake in it, each with its line.
    """
    try:
        document = read_document(path)
    except UnreadableError as error:
        place = _place(error.line, error.place)
        raise ContractError(f"{path.name} is not a valid {what} file: {place}{error.what}") from None
    except FileNotFoundError:
        raise ContractError(
            f"{path.name} does not exist in {path.parent}/. Set WINBACK_CONFIG to the folder of the configuration."
        ) from None
    except OSError as error:
        raise ContractError(
            f"{path.name} is not a valid {what} file: it cannot be read ({error.strerror}). Check its permissions."
        ) from None
    try:
        # By way of JSON, because strict mode then accepts a list for a tuple and converts nothing else.
        return contents.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        lines = [_line(each, document, contents) for each in error.errors(include_url=False)]
        if len(lines) > MAX_LINES:
            lines = [*lines[: MAX_LINES - 1], f"... and {len(lines) - MAX_LINES + 1} more"]
        raise ContractError(
            f"{path.name} is not a valid {what} file:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def read_optional_yaml(path: Path, contents: type[Contents], what: str) -> Contents | None:
    """Read a file that may be absent; returns None if it is.

    Raises: ContractError as read_yaml does, and if the file ends in .yaml, because it would be ignored.
    """
    other = path.with_suffix(".yaml")
    if not path.exists() and not path.is_symlink():
        if other.exists():
            raise ContractError(f"{other.name} is not read: the file is called {path.name}. Rename it.")
        return None
    return read_yaml(path, contents, what)


def _line(error: ErrorDetails, document: Document, contents: type[BaseModel]) -> str:
    """Return `line 3, voucher.valid_days: must be 1 or more. Correct it.`; a validator may give a deeper place as ctx `at`."""
    context = error.get("ctx", {})
    place = (*error["loc"], *context.get("at", ()))
    return _place(document.line_of(place), place or ("the whole",)) + _sentence(error, context, contents)


def _place(line: int | None, place: Sequence[str | int]) -> str:
    words = [f"line {line}"] if line else []
    words += [".".join(map(str, place))] if place else []
    return f"{', '.join(words)}: " if words else ""


def _sentence(error: ErrorDetails, context: Mapping[str, Any], contents: type[BaseModel]) -> str:
    kind, given = error["type"], error["input"]
    if kind == "string_type" and isinstance(given, bool):
        return "YAML reads it as true or false, and text is needed. Put it in quotes."
    if kind in _NEEDED:
        needed, fix = _NEEDED[kind]
        found = (
            "empty" if given is None else _NAMES.get(type(given), "a list" if isinstance(given, list) else "a mapping")
        )
        return f"is {found}, and {needed} is needed. {fix}"
    if kind in _BOUNDS:
        return f"{_BOUNDS[kind].format(**context)}. Correct it."
    if kind == "extra_forbidden":
        near = get_close_matches(str(error["loc"][-1]), contents.model_fields, n=1) if len(error["loc"]) == 1 else []
        return (
            f"this key does not exist; did you mean {near[0]}?"
            if near
            else "this key does not exist. Remove or rename it."
        )
    return _OTHERS.get(kind) or error["msg"].removeprefix("Value error, ")

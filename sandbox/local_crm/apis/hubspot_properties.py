"""Properties of the local CRM's HubSpot, and the conversion of the texts sent for them.

HubSpot receives text, but the pages and segments of the local CRM compare numbers, flags and lists. The definitions set the type.
"""

import json
import math
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

ID_PROPERTY = "winback_user_id"
_MADE_BEFORE = {
    ID_PROPERTY: ("string", "text"),
    "churn_probability": ("number", "number"),
    "churn_risk_band": ("string", "text"),
    "churn_reasons": ("string", "textarea"),
    "churn_scored_at": ("datetime", "date"),
    "churn_model_version": ("string", "text"),
    "voucher_eligible": ("bool", "booleancheckbox"),
    "voucher_reason": ("string", "text"),
    "voucher_valid_until": ("datetime", "date"),
    "experiment_arm": ("string", "text"),
}
_FIELD_TYPES = {
    "string": {"text", "textarea", "html", "phonenumber", "file"},
    "number": {"number", "calculation_equation"},
    "bool": {"booleancheckbox", "calculation_equation"},
    "enumeration": {"select", "radio", "checkbox", "booleancheckbox"},
    "datetime": {"date"},
    "date": {"date"},
}
# Several phrases separated by semicolons: `winback doctor` asks for this type for a list, and HubSpot's multiple choice uses it.
_LISTS = {"textarea", "checkbox"}
_OPTIONS = [{"label": text.capitalize(), "value": text, "hidden": False} for text in ("true", "false")]


class InvalidError(Exception):
    """An error in an input, with HubSpot's message."""

    def __init__(self, text: str, *, context: Mapping[str, list[str]] | None = None, is_conflict: bool = False) -> None:
        super().__init__(text)
        self.text, self.context, self.is_conflict = text, context, is_conflict


class Properties:
    """Property definitions by name. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, dict[str, Any]] = {}
        self.make(
            {
                "name": name,
                "label": name.replace("_", " ").capitalize(),
                "groupName": "contactinformation",
                "type": type_,
                "fieldType": field_type,
                "hasUniqueValue": name == ID_PROPERTY,
                "options": _OPTIONS if type_ == "bool" else [],
            }
            for name, (type_, field_type) in _MADE_BEFORE.items()
        )

    def all(self) -> list[dict[str, Any]]:
        """Return every definition."""
        with self._lock:
            return list(self._by_name.values())

    def make(self, definitions: Iterable[Any]) -> list[dict[str, Any]]:
        """Add definitions, all or none, and return them as HubSpot lists them. Raises InvalidError."""
        made = {}
        with self._lock:
            for each in definitions:
                wrong = _wrong(each)
                if wrong:
                    raise InvalidError(wrong)
                if each["name"] in self._by_name or each["name"] in made:
                    raise InvalidError(f'A property named "{each["name"]}" already exists.', is_conflict=True)
                made[each["name"]] = {
                    "description": "",
                    "options": [],
                    "hasUniqueValue": False,
                    "calculated": False,
                    "hubspotDefined": False,
                    "modificationMetadata": {"archivable": True, "readOnlyDefinition": False, "readOnlyValue": False},
                    **each,
                }
            self._by_name |= made
        return list(made.values())

    def remove(self, name: str) -> bool:
        """Remove a definition; return whether it existed."""
        with self._lock:
            return self._by_name.pop(name, None) is not None

    def check_id(self, name: str) -> None:
        """Raise InvalidError when contacts cannot be looked up by this property."""
        definition = self._by_name.get(name)
        if definition is None:
            raise _invalid("PROPERTY_DOESNT_EXIST", name, f'Property "{name}" does not exist')
        if not definition["hasUniqueValue"]:
            raise InvalidError(f"Unable to perform update/upsert by non-unique 0-1 property {name} in portal ID 1")

    def read(self, texts: Mapping[str, str]) -> dict[str, object]:
        """Return the values of these texts; None if a text clears its property. Raises InvalidError.

        The identifying property is left out, because it is not an attribute.
        """
        values: dict[str, object] = {}
        for name, text in texts.items():
            definition = self._by_name.get(name)
            if definition is None:
                raise _invalid("PROPERTY_DOESNT_EXIST", name, f'Property "{name}" does not exist')
            if not definition["hasUniqueValue"]:
                values[name] = None if text == "" else _value(name, text, definition)
        return values


def _value(name: str, text: str, definition: Mapping[str, Any]) -> object:
    type_, field_type = definition["type"], definition["fieldType"]
    if type_ == "number":
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _invalid("INVALID_INTEGER", name, f"{text} was not a valid number.")
        return value
    if type_ == "datetime" and not _is_time(text):
        raise _invalid("INVALID_DATE", name, f"{text} was not a valid date.")
    chosen = text.split(";") if field_type in _LISTS else [text]
    options = [option["value"] for option in definition["options"]]
    if options and not set(chosen) <= set(options):
        raise _invalid("INVALID_OPTION", name, f"{text} was not one of the allowed options: {options}")
    if field_type == "booleancheckbox":
        return text == "true"
    return chosen if field_type in _LISTS else text


def _is_time(text: str) -> bool:
    """Whether the text is ISO 8601 or milliseconds since 1970."""
    try:
        return text.isdigit() or datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _invalid(code: str, name: str, text: str) -> InvalidError:
    """HubSpot puts the invalid values into its message, as JSON."""
    said = {
        "isValid": False,
        "message": text,
        "error": code,
        "name": name,
        "localizedErrorMessage": text,
        "portalId": 1,
    }
    return InvalidError(
        f"Property values were not valid: {json.dumps([said], separators=(',', ':'), ensure_ascii=False)}"
    )


def _wrong(definition: Any) -> str | None:
    """Return what is wrong with a definition, or None."""
    if not isinstance(definition, dict):
        return "each input must be an object"
    needed = ("name", "label", "groupName", "type", "fieldType")
    missing = [key for key in needed if not isinstance(definition.get(key), str) or not definition[key]]
    if missing:
        return f"Required fields are missing: {', '.join(missing)}"
    if not definition["name"].isascii() or definition["name"] != definition["name"].lower():
        return "A property's name must be in lower case"
    if definition["fieldType"] not in _FIELD_TYPES.get(definition["type"], ()):
        return f"{definition['type']} has no field type {definition['fieldType']}"
    options = definition.get("options", [])
    if definition["type"] == "bool" and {option.get("value") for option in options} != {"true", "false"}:
        return "Boolean properties must have exactly two options: true and false"
    return None

"""Checks of the fields that a Salesforce object needs, and the request that creates missing ones.

The checks read the object's description, which shows a key only the fields that it may read:
https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_sobject_describe.htm
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from crm_sync.destination import Finding
from crm_sync.field_mapping import Kind

# A letter first, no underscore last, no two in a row. Custom fields have a suffix, and a namespace if they came in a package.
_WORD = r"[A-Za-z](?:_?[A-Za-z0-9])*"
NAME = rf"(?:(?:[A-Za-z][A-Za-z0-9]{{0,14}}__)?{_WORD}__p?c|{_WORD})"
MIN_SCALE = 4  # decimals of a probability as sent

_TYPES: dict[Kind, set[str]] = {
    "number": {"double"},
    "text": {"string", "textarea", "picklist", "combobox"},
    "flag": {"boolean"},
    "time": {"datetime"},
    "texts": {"multipicklist", "string", "textarea"},
}
_MAKES: dict[Kind, dict[str, object]] = {
    "number": {"type": "Number", "precision": 18, "scale": MIN_SCALE},
    "text": {"type": "Text", "length": 255},
    "flag": {"type": "Checkbox", "defaultValue": "false"},
    "time": {"type": "DateTime"},
    "texts": {"type": "Text", "length": 255},
}
_ID_MAKES = {"type": "Text", "length": 255, "externalId": True, "unique": True, "caseSensitive": True}
_GRANT = (
    "Create them, then allow the key's user to read and edit them in a permission set: at first no user may use a new field. "
    "Creating them needs the token of a user with the permission Customize Application."
)


def judged(
    body: Any, properties: Mapping[str, Kind], object_name: str, id_field: str, api_version: str
) -> list[Finding]:
    """Compare an object's description with the expected fields."""
    fields = _fields(body)
    if fields is None:
        return [Finding("failed", f"Salesforce described {object_name} in an unknown shape")]
    if body.get("createable") is not True or body.get("updateable") is not True:
        do = (f"Give the key's user read, create, edit and delete on {object_name}.",)
        return [Finding("failed", f"The key may not create and edit {object_name}", do)]
    make = _Maker(object_name, api_version)
    findings = [_external_id(fields.get(id_field.lower()), id_field, make), _properties(fields, properties, make)]
    if id_field.lower() in {name.lower() for name in properties}:
        findings.append(
            Finding("failed", f"crm_fields.yml writes to {id_field}, which identifies the user in Salesforce")
        )
    choices = [name for name in properties if _field(fields, name).get("restrictedPicklist") is True]
    if choices:
        text = "These fields accept only their listed values; a user with another value is rejected"
        findings.append(Finding("warning", f"{text}: {', '.join(choices)}"))
    needed = [
        str(field.get("name"))
        for name, field in fields.items()
        if name != id_field.lower()
        and field.get("createable") is True
        and field.get("nillable") is False
        and field.get("defaultedOnCreate") is False
    ]
    if needed:
        says = (
            f"Salesforce does not create a {object_name} without {', '.join(needed)}, which winback does not send: new users "
            "are rejected with required_field_missing"
        )
        do = (
            f"Fill {id_field} for existing users, or let winback write to an object of its own: object in config/crm.yml.",
        )
        findings.append(Finding("warning", says, do))
    return findings


def usage(header: str) -> list[Finding]:
    """Read the org's requests in 24 hours from Sforce-Limit-Info. All clients of the org share them."""
    found = re.match(r"api-usage=(\d{1,15})/(\d{1,15})", header)
    if not found:
        return []
    used, granted = int(found[1]), int(found[2])
    is_short = used >= 0.9 * granted
    return [
        Finding(
            "warning" if is_short else "ok", f"The org has used {used:,} of its {granted:,} API requests in 24 hours"
        )
    ]


def _external_id(field: Mapping[str, Any] | None, name: str, make: _Maker) -> Finding:
    if field is None:
        says = f"{make.object_name} has no field {name} that this key may see"
        return Finding("failed", says, (_GRANT, make.command(name, _ID_MAKES)))
    wants = {
        "externalId": "an external id",
        "unique": "unique",
        "caseSensitive": "case-sensitive",
        "createable": "writable",
    }
    lacks = [words for flag, words in wants.items() if field.get(flag) is not True]
    if lacks:
        # If case were ignored, the users abc and ABC would be one record.
        do = (f"In Salesforce, under Object Manager, {make.object_name}, Fields, correct {name}: {', '.join(lacks)}.",)
        return Finding("failed", f"{name} is not {', '.join(lacks)}", do)
    return Finding("ok", f"{name} is a unique external id of {make.object_name}")


def _properties(fields: Mapping[str, Mapping[str, Any]], properties: Mapping[str, Kind], make: _Maker) -> Finding:
    absent = [name for name in properties if name.lower() not in fields]
    if absent:
        custom = [name for name in absent if name.endswith("__c")]
        do = [_GRANT, *(make.command(name, _MAKES[properties[name]]) for name in custom)] if custom else []
        if len(custom) < len(absent):
            do.insert(
                0, "The names of custom fields end in __c: map to such names, as in examples/salesforce/crm_fields.yml."
            )
        says = f"{make.object_name} lacks these fields, or the key may not see them: {', '.join(absent)}"
        return Finding("failed", says, tuple(do))
    wrong = [name for name, kind in properties.items() if not _fits(_field(fields, name), kind)]
    if wrong:
        do = [f"Correct the type or the permissions of these, or map to others. {_GRANT}"]
        wanted = [f"{name}: {_MAKES[properties[name]]['type']}" for name in wrong]
        says = f"winback cannot write to these fields of {make.object_name}: {', '.join(wrong)}"
        return Finding("failed", says, (*do, *wanted))
    return Finding("ok", f"{make.object_name} has all {len(properties)} fields with fitting types")


def _fits(field: Mapping[str, Any], kind: Kind) -> bool:
    is_writable = field.get("createable") is True and field.get("updateable") is True
    scale = field.get("scale")
    is_exact = kind != "number" or (isinstance(scale, int) and scale >= MIN_SCALE)
    return is_writable and field.get("type") in _TYPES[kind] and is_exact


class _Maker:
    """Builds commands that create fields with the Tooling API's CustomField."""

    def __init__(self, object_name: str, api_version: str) -> None:
        self.object_name = object_name
        self._path = f"/services/data/{api_version}/tooling/sobjects/CustomField"

    def command(self, name: str, makes: Mapping[str, object]) -> str:
        label = name.removesuffix("__c").replace("_", " ")
        body = {"FullName": f"{self.object_name}.{name}", "Metadata": {"label": label, **makes}}
        return (
            f'curl -sS -X POST "$WINBACK_CRM_URL{self._path}" -H "Authorization: Bearer $WINBACK_CRM_API_KEY" '
            f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )


def _fields(body: Any) -> dict[str, Mapping[str, Any]] | None:
    """The fields by name in lower case, because Salesforce ignores case."""
    listed = body.get("fields") if isinstance(body, dict) else None
    if not isinstance(listed, list) or not all(isinstance(field, dict) for field in listed):
        return None
    return {str(field.get("name")).lower(): field for field in listed}


def _field(fields: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return fields.get(name.lower(), {})

"""Checks of the properties that HubSpot needs before the first run, and the request that creates missing ones."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from crm_sync.destination import Finding
from crm_sync.field_mapping import Kind

# Types and field types in HubSpot that fit each kind of value. A missing property is created with the first pair.
_TYPES: Mapping[Kind, Sequence[tuple[str, str]]] = {
    "number": (("number", "number"),),
    "text": (("string", "text"), ("enumeration", "select"), ("enumeration", "radio")),
    "flag": (("bool", "booleancheckbox"), ("enumeration", "booleancheckbox")),
    "time": (("datetime", "date"),),
    "texts": (("string", "textarea"), ("enumeration", "checkbox")),
}


def judged(body: Any, properties: Mapping[str, Kind], id_property: str, create_url: str, group: str) -> list[Finding]:
    """Compare HubSpot's properties with the expected ones. For missing ones, add the request that creates them."""
    listed = body.get("results") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        return [Finding("skipped", "HubSpot listed its properties in an unknown shape")]
    found = {str(each.get("name")): each for each in listed if isinstance(each, dict)}
    findings: list[Finding] = []
    do: tuple[str, ...]
    if id_property in properties:
        findings.append(
            Finding("failed", f"crm_fields.yml writes to {id_property}, which identifies the user in HubSpot")
        )
    if id_property in found and not _identifies(found[id_property]):
        do = ("Create another text property with unique values, and set it as id_property in config/crm.yml.",)
        findings.append(Finding("failed", f"HubSpot's property {id_property} does not hold unique texts", do))
    wrong = [name for name, kind in properties.items() if name in found and not _takes(found[name], kind)]
    if wrong:
        do = (
            "In HubSpot, create others and map the fields to them: a property's type cannot change while it is in use.",
        )
        findings.append(Finding("failed", f"These properties have another type in HubSpot: {', '.join(wrong)}", do))
    closed = [
        name
        for name, kind in properties.items()
        if name in found and name not in wrong and kind != "flag" and found[name].get("type") == "enumeration"
    ]
    if closed:
        do = ("In HubSpot, check that every value is one of their options, or map the fields to text properties.",)
        findings.append(
            Finding("warning", f"HubSpot refuses values that are not an option of: {', '.join(closed)}", do)
        )
    missing = [name for name in dict.fromkeys((id_property, *properties)) if name not in found]
    if missing:
        inputs = {"inputs": [_made(name, properties.get(name, "text"), name == id_property, group) for name in missing]}
        do = (
            "Create them, with a key that has the scope crm.schemas.contacts.write:",
            f'curl -X POST {shlex.quote(create_url)} -H "Authorization: Bearer $WINBACK_CRM_API_KEY" '
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(inputs))}",
        )
        findings.append(Finding("failed", f"HubSpot lacks the properties {', '.join(missing)}", do))
    return findings or [
        Finding("ok", f"HubSpot has all {len(properties)} properties, and identifies users by {id_property}")
    ]


def _identifies(found: Mapping[str, Any]) -> bool:
    return found.get("hasUniqueValue") is True and found.get("type") == "string"


def _takes(found: Mapping[str, Any], kind: Kind) -> bool:
    """Whether our values fit the property: text of any form; flags only if the options are true and false."""
    metadata = found.get("modificationMetadata")
    if found.get("calculated") is True or (isinstance(metadata, dict) and metadata.get("readOnlyValue") is True):
        return False
    type_ = found.get("type")
    if type_ != "enumeration":
        return type_ == _TYPES[kind][0][0]
    listed = found.get("options")
    options = {each.get("value") for each in listed if isinstance(each, dict)} if isinstance(listed, list) else set()
    return (type_, found.get("fieldType")) in _TYPES[kind] and (kind != "flag" or {"true", "false"} <= options)


def _made(name: str, kind: Kind, is_id: bool, group: str) -> dict[str, Any]:
    """The definition of a property."""
    type_, field_type = _TYPES[kind][0]
    label = name.replace("_", " ").capitalize()
    definition: dict[str, Any] = {
        "name": name,
        "label": label,
        "groupName": group,
        "type": type_,
        "fieldType": field_type,
    }
    if kind == "flag":
        definition["options"] = [
            {"label": text.capitalize(), "value": text, "displayOrder": place, "hidden": False}
            for place, text in enumerate(("true", "false"))
        ]
    return definition | ({"hasUniqueValue": True} if is_id else {})

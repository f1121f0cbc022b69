"""Helpers for tests over all CRMs: connections, property names, and ids that are hard to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crm_sync.destination import Destination
from crm_sync.destinations.factory import ADAPTERS
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.diff import Change, Value
from crm_sync.field_mapping import load_fields
from tests.support.sync.builders import MAPPING

SALESFORCE_FIELDS = load_fields(Path(__file__).parents[3] / "examples/salesforce/crm_fields.yml")
# By the local CRM's name of a property, Salesforce's name.
OF_SALESFORCE = {target.property: SALESFORCE_FIELDS.fields[name].property for name, target in MAPPING.fields.items()}
ODD_IDS = [
    *("a/b", "a,b", "a;b", 'a"b', "a'b", "it's", 'quo"te', "a\\b", "\\u0041", "a\nb", "a\r\nb", " a ", " ", "..", "0", "null"),
    *("Zoë 漢", "😀", "=1+1", "a+b", "%41", "a?b=c&d#e%20", "a)&b#c", "<b>", "a" * 255),
]  # fmt: skip


def connected(name: str, url: str, key: str, **options: Any) -> Destination:
    """Connect to the CRM of this name, with its documented limits unless the options have others."""
    adapter = ADAPTERS[name]
    return adapter.connect(url, key, adapter.options.model_validate(options), RetryBudget(120.0))


def change(name: str, external_id: str, **attributes: Value) -> Change:
    """Return a change with the CRM's own property names, given those of config/crm_fields.yml."""
    names = OF_SALESFORCE if name == "salesforce" else {}
    return Change(external_id, {names.get(each, each): value for each, value in attributes.items()})

"""Reference page of the nine fields that leave the warehouse."""

from __future__ import annotations

from crm_sync.field_mapping import KINDS, METADATA_FIELDS, load_fields
from docgen.markdown import code, page, table
from docgen.schemas import CONFIG
from docgen.tables import tables

_TYPES = {"number": "number", "text": "text", "flag": "true or false", "time": "time, UTC", "texts": "list of texts"}


def fields_page() -> str:
    """Return the page."""
    mapping = load_fields(CONFIG / "crm_fields.yml")
    (profiles,) = [each for each in tables() if each.name == "crm_profiles"]
    meanings = {name: text for name, _, text in profiles.columns}
    rows = [
        (
            code(target.property),
            code(field),
            _TYPES[KINDS[field]],
            "yes" if target.clearable else "no",
            meanings[field],
        )
        for field, target in mapping.fields.items()
    ]
    return page(
        "CRM fields",
        "winback writes these nine fields to a profile in the CRM, and the external id that finds the profile.\n"
        "Nothing else leaves the warehouse: no name, e-mail address, income, age or marital status.",
        table(("property in the CRM", "column of `marts.crm_profiles`", "type", "clearable", "meaning"), rows),
        "`config/crm_fields.yml` maps columns to properties ([its keys](config/crm_fields.md)). Clearable: when the value is\n"
        "absent, winback removes the property; otherwise the CRM keeps what it has.",
        f"{' and '.join(map(code, METADATA_FIELDS))} are sent only together with another change.",
        "What marketing does with the fields is in [Fields and segments](../marketing/fields.md).",
    )

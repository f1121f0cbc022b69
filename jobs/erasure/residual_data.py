"""Notes on what remains of a user after an erasure, where, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

_BIGQUERY = (
    "BigQuery: deleted rows can be read by time travel for the time set on each dataset (2 to 7 days; the default is 7), and "
    "Google can restore them for 7 days more (fail-safe).",
    "BigQuery: winback does not delete from the app's own tables in raw. Delete the user there; no build reads the rows "
    "in the meantime.",
)
_DUCKDB = (
    "DuckDB: deleted rows can no longer be read, but their bytes stay in the file until winback compact "
    "has rewritten it.",
)
_CRMS = {
    "braze": "Braze: deletions are queued and irreversible; your own exports or logs may still contain the user.",
    "hubspot": "HubSpot: a GDPR deletion is complete within 30 days.",
    "klaviyo": "Klaviyo: a deletion is a job in Klaviyo; the profile may be visible until the job is done.",
    "salesforce": "Salesforce: a deleted record stays in the recycle bin for 15 days and can be restored from there.",
}
_EVERYWHERE = (
    "Backups, exports and logs made by others, and copies in developers' own datasets, are not deleted.",
    "Kept on purpose: a hash of the user's id in ops.erasures, because without it the next load would bring the user back. "
    "Counts, reports and models hold no rows of users.",
)


def stays(crm: str, *, is_bigquery: bool) -> list[str]:
    """Return the notes that apply to this CRM and this warehouse, for the person who answers the user."""
    return [*(_BIGQUERY if is_bigquery else _DUCKDB), _CRMS[crm], *_EVERYWHERE]


def in_former_crms(left: Mapping[str | None, datetime]) -> list[str]:
    """Return a note for each CRM that the tables do not serve any more, with the time of the change: winback cannot reach it."""
    return [
        f"{crm or 'The CRM before'}: served until {at:%Y-%m-%d}, may still hold the user, and winback erase does not reach it. "
        "Delete the user there."
        for crm, at in left.items()
    ]

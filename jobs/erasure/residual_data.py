"""What is left of a user after an erasure, where, and for how long?"""

from __future__ import annotations

_BIGQUERY = (
    "BigQuery: deleted rows can be read by time travel for as long as each dataset says (2 to 7 days, 7 unless set), and Google "
    "can restore them for 7 days more (fail-safe).",
    "BigQuery: the app's own tables in raw are not winback's to delete from. Delete the user there; until then no build reads "
    "the user's rows.",
)
_DUCKDB = (
    "DuckDB: deleted rows can no longer be read, but their bytes stay in the file until winback compact has "
    "written it anew.",
)
_CRMS = {
    "braze": "Braze: deletions are queued and irreversible; an export or a log of your own may still name the user.",
    "hubspot": "HubSpot: a GDPR deletion is complete within 30 days.",
    "klaviyo": "Klaviyo: a deletion is a job that Klaviyo works off; the profile may be seen until it has.",
    "salesforce": "Salesforce: a deleted record lies in the recycle bin for 15 days, from which it can be had back.",
}
_EVERYWHERE = (
    "Backups, exports and logs that others made of any of these, and copies in developers' own datasets, are not reached.",
    "Kept on purpose: a hash of the user's id in ops.erasures, without which the next load would bring the user back. Counts, "
    "reports and models hold no rows of anybody.",
)


def stays(crm: str, *, is_bigquery: bool) -> list[str]:
    """Sentences for whoever must answer the user, by the CRM and the warehouse in use."""
    return [*(_BIGQUERY if is_bigquery else _DUCKDB), _CRMS[crm], *_EVERYWHERE]

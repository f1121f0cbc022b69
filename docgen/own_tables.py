"""Descriptions of the tables that the job writes and dbt does not read."""

from __future__ import annotations

from collections.abc import Mapping

# By table: its grain, and the meaning of each column.
OWN: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "audits": (
        "One row per audit and compared table.",
        {
            "audit_id": "The audit.",
            "audited_at": "When the audit ran, UTC.",
            "audited_until": "The watermark up to which both sides were built, UTC.",
            "table_name": "The compared table.",
            "sample_percent": "Percentage of the users in the sample.",
            "count_users": "Users in the sample.",
            "count_rows": "Rows of the sample.",
            "count_rows_differing": "Rows that only one side has. 0 is expected.",
        },
    ),
    "nights": (
        "One row per nightly job. A run reads from it the time from which it must build again.",
        {
            "night_id": "The nightly job.",
            "rebuilt_at": "When the job ran, UTC.",
            "window_from": "Start of what it built again, UTC.",
            "window_until": "The watermark at that time, UTC.",
            "count_events_missed": "Raw rows that no run window had taken in.",
            "count_users_corrected": "Users with corrected rows: the largest count of the tables.",
            "first_missed_at": "When the first missed row was loaded, UTC.",
            "last_missed_at": "When the last missed row was loaded, UTC.",
            "build_from": "The time from which a build takes in all missed rows, UTC.",
        },
    ),
    "leases": (
        "One row per lease. The run that appends the next number has the lease.",
        {
            "lease": "The number: 0, 1, 2, ...",
            "run_id": "The run that holds it.",
            "taken_at": "When it was taken or renewed, UTC.",
            "expires_at": "Until when other runs wait, UTC.",
            "window_from": "Start of the holder's run window, UTC. What it left unfinished lies after it.",
            "is_released": "Whether the holder gave it back.",
        },
    ),
    "crms": (
        "One row per CRM that the warehouse has served, and per step of a switch to another one.",
        {
            "number": "The number: 0, 1, 2, ... Each row of ops.deliveries has the number of its CRM.",
            "crm": "Name and host of the CRM, never the key.",
            "adopted_at": "When the row was written, UTC.",
            "state_from": "Deliveries to CRMs with a lower number do not count as acknowledged.",
            "kind": "`first`; `replaced`: the CRM before had confirmed nothing; `moved`: the same CRM at another address; "
            "`forgetting`: a switch has begun; `switched`: it is complete.",
        },
    ),
    "migrations": (
        "One row per finished step of `winback migrate`. A missing step means that an earlier version made the warehouse.",
        {"step": "The step.", "migrated_at": "When it finished, UTC."},
    ),
}

"""Matches HubSpot's results to users, and detects two users that are the same contact there."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from crm_sync.destination import Outcome
from crm_sync.destinations.http.reply import Reply
from crm_sync.destinations.record_owners import COLLISION, RecordOwners
from crm_sync.diff import Change

_COLLIDES = "HubSpot answered with another user's contact, because it treats ids that differ only in case as one id"


def without_collisions(
    reply: Reply, batch: Sequence[Change], id_property: str, outcomes: Sequence[Outcome], owners: RecordOwners
) -> list[Outcome]:
    """Return the outcomes. A row is a collision if its contact was returned for another user before."""
    rows = {change.external_id: row for row, change in enumerate(batch)}
    contacts: dict[str, str] = {}
    for result in reply.body.get("results") or []:
        row, _ = _row_of(result, rows, id_property)
        if row is not None and isinstance(result.get("id"), str | int) and outcomes[row].kind == "delivered":
            contacts[batch[row].external_id] = str(result["id"])
    found = list(outcomes)
    for user in owners.collisions(contacts):
        found[rows[user]] = Outcome("rejected", reply.status, COLLISION, _COLLIDES)
    return found


def by_result(results: Sequence[Any], rows: Mapping[str, int], id_property: str, status: int) -> dict[int, Outcome]:
    """Return the outcomes of the rows that have a result. `rows` are the batch's rows by external id.

    A result whose user differs from the user of its trace id delivers nothing. HubSpot ignores case and surrounding blanks in
    ids, and ids may be equal after Unicode normalisation. Users whose ids differ only in that share one contact there, which
    each of them would overwrite.
    """
    users = list(rows)
    outcomes: dict[int, Outcome] = {}
    by_contact: dict[str, set[int]] = defaultdict(set)
    for result in results:
        row, user = _row_of(result, rows, id_property)
        if row is None:
            continue
        if user in (None, users[row]):
            outcomes.setdefault(row, Outcome("delivered", status))
        else:
            is_same_contact = _compared(str(user)) == _compared(users[row])
            outcomes[row] = Outcome("rejected" if is_same_contact else "deferred", status, COLLISION, _COLLIDES)
        if isinstance(result.get("id"), str | int):
            by_contact[str(result["id"])].add(row)
    shared = {row for of_contact in by_contact.values() if len(of_contact) > 1 for row in of_contact}
    return outcomes | dict.fromkeys(shared, Outcome("rejected", status, COLLISION, _COLLIDES))


def _compared(user: str) -> str:
    return unicodedata.normalize("NFC", user).strip().casefold()


def _row_of(result: Any, rows: Mapping[str, int], id_property: str) -> tuple[int | None, str | None]:
    """Return the row of a result, by its trace id or else by its user, and the user that the result names."""
    if not isinstance(result, dict):
        return None, None
    properties = result.get("properties")
    named = properties.get(id_property) if isinstance(properties, dict) else None
    user = None if named is None else str(named)
    trace = result.get("objectWriteTraceId")
    return (rows.get(user or "") if trace is None else traced(trace, rows)), user


def traced(trace: Any, rows: Mapping[str, int]) -> int | None:
    """Return the row of one of our trace ids, or None."""
    known = isinstance(trace, str) and trace.isascii() and trace.isdigit() and len(trace) < 9
    return int(trace) if known and int(trace) < len(rows) else None

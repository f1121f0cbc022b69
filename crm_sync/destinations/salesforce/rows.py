"""Rows for Salesforce as CSV, and the outcome of each row from the result files.

Outcomes come only from the result files, never from a job's counts. All rows share one set of columns, although each sends only
its changes: an empty cell leaves the field as it is, "#N/A" clears it. Salesforce has no empty text, so an empty text or list
clears the field too. The text "#N/A" itself cannot be sent, and no value of ours is that text.
https://developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/datafiles_prepare_csv.htm
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from core.errors import ContractError
from crm_sync.destination import MisconfiguredError, Outcome, UnavailableError
from crm_sync.destinations.http.reply import Reply
from crm_sync.destinations.meanings import Meaning, gravest, misconfigured
from crm_sync.destinations.record_owners import COLLISION, RecordOwners
from crm_sync.destinations.salesforce.errors import CODES, code_at_start, fault_of, objects
from crm_sync.diff import Change, Value
from crm_sync.redaction import redacted

SUCCESSES, FAILURES, UNPROCESSED = "successfulResults", "failedResults", "unprocessedrecords"
EMPTIED = "#N/A"
_UNCONFIRMED = Outcome("deferred", code="unconfirmed")
ID = re.compile(r"[A-Za-z0-9]{15,18}")
ID_LENGTH = 15  # what follows is a checksum
_COLLIDES = (
    "Salesforce answered with another user's record, because it may treat ids that differ only in case as one id"
)


def as_csv(batch: Sequence[Change], id_field: str) -> bytes:
    """Write the rows as CSV with every column that any of them changes, in UTF-8, with CRLF line ends."""
    columns = sorted({name for change in batch for name in change.attributes})
    out = io.StringIO(newline="")
    # CRLF, because the csv module quotes a cell only for the characters of its line end, and cells may hold either one.
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([id_field, *columns])
    for change in batch:
        said = change.attributes
        writer.writerow([change.external_id, *(cell(said[name]) if name in said else "" for name in columns)])
    return out.getvalue().encode()


def cell(value: Value) -> str:
    """A value as the text of a cell."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return format(Decimal(str(value)), "f")
    return (";".join(value) if isinstance(value, list) else value) or EMPTIED


def verdicts(
    batch: Sequence[Change], id_field: str, files: Mapping[str, str], owners: RecordOwners | None = None
) -> list[Outcome]:
    """Read the outcome of each row from the result files, by external id, because the files are not in order.

    A row in none of the files, or in two that contradict each other, is unconfirmed. A record that belongs to another user in
    `owners` is a collision: Salesforce ignores case in external ids unless the field is case-sensitive.

    Raises: UnavailableError for a file of another shape, MisconfiguredError if a row failed because a permission or a field was
    removed, which affects every row.
    """
    by_id = {change.external_id: change for change in batch}
    found: dict[str, set[Outcome]] = defaultdict(set)
    records: dict[str, str] = {}
    for kind, text in files.items():
        for row in _rows(text, id_field.lower()):
            if change := by_id.get(row[id_field.lower()]):
                found[change.external_id].add(outcome := _outcome(kind, row, change))
                if outcome.kind == "delivered":
                    records[change.external_id] = row["sf__id"][:ID_LENGTH]
    clear = {external_id: outcomes.pop() for external_id, outcomes in found.items() if len(outcomes) == 1}
    outcomes = [clear.get(change.external_id, _UNCONFIRMED) for change in batch]
    shared = (owners or RecordOwners()).collisions(records)
    outcomes = [
        Outcome("rejected", 200, COLLISION, _COLLIDES)
        if change.external_id in shared and outcome.kind == "delivered"
        else outcome
        for change, outcome in zip(batch, outcomes, strict=True)
    ]
    faults = {
        each.code or "" for each in outcomes if each.kind == "deferred" and CODES.get(each.code or "") == "person"
    }
    if faults:
        raise MisconfiguredError(misconfigured("Salesforce", faults), outcomes)
    return outcomes


def _outcome(kind: str, row: Mapping[str, str], change: Change) -> Outcome:
    if kind == SUCCESSES and ID.fullmatch(row.get("sf__id", "")):
        return Outcome("delivered", 200)
    if kind == FAILURES:
        error = row.get("sf__error", "")
        code, meaning = fault_of(code_at_start(error), error)
        values = (";".join(each) if isinstance(each, list) else str(each) for each in change.attributes.values())
        private = [" ".join(text.split()) for text in (change.external_id, *values)]
        is_at_fault = meaning not in ("later", "person")
        return Outcome("rejected" if is_at_fault else "deferred", 200, code, redacted(error, *private))
    return Outcome("deferred", 200, "unprocessed") if kind == UNPROCESSED else _UNCONFIRMED


def _rows(text: str, id_field: str) -> Iterator[dict[str, str]]:
    """The rows of a result file, with the header's names in lower case. An empty file has none."""
    try:
        # Some files begin with a byte order mark.
        lines = [line for line in csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True) if line]
    except csv.Error:
        lines = [["not", "CSV"]]
    header = [name.lower() for name in lines[0]] if lines else []
    is_one_each = id_field in header and len(set(header)) == len(header)
    if lines and not (is_one_each and all(len(line) == len(header) for line in lines)):
        raise UnavailableError("Salesforce answered with a result file of unknown shape.", "unknown_reply")
    return (dict(zip(header, line, strict=True)) for line in lines[1:])


def found(reply: Reply, field: str, external_id: str) -> list[str]:
    """The ids of the found records that belong exactly to this user. Salesforce may ignore case in queries.

    Raises: UnavailableError.
    """
    body = reply.body if isinstance(reply.body, dict) else {}
    records = body.get("records")
    if not isinstance(records, list) or body.get("done") is not True or not all(isinstance(r, dict) for r in records):
        raise UnavailableError("Salesforce answered a query in an unknown shape.", "unknown_reply")
    total = body.get("totalSize", len(records))
    if type(total) is not int or total != len(records):
        raise UnavailableError("Salesforce listed and counted different numbers of records.", "unknown_reply")
    # Salesforce stores texts without surrounding blanks.
    by_name = [{name.lower(): value for name, value in record.items()} for record in records]
    ids = [str(r.get("id")) for r in by_name if str(r.get(field.lower())).strip() == external_id.strip()]
    if not all(ID.fullmatch(each) for each in ids):
        raise UnavailableError("Salesforce answered a query with an unknown id.", "unknown_reply")
    return ids


def deleted(reply: Reply, count: int, external_id: str) -> Outcome:
    """Return the outcome of a deletion of `count` records.

    Raises: UnavailableError for an unknown shape, ContractError if a permission was removed.
    """
    results = reply.body if isinstance(reply.body, list) else []
    if len(results) != count or not all(isinstance(r, dict) and isinstance(r.get("success"), bool) for r in results):
        raise UnavailableError("Salesforce answered a deletion in an unknown shape.", "unknown_reply")
    errors = [error for result in results if not result["success"] for error in objects(result.get("errors")) or [{}]]
    found = [(*_fault_of(error), error) for error in errors]
    faults = {
        meaning or "rows": (code, error) for code, meaning, error in reversed(found) if code != "entity_is_deleted"
    }
    if not faults:
        return Outcome("delivered", reply.status)
    gravest_of = gravest(faults)
    code, error = faults[gravest_of or "rows"]
    if gravest_of == "person":
        raise ContractError(f"Salesforce does not delete: {code}. Run winback doctor")
    kind: Literal["deferred", "rejected"] = "deferred" if gravest_of == "later" else "rejected"
    return Outcome(kind, reply.status, code, redacted(error.get("message", ""), external_id) or None)


def _fault_of(error: Mapping[str, Any]) -> tuple[str, Meaning | None]:
    return fault_of(code_at_start(error.get("statusCode", "")), str(error.get("message", "")))

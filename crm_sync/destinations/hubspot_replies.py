"""What does HubSpot say of each row, of the limit, and of a refusal? Pure functions of a reply.

The fields of its errors are all optional: https://developers.hubspot.com/docs/api-reference/error-handling. What of it is not
understood is no success for any row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from crm_sync.changes import Change
from crm_sync.destination import BatchRefusedError, Outcome, UnavailableError
from crm_sync.destinations.pacing import Heard
from crm_sync.destinations.replies import Reply, asked_wait, number
from crm_sync.redaction import redacted

LOCKED, LOCK_SECONDS = 423, 2.0  # how long a lock lasts, by the page above
UNKNOWN = "unknown_error"
MAX_NAMES = 3
_CODE = re.compile(r"[A-Z][A-Z_]{1,59}")
_QUOTED_CODE = re.compile(r'"error":\s*"(\w+)"')
_QUOTE = re.compile(r"""[\[{"'`<“]""")


def verdicts(reply: Reply, batch: Sequence[Change], id_property: str) -> list[Outcome]:
    """Read HubSpot's word for each row: rejected where there is an error, even beside a result; deferred where there is neither.

    Raises: BatchRefusedError for an error that does not say which of several rows it is about: halving finds it, at the price of
    sending the others again, to the same effect. UnavailableError for an unknown shape.
    """
    body = reply.body if isinstance(reply.body, dict) else {}
    results, errors = body.get("results"), body.get("errors")
    if not all(part is None or isinstance(part, list) for part in (results, errors)) or results is errors is None:
        raise UnavailableError(f"HubSpot answered HTTP {reply.status} in an unknown shape.", "unknown_reply")
    outcomes = [Outcome("deferred", reply.status, "unconfirmed")] * len(batch)
    rows = {change.external_id: row for row, change in enumerate(batch)}
    if body.get("status") in (None, "COMPLETE"):
        for result in results or []:
            if (row := _row_of(result, rows, id_property)) is not None:
                outcomes[row] = Outcome("delivered", reply.status)
    for error in errors or []:
        told = _rows_of(error, rows) or set(range(len(batch)) if len(batch) == 1 else ())
        verdict = _refused(error, reply.status, [batch[row] for row in told] or batch)
        if not told and verdict.kind == "rejected":
            raise BatchRefusedError(reply.status, verdict.code or UNKNOWN, verdict.reason)
        for row in told:
            outcomes[row] = outcomes[row] if outcomes[row].kind == "rejected" else verdict
    return outcomes


def _row_of(result: Any, rows: Mapping[str, int], id_property: str) -> int | None:
    """The row that a result is about: by its trace id, else by its user; None where it names none, or two."""
    if not isinstance(result, dict):
        return None
    properties = result.get("properties")
    by_user = rows.get(str(properties.get(id_property))) if isinstance(properties, dict) else None
    trace = result.get("objectWriteTraceId")
    if trace is None:
        return by_user
    by_trace = _traced(trace, rows)
    return by_trace if by_user in (None, by_trace) else None


def _rows_of(error: Any, rows: Mapping[str, int]) -> set[int]:
    """The rows that an error is about: by the trace ids, else the ids, in its context."""
    context = error.get("context") if isinstance(error, dict) else None
    if not isinstance(context, dict):
        return set()
    traced = {_traced(trace, rows) for trace in _listed(context.get("objectWriteTraceId"))} - {None}
    named = {rows.get(str(each)) for key in ("ids", "id") for each in _listed(context.get(key))} - {None}
    return {row for row in traced or named if row is not None}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _traced(trace: Any, rows: Mapping[str, int]) -> int | None:
    known = isinstance(trace, str) and trace.isascii() and trace.isdigit() and len(trace) < 9
    return int(trace) if known and int(trace) < len(rows) else None


def _refused(error: Any, status: int, about: Sequence[Change]) -> Outcome:
    said = error if isinstance(error, dict) else {}
    of = str(said.get("status", ""))
    if said.get("category") == "RATE_LIMITS" or of == "429":
        return Outcome("deferred", status, "throttled")
    if of.isdigit() and of.startswith("5"):
        return Outcome("deferred", status, "unavailable")
    reason = without_users(_sentence(said), about)
    blamed = [name for name in about[0].attributes if f'"name":"{name}"' in str(said.get("message"))][:MAX_NAMES]
    return Outcome(
        "rejected", status, _code(said) or UNKNOWN, ": ".join(filter(None, (reason, ", ".join(blamed)))) or None
    )


def without_users(sentence: str | None, about: Sequence[Change]) -> str | None:
    """A sentence of HubSpot's without the ids and texts of those it may be about."""
    values = [value for change in about for value in change.attributes.values()]
    texts = [text for value in values for text in _listed(value) if isinstance(text, str)]
    return redacted(sentence, *(change.external_id for change in about), *texts) if sentence else None


def _code(body: Mapping[str, Any]) -> str | None:
    """The most exact code that an error of HubSpot's has. Never words of its sentence: they may be a user's."""
    details = [each for each in _listed(body.get("errors")) if isinstance(each, dict)]
    quoted = _QUOTED_CODE.search(str(body.get("message")))
    of_details = [each.get("code") for each in details]
    codes = [*of_details, quoted and quoted[1], body.get("subCategory"), body.get("category")]
    return next((code.lower() for code in codes if isinstance(code, str) and _CODE.fullmatch(code)), None)


def _sentence(body: Mapping[str, Any]) -> str | None:
    """Its sentence up to where it begins to quote: what follows is JSON that holds values."""
    message = body.get("message")
    return redacted(_QUOTE.split(message)[0].rstrip(" :")) if isinstance(message, str) else None


def refusal(reply: Reply) -> tuple[str, str | None]:
    """The code and the redacted sentence of a 4xx."""
    if not isinstance(reply.body, dict):
        return f"http_{reply.status}", None
    if "by non-unique" in str(reply.body.get("message")):
        return "id_property_not_unique", _sentence(reply.body)
    return _code(reply.body) or f"http_{reply.status}", _sentence(reply.body)


def heard(reply: Reply, window_seconds: float | None = 10) -> Heard:
    """What HubSpot's headers say of the limit that counts in a window so long, and how long a 429 asks to wait.

    Only the body names the limit exceeded, and Retry-After is not promised: a limit per second is waited out, one per ten seconds
    too, one per day is not.
    """
    asked = asked_wait(reply)
    interval = number(reply, "x-hubspot-ratelimit-interval-milliseconds")
    is_ours = interval is None or window_seconds is None or interval == window_seconds * 1000
    limit, remaining = (
        number(reply, f"x-hubspot-ratelimit-{name}") if is_ours else None for name in ("max", "remaining")
    )
    if reply.status == LOCKED:
        return Heard(max(asked or 0, LOCK_SECONDS), limit, remaining)
    if reply.status != 429:
        return Heard(asked, limit, remaining)
    policy = _policy(reply)
    is_spent = policy == "DAILY" or (not policy and number(reply, "x-hubspot-ratelimit-daily-remaining") == 0)
    by_policy = 1.0 if policy == "SECONDLY" else (interval or 10_000) / 1000
    return Heard(asked if asked and asked > 0 else by_policy, limit, remaining, is_spent)


def _policy(reply: Reply) -> str:
    try:
        body = json.loads(reply.text)
    except (ValueError, RecursionError):
        return ""
    return str(body.get("policyName", "")).upper() if isinstance(body, dict) else ""

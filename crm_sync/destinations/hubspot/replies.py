"""Parser of HubSpot's replies: outcomes of rows, limits and refusals. Pure functions.

All fields of its errors are optional: https://developers.hubspot.com/docs/api-reference/error-handling. A part of a reply that
cannot be parsed does not count as a success for any row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from crm_sync.destination import BatchRefusedError, MisconfiguredError, Outcome, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimitInfo
from crm_sync.destinations.http.reply import Reply, number, retry_after
from crm_sync.destinations.hubspot.contacts import by_result, traced
from crm_sync.destinations.meanings import Meaning, gravest, meaning_of_code, meaning_of_row, misconfigured, why_later
from crm_sync.diff import Change
from crm_sync.redaction import redacted

LOCKED, LOCK_SECONDS = 423, 2.0  # duration of a lock, from the page above
MOVING = 477  # the account is being moved to another data centre, for up to a day
UNKNOWN = "unknown_error"
MAX_NAMES = 3
OF_PROPERTIES = frozenset(
    {"id_property_not_unique", "property_archived", "property_doesnt_exist", "property_not_found", "read_only_value"}
)
# HubSpot's categories and the codes in its sentences. An unlisted code without a word for a temporary fault is about a row.
CODES: Mapping[str, Meaning] = {
    "rate_limits": "later",
    "request_timeout": "later",
    # These would affect every user.
    "banned": "person",
    "expired_authentication": "person",
    "id_property_not_unique": "person",
    "invalid_authentication": "person",
    "missing_scopes": "person",
    "object_type_not_found": "person",
    "property_archived": "person",
    "property_doesnt_exist": "person",
    "property_not_found": "person",
    "read_only_value": "person",
}
_NOT_UNIQUE = "by non-unique"
_CODE = re.compile(r"[A-Z][A-Z_]{1,59}")
_QUOTED_CODE = re.compile(r'"error":\s*"(\w+)"')
_QUOTE = re.compile(r"""[\[{"'`<“]""")


def verdicts(reply: Reply, batch: Sequence[Change], id_property: str) -> list[Outcome]:
    """Read the outcome of each row: rejected if it has an error, even with a result too; deferred if it has neither.

    Raises: BatchRefusedError for an error that does not name its row among several. Halving finds the row; the others are sent
    again with the same effect. MisconfiguredError if an error is about the account's configuration. UnavailableError for an
    unknown shape.
    """
    body = reply.body if isinstance(reply.body, dict) else {}
    results, errors = body.get("results"), body.get("errors")
    if not all(part is None or isinstance(part, list) for part in (results, errors)) or results is errors is None:
        raise UnavailableError(f"HubSpot answered HTTP {reply.status} in an unknown shape.", "unknown_reply")
    unconfirmed = Outcome("deferred", reply.status, "unconfirmed")
    outcomes = [unconfirmed] * len(batch)
    rows = {change.external_id: row for row, change in enumerate(batch)}
    if body.get("status") in (None, "COMPLETE"):
        for row, outcome in by_result(results or [], rows, id_property, reply.status).items():
            outcomes[row] = outcome
    faults: set[str] = set()
    for error in errors or []:
        told = _rows_of(error, rows) or set(range(len(batch)) if len(batch) == 1 else ())
        meaning, verdict = _refused(error, reply.status, [batch[row] for row in told] or batch)
        if meaning == "person":
            faults.add(verdict.code or UNKNOWN)
        elif not told and meaning == "rows":
            raise BatchRefusedError(reply.status, verdict.code or UNKNOWN, verdict.reason)
        for row in told:
            is_final = outcomes[row].kind == "rejected" or outcomes[row].code in faults
            outcomes[row] = outcomes[row] if is_final and meaning != "person" else verdict
    if faults:
        raise MisconfiguredError(misconfigured("HubSpot", faults), outcomes)
    unnamed = _count(body.get("numErrors")) - len(errors or [])
    if unnamed > sum(outcome.code == "unconfirmed" for outcome in outcomes):
        # More errors than rows without a result: which of the results is wrong cannot be known.
        return [unconfirmed if outcome.kind == "delivered" else outcome for outcome in outcomes]
    return outcomes


def _count(value: Any) -> int:
    return value if type(value) is int else 0


def _rows_of(error: Any, rows: Mapping[str, int]) -> set[int]:
    """The rows of an error, by the trace ids in its context, else by the ids there."""
    context = error.get("context") if isinstance(error, dict) else None
    if not isinstance(context, dict):
        return set()
    by_trace = {traced(trace, rows) for trace in _listed(context.get("objectWriteTraceId"))} - {None}
    named = {rows.get(str(each)) for key in ("ids", "id") for each in _listed(context.get(key))} - {None}
    return {row for row in by_trace or named if row is not None}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _refused(error: Any, status: int, about: Sequence[Change]) -> tuple[Meaning, Outcome]:
    """The meaning of an error, and the outcome of its rows."""
    said = error if isinstance(error, dict) else {}
    meaning = meaning_of_error(said)
    if meaning == "later":
        return meaning, Outcome("deferred", status, _why_later(said))
    reason = without_users(_sentence(said), about)
    blamed = [
        name for change in about[:1] for name in change.attributes if f'"name":"{name}"' in str(said.get("message"))
    ][:MAX_NAMES]
    kind: Literal["deferred", "rejected"] = "deferred" if meaning == "person" else "rejected"
    words = ": ".join(filter(None, (reason, ", ".join(blamed)))) or None
    return meaning, Outcome(kind, status, _code(said) or UNKNOWN, words)


def meaning_of_error(said: Mapping[str, Any]) -> Meaning:
    """Return the meaning of a row's error, from its codes, else from its status."""
    return meaning_of_row(_codes(said), CODES, LOCKED if str(said.get("status")) == str(MOVING) else said.get("status"))


def _why_later(said: Mapping[str, Any]) -> str:
    """The code of a temporary fault: HubSpot's own, else one for its status."""
    if said.get("category") == "RATE_LIMITS" or str(said.get("status")) == "429":
        return "throttled"
    return why_later(_codes(said), CODES, said.get("status"))


def without_users(sentence: str | None, about: Sequence[Change]) -> str | None:
    """A sentence of HubSpot without the ids and texts of the users it may be about."""
    values = [value for change in about for value in change.attributes.values()]
    texts = [text for value in values for text in _listed(value) if isinstance(text, str)]
    return redacted(sentence, *(change.external_id for change in about), *texts) if sentence else None


def _code(body: Mapping[str, Any]) -> str | None:
    """The most specific code of an error. A code that only a person can correct comes first."""
    codes = _codes(body)
    return next((code for code in codes if CODES.get(code) == "person"), next(iter(codes), None))


def _codes(body: Mapping[str, Any]) -> list[str]:
    """All codes of an error, the most specific first. Words of its sentence are never used: they may be a user's data."""
    details = [each for each in _listed(body.get("errors")) if isinstance(each, dict)]
    of_details = [each.get(name) for name in ("code", "subCategory", "category") for each in details]
    quoted = _QUOTED_CODE.findall(str(body.get("message")))
    codes = [*of_details, *quoted, body.get("subCategory"), body.get("category")]
    return [code.lower() for code in codes if isinstance(code, str) and _CODE.fullmatch(code)]


def _sentence(body: Mapping[str, Any]) -> str | None:
    """The error's sentence up to the first quote. The rest is JSON with values."""
    message = body.get("message")
    return redacted(_QUOTE.split(message)[0].rstrip(" :")) if isinstance(message, str) else None


def refusal(reply: Reply) -> tuple[str, str | None]:
    """The code and the redacted sentence of a 4xx."""
    if not isinstance(reply.body, dict):
        return f"http_{reply.status}", None
    if _NOT_UNIQUE in str(reply.body.get("message")):
        return "id_property_not_unique", _sentence(reply.body)
    return _code(reply.body) or f"http_{reply.status}", _sentence(reply.body)


def meaning(reply: Reply) -> Meaning | None:
    """Return the meaning of HubSpot's own code in a refused request; None: the status decides."""
    if reply.status in (LOCKED, MOVING):
        return "later"
    if reply.status not in (400, 403, 404, 409, 413, 422) or not isinstance(reply.body, dict):
        return None
    if _NOT_UNIQUE in str(reply.body.get("message")):
        return "person"
    return gravest(meaning_of_code(code, CODES) for code in _codes(reply.body))


def heard(reply: Reply, window_seconds: float | None = 10) -> RateLimitInfo:
    """Read HubSpot's headers for the limit with this window, and the wait after a 429.

    Only the body names the exceeded limit, and Retry-After is optional. The limiter waits for limits per second or per ten
    seconds to pass, not for daily limits.
    """
    asked = retry_after(reply)
    interval = number(reply, "x-hubspot-ratelimit-interval-milliseconds")
    is_ours = interval is None or window_seconds is None or interval == window_seconds * 1000
    limit, remaining = (
        number(reply, f"x-hubspot-ratelimit-{name}") if is_ours else None for name in ("max", "remaining")
    )
    if reply.status == LOCKED:
        return RateLimitInfo(max(asked or 0, LOCK_SECONDS), limit, remaining)
    if reply.status != 429:
        return RateLimitInfo(asked, limit, remaining)
    policy = _policy(reply)
    is_exhausted = policy == "DAILY" or (not policy and number(reply, "x-hubspot-ratelimit-daily-remaining") == 0)
    by_policy = 1.0 if policy == "SECONDLY" else (interval or 10_000) / 1000
    return RateLimitInfo(asked if asked and asked > 0 else by_policy, limit, remaining, is_exhausted)


def _policy(reply: Reply) -> str:
    try:
        body = json.loads(reply.text)
    except (ValueError, RecursionError):
        return ""
    return str(body.get("policyName", "")).upper() if isinstance(body, dict) else ""

"""Meanings of Salesforce's error codes for the sync: in a refused request, a failed job, or a single row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import ContractError, WinbackError
from crm_sync.destination import BatchRefusedError, RequestRefusedError, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimitInfo
from crm_sync.destinations.http.reply import Reply, parse_json, retry_after
from crm_sync.destinations.meanings import Meaning, meaning_of_code
from crm_sync.redaction import redacted, slugify_error

# In lower case. An unlisted code without a word for a temporary fault means "rows" for a row and "later" for a job.
# https://developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/bulk_api_2_0_errors.htm and
# https://developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_calls_concepts_core_data_objects.htm
CODES: Mapping[str, Meaning] = {
    "clientinputerror": "rows",
    "entity_is_locked": "rows",  # by an approval that a person must decide
    "invalidbatch": "rows",
    # Another writer holds the record, or Salesforce lacks a resource.
    "concurrent_per_org_longtxn": "later",
    "exceededquota": "later",
    "insert_update_delete_not_allowed_during_maintenance": "later",
    "internalservererror": "later",
    "limit_exceeded": "later",
    "org_in_read_only_mode": "later",
    "read_only_mode": "later",
    "record_currently_unavailable": "later",
    "request_limit_exceeded": "later",
    "request_running_too_long": "later",
    "too_many_apex_requests": "later",
    "toomanylockfailure": "later",
    "unable_to_lock_row": "later",
    # These would affect every user: a permission or a feature was removed, or a field was deleted.
    "api_currently_disabled": "person",
    "api_disabled_for_org": "person",
    "featurenotenabled": "person",
    "functionality_not_enabled": "person",
    "invalid_auth_header": "person",
    "invalid_field_for_insert_update": "person",
    "invalid_operation_with_expired_password": "person",
    "invalid_session_id": "person",
    "invalid_type": "person",
    "invalid_user": "person",
    "invalidentity": "person",
    "invalidjob": "person",
    "invalidoperation": "person",
    "invalidsessionid": "person",
    "invalidurl": "person",
    "invaliduser": "person",
    "invalidversion": "person",
    "license_limit_exceeded": "person",
    "no_such_column": "person",
    "password_lockout": "person",
    "storage_limit_exceeded": "person",
    "unsupported_api_version": "person",
}
_OF_QUOTA = {"exceededquota", "request_limit_exceeded", "limit_exceeded"}
# Salesforce also returns these codes for a repeated request.
_AMBIGUOUS = {"invalidjob", "invalidoperation"}
SESSION_ENDED = {"invalid_session_id", "invalidsessionid", "invalid_auth_header"}
# Codes for a failure in automation behind the record. The message names the cause after "first error" or "caused by".
_WRAPPERS = {
    *("apex_error", "cannot_execute_flow_trigger", "cannot_insert_update_activate_entity", "delete_failed"),
    *("unknown_exception", "system.dmlexception"),
}
_QUOTED = re.compile(r""""[^"]*"|(?<!\w)'[^'\n]*'(?!\w)|[“„][^“”]*[“”]|\u2018[^\u2019]*\u2019|«[^»]*»|`[^`]*`""")
# In the order of the message: a status code with its end, a governor limit of Apex, or an exception without a code. A name in
# capitals before "execution of" belongs to a trigger.
_INNER = re.compile(
    r"""
      \b(?P<code>[A-Z]+(?:_[A-Z]+)+)\b (?=\s*[,:]) (?!\s*:\s*execution\s+of)
    | (?:System\.LimitException:\s*)? (?P<limit>Apex\ CPU\ time\ limit\ exceeded
        | Too\ many\ (?:SOQL|SOSL|DML|query|callouts|future|queueable|aggregate)\b[A-Za-z ]*\b)
    | System\.LimitException:\s*(?P<other>[^\n:]+)
    | (?P<lock>Record\ Currently\ Unavailable)
    | (?P<timeout>request\ was\ running\ for\ too\ long)
    """,
    re.VERBOSE,
)


def fault_of(code: str, text: str) -> tuple[str, Meaning | None]:
    """Return the code of the fault, and its meaning; None: not in the table.

    `code` is the first code of the message. If it only says that a trigger or a flow failed, `text` is searched for the cause,
    outside of quotes. A validation rule's sentence may quote any code, so quotes are ignored.
    """
    if code == "invalid_field" and "No such column" in text:
        # Otherwise the row is at fault: its value refers to a record that does not exist.
        return "no_such_column", "person"
    if code not in _WRAPPERS and not text.startswith("System."):
        return code, meaning_of_code(code, CODES)
    inner = (_inner(found) for found in _INNER.finditer(_QUOTED.sub(" ", text)))
    return next(filter(None, inner), (code, None))


def _inner(found: re.Match[str]) -> tuple[str, Meaning | None] | None:
    """The code and meaning of a match in a message; None if it is only another trigger."""
    code = (found["code"] or "").lower()
    if code:
        return None if code in _WRAPPERS else (code, meaning_of_code(code, CODES))
    if limit := found["limit"] or found["other"]:
        # A governor limit applies to the whole transaction, so other rows may have caused it.
        return slugify_error(limit), "later"
    return "record_currently_unavailable" if found["lock"] else "query_timeout", "later"


def failure(message: object, columns: set[str], external_ids: Sequence[str]) -> WinbackError:
    """The error for a job that failed before its first row, from its message."""
    text = str(message or "no reason given")
    code = code_at_start(text)
    if "field name not found" in text.lower():
        # Every row that changes this field fails; halving would create thousands of jobs with the same result.
        name = next((each for each in sorted(columns) if re.search(rf"\b{each}\b", text)), "of the mapping")
        return ContractError(f"Salesforce has no field {name} that this key may write. Run winback doctor")
    if CODES.get(code) == "rows":
        return BatchRefusedError(200, code, redacted(text, *external_ids))
    return _judged(f"A Salesforce job failed: {code}", code)


def _judged(says: str, code: str) -> WinbackError:
    if code in _OF_QUOTA:
        return UnavailableError(f"{says}. A later run sends the rest.", "throttled", has_answered=True)
    if CODES.get(code) == "person":
        return ContractError(f"{says}. Run winback doctor")
    return UnavailableError(says, has_answered=True)


def said_of_all(says: str, refused: BatchRefusedError) -> WinbackError | None:
    """Return the error for a refused request with rows whose code is not about a row; None: a row may be at fault."""
    is_about_all = CODES.get(refused.code) == "person" and refused.code not in _AMBIGUOUS
    return unfit(says, refused) if is_about_all or refused.code in _OF_QUOTA else None


def unfit(says: str, refused: BatchRefusedError) -> WinbackError:
    """The error for a refused request without rows: a person must correct it, unless a quota is used up."""
    return _judged(f"{says}: {refused.code}", refused.code if refused.code in _OF_QUOTA else "invalidjob")


def refusal(reply: Reply) -> tuple[str, str | None]:
    """The code and the redacted sentence of a 4xx."""
    code, text = _error(reply)
    return code_at_start(code) if code else f"http_{reply.status}", redacted(text) if text else None


def meaning(reply: Reply) -> Meaning | None:
    """Return the meaning of Salesforce's own code in a refused request; None: the status decides.

    A limit of concurrent requests passes in seconds. The caller handles a used up quota: see `unfit`.
    """
    code = code_at_start(_error(reply)[0])
    if code in SESSION_ENDED:
        return "person"
    is_passing = meaning_of_code(code, CODES) == "later" and code not in _OF_QUOTA - {"request_limit_exceeded"}
    return "later" if is_passing else None


def is_session_over(refused: RequestRefusedError) -> bool:
    """Whether a refusal says that the access token has expired: status 401, in the Bulk API also 400."""
    return refused.http_status == 401 or refused.code in SESSION_ENDED


def heard(reply: Reply) -> RateLimitInfo:
    """Read the requested wait, and whether the org's daily requests are used up, which is a 403 too.

    REQUEST_LIMIT_EXCEEDED names the limit in its text. Only TotalRequests is daily; the others count concurrent requests.
    """
    code, text = _error(parse_json(reply)) if reply.status == 403 else ("", "")
    is_exhausted = code_at_start(code) == "request_limit_exceeded" and "TotalRequests" in text
    return RateLimitInfo(retry_after(reply), is_exhausted=is_exhausted)


def _error(reply: Reply) -> tuple[str, str]:
    """The code and the text of an error, in the format of REST, of the Bulk API, or of the Bulk API in XML."""
    found = next(iter(objects(reply.body)), reply.body if isinstance(reply.body, dict) else {})
    code, text = (found.get(f"error{end}") or found.get(f"exception{end}") for end in ("Code", "Message"))
    text = text or found.get("message")
    if not code and (in_xml := re.search(r"<(?:exception|error)Code>(\w{1,60})</", reply.text[:4_000])):
        code = in_xml[1]
    return (code if isinstance(code, str) else ""), (text if isinstance(text, str) else "")


def code_at_start(text: object) -> str:
    """The code at the start of a Salesforce message, in lower case: STRING_TOO_LONG:..., InvalidBatch : ..."""
    code = re.match(r"\s*([A-Z][A-Za-z_]+)\s*(?::|$)", str(text))
    return code[1].lower() if code else "unknown"


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; empty if there are none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []

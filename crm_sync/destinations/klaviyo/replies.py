"""Parser of Klaviyo's replies: jobs, outcomes of rows, limits and refusals. Pure functions.

A part of a reply that cannot be parsed does not count as a success for any row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

from crm_sync.destination import MisconfiguredError, Outcome, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimitInfo
from crm_sync.destinations.http.reply import Reply, number, retry_after
from crm_sync.destinations.meanings import Meaning, gravest, meaning_of_code, meaning_of_row, misconfigured, why_later
from crm_sync.diff import Change, Value
from crm_sync.redaction import redacted, slugify_error

JOBS = "/api/profile-bulk-import-jobs"
# Klaviyo's codes. For an unlisted code without a word for a temporary fault, the status decides, or the row is at fault.
# https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
CODES: Mapping[str, Meaning] = {
    "throttled": "later",
    "server_error": "later",
    "invalid_revision": "person",
    "method_not_allowed": "person",
    "not_acceptable": "person",
    "not_authenticated": "person",
    "permission_denied": "person",
    "unsupported_media_type": "person",
}
_REVISION = re.compile(r"\brevisions?\b", re.IGNORECASE)
_WORD = re.compile(r"[!-~]{1,500}")  # valid in a URL
_ROW = re.compile(r"/?data/attributes/profiles/data/(0|[1-9][0-9]{0,8})(?:/.*)?", re.DOTALL)


@dataclass(frozen=True)
class Job:
    """An import job, with its numbers of rows in total, imported and refused."""

    id: str
    status: str
    total: int
    completed: int
    failed: int

    @property
    def path(self) -> str:
        """The path that returns the job's state."""
        return f"{JOBS}/{quote(self.id, safe='')}"

    @property
    def is_under_way(self) -> bool:
        """Whether its counts may still change."""
        return self.status in ("queued", "processing")


def job_of(reply: Reply) -> Job:
    """Read a job from a reply.

    Raises: UnavailableError for any other shape: the outcomes are unknown.
    """
    data = at(reply.body, "data")
    status = at(data, "attributes", "status")
    found = [at(data, "attributes", f"{name}_count") for name in ("total", "completed", "failed")]
    counts = [0 if count is None else count for count in found]  # the specification's default
    if status not in ("queued", "processing", "complete", "cancelled") or {type(count) for count in counts} != {int}:
        raise unknown(reply)
    return Job(id_of(reply, data), status, *counts)


def verdicts(job: Job, errors: Sequence[Any], batch: Sequence[Change]) -> list[Outcome]:
    """Return the outcome of each row. A row with an error is rejected; any other is delivered only if the counts confirm it.

    `errors` are the items of the job's import-errors. Raises: MisconfiguredError if one is about the account's configuration.
    """
    deferred = Outcome("deferred", 200, "cancelled" if job.status == "cancelled" else "unconfirmed")
    if job.status != "complete":
        return [deferred] * len(batch)
    positions = {change.external_id: index for index, change in enumerate(batch)}
    rejected: dict[int, Outcome] = {}
    faults: set[str] = set()
    for error in errors:
        index = _row(error, positions)
        if index is not None:
            meaning, verdict = _refused(error, batch[index])
            if meaning == "person":
                faults.add(verdict.code or "unknown")
                rejected[index] = verdict
            rejected.setdefault(index, verdict)
    rest = deferred
    if job.completed + job.failed == job.total == len(batch):
        if job.failed == len(rejected):
            rest = Outcome("delivered", 200)
        elif job.failed == job.total:
            rest = Outcome("rejected", 200, "unknown")
    outcomes = [rejected.get(index, rest) for index in range(len(batch))]
    if faults:
        raise MisconfiguredError(misconfigured("Klaviyo", faults), outcomes)
    return outcomes


def _row(error: Any, positions: Mapping[str, int]) -> int | None:
    """The row of an error: the one whose id it quotes, else the one it points at."""
    payload = at(error, "attributes", "original_payload")
    external_id = at(payload, "external_id") or at(payload, "attributes", "external_id")
    if isinstance(external_id, str):
        return positions.get(external_id)
    pointer = at(error, "attributes", "source", "pointer")
    match = _ROW.fullmatch(pointer) if isinstance(pointer, str) else None
    return int(match[1]) if match and int(match[1]) < len(positions) else None


def _refused(error: Any, change: Change) -> tuple[Meaning, Outcome]:
    """The meaning of an import error, and the outcome of its row."""
    detail = at(error, "attributes", "detail") or at(error, "attributes", "title") or "unknown"
    code, status = slugify_error(at(error, "attributes", "code") or "unknown"), at(error, "attributes", "status")
    meaning = meaning_of_row([code], CODES, status)
    code = why_later([code], CODES, status) if meaning == "later" else code
    kind: Literal["deferred", "rejected"] = "rejected" if meaning == "rows" else "deferred"
    return meaning, Outcome(kind, 200, code, redacted(detail, *texts_of(change)))


def texts_of(change: Change) -> list[str]:
    """The texts of a change that a reason must not contain."""
    return [change.external_id, *(text for value in change.attributes.values() for text in _texts(value))]


def _texts(value: Value) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def meaning(reply: Reply) -> Meaning | None:
    """Return the meaning of Klaviyo's own errors in a refused request; None: the status decides."""
    errors = at(reply.body, "errors")
    return gravest(_meaning_of_error(error) for error in (errors if isinstance(errors, list) else []))


def _meaning_of_error(error: Any) -> Meaning | None:
    # JSON:API, https://jsonapi.org/format/#error-objects: such an error is about the request, not about its content.
    if _is_about_the_revision(error) or at(error, "source", "header") or at(error, "source", "parameter"):
        return "person"
    code = at(error, "code")
    return meaning_of_code(code.lower(), CODES) if isinstance(code, str) else None


def _is_about_the_revision(error: Any) -> bool:
    """Whether an error that names no row is about the revision header of every request."""
    pointer = str(at(error, "source", "pointer") or "")
    words = f"{at(error, 'source', 'header')} {at(error, 'title')} {at(error, 'detail')}"
    return not _ROW.fullmatch(pointer) and bool(_REVISION.search(words))


def named_rows(reply: Reply) -> dict[int, tuple[str, str | None]]:
    """The rows that a refused import points at, by position, each with the code and reason of its first error."""
    errors = at(reply.body, "errors")
    rows: dict[int, tuple[str, str | None]] = {}
    for error in errors if isinstance(errors, list) else []:
        pointer = at(error, "source", "pointer")
        match = _ROW.fullmatch(pointer) if isinstance(pointer, str) else None
        if match:
            rows.setdefault(int(match[1]), refusal(replace(reply, body={"errors": [error]})))
    return rows


def refusal(reply: Reply) -> tuple[str, str | None]:
    """The code of a 4xx, its title, and the field it points at. The detail is left out, because it may quote a user's data."""
    errors = at(reply.body, "errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    code, title = at(first, "code"), at(first, "title")
    field = str(at(first, "source", "pointer") or "").rpartition("/")[2]
    words = f"{title or ''} {field if field.isidentifier() else ''}".strip()
    if _is_about_the_revision(first):
        code = "invalid_revision"
    return slugify_error(code) if isinstance(code, str) else f"http_{reply.status}", redacted(words) if words else None


def heard(reply: Reply) -> RateLimitInfo:
    """Read Klaviyo's headers for the limit per minute. A 429 has only Retry-After.

    https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
    """
    return RateLimitInfo(retry_after(reply), number(reply, "ratelimit-limit"), number(reply, "ratelimit-remaining"))


def next_cursor(reply: Reply) -> str | None:
    """The cursor of the next page. Its URL is not followed, because the key would be sent wherever it points."""
    address = at(reply.body, "links", "next")
    try:
        cursors = parse_qs(urlsplit(address).query).get("page[cursor]", []) if isinstance(address, str) else []
    except ValueError:  # not a URL
        return None
    return cursors[0] if cursors and _WORD.fullmatch(cursors[0]) else None


def at(value: Any, *keys: str) -> Any:
    """The value below `value` at these keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def resources(reply: Reply) -> list[Any]:
    """The items of a collection. Raises: UnavailableError for any other shape."""
    data = at(reply.body, "data")
    if not isinstance(data, list):
        raise unknown(reply)
    return data


def id_of(reply: Reply, resource: Any) -> str:
    """The id of a resource. Raises: UnavailableError where it has none."""
    found = at(resource, "id")
    if not isinstance(found, str) or not _WORD.fullmatch(found):
        raise unknown(reply)
    return found


def unknown(reply: Reply) -> UnavailableError:
    """The error for a reply that cannot be parsed."""
    return UnavailableError(f"Klaviyo answered HTTP {reply.status} in an unknown shape.", "unknown_reply")

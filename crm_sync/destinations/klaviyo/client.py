"""Klaviyo: upserts by bulk import jobs, deletions, and the outcome of each row.

A bulk import is a job: it is posted, polled until it is complete, and then queried for its errors. It sets or unsets properties
by name. Klaviyo ignores a null silently, so that the old value would stay.
https://developers.klaviyo.com/en/reference/bulk_import_profiles
https://developers.klaviyo.com/en/docs/use_klaviyos_bulk_profile_import_api
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Annotated, Any, Self
from urllib.parse import quote, urlencode

from pydantic import AfterValidator, Field, model_validator

from core.errors import ContractError
from crm_sync.destination import BatchRefusedError, Finding, Outcome, RequestRefusedError, Run, UnavailableError
from crm_sync.destinations.adapter import Adapter, Limit, Limits, Options, in_order, refused_finding
from crm_sync.destinations.http.rate_limiter import RateLimit, RateLimiter
from crm_sync.destinations.http.reply import Reply
from crm_sync.destinations.http.transport import ResponseParser, RetryBudget, Transport
from crm_sync.destinations.klaviyo.replies import (
    JOBS,
    Job,
    at,
    heard,
    id_of,
    job_of,
    meaning,
    named_rows,
    next_cursor,
    refusal,
    resources,
    texts_of,
    unknown,
    verdicts,
)
from crm_sync.destinations.named_rows import without_named
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind

PROFILES, DELETIONS = "/api/profiles", "/api/data-privacy-deletion-jobs"
PERMISSIONS = "profiles:read, profiles:write, lists:read, lists:write, data-privacy:write"
MEDIA_TYPE = {"Content-Type": "application/vnd.api+json"}
PAGE_SIZE = 100  # the maximum


def _revision(text: str) -> str:
    """A date; for a beta, a word after a dot: https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy."""
    day, dot, word = text.partition(".")
    try:
        is_date = day == date.fromisoformat(day).isoformat()
    except ValueError:
        is_date = False
    if not is_date or (dot and not re.fullmatch("[a-z0-9]{1,20}", word)):
        raise ValueError("must be a date of Klaviyo's revisions, for instance 2026-07-15, in quotes. Correct it.")
    return text


class KlaviyoOptions(Options):
    """10,000 profiles and 5 MB per import. Rate limits: https://developers.klaviyo.com/en/reference lists them per operation.

    `limits` apply to imports, polls and queries for errors together, although Klaviyo allows as many of each. The limit per
    minute is first, because the headers report it.
    """

    max_batch: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    # One import is prepared while another one runs; more would only queue at Klaviyo.
    max_in_flight: Annotated[int, Field(ge=1, le=256)] = 2
    limits: Limits = (Limit(requests=150, seconds=60), Limit(requests=10, seconds=1))
    lookup_limits: Limits = (Limit(requests=750, seconds=60), Limit(requests=75, seconds=1))
    deletion_limits: Limits = (Limit(requests=60, seconds=60), Limit(requests=3, seconds=1))
    revision: Annotated[str, AfterValidator(_revision)] = "2026-07-15"
    max_body_bytes: Annotated[int, Field(ge=1_000, le=5_000_000)] = 5_000_000
    first_poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1.0
    max_poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 15.0

    @model_validator(mode="after")
    def _polls_in_order(self) -> Self:
        return in_order(self, "first_poll_seconds", "max_poll_seconds")


class Klaviyo:
    """A Destination."""

    def __init__(
        self, url: str, api_key: str, options: KlaviyoOptions | None = None, budget: RetryBudget | None = None
    ) -> None:
        """Connect to https://a.klaviyo.com."""
        self._options = options = options or KlaviyoOptions()
        self.max_batch, self.max_in_flight = options.max_batch, options.max_in_flight
        headers = {"Authorization": f"Klaviyo-API-Key {api_key}", "revision": options.revision}
        headers |= {"Accept": MEDIA_TYPE["Content-Type"]}
        dialect = ResponseParser(heard=heard, refusal=refusal, meaning=meaning, named_rows=named_rows)
        self._imports, self._lookups, self._deletions = (
            Transport(url, headers, RateLimiter(limits), budget=budget, dialect=dialect)
            for limits in (options.rate_limits, _rates(options.lookup_limits), _rates(options.deletion_limits))
        )

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Import one batch and wait for its outcomes; see Destination. Rows that a refusal names are left out.

        An import whose reply was lost is posted again. It sets and unsets values, so repeating it has no further effect.
        """
        return without_named(batch, partial(self._import, run=run), texts_of)

    def _import(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        content = import_of(batch)
        if len(content) > self._options.max_body_bytes:
            raise BatchRefusedError(413, "too_large", "The import is larger than Klaviyo accepts.")
        job = job_of(self._imports.request(run, "POST", JOBS, data=content, headers=MEDIA_TYPE))
        wait = self._options.first_poll_seconds
        while job.is_under_way:
            run.sleep(wait)
            wait = min(2 * wait, self._options.max_poll_seconds)
            job = self._asked_after(job, run)
        has_errors = job.status == "complete" and job.failed != 0
        return verdicts(job, self._errors(job, run) if has_errors else [], batch)

    def _asked_after(self, job: Job, run: Run) -> Job:
        reply = self._told(job.path, run)
        if reply.status == 404:  # Klaviyo no longer has the job; the outcomes of its rows are unknown
            return replace(job, status="forgotten")
        later = job_of(reply)
        if later.id != job.id:
            raise unknown(reply)
        return later

    def _errors(self, job: Job, run: Run) -> list[Any]:
        errors: list[Any] = []
        query: dict[str, object] = {"page[size]": PAGE_SIZE}
        seen: set[str] = set()
        while True:
            reply = self._told(f"{job.path}/import-errors?{urlencode(query)}", run)
            page = [] if reply.status == 404 else resources(reply)
            errors += page
            cursor = next_cursor(reply)
            if not page or cursor is None or cursor in seen:
                return errors
            seen.add(cursor)
            query["page[cursor]"] = cursor

    def _told(self, path: str, run: Run) -> Reply:
        """Query a job. A refusal with a status for rows is not about the rows here; any other refusal stops the run."""
        try:
            return self._imports.request(run, "GET", path, answers=frozenset({404}))
        except BatchRefusedError as refused:
            text = f"Klaviyo answered HTTP {refused.http_status} to a query for an import."
            raise UnavailableError(text, "unknown_reply") from None

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Request the deletion of users, one by one. Klaviyo accepts deletions and carries them out later."""
        return [self._erase(external_id, run) for external_id in external_ids]

    def _erase(self, external_id: str, run: Run) -> Outcome:
        try:
            profile_ids = self._profile_ids(external_id, run)
            for profile_id in profile_ids:
                content = deletion_of(profile_id)
                reply = self._deletions.request(
                    run, "POST", DELETIONS, data=content, headers=MEDIA_TYPE, expects="text"
                )
                if reply.status != 202:
                    raise unknown(reply)
        except BatchRefusedError as refused:
            return Outcome("rejected", refused.http_status, refused.code, refused.reason)
        return Outcome("delivered", 202) if profile_ids else absent(external_id)

    def _profile_ids(self, external_id: str, run: Run) -> list[str]:
        query = {"fields[profile]": "external_id", "filter": f"equals(external_id,{quoted(external_id)})"}
        reply = self._lookups.request(run, "GET", f"{PROFILES}?{urlencode(query, quote_via=quote)}")
        found = resources(reply)
        # If Klaviyo misread the filter, another user's profile must not be deleted.
        if any(at(each, "attributes", "external_id") != external_id for each in found):
            raise unknown(reply)
        return [id_of(reply, each) for each in found]

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        """Check that the key may read imports. Klaviyo lists properties only after they were written."""
        made = f"Klaviyo will create {len(properties)} properties with the first delivery: {', '.join(properties)}"
        return [self._may_read(run), Finding("ok", made)]

    def _may_read(self, run: Run) -> Finding:
        do = (f"In Klaviyo, under Settings, API keys, create a private key with the scopes {PERMISSIONS}.",)
        try:
            resources(self._imports.request(run, "GET", f"{JOBS}?{urlencode({'page[size]': 1})}"))
        except RequestRefusedError as error:
            return refused_finding(error, do)
        except BatchRefusedError as refused:
            says = f"The CRM answered HTTP {refused.http_status} to a query for its imports ({refused.code})"
            return Finding("failed", says)
        except ContractError as error:
            return Finding("failed", str(error))
        return Finding("ok", "Klaviyo takes the key; whether it may also write shows with the first delivery")

    def close(self) -> None:
        """Close the connections."""
        for transport in (self._imports, self._lookups, self._deletions):
            transport.close()


def import_of(batch: Sequence[Change]) -> bytes:
    """The body of an import."""
    profiles = {"data": [profile_of(change) for change in batch]}
    return _json({"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": profiles}}})


def profile_of(change: Change) -> dict[str, Any]:
    """One profile of an import: only its id, the properties to set and those to unset."""
    values = {name: value for name, value in change.attributes.items() if value is not None}
    cleared = [name for name, value in change.attributes.items() if value is None]
    attributes = {"external_id": change.external_id, **({"properties": values} if values else {})}
    meta = {"meta": {"patch_properties": {"unset": cleared}}} if cleared else {}
    return {"type": "profile", "attributes": attributes, **meta}


def quoted(text: str) -> str:
    """A text as the operand of a filter."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def absent(external_id: str) -> Outcome:
    """The outcome if a filter found no user. For an id that needs escaping this proves nothing: Klaviyo documents no escape."""
    if quoted(external_id) != f'"{external_id}"':
        return Outcome("deferred", 200, "unconfirmed", "This id cannot be looked up reliably; delete the user by hand.")
    return Outcome("delivered", 200, "not_found")


def deletion_of(profile_id: str) -> bytes:
    """The body of a deletion."""
    profile = {"data": {"type": "profile", "id": profile_id, "attributes": {}}}
    return _json({"data": {"type": "data-privacy-deletion-job", "attributes": {"profile": profile}}})


def _json(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _rates(limits: Sequence[Limit]) -> list[RateLimit]:
    return [RateLimit(limit.requests, limit.seconds) for limit in limits]


ADAPTER = Adapter(
    name="klaviyo",
    options=KlaviyoOptions,
    connect=Klaviyo,
    hosts=("a.klaviyo.com",),
    property_pattern=re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}"),
    permissions=PERMISSIONS,
)

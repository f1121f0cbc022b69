"""Salesforce: upserts and deletions by bulk jobs.

Bulk API 2.0, https://developer.salesforce.com/docs/platform/api-asynch/guide/bulk-api-2-0-ingest.html: a job is opened, gets one
CSV file and is closed. When it has ended, result files list the rows that succeeded, failed or were not processed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self
from urllib.parse import urlencode

from pydantic import AfterValidator, Field, model_validator

from core.errors import ContractError, WinbackError
from crm_sync.destination import (
    BatchRefusedError,
    DeadlineExceededError,
    Finding,
    Outcome,
    RequestRefusedError,
    Run,
    UnavailableError,
)
from crm_sync.destinations.adapter import Adapter, ClientCredentials, Limit, Limits, Options, in_order, refused_finding
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.reply import Reply
from crm_sync.destinations.http.transport import ResponseParser, RetryBudget, Transport
from crm_sync.destinations.record_owners import RecordOwners
from crm_sync.destinations.salesforce.errors import failure, heard, meaning, refusal, said_of_all, unfit
from crm_sync.destinations.salesforce.fields import NAME, judged, usage
from crm_sync.destinations.salesforce.login import SignedTransport, Tokens
from crm_sync.destinations.salesforce.rows import FAILURES, ID, SUCCESSES, UNPROCESSED, as_csv, deleted, found, verdicts
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind
from crm_sync.redaction import redacted

WAITING, ENDED = {"Open", "UploadComplete", "InProgress"}, {"JobComplete", "Failed", "Aborted"}


# The first version with Bulk API 2.0:
# https://developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/bulk_api_2_0.htm
_FIRST_VERSION, _LAST_VERSION = 41, 199


def _api_version(text: str) -> str:
    found = re.fullmatch(r"v([0-9]{2,3})\.0", text)
    if not found or not _FIRST_VERSION <= int(found[1]) <= _LAST_VERSION or found[1].startswith("0"):
        raise ValueError(f"must be a version of the API from v{_FIRST_VERSION}.0 on, for instance v62.0. Correct it.")
    return text


class SalesforceOptions(Options):
    """Documented limits: 10,000 rows make one internal batch of a job, and an org has 15,000 such batches per day.

    Salesforce does not limit requests per second. An org has 100,000 requests per 24 hours (more with licences); a job takes 5
    and its polls. At most 25 requests may run at once for 20 seconds or longer (developer org: 5). With 25 requests per 20
    seconds, ours alone never exceed that.
    https://developer.salesforce.com/docs/atlas.en-us.salesforce_app_limits_cheatsheet.meta/salesforce_app_limits_cheatsheet/
    """

    # A job's file may have 150 MB, and its results arrive in one reply. The maximum is for rows of a few hundred bytes.
    max_batch: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    max_in_flight: Annotated[int, Field(ge=1, le=256)] = 2
    limits: Limits = (Limit(requests=25, seconds=20),)
    api_version: Annotated[str, AfterValidator(_api_version)] = "v62.0"
    object: Annotated[str, Field(pattern=f"^{NAME}$")] = "Contact"
    external_id_field: Annotated[str, Field(pattern=f"^{NAME}$")] = "Winback_User_Id__c"
    first_poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 2.0
    longest_poll_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    job_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1_800.0

    @model_validator(mode="after")
    def _polls_in_order(self) -> Self:
        return in_order(self, "first_poll_seconds", "longest_poll_seconds")


@dataclass(frozen=True)
class _LastRequest:
    """A finished run, for one last request without a wait."""

    run_id: str
    clock: Callable[[], float]

    def sleep(self, seconds: float) -> None:  # noqa: ARG002 - Run's signature
        raise DeadlineExceededError("The run is over.", "deadline")

    def check(self) -> None:
        """Allow the request."""


class _SlowError(UnavailableError):
    """The job takes longer than job_seconds."""


class Salesforce:
    """A Destination."""

    def __init__(
        self,
        url: str,
        key: str | ClientCredentials,
        options: SalesforceOptions | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        """Connect to an org, for instance https://example.my.salesforce.com. The key is an access token or client credentials."""
        self._options = options = options or SalesforceOptions()
        self.max_batch, self.max_in_flight = options.max_batch, options.max_in_flight
        self._root = f"/services/data/{options.api_version}"
        dialect = ResponseParser(heard=heard, refusal=refusal, meaning=meaning)
        self._owners = RecordOwners()
        self._tokens = tokens = Tokens(url, key, budget)
        self._transport = SignedTransport(
            Transport(url, {}, RateLimiter(options.rate_limits), budget=budget, dialect=dialect), tokens
        )
        # Without rate limit, at most one request per job: a run that must end has no time to wait.
        at_once = replace(budget or RetryBudget(), seconds=0)
        self._farewell = SignedTransport(Transport(url, {}, RateLimiter(()), budget=at_once, dialect=dialect), tokens)

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Send one batch as one job and wait until it has ended; see Destination."""
        ids = [change.external_id for change in batch]
        job = self._open(run)
        try:
            refused = self._fill(job, as_csv(batch, self._options.external_id_field), ids, run)
            info = self._ended(job, refused, run)
        except _SlowError as slow:
            return self._given_up(job, batch, slow, run)
        except WinbackError:
            self._abort(job, run)
            raise
        has_failed = info["state"] == "Failed"
        columns = {name for change in batch for name in change.attributes}
        if has_failed and info.get("numberRecordsProcessed") in (None, 0, "0"):
            raise refused or failure(info.get("errorMessage"), columns, ids)
        # A complete job has no unprocessed rows.
        kinds = (SUCCESSES, FAILURES) if info["state"] == "JobComplete" else (SUCCESSES, FAILURES, UNPROCESSED)
        files = {kind: self._get(run, f"{job}/{kind}/", expects="text").text for kind in kinds}
        outcomes = verdicts(batch, self._options.external_id_field, files, self._owners)
        if refused and all(outcome.code == "unconfirmed" for outcome in outcomes):
            raise refused
        if has_failed and all(outcome.code in ("unconfirmed", "unprocessed") for outcome in outcomes):
            raise failure(info.get("errorMessage"), columns, ids)
        return outcomes

    def _open(self, run: Run) -> str:
        """Open a job and return its path."""
        job = {
            "object": self._options.object,
            "operation": "upsert",
            "externalIdFieldName": self._options.external_id_field,
            "contentType": "CSV",
            "lineEnding": "CRLF",
            "columnDelimiter": "COMMA",
        }
        try:
            reply = self._transport.request(run, "POST", f"{self._root}/jobs/ingest", body=job)
        except BatchRefusedError as refused:
            # The request contains no rows, so halving cannot help.
            raise unfit(f"Salesforce does not open a job for {self._options.object}", refused) from None
        return f"{self._root}/jobs/ingest/{_text(reply, 'id', ID)}"

    def _fill(self, job: str, content: bytes, ids: Sequence[str], run: Run) -> BatchRefusedError | None:
        """Upload the rows and start the job. Returns a refusal, which may only mean that the request was a retry.

        A job accepts its file once and closes once. If the reply was lost, the retry is refused; the job's state shows which.
        """
        refused: BatchRefusedError | None = None
        csv_type = {"Content-Type": "text/csv; charset=UTF-8"}
        try:
            self._transport.request(run, "PUT", f"{job}/batches/", data=content, headers=csv_type, expects="text")
        except BatchRefusedError as error:
            if fault := said_of_all("Salesforce does not accept rows", error):
                raise fault from None
            reason = error.reason and redacted(error.reason, *ids)
            refused = BatchRefusedError(error.http_status, error.code, reason)
        try:
            self._transport.request(run, "PATCH", job, body={"state": "UploadComplete"})
        except BatchRefusedError as error:
            if fault := said_of_all("Salesforce does not close the job", error):
                raise fault from None
            refused = refused or error
        return refused

    def _given_up(self, job: str, batch: Sequence[Change], slow: _SlowError, run: Run) -> list[Outcome]:
        """Abort a job that is slower than job_seconds, and read the results it has by then, which are acknowledged.

        Raises: UnavailableError if it has no results yet.
        """
        self._abort(job, run)
        try:
            files = {kind: self._get(run, f"{job}/{kind}/", expects="text").text for kind in (SUCCESSES, FAILURES)}
            outcomes = verdicts(batch, self._options.external_id_field, files, self._owners)
        except (UnavailableError, RequestRefusedError) as error:
            raise UnavailableError(f"{slow} Its results could not be read: {error}") from None
        if all(outcome.code == "unconfirmed" for outcome in outcomes):
            raise slow
        return outcomes

    def _ended(self, job: str, refused: BatchRefusedError | None, run: Run) -> Mapping[str, Any]:
        """Poll the job with growing intervals until it has ended. Raises: _SlowError after job_seconds."""
        wait, waited = self._options.first_poll_seconds, 0.0
        while waited < self._options.job_seconds:
            run.sleep(wait)
            waited += wait
            wait = min(wait * 1.5, self._options.longest_poll_seconds)
            body = self._get(run, job).body
            info: Mapping[str, Any] = body if isinstance(body, dict) else {}
            state = info.get("state")
            if isinstance(state, str) and state in ENDED:
                return info
            if not isinstance(state, str) or state not in WAITING:
                raise UnavailableError("Salesforce described a job in an unknown shape.", "unknown_reply")
            if state == "Open" and refused:
                raise refused
        raise _SlowError(f"A Salesforce job had not ended after {waited:.0f} s.")

    def _abort(self, job: str, run: Run) -> None:
        """Abort the job. If Salesforce processed it after the next run's job, it would overwrite newer values."""
        with suppress(WinbackError):
            farewell = _LastRequest(run.run_id, run.clock)
            self._farewell.request(farewell, "PATCH", job, body={"state": "Aborted"})

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Delete users by Salesforce's own id, which is looked up first. This distinguishes a missing user from a missing field.

        Deleted records stay in the org's recycle bin for 15 days.
        """
        return [self._erase(external_id, run) for external_id in external_ids]

    def _erase(self, external_id: str, run: Run) -> Outcome:
        field = self._options.external_id_field
        quoted = external_id.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
        soql = f"SELECT Id, {field} FROM {self._options.object} WHERE {field} = '{quoted}'"
        try:
            # Sent as a query parameter, which error texts do not contain.
            reply = self._transport.request(run, "GET", f"{self._root}/query?{urlencode({'q': soql})}")
        except BatchRefusedError as refused:
            raise unfit(f"Salesforce cannot query {field} of {self._options.object}", refused) from None
        ids = found(reply, field, external_id)
        if not ids:
            return Outcome("delivered", reply.status, "not_found")
        query = urlencode({"ids": ",".join(ids), "allOrNone": "false"})
        try:
            reply = self._transport.request(run, "DELETE", f"{self._root}/composite/sobjects?{query}")
        except BatchRefusedError as refused:
            if fault := said_of_all("Salesforce does not delete", refused):
                raise fault from None
            return Outcome("rejected", refused.http_status, refused.code, refused.reason)
        return deleted(reply, len(ids), external_id)

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        """Check the fields that the object has for this key, without writing anything."""
        options = self._options
        do = (
            "Check api_version and object in config/crm.yml, and the token: access tokens expire with their session.",
        )
        try:
            reply = self._get(run, f"{self._root}/sobjects/{options.object}/describe")
        except RequestRefusedError as error:
            return [refused_finding(error, do)]
        except ContractError as error:
            return [Finding("failed", str(error))]
        findings = judged(reply.body, properties, options.object, options.external_id_field, options.api_version)
        return [*findings, *usage(reply.headers.get("sforce-limit-info", ""))]

    def _get(self, run: Run, path: str, expects: Any = "json") -> Reply:
        """Get a resource without rows. A refusal is not about the rows."""
        try:
            accept = {"Accept": "text/csv"} if expects == "text" else {}
            return self._transport.request(run, "GET", path, expects=expects, headers=accept)
        except BatchRefusedError as refused:
            raise UnavailableError(f"Salesforce refused a query: {refused.code}", "unknown_reply") from None

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
        self._farewell.close()
        self._tokens.close()


def _text(reply: Reply, name: str, pattern: re.Pattern[str]) -> str:
    value = reply.body.get(name) if isinstance(reply.body, dict) else None
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise UnavailableError(f"Salesforce answered HTTP {reply.status} in an unknown shape.", "unknown_reply")
    return value


ADAPTER = Adapter(
    name="salesforce",
    options=SalesforceOptions,
    connect=Salesforce,
    hosts=(".my.salesforce.com", ".salesforce.com"),
    property_pattern=re.compile(NAME),
    permissions="API Enabled; on the object read, create, edit and delete; on its fields read and edit",
    id_option="external_id_field",
    takes_client_credentials=True,
)

"""HubSpot: upserts and deletions of contacts.

POST /crm/v3/objects/contacts/batch/upsert. With a trace id on every input, HubSpot accepts the other rows when one is bad.
Contacts are identified by our own unique property, never by e-mail, which is not sent. replies.py parses HubSpot's replies,
properties.py checks its properties.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from core.errors import ContractError
from crm_sync.destination import BatchRefusedError, Finding, Outcome, RequestRefusedError, Run, UnavailableError
from crm_sync.destinations.adapter import Adapter, Limit, Limits, Options, empty_request_finding, refused_finding
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.reply import Reply
from crm_sync.destinations.http.transport import ResponseParser, RetryBudget, Transport
from crm_sync.destinations.hubspot.contacts import without_collisions
from crm_sync.destinations.hubspot.properties import judged
from crm_sync.destinations.hubspot.replies import (
    LOCK_SECONDS,
    LOCKED,
    MOVING,
    OF_PROPERTIES,
    heard,
    meaning,
    refusal,
    verdicts,
    without_users,
)
from crm_sync.destinations.record_owners import RecordOwners
from crm_sync.diff import Change, Value
from crm_sync.field_mapping import Kind

NAME = r"[a-z][a-z0-9_]{0,99}"
SCOPES = "crm.objects.contacts.read, crm.objects.contacts.write, crm.schemas.contacts.read"
MOVES = "HubSpot is moving this account to another data centre, for up to a day."
LOCK_TRIES, DOCTOR_TRIES = 15, 3  # fewer for the doctor, because a person is waiting


class HubSpotOptions(Options):
    """100 inputs per request; 190 requests per 10 seconds for a private app of a Professional or Enterprise account.

    Free and Starter accounts have 100, which HubSpot's headers report: https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines.
    At 0.3 s per request, 6 in flight use up 19 requests per second.
    """

    max_batch: Annotated[int, Field(ge=1, le=100)] = 100
    max_in_flight: Annotated[int, Field(ge=1, le=256)] = 8
    limits: Limits = (Limit(requests=190, seconds=10),)
    id_property: Annotated[str, Field(pattern=f"^{NAME}$")] = "winback_user_id"
    object_type: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")] = "contacts"
    property_group: Annotated[str, Field(pattern=f"^{NAME}$")] = "contactinformation"
    api_path: Annotated[str, Field(pattern=r"^(/[a-z0-9-]+)+$")] = "/crm/v3"


class HubSpot:
    """A Destination."""

    def __init__(
        self, url: str, api_key: str, options: HubSpotOptions | None = None, budget: RetryBudget | None = None
    ) -> None:
        """Connect to https://api.hubapi.com, which serves accounts of every data centre, with a private app's token."""
        options = options or HubSpotOptions()
        self.max_batch, self.max_in_flight = options.max_batch, options.max_in_flight
        self._url, self._id_property, self._group = url.rstrip("/"), options.id_property, options.property_group
        self._objects = f"{options.api_path}/objects/{options.object_type}"
        self._properties = f"{options.api_path}/properties/{options.object_type}"
        window = options.limits[0].seconds if options.limits else None
        dialect = ResponseParser(heard=partial(heard, window_seconds=window), refusal=refusal, meaning=meaning)
        headers = {"Authorization": f"Bearer {api_key}"}
        self._owners = RecordOwners()
        self._transport = Transport(url, headers, RateLimiter(options.rate_limits), budget=budget, dialect=dialect)

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Send one batch; see Destination."""
        if any(self._id_property in change.attributes for change in batch):
            raise ContractError(f"crm_fields.yml writes to {self._id_property}, which identifies the user in HubSpot.")
        try:
            reply = self._ask(run, "/batch/upsert", payload(batch, self._id_property))
        except RequestRefusedError as refused:
            if refused.code not in OF_PROPERTIES:
                raise
            text = f"HubSpot lacks a property of crm_fields.yml, or {self._id_property} is not unique there"
            text = f"{text} ({refused.code}): winback doctor"
            raise RequestRefusedError(text, refused.http_status, refused.code) from None
        except BatchRefusedError as refused:
            raise BatchRefusedError(refused.http_status, refused.code, without_users(refused.reason, batch)) from None
        outcomes = verdicts(reply, batch, self._id_property)
        return without_collisions(reply, batch, self._id_property, outcomes, self._owners)

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Delete contacts permanently, with one request each; see Destination."""
        return [self._erase(external_id, run) for external_id in external_ids]

    def _erase(self, external_id: str, run: Run) -> Outcome:
        body = {"objectId": external_id, "idProperty": self._id_property}
        try:
            reply = self._ask(run, "/gdpr-delete", body, frozenset({404}))
        except BatchRefusedError as refused:
            reason = without_users(refused.reason, [Change(external_id, {})])
            return Outcome("rejected", refused.http_status, refused.code, reason)
        # HubSpot also answers 404 for an unknown path, but then without a correlation id.
        if reply.status == 404 and not (isinstance(reply.body, dict) and reply.body.get("correlationId")):
            raise ContractError(f"The CRM answered HTTP 404 to {self._objects}/gdpr-delete. Check WINBACK_CRM_URL.")
        fault = meaning(reply) if reply.status == 404 else None
        code, reason = refusal(reply)
        if fault == "person":
            raise ContractError(f"HubSpot does not delete: {code}. Run winback doctor")
        if fault == "later":
            return Outcome("deferred", reply.status, code, reason)
        if reply.status not in (204, 404):
            raise UnavailableError(f"HubSpot answered a deletion with HTTP {reply.status}.", "unknown_reply")
        return Outcome("delivered", reply.status, "not_found" if reply.status == 404 else None)

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        """Check that the key may write, with a request without contacts, and check the properties."""
        return [self._may_write(run), *self._judge(properties, run)]

    def _may_write(self, run: Run) -> Finding:
        do = (f"In HubSpot, under Settings, Integrations, give the private app the scopes {SCOPES}.",)
        try:
            # HubSpot refuses a request without contacts, but checks the key first.
            verdicts(self._ask(run, "/batch/upsert", {"inputs": []}, tries=DOCTOR_TRIES), [], self._id_property)
        except BatchRefusedError as refused:
            return empty_request_finding(refused, "HubSpot takes the key for writing contacts")
        except RequestRefusedError as error:
            return refused_finding(error, do)
        return Finding("ok", "HubSpot takes the key for writing contacts")

    def _judge(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        try:
            reply = self._transport.request(run, "GET", self._properties)
        except BatchRefusedError as refused:
            says = f"HubSpot does not list its properties: HTTP {refused.http_status}, {refused.code}"
            return [Finding("skipped", says)]
        except RequestRefusedError as error:
            if not error.is_about_the_key:
                return [refused_finding(error, ())]
            do = ("To have them checked, give the private app the scope crm.schemas.contacts.read.",)
            return [Finding("skipped", "HubSpot does not show this key its properties", do)]
        create = f"{self._url}{self._properties}/batch/create"
        return judged(reply.body, properties, self._id_property, create, self._group)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _ask(
        self, run: Run, path: str, body: object, answers: frozenset[int] = frozenset(), tries: int = LOCK_TRIES
    ) -> Reply:
        """Post, and retry while HubSpot holds a lock. Neither 423 nor 477 is about the rows."""
        for _ in range(tries):
            reply = self._transport.request(
                run, "POST", self._objects + path, body=body, answers=answers | {LOCKED, MOVING}
            )
            if reply.status == MOVING:
                raise UnavailableError(MOVES, has_answered=True)
            if reply.status != LOCKED:
                return reply
            run.sleep(LOCK_SECONDS)
        raise UnavailableError("HubSpot keeps the contacts locked.", "throttled", has_answered=True)


def payload(batch: Sequence[Change], id_property: str) -> dict[str, Any]:
    """The body of a request. The id is also one of the properties, so that a result without a trace id names its user."""
    return {
        "inputs": [
            {
                "id": change.external_id,
                "idProperty": id_property,
                # Unique in this request only. A user's id would end up in HubSpot's logs.
                "objectWriteTraceId": str(index),
                "properties": {
                    id_property: change.external_id,
                    **{name: _text(value) for name, value in change.attributes.items()},
                },
            }
            for index, change in enumerate(batch)
        ]
    }


def _text(value: Value) -> str:
    """A value as text, the only type HubSpot accepts: no exponent in numbers, semicolons between options, empty to clear."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ";".join(value)
    return value if isinstance(value, str) else format(Decimal(repr(value)), "f")


ADAPTER = Adapter(
    name="hubspot",
    options=HubSpotOptions,
    connect=HubSpot,
    hosts=(".hubapi.com",),  # api.hubapi.com serves every data centre; some also have a host of their own
    property_pattern=re.compile(NAME),
    permissions=SCOPES,
    id_option="id_property",
)

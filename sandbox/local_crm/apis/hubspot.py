"""HubSpot API of the local CRM.

It covers what winback uses, the upsert and deletion of contacts and their properties, as described in
https://developers.hubspot.com/docs/api-reference/crm-contacts-v3/guide and https://developers.hubspot.com/docs/api-reference/error-handling.
"""

import math
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, jsonify, request

from sandbox.local_crm.apis.hubspot_properties import InvalidError, Properties
from sandbox.local_crm.requests import Allowance, Desk

INPUTS = 100
_CONTACTS, _PROPERTIES = "/crm/v3/objects/contacts", "/crm/v3/properties/contacts"
_CATEGORIES = {401: "INVALID_AUTHENTICATION", 403: "MISSING_SCOPES", 404: "OBJECT_NOT_FOUND"}


class HubSpotWire:
    """HubSpot endpoints of the local CRM. It has the properties that `winback doctor` asks people to create."""

    paths = ("/crm/",)  # below these paths, errors are JSON

    def add_to(self, app: Flask, desk: Desk) -> None:
        """Route the endpoints."""
        self.desk, self.properties = desk, Properties()
        # A private app of a Professional account: 190 requests per 10 seconds, 625,000 a day, over all endpoints.
        self._burst = desk.allow("hubspot.batch", 190, 10)
        self._daily = desk.allow("hubspot.daily", 625_000, 86_400)
        self._route(app.post, f"{_CONTACTS}/batch/upsert", "hubspot.batch", self.upsert)
        self._route(app.post, f"{_CONTACTS}/gdpr-delete", "hubspot.gdpr_delete", self.gdpr_delete)
        self._route(app.get, _PROPERTIES, "hubspot.properties", self.list_properties)
        self._route(app.post, f"{_PROPERTIES}/batch/create", "hubspot.create_properties", self.create_properties)
        self._route(app.delete, f"{_PROPERTIES}/<name>", "hubspot.delete_property", self.delete_property)

    def _route(self, route: Callable[..., Any], path: str, endpoint: str, act: Callable[..., Response]) -> None:
        def answer(**found: str) -> Response:
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or not self.desk.is_key(key):
                return says(401, "Authentication credentials not found.")
            try:
                return act(**found)
            except InvalidError as error:
                return refused(error)
            except ValueError as error:
                return says(400, f"Invalid input JSON: {error}")

        def view(**found: str) -> Response:
            limits = [self._burst, self._daily]
            served = (endpoint, limits, lambda: answer(**found))
            return self.desk.serve(*served, says=says, over=self._over, headers=self._headers)

        route(path, endpoint=endpoint)(view)

    def _headers(self) -> dict[str, str]:
        now = self.desk.now()
        return {
            "X-HubSpot-RateLimit-Max": str(self._burst.requests),
            "X-HubSpot-RateLimit-Remaining": str(self._burst.remaining(now)),
            "X-HubSpot-RateLimit-Interval-Milliseconds": str(math.ceil(self._burst.seconds * 1_000)),
            "X-HubSpot-RateLimit-Daily": str(self._daily.requests),
            "X-HubSpot-RateLimit-Daily-Remaining": str(self._daily.remaining(now)),
        }

    def _over(self, allowance: Allowance) -> Response:
        """Only the body names the limit that was exceeded; nothing tells how long to wait."""
        policy = "DAILY" if allowance is self._daily else "TEN_SECONDLY_ROLLING"
        text = f"You have reached your {policy.lower()} limit."
        return _error(429, text, "RATE_LIMITS", errorType="RATE_LIMIT", policyName=policy, requestId=str(uuid.uuid4()))

    def upsert(self) -> Response:
        """Handle POST batch/upsert: all inputs or none. If each has a trace id, a 207 reports those that were refused."""
        inputs = self._inputs()
        taken: list[tuple[dict[str, Any], dict[str, object]]] = []
        errors: list[dict[str, Any]] = []
        for each in inputs:
            try:
                values = self.properties.read(each["properties"])
                if text := self.desk.row_error(each["id"], "The contact is on the blocklist"):
                    raise InvalidError(text)
                taken.append((each, values))
            except InvalidError as error:
                if any("objectWriteTraceId" not in other for other in inputs):
                    raise
                fault = self.desk.row_fault(each["id"])
                more = fault.body if fault and fault.body else {}
                errors.append(_row_error(error, each["objectWriteTraceId"]) | more)
        began = self.desk.now()
        results = [self._result(each, began) for each, _ in taken]
        self.desk.write({**values, "external_id": each["id"]} for each, values in taken)
        answer: dict[str, Any] = {
            "status": "COMPLETE",
            # Ordered by record id: HubSpot does not reply in the order of the inputs.
            "results": sorted(results, key=lambda result: str(result["id"])),
            "startedAt": _time(began),
            "completedAt": _time(began),
        }
        return _reply(207, answer | {"numErrors": len(errors), "errors": errors}) if errors else _reply(200, answer)

    def _inputs(self) -> list[dict[str, Any]]:
        """Return the request's inputs. Raises InvalidError when HubSpot would take none of them, ValueError for other shapes."""
        inputs = self.desk.json_body().get("inputs")
        if not isinstance(inputs, list) or not all(isinstance(each, dict) for each in inputs):
            raise ValueError("'inputs' must be an array of objects")
        if not 0 < len(inputs) <= INPUTS:
            raise InvalidError(f"The number of inputs must be between 1 and {INPUTS}, got {len(inputs)}")
        for each in inputs:
            properties = each.get("properties")
            texts = [each.get("id"), each.get("idProperty"), each.get("objectWriteTraceId", "")]
            if not isinstance(properties, dict) or not all(isinstance(t, str) for t in (*texts, *properties.values())):
                raise ValueError("Cannot deserialize value of type `java.lang.String`")
            self.properties.check_id(each["idProperty"])
        for name, label in (("id", "IDs"), ("objectWriteTraceId", "trace IDs")):
            twice = [key for key, n in Counter(each[name] for each in inputs if name in each).items() if n > 1]
            if twice:
                text = f"Duplicate {label} found in batch input: [{', '.join(twice)}]. IDs must be unique"
                raise InvalidError(text, context={"ids": twice})
        return inputs

    def _result(self, each: dict[str, Any], at: datetime) -> dict[str, Any]:
        # A fixed number for each contact, like HubSpot's, without a counter to store.
        record_id = str(zlib.crc32(each["id"].encode()) + 10_000_000_000)
        properties = {**each["properties"], each["idProperty"]: each["id"], "hs_object_id": record_id}
        result = {
            "id": record_id,
            "new": self.desk.store.profile(each["id"]) is None,
            "properties": properties,
            "createdAt": _time(at),
            "updatedAt": _time(at),
            "archived": False,
        }
        return result | {key: each[key] for key in ("objectWriteTraceId",) if key in each}

    def gdpr_delete(self) -> Response:
        """Handle POST gdpr-delete."""
        body = self.desk.json_body()
        if not isinstance(body.get("objectId"), str) or not isinstance(body.get("idProperty"), str):
            raise ValueError("'objectId' and 'idProperty' must be strings")
        self.properties.check_id(body["idProperty"])
        if not self.desk.delete([body["objectId"]]):
            return says(404, "Object not found")
        return Response(status=204)

    def list_properties(self) -> Response:
        """Handle GET properties."""
        return _reply(200, {"results": self.properties.all()})

    def create_properties(self) -> Response:
        """Handle POST properties/batch/create: all or none."""
        inputs = self.desk.json_body().get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise ValueError("'inputs' must be an array of objects")
        made = self.properties.make(inputs)
        at = _time(self.desk.now())
        return _reply(201, {"status": "COMPLETE", "results": made, "startedAt": at, "completedAt": at})

    def delete_property(self, name: str) -> Response:
        """Handle DELETE properties/NAME. The values stay, as in HubSpot, where the property can be restored."""
        return Response(status=204) if self.properties.remove(name) else says(404, f"Property {name} does not exist")


def says(status: int, text: str) -> Response:
    """Return an error in HubSpot's form."""
    return _error(status, text, _CATEGORIES.get(status, "VALIDATION_ERROR" if status < 500 else "INTERNAL_ERROR"))


def refused(error: InvalidError) -> Response:
    """Return a refusal of the whole batch."""
    more = {"context": error.context} if error.context else {}
    status, category = (409, "CONFLICT") if error.is_conflict else (400, "VALIDATION_ERROR")
    return _error(status, error.text, category, **more)


def _error(status: int, text: str, category: str, **more: object) -> Response:
    body = {"status": "error", "message": text, "correlationId": str(uuid.uuid4()), "category": category}
    return _reply(status, body | more)


def _reply(status: int, body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response


def _row_error(error: InvalidError, trace_id: str) -> dict[str, Any]:
    return {
        "status": "error",
        "category": "VALIDATION_ERROR",
        "message": error.text,
        "context": {"objectWriteTraceId": [trace_id]},
        "errors": [],
        "links": {},
    }


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

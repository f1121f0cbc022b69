"""Braze API of the local CRM.

It covers what winback uses, as described in https://www.braze.com/docs/api/endpoints/user_data/post_user_track/ and related
pages. Unlike Braze, it applies a write before it replies, so that a test can check at once.
"""

import math
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

from sandbox.local_crm.requests import Allowance, Desk, reply
from sandbox.local_crm.store.profiles import profile_key
from sandbox.local_crm.store.queries import Attributes

TRACK_OBJECTS = 75  # attributes, events and purchases combined, per request
IDS_PER_REQUEST = 50  # export and delete
_COMPONENTS = ("attributes", "events", "purchases")
_BLACKLISTED = "provided external_id is blacklisted and disallowed"  # a real message of Braze
_DATA_TYPES = {"text": "String", "number": "Number", "flag": "Boolean", "texts": "Array", "object": "Object"}
ATTRIBUTES_PER_PAGE = 50


class BrazeWire:
    """Braze endpoints of the local CRM."""

    paths = ("/users/", "/custom_attributes")

    def add_to(self, app: Flask, desk: Desk) -> None:
        """Route the endpoints."""
        self.desk = desk
        # https://www.braze.com/docs/api/api_limits/: /users/track has 3,000 requests per 3 seconds and workspace.
        self._track = desk.allow("braze.track", 3_000, 3)
        self._delete = desk.allow("braze.delete", 20_000, 60)
        self._export = desk.allow("braze.export", 250, 60)
        self._attributes = desk.allow("braze.custom_attributes", 1_000, 3_600)
        self._route(app.post, "/users/track", "braze.track", self._track, self.track)
        self._route(app.post, "/users/export/ids", "braze.export", self._export, self.export)
        self._route(app.post, "/users/delete", "braze.delete", self._delete, self.delete)
        self._route(app.get, "/custom_attributes", "braze.custom_attributes", self._attributes, self.custom_attributes)

    def _route(
        self, route: Callable[..., Any], path: str, endpoint: str, allowance: Allowance, act: Callable[[], Response]
    ) -> None:
        def view() -> Response:
            return self.desk.serve(
                endpoint,
                [allowance],
                lambda: act() if self._is_allowed() else message(401, "Invalid API key"),
                says=message,
                headers=lambda: self._headers(allowance),
            )

        route(path, endpoint=endpoint)(view)

    def _is_allowed(self) -> bool:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return scheme == "Bearer" and self.desk.is_key(key)

    def _headers(self, allowance: Allowance) -> dict[str, str]:
        """The reset is in UTC epoch seconds, rounded up so that a client never waits too short."""
        now = self.desk.now()
        return {
            "x-ratelimit-limit": str(allowance.requests),
            "x-ratelimit-remaining": str(allowance.remaining(now)),
            "x-ratelimit-reset": str(math.ceil(allowance.resets_at(now).timestamp())),
        }

    def track(self) -> Response:
        """Handle POST /users/track: apply the valid objects and report each of the others."""
        try:
            body = self.desk.json_body()
        except ValueError as error:
            return message(400, f"The request body is not a JSON object: {error}")
        parts = {name: body[name] for name in _COMPONENTS if name in body}
        wrong = next((name for name, items in parts.items() if not isinstance(items, list)), None)
        if wrong is not None:
            return message(400, f"'{wrong}' must be an array of objects")
        size = sum(map(len, parts.values()))
        if size == 0:
            return message(400, "Valid data must be provided in the 'attributes', 'events', or 'purchases' fields.")
        if size > TRACK_OBJECTS:
            return message(400, f"at most {TRACK_OBJECTS} attributes, events and purchases combined, got {size}")
        return self._write(parts)

    def _write(self, parts: dict[str, list[Any]]) -> Response:
        answer: dict[str, Any] = {"message": "success"}
        errors, accepted = [], dict[str, list[Attributes]]()
        for name, items in parts.items():
            accepted[name] = []
            for index, item in enumerate(items):
                if error := self._row_error(name, item):
                    errors.append({"type": error, "input_array": name, "index": index})
                else:
                    accepted[name].append(item)
            answer[f"{name}_processed"] = len(accepted[name])
        # Events and purchases are accepted but not stored, because winback sends none.
        self.desk.write(accepted.get("attributes", []))
        return reply(201, **answer, **({"errors": errors} if errors else {}))

    def _row_error(self, component: str, item: object) -> str | None:
        if not isinstance(item, dict):
            return f"'{component}' must be an array of objects"
        if profile_key(item) is None:
            return "One of 'external_id', 'user_alias', 'braze_id', 'email' or 'phone' is required"
        if not isinstance(item.get("external_id", ""), str):
            return "'external_id' must be a string"
        return self.desk.row_error(item.get("external_id"), _BLACKLISTED)

    def export(self) -> Response:
        """Handle POST /users/export/ids."""
        try:
            ids = self._ids()
        except ValueError as error:
            return message(400, str(error))
        store = self.desk.store
        found = {each: attributes for each in ids if (attributes := store.profile(each)) is not None}
        users = [{"external_id": each, "custom_attributes": attributes} for each, attributes in found.items()]
        unknown = [each for each in ids if each not in found]
        return reply(201, message="success", users=users, **({"invalid_user_ids": unknown} if unknown else {}))

    def delete(self) -> Response:
        """Handle POST /users/delete."""
        try:
            ids = self._ids()
        except ValueError as error:
            return message(400, str(error))
        return reply(201, deleted=self.desk.delete(ids), message="success")

    def custom_attributes(self) -> Response:
        """Handle GET /custom_attributes: a page of the attributes by name, each with the type of its first value."""
        start = request.args.get("cursor", 0, type=int)
        kinds = list(self.desk.store.kinds().items())
        page = [
            {"name": name, "data_type": _DATA_TYPES[kind]} for name, kind in kinds[start : start + ATTRIBUTES_PER_PAGE]
        ]
        response = reply(200, message="success", attributes=page)
        if start + ATTRIBUTES_PER_PAGE < len(kinds):
            after = f"{request.base_url}?cursor={start + ATTRIBUTES_PER_PAGE}"
            response.headers["Link"] = f'<{after}>; rel="next"'
        return response

    def _ids(self) -> list[str]:
        """Return the request's external ids. Raises ValueError when they are missing, too many or not strings."""
        ids = self.desk.json_body().get("external_ids")
        if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
            raise ValueError("'external_ids' must be an array of strings")
        if len(ids) > IDS_PER_REQUEST:
            raise ValueError(f"at most {IDS_PER_REQUEST} external_ids per request")
        return ids


def message(status: int, text: str) -> Response:
    """Return one message, in Braze's form."""
    return reply(status, message=text)

"""What would Braze answer, and how does it fail when told to?

Only what winback uses: `/users/track`, `/users/export/ids` and `/users/delete`, as described in
https://www.braze.com/docs/api/endpoints/user_data/post_user_track/. Unlike Braze it applies a write before it answers,
so that a test can look at once.
"""

import hmac
import json
import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify, request

from sandbox.crm_store import Attributes, CrmStore, profile_key

TRACK_OBJECTS = 75  # attributes, events and purchases combined, per request
IDS_PER_REQUEST = 50  # export and delete
_COMPONENTS = ("attributes", "events", "purchases")
_FINAL_STATUSES = {status.value for status in HTTPStatus if status >= 200}


@dataclass
class _Faults:
    """What the next requests will suffer, and which users are refused until cleared."""

    queue: deque[dict[str, Any]] = field(default_factory=deque)
    refused_ids: set[str] = field(default_factory=set)

    def add(self, fault: dict[str, Any]) -> str | None:
        """Take on a fault; return what is wrong with it, if anything."""
        kind, times = fault.get("kind"), fault.get("times", 1)
        if kind == "row_error":
            if not isinstance(fault.get("external_ids"), list):
                return "row_error needs external_ids, an array of strings"
            self.refused_ids.update(map(str, fault["external_ids"]))
            return None
        if kind not in {"status", "reset", "lose_reply"}:
            return "kind must be one of status, row_error, reset, lose_reply"
        if not isinstance(times, int) or times < 1:
            return "times must be a whole number of 1 or more"
        if kind == "status" and fault.get("status") not in _FINAL_STATUSES:
            return "status must be an HTTP status code of 200 or more"
        self.queue.extend([fault] * times)
        return None


@dataclass
class Allowance:
    """A number of requests per window; a window opens with the first request after the last one closed."""

    requests: int = 3_000  # Braze: 3,000 requests to /users/track per 3 seconds and workspace
    seconds: float = 3
    used: int = 0
    resets_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def take(self, now: datetime) -> bool:
        """Use one request; False when none is left."""
        if now >= self.resets_at:
            self.used, self.resets_at = 0, now + timedelta(seconds=self.seconds)
        self.used += 1
        return self.used <= self.requests

    def headers(self) -> dict[str, str]:
        """Return Braze's headers; reset is in UTC epoch seconds, rounded up so that whoever waits has waited enough."""
        return {
            "x-ratelimit-limit": str(self.requests),
            "x-ratelimit-remaining": str(max(0, self.requests - self.used)),
            "x-ratelimit-reset": str(math.ceil(self.resets_at.timestamp())),
        }


class HangUpError(ConnectionResetError):
    """End this connection without a reply; with `reset` the client sees a reset instead of an orderly end."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("told to hang up")
        self.reset = reset


def _reply(status: int, **body: object) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response


def message(status: int, text: str) -> Response:
    """Answer with one sentence, as Braze does."""
    return _reply(status, message=text)


def _body() -> dict[str, Any]:
    """Return the request's JSON object. Raises ValueError for anything else."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        body = json.loads(request.get_data(), parse_constant=refuse)
        json.dumps(body, ensure_ascii=False).encode()  # refuses half a surrogate pair, which no page could show
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body


def _ids(body: dict[str, Any]) -> list[str]:
    """Return the request's external ids. Raises ValueError when they are missing, too many or not strings."""
    ids = body.get("external_ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise ValueError("'external_ids' must be an array of strings")
    if len(ids) > IDS_PER_REQUEST:
        raise ValueError(f"at most {IDS_PER_REQUEST} external_ids per request")
    return ids


def _row_error(component: str, item: object, refused_ids: set[str]) -> str | None:
    if not isinstance(item, dict):
        return f"'{component}' must be an array of objects"
    if profile_key(item) is None:
        return "One of 'external_id', 'user_alias', 'braze_id', 'email' or 'phone' is required"
    if not isinstance(item.get("external_id", ""), str):
        return "'external_id' must be a string"
    if item.get("external_id") in refused_ids:
        return "provided external_id is blacklisted and disallowed"  # a message of Braze's own
    return None


class Wire:
    """The API: one method per endpoint, and what they share."""

    def __init__(self, store: CrmStore, api_key: str, clock: Callable[[], datetime], allowance: Allowance) -> None:
        self.store, self.clock, self.allowance = store, clock, allowance
        self.authorization = f"Bearer {api_key}".encode()
        self.lock = threading.Lock()
        self.faults = _Faults()
        self.counts, self.by_status = Counter[str](), Counter[str]()

    def add_to(self, app: Flask) -> None:
        """Route the endpoints."""
        app.before_request(self.authorise)
        app.after_request(self.count)
        app.post("/users/track")(self.track)
        app.post("/users/export/ids")(self.export)
        app.post("/users/delete")(self.delete)
        app.route("/_control/faults", methods=["GET", "POST", "DELETE"])(self.control)
        app.get("/_control/requests")(self.requests)

    def authorise(self) -> Response | None:
        """Refuse a wrong key; the control endpoints need none."""
        given = request.headers.get("Authorization", "").encode()
        if request.path.startswith("/users/") and not hmac.compare_digest(given, self.authorization):
            return message(401, "Invalid API key")
        return None

    def count(self, response: Response) -> Response:
        """Count what was asked and answered."""
        if request.path == "/users/track":
            with self.lock:
                self.by_status[str(response.status_code)] += 1
        return response

    def write(self, body: dict[str, Any]) -> Response:
        """Apply a body of /users/track and answer for each object in it."""
        parts = {name: body[name] for name in _COMPONENTS if name in body}
        wrong = next((name for name, items in parts.items() if not isinstance(items, list)), None)
        if wrong is not None:
            return message(400, f"'{wrong}' must be an array of objects")
        size = sum(map(len, parts.values()))
        if size == 0:
            return message(400, "Valid data must be provided in the 'attributes', 'events', or 'purchases' fields.")
        if size > TRACK_OBJECTS:
            return message(400, f"at most {TRACK_OBJECTS} attributes, events and purchases combined, got {size}")
        answer: dict[str, Any] = {"message": "success"}
        errors, accepted = [], dict[str, list[Attributes]]()
        for name, items in parts.items():
            accepted[name] = []
            for index, item in enumerate(items):
                if error := _row_error(name, item, self.faults.refused_ids):
                    errors.append({"type": error, "input_array": name, "index": index})
                else:
                    accepted[name].append(item)
            answer[f"{name}_processed"] = len(accepted[name])
        # Events and purchases are accepted and not kept: winback sends none.
        written = self.store.apply(accepted.get("attributes", []), self.clock())
        with self.lock:
            self.counts["objects"] += size
            self.counts["attributes_written"] += written
        return _reply(201, **answer, **({"errors": errors} if errors else {}))

    def track(self) -> Response:
        """Answer POST /users/track, or fail as told."""
        with self.lock:
            allowed = self.allowance.take(self.clock())
            headers = self.allowance.headers()
            fault = self.faults.queue.popleft() if allowed and self.faults.queue else {}
            if fault.get("kind") in {"reset", "lose_reply"}:
                self.by_status["no reply"] += 1
        if fault.get("kind") == "reset":
            request.get_data()  # else the reset can meet the client while it is still sending, which looks different
            raise HangUpError(reset=True)
        if not allowed:
            response = message(429, "You have exceeded the rate limit.")
        elif fault.get("kind") == "status":
            status = HTTPStatus(fault["status"])
            response = message(status, str(fault.get("message", status.phrase)))
            if fault.get("retry_after") is not None:
                headers["Retry-After"] = str(fault["retry_after"])
        else:
            response = self.parse_and_write()
        if fault.get("kind") == "lose_reply":
            raise HangUpError(reset=False)
        response.headers.update(headers)
        return response

    def parse_and_write(self) -> Response:
        """Apply the request, or say what is wrong with it."""
        try:
            body = _body()
        except ValueError as error:
            return message(400, f"The request body is not a JSON object: {error}")
        return self.write(body)

    def export(self) -> Response:
        """Answer POST /users/export/ids."""
        try:
            ids = _ids(_body())
        except ValueError as error:
            return message(400, str(error))
        found = {each: attributes for each in ids if (attributes := self.store.profile(each)) is not None}
        users = [{"external_id": each, "custom_attributes": attributes} for each, attributes in found.items()]
        unknown = [each for each in ids if each not in found]
        return _reply(201, message="success", users=users, **({"invalid_user_ids": unknown} if unknown else {}))

    def delete(self) -> Response:
        """Answer POST /users/delete."""
        try:
            ids = _ids(_body())
        except ValueError as error:
            return message(400, str(error))
        return _reply(201, deleted=self.store.delete(ids), message="success")

    def control(self) -> Response:
        """Set, list or clear faults."""
        with self.lock:
            if request.method == "DELETE":
                self.faults.queue.clear()
                self.faults.refused_ids.clear()
            elif request.method == "POST":
                try:
                    wrong = self.faults.add(_body())
                except ValueError as error:
                    wrong = str(error)
                if wrong:
                    return message(400, wrong)
            return jsonify(queue=list(self.faults.queue), row_error_external_ids=sorted(self.faults.refused_ids))

    def requests(self) -> Response:
        """Tell what was counted."""
        with self.lock:
            statuses = dict(sorted(self.by_status.items()))
            return jsonify(
                requests=sum(statuses.values()),
                objects=self.counts["objects"],
                attributes_written=self.counts["attributes_written"],
                by_status=statuses,
            )

"""What would Braze answer? A local CRM that speaks its wire format, can be told to fail, and shows what it holds.

Only what winback uses: `/users/track`, `/users/export/ids` and `/users/delete`, as described in
https://www.braze.com/docs/api/endpoints/user_data/post_user_track/. Unlike Braze it applies a write before it answers,
so that a test can look at once. It listens on the loopback address only; its pages need no key.
"""

import hmac
import json
import math
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flask import Flask, Response, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response as WerkzeugResponse

from sandbox.crm_store import SEGMENTS, Attributes, CrmStore, group_writes, profile_key

TRACK_OBJECTS = 75  # attributes, events and purchases combined, per request
IDS_PER_REQUEST = 50  # export and delete
PAGE_SIZE = 50
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
class _Allowance:
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


class _HangUpError(ConnectionResetError):
    """End this connection without a reply; with `reset` the client sees a reset instead of an orderly end."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("told to hang up")
        self.reset = reset


def _reply(status: int, **body: object) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response


def _message(status: int, text: str) -> Response:
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


class _Wire:
    """The API: one method per endpoint, and what they share."""

    def __init__(self, store: CrmStore, api_key: str, clock: Callable[[], datetime], allowance: _Allowance) -> None:
        self.store, self.clock, self.allowance = store, clock, allowance
        self.authorization = f"Bearer {api_key}".encode()
        self.lock = threading.Lock()
        self.faults = _Faults()
        self.counts, self.by_status = Counter[str](), Counter[str]()

    def add_to(self, app: Flask) -> None:
        app.before_request(self.authorise)
        app.after_request(self.count)
        app.post("/users/track")(self.track)
        app.post("/users/export/ids")(self.export)
        app.post("/users/delete")(self.delete)
        app.route("/_control/faults", methods=["GET", "POST", "DELETE"])(self.control)
        app.get("/_control/requests")(self.requests)

    def authorise(self) -> Response | None:
        given = request.headers.get("Authorization", "").encode()
        if request.path.startswith("/users/") and not hmac.compare_digest(given, self.authorization):
            return _message(401, "Invalid API key")
        return None

    def count(self, response: Response) -> Response:
        if request.path == "/users/track":
            with self.lock:
                self.by_status[str(response.status_code)] += 1
        return response

    def write(self, body: dict[str, Any]) -> Response:
        parts = {name: body[name] for name in _COMPONENTS if name in body}
        wrong = next((name for name, items in parts.items() if not isinstance(items, list)), None)
        if wrong is not None:
            return _message(400, f"'{wrong}' must be an array of objects")
        size = sum(map(len, parts.values()))
        if size == 0:
            return _message(400, "Valid data must be provided in the 'attributes', 'events', or 'purchases' fields.")
        if size > TRACK_OBJECTS:
            return _message(400, f"at most {TRACK_OBJECTS} attributes, events and purchases combined, got {size}")
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
        with self.lock:
            allowed = self.allowance.take(self.clock())
            headers = self.allowance.headers()
            fault = self.faults.queue.popleft() if allowed and self.faults.queue else {}
            if fault.get("kind") in {"reset", "lose_reply"}:
                self.by_status["no reply"] += 1
        if fault.get("kind") == "reset":
            request.get_data()  # else the reset can meet the client while it is still sending, which looks different
            raise _HangUpError(reset=True)
        if not allowed:
            response = _message(429, "You have exceeded the rate limit.")
        elif fault.get("kind") == "status":
            status = HTTPStatus(fault["status"])
            response = _message(status, str(fault.get("message", status.phrase)))
            if fault.get("retry_after") is not None:
                headers["Retry-After"] = str(fault["retry_after"])
        else:
            response = self.parse_and_write()
        if fault.get("kind") == "lose_reply":
            raise _HangUpError(reset=False)
        response.headers.update(headers)
        return response

    def parse_and_write(self) -> Response:
        try:
            body = _body()
        except ValueError as error:
            return _message(400, f"The request body is not a JSON object: {error}")
        return self.write(body)

    def export(self) -> Response:
        try:
            ids = _ids(_body())
        except ValueError as error:
            return _message(400, str(error))
        found = {each: attributes for each in ids if (attributes := self.store.profile(each)) is not None}
        users = [{"external_id": each, "custom_attributes": attributes} for each, attributes in found.items()]
        unknown = [each for each in ids if each not in found]
        return _reply(201, message="success", users=users, **({"invalid_user_ids": unknown} if unknown else {}))

    def delete(self) -> Response:
        try:
            ids = _ids(_body())
        except ValueError as error:
            return _message(400, str(error))
        return _reply(201, deleted=self.store.delete(ids), message="success")

    def control(self) -> Response:
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
                    return _message(400, wrong)
            return jsonify(queue=list(self.faults.queue), row_error_external_ids=sorted(self.faults.refused_ids))

    def requests(self) -> Response:
        with self.lock:
            statuses = dict(sorted(self.by_status.items()))
            return jsonify(
                requests=sum(statuses.values()),
                objects=self.counts["objects"],
                attributes_written=self.counts["attributes_written"],
                by_status=statuses,
            )


def create_app(store: CrmStore, *, api_key: str, clock: Callable[[], datetime]) -> Flask:
    """Build the app. Tests may set `app.config["ALLOWANCE"].requests` to meet the rate limit sooner."""
    app = Flask(__name__)
    # A hang-up must reach the handler of the connection; a bug of ours must reach the log.
    app.config.update(PROPAGATE_EXCEPTIONS=True, ALLOWANCE=_Allowance())
    app.url_map.merge_slashes = False  # an external id may hold two slashes
    _Wire(store, api_key, clock, app.config["ALLOWANCE"]).add_to(app)
    _add_pages(app, store, clock)

    @app.after_request
    def _harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return response

    return app


def _add_pages(app: Flask, store: CrmStore, clock: Callable[[], datetime]) -> None:
    app.add_template_filter(_when, "when")
    app.context_processor(lambda: {"now": clock()})

    @app.get("/")
    def home() -> str:
        counts = store.segment_counts()
        return render_template(
            "home.html",
            totals=store.totals(),
            segments=[(segment, counts[slug]) for slug, segment in SEGMENTS.items()],
            bins=store.probability_bins(),
            reasons=store.voucher_reasons(),
            writes=store.latest_writes(12),
            written=store.writes_per_field(),
        )

    @app.get("/segments/<slug>")
    def segment(slug: str) -> str:
        if slug not in SEGMENTS:
            raise NotFound(f"There is no segment called {slug}.")
        count = store.segment_counts()[slug]
        pages = max(1, math.ceil(count / PAGE_SIZE))
        page = min(pages, max(1, request.args.get("page", 1, type=int)))
        rows = store.segment(slug, limit=PAGE_SIZE, offset=(page - 1) * PAGE_SIZE)
        return render_template(
            "segment.html", segment=SEGMENTS[slug], count=count, rows=rows, page=page, pages=pages, page_size=PAGE_SIZE
        )

    @app.get("/profiles")
    def find_profile() -> WerkzeugResponse:
        external_id = request.args.get("external_id", "").strip()
        return redirect(url_for("profile", external_id=external_id) if external_id else url_for("home"))

    @app.get("/profiles/<path:external_id>")
    def profile(external_id: str) -> str:
        attributes = store.profile(external_id)
        if attributes is None:
            raise NotFound(f"No profile has the external id {external_id}.")
        writes = group_writes(store.history(external_id))
        return render_template("profile.html", external_id=external_id, attributes=attributes, writes=writes)

    @app.errorhandler(HTTPException)
    def friendly(error: HTTPException) -> tuple[str | Response, int]:
        code, text = error.code or 500, error.description or error.name
        if request.path.startswith(("/users/", "/_control/")):
            return _message(code, text), code
        return render_template("error.html", code=code, text=text), code


def _when(value: object) -> str:
    """Show a moment to the minute in UTC; whatever is no moment is shown as it came."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    if moment.tzinfo is None:
        return str(value)
    return f"{moment.astimezone(UTC):%d %b %Y, %H:%M} UTC".lstrip("0")


class _Handler(WSGIRequestHandler):
    """One connection: says nothing about requests that went well, and can hang up."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: a demo sends thousands."""

    def connection_dropped(self, error: BaseException, environ: dict[str, Any] | None = None) -> None:  # noqa: ARG002 werkzeug's signature
        """Close the connection, with a reset if the app asked for one."""
        self.close_connection = True
        if isinstance(error, _HangUpError) and error.reset:
            # Lingering for 0 seconds makes close() send RST; the reader shares the socket and must let go first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()


class LocalCrm:
    """A CRM on 127.0.0.1, served in a thread for as long as the `with` block lasts.

    Raises OSError when the port is taken. Port 0 takes a free one.
    """

    def __init__(
        self,
        database: Path,
        *,
        api_key: str = "local-key",
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        # Bound here and handed over: werkzeug would end the process when the port is taken.
        with socket.create_server(("127.0.0.1", port)) as listener:
            self.store = CrmStore(database)
            self.app = create_app(self.store, api_key=api_key, clock=clock or (lambda: datetime.now(UTC)))
            self._server = make_server(
                "127.0.0.1", port, self.app, threaded=True, request_handler=_Handler, fd=listener.fileno()
            )
        self.url = f"http://127.0.0.1:{self._server.port}"
        # Looked at every 20 ms whether to stop; the default of half a second would be most of a test's time.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="local-crm", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self.store.close()

    def serve_forever(self) -> None:
        """Serve in the foreground until Ctrl-C, then close the database."""
        try:
            self._server.serve_forever()
        finally:
            self.store.close()

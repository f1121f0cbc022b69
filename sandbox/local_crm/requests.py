"""Request handling that all APIs of the local CRM share: counting, rate limits and faults.

Each API serves its endpoints through `serve`, and writes and deletes through the same object, which records the request's run.
"""

import hmac
import json
import re
import threading
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flask import Response, g, has_request_context, jsonify, request

from sandbox.local_crm.fault_responses import Says, cut, dripping, garbled, told
from sandbox.local_crm.faults import Fault, Faults
from sandbox.local_crm.http import ARRIVED_AT, ConnectionDroppedError
from sandbox.local_crm.store.profiles import RESERVED, CrmStore

_RUN = re.compile(r"\bwinback \(([^()]{1,200})\)")


@dataclass
class Allowance:
    """A documented rate limit: at most `requests` in any `seconds`, by time of arrival. A refused request uses nothing.

    Tests and benches set `requests`, `seconds` and `is_on` while the server runs, and read `refused`, the number of requests over
    the limit. Safe to share between threads.
    """

    requests: int
    seconds: float
    is_on: bool = True
    refused: int = 0
    _arrivals: list[datetime] = field(default_factory=list, repr=False)  # of the window, in order
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def has_room(self, now: datetime) -> bool:
        """Whether one more request is within the limit."""
        return not self.is_on or self.remaining(now) > 0

    def use(self, now: datetime) -> None:
        """Count one request that arrived now."""
        with self._lock:
            # Stamped by the thread that read it, so two requests may arrive here in reverse order.
            self._arrivals.insert(bisect_right(self._arrivals, now), now)

    def remaining(self, now: datetime) -> int:
        """Return the number of requests left."""
        with self._lock:
            self._forget(now)
            return max(0, self.requests - len(self._arrivals))

    def wait_seconds(self, now: datetime) -> float:
        """Return the seconds until one more request is within the limit; 0 if it is now."""
        with self._lock:
            self._forget(now)
            surplus = len(self._arrivals) - self.requests
            if not self.is_on or surplus < 0:
                return 0.0
            opens_at = self._arrivals[surplus] + timedelta(seconds=self.seconds) if self._arrivals else now
            return max(0.0, (opens_at - now).total_seconds())

    def resets_at(self, now: datetime) -> datetime:
        """Return when the oldest request of the window leaves it."""
        with self._lock:
            self._forget(now)
            return (self._arrivals[0] if self._arrivals else now) + timedelta(seconds=self.seconds)

    def _forget(self, now: datetime) -> None:
        del self._arrivals[: bisect_right(self._arrivals, now - timedelta(seconds=self.seconds))]


class Desk:
    """Services of the CRM for its APIs. `clock` returns aware UTC. A sink counts what is written but stores nothing."""

    def __init__(self, store: CrmStore, api_key: str, clock: Callable[[], datetime], *, is_sink: bool = False) -> None:
        self.store, self.clock, self.is_sink = store, clock, is_sink
        self.allowances: dict[str, Allowance] = {}
        self.faults = Faults()
        self.counts = Counter[str]()  # objects, attributes_written, deleted
        self.by_endpoint = defaultdict[str, Counter[str]](Counter)  # endpoint -> status -> requests
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.stands_at: datetime | None = None  # the clock of the demo or replay that uses this server
        self._key = api_key.encode()

    def allow(self, name: str, requests: int, seconds: float) -> Allowance:
        """Add a limit, which tests and benches reach as `allowances[name]`."""
        return self.allowances.setdefault(name, Allowance(requests, seconds))

    def is_key(self, text: str | None) -> bool:
        """Whether this is the key, compared in constant time."""
        return hmac.compare_digest((text or "").encode(), self._key)

    def now(self) -> datetime:
        """Return when the current request arrived; outside of a request, the clock."""
        arrived_at = request.environ.get(ARRIVED_AT) if has_request_context() else None
        return arrived_at if isinstance(arrived_at, datetime) else self.clock()

    def received_at(self) -> datetime:
        """Return the reception time of writes: the clock of the demo or replay, or else the arrival."""
        return self.stands_at or self.now()

    def run_id(self) -> str | None:
        """Return the run that sent the current request, from `User-Agent: winback (RUN_ID)`."""
        found = _RUN.search(request.headers.get("User-Agent", "")) if has_request_context() else None
        return found[1] if found else None

    def json_body(self) -> dict[str, Any]:
        """Return the request's JSON object. Raises ValueError for anything else."""
        body = json_value(request.get_data())
        if not isinstance(body, dict):
            raise ValueError("not an object")
        return body

    def serve(
        self,
        endpoint: str,
        allowances: Sequence[Allowance],
        act: Callable[[], Response],
        *,
        says: Says,
        over: Callable[[Allowance], Response] | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> Response:
        """Handle one request: count it, use the allowances, apply a fault, call `act`, and let a fault change the reply.

        `says(status, text)` makes an error in the API's form. `over(allowance)` makes the 429 (default: `says`). `headers()` is
        called last, and adds the headers that the reply lacks. `act` checks the key first.
        """
        with self.lock:
            spent = self._take(allowances)
            fault, g.refused_rows = (None, {}) if spent else self.faults.strike(endpoint)
        try:
            if spent:
                response = over(spent) if over else says(429, "You have exceeded the rate limit.")
            else:
                response = self._do(fault, act, says)
        except ConnectionDroppedError:
            self._count(endpoint, "no reply")
            raise
        for name, value in headers().items():
            response.headers.setdefault(name, value)
        if fault and fault.kind == "reset":
            self._count(endpoint, "no reply")
            return cut(response)
        self._count(endpoint, str(response.status_code))
        return dripping(response, fault, self.closing.wait) if fault and fault.kind == "slow_body" else response

    def row_error(self, external_id: str | None, default: str) -> str | None:
        """Return the error of a row that a fault refuses in the current request; None if it is accepted."""
        fault = self.row_fault(external_id)
        return (fault.message or default) if fault else None

    def row_fault(self, external_id: str | None) -> Fault | None:
        """Return the fault that refuses a row in the current request."""
        refused: dict[str, Fault] = g.get("refused_rows", {})
        return refused.get(external_id) if external_id is not None else None

    def write(self, rows: Iterable[Mapping[str, object]], *, run_id: str | None = None) -> int:
        """Write profiles and return the number of attributes; see CrmStore.apply. A job passes the `run_id` that created it."""
        rows = list(rows)
        run_id = run_id or self.run_id()
        written = (
            sum(len(row.keys() - RESERVED) for row in rows)
            if self.is_sink
            else self.store.apply(rows, self.received_at(), run_id=run_id)
        )
        if self.stands_at is None and self.store.stands_at():
            self.store.stand_at(None)
        with self.lock:
            self.counts["objects"] += len(rows)
            self.counts["attributes_written"] += written
        return written

    def delete(self, external_ids: Sequence[str]) -> int:
        """Delete users and return how many were known."""
        deleted = self.store.delete(external_ids, self.received_at(), run_id=self.run_id())
        with self.lock:
            self.counts["deleted"] += deleted
        return deleted

    def _take(self, allowances: Sequence[Allowance]) -> Allowance | None:
        """Use one request of every allowance. If one is exhausted, use none and return it."""
        now = self.now()
        spent = next((each for each in allowances if not each.has_room(now)), None)
        if spent:
            spent.refused += 1
            return spent
        for each in allowances:
            each.use(now)
        return None

    def _do(self, fault: Fault | None, act: Callable[[], Response], says: Says) -> Response:
        kind = fault.kind if fault else None
        if fault is None or kind == "slow_body" or (kind == "reset" and fault.at == "reply"):
            return act()
        if kind == "duplicate_reply":
            act()
            return act()
        if kind in {"reset", "hang"}:
            raise ConnectionDroppedError("reset" if kind == "reset" else "wait")
        if kind == "status":
            return told(fault, says)
        act()
        if kind == "lose_reply":
            raise ConnectionDroppedError("end")
        return garbled(fault)

    def _count(self, endpoint: str, status: str) -> None:
        with self.lock:
            self.by_endpoint[endpoint][status] += 1


def json_value(content: bytes) -> Any:
    """Return the JSON value. Raises ValueError for invalid JSON, NaN, half a surrogate pair, and too deep nesting."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(content, parse_constant=refuse)
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair, which a page cannot show
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def reply(status: int, /, **body: object) -> Response:
    """Return a JSON object as a reply."""
    response = jsonify(body)
    response.status_code = status
    return response

"""Faults of the local CRM: set by request, and triggered by counting requests, never by chance or time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar

FINAL_STATUSES = {status.value for status in HTTPStatus if status >= 200}


@dataclass
class Fault:
    """One fault, as POST /_control/faults accepts it.

    It lets `after` matching requests pass and hits the next `times`. A request matches when it goes to `endpoint`; without an
    endpoint, every request matches. Kinds, their other parameters, and whether the request is processed:

    - status: `status`, `retry_after` (seconds or an HTTP date), `message` or `body` (JSON or text); not processed
    - row_error: `external_ids`, `message`, `body` (an object with fields for HubSpot's error of the row); the other rows are
      processed. Without `times` it stays until cleared
    - reset: the connection is reset; `at` "request" (before it is read; not processed) or "reply" (after half of the reply;
      processed)
    - lose_reply: the connection ends without a reply; processed
    - slow_body: the reply is sent in pieces of `bytes` with `pause_seconds` between them; processed
    - duplicate_reply: processed twice, and the second reply is sent, as when a proxy repeats a request
    - hang: no reply until the client disconnects; not processed
    - garbage: `status` (200) with `body` (JSON or text; default a page that is not JSON); processed
    """

    kind: str
    times: int | None = 1
    endpoint: str | None = None
    after: int = 0
    external_ids: list[str] = field(default_factory=list)
    status: int = 200
    retry_after: str | float | None = None
    message: str | None = None
    body: Any = None
    at: str = "request"
    bytes: int = 1
    pause_seconds: float = 0.0

    KINDS: ClassVar = {
        "status": {"status", "retry_after", "message", "body"},
        "row_error": {"external_ids", "message", "body"},
        "reset": {"at"},
        "lose_reply": set[str](),
        "slow_body": {"bytes", "pause_seconds"},
        "duplicate_reply": set[str](),
        "hang": set[str](),
        "garbage": {"status", "body"},
    }

    def matches(self, endpoint: str) -> bool:
        """Whether requests to this endpoint are counted and hit."""
        return self.endpoint is None or self.endpoint == endpoint


def parse(order: dict[str, Any]) -> Fault:
    """Parse a fault. Raises ValueError with its mistake."""
    kind = order.get("kind")
    if not isinstance(kind, str) or kind not in Fault.KINDS:
        raise ValueError(f"kind must be one of {', '.join(Fault.KINDS)}")
    given = {name: value for name, value in order.items() if value is not None}
    unknown = given.keys() - {"kind", "times", "endpoint", "after"} - Fault.KINDS[kind]
    if unknown:
        raise ValueError(f"{kind} knows no {', '.join(sorted(unknown))}")
    fault = Fault(**{"times": None if kind == "row_error" else 1, **given})
    for is_wrong, text in _demands(fault, given):
        if is_wrong:
            raise ValueError(text)
    return fault


def _demands(fault: Fault, given: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    yield fault.times is not None and not _is_count(fault.times, 1), "times must be a whole number of 1 or more"
    yield not _is_count(fault.after, 0), "after must be a whole number of 0 or more"
    yield not isinstance(fault.endpoint, str | None), "endpoint must be a name such as braze.track"
    is_status = fault.kind in {"status", "garbage"}
    yield fault.kind == "status" and "status" not in given, "status needs a status"
    is_final = type(fault.status) is int and fault.status in FINAL_STATUSES
    yield is_status and not is_final, "status must be an HTTP status code of 200 or more"
    yield (
        fault.kind == "row_error" and not _are_texts(given.get("external_ids")),
        ("row_error needs external_ids, an array of strings"),
    )
    is_wrong_body = fault.kind == "row_error" and not isinstance(fault.body, dict | None)
    yield is_wrong_body, "the body of a row_error must be an object"
    yield fault.at not in ("request", "reply"), "at must be request or reply"
    yield not _is_count(fault.bytes, 1), "bytes must be a whole number of 1 or more"
    yield not isinstance(fault.pause_seconds, int | float) or fault.pause_seconds < 0, "pause_seconds must be 0 or more"


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


class Faults:
    """The faults of the next requests. Not safe to share between threads; the caller locks."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def strike(self, endpoint: str) -> tuple[Fault | None, dict[str, Fault]]:
        """Count one request. Return the fault that hits it, and the external ids refused in it, each with its fault.

        Every fault counts the requests that match it. Of several due faults, the one set first hits; the others wait.
        """
        hit: Fault | None = None
        refused: dict[str, Fault] = {}
        for fault in [each for each in self.waiting if each.matches(endpoint)]:
            if fault.after > 0:
                fault.after -= 1
            elif fault.kind == "row_error":
                refused |= dict.fromkeys(fault.external_ids, fault)
                self._use(fault)
            elif hit is None:
                hit = fault
                self._use(fault)
        return hit, refused

    def _use(self, fault: Fault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times == 0:
                self.waiting.remove(fault)

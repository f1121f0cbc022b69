"""A CRM's HTTP reply: status, body, and headers with a wait time or a limit. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


@dataclass(frozen=True)
class Reply:
    """A reply: its status, its headers with names in lower case, its body as text, and as a value if it is JSON."""

    status: int
    headers: Mapping[str, str]
    text: str = ""
    body: Any = None


def parse_json(reply: Reply) -> Reply:
    """Return the reply with its body as a value, if the body is JSON without contradictions."""
    try:
        value = json.loads(reply.text, parse_constant=_refuse, object_pairs_hook=_object) if reply.text else None
    except (
        ValueError,
        RecursionError,
    ):  # not JSON, two values of one key, a number too long for Python, nested too deeply
        value = None
    return Reply(reply.status, reply.headers, reply.text, value)


def _refuse(constant: str) -> None:
    """Raises: ValueError for NaN and Infinity, which are not JSON and cannot be compared as counts."""
    raise ValueError(constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: ValueError for a key with two values (RFC 8259, 4), because the valid one would be a guess."""
    value = dict(pairs)
    if len(value) < len(pairs) and any(type(value[key]) is not type(each) or value[key] != each for key, each in pairs):
        raise ValueError("a key with two values")
    return value


def retry_after(reply: Reply) -> float | None:
    """Seconds to wait according to Retry-After (RFC 9110, 10.2.3); None without one. See `until`."""
    return until(reply, "retry-after")


def until(reply: Reply, header: str) -> float | None:
    """Seconds from the reply until the time in a header, the longest if it holds several; None if none can be read.

    Accepts seconds, Unix times in seconds, milliseconds, microseconds or nanoseconds, and dates in HTTP's three formats or in
    ISO 8601. A date without a time zone is UTC.
    """
    waits = (_wait(text, reply) for text in _listed(reply, header))
    return max((wait for wait in waits if wait is not None), default=None)


def number(reply: Reply, header: str) -> int | None:
    """The whole number in a header, the smallest if there are several ("150, 10;w=1"), or None."""
    return min((int(text) for text in _listed(reply, header) if re.fullmatch("[0-9]{1,15}", text)), default=None)


def server_time(reply: Reply) -> datetime:
    """The server's time, so that a wrong clock here does not change the wait; our own time if it sends none."""
    dates = (_moment(text) for text in _listed(reply, "date"))
    return next((date for date in dates if date), None) or datetime.now(UTC)


def _listed(reply: Reply, header: str) -> list[str]:
    """The values of a header. Repeated headers are joined by commas; a comma after a weekday belongs to a date."""
    parts = re.split(
        r"(?<!Mon)(?<!Tue)(?<!Wed)(?<!Thu)(?<!Fri)(?<!Sat)(?<!Sun)(?<!day),", reply.headers.get(header, "")
    )
    return [part.strip() for part in parts]


def _wait(text: str, reply: Reply) -> float | None:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return _from_now(float(text), reply)
    moment = _moment(text)
    return (moment - server_time(reply)).total_seconds() if moment else None


def _from_now(value: float, reply: Reply) -> float:
    for parts in (1, 1e3, 1e6, 1e9):
        # A time between 2001 and 5138. A wait of thirty years is not plausible.
        if 1e9 <= value / parts < 1e11:
            return value / parts - server_time(reply).timestamp()
    return value


def _moment(text: str) -> datetime | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(text)
        except (ValueError, TypeError, OverflowError):
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None

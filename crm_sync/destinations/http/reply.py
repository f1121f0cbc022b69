"""A CRM's HTTP reply: status, body, and headers that ask for a wait or name a limit. Pure functions."""

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
    """A reply by its status, its headers in lower case, and its body as text and, where it is JSON, as a value."""

    status: int
    headers: Mapping[str, str]
    text: str = ""
    body: Any = None


def parse_json(reply: Reply) -> Reply:
    """The reply with its body as a value, where it is JSON that does not contradict itself."""
    try:
        value = json.loads(reply.text, parse_constant=_refuse, object_pairs_hook=_object) if reply.text else None
    except (
        ValueError,
        RecursionError,
    ):  # not JSON, two values of one key, a number too long for Python, nested too deeply
        value = None
    return Reply(reply.status, reply.headers, reply.text, value)


def _refuse(constant: str) -> None:
    """NaN and Infinity are no JSON, and a count that is none compares with nothing."""
    raise ValueError(constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: ValueError for a key with two values (RFC 8259, 4): which of them counts would be a guess."""
    value = dict(pairs)
    if len(value) < len(pairs) and any(type(value[key]) is not type(each) or value[key] != each for key, each in pairs):
        raise ValueError("a key with two values")
    return value


def retry_after(reply: Reply) -> float | None:
    """Seconds that a reply asks to wait by Retry-After (RFC 9110, 10.2.3); None when it does not. See `until`."""
    return until(reply, "retry-after")


def until(reply: Reply, header: str) -> float | None:
    """Seconds from the reply until what a header names, the longest where it names several; None where none can be read.

    Seconds, an epoch in seconds or in thousandths, millionths or billionths of one, and a date in any of HTTP's three forms or
    in ISO's. A date without a zone is UTC.
    """
    waits = (_wait(text, reply) for text in _listed(reply, header))
    return max((wait for wait in waits if wait is not None), default=None)


def number(reply: Reply, header: str) -> int | None:
    """A header that is a whole number, the least where there are several ("150, 10;w=1"), or None."""
    return min((int(text) for text in _listed(reply, header) if re.fullmatch("[0-9]{1,15}", text)), default=None)


def server_time(reply: Reply) -> datetime:
    """The server's own clock, so that a wrong clock here does not change the wait; ours where it sends none."""
    dates = (_moment(text) for text in _listed(reply, "date"))
    return next((date for date in dates if date), None) or datetime.now(UTC)


def _listed(reply: Reply, header: str) -> list[str]:
    """The values of a header: one that came twice is joined by commas, and the comma after a weekday is a date's own."""
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
        # Between 2001 and 5138. No CRM asks for thirty years.
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

"""What did a CRM's server answer: a status, headers that ask for a wait or name a limit, a body? Pure functions of a reply."""

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


def with_value(reply: Reply) -> Reply:
    """The reply with its body as a value, where it is JSON."""
    try:
        value = json.loads(reply.text) if reply.text else None
    except (ValueError, RecursionError):  # not JSON, a number too long for Python, nested too deeply
        value = None
    return Reply(reply.status, reply.headers, reply.text, value)


def asked_wait(reply: Reply) -> float | None:
    """Seconds that a reply asks to wait by Retry-After, in seconds or as a date (RFC 9110, 10.2.3); None when it does not."""
    asked = seconds(reply, "retry-after")
    if asked is not None:
        return asked
    try:
        return (parsedate_to_datetime(reply.headers["retry-after"]) - server_time(reply)).total_seconds()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def seconds(reply: Reply, header: str) -> float | None:
    """A header that is a number of seconds, whole or with a fraction, or None."""
    text = reply.headers.get(header, "").strip()
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def number(reply: Reply, header: str) -> int | None:
    """A header that is a whole number, or None."""
    text = reply.headers.get(header, "").strip()
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None


def server_time(reply: Reply) -> datetime:
    """The server's own clock, so that a wrong clock here does not change the wait; ours where it sends none."""
    try:
        return parsedate_to_datetime(reply.headers["date"])
    except (KeyError, ValueError, TypeError):
        return datetime.now(UTC)
